"""What is away, or happens too often, is told without filling the log."""

from __future__ import annotations

import logging

import pytest

from secondlook.shared.outage import LimitedLog, Outage

log = logging.getLogger("test")


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")


def test_an_outage_is_told_at_its_beginning_each_minute_and_at_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outage = Outage(log)
    outage.over(0.0)
    for second in range(150):
        outage.met(f"no answer ({second})", float(second))
    assert outage.why == "no answer (149)"
    outage.over(151.5)
    outage.over(152.0)
    assert outage.why is None
    assert caplog.messages == [
        "waiting: no answer (0)",
        "still waiting, for 60 s now: no answer (60)",
        "still waiting, for 120 s now: no answer (120)",
        "going on after 151.5 s; the cause was: no answer (149)",
    ]


def test_a_cause_has_one_line_a_second_and_none_is_uncounted(caplog: pytest.LogCaptureFixture) -> None:
    limited = LimitedLog(log)
    for number in range(250):
        limited.warning("slow", "too slow", number / 100)
        if number == 0:
            limited.warning("other", "another cause", 0.0)
    assert caplog.messages == [
        "too slow",
        "another cause",
        "too slow (99 more since the last line)",
        "too slow (99 more since the last line)",
    ]
    limited.flush()
    limited.flush()
    assert caplog.messages[4:] == ["slow: 49 more"]


def test_a_clock_that_is_set_back_silences_nothing(caplog: pytest.LogCaptureFixture) -> None:
    limited, outage = LimitedLog(log), Outage(log)
    limited.warning("slow", "too slow", 1000.0)
    limited.warning("slow", "too slow", 10.0)
    outage.met("away", 1000.0)
    outage.over(10.0)
    assert len(caplog.messages) == 4
    assert "after 0.0 s" in caplog.messages[-1]


def test_new_causes_without_end_share_a_line(caplog: pytest.LogCaptureFixture) -> None:
    limited = LimitedLog(log)
    for number in range(10_000):
        limited.warning(f"cause {number}", f"text {number}", 0.0)
    assert len(caplog.messages) == 33
    limited.flush()
    assert caplog.messages[-1] == "others: 9967 more"

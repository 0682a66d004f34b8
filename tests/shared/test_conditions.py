"""Conditions begin once and end once, whatever their figures do about the limit."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.shared import metrics
from secondlook.shared.conditions import NAMES, Change, Conditions, WatchConfig, conditions, judge, shown
from secondlook.shared.errors import ConfigError
from secondlook.shared.watch import Watch

TABLE = conditions(WatchConfig())


def told(changes: list[Change]) -> list[tuple[bool, str, str]]:
    return [(one.began, one.condition.name, one.condition.subject) for one in changes]


def test_a_condition_begins_at_its_limit_and_ends_well_within_it() -> None:
    held = Conditions(TABLE)
    assert held.observe("camera-away", {"gate": 19.9}, 100.0) == []
    (began,) = held.observe("camera-away", {"gate": 20.0}, 101.0)
    assert began.began and began.line == "camera host gate is away: nothing was heard of it for 20 s"
    # Between the two limits nothing is said.
    assert held.observe("camera-away", {"gate": 15.0}, 102.0) == []
    assert [(one.name, one.value, one.since) for one in held.active] == [("camera-away", 15.0, 101.0)]
    (ended,) = held.observe("camera-away", {"gate": 0.0}, 131.0)
    assert not ended.began and ended.seconds == 30.0
    assert ended.line.startswith("over after 30 s: camera host gate is away")
    assert held.active == []


def test_one_that_is_held_off_begins_only_when_it_lasts() -> None:
    held = Conditions(TABLE)
    assert TABLE["queue-old"].hold_seconds == 5.0
    assert held.observe("queue-old", {"queue": 61.0}, 0.0) == []
    assert held.observe("queue-old", {"queue": 10.0}, 3.0) == []  # and the time begins anew
    assert held.observe("queue-old", {"queue": 61.0}, 4.0) == []
    assert held.observe("queue-old", {"queue": 65.0}, 8.9) == []
    assert told(held.observe("queue-old", {"queue": 66.0}, 9.0)) == [(True, "queue-old", "queue")]


def test_a_figure_that_falls_has_its_limits_the_other_way_round() -> None:
    low = float(WatchConfig().low_disk_bytes)
    held = Conditions(TABLE)
    assert held.observe("disk-low", {"/data": low + 1}, 0.0) == []
    assert told(held.observe("disk-low", {"/data": low}, 1.0)) == [(True, "disk-low", "/data")]
    assert held.observe("disk-low", {"/data": low * 1.2}, 2.0) == []
    assert told(held.observe("disk-low", {"/data": low * 1.3}, 3.0)) == [(False, "disk-low", "/data")]


def test_what_is_not_known_changes_nothing_and_who_is_gone_is_over() -> None:
    held = Conditions(TABLE)
    held.observe("camera-silent", {"gate": 90.0, "yard": 1.0}, 0.0)
    assert held.observe("camera-silent", {"gate": None, "yard": None}, 1.0) == []
    assert len(held.active) == 1
    assert told(held.observe("camera-silent", {"yard": 1.0}, 2.0)) == [(False, "camera-silent", "gate")]


def test_the_critical_come_first_and_of_those_the_longest() -> None:
    held = Conditions(TABLE)
    held.observe("frames-dead", {"queue": 1.0}, 1.0)
    held.observe("camera-away", {"b": 30.0}, 3.0)
    held.observe("camera-away", {"b": 30.0, "a": 30.0}, 4.0)
    assert [(one.name, one.subject) for one in held.active] == [
        ("camera-away", "b"),
        ("camera-away", "a"),
        ("frames-dead", "queue"),
    ]


@given(
    st.sampled_from(NAMES),
    st.lists(st.tuples(st.floats(0, 100), st.one_of(st.none(), st.floats(-1, 1e12))), max_size=40),
)
def test_what_begins_ends_before_it_begins_again(
    name: str, figures: list[tuple[float, float | None]]
) -> None:
    held, now, begun = Conditions(TABLE), 0.0, False
    for seconds, value in figures:
        now += seconds
        for change in held.observe(name, {"x": value}, now):
            assert change.began is not begun
            begun = change.began
            assert change.seconds >= 0 and "{" not in change.line
        assert bool(held.active) is begun


def test_one_look_judges_without_a_past() -> None:
    found = judge(
        TABLE, [("queue-old", "queue", 61.0), ("disk-low", "/", 1e12), ("camera-away", "x", None)], 7.0
    )
    assert [(one.name, one.since) for one in found] == [("queue-old", 7.0)]


def test_limits_are_settings() -> None:
    table = conditions(WatchConfig(silent_seconds=3600.0, queue_seconds=5.0, low_disk_bytes=10))
    assert not table["camera-silent"].has_begun(3599) and table["camera-silent"].has_begun(3600)
    assert table["queue-old"].has_begun(5.0) and table["disk-low"].has_begun(10)
    with pytest.raises(ConfigError, match="webhook"):
        WatchConfig(webhook="ftp://example.org")


def test_every_condition_has_a_cure_and_a_text_that_can_be_filled() -> None:
    for row in TABLE.values():
        assert row.cure and row.line("somebody", row.begins)
        assert row.has_begun(row.begins) and not row.is_over(row.begins)
        assert row.is_over(row.ends) and not row.has_begun(row.ends)


def test_a_watch_says_a_line_at_the_beginning_and_one_at_the_end_and_the_metric_follows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    alerts: list[Change] = []
    watch = Watch(WatchConfig(), silent={"clock-off"}, alert=alerts.append)
    caplog.set_level(logging.INFO, "secondlook.shared.watch")
    for now in (0.0, 1.0, 2.0):
        watch.look({"frames-dead": {"q1": 3.0}, "clock-off": {"gate": 5.0}}, now)
    assert [record.getMessage() for record in caplog.records] == [
        "3 frames were given up after too many attempts"
    ]
    shown_now = metrics.rendered().decode()
    assert 'secondlook_condition{condition="frames-dead",subject="q1"} 1.0' in shown_now
    assert [one["name"] for one in watch.told(2.0)] == ["clock-off", "frames-dead"]
    watch.look({"frames-dead": {"q1": 0.0}, "clock-off": {"gate": 0.0}}, 9.0)
    assert caplog.records[-1].getMessage() == (
        "over after 9.0 s: 3 frames were given up after too many attempts"
    )
    assert caplog.records[-1].levelname == "INFO" and len(caplog.records) == 2
    assert 'secondlook_condition{condition="frames-dead",subject="q1"} 0.0' in metrics.rendered().decode()
    assert [one.began for one in alerts] == [True, True, False, False]  # also of what the log hears elsewhere
    assert watch.told(9.0) == []


def test_a_watch_looks_once_a_second_also_when_its_clock_was_set_back() -> None:
    watch = Watch(WatchConfig())
    assert [watch.is_due(now) for now in (10.0, 10.5, 11.0, 3.0, 3.5)] == [True, False, True, True, False]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (9.96, "seconds", "10.0 s"),
        (75, "seconds", "1 min 15 s"),
        (7260, "seconds", "2 h 1 min"),
        (5e8, "bytes", "500 MB"),
        (2e10, "bytes", "20.0 GB"),
        (0.825, "share", "82%"),
        (3, "count", "3"),
    ],
)
def test_figures_for_people(value: float, unit: str, text: str) -> None:
    assert shown(value, unit) == text

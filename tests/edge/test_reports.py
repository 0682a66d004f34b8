"""What a camera host tells of itself: when, and what; over a real link, and to a gateway that does not know of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from secondlook.edge.link.reports import Doing, Reports
from secondlook.shared import packet as p
from secondlook.shared.packet import FrameInfo
from tests.edge.gateway import Memory, SmallGateway, wait_until
from tests.edge.test_uplink import BOOT, QUICK, Edge, frame

SECOND = 1_000_000_000
NOW_NS = 1_800_000_000 * SECOND
WELL = Doing("running", "lite 1f0c", "")
LOST = Doing("reconnecting", "lite 1f0c", "timed out")

# Seconds, what the host does, frames that wait, age of the oldest: what is told then, as (waiting, source).
STORY = [
    (0, WELL, 0, None, (0, "running")),
    (1, WELL, 3, 0.4, None),  # on their way
    (60, WELL, 0, None, None),
    (600, WELL, 2, 4.9, None),
    (601, WELL, 5, 5.1, (5, "running")),
    (611, WELL, 50, 15.0, None),
    (631, WELL, 80, 30.0, (80, "running")),  # every half minute while they wait
    (640, LOST, 80, 40.0, None),
    (641, LOST, 80, 41.0, (80, "reconnecting")),  # news, ten seconds after the last
    (651, WELL, 1, 0.1, (0, "running")),
    (10_000, WELL, 0, None, None),
]


def test_a_host_tells_news_and_now_and_then_what_waits() -> None:
    reports = Reports()
    for seconds, doing, frames, age, wanted in STORY:
        oldest = None if age is None else int(NOW_NS + (seconds - age) * SECOND)
        now_ns = NOW_NS + seconds * SECOND
        assert reports.is_due(seconds) and not reports.is_due(seconds + 0.5)
        report = reports.next(doing, (frames, oldest), now=seconds, now_ns=now_ns)
        assert (None if report is None else (report.waiting, report.source)) == wanted, seconds
        if report is not None:
            assert report.trouble == doing.trouble and (report.oldest_ns is None) == (report.waiting == 0)
            reports.sent(report, seconds)
    reports.connected()
    assert reports.next(WELL, (0, None), now=10_001, now_ns=NOW_NS) is not None, (
        "another gateway knows nothing"
    )


def test_who_closes_the_link_on_purpose_says_so_before() -> None:
    reports, asleep = Reports(), Doing("asleep", "lite 1f0c", "")
    first = reports.next(WELL, (0, None), now=0, now_ns=NOW_NS)
    assert first is not None
    reports.sent(first, 0)
    assert reports.next(asleep, (0, None), now=1, now_ns=NOW_NS) is None
    last = reports.next(asleep, (0, None), now=1, now_ns=NOW_NS, leaves=True)
    assert last is not None and last.source == "asleep"
    reports.sent(last, 1)
    assert reports.next(asleep, (0, None), now=2, now_ns=NOW_NS, leaves=True) is None
    assert reports.refused() and reports.next(WELL, (0, None), now=99, now_ns=NOW_NS, leaves=True) is None


def test_a_link_that_rests_was_told_of(tmp_path: Path) -> None:
    memory = Memory()
    gateway = SmallGateway(memory)
    edge = Edge(tmp_path, replace(QUICK, gateway=gateway.address))
    try:
        wait_until(lambda: len(memory.reports) == 1)
        edge.uplink.doing = Doing("asleep", "", "")
        edge.uplink.rest(True)
        wait_until(lambda: len(memory.reports) == 2 and edge.uplink.state == "down")
        assert memory.reports[1].source == "asleep"
    finally:
        edge.stop()
        gateway.stop()


@pytest.mark.parametrize(
    ("doing", "told"),
    [
        (Doing("off hours", "m", ""), ("off-hours", "m", "")),
        (Doing("Dies\x00", "m\n", "t\t" + "x" * 300), ("unknown", "m?", "t?" + "x" * 198)),
    ],
)
def test_whatever_a_source_says_fits_a_packet(doing: Doing, told: tuple[str, str, str]) -> None:
    report = Reports().next(doing, (0, None), now=0, now_ns=NOW_NS)
    assert report is not None and (report.source, report.model, report.trouble) == told
    assert p.parse(report.to_frames()) == report


def test_a_frame_of_a_time_that_no_packet_carries_waits_as_one_of_1970() -> None:
    report = Reports().next(WELL, (1, -(10**18)), now=0, now_ns=NOW_NS)
    assert report is not None and (report.waiting, report.oldest_ns) == (1, 0)


def test_a_gateway_hears_what_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondlook.edge.link.reports._APART_SECONDS", 0.1)
    monkeypatch.setattr("secondlook.edge.link.reports.LOOK_SECONDS", 0.0)
    memory = Memory()
    holding = [True]
    gateway = SmallGateway(memory, acknowledges=lambda _: not holding[0])
    edge = Edge(tmp_path, replace(QUICK, gateway=gateway.address))
    edge.uplink.doing = WELL
    try:
        wait_until(lambda: p.Report(0, None, "running", "lite 1f0c", "") in memory.reports)
        edge.put(frame(0), replace(frame(1), info=FrameInfo(BOOT, 1, 9, 64, 48, None, 50)))
        wait_until(lambda: memory.reports[-1].waiting == 2)
        assert memory.reports[-1].oldest_ns == 7  # when the oldest was captured
        holding[0] = False
        wait_until(lambda: memory.reports[-1].waiting == 0)
        edge.uplink.doing = LOST
        wait_until(lambda: memory.reports[-1].trouble == "timed out")
    finally:
        edge.stop()
        gateway.stop()


def test_an_older_gateway_is_told_once_and_served_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secondlook.edge.link.reports._APART_SECONDS", 0.0)
    monkeypatch.setattr("secondlook.edge.link.reports.LOOK_SECONDS", 0.0)
    memory = Memory()
    gateway = SmallGateway(memory, is_old=True)
    edge = Edge(tmp_path, replace(QUICK, gateway=gateway.address))
    try:
        wait_until(lambda: len(memory.reports) == 1)
        edge.put(*map(frame, range(5)))
        wait_until(edge.all_safe)
        edge.uplink.doing = LOST
        before = edge.uplink.turns
        edge.uplink.wake()
        wait_until(lambda: edge.uplink.turns > before + 2)
        assert len(memory.reports) == 1 and edge.uplink.state == "up"
        assert "rejected" not in caplog.text
    finally:
        edge.stop()
        gateway.stop()

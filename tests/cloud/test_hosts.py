"""What gateways know of camera hosts: reports over the link, the broker's answer, and the catalogue with its events."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue.camerastates import CameraState
from secondlook.cloud.catalogue.deliveries import CameraNote
from secondlook.cloud.catalogue.hosts import (
    MOST_EVENTS,
    CameraChange,
    SeenHost,
    SeenHosts,
    followed,
    note_hosts,
)
from secondlook.cloud.station.api.cameras import camera_changes
from secondlook.shared import packet as p
from secondlook.shared.conditions import WatchConfig
from secondlook.shared.errors import PacketMalformed
from secondlook.shared.packet import FrameInfo
from tests.cloud.helpers import BOOT, Edge, base_frame, grey, running, settings, wait_until
from tests.cloud.test_site_figures import START, open_site
from tests.cloud.test_workers import Site

SECOND = 1_000_000_000
NOW = 1_800_000_000.0


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[cat.Catalogue]:
    catalogue = cat.open_catalogue(f"sqlite:///{tmp_path}/catalogue.db")
    for edge_id in ("gate", "yard"):
        frame = cat.NewFrame(edge_id, edge_id.title(), 7, FrameInfo(BOOT, 0, 7, 8, 6, None, 9), edge_id, 5)
        cat.store_frame(catalogue, frame, [], detector="x", reasons=[], now_ns=int(NOW * SECOND))
    yield catalogue
    catalogue.close()


def note(catalogue: cat.Catalogue, now: float, **hosts: SeenHost) -> list[CameraChange]:
    return note_hosts(catalogue, SeenHosts(now, hosts), silent_seconds=60, settle_seconds=300)


def camera(catalogue: cat.Catalogue, edge_id: str = "gate") -> cat.Camera:
    with catalogue.reading() as session:
        return session.get_one(cat.Camera, edge_id)


def events(catalogue: cat.Catalogue) -> list[tuple[str, str, int]]:
    """Of which camera, what, how often, of each event; a dash behind what is not over."""
    with catalogue.reading() as session:
        rows = session.scalars(select(cat.CameraEvent).order_by(cat.CameraEvent.id)).all()
        return [(row.edge_id, row.what + ("-" if row.ended_ns is None else ""), row.times) for row in rows]


# --- the link


def test_a_report_is_kept_with_its_clock_corrected(tmp_path: Path) -> None:
    site = open_site(tmp_path)
    site.hello(START)
    site.ping(START, behind=100.0)  # the host's clock is 100 s behind ours
    oldest = int((START - 130) * SECOND)
    site.say(p.Report(8, oldest, "reconnecting", "lite 1f0c", "timed out"), START + 1, "control")
    report = site.intake.tally.reported["gate"]
    assert (report.waiting, report.source, report.trouble, report.at) == (
        8,
        "reconnecting",
        "timed out",
        START + 1,
    )
    assert report.oldest_at == pytest.approx(START - 30, abs=0.01)
    site.stores.close()


def test_a_report_belongs_on_control_and_a_probe_gives_none(tmp_path: Path) -> None:
    site = open_site(tmp_path)
    site.hello(START)
    report = p.Report(0, None, "running", "", "")
    ((_, fault),) = site.intake.receive(b"gate/bulk", report.to_frames(), "", now=START)
    assert isinstance(fault, p.Fault) and "does not belong on bulk" in fault.text
    hello = p.Hello("prober", BOOT, "control", "yard", 0, 0, "secondlook" + p.PROBE)
    site.say(hello, START, "control", "prober")
    site.say(report, START, "control", "prober")
    assert site.intake.tally.reported == {}
    site.stores.close()


def test_workers_bring_it_into_the_catalogue_and_say_what_begins(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(settings(tmp_path)) as gateway, Edge(gateway.edge_address) as edge:
        edge.hello()
        edge.hello("control")
        site = Site(gateway, edge, tmp_path)
        with site.broker:
            site.deliver(base_frame(0, grey(1)))
            edge.send(p.Report(4, int((NOW - 70) * SECOND), "running", "video by x264", ""), "control")
            wait_until(lambda: site.broker.stats()["edges"][0]["report"] is not None)
            site.machine.step()
            site.machine._clocks_at = 0.0
            site.machine.step()
            found = camera(site.catalogue)
            assert (found.waiting_frames, found.model, found.source) == (4, "video by x264", "running")
            assert found.noted_ns and found.heard_ns and found.delivered_ns and events(site.catalogue) == []
            site.machine.watch = WatchConfig(silent_seconds=1.0)
            with caplog.at_level(logging.INFO):
                wait_until(lambda: _copied(site) and events(site.catalogue) != [], 10)
            assert events(site.catalogue) == [("gate", "stalled-", 1)]
            (line,) = [one for one in caplog.records if "stalled" in one.getMessage()]
            assert line.levelname == "WARNING" and line.getMessage().startswith("camera gate is stalled, for")
        site.catalogue.close()


def _copied(site: Site) -> bool:
    site.machine._clocks_at = 0.0
    return site.machine.step() >= 0


def test_a_gateway_of_an_earlier_version_is_not_asked_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown() -> None:
        raise PacketMalformed("operation is not known")

    with running(settings(tmp_path)) as gateway, Edge(gateway.edge_address) as edge:
        edge.hello()
        site = Site(gateway, edge, tmp_path)
        with site.broker:
            site.deliver(base_frame(0, grey(1)))
            monkeypatch.setattr(site.broker, "hosts", unknown)
            site.machine.step()
            assert camera(site.catalogue).noted_ns is None
        site.catalogue.close()


# --- the catalogue


def test_what_is_younger_counts_whichever_gateway_tells(catalogue: cat.Catalogue) -> None:
    first = SeenHost(
        NOW - 1, NOW - 2, NOW - 3, waiting=5, oldest_at=NOW - 90, source="running", trouble="dark"
    )
    note(catalogue, NOW, gate=first)
    note(catalogue, NOW + 5, gate=SeenHost(NOW - 500))  # another one, where it was long ago
    found = camera(catalogue)
    assert (found.heard_ns, found.delivered_ns) == (int((NOW - 1) * SECOND), int((NOW - 2) * SECOND))
    assert (found.waiting_frames, found.trouble, found.last_trouble) == (5, "dark", "dark")
    assert found.noted_ns == int((NOW + 5) * SECOND) and events(catalogue) == []
    note(catalogue, NOW + 20, gate=replace(first, heard_at=NOW + 19, reported_at=NOW + 19, trouble=""))
    found = camera(catalogue)
    assert (found.trouble, found.last_trouble, found.trouble_ns) == ("", "dark", int((NOW - 3) * SECOND))


def test_a_flapping_camera_has_one_event_with_one_line_at_each_end(catalogue: cat.Catalogue) -> None:
    lines = []
    heard = delivered = NOW
    for second in range(0, 3000, 10):
        is_there = second % 200 < 50 or second > 1500  # away for 150 of 200 s, seven times over
        if is_there:
            heard = delivered = NOW + second
        changes = note(
            catalogue,
            NOW + second,
            gate=SeenHost(heard, delivered),
            yard=SeenHost(NOW + second, NOW + second),
        )
        lines += [change.line(int((NOW + second) * SECOND)) for change in changes]
    assert events(catalogue) == [("gate", "offline", 7)]
    assert lines == [
        "camera gate is offline, for 1 min so far",
        "camera gate is well again: it was offline for 22 min, and went 7 times",
    ]


def test_hosts_that_nobody_tells_of_keep_what_they_have(catalogue: cat.Catalogue) -> None:
    assert note(catalogue, NOW, nobody=SeenHost(NOW)) == []
    assert camera(catalogue).noted_ns is None


def test_events_of_a_camera_are_bounded(catalogue: cat.Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondlook.cloud.catalogue.hosts.MOST_EVENTS", 3)
    assert MOST_EVENTS == 100
    now = NOW
    for _ in range(5):
        note(catalogue, now, gate=SeenHost(now - 100, now - 100))
        note(catalogue, now + 10, gate=SeenHost(now + 10, now + 10))
        note(catalogue, now + 400, gate=SeenHost(now + 400, now + 400))
        now += 1000
    assert events(catalogue) == [("gate", "offline", 1)] * 3


def test_listeners_hear_of_a_flapping_camera_once(catalogue: cat.Catalogue) -> None:
    noted: dict[str, CameraNote] = {}
    told = []
    delivered = NOW
    for second in range(0, 1500, 10):
        if second % 200 < 50 or second > 800:
            delivered = NOW + second
        note(catalogue, NOW + second, gate=SeenHost(NOW + second, delivered))
        with catalogue.reading() as session:
            rows = [session.get_one(cat.Camera, "gate")]
            by_events = followed(session, rows, now_ns=int((NOW + second) * SECOND))
            changed = camera_changes(
                rows, noted, silent_seconds=60, now_ns=int((NOW + second) * SECOND), followed=by_events
            )
        noted.update(changed)
        told += [one.state for one in changed.values()]
    assert told == ["online", "silent", "online"]
    assert events(catalogue) == [("gate", CameraState.STALLED.value, 4)]


def test_what_was_told_long_ago_is_followed_no_more(catalogue: cat.Catalogue) -> None:
    note(catalogue, NOW, gate=SeenHost(NOW, NOW))
    with catalogue.reading() as session:
        rows = session.scalars(select(cat.Camera)).all()
        assert set(followed(session, rows, now_ns=int((NOW + 30) * SECOND))) == {"gate"}
        assert followed(session, rows, now_ns=int((NOW + 61) * SECOND)) == {}

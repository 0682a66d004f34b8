"""What a gateway says by itself: silent cameras, an old queue, the dead, refused keys, a clock that is off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from secondlook.cloud.config import CloudConfig, QueueLimits
from secondlook.cloud.gateway.figures import SiteFigures
from secondlook.cloud.gateway.intake import Intake
from secondlook.cloud.gateway.keys import Registry, Role, create_key_files
from secondlook.cloud.gateway.presence import Presence, Present
from secondlook.cloud.storage.blobs import open_blobs
from secondlook.cloud.storage.stores import Stores, open_stores
from secondlook.shared import metrics
from secondlook.shared import packet as p
from secondlook.shared.conditions import Conditions, WatchConfig, conditions
from tests.cloud.helpers import BOOT, base_frame

START = 1_000_000.0


@dataclass
class Site:
    stores: Stores
    intake: Intake
    presence: Presence
    figures: SiteFigures
    held: Conditions

    def say(self, packet: p.Packet, now: float, channel: str = "bulk", edge_id: str = "gate") -> None:
        self.intake.receive(f"{edge_id}/{channel}".encode(), packet.to_frames(), "", now=now)

    def hello(self, now: float, edge_id: str = "gate") -> None:
        for channel in ("bulk", "control"):
            self.say(p.Hello(edge_id, BOOT, channel, "yard", 0, 0, "test"), now, channel, edge_id)

    def ping(self, now: float, behind: float = 0.0, edge_id: str = "gate") -> None:
        self.say(p.Ping(int((now - behind) * 1e9)), now, "control", edge_id)

    def deliver(self, seq: int, now: float) -> None:
        self.say(base_frame(seq, captured_ns=int((now - 3) * 1e9)), now)
        self.intake.flush(now=now)
        self.intake.tally.committed(self.intake.clock_offsets(), now=now)

    def look(self, now: float) -> list[tuple[bool, str, str]]:
        return [
            (change.began, name, change.condition.subject)
            for name, values in self.figures.look(now).items()
            for change in self.held.observe(name, values, now)
        ]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = open_site(tmp_path)
    yield site
    site.stores.close()


def open_site(folder: Path, registry: Registry | None = None) -> Site:
    config = CloudConfig(data_dir=folder)
    gateway = replace(config.gateway, queue=QueueLimits(max_attempts=1))
    stores = open_stores(replace(config, gateway=gateway))
    intake = Intake(
        stores.ledger, stores.queue, stores.requests, open_blobs(config.blobs_url), gateway.limits, None
    )
    presence = Presence()
    figures = SiteFigures(stores, intake, presence, registry, folder, START)
    return Site(stores, intake, presence, figures, Conditions(conditions(WatchConfig())))


def test_a_camera_host_that_goes_is_told_of_within_20_seconds_and_when_it_is_back(site: Site) -> None:
    site.hello(START)
    for second in range(20):
        assert site.look(START + second) == []
    assert site.look(START + 20) == [(True, "camera-away", "gate")]
    site.ping(START + 40)
    assert site.look(START + 41) == [(False, "camera-away", "gate")]


def test_a_camera_host_that_has_nothing_to_say_is_not_called_away_between_its_pings(site: Site) -> None:
    site.hello(START)
    site.deliver(0, START + 1)
    for second in range(2, 150):
        if second % 30 == 6:  # 5 s after the frame, then every 30 s
            site.ping(START + second)
        assert (True, "camera-away", "gate") not in site.look(START + second)
    assert (True, "camera-away", "gate") not in site.look(START + 126 + 44)
    assert (True, "camera-away", "gate") in site.look(START + 126 + 45)


def test_a_camera_that_is_connected_and_delivers_nothing_is_silent(site: Site) -> None:
    site.hello(START)
    site.deliver(0, START + 1)
    for second in range(2, 61):
        site.ping(START + second)
        assert site.look(START + second) == []
    site.ping(START + 61)
    assert site.look(START + 61) == [(True, "camera-silent", "gate")]
    site.say(p.Tombstone(BOOT, 1, 40, "idle"), START + 62)  # that nothing moved is news of it
    assert site.look(START + 62) == [(False, "camera-silent", "gate")]


def test_a_gateway_that_starts_gives_known_hosts_time_to_come_and_then_misses_them(tmp_path: Path) -> None:
    first = open_site(tmp_path)
    first.hello(START - 100)
    first.stores.close()
    site = open_site(tmp_path)
    assert site.look(START + 19) == []
    assert site.look(START + 20) == [(True, "camera-away", "gate")]
    site.stores.close()


def test_a_host_that_was_revoked_is_not_missed_and_one_whose_key_ended_is(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry.json")
    for name in ("gate", "yard"):
        registry.add(name, Role.EDGE, create_key_files(tmp_path, name).public.decode(), now=0)
    site = open_site(tmp_path / "data", registry)
    for name in ("gate", "yard"):
        site.hello(START, name)
    registry.revoke("yard", now=START)
    site.look(START)
    assert site.look(START + 30) == [(True, "camera-away", "gate")]
    site.figures.refused["gate"] = START + 30
    assert site.look(START + 31) == [(True, "key-refused", "gate")]
    assert site.look(START + 95) == [(False, "key-refused", "gate")]
    site.stores.close()


def test_an_old_queue_the_dead_a_wrong_clock_and_a_lost_worker_are_told_of(site: Site) -> None:
    site.hello(START)
    site.ping(START, behind=5.0)
    assert site.look(START) == [(True, "clock-off", "gate")]
    site.deliver(0, START)
    site.presence.tell(Present("w-1", "worker", "a", START, START, 0.0, "", 0, "cpu"))
    now, told = START, []
    while now < START + 70:
        now += 1
        site.ping(now, behind=0.1)
        told += [(now - START, *one) for one in site.look(now)]
    assert told == [
        (1.0, False, "clock-off", "gate"),
        (15.0, True, "worker-away", "worker w-1"),
        (60.0, True, "camera-silent", "gate"),
        (65.0, True, "queue-old", "queue"),  # held off for 5 s
    ]
    (item,) = site.stores.queue.lease(1, ttl_seconds=30, worker="w", now=now)
    site.stores.queue.nack(item.id, delay_seconds=0, worker="w", why="broken", now=now)
    assert set(site.look(now + 1)) == {(False, "queue-old", "queue"), (True, "frames-dead", "queue")}
    site.stores.queue.purge([item.id])
    assert site.look(now + 2) == [(False, "frames-dead", "queue")]


def test_what_is_stored_is_counted_once_and_only_after_its_commit(site: Site) -> None:
    def count(name: str, **labels: str) -> float:
        return metrics.registry.get_sample_value(f"secondlook_{name}", labels) or 0.0

    before = count("frames_queued_total", camera="gate")
    dropped = count("frames_dropped_total", camera="gate", reason="other")
    site.hello(START)
    site.say(base_frame(0, b"12345"), START)
    site.say(p.Tombstone(BOOT, 1, 4, "a-reason-of-its-own"), START)
    site.intake.flush(now=START)
    assert count("frames_queued_total", camera="gate") == before
    site.intake.tally.committed({}, now=START)
    site.deliver(0, START + 1)  # again: it is known
    assert count("frames_queued_total", camera="gate") == before + 1
    assert count("frames_dropped_total", camera="gate", reason="other") == dropped + 4
    site.look(START + 2)
    assert count("queue_frames") == 1 and count("queue_bytes") == 5
    assert count("cameras_connected") == 1


def test_who_tries_the_link_is_no_camera_host_that_is_there_and_gets_none_of_its_requests(site: Site) -> None:
    site.hello(START)
    site.stores.requests.ask("gate", BOOT, 0, deadline=START + 60, priority=1, blob_gone=False, now=START)
    probe = p.Hello("gate", BOOT, "control", "yard", 0, 0, f"secondlook 1.0{p.PROBE}")
    answers = site.intake.receive(b"probe", probe.to_frames(), "", now=START + 25)
    assert [type(answer) for _, answer in answers] == [p.Welcome]
    answers = site.intake.receive(b"probe", p.Ping(int((START + 25) * 1e9)).to_frames(), "", now=START + 25)
    assert [type(answer) for _, answer in answers] == [p.Pong]
    (peer,) = {
        peer for peer, packet in site.intake.tick(now=START + 25) if isinstance(packet, p.EnhancementRequest)
    }
    assert peer == b"gate/control"
    assert site.look(START + 25) == [(True, "camera-away", "gate")]
    assert site.intake.connected() == {"gate": ["bulk", "control"]}

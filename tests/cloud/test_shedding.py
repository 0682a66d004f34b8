"""Workers that cannot keep up: when they leave frames without a look, which, and that nothing of that is lost."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
from sqlalchemy import select

from secondlook.cloud import catalogue as cat
from secondlook.cloud.admin.agreement import Agreement, look
from secondlook.cloud.config import BrokerConfig, PolicyConfig, WorkerConfig
from secondlook.cloud.decoding.base import BaseDecoder, StoredFrame
from secondlook.cloud.storage.blobs import open_blobs
from secondlook.cloud.storage.queue import Leased
from secondlook.cloud.workers.broker_client import BrokerClient
from secondlook.cloud.workers.machine import MachineWorker
from secondlook.cloud.workers.shedding import REST_SECONDS, TRIAL_SECONDS, Shedder, Turn
from secondlook.shared import metrics
from secondlook.shared.conditions import WatchConfig, conditions, judge
from tests.cloud.helpers import (
    BOOT,
    Edge,
    OneBox,
    PlainCodec,
    base_frame,
    grey,
    running,
    settings,
    wait_until,
)
from tests.cloud.test_groups import LENGTH, image, packets
from tests.cloud.test_workers import Site

ROOT = Path(__file__).parents[2]
RULES: list[Literal["newest", "every"]] = ["newest", "every"]


# --- the rule, without anything around it


@dataclass
class Line:
    """A queue and one worker that takes four frames at a time, in simulated time."""

    shedder: Shedder
    look_seconds: float  # of one frame
    now: float = 0.0
    waiting: deque[tuple[float, str]] = field(default_factory=deque)  # when it came, whose
    came: float = 0.0
    looked: list[tuple[float, str, float]] = field(default_factory=list)  # when, whose, how old
    left: int = 0
    turns: list[tuple[float, Turn]] = field(default_factory=list)

    def run(self, until: float, cameras: dict[str, float]) -> None:
        """`cameras`: seconds between two frames of each."""
        due = dict.fromkeys(cameras, self.now)
        while self.now < until:
            for name, pause in cameras.items():
                while due[name] <= self.now:
                    self.waiting.append((due[name], name))
                    due[name] += pause
            self.waiting = deque(sorted(self.waiting))
            leased = [self.waiting.popleft() for _ in range(min(4, len(self.waiting)))]
            aged = [(name, self.now - at) for at, name in leased]
            turn = self.shedder.observe(max((age for _, age in aged), default=0.0), self.now)
            if turn is not None:
                self.turns.append((self.now, turn))
            looks = self.shedder.choose(aged, drained=len(leased) < 4)
            left = looks.count(False)
            if left:
                self.shedder.note_left(left, self.now)
            self.left += left
            for (name, age), is_seen in zip(aged, looks, strict=True):
                if is_seen:
                    self.now += self.look_seconds
                    self.looked.append((self.now, name, age))
            self.now += 0.02 if leased else 0.1

    def age(self) -> float:
        return self.now - self.waiting[0][0] if self.waiting else 0.0

    def ages_since(self, since: float) -> list[float]:
        return [age for at, _, age in self.looked if at >= since]


CAMERAS = {"gate": 1.0, "yard": 1.0, "door": 0.5}  # four frames a second


@pytest.mark.parametrize("rule", RULES)
def test_who_keeps_up_looks_at_every_frame(rule: Literal["newest", "every"]) -> None:
    line = Line(Shedder(rule, 30.0), look_seconds=0.2)
    line.run(1000, CAMERAS)
    assert line.left == 0 and line.turns == [] and line.age() < 2


@pytest.mark.parametrize("rule", RULES)
def test_a_backlog_that_shrinks_is_worked_off_in_full(rule: Literal["newest", "every"]) -> None:
    line = Line(Shedder(rule, 30.0), look_seconds=0.1)
    line.waiting.extend(
        (-3600.0 + second, "gate") for second in range(3600)
    )  # after an hour without a worker
    line.run(1500, CAMERAS)
    assert line.left == 0 and line.turns == [] and line.age() < 2


def test_with_zero_seconds_nothing_is_ever_left() -> None:
    line = Line(Shedder("newest", 0.0), look_seconds=0.5)
    line.run(1000, CAMERAS)
    assert line.left == 0 and line.age() > 400


def test_the_newest_are_looked_at_by_who_falls_behind() -> None:
    line = Line(Shedder("newest", 60.0), look_seconds=0.4)  # for four frames it takes 1.6 s
    line.run(900, CAMERAS)
    ((began_at, turn),) = line.turns
    assert turn.began and turn.age_seconds >= 60 and TRIAL_SECONDS <= began_at < 260
    assert max(line.ages_since(began_at + 30)) <= 13  # what is found is news
    share = len(line.ages_since(began_at)) / (4 * (900 - began_at))
    assert 0.5 < share < 0.65, share  # of the frames that come, what the worker can do
    line.run(2000, {"gate": 1.0})  # fewer frames: it keeps up again
    (_, _), (ended_at, over) = line.turns
    assert not over.began and over.frames == line.left and 900 + REST_SECONDS - 20 <= ended_at < 1000
    left = line.left
    line.run(2500, {"gate": 1.0})
    assert line.left == left and not line.shedder.is_shedding and line.shedder.left == 0


def test_every_nth_frame_of_each_camera_is_looked_at_by_who_falls_behind() -> None:
    line = Line(Shedder("every", 60.0), look_seconds=0.8)  # for four frames it takes 3.2 s
    line.run(2000, CAMERAS)
    ((began_at, turn),) = line.turns
    assert turn.began
    assert max(line.ages_since(began_at + 700)) < 20, "it is back near the present, and stays there"
    for name, pause in CAMERAS.items():
        of_camera = [at - age for at, whose, age in line.looked if whose == name and at > began_at + 700]
        gaps = [later - earlier for earlier, later in pairwise(of_camera)]
        assert max(gaps) <= 10 * pause, (name, max(gaps))  # no stretch of time is left out
    line.run(3500, {"gate": 2.0})
    assert [turn.began for _, turn in line.turns] == [True, False] and line.shedder.step == 1


def test_the_newest_of_all_that_wait_is_looked_at_however_old_it_is() -> None:
    shedder = Shedder("newest", 10.0)
    for second in range(0, 200, 5):
        shedder.observe(100.0 + second, float(second))
    assert shedder.is_shedding
    aged = [("gate", 90.0), ("yard", 70.0), ("gate", 80.0)]
    assert shedder.choose(aged, drained=False) == [False, False, False]
    assert shedder.choose(aged, drained=True) == [False, True, False]
    assert shedder.choose([], drained=True) == []


def test_a_worker_whose_frames_take_minutes_finds_out_too() -> None:
    shedder = Shedder("newest", 60.0)
    turns = [shedder.observe(200.0 * look, 200.0 * look) for look in range(1, 4)]
    assert [turn is not None for turn in turns] == [False, False, True]
    assert shedder.is_shedding


def test_a_clock_that_is_set_back_begins_nothing() -> None:
    shedder = Shedder("newest", 10.0)
    for now in (0.0, 50.0, 20.0, 70.0):
        assert shedder.observe(100.0, now) is None


# --- a worker with a real gateway


class Overloaded(Shedder):
    """As after a minute in which the wait did not shrink; frames of a test are new."""

    def __init__(self, rule: Literal["newest", "every"] = "newest") -> None:
        super().__init__(rule, 1.0)
        self._began_at, self._fresh, self._step = 0.0, -1.0, 3

    def observe(self, age_seconds: float, now: float) -> Turn | None:
        return None

    def choose(self, frames: Sequence[tuple[str, float]], *, drained: bool) -> list[bool]:
        return super().choose(frames, drained=False)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running(settings(tmp_path)) as gateway, Edge(gateway.edge_address) as edge:
        edge.hello()
        edge.hello("control")
        site = Site(gateway, edge, tmp_path)
        site.machine.policy = replace(site.machine.policy, audit_every=0)
        site.machine.config = WorkerConfig(batch=16)
        with site.broker:
            yield site
        site.catalogue.close()


def stored(catalogue: cat.Catalogue) -> list[tuple[int, str | None, int]]:
    """Sequence, why nobody looked, number of detections, of every frame."""
    with catalogue.reading() as session:
        rows = session.scalars(select(cat.Frame).order_by(cat.Frame.seq)).all()
        return [(row.seq, row.unseen, len(row.detections)) for row in rows]


def take_all(machine: MachineWorker) -> None:
    while machine.step():
        pass


def test_frames_that_are_left_are_stored_with_their_base_layer(site: Site) -> None:
    site.machine._shedder = Overloaded("every")
    site.machine._next_batch = 16
    before = metrics.registry.get_sample_value("secondlook_frames_shed_total", {"camera": "gate"}) or 0.0
    site.deliver(*(base_frame(seq, grey(seq), captured_ns=seq + 7) for seq in range(8)))
    take_all(site.machine)
    assert stored(site.catalogue) == [
        (seq, None if seq % 3 == 0 else cat.BEHIND, 1 if seq % 3 == 0 else 0) for seq in range(8)
    ]
    for seq in range(8):
        assert site.blobs.get(f"base/gate/{BOOT}/{seq}.slk") == grey(seq)
    assert site.broker.stats()["depth"] == 0 and site.machine.shed == 5 and site.machine.done == 3
    after = metrics.registry.get_sample_value("secondlook_frames_shed_total", {"camera": "gate"})
    assert after == before + 5
    with site.catalogue.reading() as session:
        assert len(session.scalars(select(cat.Review)).all()) == 3  # nobody is asked about what nobody saw


def test_samples_broken_frames_and_those_that_lack_another_are_looked_at(site: Site) -> None:
    machine = site.machine
    machine._shedder, machine._next_batch = Overloaded(), 16
    machine.policy = PolicyConfig(every_nth=10, audit_every=0)
    site.deliver(
        base_frame(0, grey(1)),  # of the sample
        base_frame(1, grey(1)),
        base_frame(2, grey(1), width=60_000, height=60_000),  # larger than any worker takes
        base_frame(3, grey(1), key_seq=1),
        base_frame(4, grey(1)),
    )
    assert machine.step() == 5
    assert [(seq, unseen) for seq, unseen, _ in stored(site.catalogue)] == [
        (0, None),
        (1, cat.BEHIND),
        (3, cat.BEHIND),
        (4, cat.BEHIND),
    ]
    assert site.broker.stats()["depth"] == 1  # the large one was given back, with its cause


def test_a_delta_whose_key_is_not_stored_is_not_left(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.machine._shedder, site.machine._next_batch = Overloaded(), 16
    site.deliver(base_frame(0, grey(1)), base_frame(1, grey(1), key_seq=0))
    has = site.blobs.exists
    monkeypatch.setattr(site.blobs, "exists", lambda key: has(key) and not key.endswith("/0.slk"))
    site.machine.step()
    assert stored(site.catalogue) == [(0, cat.BEHIND, 0)]


def test_a_frame_that_is_left_twice_is_stored_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.machine._shedder, site.machine._next_batch = Overloaded(), 16
    site.deliver(base_frame(0, grey(1)), base_frame(1, grey(1)))
    ack = site.broker.ack
    monkeypatch.setattr(site.broker, "ack", lambda ids: None)  # the worker dies before it can say so
    site.machine.step()
    monkeypatch.setattr(site.broker, "ack", ack)
    frames = [
        cat.NewFrame("gate", "yard", 7, base_frame(seq, grey(1)).info, f"base/gate/{BOOT}/{seq}.slk", 5)
        for seq in range(3)
    ]
    assert cat.store_unseen(site.catalogue, frames, cat.BEHIND, now_ns=9) == 1
    assert [seq for seq, _, _ in stored(site.catalogue)] == [0, 1, 2]


def test_a_tombstone_over_a_frame_that_is_left_is_cut(site: Site) -> None:
    dropped = cat.FrameTombstone("gate", BOOT, 0, 5, "spool-full", 7)
    cat.store_tombstones(site.catalogue, [dropped])
    frame = cat.NewFrame("gate", "yard", 7, base_frame(3, grey(1)).info, f"base/gate/{BOOT}/3.slk", 5)
    cat.store_unseen(site.catalogue, [frame], cat.BEHIND, now_ns=9)
    with site.catalogue.reading() as session:
        rows = session.scalars(select(cat.Tombstone).order_by(cat.Tombstone.first_seq)).all()
        assert [(row.first_seq, row.last_seq) for row in rows] == [(0, 2), (4, 5)]


def test_frames_of_a_group_decode_behind_those_that_were_left(site: Site) -> None:
    machine = site.machine
    sent = packets(2 * LENGTH)
    machine._shedder, machine._next_batch = Overloaded("every"), 16
    site.deliver(*sent)
    take_all(machine)
    seen = stored(site.catalogue)
    assert [seq for seq, _, _ in seen] == list(range(2 * LENGTH))
    assert [unseen for _, unseen, _ in seen].count(cat.BEHIND) == 5
    decoder = BaseDecoder(PlainCodec, site.blobs, 1 << 20)
    for packet in sent:  # and so do those that were left, for people
        info = packet.info
        key = f"base/gate/{info.boot_id}/{info.seq}.slk"
        picture = decoder.decode(StoredFrame("gate", info.boot_id, info.seq, info.key_seq, key))
        assert picture.shape == image(0).shape


def test_a_gateway_of_an_earlier_version_tells_no_ages_and_nothing_is_left(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = site.broker.lease

    def ageless(n: int, ttl_seconds: float) -> list[Leased]:
        return [replace(item, age_seconds=None) for item in lease(n, ttl_seconds)]

    monkeypatch.setattr(site.broker, "lease", ageless)
    site.machine._shedder = Overloaded()
    site.deliver(base_frame(0, grey(1)))
    assert site.machine.step() == 1 and stored(site.catalogue) == [(0, None, 1)]


def test_the_log_hears_of_it_twice(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [Turn(True, 61.0), None, Turn(False, 1.0, 12, 300.0)]
    monkeypatch.setattr(site.machine._shedder, "observe", lambda age, now: turns.pop(0))
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            site.machine.step()
    lines = [one for one in caplog.records if one.name.endswith("machine")]
    assert [one.levelname for one in lines] == ["WARNING", "INFO"]
    assert "cannot keep up: frames wait for 61 s" in lines[0].getMessage()
    assert lines[1].getMessage() == "keeps up again after 300 s: 12 frames were stored and not looked at"


def test_a_gateway_tells_of_a_worker_that_cannot_keep_up(tmp_path: Path) -> None:
    told = {"role": "worker", "host": "h", "age_seconds": 0.1, "waits": "", "done": 7, "device": "cpu"}
    with running(settings(tmp_path)) as gateway, Edge(gateway.edge_address) as edge:
        site = Site(gateway, edge, tmp_path)
        with site.broker as broker:
            broker.present(**told, shed=12)
            (row,) = broker.stats()["workers"]
            assert row["shed"] == 12
            table = conditions(WatchConfig())
            (held,) = judge(table, [("worker-behind", "worker w1", float(row["shed"]))], 0.0)
            assert held.text == "worker w1 cannot keep up: 12 frames were stored and not looked at"
            broker.present(**told)
            assert broker.stats()["workers"][0]["shed"] == 0
        site.catalogue.close()


def test_detectors_see_only_what_is_looked_at(site: Site) -> None:
    seen: list[int] = []

    class Counting(OneBox):
        def detect(self, image: object) -> list[object]:  # type: ignore[override]
            seen.append(1)
            return []

    site.machine.detector = Counting()  # type: ignore[assignment]
    site.machine._shedder, site.machine._next_batch = Overloaded(), 16
    site.deliver(*(base_frame(seq, grey(1)) for seq in range(16)))
    assert site.machine.step() == 16 and seen == []
    assert site.machine._next_batch == 64  # what is left costs little: more at once


# --- processes


@contextmanager
def slow_worker(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as stream:
        command = [sys.executable, "-m", "tests.cloud.slow_worker", str(config)]
        process = subprocess.Popen(command, cwd=ROOT, stderr=stream, stdout=stream)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.timeout(240)
def test_a_worker_process_sheds_says_so_and_loses_nothing(tmp_path: Path) -> None:
    """Frames of two cameras come faster than the worker looks; then they stop coming, and it is over."""
    with running(settings(tmp_path)) as gateway, Edge(gateway.edge_address) as edge:
        config, log = tmp_path / "cloud.toml", tmp_path / "worker.log"
        config.write_text(
            f'data_dir = "."\n[broker]\naddress = "{gateway.broker_address}"\n'
            '[worker]\nshed_after_seconds = 2.0\nshed = "newest"\n[policy]\naudit_every = 0\n'
        )
        edge.hello()
        with slow_worker(config, log), BrokerClient(BrokerConfig(gateway.broker_address), "test") as broker:
            held: set[str] = set()
            seq = 0
            deadline = time.monotonic() + 60
            while "worker-behind" not in held or seq < 150:
                assert time.monotonic() < deadline, log.read_text()
                edge.send(base_frame(seq, grey(seq % 200), captured_ns=seq))
                seq += 1
                edge.expect()
                held = {one["name"] for one in broker.stats()["conditions"]}
                time.sleep(0.1)

            def is_over() -> bool:
                stats = broker.stats()
                names = {one["name"] for one in stats["conditions"]}
                said = "keeps up again" in log.read_text()
                return stats["depth"] == 0 and "worker-behind" not in names and said

            wait_until(is_over, 60)
            lines = [line for line in log.read_text().splitlines() if "keep" in line]
        assert len(lines) == 2 and lines[0].startswith("WARNING cannot keep up: frames wait for")
        left = int(re.findall(r"(\d+) frames were stored", lines[1])[0])
        catalogue = cat.open_catalogue(f"sqlite:///{tmp_path}/catalogue.db")
        frames = stored(catalogue)
        assert [number for number, _, _ in frames] == list(range(seq))  # every frame, once
        assert all((why is None) == (boxes == 1) for _, why, boxes in frames)
        assert [why for _, why, _ in frames].count(cat.BEHIND) == left > 20
        found = audited(catalogue, tmp_path)
        assert found.agrees and found.unseen == left and found.frames == seq
        catalogue.close()


def audited(catalogue: cat.Catalogue, folder: Path) -> Agreement:
    """What `secondlook audit` says of it, without the ledger, whose file the gateway has open."""
    blobs = open_blobs(str(folder / "blobs"))
    return look(catalogue, blobs, None, queued=None, before=time.time())

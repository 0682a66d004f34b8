"""Frames that go over a thin link together: which, when, and what the link is counted for; then the real uplink."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.edge.agent import Agent
from secondlook.edge.config import CodecConfig, LinkConfig, RateConfig, SpoolConfig, UplinkConfig
from secondlook.edge.link.gathering import (
    LARGE_BYTES,
    RUN_BYTES,
    RUN_FRAME_BYTES,
    Gathering,
    frame_overhead,
    frames_in_run,
    run_overhead,
)
from secondlook.edge.link.hostlink import HostLink
from secondlook.edge.link.identity import AgentIdentity
from secondlook.edge.link.pacing import HELLO_BYTES, OVERHEAD_BYTES, PING_BYTES, Pacer, Pacing
from secondlook.edge.link.rate import _GATHERED_SECONDS, _WAITING_SECONDS, RateControl
from secondlook.edge.link.share import FairShare
from secondlook.edge.link.uplink import Uplink
from secondlook.edge.spool import Spool
from secondlook.edge.spooled import PassedOver, SpooledFrame
from secondlook.shared import packet as p
from tests.chaos.proxy import Proxy, Weather
from tests.edge.gateway import Memory, SmallGateway, wait_until
from tests.edge.test_agent import PlainCodec, config, seven_images
from tests.edge.test_uplink import BOOT, EARLIER, QUICK

RATE = 1e6  # bytes a second: as if there were no limit
INFO = p.FrameInfo(BOOT, 0, 7, 64, 48, 0, 50)


def delta(seq: int, size: int = 100, key: int | None = 0, **other: object) -> p.BaseFrame:
    info = replace(INFO, seq=seq, key_seq=key, captured_ns=7 + seq, **other)
    return p.BaseFrame(info, bytes([seq % 256]) * size)


def deltas(first: int, count: int, size: int = 100) -> list[p.BaseFrame]:
    return [delta(seq, size) for seq in range(first, first + count)]


def gathering(seconds: float = 1.0) -> Gathering:
    at_work = Gathering(BOOT, seconds)
    at_work.connected(0)
    return at_work


def seqs(frames: object) -> list[int]:
    return [frame.info.seq for frame in frames]  # type: ignore[attr-defined]


def test_small_deltas_wait_until_the_first_has_waited_for_long_enough() -> None:
    at_work = gathering()
    for seq, now in ((1, 10.0), (2, 10.2), (3, 10.4)):
        at_work.spooled(seq + 1, now)
        assert at_work.next(deltas(1, seq), RATE, now) == () and at_work.due_at == 11.0
    assert at_work.next(deltas(1, 3), RATE, 10.99) == ()
    assert seqs(at_work.next(deltas(1, 3), RATE, 11.0)) == [1, 2, 3]


def test_nothing_waits_where_it_is_not_asked_for() -> None:
    at_work = gathering(0.0)
    at_work.spooled(4, 10.0)
    assert seqs(at_work.next(deltas(1, 3), RATE, 10.0)) == [1]


def test_a_run_ends_at_what_cannot_join_it_and_goes_then() -> None:
    at_work = gathering()
    at_work.spooled(100, 10.0)
    others = [
        delta(4, key=None),
        delta(4, key=2),
        delta(5),
        delta(4, LARGE_BYTES + 1),
        delta(4, width=65),
        replace(delta(4), info=replace(delta(4).info, captured_ns=1)),
        replace(delta(4), info=replace(delta(4).info, boot_id=EARLIER)),
    ]
    for other in others:
        assert seqs(at_work.next([*deltas(1, 3), other], RATE, 10.0)) == [1, 2, 3]
    assert seqs(at_work.next(deltas(1, 70), RATE, 10.0)) == list(range(1, 65))
    many = at_work.next(deltas(1, 64, 1000), RATE, 10.0)
    assert sum(len(frame.payload) for frame in many) <= RUN_BYTES < (len(many) + 1) * 1000
    few = at_work.next(deltas(1, 64, 100), 2000.0, 10.0)
    assert len(few) == 10, "half a second of the link"


def test_what_waits_for_nothing_goes_at_once_and_alone() -> None:
    at_work = gathering()
    at_work.spooled(5, 10.0)
    for first in (delta(4, key=None), delta(4, LARGE_BYTES + 1)):
        assert at_work.next([first], RATE, 10.0) == [first] and at_work.due_at == math.inf


def test_a_hole_or_a_tombstone_behind_them_lets_frames_go() -> None:
    at_work = gathering()
    at_work.spooled(4, 10.0)
    assert at_work.next(deltas(1, 3), RATE, 10.1) == ()
    at_work.spooled(6, 10.2)  # 4 and 5 were passed over, or dropped
    assert seqs(at_work.next(deltas(1, 3), RATE, 10.2)) == [1, 2, 3]


def test_what_is_no_news_goes_in_runs_without_waiting() -> None:
    at_work = gathering()
    at_work.connected(4)
    assert seqs(at_work.next(deltas(1, 3), RATE, 10.0)) == [1, 2, 3], "spooled before the connection"
    earlier = [replace(frame, info=replace(frame.info, boot_id=EARLIER)) for frame in deltas(7, 3)]
    assert seqs(at_work.next(earlier, RATE, 10.0)) == [7, 8, 9]
    at_work.spooled(7, 20.0)
    at_work.spooled(8, 20.9)
    assert at_work.next(deltas(7, 1), RATE, 21.0) == (), "it came later than the others"
    assert seqs(at_work.next(deltas(4, 4), RATE, 21.0)) == [4, 5, 6, 7], "the link was too thin for it"


def test_nothing_waits_where_there_is_a_hurry() -> None:
    at_work = gathering()
    at_work.spooled(3, 10.0)
    at_work.hurries = True
    assert seqs(at_work.next(deltas(1, 2), RATE, 10.0)) == [1, 2]


def test_a_gateway_that_rejects_runs_gets_no_more_of_them_on_this_connection() -> None:
    at_work = gathering()
    assert at_work.refused() is None, "no run was sent"
    for first in (1, 4, 7):
        at_work.sent(p.FrameRun.of(deltas(first, 3)))
    at_work.safe(BOOT, 4)
    assert at_work.refused() == {BOOT: 4}
    assert at_work.refused() == {}, "the other one's"
    assert at_work.refused() is None and not at_work.is_on
    at_work.connected(9)
    assert at_work.is_on


def test_a_run_that_arrived_is_none_that_was_rejected() -> None:
    at_work = gathering()
    at_work.sent(p.FrameRun.of(deltas(1, 3)))
    at_work.safe(BOOT, 3)
    assert at_work.refused() is None and at_work.is_on


@given(
    sizes=st.lists(st.sampled_from([30, 160, 900, 2000]), min_size=1, max_size=40),
    keys=st.sets(st.integers(0, 39)),
    rate=st.floats(100, 1e5),
    seconds=st.floats(0, 3),
)
def test_whatever_comes_each_frame_goes_once_in_order_and_none_waits_too_long(
    sizes: list[int], keys: set[int], rate: float, seconds: float
) -> None:
    key, frames = 0, []
    for seq, size in enumerate(sizes):
        first = seq == 0 or seq in keys
        key = seq if first else key
        frames.append(delta(seq, size, None if first else key))
    at_work, now, went, spooled_at = gathering(seconds), 0.0, [], {}
    for seq in range(len(frames)):
        now += 0.2
        spooled_at[seq] = now
        at_work.spooled(seq + 1, now)
        at_work.due_at = math.inf
        while pending := frames[len(went) : seq + 1]:
            run = at_work.next(pending, rate, now)
            if not run:
                assert at_work.due_at <= now + seconds
                break
            if len(run) > 1:
                assert p.FrameRun.of(run).frames() == list(run)
            went += seqs(run)
        assert all(now - spooled_at[late] <= seconds + 1e-9 for late in range(len(went), seq + 1))
    assert went == list(range(len(went)))


def test_what_headers_cost_falls_with_the_frames_in_a_run() -> None:
    assert frame_overhead(100, 5, RATE, 0.0) == OVERHEAD_BYTES == run_overhead(1)
    assert frame_overhead(100, 5, RATE, 1.0) == OVERHEAD_BYTES / 5 + RUN_FRAME_BYTES
    assert frame_overhead(LARGE_BYTES + 1, 5, RATE, 1.0) == OVERHEAD_BYTES
    assert frame_overhead(100, 0.5, RATE, 1.0) == OVERHEAD_BYTES, "the next one comes too late"
    assert (
        frames_in_run(100, 25, RATE, 10.0) == 64 and frames_in_run(1000, 25, RATE, 10.0) == RUN_BYTES / 1000
    )
    assert frames_in_run(100, 25, 2000, 1.0) == 10


class Counted(Pacer):
    """What the uplink tells of what went and what arrived."""

    def __init__(self, most: float = RATE) -> None:
        super().__init__(most, time.monotonic())
        self.went = self.arrived = 0

    def sent(self, size: int) -> None:
        self.went += size
        super().sent(size)

    def acknowledged(self, size: int, now: float) -> None:
        self.arrived += size
        super().acknowledged(size, now)


class Edge:
    """A spool with an uplink that gathers."""

    def __init__(
        self,
        folder: Path,
        gateway: str,
        pacer: Pacing | None,
        seconds: float = 0.4,
        boot: str = BOOT,
        link: LinkConfig = QUICK,
    ) -> None:
        self.pacer, self.boot = pacer, boot
        self.spool = Spool(folder, SpoolConfig(min_free_bytes=0), boot, 0)
        self.uplink = Uplink(
            replace(link, gateway=gateway),
            AgentIdentity("gate", boot, "door"),
            self.spool,
            random.Random(1),
            pacer=pacer,
            gather_seconds=seconds,
        )
        self.uplink.start()

    def put(self, first: int, count: int, size: int = 100, key: int = 0) -> None:
        infos = [
            replace(
                INFO, boot_id=self.boot, seq=seq, key_seq=None if seq == key else key, captured_ns=7 + seq
            )
            for seq in range(first, first + count)
        ]
        self.spool.put([SpooledFrame(info, bytes([info.seq]) * size, b"e" * 50) for info in infos], 0)
        self.uplink.wake()

    def all_safe(self) -> bool:
        return self.spool.undelivered_boots() == []

    def stop(self) -> None:
        self.uplink.stop()
        self.spool.close()
        assert self.uplink.failure is None


def runs(memory: Memory, boot: str = BOOT) -> list[list[int]]:
    return [came for _, of_boot, came in memory.messages if of_boot == boot]


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def gateway(memory: Memory) -> Iterator[SmallGateway]:
    gateway = SmallGateway(memory)
    yield gateway
    gateway.stop()


def holding_back(folder: Path, gateway: SmallGateway, memory: Memory, count: int) -> Edge:
    """An edge whose first frame has arrived, and behind which so many small ones wait for others."""
    edge = Edge(folder, gateway.address, Counted(), seconds=10.0)
    edge.put(0, 1)
    wait_until(edge.all_safe)
    edge.put(1, count)
    time.sleep(0.2)
    assert runs(memory) == [[0]]
    return edge


def test_frames_of_a_moment_go_together_and_soon_enough(
    tmp_path: Path, memory: Memory, gateway: SmallGateway
) -> None:
    edge = Edge(tmp_path, gateway.address, Counted())
    edge.put(0, 1)
    wait_until(edge.all_safe)
    began = time.monotonic()
    for seq in range(1, 4):
        edge.put(seq, 1)
        time.sleep(0.05)
    turns = edge.uplink.turns
    wait_until(edge.all_safe)
    assert runs(memory) == [[0], [1, 2, 3]]
    took = memory.messages[-1][0] - began
    assert 0.4 <= took < 0.7, "the uplink wakes up when the run is due"
    assert edge.uplink.turns - turns < 15, "and not much more often"
    edge.stop()
    assert memory.frames[BOOT, 2] == p.BaseFrame(replace(INFO, seq=2, captured_ns=9), bytes([2]) * 100), (
        "it is as if it had come alone"
    )


def test_without_a_bound_each_frame_goes_at_once(
    tmp_path: Path, memory: Memory, gateway: SmallGateway
) -> None:
    edge = Edge(tmp_path, gateway.address, None, seconds=10.0)
    edge.put(0, 5)
    wait_until(edge.all_safe)
    edge.stop()
    assert runs(memory) == [[seq] for seq in range(5)]


def test_a_first_frame_goes_at_once_behind_what_was_gathered(
    tmp_path: Path, memory: Memory, gateway: SmallGateway
) -> None:
    edge = holding_back(tmp_path, gateway, memory, 3)
    edge.put(4, 1, key=4)
    wait_until(edge.all_safe)
    assert runs(memory) == [[0], [1, 2, 3], [4]]
    edge.put(5, 2, key=4)
    edge.spool.put([PassedOver(7, 9, "idle")], 0)
    edge.uplink.wake()
    wait_until(edge.all_safe)
    assert runs(memory)[3:] == [[5, 6]], "nothing can join them any more"
    edge.stop()


def test_what_waits_for_others_goes_when_none_come_any_more(
    tmp_path: Path, memory: Memory, gateway: SmallGateway
) -> None:
    edge = holding_back(tmp_path, gateway, memory, 2)
    edge.uplink.hurry(True)
    wait_until(edge.all_safe)
    edge.uplink.hurry(False)
    edge.put(3, 2)
    time.sleep(0.2)
    assert runs(memory) == [[0], [1, 2]]
    edge.uplink.rest(True)
    wait_until(edge.all_safe)
    edge.stop()
    assert runs(memory) == [[0], [1, 2], [3, 4]]


def test_a_clean_stop_sends_what_was_gathered_and_hears_of_it(
    tmp_path: Path, memory: Memory, gateway: SmallGateway
) -> None:
    edge = holding_back(tmp_path, gateway, memory, 3)
    edge.uplink.stop()
    assert runs(memory) == [[0], [1, 2, 3]] and edge.all_safe()
    edge.spool.close()


def test_an_agent_whose_source_ends_waits_for_no_more_frames(
    tmp_path: Path, memory: Memory, gateway: SmallGateway
) -> None:
    settings = config(
        tmp_path,
        seven_images(tmp_path / "images"),
        gateway.address,
        exit_when_acknowledged=True,
        rate=RateConfig(uplink_kbps=1000, gather_seconds=4),
        codec=CodecConfig(key_interval=20),
    )
    began = time.monotonic()
    Agent(settings, PlainCodec()).run(threading.Event())
    whole = memory.messages[-1][0] - began
    assert whole < 3.5, "nobody waited for frames that do not come"
    assert len(memory.frames) == 7 and max(len(came) for _, _, came in memory.messages) > 1


def test_a_backlog_goes_in_runs(tmp_path: Path, memory: Memory) -> None:
    """Of an earlier start, and of this one behind an outage."""
    before = Edge(tmp_path, "tcp://127.0.0.1:9", Counted(), boot=EARLIER)
    before.put(0, 30)
    before.stop()
    gateway = SmallGateway(memory)
    proxy = Proxy(gateway.port)
    edge = Edge(tmp_path, proxy.gateway, Counted(), seconds=0.3)
    wait_until(edge.all_safe)
    assert runs(memory, EARLIER) == [[0], list(range(1, 30))]
    proxy.weather = Weather.CUT
    wait_until(lambda: edge.uplink.state == "down")
    for seq in range(100):
        edge.put(seq, 1)
    proxy.weather = Weather.FINE
    wait_until(edge.all_safe, 20)
    assert sorted(seq for run in runs(memory) for seq in run) == list(range(100))
    assert len(runs(memory)) <= 5
    edge.stop()
    proxy.close()
    gateway.stop()


def test_a_gateway_of_an_earlier_version_gets_each_frame_by_itself(
    tmp_path: Path, memory: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    gateway = SmallGateway(memory, is_old=True)
    edge = Edge(tmp_path, gateway.address, Counted(), seconds=0.2, link=replace(QUICK, resend_seconds=60))
    edge.put(0, 200)
    wait_until(edge.all_safe)
    edge.put(200, 3)
    wait_until(edge.all_safe)
    edge.stop()
    gateway.stop()
    assert all(len(run) == 1 for run in runs(memory)) and set(memory.arrivals) == {
        (BOOT, n) for n in range(203)
    }
    said = [record.getMessage() for record in caplog.records]
    assert sum("takes no runs" in line for line in said) == 1
    assert not [line for line in said if "rejected" in line]


def test_what_was_gathered_and_not_sent_is_in_the_spool_after_a_crash(
    tmp_path: Path, memory: Memory, gateway: SmallGateway
) -> None:
    edge = holding_back(tmp_path, gateway, memory, 3)
    edge.uplink._leave = lambda: None  # type: ignore[method-assign]  # it dies in the middle of it
    edge.uplink._serve_bulk = lambda _: None  # type: ignore[method-assign]
    edge.stop()
    assert runs(memory) == [[0]]
    again = Edge(tmp_path, gateway.address, Counted(), boot="c" * 32)
    wait_until(again.all_safe)
    again.stop()
    assert runs(memory) == [[0], [1, 2, 3]] and set(memory.arrivals.values()) == {1}


def test_the_link_is_counted_for_what_goes_over_it(
    tmp_path: Path, memory: Memory, gateway: SmallGateway
) -> None:
    pacer = Counted()
    edge = Edge(tmp_path, gateway.address, pacer, seconds=0.3)
    edge.put(0, 1)
    wait_until(edge.all_safe)
    assert pacer.went == pacer.arrived == 100 + OVERHEAD_BYTES
    edge.put(1, 5)
    wait_until(edge.all_safe)
    edge.stop()
    assert runs(memory) == [[0], [1, 2, 3, 4, 5]]
    run = 5 * (100 + RUN_FRAME_BYTES) + OVERHEAD_BYTES
    assert pacer.went == pacer.arrived == run + 100 + OVERHEAD_BYTES


def test_credit_counts_the_frames_of_a_run(tmp_path: Path, memory: Memory) -> None:
    gateway = SmallGateway(memory, credit_bytes=350)
    edge = Edge(tmp_path, gateway.address, Counted(), seconds=0.1)
    edge.put(0, 30)
    wait_until(edge.all_safe)
    edge.stop()
    gateway.stop()
    assert max(map(len, runs(memory))) == 3 and set(memory.arrivals.values()) == {1}


def test_what_is_lost_comes_again(tmp_path: Path, memory: Memory) -> None:
    lost = {3, 7}

    def acknowledges(frame: object) -> bool:
        seq = frame.info.seq  # type: ignore[attr-defined]
        return seq not in lost or memory.arrivals[BOOT, seq] > 1

    gateway = SmallGateway(memory, acknowledges=acknowledges)
    edge = Edge(tmp_path, gateway.address, Counted(), seconds=0.2)
    edge.put(0, 10)
    wait_until(edge.all_safe)
    edge.stop()
    gateway.stop()
    assert {seq for (_, seq), times in memory.arrivals.items() if times > 1} == lost


def test_budgets_and_the_shared_link_count_a_run_once(
    tmp_path: Path, memory: Memory, gateway: SmallGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent: list[int] = []
    monkeypatch.setattr(HostLink, "_spend", lambda self, name, size: spent.append(size))
    link = HostLink(UplinkConfig(bytes_per_day=1 << 30), tmp_path)
    edge = Edge(tmp_path, gateway.address, link.camera("gate", 1.0), seconds=0.3)
    edge.put(0, 1)
    wait_until(edge.all_safe)
    edge.put(1, 5)
    wait_until(edge.all_safe)
    edge.stop()
    frames = sum(size for size in spent if size not in (HELLO_BYTES, PING_BYTES))
    assert runs(memory) == [[0], [1, 2, 3, 4, 5]]
    assert frames == 6 * 100 + OVERHEAD_BYTES + int(run_overhead(5))


def test_a_camera_that_gathers_gets_its_part_of_a_link_that_another_fills() -> None:
    """A run a second needs less than its share: it goes within the second, and the other has the rest."""
    time_ = 0.0
    share, pacer = FairShare(), Pacer(10_000.0, 0.0)
    share.join("gate", 1.0)
    share.join("yard", 1.0)
    went, waited, run_since = {"gate": 0, "yard": 0}, [], None
    while time_ < 60:
        time_ += 0.05
        if run_since is None and time_ % 1.0 < 0.05:
            run_since = time_
        if run_since is not None and share.may_send("gate", 10_000.0, time_) and pacer.may_send(0, time_):
            size = 5 * 100 + int(run_overhead(5))
            pacer.sent(size)
            share.sent("gate", size, time_)
            went["gate"] += size
            waited.append(time_ - run_since)
            run_since = None
        while share.may_send("yard", 10_000.0, time_) and pacer.may_send(0, time_):
            pacer.sent(760)
            share.sent("yard", 760, time_)
            went["yard"] += 760
    assert len(waited) >= 58 and max(waited) < 0.5
    assert sum(went.values()) == pytest.approx(600_000, rel=0.03)


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_the_rate_control_counts_headers_as_they_are(seconds: float) -> None:
    """Five frames of 100 bytes a second, over a link that has room for them."""
    control = RateControl(RateConfig(uplink_kbps=20, gather_seconds=seconds), 16, 0.0)
    now = 0.0
    for _ in range(50):
        now += 0.2
        assert control.is_coded(now)
        control.coded(100, first=False, now=now)
    shared = int(frame_overhead(100, 5, 2500, seconds))
    assert control.overhead_bytes == pytest.approx(shared, abs=1)
    assert shared == (OVERHEAD_BYTES if seconds == 0 else OVERHEAD_BYTES // 5 + RUN_FRAME_BYTES)


def test_a_thin_link_has_room_for_more_frames_that_share_headers() -> None:
    """400 bytes a second: of 100-byte frames 1.5 go with headers of their own, and 2.1 that share them."""
    coded = {}
    for seconds in (0.0, 1.0):
        config = RateConfig(
            uplink_kbps=3.2, min_quality=16, max_quality=16, min_fps=1, gather_seconds=seconds
        )
        control, now, coded[seconds] = RateControl(config, 16, 0.0), 0.0, 0
        for _ in range(300):
            now += 0.2
            waiting = (_GATHERED_SECONDS if seconds else _WAITING_SECONDS) * 400
            control.link(400.0, int(waiting), now)
            if control.is_coded(now):
                coded[seconds] += 1
                control.coded(100 if control.quality == 16 else 80, first=False, now=now)
    assert coded[0.0] / 60 == pytest.approx(1.54, rel=0.05)
    assert coded[1.0] / 60 == pytest.approx(2.14, rel=0.05)

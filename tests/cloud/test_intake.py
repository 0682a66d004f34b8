"""The conversation with camera hosts, without sockets."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.cloud.config import CloudConfig, GatewayConfig, IntakeLimits, QueueLimits, RequestTimes
from secondlook.cloud.gateway.intake import Intake
from secondlook.cloud.gateway.sessions import Sessions
from secondlook.cloud.storage.blobs import open_blobs
from secondlook.cloud.storage.ledger import MAX_RANGES, FrameTombstone, Ledger
from secondlook.cloud.storage.queue import QueuedFrame
from secondlook.cloud.storage.queue_sqlite import SqliteQueue
from secondlook.cloud.storage.requests import RequestState, RequestTable
from secondlook.cloud.storage.stores import Stores, open_stores
from secondlook.shared import packet as p
from secondlook.shared.errors import ConfigError, DiskFull, StoreUnavailable
from tests.cloud.helpers import BOOT, base_frame

LIMITS = IntakeLimits(window_bytes=1000, min_window_bytes=100)
TIMES = RequestTimes(lease_seconds=10, busy_seconds=2, max_sent=2)
OTHER_BOOT = "cd" * 16


@dataclass
class Room:
    """An intake with its stores, and one peer that talks to it."""

    stores: Stores
    queue: SqliteQueue
    ledger: Ledger
    requests: RequestTable
    intake: Intake
    now: float = 1000.0

    def say(self, packet: p.Packet, peer: bytes = b"bulk1") -> list[p.Packet]:
        heard = self.intake.receive(peer, packet.to_frames(), "", now=self.now)
        assert all(to == peer for to, _ in heard)
        return [answer for _, answer in heard]

    def hello(
        self,
        channel: str = "bulk",
        peer: bytes = b"bulk1",
        edge_id: str = "gate",
        boot: str = BOOT,
        oldest_seq: int = 0,
    ):
        # An acknowledgement goes ahead of the answer where there are ranges.
        *_, answer = self.say(p.Hello(edge_id, boot, channel, "yard", 1000, oldest_seq, "test"), peer)
        return answer

    def flush(self) -> list[p.Packet]:
        return [packet for _, packet in self.intake.flush(now=self.now)]

    def tick(self) -> list[p.Packet]:
        return [packet for _, packet in self.intake.tick(now=self.now)]

    def queued(self) -> list[int]:
        leased = self.queue.lease(100, ttl_seconds=1, worker="w", now=self.now)
        return [item.frame.info.seq for item in leased]


def enter(
    folder: Path,
    max_bytes: int = 10_000,
    ledger_url: str | None = None,
    max_share: float = 0.5,
    disk_full: Callable[[float], str | None] = lambda now: None,
) -> Room:
    queue = QueueLimits(max_bytes=max_bytes, max_share=max_share)
    gateway = GatewayConfig(queue=queue, limits=LIMITS, requests=TIMES)
    stores = open_stores(CloudConfig(data_dir=folder, ledger=ledger_url, gateway=gateway))
    blobs = open_blobs(str(folder / "blobs"))
    intake = Intake(stores.ledger, stores.queue, stores.requests, blobs, LIMITS, None, disk_full=disk_full)
    return Room(stores, stores.queue, stores.ledger, stores.requests, intake)


@pytest.fixture(params=["sqlite", "postgresql"])
def room(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Room]:
    url = None if request.param == "sqlite" else request.getfixturevalue("database_url")
    room = enter(tmp_path, ledger_url=url)
    yield room
    room.stores.close()


class SlowQueue:
    """An engine that takes its time: a batch that was begun is settled when a test says so."""

    def __init__(self, queue: SqliteQueue) -> None:
        self._queue = queue
        self.begun: list[list[int]] = []
        self.is_settled = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._queue, name)

    def begin(self, batch: Sequence[QueuedFrame]) -> Callable[[], bool]:
        self.begun.append([frame.info.seq for frame in batch])
        return lambda: self.is_settled


def test_the_next_batch_grows_while_a_slow_queue_stores_one(room: Room) -> None:
    slow = SlowQueue(room.queue)
    room.intake._queue = slow  # type: ignore[assignment]
    room.hello()

    def flush() -> list[p.Packet]:
        return [packet for _, packet in room.intake.flush(now=room.now, wait=False)]

    room.say(base_frame(0))
    assert flush() == [] and room.intake.awaits_queue
    room.say(base_frame(1))
    room.say(base_frame(2))
    assert flush() == [] and slow.begun == [[0]] and room.queue.depth == 0
    slow.is_settled = True
    # One is stored and acknowledged, the next begun and, settled at once, stored as well.
    assert [ack.cumulative for ack in flush() if isinstance(ack, p.Ack)] == [0, 2]
    assert slow.begun == [[0], [1, 2]] and not room.intake.awaits_queue
    slow.is_settled = False
    room.say(base_frame(2))  # it is known, and so nothing of it is begun
    room.say(base_frame(3))
    assert flush() == [] and slow.begun[-1] == [3]
    for seq in range(4, 4 + LIMITS.batch_frames):
        room.say(base_frame(seq))
    (ack,) = flush()  # the next batch is full, so this one is waited for
    assert isinstance(ack, p.Ack) and ack.cumulative == 3
    room.intake.on_rollback(DiskFull("no space"), now=room.now)
    assert not room.intake.awaits_queue and room.queued() == [0, 1, 2, 3]


def test_frames_are_acknowledged_only_after_the_commit(room: Room) -> None:
    assert room.hello() == p.Welcome(BOOT, -1, 1000)
    assert room.say(base_frame(0)) == room.say(base_frame(1)) == room.say(base_frame(3)) == []
    assert room.queue.depth == 0
    assert room.flush() == [p.Ack(BOOT, 1, ((3, 3),), 1000)]
    assert room.queue.depth == 3
    assert room.flush() == []


def test_a_delta_waits_for_its_key(room: Room) -> None:
    """Acknowledged ahead of a key that the camera host then has to drop, it could never be decoded."""
    slow = SlowQueue(room.queue)
    room.intake._queue = slow  # type: ignore[assignment]
    room.hello()
    room.say(base_frame(0))
    room.say(base_frame(6, key_seq=5))
    assert room.flush() == [p.Ack(BOOT, 0, (), 1000)]
    room.say(base_frame(6, key_seq=5))
    assert room.flush() == []
    for seq, key_seq in ((7, 5), (5, None), (6, 5)):
        room.say(base_frame(seq, key_seq=key_seq))
    room.intake.flush(now=room.now, wait=False)
    assert slow.begun == [[5, 6]]
    assert room.flush() == [p.Ack(BOOT, 0, ((5, 6),), 1000)]
    room.say(base_frame(7, key_seq=5))
    room.say(p.Tombstone(BOOT, 1, 4, "spool-full"))
    assert room.flush() == [p.Ack(BOOT, 7, (), 1000)]
    assert room.queued() == [0, 5, 6, 7]


def test_a_delta_waits_for_a_key_that_only_a_younger_copy_of_the_ledger_knew(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    for seq in (0, 1, 4):
        room.hello()
        room.say(base_frame(seq))
    room.flush()
    hello = p.Hello("gate", BOOT, "bulk", "yard", 1000, 10, "test")
    assert room.say(hello) == [p.Ack(BOOT, 1, ((4, 4),), 1000), p.Welcome(BOOT, 1, 1000)]
    assert "gate: 7 frames of boot" in caplog.text
    assert "are not in the ledger, from 2 to 9" in caplog.text
    room.say(base_frame(11, key_seq=9))
    room.say(base_frame(12, key_seq=10))
    assert room.flush() == []
    room.say(base_frame(9))
    room.say(base_frame(11, key_seq=9))
    room.say(p.Tombstone(BOOT, 2, 8, "restored"))
    assert room.flush() == [p.Ack(BOOT, 9, ((11, 11),), 1000)]
    assert room.queued() == [0, 1, 4, 9, 11]
    assert [(stone.first_seq, stone.last_seq) for _, stone in room.ledger.tombstones_after(0, 9)] == [
        (2, 3),
        (5, 8),
    ]


def test_what_comes_twice_is_queued_once_even_after_it_was_worked_off(room: Room) -> None:
    room.hello()
    for frame in (base_frame(0), base_frame(1), base_frame(0)):
        room.say(frame)
    room.flush()
    leased = room.queue.lease(9, ttl_seconds=1, worker="w", now=room.now)
    assert [item.frame.info.seq for item in leased] == [0, 1]
    room.queue.ack([item.id for item in leased], worker="w")
    room.say(base_frame(1))
    assert room.flush() == [p.Ack(BOOT, 1, (), 1000)]
    assert room.queue.depth == 0
    assert room.ledger.totals() == {"received": 2, "redelivered": 2, "tombstones": 0}


def test_a_restarted_gateway_tells_where_to_resume(tmp_path: Path) -> None:
    room = enter(tmp_path)
    room.hello()
    for seq in (0, 1, 2, 5):
        room.say(base_frame(seq))
    room.flush()
    room.stores.close()
    again = enter(tmp_path)
    assert again.hello() == p.Welcome(BOOT, 2, 1000)
    again.say(base_frame(5))
    assert again.flush() == [p.Ack(BOOT, 2, ((5, 5),), 1000)]
    assert again.ledger.totals()["redelivered"] == 1


def test_tombstones_close_gaps_and_frames_that_came_are_none(room: Room) -> None:
    room.hello()
    room.say(base_frame(0))
    room.say(base_frame(4))
    room.say(p.Tombstone(BOOT, 1, 6, "spool-full"))
    assert room.flush() == [p.Ack(BOOT, 6, (), 1000)]
    gaps = [(gap.first_seq, gap.last_seq, gap.reason) for _, gap in room.ledger.tombstones_after(0, 9)]
    assert gaps == [(1, 3, "spool-full"), (5, 6, "spool-full")]
    room.say(p.Tombstone(BOOT, 1, 6, "spool-full"))
    room.flush()
    assert room.ledger.totals() == {"received": 2, "redelivered": 0, "tombstones": 5}


def test_boots_are_kept_apart_and_must_be_greeted(room: Room) -> None:
    room.hello()
    (fault,) = room.say(base_frame(0, boot_id=OTHER_BOOT))
    assert isinstance(fault, p.Fault) and fault.code == "hello-first"
    room.hello(boot=OTHER_BOOT)
    room.say(base_frame(0, boot_id=OTHER_BOOT))
    room.say(base_frame(0))
    assert {ack.boot_id for ack in room.flush()} == {BOOT, OTHER_BOOT}
    assert room.queue.depth == 2


def test_two_edges_may_use_the_same_boot_and_sequence(room: Room) -> None:
    room.hello()
    room.hello(peer=b"bulk2", edge_id="yard")
    room.say(base_frame(0))
    room.say(base_frame(0), peer=b"bulk2")
    room.flush()
    assert room.queue.depth == 2


def test_a_packet_before_hello_or_on_the_wrong_channel_is_a_fault(room: Room) -> None:
    (fault,) = room.say(base_frame(0))
    assert fault.code == "hello-first"
    room.hello("control", b"control1")
    (fault,) = room.say(base_frame(0), b"control1")
    assert fault.code == "rejected"
    (fault,) = room.say(p.Welcome(BOOT, 1, 1), b"control1")
    assert fault.code == "rejected"
    assert isinstance(room.say(p.Ping(1), b"control1")[0], p.Pong)


def test_credit_follows_the_room_in_the_queue(tmp_path: Path) -> None:
    room = enter(tmp_path, max_bytes=1050, max_share=1.0)
    assert room.hello().credit_bytes == 1000
    room.say(base_frame(0, b"x" * 700))
    assert room.flush()[0].credit_bytes == 350
    assert room.hello(peer=b"bulk2", edge_id="yard").credit_bytes == 175
    room.say(base_frame(1, b"x" * 300))
    assert room.flush()[0] == p.Ack(BOOT, 1, (), 0)
    assert room.tick() == [p.Fault("busy", "queue full")]
    room.queue.ack(
        [item.id for item in room.queue.lease(9, ttl_seconds=1, worker="w", now=room.now)], worker="w"
    )
    assert room.tick() == [p.Ack(BOOT, 1, (), 525)]
    assert room.tick() == []


def test_a_queue_that_is_full_acknowledges_nothing_and_recovers(tmp_path: Path) -> None:
    room = enter(tmp_path, max_bytes=1000, max_share=1.0)
    room.queue.room_of = lambda edge_id: 2000  # type: ignore[method-assign]  # as a server that is asked now and then
    room.hello()
    room.say(base_frame(0, b"x" * 1001))
    assert room.flush() == [p.Ack(BOOT, -1, (), 0)]
    room.say(base_frame(0, b"x" * 500))
    assert room.flush() == []
    room.now += LIMITS.stall_seconds
    assert room.tick() == [p.Ack(BOOT, -1, (), 1000)]
    room.say(base_frame(0, b"x" * 500))
    assert room.flush()[0].cumulative == 0


def test_a_camera_host_that_floods_the_queue_leaves_others_their_credit(room: Room) -> None:
    """It does not keep within its credit, and gets its share of the queue all the same and no more."""
    room.hello()
    for seq in range(200):
        room.say(base_frame(seq, b"garbage!" * 100))
        if seq % 3 == 0:
            room.flush()
    assert room.queue.depth_bytes <= 5_000
    assert room.hello().credit_bytes <= 200
    assert room.hello(peer=b"bulk2", edge_id="yard").credit_bytes == 1000
    room.say(base_frame(0, b"picture" * 100), b"bulk2")
    room.flush()
    assert room.ledger.received("yard", BOOT).cumulative == 0
    while room.queue.depth_bytes > 1000:
        room.now += 2.0
        for item in room.queue.lease(100, ttl_seconds=1, worker="w", now=room.now):
            room.queue.ack([item.id], worker="w")
    assert room.hello().credit_bytes == 1000


def test_tombstones_cost_more_than_packets_and_neighbours_are_one(room: Room) -> None:
    room.hello()
    answers = [room.say(p.Tombstone(BOOT, seq, seq, "spool-full")) for seq in range(3000)]
    refused = sum(1 for packets in answers for packet in packets if isinstance(packet, p.Fault))
    assert refused == 1  # it hears once a second
    room.flush()
    gaps = [gap for _, gap in room.ledger.tombstones_after(0, 500)]
    assert [(gap.first_seq, gap.reason) for gap in gaps] == [(0, "spool-full")]
    taken = gaps[0].last_seq + 1
    assert 900 < taken < 1100  # a burst and a debt of 10,000 packets each, at 20 packets
    room.now += 10
    for seq in range(2000, 2800, 2):
        room.say(p.Tombstone(BOOT, seq, seq, "spool-full"))
    room.flush()
    assert len(room.ledger.tombstones_after(0, 5000)) == 401


def test_a_camera_host_keeps_no_more_tombstones_than_its_share(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secondlook.cloud.storage.ledger.MAX_TOMBSTONES_OF_EDGE", 10)
    for edge_id, seqs in (("yard", range(0, 6, 2)), ("gate", range(0, 60, 2))):
        for seq in seqs:
            gap = FrameTombstone(edge_id, BOOT, seq, seq, "spool-full", 1)
            room.ledger.take(room.queue, [], [gap], now=room.now)
    kept = [(gap.edge_id, gap.first_seq) for _, gap in room.ledger.tombstones_after(0, 500)]
    assert kept == [("yard", seq) for seq in range(0, 6, 2)] + [("gate", seq) for seq in range(40, 60, 2)]


def test_totals_of_absurd_tombstones_are_numbers(room: Room) -> None:
    for number in range(2500):
        gap = FrameTombstone("gate", f"{number:032x}", 0, 2**53 - 1, "spool-full", 1)
        room.ledger.take(room.queue, [], [gap], now=room.now)
    totals = room.ledger.totals()
    assert totals["tombstones"] == 2**53 - 1
    assert msgpack.unpackb(msgpack.packb(totals)) == totals


def test_a_full_disk_acknowledges_nothing_and_recovers(room: Room) -> None:
    room.hello()
    room.say(base_frame(0))
    room.flush()
    (pages,) = room.queue._db.execute("PRAGMA page_count").fetchone()
    room.queue._db.execute(f"PRAGMA max_page_count = {pages + 1}")
    room.queue._limits = QueueLimits(max_bytes=1 << 30)
    room.tick()
    room.say(base_frame(1, b"y" * 50_000))
    assert room.flush() == [p.Ack(BOOT, 0, (), 0)]
    assert room.queue.depth == 1
    room.queue._db.execute("PRAGMA max_page_count = 100000")
    room.now += LIMITS.stall_seconds
    room.tick()
    room.say(base_frame(1, b"y" * 50_000))
    assert room.flush()[0].cumulative == 1


def test_a_clock_that_is_set_back_ends_a_stall_and_repeats_requests(room: Room) -> None:
    room.hello("control", b"control1")
    room.requests.ask("gate", BOOT, 0, deadline=1e9, priority=1, blob_gone=False, now=room.now)
    assert len(room.tick()) == 1
    room.intake.on_rollback(DiskFull("no space left"), now=room.now)
    room.now -= 500
    assert [type(packet) for packet in room.tick()] == [p.Pong, p.EnhancementRequest]
    room.hello()
    room.say(base_frame(0))
    assert room.flush()[0].cumulative == 0


def test_what_a_failed_commit_took_back_is_taken_again(tmp_path: Path) -> None:
    room = enter(tmp_path)
    room.hello()
    with pytest.raises(ZeroDivisionError), room.stores.one_commit(synced=True):
        room.say(base_frame(0))
        assert room.flush()[0].cumulative == 0, "said, but never sent"
        room.say(base_frame(1))
        raise ZeroDivisionError
    room.intake.on_rollback(DiskFull("no space left"), now=room.now)
    assert room.say(base_frame(0)) == [p.Ack(BOOT, -1, (), 0)]
    assert room.say(base_frame(0)) == []
    assert room.flush() == []
    room.now += LIMITS.stall_seconds
    assert room.tick() == [p.Ack(BOOT, -1, (), 1000)]
    room.say(base_frame(0))
    assert room.flush()[0].cumulative == 0
    assert room.queued() == [0]


def test_endless_holes_are_refused_but_honest_frames_still_land(room: Room) -> None:
    room.hello()
    for seq in range(2, 2 * MAX_RANGES + 10, 2):
        room.say(base_frame(seq, b"x"))
        if room.intake.batch_is_full:
            room.flush()
    room.flush()
    assert len(room.ledger.received("gate", BOOT).selective(10**6)) == MAX_RANGES
    assert room.queue.depth == MAX_RANGES


@pytest.fixture(scope="module")
def lasting_room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    return enter(tmp_path_factory.mktemp("lasting"))


@given(frames=st.lists(st.binary(max_size=60), max_size=4), greeted=st.booleans())
def test_any_bytes_are_answered_with_a_fault(lasting_room: Room, frames: list[bytes], greeted: bool) -> None:
    if greeted:
        lasting_room.hello()
    heard = lasting_room.intake.receive(b"bulk1", frames, "", now=lasting_room.now)
    assert [type(answer) for _, answer in heard] == [p.Fault]
    assert lasting_room.flush() == []


LAYER = bytes(range(256)) * 600


def chunks(request_id: int, layer: bytes = LAYER, crc32: int | None = None) -> list[p.Chunk]:
    crc = zlib.crc32(layer) if crc32 is None else crc32
    step = 64 << 10
    return [
        p.Chunk(request_id, offset, len(layer), crc, layer[offset : offset + step])
        for offset in range(0, len(layer), step)
    ]


def ask(room: Room, seq: int, priority: int = 5, deadline: float = 2000.0) -> int:
    return room.requests.ask(
        "gate", BOOT, seq, deadline=deadline, priority=priority, blob_gone=False, now=room.now
    )


def state(room: Room, id_: int) -> tuple[RequestState, str]:
    request = room.requests.get(id_)
    assert request is not None
    return request.state, request.reason


def test_a_request_is_sent_and_its_chunks_become_a_blob(room: Room, tmp_path: Path) -> None:
    id_ = ask(room, 7)
    assert ask(room, 7) == id_
    assert room.tick() == []
    room.hello("control", b"control1")
    (request,) = room.tick()
    assert request == p.EnhancementRequest(id_, BOOT, 7, 2000 * 10**9, 5)
    assert room.tick() == []
    parts = chunks(id_)
    assert [room.say(part, b"control1") for part in parts] == [
        [p.ChunkCredit(id_, part.offset + len(part.payload))] for part in parts
    ]
    assert state(room, id_)[0] is RequestState.DONE
    assert (tmp_path / "blobs" / "enhancement" / "gate" / BOOT / "7.slk").read_bytes() == LAYER
    assert room.say(parts[-1], b"control1") == [p.ChunkCredit(id_, len(LAYER))]
    assert ask(room, 7) == id_


def test_a_chunk_behind_a_hole_or_repeated_earns_no_further_credit(room: Room) -> None:
    id_ = ask(room, 7)
    room.hello("control", b"control1")
    room.tick()
    first, second, *_ = chunks(id_)
    assert room.say(second, b"control1") == [p.ChunkCredit(id_, 0)]
    assert room.say(first, b"control1") == room.say(first, b"control1") == [p.ChunkCredit(id_, 64 << 10)]


def test_a_wrong_crc_is_asked_for_again_and_then_given_up(room: Room) -> None:
    id_ = ask(room, 7)
    room.hello("control", b"control1")
    for attempt in range(3):
        assert [packet.request_id for packet in room.tick()] == [id_], attempt
        for part in chunks(id_, crc32=1):
            room.say(part, b"control1")
    assert state(room, id_) == (RequestState.REFUSED, "corrupt")
    assert room.tick() == []


def test_a_blob_store_that_fails_is_left_alone_for_a_while(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To wait for it holds up the thread that serves everybody."""
    tried: list[str] = []

    def hangs(key: str, data: bytes) -> None:
        tried.append(key)
        raise StoreUnavailable("no answer")

    store = room.intake._enhancements._blobs
    with monkeypatch.context() as away:
        away.setattr(type(store), "put", lambda self, key, data: hangs(key, data))
        id_ = ask(room, 7, deadline=9000.0)
        room.hello("control", b"control1")
        assert [packet.request_id for packet in room.tick()] == [id_]
        for part in chunks(id_):
            room.say(part, b"control1")
        assert len(tried) == 1
        for _ in range(10):  # 20 s: nobody is asked, and what comes all the same is put off
            room.now += TIMES.busy_seconds
            assert room.tick() == []
            assert room.say(chunks(id_)[0], b"control1") == []
        assert len(tried) == 1
    room.now += 30.0
    assert [packet.request_id for packet in room.tick()] == [id_]
    for part in chunks(id_):
        room.say(part, b"control1")
    assert state(room, id_)[0] is RequestState.DONE


def test_refusals(room: Room) -> None:
    gone, busy = ask(room, 7), ask(room, 8)
    room.hello("control", b"control1")
    room.tick()
    assert room.say(p.Refusal(gone, "expired"), b"control1") == []
    assert room.say(p.Refusal(busy, "busy"), b"control1") == []
    assert state(room, gone) == (RequestState.REFUSED, "expired")
    assert room.tick() == []
    room.now += TIMES.busy_seconds
    assert [packet.request_id for packet in room.tick()] == [busy]
    assert ask(room, 7) != gone


def test_requests_are_repeated_after_a_lease_and_after_hello_and_end_at_the_deadline(room: Room) -> None:
    id_ = ask(room, 7, deadline=1030.0)
    room.hello("control", b"control1")
    assert len(room.tick()) == 1
    room.now += TIMES.lease_seconds
    assert len(room.tick()) == 1
    room.hello("control", b"control2")
    assert len(room.tick()) == 1
    room.now = 1030.0
    assert room.tick() == []
    assert state(room, id_) == (RequestState.EXPIRED, "deadline")
    (fault,) = room.say(chunks(id_)[0], b"control2")
    assert fault.code == "request-ended"


def test_urgent_requests_go_first_and_only_so_many_at_a_time(room: Room) -> None:
    low, high, middle = ask(room, 1, 10), ask(room, 2, 90), ask(room, 3, 50)
    room.hello("control", b"control1")
    assert [packet.request_id for packet in room.tick()] == [high, middle]
    room.say(p.Refusal(high, "unknown"), b"control1")
    assert [packet.request_id for packet in room.tick()] == [low]
    assert room.tick() == []


def test_another_edge_cannot_answer_a_request(room: Room) -> None:
    id_ = ask(room, 7)
    room.hello("control", b"other", edge_id="other")
    for answer in (chunks(id_)[0], p.Refusal(id_, "expired"), p.Refusal(id_ + 1, "expired")):
        (fault,) = room.say(answer, b"other")
        assert fault.code == "unknown-request"
    assert state(room, id_)[0] is RequestState.PENDING


def test_a_camera_hosts_clock_is_compared_with_ours(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    room.hello("control", b"control1")
    for ahead in (0.5, -600.0, -600.0, 0.0):
        room.now += 5.0
        room.say(p.Ping(int((room.now + ahead) * 1e9)), b"control1")
        assert room.intake.clock_offsets() == {"gate": pytest.approx(-ahead)}
    assert [line for line in caplog.messages if "clock" in line] == [
        "gate: its clock is 600.0 s behind ours: times of its frames are wrong",
        "gate: its clock agrees with ours again",
    ]


def test_how_far_a_clock_is_off_is_kept_in_the_ledger_but_not_at_every_ping(room: Room) -> None:
    room.hello("control", b"control1")
    kept = []
    for ahead in (-600.0, -600.2, 0.0, 0.0):
        room.say(p.Ping(int((room.now + ahead) * 1e9)), b"control1")
        (edge,) = room.ledger.edges()
        kept.append(edge.clock_offset_seconds)
        room.now += 20.0
    assert kept == [pytest.approx(offset) for offset in (600.0, 600.0, 0.0, 0.0)]
    room.hello("bulk")
    (edge,) = room.ledger.edges()
    assert edge.clock_offset_seconds == pytest.approx(0.0)  # a hello does not forget it


def noted(room: Room) -> float | None:
    """A ping by a clock that is ten minutes behind, and what the ledger has then."""
    room.say(p.Ping(int((room.now - 600) * 1e9)), b"control1")
    (edge,) = room.ledger.edges()
    return edge.clock_offset_seconds


def test_a_clock_that_could_not_be_noted_is_noted_later(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(edge_id: str, offset_seconds: float) -> None:
        raise StoreUnavailable("no answer")

    room.hello("control", b"control1")
    with monkeypatch.context() as away:
        away.setattr(room.ledger, "note_clock", fails)
        assert noted(room) is None
    assert noted(room) == pytest.approx(600.0)


def test_a_clock_whose_note_was_rolled_back_is_noted_again(tmp_path: Path) -> None:
    room = enter(tmp_path)
    room.hello("control", b"control1")
    with pytest.raises(ZeroDivisionError), room.stores.one_commit(synced=True):
        noted(room)
        raise ZeroDivisionError
    room.intake.on_rollback(DiskFull("no space"), now=room.now)
    assert noted(room) == pytest.approx(600.0)
    room.stores.close()


def test_a_host_that_connects_without_end_gets_a_line_a_second(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for number in range(40):
        room.hello("control" if number % 2 else "bulk")
        room.now += 0.1
    lines = [line for line in caplog.messages if "gate connected" in line]
    assert 6 <= len(lines) <= 10  # 4 s, two channels


def test_a_full_queue_costs_one_count_of_connections_a_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = enter(tmp_path, max_bytes=1050, max_share=1.0)
    for number in range(60):
        room.hello(peer=f"bulk{number}".encode(), edge_id=f"edge-{number}")
    room.say(base_frame(0, b"x" * 1000), b"bulk0")
    room.flush()
    counted: list[int] = []
    whole = Sessions.bulk.fget
    assert whole is not None
    monkeypatch.setattr(Sessions, "bulk", property(lambda self: counted.append(1) or whole(self)))
    room.now += 100  # all are silent, too
    assert len(room.tick()) >= 60
    assert len(counted) <= 6


def test_complaints_are_one_line_a_second_for_each_cause(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(80):
        room.intake.receive(b"bulk1", [b"rubbish", b""], "", now=room.now)
        room.now += 1 / 16
    lines = [line for line in caplog.messages if line.startswith("rejected")]
    assert len(lines) == 5
    assert lines[1].endswith("(15 more since the last line)")


def test_a_store_that_is_away_is_told_of_once_and_once_that_it_is_back(
    room: Room, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_arguments: object, **_more: object) -> object:
        raise StoreUnavailable("ledger: no answer")

    caplog.set_level("INFO")
    room.hello()
    with monkeypatch.context() as broken:
        broken.setattr(room.ledger, "take", away)
        for seq in range(30):
            room.say(base_frame(seq))
            room.flush()
            room.tick()
            assert room.intake.waits_for(now=room.now) == "ledger: no answer"
            room.now += 6.0
    assert [line for line in caplog.messages if "waiting" in line] == [
        "waiting: ledger: no answer",
        "still waiting, for 60 s now: ledger: no answer",
        "still waiting, for 120 s now: ledger: no answer",
    ]
    assert room.intake.waits_for(now=room.now + 10) is None  # worth another try
    room.now += 10.0
    room.tick()
    assert "going on" not in caplog.text  # nobody knows yet
    room.say(base_frame(0))
    room.flush()
    room.tick()
    assert caplog.messages[-1] == "going on after 190.0 s; the cause was: ledger: no answer"


def test_a_full_queue_is_no_store_that_is_away_and_everybody_hears_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    room = enter(tmp_path, max_bytes=1000, max_share=1.0)
    room.hello()
    room.hello("control", b"control1")
    room.say(base_frame(0, b"x" * 950))
    assert room.flush() == [p.Ack(BOOT, 0, (), 0)]
    assert room.tick() == [p.Fault("busy", "queue full")]
    assert room.tick() == [], "once is enough"
    assert room.intake.waits_for(now=room.now) is None
    waits = "waiting: the queue has room for 50 bytes, and 1 camera hosts have no share of it"
    assert caplog.messages[-1] == waits
    room.now += 60.0
    room.tick()
    assert caplog.messages[-1] == f"still waiting, for 60 s now{waits.removeprefix('waiting')}"
    (leased,) = room.queue.lease(1, ttl_seconds=1, worker="w", now=room.now)
    room.queue.ack([leased.id], worker="w")
    assert room.tick() == [p.Ack(BOOT, 0, (), 1000)]
    assert caplog.messages[-1].startswith("going on after 60.0 s")
    room.stores.close()


def test_a_queue_that_could_never_take_a_frame_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"60000 bytes, below limits.min_window_bytes \(65536\)"):
        GatewayConfig(queue=QueueLimits(max_bytes=120_000))


def test_a_full_disk_is_told_every_minute_and_to_camera_hosts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    full: list[str | None] = [None]
    room = enter(tmp_path, disk_full=lambda now: full[0])
    room.hello()
    room.say(base_frame(0))
    room.flush()
    full[0] = "disk full: 1 MB are free, and 64 MB are needed"
    room.say(base_frame(1))
    assert room.flush() == [p.Ack(BOOT, 0, (), 0)]
    assert room.tick() == [p.Fault("busy", "disk full")]
    assert room.hello(peer=b"bulk2") == p.Welcome(BOOT, 0, 0), "a greeting is answered"
    assert room.tick() == [p.Fault("busy", "disk full")], "a new connection hears of it, too"
    for _ in range(240):
        room.now += 0.5
        room.tick()
    assert [line.partition(": ")[0] for line in caplog.messages if "waiting" in line] == [
        "waiting",
        "still waiting, for 60 s now",
        "still waiting, for 120 s now",
    ]
    (leased,) = room.queue.lease(1, ttl_seconds=1, worker="w", now=room.now)
    room.queue.ack([leased.id], worker="w")
    full[0] = None
    assert room.tick() == [p.Ack(BOOT, 0, (), 1000)] * 2
    assert caplog.messages[-1].startswith("going on after 120.0 s; the cause was: disk full")
    room.say(base_frame(1))
    assert room.flush() == [p.Ack(BOOT, 1, (), 1000)]
    room.stores.close()


def test_silent_connections_are_tested_and_forgotten(room: Room) -> None:
    room.hello()
    room.hello("control", b"control1")
    assert room.intake.connected() == {"gate": ["bulk", "control"]}
    room.now += LIMITS.probe_seconds
    assert sorted(type(packet).__name__ for packet in room.tick()) == ["Ack", "Pong"]
    room.intake.lost(b"bulk1")
    assert room.intake.connected() == {"gate": ["control"]}


def test_a_frame_that_is_lost_is_taken_out_and_comes_again(room: Room) -> None:
    room.hello()
    for seq in range(4):
        room.say(base_frame(seq))
    room.flush()
    room.ledger.take_out("gate", BOOT, 1)
    room.ledger.take_out("gate", BOOT, 77)
    room.intake.greet_again("gate")
    room.intake.greet_again("elsewhere")
    (fault,) = room.tick()
    assert isinstance(fault, p.Fault) and fault.code == "hello-first" and room.tick() == []
    room.ledger.forget()  # what it holds is in its database
    ranges, welcome = room.say(p.Hello("gate", BOOT, "bulk", "yard", 4, 4, "test"))
    assert isinstance(ranges, p.Ack) and (ranges.cumulative, ranges.selective) == (0, ((2, 3),))
    assert isinstance(welcome, p.Welcome)
    assert room.ledger.totals()["received"] == 3
    room.say(base_frame(1))
    (ack,) = room.flush()
    assert isinstance(ack, p.Ack) and ack.cumulative == 3
    assert room.ledger.totals()["received"] == 4

"""The conformance suite's hard half: processes killed at any moment, servers killed, disks that fill up."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from secondlook.cloud.storage.queue import FrameQueue, QueuedFrame
from secondlook.shared.errors import TRANSIENT_ERRORS, DiskFull, QueueFull, StoreUnavailable
from tests.cloud.queues import Engine, lease, put, queued
from tests.cloud.servers import NatsServer, nats_running, small_disk

ROOT = Path(__file__).parents[2]
ROUNDS = 12


def drain(queue: FrameQueue) -> Counter[int]:
    """Every item that is left; what dead workers hold comes when their leases have run out."""
    seen: Counter[int] = Counter()
    deadline = time.monotonic() + 60
    while True:
        assert time.monotonic() < deadline, "something neither comes nor goes"
        with contextlib.suppress(StoreUnavailable):
            for item in lease(queue, 16, ttl=5, worker="audit"):
                seen[item.frame.info.seq] += 1
                assert item.frame == queued(item.frame.info.seq, len(item.frame.payload))
                queue.ack([item.id], worker="audit")
            if not queue.depth:
                return seen
        time.sleep(0.02)


def test_a_user_killed_at_any_moment_loses_and_doubles_nothing(engine: Engine) -> None:
    command = [sys.executable, "-m", "tests.cloud.queue_user", engine.where, str(ROUNDS)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.run(command, cwd=ROOT, env=environment, stdout=-1, text=True, check=True).stdout
    put_, acking, acked = set[int](), set[int](), set[int]()
    for line in said.splitlines():
        word, *numbers = line.split()
        {"put": put_, "acking": acking, "acked": acked}[word].update(map(int, numbers))
    left = drain(engine.open(max_attempts=100))
    assert len(put_) > ROUNDS
    assert put_ <= acking | set(left)
    assert not acked & set(left)
    assert set(left.values()) == {1}


@pytest.fixture
def own_nats() -> Iterator[NatsServer]:
    with nats_running() as server:
        yield server


def keep_putting(queue: FrameQueue, *frames: QueuedFrame) -> None:
    """Put until it does not fail for a reason that passes by itself."""
    deadline = time.monotonic() + 20
    while True:
        try:
            put(queue, *frames)
            return
        except TRANSIENT_ERRORS:
            assert time.monotonic() < deadline, "the server did not come back"
            time.sleep(0.05)


def test_a_broker_killed_again_and_again_keeps_what_it_acknowledged(own_nats: NatsServer) -> None:
    engine, moments = Engine(f"{own_nats.url}/kills"), random.Random(3)
    queue = engine.open(max_attempts=100)
    kept, acked, seq = set[int](), set[int](), 0
    for _ in range(3):
        killer = threading.Timer(moments.uniform(0.02, 0.3), own_nats.kill)
        killer.start()
        try:
            while True:
                batch = range(seq, seq + 5)
                seq += 5
                put(queue, *(queued(number, 2000) for number in batch))
                kept.update(batch)
                for item in lease(queue, 2, ttl=1.0):
                    queue.ack([item.id], worker="w1")
                    acked.add(item.frame.info.seq)
        except StoreUnavailable:
            killer.join()
        own_nats.start()
        keep_putting(queue, queued(seq, 2000))
        kept.add(seq)
        seq += 1
    left = drain(queue)
    # An acknowledgement may be forgotten by a killed server, and the frame comes again; a frame never is.
    assert kept <= acked | set(left)
    assert len(kept) > 100
    engine.close()


def test_a_broker_that_freezes_stops_nothing_for_good(own_nats: NatsServer) -> None:
    engine = Engine(f"{own_nats.url}/frozen")
    queue = engine.open()
    own_nats.freeze(True)
    with pytest.raises(StoreUnavailable):
        put(queue, queued(0))
    own_nats.freeze(False)
    keep_putting(queue, queued(0), queued(1))
    assert drain(queue) == Counter({0: 1, 1: 1})
    engine.close()


def fill(queue: FrameQueue, kept: set[int]) -> None:
    """Put until nothing more is taken."""
    for seq in range(max(kept, default=-1) + 1, 4000):
        try:
            put(queue, queued(seq, 100_000))
        except (DiskFull, StoreUnavailable):
            return
        kept.add(seq)
    raise AssertionError("the disk has no end")


def test_a_full_disk_under_the_embedded_queue_loses_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 8) as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(2 << 20))
        engine, kept = Engine(str(disk / "gateway.db")), set[int]()
        queue = engine.open()
        fill(queue, kept)
        with pytest.raises(DiskFull):
            put(queue, queued(9999, 100_000))
        ballast.unlink()
        before = len(kept)
        fill(queue, kept)
        assert len(kept) > before
        engine.close()
        assert len(kept) == engine.open().depth
        engine.close()


def test_a_full_disk_under_the_broker_loses_nothing_acknowledged(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 24) as disk, nats_running(folder=disk) as server:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(10 << 20))
        engine, kept = Engine(f"{server.url}/full"), set[int]()
        queue = engine.open()
        fill(queue, kept)
        assert kept
        # A server that met the end of its disk stops JetStream until it is started anew, with room.
        ballast.unlink()
        server.kill()
        server.start()
        keep_putting(queue, queued(9999, 100_000))
        left = set(drain(queue))
        assert kept | {9999} <= left
        assert all(seq in kept or seq in (9999, max(kept) + 1) for seq in left)
        engine.close()


def test_a_queue_that_is_full_by_the_servers_own_count_is_full(own_nats: NatsServer) -> None:
    """Two gateways that both saw room: the server's limit holds, and putting again is harmless."""
    engine = Engine(f"{own_nats.url}/race")
    first, second = engine.open(max_bytes=1_000_000), engine.open(max_bytes=1_000_000)
    put(first, *(queued(seq, 100_000) for seq in range(7)))
    batch = [queued(seq, 100_000) for seq in range(7, 12)]
    with pytest.raises(QueueFull):
        put(second, *batch)
    held = lease(first, 7)
    first.ack([item.id for item in held], worker="w1")
    put(second, *batch)
    assert drain(first) == Counter(range(7, 12))
    engine.close()

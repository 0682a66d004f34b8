"""Both queue engines for tests, opened as many times as a test needs handles."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from secondlook.cloud.config import JetStreamConfig, QueueLimits
from secondlook.cloud.storage.database import open_database
from secondlook.cloud.storage.queue import FRAME_FIELDS, Dead, FrameQueue, Leased, QueuedFrame, Removed
from secondlook.cloud.storage.queue_jetstream import JetStreamQueue
from secondlook.cloud.storage.queue_sqlite import SqliteQueue
from secondlook.shared.packet import FrameInfo

BOOT = "cd" * 16
LIMITS = QueueLimits(max_bytes=64 << 20, max_attempts=3)
JETSTREAM = JetStreamConfig(timeout_seconds=5)


def queued(seq: int, size: int = 10, **other: object) -> QueuedFrame:
    """`other`: members of the frame or of its FrameInfo."""
    frame = QueuedFrame(
        "gate", "yard", 6_000_000_000, FrameInfo(BOOT, seq, 5, 64, 48, None, 900), bytes([seq % 256]) * size
    )
    known = dict(zip(FRAME_FIELDS, frame.values(), strict=True))
    return QueuedFrame.of_values(tuple({**known, **other}.values()))


def _ignore(removed: Sequence[Dead], why: str) -> None:
    pass


def open_queue(
    where: str, limits: QueueLimits = LIMITS, removed: Removed = _ignore
) -> SqliteQueue | JetStreamQueue:
    """A queue by the address of a NATS server, or by the path of a database."""
    if where.startswith("nats:"):
        return JetStreamQueue(where, limits, JETSTREAM, removed)
    return SqliteQueue(open_database(Path(where)), limits, removed)


@dataclass
class Engine:
    """One queue; each handle of it is what one gateway has."""

    where: str
    removed: list[tuple[Dead, str]] = field(default_factory=list)  # dead items that went for good, and why
    _open: list[SqliteQueue | JetStreamQueue] = field(default_factory=list)

    @property
    def is_embedded(self) -> bool:
        return not self.where.startswith("nats:")

    def open(self, **limits: int) -> FrameQueue:
        self._open.append(open_queue(self.where, replace(LIMITS, **limits), self._note))
        return self._open[-1]

    def _note(self, removed: Sequence[Dead], why: str) -> None:
        self.removed += [(dead, why) for dead in removed]

    def close(self) -> None:
        for queue in self._open:
            if isinstance(queue, JetStreamQueue):
                queue.close()
            else:
                queue._db.close()
        self._open.clear()


def put(queue: FrameQueue, *frames: QueuedFrame) -> int:
    return queue.put(frames, now=time.time())


def lease(queue: FrameQueue, n: int = 9, ttl: float = 30.0, worker: str = "w1") -> list[Leased]:
    return queue.lease(n, ttl_seconds=ttl, worker=worker, now=time.time())


def seqs(leased: list[Leased]) -> list[int]:
    return [item.frame.info.seq for item in leased]


def await_leases(queue: FrameQueue, n: int, worker: str) -> list[Leased]:
    """Up to ``n`` items, as soon as this gateway has heard that there are some."""
    deadline = time.monotonic() + 10
    while not (found := lease(queue, n, worker=worker)):
        assert time.monotonic() < deadline, "nothing came"
        time.sleep(0.02)
    return found


def await_lease(queue: FrameQueue, worker: str = "w1", seconds: float = 10.0) -> Leased:
    """The next item, as soon as there is one."""
    deadline = time.monotonic() + seconds
    while not (found := lease(queue, 1, worker=worker)):
        assert time.monotonic() < deadline, "nothing came"
        time.sleep(0.02)
    return found[0]

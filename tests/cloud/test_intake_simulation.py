"""The same schedules of faults against the real intake, ledger and queue, over SQLite."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from secondlook.cloud.config import IntakeLimits, QueueLimits, RequestTimes
from secondlook.cloud.gateway.intake import Intake
from secondlook.cloud.storage.blobs import Blobs, open_blobs
from secondlook.cloud.storage.database import EmbeddedDatabase, open_database
from secondlook.cloud.storage.ledger import Ledger
from secondlook.cloud.storage.queue import QueuedFrame
from secondlook.cloud.storage.queue_sqlite import SqliteQueue
from secondlook.cloud.storage.requests import RequestTable
from secondlook.shared import packet as p
from secondlook.shared.errors import DiskFull
from tests.simulation import Frame, Simulation

SCHEDULES = 240
STEPS = 100
LIMITS = IntakeLimits(window_bytes=1500, min_window_bytes=100, stall_seconds=1.0)


class SlowQueue(SqliteQueue):
    """As a server is: what was begun is settled some questions later."""

    def begin(self, batch: Sequence[QueuedFrame]) -> Callable[[], bool]:  # type: ignore[override]
        questions = iter(range(2))
        return lambda: next(questions, None) is None


class RealGateway:
    """What `cloud.gateway.server` puts together, with its commits, but without sockets."""

    def __init__(self, db: sqlite3.Connection, blobs: Blobs, engine: type[SqliteQueue]) -> None:
        self._db = db
        self._engine = engine
        self._blobs = blobs
        self._taken: Counter[Frame] = Counter()  # what workers took out of the queue
        self._filed: set[Frame] = (
            set()
        )  # of these, what a restored ledger may not know: the catalogue files it once
        self._put_together()

    def _put_together(self) -> None:
        self._queue = self._engine(self._db, QueueLimits(max_bytes=3000))
        database = EmbeddedDatabase(self._db)
        requests = RequestTable(database, RequestTimes())
        self._ledger = Ledger(database)
        self._intake = Intake(self._ledger, self._queue, requests, self._blobs, LIMITS, None)

    def receive(self, peer: int, packet: p.Packet, now: float) -> list[tuple[int, p.Packet]]:
        answers = self._intake.receive(_name(peer), packet.to_frames(), "", now=now)
        return [(int(to), answer) for to, answer in answers]

    def commit(self, now: float) -> list[tuple[int, p.Packet]]:
        if int(now * 100) % 17 == 0:  # now and then the disk is full at the very end
            self._db.execute("BEGIN")
            self._intake.flush(now=now, wait=False)
            self._db.execute("ROLLBACK")
            self._intake.on_rollback(DiskFull("no space left"), now=now)
            return []
        return [(int(to), answer) for to, answer in self._intake.flush(now=now, wait=False)]

    def tick(self, now: float) -> list[tuple[int, p.Packet]]:
        return [(int(to), answer) for to, answer in self._intake.tick(now=now)]

    def crash(self) -> None:
        self._put_together()

    def copy(self) -> None:
        older = sqlite3.connect(":memory:")
        self._db.backup(older)
        self._older = older, self._taken.copy(), self._filed.copy()

    def restore(self, *, catalogue_too: bool) -> None:
        older, taken, filed = self._older
        older.backup(self._db)
        if catalogue_too:
            self._taken, self._filed = taken.copy(), filed.copy()
        else:
            self._filed = set(self._taken)
        self._put_together()

    def work(self, most: int, now: float) -> None:
        leased = self._queue.lease(most, ttl_seconds=1.0, worker="w", now=now) if most else []
        frames = [(item.frame.info.boot_id, item.frame.info.seq) for item in leased]
        self._taken.update(frame for frame in frames if frame not in self._filed)
        self._queue.ack([item.id for item in leased], worker="w")

    def stored(self) -> Counter[Frame]:
        rows = self._db.execute("SELECT boot_id, seq FROM queue")
        return self._taken + Counter(frame for frame in rows if frame not in self._filed)

    def buried(self) -> Counter[Frame]:
        return Counter(
            (boot_id, seq)
            for boot_id, first, last in self._db.execute(
                "SELECT boot_id, first_seq, last_seq FROM gateway_tombstones"
            )
            for seq in range(first, last + 1)
            if (boot_id, seq) not in self._filed
        )

    def memory(self) -> int:
        intake = self._intake
        batch = intake._batcher.growing
        return len(intake._sessions) + len(batch.frames) + len(batch.tombstones) + len(self._ledger._boots)


def _name(peer: int) -> bytes:
    return str(peer).encode()


@pytest.mark.parametrize("part", range(4))
def test_every_schedule_ends_with_everything_delivered_once(
    tmp_path: Path, part: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL")
    blobs = open_blobs(str(tmp_path / "blobs"))
    for seed in range(part * SCHEDULES // 4, (part + 1) * SCHEDULES // 4):
        path = tmp_path / f"{seed}.db"
        db = open_database(path)
        db.execute("PRAGMA synchronous = OFF")  # the schedules crash this object, not the machine
        try:
            Simulation(seed, RealGateway(db, blobs, (SqliteQueue, SlowQueue)[seed % 2])).run(STEPS)
        except AssertionError as error:
            pytest.fail(f"seed {seed}: {error}")
        finally:
            db.close()
            path.unlink()

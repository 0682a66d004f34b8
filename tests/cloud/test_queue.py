"""What only the embedded queue does; ``test_queue_conformance.py`` has what every queue must do."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from secondlook.cloud.config import QueueLimits
from secondlook.cloud.storage.database import open_database, transaction
from secondlook.cloud.storage.queue import Leased
from secondlook.cloud.storage.queue_sqlite import SqliteQueue
from secondlook.shared.errors import DiskFull, QueueFull, StoreCorrupt, Unwritable
from tests.cloud.queues import queued

LIMITS = QueueLimits(max_bytes=1000, max_attempts=3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


@pytest.fixture
def queue(path: Path) -> SqliteQueue:
    return SqliteQueue(open_database(path), LIMITS)


def lease(queue: SqliteQueue, worker: str = "w1", now: float = 10.0) -> list[Leased]:
    return queue.lease(9, ttl_seconds=5, worker=worker, now=now)


def seqs(queue: SqliteQueue, worker: str = "w1", now: float = 10.0) -> list[int]:
    return [leased.frame.info.seq for leased in lease(queue, worker, now)]


def test_a_full_disk_is_named_and_stores_nothing(path: Path) -> None:
    database = open_database(path)
    queue = SqliteQueue(database, QueueLimits(max_bytes=1 << 30))
    queue.put([queued(0)], now=1.0)
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(DiskFull):
        queue.put([queued(1), queued(2, 100_000)], now=1.0)
    assert (queue.depth, queue.depth_bytes) == (1, 10)
    database.execute("PRAGMA max_page_count = 100000")
    assert queue.put([queued(1), queued(2, 100_000)], now=1.0) == 2


def test_an_outer_transaction_takes_the_put_with_it(path: Path) -> None:
    database = open_database(path)
    queue = SqliteQueue(database, LIMITS)
    with pytest.raises(RuntimeError), transaction(database):
        queue.put([queued(0)], now=1.0)
        raise RuntimeError
    assert (queue.depth, queue.depth_bytes) == (0, 0)


def test_opening_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_bytes(b"no database at all, only text " * 50)
    with pytest.raises(StoreCorrupt):
        open_database(tmp_path / "text.db")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unwritable):
        open_database(tmp_path / "file" / "gateway.db")


def test_a_clock_that_was_set_back_holds_no_item_for_long(queue: SqliteQueue) -> None:
    queue.put([queued(0)], now=1.0)
    assert seqs(queue, now=1e9) == [0]
    assert seqs(queue, worker="w2", now=1e6) == [0]


def test_large_items_are_leased_a_few_at_a_time(path: Path) -> None:
    queue = SqliteQueue(open_database(path), QueueLimits())
    queue.put([queued(seq, 7 << 20) for seq in range(4)], now=1.0)
    assert [seqs(queue), seqs(queue), seqs(queue)] == [[0, 1], [2, 3], []]


def test_acknowledging_one_item_twice_in_a_call_counts_once(queue: SqliteQueue) -> None:
    queue.put([queued(0), queued(1)], now=1.0)
    first, _ = lease(queue)
    queue.ack([first.id, first.id], worker="w1")
    assert (queue.depth, queue.depth_bytes) == (1, 10)


def test_a_part_that_fails_is_undone_alone(path: Path) -> None:
    db = open_database(path)
    queue = SqliteQueue(db, LIMITS)
    with transaction(db):
        queue.put([queued(0)], now=1.0)
        with pytest.raises(QueueFull):
            queue.put([queued(1, 1000)], now=1.0)
        with pytest.raises(ZeroDivisionError), transaction(db):
            queue.put([queued(2)], now=1.0)
            raise ZeroDivisionError
        queue.put([queued(3)], now=1.0)
    assert (seqs(queue), queue.depth_bytes) == ([0, 3], 20)


def test_a_full_disk_within_a_transaction_undoes_all_of_it_and_says_so(path: Path) -> None:
    db = open_database(path)
    queue = SqliteQueue(db, QueueLimits())
    db.execute("PRAGMA max_page_count = 30")
    with pytest.raises(DiskFull), transaction(db):
        queue.put([queued(0)], now=1.0)
        with contextlib.suppress(DiskFull):
            queue.put([queued(1, 1 << 20)], now=1.0)
    assert (queue.depth, queue.depth_bytes) == (0, 0)

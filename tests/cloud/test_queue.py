"""What any ``FrameQueue`` must do. A further engine joins by one more parameter of ``queue``."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from cloud.queue import FrameQueue, QueuedFrame, QueueLimits, SqliteQueue, open_database, transaction
from shared.errors import DiskFull, LeaseLost, QueueFull, StoreCorrupt, Unwritable

BOOT = "cd" * 16
LIMITS = QueueLimits(max_bytes=1000, max_attempts=3)


def item(seq: int, size: int = 10) -> QueuedFrame:
    return QueuedFrame(
        "gate", "yard", BOOT, seq, 5, 6_000_000_000, 64, 48, None, 900, bytes([seq % 256]) * size
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


@pytest.fixture
def queue(path: Path) -> FrameQueue:
    return SqliteQueue(open_database(path), LIMITS)


def lease(queue: FrameQueue, n: int = 9, worker: str = "w1", now: float = 10.0) -> list[tuple[int, int]]:
    found = queue.lease(n, ttl_seconds=5, worker=worker, now=now)
    return [(leased.id, leased.frame.seq) for leased in found]


def seqs(queue: FrameQueue, **arguments: object) -> list[int]:
    return [seq for _, seq in lease(queue, **arguments)]  # type: ignore[arg-type]


def test_items_leave_in_the_order_they_came_and_whole(queue: FrameQueue) -> None:
    batch = [item(2), item(0), item(1)]
    assert queue.put(batch, now=1.0) == 3
    assert (queue.depth, queue.depth_bytes, queue.oldest_age(10.0)) == (3, 30, 4.0)
    found = queue.lease(2, ttl_seconds=5, worker="w1", now=10.0)
    assert [leased.frame for leased in found] == batch[:2]
    assert seqs(queue) == [1]
    assert queue.ack([leased.id for leased in found]) == 2
    assert queue.ack([leased.id for leased in found]) == 0
    assert (queue.depth, queue.depth_bytes) == (1, 10)


def test_a_duplicate_put_is_skipped(queue: FrameQueue) -> None:
    assert queue.put([item(0), item(0)], now=1.0) == 1
    assert queue.put([item(0), item(1)], now=1.0) == 1
    assert queue.depth_bytes == 20


def test_an_expired_lease_makes_the_item_available_again(queue: FrameQueue) -> None:
    queue.put([item(0)], now=1.0)
    ((id_, _),) = lease(queue, now=10.0)
    assert seqs(queue, worker="w2", now=14.9) == []
    queue.extend([id_], ttl_seconds=5, worker="w1", now=14.0)
    assert seqs(queue, worker="w2", now=18.9) == []
    assert seqs(queue, worker="w2", now=19.0) == [0]
    with pytest.raises(LeaseLost):
        queue.extend([id_], ttl_seconds=5, worker="w1", now=19.0)
    with pytest.raises(LeaseLost):
        queue.nack(id_, delay_seconds=0, worker="w1", why="late", now=19.0)


def test_extend_is_all_or_nothing(queue: FrameQueue) -> None:
    queue.put([item(0)], now=1.0)
    ((id_, _),) = lease(queue, now=10.0)
    with pytest.raises(LeaseLost):
        queue.extend([id_, id_ + 1], ttl_seconds=50, worker="w1", now=14.0)
    assert seqs(queue, now=15.0) == [0]


def test_a_poison_item_dies_with_its_reason_and_leaves_the_rest_alone(queue: FrameQueue) -> None:
    queue.put([item(0), item(1)], now=1.0)
    for attempt in range(LIMITS.max_attempts):
        ((id_, seq),) = lease(queue, n=1, now=10.0 + attempt)
        assert seq == 0
        queue.nack(id_, delay_seconds=0.5, worker="w1", why=f"bad magic {attempt}", now=10.0 + attempt)
        assert seqs(queue, n=1, now=10.2 + attempt) in ([1], [])
    (dead,) = queue.dead(5)
    assert (dead.seq, dead.attempts, dead.why) == (0, 3, "bad magic 2")
    assert (queue.depth, queue.dead_count, queue.depth_bytes) == (1, 1, 20)
    assert queue.ack([dead.id]) == 0


def test_an_item_that_kills_its_workers_dies_too(queue: FrameQueue) -> None:
    queue.put([item(0), item(1)], now=1.0)
    for turn in range(LIMITS.max_attempts):
        assert seqs(queue, n=1, now=10.0 + 10 * turn) == [0]
    assert seqs(queue, n=1, now=90.0) == [1]
    assert "lease ran out" in queue.dead(1)[0].why


def test_the_byte_limit_refuses_a_batch_whole(queue: FrameQueue) -> None:
    queue.put([item(0, 600)], now=1.0)
    with pytest.raises(QueueFull):
        queue.put([item(1, 300), item(2, 101)], now=1.0)
    assert seqs(queue) == [0]
    queue.put([item(1, 400)], now=1.0)
    assert queue.depth_bytes == 1000


def test_a_reopened_queue_holds_what_was_put(path: Path) -> None:
    SqliteQueue(open_database(path), LIMITS).put([item(0), item(1)], now=1.0)
    again = SqliteQueue(open_database(path), LIMITS)
    assert again.depth_bytes == 20
    assert seqs(again) == [0, 1]


def test_a_full_disk_is_named_and_stores_nothing(path: Path) -> None:
    database = open_database(path)
    queue = SqliteQueue(database, QueueLimits(max_bytes=1 << 30))
    queue.put([item(0)], now=1.0)
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(DiskFull):
        queue.put([item(1), item(2, 100_000)], now=1.0)
    assert (queue.depth, queue.depth_bytes) == (1, 10)
    database.execute("PRAGMA max_page_count = 100000")
    assert queue.put([item(1), item(2, 100_000)], now=1.0) == 2


def test_an_outer_transaction_takes_the_put_with_it(path: Path) -> None:
    database = open_database(path)
    queue = SqliteQueue(database, LIMITS)
    with pytest.raises(RuntimeError), transaction(database):
        queue.put([item(0)], now=1.0)
        raise RuntimeError
    assert (queue.depth, queue.depth_bytes) == (0, 0)


def test_opening_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_bytes(b"no database at all, only text " * 50)
    with pytest.raises(StoreCorrupt):
        open_database(tmp_path / "text.db")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unwritable):
        open_database(tmp_path / "file" / "gateway.db")


def test_a_clock_that_was_set_back_holds_no_item_for_long(queue: FrameQueue) -> None:
    queue.put([item(0)], now=1.0)
    assert seqs(queue, now=1e9) == [0]
    assert seqs(queue, worker="w2", now=1e6) == [0]


def test_large_items_are_leased_a_few_at_a_time(path: Path) -> None:
    queue = SqliteQueue(open_database(path), QueueLimits())
    queue.put([item(seq, 7 << 20) for seq in range(4)], now=1.0)
    assert [seqs(queue), seqs(queue), seqs(queue)] == [[0, 1], [2, 3], []]


def test_acknowledging_one_item_twice_in_a_call_counts_once(queue: FrameQueue) -> None:
    queue.put([item(0), item(1)], now=1.0)
    ((first, _), _) = lease(queue)
    assert queue.ack([first, first]) == 1
    assert queue.depth_bytes == 10


def test_a_file_with_payloads_in_its_rows_is_taken_over(path: Path) -> None:
    queue = SqliteQueue(open_database(path), LIMITS)
    queue.put([item(0), item(1)], now=1.0)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("ALTER TABLE queue ADD COLUMN payload BLOB")
        db.execute("UPDATE queue SET payload = (SELECT payload FROM payloads p WHERE p.id = queue.id)")
        db.execute("DELETE FROM payloads")
        db.commit()
    again = SqliteQueue(open_database(path), LIMITS)
    found = again.lease(9, ttl_seconds=5, worker="w1", now=10.0)
    assert [leased.frame for leased in found] == [item(0), item(1)]
    assert again.put([item(2)], now=1.0) == 1


def test_a_part_that_fails_is_undone_alone(path: Path) -> None:
    db = open_database(path)
    queue = SqliteQueue(db, LIMITS)
    with transaction(db):
        queue.put([item(0)], now=1.0)
        with pytest.raises(QueueFull):
            queue.put([item(1, 1000)], now=1.0)
        with pytest.raises(ZeroDivisionError), transaction(db):
            queue.put([item(2)], now=1.0)
            raise ZeroDivisionError
        queue.put([item(3)], now=1.0)
    assert (seqs(queue), queue.depth_bytes) == ([0, 3], 20)


def test_a_full_disk_within_a_transaction_undoes_all_of_it_and_says_so(path: Path) -> None:
    db = open_database(path)
    queue = SqliteQueue(db, QueueLimits())
    db.execute("PRAGMA max_page_count = 30")
    with pytest.raises(DiskFull), transaction(db):
        queue.put([item(0)], now=1.0)
        with contextlib.suppress(DiskFull):
            queue.put([item(1, 1 << 20)], now=1.0)
    assert (queue.depth, queue.depth_bytes) == (0, 0)

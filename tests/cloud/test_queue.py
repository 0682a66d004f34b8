"""What only the embedded queue does; ``test_queue_conformance.py`` has what every queue must do."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud.queue import QueueLimits, SqliteQueue, open_database, transaction
from shared.errors import DiskFull, StoreCorrupt, Unwritable
from tests.cloud.queues import queued

LIMITS = QueueLimits(max_bytes=1000, max_attempts=3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


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

"""The gateway's own file: what an earlier version left in it, and transactions that queue and ledger share."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import text

from secondlook.cloud.config import QueueLimits, RequestTimes
from secondlook.cloud.storage.database import EmbeddedDatabase, open_database, transaction
from secondlook.cloud.storage.ledger import EdgeRecord, FrameTombstone, Ledger
from secondlook.cloud.storage.queue_sqlite import SqliteQueue
from secondlook.cloud.storage.requests import RequestState, RequestTable
from secondlook.shared.crop import Crop
from secondlook.shared.errors import StoreCorrupt, UnsupportedStore
from tests.cloud.helpers import BOOT
from tests.cloud.queues import queued

# As the version before this one made it, with a row in each table.
EARLIER = f"""
CREATE TABLE edges (edge_id TEXT PRIMARY KEY, camera TEXT NOT NULL, software TEXT NOT NULL,
    first_seen_ns INTEGER NOT NULL, last_seen_ns INTEGER NOT NULL) STRICT;
CREATE TABLE boots (edge_id TEXT NOT NULL, boot_id TEXT NOT NULL, cumulative INTEGER NOT NULL, ranges TEXT NOT NULL,
    frames INTEGER NOT NULL, repeated INTEGER NOT NULL, PRIMARY KEY (edge_id, boot_id)) STRICT;
CREATE TABLE tombstones (id INTEGER PRIMARY KEY AUTOINCREMENT, edge_id TEXT NOT NULL, boot_id TEXT NOT NULL,
    first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL, reason TEXT NOT NULL, received_ns INTEGER NOT NULL) STRICT;
CREATE TABLE requests (id INTEGER PRIMARY KEY AUTOINCREMENT, edge_id TEXT NOT NULL, boot_id TEXT NOT NULL,
    seq INTEGER NOT NULL, priority INTEGER NOT NULL, deadline REAL NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'sent', 'done', 'expired', 'refused')), not_before REAL NOT NULL,
    corrupt_answers INTEGER NOT NULL, reason TEXT NOT NULL, blob TEXT) STRICT;
CREATE INDEX requests_frame ON requests (edge_id, boot_id, seq);
CREATE INDEX requests_open ON requests (edge_id, state) WHERE state IN ('pending', 'sent');
INSERT INTO edges VALUES ('gate', 'yard', 'test', 5, 6);
INSERT INTO boots VALUES ('gate', '{BOOT}', 7, '[[9, 10], [12, 12]]', 11, 2);
INSERT INTO tombstones VALUES (1, 'gate', '{BOOT}', 3, 4, 'spool-full', 8), (9, 'gate', '{BOOT}', 5, 5, 'age', 8);
DELETE FROM tombstones WHERE id = 9;
INSERT INTO requests VALUES (4, 'gate', '{BOOT}', 6, 50, 99.5, 'done', 1.5, 0, '', 'enhancements/x');
"""


def test_a_file_of_the_version_before_is_taken_over_with_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    with contextlib.closing(sqlite3.connect(path)) as old:
        old.executescript(EARLIER)
    for _ in range(2):  # the second time there is nothing left to do
        db = open_database(path)
        rows = EmbeddedDatabase(db)
        ledger, requests = Ledger(rows), RequestTable(rows, RequestTimes())
        assert ledger.edges() == [EdgeRecord("gate", "yard", "test", 5, 6)]
        received = ledger.received("gate", BOOT)
        assert (received.cumulative, received.selective(9)) == (7, ((9, 10), (12, 12)))
        assert ledger.totals() == {"received": 11, "redelivered": 2, "tombstones": 2}
        (first, *_) = ledger.tombstones_after(0, 9)
        assert first == (1, FrameTombstone("gate", BOOT, 3, 4, "spool-full", 8))
        known = requests.of_frame("gate", BOOT, 6)
        assert known is not None
        assert (known.id, known.state, known.blob) == (4, RequestState.DONE, "enhancements/x")
        db.close()
    db = open_database(path)
    ledger = Ledger(EmbeddedDatabase(db))
    ledger.take(SqliteQueue(db, QueueLimits()), [], [FrameTombstone("gate", BOOT, 20, 20, "age", 8)], now=1.0)
    assert [id_ for id_, _ in ledger.tombstones_after(0, 9)] == [1, 10]  # no number is given twice
    assert [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE name = 'boots'")] == []
    db.close()


def test_columns_that_a_version_before_lacked_are_added(tmp_path: Path) -> None:
    db = open_database(tmp_path / "gateway.db")
    rows = EmbeddedDatabase(db)
    Ledger(rows).see_edge("gate", camera="yard", software="test", now_ns=5)
    db.execute("ALTER TABLE gateway_edges DROP COLUMN clock_offset_seconds")
    db.execute("UPDATE gateway_schema SET version = 1")
    for _ in range(2):  # the second time there is nothing left to do
        ledger, requests = Ledger(rows), RequestTable(rows, RequestTimes())
        assert requests.of_frame("gate", BOOT, 0) is None
        assert [edge.edge_id for edge in ledger.edges()] == ["gate"]
    ledger.note_clock("gate", 600.5)
    assert ledger.edges() == [EdgeRecord("gate", "yard", "test", 5, 5, 600.5)]
    assert db.execute("SELECT version FROM gateway_schema").fetchall() == [(3,)]
    db.close()


def test_requests_of_a_version_that_knew_no_crops_are_for_whole_frames(tmp_path: Path) -> None:
    db = open_database(tmp_path / "gateway.db")
    rows = EmbeddedDatabase(db)
    requests = RequestTable(rows, RequestTimes())
    asked = requests.ask("gate", BOOT, 0, deadline=9, priority=1, blob_gone=False, now=1.0)
    db.execute("ALTER TABLE gateway_requests DROP COLUMN crop")
    db.execute("UPDATE gateway_schema SET version = 2")
    again = RequestTable(rows, RequestTimes())
    found = again.get(asked)
    assert found is not None and found.crop is None
    crop = Crop(0, 0, 64, 64)
    assert again.ask("gate", BOOT, 0, deadline=9, priority=1, blob_gone=False, now=1.0, crop=crop) == asked
    db.close()


# Its queue, and the queue of the version before that one, with a live and a dead item.
COLUMNS = """id INTEGER PRIMARY KEY AUTOINCREMENT,
    state TEXT NOT NULL CHECK (state IN ('ready', 'leased', 'dead')), available_at REAL NOT NULL, worker TEXT,
    attempts INTEGER NOT NULL, why TEXT, payload_bytes INTEGER NOT NULL, edge_id TEXT NOT NULL, camera TEXT NOT NULL,
    boot_id TEXT NOT NULL, seq INTEGER NOT NULL, captured_ns INTEGER NOT NULL, received_ns INTEGER NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, key_seq INTEGER, enhancement_bytes INTEGER NOT NULL"""
FRAME = f"'gate', 'yard', '{queued(0).info.boot_id}'"
LIVE = f"(1, 'leased', 5.0, 'w1', 1, NULL, 10, {FRAME}, 0, 5, 6000000000, 64, 48, NULL, 900"
DEAD = f"(2, 'dead', 5.0, NULL, 6, 'bad magic', 10, {FRAME}, 1, 5, 6000000000, 64, 48, NULL, 900"
LIVE_PAYLOAD, DEAD_PAYLOAD = queued(0).payload.hex(), queued(1).payload.hex()
EARLIER_QUEUE = f"""
CREATE TABLE queue ({COLUMNS}, UNIQUE (edge_id, boot_id, seq)) STRICT;
CREATE TABLE payloads (id INTEGER PRIMARY KEY REFERENCES queue (id), payload BLOB NOT NULL) STRICT;
CREATE INDEX queue_live ON queue (id, available_at) WHERE state != 'dead';
CREATE TABLE queue_total (bytes INTEGER NOT NULL) STRICT;
INSERT INTO queue_total VALUES (20);
INSERT INTO queue VALUES {LIVE}), {DEAD});
INSERT INTO payloads VALUES (1, x'{LIVE_PAYLOAD}'), (2, x'{DEAD_PAYLOAD}');
"""
# Version 1: what is dead, ready or leased was a text, and hosts had an index by turn.
QUEUE_1 = f"""
CREATE TABLE queue ({COLUMNS}, company INTEGER NOT NULL DEFAULT 1, UNIQUE (edge_id, boot_id, seq)) STRICT;
CREATE TABLE payloads (id INTEGER PRIMARY KEY REFERENCES queue (id), payload BLOB NOT NULL) STRICT;
CREATE INDEX queue_live ON queue (edge_id, id) WHERE state != 'dead';
CREATE INDEX queue_dead ON queue (available_at, id) WHERE state = 'dead';
CREATE TABLE queue_edges (
    edge_id TEXT PRIMARY KEY, items INTEGER NOT NULL, bytes INTEGER NOT NULL, turn INTEGER NOT NULL
) STRICT;
CREATE INDEX queue_turns ON queue_edges (turn) WHERE items > 0;
CREATE TABLE queue_total (
    bytes INTEGER NOT NULL, dead INTEGER NOT NULL, dead_bytes INTEGER NOT NULL, turn INTEGER NOT NULL
) STRICT;
INSERT INTO queue VALUES {LIVE}, 1), {DEAD}, 1);
INSERT INTO payloads VALUES (1, x'{LIVE_PAYLOAD}'), (2, x'{DEAD_PAYLOAD}');
INSERT INTO queue_edges VALUES ('gate', 1, 10, 7);
INSERT INTO queue_total VALUES (10, 1, 10, 7);
PRAGMA user_version = 1;
"""
EARLIEST_QUEUE = f"""
CREATE TABLE queue ({COLUMNS}, payload BLOB NOT NULL, UNIQUE (edge_id, boot_id, seq)) STRICT;
INSERT INTO queue VALUES {LIVE}, x'{LIVE_PAYLOAD}'), {DEAD}, x'{DEAD_PAYLOAD}');
"""


@pytest.mark.parametrize("script", [QUEUE_1, EARLIER_QUEUE, EARLIEST_QUEUE])
def test_a_queue_of_the_version_before_is_taken_over_with_its_items(tmp_path: Path, script: str) -> None:
    path = tmp_path / "gateway.db"
    with contextlib.closing(sqlite3.connect(path)) as old:
        old.executescript(script)
    for _ in range(2):
        db = open_database(path)
        queue = SqliteQueue(db, QueueLimits(max_bytes=1000))
        assert (queue.depth, queue.depth_bytes, queue.dead_count, queue.dead_bytes) == (1, 10, 1, 10)
        (dead,) = queue.dead(9)
        assert (dead.seq, dead.why) == (1, "bad magic")
        shown = queue.dead_frame(dead.id)
        assert shown is not None
        assert shown[1] == queued(1)
        db.close()
    db = open_database(path)
    queue = SqliteQueue(db, QueueLimits(max_bytes=1000))
    (item,) = queue.lease(9, ttl_seconds=5, worker="w2", now=10.0)
    assert (item.frame, item.attempts) == (queued(0), 2)
    assert queue.put([queued(2)], now=1.0) == 1
    queue.ack([item.id], worker="w2")
    assert (queue.depth, queue.depth_bytes) == (1, 10)
    db.execute("PRAGMA user_version = 9")
    with pytest.raises(UnsupportedStore, match="9"):
        SqliteQueue(db, QueueLimits())
    db.close()


def test_a_file_of_a_later_version_is_refused(tmp_path: Path) -> None:
    db = open_database(tmp_path / "gateway.db")
    rows = EmbeddedDatabase(db)
    Ledger(rows)
    with rows.changing() as connection:
        connection.execute(text("UPDATE gateway_schema SET version = 9"))
    with pytest.raises(UnsupportedStore, match="9"):
        Ledger(rows)
    db.close()


def test_queue_ledger_and_requests_change_together_or_not_at_all(tmp_path: Path) -> None:
    db = open_database(tmp_path / "gateway.db")
    rows = EmbeddedDatabase(db)
    queue, ledger = SqliteQueue(db, QueueLimits()), Ledger(rows)
    requests = RequestTable(rows, RequestTimes())
    with pytest.raises(RuntimeError), transaction(db):
        ledger.take(queue, [queued(0)], [], now=1.0)
        requests.ask("gate", BOOT, 0, deadline=9, priority=1, blob_gone=False, now=1.0)
        raise RuntimeError
    ledger.forget()
    assert (queue.depth, ledger.received("gate", queued(0).info.boot_id).cumulative) == (0, -1)
    assert requests.of_frame("gate", BOOT, 0) is None
    assert not db.in_transaction
    with transaction(db):
        ledger.take(queue, [queued(0)], [], now=1.0)
        requests.ask("gate", BOOT, 0, deadline=9, priority=1, blob_gone=False, now=1.0)
    with contextlib.closing(sqlite3.connect(tmp_path / "gateway.db")) as other:
        counts = [
            other.execute(f"SELECT count(*) FROM {name}").fetchone() for name in ("queue", "gateway_boots")
        ]
        assert counts == [(1,), (1,)]
    db.close()


def test_an_error_of_the_file_has_a_name_through_sqlalchemy_too(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    db = open_database(path)
    ledger = Ledger(EmbeddedDatabase(db))
    for number in range(400):
        ledger.see_edge(f"edge-{number}", camera="yard" * 20, software="test", now_ns=1)
    db.close()
    damaged = bytearray(path.read_bytes())
    damaged[8192 * 3 :] = b"\xff" * len(damaged[8192 * 3 :])
    path.write_bytes(damaged)
    db = open_database(path)
    with pytest.raises(StoreCorrupt, match="gateway database"):
        Ledger(EmbeddedDatabase(db)).edges()
    db.close()

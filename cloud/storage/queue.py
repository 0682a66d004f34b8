"""The durable queue between the gateway and the machine workers.

``FrameQueue`` is what any engine must offer; ``SqliteQueue`` is the embedded one, ``cloud.storage.queue_jetstream`` has the
one for several gateways. An item is *ready*, *leased* to a worker until an instant, or *dead* after too many leases
that ended without an acknowledgement. A lease that runs out makes the item ready again, so a killed worker loses
nothing. Instants are Unix seconds handed in as ``now``: leases outlive the process, and so must their clock.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Protocol

from secondlook.shared.errors import ConfigError, LeaseLost, QueueFull
from secondlook.shared.sqlite import immediate, named_errors, part, prepare, private_database

_SCHEMA = """
CREATE TABLE IF NOT EXISTS queue (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    state TEXT NOT NULL CHECK (state IN ('ready', 'leased', 'dead')),
    available_at REAL NOT NULL,  -- ready: not before; leased: the lease ends
    worker TEXT,
    attempts INTEGER NOT NULL,
    why TEXT,
    payload_bytes INTEGER NOT NULL,
    edge_id TEXT NOT NULL,
    camera TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    captured_ns INTEGER NOT NULL,
    received_ns INTEGER NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    key_seq INTEGER,
    enhancement_bytes INTEGER NOT NULL,
    UNIQUE (edge_id, boot_id, seq)
) STRICT;
-- Apart from the rows that change with every lease: SQLite rewrites a row whole.
CREATE TABLE IF NOT EXISTS payloads (id INTEGER PRIMARY KEY REFERENCES queue (id), payload BLOB NOT NULL) STRICT;
-- Items are leased in the order they came; this index passes over the dead ones.
CREATE INDEX IF NOT EXISTS queue_live ON queue (id, available_at) WHERE state != 'dead';
CREATE TABLE IF NOT EXISTS queue_total (bytes INTEGER NOT NULL) STRICT;
INSERT INTO queue_total SELECT 0 WHERE NOT EXISTS (SELECT * FROM queue_total);
"""


@dataclass(frozen=True)
class QueuedFrame:
    """A base packet on its way to a machine worker. Times in Unix nanoseconds, sizes in pixels and bytes."""

    edge_id: str
    camera: str
    boot_id: str
    seq: int
    captured_ns: int
    received_ns: int
    width: int
    height: int
    key_seq: int | None
    enhancement_bytes: int
    payload: bytes


@dataclass(frozen=True)
class Leased:
    """An item in a worker's hands; ``attempts`` counts this lease too."""

    id: int
    attempts: int
    frame: QueuedFrame


@dataclass(frozen=True)
class Dead:
    """An item that was given up, and the last reason told."""

    id: int
    attempts: int
    edge_id: str
    boot_id: str
    seq: int
    why: str


@dataclass(frozen=True)
class QueueLimits:
    """How much the queue keeps, and how often it tries."""

    max_bytes: int = 8 << 30  # payload bytes kept, dead items included
    max_attempts: int = 6  # leases before an item is dead

    def __post_init__(self) -> None:
        if self.max_bytes < 1 or self.max_attempts < 1:
            raise ConfigError("max_bytes and max_attempts must be above 0")


class FrameQueue(Protocol):
    """The queue as gateway and broker see it.

    Every change survives the death of this process when the call returns, and ``put`` a power cut too. (Where the
    queue shares a transaction with others, both hold once that is committed.) Every method raises StoreUnavailable
    when the queue is a server that does not answer. A change may have been made all the same; making it again is
    harmless.
    """

    def put(self, batch: Sequence[QueuedFrame], *, now: float) -> int:
        """Add a batch, all or nothing, but for frames that are there already. Returns how many are new.

        Raises QueueFull when the byte limit would be passed, DiskFull.
        """
        ...

    def begin(self, batch: Sequence[QueuedFrame]) -> Callable[[], bool] | None:
        """Start to add frames that a ``put`` will bring next, which then need not wait as long.

        Returns what tells whether that ``put`` would wait no more; None where there is nothing to start. Frames may
        get into the queue although they are never put, so they must be such as may be put.
        """
        ...

    def lease(self, n: int, *, ttl_seconds: float, worker: str, now: float) -> list[Leased]:
        """Take up to ``n`` of the oldest available items for ``ttl_seconds``; fewer when they are large."""
        ...

    def extend(self, ids: Sequence[int], *, ttl_seconds: float, worker: str, now: float) -> None:
        """Hold leased items for ``ttl_seconds`` from now. Raises LeaseLost, having extended none."""
        ...

    def ack(self, ids: Sequence[int]) -> None:
        """Remove finished items, whoever holds them; nothing happens for one that is gone or dead."""
        ...

    def nack(self, id_: int, *, delay_seconds: float, worker: str, why: str, now: float) -> None:
        """Give an item back, not to be leased again before the delay. Raises LeaseLost."""
        ...

    def dead(self, n: int) -> list[Dead]:
        """The ``n`` newest dead items."""
        ...

    @property
    def depth(self) -> int:
        """Items that are ready or leased."""
        ...

    @property
    def dead_count(self) -> int: ...

    @property
    def depth_bytes(self) -> int:
        """Bytes kept, dead items included: what counts against the limit."""
        ...

    @property
    def room_bytes(self) -> int:
        """Bytes that fit before the limit; a server's answer may be a second old."""
        ...

    def oldest_age(self, now: float) -> float:
        """Seconds since the oldest ready or leased item came in; 0 when there is none."""
        ...


def open_database(path: Path) -> sqlite3.Connection:
    """Open the gateway's SQLite file for this thread. Raises Unwritable, StoreCorrupt."""
    private_database(path)
    with named_errors(path):
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")  # of a new file only
        prepare(connection, busy_seconds=10)
        connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
        connection.executescript(_SCHEMA)
        if "payload" in {row[1] for row in connection.execute("PRAGMA table_info(queue)")}:
            with immediate(connection):
                connection.execute("INSERT INTO payloads SELECT id, payload FROM queue")
                connection.execute("ALTER TABLE queue DROP COLUMN payload")
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """One durable step. Inside another it is a part of that one: undone alone when it fails, durable when the
    whole is. Raises DiskFull and other StorageErrors."""
    step = part if connection.in_transaction else immediate
    with named_errors("gateway database"), step(connection):
        yield


# Pages that hold most of a packet, and a log that is copied into the file seldom: a packet that is worked off
# meanwhile leaves pages that the next one takes, and they are copied once.
_PAGE_BYTES = 8192
_LOG_PAGES = 4096
_CACHE_KB = 32 << 10  # holds the pages of a commit, and those that workers take soon after
LONGEST_LEASE_SECONDS = 3600.0
_LEASE_BYTES = 16 << 20  # payload bytes of one lease, unless its first item alone has more

_COLUMNS = (
    "edge_id, camera, boot_id, seq, captured_ns, received_ns, width, height, key_seq, enhancement_bytes"
)


class SqliteQueue:
    """The embedded ``FrameQueue``: one table, one process; other processes reach it through the broker."""

    def __init__(self, connection: sqlite3.Connection, limits: QueueLimits) -> None:
        self._db = connection
        self._limits = limits

    def put(self, batch: Sequence[QueuedFrame], *, now: float) -> int:
        wanted, held = sum(len(frame.payload) for frame in batch), self.depth_bytes
        if held + wanted > self._limits.max_bytes:
            raise QueueFull(f"the queue holds {held} of {self._limits.max_bytes} bytes")
        payloads: list[tuple[int, bytes]] = []
        with transaction(self._db):
            for frame in batch:
                added = self._db.execute(
                    f"INSERT INTO queue (state, available_at, attempts, payload_bytes, {_COLUMNS}) "
                    "VALUES ('ready', ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
                    "ON CONFLICT (edge_id, boot_id, seq) DO NOTHING",
                    (now, len(frame.payload), *_values(frame)),
                )
                if added.rowcount and added.lastrowid is not None:
                    payloads.append((added.lastrowid, frame.payload))
            self._db.executemany("INSERT INTO payloads VALUES (?, ?)", payloads)
            self._count_bytes(sum(len(payload) for _, payload in payloads))
        return len(payloads)

    def begin(self, batch: Sequence[QueuedFrame]) -> None:
        """Nothing: what is put is a part of the gateway's transaction."""

    def lease(self, n: int, *, ttl_seconds: float, worker: str, now: float) -> list[Leased]:
        leased: list[Leased] = []
        room = _LEASE_BYTES
        with transaction(self._db):
            rows = self._db.execute(
                f"SELECT id, attempts + 1, payload_bytes, {_COLUMNS}, payload "
                "FROM queue INDEXED BY queue_live CROSS JOIN payloads USING (id) "
                "WHERE state != 'dead' AND (available_at <= ? OR available_at > ?) ORDER BY id",
                (now, now + LONGEST_LEASE_SECONDS),  # further off only if the clock was set back meanwhile
            )
            buried: list[int] = []
            while len(leased) < n and (row := rows.fetchone()) is not None:
                id_, attempt, size, *frame = row
                if attempt > self._limits.max_attempts:
                    buried.append(id_)
                    continue
                room -= size
                if leased and room < 0:
                    break
                leased.append(Leased(id_, attempt, QueuedFrame(*frame)))
            rows.close()
            for id_ in buried:
                self._bury(id_)
            self._db.executemany(
                "UPDATE queue SET state = 'leased', available_at = ?, worker = ?, why = NULL, attempts = ? "
                "WHERE id = ?",
                [(now + ttl_seconds, worker, item.attempts, item.id) for item in leased],
            )
        return leased

    def extend(self, ids: Sequence[int], *, ttl_seconds: float, worker: str, now: float) -> None:
        with transaction(self._db):
            for id_ in ids:
                self._held(
                    "UPDATE queue SET available_at = ? WHERE id = ? AND state = 'leased' AND worker = ?",
                    (now + ttl_seconds, id_, worker),
                )

    def ack(self, ids: Sequence[int]) -> None:
        with transaction(self._db):
            wanted = "SELECT id FROM queue WHERE state != 'dead' AND id IN (SELECT value FROM json_each(?))"
            listed = (json.dumps(list(ids)),)
            (size,) = self._db.execute(
                f"SELECT coalesce(sum(payload_bytes), 0) FROM queue WHERE id IN ({wanted})", listed
            ).fetchone()
            for table in ("payloads", "queue"):
                self._db.execute(f"DELETE FROM {table} WHERE id IN ({wanted})", listed)
            self._count_bytes(-size)

    def nack(self, id_: int, *, delay_seconds: float, worker: str, why: str, now: float) -> None:
        with transaction(self._db):
            self._held(
                "UPDATE queue SET state = CASE WHEN attempts >= ? THEN 'dead' ELSE 'ready' END, "
                "available_at = ?, why = ?, worker = NULL WHERE id = ? AND state = 'leased' AND worker = ?",
                (self._limits.max_attempts, now + delay_seconds, why, id_, worker),
            )

    def dead(self, n: int) -> list[Dead]:
        rows = self._db.execute(
            "SELECT id, attempts, edge_id, boot_id, seq, why FROM queue WHERE state = 'dead' "
            "ORDER BY id DESC LIMIT ?",
            (n,),
        )
        return [Dead(*row) for row in rows]

    @property
    def depth(self) -> int:
        return self._count("state != 'dead'")

    @property
    def dead_count(self) -> int:
        return self._count("state = 'dead'")

    @property
    def depth_bytes(self) -> int:
        (total,) = self._db.execute("SELECT bytes FROM queue_total").fetchone()
        return int(total)

    @property
    def room_bytes(self) -> int:
        return max(0, self._limits.max_bytes - self.depth_bytes)

    def oldest_age(self, now: float) -> float:
        row = self._db.execute(
            "SELECT received_ns FROM queue INDEXED BY queue_live WHERE state != 'dead' ORDER BY id LIMIT 1"
        ).fetchone()
        return 0.0 if row is None else max(0.0, now - row[0] / 1e9)

    def _count(self, where: str) -> int:
        (count,) = self._db.execute(f"SELECT count(*) FROM queue WHERE {where}").fetchone()
        return int(count)

    def _count_bytes(self, change: int) -> None:
        self._db.execute("UPDATE queue_total SET bytes = bytes + ?", (change,))

    def _bury(self, id_: int) -> None:
        # No worker gave a reason: each one's lease ran out, perhaps because this very item killed it.
        self._db.execute(
            "UPDATE queue SET state = 'dead', why = coalesce(why, 'its last lease ran out') WHERE id = ?",
            (id_,),
        )

    def _held(self, change: str, values: tuple[object, ...]) -> None:
        if self._db.execute(change, values).rowcount != 1:
            raise LeaseLost("the lease ran out; another worker may have the item now")


_values = attrgetter(*_COLUMNS.split(", "))

"""The embedded ``FrameQueue``: tables of the gateway's SQLite file, on its connection and in its transactions."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from secondlook.cloud.config import LONGEST_LEASE_SECONDS, QueueLimits
from secondlook.cloud.storage.affinity import Affinity
from secondlook.cloud.storage.database import transaction
from secondlook.cloud.storage.queue import (
    FRAME_FIELDS,
    OVER_LIMIT,
    PURGED,
    Dead,
    Leased,
    QueuedFrame,
    Removed,
    edge_room,
    hosts_in_groups,
    least_room,
)
from secondlook.shared.errors import LeaseLost, QueueFull, UnsupportedStore
from secondlook.shared.sqlite import immediate, named_errors

# What the file says of its queue (``user_version``); 0 is a new file, or one of a version that did not say.
VERSION = 2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS queue (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    dead INTEGER NOT NULL DEFAULT 0,  -- 1: given up. In the indexes, so apart from what changes with every lease
    worker TEXT,  -- NULL: nobody has it; else who has it, or had it when the lease ran out
    available_at REAL NOT NULL,  -- not before; leased: the lease ends; dead: since
    attempts INTEGER NOT NULL,
    company INTEGER NOT NULL DEFAULT 1,  -- items of its last lease, itself included
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
-- Items of one camera host are leased in the order they came.
CREATE INDEX queue_live ON queue (edge_id, id) WHERE NOT dead;
CREATE INDEX queue_dead ON queue (available_at, id) WHERE dead;
-- Camera hosts; of those with live items, the one that was served longest ago is served next.
CREATE TABLE queue_edges (
    edge_id TEXT PRIMARY KEY, items INTEGER NOT NULL, bytes INTEGER NOT NULL, turn INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE queue_total (
    bytes INTEGER NOT NULL,  -- of live items
    dead INTEGER NOT NULL,
    dead_bytes INTEGER NOT NULL,
    turn INTEGER NOT NULL  -- the last that was given
) STRICT;
"""
_FILL = """
INSERT INTO queue_edges
    SELECT edge_id, count(*), sum(payload_bytes), 0 FROM queue WHERE NOT dead GROUP BY edge_id;
INSERT INTO queue_total SELECT
    coalesce(sum(payload_bytes) FILTER (WHERE NOT dead), 0),
    count(*) FILTER (WHERE dead),
    coalesce(sum(payload_bytes) FILTER (WHERE dead), 0),
    0
    FROM queue;
"""

_FORGET_DERIVED = """
DROP INDEX IF EXISTS queue_live;
DROP INDEX IF EXISTS queue_dead;
DROP TABLE IF EXISTS queue_edges;
DROP TABLE IF EXISTS queue_total;
"""
_STATE_TO_DEAD = """
ALTER TABLE queue ADD COLUMN dead INTEGER NOT NULL DEFAULT 0;
UPDATE queue SET dead = (state = 'dead'), worker = CASE WHEN state = 'leased' THEN coalesce(worker, '') END;
ALTER TABLE queue DROP COLUMN state;
"""

_LEASE_BYTES = 16 << 20  # payload bytes of one lease, unless its first item alone has more

_COLUMNS = ", ".join(FRAME_FIELDS[:-1])  # the payload has a table of its own
# Available much later only if the clock was set back meanwhile.
_AVAILABLE = "NOT dead AND (available_at <= :now OR available_at > :now + :longest)"
_ITEM = f"queue.id, worker IS NOT NULL, attempts, company, payload_bytes, {_COLUMNS}, payload".replace(
    "edge_id", "queue.edge_id"
)
_NEXT = (
    f"SELECT {_ITEM} FROM queue INDEXED BY queue_live CROSS JOIN payloads USING (id) "
    f"WHERE queue.edge_id = :edge AND queue.id > :last AND {_AVAILABLE} ORDER BY queue.id LIMIT :most"
)
_EDGES_AT_ONCE = 8  # camera hosts of a large lease, about: more items of each cost fewer queries
_DEAD = "id, attempts, edge_id, boot_id, seq, coalesce(why, ''), payload_bytes, available_at"
_LISTED = "id IN (SELECT value FROM json_each(?))"


def _ignore(removed: Sequence[Dead], why: str) -> None:
    pass


class SqliteQueue:
    """The embedded ``FrameQueue``: a few tables, one process; other processes reach it through the broker."""

    def __init__(
        self, connection: sqlite3.Connection, limits: QueueLimits, removed: Removed = _ignore
    ) -> None:
        """Makes the tables that are missing. ``connection`` is one of ``cloud.storage.database``.

        ``removed`` is called inside the transaction. Raises UnsupportedStore.
        """
        self._db = connection
        self._limits = limits
        self._removed = removed
        self._affinity = Affinity()
        _prepare(connection)

    def put(self, batch: Sequence[QueuedFrame], *, now: float) -> int:
        wanted, held = sum(len(frame.payload) for frame in batch), self.depth_bytes
        if held + wanted > self._limits.max_bytes:
            raise QueueFull(f"the queue holds {held} of {self._limits.max_bytes} bytes")
        payloads: list[tuple[int, bytes]] = []
        added: dict[str, list[int]] = {}  # sizes of new payloads, by edge id
        with transaction(self._db):
            for frame in batch:
                row = self._db.execute(
                    f"INSERT INTO queue (available_at, attempts, payload_bytes, {_COLUMNS}) "
                    "VALUES (?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
                    "ON CONFLICT (edge_id, boot_id, seq) DO NOTHING",
                    (now, len(frame.payload), *frame.values()[:-1]),
                )
                if row.rowcount and row.lastrowid is not None:
                    payloads.append((row.lastrowid, frame.payload))
                    added.setdefault(frame.edge_id, []).append(len(frame.payload))
            self._db.executemany("INSERT INTO payloads VALUES (?, ?)", payloads)
            self._count_live(added, 1)
        return len(payloads)

    def begin(self, batch: Sequence[QueuedFrame]) -> None:
        """Nothing: what is put is a part of the gateway's transaction."""

    def forget_names(self, edge_id: str, boot_id: str) -> None:
        """It knows none but those of frames that it holds."""

    def lease(self, n: int, *, ttl_seconds: float, worker: str, now: float) -> list[Leased]:
        with transaction(self._db):
            leased = self._pick(n, now, self._affinity.reserved(worker, now))
            self._db.executemany(
                "UPDATE queue SET available_at = ?, worker = ?, why = NULL, attempts = ?, "
                "company = ? WHERE id = ?",
                [(now + ttl_seconds, worker, item.attempts, len(leased), item.id) for item in leased],
            )
        self._affinity.leased(worker, hosts_in_groups(leased), drained=len(leased) < n, now=now)
        return leased

    def _pick(self, n: int, now: float, reserved: Collection[str]) -> list[Leased]:
        """The items to lease now; each camera host that gives one goes to the end of the line."""
        picked: list[Leased] = []
        room = _LEASE_BYTES
        times = {"now": now, "longest": LONGEST_LEASE_SECONDS}
        clock = self._total("turn")
        turns: dict[str, int] = {}
        last: dict[str, int] = {}  # the item that each gave last
        buried: list[int] = []
        line = self._db.execute("SELECT edge_id FROM queue_edges WHERE items > 0 ORDER BY turn")
        edges: Iterator[str] = (row[0] for row in line if row[0] not in reserved)
        many = max(1, n // _EDGES_AT_ONCE)
        while room > 0:
            gave: list[str] = []
            for edge_id in edges:
                values = {"edge": edge_id, "last": last.get(edge_id, 0), "most": many, **times}
                for row in self._db.execute(_NEXT, values).fetchall():
                    last[edge_id] = row[0]
                    item, is_suspect = _item(row)
                    if item.attempts > self._limits.max_attempts:
                        buried.append(item.id)
                        gave.append(edge_id)  # there may be one behind it
                        continue
                    size = len(item.frame.payload)
                    if picked and (is_suspect or size > room):
                        # A suspect keeps its turn, and so will be the first, and alone.
                        room = room if is_suspect else 0
                        break
                    picked.append(item)
                    room -= size
                    if edge_id not in gave:
                        gave.append(edge_id)
                        clock += 1
                        turns[edge_id] = clock
                    if len(picked) == n or is_suspect:
                        room = 0
                        break
                if room <= 0:
                    break
            if not gave:
                break
            edges = iter(list(dict.fromkeys(gave)))
        line.close()
        if turns:
            served = [(turn, edge_id) for edge_id, turn in turns.items()]
            self._db.executemany("UPDATE queue_edges SET turn = ? WHERE edge_id = ?", served)
            self._db.execute("UPDATE queue_total SET turn = ?", (clock,))
        # No worker gave a reason: each one's lease ran out, perhaps because this very item killed it.
        self._bury(buried, "its last lease ran out", now)
        return picked

    def extend(self, ids: Sequence[int], *, ttl_seconds: float, worker: str, now: float) -> None:
        with transaction(self._db):
            for id_ in ids:
                changed = self._db.execute(
                    "UPDATE queue SET available_at = ? WHERE id = ? AND worker = ?",
                    (now + ttl_seconds, id_, worker),
                )
                if changed.rowcount != 1:
                    raise LeaseLost(_LOST)

    def ack(self, ids: Sequence[int], *, worker: str) -> None:
        listed = json.dumps(list(ids))
        with transaction(self._db):
            of_worker = f"FROM queue WHERE worker = ? AND {_LISTED}"
            self._db.execute(f"DELETE FROM payloads WHERE id IN (SELECT id {of_worker})", (worker, listed))
            own = self._db.execute(
                f"DELETE {of_worker} RETURNING edge_id, payload_bytes", (worker, listed)
            ).fetchall()
            removed: dict[str, list[int]] = {}
            for edge_id, size in own:
                removed.setdefault(edge_id, []).append(size)
            self._count_live(removed, -1)
        if len(own) < len(ids):
            others = f"SELECT EXISTS (SELECT 1 FROM queue WHERE NOT dead AND {_LISTED})"
            if self._db.execute(others, (listed,)).fetchone()[0]:
                raise LeaseLost(_LOST)

    def nack(
        self, id_: int, *, delay_seconds: float, worker: str, why: str, now: float, hopeless: str = ""
    ) -> None:
        with transaction(self._db):
            row = self._db.execute(
                "SELECT attempts, edge_id, boot_id, seq, payload_bytes FROM queue "
                "WHERE id = ? AND worker = ?",
                (id_, worker),
            ).fetchone()
            if row is None:
                raise LeaseLost(_LOST)
            attempts, edge_id, boot_id, seq, size = row
            if attempts >= self._limits.max_attempts and hopeless:
                self._delete([id_])
                self._count_live({edge_id: [size]}, -1)
                self._removed([Dead(id_, attempts, edge_id, boot_id, seq, why, size, now)], hopeless)
                return
            if attempts >= self._limits.max_attempts:
                self._bury([id_], why, now)
                return
            self._db.execute(
                "UPDATE queue SET available_at = ?, why = ?, worker = NULL WHERE id = ?",
                (now + delay_seconds, why, id_),
            )

    def dead(self, n: int) -> list[Dead]:
        rows = self._db.execute(
            f"SELECT {_DEAD} FROM queue WHERE dead ORDER BY available_at DESC, id DESC LIMIT ?",
            (n,),
        )
        return [Dead(*row) for row in rows]

    def dead_frame(self, id_: int) -> tuple[Dead, QueuedFrame] | None:
        where = "FROM queue JOIN payloads USING (id) WHERE dead AND id = ?"
        row = self._db.execute(f"SELECT {_DEAD} {where}", (id_,)).fetchone()
        if row is None:
            return None
        frame = self._db.execute(f"SELECT {_COLUMNS}, payload {where}", (id_,)).fetchone()
        return Dead(*row), QueuedFrame.of_values(frame)

    def requeue(self, ids: Sequence[int], *, now: float) -> int:
        with transaction(self._db):
            rows = self._listed_dead(ids)
            wanted, held = sum(row.size_bytes for row in rows), self.depth_bytes
            if held + wanted > self._limits.max_bytes:
                raise QueueFull(f"the queue holds {held} of {self._limits.max_bytes} bytes")
            self._db.executemany(
                "UPDATE queue SET dead = 0, available_at = ?, attempts = 0 WHERE id = ?",
                [(now, row.id) for row in rows],
            )
            back: dict[str, list[int]] = {}
            for row in rows:
                back.setdefault(row.edge_id, []).append(row.size_bytes)
            self._count_live(back, 1)
            self._count_dead(rows, -1)
        return len(rows)

    def purge(self, ids: Sequence[int]) -> int:
        with transaction(self._db):
            rows = self._listed_dead(ids)
            self._remove_dead(rows, PURGED)
        return len(rows)

    @property
    def depth(self) -> int:
        (count,) = self._db.execute("SELECT coalesce(sum(items), 0) FROM queue_edges").fetchone()
        return int(count)

    @property
    def dead_count(self) -> int:
        return self._total("dead")

    @property
    def dead_bytes(self) -> int:
        return self._total("dead_bytes")

    @property
    def depth_bytes(self) -> int:
        return self._total("bytes")

    @property
    def room_bytes(self) -> int:
        return max(0, self._limits.max_bytes - self.depth_bytes)

    @property
    def least_room_bytes(self) -> int:
        return least_room(self._limits, self.depth_bytes)

    def room_of(self, edge_id: str) -> int:
        row = self._db.execute("SELECT bytes FROM queue_edges WHERE edge_id = ?", (edge_id,)).fetchone()
        own = 0 if row is None else int(row[0])
        return edge_room(self._limits, own_bytes=own, all_bytes=self.depth_bytes)

    def oldest_age(self, now: float) -> float:
        (oldest,) = self._db.execute(
            "SELECT min((SELECT received_ns FROM queue WHERE queue.edge_id = queue_edges.edge_id "
            "AND NOT dead ORDER BY id LIMIT 1)) FROM queue_edges WHERE items > 0"
        ).fetchone()
        return 0.0 if oldest is None else max(0.0, now - oldest / 1e9)

    def _total(self, column: str) -> int:
        (total,) = self._db.execute(f"SELECT {column} FROM queue_total").fetchone()
        return int(total)

    def _count_live(self, sizes: Mapping[str, Sequence[int]], sign: int) -> None:
        """Note live items that came (``sign`` 1) or went (-1), by edge id."""
        self._db.executemany(
            "INSERT INTO queue_edges VALUES (?, ?, ?, 0) ON CONFLICT (edge_id) DO UPDATE SET "
            "items = items + excluded.items, bytes = bytes + excluded.bytes",
            [(edge_id, sign * len(own), sign * sum(own)) for edge_id, own in sizes.items()],
        )
        change = sign * sum(map(sum, sizes.values()))
        self._db.execute("UPDATE queue_total SET bytes = bytes + ?", (change,))

    def _count_dead(self, rows: Sequence[Dead], sign: int) -> None:
        self._db.execute(
            "UPDATE queue_total SET dead = dead + ?, dead_bytes = dead_bytes + ?",
            (sign * len(rows), sign * sum(row.size_bytes for row in rows)),
        )

    def _bury(self, ids: Sequence[int], why: str, now: float) -> None:
        """Give items up, and remove the oldest dead ones beyond the limits."""
        if not ids:
            return
        self._db.executemany(
            "UPDATE queue SET dead = 1, why = ?, available_at = ?, worker = NULL WHERE id = ?",
            [(why, now, id_) for id_ in ids],
        )
        rows = self._listed_dead(ids)
        gone: dict[str, list[int]] = {}
        for row in rows:
            gone.setdefault(row.edge_id, []).append(row.size_bytes)
        self._count_live(gone, -1)
        self._count_dead(rows, 1)
        over: list[Dead] = []
        count, size = self.dead_count, self.dead_bytes
        oldest = self._db.execute(f"SELECT {_DEAD} FROM queue WHERE dead ORDER BY available_at, id")
        while count > self._limits.max_dead or size > self._limits.max_dead_bytes:
            over.append(Dead(*oldest.fetchone()))
            count, size = count - 1, size - over[-1].size_bytes
        oldest.close()
        self._remove_dead(over, OVER_LIMIT)

    def _remove_dead(self, rows: Sequence[Dead], why: str) -> None:
        if rows:
            self._delete([row.id for row in rows])
            self._count_dead(rows, -1)
            self._removed(rows, why)

    def _listed_dead(self, ids: Sequence[int]) -> list[Dead]:
        rows = self._db.execute(
            f"SELECT {_DEAD} FROM queue WHERE dead AND {_LISTED} ORDER BY id",
            (json.dumps(list(ids)),),
        )
        return [Dead(*row) for row in rows]

    def _delete(self, ids: Sequence[int]) -> None:
        listed = (json.dumps(list(ids)),)
        for table in ("payloads", "queue"):
            self._db.execute(f"DELETE FROM {table} WHERE {_LISTED}", listed)


_LOST = "the lease ran out; another worker may have the item now"


def _item(row: Any) -> tuple[Leased, bool]:
    """An available item as it would be leased now, and whether its last lease ran out."""
    id_, ran_out, attempts, company, _, *frame = row
    # With others in its lease it may have been another's fault.
    attempt = attempts if ran_out and company > 1 else attempts + 1
    return Leased(id_, attempt, QueuedFrame.of_values(frame)), bool(ran_out)


def _prepare(connection: sqlite3.Connection) -> None:
    """Make the tables of this version, and take over what an earlier one left. Raises UnsupportedStore."""
    with named_errors("queue"):
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == VERSION:
            return
        if version > VERSION:
            raise UnsupportedStore(f"queue: schema version {version} is not {VERSION}")
        with immediate(connection):
            earlier = {row[1] for row in connection.execute("PRAGMA table_info(queue)")}
            if earlier:
                _run(connection, _FORGET_DERIVED)
                if "company" not in earlier:
                    connection.execute("ALTER TABLE queue ADD COLUMN company INTEGER NOT NULL DEFAULT 1")
                _run(connection, _STATE_TO_DEAD)
            _run(connection, _SCHEMA)
            if "payload" in earlier:
                connection.execute("INSERT INTO payloads SELECT id, payload FROM queue")
                connection.execute("ALTER TABLE queue DROP COLUMN payload")
            _run(connection, _FILL)
            connection.execute(f"PRAGMA user_version = {VERSION}")


def _run(connection: sqlite3.Connection, script: str) -> None:
    """A script inside the open transaction, which ``executescript`` would end."""
    for statement in script.split(";\n"):
        if statement.strip():
            connection.execute(statement)

"""Requests for enhancement layers: a durable table, and the chunks that come in for them.

    pending ──send──► sent ──all chunks, CRC right──► done
       ▲                │ ├─"expired", "unknown"────► refused
       └─lease over,────┘ └─deadline passed─────────► expired   (a pending request expires too)
         "busy", CRC wrong, new Hello

A request is idempotent by frame: who asks for a frame that is asked for already gets the same number. A sent request
is leased to the link; when no chunk has come for the length of the lease it is sent again. Chunks are kept in memory:
after a restart of the gateway the edge begins again. Instants are Unix seconds handed in as ``now``.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

from secondlook.cloud.storage.queue import transaction
from secondlook.shared.settings import Seconds, Settings, within

_SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    edge_id TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    deadline REAL NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'sent', 'done', 'expired', 'refused')),
    not_before REAL NOT NULL,  -- pending: to be sent from then on; sent: the lease ends
    corrupt_answers INTEGER NOT NULL,
    reason TEXT NOT NULL,
    blob TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS requests_frame ON requests (edge_id, boot_id, seq);
CREATE INDEX IF NOT EXISTS requests_open ON requests (edge_id, state) WHERE state IN ('pending', 'sent');
"""

MAX_CORRUPT_ANSWERS = 3
_DUE = "(not_before <= ? OR not_before > ?)"


class RequestState(StrEnum):
    PENDING = "pending"
    SENT = "sent"
    DONE = "done"
    EXPIRED = "expired"
    REFUSED = "refused"


@dataclass(frozen=True)
class Request:
    """One row. ``blob`` is the key of the layer once it is done; ``reason`` says why it was refused or expired."""

    id: int
    edge_id: str
    boot_id: str
    seq: int
    priority: int
    deadline: float
    state: RequestState
    not_before: float
    corrupt_answers: int
    reason: str
    blob: str | None


_COLUMNS = "id, edge_id, boot_id, seq, priority, deadline, state, not_before, corrupt_answers, reason, blob"


@dataclass(frozen=True)
class RequestTimes(Settings):
    """How enhancement layers are asked for."""

    lease_seconds: Seconds = 15.0  # without a chunk for so long, a request is sent again
    busy_seconds: Seconds = 2.0  # a camera host that said "busy" is asked again after this
    max_sent: Annotated[int, within(1, 4096, "requests")] = 4  # requests a camera host works on at a time


class RequestTable:
    """The durable part."""

    def __init__(self, db: sqlite3.Connection, times: RequestTimes) -> None:
        self._db = db
        self._times = times
        db.executescript(_SCHEMA)

    def ask(
        self,
        edge_id: str,
        boot_id: str,
        seq: int,
        *,
        deadline: float,
        priority: int,
        blob_gone: bool,
        now: float,
    ) -> int:
        """The number of the request for a frame: of one that is open or done, or else of a new one.

        An open request takes the later deadline and the higher priority. With ``blob_gone`` a done one does not
        count.
        """
        with transaction(self._db):
            known = self.of_frame(edge_id, boot_id, seq)
            if known is not None and known.state in (RequestState.PENDING, RequestState.SENT):
                self._db.execute(
                    "UPDATE requests SET deadline = max(deadline, ?), priority = max(priority, ?) WHERE id = ?",
                    (deadline, priority, known.id),
                )
                return known.id
            if known is not None and known.state is RequestState.DONE and not blob_gone:
                return known.id
            added = self._db.execute(
                "INSERT INTO requests (edge_id, boot_id, seq, priority, deadline, state, not_before, "
                "corrupt_answers, reason) VALUES (?, ?, ?, ?, ?, 'pending', ?, 0, '') RETURNING id",
                (edge_id, boot_id, seq, priority, deadline, now),
            ).fetchone()
            return int(added[0])

    def get(self, id_: int) -> Request | None:
        return _request(self._db.execute(f"SELECT {_COLUMNS} FROM requests WHERE id = ?", (id_,)).fetchone())

    def of_frame(self, edge_id: str, boot_id: str, seq: int) -> Request | None:
        """The latest request for a frame."""
        row = self._db.execute(
            f"SELECT {_COLUMNS} FROM requests WHERE edge_id = ? AND boot_id = ? AND seq = ? "
            "ORDER BY id DESC LIMIT 1",
            (edge_id, boot_id, seq),
        ).fetchone()
        return _request(row)

    def to_send(self, edge_id: str, *, now: float) -> list[Request]:
        """What to send to a camera host now, most urgent first; they count as sent from now on."""
        with transaction(self._db):
            self._db.execute(
                f"UPDATE requests SET state = 'pending' WHERE edge_id = ? AND state = 'sent' AND {_DUE}",
                (edge_id, *self._due(now)),
            )
            (sent,) = self._db.execute(
                "SELECT count(*) FROM requests WHERE edge_id = ? AND state = 'sent'", (edge_id,)
            ).fetchone()
            rows = self._db.execute(
                f"SELECT {_COLUMNS} FROM requests WHERE edge_id = ? AND state = 'pending' AND {_DUE} "
                "ORDER BY priority DESC, id LIMIT ?",
                (edge_id, *self._due(now), max(0, self._times.max_sent - sent)),
            ).fetchall()
            self._db.executemany(
                "UPDATE requests SET state = 'sent', not_before = ? WHERE id = ?",
                [(now + self._times.lease_seconds, row[0]) for row in rows],
            )
        return [request for request in map(_request, rows) if request is not None]

    def edges_with_work(self, now: float) -> list[str]:
        """Camera hosts that ``to_send`` may have something for."""
        rows = self._db.execute(
            f"SELECT DISTINCT edge_id FROM requests WHERE state IN ('pending', 'sent') AND {_DUE}",
            self._due(now),
        )
        return [row[0] for row in rows]

    def _due(self, now: float) -> tuple[float, float]:
        """The values of `_DUE`: nothing is set to wait for longer, unless the clock was set back meanwhile."""
        return now, now + max(self._times.lease_seconds, self._times.busy_seconds)

    def extend_lease(self, request: Request, *, now: float) -> None:
        """A chunk came: the lease begins anew. Written only now and then, for each change costs a sync."""
        if request.not_before - now < self._times.lease_seconds / 2:
            self._change(request.id, "state = 'sent', not_before = ?", now + self._times.lease_seconds)

    def requeue_sent(self, edge_id: str, *, now: float) -> None:
        """A camera host connected: what was sent to it before may be lost, so all of it is to be sent again."""
        with transaction(self._db):
            self._db.execute(
                "UPDATE requests SET state = 'pending', not_before = ? WHERE edge_id = ? AND state = 'sent'",
                (now, edge_id),
            )

    def defer(self, id_: int, *, now: float) -> None:
        self._change(id_, "state = 'pending', not_before = ?", now + self._times.busy_seconds)

    def done(self, id_: int, blob: str) -> None:
        self._change(id_, "state = 'done', blob = ?", blob)

    def refuse(self, id_: int, reason: str) -> None:
        self._change(id_, "state = 'refused', reason = ?", reason)

    def corrupt(self, request: Request, *, now: float) -> None:
        """An answer failed its CRC: ask again, a few times."""
        if request.corrupt_answers + 1 >= MAX_CORRUPT_ANSWERS:
            self.refuse(request.id, "corrupt")
        else:
            self._change(
                request.id, "state = 'pending', corrupt_answers = corrupt_answers + 1, not_before = ?", now
            )

    def expire(self, *, now: float) -> None:
        """End the open requests whose deadline has passed."""
        with transaction(self._db):
            self._db.execute(
                "UPDATE requests SET state = 'expired', reason = 'deadline' "
                "WHERE state IN ('pending', 'sent') AND deadline <= ?",
                (now,),
            )

    def forget(self, *, before: float, most: int) -> int:
        """Of the ``most`` oldest requests delete those that ended and were due before an instant; returns how many."""
        with transaction(self._db):
            return self._db.execute(
                "DELETE FROM requests WHERE state NOT IN ('pending', 'sent') AND deadline < ? AND id IN "
                "(SELECT id FROM requests ORDER BY id LIMIT ?)",
                (before, most),
            ).rowcount

    def ended(self, ids: Collection[int]) -> list[int]:
        """Which of ``ids`` are open no more."""
        query = "SELECT count(*) FROM requests WHERE id = ? AND state IN ('pending', 'sent')"
        return [id_ for id_ in ids if self._db.execute(query, (id_,)).fetchone() == (0,)]

    def _change(self, id_: int, change: str, value: object) -> None:
        # Only an open request changes: a late chunk must not wake one that has ended.
        with transaction(self._db):
            self._db.execute(
                f"UPDATE requests SET {change} WHERE id = ? AND state IN ('pending', 'sent')", (value, id_)
            )


@dataclass
class _Partial:
    total: int
    crc32: int
    data: bytearray = field(default_factory=bytearray)


class Assemblies:
    """The chunks that have come in so far, by request."""

    def __init__(self) -> None:
        self._partial: dict[int, _Partial] = {}

    def add(self, id_: int, *, offset: int, total: int, crc32: int, payload: bytes) -> int:
        """Take a chunk; returns how many bytes from 0 on are here. A chunk that leaves a hole is not kept.

        An answer that changes its size or CRC on the way is another answer: it begins anew.
        """
        partial = self._partial.get(id_)
        if partial is None or (partial.total, partial.crc32) != (total, crc32):
            partial = self._partial[id_] = _Partial(total, crc32)
        if offset == len(partial.data):
            partial.data += payload
        return len(partial.data)

    def finish(self, id_: int) -> bytes | None:
        """The whole layer once all of it is here, or None when its CRC is wrong; forgets its chunks either way."""
        partial = self._partial.pop(id_)
        return bytes(partial.data) if zlib.crc32(partial.data) == partial.crc32 else None

    @property
    def ids(self) -> list[int]:
        return list(self._partial)

    def drop(self, ids: Sequence[int]) -> None:
        for id_ in ids:
            self._partial.pop(id_, None)


def _request(row: Any) -> Request | None:
    if row is None:
        return None
    values = list(row)
    values[6] = RequestState(values[6])
    return Request(*values)

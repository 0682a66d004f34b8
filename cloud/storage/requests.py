"""Requests for enhancement layers: a durable table, and the chunks that come in for them.

    pending ──send──► sent ──all chunks, CRC right──► done
       ▲                │ ├─"expired", "unknown"────► refused
       └─lease over,────┘ └─deadline passed─────────► expired   (a pending request expires too)
         "busy", CRC wrong, new Hello

A request is idempotent by frame and crop: who asks for what is asked for already gets the same number, and so
does who asks for a crop of a frame that is asked for whole. A sent request
is leased to the link; when no chunk has come for the length of the lease it is sent again. Chunks are kept in memory:
after a restart of the gateway the edge begins again. Instants are Unix seconds handed in as ``now``.

Where gateways share the table, any of them may note a request, and the one to which the camera host is connected sends
it. A gateway whose connection to a camera host is dead, but does not know so yet, may take a request for itself; the
lease of the request runs out, and a Hello at another gateway frees all of them at once.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    Row,
    Select,
    String,
    Table,
    and_,
    bindparam,
    delete,
    func,
    or_,
    select,
    update,
)

from secondlook.cloud.config import RequestTimes
from secondlook.cloud.storage.database import TABLES, Database, prepare_tables, take_over
from secondlook.cloud.storage.sql import hold_lock
from secondlook.shared.crop import Crop

MAX_CORRUPT_ANSWERS = 3
AHEAD = (
    -1
)  # the priority of what nobody asked for yet: below all others, and sent to a camera host with nothing to do


class RequestState(StrEnum):
    PENDING = "pending"
    SENT = "sent"
    DONE = "done"
    EXPIRED = "expired"
    REFUSED = "refused"


_requests = Table(
    "gateway_requests",
    TABLES,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("edge_id", String(64), nullable=False),
    Column("boot_id", String(32), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("deadline", Float, nullable=False),
    Column("state", String(16), nullable=False),
    Column("not_before", Float, nullable=False),  # pending: to be sent from then on; sent: the lease ends
    Column("corrupt_answers", Integer, nullable=False),
    Column("reason", String(255), nullable=False),
    Column("blob", String(255)),
    Column("crop", String(32)),  # as `shared.crop` writes it; NULL: the whole frame is wanted
    sqlite_autoincrement=True,
)
_row = _requests.c
_is_open = _row.state.in_([RequestState.PENDING.value, RequestState.SENT.value])
_is_mine = _row.edge_id == bindparam("edge")
# Nothing is set to wait for longer than the times say, unless a clock was set back meanwhile.
_is_due = or_(_row.not_before <= bindparam("now"), _row.not_before > bindparam("farthest"))
_is_overdue = and_(_is_open, _row.deadline <= bindparam("now"))
Index("gateway_requests_frame", _row.edge_id, _row.boot_id, _row.seq)
Index("gateway_requests_open", _row.edge_id, _row.state, postgresql_where=_is_open, sqlite_where=_is_open)

# Built once: to build a statement costs more than to run it.
_BY_ID = select(_requests).where(_row.id == bindparam("number"))
_BY_FRAME = (
    select(_requests)
    .where(
        _row.edge_id == bindparam("edge"),
        _row.boot_id == bindparam("boot"),
        _row.seq == bindparam("frame"),
        or_(_row.crop.is_(None), _row.crop == bindparam("crop", type_=String)),
    )
    .order_by(_row.id.desc())
    .limit(1)
)
_WITH_WORK = select(_row.edge_id).distinct().where(_is_open, _is_due)
_RUN_OUT = (
    update(_requests)
    .where(_is_mine, _row.state == RequestState.SENT.value, _is_due)
    .values(state=RequestState.PENDING.value)
)
_SENT = select(func.count()).select_from(_requests).where(_is_mine, _row.state == RequestState.SENT.value)
_TO_SEND = (
    select(_requests)
    .where(_is_mine, _row.state == RequestState.PENDING.value, _is_due)
    .order_by(_row.priority.desc(), _row.id)
    .limit(bindparam("most", type_=Integer))
    .with_for_update(skip_locked=True)
)
_ANY_OVERDUE = select(_row.id).where(_is_overdue).limit(1)
_EXPIRE = update(_requests).where(_is_overdue).values(state=RequestState.EXPIRED.value, reason="deadline")


@dataclass(frozen=True)
class Request:
    """One row. ``blob`` is the key of the layer once it is done; ``reason`` says why it was refused or expired.

    ``crop``: what of the frame is wanted, None for all of it.
    """

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
    crop: Crop | None = None


class RequestTable:
    """The durable part. Every method raises the StorageErrors of its database."""

    def __init__(self, database: Database, times: RequestTimes) -> None:
        """Makes the tables that are missing. Raises UnsupportedStore."""
        self._database = database
        self._times = times
        with database.changing() as connection:
            prepare_tables(connection)
            take_over(connection, "requests", _requests)

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
        crop: Crop | None = None,
    ) -> int:
        """The number of the request for a frame, or a crop of it: of one that is open or done, or else of a new one.

        An open request takes the later deadline and the higher priority, of those that somebody waits for. With
        ``blob_gone`` a done one does not count.
        """
        with self._database.changing() as connection:
            # Two refiners may ask for one frame at once, through two gateways.
            hold_lock(connection, f"{edge_id}/{boot_id}/{seq}")
            known = self._latest(connection, edge_id, boot_id, seq, crop)
            if known is not None and known.state in (RequestState.PENDING, RequestState.SENT):
                news = {
                    "deadline": max(known.deadline, deadline) if known.priority != AHEAD else deadline,
                    "priority": max(known.priority, priority),
                }
                if priority != AHEAD:
                    connection.execute(update(_requests).where(_row.id == known.id).values(news))
                return known.id
            if known is not None and known.state is RequestState.DONE and not blob_gone:
                return known.id
            added = _requests.insert().values(
                edge_id=edge_id,
                boot_id=boot_id,
                seq=seq,
                priority=priority,
                deadline=deadline,
                state=RequestState.PENDING.value,
                not_before=now,
                corrupt_answers=0,
                reason="",
                crop=None if crop is None else str(crop),
            )
            return int(connection.execute(added.returning(_row.id)).scalar_one())

    def get(self, id_: int) -> Request | None:
        return self._one(_BY_ID, number=id_)

    def of_frame(self, edge_id: str, boot_id: str, seq: int, crop: Crop | None = None) -> Request | None:
        """The latest request for a frame; with ``crop`` one for that alone will do as well."""
        with self._database.reading() as connection:
            return self._latest(connection, edge_id, boot_id, seq, crop)

    def to_send(self, edge_id: str, *, now: float) -> list[Request]:
        """What to send to a camera host now, most urgent first; they count as sent from now on.

        Of those ahead of their time one, where it has nothing else to answer.
        """
        due = {"edge": edge_id, **self._due(now)}
        with self._database.changing() as connection:
            connection.execute(_RUN_OUT, due)
            sent = connection.scalar(_SENT, {"edge": edge_id}) or 0
            most = max(0, self._times.max_sent - sent)
            found = connection.execute(_TO_SEND, {**due, "most": most}).all()
            rows = [row for row in found if row.priority != AHEAD] or (found[:1] if sent == 0 else [])
            connection.execute(
                update(_requests)
                .where(_row.id.in_([row.id for row in rows]))
                .values(state=RequestState.SENT.value, not_before=now + self._times.lease_seconds)
            )
        return [request for request in map(_request, rows) if request is not None]

    def edges_with_work(self, now: float) -> list[str]:
        """Camera hosts that ``to_send`` may have something for."""
        with self._database.reading() as connection:
            return list(connection.scalars(_WITH_WORK, self._due(now)))

    def extend_lease(self, request: Request, *, now: float) -> None:
        """A chunk came: the lease begins anew. Written only now and then, for each change costs a sync."""
        if request.not_before - now < self._times.lease_seconds / 2:
            lease_end = now + self._times.lease_seconds
            self._change(request.id, state=RequestState.SENT.value, not_before=lease_end)

    def requeue_sent(self, edge_id: str, *, now: float) -> None:
        """A camera host connected: what was sent to it before may be lost, so all of it is to be sent again."""
        with self._database.changing() as connection:
            connection.execute(
                update(_requests)
                .where(_row.edge_id == edge_id, _row.state == RequestState.SENT.value)
                .values(state=RequestState.PENDING.value, not_before=now)
            )

    def defer(self, id_: int, *, now: float) -> None:
        self._change(id_, state=RequestState.PENDING.value, not_before=now + self._times.busy_seconds)

    def done(self, id_: int, blob: str) -> None:
        self._change(id_, state=RequestState.DONE.value, blob=blob)

    def refuse(self, id_: int, reason: str) -> None:
        self._change(id_, state=RequestState.REFUSED.value, reason=reason)

    def corrupt(self, request: Request, *, now: float) -> None:
        """An answer failed its CRC: ask again, a few times."""
        if request.corrupt_answers + 1 >= MAX_CORRUPT_ANSWERS:
            self.refuse(request.id, "corrupt")
            return
        self._change(
            request.id,
            state=RequestState.PENDING.value,
            corrupt_answers=_row.corrupt_answers + 1,
            not_before=now,
        )

    def expire(self, *, now: float) -> None:
        """End the open requests whose deadline has passed."""
        # Most often there is nothing to end, and finding that out must not cost a commit.
        with self._database.reading() as connection:
            found = connection.execute(_ANY_OVERDUE, {"now": now}).first()
        if found is not None:
            with self._database.changing() as connection:
                connection.execute(_EXPIRE, {"now": now})

    def forget(self, *, before: float, most: int) -> int:
        """Of the ``most`` oldest requests delete those that ended and were due before an instant; returns how many."""
        # Another gateway may be at it: two that wait for each other's rows would stand still.
        oldest = select(_row.id).order_by(_row.id).limit(most).with_for_update(skip_locked=True)
        old = delete(_requests).where(~_is_open, _row.deadline < before, _row.id.in_(oldest))
        with self._database.changing() as connection:
            return connection.execute(old).rowcount

    def ended(self, ids: Collection[int]) -> list[int]:
        """Which of ``ids`` are open no more, whoever ended them."""
        if not ids:
            return []
        with self._database.reading() as connection:
            still_open = set(connection.scalars(select(_row.id).where(_row.id.in_(ids), _is_open)))
        return [id_ for id_ in ids if id_ not in still_open]

    def _latest(
        self, connection: Connection, edge_id: str, boot_id: str, seq: int, crop: Crop | None
    ) -> Request | None:
        of_frame = {"edge": edge_id, "boot": boot_id, "frame": seq}
        wanted = None if crop is None else str(crop)
        return _request(connection.execute(_BY_FRAME, {**of_frame, "crop": wanted}).one_or_none())

    def _due(self, now: float) -> dict[str, float]:
        """The values of `_is_due`."""
        return {"now": now, "farthest": now + max(self._times.lease_seconds, self._times.busy_seconds)}

    def _change(self, id_: int, **values: Any) -> None:
        # Only an open request changes: a late chunk must not wake one that has ended.
        with self._database.changing() as connection:
            connection.execute(update(_requests).where(_row.id == id_, _is_open).values(**values))

    def _one(self, query: Select[Any], **values: object) -> Request | None:
        with self._database.reading() as connection:
            return _request(connection.execute(query, values).one_or_none())


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


def _request(row: Row[Any] | None) -> Request | None:
    if row is None:
        return None
    values = row._asdict()
    crop = None if values["crop"] is None else Crop.parse(values["crop"])
    return Request(**{**values, "state": RequestState(values["state"]), "crop": crop})

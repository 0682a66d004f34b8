"""Enhancement requests on PostgreSQL, for gateways that share one; see ``cloud.storage.requests`` for the states.

Any gateway may note a request, and the one to which the camera host is connected sends it. A gateway whose connection
to a camera host is dead, but does not know so yet, may take a request for itself; the lease of the request runs out,
and a Hello at another gateway frees all of them at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    Row,
    Select,
    String,
    Table,
    and_,
    delete,
    func,
    literal,
    or_,
    select,
    update,
)

from secondlook.cloud.storage.ledger_sql import TABLES
from secondlook.cloud.storage.requests import MAX_CORRUPT_ANSWERS, Request, RequestState, RequestTimes
from secondlook.cloud.storage.sql import hold_lock, make_tables, named_errors

_requests = Table(
    "gateway_requests",
    TABLES,
    Column("id", BigInteger, primary_key=True),
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
)
_row = _requests.c
_is_open = _row.state.in_([RequestState.PENDING.value, RequestState.SENT.value])
Index("gateway_requests_frame", _row.edge_id, _row.boot_id, _row.seq)
Index("gateway_requests_open", _row.edge_id, _row.state, postgresql_where=_is_open)

_WHAT = "requests"


class SqlRequestTable:
    """``RequestStore`` on PostgreSQL. Every method raises StoreUnavailable, StoreBusy, DiskFull."""

    def __init__(self, engine: Engine, times: RequestTimes) -> None:
        self._engine = engine
        self._times = times
        with self._changing() as connection:
            make_tables(connection, TABLES)

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
        with self._changing() as connection:
            # Two refiners may ask for one frame at once, through two gateways.
            hold_lock(connection, f"{edge_id}/{boot_id}/{seq}")
            known = _request(connection.execute(_latest(edge_id, boot_id, seq)).one_or_none())
            if known is not None and known.state in (RequestState.PENDING, RequestState.SENT):
                connection.execute(
                    update(_requests)
                    .where(_row.id == known.id)
                    .values(
                        deadline=func.greatest(_row.deadline, literal(deadline)),
                        priority=func.greatest(_row.priority, literal(priority)),
                    )
                )
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
            )
            return int(connection.execute(added.returning(_row.id)).scalar_one())

    def get(self, id_: int) -> Request | None:
        return self._one(select(_requests).where(_row.id == id_))

    def of_frame(self, edge_id: str, boot_id: str, seq: int) -> Request | None:
        return self._one(_latest(edge_id, boot_id, seq))

    def to_send(self, edge_id: str, *, now: float) -> list[Request]:
        with self._changing() as connection:
            mine = _row.edge_id == edge_id
            connection.execute(
                update(_requests)
                .where(mine, _row.state == RequestState.SENT.value, self._is_due(now))
                .values(state=RequestState.PENDING.value)
            )
            sent = connection.scalar(
                select(func.count()).select_from(_requests).where(mine, _row.state == RequestState.SENT.value)
            )
            rows = connection.execute(
                select(_requests)
                .where(mine, _row.state == RequestState.PENDING.value, self._is_due(now))
                .order_by(_row.priority.desc(), _row.id)
                .limit(max(0, self._times.max_sent - (sent or 0)))
                .with_for_update(skip_locked=True)
            ).all()
            connection.execute(
                update(_requests)
                .where(_row.id.in_([row.id for row in rows]))
                .values(state=RequestState.SENT.value, not_before=now + self._times.lease_seconds)
            )
        return [request for request in map(_request, rows) if request is not None]

    def edges_with_work(self, now: float) -> list[str]:
        with named_errors(self._engine, _WHAT), self._engine.connect() as connection:
            query = select(_row.edge_id).distinct().where(_is_open, self._is_due(now))
            return list(connection.scalars(query))

    def _is_due(self, now: float) -> ColumnElement[bool]:
        """Nothing is set to wait for longer than the times say, unless a clock was set back meanwhile."""
        longest = max(self._times.lease_seconds, self._times.busy_seconds)
        return or_(_row.not_before <= now, _row.not_before > now + longest)

    def extend_lease(self, request: Request, *, now: float) -> None:
        if request.not_before - now < self._times.lease_seconds / 2:
            self._change(
                request.id, state=RequestState.SENT.value, not_before=now + self._times.lease_seconds
            )

    def requeue_sent(self, edge_id: str, *, now: float) -> None:
        with self._changing() as connection:
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
        if request.corrupt_answers + 1 >= MAX_CORRUPT_ANSWERS:
            self.refuse(request.id, "corrupt")
        else:
            self._change(
                request.id,
                state=RequestState.PENDING.value,
                corrupt_answers=_row.corrupt_answers + 1,
                not_before=now,
            )

    def expire(self, *, now: float) -> None:
        # Most often there is nothing to end, and finding that out must not cost a commit.
        overdue = and_(_is_open, _row.deadline <= now)
        with named_errors(self._engine, _WHAT), self._engine.connect() as connection:
            found = connection.execute(select(_row.id).where(overdue).limit(1)).first()
        if found is not None:
            with self._changing() as connection:
                connection.execute(
                    update(_requests)
                    .where(overdue)
                    .values(state=RequestState.EXPIRED.value, reason="deadline")
                )

    def forget(self, *, before: float, most: int) -> int:
        # Another gateway may be at it: two that wait for each other's rows would stand still.
        oldest = select(_row.id).order_by(_row.id).limit(most).with_for_update(skip_locked=True)
        old = delete(_requests).where(~_is_open, _row.deadline < before, _row.id.in_(oldest))
        with self._changing() as connection:
            return connection.execute(old).rowcount

    def ended(self, ids: Collection[int]) -> list[int]:
        if not ids:
            return []
        with named_errors(self._engine, _WHAT), self._engine.connect() as connection:
            still_open = set(connection.scalars(select(_row.id).where(_row.id.in_(ids), _is_open)))
        return [id_ for id_ in ids if id_ not in still_open]

    @contextmanager
    def _changing(self) -> Iterator[Connection]:
        with named_errors(self._engine, _WHAT), self._engine.begin() as connection:
            yield connection

    def _change(self, id_: int, **values: Any) -> None:
        # Only an open request changes: a late chunk must not wake one that has ended.
        with self._changing() as connection:
            connection.execute(update(_requests).where(_row.id == id_, _is_open).values(**values))

    def _one(self, query: Select[Any]) -> Request | None:
        with named_errors(self._engine, _WHAT), self._engine.connect() as connection:
            return _request(connection.execute(query).one_or_none())


def _latest(edge_id: str, boot_id: str, seq: int) -> Select[Any]:
    return (
        select(_requests)
        .where(_row.edge_id == edge_id, _row.boot_id == boot_id, _row.seq == seq)
        .order_by(_row.id.desc())
        .limit(1)
    )


def _request(row: Row[Any] | None) -> Request | None:
    if row is None:
        return None
    values = row._asdict()
    return Request(**{**values, "state": RequestState(values["state"])})

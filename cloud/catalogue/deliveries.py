"""What is told to other systems: each message is a row from the moment its event is passed until its receiver has it.

A sink (a webhook, a broker) has a cursor into the feed (`cloud.catalogue.feed`). Its messages and its cursor are
moved on in one transaction, and a message goes when its receiver has said that it has it: a crash repeats some, under
the same number, and loses none. A message that its receiver would not take for too long stays, in the dead-letter list.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    CursorResult,
    Index,
    Integer,
    String,
    Text,
    delete,
    func,
    select,
    text,
    update,
)
from sqlalchemy.orm import Mapped, mapped_column

from secondlook.cloud.catalogue.schema import Base, table_of
from secondlook.cloud.catalogue.store import Catalogue
from secondlook.cloud.storage.sql import hold_lock, insert

_Id = BigInteger().with_variant(Integer(), "sqlite")
_MOST_ERROR = 255


class DeliveryRow(Base):
    __tablename__ = "deliveries"
    __table_args__ = (Index("deliveries_due", "sink", "dead_ns", "next_ns"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    sink: Mapped[str] = mapped_column(String(64))
    uid: Mapped[str] = mapped_column(String(36), unique=True)  # the same each time it is sent
    kind: Mapped[str] = mapped_column(String(32))
    body: Mapped[str] = mapped_column(Text)  # JSON
    created_ns: Mapped[int] = mapped_column(BigInteger)
    attempts: Mapped[int] = mapped_column(Integer, server_default="0", default=0)
    next_ns: Mapped[int] = mapped_column(BigInteger)  # not sent earlier
    last_error: Mapped[str | None] = mapped_column(String(255))
    dead_ns: Mapped[int | None] = mapped_column(BigInteger)  # when it was given up


class Notified(Base):
    """How far each sink has come."""

    __tablename__ = "notified"
    sink: Mapped[str] = mapped_column(String(64), primary_key=True)
    cursor: Mapped[str] = mapped_column(String(128))


class NotifiedCamera(Base):
    """What each sink was told last of each camera host."""

    __tablename__ = "notified_cameras"
    sink: Mapped[str] = mapped_column(String(64), primary_key=True)
    edge_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    since_ns: Mapped[int] = mapped_column(BigInteger)


class Sender(Base):
    """Which process sends; others wait until its lease runs out."""

    __tablename__ = "senders"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(String(128))
    until_ns: Mapped[int] = mapped_column(BigInteger)


@dataclass(frozen=True)
class Message:
    """One thing to tell. `kind` is as `detection.stored`, `body` JSON, `uid` its number for the receiver."""

    uid: str
    kind: str
    body: str


@dataclass(frozen=True)
class Delivery:
    """A message that waits, or was given up."""

    id: int
    sink: str
    message: Message
    created_ns: int
    attempts: int
    last_error: str | None
    dead_ns: int | None


@dataclass(frozen=True)
class CameraNote:
    """What a sink knows of a camera host: its state, and since when it has been told so."""

    state: str
    since_ns: int


@dataclass(frozen=True)
class Standing:
    """How a sink stands: messages that wait, and those that were given up."""

    sink: str
    waiting: int
    dead: int
    last_error: str | None


def take_sender(catalogue: Catalogue, name: str, owner: str, *, lease_seconds: float, now_ns: int) -> bool:
    """Be the one who sends, or stay it, for so long; False while another process is."""
    until_ns = now_ns + int(lease_seconds * 1e9)
    with catalogue.writing() as session:
        hold_lock(session.connection(), f"sender {name}")
        row = session.get(Sender, name)
        if row is None:
            session.add(Sender(name=name, owner=owner, until_ns=until_ns))
            return True
        if row.owner != owner and row.until_ns > now_ns:
            return False
        row.owner, row.until_ns = owner, until_ns
        return True


def release_sender(catalogue: Catalogue, name: str, owner: str) -> None:
    """Let another process send at once."""
    with catalogue.writing() as session:
        session.execute(delete(Sender).where(Sender.name == name, Sender.owner == owner))


def cursor_of(catalogue: Catalogue, sink: str) -> str | None:
    """How far a sink has come; None before its first step."""
    with catalogue.reading() as session:
        return session.scalars(select(Notified.cursor).where(Notified.sink == sink)).one_or_none()


def move_on(
    catalogue: Catalogue,
    sink: str,
    before: str | None,
    after: str,
    messages: Iterable[Message],
    cameras: Mapping[str, CameraNote],
    *,
    now_ns: int,
) -> bool:
    """Queue messages and note how far the sink has come, all or nothing; False, with nothing done, where another
    process has moved it from `before` meanwhile."""
    with catalogue.writing() as session:
        connection = session.connection()
        hold_lock(connection, f"sink {sink}")
        row = session.get(Notified, sink)
        if (None if row is None else row.cursor) != before:
            return False
        if row is None:
            session.add(Notified(sink=sink, cursor=after))
        else:
            row.cursor = after
        for edge_id, note in cameras.items():
            told = insert(connection, table_of(NotifiedCamera)).values(
                sink=sink, edge_id=edge_id, state=note.state, since_ns=note.since_ns
            )
            fresh = {"state": told.excluded.state, "since_ns": told.excluded.since_ns}
            session.execute(told.on_conflict_do_update(index_elements=["sink", "edge_id"], set_=fresh))
        session.add_all(
            DeliveryRow(sink=sink, created_ns=now_ns, next_ns=now_ns, attempts=0, **vars(message))
            for message in messages
        )
        return True


def cameras_noted(catalogue: Catalogue, sink: str) -> dict[str, CameraNote]:
    """What a sink was told last of each camera host."""
    with catalogue.reading() as session:
        rows = session.scalars(select(NotifiedCamera).where(NotifiedCamera.sink == sink))
        return {row.edge_id: CameraNote(row.state, row.since_ns) for row in rows}


def due_deliveries(catalogue: Catalogue, sink: str, *, now_ns: int, limit: int) -> list[Delivery]:
    """What is to be sent now, the oldest first."""
    query = select(DeliveryRow).where(
        DeliveryRow.sink == sink, DeliveryRow.dead_ns.is_(None), DeliveryRow.next_ns <= now_ns
    )
    with catalogue.reading() as session:
        return [_delivery(row) for row in session.scalars(query.order_by(DeliveryRow.id).limit(limit))]


def count_waiting(catalogue: Catalogue, sink: str, most: int) -> int:
    """How many messages wait, counted up to `most`."""
    waiting = select(DeliveryRow.id).where(DeliveryRow.sink == sink, DeliveryRow.dead_ns.is_(None))
    with catalogue.reading() as session:
        return session.scalar(select(func.count()).select_from(waiting.limit(most).subquery())) or 0


def end_delivery(catalogue: Catalogue, id_: int) -> None:
    """Its receiver has it."""
    with catalogue.writing() as session:
        session.execute(delete(DeliveryRow).where(DeliveryRow.id == id_))


def put_off_delivery(
    catalogue: Catalogue, id_: int, error: str, *, next_ns: int, dead_ns: int | None
) -> None:
    """Its receiver did not take it: send it again then, or, with `dead_ns`, never by itself."""
    with catalogue.writing() as session:
        changed = {"last_error": error[:_MOST_ERROR], "next_ns": next_ns, "dead_ns": dead_ns}
        attempts = DeliveryRow.attempts + 1
        session.execute(update(DeliveryRow).where(DeliveryRow.id == id_).values(attempts=attempts, **changed))


def trim_dead(catalogue: Catalogue, sink: str, most: int) -> int:
    """Throw away the oldest dead messages of a sink beyond `most`; returns how many."""
    kept = (
        select(DeliveryRow.id)
        .where(DeliveryRow.sink == sink, DeliveryRow.dead_ns.is_not(None))
        .order_by(DeliveryRow.id.desc())
        .offset(most)
    )
    with catalogue.writing() as session:
        result = session.execute(delete(DeliveryRow).where(DeliveryRow.id.in_(session.scalars(kept).all())))
        return cast("CursorResult[Any]", result).rowcount


def list_dead(catalogue: Catalogue, *, sink: str | None = None, limit: int = 500) -> list[Delivery]:
    """Messages that were given up, the newest first."""
    query = select(DeliveryRow).where(DeliveryRow.dead_ns.is_not(None))
    if sink is not None:
        query = query.where(DeliveryRow.sink == sink)
    with catalogue.reading() as session:
        return [_delivery(row) for row in session.scalars(query.order_by(DeliveryRow.id.desc()).limit(limit))]


def revive(catalogue: Catalogue, ids: Collection[int] | None, *, now_ns: int) -> int:
    """Have dead messages sent again, all of them without `ids`; returns how many."""
    with catalogue.writing() as session:
        change = update(DeliveryRow).where(DeliveryRow.dead_ns.is_not(None))
        change = change.values(dead_ns=None, attempts=0, created_ns=now_ns, next_ns=now_ns)
        result = session.execute(change if ids is None else change.where(DeliveryRow.id.in_(ids)))
        return cast("CursorResult[Any]", result).rowcount


def drop_dead(catalogue: Catalogue, ids: Collection[int] | None) -> int:
    """Throw dead messages away, all of them without `ids`; returns how many."""
    with catalogue.writing() as session:
        gone = delete(DeliveryRow).where(DeliveryRow.dead_ns.is_not(None))
        result = session.execute(gone if ids is None else gone.where(DeliveryRow.id.in_(ids)))
        return cast("CursorResult[Any]", result).rowcount


def standings(catalogue: Catalogue) -> list[Standing]:
    """How each sink stands, those too that are no longer configured."""
    dead = func.count(DeliveryRow.dead_ns)
    query = (
        select(Notified.sink, func.count(DeliveryRow.id) - dead, dead, func.max(DeliveryRow.last_error))
        .outerjoin(DeliveryRow, DeliveryRow.sink == Notified.sink)
        .group_by(Notified.sink)
        .order_by(text("1"))
    )
    with catalogue.reading() as session:
        return [Standing(*row) for row in session.execute(query)]


def _delivery(row: DeliveryRow) -> Delivery:
    message = Message(row.uid, row.kind, row.body)
    return Delivery(row.id, row.sink, message, row.created_ns, row.attempts, row.last_error, row.dead_ns)

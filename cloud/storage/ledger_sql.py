"""The gateway's ledger on PostgreSQL, for gateways that share one: what ``storage.ledger`` is in the embedded case.

The queue is another server here, so there is no transaction over both. Frames are put into the queue first and noted
here second, while the rows of their boots are locked. A gateway that dies in between leaves frames that are queued and
not acknowledged: the camera host sends them again, and the queue knows them; if they are worked off by then and the
queue has forgotten them, the catalogue knows them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    func,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from secondlook.cloud.storage.ledger import (
    MAX_RANGES,
    BootName,
    EdgeRecord,
    FrameTombstone,
    has_room,
    missing_parts,
)
from secondlook.cloud.storage.queue import FrameQueue, QueuedFrame
from secondlook.cloud.storage.sql import make_tables, named_errors
from secondlook.shared.errors import UnsupportedStore
from secondlook.shared.link import Received

SCHEMA_VERSION = 1
TABLES = MetaData()

_version = Table("gateway_schema", TABLES, Column("version", Integer, primary_key=True))
_edges = Table(
    "gateway_edges",
    TABLES,
    Column("edge_id", String(64), primary_key=True),
    Column("camera", String(255), nullable=False),
    Column("software", String(255), nullable=False),
    Column("first_seen_ns", BigInteger, nullable=False),
    Column("last_seen_ns", BigInteger, nullable=False),
)
_boots = Table(
    "gateway_boots",
    TABLES,
    Column("edge_id", String(64), primary_key=True),
    Column("boot_id", String(32), primary_key=True),
    Column("cumulative", BigInteger, nullable=False),
    Column("ranges", JSON, nullable=False),  # [[first, last], ...] beyond cumulative
    Column("frames", BigInteger, nullable=False),
    Column("repeated", BigInteger, nullable=False),
)
_tombstones = Table(
    "gateway_tombstones",
    TABLES,
    Column("id", BigInteger, primary_key=True),
    Column("edge_id", String(64), nullable=False),
    Column("boot_id", String(32), nullable=False),
    Column("first_seq", BigInteger, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("reason", String(255), nullable=False),
    Column("received_ns", BigInteger, nullable=False),
)

_WHAT = "ledger"
_MAX_BOOTS_IN_MEMORY = 16_384
_NUMBERING_TOMBSTONES = 7602  # number of the advisory lock under which tombstones get their ids


@dataclass
class _Boot:
    received: Received
    frames: int
    repeated: int


@dataclass
class _Draft:
    """What a batch changes; nothing of it counts before the commit."""

    boots: dict[BootName, _Boot]
    touched: set[BootName] = field(default_factory=set)
    fresh: list[QueuedFrame] = field(default_factory=list)
    tombstones: list[FrameTombstone] = field(default_factory=list)

    def add_frame(self, frame: QueuedFrame) -> None:
        name = (frame.edge_id, frame.boot_id)
        boot = self.boots[name]
        if frame.seq in boot.received:
            boot.repeated += 1
        elif has_room(boot.received):
            boot.received.add(frame.seq)
            boot.frames += 1
            self.fresh.append(frame)
        else:
            return
        self.touched.add(name)

    def add_tombstone(self, tombstone: FrameTombstone) -> None:
        name = (tombstone.edge_id, tombstone.boot_id)
        received = self.boots[name].received
        if not has_room(received):
            return
        # A frame that arrived after all is no tombstone, although the edge dropped it before it heard so.
        for first, last in missing_parts(received, tombstone.first_seq, tombstone.last_seq):
            self.tombstones.append(
                FrameTombstone(*name, first, last, tombstone.reason, tombstone.received_ns)
            )
        received.add(tombstone.first_seq, tombstone.last_seq)
        self.touched.add(name)


class SqlLedger:
    """``cloud.storage.stores.FrameLedger`` on PostgreSQL. Every method raises StoreUnavailable, StoreBusy, DiskFull."""

    def __init__(self, engine: Engine) -> None:
        """Makes the tables that are missing. Raises UnsupportedStore."""
        self._engine = engine
        self._known: dict[BootName, Received] = {}
        with named_errors(engine, _WHAT), engine.begin() as connection:
            make_tables(connection, TABLES)
            connection.execute(insert(_version).values(version=SCHEMA_VERSION).on_conflict_do_nothing())
            versions = connection.scalars(select(_version.c.version)).all()
            if versions != [SCHEMA_VERSION]:
                raise UnsupportedStore(f"ledger: schema version {max(versions)} is not {SCHEMA_VERSION}")

    def take(
        self,
        queue: FrameQueue,
        frames: Sequence[QueuedFrame],
        tombstones: Sequence[FrameTombstone],
        *,
        now: float,
    ) -> set[BootName]:
        boots_of_frames = {(frame.edge_id, frame.boot_id) for frame in frames}
        names = sorted(boots_of_frames | {(tombstone.edge_id, tombstone.boot_id) for tombstone in tombstones})
        with named_errors(self._engine, _WHAT), self._engine.begin() as connection:
            draft = _Draft(_locked(connection, names))
            for frame in frames:
                draft.add_frame(frame)
            for tombstone in tombstones:
                draft.add_tombstone(tombstone)
            if draft.fresh:
                queue.put(draft.fresh, now=now)
            _save(connection, draft)
        for name in draft.touched:
            self._remember(name, draft.boots[name].received)
        return draft.touched

    def forget(self) -> None:
        self._known.clear()

    def received(self, edge_id: str, boot_id: str) -> Received:
        """The safe sequences of a boot; what another gateway took since the last Hello may be missing."""
        name = (edge_id, boot_id)
        if name not in self._known:
            with named_errors(self._engine, _WHAT), self._engine.connect() as connection:
                (boot,) = _read(connection, [name], lock=False).values()
            self._remember(name, boot.received)
        return self._known[name]

    def see_edge(self, edge_id: str, *, camera: str, software: str, now_ns: int) -> None:
        # The edge may come from another gateway: what is remembered here of its boots is out of date.
        for name in [name for name in self._known if name[0] == edge_id]:
            del self._known[name]
        seen = insert(_edges).values(
            edge_id=edge_id, camera=camera, software=software, first_seen_ns=now_ns, last_seen_ns=now_ns
        )
        news = {key: seen.excluded[key] for key in ("camera", "software", "last_seen_ns")}
        with named_errors(self._engine, _WHAT), self._engine.begin() as connection:
            connection.execute(seen.on_conflict_do_update(index_elements=["edge_id"], set_=news))

    def edges(self) -> list[EdgeRecord]:
        return [EdgeRecord(*row) for row in self._rows(select(_edges).order_by(_edges.c.edge_id))]

    def totals(self) -> dict[str, int]:
        ((frames, repeated),) = self._rows(select(func.sum(_boots.c.frames), func.sum(_boots.c.repeated)))
        lengths = func.sum(_tombstones.c.last_seq - _tombstones.c.first_seq + 1)
        ((dropped,),) = self._rows(select(lengths))
        return {
            "received": int(frames or 0),
            "redelivered": int(repeated or 0),
            "tombstones": int(dropped or 0),
        }

    def tombstones_after(self, id_: int, most: int) -> list[tuple[int, FrameTombstone]]:
        table = _tombstones
        rows = self._rows(select(table).where(table.c.id > id_).order_by(table.c.id).limit(most))
        return [(row[0], FrameTombstone(*row[1:])) for row in rows]

    def forget_gaps(self, *, before_ns: int, most: int) -> int:
        table = _tombstones
        # Another gateway may be at it: two that wait for each other's rows would stand still.
        oldest = select(table.c.id).order_by(table.c.id).limit(most).with_for_update(skip_locked=True)
        old = delete(table).where(table.c.received_ns < before_ns, table.c.id.in_(oldest))
        with named_errors(self._engine, _WHAT), self._engine.begin() as connection:
            return connection.execute(old).rowcount

    def _rows(self, query: Any) -> Sequence[Any]:
        with named_errors(self._engine, _WHAT), self._engine.connect() as connection:
            return connection.execute(query).all()

    def _remember(self, name: BootName, received: Received) -> None:
        if len(self._known) >= _MAX_BOOTS_IN_MEMORY:
            self._known.clear()
        self._known[name] = received


def _locked(connection: Connection, names: Sequence[BootName]) -> dict[BootName, _Boot]:
    """The rows of ``names`` (sorted), locked against other gateways until the transaction ends."""
    empty = {"cumulative": -1, "ranges": [], "frames": 0, "repeated": 0}
    rows = [{"edge_id": edge_id, "boot_id": boot_id, **empty} for edge_id, boot_id in names]
    connection.execute(insert(_boots).on_conflict_do_nothing(), rows)
    return _read(connection, names, lock=True)


def _read(connection: Connection, names: Sequence[BootName], *, lock: bool) -> dict[BootName, _Boot]:
    query = select(_boots).where(tuple_(_boots.c.edge_id, _boots.c.boot_id).in_(names))
    # All gateways lock in the same order, and so never wait for each other in a circle.
    query = query.order_by(_boots.c.edge_id, _boots.c.boot_id)
    found = {name: _Boot(Received(), 0, 0) for name in names}
    for edge_id, boot_id, cumulative, ranges, *counts in connection.execute(
        query.with_for_update() if lock else query
    ):
        found[edge_id, boot_id] = _Boot(Received(cumulative, map(tuple, ranges)), *counts)
    return found


def _save(connection: Connection, draft: _Draft) -> None:
    if draft.tombstones:
        # Readers ask for what comes after a number: a lower one must not become visible after a higher one.
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _NUMBERING_TOMBSTONES})
        connection.execute(_tombstones.insert(), [vars(tombstone) for tombstone in draft.tombstones])
    rows = list(_changes(draft))
    if rows:
        connection.execute(
            update(_boots)
            .where(_boots.c.edge_id == bindparam("of_edge"), _boots.c.boot_id == bindparam("of_boot"))
            .values({key: bindparam(f"new_{key}") for key in ("cumulative", "ranges", "frames", "repeated")}),
            rows,
        )


def _changes(draft: _Draft) -> Iterable[dict[str, Any]]:
    for name in sorted(draft.touched):
        boot = draft.boots[name]
        yield {
            "of_edge": name[0],
            "of_boot": name[1],
            "new_cumulative": boot.received.cumulative,
            "new_ranges": boot.received.selective(MAX_RANGES + 1),
            "new_frames": boot.frames,
            "new_repeated": boot.repeated,
        }

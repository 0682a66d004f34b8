"""What the gateway has received of each boot of each camera host, across restarts.

The queue forgets a frame once it is worked off; the ledger does not, and so recognises what is sent twice. A boot's
sequences are one cumulative number and a few ranges, one row a boot.

Embedded, the rows are written in the transaction that puts the frames into the queue: an acknowledgement read from here
is as durable as the frame itself. Where gateways share a ledger on PostgreSQL, the queue is another server and there is
no transaction over both. Frames are put into the queue first and noted here second, while the rows of their boots are
locked. A gateway that dies in between leaves frames that are queued and not acknowledged: the camera host sends them
again, and the queue knows them; if they are worked off by then and the queue has forgotten them, the catalogue knows
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    String,
    Table,
    bindparam,
    cast,
    delete,
    func,
    select,
    text,
    tuple_,
    update,
)

from secondlook.cloud.storage.database import TABLES, Database, prepare_tables, take_over
from secondlook.cloud.storage.queue import FrameQueue, QueuedFrame
from secondlook.cloud.storage.sql import Insert, insert
from secondlook.shared.link import Received, parts_beside
from secondlook.shared.videobits import is_of_group

BootName = tuple[str, str]  # edge_id, boot_id

# Far beyond any honest gap pattern; without a limit a hostile edge could grow a row without end.
MAX_RANGES = 4096
# Workers read tombstones every few seconds; so many of one camera host are kept, and older ones go.
MAX_TOMBSTONES_OF_EDGE = 10_000
_MAX_BOOTS_IN_MEMORY = 4096
_MAX_TOTAL = 2**53 - 1  # what a hostile edge says it dropped may come to more than any number holds
_NUMBERING_TOMBSTONES = 7602  # number of the advisory lock under which tombstones get their ids

_Number = BigInteger().with_variant(Integer, "sqlite")  # SQLite gives numbers to rows of this type only

_edges = Table(
    "gateway_edges",
    TABLES,
    Column("edge_id", String(64), primary_key=True),
    Column("camera", String(255), nullable=False),
    Column("software", String(255), nullable=False),
    Column("first_seen_ns", BigInteger, nullable=False),
    Column("last_seen_ns", BigInteger, nullable=False),
    Column("clock_offset_seconds", Float),  # our clock minus the camera host's, as measured last
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
    Column("id", _Number, primary_key=True),
    Column("edge_id", String(64), nullable=False),
    Column("boot_id", String(32), nullable=False),
    Column("first_seq", BigInteger, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("reason", String(255), nullable=False),
    Column("received_ns", BigInteger, nullable=False),
    Index("gateway_tombstones_edge", "edge_id", "id"),
    sqlite_autoincrement=True,  # readers ask for what comes after a number: none is given twice
)

# Built once: to build a statement costs more than to run it.
_ONE_BOOT = select(_boots).where(_boots.c.edge_id == bindparam("edge"), _boots.c.boot_id == bindparam("boot"))
_SOME_BOOTS = (
    select(_boots)
    .where(tuple_(_boots.c.edge_id, _boots.c.boot_id).in_(bindparam("names", expanding=True)))
    # All gateways lock in the same order, and so never wait for each other in a circle.
    .order_by(_boots.c.edge_id, _boots.c.boot_id)
    .with_for_update()
)
_TOMBSTONES_AFTER = (
    select(_tombstones)
    .where(_tombstones.c.id > bindparam("after"))
    .order_by(_tombstones.c.id)
    .limit(bindparam("most", type_=Integer))
)
_NOTE_CLOCK = (
    update(_edges)
    .where(_edges.c.edge_id == bindparam("edge"))
    .values(clock_offset_seconds=bindparam("offset"))
)
_ALL_EDGES = select(_edges).order_by(_edges.c.edge_id)
# As floats: no number of a database overflows over what its rows claim.
_COUNTS = select(func.sum(cast(_boots.c.frames, Float)), func.sum(cast(_boots.c.repeated, Float)))
_DROPPED = select(func.sum(cast(_tombstones.c.last_seq - _tombstones.c.first_seq + 1, Float)))


_TOMBSTONES_OF = (
    select(func.count()).select_from(_tombstones).where(_tombstones.c.edge_id == bindparam("edge"))
)
_OLDEST_TOMBSTONES = (
    select(_tombstones.c.id)
    .where(_tombstones.c.edge_id == bindparam("edge"))
    .order_by(_tombstones.c.id)
    .limit(bindparam("most", type_=Integer))
)
_FORGET_OLDEST = delete(_tombstones).where(_tombstones.c.id.in_(_OLDEST_TOMBSTONES))


@dataclass(frozen=True)
class FrameTombstone:
    """Frames that a camera host dropped before delivery."""

    edge_id: str
    boot_id: str
    first_seq: int
    last_seq: int
    reason: str
    received_ns: int


@dataclass(frozen=True)
class EdgeRecord:
    edge_id: str
    camera: str
    software: str
    first_seen_ns: int
    last_seen_ns: int
    clock_offset_seconds: float | None = None  # our clock minus the camera host's; None until measured


@dataclass
class _Boot:
    received: Received
    frames: int = 0
    repeated: int = 0


@dataclass
class _Draft:
    """What a batch changes; nothing of it counts before the commit."""

    boots: dict[BootName, _Boot]
    touched: set[BootName] = field(default_factory=set)
    fresh: list[QueuedFrame] = field(default_factory=list)
    tombstones: list[FrameTombstone] = field(default_factory=list)

    def add_frame(self, frame: QueuedFrame) -> None:
        name = (frame.edge_id, frame.info.boot_id)
        boot = self.boots[name]
        if frame.info.seq in boot.received:
            boot.repeated += 1
        elif has_room(boot.received):
            boot.received.add(frame.info.seq)
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


class Ledger:
    """Every method raises the StorageErrors of its database. Use in one thread."""

    def __init__(self, database: Database, *, reads_only: bool = False) -> None:
        """Makes the tables that are missing, unless it only reads. Raises UnsupportedStore."""
        self._database = database
        self._boots: dict[BootName, _Boot] = {}
        self.fresh: Sequence[QueuedFrame] = ()  # what the latest `take` took as new
        self.fresh_tombstones: Sequence[FrameTombstone] = ()
        with database.reading() if reads_only else database.changing() as connection:
            if not reads_only:
                prepare_tables(connection)
                for old, table in (("edges", _edges), ("boots", _boots), ("tombstones", _tombstones)):
                    take_over(connection, old, table)
            new_boot = insert(connection, _boots)
            new_edge = insert(connection, _edges)
        self._make_boots = new_boot.on_conflict_do_nothing()
        self._save_boots = _with_news(new_boot, _boots, "cumulative", "ranges", "frames", "repeated")
        self._save_edge = _with_news(new_edge, _edges, "camera", "software", "last_seen_ns")

    def take(
        self,
        queue: FrameQueue,
        frames: Sequence[QueuedFrame],
        tombstones: Sequence[FrameTombstone],
        *,
        now: float,
    ) -> set[BootName]:
        """Store new frames in the queue and new tombstones here, in one durable step where both share a transaction.

        What came before is only counted. Returns the boots that may be acknowledged now; one that has too many
        holes is left out, and its frames of this batch with it. Raises QueueFull, DiskFull, StoreUnavailable: then
        nothing may be acknowledged.
        """
        boots_of_frames = {(frame.edge_id, frame.info.boot_id) for frame in frames}
        names = sorted(boots_of_frames | {(tombstone.edge_id, tombstone.boot_id) for tombstone in tombstones})
        self._trim()
        with ExitStack() as undo:
            undo.callback(self.forget)
            with self._database.changing() as connection:
                draft = _Draft(self._for_update(connection, names))
                for frame in frames:
                    draft.add_frame(frame)
                for tombstone in tombstones:
                    draft.add_tombstone(tombstone)
                if draft.fresh:
                    queue.put(draft.fresh, now=now)
                self._save(connection, draft)
            undo.pop_all()
        self._boots.update(draft.boots)
        self.fresh, self.fresh_tombstones = draft.fresh, draft.tombstones
        return draft.touched

    def note_lost(self, tombstones: Sequence[FrameTombstone]) -> None:
        """Note frames that were received, and are lost after all."""
        with self._database.changing() as connection:
            self._add_tombstones(connection, tombstones)

    def take_out(self, edge_id: str, boot_id: str, seq: int) -> None:
        """A frame that was received is lost: it counts as one that never came."""
        name = (edge_id, boot_id)
        with self._database.changing() as connection:
            boot = self._for_update(connection, [name])[name]
            if seq not in boot.received:
                return
            parts = [part for whole in boot.received.parts() for part in parts_beside(*whole, [(seq, seq)])]
            left = _Boot(Received(-1, parts), max(0, boot.frames - 1), boot.repeated)
            connection.execute(self._save_boots, [_boot_row(name, left)])
        self._boots[name] = left

    def forget(self) -> None:
        """What was done since the last commit is rolled back: nothing that memory holds of it counts."""
        self._boots.clear()

    def received(self, edge_id: str, boot_id: str) -> Received:
        """The safe sequences of a boot; nothing for one that is not known.

        What another gateway took since the last Hello may be missing.
        """
        name = (edge_id, boot_id)
        if name not in self._boots:
            self._trim()
            with self._database.reading() as connection:
                self._boots[name] = _read(connection, name)
        return self._boots[name].received

    def see_edge(self, edge_id: str, *, camera: str, software: str, now_ns: int) -> None:
        """Note that a camera host said hello, and what it calls its camera."""
        if self._database.is_shared:
            # It may come from another gateway: what is remembered here of its boots is out of date.
            for name in [name for name in self._boots if name[0] == edge_id]:
                del self._boots[name]
        row = EdgeRecord(edge_id, camera, software, now_ns, now_ns)
        with self._database.changing() as connection:
            connection.execute(self._save_edge, vars(row))

    def note_clock(self, edge_id: str, offset_seconds: float) -> None:
        """Keep by how much our clock is ahead of a camera host's."""
        with self._database.changing() as connection:
            connection.execute(_NOTE_CLOCK, {"edge": edge_id, "offset": offset_seconds})

    def edges(self) -> list[EdgeRecord]:
        with self._database.reading() as connection:
            return [EdgeRecord(*row) for row in connection.execute(_ALL_EDGES)]

    def boots(self) -> list[tuple[str, str, int]]:
        """Edge id, boot id and frames received, of every boot."""
        with self._database.reading() as connection:
            rows = connection.execute(select(_boots.c.edge_id, _boots.c.boot_id, _boots.c.frames))
            return [(row[0], row[1], int(row[2])) for row in rows]

    def totals(self) -> dict[str, int]:
        """Frames received, frames that came again, and frames that tombstones stand for; each 2^53-1 at most."""
        with self._database.reading() as connection:
            received, repeated = connection.execute(_COUNTS).one()
            dropped = connection.scalar(_DROPPED)
        sums = {"received": received, "redelivered": repeated, "tombstones": dropped}
        return {name: min(int(total or 0), _MAX_TOTAL) for name, total in sums.items()}

    def tombstones_after(self, id_: int, most: int) -> list[tuple[int, FrameTombstone]]:
        """Tombstones with a number above ``id_``, at most ``most``, in the order they came."""
        with self._database.reading() as connection:
            rows = connection.execute(_TOMBSTONES_AFTER, {"after": id_, "most": most})
            return [(row[0], FrameTombstone(*row[1:])) for row in rows]

    def forget_tombstones(self, *, before_ns: int, most: int) -> int:
        """Of the ``most`` oldest tombstones delete those that came before an instant; returns how many."""
        # Another gateway may be at it: two that wait for each other's rows would stand still.
        oldest = (
            select(_tombstones.c.id).order_by(_tombstones.c.id).limit(most).with_for_update(skip_locked=True)
        )
        old = delete(_tombstones).where(_tombstones.c.received_ns < before_ns, _tombstones.c.id.in_(oldest))
        with self._database.changing() as connection:
            return connection.execute(old).rowcount

    def _for_update(self, connection: Connection, names: Sequence[BootName]) -> dict[BootName, _Boot]:
        """The boots of ``names`` (sorted); where they are shared, locked until the transaction ends."""
        if not self._database.is_shared:
            return {name: self._boots.get(name) or _read(connection, name) for name in names}
        if not names:
            return {}
        empty = {"cumulative": -1, "ranges": [], "frames": 0, "repeated": 0}
        rows = [{"edge_id": edge_id, "boot_id": boot_id, **empty} for edge_id, boot_id in names]
        connection.execute(self._make_boots, rows)
        return {(row[0], row[1]): _boot(row) for row in connection.execute(_SOME_BOOTS, {"names": names})}

    def _save(self, connection: Connection, draft: _Draft) -> None:
        self._add_tombstones(connection, draft.tombstones)
        rows = [_boot_row(name, draft.boots[name]) for name in sorted(draft.touched)]
        if rows:
            connection.execute(self._save_boots, rows)

    def _add_tombstones(self, connection: Connection, tombstones: Sequence[FrameTombstone]) -> None:
        """Add tombstones, neighbours as one; beyond the limit of a camera host its oldest go."""
        if not tombstones:
            return
        if self._database.is_shared:
            # Readers ask for what comes after a number: a lower one must not become visible after a higher one.
            lock = text("SELECT pg_advisory_xact_lock(:number)")
            connection.execute(lock, {"number": _NUMBERING_TOMBSTONES})
        connection.execute(_tombstones.insert(), [vars(tombstone) for tombstone in merged(tombstones)])
        for edge_id in {tombstone.edge_id for tombstone in tombstones}:
            of_edge = {"edge": edge_id}
            surplus = (connection.scalar(_TOMBSTONES_OF, of_edge) or 0) - MAX_TOMBSTONES_OF_EDGE
            if surplus > 0:
                connection.execute(_FORGET_OLDEST, {**of_edge, "most": surplus})

    def _trim(self) -> None:
        """Bound the memory. Not while a batch is taken: what it counted is saved at its end only."""
        if len(self._boots) >= _MAX_BOOTS_IN_MEMORY:
            self._boots.clear()


def merged(tombstones: Sequence[FrameTombstone]) -> list[FrameTombstone]:
    """The same tombstones, those of one boot and reason that touch as one."""
    found: list[FrameTombstone] = []
    for tombstone in sorted(
        tombstones,
        key=lambda tombstone: (tombstone.edge_id, tombstone.boot_id, tombstone.reason, tombstone.first_seq),
    ):
        last = found[-1] if found else None
        if (
            last is not None
            and (last.edge_id, last.boot_id, last.reason)
            == (tombstone.edge_id, tombstone.boot_id, tombstone.reason)
            and tombstone.first_seq <= last.last_seq + 1
        ):
            found[-1] = replace(last, last_seq=max(last.last_seq, tombstone.last_seq))
        else:
            found.append(tombstone)
    return found


def has_room(received: Received) -> bool:
    """Whether a boot's record may grow: it has fewer holes than the limit."""
    return len(received.selective(MAX_RANGES)) < MAX_RANGES


def with_keys(
    frames: Sequence[QueuedFrame],
    received: Callable[[str, str], Received],
) -> list[QueuedFrame]:
    """The frames without those deltas whose key has not come, nor is known to be dropped.

    A frame of a video group needs the one right before it, which needs those before.

    A delta is not taken ahead of its key: a camera host that runs out of room may yet drop a key that is not
    acknowledged, and the delta, acknowledged, could never be decoded. It is sent again, after its key. What the camera
    host was told by another ledger, or by a younger copy of this one, does not count: it compares, and sends the key
    again or says that it is gone. ``received`` is a ledger's method.
    """
    kept: list[QueuedFrame] = []
    here: dict[BootName, set[int]] = {}
    for frame in frames:
        boot, key = (frame.edge_id, frame.info.boot_id), _needed(frame)
        known, seqs = received(*boot), here.setdefault(boot, set())
        if key is None or key in seqs or key in known or frame.info.seq in known:
            kept.append(frame)
            seqs.add(frame.info.seq)
    return kept


def _needed(frame: QueuedFrame) -> int | None:
    """The sequence that a frame cannot do without."""
    if frame.info.key_seq is not None and is_of_group(frame.payload):
        return frame.info.seq - 1
    return frame.info.key_seq


def missing_parts(received: Received, first: int, last: int) -> Iterator[tuple[int, int]]:
    """The parts of ``first``..``last`` that have not been received."""
    return parts_beside(max(first, received.cumulative + 1), last, received.selective(MAX_RANGES + 1))


def _with_news(new: Insert, table: Table, *columns: str) -> Insert:
    """An INSERT that brings these columns up to date where the row is there already."""
    news = {column: new.excluded[column] for column in columns}
    return new.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=news)


def _read(connection: Connection, name: BootName) -> _Boot:
    row = connection.execute(_ONE_BOOT, {"edge": name[0], "boot": name[1]}).one_or_none()
    return _Boot(Received()) if row is None else _boot(row)


def _boot(row: Any) -> _Boot:
    _, _, cumulative, ranges, frames, repeated = row
    return _Boot(Received(cumulative, map(tuple, ranges)), frames, repeated)


def _boot_row(name: BootName, boot: _Boot) -> dict[str, Any]:
    return {
        "edge_id": name[0],
        "boot_id": name[1],
        "cumulative": boot.received.cumulative,
        "ranges": boot.received.selective(MAX_RANGES + 1),
        "frames": boot.frames,
        "repeated": boot.repeated,
    }

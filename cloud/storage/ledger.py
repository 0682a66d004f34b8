"""What the gateway has received of each boot of each camera host, across restarts.

The queue forgets a frame once it is worked off; the ledger does not, and so recognises what is sent twice. A boot's
sequences are one cumulative number and a few ranges, one row a boot, rewritten in the same transaction that puts the
frames into the queue: an acknowledgement read from here is as durable as the frame itself.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from secondlook.cloud.storage.queue import FrameQueue, QueuedFrame, transaction
from secondlook.shared.link import Received, parts_beside

_SCHEMA = """
CREATE TABLE IF NOT EXISTS edges (
    edge_id TEXT PRIMARY KEY,
    camera TEXT NOT NULL,
    software TEXT NOT NULL,
    first_seen_ns INTEGER NOT NULL,
    last_seen_ns INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS boots (
    edge_id TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    cumulative INTEGER NOT NULL,
    ranges TEXT NOT NULL,  -- JSON: [[first, last], ...] beyond cumulative
    frames INTEGER NOT NULL,
    repeated INTEGER NOT NULL,
    PRIMARY KEY (edge_id, boot_id)
) STRICT;
CREATE TABLE IF NOT EXISTS tombstones (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    edge_id TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    reason TEXT NOT NULL,
    received_ns INTEGER NOT NULL
) STRICT;
"""

BootName = tuple[str, str]  # edge_id, boot_id

# Far beyond any honest gap pattern; without a limit a hostile edge could grow a row without end.
MAX_RANGES = 4096
_MAX_BOOTS_IN_MEMORY = 1024


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


@dataclass
class _Boot:
    received: Received
    frames: int = 0
    repeated: int = 0


@dataclass
class Ledger:
    db: sqlite3.Connection
    _boots: dict[BootName, _Boot] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.db.executescript(_SCHEMA)

    def take(
        self,
        queue: FrameQueue,
        frames: Sequence[QueuedFrame],
        tombstones: Sequence[FrameTombstone],
        *,
        now: float,
    ) -> set[BootName]:
        """Store new frames in the queue and new tombstones here, in one durable step.

        What came before is only counted. Returns the boots that may be acknowledged now; one that has too many
        holes is left out, and its frames of this batch with it. Raises QueueFull, DiskFull, having stored nothing.
        """
        self._trim()
        touched: set[BootName] = set()
        try:
            with transaction(self.db):
                fresh = []
                for frame in frames:
                    if self._take_frame(frame, touched):
                        fresh.append(frame)
                for tombstone in tombstones:
                    self._take_tombstone(tombstone, touched)
                queue.put(fresh, now=now)
                for name in touched:
                    self._save(name)
        except BaseException:
            self.forget()
            raise
        return touched

    def forget(self) -> None:
        """What was counted in memory goes, as the rows it stands for were rolled back."""
        self._boots.clear()

    def received(self, edge_id: str, boot_id: str) -> Received:
        """The safe sequences of a boot; nothing for one that is not known."""
        self._trim()
        return self._boot((edge_id, boot_id)).received

    def see_edge(self, edge_id: str, *, camera: str, software: str, now_ns: int) -> None:
        """Note that a camera host said hello, and what it calls its camera."""
        with transaction(self.db):
            self.db.execute(
                "INSERT INTO edges VALUES (?, ?, ?, ?, ?) ON CONFLICT (edge_id) DO UPDATE SET "
                "camera = excluded.camera, software = excluded.software, last_seen_ns = excluded.last_seen_ns",
                (edge_id, camera, software, now_ns, now_ns),
            )

    def edges(self) -> list[EdgeRecord]:
        rows = self.db.execute(
            "SELECT edge_id, camera, software, first_seen_ns, last_seen_ns FROM edges ORDER BY edge_id"
        )
        return [EdgeRecord(*row) for row in rows]

    def totals(self) -> dict[str, int]:
        """Frames received, frames that came again, and frames that tombstones stand for."""
        frames, repeated = self.db.execute(
            "SELECT coalesce(sum(frames), 0), coalesce(sum(repeated), 0) FROM boots"
        ).fetchone()
        (dropped,) = self.db.execute(
            "SELECT CAST(total(last_seq - first_seq + 1) AS INTEGER) FROM tombstones"
        ).fetchone()
        return {"received": frames, "redelivered": repeated, "tombstones": dropped}

    def tombstones_after(self, id_: int, most: int) -> list[tuple[int, FrameTombstone]]:
        """Gaps with a number above ``id_``, at most ``most``, in the order they came."""
        rows = self.db.execute(
            "SELECT id, edge_id, boot_id, first_seq, last_seq, reason, received_ns FROM tombstones "
            "WHERE id > ? ORDER BY id LIMIT ?",
            (id_, most),
        )
        return [(row[0], FrameTombstone(*row[1:])) for row in rows]

    def forget_gaps(self, *, before_ns: int, most: int) -> int:
        """Of the ``most`` oldest tombstones delete those that came before an instant; returns how many."""
        with transaction(self.db):
            return self.db.execute(
                "DELETE FROM tombstones WHERE received_ns < ? AND id IN "
                "(SELECT id FROM tombstones ORDER BY id LIMIT ?)",
                (before_ns, most),
            ).rowcount

    def _take_frame(self, frame: QueuedFrame, touched: set[BootName]) -> bool:
        """Count a frame; whether it is new and shall go into the queue."""
        name = (frame.edge_id, frame.boot_id)
        boot = self._boot(name)
        if frame.seq in boot.received:
            boot.repeated += 1
            touched.add(name)
            return False
        if not has_room(boot.received):
            return False
        boot.received.add(frame.seq)
        boot.frames += 1
        touched.add(name)
        return True

    def _take_tombstone(self, tombstone: FrameTombstone, touched: set[BootName]) -> None:
        name = (tombstone.edge_id, tombstone.boot_id)
        boot = self._boot(name)
        if not has_room(boot.received):
            return
        # A frame that arrived after all is no tombstone, although the edge dropped it before it heard so.
        for first, last in missing_parts(boot.received, tombstone.first_seq, tombstone.last_seq):
            self.db.execute(
                "INSERT INTO tombstones (edge_id, boot_id, first_seq, last_seq, reason, received_ns) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (tombstone.edge_id, tombstone.boot_id, first, last, tombstone.reason, tombstone.received_ns),
            )
        boot.received.add(tombstone.first_seq, tombstone.last_seq)
        touched.add(name)

    def _boot(self, name: BootName) -> _Boot:
        boot = self._boots.get(name)
        if boot is None:
            row = self.db.execute(
                "SELECT cumulative, ranges, frames, repeated FROM boots WHERE edge_id = ? AND boot_id = ?",
                name,
            ).fetchone()
            boot = _Boot(Received()) if row is None else _Boot(Received(row[0], json.loads(row[1])), *row[2:])
            self._boots[name] = boot
        return boot

    def _trim(self) -> None:
        """Bound the memory. Not while a batch is taken: what it counted is saved at its end only."""
        if len(self._boots) >= _MAX_BOOTS_IN_MEMORY:
            self._boots.clear()

    def _save(self, name: BootName) -> None:
        boot = self._boots[name]
        self.db.execute(
            "INSERT INTO boots VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (edge_id, boot_id) DO UPDATE SET "
            "cumulative = excluded.cumulative, ranges = excluded.ranges, "
            "frames = excluded.frames, repeated = excluded.repeated",
            (
                *name,
                boot.received.cumulative,
                json.dumps(boot.received.selective(MAX_RANGES + 1)),
                boot.frames,
                boot.repeated,
            ),
        )


def has_room(received: Received) -> bool:
    """Whether a boot's record may grow: it has fewer holes than the limit."""
    return len(received.selective(MAX_RANGES)) < MAX_RANGES


def with_keys(
    frames: Sequence[QueuedFrame],
    received: Callable[[str, str], Received],
    oldest_seqs: Mapping[BootName, int],
) -> list[QueuedFrame]:
    """The frames without those deltas whose key has not come, nor is known to be dropped.

    A delta is not taken ahead of its key: a camera host that runs out of room may yet drop a key that is not
    acknowledged, and the delta, acknowledged, could never be decoded. It is sent again, after its key. ``received``
    is a ledger's method. A boot was told that all below its number in ``oldest_seqs`` is safe: by another ledger,
    if not by this one.
    """
    kept: list[QueuedFrame] = []
    here: dict[BootName, set[int]] = {}
    for frame in frames:
        boot, key = (frame.edge_id, frame.boot_id), frame.key_seq
        known, seqs = received(*boot), here.setdefault(boot, set())
        if key is None or key < oldest_seqs.get(boot, 0) or key in seqs or key in known or frame.seq in known:
            kept.append(frame)
            seqs.add(frame.seq)
    return kept


def missing_parts(received: Received, first: int, last: int) -> Iterator[tuple[int, int]]:
    """The parts of ``first``..``last`` that have not been received."""
    return parts_beside(max(first, received.cumulative + 1), last, received.selective(MAX_RANGES + 1))

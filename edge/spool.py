"""The spool: frames on the camera host's disk until they are safe elsewhere, enhancements a while longer.

One SQLite file (write-ahead log, synced at every commit), one transaction for each batch of frames. Whatever
`put` returned from is still there after SIGKILL or a power cut. The file is bounded by bytes, by age and by
the free space of its disk. To make room, the oldest delivered frames go first; when only undelivered ones
are left, the policy says which of them, or whether the arriving ones, are dropped. Each dropped frame is
covered by a tombstone in the same transaction, so that the gap can be told to the gateway.

A gateway that was given an older copy of its data makes frames undelivered again (`compare`).

A dropped key takes the deltas that refer to it along, and a dropped frame of a video group those behind it: nobody
could decode them. A pinned frame, whose
enhancement somebody waits for, is not dropped before its time.

Ages are counted by a clock of the spool's own, for the wall clock of a camera host may jump (from 1970 to
today, once it finds a time server): it advances with the wall clock, never backwards, and by an hour at most
between two commits. A long stop of the agent so counts as an hour.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal

from secondlook.edge.config import SpoolConfig
from secondlook.edge.restored import Restored, take_back
from secondlook.edge.spooled import (
    PassedOver,
    Safe,
    Spoolable,
    SpoolCounts,
    SpooledFrame,
    SpooledTombstone,
    UnspooledTombstone,
)
from secondlook.edge.spoolschema import SCHEMA, SCHEMA_VERSION, UPGRADE
from secondlook.shared.errors import DiskFull, PacketError, StoreCorrupt, Unwritable
from secondlook.shared.link import Received
from secondlook.shared.packet import MAX_BASE_BYTES, MAX_ENHANCEMENT_BYTES, BaseFrame, FrameInfo
from secondlook.shared.sqlite import immediate, named_errors, prepare, private_database
from secondlook.shared.videobits import GROUP_MARK

log = logging.getLogger(__name__)

_BUSY_SECONDS = 5.0  # then the caller says that it waits
_AGED_ROWS = 64  # rows looked at for their age at each commit
_AGED_TIMES = 64  # so often in one go, where nothing else is done
_LONGEST_STEP_NS = 3600 * 10**9
_BOOTS_KEPT = 256  # the latest ones are known for good, so that a gateway that lost them can be told


class Spool:
    """The store of one agent; safe to use from several threads.

    :raises StorageError: from every method: DiskFull, Unwritable, StoreCorrupt, StoreBusy
    """

    def __init__(self, folder: Path, config: SpoolConfig, boot_id: str, now_ns: int) -> None:
        """Open or create ``folder/spool.db`` and begin a boot in it."""
        self._path = folder / "spool.db"
        self._folder = folder
        self._config = config
        self._boot_id = boot_id
        self._lock = threading.RLock()
        self._dropped_key: int | None = None  # the latest key of this boot that was dropped
        self._buried: Counter[str] = Counter()  # frames that went under tombstones in this run, by reason
        self._waiting = (0, 0)  # undelivered frames, and bytes of their base layers
        self._restored = Received()  # of this boot, what neither the gateway nor the spool has any more
        private_database(self._path)
        with named_errors(self._path):
            self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            with ExitStack() as undo:
                undo.callback(self._db.close)
                self._open(now_ns)
                undo.pop_all()

    def _open(self, now_ns: int) -> None:
        prepare(self._db, busy_seconds=_BUSY_SECONDS)
        with immediate(self._db):
            version = self._one("PRAGMA user_version")
            if version not in (0, 1, SCHEMA_VERSION):
                raise StoreCorrupt(f"{self._path}: schema version {version} is not known here")
            if version != SCHEMA_VERSION:
                for statement in (UPGRADE if version else SCHEMA).split(";\n"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            self._clock_ns, self._wall_ns = self._db.execute("SELECT spool_ns, wall_ns FROM clock").fetchone()
            self._advance(now_ns)
            self._db.execute(
                "DELETE FROM boots WHERE started_ns < ? AND number NOT IN (SELECT boot FROM frames)"
                " AND number NOT IN (SELECT boot FROM tombstones)"
                " AND number NOT IN (SELECT number FROM boots ORDER BY number DESC LIMIT ?)",
                (now_ns - int(self._config.retention_seconds * 1e9), _BOOTS_KEPT),
            )
            self._db.execute("INSERT INTO boots (boot_id, started_ns) VALUES (?, ?)", (self._boot_id, now_ns))
            self._boot = self._one("SELECT number FROM boots WHERE boot_id = ?", self._boot_id)
        self._bytes = self._one("SELECT coalesce(sum(size_bytes), 0) FROM frames")
        self._count_waiting()

    def close(self) -> None:
        with self._lock, named_errors(self._path):
            self._db.close()

    @property
    def size_bytes(self) -> int:
        """Bytes of the layers held, delivered or not."""
        return self._bytes

    @property
    def waiting(self) -> tuple[int, int]:
        """Undelivered frames, and the bytes of their base layers."""
        return self._waiting

    def waiting_since(self) -> tuple[int, int | None]:
        """Undelivered frames, and when the oldest of them was captured, in Unix nanoseconds."""
        with self._lock:
            frames = self._waiting[0]
            return frames, self._oldest_waiting() if frames else None

    def _oldest_waiting(self) -> int | None:
        with self._reading() as db:
            row = db.execute(
                "SELECT captured_ns FROM frames WHERE safe = 0 ORDER BY boot, seq LIMIT 1"
            ).fetchone()
        return None if row is None else int(row[0])

    def dropped(self) -> dict[str, int]:
        """Frames that went under tombstones since this start, by reason; those that were passed over among them."""
        with self._lock:
            return dict(self._buried)

    def put(
        self, frames: Sequence[Spoolable], now_ns: int, *, before: UnspooledTombstone | None = None
    ) -> int:
        """Store frames of this boot, in order, in one durable commit. Returns how many frames were dropped
        for them (older ones or some of them, by policy), each now under a tombstone; and so are those that
        could not be stored right `before`, and those that were passed over, which do not count."""
        with self._changing():
            self._advance(now_ns)
            _, dropped = self._drop_aged()
            if before is not None:
                self._bury(self._boot, before.first_seq, before.last_seq, "disk-full")
                self._lost_key(before.key_seq)
            for frame in frames:
                if isinstance(frame, PassedOver):
                    self._bury(self._boot, frame.first_seq, frame.last_seq, frame.reason)
                else:
                    dropped += self._put(frame)
            last = frames[-1].last_seq if frames else -1 if before is None else before.last_seq
            self._db.execute(
                "UPDATE boots SET next_seq = max(next_seq, ?) WHERE number = ?", (last + 1, self._boot)
            )
        return dropped

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One durable transaction. Where it is rolled back, what is counted beside the tables goes back with it."""
        with self._lock, ExitStack() as undo:
            undo.callback(
                self._recall, (self._bytes, self._waiting, self._clock_ns, self._wall_ns, self._dropped_key)
            )
            undo.callback(setattr, self, "_buried", self._buried.copy())
            with named_errors(self._path), immediate(self._db):
                yield
            undo.pop_all()

    def _recall(self, counts: tuple[int, tuple[int, int], int, int, int | None]) -> None:
        self._bytes, self._waiting, self._clock_ns, self._wall_ns, self._dropped_key = counts

    def _put(self, frame: SpooledFrame) -> int:
        if len(frame.base) > MAX_BASE_BYTES or len(frame.enhancement) > MAX_ENHANCEMENT_BYTES:
            return self._bury_arriving(frame, "too-large")
        if self._lacks_another(frame):
            return self._bury_arriving(frame, "key-dropped")
        room, dropped = self._make_room(frame)
        if not room:
            return dropped + self._bury_arriving(frame, "spool-full")
        if self._lacks_another(frame):
            return dropped + self._bury_arriving(frame, "key-dropped")
        info = frame.info
        self._db.execute(
            "INSERT INTO frames"
            " (boot, seq, captured_ns, width, height, key_seq, size_bytes, put_ns, base, enhancement)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self._boot,
                info.seq,
                info.captured_ns,
                info.width,
                info.height,
                info.key_seq,
                frame.size_bytes,
                self._clock_ns,
                frame.base,
                frame.enhancement,
            ),
        )
        self._bytes += frame.size_bytes
        self._wait(1, len(frame.base))
        return dropped

    def age(self, now_ns: int) -> int:
        """Delete what outlived its time, for when little is put. Returns how many undelivered frames were dropped.

        Where nothing did, nothing is written, but for the clock once an hour.
        """
        gone = dropped = 0
        with self._changing():
            self._advance(now_ns, kept=False)
            for _ in range(_AGED_TIMES):
                aged, lost = self._drop_aged()
                gone += aged
                dropped += lost
                if aged < _AGED_ROWS:
                    break
            if gone or abs(now_ns - self._kept_ns) >= _LONGEST_STEP_NS:
                self._keep_clock()
        return dropped

    def give_up(self, link_bytes: int, now_ns: int, *, overhead_bytes: int) -> int:
        """Drop the oldest undelivered frames, with those that need them, until the link has `link_bytes` less to carry.

        A frame counts as its base layer and `overhead_bytes` of headers. They go under tombstones with the reason
        `behind`. Returns how many frames were dropped.
        """
        with self._changing():
            self._advance(now_ns)
            dropped, before = 0, self._waiting
            while before[1] - self._waiting[1] + overhead_bytes * dropped < link_bytes:
                row = self._first("boot, seq", "safe = 0")
                if row is None:
                    break
                dropped += self._drop(row[0], row[1], "behind")[1]
        return dropped

    def _wait(self, frames: int, base_bytes: int) -> None:
        self._waiting = self._waiting[0] + frames, self._waiting[1] + base_bytes

    def _count_waiting(self) -> None:
        self._waiting = self._db.execute(
            "SELECT count(*), coalesce(sum(length(base)), 0) FROM frames WHERE safe = 0"
        ).fetchone()

    def _lacks_another(self, frame: SpooledFrame) -> bool:
        """Whether a frame that it cannot do without is gone: its key, or any before it in its video group."""
        first = frame.info.key_seq
        if first is None:
            return False
        last = first if frame.needed_seq is None else frame.info.seq - 1
        return first == self._dropped_key or list(self._restored.missing(first, last)) != [(first, last)]

    def _bury_arriving(self, frame: SpooledFrame, reason: str) -> int:
        self._bury(self._boot, frame.info.seq, frame.info.seq, reason)
        self._lost_key(frame.needed_seq)
        return 1

    def _lost_key(self, seq: int | None) -> None:
        """What refers to this key from now on cannot be decoded. Frames that arrive never refer to an older one."""
        if seq is not None and (self._dropped_key is None or seq > self._dropped_key):
            self._dropped_key = seq

    def _advance(self, now_ns: int, *, kept: bool = True) -> None:
        """Let the spool's own clock follow the wall clock."""
        self._clock_ns += min(max(0, now_ns - self._wall_ns), _LONGEST_STEP_NS)
        self._wall_ns = now_ns
        if kept:
            self._keep_clock()

    def _keep_clock(self) -> None:
        self._db.execute("UPDATE clock SET spool_ns = ?, wall_ns = ?", (self._clock_ns, self._wall_ns))
        self._kept_ns = self._wall_ns

    def _make_room(self, frame: SpooledFrame) -> tuple[bool, int]:
        """Free bytes for a frame where the bounds ask: (room now?, undelivered frames dropped)."""
        dropped = 0
        short = self._short(frame.size_bytes)
        if short > self._bytes:
            return False, 0  # dropping everything would not be enough
        while short > 0:
            freed, lost = self._drop_oldest(for_delta=frame.info.key_seq is not None)
            if freed == 0:
                return False, dropped
            short -= freed
            dropped += lost
        return True, dropped

    def _short(self, wanted: int) -> int:
        """How many bytes must go before `wanted` more may come."""
        over = self._bytes + wanted - self._config.max_bytes
        try:
            free = shutil.disk_usage(self._folder).free
        except OSError as error:
            raise Unwritable(f"{self._folder}: {error.strerror}") from error
        # Deleted rows leave pages that new ones take, so freeing `wanted` is enough to stop growing.
        reusable = self._one("PRAGMA freelist_count") * self._one("PRAGMA page_size")
        lacking = wanted if free + reusable - wanted < self._config.min_free_bytes else 0
        return max(over, min(lacking, self._bytes))

    def _drop_oldest(self, *, for_delta: bool) -> tuple[int, int]:
        """Delete the oldest delivered frame, else an undelivered one by policy: (bytes, undelivered)."""
        row = self._first("id, size_bytes", "safe = 1")
        if row is not None:
            self._db.execute("DELETE FROM frames WHERE id = ?", (row[0],))
            self._bytes -= row[1]
            return row[1], 0
        row = None
        if self._config.drop == "keep-keys":
            row = self._first("boot, seq", "safe = 0 AND key_seq IS NOT NULL")
        if row is None and (
            self._config.drop == "oldest" or (self._config.drop == "keep-keys" and not for_delta)
        ):
            row = self._first("boot, seq", "safe = 0")
        return (0, 0) if row is None else self._drop(row[0], row[1], "spool-full")

    def _first(self, columns: str, condition: str) -> tuple[int, int] | None:
        """Of the oldest frame that meets a condition and is not pinned."""
        row: tuple[int, int] | None = self._db.execute(
            f"SELECT {columns} FROM frames WHERE {condition} AND pinned_until_ns <= ? ORDER BY id LIMIT 1",
            (self._clock_ns,),
        ).fetchone()
        return row

    def _drop_aged(self) -> tuple[int, int]:
        """Delete the first rows that outlived their time: (how many had, undelivered frames dropped for that)."""
        aged = dropped = 0
        oldest_safe = self._clock_ns - int(self._config.retention_seconds * 1e9)
        oldest = self._clock_ns - int(self._config.max_age_seconds * 1e9)
        for identity, size, put_ns in self._db.execute(
            "SELECT id, size_bytes, put_ns FROM frames WHERE safe = 1 AND pinned_until_ns <= ? ORDER BY id LIMIT ?",
            (self._clock_ns, _AGED_ROWS),
        ).fetchall():
            if put_ns >= oldest_safe:
                break
            aged += 1
            self._db.execute("DELETE FROM frames WHERE id = ?", (identity,))
            self._bytes -= size
        for boot, seq, put_ns in self._db.execute(
            "SELECT boot, seq, put_ns FROM frames WHERE safe = 0 AND pinned_until_ns <= ?"
            " ORDER BY boot, seq LIMIT ?",
            (self._clock_ns, _AGED_ROWS),
        ).fetchall():
            if put_ns >= oldest:
                break
            aged += 1
            dropped += self._drop(boot, seq, "spool-age")[1]
        return aged, dropped

    def _drop(self, boot: int, seq: int, reason: str) -> tuple[int, int]:
        """Drop an undelivered frame and the undelivered ones that need it, deltas or the rest of its group:
        (bytes, frames)."""
        group = self._group_of(boot, seq)
        rows = self._db.execute(
            "SELECT id, seq, key_seq, size_bytes, length(base) FROM frames"
            " WHERE boot = ? AND safe = 0 AND pinned_until_ns <= ?"
            " AND (seq = ? OR key_seq = ? OR (key_seq = ? AND seq > ?)) ORDER BY seq",
            (boot, self._clock_ns, seq, seq, group, seq),
        ).fetchall()
        if boot == self._boot:
            self._lost_key(group)
        for identity, lost_seq, key_seq, size, base_size in rows:
            self._db.execute("DELETE FROM frames WHERE id = ?", (identity,))
            self._bytes -= size
            self._wait(-1, -base_size)
            self._bury(boot, lost_seq, lost_seq, reason)
            if key_seq is None and boot == self._boot:
                self._lost_key(lost_seq)
        return sum(row[3] for row in rows), len(rows)

    def _group_of(self, boot: int, seq: int) -> int | None:
        """The first frame of the group of a frame behind it; None for any other frame."""
        row = self._db.execute(
            "SELECT key_seq FROM frames WHERE boot = ? AND seq = ? AND key_seq IS NOT NULL AND substr(base, 1, 1) = ?",
            (boot, seq, GROUP_MARK),
        ).fetchone()
        return None if row is None else int(row[0])

    def _bury(self, boot: int, first: int, last: int, reason: str) -> None:
        """Put sequences under a tombstone; one that ends right before them is replaced, not changed, so
        that its new id shows that it must be sent again."""
        row = self._db.execute(
            "SELECT id, first_seq FROM tombstones WHERE boot = ? AND last_seq = ? AND reason = ?",
            (boot, first - 1, reason),
        ).fetchone()
        if row is not None:
            self._db.execute("DELETE FROM tombstones WHERE id = ?", (row[0],))
        self._db.execute(
            "INSERT INTO tombstones (boot, first_seq, last_seq, reason) VALUES (?, ?, ?, ?)",
            (boot, first if row is None else row[1], last, reason),
        )
        self._buried[reason] += last - first + 1

    def pin(self, boot_id: str, seq: int, seconds: float) -> bool:
        """Keep a frame for so long, whatever room others want: its enhancement is asked for. False if it is
        not here, or if too many are pinned already."""
        with self._lock, named_errors(self._path), immediate(self._db):
            held = self._one("SELECT count(*) FROM frames WHERE pinned_until_ns > ?", self._clock_ns)
            if held >= self._config.max_pinned:
                return False
            until = self._clock_ns + int(min(max(0.0, seconds), self._config.retention_seconds) * 1e9)
            return self._pin(boot_id, seq, until)

    def unpin(self, boot_id: str, seq: int) -> None:
        """The enhancement has arrived: the frame may go when its time has come."""
        with self._lock, named_errors(self._path), immediate(self._db):
            self._pin(boot_id, seq, 0)

    def _pin(self, boot_id: str, seq: int, until_ns: int) -> bool:
        change = "UPDATE frames SET pinned_until_ns = ? WHERE boot = ? AND seq = ?"
        return self._db.execute(change, (until_ns, self._number(boot_id), seq)).rowcount == 1

    def mark_safe(self, news: Sequence[Safe]) -> int:
        """Take in what the gateway holds durably; returns how many frames became safe by it."""
        marked = 0
        with self._changing():
            for safe in news:
                for first, last in ((0, safe.cumulative), *safe.selective):
                    marked += self._mark(safe.boot_id, first, last)
        return marked

    def _mark(self, boot_id: str, first: int, last: int) -> int:
        boot = self._number(boot_id)
        if boot is None or last < first:
            return 0
        self._db.execute(
            "DELETE FROM tombstones WHERE boot = ? AND first_seq >= ? AND last_seq <= ?", (boot, first, last)
        )
        which = "boot = ? AND safe = 0 AND seq BETWEEN ? AND ?"
        frames, base_bytes = self._db.execute(
            f"SELECT count(*), coalesce(sum(length(base)), 0) FROM frames WHERE {which}", (boot, first, last)
        ).fetchone()
        if frames:
            self._db.execute(f"UPDATE frames SET safe = 1 WHERE {which}", (boot, first, last))
            self._wait(-frames, -base_bytes)
        return int(frames)

    def compare(self, boot_id: str, held: Received) -> Restored:
        """Take back, in one durable commit, what was marked safe and the gateway does not hold: see `restored.py`."""
        with self._lock, named_errors(self._path):
            with immediate(self._db):
                row = self._db.execute(
                    "SELECT number, next_seq FROM boots WHERE boot_id = ?", (boot_id,)
                ).fetchone()
                if row is None or row[1] - 1 <= held.cumulative:
                    return Restored()
                boot, next_seq = row
                restored, gone = take_back(self._db, boot, next_seq, held, self._bury)
            self._count_waiting()
            if boot == self._boot:
                for first, last in gone.parts():
                    self._restored.add(first, last)
            return restored

    def delivered_boots(self) -> list[str]:
        """Boots of which everything is confirmed, latest first; the present one may be among them."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT boot_id FROM boots WHERE next_seq > 0"
                " AND number NOT IN (SELECT boot FROM frames WHERE safe = 0)"
                " AND number NOT IN (SELECT boot FROM tombstones) ORDER BY number DESC LIMIT ?",
                (_BOOTS_KEPT,),
            )
            return [boot_id for (boot_id,) in rows]

    def undelivered_boots(self) -> list[str]:
        """Boots with frames or tombstones that the gateway has not confirmed, oldest first."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT boot_id FROM boots WHERE number IN (SELECT boot FROM frames WHERE safe = 0)"
                " OR number IN (SELECT boot FROM tombstones) ORDER BY number"
            )
            return [boot_id for (boot_id,) in rows]

    def next_seq(self, boot_id: str) -> int | None:
        """The sequence that a boot gives next; None for a boot that is not known any more."""
        with self._reading() as db:
            row = db.execute("SELECT next_seq FROM boots WHERE boot_id = ?", (boot_id,)).fetchone()
            return None if row is None else int(row[0])

    def counts(self) -> SpoolCounts:
        """All boots together; takes longer, the more is undelivered (some 30 ms for a million frames)."""
        with self._reading() as db:
            boots, frames = db.execute("SELECT count(*), coalesce(sum(next_seq), 0) FROM boots").fetchone()
            (untold,) = db.execute(
                "SELECT coalesce(sum(last_seq - first_seq + 1), 0) FROM tombstones"
            ).fetchone()
            (undelivered,) = db.execute("SELECT count(*) FROM frames WHERE safe = 0").fetchone()
            oldest = self._oldest_waiting()
        return SpoolCounts(boots, frames, undelivered, untold, oldest)

    def bounds(self, boot_id: str) -> tuple[int, int]:
        """(oldest, next) of a boot: the first sequence not confirmed, and the one it gives next."""
        with self._reading() as db:
            number, following = db.execute(
                "SELECT number, next_seq FROM boots WHERE boot_id = ?", (boot_id,)
            ).fetchone()
            (oldest,) = db.execute(
                "SELECT min(seq) FROM (SELECT min(seq) AS seq FROM frames WHERE boot = ?1 AND safe = 0"
                " UNION ALL SELECT min(first_seq) FROM tombstones WHERE boot = ?1)",
                (number,),
            ).fetchone()
            return (following if oldest is None else oldest), following

    def read(
        self, boot_id: str, from_seq: int, max_bytes: int, last_seq: int | None = None, max_frames: int = -1
    ) -> list[BaseFrame]:
        """Undelivered base layers from `from_seq` on (to `last_seq` if given), in order: as many as fit
        `max_bytes`, at least one; at most `max_frames` unless that is below 0.

        Frames that no packet can carry go under tombstones with the reason `damaged`."""
        found: list[BaseFrame] = []
        damaged: dict[int, PacketError] = {}
        room = max_bytes
        with self._reading() as db:
            for row in db.execute(
                "SELECT seq, captured_ns, width, height, key_seq, length(enhancement), base FROM frames"
                " WHERE boot = ? AND safe = 0 AND seq BETWEEN ? AND ? ORDER BY seq LIMIT ?",
                (self._number(boot_id), from_seq, 2**53 if last_seq is None else last_seq, max_frames),
            ):
                *facts, base = row
                try:
                    frame = BaseFrame(FrameInfo(boot_id, *facts), base)
                except PacketError as error:
                    damaged[facts[0]] = error
                    continue
                room -= len(base)
                if found and room < 0:
                    break
                found.append(frame)
        if not damaged:
            return found
        if self._bury_damaged(boot_id, damaged):
            return self.read(
                boot_id, from_seq, max_bytes, last_seq, max_frames
            )  # without those that need them
        return found or self.read(boot_id, max(damaged) + 1, max_bytes, last_seq, max_frames)

    def _bury_damaged(self, boot_id: str, frames: Mapping[int, PacketError]) -> bool:
        """Give up undelivered frames whose row is not what was written, or was never looked at by an earlier version.

        False where the disk has no room for that: they are met again on the next connection.
        """
        with suppress(DiskFull), self._changing():
            boot = self._number(boot_id)
            assert boot is not None
            for seq in frames:
                self._pin(boot_id, seq, 0)
                self._drop(boot, seq, "damaged")
            first, why = next(iter(frames.items()))
            log.warning("%d frames from %d on cannot be sent, and are given up: %s", len(frames), first, why)
            return True
        return False

    def tombstones(self, after_id: int) -> list[SpooledTombstone]:
        """Unconfirmed tombstones with an id above `after_id`, in the order they were made."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT t.id, b.boot_id, t.first_seq, t.last_seq, t.reason FROM tombstones t"
                " JOIN boots b ON b.number = t.boot WHERE t.id > ? ORDER BY t.id",
                (after_id,),
            )
            return [SpooledTombstone(*row) for row in rows]

    def enhancement(self, boot_id: str, seq: int) -> bytes | Literal["expired", "unknown"]:
        """The enhancement layer of a frame; "expired" if it was here once, "unknown" if it never was."""
        with self._reading() as db:
            row = db.execute(
                "SELECT b.next_seq, f.enhancement FROM boots b LEFT JOIN frames f"
                " ON f.boot = b.number AND f.seq = ? WHERE b.boot_id = ?",
                (seq, boot_id),
            ).fetchone()
        if row is None or seq >= row[0]:
            return "unknown"
        return "expired" if row[1] is None else bytes(row[1])

    def _number(self, boot_id: str) -> int | None:
        row = self._db.execute("SELECT number FROM boots WHERE boot_id = ?", (boot_id,)).fetchone()
        return None if row is None else int(row[0])

    def _one(self, statement: str, *values: object) -> int:
        (value,) = self._db.execute(statement, values).fetchone()
        return int(value)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, named_errors(self._path):
            yield self._db

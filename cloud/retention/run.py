"""Retention: deletes what has been kept for as long as was set, or what the disk has no room for.

One run: finish what a run before left half-deleted; delete frames, class by class, that are older than their class is
kept; delete more, the least valuable class first, until limits of bytes and free space are kept; now and then, sweep
out blobs that no row refers to. Undecided reviews are never deleted; where they alone fill the store, a warning says
so. ``cloud.catalogue.retention`` has the two steps in which a frame goes. Safe beside everything else that runs, and
beside another one of itself.
"""

from __future__ import annotations

import itertools
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from secondlook.cloud.catalogue import Catalogue, Retention
from secondlook.cloud.catalogue.retention import (
    Candidates,
    Doomed,
    Held,
    count_tombstones,
    delete_tombstones,
    held_by_class,
    list_candidates,
    list_deleting,
    mark_deleting,
    remove_deleted,
    wanted_blobs,
)
from secondlook.cloud.config import RetentionConfig
from secondlook.cloud.retention.report import CLASSES, Deleted, Report, size_of
from secondlook.cloud.retention.reserve import Reserve
from secondlook.cloud.storage.blobs import Blobs, StoredBlob
from secondlook.shared.errors import TRANSIENT_ERRORS, DiskFull, StorageError
from secondlook.shared.files import write_atomically
from secondlook.shared.outage import Outage

log = logging.getLogger(__name__)

_NANOSECONDS = 1_000_000_000
_DAY_NS = 86_400 * _NANOSECONDS
_TROUBLE_SECONDS = 10.0  # until the next run, at most, while a store is away
_BREATH_SECONDS = 5.0  # between signs of life while there is nothing to do
_SWEPT_AT_ONCE = 500


class Retainer:
    """Deletes by the rules of ``config``, and ends early, between two steps, when ``stop`` is set.

    ``clock`` gives Unix seconds; ``heartbeat`` hears of every batch, and of waiting, ``waits`` why deleting stands
    still, or None; the file ``status`` tells of the last run; ``reserve`` is given up where a full disk keeps it from
    deleting.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        blobs: Blobs,
        config: RetentionConfig,
        *,
        status: Path | None = None,
        reserve: Reserve | None = None,
        stop: threading.Event | None = None,
        clock: Callable[[], float] = time.time,
        heartbeat: Callable[[], None] = lambda: None,
        waits: Callable[[str | None], None] = lambda _why: None,
    ) -> None:
        self._catalogue = catalogue
        self._blobs = blobs
        self._config = config
        self._status = status
        self._reserve = reserve
        self._clock = clock
        self.heartbeat = heartbeat
        self._waits = waits
        self._stop = threading.Event() if stop is None else stop
        self._swept_at: float | None = None
        self._outage = Outage(log)

    def configure(self, config: RetentionConfig) -> None:
        """Other rules from the next run on."""
        self._config = config

    def run(self) -> None:
        """A run now and every ``interval_seconds``, until ``stop`` is set. Waits while a store is away or full."""
        stop = self._stop
        while not stop.is_set():
            try:
                self.run_once()
                self._outage.over(time.monotonic())
            except TRANSIENT_ERRORS as error:
                self._outage.met(error, time.monotonic())
            self._waits(self._outage.why)
            pause = self._config.interval_seconds
            again = self._clock() + (pause if self._outage.why is None else min(pause, _TROUBLE_SECONDS))
            while not stop.is_set() and (left := again - self._clock()) > 0:
                self.heartbeat()
                stop.wait(min(left, _BREATH_SECONDS))

    def run_once(self, *, dry_run: bool = False) -> Report:
        """One run; with ``dry_run`` nothing is changed, and the report says what would be.

        Raises StorageError when a store fails; what was begun is finished by the next run.
        """
        try:
            report = self._run(dry_run=dry_run)
        except DiskFull as error:
            if dry_run or self._reserve is None or not self._reserve.release():
                raise
            log.warning("giving up the reserve: %s", error)
            report = self._run(dry_run=False)
        if self._reserve is not None and not dry_run:
            self._reserve.hold()
        return report

    def _run(self, *, dry_run: bool) -> Report:
        started = self._clock()
        deleted = Deleted()
        kind = _DryRun if dry_run else _Run
        work = kind(
            self._catalogue,
            self._blobs,
            self._config.batch_frames,
            deleted,
            now=self._clock,
            heartbeat=self.heartbeat,
            stopped=self._stop.is_set,
        )
        work.resume()
        for retention, before_ns in self._ages(started).items():
            work.delete(retention, before_ns, self._ages(started), None)
        work.forget_tombstones(self._before_ns(started, self._config.tombstones_days))
        short = self._make_room(work, started)
        if self._sweep_is_due(started):
            work.sweep(started - self._config.grace_minutes * 60)
            if not dry_run:
                self._swept_at = started
        report = Report(
            at=started,
            seconds=self._clock() - started,
            dry_run=dry_run,
            deleted=deleted,
            kept=held_by_class(self._catalogue),
            free_bytes=self._blobs.free_bytes(),
            missing_bytes=short,
        )
        self._tell(report)
        return report

    def _ages(self, now: float) -> dict[Retention, int]:
        """Each class that has an age, and before when a frame must have come into it to go."""
        days = {
            Retention.UNREVIEWED: self._config.unreviewed_days,
            Retention.AUDIT: self._config.audit_days,
            Retention.DECIDED: self._config.decided_days,
        }
        return {retention: self._before_ns(now, age) for retention, age in days.items() if age > 0}

    def _before_ns(self, now: float, days: float) -> int:
        """An instant so many days ago; 0 days stand for ever."""
        now_ns = int(now * _NANOSECONDS)
        return 0 if days == 0 else min(now_ns - int(days * _DAY_NS), self._grace_ns(now))

    def _grace_ns(self, now: float) -> int:
        return int((now - self._config.grace_minutes * 60) * _NANOSECONDS)

    def _make_room(self, work: _Run, now: float) -> int:
        """Delete until the limits are kept; returns the bytes that are still too many."""
        before_ns = self._grace_ns(now)
        short = self._shortage(work.spared)
        for retention in CLASSES:
            if short <= 0:
                break
            work.delete(retention, before_ns, dict.fromkeys(CLASSES, before_ns), short)
            short = self._shortage(work.spared)
        if short > 0 and not self._stop.is_set():
            self._warn(short)
        return max(0, short)

    def _shortage(self, spared: int) -> int:
        """How many bytes are too many, or are missing on the disk; ``spared`` would be gone if this were no dry run."""
        shortages = [0]
        if self._config.max_bytes:
            held = sum(held.bytes for held in held_by_class(self._catalogue).values())
            shortages.append(held - self._config.max_bytes)
        free = self._blobs.free_bytes() if self._config.min_free_bytes else None
        if free is not None:
            shortages.append(self._config.min_free_bytes - free)
        return max(shortages) - spared

    def _warn(self, short: int) -> None:
        undecided = held_by_class(self._catalogue)[Retention.UNDECIDED]
        log.warning(
            "%s too many, and nothing more may be deleted: %d frames with undecided reviews hold %s, the rest is "
            "younger than %g minutes or needed by them; have the reviews decided, or give the store more room",
            size_of(short),
            undecided.frames,
            size_of(undecided.bytes),
            self._config.grace_minutes,
        )

    def _sweep_is_due(self, now: float) -> bool:
        if self._config.sweep_hours == 0 or self._stop.is_set():
            return False
        return self._swept_at is None or now - self._swept_at >= self._config.sweep_hours * 3600

    def _tell(self, report: Report) -> None:
        said = report.line()
        if said is not None:
            log.info("%s", said)
        if report.deleted.failed_frames:
            log.warning(
                "%d frames are left half-deleted and will be tried again", report.deleted.failed_frames
            )
        if self._status is not None and not report.dry_run:
            try:
                write_atomically(self._status, f"{json.dumps(report.as_dict(), indent=2)}\n".encode())
            except DiskFull as error:
                log.warning("%s", error)


@dataclass
class _Run:
    """The deletions of one run; each ends early when ``stopped``."""

    _catalogue: Catalogue
    _blobs: Blobs
    _batch: int  # frames at a time
    _deleted: Deleted
    now: Callable[[], float]
    heartbeat: Callable[[], None]
    stopped: Callable[[], bool]
    spared: int = 0  # bytes of what a dry run has left in its place

    def resume(self) -> None:
        """Finish what is marked. Another process may be at it at this moment, which does no harm."""
        after = 0
        while not self.stopped():
            batch = list_deleting(self._catalogue, after=after, limit=self._batch)
            if not batch:
                return
            self._deleted.resumed += self._finish(batch)
            after = batch[-1].frame_id

    def delete(
        self, retention: Retention, before_ns: int, going: dict[Retention, int], enough: int | None
    ) -> None:
        """Delete frames of a class, the oldest first, until ``enough`` bytes are free (None: all of them)."""
        # A key frame can go once the deltas that refer to it are gone: look again until nothing goes.
        while freed := self._pass(retention, before_ns, enough):
            if enough is not None:
                enough -= freed.bytes
                if enough <= 0:
                    return

    def _pass(self, retention: Retention, before_ns: int, enough: int | None) -> Held | None:
        """One look at all frames of a class, from the oldest on; None when none could go."""
        freed, after = Held(), (-1, 0)
        while not self.stopped() and (enough is None or freed.bytes < enough):
            batch = mark_deleting(
                self._catalogue,
                Candidates(retention, before_ns, after),
                limit=self._batch,
                enough_bytes=None if enough is None else enough - freed.bytes,
                now_ns=int(self.now() * _NANOSECONDS),
            )
            if not batch:
                break
            after = (batch[-1].retention_ns, batch[-1].frame_id)
            gone = self._finish(batch)
            freed += gone
            self._deleted.by_class[retention] += gone
        return freed if freed.frames else None

    def _finish(self, batch: list[Doomed]) -> Held:
        """Delete the blobs of marked frames, then their rows."""
        try:
            self._blobs.delete_many([key for frame in batch for key in frame.blob_keys])
        except TRANSIENT_ERRORS:
            raise
        except StorageError as error:
            # One blob that cannot be deleted must not keep all the others.
            log.warning("%s", error)
            self._deleted.failed_frames += len(batch)
            return Held()
        gone = remove_deleted(self._catalogue, [frame.frame_id for frame in batch])
        self.heartbeat()
        return gone

    def forget_tombstones(self, before_ns: int) -> None:
        while before_ns > 0 and not self.stopped():
            gone = delete_tombstones(self._catalogue, before_ns=before_ns, limit=self._batch)
            self._deleted.tombstones += gone
            self.heartbeat()
            if not gone:
                return

    def sweep(self, before: float) -> None:
        """Delete blobs that were written before an instant and that no row refers to."""
        self._deleted.unfinished_files += self._blobs.delete_unfinished(before)
        for blob in self._orphans(before):
            # A frame that is delivered again brings its blob again.
            modified = self._blobs.modified(blob.key)
            if modified is not None and modified < before:
                self._blobs.delete(blob.key)
                self._count_orphan(blob)

    def _orphans(self, before: float) -> Iterator[StoredBlob]:
        old = (blob for blob in self._blobs.listing() if blob.modified < before)
        while chunk := list(itertools.islice(old, _SWEPT_AT_ONCE)):
            wanted = wanted_blobs(self._catalogue, [blob.key for blob in chunk])
            yield from (blob for blob in chunk if blob.key not in wanted)
            self.heartbeat()
            if self.stopped():
                return

    def _count_orphan(self, blob: StoredBlob) -> None:
        self._deleted.orphan_blobs += 1
        self._deleted.orphan_bytes += blob.bytes


@dataclass
class _DryRun(_Run):
    """Counts what a run would delete, and changes nothing."""

    _seen: dict[Retention, tuple[int, int]] = field(default_factory=dict)

    def delete(
        self, retention: Retention, before_ns: int, going: dict[Retention, int], enough: int | None
    ) -> None:
        # What an age takes comes first, the limits go on from there: no frame is counted twice.
        after = self._seen.get(retention, (-1, 0))
        freed = 0
        while enough is None or freed < enough:
            batch = list_candidates(
                self._catalogue, Candidates(retention, before_ns, after, going), limit=self._batch
            )
            if not batch:
                break
            for frame in batch:
                if enough is not None and freed >= enough:
                    break
                freed += frame.stored_bytes
                after = (frame.retention_ns, frame.frame_id)
                self._deleted.by_class[retention] += Held(1, frame.stored_bytes)
            self.heartbeat()
        self._seen[retention] = after
        self.spared += freed

    def _finish(self, batch: list[Doomed]) -> Held:
        size = sum(frame.stored_bytes for frame in batch)
        self.spared += size
        return Held(len(batch), size)

    def forget_tombstones(self, before_ns: int) -> None:
        self._deleted.tombstones = count_tombstones(self._catalogue, before_ns=before_ns)

    def sweep(self, before: float) -> None:
        for blob in self._orphans(before):
            self._count_orphan(blob)

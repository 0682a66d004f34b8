"""Retention: each class and limit, crashes at each step, two at once, and everything else going on meanwhile."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select, text

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue import Rule
from secondlook.cloud.catalogue.audit import verify_audit
from secondlook.cloud.catalogue.retention import (
    Candidates,
    _oldest,
    list_candidates,
    mark_deleting,
    remove_deleted,
)
from secondlook.cloud.config import RetentionConfig
from secondlook.cloud.retention import Deleted, Report, Reserve, Retainer
from secondlook.cloud.retention import run as retention_run
from secondlook.cloud.storage.blobs import (
    Blobs,
    background_key,
    base_key,
    enhancement_key,
    image_key,
    open_blobs,
)
from secondlook.main import main
from secondlook.shared.errors import DiskFull, ReviewGone, StoreUnavailable, Unwritable
from secondlook.shared.packet import FrameInfo
from tests.cloud.servers import point_aws_at, s3_running, small_disk

BOOT = "ab" * 16
SECOND = 1_000_000_000
DAY = 86_400
NOW = 1_790_000_000.0
AUDIT_SAMPLE = "audit sample"
LAYER = b"x" * 100
PICTURE = b"p" * 1000
SHOWN = "c" * 64
# Frames in these tests lie days back: what is young is not looked at.
KEEP_ALL = RetentionConfig(unreviewed_days=0, decided_days=0, audit_days=0, min_free_bytes=0, batch_frames=3)

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("aws")
    with s3_running(folder) as address, pytest.MonkeyPatch.context() as environment:
        point_aws_at(environment, folder, address)
        yield address


@pytest.fixture
def catalogue(catalogue_url: str) -> Iterator[cat.Catalogue]:
    catalogue = cat.open_catalogue(catalogue_url)
    yield catalogue
    catalogue.close()


@pytest.fixture(params=["folder", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    if request.param == "folder":
        return open_blobs(str(tmp_path / "blobs"))
    request.getfixturevalue("s3")
    return open_blobs(f"s3://frames/site-{next(_numbers)}")


@pytest.fixture
def folder(tmp_path: Path) -> Blobs:
    return open_blobs(str(tmp_path / "blobs"))


class Site:
    """A catalogue and its blobs, filled as workers and people fill them. Ages are days before NOW."""

    def __init__(self, catalogue: cat.Catalogue, blobs: Blobs) -> None:
        self.catalogue = catalogue
        self.blobs = blobs
        self._seqs = itertools.count()

    def frame(self, days: float, *, key: int | None = None, review: str | None = None) -> int:
        """File a frame of 100 bytes; returns its sequence."""
        seq, at_ns = next(self._seqs), int((NOW - days * DAY) * SECOND)
        blob = base_key("gate", BOOT, seq)
        self.blobs.put(blob, LAYER)
        new = cat.NewFrame(
            "gate", "yard", at_ns, FrameInfo(BOOT, seq, at_ns, 8, 6, key, 50), blob, len(LAYER)
        )
        rule = Rule.AUDIT if review == AUDIT_SAMPLE else Rule.WATCHED
        reasons = [] if review is None else [cat.NewReview(review, 5, rule=rule)]
        assert cat.store_frame(self.catalogue, new, [], detector="tiny", reasons=reasons, now_ns=at_ns)
        return seq

    def reviewed(
        self, days: float, *, decided: float | None = None, reason: str = "watched", **frame: int
    ) -> int:
        """File a frame, refine its review, and perhaps decide it; 3150 bytes. Returns its sequence."""
        seq = self.frame(days, review=reason, **frame)
        lease = cat.lease_due_review(self.catalogue, "r1", lease_seconds=60, now_ns=0)
        assert lease is not None and lease.seq == seq
        id_ = lease.review_id
        enhancement = enhancement_key("gate", BOOT, seq)
        keys = [image_key(id_, kind) for kind in ("base", "enhanced", "refined")]
        for blob in (enhancement, *keys):
            self.blobs.put(blob, LAYER[:50] if blob == enhancement else PICTURE)
        result = cat.Refinement(enhancement, 50, *keys, SHOWN, "filter", "codec", 3 * len(PICTURE))
        cat.mark_ready(self.catalogue, id_, "r1", result, now_ns=1)
        if decided is not None:
            verdict = cat.NewVerdict(cat.VerdictKind.CONFIRM, "ann", SHOWN)
            cat.record_verdict(self.catalogue, id_, verdict, now_ns=int((NOW - decided * DAY) * SECOND))
        return seq

    def retainer(self, config: RetentionConfig = KEEP_ALL, **changes: object) -> Retainer:
        return Retainer(self.catalogue, self.blobs, replace(config, **changes), clock=lambda: NOW)

    def run(self, **changes: object) -> Report:
        return self.retainer(**changes).run_once()

    @property
    def seqs(self) -> list[int]:
        with self.catalogue.reading() as session:
            return list(session.scalars(select(cat.Frame.seq).order_by(cat.Frame.seq)))

    def count(self, table: type) -> int:
        with self.catalogue.reading() as session:
            return session.scalar(select(func.count()).select_from(table)) or 0

    @property
    def stored(self) -> set[str]:
        return {blob.key for blob in self.blobs.listing()}

    def check(self) -> None:
        """No row names a blob that is missing, and no blob is without a row."""
        named = set()
        with self.catalogue.reading() as session:
            for frame in session.scalars(select(cat.Frame)):
                named.add(frame.base_blob)
                review = frame.review
                if review is not None and review.refined_image is not None:
                    named.update(
                        (
                            review.enhancement_blob,
                            *(image_key(review.id, k) for k in ("base", "enhanced", "refined")),
                        )
                    )
        assert self.stored == named
        verify_audit(self.catalogue)


@pytest.fixture
def site(catalogue: cat.Catalogue, blobs: Blobs) -> Site:
    return Site(catalogue, blobs)


@pytest.fixture
def small(catalogue: cat.Catalogue, folder: Blobs) -> Site:
    """A site whose blobs are in a folder."""
    return Site(catalogue, folder)


def test_each_class_has_its_own_age(site: Site) -> None:
    for days in (1, 5, 9, 13):
        site.frame(days)
        site.reviewed(20, decided=days)
        site.reviewed(20, decided=days, reason=AUDIT_SAMPLE)
        site.reviewed(20)
    report = site.run(unreviewed_days=4, audit_days=8, decided_days=12)
    deleted = {kind.value: held.frames for kind, held in report.deleted.by_class.items()}
    assert deleted == {"unreviewed": 3, "audit": 2, "decided": 1}
    assert {kind.value: held.frames for kind, held in report.kept.items()} == {
        "unreviewed": 1,
        "undecided": 4,
        "decided": 3,
        "audit": 2,
        "deleting": 0,
    }
    assert site.seqs == [0, 1, 2, 3, 5, 6, 7, 9, 11, 15]
    assert report.deleted.by_class[cat.Retention.DECIDED].bytes == 3150
    assert site.count(cat.Review) == site.count(cat.Verdict) + 4 == 9
    site.check()
    assert not site.run(unreviewed_days=4, audit_days=8, decided_days=12).deleted.anything


def test_the_age_of_a_decided_frame_counts_from_its_last_verdict(small: Site) -> None:
    small.reviewed(100, decided=50)
    cat.undo_verdict(small.catalogue, reviewer="ann", now_ns=int((NOW - 40 * DAY) * SECOND))
    assert small.run(decided_days=1).deleted.by_class[cat.Retention.DECIDED].frames == 0
    verdict = cat.NewVerdict(cat.VerdictKind.REJECT, "ann", SHOWN)
    cat.record_verdict(small.catalogue, 1, verdict, now_ns=int((NOW - 5 * DAY) * SECOND))
    assert small.run(decided_days=6).deleted.by_class[cat.Retention.DECIDED].frames == 0
    assert small.run(decided_days=4).deleted.by_class[cat.Retention.DECIDED].frames == 1
    small.check()


def test_nothing_young_is_deleted(small: Site) -> None:
    small.frame(0.01)
    small.frame(0.5)
    report = small.run(unreviewed_days=0.000001, max_bytes=1, grace_minutes=60)
    assert small.seqs == [0] and report.missing_bytes == 99


def test_bytes_are_limited_by_the_least_valuable_first(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    for days in (9, 8, 7):
        site.reviewed(days, decided=days)  # 0, 3, 6
        site.reviewed(days, decided=days, reason=AUDIT_SAMPLE)  # 1, 4, 7
        site.frame(days)  # 2, 5, 8
    total = 6 * 3150 + 300
    assert site.run(max_bytes=total).deleted.anything is False
    assert site.run(max_bytes=total - 150).missing_bytes == 0
    assert site.seqs == [0, 1, 3, 4, 6, 7, 8]  # the two oldest that nobody was asked about
    site.run(max_bytes=4 * 3150)
    assert site.seqs == [0, 3, 6, 7]
    site.run(max_bytes=2 * 3150 + 1)
    assert site.seqs == [3, 6]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    site.check()


def test_undecided_reviews_are_never_deleted_and_a_warning_says_that_they_fill_the_store(
    small: Site, caplog: pytest.LogCaptureFixture
) -> None:
    small.reviewed(900)
    small.reviewed(900, reason=AUDIT_SAMPLE)
    small.frame(900, review="due")
    small.frame(900)
    report = small.run(unreviewed_days=1, decided_days=1, audit_days=1, max_bytes=1000)
    assert small.seqs == [0, 1, 2]
    assert report.missing_bytes == 2 * 3150 + 100 - 1000
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "5.4 kB too many" in warning and "3 frames with undecided reviews hold 6.4 kB" in warning
    small.check()


def test_free_space_is_kept(small: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for days in (9, 8, 7, 6):
        small.frame(days)
    monkeypatch.setattr(
        type(small.blobs), "free_bytes", lambda self: 1000 - 100 * sum(1 for _ in self.listing())
    )
    report = small.run(min_free_bytes=750)
    assert small.seqs == [2, 3]
    assert (report.free_bytes, report.missing_bytes) == (800, 0)
    assert small.run(min_free_bytes=0).deleted.anything is False


def test_a_folder_knows_its_free_space_and_an_object_store_has_none(blobs: Blobs, tmp_path: Path) -> None:
    free = blobs.free_bytes()
    assert free is None or free > 0
    assert (free is None) == (not (tmp_path / "blobs").exists())


def test_a_key_stays_as_long_as_a_delta_needs_it(site: Site) -> None:
    old_key = site.frame(50)
    site.frame(49, key=old_key)
    pinned = site.frame(48)
    delta = site.reviewed(47, key=pinned)
    alone = site.frame(46)
    report = site.run(unreviewed_days=10)
    # The first key went together with its delta, in one run.
    assert site.seqs == [pinned, delta]
    assert report.deleted.by_class[cat.Retention.UNREVIEWED].frames == 3
    assert alone not in site.seqs
    verdict = cat.NewVerdict(cat.VerdictKind.CONFIRM, "ann", SHOWN)
    cat.record_verdict(site.catalogue, 1, verdict, now_ns=int((NOW - 20 * DAY) * SECOND))
    assert site.run(unreviewed_days=10, decided_days=30).deleted.anything is False
    site.run(unreviewed_days=10, decided_days=15)
    site.run(unreviewed_days=10, decided_days=15)
    assert site.seqs == []
    site.check()


def test_what_a_review_needs_to_be_decoded_stays_until_its_picture_is_made(site: Site) -> None:
    """Frames of a group: those before the one with a review stay, those behind it go."""
    key = site.frame(50)
    before = [site.frame(50, key=key) for _ in range(2)]
    wanted = site.frame(50, key=key, review="watched")
    site.frame(50, key=key)
    other = site.frame(50)
    delta = site.frame(50, key=other)
    site.run(unreviewed_days=30)
    assert site.seqs == [key, *before, wanted] and delta not in site.seqs
    lease = cat.lease_due_review(site.catalogue, "r1", lease_seconds=60, now_ns=0)
    assert lease is not None and lease.seq == wanted
    image = image_key(lease.review_id, "base")
    cat.set_base_image(site.catalogue, lease.review_id, "r1", key=image, sha256=SHOWN)
    site.run(unreviewed_days=30)
    assert site.seqs == [key, wanted]


def test_the_enhancement_that_a_delta_fetched_of_its_key_is_counted_and_goes_with_the_key(
    small: Site,
) -> None:
    key = small.frame(50)
    small.reviewed(49, key=key, decided=48)
    small.blobs.put(enhancement_key("gate", BOOT, key), LAYER[:50])
    kept = small.run(sweep_hours=0).kept
    assert kept[cat.Retention.UNREVIEWED].bytes == 150
    small.run(unreviewed_days=10, decided_days=10)
    small.run(unreviewed_days=10, decided_days=10)
    assert small.seqs == [] and small.stored == set()


def snapshot(site: Site) -> object:
    tables = ("frames", "detections", "reviews", "verdicts", "audit", "audit_head", "tombstones")
    with site.catalogue.reading() as session:
        rows = [session.execute(text(f"SELECT * FROM {table} ORDER BY 1")).all() for table in tables]
    return repr(rows), sorted((blob.key, blob.bytes, blob.modified) for blob in site.blobs.listing())


def test_a_dry_run_changes_nothing_and_tells_what_a_run_would_do(site: Site) -> None:
    key = site.frame(50)
    for days in (49, 48, 47):
        site.frame(days, key=key)
    site.reviewed(50, decided=40)
    site.reviewed(50, decided=3)
    site.reviewed(50)
    pinned = site.frame(45)
    site.reviewed(44, key=pinned)
    cat.store_tombstones(site.catalogue, [cat.FrameTombstone("gate", BOOT, 90, 95, "spool-full", 7)])
    site.blobs.put(base_key("gate", BOOT, 77), LAYER)  # without a row
    limits = {"unreviewed_days": 30, "decided_days": 30, "max_bytes": 2 * 3150 + 150, "grace_minutes": 1e-9}
    before = snapshot(site)
    retainer = Retainer(site.catalogue, site.blobs, replace(KEEP_ALL, **limits), clock=lambda: NOW * 2)
    told = retainer.run_once(dry_run=True)
    assert snapshot(site) == before and told.dry_run
    done = Retainer(site.catalogue, site.blobs, replace(KEEP_ALL, **limits), clock=lambda: NOW * 2).run_once()
    assert told.deleted == done.deleted
    assert done.deleted.orphan_blobs == 1 and done.deleted.tombstones == 1
    assert done.deleted.by_class[cat.Retention.UNREVIEWED].frames == 4
    assert done.deleted.by_class[cat.Retention.DECIDED].frames == 2
    site.check()


class Crash(BaseException):
    """Not an Exception: nothing on the way may catch it, as nothing catches a SIGKILL."""


STEPS = ("delete_many", "delete", "mark_deleting", "remove_deleted")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_any_step_is_made_good_by_the_next_run(
    small: Site, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    for days in (50, 49, 48, 47):
        small.frame(days)
        small.reviewed(days, decided=days)
    small.frame(1)
    crashes = 0
    # Each time one call further on, until a run gets through.
    for after in itertools.count(1):
        calls = itertools.count(1)
        with monkeypatch.context() as patch:
            if step in ("delete_many", "delete"):
                owner: object = type(small.blobs)
                name = step
            else:
                owner, name = retention_run, step
            original: Callable[..., object] = getattr(owner, name)

            def fail(
                *args: object,
                original: Callable[..., object] = original,
                calls: Iterator[int] = calls,
                after: int = after,
                **kwargs: object,
            ) -> object:
                crash = next(calls) == after
                if crash and when == "before":
                    raise Crash
                result = original(*args, **kwargs)
                if crash:
                    raise Crash
                return result

            patch.setattr(owner, name, fail)
            try:
                small.run(unreviewed_days=10, decided_days=10)
                break
            except Crash:
                crashes += 1
        # A row that stands whole has all its blobs; what is half-deleted is marked.
        with small.catalogue.reading() as session:
            whole = session.scalars(
                select(cat.Frame.base_blob).where(cat.Frame.retention != cat.Retention.DELETING)
            ).all()
        assert set(whole) <= small.stored
        small.run(sweep_hours=0)  # deletes by no rule, and finishes what was begun
        small.check()
    assert crashes >= 2
    assert small.seqs == [8]
    small.check()


def test_the_figures_of_a_crash_are_told_as_resumed(small: Site) -> None:
    for days in (50, 49):
        small.frame(days)
    doomed = mark_deleting(
        small.catalogue, Candidates(cat.Retention.UNREVIEWED, int(NOW * SECOND)), limit=1, now_ns=1
    )
    small.blobs.delete(doomed[0].blob_keys[0])
    deleted = small.run().deleted
    assert (deleted.resumed.frames, deleted.resumed.bytes) == (1, 100)
    assert small.seqs == [1]


def test_a_disk_that_is_full_is_made_room_on(tmp_path: Path) -> None:
    """Marking writes the database, for which a reserve is given up, and taken again."""
    with small_disk(tmp_path / "disk", 8) as disk:
        catalogue = cat.open_catalogue(f"sqlite:///{disk}/catalogue.db")
        site = Site(catalogue, open_blobs(str(disk / "blobs")))
        reserve = Reserve(disk / "reserve", 1 << 20)
        config = replace(KEEP_ALL, batch_frames=500, unreviewed_days=10)
        retainer = Retainer(catalogue, site.blobs, config, reserve=reserve, clock=lambda: NOW)
        assert not retainer.run_once().deleted.anything
        assert (disk / "reserve").stat().st_size == 1 << 20
        for _ in range(50):
            site.frame(50)
        with catalogue.reading() as session:
            session.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
        with contextlib.suppress(OSError), (disk / "somebody").open("wb", buffering=0) as stream:
            while True:
                stream.write(bytes(4096))
        with pytest.raises(DiskFull):
            Retainer(catalogue, site.blobs, config, clock=lambda: NOW).run_once()
        assert len(site.seqs) == 50
        retainer.run_once()
        assert site.seqs == []
        (disk / "somebody").unlink()
        retainer.run_once()
        assert (disk / "reserve").exists()
        catalogue.close()


def test_two_at_once_delete_each_frame_once(catalogue_url: str, folder: Blobs) -> None:
    hands = [cat.open_catalogue(catalogue_url) for _ in range(3)]
    site = Site(hands[0], folder)
    key = site.frame(60)
    for number in range(30):
        site.frame(50, key=key)
        site.reviewed(50, decided=50 - number / 10)
    site.frame(1)

    def run(catalogue: cat.Catalogue) -> Deleted:
        config = replace(KEEP_ALL, unreviewed_days=10, decided_days=10)
        return Retainer(catalogue, folder, config, clock=lambda: NOW).run_once().deleted

    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(run, hands))
    done.append(run(hands[0]))  # where one of them ended early, with a key that another was about to free
    frames = sum(sum(held.frames for held in one.by_class.values()) + one.resumed.frames for one in done)
    assert frames == 61
    assert site.seqs == [61]
    site.check()
    for catalogue in hands:
        catalogue.close()


def test_blobs_without_a_row_go_after_a_grace_and_others_stay(site: Site) -> None:
    seq = site.frame(50)
    key = site.frame(49)
    delta = site.frame(48, key=77)  # its key is no frame here; its layer is wanted all the same
    orphans = [base_key("gate", BOOT, 500), enhancement_key("gate", BOOT, 501), image_key(9, "base")]
    wanted = [base_key("gate", BOOT, one) for one in (seq, key, delta, 77)]
    for blob in (*orphans, base_key("gate", BOOT, 77), "base/notes.txt"):
        site.blobs.put(blob, LAYER)
    fresh = Retainer(site.catalogue, site.blobs, KEEP_ALL)
    assert fresh.run_once().deleted.orphan_blobs == 0
    late = Retainer(site.catalogue, site.blobs, KEEP_ALL, clock=lambda: NOW * 2)
    deleted = late.run_once().deleted
    assert (deleted.orphan_blobs, deleted.orphan_bytes) == (3, 300)
    assert site.stored == {*wanted, "base/notes.txt"}


def test_a_layer_without_a_row_stays_while_frames_behind_it_in_its_group_do(site: Site) -> None:
    """Its detector failed over it, say: those behind cannot be decoded without it."""
    first, dead = site.frame(50), next(site._seqs)
    site.frame(49, key=first)
    last = next(site._seqs)
    site.frame(48)
    inside, behind = base_key("gate", BOOT, dead), base_key("gate", BOOT, last)
    for blob in (inside, behind):
        site.blobs.put(blob, LAYER)
    Retainer(site.catalogue, site.blobs, KEEP_ALL, clock=lambda: NOW * 2).run_once()
    assert inside in site.stored and behind not in site.stored


def test_backgrounds_stay_while_a_frame_of_their_camera_host_does(site: Site) -> None:
    site.frame(50)
    ours, theirs = background_key("gate", "ab" * 32), background_key("elsewhere", "ab" * 32)
    for blob in (ours, theirs):
        site.blobs.put(blob, LAYER)
    Retainer(site.catalogue, site.blobs, KEEP_ALL, clock=lambda: NOW * 2).run_once()
    assert ours in site.stored and theirs not in site.stored


def test_a_sweep_comes_at_its_time(small: Site) -> None:
    clock = [NOW * 2]
    retainer = Retainer(
        small.catalogue, small.blobs, replace(KEEP_ALL, sweep_hours=2), clock=lambda: clock[0]
    )
    found = []
    for hours in (0, 1, 1.5, 3, 3.5):
        small.blobs.put(base_key("gate", BOOT, 500), LAYER)
        clock[0] = NOW * 2 + hours * 3600
        found.append(retainer.run_once().deleted.orphan_blobs)
    assert found == [1, 0, 0, 1, 0]


def test_half_written_files_and_empty_folders_go(small: Site, tmp_path: Path) -> None:
    small.reviewed(50, decided=49)
    left = tmp_path / "blobs" / "base" / "gate" / BOOT / ".7.slk.123-456"
    left.write_bytes(b"half")
    report = Retainer(small.catalogue, small.blobs, KEEP_ALL, clock=lambda: NOW * 2).run_once()
    assert report.deleted.unfinished_files == 1 and not left.exists()
    small.run(decided_days=10)
    assert not (tmp_path / "blobs" / "image" / "1").exists()
    small.frame(1)  # its folder is made again
    small.check()


def test_a_folder_that_goes_while_a_blob_is_put_is_made_again(folder: Blobs, tmp_path: Path) -> None:
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            folder.put("image/1/base.png", b"x")
            folder.delete("image/1/base.png")

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(come_and_go)
        try:
            for _ in range(200):
                folder.put("image/1/refined.png", b"y")
                folder.delete("image/1/refined.png")
        finally:
            stop.set()
        other.result()


def test_a_blob_that_cannot_be_deleted_holds_up_no_other(
    small: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for days in (50, 49, 48, 47):
        small.frame(days)
    original = type(small.blobs).delete

    def delete(self: Blobs, key: str) -> None:
        if key == base_key("gate", BOOT, 0):
            raise Unwritable("this folder is not ours")
        original(self, key)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(type(small.blobs), "delete", delete)
        deleted = small.run(unreviewed_days=10).deleted
        assert (deleted.failed_frames, deleted.by_class[cat.Retention.UNREVIEWED].frames) == (3, 1)
        assert small.run(unreviewed_days=10).deleted.failed_frames == 3
    assert small.run().deleted.resumed.frames == 3
    small.check()


def test_a_store_that_is_away_is_waited_for(small: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    small.frame(50)
    stop, beats = threading.Event(), []
    waits: list[str | None] = []

    def away(self: Blobs, keys: object) -> None:
        raise StoreUnavailable("the store cannot be used")

    monkeypatch.setattr(type(small.blobs), "delete_many", away)
    clock = [NOW]

    def heartbeat() -> None:
        clock[0] += 100
        beats.append(clock[0])
        if len(beats) == 8:
            monkeypatch.undo()
        if len(beats) > 12:
            stop.set()

    monkeypatch.setattr(stop, "wait", lambda seconds: stop.is_set())
    config = replace(KEEP_ALL, unreviewed_days=10)
    Retainer(
        small.catalogue,
        small.blobs,
        config,
        stop=stop,
        clock=lambda: clock[0],
        heartbeat=heartbeat,
        waits=waits.append,
    ).run()
    assert small.seqs == []
    # Probes hear of it, and it is tried sooner than the next run would be.
    assert set(waits) == {"the store cannot be used", None}
    assert waits.index(None) > 3
    small.check()


def test_what_is_marked_cannot_be_judged_or_undone(small: Site) -> None:
    small.reviewed(50, decided=40)
    wanted = Candidates(cat.Retention.DECIDED, int(NOW * SECOND))
    (doomed,) = mark_deleting(small.catalogue, wanted, limit=5, now_ns=1)
    verdict = cat.NewVerdict(cat.VerdictKind.REJECT, "ann", SHOWN)
    with pytest.raises(ReviewGone):
        cat.record_verdict(small.catalogue, 1, verdict, now_ns=1)
    with pytest.raises(ReviewGone):
        cat.undo_verdict(small.catalogue, reviewer="ann", now_ns=1)
    assert remove_deleted(small.catalogue, [doomed.frame_id]).frames == 1
    assert remove_deleted(small.catalogue, [doomed.frame_id]).frames == 0


def test_what_somebody_is_judging_is_passed_over(database_url: str, folder: Blobs) -> None:
    catalogue, other = cat.open_catalogue(database_url), cat.open_catalogue(database_url)
    site = Site(catalogue, folder)
    for days in (50, 49):
        site.reviewed(days, decided=days)
    with catalogue.writing() as session:
        cat.reviews.get_review(session, 1)
        mine = Retainer(other, folder, replace(KEEP_ALL, decided_days=10), clock=lambda: NOW)
        assert mine.run_once().deleted.by_class[cat.Retention.DECIDED].frames == 1
    assert site.seqs == [0]
    catalogue.close()
    other.close()


def test_people_s_work_leaves_a_line_in_the_audit_trail(small: Site) -> None:
    small.reviewed(50, decided=40)
    small.frame(50)
    small.run(unreviewed_days=10, decided_days=10)
    with small.catalogue.reading() as session:
        lines = session.scalars(select(cat.AuditEntry).where(cat.AuditEntry.actor == "retention")).all()
    (line,) = lines
    assert (line.action, line.subject) == ("frames deleted", "class decided")
    assert line.detail == {"frames": 1, "bytes": 3150, "reviews": [1]}
    with small.catalogue.reading() as session:
        actions = session.scalars(select(cat.AuditEntry.action).order_by(cat.AuditEntry.id)).all()
    assert actions == ["review created", "review refined", "verdict given", "frames deleted"]


def test_workers_store_and_people_look_while_it_deletes(catalogue_url: str, folder: Blobs) -> None:
    hands = [cat.open_catalogue(catalogue_url) for _ in range(3)]
    site, stop = Site(hands[0], folder), threading.Event()
    for number in range(40):
        site.frame(50)
        site.reviewed(50, decided=40 + number / 10)

    def retain() -> None:
        config = replace(KEEP_ALL, unreviewed_days=10, decided_days=10, grace_minutes=1)
        retainer = Retainer(hands[1], folder, config, clock=lambda: NOW)
        while not stop.is_set():
            retainer.run_once()

    def look() -> None:
        while not stop.is_set():
            with hands[2].reading() as session:
                for frame in session.scalars(select(cat.Frame)):
                    assert frame.base_blob

    with ThreadPoolExecutor(2) as pool:
        others = [pool.submit(retain), pool.submit(look)]
        try:
            for _ in range(40):
                site.frame(1)
                site.reviewed(1, decided=0.5)
        finally:
            stop.set()
        for other in others:
            other.result()
    site.run(unreviewed_days=10, decided_days=10)
    assert len(site.seqs) == 80 and min(site.seqs) == 80
    site.check()
    for catalogue in hands:
        catalogue.close()


def test_a_sqlite_file_stops_growing(tmp_path: Path, folder: Blobs) -> None:
    catalogue = cat.open_catalogue(f"sqlite:///{tmp_path}/catalogue.db")
    site, sizes = Site(catalogue, folder), []
    for _ in range(6):
        for _ in range(150):
            site.frame(50)
        for _ in range(20):
            site.reviewed(50, decided=40)
        site.run(unreviewed_days=10, decided_days=10, batch_frames=500)
        with catalogue.reading() as session:
            session.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
        sizes.append(sum(os.stat(path).st_size for path in tmp_path.glob("catalogue.db*")))
    assert site.seqs == []
    # The audit trail stays, and grows by 60 lines a round; frames leave their pages to the next.
    with catalogue.reading() as session:
        audit_bytes = session.scalar(text("SELECT sum(length(detail) + length(subject) + 200) FROM audit"))
    assert sizes[-1] - sizes[0] <= 2 * (audit_bytes or 0)
    assert sizes[-1] < 1.6 * sizes[0]
    catalogue.close()


def test_the_oldest_candidates_come_from_an_index(small: Site) -> None:
    """Whatever the table's size: no scan of all frames, and no sort."""
    if small.catalogue._reader.dialect.name != "sqlite":
        pytest.skip("plans of PostgreSQL depend on its statistics")
    small.frame(50)
    query = _oldest(Candidates(cat.Retention.UNREVIEWED, int(NOW * SECOND), (5, 5))).limit(10)
    compiled = query.compile(small.catalogue._reader, compile_kwargs={"literal_binds": True})
    with small.catalogue.reading() as session:
        plan = [row[3] for row in session.execute(text(f"EXPLAIN QUERY PLAN {compiled}"))]
    assert plan[0].startswith("SEARCH frames USING INDEX frames_retention (retention=? AND retention_ns>")
    assert any("USING INDEX frames_deltas" in line or "USING COVERING INDEX" in line for line in plan[1:]), (
        plan
    )
    assert not any("SCAN" in line or "TEMP B-TREE" in line for line in plan), plan
    assert (
        len(
            list_candidates(small.catalogue, Candidates(cat.Retention.UNREVIEWED, int(NOW * SECOND)), limit=3)
        )
        == 1
    )


def test_tombstones_have_an_age(small: Site) -> None:
    for days in (50, 20, 3):
        gap = cat.FrameTombstone("gate", BOOT, days, days, "spool-full", int((NOW - days * DAY) * SECOND))
        cat.store_tombstones(small.catalogue, [gap])
    assert small.run(tombstones_days=10).deleted.tombstones == 2
    assert small.count(cat.Tombstone) == 1
    assert small.run(tombstones_days=0).deleted.tombstones == 0


def test_the_command_deletes_once_or_tells_what_it_would(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue = cat.open_catalogue(f"sqlite:///{tmp_path}/catalogue.db")
    site = Site(catalogue, open_blobs(str(tmp_path / "blobs")))
    site.frame(400)
    site.reviewed(400)
    (tmp_path / "cloud.toml").write_text("[retention]\nunreviewed_days = 1\nmin_free_bytes = 0\n")

    def figures(*flags: str) -> dict[str, dict[str, dict[str, int]]]:
        command = ["retention", "--config", str(tmp_path / "cloud.toml"), "--data-dir", str(tmp_path), *flags]
        assert main(command) == 0
        told: dict[str, dict[str, dict[str, int]]] = json.loads(capsys.readouterr().out)
        return told

    assert figures("--dry-run")["deleted"]["by_class"]["unreviewed"] == {"frames": 1, "bytes": 100}
    assert not (tmp_path / "retention.json").exists()
    assert len(site.seqs) == 2
    told = figures("--once")
    assert told["deleted"]["by_class"]["unreviewed"] == {"frames": 1, "bytes": 100}
    assert told["kept"]["undecided"] == {"frames": 1, "bytes": 3150}
    assert json.loads((tmp_path / "retention.json").read_text()) == told
    assert site.seqs == [1]
    catalogue.close()

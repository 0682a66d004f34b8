from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select

from secondlook.cloud import catalogue as cat
from secondlook.shared.detection import Detection
from secondlook.shared.errors import (
    ConfigError,
    DiskFull,
    ReviewConflict,
    StoreCorrupt,
    UnsupportedStore,
    Unwritable,
)
from secondlook.shared.packet import FrameInfo

BOOT = "ab" * 16
SECOND = 1_000_000_000


def frame(seq: int, key_seq: int | None = None, edge_id: str = "gate", **facts: int) -> cat.NewFrame:
    """`facts`: other members of its FrameInfo."""
    facts = {"captured_ns": 1, "width": 64, "height": 48, "enhancement_bytes": 900, **facts}
    return cat.NewFrame(
        edge_id=edge_id,
        camera="yard",
        received_ns=2,
        info=FrameInfo(boot_id=BOOT, seq=seq, key_seq=key_seq, **facts),
        base_blob=f"base/{edge_id}/{BOOT}/{seq}.slk",
        base_bytes=100,
    )


def ready(
    catalogue: cat.Catalogue, seq: int, shown: str, found: Sequence[Detection] = (), now_ns: int = 1
) -> None:
    """File a frame whose review is next in line, and refine it; ``shown``: the hash of what people see."""
    reasons = [cat.NewReview("doubt", 50 - seq)]
    cat.store_frame(catalogue, frame(seq), found, detector="tiny", reasons=reasons, now_ns=now_ns)
    lease = cat.lease_due_review(catalogue, "r", lease_seconds=60, now_ns=now_ns)
    assert lease is not None
    pictures = ("enhancement", 1, "base", "enhanced", "refined", shown, "f", "c")
    cat.mark_ready(catalogue, lease.review_id, "r", cat.Refinement(*pictures), now_ns=now_ns + 1)


def box(label: str = "cat", score: float = 0.5) -> Detection:
    return Detection(label=label, score=score, box=(1.0, 2.0, 30.0, 40.0))


def store(catalogue: cat.Catalogue, seq: int, priority: int | None = 5, key_seq: int | None = None) -> bool:
    review = None if priority is None else cat.NewReview(reason="uncertain: cat 0.50", priority=priority)
    return cat.store_frame(
        catalogue,
        frame(seq, key_seq),
        [box(), box("dog", 0.9)],
        detector="tiny",
        reasons=[] if review is None else [review],
        now_ns=10 + seq,
    )


RESULT = cat.Refinement(
    enhancement_blob="enhancement/gate/x/0.slk",
    enhancement_bytes=900,
    base_image="image/1/base.png",
    enhanced_image="image/1/enhanced.png",
    refined_image="image/1/refined.png",
    shown_sha256="c" * 64,
    postfilter="rrdb-l1",
    codec_model="0011223344556677",
)


@pytest.fixture
def catalogue(catalogue_url: str) -> Iterator[cat.Catalogue]:
    catalogue = cat.open_catalogue(catalogue_url)
    yield catalogue
    catalogue.close()


def count(catalogue: cat.Catalogue, table: type) -> int:
    with catalogue.reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_a_frame_is_stored_once_however_often_it_is_delivered(catalogue: cat.Catalogue) -> None:
    assert store(catalogue, 0)
    assert not store(catalogue, 0)
    assert count(catalogue, cat.Frame) == count(catalogue, cat.Review) == count(catalogue, cat.Camera) == 1
    assert count(catalogue, cat.DetectedBox) == 2
    assert cat.frame_is_stored(catalogue, "gate", BOOT, 0)
    assert not cat.frame_is_stored(catalogue, "gate", BOOT, 1)


def test_a_failing_change_leaves_nothing_behind(catalogue: cat.Catalogue) -> None:
    broken = Detection(label=None, score=0.5, box=(0.0, 0.0, 1.0, 1.0))  # type: ignore[arg-type]
    with pytest.raises(Exception, match=r"(?i)not.null"):
        cat.store_frame(catalogue, frame(0), [box(), broken], detector="tiny", reasons=[], now_ns=1)
    assert (
        count(catalogue, cat.Frame) == count(catalogue, cat.DetectedBox) == count(catalogue, cat.Camera) == 0
    )


def test_a_review_may_give_way_to_one_nearby(catalogue: cat.Catalogue) -> None:
    """Of the same camera host, by the time of capture, whatever order the frames come in."""

    def reviewed(seq: int, captured_ns: int, apart_ns: int, edge_id: str = "gate") -> bool:
        before = count(catalogue, cat.Review)
        of_it = frame(seq, edge_id=edge_id, captured_ns=captured_ns)
        wish = cat.NewReview("uncertain: cat 0.50", 5, apart_ns)
        assert cat.store_frame(catalogue, of_it, [box()], detector="tiny", reasons=[wish], now_ns=1)
        return count(catalogue, cat.Review) == before + 1

    assert reviewed(0, 1000, 100)
    assert not reviewed(1, 1099, 100)
    assert not reviewed(2, 901, 100)
    assert reviewed(3, 1100, 100)
    assert reviewed(4, 900, 100)
    assert reviewed(5, 1050, 100, edge_id="barn")
    assert reviewed(6, 1051, 0)
    assert count(catalogue, cat.Frame) == 7


def test_reviews_are_leased_by_priority_then_age(catalogue: cat.Catalogue) -> None:
    for seq, priority in enumerate([1, 9, 9]):
        store(catalogue, seq, priority)
    leases = [cat.lease_due_review(catalogue, "r1", lease_seconds=60, now_ns=100) for _ in range(4)]
    assert [lease.seq if lease else None for lease in leases] == [1, 2, 0, None]


def test_a_lease_names_the_key_of_a_delta(catalogue: cat.Catalogue) -> None:
    store(catalogue, 3, None)
    store(catalogue, 4, 5, key_seq=3)
    lease = cat.lease_due_review(catalogue, "r1", lease_seconds=60, now_ns=100)
    assert lease is not None
    assert (lease.key_seq, lease.key_base_blob) == (3, f"base/gate/{BOOT}/3.slk")


def test_an_expired_lease_passes_to_another_worker_and_shuts_out_the_first(catalogue: cat.Catalogue) -> None:
    store(catalogue, 0)
    first = cat.lease_due_review(catalogue, "r1", lease_seconds=60, now_ns=0)
    assert first is not None
    assert cat.lease_due_review(catalogue, "r2", lease_seconds=60, now_ns=59 * SECOND) is None
    cat.extend_review_lease(catalogue, first.review_id, "r1", lease_seconds=60, now_ns=59 * SECOND)
    assert cat.lease_due_review(catalogue, "r2", lease_seconds=60, now_ns=61 * SECOND) is None
    second = cat.lease_due_review(catalogue, "r2", lease_seconds=60, now_ns=119 * SECOND)
    assert second is not None
    assert second.requested_ns == 0
    with pytest.raises(ReviewConflict):
        cat.mark_ready(catalogue, first.review_id, "r1", RESULT, now_ns=120 * SECOND)
    cat.mark_ready(catalogue, first.review_id, "r2", RESULT, now_ns=121 * SECOND)
    with catalogue.reading() as session:
        review = session.get_one(cat.Review, first.review_id)
        assert (review.state, review.shown_sha256, review.lease_owner) == (
            cat.ReviewState.READY,
            "c" * 64,
            None,
        )


def state(catalogue: cat.Catalogue) -> cat.ReviewState:
    with catalogue.reading() as session:
        return session.get_one(cat.Review, 1).state


def test_an_expired_review_can_be_judged_or_retried(catalogue: cat.Catalogue) -> None:
    store(catalogue, 0)
    lease(catalogue)
    cat.set_base_image(catalogue, 1, "r1", key="image/1/base.png", sha256="d" * 64)
    cat.mark_expired(catalogue, 1, "r1", why="the camera host no longer has it", now_ns=5)
    verdict = cat.NewVerdict(cat.VerdictKind.CONFIRM, "ann", "d" * 64)
    cat.record_verdict(catalogue, 1, verdict, now_ns=10)
    assert state(catalogue) is cat.ReviewState.DECIDED
    cat.undo_verdict(catalogue, reviewer="ann", now_ns=20)
    assert state(catalogue) is cat.ReviewState.EXPIRED
    cat.retry_review(catalogue, 1, actor="ann", now_ns=30)
    with pytest.raises(ReviewConflict):
        cat.retry_review(catalogue, 1, actor="ann", now_ns=30)
    lease(catalogue)
    cat.release_review(catalogue, 1, "r1")
    assert state(catalogue) is cat.ReviewState.DUE


def lease(catalogue: cat.Catalogue) -> cat.LeasedReview:
    found = cat.lease_due_review(catalogue, "r1", lease_seconds=60, now_ns=0)
    assert found is not None
    return found


def test_tombstones_are_stored_once(catalogue: cat.Catalogue) -> None:
    gap = cat.FrameTombstone("gate", BOOT, 4, 9, "spool-full", 7)
    assert cat.store_tombstones(catalogue, [gap, gap]) == 1
    assert cat.store_tombstones(catalogue, [gap]) == 0


def tombstones(catalogue: cat.Catalogue, boot_id: str = BOOT) -> list[tuple[int, int]]:
    with catalogue.reading() as session:
        rows = session.scalars(select(cat.Tombstone).where(cat.Tombstone.boot_id == boot_id))
        return sorted((row.first_seq, row.last_seq) for row in rows)


@pytest.mark.parametrize(
    ("seqs", "left"),
    [
        ([6], [(4, 5), (7, 9)]),
        ([4], [(5, 9)]),
        ([9], [(4, 8)]),
        ([3, 10], [(4, 9)]),
        ([5, 6, 8], [(4, 4), (7, 7), (9, 9)]),
        (range(4, 10), []),
    ],
)
@pytest.mark.parametrize("frames_first", [True, False])
def test_a_frame_that_came_after_all_lies_under_no_tombstone(
    catalogue: cat.Catalogue, seqs: Sequence[int], left: list[tuple[int, int]], frames_first: bool
) -> None:
    gap = cat.FrameTombstone("gate", BOOT, 4, 9, "spool-full", 7)
    other = replace(gap, boot_id="b" * 32)
    if not frames_first:
        cat.store_tombstones(catalogue, [other, gap])
    for seq in seqs:
        store(catalogue, seq)
    for _ in range(2):  # every worker copies them again when it starts
        cat.store_tombstones(catalogue, [gap, other])
    assert (tombstones(catalogue), tombstones(catalogue, other.boot_id)) == (left, [(4, 9)])
    with catalogue.reading() as session:
        assert {grave.reason for grave in session.scalars(select(cat.Tombstone))} == {"spool-full"}


def test_opening_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_bytes(b"this is no database, it is a text of some length" * 40)
    with pytest.raises(StoreCorrupt):
        cat.open_catalogue(f"sqlite:///{tmp_path}/text.db")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unwritable):
        cat.open_catalogue(f"sqlite:///{tmp_path}/file/catalogue.db")
    with pytest.raises(ConfigError):
        cat.open_catalogue("nonsense")
    cat.open_catalogue(f"sqlite:///{tmp_path}/late.db").close()
    with sqlite3.connect(tmp_path / "late.db") as connection:
        connection.execute("UPDATE catalogue_version SET version_num = '9999_later'")
    connection.close()
    with pytest.raises(UnsupportedStore, match="9999_later, made by a later program"):
        cat.open_catalogue(f"sqlite:///{tmp_path}/late.db")


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    catalogue = cat.open_catalogue(f"sqlite:///{tmp_path}/catalogue.db")
    with pytest.raises(DiskFull), catalogue.writing() as session:
        pages = session.connection().exec_driver_sql("PRAGMA page_count").scalar_one()
        session.connection().exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        session.add_all(
            cat.AuditEntry(
                at_ns=i, actor="a", action="b", subject="c", detail={"text": "x" * 500}, sha256="0"
            )
            for i in range(50)
        )
    assert count(catalogue, cat.AuditEntry) == 0

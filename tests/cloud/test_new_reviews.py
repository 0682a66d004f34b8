"""Which frames become reviews, on both databases: reasons, distances in time, and budgets of open reviews."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import select

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue import Rule
from secondlook.cloud.catalogue.site import AUDIT_SECRET
from secondlook.cloud.config import PolicyConfig
from secondlook.cloud.workers.policy import FrameIdentity, wish_for_review
from secondlook.shared.detection import Detection
from tests.cloud.test_catalogue import BOOT, RESULT, SECOND, box, frame

LATEST_NS = 2**63 - 1
SECRET = bytes(range(32))


@pytest.fixture
def catalogue(catalogue_url: str) -> Iterator[cat.Catalogue]:
    catalogue = cat.open_catalogue(catalogue_url)
    yield catalogue
    catalogue.close()


def doubt(apart_seconds: float = 5.0, priority: int = 50) -> cat.NewReview:
    return cat.NewReview("uncertain: cat 0.40", priority, round(apart_seconds * SECOND), Rule.UNCERTAIN)


def audit() -> cat.NewReview:
    return cat.NewReview("audit sample", 10, 0, Rule.AUDIT)


def watched(apart_seconds: float = 0.0) -> cat.NewReview:
    return cat.NewReview("watched: person 0.90", 90, round(apart_seconds * SECOND), Rule.WATCHED)


class Store:
    """Files frames one after the other."""

    def __init__(self, catalogue: cat.Catalogue, budget: cat.ReviewBudget = cat.ReviewBudget()) -> None:  # noqa: B008
        self.catalogue, self.budget, self.seq = catalogue, budget, -1

    def __call__(self, *reasons: cat.NewReview, at: float = 0.0, edge_id: str = "gate") -> int:
        self.seq += 1
        new = frame(self.seq, edge_id=edge_id, captured_ns=round(at * SECOND))
        assert cat.store_frame(
            self.catalogue,
            new,
            [box()],
            detector="tiny",
            reasons=reasons,
            now_ns=1000 + self.seq,
            budget=self.budget,
        )
        return self.seq

    def reviews(self, state: cat.ReviewState | None = None) -> list[int]:
        """Sequences of the frames under review."""
        query = select(cat.Frame.seq).join(cat.Review, cat.Review.frame_id == cat.Frame.id)
        if state is not None:
            query = query.where(cat.Review.state == state)
        with self.catalogue.reading() as session:
            return sorted(session.scalars(query))

    def review_of(self, seq: int) -> cat.Review:
        with self.catalogue.reading() as session:
            review = session.scalars(
                select(cat.Review)
                .join(cat.Frame, cat.Review.frame_id == cat.Frame.id)
                .where(cat.Frame.seq == seq)
            ).one()
            assert review.reasons is not None  # loaded
            return review


def test_a_review_keeps_all_its_reasons_and_the_highest_priority(catalogue: cat.Catalogue) -> None:
    store = Store(catalogue)
    review = store.review_of(store(audit(), watched(), doubt()))
    assert (review.priority, review.reason) == (
        90,
        "watched: person 0.90; uncertain: cat 0.40; audit sample",
    )
    assert [(reason.rule, reason.priority) for reason in review.reasons] == [
        ("watched", 90),
        ("uncertain", 50),
        ("audit", 10),
    ]


def test_doubt_is_spaced_by_doubt_alone_and_the_audit_sample_by_nothing(catalogue: cat.Catalogue) -> None:
    store = Store(catalogue)
    store(audit(), at=0)
    store(doubt(), at=1)  # the sample beside it says nothing of doubt
    store(doubt(), at=2)  # too close to the last one
    store(doubt(), audit(), at=3)  # drawn, whatever it is in doubt about
    store(audit(), at=3)
    store(doubt(), at=6)  # 5 s after the review for doubt; that of the sample moves nothing
    store(watched(60), at=6)
    store(watched(60), at=65)
    store(watched(60), at=66)
    assert store.reviews() == [0, 1, 3, 4, 5, 6, 8]
    assert [(reason.rule, reason.decisive) for reason in store.review_of(3).reasons] == [
        ("uncertain", False),
        ("audit", True),
    ]


def test_of_60_photographs_every_one_drawn_is_reviewed_and_doubt_has_its_share(
    catalogue: cat.Catalogue,
) -> None:
    """Read as fast as a folder is: half a second apart, 22 of them in doubt."""
    policy, store = PolicyConfig(audit_every=5), Store(catalogue)
    drawn, doubtful = set(), set()
    for seq in range(60):
        in_doubt = seq % 30 < 11
        detections = [Detection("car", 0.4 if in_doubt else 0.9, (0.0, 0.0, 9.0, 9.0))]
        wishes = wish_for_review(policy, FrameIdentity("gate", BOOT, seq), detections, secret=SECRET)
        drawn |= {seq for wish in wishes if wish.rule is Rule.AUDIT}
        doubtful |= {seq for wish in wishes if wish.rule is Rule.UNCERTAIN}
        store(
            *(cat.NewReview(w.reason, w.priority, round(w.apart_seconds * SECOND), w.rule) for w in wishes),
            at=seq / 2,
        )
    assert len(doubtful) == 22 and len(drawn) >= 8 and drawn & doubtful
    reviewed = set(store.reviews())
    assert drawn <= reviewed
    with catalogue.reading() as session:
        decisive = session.scalars(
            select(cat.Frame.captured_ns)
            .join(cat.Review, cat.Review.frame_id == cat.Frame.id)
            .join(cat.Reason, cat.Reason.review_id == cat.Review.id)
            .where(cat.Reason.rule == "uncertain", cat.Reason.decisive)
            .order_by(cat.Frame.captured_ns)
        ).all()
    assert [at / SECOND for at in decisive] == [0.0, 5.0, 15.0, 20.0]


@pytest.mark.parametrize("captured_ns", [0, 1, LATEST_NS - 1, LATEST_NS])
def test_no_clock_of_a_camera_host_overflows_a_distance(catalogue: cat.Catalogue, captured_ns: int) -> None:
    huge = replace(doubt(), apart_ns=10**30)
    for seq, edge_id in enumerate(["gate", "gate", "barn"]):
        new = frame(seq, edge_id=edge_id, captured_ns=captured_ns, enhancement_bytes=LATEST_NS)
        assert cat.store_frame(
            catalogue, new, [box()], detector="tiny", reasons=[huge if seq else doubt()], now_ns=seq
        )
    assert Store(catalogue).reviews() == [0, 2]


def test_a_full_budget_keeps_the_most_valuable_by_priority_then_the_newest(catalogue: cat.Catalogue) -> None:
    store = Store(catalogue, cat.ReviewBudget(site=3))
    low, middle, high = doubt(0, 20), doubt(0, 50), doubt(0, 90)
    store(low)
    store(high)
    store(middle)
    assert store.reviews(cat.ReviewState.SKIPPED) == []
    store(middle)  # takes the place of the low one
    store(low)  # is worth less than all
    store(middle)  # as urgent as the older one
    assert store.reviews(cat.ReviewState.DUE) == [1, 3, 5]
    assert store.reviews(cat.ReviewState.SKIPPED) == [0, 2, 4]
    assert cat.skipped_reviews(catalogue) == 3


def test_a_flood_of_watched_frames_is_bounded_and_counted(catalogue: cat.Catalogue) -> None:
    store = Store(catalogue, cat.ReviewBudget(site=20, camera=5))
    for _ in range(40):
        store(watched(), edge_id="flood")
    quiet = store(doubt(), edge_id="quiet")
    assert store.reviews(cat.ReviewState.DUE) == [*range(35, 40), quiet]
    assert cat.skipped_reviews(catalogue) == 35


def test_the_audit_sample_knows_no_budget(catalogue: cat.Catalogue) -> None:
    store = Store(catalogue, cat.ReviewBudget(site=2, camera=2))
    samples = [store(audit()) for _ in range(4)]
    store(watched())
    assert store.reviews(cat.ReviewState.DUE) == samples
    samples.append(store(audit(), doubt()))
    assert store.reviews(cat.ReviewState.DUE) == samples


def test_what_a_person_may_be_looking_at_goes_only_for_a_higher_priority_and_can_be_judged(
    catalogue: cat.Catalogue,
) -> None:
    store = Store(catalogue, cat.ReviewBudget(site=1))
    shown = store(doubt(0, 50))
    lease = cat.lease_due_review(catalogue, "r1", lease_seconds=60, now_ns=0)
    assert lease is not None
    cat.set_base_image(catalogue, lease.review_id, "r1", key="image/1/base.png", sha256="d" * 64)
    store(doubt(0, 90))  # a worker has it in hand
    assert store.reviews(cat.ReviewState.LEASED) == [shown]
    cat.mark_ready(catalogue, lease.review_id, "r1", RESULT, now_ns=1)
    store(doubt(0, 50))
    assert store.reviews(cat.ReviewState.READY) == [shown]
    urgent = store(doubt(0, 51))
    assert store.reviews(cat.ReviewState.DUE) == [urgent]
    assert shown in store.reviews(cat.ReviewState.SKIPPED)
    cat.record_verdict(
        catalogue, lease.review_id, cat.NewVerdict(cat.VerdictKind.CONFIRM, "ann", "d" * 64), now_ns=10
    )
    assert store.reviews(cat.ReviewState.DECIDED) == [shown]


def test_a_skipped_review_can_be_asked_for(catalogue: cat.Catalogue) -> None:
    store = Store(catalogue, cat.ReviewBudget(site=1))
    store(doubt(0, 90))
    skipped = store.review_of(store(doubt(0, 20)))
    assert skipped.state is cat.ReviewState.SKIPPED
    cat.retry_review(catalogue, skipped.id, actor="ann", now_ns=5)
    assert store.reviews(cat.ReviewState.DUE) == [0, 1]


def test_the_secret_of_a_site_is_made_once_however_many_ask(catalogue_url: str) -> None:
    hands = [cat.open_catalogue(catalogue_url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        secrets = Counter(pool.map(lambda hand: cat.site_secret(hand, AUDIT_SECRET), hands))
    for hand in hands:
        hand.close()
    assert list(secrets.values()) == [4]
    assert len(next(iter(secrets))) == 32

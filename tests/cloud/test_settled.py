"""Reviews that the machine settles by a second look: what may be, what follows, and what a person can still do; on
both databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue import Rule, retention
from secondlook.cloud.catalogue.feed import START, EventKind, Interest, look
from secondlook.cloud.catalogue.reviews import TRANSITIONS, move_review
from secondlook.cloud.catalogue.schema import JudgedBox, Retention
from secondlook.shared.crop import Crop
from secondlook.shared.detection import Detection
from secondlook.shared.errors import ReviewConflict
from tests.cloud.test_catalogue import RESULT, SECOND, frame

S = cat.ReviewState
SHOWN = "c" * 64
SEEN: dict[str, Any] = {
    "detector": "tiny",
    "boxes": [{"index": 0, "label": "car", "before": 0.41, "after": 0.83, "outcome": "confirmed"}],
    "called_for": None,
}
PICTURES = replace(RESULT, refined_image=None, postfilter=None, image_bytes=50)


def car(x: float = 200, score: float = 0.41) -> Detection:
    return Detection("car", score, (x, 100.0, x + 60, 130.0))


def doubt(*boxes: int, apart: float = 0.0, dwell: float = 0.0, once: bool = True) -> cat.NewReview:
    return cat.NewReview(
        "uncertain: car 0.41",
        50,
        round(apart * SECOND),
        Rule.UNCERTAIN,
        boxes=boxes or (0,),
        dwell_ns=round(dwell * SECOND),
        once=once,
    )


def beside(rule: Rule) -> cat.NewReview:
    return cat.NewReview(f"{rule.value}: x", 10, 0, rule)


class Site:
    """Files frames one after the other, and refines their reviews."""

    def __init__(self, catalogue: cat.Catalogue) -> None:
        self.catalogue, self.seq = catalogue, -1

    def see(
        self,
        *reasons: cat.NewReview,
        found: tuple[Detection, ...] = (car(),),
        at: float = 0.0,
        crop: Crop | None = None,
        site: int = 0,
    ) -> cat.Review | None:
        self.seq += 1
        new = frame(self.seq, captured_ns=round(at * SECOND), width=768, height=432)
        assert cat.store_frame(
            self.catalogue,
            new,
            found,
            detector="tiny",
            reasons=reasons,
            now_ns=1000 + self.seq,
            crop=crop,
            budget=cat.ReviewBudget(site=site),
        )
        with self.catalogue.reading() as session:
            number = session.scalars(
                select(cat.Review.id).join(cat.Frame).where(cat.Frame.seq == self.seq)
            ).one_or_none()
        return None if number is None else self.review(number)

    def review(self, number: int = 1) -> cat.Review:
        with self.catalogue.reading() as session:
            review = session.get_one(cat.Review, number)
            assert review.frame is not None  # loaded
            return review

    def lease(self, owner: str = "r1", now: float = 0.0) -> cat.LeasedReview:
        found = cat.lease_due_review(self.catalogue, owner, lease_seconds=60, now_ns=round(now * SECOND))
        assert found is not None
        return found

    def settle(self, number: int = 1, result: cat.Refinement = PICTURES) -> bool:
        return cat.settle_review(self.catalogue, number, "r1", result, SEEN, now_ns=77)

    def settled(self, *, crop: Crop | None = None, found: tuple[Detection, ...] = (car(),)) -> cat.Review:
        self.see(doubt(*range(len(found))), found=found, crop=crop)
        number = self.lease().review_id
        assert self.settle(number, replace(PICTURES, crop=crop))
        return self.review(number)

    def judge(self, kind: cat.VerdictKind = cat.VerdictKind.CONFIRM, **more: Any) -> int:
        return cat.record_verdict(self.catalogue, 1, cat.NewVerdict(kind, "bea", SHOWN, **more), now_ns=99)


@pytest.fixture
def site(catalogue_url: str) -> Iterator[Site]:
    catalogue = cat.open_catalogue(catalogue_url)
    yield Site(catalogue)
    catalogue.close()


@pytest.mark.parametrize("before", list(S))
@pytest.mark.parametrize("after", list(S))
def test_only_a_worker_settles_and_people_go_on_from_there(before: S, after: S) -> None:
    review = cat.Review(id=1, state=before, lease_owner="r", lease_until_ns=1)
    if S.SETTLED in (before, after):
        allowed = (before, after) in {
            (S.LEASED, S.SETTLED),
            (S.SETTLED, S.DUE),
            (S.SETTLED, S.READY),
            (S.SETTLED, S.DECIDED),
        }
        assert (after in TRANSITIONS[before]) == allowed
    if after in TRANSITIONS[before]:
        move_review(review, after)
        assert (review.lease_owner is None) == (after is not S.LEASED)
    else:
        with pytest.raises(ReviewConflict):
            move_review(review, after)


def test_a_review_for_doubt_alone_keeps_what_is_in_doubt(site: Site) -> None:
    review = site.see(doubt(1, 2), found=(car(20, 0.9), car(200), car(400, 0.5)))
    assert review is not None
    leased = site.lease()
    assert leased.doubts is not None and leased.doubts.detector == "tiny" and leased.attempts == 0
    assert leased.doubts.boxes == ((1, car(200)), (2, car(400, 0.5)))
    assert cat.Doubts.parse(leased.doubts.as_json()) == leased.doubts


@pytest.mark.parametrize("rule", [rule for rule in Rule if rule is not Rule.UNCERTAIN])
def test_what_another_rule_speaks_of_as_well_is_for_people(site: Site, rule: Rule) -> None:
    review = site.see(doubt(), beside(rule))
    assert review is not None and review.doubts is None
    assert not site.settle(site.lease().review_id)
    assert site.review().state is S.LEASED


def test_what_had_its_review_is_not_in_question_again(site: Site) -> None:
    site.settled()
    review = site.see(doubt(0, 1), found=(car(), car(400)), at=1)
    assert review is not None and review.doubts is not None
    assert [box["index"] for box in review.doubts["boxes"]] == [1]
    review = site.see(doubt(0, 1, once=False), found=(car(), car(400)), at=2)
    assert review is not None and review.doubts is not None
    assert [box["index"] for box in review.doubts["boxes"]] == [0, 1]


def test_a_doubt_of_what_has_not_stayed_is_not_in_question(site: Site) -> None:
    for second in range(6):
        site.see(found=(car(200, 0.6),), at=second)
    review = site.see(doubt(0, 1, dwell=5), found=(car(200), car(500)), at=6)
    assert review is not None and review.doubts is not None
    assert [box["index"] for box in review.doubts["boxes"]] == [0]


def test_nobody_is_asked_about_a_settled_review_and_all_of_it_is_kept(site: Site) -> None:
    review = site.settled()
    assert (review.state, review.lease_owner, review.attempts) == (S.SETTLED, None, 0)
    assert (review.base_image, review.enhanced_image, review.refined_image) == (
        RESULT.base_image,
        RESULT.enhanced_image,
        None,
    )
    assert (review.shown_sha256, review.postfilter, review.refined_ns) == (SHOWN, None, None)
    assert review.second_look == SEEN
    kept = review.frame
    assert (kept.retention, kept.retention_ns, kept.stored_bytes) == (
        Retention.UNREVIEWED,
        77,
        100 + 900 + 50,
    )
    with site.catalogue.reading() as session:
        last = session.scalars(select(cat.AuditEntry).order_by(cat.AuditEntry.id.desc()).limit(1)).one()
        assert (last.actor, last.action, last.subject) == ("r1", "review settled", "review/1")
        assert last.detail["boxes"] == SEEN["boxes"] and not last.by_person
        assert session.scalars(select(JudgedBox)).all() == [], "no figure of the detector is made of it"
    told = look(site.catalogue, START, Interest(kinds=frozenset({EventKind.REVIEW})), limit=9).events
    assert [event.what for event in told] == ["created", "settled"]
    assert cat.lease_due_review(site.catalogue, "r2", lease_seconds=9, now_ns=SECOND) is None


def test_its_pictures_go_with_the_frames_nobody_was_asked_about(site: Site) -> None:
    site.settled()
    wanted = retention.Candidates(Retention.UNREVIEWED, before_ns=78)
    (doomed,) = retention.list_candidates(site.catalogue, wanted, limit=9)
    assert {"image/1/base.png", "image/1/enhanced.png"} <= set(doomed.blob_keys)


def test_it_takes_no_place_in_the_budgets(site: Site) -> None:
    site.see(doubt(), site=1)
    assert site.settle(site.lease().review_id)
    another = site.see(doubt(once=False), at=60, found=(car(400),), site=1)
    assert another is not None and another.state is S.DUE
    assert site.review(1).state is S.SETTLED and cat.skipped_reviews(site.catalogue) == 0


def test_its_object_has_been_reviewed_and_its_distance_holds(site: Site) -> None:
    site.settled()
    assert site.see(doubt(), at=1) is None, "the same car"
    assert site.see(doubt(0, 1), found=(car(), car(400)), at=2) is not None, "another one"
    site.settle(site.lease().review_id)
    assert site.see(doubt(apart=5, once=False), at=3) is None
    assert site.see(doubt(apart=5, once=False), at=8) is not None


def ask_for_it(site: Site) -> None:
    cat.ask_for_review(site.catalogue, 1, actor="bea", now_ns=5)


def hand_on(site: Site) -> None:
    cat.hand_over(site.catalogue, 1, actor="bea", to="cai", now_ns=5)


def speak(site: Site) -> None:
    cat.give_comment(site.catalogue, 1, author="bea", text="that dog again?", now_ns=5)


@pytest.mark.parametrize("act", [ask_for_it, hand_on, speak])
@pytest.mark.parametrize("leased", [False, True])
def test_a_person_who_turns_to_it_meanwhile_gets_to_see_it(
    site: Site, act: Callable[[Site], None], leased: bool
) -> None:
    site.see(doubt())
    if leased:
        site.lease()
    act(site)
    if not leased:
        assert site.lease().doubts is None
    assert not site.settle()
    assert site.review().state is S.LEASED and site.review().second_look is None
    cat.mark_ready(site.catalogue, 1, "r1", RESULT, now_ns=9)
    assert site.review().state is S.READY


def test_one_of_which_the_whole_frame_was_asked_for_is_not_settled(site: Site) -> None:
    site.see(doubt(), crop=Crop(0, 0, 64, 64))
    cat.want_whole_frame(site.catalogue, 1, actor="bea", now_ns=1)
    leased = site.lease()
    assert (leased.crop, leased.doubts) == (None, None) and not site.settle()


@pytest.mark.parametrize("failing", [S.EXPIRED, S.READY])
def test_what_a_person_asked_for_again_is_not_settled(site: Site, failing: S) -> None:
    site.see(doubt(), crop=Crop(0, 0, 64, 64))
    assert site.lease().doubts is not None
    if failing is S.EXPIRED:
        cat.mark_expired(site.catalogue, 1, "r1", why="gone", now_ns=2)
        cat.retry_review(site.catalogue, 1, actor="bea", now_ns=3)
    else:
        cat.mark_ready(site.catalogue, 1, "r1", replace(RESULT, crop=Crop(0, 0, 64, 64)), now_ns=2)
        cat.want_whole_frame(site.catalogue, 1, actor="bea", now_ns=3)
    assert site.lease(now=9).doubts is None and not site.settle()


def test_a_lease_that_was_lost_settles_nothing(site: Site) -> None:
    site.see(doubt())
    site.lease()
    again = site.lease("r2", now=61)
    with pytest.raises(ReviewConflict):
        site.settle()
    assert again.doubts is not None
    assert cat.settle_review(site.catalogue, 1, "r2", PICTURES, SEEN, now_ns=9)
    with pytest.raises(ReviewConflict):
        cat.settle_review(site.catalogue, 1, "r2", PICTURES, SEEN, now_ns=10)


def test_an_attempt_that_ended_its_worker_is_known_to_the_next(site: Site) -> None:
    site.see(doubt())
    site.lease()
    cat.begin_attempt(site.catalogue, 1, "r1", lease_seconds=60, now_ns=0)
    assert site.lease("r1", now=61).attempts == 1
    cat.begin_attempt(site.catalogue, 1, "r1", lease_seconds=60, now_ns=0)
    assert site.settle() and site.review().attempts == 1


def test_anybody_may_ask_for_a_settled_one_after_all(site: Site) -> None:
    site.settled()
    assert cat.ask_for_review(site.catalogue, 1, actor="bea", now_ns=5) == 1
    review = site.review()
    assert (review.state, review.frame.retention, review.doubts) == (S.DUE, Retention.UNDECIDED, None)
    assert review.second_look == SEEN and review.enhanced_image is not None
    leased = site.lease(now=9)
    assert leased.doubts is None and leased.attempts == 0
    picture = {"key": "image/1/enhanced.png", "sha256": SHOWN, "image_bytes": 9}
    cat.set_enhanced_image(site.catalogue, 1, "r1", **picture)
    assert site.review().second_look == SEEN
    cat.mark_expired(site.catalogue, 1, "r1", why="gone", now_ns=9)
    site.judge(box_index=0)
    assert site.review().state is S.DECIDED


def test_the_rest_of_a_crop_can_be_had(site: Site) -> None:
    site.settled(crop=Crop(0, 0, 64, 64))
    cat.want_whole_frame(site.catalogue, 1, actor="bea", now_ns=5)
    review = site.review()
    assert (review.state, review.wants_whole, review.frame.retention) == (S.DUE, True, Retention.UNDECIDED)
    assert site.lease(now=9).crop is None


def test_a_person_may_judge_it_as_it_is_and_think_again(site: Site) -> None:
    site.settled()
    number = site.judge()
    assert (site.review().state, site.review().frame.retention) == (S.DECIDED, Retention.DECIDED)
    with pytest.raises(ReviewConflict, match="never refined"):
        cat.set_known(site.catalogue, 1, True, actor="ann", now_ns=99)
    cat.undo_verdict(site.catalogue, reviewer="bea", now_ns=100, verdict_id=number)
    review = site.review()
    assert (review.state, review.frame.retention) == (S.READY, Retention.UNDECIDED), (
        "it is here in full quality"
    )


def test_a_verdict_on_one_box_of_two_opens_it(site: Site) -> None:
    site.settled(found=(car(), car(400)))
    site.judge(box_index=0)
    assert (site.review().state, site.review().frame.retention) == (S.READY, Retention.UNDECIDED)
    claimant = cat.Claimant("cai", "a" * 8)
    cat.claim_review(site.catalogue, 1, claimant, lease_seconds=9, now_ns=5)


def test_nobody_has_a_settled_one_before_them_by_chance(site: Site) -> None:
    site.settled()
    claimant = cat.Claimant("cai", "a" * 8)
    with pytest.raises(ReviewConflict, match="review 1 is settled"):
        cat.claim_review(site.catalogue, 1, claimant, lease_seconds=9, now_ns=5)
    with pytest.raises(ReviewConflict, match="review 1 is settled"):
        cat.hand_over(site.catalogue, 1, actor="bea", to="cai", now_ns=5)
    assert cat.claim_first(site.catalogue, [1], claimant, lease_seconds=9, now_ns=5) is None


def test_reviews_of_an_earlier_version_are_for_people(site: Site) -> None:
    site.see(cat.NewReview("uncertain: car 0.41", 50, 0, Rule.UNCERTAIN))
    assert site.review().doubts is None and site.lease().doubts is None

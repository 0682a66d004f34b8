"""Comments on frames, and frames that are handed to a colleague, in the catalogue; on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import select

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue import Claimant, comments, handover, retention
from secondlook.cloud.catalogue.audit import verify_audit
from secondlook.cloud.station.choice import ReviewChoice
from secondlook.cloud.station.queries import list_reviews, review_detail, review_ids, summary
from secondlook.shared.errors import ClaimHeld, CommentNotFound, ReviewConflict, ReviewGone, ReviewNotFound
from tests.cloud.test_catalogue import frame, ready

SECOND = 1_000_000_000
SHOWN = "c" * 64
ALL = cat.Sampling(double_share=1.0, secret=b"s" * 32)
LEASE: dict[str, Any] = {"lease_seconds": 60.0, "now_ns": 20}


@pytest.fixture
def catalogue(catalogue_url: str) -> Iterator[cat.Catalogue]:
    """Reviews 1 to 6 of frames without a box, ready, in this order; then one that is due."""
    catalogue = cat.open_catalogue(catalogue_url)
    for seq in range(6):
        ready(catalogue, seq, SHOWN, now_ns=10)
    reasons = [cat.NewReview("doubt", 44)]
    cat.store_frame(catalogue, frame(6), [], detector="tiny", reasons=reasons, now_ns=10)
    yield catalogue
    catalogue.close()


def say(catalogue: cat.Catalogue, review_id: int, author: str, text: str, at: int = 20) -> int:
    return cat.give_comment(catalogue, review_id, author=author, text=text, now_ns=at)


def hand(catalogue: cat.Catalogue, review_id: int, actor: str, to: str | None, **more: Any) -> None:
    cat.hand_over(catalogue, review_id, actor=actor, to=to, **{"now_ns": 30, **more})


def judge(catalogue: cat.Catalogue, review_id: int, reviewer: str, **more: Any) -> None:
    verdict = cat.NewVerdict(cat.VerdictKind.NO_OBJECT, reviewer, SHOWN, seen_verdict_id=0)
    cat.record_verdict(catalogue, review_id, verdict, **{"now_ns": 40, **more})


def listed(catalogue: cat.Catalogue, viewer: str, **page: int) -> list[int]:
    page = {"limit": 100, "offset": 0, **page}
    return [row.id for row in list_reviews(catalogue, ReviewChoice(viewer=viewer), **page).reviews]


def trail(catalogue: cat.Catalogue) -> list[tuple[str, str, dict[str, Any]]]:
    """Who, what and how, of comments and hand-overs."""
    told = ("comment given", "comment deleted", "review handed over")
    with catalogue.reading() as session:
        lines = session.scalars(select(cat.AuditEntry).order_by(cat.AuditEntry.id)).all()
        return [(line.actor, line.action, line.detail) for line in lines if line.action in told]


# --- comments


def test_comments_stand_in_order_and_are_deleted_by_their_author(catalogue: cat.Catalogue) -> None:
    first, second = say(catalogue, 1, "Ann", " a dog?\r\nor a fox \n"), say(catalogue, 1, "Bea", "a fox")
    told = review_detail(catalogue, 1, "Cai").comments
    assert [(one.author, one.text, one.deleted) for one in told] == [
        ("Ann", "a dog?\nor a fox", False),
        ("Bea", "a fox", False),
    ]
    with pytest.raises(ReviewConflict, match="is Ann's"):
        cat.delete_comment(catalogue, first, actor="Bea", now_ns=30)
    with pytest.raises(CommentNotFound):
        cat.delete_comment(catalogue, 99, actor="Bea", now_ns=30)
    assert cat.delete_comment(catalogue, first, actor="Ann", now_ns=30) == 1
    cat.delete_comment(catalogue, first, actor="Ann", now_ns=31)  # once more changes nothing
    cat.delete_comment(catalogue, second, actor="Ada", is_admin=True, now_ns=32)
    told = review_detail(catalogue, 1, "Cai").comments
    assert [(one.author, one.text, one.deleted) for one in told] == [("Ann", "", True), ("Bea", "", True)]
    actions = [(actor, action) for actor, action, _ in trail(catalogue)]
    assert actions == [
        ("Ann", "comment given"),
        ("Bea", "comment given"),
        ("Ann", "comment deleted"),
        ("Ada", "comment deleted"),
    ]
    # What was said is in no line that stays.
    assert "fox" not in str(trail(catalogue))
    verify_audit(catalogue)


def test_the_same_words_sent_again_count_once(catalogue: cat.Catalogue) -> None:
    assert say(catalogue, 1, "Ann", "a dog") == say(catalogue, 1, "Ann", " a dog ")
    assert say(catalogue, 1, "Bea", "a dog") != say(catalogue, 1, "Ann", "a dog")
    assert len(review_detail(catalogue, 1, "Ann").comments) == 3


@pytest.mark.parametrize("text", ["", " \n ", "a\0b", "\x1b[1m", "half \ud800", "x" * 1001])
def test_what_is_no_comment_is_refused(catalogue: cat.Catalogue, text: str) -> None:
    with pytest.raises(ValueError, match="comment"):
        say(catalogue, 1, "Ann", text)
    assert review_detail(catalogue, 1, "Ann").comments == []


def test_a_frame_takes_so_many_comments(catalogue: cat.Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comments, "MAX_COMMENTS", 3)
    numbers = [say(catalogue, 1, "Ann", f"{number}") for number in range(3)]
    cat.delete_comment(catalogue, numbers[0], actor="Ann", now_ns=30)  # makes no room
    with pytest.raises(ReviewConflict, match="takes no more"):
        say(catalogue, 1, "Bea", "one more")
    say(catalogue, 2, "Bea", "elsewhere")
    with pytest.raises(ReviewNotFound):
        say(catalogue, 99, "Bea", "nowhere")


def test_what_was_said_goes_with_the_frame(catalogue: cat.Catalogue) -> None:
    say(catalogue, 1, "Ann", "a dog")
    hand(catalogue, 2, "Ann", "Bea")
    judge(catalogue, 1, "Ann")
    gone = retention.Candidates(cat.Retention.DECIDED, before_ns=10**18)
    (doomed,) = retention.mark_deleting(catalogue, gone, limit=9, now_ns=300)
    with pytest.raises(ReviewGone):
        say(catalogue, 1, "Bea", "too late")
    assert retention.remove_deleted(catalogue, [doomed.frame_id]).frames == 1
    with catalogue.reading() as session:
        assert session.scalars(select(cat.Comment)).all() == []
        assert [row.review_id for row in session.scalars(select(cat.Handover))] == [2]


# --- handing over


def test_a_frame_that_is_handed_over_comes_first_to_one_and_to_nobody_else(catalogue: cat.Catalogue) -> None:
    hand(catalogue, 4, "Ann", "Bea", comment="your car?")
    hand(catalogue, 3, "Ann", "Bea")
    hand(catalogue, 7, "Ann", "Bea")  # its full quality is on its way
    assert listed(catalogue, "Bea") == [3, 4, 7, 1, 2, 5, 6]
    assert listed(catalogue, "Cai") == [1, 2, 3, 4, 5, 6, 7]
    assert [listed(catalogue, "Bea", limit=2, offset=at) for at in (0, 2, 4, 6)] == [
        [3, 4],
        [7, 1],
        [2, 5],
        [6],
    ]
    assert review_ids(catalogue, ReviewChoice(viewer="Bea"), 200) == [3, 4, 1, 2, 5, 6]
    assert review_ids(catalogue, ReviewChoice(viewer="Cai"), 200) == [1, 2, 5, 6]
    assert [summary(catalogue, now_ns=50, viewer=who).handed for who in ("Ann", "Bea", "")] == [0, 3, 0]
    detail = review_detail(catalogue, 4, "Bea")
    assert detail.handed is not None and (detail.handed.giver, detail.handed.colleague) == ("Ann", "Bea")
    assert [one.text for one in detail.comments] == ["your car?"]
    assert trail(catalogue)[:2] == [
        ("Ann", "comment given", {"comment_id": detail.comments[0].id}),
        ("Ann", "review handed over", {"to": "Bea"}),
    ]


def test_the_stamp_of_a_frame_tells_of_comments_and_hand_overs(catalogue: cat.Catalogue) -> None:
    stamps = []
    for change in (
        lambda: None,
        lambda: say(catalogue, 1, "Ann", "a dog"),
        lambda: cat.delete_comment(catalogue, 1, actor="Ann", now_ns=30),
        lambda: hand(catalogue, 1, "Ann", "Bea"),
        lambda: hand(catalogue, 1, "Bea", None),
    ):
        change()
        (row,) = list_reviews(catalogue, ReviewChoice(viewer="Cai"), limit=1, offset=0).reviews
        assert row.stamp == review_detail(catalogue, 1, "Cai").stamp
        stamps.append(row.stamp)
    assert all(one != other for one, other in pairwise(stamps))


def test_a_claim_ends_with_the_hand_over_and_others_get_none(catalogue: cat.Catalogue) -> None:
    ann, bea, cai = (Claimant(name, f"tab-of-{name}") for name in ("Ann", "Bea", "Cai"))
    cat.claim_review(catalogue, 1, ann, **LEASE)
    with pytest.raises(ClaimHeld, match="Ann has this frame open"):
        hand(catalogue, 1, "Cai", "Bea")
    hand(catalogue, 1, "Ann", "Bea")
    assert cat.list_claims(catalogue, now_ns=31) == []
    with pytest.raises(ReviewConflict, match="any more"):
        cat.renew_claim(catalogue, 1, ann, **LEASE)
    for who in (ann, cai):
        with pytest.raises(ClaimHeld, match="Ann handed this frame to Bea") as refusal:
            cat.claim_review(catalogue, 1, who, **LEASE)
        assert refusal.value.holder == "Bea"
        given = cat.claim_first(catalogue, [1, 2, 3], who, **LEASE)
        assert given is not None and given.review_id > 1
    assert cat.claim_review(catalogue, 1, bea, **LEASE).holder == "Bea"
    # Bea hands it on, and Cai back to all.
    hand(catalogue, 1, "Bea", "Cai")
    with pytest.raises(ClaimHeld):
        cat.claim_review(catalogue, 1, bea, **LEASE)
    hand(catalogue, 1, "Cai", None)
    assert cat.claim_review(catalogue, 1, ann, **LEASE).review_id == 1


def test_a_verdict_ends_the_hand_over_whoever_gives_it(catalogue: cat.Catalogue) -> None:
    for number, who in ((1, "Bea"), (2, "Cai")):
        hand(catalogue, number, "Ann", "Bea")
        judge(catalogue, number, who)
        with catalogue.reading() as session:
            assert session.get(cat.Handover, number) is None
    cat.undo_verdict(catalogue, reviewer="Bea", now_ns=50)
    assert review_detail(catalogue, 1, "Bea").handed is None


def test_what_cannot_be_handed_over(catalogue: cat.Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    judge(catalogue, 1, "Ann")
    with pytest.raises(ReviewConflict, match="nothing is to be judged"):
        hand(catalogue, 1, "Ann", "Bea")
    with pytest.raises(ReviewConflict, match="somebody else"):
        hand(catalogue, 2, "Ann", "Ann")
    with pytest.raises(ReviewNotFound):
        hand(catalogue, 99, "Ann", "Bea")
    monkeypatch.setattr(handover, "MAX_HANDED", 2)
    for number in (2, 3):
        hand(catalogue, number, "Ann", "Bea")
    with pytest.raises(ReviewConflict, match="2 frames wait for Bea"):
        hand(catalogue, 4, "Ann", "Bea", comment="one more")
    assert review_detail(catalogue, 4, "Ann").comments == []  # nothing of it was done
    hand(catalogue, 3, "Cai", "Bea")  # she has it already
    hand(catalogue, 4, "Ann", None)  # nobody has it: nothing changes
    assert [actor for actor, _, _ in trail(catalogue)] == ["Ann", "Ann"]
    assert review_detail(catalogue, 4, "Ann").handed is None


def test_a_frame_waits_for_nobody_who_has_judged_it_blindly(catalogue: cat.Catalogue) -> None:
    judge(catalogue, 1, "Bea", sampling=ALL)
    hand(catalogue, 1, "Ann", "Bea")  # who is told nothing by this
    assert summary(catalogue, now_ns=50, viewer="Bea").handed == 0 and 1 not in listed(catalogue, "Bea")
    assert review_ids(catalogue, ReviewChoice(viewer="Cai"), 200)[0] == 1
    assert cat.claim_review(catalogue, 1, Claimant("Cai", "tab-of-Cai"), **LEASE).review_id == 1


def test_comments_on_a_frame_that_is_judged_blindly_are_ones_own(catalogue: cat.Catalogue) -> None:
    say(catalogue, 1, "Ann", "a dog, I think")
    assert len(review_detail(catalogue, 1, "Bea").comments) == 1
    judge(catalogue, 1, "Ann", sampling=ALL)
    say(catalogue, 1, "Bea", "hm")
    for who, texts in (("Ann", ["a dog, I think"]), ("Bea", ["hm"]), ("Cai", [])):
        assert [one.text for one in review_detail(catalogue, 1, who).comments] == texts
    counts = {
        who: list_reviews(catalogue, ReviewChoice(viewer=who), limit=1, offset=0) for who in ("Bea", "Cai")
    }
    assert [counts[who].reviews[0].comments for who in ("Bea", "Cai")] == [1, 0]
    judge(catalogue, 1, "Bea", sampling=ALL)
    assert len(review_detail(catalogue, 1, "Cai").comments) == 2


def test_handing_a_known_frame_over_tells_nobody_that_it_is_one(catalogue: cat.Catalogue) -> None:
    judge(catalogue, 1, "Ann")
    cat.set_known(catalogue, 1, True, actor="Ada", now_ns=41)
    judge(catalogue, 2, "Bea", sampling=cat.Sampling(known_share=1.0, secret=b"s"))
    assert 1 in listed(catalogue, "Bea")
    hand(catalogue, 1, "Bea", "Cai")
    assert 1 in listed(catalogue, "Bea") and review_ids(catalogue, ReviewChoice(viewer="Bea"), 200)[0] != 1
    assert summary(catalogue, now_ns=50, viewer="Cai").handed == 0
    with catalogue.reading() as session:
        assert session.get(cat.Handover, 1) is None
    # It does not come to her another time, but others do.
    judge(catalogue, 5, "Ann")
    cat.set_known(catalogue, 5, True, actor="Ada", now_ns=41)
    judge(catalogue, 3, "Bea", sampling=cat.Sampling(known_share=1.0, secret=b"s"))
    with catalogue.reading() as session:
        assert cat.wanted_known(session, "Bea") == [5]
        assert cat.tried_known(session, "Bea") == [1, 5]

"""Frames that several people judge blindly, and known frames by which they are tried; on both databases."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import select

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue import retention
from secondlook.cloud.catalogue.audit import verify_audit
from secondlook.cloud.catalogue.opinions import (
    AFTER,
    DOUBT,
    NOTHING,
    Event,
    FrameOpinion,
    opinion_of,
    progress_of,
    same_opinion,
)
from secondlook.cloud.catalogue.schema import Stage, VerdictKind
from secondlook.cloud.station.choice import ReviewChoice
from secondlook.cloud.station.queries import list_reviews
from secondlook.shared.detection import Detection
from secondlook.shared.errors import ClaimHeld, DecidedMeanwhile, ReviewConflict
from tests.cloud.test_catalogue import ready

SHOWN = "e" * 64
ALL = cat.Sampling(double_share=1.0, secret=b"s" * 32)
PLACE = (1.0, 1.0, 9.0, 9.0)


@pytest.fixture
def catalogue(catalogue_url: str) -> Iterator[cat.Catalogue]:
    """Three frames with a person and a car that are ready to be judged."""
    catalogue = cat.open_catalogue(catalogue_url)
    for seq in range(3):
        found = [Detection("person", 0.4, PLACE), Detection("car", 0.8, (20.0, 20.0, 40.0, 40.0))]
        ready(catalogue, seq, SHOWN, found)
    yield catalogue
    catalogue.close()


@dataclass
class Desk:
    """Gives verdicts, each a moment after the one before."""

    catalogue: cat.Catalogue
    sampling: cat.Sampling = ALL
    now: int = 100

    def say(self, person: str, kind: str, review_id: int = 1, **parts: Any) -> int:
        self.now += 1
        given: dict[str, Any] = {"seen_verdict_id": 0, **parts}
        verdict = cat.NewVerdict(VerdictKind(kind), person, SHOWN, **given)
        return cat.record_verdict(self.catalogue, review_id, verdict, now_ns=self.now, sampling=self.sampling)

    def undo(self, person: str) -> None:
        self.now += 1
        cat.undo_verdict(self.catalogue, reviewer=person, now_ns=self.now)

    def stands(self, review_id: int = 1) -> tuple[str, Stage | None, str | None]:
        with self.catalogue.reading() as session:
            review = session.get_one(cat.Review, review_id)
            double = review.double
            stage, counting = (None, None) if double is None else (double.stage, double.counting)
            return review.state.value, stage, counting

    def sees(self, person: str, review_id: int = 1) -> tuple[str, list[str]] | None:
        """State and reviewers as a person is shown them; None where all is shown."""
        with self.catalogue.reading() as session:
            review = session.get_one(cat.Review, review_id)
            sight = cat.sights(session, [review], person).get(review_id)
            return None if sight is None else (sight.state.value, [v.reviewer for v in sight.verdicts])


@pytest.fixture
def desk(catalogue: cat.Catalogue) -> Desk:
    return Desk(catalogue)


def test_the_table_of_stages() -> None:
    same, other = FrameOpinion(("car",)), FrameOpinion((NOTHING,))
    third = FrameOpinion((DOUBT,))
    expected = {
        (): (Stage.FIRST, None),
        (same,): (Stage.SECOND, None),
        (same, same): (Stage.AGREED, "0"),
        (same, same, other): (Stage.AGREED, "0"),
        (same, other): (Stage.THIRD, None),
        (same, other, other): (Stage.SETTLED, "2"),
        (same, other, third): (Stage.SETTLED, "2"),
        (same, other, third, same): (Stage.SETTLED, "2"),
    }
    for given, (stage, counting) in expected.items():
        progress = progress_of([(str(at), opinion) for at, opinion in enumerate(given)])
        assert (progress.stage, progress.counting) == (stage, counting), given
    assert set(AFTER) == set(Stage) and all(set(row) <= set(Event) for row in AFTER.values())


@dataclass
class Said:
    verdict: VerdictKind
    box_index: int | None = None
    label: str | None = None
    x0: float | None = None
    y0: float | None = None
    x1: float | None = None
    y1: float | None = None
    undone_ns: int | None = None


def test_opinions() -> None:
    kind = VerdictKind
    assert opinion_of(["Car", "dog"], [Said(kind.CONFIRM)]).boxes == ("car", "dog")
    of_box = [Said(kind.REJECT), Said(kind.WRONG_CLASS, 1, "Fox")]
    assert opinion_of(["car", "dog"], of_box).boxes == (NOTHING, "fox")
    assert opinion_of(["car"], [Said(kind.REJECT, 0, undone_ns=1)]).boxes == (DOUBT,)
    assert opinion_of([], [Said(kind.REJECT)]).open and not opinion_of([], [Said(kind.NO_OBJECT)]).open
    drawn = opinion_of([], [Said(kind.MISSED_OBJECT, None, "cat", 0, 0, 10, 10), Said(kind.CONFIRM)])
    near = opinion_of([], [Said(kind.MISSED_OBJECT, None, "Cat", 1, 1, 10, 10), Said(kind.CONFIRM)])
    far = opinion_of([], [Said(kind.MISSED_OBJECT, None, "cat", 20, 20, 30, 30), Said(kind.CONFIRM)])
    assert same_opinion(drawn, near) and not same_opinion(drawn, far)
    # Where a box lies is no matter of agreement.
    moved = opinion_of(["car"], [Said(kind.CORRECTED, 0, "car", 0, 0, 5, 5)])
    assert same_opinion(moved, opinion_of(["car"], [Said(kind.CONFIRM)]))


def test_two_who_say_the_same_decide(desk: Desk) -> None:
    desk.say("Ann", "confirm")
    assert desk.stands() == ("ready", Stage.SECOND, None)
    assert desk.sees("Bea") == ("ready", []) and desk.sees("Ann") == ("ready", ["Ann"])
    desk.say("Bea", "confirm", box_index=0)
    assert desk.stands() == ("ready", Stage.SECOND, None)  # she has not judged the other box
    desk.say("Bea", "confirm", box_index=1)
    assert desk.stands() == ("decided", Stage.AGREED, "Ann")
    assert desk.sees("Bea") is None  # now everybody may see


def test_a_third_person_decides_between_two(desk: Desk) -> None:
    desk.say("Ann", "confirm")
    desk.say("Bea", "reject")
    assert desk.stands() == ("ready", Stage.THIRD, None) and desk.sees("Cai") == ("ready", [])
    desk.say("Cai", "wrong_class", box_index=0, label="fox")
    desk.say("Cai", "confirm", box_index=1)
    assert desk.stands() == ("decided", Stage.SETTLED, "Cai")
    with desk.catalogue.reading() as session:
        counting = cat.counting_verdicts(session.get_one(cat.Review, 1))
    assert [verdict.reviewer for verdict in counting] == ["Cai", "Cai"]
    # Somebody who knows all that may still change it.
    desk.say("Dan", "reject", seen_verdict_id=99)
    with desk.catalogue.reading() as session:
        counting = cat.counting_verdicts(session.get_one(cat.Review, 1))
    assert [verdict.reviewer for verdict in counting] == ["Cai", "Cai", "Dan"]


def test_undo_goes_back_a_step(desk: Desk) -> None:
    desk.say("Ann", "confirm")
    desk.say("Bea", "reject")
    desk.say("Cai", "reject")
    assert desk.stands()[1] is Stage.SETTLED
    desk.undo("Cai")
    assert desk.stands() == ("ready", Stage.THIRD, None)
    desk.undo("Bea")
    assert desk.stands() == ("ready", Stage.SECOND, None)
    desk.undo("Ann")
    assert desk.stands() == ("ready", None, None)
    desk.sampling = cat.NO_SAMPLING
    desk.say("Ann", "confirm")
    assert desk.stands() == ("decided", None, None)


def test_who_has_judged_is_not_given_it_again(desk: Desk) -> None:
    desk.say("Ann", "confirm")
    lease: dict[str, Any] = {"lease_seconds": 60.0, "now_ns": 200}
    given = cat.claim_first(desk.catalogue, [1, 2, 3], cat.Claimant("Bea", "tab-of-bea"), **lease)
    assert given is not None and given.review_id == 1
    with pytest.raises(ClaimHeld):
        cat.claim_review(desk.catalogue, 1, cat.Claimant("Cai", "tab-of-cai"), **lease)
    desk.say("Bea", "confirm")
    with desk.catalogue.reading() as session:
        assert session.get(cat.Claim, 1) is None


def test_the_share_is_drawn_by_a_secret() -> None:
    for share in (0.0, 0.1, 1.0):
        drawn = sum(cat.Sampling(share, secret=b"a").draws_double(number) for number in range(5000))
        assert abs(drawn / 5000 - share) < 0.02
    one, other = (cat.Sampling(0.5, secret=secrets.token_bytes(8)) for _ in range(2))
    assert [one.draws_double(n) for n in range(99)] != [other.draws_double(n) for n in range(99)]


def test_known_frames_try_people_and_change_nothing(desk: Desk) -> None:
    desk.sampling = cat.NO_SAMPLING
    desk.say("Ann", "confirm")
    with pytest.raises(ReviewConflict, match="only what is decided"):
        cat.set_known(desk.catalogue, 2, True, actor="Ada", now_ns=150)
    cat.set_known(desk.catalogue, 1, True, actor="Ada", now_ns=150)
    desk.sampling = cat.Sampling(known_share=1.0, secret=b"s")
    assert desk.sees("Bea") is None
    desk.say("Bea", "confirm", 2)
    assert desk.sees("Bea") == ("ready", [])  # as if nobody had judged it
    with desk.catalogue.reading() as session:
        assert cat.wanted_known(session, "Bea") == [1] and cat.wanted_known(session, "Ann") == []
    claim = cat.claim_review(
        desk.catalogue, 1, cat.Claimant("Bea", "tab-of-bea"), lease_seconds=60, now_ns=160
    )
    assert claim.review_id == 1
    desk.say("Bea", "reject")
    assert desk.stands() == ("decided", None, None) and desk.sees("Bea") is None
    with desk.catalogue.reading() as session:
        review = session.get_one(cat.Review, 1)
        assert [verdict.reviewer for verdict in review.verdicts] == ["Ann"]
        probes = session.scalars(select(cat.Verdict).where(cat.Verdict.probe.is_(True))).all()
        assert [(v.reviewer, v.verdict.value) for v in probes] == [("Bea", "reject")]
    desk.undo("Bea")
    assert desk.sees("Bea") == ("ready", ["Bea"]) and desk.stands()[0] == "decided"
    desk.say("Bea", "confirm")
    desk.say("Bea", "confirm", 3)
    with desk.catalogue.reading() as session:
        assert cat.wanted_known(session, "Bea") == []  # she has met the only one
    cat.set_known(desk.catalogue, 1, False, actor="Ada", now_ns=170)


def known(desk: Desk, person: str) -> list[int]:
    """Known frames that wait for a person."""
    with desk.catalogue.reading() as session:
        return cat.wanted_known(session, person)


def try_bea(desk: Desk) -> None:
    """Ann decides the first frame, Ada makes it known, and Bea is given it."""
    desk.sampling = cat.NO_SAMPLING
    desk.say("Ann", "confirm")
    cat.set_known(desk.catalogue, 1, True, actor="Ada", now_ns=150)
    desk.sampling = cat.Sampling(known_share=1.0, secret=b"s")
    desk.say("Bea", "confirm", 2)
    assert known(desk, "Bea") == [1]


def test_a_known_frame_whose_decision_is_undone_is_one_like_any_other(desk: Desk) -> None:
    try_bea(desk)
    desk.undo("Ann")
    assert desk.stands() == ("ready", None, None) and known(desk, "Bea") == []
    mine = ReviewChoice(viewer="Bea")
    assert [row.id for row in list_reviews(desk.catalogue, mine, limit=9, offset=0).reviews] == [1, 3]
    desk.say("Bea", "reject")
    assert desk.stands() == ("decided", None, None), "what she says is of the frame, and no probe"
    desk.say("Cai", "confirm", 3)
    assert known(desk, "Cai") == []  # nobody is tried with it any more
    with desk.catalogue.reading() as session:
        assert session.scalars(select(cat.KnownFrame)).all() == []
        assert session.scalars(select(cat.Opinion)).all() == []


def test_nobody_is_tried_with_what_is_not_decided(desk: Desk) -> None:
    with desk.catalogue.writing() as session:  # as an earlier version left it
        session.add(cat.KnownFrame(review_id=1, since_ns=1, chosen_by="Ada"))
    desk.sampling = cat.Sampling(known_share=1.0, secret=b"s")
    desk.say("Bea", "confirm", 2)
    assert known(desk, "Bea") == []


def test_who_has_a_known_frame_before_them_is_let_off_when_it_is_none_any_more(desk: Desk) -> None:
    try_bea(desk)
    cat.set_known(desk.catalogue, 1, False, actor="Ada", now_ns=170)
    assert known(desk, "Bea") == [] and desk.sees("Bea") is None


def test_a_verdict_on_a_known_frame_is_undone_though_the_frame_was_handed_over(desk: Desk) -> None:
    try_bea(desk)
    desk.say("Bea", "reject", box_index=0)
    cat.hand_over(desk.catalogue, 1, actor="Bea", to="Cai", now_ns=180)
    desk.undo("Bea")
    with desk.catalogue.reading() as session:
        (probe,) = session.scalars(select(cat.Verdict).where(cat.Verdict.probe.is_(True)))
        assert probe.undone_ns is not None
    assert desk.stands() == ("decided", None, None)


def test_doubtful_frames_try_nobody(desk: Desk) -> None:
    desk.sampling = cat.NO_SAMPLING
    desk.say("Ann", "unsure")
    with pytest.raises(ReviewConflict, match="in doubt"):
        cat.set_known(desk.catalogue, 1, True, actor="Ada", now_ns=150)


def dropped(desk: Desk) -> list[tuple[str, dict[str, Any]]]:
    """Known frames that are none any more: who dropped them, and why."""
    with desk.catalogue.reading() as session:
        query = select(cat.AuditEntry).where(cat.AuditEntry.action == "known frame dropped")
        return [(line.actor, line.detail) for line in session.scalars(query)]


@pytest.mark.parametrize(
    ("verdict", "seen", "why"),
    [
        ("reject", 0, "its decision is in doubt"),  # contested: Cai had not seen what Ann said
        ("unsure", None, "its decision is in doubt"),
        ("reject", None, "its decision changed"),
        ("confirm", None, None),
    ],
)
def test_nobody_is_tried_with_a_decision_that_does_not_hold(
    desk: Desk, verdict: str, seen: int | None, why: str | None
) -> None:
    try_bea(desk)
    desk.sampling = cat.NO_SAMPLING
    given = cat.NewVerdict(cat.VerdictKind(verdict), "Cai", SHOWN, seen_verdict_id=seen)
    with contextlib.suppress(DecidedMeanwhile):
        cat.record_verdict(desk.catalogue, 1, given, now_ns=180)
    assert dropped(desk) == ([] if why is None else [("station", {"why": why})])
    assert known(desk, "Bea") == ([1] if why is None else [])
    with desk.catalogue.reading() as session:
        assert (session.get(cat.KnownFrame, 1) is None) is (why is not None)
    verify_audit(desk.catalogue)


def test_whom_a_contested_frame_tried_may_settle_it(desk: Desk) -> None:
    """What they said of it as a known one stays what it was; what they say from then on is of the frame."""
    try_bea(desk)
    desk.say("Bea", "reject")
    desk.sampling = cat.NO_SAMPLING
    given = cat.NewVerdict(cat.VerdictKind.REJECT, "Cai", SHOWN, seen_verdict_id=0)
    with pytest.raises(DecidedMeanwhile):
        cat.record_verdict(desk.catalogue, 1, given, now_ns=180)
    with pytest.raises(ReviewConflict, match="in doubt"):
        cat.set_known(desk.catalogue, 1, True, actor="Ada", now_ns=190)
    desk.say("Bea", "confirm", seen_verdict_id=None)
    with desk.catalogue.reading() as session:
        review = session.get_one(cat.Review, 1)
        assert [entry.reviewer for entry in review.verdicts] == ["Ann", "Cai", "Bea"]
        assert cat.conflict_of(review.verdicts) is None


def test_the_undoing_of_a_decision_is_told_where_it_was_a_known_one(desk: Desk) -> None:
    try_bea(desk)
    desk.undo("Ann")
    assert dropped(desk) == [("station", {"why": "it is not decided any more"})]
    verify_audit(desk.catalogue)


def test_what_hangs_on_a_frame_goes_with_it(desk: Desk) -> None:
    desk.say("Ann", "confirm")
    desk.say("Bea", "confirm")
    cat.set_known(desk.catalogue, 1, True, actor="Ada", now_ns=150)
    gone = retention.Candidates(cat.Retention.DECIDED, before_ns=10**18)
    (doomed,) = retention.mark_deleting(desk.catalogue, gone, limit=9, now_ns=300)
    assert retention.remove_deleted(desk.catalogue, [doomed.frame_id]).frames == 1
    with desk.catalogue.reading() as session:
        for kind in (cat.DoubleReview, cat.Opinion, cat.KnownFrame, cat.Verdict):
            assert session.scalars(select(kind)).all() == []

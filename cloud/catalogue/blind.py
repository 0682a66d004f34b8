"""Frames that are judged without knowing what others said: double review of a sample, and known frames.

A frame is drawn for double review when one person has decided it. It then waits, like any other that can be judged, for
a second person; two who differ send it to a third, whose opinion counts (``opinions``). Until that is done its verdicts
are withheld (``Verdict.withheld``), from the first one on a box on: nobody is told another's, on whichever way.

Known frames are decided ones that an admin chose. They are mixed in with a reviewer's work; what is said of them is
kept apart (``Verdict.probe``) and changes nothing. While one waits for a person, it is shown to them as if nobody had
judged it (``shown_as``, ``shown_states``), and what others said of it is not told (``Audience``). Who hands one to a
colleague is shown that it waits there (``Opinion.handed_to``), as any other would; it goes nowhere.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, delete, exists, or_, select, true
from sqlalchemy.orm import Session, aliased

from secondlook.cloud.catalogue.opinions import BLIND, FrameOpinion, opinion_of, progress_of
from secondlook.cloud.catalogue.schema import (
    DoubleReview,
    KnownFrame,
    Opinion,
    OpinionKind,
    Review,
    ReviewState,
    Stage,
    Verdict,
)

SAMPLING_SECRET = "double"  # names the stations' secret by which frames are drawn
KNOWN_HANDED_OVER = "known frame handed over"  # in the audit trail; its actor is told "review handed over"


@dataclass(frozen=True)
class Sampling:
    """Which shares of the work are a check of it: frames judged twice, and known frames among the others.

    Whether a frame is drawn follows from a secret, so that no reviewer can foresee it.
    """

    double_share: float = 0.0
    known_share: float = 0.0
    secret: bytes = b""

    def draws_double(self, review_id: int) -> bool:
        """Whether a decided frame goes to a second person."""
        return self._drawn("double", review_id) < self.double_share

    def draws_known(self, verdict_id: int) -> bool:
        """Whether a known frame comes after this verdict."""
        return self._drawn("known", verdict_id) < self.known_share

    def _drawn(self, what: str, number: int) -> float:
        """Of [0, 1), the same each time."""
        digest = hmac.digest(self.secret, f"{what} {number}".encode(), hashlib.sha256)
        return int.from_bytes(digest[:6], "big") / (1 << 48)


NO_SAMPLING = Sampling()


@dataclass(frozen=True)
class Audience:
    """Whom verdicts are told: a ``person`` hears their own, ``unsettled`` a program that judges nothing hears all."""

    person: str = ""
    unsettled: bool = False

    @property
    def judge(self) -> str:
        """The person who may be tried with known frames; "" where that is nobody."""
        return "" if self.unsettled else self.person

    def hears(self, verdict: Verdict) -> bool:
        own = self.unsettled or (bool(self.person) and verdict.reviewer == self.person)
        return own or not (verdict.withheld or verdict.probe)

    def heard(self) -> ColumnElement[bool]:
        """The same as a condition on verdicts, and without those on known frames that the person is to judge."""
        if self.unsettled:
            return true()
        return or_(self.told(), Verdict.reviewer == self.person) if self.person else self.told()

    def told(self) -> ColumnElement[bool]:
        """That verdicts are no secret, neither from all nor from this person: a condition on verdicts."""
        told = and_(Verdict.withheld.is_(False), Verdict.probe.is_(False))
        if not self.judge:
            return told
        known = aliased(Review)
        frames = select(known.frame_id).where(known.id.in_(tried_by(self.judge))).correlate(None)
        return and_(told, Verdict.frame_id.not_in(frames))


ANYBODY = Audience()


@dataclass(frozen=True)
class Sight:
    """A review as a person is to see it."""

    state: ReviewState
    verdicts: list[Verdict]


def sights(session: Session, reviews: Sequence[Review], reviewer: str) -> dict[int, Sight]:
    """How these reviews look to a person, by number; those that look as they are left out."""
    numbers = [review.id for review in reviews]
    wanted: set[int] = set(session.scalars(tried_by(reviewer).where(Opinion.review_id.in_(numbers))))
    found = {}
    for review in reviews:
        if review.id in wanted:
            found[review.id] = sight_to_judge(session, review, reviewer)
        elif is_blind(review):
            own = [entry for entry in review.verdicts if entry.reviewer == reviewer]
            found[review.id] = Sight(review.state, own)
    return found


def sight_to_judge(session: Session, review: Review, reviewer: str) -> Sight:
    """How a known frame looks to a person who is to judge it."""
    return Sight(state_to_judge(review), probes_of(session, review.id, reviewer))


def blind_reviews(session: Session, numbers: Collection[int]) -> set[int]:
    """Those of these reviews of which nobody is told what others said."""
    query = select(Verdict.review_id).where(Verdict.review_id.in_(numbers), Verdict.withheld.is_(True))
    return set(session.scalars(query))


def is_blind(review: Review) -> bool:
    """Whether people judge it without being told what others said."""
    return any(entry.withheld for entry in review.verdicts)


def tried_known(session: Session, person: str) -> list[int]:
    """Known frames that a person has been given and not judged, those too that they handed on."""
    return list(session.scalars(tried_by(person).order_by(Opinion.asked_ns)))


def wanted_known(session: Session, reviewer: str) -> list[int]:
    """Known frames that a person is to judge now."""
    query = tried_by(reviewer).where(Opinion.handed_to.is_(None))
    return list(session.scalars(query.order_by(Opinion.asked_ns)))


def trial_of(session: Session, review_id: int, person: str) -> Opinion | None:
    """That a person has been given a known frame and not judged it; None where that is not so."""
    row = session.get(Opinion, (review_id, person))
    return row if row is not None and row.kind is OpinionKind.KNOWN and row.given_ns is None else None


def is_tried(session: Session, review_id: int, person: str) -> bool:
    """Whether this is a known frame that the person has been given and not judged."""
    return trial_of(session, review_id, person) is not None


def trials_of(session: Session, numbers: Collection[int], person: str) -> dict[int, Opinion]:
    """The same of several reviews, by number."""
    if not person:
        return {}
    query = select(Opinion).where(
        Opinion.reviewer == person, Opinion.review_id.in_(numbers), is_trial(Opinion)
    )
    return {row.review_id: row for row in session.scalars(query)}


def is_probe(session: Session, review_id: int, reviewer: str) -> bool:
    """Whether what this person says of a frame is about the person, and not about the frame."""
    row = session.get(Opinion, (review_id, reviewer))
    return row is not None and row.kind is OpinionKind.KNOWN


def state_to_judge(review: Review) -> ReviewState:
    """In which a frame can be judged; a known one is shown so. One that was settled has no refined picture."""
    lost = review.refined_image is None and review.enhancement_blob is None
    return ReviewState.EXPIRED if lost else ReviewState.READY


def _is_lost() -> ColumnElement[bool]:
    return and_(Review.refined_image.is_(None), Review.enhancement_blob.is_(None))


def shown_states(session: Session, person: str) -> dict[int, ReviewState]:
    """The states in which the known frames that a person is to judge are shown to them, by review."""
    query = select(Review.id, _is_lost().label("lost"))
    rows = session.execute(query.where(Review.id.in_(tried_by(person)))).all() if person else ()
    return {row.id: ReviewState.EXPIRED if row.lost else ReviewState.READY for row in rows}


def shown_as(state: ReviewState, person: str, held: ColumnElement[ReviewState]) -> ColumnElement[bool]:
    """That a review is in a state as far as a person is shown: a condition on reviews, whose state is ``held``."""
    if not person:
        return held == state
    tried, lost = Review.id.in_(tried_by(person)), _is_lost()
    if state is ReviewState.DECIDED:
        return and_(held == state, ~tried)
    if state is ReviewState.READY:
        return or_(held == state, and_(tried, ~lost))
    return or_(held == state, and_(tried, lost)) if state is ReviewState.EXPIRED else held == state


def probes_of(session: Session, review_id: int, reviewer: str) -> list[Verdict]:
    """What a person said of a known frame."""
    query = select(Verdict).where(
        Verdict.review_id == review_id, Verdict.reviewer == reviewer, Verdict.probe.is_(True)
    )
    return list(session.scalars(query.order_by(Verdict.id)))


def frame_opinion(review: Review, verdicts: Sequence[Verdict]) -> FrameOpinion:
    return opinion_of([box.label for box in review.frame.detections], verdicts)


def note_opinion(
    session: Session, review: Review, reviewer: str, *, complete: bool, sampling: Sampling, now_ns: int
) -> DoubleReview | None:
    """Bring a frame's double review up to date after a change of this person's verdicts; None where it has none.

    ``complete``: what the person says, alone, decides the frame.
    """
    double = session.get(DoubleReview, review.id)
    if double is None:
        if not complete or not sampling.draws_double(review.id):
            return None
        if any(entry.undone_ns is None and entry.reviewer != reviewer for entry in review.verdicts):
            return None  # two have had their say already
        double = DoubleReview(review_id=review.id, stage=Stage.FIRST, since_ns=now_ns)
        session.add(double)
    row = session.get(Opinion, (review.id, reviewer))
    # Who looks at it once it is decided judges it like any other decided frame.
    if row is None and complete and double.stage in BLIND | {Stage.FIRST}:
        session.add(
            Opinion(
                review_id=review.id,
                reviewer=reviewer,
                kind=OpinionKind.DOUBLE,
                asked_ns=now_ns,
                given_ns=now_ns,
            )
        )
    elif row is not None and not complete:
        session.delete(row)
    session.flush()
    return _advance(session, review, double, now_ns)


def _advance(session: Session, review: Review, double: DoubleReview, now_ns: int) -> DoubleReview | None:
    query = select(Opinion.reviewer).where(Opinion.review_id == review.id, Opinion.kind == OpinionKind.DOUBLE)
    people = session.scalars(query.order_by(Opinion.given_ns, Opinion.reviewer)).all()
    given = [
        (person, frame_opinion(review, [entry for entry in review.verdicts if entry.reviewer == person]))
        for person in people
    ]
    progress = progress_of(given)
    if progress.stage is Stage.FIRST:  # the last opinion was undone
        session.delete(double)
        session.flush()
        return None
    if (double.stage, double.counting) != (progress.stage, progress.counting):
        double.stage, double.counting, double.since_ns = progress.stage, progress.counting, now_ns
        session.flush()
    return double


def withholds(review: Review, double: DoubleReview | None, sampling: Sampling) -> bool:
    """Whether what is said of a frame is to be kept from those who may still have to judge it."""
    if double is not None:
        return double.stage in BLIND
    return review.state is not ReviewState.DECIDED and sampling.draws_double(review.id)


def tell_or_withhold(review: Review, withheld: bool) -> list[Verdict]:
    """Withhold a frame's verdicts, or, once it is decided, none of them any more; those that can be told now."""
    told = []
    for entry in review.verdicts:
        if withheld:
            entry.withheld = True
        elif review.state is ReviewState.DECIDED and entry.withheld:
            entry.withheld = False
            if entry.undone_ns is None:
                told.append(entry)
    return told


def note_probe(session: Session, review: Review, reviewer: str, *, complete: bool, now_ns: int) -> None:
    """A person has said something of a known frame, or taken it back. One that tries them no more stays so."""
    row = session.get(Opinion, (review.id, reviewer))
    if row is not None and row.kind is OpinionKind.KNOWN:
        row.given_ns = now_ns if complete else None
        if complete:
            row.handed_to = row.handed_ns = None


def forget_known(session: Session, review_id: int) -> bool:
    """A frame's decision does not hold, so that nobody is tried with it: everybody judges it as what it is.

    Whether it was a known one until now.
    """
    tried = and_(Opinion.review_id == review_id, Opinion.kind == OpinionKind.KNOWN)
    session.execute(delete(Opinion).where(tried))
    row = session.get(KnownFrame, review_id)
    if row is None:
        return False
    session.delete(row)
    session.flush()
    return True


def ask_no_more(session: Session, review_id: int) -> None:
    """Who was given a frame as a known one and has not judged it need not do so any more."""
    session.execute(delete(Opinion).where(Opinion.review_id == review_id, is_trial(Opinion)))


def mix_in_known(session: Session, reviewer: str, *, now_ns: int) -> int | None:
    """Give a person a known frame that they have not met; None where there is none, or one waits already."""
    if wanted_known(session, reviewer):
        return None
    met = exists(Opinion.review_id).where(
        Opinion.review_id == KnownFrame.review_id, Opinion.reviewer == reviewer
    )
    judged = exists(Verdict.id).where(Verdict.review_id == KnownFrame.review_id, Verdict.reviewer == reviewer)
    query = select(KnownFrame.review_id).join(Review, Review.id == KnownFrame.review_id)
    query = query.where(Review.state == ReviewState.DECIDED, ~met, ~judged, KnownFrame.chosen_by != reviewer)
    first = query.order_by(KnownFrame.since_ns, KnownFrame.review_id).limit(1)
    # One that somebody changes at this moment may be known no more: another one will do.
    unchanged = first.with_for_update(read=True, key_share=True, skip_locked=True, of=(Review, KnownFrame))
    chosen = session.scalars(unchanged).first()
    if chosen is not None:
        asked = {"asked_ns": now_ns, "given_ns": None}
        session.add(Opinion(review_id=chosen, reviewer=reviewer, kind=OpinionKind.KNOWN, **asked))
        session.flush()
    return chosen


def counting_verdicts(review: Review) -> list[Verdict]:
    """Of a frame that several judged blindly, the verdicts of the one whose opinion counts, and later ones.

    None while they judge it.
    """
    told = [entry for entry in review.verdicts if not entry.withheld]
    double = review.double
    if double is None or double.counting is None:
        return told
    return [entry for entry in told if not _set_aside(entry, double)]


def _set_aside(entry: Verdict, double: DoubleReview) -> bool:
    """Whether the others' verdicts were given before the matter was settled."""
    return entry.reviewer != double.counting and entry.decided_ns <= double.since_ns


def tried_by(person: str) -> Select[Any]:
    """The numbers of known frames that a person has been given and not judged; stands by itself in other queries."""
    return select(Opinion.review_id).where(Opinion.reviewer == person, is_trial(Opinion)).correlate(None)


def is_trial(opinion: type[Opinion]) -> ColumnElement[bool]:
    """That somebody has been given a known frame and not judged it: a condition on opinions."""
    return and_(opinion.kind == OpinionKind.KNOWN, opinion.given_ns.is_(None))

"""Frames that one person hands to another: the colleague judges them next, and nobody else is given them meanwhile.

It is a claim of a person without a page, and without an end: it goes with that person's verdict, or when somebody puts
the frame back. Like a claim it is no lock: a verdict is stored whoever it is of.

A known frame goes nowhere: that is noted with whom it tries (``Opinion.handed_to``), looks like a hand-over to that
person, and is told to nobody else.
"""

from __future__ import annotations

from sqlalchemy import Exists, Select, and_, exists, func, select
from sqlalchemy.orm import Session

from secondlook.cloud.catalogue.blind import KNOWN_HANDED_OVER, trial_of
from secondlook.cloud.catalogue.comments import add_comment, comment_text
from secondlook.cloud.catalogue.doubts import wants_person
from secondlook.cloud.catalogue.reviews import audit_review, get_review
from secondlook.cloud.catalogue.schema import (
    Claim,
    Handover,
    Opinion,
    OpinionKind,
    Review,
    ReviewState,
)
from secondlook.cloud.catalogue.store import Catalogue
from secondlook.shared.errors import ClaimHeld, ReviewConflict

MAX_HANDED = 200  # frames that wait for one person at a time

WAITING = (ReviewState.DUE, ReviewState.LEASED, ReviewState.READY, ReviewState.EXPIRED)


def hand_over(
    catalogue: Catalogue, review_id: int, *, actor: str, to: str | None, comment: str = "", now_ns: int
) -> None:
    """Hand a frame to a colleague, or, without ``to``, back to all; with a ``comment`` where there is something to say.

    ``actor``'s claim on it ends. Raises ReviewNotFound, ClaimHeld while another person has it open, ReviewConflict
    where nothing is to be judged in it, ``to`` is ``actor``, or has too many; ValueError for what is no comment.
    """
    said = comment_text(comment) if comment.strip() else None
    if to == actor:
        raise ReviewConflict("a frame is handed to somebody else")
    with catalogue.writing() as session:
        review = get_review(session, review_id)
        trial = trial_of(session, review_id, actor)
        if review.state not in WAITING and trial is None:
            raise ReviewConflict(f"review {review_id} is {review.state.value}: nothing is to be judged in it")
        _end_claim(session, review_id, actor, now_ns)
        given = None
        if said is not None:
            written, is_new = add_comment(session, review, actor, said, now_ns)
            given = written.id if is_new else None
        if trial is None:
            wants_person(review)
            changed, what = _move(session, review_id, actor, to, now_ns), "review handed over"
        else:
            changed, what = _put_off(session, trial, to, now_ns), KNOWN_HANDED_OVER
        session.flush()
        if given is not None:
            audit_review(session, now_ns, actor, "comment given", review_id, {"comment_id": given})
        if changed:
            audit_review(session, now_ns, actor, what, review_id, {"to": to})


def _end_claim(session: Session, review_id: int, actor: str, now_ns: int) -> None:
    claim = session.get(Claim, review_id, with_for_update=True)
    if claim is None:
        return
    if claim.holder != actor and claim.until_ns > now_ns:
        raise ClaimHeld(f"{claim.holder} has this frame open", holder=claim.holder)
    session.delete(claim)


def _move(session: Session, review_id: int, actor: str, to: str | None, now_ns: int) -> bool:
    """Whether this changed anything."""
    row = session.get(Handover, review_id)
    if to is None:
        if row is not None:
            session.delete(row)
        return row is not None
    if row is not None and row.colleague == to:
        return False
    _check_room(session, to)
    if row is None:
        session.add(Handover(review_id=review_id, colleague=to, giver=actor, since_ns=now_ns))
    else:
        row.colleague, row.giver, row.since_ns = to, actor, now_ns
    return True


def _put_off(session: Session, trial: Opinion, to: str | None, now_ns: int) -> bool:
    """The same with a known frame, which nobody else is given; whether this changed anything."""
    if trial.handed_to == to:
        return False
    if to is not None:
        _check_room(session, to)
    trial.handed_to, trial.handed_ns = to, None if to is None else now_ns
    return True


def _check_room(session: Session, person: str) -> None:
    waiting = session.scalar(select(func.count()).select_from(handed_to(person).subquery())) or 0
    if waiting >= MAX_HANDED:
        raise ReviewConflict(f"{waiting} frames wait for {person}: no more can be handed over")


def seeming(trial: Opinion) -> Handover | None:
    """The hand-over as which whom a known frame tries is shown that they handed it on; it is stored nowhere."""
    if trial.handed_to is None or trial.handed_ns is None:
        return None
    return Handover(
        review_id=trial.review_id, colleague=trial.handed_to, giver=trial.reviewer, since_ns=trial.handed_ns
    )


def handed_to(person: str) -> Select[int]:
    """The numbers of reviews that wait for a person's verdict by name."""
    return (
        select(Handover.review_id)
        .join(Review, Review.id == Handover.review_id)
        .where(Handover.colleague == person, Review.state.in_(WAITING), ~_has_judged())
    )


def handed_elsewhere(person: str) -> Exists:
    """That a review waits for somebody else: a condition on reviews."""
    return exists(Handover.review_id).where(
        Handover.review_id == Review.id, Handover.colleague != person, ~_has_judged()
    )


def holder_by_name(session: Session, review_id: int, person: str) -> Handover | None:
    """The hand-over by which a review waits for somebody else than ``person``."""
    trial = trial_of(session, review_id, person)
    if trial is not None:
        return seeming(trial)
    waits = and_(Handover.review_id == review_id, Handover.colleague != person, ~_has_judged())
    return session.scalars(select(Handover).where(waits)).one_or_none()


def _has_judged() -> Exists:
    """That a frame's colleague has judged it as one of several who do not know of each other.

    Such a frame waits for nobody by name; that it was handed over all the same tells nobody so.
    """
    return exists(Opinion.review_id).where(
        Opinion.review_id == Handover.review_id,
        Opinion.reviewer == Handover.colleague,
        Opinion.kind == OpinionKind.DOUBLE,
    )

"""Frames that one person hands to another: the colleague judges them next, and nobody else is given them meanwhile.

It is a claim of a person without a page, and without an end: it goes with that person's verdict, or when somebody puts
the frame back. Like a claim it is no lock: a verdict is stored whoever it is of.
"""

from __future__ import annotations

from sqlalchemy import Exists, Select, and_, exists, func, select
from sqlalchemy.orm import Session

from secondlook.cloud.catalogue.blind import is_wanted
from secondlook.cloud.catalogue.comments import add_comment, comment_text
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
) -> bool:
    """Hand a frame to a colleague, or, without ``to``, back to all; with a ``comment`` where there is something to say.

    ``actor``'s claim on it ends. Returns whether ``actor`` was to judge it as a known frame: it went nowhere then, and
    the answer must not tell so. Raises ReviewNotFound, ClaimHeld while another person has it open, ReviewConflict
    where nothing is to be judged in it, ``to`` is ``actor``, or has too many; ValueError for what is no comment.
    """
    said = comment_text(comment) if comment.strip() else None
    if to == actor:
        raise ReviewConflict("a frame is handed to somebody else")
    with catalogue.writing() as session:
        review = get_review(session, review_id)
        unknowing = is_wanted(session, review_id, actor)
        if review.state not in WAITING and not unknowing:
            raise ReviewConflict(f"review {review_id} is {review.state.value}: nothing is to be judged in it")
        _end_claim(session, review_id, actor, now_ns)
        given = None
        if said is not None:
            written, is_new = add_comment(session, review, actor, said, now_ns)
            given = written.id if is_new else None
        changed = unknowing or _move(session, review_id, actor, to, now_ns)
        if unknowing:
            # A known frame: nobody is told by a refusal. It comes to this person another time.
            session.delete(session.get_one(Opinion, (review_id, actor)))
        session.flush()
        if given is not None:
            audit_review(session, now_ns, actor, "comment given", review_id, {"comment_id": given})
        if changed:
            audit_review(session, now_ns, actor, "review handed over", review_id, {"to": to})
        return unknowing


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
    waiting = session.scalar(select(func.count()).select_from(handed_to(to).subquery())) or 0
    if waiting >= MAX_HANDED:
        raise ReviewConflict(f"{waiting} frames wait for {to}: no more can be handed over")
    if row is None:
        session.add(Handover(review_id=review_id, colleague=to, giver=actor, since_ns=now_ns))
    else:
        row.colleague, row.giver, row.since_ns = to, actor, now_ns
    return True


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

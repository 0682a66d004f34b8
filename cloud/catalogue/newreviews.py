"""Whether a new frame becomes a review: its reasons, the distances between them, and the budgets of open reviews.

A frame that is reviewed keeps every reason it has. One reason at least must be decisive: no other review of the same
camera host, called for by the same rule, lies within its distance. What a full budget has no room for is a row all the
same, in the state ``skipped``: it can be counted, shown, and asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, exists, func, select
from sqlalchemy.orm import Session

from secondlook.cloud.catalogue.doubts import doubts_in, wants_person
from secondlook.cloud.catalogue.objects import is_called, note_call
from secondlook.cloud.catalogue.reviews import RETRIED, audit_review, move_review, retry_review
from secondlook.cloud.catalogue.schema import (
    Frame,
    Reason,
    Retention,
    Review,
    ReviewState,
    Rule,
    SeenObject,
    Verdict,
)
from secondlook.cloud.catalogue.store import Catalogue
from secondlook.shared.crop import Crop
from secondlook.shared.errors import FrameNotFound

_LATEST_NS = 2**63 - 1  # what the wire and the tables can hold
_OPEN = (ReviewState.DUE, ReviewState.LEASED, ReviewState.READY, ReviewState.EXPIRED)
_MOST_REASON = 255
_ASKED_PRIORITY = 100  # a person waits for it


@dataclass(frozen=True)
class NewReview:
    """Why a person shall see a frame; a higher priority is seen sooner.

    By itself it calls for no review where the same rule called for one of a frame of the same camera host captured
    less than `apart_ns` before or after.

    One that speaks of detections (`boxes`, by index) is a reason only while an object among them has been in view for
    `dwell_ns`; with `once`, it is decisive only while the rule has not had one of these objects reviewed.
    """

    reason: str
    priority: int
    apart_ns: int = 0
    rule: Rule = Rule.OPERATOR
    boxes: tuple[int, ...] | None = None
    dwell_ns: int = 0
    once: bool = False


@dataclass(frozen=True)
class ReviewBudget:
    """How many reviews may be without a decision, of the site and of each camera host; 0: any number."""

    site: int = 0
    camera: int = 0


UNLIMITED = ReviewBudget()


def call_for_review(
    session: Session,
    frame: Frame,
    reasons: Sequence[NewReview],
    budget: ReviewBudget,
    *,
    now_ns: int,
    crop: Crop | None = None,
) -> None:
    """Make a review of a frame where one of its reasons is decisive; it is skipped where there is no room.

    `crop`: what of the frame is fetched for it, None for all.
    """
    reasons = [reason for reason in reasons if _has_stayed(frame, reason)]
    decisive = [
        reason for reason in reasons if _is_news(frame, reason) and not _called_near(session, frame, reason)
    ]
    if not decisive:
        return
    ranked = sorted(reasons, key=lambda reason: -reason.priority)
    # A sample of which the budget took some away would be none.
    sampled = any(reason.rule is Rule.AUDIT for reason in decisive)
    gave_way: list[Review] = []
    room = sampled or _make_room(session, frame, ranked[0].priority, budget, gave_way, now_ns)
    frame.retention = Retention.UNDECIDED if room else Retention.UNREVIEWED
    review = Review(
        reason="; ".join(reason.reason for reason in ranked)[:_MOST_REASON],
        priority=ranked[0].priority,
        state=ReviewState.DUE if room else ReviewState.SKIPPED,
        created_ns=now_ns,
        **_facts(frame),
        top_score=frame.top_score,
        attempts=0,
        crop=None if crop is None else str(crop),
        doubts=_doubts(frame, reasons),
    )
    review.reasons = [
        Reason(
            rule=reason.rule.value,
            reason=reason.reason[:_MOST_REASON],
            priority=reason.priority,
            decisive=reason in decisive,
            **_facts(frame),
        )
        for reason in ranked
    ]
    session.add(review)
    if room:  # a person will see all of them
        for reason in ranked:
            for seen in _objects(frame, reason):
                note_call(seen, reason.rule)
    session.flush()
    # The audit trail comes last, after everything that may wait for a row.
    for victim in gave_way:
        audit_review(
            session, now_ns, "policy", "review skipped", victim.id, {"for a frame of": frame.edge_id}
        )
    detail = {
        "edge_id": frame.edge_id,
        "boot_id": frame.boot_id,
        "seq": frame.seq,
        "reason": review.reason,
        "priority": review.priority,
    }
    audit_review(session, now_ns, "policy", "review created" if room else "review skipped", review.id, detail)


def ask_for_review(catalogue: Catalogue, frame_id: int, *, actor: str, now_ns: int) -> int:
    """Somebody wants to see a frame in full quality: its review, made where there was none; returns its number.

    Raises FrameNotFound.
    """
    with catalogue.writing() as session:
        frame = session.get(Frame, frame_id, with_for_update=True)
        if frame is None or frame.retention is Retention.DELETING:
            raise FrameNotFound(f"there is no frame {frame_id}")
        review = session.scalars(select(Review).where(Review.frame_id == frame_id)).one_or_none()
        if review is not None:
            id_, again = review.id, review.state in RETRIED
            wants_person(review)
        else:
            again = False
            reason = f"asked for by {actor}"
            review = Review(
                reason=reason,
                priority=_ASKED_PRIORITY,
                state=ReviewState.DUE,
                created_ns=now_ns,
                **_facts(frame),
                top_score=frame.top_score,
                attempts=0,
            )
            review.reasons = [
                Reason(
                    rule=Rule.OPERATOR.value,
                    reason=reason,
                    priority=_ASKED_PRIORITY,
                    decisive=False,
                    **_facts(frame),
                )
            ]
            frame.retention, frame.retention_ns = Retention.UNDECIDED, now_ns
            session.add(review)
            session.flush()
            id_ = review.id
            detail = {"edge_id": frame.edge_id, "boot_id": frame.boot_id, "seq": frame.seq, "reason": reason}
            audit_review(session, now_ns, actor, "review created", id_, detail)
    if again:
        retry_review(catalogue, id_, actor=actor, now_ns=now_ns)
    return id_


def _facts(frame: Frame) -> dict[str, Any]:
    """What a review and its reasons keep of their frame."""
    return {"frame_id": frame.id, "captured_ns": frame.captured_ns, "edge_id": frame.edge_id}


def skipped_reviews(catalogue: Catalogue) -> int:
    """How many reviews the budgets had no room for, and nobody asked for since."""
    with catalogue.reading() as session:
        query = select(func.count()).select_from(Review).where(Review.state == ReviewState.SKIPPED)
        return session.scalar(query) or 0


def _objects(frame: Frame, reason: NewReview) -> list[SeenObject]:
    """The objects that a reason speaks of, and that have been in view for long enough."""
    found = [frame.detections[index].object for index in reason.boxes or ()]
    return [one for one in found if one is not None and one.last_ns - one.first_ns >= reason.dwell_ns]


def _doubts(frame: Frame, reasons: Sequence[NewReview]) -> dict[str, Any] | None:
    """What is in doubt, where no other rule has anything to say of the frame."""
    if any(reason.rule is not Rule.UNCERTAIN for reason in reasons):
        return None
    indexes = [index for reason in reasons for index in _in_question(frame, reason)]
    return doubts_in(frame, indexes).as_json() if indexes else None


def _in_question(frame: Frame, reason: NewReview) -> list[int]:
    """Of the detections that a reason speaks of, those that have been in view for long enough, and, with `once`, are
    of nothing that the rule had reviewed before."""
    found = []
    for index in reason.boxes or ():
        one = frame.detections[index].object
        stayed = reason.dwell_ns == 0 or (one is not None and one.last_ns - one.first_ns >= reason.dwell_ns)
        if stayed and not (reason.once and one is not None and is_called(one, reason.rule)):
            found.append(index)
    return found


def _has_stayed(frame: Frame, reason: NewReview) -> bool:
    """Whether something a reason speaks of has been in view for long enough; a sight of no object is of a moment."""
    return reason.boxes is None or reason.dwell_ns == 0 or bool(_objects(frame, reason))


def _is_news(frame: Frame, reason: NewReview) -> bool:
    """Whether the rule has not yet had something of this reviewed."""
    if reason.boxes is None or not reason.once:
        return True
    seen = [frame.detections[index].object for index in reason.boxes]
    nameless = reason.dwell_ns == 0 and any(one is None for one in seen)
    return nameless or any(not is_called(one, reason.rule) for one in _objects(frame, reason))


def _called_near(session: Session, frame: Frame, reason: NewReview) -> bool:
    """Whether the same rule called for a review close by in time."""
    if reason.apart_ns == 0:
        return False
    near = select(Reason.id).where(
        Reason.rule == reason.rule.value,
        Reason.decisive,
        Reason.edge_id == frame.edge_id,
        # Not beyond what the column's type can hold, whatever clock a camera host has.
        Reason.captured_ns >= max(frame.captured_ns - reason.apart_ns + 1, 0),
        Reason.captured_ns <= min(frame.captured_ns + reason.apart_ns - 1, _LATEST_NS),
    )
    return session.scalars(near.limit(1)).first() is not None


def _make_room(
    session: Session,
    frame: Frame,
    priority: int,
    budget: ReviewBudget,
    gave_way: list[Review],
    now_ns: int,
) -> bool:
    """Whether a review of this priority has room; what is worth less may be skipped for it, and joins ``gave_way``.

    The camera's share first: a camera that has used it up takes no room from the others.
    """
    of_camera = select(Review).join(Frame, Review.frame_id == Frame.id).where(Frame.edge_id == frame.edge_id)
    for which, most in ((of_camera, budget.camera), (select(Review), budget.site)):
        open_now = which.where(Review.state.in_(_OPEN))
        if most == 0 or _count(session, open_now) < most:
            continue
        victim = _least_valuable(session, which, priority)
        if victim is None:
            return False
        move_review(victim, ReviewState.SKIPPED)
        victim.frame.retention, victim.frame.retention_ns = Retention.UNREVIEWED, now_ns
        session.flush()
        gave_way.append(victim)
    return True


def _least_valuable(session: Session, which: Select[Any], priority: int) -> Review | None:
    """The open review to give up for a new one of this priority: priority first, then the newer one stays.

    Not one that a worker holds or that somebody has begun to judge, nor one of the audit sample. One whose picture a
    person may be looking at goes only for a higher priority, and can still be judged.
    """
    sampled = exists(Reason.id).where(Reason.review_id == Review.id, Reason.rule == Rule.AUDIT.value)
    judged = exists(Verdict.id).where(Verdict.review_id == Review.id)
    free = which.where(~sampled, ~judged).order_by(Review.priority, Review.created_ns, Review.id).limit(1)
    waiting = free.where(Review.state == ReviewState.DUE, Review.priority <= priority)
    shown = free.where(Review.state.in_((ReviewState.READY, ReviewState.EXPIRED)), Review.priority < priority)
    for query in (waiting, shown):
        # Only this row: one that another worker has in hand is passed over.
        found: Review | None = session.scalars(query.with_for_update(of=Review, skip_locked=True)).first()
        if found is not None:
            return found
    return None


def _count(session: Session, query: Select[Any]) -> int:
    return session.scalar(select(func.count()).select_from(query.subquery())) or 0

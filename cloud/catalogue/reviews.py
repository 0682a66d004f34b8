"""The life of a review: due, leased by a refiner, ready, settled or expired, decided by a person (``verdicts``).

Each function is one transaction and leaves a line in the audit trail when it changes what a person will see.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, and_, func, or_, select, update
from sqlalchemy.orm import Session

from secondlook.cloud.catalogue.blind import is_tried, state_to_judge
from secondlook.cloud.catalogue.doubts import Doubts, wants_person
from secondlook.cloud.catalogue.schema import Frame, Retention, Review, ReviewState
from secondlook.cloud.catalogue.store import Catalogue, append_audit
from secondlook.shared.crop import Crop
from secondlook.shared.errors import ReviewConflict, ReviewGone, ReviewNotFound

# state -> the states that may follow it
TRANSITIONS: dict[ReviewState, frozenset[ReviewState]] = {
    # skipped: the budget of open reviews is needed for another
    ReviewState.DUE: frozenset({ReviewState.LEASED, ReviewState.SKIPPED}),
    # leased again: the lease ran out and another worker takes over; due: the worker gives it back
    ReviewState.LEASED: frozenset(
        {
            ReviewState.LEASED,
            ReviewState.DUE,
            ReviewState.READY,
            ReviewState.SETTLED,
            ReviewState.EXPIRED,
        }
    ),
    # due: a crop is shown, and somebody wants the whole frame
    ReviewState.READY: frozenset({ReviewState.DECIDED, ReviewState.SKIPPED, ReviewState.DUE}),
    # due: somebody asks for another attempt
    ReviewState.EXPIRED: frozenset({ReviewState.DECIDED, ReviewState.DUE, ReviewState.SKIPPED}),
    # due: somebody asks for it; the others: somebody judges it as it is
    ReviewState.SETTLED: frozenset({ReviewState.DUE, ReviewState.READY, ReviewState.DECIDED}),
    # due: somebody asks for it; the others: somebody had it on the screen and judges it
    ReviewState.SKIPPED: frozenset(
        {ReviewState.DUE, ReviewState.READY, ReviewState.EXPIRED, ReviewState.DECIDED}
    ),
    # ready or expired: a verdict was undone
    ReviewState.DECIDED: frozenset({ReviewState.READY, ReviewState.EXPIRED}),
}

# states from which a person may have the full quality fetched
RETRIED = frozenset({ReviewState.EXPIRED, ReviewState.SKIPPED, ReviewState.SETTLED})
MAX_ATTEMPTS = 2  # times that a picture may fail, or end its worker, before it is set aside
CAMERA_AWAY = "camera away"

_NANOSECONDS = 1_000_000_000
_MOST_REASON = 255


@dataclass(frozen=True)
class LeasedReview:
    """What a refiner needs to know of the review it holds."""

    review_id: int
    owner: str
    edge_id: str
    boot_id: str
    seq: int
    key_seq: int | None
    priority: int
    base_blob: str
    key_base_blob: str | None
    enhancement_bytes: int
    created_ns: int
    requested_ns: int
    has_base_image: bool
    crop: Crop | None = None  # what is wanted; None: the whole frame
    doubts: Doubts | None = None  # what a second look may settle; None: a person is to see it
    attempts: int = 0  # at its picture, before, of which none ended well

    @property
    def turn(self) -> tuple[int, int, int, int]:
        """Sorts reviews as people are to see them, the most urgent first."""
        return -self.priority, self.requested_ns, self.created_ns, self.review_id


@dataclass(frozen=True)
class Refinement:
    """The pictures of a review: blob keys, sizes in bytes, and what made them.

    ``image_bytes`` is the size of all of them together; ``crop`` what of the frame is shown in full quality, None for
    all of it. One that is settled has no refined picture, and no post-filter.
    """

    enhancement_blob: str
    enhancement_bytes: int
    base_image: str
    enhanced_image: str
    refined_image: str | None
    shown_sha256: str
    postfilter: str | None
    codec_model: str
    image_bytes: int = 0
    crop: Crop | None = None


def lease_due_review(
    catalogue: Catalogue,
    owner: str,
    *,
    lease_seconds: float,
    now_ns: int,
    among: Collection[str] | None = None,
    outside: Collection[str] = (),
) -> LeasedReview | None:
    """Take the most urgent review that is due, or whose lease ran out; None when there is none.

    Of camera hosts in `among` (None: of all) and not in `outside`. At equal priority, the one whose deadline comes
    first. A review whose workers died or hung `MAX_ATTEMPTS` times is set aside on the way, as expired.
    """
    with catalogue.writing() as session:
        while True:
            row: Review | None = session.scalars(_most_urgent(now_ns, among, outside)).first()
            if row is None:
                return None
            if row.attempts < MAX_ATTEMPTS:
                break
            why = f"set aside: {row.attempts} times its worker died or hung while it was at this picture"
            _expire(session, row, row.lease_owner or owner, why, now_ns)
            session.flush()
        move_review(row, ReviewState.LEASED)
        row.lease_owner = owner
        row.lease_until_ns = _later(now_ns, lease_seconds)
        row.not_before_ns = None
        if row.requested_ns is None:
            row.requested_ns = now_ns
        return _leased(session, row, owner, row.requested_ns)


def _most_urgent(now_ns: int, among: Collection[str] | None, outside: Collection[str]) -> Select[Any]:
    query = select(Review).where(
        or_(
            and_(
                Review.state == ReviewState.DUE,
                or_(Review.not_before_ns.is_(None), Review.not_before_ns <= now_ns),
            ),
            and_(Review.state == ReviewState.LEASED, Review.lease_until_ns <= now_ns),
        )
    )
    if among is not None or outside:
        query = query.join(Frame, Review.frame_id == Frame.id)
    if among is not None:
        query = query.where(Frame.edge_id.in_(among))
    if outside:
        query = query.where(Frame.edge_id.not_in(outside))
    asked_for = func.coalesce(Review.requested_ns, Review.created_ns)
    query = query.order_by(Review.priority.desc(), asked_for, Review.created_ns, Review.id)
    return query.limit(1).with_for_update(of=Review, skip_locked=True)


def extend_review_lease(
    catalogue: Catalogue, review_id: int, owner: str, *, lease_seconds: float, now_ns: int
) -> None:
    """Hold a leased review for ``lease_seconds`` from now. Raises ReviewConflict when the lease is lost."""
    with catalogue.writing() as session:
        _held(session, review_id, owner).lease_until_ns = _later(now_ns, lease_seconds)


def set_base_image(
    catalogue: Catalogue, review_id: int, owner: str, *, key: str, sha256: str, image_bytes: int = 0
) -> None:
    """Note the base image of a leased review: it can be shown while the enhancement travels."""
    with catalogue.writing() as session:
        row = _held(session, review_id, owner)
        row.frame.stored_bytes = max(row.frame.stored_bytes, row.frame.base_bytes + image_bytes)
        row.base_image, row.shown_sha256 = key, sha256
        row.attempts = max(0, row.attempts - 1)  # this one ended well


def set_enhanced_image(
    catalogue: Catalogue,
    review_id: int,
    owner: str,
    *,
    key: str,
    sha256: str,
    image_bytes: int,
    second_look: dict[str, Any] | None = None,
) -> None:
    """Note the enhanced image of a leased review: it is shown until the refined one is there.

    ``image_bytes``: of base and enhanced image together; ``second_look``: what the machine said of it.
    """
    with catalogue.writing() as session:
        row = _held(session, review_id, owner)
        row.frame.stored_bytes = max(row.frame.stored_bytes, row.frame.base_bytes + image_bytes)
        row.enhanced_image, row.shown_sha256 = key, sha256
        row.second_look = second_look or row.second_look  # what was said once stays
        row.attempts = max(0, row.attempts - 1)  # this one ended well


def review_is_due(catalogue: Catalogue, edge_id: str, boot_id: str, seq: int) -> bool:
    """Whether a frame has a review that no refiner has taken up yet."""
    with catalogue.reading() as session:
        query = (
            select(Review.id)
            .join(Frame, Review.frame_id == Frame.id)
            .where(Frame.edge_id == edge_id, Frame.boot_id == boot_id, Frame.seq == seq)
            .where(Review.state == ReviewState.DUE)
        )
        return session.scalars(query).first() is not None


def begin_attempt(
    catalogue: Catalogue, review_id: int, owner: str, *, lease_seconds: float, now_ns: int
) -> None:
    """Count an attempt to work on the picture of a leased review, and hold it for ``lease_seconds`` from now.

    An attempt of which nothing more is heard ended its worker. Raises ReviewConflict when the lease is lost.
    """
    with catalogue.writing() as session:
        row = _held(session, review_id, owner)
        row.attempts += 1
        row.lease_until_ns = _later(now_ns, lease_seconds)


def fail_review(
    catalogue: Catalogue, review_id: int, owner: str, *, why: str, retry_seconds: float, now_ns: int
) -> None:
    """Note that an attempt at a leased review failed: it is due again after a while, or set aside as expired."""
    with catalogue.writing() as session:
        row = _held(session, review_id, owner)
        if row.attempts >= MAX_ATTEMPTS:
            _expire(
                session, row, owner, f"set aside: it failed {row.attempts} times, at last with {why}", now_ns
            )
            return
        move_review(row, ReviewState.DUE)
        row.not_before_ns = _later(now_ns, retry_seconds)
        row.why_waiting = f"to be tried again: {why}"[:_MOST_REASON]
        audit_review(
            session, now_ns, owner, "review failed", review_id, {"why": why, "attempts": row.attempts}
        )


def park_review(catalogue: Catalogue, review_id: int, owner: str, *, look_again_ns: int) -> None:
    """Give a leased review back because its camera host is away; it is looked at again then at the latest."""
    with catalogue.writing() as session:
        row = _held(session, review_id, owner)
        move_review(row, ReviewState.DUE)
        row.not_before_ns, row.why_waiting = look_again_ns, CAMERA_AWAY


def wake_reviews(catalogue: Catalogue, edge_ids: Collection[str]) -> None:
    """The camera hosts speak again: what waited for them need wait no longer."""
    of_them = select(Frame.id).where(Frame.edge_id.in_(edge_ids))
    with catalogue.writing() as session:
        session.execute(
            update(Review)
            .where(
                Review.state == ReviewState.DUE,
                Review.why_waiting == CAMERA_AWAY,
                Review.frame_id.in_(of_them),
            )
            .values(not_before_ns=None, why_waiting=None)
        )


def mark_ready(catalogue: Catalogue, review_id: int, owner: str, result: Refinement, *, now_ns: int) -> None:
    """Finish a leased review: its refined image can be shown. Raises ReviewConflict if the lease is lost."""
    with catalogue.writing() as session:
        row = _held(session, review_id, owner)
        move_review(row, ReviewState.READY)
        row.refined_ns = now_ns
        _note_pictures(session, row, result)
        detail = {
            "shown_sha256": result.shown_sha256,
            "postfilter": result.postfilter,
            "codec_model": result.codec_model,
        }
        audit_review(session, now_ns, owner, "review refined", review_id, detail)


def settle_review(
    catalogue: Catalogue,
    review_id: int,
    owner: str,
    result: Refinement,
    second_look: dict[str, Any],
    *,
    now_ns: int,
) -> bool:
    """End a leased review of which the machine's second look left no doubt: nobody is asked, and it stays to be seen.

    False, and nothing is changed, where a person has asked for it meanwhile. Raises ReviewConflict if the lease is
    lost.
    """
    with catalogue.writing() as session:
        row = _held(session, review_id, owner)
        if row.doubts is None:
            return False
        move_review(row, ReviewState.SETTLED)
        _note_pictures(session, row, result)
        row.second_look = second_look
        row.attempts = max(0, row.attempts - 1)  # this one ended well
        row.frame.retention, row.frame.retention_ns = Retention.UNREVIEWED, now_ns
        detail = {"shown_sha256": result.shown_sha256, "codec_model": result.codec_model, **second_look}
        audit_review(session, now_ns, owner, "review settled", review_id, detail)
        return True


def _note_pictures(session: Session, row: Review, result: Refinement) -> None:
    row.enhancement_blob, row.enhancement_bytes = result.enhancement_blob, result.enhancement_bytes
    row.base_image = row.base_image or result.base_image  # as it was stored, under whichever name
    row.enhanced_image = result.enhanced_image
    row.refined_image = result.refined_image
    row.shown_sha256 = result.shown_sha256
    row.postfilter, row.codec_model = result.postfilter, result.codec_model
    row.crop, row.wants_whole = None if result.crop is None else str(result.crop), False
    row.frame.stored_bytes = row.frame.base_bytes + result.enhancement_bytes + result.image_bytes
    _count_key_enhancement(session, row.frame)


def mark_expired(catalogue: Catalogue, review_id: int, owner: str, *, why: str, now_ns: int) -> None:
    """End a leased review whose enhancement cannot be had or not be decoded."""
    with catalogue.writing() as session:
        _expire(session, _held(session, review_id, owner), owner, why, now_ns)


def release_review(catalogue: Catalogue, review_id: int, owner: str) -> None:
    """Give a leased review back, for another attempt by any worker."""
    with catalogue.writing() as session:
        move_review(_held(session, review_id, owner), ReviewState.DUE)


def retry_review(catalogue: Catalogue, review_id: int, *, actor: str, now_ns: int) -> None:
    """Let an expired, skipped or settled review be fetched once more. Raises ReviewNotFound, ReviewConflict."""
    with catalogue.writing() as session:
        row = get_review(session, review_id)
        tried = is_tried(session, review_id, actor)
        shown = state_to_judge(row) if tried else row.state
        if shown not in RETRIED:
            raise ReviewConflict(f"review {review_id} is {shown.value}, neither expired, skipped nor settled")
        if tried:  # nothing is fetched for a known frame, and nobody is told by this that it is one
            why = row.why_expired or "its full quality is lost"
            raise ReviewConflict(f"review {review_id} cannot be fetched again: {why}")
        done = row.refined_image is not None  # it was skipped later than that
        if done:
            move_review(row, ReviewState.READY)
            row.why_expired, row.attempts = None, 0
        else:
            _begin_anew(row)
        wants_person(row)
        row.frame.retention = Retention.UNDECIDED
        audit_review(session, now_ns, actor, "review retried", review_id, {})


def want_whole_frame(catalogue: Catalogue, review_id: int, *, actor: str, now_ns: int) -> None:
    """Have all of a frame fetched of which a crop is shown; nothing changes where that is on its way.

    What is shown stays meanwhile. Raises ReviewNotFound, ReviewConflict for one that is not to be judged.
    """
    with catalogue.writing() as session:
        row = get_review(session, review_id)
        shown = state_to_judge(row) if is_tried(session, review_id, actor) else row.state
        if shown is ReviewState.DUE:
            row.wants_whole = True  # nothing is fetched yet
            wants_person(row)
        elif shown not in (ReviewState.READY, ReviewState.SETTLED):
            raise ReviewConflict(f"review {review_id} is {shown.value}: no more of it can be fetched now")
        elif row.crop is not None:
            _begin_anew(row)
            row.wants_whole = True
            wants_person(row)
            row.frame.retention = Retention.UNDECIDED
            audit_review(session, now_ns, actor, "whole frame asked for", review_id, {})


def _begin_anew(row: Review) -> None:
    if row.state is ReviewState.SETTLED:
        row.enhancement_blob = row.enhancement_bytes = None  # as long as it is not here once more
    move_review(row, ReviewState.DUE)
    row.requested_ns, row.attempts, row.why_expired = None, 0, None


def move_review(row: Review, state: ReviewState) -> None:
    """Put a review into another state. Raises ReviewConflict when the table does not allow it."""
    if state not in TRANSITIONS[row.state]:
        raise ReviewConflict(f"review {row.id} is {row.state.value} and cannot become {state.value}")
    row.state = state
    if state is not ReviewState.LEASED:
        row.lease_owner = row.lease_until_ns = None
    if state not in (ReviewState.LEASED, ReviewState.DUE):
        row.why_waiting = row.not_before_ns = None


def get_review(session: Session, review_id: int) -> Review:
    """The review, locked with its frame for this transaction. Raises ReviewNotFound, ReviewGone."""
    row = session.get(Review, review_id, with_for_update=True)
    if row is None:
        raise ReviewNotFound(f"there is no review {review_id}")
    # Retention marks frames: what it has marked is beyond change, and what is locked here it passes over.
    frame = session.get_one(Frame, row.frame_id, with_for_update=True, populate_existing=True)
    if frame.retention is Retention.DELETING:
        raise ReviewGone(f"review {review_id} is gone: its pictures were kept for as long as was set")
    return row


def _held(session: Session, review_id: int, owner: str) -> Review:
    row = get_review(session, review_id)
    if row.state is not ReviewState.LEASED or row.lease_owner != owner:
        raise ReviewConflict(f"review {review_id} is not leased to {owner} any more")
    return row


def _leased(session: Session, row: Review, owner: str, requested_ns: int) -> LeasedReview:
    frame = row.frame
    key_blob = None
    if frame.key_seq is not None:
        key_blob = session.scalars(
            select(Frame.base_blob).where(
                Frame.edge_id == frame.edge_id, Frame.boot_id == frame.boot_id, Frame.seq == frame.key_seq
            )
        ).one_or_none()
    return LeasedReview(
        review_id=row.id,
        owner=owner,
        edge_id=frame.edge_id,
        boot_id=frame.boot_id,
        seq=frame.seq,
        key_seq=frame.key_seq,
        priority=row.priority,
        base_blob=frame.base_blob,
        key_base_blob=key_blob,
        enhancement_bytes=frame.enhancement_bytes,
        created_ns=row.created_ns,
        requested_ns=requested_ns,
        has_base_image=row.base_image is not None,
        crop=None if row.crop is None or row.wants_whole else Crop.parse(row.crop),
        doubts=None if row.doubts is None else Doubts.parse(row.doubts),
        attempts=row.attempts,
    )


def _count_key_enhancement(session: Session, frame: Frame) -> None:
    """A delta is refined with the enhancement of its key, which is fetched for it and stays with the key."""
    if frame.key_seq is None:
        return
    key = session.scalars(
        select(Frame).where(
            Frame.edge_id == frame.edge_id, Frame.boot_id == frame.boot_id, Frame.seq == frame.key_seq
        )
    ).one_or_none()
    if key is not None:
        key.stored_bytes = max(key.stored_bytes, key.base_bytes + key.enhancement_bytes)


def _expire(session: Session, row: Review, owner: str, why: str, now_ns: int) -> None:
    if row.wants_whole and row.refined_image is not None:  # a crop is shown, and stays to be judged
        move_review(row, ReviewState.READY)
        action = "whole frame not to be had"
    else:
        move_review(row, ReviewState.EXPIRED)
        action = "review expired"
    row.wants_whole, row.why_expired = False, why[:_MOST_REASON]
    audit_review(session, now_ns, owner, action, row.id, {"why": why})


def _later(now_ns: int, seconds: float) -> int:
    return now_ns + int(seconds * _NANOSECONDS)


def audit_review(
    session: Session, now_ns: int, actor: str, action: str, review_id: int, detail: Mapping[str, object]
) -> None:
    append_audit(
        session, at_ns=now_ns, actor=actor, action=action, subject=f"review/{review_id}", detail=dict(detail)
    )

"""What the station reads from the catalogue. Nothing here changes anything."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, union_all
from sqlalchemy.orm import InstrumentedAttribute, Session, selectinload

from secondlook.cloud.catalogue import (
    AuditEntry,
    Camera,
    Catalogue,
    ClaimedReview,
    DetectedBox,
    Frame,
    KnownFrame,
    Opinion,
    OpinionKind,
    Retention,
    Review,
    ReviewState,
    SeenObject,
    Sight,
    Verdict,
    conflict_of,
    counting_verdicts,
    handed_to,
    list_claims,
    shown_states,
    sights,
    tried_known,
    wanted_known,
)
from secondlook.cloud.catalogue.feed import unindexed
from secondlook.cloud.station import schema
from secondlook.cloud.station.bursts import GAP_NS, MOST_ALIKE, BurstFrame, burst_around, burst_sizes
from secondlook.cloud.station.choice import EVERY, STATES, ReviewChoice, given_by
from secondlook.cloud.station.talk import Talk, comments_of, talks
from secondlook.cloud.storage.blobs import thumb_key
from secondlook.shared.errors import ReviewNotFound

_NANOSECONDS = 1_000_000_000
_DAY_NS = 24 * 3600 * _NANOSECONDS
_RATE_WINDOW_NS = 30 * 60 * _NANOSECONDS
_RATE_FROM_DECISIONS = 3  # fewer say nothing about a pace
_EXPORT_BATCH = 200
_MOST_COUNTED = 10_000  # of a list that is narrowed
_COMMON_OF = 2000  # of so many reviews, and verdicts, of late the commonest classes are those
_CLOCK_SECONDS = 2.0  # a camera's clock may be off by so much
_NO_TALK = Talk()

_WITH_FRAME = (
    selectinload(Review.frame).selectinload(Frame.detections).selectinload(DetectedBox.object),
    selectinload(Review.verdicts),
    selectinload(Review.double),
)

_IMAGE_COLUMNS = {
    "base": Review.base_image,
    "enhanced": Review.enhanced_image,
    "refined": Review.refined_image,
}


def summary(catalogue: Catalogue, *, now_ns: int, viewer: str = "") -> schema.Summary:
    """``viewer``: whose open reviews are counted; others are to judge what this person has judged."""
    with catalogue.reading() as session:
        rows = session.execute(select(Review.state, func.count()).group_by(Review.state))
        counts: dict[ReviewState, int] = {row[0]: row[1] for row in rows}
        given = session.execute(
            select(Review.state, func.count())
            .join(Opinion, Opinion.review_id == Review.id)
            .where(
                Opinion.reviewer == viewer,
                Opinion.kind == OpinionKind.DOUBLE,
                Review.state != ReviewState.DECIDED,
            )
            .group_by(Review.state)
        )
        for state, count in given:
            counts[state] -= count
        for state in shown_states(session, viewer).values():
            counts[ReviewState.DECIDED] = counts.get(ReviewState.DECIDED, 0) - 1
            counts[state] = counts.get(state, 0) + 1
        worked_on = Review.state == ReviewState.LEASED
        marks = session.execute(
            select(
                select(func.max(AuditEntry.id)).scalar_subquery(),
                # Pictures of reviews that are worked on arrive without a line in the audit trail.
                select(func.count(Review.base_image)).where(worked_on).scalar_subquery(),
                select(func.count(Review.enhanced_image)).where(worked_on).scalar_subquery(),
            )
        ).one()
        decisions = _decision_times(session, since_ns=now_ns - _RATE_WINDOW_NS)
        decided = _decided_since(session, now_ns - _DAY_NS)
        handed = session.scalar(select(func.count()).select_from(handed_to(viewer).subquery())) or 0
    filters = {name: sum(counts.get(s, 0) for s in states) for name, states in STATES.items()}
    rate = decisions_per_hour(decisions, now_ns=now_ns)
    return schema.Summary(
        revision=_digest(*(f"{state}={count}" for state, count in sorted(counts.items())), *map(str, marks)),
        filters=filters,
        remaining=filters["open"],
        pending=filters["pending"],
        handed=handed,
        decided_last_day=decided,
        rate_per_hour=rate,
        eta_seconds=None if rate is None else filters["open"] / rate * 3600,
        claims=[claim_facts(claim) for claim in list_claims(catalogue, now_ns=now_ns)],
    )


def claim_facts(claim: ClaimedReview) -> schema.ClaimFacts:
    return schema.ClaimFacts(
        review_id=claim.review_id, holder=claim.holder, since=schema.instant(claim.since_ns)
    )


def decisions_per_hour(decided_ns: list[int], *, now_ns: int) -> float | None:
    """The pace of the last half hour, counted from its first decision; None while there are too few."""
    recent = [at for at in decided_ns if now_ns - _RATE_WINDOW_NS <= at <= now_ns]
    if len(recent) < _RATE_FROM_DECISIONS:
        return None
    # The first decision only starts the clock: n of them span n - 1 intervals.
    span = max(now_ns - min(recent), _NANOSECONDS)
    return (len(recent) - 1) * 3600 * _NANOSECONDS / span


def list_reviews(catalogue: Catalogue, choice: ReviewChoice, *, limit: int, offset: int) -> schema.ReviewList:
    """The chosen reviews, in their order: first those that were handed to their viewer.

    A known frame that the viewer is to judge, or has handed on, comes second.
    """
    with catalogue.reading() as session:
        choice = choice.weighed(session)
        counted = choice.chosen(select(Review.id))
        if not choice.is_whole:
            counted = counted.limit(_MOST_COUNTED)
        total = session.scalar(select(func.count()).select_from(counted.subquery())) or 0
        reviews = _listed(session, choice, limit, offset)
        if offset == 0 and choice.filter in ("open", "ready") and choice.is_whole:
            known = tried_known(session, choice.viewer) if choice.viewer else []
            mixed = session.scalars(select(Review).options(*_WITH_FRAME).where(Review.id.in_(known))).all()
            reviews[1:1], total = mixed, total + len(mixed)
        cameras = _cameras(session)
        names = {edge_id: camera.camera for edge_id, camera in cameras.items()}
        seen = sights(session, reviews, choice.viewer)
        to_judge = [review for review in reviews if review.state in (ReviewState.READY, ReviewState.EXPIRED)]
        sizes = burst_sizes([burst_frame(review) for review in to_judge])
        alike = dict(zip((review.id for review in to_judge), sizes, strict=True))
        beside = talks(session, [review.id for review in reviews], seen, choice.viewer)
        rows = [
            _row(
                review,
                names,
                seen.get(review.id),
                alike.get(review.id, 1),
                beside.get(review.id, _NO_TALK),
            )
            for review in reviews
        ]
        return schema.ReviewList(total=total, reviews=rows)


def _listed(session: Session, choice: ReviewChoice, limit: int, offset: int) -> list[Review]:
    """A page of a list. What was handed to its viewer is at most as much as `MAX_HANDED`, and comes before the rest."""
    mine: list[int] = []
    if choice.viewer and choice.filter != "decided":
        handed = select(Review.id).where(Review.id.in_(handed_to(choice.viewer)))
        mine = list(session.scalars(choice.ordered(choice.chosen(handed))))
    query = choice.ordered(choice.chosen(select(Review).options(*_WITH_FRAME)))
    page = mine[offset : offset + limit]
    found = session.scalars(select(Review).options(*_WITH_FRAME).where(Review.id.in_(page))) if page else ()
    first = {review.id: review for review in found}
    if mine:
        query = query.where(Review.id.not_in(mine))
    rest = query.limit(limit - len(page)).offset(max(offset - len(mine), 0))
    return [*(first[number] for number in page if number in first), *session.scalars(rest)]


def review_ids(catalogue: Catalogue, choice: ReviewChoice, limit: int) -> list[int]:
    """Numbers of the chosen reviews that can be judged now, in order, those handed to the viewer first, known frames
    after the first."""
    with catalogue.reading() as session:
        numbers = list(session.scalars(choice.to_judge(limit)))
        if choice.viewer:
            handed = set(session.scalars(handed_to(choice.viewer)))
            mine = choice.to_judge(limit).where(Review.id.in_(handed))
            first = list(session.scalars(mine)) if handed else []
            numbers = [*first, *(number for number in numbers if number not in handed)]
        if choice.viewer and choice.is_whole:
            numbers[1:1] = wanted_known(session, choice.viewer)
        return numbers


def burst(catalogue: Catalogue, review_id: int, viewer: str) -> list[schema.ReviewRow]:
    """The reviews of one burst that can be judged, in order of time. Raises ReviewNotFound."""
    with catalogue.reading() as session:
        middle = session.scalars(
            select(Review).options(*_WITH_FRAME).where(Review.id == review_id)
        ).one_or_none()
        if middle is None:
            raise ReviewNotFound(f"there is no review {review_id}")
        reach = MOST_ALIKE * GAP_NS
        near = (
            select(Review)
            .options(*_WITH_FRAME)
            .where(
                Review.captured_ns.between(middle.captured_ns - reach, middle.captured_ns + reach),
                Review.edge_id == middle.edge_id,
            )
        )
        found = session.scalars(near.order_by(Review.captured_ns, Review.id).limit(8 * MOST_ALIKE)).all()
        chosen = burst_around([burst_frame(review) for review in found], review_id)
        names = {edge_id: camera.camera for edge_id, camera in _cameras(session).items()}
        given = set(session.scalars(select(Review.id).where(Review.id.in_(chosen), given_by(viewer))))
        open_now = (ReviewState.READY, ReviewState.EXPIRED)
        reviews = [r for r in found if r.id in chosen - given and r.state in open_now]
        seen = sights(session, reviews, viewer)
        beside = talks(session, [review.id for review in reviews], seen, viewer)
        return [
            _row(review, names, seen.get(review.id), len(reviews), beside.get(review.id, _NO_TALK))
            for review in reviews
        ]


def burst_frame(review: Review) -> BurstFrame:
    frame = review.frame
    classes = tuple(sorted(box.label for box in frame.detections))
    return BurstFrame(review.id, f"{frame.edge_id}/{frame.boot_id}", frame.captured_ns, classes)


def review_detail(
    catalogue: Catalogue, review_id: int, viewer: str = "", *, may_know: bool = False
) -> schema.ReviewDetail:
    """As ``viewer`` is to see it, who ``may_know`` which frames are known. Raises ReviewNotFound."""
    with catalogue.reading() as session:
        review = session.scalars(
            select(Review).options(*_WITH_FRAME).where(Review.id == review_id)
        ).one_or_none()
        if review is None:
            raise ReviewNotFound(f"there is no review {review_id}")
        sight = sights(session, [review], viewer).get(review_id)
        known = may_know and sight is None and session.get(KnownFrame, review_id) is not None
        hidden = [] if sight is None else [review_id]
        beside = talks(session, [review_id], hidden, viewer).get(review_id, _NO_TALK)
        written = comments_of(review, viewer, hidden=sight is not None)
        camera = session.get(Camera, review.frame.edge_id)
        return _detail(review, camera, sight, beside, written, known=known)


def image_key(catalogue: Catalogue, review_id: int, version: schema.ImageVersion) -> str | None:
    """The blob key of a picture, None while it does not exist. Raises ReviewNotFound."""
    with catalogue.reading() as session:
        found = session.execute(select(_IMAGE_COLUMNS[version]).where(Review.id == review_id)).one_or_none()
    if found is None:
        raise ReviewNotFound(f"there is no review {review_id}")
    key: str | None = found[0]
    return key


def thumb_key_of(catalogue: Catalogue, review_id: int) -> str | None:
    """The blob key of the small picture of a review's frame; None where there is no such review."""
    query = select(Frame.edge_id, Frame.boot_id, Frame.seq).join(Review, Review.frame_id == Frame.id)
    with catalogue.reading() as session:
        found = session.execute(query.where(Review.id == review_id)).one_or_none()
    return None if found is None else thumb_key(*found)


def is_deleting(catalogue: Catalogue, review_id: int) -> bool:
    """Whether retention has marked a review's frame, or removed it meanwhile."""
    query = select(Frame.retention).join(Review, Review.frame_id == Frame.id).where(Review.id == review_id)
    with catalogue.reading() as session:
        return session.scalars(query).one_or_none() in (None, Retention.DELETING)


def named_classes(catalogue: Catalogue) -> tuple[set[str], set[str]]:
    """Every class that a detector has named, and every one that a reviewer has."""
    with catalogue.reading() as session:
        return _values(session, DetectedBox.label), _values(session, Verdict.label)


def _values(session: Session, column: InstrumentedAttribute[Any]) -> set[str]:
    """The different values of a column: from one to the next by an index, for rows are many and values are few."""
    there = column.is_not(None)
    walk = select(func.min(column).label("value")).where(there).cte("walk", recursive=True)
    following = select(func.min(column)).where(there, column > walk.c.value).scalar_subquery()
    walk = walk.union_all(select(following).where(walk.c.value.is_not(None)))
    return set(session.scalars(select(walk.c.value).where(walk.c.value.is_not(None))))


def common_classes(catalogue: Catalogue, most: int) -> list[str]:
    """The classes that of late detectors found most in frames under review, or reviewers named; the commonest first."""
    reviews = select(Review.frame_id).order_by(Review.id.desc()).limit(_COMMON_OF)
    name = unindexed(DetectedBox.label).label("label")
    found = select(name, func.count().label("times")).where(DetectedBox.frame_id.in_(reviews))
    given = select(Verdict.label).where(Verdict.label.is_not(None))
    verdicts = given.order_by(Verdict.id.desc()).limit(_COMMON_OF).subquery()
    named = select(verdicts.c.label, func.count().label("times"))
    both = union_all(found.group_by(name), named.group_by(verdicts.c.label)).subquery()
    times = func.sum(both.c.times)
    query = select(both.c.label).group_by(both.c.label).order_by(times.desc(), both.c.label).limit(most)
    with catalogue.reading() as session:
        return list(session.scalars(query))


def exported_reviews(
    catalogue: Catalogue, *, decided_only: bool, choice: ReviewChoice = EVERY
) -> Iterator[Review]:
    """Reviews by number, with frame, boxes and verdicts loaded. Each batch has its own short transaction."""
    last = 0
    while True:
        with catalogue.reading() as session:
            # By number alone, for which there is an order: with the state in it, each batch would sort all reviews.
            following = select(Review.id, Review.state).where(Review.id > last)
            batch = session.execute(following.order_by(Review.id).limit(_EXPORT_BATCH)).all()
            numbers = [row.id for row in batch if not decided_only or row.state is ReviewState.DECIDED]
            query = select(Review).options(*_WITH_FRAME).where(Review.id.in_(numbers)).order_by(Review.id)
            query = choice.narrowed(query)
            reviews = session.scalars(query).all() if numbers else []
            session.expunge_all()
        if not batch:
            return
        yield from reviews
        last = batch[-1].id


def box_of(verdict: Verdict) -> schema.Box | None:
    """Where a missed object is, or a corrected box should be."""
    if verdict.x0 is None or verdict.y0 is None or verdict.x1 is None or verdict.y1 is None:
        return None
    return verdict.x0, verdict.y0, verdict.x1, verdict.y1


def _decision_times(session: Session, *, since_ns: int) -> list[int]:
    """When each decided review got its last standing verdict; from verdicts to reviews, for few are of late."""
    state = select(Review.state).where(Review.id == Verdict.review_id).scalar_subquery()
    query = select(Verdict.review_id, Verdict.decided_ns, state.label("state")).where(
        Verdict.decided_ns >= since_ns, Verdict.undone_ns.is_(None), Verdict.probe.is_(False)
    )
    last: dict[int, int] = {}
    for row in session.execute(query):
        if row.state is ReviewState.DECIDED:
            last[row.review_id] = max(row.decided_ns, last.get(row.review_id, 0))
    return list(last.values())


def _decided_since(session: Session, since_ns: int) -> int:
    """How many reviews are decided that got a verdict since."""
    state = select(Review.state).where(Review.id == Verdict.review_id).scalar_subquery()
    query = select(func.count(Verdict.review_id.distinct())).where(
        Verdict.decided_ns >= since_ns,
        Verdict.undone_ns.is_(None),
        Verdict.probe.is_(False),
        state == ReviewState.DECIDED,
    )
    return session.scalar(query) or 0


def _cameras(session: Session) -> dict[str, Camera]:
    return {camera.edge_id: camera for camera in session.scalars(select(Camera))}


def _row(
    review: Review, cameras: dict[str, str], sight: Sight | None, burst: int, talk: Talk
) -> schema.ReviewRow:
    surest_first = sorted(review.frame.detections, key=lambda box: -box.score)
    verdicts = counting_verdicts(review) if sight is None else sight.verdicts
    standing = [verdict for verdict in verdicts if verdict.undone_ns is None]
    return schema.ReviewRow(
        id=review.id,
        frame_id=review.frame_id,
        captured_at=schema.instant(review.frame.captured_ns),
        stamp=_stamp(review, sight, talk),
        state=review.state if sight is None else sight.state,
        priority=review.priority,
        reason=review.reason,
        burst=burst,
        edge_id=review.frame.edge_id,
        camera=cameras.get(review.frame.edge_id, ""),
        labels=list(dict.fromkeys(box.label for box in surest_first)),
        created_at=schema.instant(review.created_ns),
        hindrance=review.why_expired or review.why_waiting,
        verdict=standing[-1].verdict if standing else None,
        contested=sight is None and conflict_of(review.verdicts) is not None,
        handed=talk.handed,
        comments=talk.comments,
    )


def _corrected(captured_ns: int, offset_seconds: float | None) -> datetime | None:
    """An instant of a camera host's clock by the gateway's; None where the two agree, or nobody knows."""
    if offset_seconds is None or abs(offset_seconds) <= _CLOCK_SECONDS:
        return None
    return schema.instant(captured_ns + round(offset_seconds * _NANOSECONDS))


def _detail(
    review: Review,
    camera: Camera | None,
    sight: Sight | None,
    talk: Talk,
    comments: list[schema.CommentFacts],
    *,
    known: bool,
) -> schema.ReviewDetail:
    frame = review.frame
    verdicts = review.verdicts if sight is None else sight.verdicts
    offset = None if camera is None else camera.clock_offset_seconds
    return schema.ReviewDetail(
        id=review.id,
        stamp=_stamp(review, sight, talk),
        state=review.state if sight is None else sight.state,
        priority=review.priority,
        reason=review.reason,
        known=known,
        double=None if sight is not None or review.double is None else review.double.stage,
        why_expired=review.why_expired,
        why_waiting=review.why_waiting,
        created_at=schema.instant(review.created_ns),
        requested_at=None if review.requested_ns is None else schema.instant(review.requested_ns),
        refined_at=None if review.refined_ns is None else schema.instant(review.refined_ns),
        fetched_bytes=review.enhancement_bytes,
        codec_model=review.codec_model,
        postfilter=review.postfilter,
        detector=frame.detections[0].detector if frame.detections else None,
        frame=schema.FrameFacts(
            id=frame.id,
            edge_id=frame.edge_id,
            camera="" if camera is None else camera.camera,
            boot_id=frame.boot_id,
            seq=frame.seq,
            key_seq=frame.key_seq,
            captured_at=schema.instant(frame.captured_ns),
            clock_offset_seconds=offset,
            corrected_at=_corrected(frame.captured_ns, offset),
            received_at=schema.instant(frame.received_ns),
            detected_at=schema.instant(frame.detected_ns),
            width=frame.width,
            height=frame.height,
            base_bytes=frame.base_bytes,
            enhancement_bytes=frame.enhancement_bytes,
        ),
        detections=detection_facts(frame),
        images={
            "base": review.base_image is not None,
            "enhanced": review.enhanced_image is not None,
            "refined": review.refined_image is not None,
        },
        crop=schema.crop_of(review),
        second_look=schema.second_look_of(review) if sight is None else None,
        image_stamp=str(review.refined_ns or 0),
        verdicts=[_verdict(verdict) for verdict in verdicts],
        contested=sight is None and conflict_of(review.verdicts) is not None,
        handed=talk.handed,
        comments=comments,
    )


def detection_facts(frame: Frame) -> list[schema.DetectionFacts]:
    return [
        schema.DetectionFacts(
            label=box.label,
            score=box.score,
            box=(box.x0, box.y0, box.x1, box.y1),
            object=_object(box.object),
        )
        for box in frame.detections
    ]


def _object(seen: SeenObject | None) -> schema.ObjectFacts | None:
    if seen is None:
        return None
    return schema.ObjectFacts(
        id=seen.id, label=seen.label, since=schema.instant(seen.first_ns), frames=seen.frames
    )


def _verdict(verdict: Verdict) -> schema.VerdictFacts:
    return schema.VerdictFacts(
        id=verdict.id,
        reviewer=verdict.reviewer,
        verdict=verdict.verdict,
        box_index=verdict.box_index,
        label=verdict.label,
        box=box_of(verdict),
        note=verdict.note,
        shown_sha256=verdict.shown_sha256,
        decided_at=schema.instant(verdict.decided_ns),
        undone=verdict.undone_ns is not None,
        conflicts_with=verdict.conflicts_with,
    )


def _stamp(review: Review, sight: Sight | None, talk: Talk) -> str:
    verdicts = review.verdicts if sight is None else sight.verdicts
    undone = sum(verdict.undone_ns is not None for verdict in verdicts)
    shown = sum(
        image is not None for image in (review.base_image, review.enhanced_image, review.refined_image)
    )
    return _digest(
        review.state if sight is None else sight.state,
        str(review.refined_ns),
        str(review.why_waiting),
        f"{len(verdicts)}.{undone}.{shown}",
        talk.stamp,
    )


def _digest(*parts: str) -> str:
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]

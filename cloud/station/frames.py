"""All stored frames, page by page, and what is around one of them. Nothing here changes anything.

A page goes on behind the last frame of the one before (its instant and number), so that the last page of a million
frames costs what the first one does. Where a search is for a class, the index of detections leads; where it is for a
verdict or a reason, that of reviews; else that of frames.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import Select, and_, exists, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session, selectinload

from secondlook.cloud.catalogue import (
    ANYBODY,
    Camera,
    Catalogue,
    DetectedBox,
    Frame,
    Reason,
    Retention,
    Review,
    ReviewState,
    Rule,
    SeenObject,
    Tombstone,
    Verdict,
    VerdictKind,
    counting_verdicts,
    is_blind,
)
from secondlook.cloud.station import schema
from secondlook.cloud.station.queries import detection_facts
from secondlook.shared.errors import ConfigError, FrameNotFound

_NANOSECONDS = 1_000_000_000
_LATEST_NS = 2**63 - 1
_RATE_SECONDS = 600
_MOST_NEIGHBOURS = 60
_SLOTS = 96  # of a timeline
_MOST_OBJECTS = 200  # of a timeline
_OPEN = (ReviewState.DUE, ReviewState.LEASED, ReviewState.READY, ReviewState.EXPIRED)


@dataclass(frozen=True)
class FrameSearch:
    """What frames are looked for; None: whatever it is. Instants in Unix nanoseconds.

    ``before`` is where a page goes on: the instant and the number of the last frame of the one before.
    """

    edge_id: str | None = None
    label: str | None = None
    scores: tuple[float, float] = (0.0, 1.0)
    since_ns: int = 0
    until_ns: int = _LATEST_NS
    verdict: VerdictKind | None = None
    rule: Rule | None = None
    object_id: int | None = None
    before: tuple[int, int] | None = None


def parse_cursor(text: str | None) -> tuple[int, int] | None:
    """Raises ConfigError for what is no cursor."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,19})\.([0-9]{1,19})", text)
    if match is None or max(map(int, match.groups())) > _LATEST_NS:
        raise ConfigError(f"{text!r} is no place to go on from")
    return int(match[1]), int(match[2])


def find_frames(catalogue: Catalogue, search: FrameSearch, *, limit: int) -> schema.FramePage:
    """Frames, the latest first, at most ``limit``."""
    with catalogue.reading() as session:
        found = session.execute(_search(search).limit(limit + 1)).all()
        page = [row.id for row in found[:limit]]
        query = select(Frame).options(selectinload(Frame.detections), *_REVIEW).where(Frame.id.in_(page))
        frames = {frame.id: frame for frame in session.scalars(query)}
        names = _camera_names(session)
        rows = [_row(frames[id_], names) for id_ in page if id_ in frames]
        last = found[limit - 1] if len(found) > limit else None
        return schema.FramePage(frames=rows, next=None if last is None else f"{last.at}.{last.id}")


def frame_detail(catalogue: Catalogue, frame_id: int) -> schema.FrameDetail:
    """Raises FrameNotFound."""
    with catalogue.reading() as session:
        frame = _frame(session, frame_id)
        names = _camera_names(session)
        return schema.FrameDetail(
            **vars(_row(frame, names)),
            boot_id=frame.boot_id,
            seq=frame.seq,
            width=frame.width,
            height=frame.height,
            base_bytes=frame.base_bytes,
            enhancement_bytes=frame.enhancement_bytes,
            detections=detection_facts(frame),
        )


def neighbours(catalogue: Catalogue, frame_id: int, *, seconds: float) -> list[schema.Neighbour]:
    """The frames of the same boot up to so long before and after, in order of time. Raises FrameNotFound."""
    with catalogue.reading() as session:
        frame = _frame(session, frame_id)
        reach = int(seconds * _NANOSECONDS)
        near = select(Frame.id, Frame.captured_ns).where(
            Frame.edge_id == frame.edge_id,
            Frame.boot_id == frame.boot_id,
            Frame.captured_ns.between(frame.captured_ns - reach, min(frame.captured_ns + reach, _LATEST_NS)),
        )
        rows = session.execute(near.order_by(Frame.captured_ns, Frame.id).limit(_MOST_NEIGHBOURS)).all()
        return [
            schema.Neighbour(id=row.id, seconds=(row.captured_ns - frame.captured_ns) / _NANOSECONDS)
            for row in rows
        ]


def get_frame(catalogue: Catalogue, frame_id: int) -> Frame:
    """With its review. Raises FrameNotFound."""
    with catalogue.reading() as session:
        frame = _frame(session, frame_id)
        session.expunge_all()
        return frame


def list_cameras(catalogue: Catalogue, *, now_ns: int) -> list[schema.CameraFacts]:
    """Every camera host, with how it does."""
    with catalogue.reading() as session:
        waiting = _open_reviews(session)
        return [
            _camera(session, camera, waiting.get(camera.edge_id, 0), now_ns)
            for camera in session.scalars(select(Camera).order_by(Camera.edge_id))
        ]


def timeline(catalogue: Catalogue, edge_id: str, *, since_ns: int, until_ns: int) -> schema.Timeline:
    """What a camera host sent, slot by slot, and what is missing."""
    step = max((until_ns - since_ns) // _SLOTS, 1)
    within = Frame.captured_ns.between(since_ns, until_ns - 1)
    slot = (Frame.captured_ns - since_ns) / step
    with catalogue.reading() as session:
        floor = func.floor(slot) if session.get_bind().dialect.name == "postgresql" else slot
        sent = session.execute(
            select(
                floor.label("slot"), func.count().label("frames"), func.count(Frame.top_score).label("found")
            )
            .where(Frame.edge_id == edge_id, within)
            .group_by("slot")
        ).all()
        judged = session.execute(
            select(Review.captured_ns, Review.state, Review.id)
            .join(Frame, Frame.id == Review.frame_id)
            .where(Review.captured_ns.between(since_ns, until_ns - 1), Frame.edge_id == edge_id)
            .order_by(Review.captured_ns)
            .limit(500)
        ).all()
        dropped = session.scalars(
            select(Tombstone)
            .where(Tombstone.edge_id == edge_id, Tombstone.received_ns.between(since_ns, until_ns))
            .order_by(Tombstone.received_ns.desc())
            .limit(200)
        ).all()
        slots = [schema.Slot(frames=0, found=0) for _ in range(_SLOTS)]
        for row in sent:
            at = min(int(row.slot), _SLOTS - 1)
            slots[at] = schema.Slot(frames=slots[at].frames + row.frames, found=slots[at].found + row.found)
        return schema.Timeline(
            objects=_objects(session, edge_id, since_ns, until_ns),
            since=schema.instant(since_ns),
            until=schema.instant(until_ns),
            slots=slots,
            reviews=[
                schema.TimelineReview(id=row.id, at=schema.instant(row.captured_ns), state=row.state)
                for row in judged
            ],
            dropped=[
                schema.Dropped(
                    at=schema.instant(one.received_ns),
                    frames=one.last_seq - one.first_seq + 1,
                    reason=one.reason,
                )
                for one in dropped
            ],
        )


def _objects(session: Session, edge_id: str, since_ns: int, until_ns: int) -> list[schema.TimelineObject]:
    query = (
        select(SeenObject)
        .where(SeenObject.edge_id == edge_id, SeenObject.last_ns >= since_ns, SeenObject.first_ns < until_ns)
        .order_by((SeenObject.last_ns - SeenObject.first_ns).desc(), SeenObject.id)
        .limit(_MOST_OBJECTS)
    )
    seen = sorted(session.scalars(query), key=lambda one: (one.first_ns, one.id))
    return [
        schema.TimelineObject(
            id=one.id,
            label=one.label,
            score=one.score,
            first=schema.instant(one.first_ns),
            last=schema.instant(one.last_ns),
            frames=one.frames,
        )
        for one in seen
    ]


_REVIEW = (
    selectinload(Frame.review).selectinload(Review.verdicts),
    selectinload(Frame.review).selectinload(Review.double),
)


def _search(search: FrameSearch) -> Select[Any]:
    """The ``id`` and instant ``at`` of the frames found, in order."""
    least, most = search.scores
    scored = search.scores != (0.0, 1.0)
    if search.object_id is not None or search.label is not None:
        at, id_ = DetectedBox.captured_ns, DetectedBox.frame_id
        # A frame may hold a class more than once, and is found once.
        query = _numbered(id_, at).distinct()
        if search.object_id is not None:
            query = query.where(DetectedBox.object_id == search.object_id)
        if search.label is not None:
            query = query.where(DetectedBox.label == search.label)
        if scored:
            query = query.where(DetectedBox.score.between(least, most))
    elif search.verdict is not None or search.rule is not None:
        at, id_ = Review.captured_ns, Review.frame_id
        query = _numbered(id_, at)
    else:
        at, id_ = Frame.captured_ns, Frame.id
        query = _numbered(id_, at)
        if search.edge_id is not None:
            query = query.where(Frame.edge_id == search.edge_id)
        if scored:
            query = query.where(Frame.top_score.between(least, most))
    query = _reviewed(query, search, id_)
    if id_ is not Frame.id and search.edge_id is not None:
        query = query.where(exists(Frame.id).where(Frame.id == id_, Frame.edge_id == search.edge_id))
    if scored and id_ is Review.frame_id:
        query = query.where(exists(Frame.id).where(Frame.id == id_, Frame.top_score.between(least, most)))
    query = query.where(at >= search.since_ns, at <= search.until_ns)
    if search.before is not None:
        last_ns, last_id = search.before
        # The first condition says where the index is entered.
        query = query.where(at <= last_ns, or_(at < last_ns, id_ < last_id))
    return query.order_by(at.desc(), id_.desc())


def _numbered(id_: InstrumentedAttribute[int], at: InstrumentedAttribute[int]) -> Select[Any]:
    return cast("Select[Any]", select(id_.label("id"), at.label("at")))


def _reviewed(query: Select[Any], search: FrameSearch, id_: InstrumentedAttribute[int]) -> Select[Any]:
    """Only frames with a verdict, or a reason for a review, of a kind."""
    of_review = Review.id if id_ is Review.frame_id else None
    conditions: list[tuple[type[Verdict] | type[Reason], Any, Any]] = []
    if search.verdict is not None:
        given = and_(Verdict.verdict == search.verdict, Verdict.undone_ns.is_(None), ANYBODY.heard())
        conditions.append((Verdict, Verdict.review_id, given))
    if search.rule is not None:
        conditions.append((Reason, Reason.review_id, Reason.rule == search.rule.value))
    for kind, review_id, condition in conditions:
        if of_review is not None:
            query = query.where(exists(kind.id).where(review_id == Review.id, condition))
        else:
            found = exists(kind.id).where(review_id == Review.id, Review.frame_id == id_, condition)
            query = query.where(found)
    return query


def _frame(session: Session, frame_id: int) -> Frame:
    query = select(Frame).options(selectinload(Frame.detections), *_REVIEW).where(Frame.id == frame_id)
    frame = session.scalars(query).one_or_none()
    if frame is None or frame.retention is Retention.DELETING:
        raise FrameNotFound(f"there is no frame {frame_id}")
    return frame


def _row(frame: Frame, names: dict[str, str]) -> schema.FrameRow:
    review = frame.review
    # What others said of a frame that people judge blindly is not told.
    told = [] if review is None or is_blind(review) else counting_verdicts(review)
    standing = [entry for entry in told if entry.undone_ns is None]
    surest_first = sorted(frame.detections, key=lambda box: -box.score)
    return schema.FrameRow(
        id=frame.id,
        edge_id=frame.edge_id,
        camera=names.get(frame.edge_id, ""),
        captured_at=schema.instant(frame.captured_ns),
        labels=list(dict.fromkeys(box.label for box in surest_first)),
        top_score=frame.top_score,
        review_id=None if review is None else review.id,
        state=None if review is None else review.state,
        reason=None if review is None else review.reason,
        verdict=standing[-1].verdict if standing else None,
    )


def _camera_names(session: Session) -> dict[str, str]:
    rows: Sequence[Any] = session.execute(select(Camera.edge_id, Camera.camera)).all()
    return {row.edge_id: row.camera for row in rows}


def _open_reviews(session: Session) -> dict[str, int]:
    """How many each camera host has; from reviews to frames, for few of all frames have an open one."""
    host = select(Frame.edge_id).where(Frame.id == Review.frame_id).scalar_subquery()
    query = select(host.label("host"), func.count()).where(Review.state.in_(_OPEN)).group_by("host")
    return {row[0]: row[1] for row in session.execute(query)}


def _camera(session: Session, camera: Camera, waiting: int, now_ns: int) -> schema.CameraFacts:
    of_host = Frame.edge_id == camera.edge_id
    last = session.execute(
        select(Frame.id, Frame.captured_ns)
        .where(of_host)
        .order_by(Frame.captured_ns.desc(), Frame.id.desc())
        .limit(1)
    ).one_or_none()
    # By the camera's own clock, which frames are ordered by.
    until_ns = 0 if last is None else last.captured_ns
    lately = session.execute(
        select(func.count(), func.sum(Frame.base_bytes), func.min(Frame.captured_ns)).where(
            of_host, Frame.captured_ns > until_ns - _RATE_SECONDS * _NANOSECONDS
        )
    ).one()
    frames, size = lately[0], int(lately[1] or 0)
    span = max((until_ns - int(lately[2] or 0)) / _NANOSECONDS, 0.0)
    fetched = session.scalar(
        select(func.sum(Review.enhancement_bytes))
        .join(Frame, Frame.id == Review.frame_id)
        .where(of_host, Review.captured_ns > until_ns - _RATE_SECONDS * _NANOSECONDS)
    )
    dropped = session.scalars(
        select(Tombstone)
        .where(Tombstone.edge_id == camera.edge_id)
        .order_by(Tombstone.received_ns.desc())
        .limit(1)
    ).first()
    known = frames > 1 and span > 0
    return schema.CameraFacts(
        edge_id=camera.edge_id,
        camera=camera.camera,
        first_seen=schema.instant(camera.first_seen_ns),
        last_seen=schema.instant(camera.last_seen_ns),
        silent_seconds=max(now_ns - camera.last_seen_ns, 0) / _NANOSECONDS,
        clock_offset_seconds=camera.clock_offset_seconds,
        last_frame=None if last is None else last.id,
        frames_per_second=(frames - 1) / span if known else None,
        base_bits_per_second=size * 8 / span if known else None,
        fetched_bits_per_second=int(fetched or 0) * 8 / span if known else None,
        open_reviews=waiting,
        last_dropped=None
        if dropped is None
        else schema.Dropped(
            at=schema.instant(dropped.received_ns),
            frames=dropped.last_seq - dropped.first_seq + 1,
            reason=dropped.reason,
        ),
    )

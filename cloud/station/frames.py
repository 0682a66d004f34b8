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

from sqlalchemy import Select, and_, exists, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session, selectinload

from secondlook.cloud.catalogue import (
    Camera,
    Catalogue,
    DetectedBox,
    Frame,
    Reason,
    Retention,
    Review,
    ReviewState,
    Rule,
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
        given = and_(Verdict.verdict == search.verdict, Verdict.undone_ns.is_(None), Verdict.probe.is_(False))
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
        unseen=frame.unseen,
    )


def _camera_names(session: Session) -> dict[str, str]:
    rows: Sequence[Any] = session.execute(select(Camera.edge_id, Camera.camera)).all()
    return {row.edge_id: row.camera for row in rows}

"""All stored frames, page by page, and what is around one of them. Nothing here changes anything.

A page goes on behind the last frame of the one before (its instant and number), so that the last page of a million
frames costs what the first one does; ``search`` has how they are found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from secondlook.cloud.catalogue import (
    Camera,
    Catalogue,
    Frame,
    Retention,
    Review,
    ReviewState,
    Sight,
    counting_verdicts,
    sights,
)
from secondlook.cloud.station import schema
from secondlook.cloud.station.queries import detection_facts
from secondlook.cloud.station.search import FrameSearch
from secondlook.shared.errors import FrameNotFound

_NANOSECONDS = 1_000_000_000
_LATEST_NS = 2**63 - 1
_RATE_SECONDS = 600
_MOST_NEIGHBOURS = 60
_SLOTS = 96  # of a timeline
_MOST_OBJECTS = 200  # of a timeline
_OPEN = (ReviewState.DUE, ReviewState.LEASED, ReviewState.READY, ReviewState.EXPIRED)


def find_frames(catalogue: Catalogue, search: FrameSearch, *, limit: int) -> schema.FramePage:
    """Frames, the latest first, at most ``limit``. There may be more behind a page that is not full: see ``search``."""
    with catalogue.reading() as session:
        page, end = search.page(session, limit)
        query = select(Frame).options(selectinload(Frame.detections), *_REVIEW).where(Frame.id.in_(page))
        frames = {frame.id: frame for frame in session.scalars(query)}
        names = _camera_names(session)
        seen = sights(session, [frame.review for frame in frames.values() if frame.review], search.viewer)
        rows = [_row(frames[id_], names, seen) for id_ in page if id_ in frames]
        return schema.FramePage(frames=rows, next=None if end is None else f"{end[0]}.{end[1]}")


def frame_detail(catalogue: Catalogue, frame_id: int, viewer: str = "") -> schema.FrameDetail:
    """As ``viewer`` is to see it. Raises FrameNotFound."""
    with catalogue.reading() as session:
        frame = _frame(session, frame_id)
        names = _camera_names(session)
        seen = {} if frame.review is None else sights(session, [frame.review], viewer)
        return schema.FrameDetail(
            **vars(_row(frame, names, seen)),
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


def _frame(session: Session, frame_id: int) -> Frame:
    query = select(Frame).options(selectinload(Frame.detections), *_REVIEW).where(Frame.id == frame_id)
    frame = session.scalars(query).one_or_none()
    if frame is None or frame.retention is Retention.DELETING:
        raise FrameNotFound(f"there is no frame {frame_id}")
    return frame


def _row(frame: Frame, names: dict[str, str], seen: Mapping[int, Sight]) -> schema.FrameRow:
    """``seen``: how reviews look to whoever asks, where that is not as they are."""
    review = frame.review
    sight = None if review is None else seen.get(review.id)
    told = sight.verdicts if sight is not None else [] if review is None else counting_verdicts(review)
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
        state=sight.state if sight is not None else None if review is None else review.state,
        reason=None if review is None else review.reason,
        verdict=standing[-1].verdict if standing else None,
        unseen=frame.unseen,
    )


def _camera_names(session: Session) -> dict[str, str]:
    rows: Sequence[Any] = session.execute(select(Camera.edge_id, Camera.camera)).all()
    return {row.edge_id: row.camera for row in rows}

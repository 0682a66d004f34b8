"""Pages of the versioned API. Nothing here changes anything.

A page goes on from a number, in the order in which rows were stored, up to the horizon of its table: who pages on, now
or tomorrow, sees every row once while others are written (`cloud.catalogue.horizon`). Detections go by the number of
their frame and then their own. One page looks through a bounded stretch of numbers, so that a filter that fits nothing
costs as little as one that fits all; then it is short, and says that there is more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Query
from pydantic import BaseModel
from sqlalchemy import ColumnElement, and_, exists, false, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased, selectinload

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue.feed import WINDOW, unindexed
from secondlook.cloud.catalogue.horizon import LATEST, horizon
from secondlook.cloud.catalogue.hosts import MOST_EVENTS, last_events
from secondlook.cloud.station.api import schema
from secondlook.cloud.station.schema import nanoseconds
from secondlook.shared.errors import CommentNotFound, ConfigError, FrameNotFound, ReviewNotFound

Item = TypeVar("Item", bound=BaseModel)
Condition = ColumnElement[bool]

CameraName = Annotated[
    str | None, Query(max_length=64, description="Of one camera host.", examples=["gate-north"])
]
Label = Annotated[str | None, Query(max_length=64, description="Of one class.", examples=["person"])]
Least = Annotated[float, Query(ge=0, le=1, description="Of this score or a higher one.")]
Most = Annotated[float, Query(ge=0, le=1, description="Of this score or a lower one.")]
Since = Annotated[
    datetime | None,
    Query(
        description="Captured then or later. ISO 8601; without an offset, UTC.",
        examples=["2026-03-01T06:00Z"],
    ),
]
Until = Annotated[datetime | None, Query(description="Captured before.", examples=["2026-03-02T06:00Z"])]

_NUMBER = r"[0-9]{1,19}"


@dataclass(frozen=True)
class Paging:
    after: Annotated[
        str | None, Query(max_length=64, description="The `next` of a page of the same list and order.")
    ] = None
    limit: Annotated[int, Query(ge=1, le=500)] = 100
    order: Annotated[
        Literal["oldest", "newest"],
        Query(description="By when it was stored, which may be long after it was seen."),
    ] = "oldest"

    @property
    def forward(self) -> bool:
        return self.order == "oldest"


@dataclass(frozen=True)
class Seen:
    """What frames, and what hangs on them, can be narrowed to."""

    camera: CameraName = None
    since: Since = None
    until: Until = None

    def conditions(
        self, edge_id: InstrumentedAttribute[str], at_ns: InstrumentedAttribute[int]
    ) -> list[Condition]:
        wanted: list[Condition] = []
        if self.camera is not None:
            wanted.append(unindexed(edge_id) == self.camera)
        if self.since is not None:
            wanted.append(unindexed(at_ns) >= nanoseconds(self.since, 0))
        if self.until is not None:
            wanted.append(unindexed(at_ns) < nanoseconds(self.until, LATEST))
        return wanted


@dataclass(frozen=True)
class Found:
    """What is in them."""

    label: Label = None
    min_score: Least = 0.0
    max_score: Most = 1.0

    def conditions(
        self, label: InstrumentedAttribute[str], score: InstrumentedAttribute[float]
    ) -> list[Condition]:
        wanted: list[Condition] = []
        if self.label is not None:
            wanted.append(unindexed(label) == self.label)
        if self.min_score > 0:
            wanted.append(score >= self.min_score)
        if self.max_score < 1:
            wanted.append(score <= self.max_score)
        return wanted

    def in_frame(self, frame_id: InstrumentedAttribute[int]) -> list[Condition]:
        """That a frame holds such a detection."""
        wanted = self.conditions(cat.DetectedBox.label, cat.DetectedBox.score)
        return [exists().where(cat.DetectedBox.frame_id == frame_id, *wanted)] if wanted else []


def list_cameras(catalogue: cat.Catalogue) -> list[schema.Camera]:
    with catalogue.reading() as session:
        rows = session.scalars(select(cat.Camera).order_by(cat.Camera.edge_id))
        return [schema.camera_facts(row) for row in rows]


def camera(catalogue: cat.Catalogue, edge_id: str) -> schema.Camera:
    """Raises FrameNotFound where nothing was ever seen of it."""
    with catalogue.reading() as session:
        row = session.get(cat.Camera, edge_id)
        if row is None:
            raise FrameNotFound(f"there is no camera {edge_id}")
        return schema.camera_facts(row)


def camera_events(catalogue: cat.Catalogue, edge_id: str) -> list[schema.CameraTrouble]:
    """Raises FrameNotFound where nothing was ever seen of the camera."""
    camera(catalogue, edge_id)
    with catalogue.reading() as session:
        return [schema.trouble_facts(row) for row in last_events(session, edge_id, MOST_EVENTS)]


def list_frames(
    catalogue: cat.Catalogue,
    paging: Paging,
    seen: Seen,
    found: Found,
    state: cat.ReviewState | None,
    unseen: bool | None,
    audience: cat.Audience,
) -> schema.Page[schema.Frame]:
    wanted = [
        cat.Frame.retention != cat.Retention.DELETING,
        *seen.conditions(cat.Frame.edge_id, cat.Frame.captured_ns),
        *found.in_frame(cat.Frame.id),
    ]
    if state is not None:
        shown = cat.shown_as(state, audience.judge, unindexed(cat.Review.state))
        wanted.append(exists().where(cat.Review.frame_id == cat.Frame.id, shown))
    if unseen is not None:
        # No index of these: a page goes by the number.
        why = unindexed(cat.Frame.unseen)
        wanted.append(why.is_not(None) if unseen else why.is_(None))
    query = select(cat.Frame).options(selectinload(cat.Frame.detections), selectinload(cat.Frame.review))
    return _page(
        catalogue,
        paging,
        "frames",
        cat.Frame.id,
        query.where(*wanted),
        lambda row: schema.frame_facts(row[0]),
    )


def frame(catalogue: cat.Catalogue, frame_id: int) -> schema.Frame:
    """Raises FrameNotFound."""
    with catalogue.reading() as session:
        row = session.get(cat.Frame, frame_id)
        if row is None or row.retention is cat.Retention.DELETING:
            raise FrameNotFound(f"there is no frame {frame_id}")
        return schema.frame_facts(row)


def list_detections(
    catalogue: cat.Catalogue, paging: Paging, seen: Seen, found: Found, object_id: int | None
) -> schema.Page[schema.Detection]:
    box = cat.DetectedBox
    wanted = [
        cat.Frame.retention != cat.Retention.DELETING,
        *seen.conditions(cat.Frame.edge_id, cat.Frame.captured_ns),
        *found.conditions(box.label, box.score),
    ]
    if object_id is not None:
        wanted.append(box.object_id == object_id)
    with catalogue.reading() as session:
        stretch = _stretch(session, paging, "frames", cat.Frame.id, parts=2)
        frame_id, box_id = stretch.place
        if paging.forward:
            behind = or_(box.frame_id > frame_id, box.id > box_id)
            order: Sequence[Any] = (box.frame_id, box.id)
        else:
            behind = or_(box.frame_id < frame_id, box.id < box_id)
            order = (box.frame_id.desc(), box.id.desc())
        within = and_(box.frame_id >= stretch.first, box.frame_id <= stretch.last, behind)
        query = select(box, cat.Frame).join(cat.Frame, cat.Frame.id == box.frame_id).where(within, *wanted)
        rows = session.execute(query.order_by(*order).limit(paging.limit + 1)).all()
        page, is_full = rows[: paging.limit], len(rows) > paging.limit
        end = f"{page[-1][1].id}.{page[-1][0].id}" if is_full else f"{stretch.end}.0"
        return schema.Page[schema.Detection](
            items=[schema.detection_facts(*row) for row in page], next=end, more=is_full or stretch.more
        )


def list_objects(
    catalogue: cat.Catalogue, paging: Paging, seen: Seen, found: Found
) -> schema.Page[schema.SeenObject]:
    row = cat.SeenObject
    wanted = found.conditions(row.label, row.score)
    if seen.camera is not None:
        wanted.append(unindexed(row.edge_id) == seen.camera)
    if seen.since is not None:
        wanted.append(row.last_ns >= nanoseconds(seen.since, 0))
    if seen.until is not None:
        wanted.append(row.first_ns < nanoseconds(seen.until, LATEST))
    query = select(row).where(*wanted)
    return _page(catalogue, paging, "objects", row.id, query, lambda row: schema.object_facts(row[0]))


def list_reviews(
    catalogue: cat.Catalogue,
    paging: Paging,
    seen: Seen,
    found: Found,
    state: cat.ReviewState | None,
    handed_to: str | None,
    audience: cat.Audience,
) -> schema.Page[schema.Review]:
    """As ``audience`` is to see them: a known frame that the person is to judge is in the state of one to judge."""
    row = cat.Review
    wanted = [
        cat.Frame.retention != cat.Retention.DELETING,
        *seen.conditions(cat.Frame.edge_id, cat.Frame.captured_ns),
        *found.in_frame(row.frame_id),
    ]
    if state is not None:
        wanted.append(cat.shown_as(state, audience.judge, unindexed(row.state)))
    trial = aliased(cat.Opinion)
    if handed_to is not None:
        to = cat.Handover.colleague == handed_to
        handed = exists().where(cat.Handover.review_id == row.id, to)
        wanted.append(or_(handed, trial.handed_to == handed_to))
    tried = and_(trial.review_id == row.id, trial.reviewer == audience.judge, cat.is_trial(trial))
    query = select(row, cat.Frame, trial).join(cat.Frame, cat.Frame.id == row.frame_id)
    query = query.outerjoin(trial, tried if audience.judge else false()).where(*wanted)
    query = query.options(selectinload(row.handover))
    return _page(catalogue, paging, "reviews", row.id, query, lambda row: schema.review_facts(*row))


def review(catalogue: cat.Catalogue, review_id: int, audience: cat.Audience) -> schema.Review:
    """As ``audience`` is to see it. Raises ReviewNotFound."""
    with catalogue.reading() as session:
        row = session.get(cat.Review, review_id)
        if row is None or row.frame.retention is cat.Retention.DELETING:
            raise ReviewNotFound(f"there is no review {review_id}")
        trial = cat.trials_of(session, [review_id], audience.judge).get(review_id)
        return schema.review_facts(row, row.frame, trial)


@dataclass(frozen=True)
class Said:
    """Which verdicts."""

    label: Label = None
    verdict: Annotated[cat.VerdictKind | None, Query(description="Of one kind.")] = None
    reviewer: Annotated[str | None, Query(max_length=128, description="Of one person.")] = None
    standing: Annotated[
        bool | None, Query(description="true: those that stand; false: those that were taken back.")
    ] = None


def list_verdicts(
    catalogue: cat.Catalogue, paging: Paging, seen: Seen, said: Said, audience: cat.Audience
) -> schema.Page[schema.Verdict]:
    """Those that ``audience`` may know."""
    row = cat.Verdict
    wanted = [
        cat.Frame.retention != cat.Retention.DELETING,
        audience.heard(),
        *seen.conditions(cat.Frame.edge_id, cat.Frame.captured_ns),
    ]
    if said.label is not None:
        wanted.append(row.label == said.label)
    if said.verdict is not None:
        wanted.append(row.verdict == said.verdict)
    if said.reviewer is not None:
        wanted.append(unindexed(row.reviewer) == said.reviewer)
    if said.standing is not None:
        wanted.append(row.undone_ns.is_(None) if said.standing else row.undone_ns.is_not(None))
    query = (
        select(row, cat.Frame)
        .join(cat.Review, cat.Review.id == row.review_id)
        .join(cat.Frame, cat.Frame.id == cat.Review.frame_id)
        .where(*wanted)
    )
    return _page(catalogue, paging, "verdicts", row.id, query, lambda row: schema.verdict_facts(*row))


def verdict(catalogue: cat.Catalogue, verdict_id: int, audience: cat.Audience) -> schema.Verdict:
    """Raises ReviewNotFound, also for one that ``audience`` may not know yet."""
    with catalogue.reading() as session:
        told = select(cat.Verdict).where(cat.Verdict.id == verdict_id, audience.heard())
        row = session.scalars(told).one_or_none()
        if row is None:
            raise ReviewNotFound(f"there is no verdict {verdict_id}")
        return schema.verdict_facts(row, row.review.frame)


def hears(catalogue: cat.Catalogue, verdict_id: int, audience: cat.Audience) -> bool:
    """Whether ``audience`` may know of a verdict."""
    with catalogue.reading() as session:
        told = select(cat.Verdict.id).where(cat.Verdict.id == verdict_id, audience.heard())
        return session.scalar(told) is not None


def list_comments(
    catalogue: cat.Catalogue,
    paging: Paging,
    seen: Seen,
    author: str | None,
    review_id: int | None,
    audience: cat.Audience,
) -> schema.Page[schema.Comment]:
    row = cat.Comment
    wanted = [
        cat.Frame.retention != cat.Retention.DELETING,
        *seen.conditions(cat.Frame.edge_id, cat.Frame.captured_ns),
    ]
    if author is not None:
        wanted.append(unindexed(row.author) == author)
    if review_id is not None:
        wanted.append(row.review_id == review_id)
    hidden: Condition = exists().where(cat.Verdict.review_id == row.review_id, cat.Verdict.withheld.is_(True))
    if audience.judge:
        hidden = or_(hidden, row.review_id.in_(cat.tried_by(audience.judge)))
    query = (
        select(row, cat.Frame, hidden)
        .join(cat.Review, cat.Review.id == row.review_id)
        .join(cat.Frame, cat.Frame.id == cat.Review.frame_id)
        .where(*wanted)
    )
    return _page(
        catalogue, paging, "comments", row.id, query, lambda row: _comment(row[0], row[1], row[2], audience)
    )


def comment(catalogue: cat.Catalogue, comment_id: int, audience: cat.Audience) -> schema.Comment:
    """Raises CommentNotFound."""
    with catalogue.reading() as session:
        row = session.get(cat.Comment, comment_id)
        if row is None or row.review.frame.retention is cat.Retention.DELETING:
            raise CommentNotFound(f"there is no comment {comment_id}")
        blind = bool(cat.blind_reviews(session, [row.review_id]))
        hidden = blind or row.review_id in cat.shown_states(session, audience.judge)
        return _comment(row, row.review.frame, hidden, audience)


def _comment(row: cat.Comment, frame: cat.Frame, hidden: bool, audience: cat.Audience) -> schema.Comment:
    """``hidden``: others' text is a secret."""
    knows = audience.unsettled or (bool(audience.person) and row.author == audience.person)
    return schema.comment_facts(row, frame, hidden=hidden and not knows)


def list_tombstones(
    catalogue: cat.Catalogue, paging: Paging, seen: Seen, reason: str | None
) -> schema.Page[schema.Tombstone]:
    row = cat.Tombstone
    wanted = seen.conditions(row.edge_id, row.received_ns)
    if reason is not None:
        wanted.append(row.reason == reason)
    query = select(row).where(*wanted)
    return _page(catalogue, paging, "tombstones", row.id, query, lambda row: schema.tombstone_facts(row[0]))


@dataclass(frozen=True)
class _Stretch:
    """The numbers `first` to `last` are looked through; `end` is the place to go on from when all of them were."""

    place: tuple[int, ...]
    first: int
    last: int
    end: int
    more: bool


def _place(after: str | None, parts: int) -> tuple[int, ...] | None:
    """Raises ConfigError for what is no place of such a list."""
    if after is None:
        return None
    if re.fullmatch(rf"{_NUMBER}(\.{_NUMBER}){{{parts - 1}}}", after) is None:
        raise ConfigError(f"after: {after!r} is not the `next` of a page of this list")
    place = tuple(map(int, after.split(".")))
    if max(place) > LATEST:
        raise ConfigError(f"after: {after!r} is not the `next` of a page of this list")
    return place


def _stretch(
    session: Session,
    paging: Paging,
    table: str,
    column: InstrumentedAttribute[int],
    parts: int = 1,
) -> _Stretch:
    """A place of one part is the last number that was seen; of two, the frame that a page ended in, and where in it."""
    most = horizon(session, table)
    query = select(func.max(column))
    top = session.scalar(query if most == LATEST else query.where(column <= most)) or 0
    within = 0 if parts == 2 else 1
    place = _place(paging.after, parts)
    if paging.forward:
        place = place or (0,) * parts
        first = min(place[0] + within, LATEST)
        last = min(first + WINDOW - 1, top)
        return _Stretch(place, first, last, max(last + 1 - within, place[0]), last < top)
    place = place or (min(top + 1, LATEST), 0)[:parts]
    last = min(place[0] - within, top)
    first = max(last - WINDOW + 1, 1)
    return _Stretch(place, first, last, first, first > 1)


def _page(
    catalogue: cat.Catalogue,
    paging: Paging,
    table: str,
    column: InstrumentedAttribute[int],
    query: Any,
    facts: Callable[[Any], Item],
) -> schema.Page[Item]:
    """A page of a list that goes by one number; `query` selects its rows, those of `column` first."""
    with catalogue.reading() as session:
        stretch = _stretch(session, paging, table, column)
        order = column if paging.forward else column.desc()
        within = query.where(column >= stretch.first, column <= stretch.last)
        rows = session.execute(within.order_by(order).limit(paging.limit + 1)).all()
        page, is_full = rows[: paging.limit], len(rows) > paging.limit
        end = page[-1][0].id if is_full else stretch.end
        items = [facts(row) for row in page]
        return schema.Page[Any](items=items, next=str(end), more=is_full or stretch.more)

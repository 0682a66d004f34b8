"""Cameras as the station shows them: how each does, its newest frame, its last day. Nothing here changes anything."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from secondlook.cloud.catalogue import (
    Camera,
    CameraEvent,
    Catalogue,
    Frame,
    Retention,
    Review,
    ReviewState,
    SeenObject,
    Tombstone,
    shown_states,
)
from secondlook.cloud.catalogue.camerastates import CameraState, state_of
from secondlook.cloud.catalogue.hosts import last_events, signs_of
from secondlook.cloud.station import schema
from secondlook.shared.errors import FrameNotFound

EVENTS_SHOWN = 5  # of each camera
_NANOSECONDS = 1_000_000_000
_RATE_SECONDS = 600
_SLOTS = 96  # of a timeline
_MOST_OBJECTS = 200  # of a timeline
_OPEN = (ReviewState.DUE, ReviewState.LEASED, ReviewState.READY, ReviewState.EXPIRED)


def list_cameras(catalogue: Catalogue, *, now_ns: int, silent_ns: int) -> list[schema.CameraFacts]:
    """Every camera host, with how it does; it is stalled, or silent, after so long without a frame."""
    with catalogue.reading() as session:
        waiting = _open_reviews(session)
        return [
            _camera(session, camera, waiting.get(camera.edge_id, 0), now_ns, silent_ns)
            for camera in session.scalars(select(Camera).order_by(Camera.edge_id))
        ]


def newest_frame(catalogue: Catalogue, edge_id: str) -> schema.NewestFrame:
    """The frame of a camera that was captured last. Raises FrameNotFound where there is no such camera."""
    with catalogue.reading() as session:
        last = session.execute(_newest(edge_id)).one_or_none()
        if last is None and session.get(Camera, edge_id) is None:
            raise FrameNotFound(f"there is no camera {edge_id[:64]}")
    if last is None:
        return schema.NewestFrame(id=None, captured_at=None)
    return schema.NewestFrame(id=last.id, captured_at=schema.instant(last.captured_ns))


def camera_events(catalogue: Catalogue, edge_id: str, limit: int) -> list[schema.CameraEventFacts]:
    """When a camera did not do well, the latest first. Raises FrameNotFound where there is no such camera."""
    with catalogue.reading() as session:
        if session.get(Camera, edge_id) is None:
            raise FrameNotFound(f"there is no camera {edge_id[:64]}")
        return [_event(event) for event in last_events(session, edge_id, limit)]


def timeline(
    catalogue: Catalogue, edge_id: str, *, since_ns: int, until_ns: int, viewer: str = ""
) -> schema.Timeline:
    """What a camera host sent, slot by slot, and what is missing; reviews as ``viewer`` is to see them."""
    step = max((until_ns - since_ns) // _SLOTS, 1)
    slot = (Frame.captured_ns - since_ns) // step
    with catalogue.reading() as session:
        sent = session.execute(
            select(
                slot.label("slot"),
                func.count().label("frames"),
                func.count(Frame.top_score).label("found"),
                func.count(Frame.unseen).label("unseen"),
            )
            .where(Frame.edge_id == edge_id, Frame.captured_ns.between(since_ns, until_ns - 1))
            .group_by("slot")
        ).all()
        judged = session.execute(
            select(Review.captured_ns, Review.state, Review.id)
            .where(Review.captured_ns.between(since_ns, until_ns - 1), Review.edge_id == edge_id)
            .order_by(Review.captured_ns, Review.id)
            .limit(500)
        ).all()
        shown = shown_states(session, viewer)
        dropped = session.scalars(
            select(Tombstone)
            .where(Tombstone.edge_id == edge_id, Tombstone.received_ns.between(since_ns, until_ns))
            .order_by(Tombstone.received_ns.desc())
            .limit(200)
        ).all()
        slots = [schema.Slot(frames=0, found=0, unseen=0) for _ in range(_SLOTS)]
        for row in sent:
            slot_of_row = slots[min(int(row.slot), _SLOTS - 1)]
            slot_of_row.frames += row.frames
            slot_of_row.found += row.found
            slot_of_row.unseen += row.unseen
        return schema.Timeline(
            objects=_objects(session, edge_id, since_ns, until_ns),
            since=schema.instant(since_ns),
            until=schema.instant(until_ns),
            slots=slots,
            reviews=[
                schema.TimelineReview(
                    id=row.id, at=schema.instant(row.captured_ns), state=shown.get(row.id, row.state)
                )
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


def _open_reviews(session: Session) -> dict[str, int]:
    """How many each camera host has."""
    query = select(Review.edge_id, func.count()).where(Review.state.in_(_OPEN)).group_by(Review.edge_id)
    return {row[0]: row[1] for row in session.execute(query)}


def _newest(edge_id: str) -> Select[int, int]:
    return (
        select(Frame.id, Frame.captured_ns)
        .where(Frame.edge_id == edge_id, Frame.retention != Retention.DELETING)
        .order_by(Frame.captured_ns.desc(), Frame.id.desc())
        .limit(1)
    )


def _event(event: CameraEvent) -> schema.CameraEventFacts:
    return schema.CameraEventFacts(
        what=CameraState(event.what),
        began_at=schema.instant(event.began_ns),
        ended_at=None if event.ended_ns is None else schema.instant(event.ended_ns),
        times=event.times,
    )


def _waiting_seconds(camera: Camera, state: CameraState, now_ns: int) -> float | None:
    """For how long the oldest frame on a camera's host has waited, as far as the host could tell."""
    if camera.oldest_ns is None or camera.reported_ns is None:
        return None
    until_ns = camera.reported_ns if state is CameraState.OFFLINE else now_ns
    return max(until_ns - camera.oldest_ns, 0) / _NANOSECONDS


def _at(instant_ns: int | None) -> datetime | None:
    return None if instant_ns is None else schema.instant(instant_ns)


def _camera(
    session: Session, camera: Camera, waiting: int, now_ns: int, silent_ns: int
) -> schema.CameraFacts:
    of_host = Frame.edge_id == camera.edge_id
    last = session.execute(_newest(camera.edge_id)).one_or_none()
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
        select(func.sum(Review.enhancement_bytes)).where(
            Review.edge_id == camera.edge_id, Review.captured_ns > until_ns - _RATE_SECONDS * _NANOSECONDS
        )
    )
    dropped = session.scalars(
        select(Tombstone)
        .where(Tombstone.edge_id == camera.edge_id)
        .order_by(Tombstone.received_ns.desc())
        .limit(1)
    ).first()
    known = frames > 1 and span > 0
    state, since_ns = state_of(signs_of(camera), now_ns=now_ns, silent_ns=silent_ns)
    return schema.CameraFacts(
        state=state,
        state_seconds=max(now_ns - since_ns, 0) / _NANOSECONDS,
        source=camera.source,
        model=camera.model,
        waiting_frames=camera.waiting_frames,
        oldest_waiting_seconds=_waiting_seconds(camera, state, now_ns),
        trouble=camera.trouble or None,
        last_trouble=camera.last_trouble,
        last_trouble_at=_at(camera.trouble_ns),
        events=[_event(event) for event in last_events(session, camera.edge_id, EVENTS_SHOWN)],
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

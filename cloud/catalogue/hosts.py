"""What gateways know of camera hosts, brought into the catalogue: for the station, and as events that begin and end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from secondlook.cloud.catalogue.camerastates import (
    NOTED_NS,
    CameraState,
    Signs,
    Trouble,
    follow,
    state_of,
)
from secondlook.cloud.catalogue.schema import Camera, CameraEvent
from secondlook.cloud.catalogue.store import Catalogue
from secondlook.cloud.storage.sql import hold_lock

MOST_EVENTS = 100  # of one camera; beyond, its oldest go
_MAX_TEXT = 255
_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True)
class SeenHost:
    """A camera host, by a gateway. Instants are Unix seconds of its clock; None: it does not know."""

    heard_at: float
    delivered_at: float | None = None  # a frame or a tombstone
    reported_at: float | None = None  # when the host told what follows
    waiting: int = 0  # frames on the host that are not delivered
    oldest_at: float | None = None  # when the oldest of them was captured
    source: str = ""
    model: str = ""
    trouble: str = ""


@dataclass(frozen=True)
class SeenHosts:
    """What a gateway told at ``now``, by edge id."""

    now: float
    hosts: Mapping[str, SeenHost]


@dataclass(frozen=True)
class CameraChange:
    """An event of a camera has begun, or is over."""

    edge_id: str
    trouble: Trouble

    @property
    def began(self) -> bool:
        return self.trouble.ended_ns is None

    def line(self, now_ns: int) -> str:
        """For the log."""
        one, told = self.trouble, f"camera {self.edge_id}"
        if one.ended_ns is None:
            return f"{told} is {one.what}, for {_shown(now_ns - one.began_ns)} so far"
        again = "" if one.times == 1 else f", and went {one.times} times"
        return f"{told} is well again: it was {one.what} for {_shown(one.ended_ns - one.began_ns)}{again}"


def note_hosts(
    catalogue: Catalogue, seen: SeenHosts, *, silent_seconds: float, settle_seconds: float
) -> list[CameraChange]:
    """Keep what a gateway told of camera hosts, and carry on their events; what began and ended by that.

    Several gateways may know of a host: what is younger counts. Camera hosts that never sent a frame are left out.
    """
    now_ns = _ns(seen.now)
    silent_ns, settle_ns = (int(seconds * _NANOSECONDS) for seconds in (silent_seconds, settle_seconds))
    changes: list[CameraChange] = []
    with catalogue.writing() as session:
        hold_lock(session.connection(), "camera hosts")
        cameras = session.scalars(select(Camera).order_by(Camera.edge_id)).all()
        events = session.scalars(select(CameraEvent).where(CameraEvent.ended_ns.is_(None)))
        open_events = {event.edge_id: event for event in events}
        for camera in cameras:
            host = seen.hosts.get(camera.edge_id)
            if host is None:
                continue
            _take(camera, host, now_ns)
            state, since_ns = state_of(signs_of(camera), now_ns=now_ns, silent_ns=silent_ns)
            event = open_events.get(camera.edge_id)
            before = None if event is None else trouble_of(event)
            after = follow(before, state, since_ns, now_ns=now_ns, settle_ns=settle_ns)
            if after is None or after == before:
                continue
            if event is None:
                session.add(CameraEvent(edge_id=camera.edge_id, **_columns(after)))
                session.flush()
                _trim(session, camera.edge_id)
            else:
                for name, value in _columns(after).items():
                    setattr(event, name, value)
            if event is None or after.ended_ns is not None:
                changes.append(CameraChange(camera.edge_id, after))
    return changes


def signs_of(camera: Camera) -> Signs:
    return Signs(
        camera.last_seen_ns, camera.noted_ns, camera.heard_ns, camera.delivered_ns, camera.source or ""
    )


def trouble_of(event: CameraEvent) -> Trouble:
    return Trouble(CameraState(event.what), event.began_ns, event.well_ns, event.ended_ns, event.times)


def last_events(session: Session, edge_id: str, limit: int) -> list[CameraEvent]:
    """Of one camera, the latest first."""
    of_camera = select(CameraEvent).where(CameraEvent.edge_id == edge_id)
    return list(session.scalars(of_camera.order_by(CameraEvent.id.desc()).limit(limit)))


def followed(session: Session, cameras: Iterable[Camera], *, now_ns: int) -> dict[str, tuple[bool, int]]:
    """Of the cameras that a gateway tells of at present: whether each is well, and since when that is so."""
    fresh = [
        camera
        for camera in cameras
        if camera.noted_ns is not None and abs(now_ns - camera.noted_ns) <= NOTED_NS
    ]
    if not fresh:
        return {}
    rows = session.execute(
        select(CameraEvent.edge_id, CameraEvent.began_ns).where(CameraEvent.ended_ns.is_(None))
    )
    troubled = {row.edge_id: row.began_ns for row in rows}
    return {
        camera.edge_id: (camera.edge_id not in troubled, troubled.get(camera.edge_id, now_ns))
        for camera in fresh
    }


def _take(camera: Camera, host: SeenHost, now_ns: int) -> None:
    camera.noted_ns = max(now_ns, camera.noted_ns or 0)
    camera.heard_ns = max(_ns(host.heard_at), camera.heard_ns or 0)
    if host.delivered_at is not None:
        camera.delivered_ns = max(_ns(host.delivered_at), camera.delivered_ns or 0)
    if host.reported_at is not None and _ns(host.reported_at) >= (camera.reported_ns or 0):
        camera.reported_ns = _ns(host.reported_at)
        camera.waiting_frames = host.waiting
        camera.oldest_ns = None if host.oldest_at is None else _ns(host.oldest_at)
        camera.source = host.source[:64]
        camera.model = host.model[:_MAX_TEXT]
        camera.trouble = host.trouble[:_MAX_TEXT]
        if host.trouble:
            camera.trouble_ns = camera.reported_ns
            camera.last_trouble = host.trouble[:_MAX_TEXT]


def _columns(trouble: Trouble) -> dict[str, object]:
    return {**vars(trouble), "what": trouble.what.value}


def _trim(session: Session, edge_id: str) -> None:
    kept = (
        select(CameraEvent.id)
        .where(CameraEvent.edge_id == edge_id)
        .order_by(CameraEvent.id.desc())
        .offset(MOST_EVENTS)
    )
    old = session.scalars(kept).all()
    if old:
        session.execute(delete(CameraEvent).where(CameraEvent.id.in_(old)))


def _ns(seconds: float) -> int:
    return int(seconds * _NANOSECONDS)


def _shown(span_ns: int) -> str:
    seconds = max(0, round(span_ns / _NANOSECONDS))
    minutes, rest = divmod(seconds, 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min" if minutes else f"{rest} s"

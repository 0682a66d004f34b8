"""Whether camera hosts deliver: a state that others are told of when it changes. Without I/O, the time passed in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue.deliveries import CameraNote
from secondlook.cloud.station.api import schema
from secondlook.cloud.station.schema import instant

CameraState = Literal["online", "silent"]
CAMERA = "camera"  # the kind of events that the feed does not hold

_NANOSECONDS = 1_000_000_000


def camera_changes(
    cameras: Iterable[cat.Camera],
    noted: Mapping[str, CameraNote],
    *,
    silent_seconds: float,
    now_ns: int,
    followed: Mapping[str, tuple[bool, int]] | None = None,
) -> dict[str, CameraNote]:
    """The camera hosts whose state is another one than was told last, or that nobody was told of yet.

    Of those that are `followed` (`catalogue.hosts.followed`) their events say how they do: one that comes and goes is
    told of once. Any other one is silent when nothing of it was stored for so long, and told of once in as long.
    """
    longest_ns = int(silent_seconds * _NANOSECONDS)
    changed = {}
    for camera in cameras:
        by_events = (followed or {}).get(camera.edge_id)
        if by_events is not None:
            is_well, since_ns = by_events
            note = CameraNote("online" if is_well else "silent", since_ns)
            before = noted.get(camera.edge_id)
            if before is None or before.state != note.state:
                changed[camera.edge_id] = note
            continue
        state = "silent" if now_ns - camera.last_seen_ns > longest_ns else "online"
        known = noted.get(camera.edge_id)
        if known is None or (known.state != state and now_ns - known.since_ns >= longest_ns):
            changed[camera.edge_id] = CameraNote(state, now_ns)
    return changed


def camera_json(camera: cat.Camera, note: CameraNote) -> str:
    """The data of an event that tells of a camera host's state."""
    state: CameraState = "silent" if note.state == "silent" else "online"
    return schema.CameraEvent(
        what=state, at=instant(note.since_ns), camera=schema.camera_facts(camera)
    ).model_dump_json()

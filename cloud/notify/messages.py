"""What a sink is told: which events, as which messages; and when a camera host counts as silent. Without I/O."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue.deliveries import CameraNote, Message
from secondlook.cloud.catalogue.feed import Event, EventKind, Interest
from secondlook.cloud.station.api import schema
from secondlook.cloud.station.schema import instant

CameraState = Literal["online", "silent"]
CAMERA = "camera"  # the kind of events that the feed does not hold

_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True)
class Wanted:
    """What a sink wants to hear of. Without `labels` every class, without `cameras` every camera host."""

    kinds: frozenset[str]
    cameras: frozenset[str] = frozenset()
    labels: frozenset[str] = frozenset()
    min_score: float = 0.0
    once_per_object: bool = True

    @property
    def interest(self) -> Interest:
        """What to read from the feed for it."""
        kinds = frozenset(EventKind(kind) for kind in self.kinds if kind != CAMERA)
        only = next(iter(self.cameras)) if len(self.cameras) == 1 else None
        return Interest(kinds, only, self.labels or None, self.min_score)

    def wants(self, event: Event) -> bool:
        """Of an event that the feed gave for its interest."""
        return not self.cameras or edge_of(event) in self.cameras


def edge_of(event: Event) -> str:
    """The camera host that an event is about."""
    if event.frame is not None:
        return event.frame.edge_id
    assert isinstance(event.row, cat.Tombstone)
    return event.row.edge_id


def message_of(event: Event) -> Message:
    data = schema.event_json(event)
    return _message(f"{event.kind.value}.{event.what}", event.at_ns, data)


def camera_message(camera: cat.Camera, state: CameraState, at_ns: int) -> Message:
    at = json.dumps(instant(at_ns).isoformat().replace("+00:00", "Z"))
    facts = schema.camera_facts(camera).model_dump_json()
    return _message(
        f"{CAMERA}.{state}", at_ns, f'{{"kind":"{CAMERA}","what":"{state}","at":{at},"camera":{facts}}}'
    )


def camera_changes(
    cameras: Iterable[cat.Camera],
    noted: Mapping[str, CameraNote],
    *,
    silent_seconds: float,
    now_ns: int,
) -> dict[str, CameraNote]:
    """The camera hosts whose state is another one than was told last, or that nobody was told of yet.

    One is silent when nothing of it was stored for so long. It is told of at most once in as long, however often it
    comes and goes.
    """
    longest_ns = int(silent_seconds * _NANOSECONDS)
    changed = {}
    for camera in cameras:
        state = "silent" if now_ns - camera.last_seen_ns > longest_ns else "online"
        known = noted.get(camera.edge_id)
        if known is None or (known.state != state and now_ns - known.since_ns >= longest_ns):
            changed[camera.edge_id] = CameraNote(state, now_ns)
    return changed


def pause_seconds(attempts: int, chance: float) -> float:
    """Before a message is sent again that was sent so often: twice as long each time, up to a quarter of an hour.

    `chance` in 0..1 spreads those that failed together.
    """
    return float(min(2.0 ** min(attempts, 20), 900.0) * (0.5 + chance / 2))


def _message(kind: str, at_ns: int, data: str) -> Message:
    at = json.dumps(instant(at_ns).isoformat().replace("+00:00", "Z"))
    body = f'{{"type":{json.dumps(kind)},"timestamp":{at},"data":{data}}}'
    return Message(str(uuid.uuid4()), kind, body)

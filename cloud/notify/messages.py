"""What a sink is told: which events, and as which messages. Without I/O."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue.deliveries import CameraNote, Message
from secondlook.cloud.catalogue.feed import Event, EventKind, Interest
from secondlook.cloud.receivers import ReceiverConfig
from secondlook.cloud.station.api import schema
from secondlook.cloud.station.api.cameras import CAMERA, camera_json
from secondlook.cloud.station.schema import instant


@dataclass(frozen=True)
class Wanted:
    """What a sink wants to hear of. Without `labels` every class, without `cameras` every camera host."""

    kinds: frozenset[str]
    cameras: frozenset[str] = frozenset()
    labels: frozenset[str] = frozenset()
    min_score: float = 0.0
    once_per_object: bool = True
    cooldown_seconds: float = 0.0

    @property
    def interest(self) -> Interest:
        """What to read from the feed for it."""
        kinds = frozenset(EventKind(kind) for kind in self.kinds if kind != CAMERA)
        only = next(iter(self.cameras)) if len(self.cameras) == 1 else None
        return Interest(kinds, only, self.labels or None, self.min_score)

    def wants(self, event: Event) -> bool:
        """Of an event that the feed gave for its interest."""
        return not self.cameras or edge_of(event) in self.cameras


def wanted_by(config: ReceiverConfig) -> Wanted:
    """What the settings of a sink say."""
    return Wanted(
        frozenset(config.events),
        frozenset(config.cameras),
        frozenset(config.labels),
        config.min_score,
        config.once_per_object,
        config.cooldown_seconds,
    )


def cooldown_key(event: Event) -> tuple[str, ...]:
    """What a sink's cool-down takes for the same: a camera host, the kind of event, and of detections the class."""
    label = event.row.label if isinstance(event.row, cat.DetectedBox) else ""
    return edge_of(event), event.kind.value, event.what, label


def edge_of(event: Event) -> str:
    """The camera host that an event is about."""
    if event.frame is not None:
        return event.frame.edge_id
    assert isinstance(event.row, cat.Tombstone)
    return event.row.edge_id


def message_of(event: Event, passed_over: int = 0) -> Message:
    """`passed_over`: how many like it were not told, because of a cool-down."""
    data = schema.event_json(event)
    return _message(f"{event.kind.value}.{event.what}", event.at_ns, data, passed_over)


def camera_message(camera: cat.Camera, note: CameraNote) -> Message:
    return _message(f"{CAMERA}.{note.state}", note.since_ns, camera_json(camera, note))


def pause_seconds(attempts: int, chance: float) -> float:
    """Before a message is sent again that was sent so often: twice as long each time, up to a quarter of an hour.

    `chance` in 0..1 spreads those that failed together.
    """
    return float(min(2.0 ** min(attempts, 20), 900.0) * (0.5 + chance / 2))


def _message(kind: str, at_ns: int, data: str, passed_over: int = 0) -> Message:
    at = json.dumps(instant(at_ns).isoformat().replace("+00:00", "Z"))
    more = f',"passed_over":{passed_over}' if passed_over else ""
    body = f'{{"type":{json.dumps(kind)},"timestamp":{at},"data":{data}{more}}}'
    return Message(str(uuid.uuid4()), kind, body)

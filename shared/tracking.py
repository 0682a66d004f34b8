"""Which detections of a frame are objects seen before: two rounds by overlap, as ByteTrack has them.

What the detector is sure of is matched first, then what it is less sure of, with the objects that are left over, so
that an object half hidden keeps its number (Zhang et al., ECCV 2022, "ByteTrack: Multi-Object Tracking by Associating
Every Detection Box"). Where an object is now follows from where it was and how fast it went. One that stood still is
looked for where it stood for a minute, one that moved for two seconds: it has left.

No state is kept here: objects come in as they were seen last, so that any worker may look at any frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from secondlook.shared.detection import Detection

SURE_SCORE = 0.5  # detections from here on are matched first
LEAST_SCORE = 0.25  # below it a detection carries an object on, and begins none
OVERLAP, UNSURE_OVERLAP = 0.3, 0.5  # IoU at least, in the first and the second round
OTHER_LABEL_OVERLAP = 0.7  # a car that was a truck a moment ago
MOVING_SECONDS, STANDING_SECONDS = 2.0, 60.0  # that an object may be out of sight
STANDING_SPEED = 0.1  # of its own diagonal a second
AHEAD_SECONDS = 1.0  # a speed says where things are for so long
SMOOTHING = 0.5  # weight of the newest speed

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Track:
    """An object of one camera as it was seen last. Instants are Unix nanoseconds, speeds pixels a second.

    `score` and `label` are those of its surest detection. `number` is its row; None where it has none yet.
    """

    number: int | None
    label: str
    score: float
    box: Box
    speed: tuple[float, float]
    first_ns: int
    last_ns: int
    frames: int = 1

    @property
    def is_standing(self) -> bool:
        x0, y0, x1, y1 = self.box
        return math.hypot(*self.speed) < STANDING_SPEED * math.hypot(x1 - x0, y1 - y0)

    def is_sought(self, at_ns: int) -> bool:
        """Whether it may be in a frame of that instant, before or after it was seen last."""
        return abs(_seconds(self.last_ns, at_ns)) <= (
            STANDING_SECONDS if self.is_standing else MOVING_SECONDS
        )

    def at(self, at_ns: int) -> Box:
        """Where it should be at an instant."""
        after = max(-AHEAD_SECONDS, min(AHEAD_SECONDS, _seconds(self.last_ns, at_ns)))
        dx, dy = self.speed[0] * after, self.speed[1] * after
        x0, y0, x1, y1 = self.box
        return x0 + dx, y0 + dy, x1 + dx, y1 + dy

    def seen(self, found: Detection, at_ns: int) -> Track:
        """The object once it was found in a frame; frames come in any order, and an earlier one moves nothing."""
        track = replace(self, frames=self.frames + 1, first_ns=min(self.first_ns, at_ns))
        if found.score > self.score:
            track = replace(track, label=found.label, score=found.score)
        after = _seconds(self.last_ns, at_ns)
        if after <= 0:
            return track
        (x, y), (was_x, was_y) = _centre(found.box), _centre(self.box)
        newest = ((x - was_x) / after, (y - was_y) / after)
        weight = 1.0 if self.frames == 1 else SMOOTHING
        speed = tuple(weight * new + (1 - weight) * old for new, old in zip(newest, self.speed, strict=True))
        return replace(track, box=found.box, speed=(speed[0], speed[1]), last_ns=at_ns)


def begin(found: Detection, at_ns: int) -> Track:
    """An object seen for the first time."""
    return Track(None, found.label, found.score, found.box, (0.0, 0.0), at_ns, at_ns)


def follow(
    tracks: Sequence[Track], found: Sequence[Detection], at_ns: int
) -> list[tuple[int | None, Track | None]]:
    """For each detection of a frame: the index of the object that it is (None: of none so far), and the object now.

    (None, None) for one that is too unsure to begin an object.
    """
    sought = {index: track.at(at_ns) for index, track in enumerate(tracks) if track.is_sought(at_ns)}
    owner: dict[int, int] = {}
    for sure in (True, False):
        least = OVERLAP if sure else UNSURE_OVERLAP
        pairs = []
        for number, one in enumerate(found):
            if (one.score >= SURE_SCORE) is not sure:
                continue
            for index, box in sought.items():
                wanted = least if one.label == tracks[index].label else OTHER_LABEL_OVERLAP
                overlap = iou(one.box, box)
                if overlap >= wanted:
                    pairs.append((overlap, number, index))
        for _, number, index in sorted(pairs, key=lambda pair: (-pair[0], pair[1:])):
            if number not in owner and index in sought:
                owner[number] = index
                del sought[index]
    result: list[tuple[int | None, Track | None]] = []
    for number, one in enumerate(found):
        if number in owner:
            result.append((owner[number], tracks[owner[number]].seen(one, at_ns)))
        else:
            result.append((None, begin(one, at_ns) if one.score >= LEAST_SCORE else None))
    return result


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes x0, y0, x1, y1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def _centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _seconds(from_ns: int, to_ns: int) -> float:
    return (to_ns - from_ns) / 1_000_000_000

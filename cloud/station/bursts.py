"""Bursts: frames that one camera took of one scene, one soon after the other, in which the detector found the same.

They are judged together. A burst ends where the camera paused or the detector found something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

GAP_NS = 10 * 1_000_000_000  # a longer pause ends a burst
MOST_ALIKE = 60  # frames that are judged at once, at most


@dataclass(frozen=True)
class BurstFrame:
    """``source``: the camera host and its boot; ``classes``: what was found, sorted."""

    number: int
    source: str
    captured_ns: int
    classes: tuple[str, ...]

    def is_like(self, other: BurstFrame) -> bool:
        return self.classes == other.classes and abs(self.captured_ns - other.captured_ns) <= GAP_NS


def bursts(frames: Sequence[BurstFrame]) -> list[list[BurstFrame]]:
    """Frames in bursts of at least one, each in order of time."""
    found: list[list[BurstFrame]] = []
    last: dict[str, list[BurstFrame]] = {}
    for frame in sorted(frames, key=lambda one: (one.source, one.captured_ns, one.number)):
        current = last.get(frame.source)
        if current is not None and current[-1].is_like(frame) and len(current) < MOST_ALIKE:
            current.append(frame)
        else:
            last[frame.source] = [frame]
            found.append(last[frame.source])
    return found


def burst_sizes(frames: Sequence[BurstFrame]) -> list[int]:
    """How many frames each one's burst has, in the order given."""
    sizes = {frame.number: len(burst) for burst in bursts(frames) for frame in burst}
    return [sizes[frame.number] for frame in frames]


def burst_around(frames: Sequence[BurstFrame], number: int) -> set[int]:
    """The numbers of the burst that a frame is in; none where it is not among them."""
    for burst in bursts(frames):
        if any(frame.number == number for frame in burst):
            return {frame.number for frame in burst}
    return set()

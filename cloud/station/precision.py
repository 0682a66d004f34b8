"""What verdicts say of the detector: precision by class, camera and score, and a narrower band of scores to review.

Numbers in, numbers out. A box is right where people confirmed it, or corrected no more than its place; it is wrong
where they rejected it or named another class. Boxes of which somebody was unsure count neither way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_STEP = 100  # scores are told to 1/100


@dataclass(frozen=True)
class JudgedBox:
    """A box of the detector of which people said whether it is ``right``."""

    label: str
    edge_id: str
    score: float
    right: bool


@dataclass(frozen=True)
class Precision:
    """Of boxes with something in common."""

    name: str
    judged: int
    right: int

    @property
    def precision(self) -> float:
        return self.right / self.judged


@dataclass(frozen=True)
class ReviewBand:
    """Scores [low, high) that would be reviewed in place of the present ones.

    ``load`` boxes of ``load_now`` would be looked at. ``missed`` right ones lie below it, as many as below the present
    band or none more; of the ``above`` that would count as found unseen, ``wrong`` are not right.
    """

    low: float
    high: float
    load: int
    load_now: int
    missed: int
    above: int
    wrong: int


def by_class(boxes: Iterable[JudgedBox]) -> list[Precision]:
    return _grouped((box.label, box) for box in boxes)


def by_camera(boxes: Iterable[JudgedBox]) -> list[Precision]:
    return _grouped((box.edge_id, box) for box in boxes)


def by_score(boxes: Iterable[JudgedBox]) -> list[Precision]:
    """In tenths of the score, the lowest first."""
    tenths = _grouped((f"{min(int(box.score * 10), 9) / 10:.1f}", box) for box in boxes)
    return sorted(tenths, key=lambda one: one.name)


def halving_band(boxes: Sequence[JudgedBox], low: float, high: float) -> ReviewBand | None:
    """The band within [low, high) that halves the boxes to be looked at and misses no right one more; None without any.

    Its lower end is where the first right box is: below, looking found nothing. Then its upper end comes down until
    half of the boxes are left; those above it count as found, the wrong ones among them too.
    """
    inside = sorted((box.score, box.right) for box in boxes if low <= box.score < high)
    if not inside:
        return None
    right = [score for score, is_right in inside if is_right]
    start = math.floor(min(right) * _STEP) / _STEP if right else high
    bottom = max(low, start)
    kept = [entry for entry in inside if entry[0] >= bottom]
    most = len(inside) // 2
    top = high
    if len(kept) > most:
        top = max(bottom, math.floor(kept[most][0] * _STEP) / _STEP)
    looked = [entry for entry in kept if entry[0] < top]
    above = [entry for entry in kept if entry[0] >= top]
    return ReviewBand(
        low=bottom,
        high=top,
        load=len(looked),
        load_now=len(inside),
        missed=sum(is_right for score, is_right in inside if score < bottom),
        above=len(above),
        wrong=sum(not is_right for _, is_right in above),
    )


def _grouped(named: Iterable[tuple[str, JudgedBox]]) -> list[Precision]:
    counts: dict[str, tuple[int, int]] = {}
    for name, box in named:
        judged, right = counts.get(name, (0, 0))
        counts[name] = judged + 1, right + box.right
    rows = [Precision(name, judged, right) for name, (judged, right) in counts.items()]
    return sorted(rows, key=lambda one: (-one.judged, one.name))

"""What verdicts say of the detector: precision by class, camera and score, and a narrower band of scores to review.

Numbers in, numbers out. A box is right where people confirmed it, or corrected no more than its place; it is wrong
where they rejected it or named another class. Boxes of which somebody was unsure count neither way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

STEP = 100  # scores are told to 1/100


@dataclass(frozen=True)
class Judged:
    """So many boxes of the detector that people judged, and found right."""

    judged: int
    right: int

    def plus(self, other: Judged) -> Judged:
        return Judged(self.judged + other.judged, self.right + other.right)


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


def sorted_rows(counts: Mapping[str, Judged]) -> list[Precision]:
    """The commonest first."""
    rows = [Precision(name, one.judged, one.right) for name, one in counts.items()]
    return sorted(rows, key=lambda one: (-one.judged, one.name))


def by_tenth(hundredths: Mapping[int, Judged]) -> list[Precision]:
    """In tenths of the score, the lowest first, of what is counted by hundredths."""
    tenths: dict[str, Judged] = {}
    for at, one in hundredths.items():
        name = f"{min(at // 10, 9) / 10:.1f}"
        tenths[name] = tenths.get(name, Judged(0, 0)).plus(one)
    return sorted(sorted_rows(tenths), key=lambda row: row.name)


def halving_band(hundredths: Mapping[int, Judged], low: float, high: float) -> ReviewBand | None:
    """The band within [low, high) that halves the boxes to be looked at and misses no right one more; None without any.

    ``hundredths`` counts the boxes within by hundredths of their score, rounded down. Its lower end is where the first
    right box is: below, looking found nothing. Then its upper end comes down until half of the boxes are left; those
    above it count as found, the wrong ones among them too.
    """
    inside = sorted(hundredths.items())
    load = sum(one.judged for _, one in inside)
    if not load:
        return None
    first = next((at for at, one in inside if one.right), None)
    bottom = max(low, high if first is None else first / STEP)
    kept = [] if first is None else [(at, one) for at, one in inside if at >= first]
    top, looked, above = high, 0, [one for _, one in kept]
    for at, one in kept:
        if looked + one.judged > load // 2:
            top = max(bottom, at / STEP)
            break
        looked, above = looked + one.judged, above[1:]
    return ReviewBand(
        low=bottom,
        high=top,
        load=looked,
        load_now=load,
        missed=0,  # by where it begins
        above=sum(one.judged for one in above),
        wrong=sum(one.judged - one.right for one in above),
    )

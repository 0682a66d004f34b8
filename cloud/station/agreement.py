"""How far people agree: answers of two who judged the same frame, Cohen's kappa, and known frames. Figures only.

An item is one box of the detector, one drawn object, or, in a frame without a box, the frame: of each, two people give
an answer. Kappa is how far they agree beyond what chance would have them agree, given how often each gives which.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from secondlook.cloud.catalogue.opinions import DOUBT, NOTHING, FrameOpinion, matched

NO_BOX = ""  # stands for the class of frames without a box


@dataclass(frozen=True)
class Item:
    """What two people answered of the same thing; ``label`` is the class it is counted under."""

    label: str
    first: str
    second: str


@dataclass(frozen=True)
class Agreement:
    """Of one class: how many items, how many answered alike, and kappa (None where chance alone explains all)."""

    label: str
    items: int
    alike: int
    kappa: float | None


@dataclass(frozen=True)
class Marks:
    """How somebody did with known frames. Objects ``said`` to be there, and those of them that are; objects that are
    ``there``, and those of them that were found."""

    frames: int = 0
    right: int = 0
    said: int = 0
    said_rightly: int = 0
    there: int = 0
    found: int = 0

    @property
    def precision(self) -> float | None:
        return self.said_rightly / self.said if self.said else None

    @property
    def recall(self) -> float | None:
        return self.found / self.there if self.there else None

    def plus(self, other: Marks) -> Marks:
        return Marks(*(one + more for one, more in zip(_values(self), _values(other), strict=True)))


def items_of(detected: Sequence[str], one: FrameOpinion, other: FrameOpinion) -> list[Item]:
    """What two people answered of a frame in which classes ``detected`` have boxes."""
    items = [
        Item(label, first, second)
        for label, first, second in zip(detected, one.boxes, other.boxes, strict=True)
    ]
    pairs = matched(one, other)
    for index, (label, _) in enumerate(one.drawn):
        both = any(index == mine for mine, _ in pairs)
        items.append(Item(label, label, label if both else NOTHING))
    theirs = {at for _, at in pairs}
    items += [Item(label, NOTHING, label) for at, (label, _) in enumerate(other.drawn) if at not in theirs]
    if not detected:
        items.append(Item(NO_BOX, _of_frame(one), _of_frame(other)))
    return items


def agreements(items: Iterable[Item]) -> list[Agreement]:
    """By class, the commonest first."""
    classes: dict[str, list[Item]] = {}
    for item in items:
        classes.setdefault(item.label, []).append(item)
    return [
        agreement(label, of_class)
        for label, of_class in sorted(classes.items(), key=lambda one: (-len(one[1]), one[0]))
    ]


def agreement(label: str, items: Sequence[Item]) -> Agreement:
    alike = sum(item.first == item.second for item in items)
    return Agreement(label, len(items), alike, cohen_kappa([(item.first, item.second) for item in items]))


def cohen_kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """(observed - expected) / (1 - expected) of two people's answers; None where both always gave the same one."""
    if not pairs:
        return None
    count = len(pairs)
    first, second = Counter(one for one, _ in pairs), Counter(other for _, other in pairs)
    observed = sum(one == other for one, other in pairs) / count
    expected = sum(first[answer] * second[answer] for answer in first) / count**2
    return None if expected >= 1 else (observed - expected) / (1 - expected)


def marks(detected: Sequence[str], truth: FrameOpinion, given: FrameOpinion) -> Marks:
    """How somebody did with one known frame."""
    items = items_of(detected, truth, given)
    of_objects = [item for item in items if item.label != NO_BOX]
    said = [item for item in of_objects if item.second not in (NOTHING, DOUBT)]
    there = [item for item in of_objects if item.first not in (NOTHING, DOUBT)]
    return Marks(
        frames=1,
        right=int(all(item.first == item.second for item in items) and truth.open == given.open),
        said=len(said),
        said_rightly=sum(item.first == item.second for item in said),
        there=len(there),
        found=sum(item.first == item.second for item in there),
    )


def _of_frame(opinion: FrameOpinion) -> str:
    return DOUBT if opinion.unsure else "more" if opinion.open else NOTHING


def _values(one: Marks) -> tuple[int, ...]:
    return one.frames, one.right, one.said, one.said_rightly, one.there, one.found

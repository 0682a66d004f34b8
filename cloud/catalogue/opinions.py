"""What one person says of a frame, whether two say the same, and how far a double review is. No database here.

Somebody's standing verdicts make an opinion: an answer for each box of the detector, what was drawn besides, and
whether anything is left open. How a box lies is no matter of agreement as long as it is the same thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from secondlook.cloud.catalogue.schema import Stage, VerdictKind
from secondlook.shared.texts import class_key
from secondlook.shared.tracking import iou

Box = tuple[float, float, float, float]

NOTHING = ""  # the answer for a box in which there is nothing
DOUBT = "\0"  # and for one of which a person was unsure; no class is called so

_SAME_PLACE = 0.5  # IoU of two drawn boxes around the same thing


class Given(Protocol):
    """A verdict, as the catalogue keeps it."""

    verdict: VerdictKind
    box_index: int | None
    label: str | None
    x0: float | None
    y0: float | None
    x1: float | None
    y1: float | None
    undone_ns: int | None


@dataclass(frozen=True)
class FrameOpinion:
    """``boxes``: a class (as ``class_key`` gives it), NOTHING or DOUBT for each detection; ``drawn``: further objects.

    ``open``: there is more in the frame than has a box. ``unsure``: so somebody was of the whole of it.
    """

    boxes: tuple[str, ...]
    drawn: tuple[tuple[str, Box], ...] = ()
    open: bool = False
    unsure: bool = False


class Event(StrEnum):
    """What another opinion is beside those there were."""

    ALONE = "alone"  # there was none
    SAME = "same"  # somebody said this already
    OTHER = "other"  # nobody did


# stage -> what another opinion makes of it. Where nothing stands, it changes nothing: the frame is decided.
AFTER: dict[Stage, dict[Event, Stage]] = {
    Stage.FIRST: {Event.ALONE: Stage.SECOND},
    Stage.SECOND: {Event.SAME: Stage.AGREED, Event.OTHER: Stage.THIRD},
    Stage.THIRD: {Event.SAME: Stage.SETTLED, Event.OTHER: Stage.SETTLED},
    Stage.AGREED: {},
    Stage.SETTLED: {},
}
BLIND = frozenset({Stage.SECOND, Stage.THIRD})  # while nobody is shown what others said


@dataclass(frozen=True)
class Progress:
    """How far a double review is, and whose opinion counts: that of both, or of the third."""

    stage: Stage
    counting: str | None


def opinion_of(detected: Sequence[str], verdicts: Sequence[Given]) -> FrameOpinion:
    """What verdicts of one person say of a frame in which classes ``detected`` have boxes."""
    standing = [entry for entry in verdicts if entry.undone_ns is None]
    whole = [v for v in standing if v.box_index is None and v.verdict is not VerdictKind.MISSED_OBJECT]
    on_frame = whole[-1] if whole else None
    on_box = {entry.box_index: entry for entry in standing if entry.box_index is not None}
    drawn = tuple(
        (class_key(entry.label or ""), place)
        for entry in standing
        if entry.verdict is VerdictKind.MISSED_OBJECT and (place := _place(entry)) is not None
    )
    said = None if on_frame is None else on_frame.verdict
    denied = said is VerdictKind.REJECT and not detected and not drawn
    return FrameOpinion(
        tuple(_answer(on_box.get(index, on_frame), label) for index, label in enumerate(detected)),
        drawn,
        open=said is VerdictKind.INCOMPLETE or denied,
        unsure=said is VerdictKind.UNSURE and not detected,
    )


def same_opinion(one: FrameOpinion, other: FrameOpinion) -> bool:
    """Whether two people found the same in a frame."""
    if (one.boxes, one.open, one.unsure) != (other.boxes, other.open, other.unsure):
        return False
    return len(one.drawn) == len(other.drawn) == len(matched(one, other))


def matched(one: FrameOpinion, other: FrameOpinion) -> list[tuple[int, int]]:
    """Which drawn objects of the one are the other's: of a class, in the same place; each at most once."""
    pairs: list[tuple[int, int]] = []
    free = set(range(len(other.drawn)))
    for index, (label, box) in enumerate(one.drawn):
        near = [(iou(box, other.drawn[at][1]), -at) for at in free if other.drawn[at][0] == label]
        best = max(near, default=None)
        if best is not None and best[0] >= _SAME_PLACE:
            free.remove(-best[1])
            pairs.append((index, -best[1]))
    return pairs


def progress_of(opinions: Sequence[tuple[str, FrameOpinion]]) -> Progress:
    """How far a double review is after opinions of different people, in the order in which they were given."""
    stage, counting = Stage.FIRST, None
    for at, (reviewer, opinion) in enumerate(opinions):
        before = [earlier for _, earlier in opinions[:at]]
        same = any(same_opinion(opinion, earlier) for earlier in before)
        event = Event.ALONE if not before else Event.SAME if same else Event.OTHER
        following = AFTER[stage].get(event)
        if following is None:
            continue
        stage = following
        counting = {Stage.AGREED: opinions[0][0], Stage.SETTLED: reviewer}.get(stage)
    return Progress(stage, counting)


def _answer(verdict: Given | None, label: str) -> str:
    if verdict is None or verdict.verdict is VerdictKind.UNSURE:
        return DOUBT
    if verdict.verdict is VerdictKind.REJECT:
        return NOTHING
    return class_key(label if verdict.box_index is None else verdict.label or label)


def _place(verdict: Given) -> Box | None:
    if verdict.x0 is None or verdict.y0 is None or verdict.x1 is None or verdict.y1 is None:
        return None
    return verdict.x0, verdict.y0, verdict.x1, verdict.y1

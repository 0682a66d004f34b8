"""What a second look says of the detections that a review is in doubt about; no I/O.

The same detector looks at the frame again, now that it is there in full quality. A doubt is **confirmed** where it is
sure of it now, **refuted** where it finds nothing at that place any more, and stays **in doubt** otherwise: where it
is still unsure, sees another class there, or the place lies outside the crop that was fetched. A review of which every
doubt is confirmed is settled, unless what is seen now is for a person to judge by another rule. What is refuted is
settled where the policy says so: a detector that misses what people see in full quality would hide it from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from secondlook.cloud.catalogue import Doubts, Rule
from secondlook.cloud.config import PolicyConfig
from secondlook.cloud.workers.policy import FrameIdentity, ReviewReason, wish_for_review
from secondlook.shared.crop import Crop
from secondlook.shared.detection import Detection
from secondlook.shared.tracking import iou

SAME_PLACE = 0.4  # IoU from which two boxes are of one thing


class Outcome(StrEnum):
    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    IN_DOUBT = "in_doubt"


SETTLING: dict[str, frozenset[Outcome]] = {  # by policy.second_look: which outcomes need no person
    "none": frozenset(),
    "confirmed": frozenset({Outcome.CONFIRMED}),
    "certain": frozenset({Outcome.CONFIRMED, Outcome.REFUTED}),
}


@dataclass(frozen=True)
class SeenAgain:
    """One doubtful detection, by its index in the frame: its score before, and now (None: not found)."""

    index: int
    label: str
    before: float
    after: float | None
    outcome: Outcome


@dataclass(frozen=True)
class SecondLook:
    """What came of it; `called_for`: the reason by another rule for which a person is to see the frame after all.

    `settling`: the outcomes that need no person.
    """

    detector: str
    boxes: tuple[SeenAgain, ...]
    called_for: str | None = None
    settling: frozenset[Outcome] = SETTLING["confirmed"]

    @property
    def settles(self) -> bool:
        """Whether nobody has to be asked."""
        settled = all(box.outcome in self.settling for box in self.boxes)
        return bool(self.boxes) and settled and self.called_for is None

    def as_json(self) -> dict[str, Any]:
        """As it is kept with the review."""
        boxes = [
            {
                "index": box.index,
                "label": box.label,
                "before": round(box.before, 4),
                "after": None if box.after is None else round(box.after, 4),
                "outcome": box.outcome.value,
            }
            for box in self.boxes
        ]
        return {"detector": self.detector, "boxes": boxes, "called_for": self.called_for}


def look_again(
    policy: PolicyConfig,
    frame: FrameIdentity,
    doubts: Doubts,
    found: Sequence[Detection],
    *,
    size: tuple[int, int],
    crop: Crop | None,
) -> SecondLook:
    """Compare doubts with what the same detector has `found` in the picture in full quality.

    `size`: width and height of the frame; `crop`: what of it is in full quality, None for all.
    """
    boxes = []
    for index, doubt in doubts.boxes:
        after, outcome = _judge(policy, doubt, found, crop)
        boxes.append(SeenAgain(index, doubt.label, doubt.score, after, outcome))
    called_for = _called_for(policy, frame, found, size)
    return SecondLook(doubts.detector, tuple(boxes), called_for, SETTLING[policy.second_look])


def _judge(
    policy: PolicyConfig, doubt: Detection, found: Sequence[Detection], crop: Crop | None
) -> tuple[float | None, Outcome]:
    there = [one for one in found if iou(one.box, doubt.box) >= SAME_PLACE]
    same = max((one.score for one in there if one.label == doubt.label), default=None)
    if crop is not None and not _holds(crop, doubt):
        return same, Outcome.IN_DOUBT
    if same is not None and same >= policy.uncertain_high:
        return same, Outcome.CONFIRMED
    if all(one.score < policy.uncertain_low for one in there):
        return same, Outcome.REFUTED
    return same, Outcome.IN_DOUBT


def _holds(crop: Crop, doubt: Detection) -> bool:
    x0, y0, x1, y1 = doubt.box
    return crop.left <= x0 and crop.top <= y0 and x1 <= crop.right and y1 <= crop.bottom


def _called_for(
    policy: PolicyConfig, frame: FrameIdentity, found: Sequence[Detection], size: tuple[int, int]
) -> str | None:
    """The first of the rules for what people are to see however sure the detector is."""
    for_people = replace(policy, every_nth=0, audit_every=0)
    wishes: Sequence[ReviewReason] = wish_for_review(for_people, frame, found, secret=b"none", size=size)
    called = [wish for wish in wishes if wish.rule in (Rule.WATCHED, Rule.OPERATOR)]
    return called[0].reason if called else None

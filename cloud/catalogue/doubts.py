"""What a review is in doubt about, kept with it where nothing but doubt calls for it.

That is what a machine may settle by a second look, when the frame has come in full quality. As soon as a person turns
to the review it is none of that any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from secondlook.cloud.catalogue.schema import Frame, Review
from secondlook.shared.detection import Detection


@dataclass(frozen=True)
class Doubts:
    """Detections, each with its index among those of the frame, and the detector that found them."""

    detector: str
    boxes: tuple[tuple[int, Detection], ...]

    def as_json(self) -> dict[str, Any]:
        boxes = [
            {"index": index, "label": found.label, "score": found.score, "box": list(found.box)}
            for index, found in self.boxes
        ]
        return {"detector": self.detector, "boxes": boxes}

    @classmethod
    def parse(cls, kept: dict[str, Any]) -> Doubts:
        """What `as_json` made of one."""
        boxes = []
        for one in kept["boxes"]:
            x0, y0, x1, y1 = one["box"]
            boxes.append((one["index"], Detection(one["label"], one["score"], (x0, y0, x1, y1))))
        return cls(kept["detector"], tuple(boxes))


def doubts_in(frame: Frame, indexes: Sequence[int]) -> Doubts:
    """Of the detections of a frame, those with these indexes; one at least."""
    boxes = [(index, frame.detections[index]) for index in indexes]
    return Doubts(
        boxes[0][1].detector,
        tuple(
            (index, Detection(box.label, box.score, (box.x0, box.y0, box.x1, box.y1))) for index, box in boxes
        ),
    )


def wants_person(review: Review) -> None:
    """A person asks for it, hands it on or speaks of it: no machine settles it any more."""
    review.doubts = None

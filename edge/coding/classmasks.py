"""Masks over what a detector finds (persons, vehicles, faces, number plates), filled before anything is coded.

They fail closed. A detector that cannot be opened lets no camera start, and one that fails over a picture lets no
part of that picture pass. What it misses for a while is masked where it was last, in a box that grows with every
frame, for it may have moved; and what it has found stays masked where it was a few frames ago, for a box may be cut
short. What it never finds, no mask covers: docs/sources.md says what that means.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from secondlook.edge.coding.regions import MARGIN, MASKED, Regions
from secondlook.edge.config import EdgeConfig, RegionsConfig
from secondlook.shared.detection import Detection, Detector
from secondlook.shared.detectors import open_detector
from secondlook.shared.errors import ConfigError, MaskFailed, SecondlookError, Unforeseen
from secondlook.shared.faults import unforeseen_named
from secondlook.shared.labels import check_label
from secondlook.shared.tracking import Box, iou

U8Image = npt.NDArray[np.uint8]  # height x width x 3, RGB

_SAME = 0.3  # overlap (IoU) from which a box is that of an object found before


@dataclass
class _Object:
    """What was found, as boxes in shares of the picture's sides, each with the number of its frame; newest last."""

    boxes: list[tuple[int, Box]]

    def grown(self, frame: int, margin: float) -> Iterable[Box]:
        """What is masked of it: the newest box grows with every frame since."""
        missed = frame - self.boxes[-1][0]
        yield _grown(self.boxes[-1][1], margin * (1 + missed))
        for _, box in self.boxes[:-1]:
            yield _grown(box, margin)


class ClassMasks:
    """The objects of one camera that are masked. Not for use by several threads."""

    def __init__(self, config: RegionsConfig, detector: Detector) -> None:
        """Raises ConfigError for a class that the detector does not know."""
        for label in config.mask_classes:
            check_label("regions.mask_classes", label, detector.name, detector.classes)
        self._detector = detector
        self._classes = frozenset(config.mask_classes)
        self._margin, self._keep = config.mask_margin, config.mask_frames
        self._objects: list[_Object] = []
        self._frame = 0

    def find(self, image: U8Image) -> list[Box]:
        """Boxes to mask in the next frame, uint8[H,W,3] RGB, in shares of its sides. Raises MaskFailed."""
        try:
            with unforeseen_named(SecondlookError):
                found = self._detector.detect(image)
        except (SecondlookError, Unforeseen) as error:
            raise MaskFailed(f"no part of a picture may pass that cannot be masked: {error}") from error
        height, width = image.shape[:2]
        self._follow([_shares(one, width, height) for one in found if one.label in self._classes])
        return [box for one in self._objects for box in one.grown(self._frame, self._margin)]

    def _follow(self, found: Sequence[Box]) -> None:
        """Take in what was found in the next frame; each box is that of one object at most, the nearest first."""
        self._frame += 1
        pairs = sorted(
            (
                (-overlap, number, index)
                for number, box in enumerate(found)
                for index, one in enumerate(self._objects)
                if (overlap := iou(box, one.boxes[-1][1])) >= _SAME
            )
        )
        left, known = set(range(len(found))), set[int]()
        for _, number, index in pairs:
            if number in left and index not in known:
                left.discard(number)
                known.add(index)
                self._objects[index].boxes.append((self._frame, found[number]))
        self._objects += [_Object([(self._frame, found[number])]) for number in sorted(left)]
        oldest = self._frame - self._keep
        for one in self._objects:
            one.boxes = [seen for seen in one.boxes if seen[0] >= oldest]
        self._objects = [one for one in self._objects if one.boxes]


class PrivacyMasks:
    """All that is masked in the pictures of one camera: polygons, and what a detector finds."""

    def __init__(self, regions: Regions, classes: ClassMasks | None = None) -> None:
        self._regions, self._classes = regions, classes

    @classmethod
    def open(cls, config: EdgeConfig, regions: Regions) -> PrivacyMasks:
        """The masks that the settings ask for. Raises MaskFailed where they cannot be made."""
        if not config.regions.mask_classes:
            return cls(regions)
        return cls(regions, ClassMasks(config.regions, shared_detector(config)))

    def hide(self, image: U8Image) -> U8Image:
        """The picture, uint8[H,W,3] RGB, with all masks filled: a copy where there are any. Raises MaskFailed.

        The detector sees what lies under the polygons: who stands half behind one is to be found all the same.
        """
        boxes = [] if self._classes is None else self._classes.find(image)
        hidden = self._regions.hide(image)
        if boxes and hidden is image:
            hidden = image.copy()
        height, width = image.shape[:2]
        for x0, y0, x1, y1 in boxes:
            left, top = math.floor(x0 * width) - MARGIN, math.floor(y0 * height) - MARGIN
            right, bottom = math.ceil(x1 * width) + MARGIN, math.ceil(y1 * height) + MARGIN
            cv2.rectangle(hidden, (left, top), (right - 1, bottom - 1), MASKED, cv2.FILLED)
        return hidden


class _OneAtATime:
    """A detector that the cameras of a host share: it looks at one picture at a time."""

    def __init__(self, detector: Detector) -> None:
        self._detector, self._lock = detector, threading.Lock()
        self.name, self.classes = detector.name, detector.classes

    def detect(self, image: U8Image) -> list[Detection]:
        with self._lock:
            return self._detector.detect(image)


_opened: dict[tuple[object, ...], Detector] = {}
_opening = threading.Lock()


def shared_detector(config: EdgeConfig) -> Detector:
    """The detector of the masks of a camera, opened once in this process. Raises MaskFailed."""
    regions, codec = config.regions, config.codec
    which = (regions.mask_model, regions.mask_min_score, codec.threads, codec.device)
    with _opening:
        if which not in _opened:
            try:
                with unforeseen_named(SecondlookError):
                    found = open_detector(
                        regions.mask_model,
                        threads=codec.threads,
                        min_score=regions.mask_min_score,
                        device=codec.device,
                    )
            except (SecondlookError, Unforeseen) as error:
                raise MaskFailed(
                    f"regions.mask_classes cannot be masked, so nothing is captured: {error}"
                ) from error
            if found is None:
                raise ConfigError(
                    f"regions.mask_model {regions.mask_model!r} is no detector: give 'builtin', 'auto', a model that"
                    " was added (secondlook models list), or a path to its folder or .onnx export"
                )
            _opened[which] = _OneAtATime(found)
        return _opened[which]


def _shares(found: Detection, width: int, height: int) -> Box:
    x0, y0, x1, y1 = found.box
    return x0 / width, y0 / height, x1 / width, y1 / height


def _grown(box: Box, margin: float) -> Box:
    """By shares of its own sides, each way."""
    x0, y0, x1, y1 = box
    dx, dy = margin * (x1 - x0), margin * (y1 - y0)
    return x0 - dx, y0 - dy, x1 + dx, y1 + dy

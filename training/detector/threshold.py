"""The score from which a detection is believed: where F1 against the teacher is best, on images kept from
training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from secondlook.shared.detection import Detection
from secondlook.shared.detectors import OnnxDetector
from secondlook.shared.errors import ConfigError
from secondlook.shared.inference import open_session
from secondlook.training.detector.classes import SHIPPED_CLASSES
from secondlook.training.detector.views import is_validation, load_images

TEACHER_SCORE = 0.4  # what the teacher finds above this counts as being there
MATCH_OVERLAP = 0.5
CANDIDATES = tuple(round(0.05 + 0.025 * i, 3) for i in range(31))


@dataclass
class Count:
    """Matches over a set of images."""

    right: int = 0
    reported: int = 0
    present: int = 0

    @property
    def f1(self) -> float:
        return 2 * self.right / max(self.reported + self.present, 1)


def overlap(a: Detection, b: Detection) -> float:
    """Intersection over union of two boxes."""
    width = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
    height = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    areas = sum((d.box[2] - d.box[0]) * (d.box[3] - d.box[1]) for d in (a, b))
    return both / (areas - both)


def count_matches(found: Sequence[Detection], present: Sequence[Detection]) -> int:
    """How many of `found`, best first, hit an object of their class that no better one has hit."""
    free = list(present)
    right = 0
    for detection in found:
        same = [other for other in free if other.label == detection.label]
        best = max(same, key=lambda other: overlap(detection, other), default=None)
        if best is not None and overlap(detection, best) >= MATCH_OVERLAP:
            free.remove(best)
            right += 1
    return right


def choose_threshold(model: Path, teacher: Path, data: Path) -> tuple[float, float]:
    """(threshold, F1 there) of the exported model on the images of `data` that training does not see."""
    kept = [sample for sample in load_images(data) if is_validation(sample.name)]
    if not kept:
        raise ConfigError(f"no image of {data} is kept for validation")
    student = OnnxDetector(open_session(model, 1), "student", CANDIDATES[0])
    judge = OnnxDetector(open_session(teacher, 1), "teacher", TEACHER_SCORE)
    counts = {score: Count() for score in CANDIDATES}
    for sample in kept:
        image = np.ascontiguousarray(sample.image[:, :, ::-1])
        present = [d for d in judge.detect(image) if d.label in SHIPPED_CLASSES]
        found = student.detect(image)
        for score, count in counts.items():
            believed = [d for d in found if d.score >= score]
            count.right += count_matches(believed, present)
            count.reported += len(believed)
            count.present += len(present)
    best = max(CANDIDATES, key=lambda score: counts[score].f1)
    return best, round(counts[best].f1, 3)

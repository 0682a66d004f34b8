"""How well a detector sees decoded frames, judged by what it saw in the frames before coding.

The judge's confident detections on the uncompressed frames are the truth; average precision at IoU 0.5 (COCO's AP50,
by pycocotools) tells how much of it is still found. Classes count by how often they occur, for a clip may show one bus
among a hundred cars. What the judge only suspected in the uncompressed frames counts neither for nor against.
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from secondlook.shared.detection import Detection, Detector

U8 = npt.NDArray[np.uint8]

CONFIDENT = 0.5  # score from which a detection on an uncompressed frame is taken for true
SUSPECTED = 0.25  # and from which it is not held against a codec
LOWEST = 0.02  # average precision needs the weak detections too
RESAMPLES = 100


class Judge:
    """A detector, and what it found in the uncompressed frames of one clip."""

    def __init__(self, detector: Detector, frames: Sequence[U8]) -> None:
        self._detector = detector
        self._truth = [self._detect(frame) for frame in frames]
        names = sorted({found.label for seen in self._truth for found in seen})
        self._ids = {name: number for number, name in enumerate(names, 1)}
        self._coco = self._annotations() if self.objects else None

    @property
    def objects(self) -> int:
        """Confident detections on the uncompressed frames."""
        return sum(found.score >= CONFIDENT for seen in self._truth for found in seen)

    def score(self, frames: Sequence[U8]) -> tuple[float, float]:
        """AP50 on decoded frames in percent, and its standard error over frames. (nan, nan) without an object."""
        if self._coco is None:
            return float("nan"), float("nan")
        found = [
            _entry(number, self._ids[one.label], one) | {"score": one.score}
            for number, frame in enumerate(frames)
            for one in self._detect(frame)
            if one.label in self._ids
        ]
        if not found:
            return 0.0, 0.0
        matched = _match(self._coco, found)
        draws = [_weighted(one) for one in _resampled(matched, RESAMPLES)]
        return _weighted(_accumulated(matched)), float(np.std([draw for draw in draws if draw is not None]))

    def _detect(self, frame: U8) -> list[Detection]:
        return [found for found in self._detector.detect(frame) if found.score >= LOWEST]

    def _annotations(self) -> Any:
        from pycocotools.coco import COCO

        entries: list[dict[str, Any]] = []
        for number, seen in enumerate(self._truth):
            for found in seen:
                if found.score >= SUSPECTED:
                    entry = _entry(number, self._ids[found.label], found)
                    suspected = int(found.score < CONFIDENT)
                    entries.append(
                        entry | {"id": len(entries) + 1, "iscrowd": 0, "only_suspected": suspected}
                    )
        coco = COCO()
        coco.dataset = {
            "images": [{"id": number} for number in range(len(self._truth))],
            "categories": [{"id": number, "name": name} for name, number in self._ids.items()],
            "annotations": entries,
        }
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        return coco


def _entry(image: int, category: int, found: Detection) -> dict[str, Any]:
    x0, y0, x1, y1 = found.box
    box = [x0, y0, x1 - x0, y1 - y0]
    return {"image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3]}


def _match(truth: Any, found: list[dict[str, Any]]) -> Any:
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        matched = COCOeval(truth, truth.loadRes(found), "bbox")
        matched.params.iouThrs = np.array([0.5])
        matched.params.areaRng, matched.params.areaRngLbl = [[0, 1e10]], ["all"]
        matched.params.maxDets = [100]
        _ignore_suspected(matched)
        matched.evaluate()
    return matched


def _ignore_suspected(matched: Any) -> None:
    """COCOeval ignores crowds alone, and matches those by another measure: so it is told after it has prepared."""
    prepare = matched._prepare

    def prepared() -> None:
        prepare()
        for entries in matched._gts.values():
            for entry in entries:
                entry["ignore"] = entry["only_suspected"]

    matched._prepare = prepared


def _accumulated(matched: Any) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        matched.accumulate()
    return matched


def _resampled(matched: Any, times: int) -> list[Any]:
    """The matches of as many frames drawn with replacement, `times` times (bootstrap); draws depend on nothing else."""
    images = len(matched.params.imgIds)
    by_image = np.array(matched.evalImgs, dtype=object).reshape(-1, images)  # class, frame
    rng, draws = np.random.default_rng(0), []
    for _ in range(times):
        draw = copy.copy(matched)
        draw.evalImgs = by_image[:, rng.integers(0, images, images)].ravel().tolist()
        draws.append(_accumulated(draw))
    return draws


def _weighted(matched: Any) -> float:
    """AP50 in percent over classes, each counted by its true objects; 0 where a draw has none."""
    precision = matched.eval["precision"][0, :, :, 0, 0]  # recall, class
    counts = np.zeros(precision.shape[1])
    categories = {category: place for place, category in enumerate(matched.params.catIds)}
    for entry in filter(None, matched.evalImgs):
        counts[categories[entry["category_id"]]] += int(np.sum(np.asarray(entry["gtIgnore"]) == 0))
    if not counts.any():
        return 0.0
    means = np.where(precision > -1, precision, 0.0).mean(axis=0)
    return 100.0 * float((means * counts).sum() / counts.sum())

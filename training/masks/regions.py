"""Object regions: the whole of every object counts, the background does not (Shindo et al., arXiv 2308.13984).

Regions are the instances that COCO annotations list for an image, or else the boxes of a detector.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from secondlook.cloud.workers.detectors import load_detector
from secondlook.shared.detection import Detector
from secondlook.shared.detectors import BUILTIN
from secondlook.shared.errors import ConfigError, DetectorError
from secondlook.training.data import U8
from secondlook.training.masks.boundaries import DILATION_PIXELS, widen
from secondlook.training.masks.cache import MaskProvider, file_hash

MIN_SCORE = 0.25  # a region too many costs bits, one too few costs an object


class Annotations:
    """Instances by the file name of their image, from a COCO instances file."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError if `path` is no such file."""
        from secondlook.training.detector.evaluate import load_truth

        self._path = path
        try:
            self._coco: Any = load_truth(path)
            self._ids = {Path(e["file_name"]).name: key for key, e in self._coco.imgs.items()}
        except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
            raise ConfigError(f"{path} is no COCO instances file: {error}") from error

    def of(self, path: Path) -> list[dict[str, Any]] | None:
        """The instances of an image, or None where the file does not list it."""
        key = self._ids.get(path.name)
        return None if key is None else list(self._coco.imgToAnns[key])

    def regions(self, path: Path, shape: tuple[int, ...]) -> U8:
        """uint8[H,W], 255 inside instances. Raises ConfigError if the image is not of the annotated size."""
        entry = self._coco.imgs[self._ids[path.name]]
        if (entry["height"], entry["width"]) != shape[:2]:
            raise ConfigError(
                f"{path.name} is {shape[1]}x{shape[0]}, but {self._path} describes it as "
                f"{entry['width']}x{entry['height']}"
            )
        plane = np.zeros(shape[:2], np.uint8)
        for instance in self.of(path) or ():
            if instance.get("segmentation"):
                plane[self._coco.annToMask(instance) > 0] = 255
            else:
                x, y, width, height = instance["bbox"]
                _fill(plane, (x, y, x + width, y + height))
        return plane


class ObjectRegions(MaskProvider):
    """Annotated instances where an image is listed, boxes of a detector elsewhere."""

    name = "regions"

    def __init__(self, detector: str = BUILTIN, annotations: Path | None = None) -> None:
        """`detector`: "builtin", a detector's folder, or a file; names that may be downloaded are refused.

        Raises DetectorError, ModelNotFound or ConfigError.
        """
        if detector != BUILTIN and not Path(detector).exists():
            raise DetectorError(f"no detector at {detector}: give {BUILTIN!r}, a model folder or a file")
        self._detector: Detector = load_detector(detector, threads=1, min_score=MIN_SCORE)
        weights = Path(detector)
        self._identity = file_hash(weights) if weights.is_file() else self._detector.name
        self._annotations = Annotations(annotations) if annotations is not None else None

    @property
    def settings(self) -> Mapping[str, str | int | float]:
        return {"detector": self._identity, "min_score": MIN_SCORE, "dilation": DILATION_PIXELS}

    def evidence(self, path: Path) -> bytes:
        known = self._annotations.of(path) if self._annotations is not None else None
        return b"" if known is None else json.dumps(known, sort_keys=True).encode()

    def mask(self, path: Path, image: U8) -> U8:
        """Widened a little, so that the outline of an object lies inside its region."""
        if self._annotations is not None and self._annotations.of(path) is not None:
            return widen(self._annotations.regions(path, image.shape))
        plane = np.zeros(image.shape[:2], np.uint8)
        for found in self._detector.detect(image):
            _fill(plane, found.box)
        return widen(plane)


def _fill(plane: U8, box: tuple[float, float, float, float]) -> None:
    x0, y0, x1, y1 = (max(0, round(v)) for v in box)
    plane[y0:y1, x0:x1] = 255

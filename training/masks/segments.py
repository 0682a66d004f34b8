"""Edges of what Segment Anything segments: the masks that SA-ICM was published with (arXiv 2403.04173).

The networks (SAM, MobileSAM, SAM 2, FastSAM) are run by ultralytics, from a weights file that is there: its path is
checked first, because that package would download what it does not find.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from secondlook.shared.errors import ModelCorrupt, ModelNotFound
from secondlook.training.data import U8
from secondlook.training.masks.boundaries import DILATION_PIXELS, widen
from secondlook.training.masks.cache import MaskProvider, file_hash

SIDE = 1024  # pixels of the square an image is scaled to: what all of these networks were trained at
CONFIDENCE = 0.4  # FastSAM's usual threshold; SAM itself drops segments below 0.88


def segment_edges(segments: npt.NDArray[Any]) -> U8:
    """Segments bool or uint8[N,H,W] -> the outlines of all of them, uint8[H,W] of 0 and 255.

    Each segment is outlined by itself, since "everything" segmentations overlap and cover the picture; the border
    of the picture is no outline.
    """
    edges = np.zeros(segments.shape[1:], np.uint8)
    kernel = np.ones((3, 3), np.uint8)
    for segment in segments:
        inside = (segment > 0).astype(np.uint8) * 255
        edges |= np.asarray(cv2.morphologyEx(inside, cv2.MORPH_GRADIENT, kernel), np.uint8)
    return edges


class SegmentAnything(MaskProvider):
    """Segments of the whole picture, without prompts."""

    name = "sam"

    def __init__(self, weights: Path, *, side: int = SIDE, confidence: float = CONFIDENCE) -> None:
        """`weights`: a file of a name that ultralytics knows (`sam_b.pt`, `mobile_sam.pt`, `sam2.1_b.pt`,
        `FastSAM-s.pt`), which is a pickle: load only one you trust. Raises ModelNotFound or ModelCorrupt.
        """
        if not weights.is_file():
            raise ModelNotFound(
                f"no Segment Anything weights at {weights}: put sam_b.pt, mobile_sam.pt or FastSAM-s.pt of "
                "ultralytics there or give --sam-weights; `--masks human` needs none"
            )
        self._side, self._confidence, self._hash = side, confidence, file_hash(weights)
        self._model = _load(weights)

    @property
    def settings(self) -> Mapping[str, str | int | float]:
        return {
            "weights": self._hash,
            "side": self._side,
            "confidence": self._confidence,
            "dilation": DILATION_PIXELS,
        }

    def segments(self, image: U8) -> npt.NDArray[np.bool_]:
        """RGB uint8[H,W,3] -> bool[N,H,W], N from 0."""
        bgr = np.ascontiguousarray(image[:, :, ::-1])
        (result,) = self._model.predict(
            bgr, imgsz=self._side, conf=self._confidence, retina_masks=True, verbose=False
        )
        if result.masks is None:
            return np.zeros((0, *image.shape[:2]), np.bool_)
        return np.asarray(result.masks.data.cpu().numpy() > 0, np.bool_)

    def mask(self, path: Path, image: U8) -> U8:
        return widen(segment_edges(self.segments(image)))


def _load(weights: Path) -> Any:
    from ultralytics import SAM, FastSAM

    family = FastSAM if "fastsam" in weights.name.lower() else SAM
    try:
        return family(str(weights))
    except (
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelCorrupt(f"cannot load Segment Anything weights {weights}: {reason}") from error

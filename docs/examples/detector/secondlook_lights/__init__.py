"""A detector for Secondlook without a network: spots that are brighter than all around them."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from secondlook.plugin import Detection, ModelFolder

U8 = npt.NDArray[np.uint8]

_BRIGHT = 200  # of 255
_MOST_SHARE = 0.05  # of the frame; what is larger is sky
_MOST = 100


class LightsDetector:
    """What `secondlook.plugin.Detector` asks for."""

    name = "lights-1"
    classes = ("light",)

    def __init__(self, min_score: float) -> None:
        self._min_score = min_score

    def detect(self, image: U8) -> list[Detection]:
        """Spots in an RGB frame uint8[H,W,3], surest first."""
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        count, _, stats, _ = cv2.connectedComponentsWithStats((grey >= _BRIGHT).astype(np.uint8))
        found = []
        for x, y, width, height, area in stats[1:count].tolist():
            if area > _MOST_SHARE * grey.size:
                continue
            inside = float(np.mean(grey[y : y + height, x : x + width]))
            score = min(1.0, max(0.0, inside / 255))
            if score >= self._min_score:
                box = (float(x), float(y), float(x + width), float(y + height))
                found.append(Detection("light", score, box))
        return sorted(found, key=lambda one: (-one.score, one.box))[:_MOST]


def load(
    folder: ModelFolder | None, *, threads: int = 0, min_score: float = 0.1, device: str = "cpu"
) -> LightsDetector:
    """What the entry point `secondlook.detectors` leads to. `folder`: None, for there are no weights."""
    return LightsDetector(min_score)

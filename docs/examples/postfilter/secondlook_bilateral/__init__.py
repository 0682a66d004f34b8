"""A post-filter for Secondlook without a network: OpenCV's bilateral filter, the stronger the lower the quality."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from secondlook.plugin import ConfigError, ModelFolder

U8 = npt.NDArray[np.uint8]

VERSION = "1"
_DIAMETER, _STRIP = 5, 128  # pixels; rows that are filtered at once
_MARGIN = _DIAMETER // 2


class BilateralFilter:
    """What `secondlook.plugin.ImageFilter` asks for."""

    name = "bilateral"
    identity = f"bilateral:{VERSION}"

    def apply(self, image: U8, progress: Callable[[], None] = lambda: None, *, quality: int = 40) -> U8:
        """uint8[H,W,3] RGB to the same. Raises ConfigError for what is no picture."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise ConfigError(f"a picture is uint8[H,W,3], not {image.dtype}{list(image.shape)}")
        height = image.shape[0]
        strength = 2.0 + 12.0 * (63 - quality) / 63
        out = np.empty_like(image)
        for start in range(0, height, _STRIP):
            first, last = max(0, start - _MARGIN), min(height, start + _STRIP + _MARGIN)
            strip = cv2.bilateralFilter(np.ascontiguousarray(image[first:last]), _DIAMETER, strength, 2.0)
            end = min(height, start + _STRIP)
            out[start:end] = strip[start - first : end - first]
            progress()
        return out


def load(folder: ModelFolder | None, *, threads: int = 0, device: str = "cpu") -> BilateralFilter:
    """What the entry point `secondlook.postfilters` leads to. `folder`: None, for there are no weights."""
    return BilateralFilter()

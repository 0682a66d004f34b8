"""How noisy a camera's picture is: logic without I/O.

Of two frames in a row most pixels show the same thing, so the middle of their differences is noise alone.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

U8Image = npt.NDArray[np.uint8]

_MEMORY = 0.9  # of what was measured before, at each frame
_SIGMA = 1.4826  # standard deviation of a normal distribution whose median absolute deviation is 1


class NoiseMeter:
    """The noise of one camera."""

    def __init__(self) -> None:
        self._before: U8Image | None = None
        self.sigma = 0.0  # standard deviation of a pixel's brightness, in levels

    def see(self, image: U8Image) -> float:
        """Take in the next frame, uint8[H,W,3] RGB; the noise as known by now."""
        grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
        before, self._before = self._before, grey
        if before is not None and before.shape == grey.shape:
            difference = np.asarray(cv2.absdiff(grey, before), np.uint8)
            noise = _SIGMA * _median(difference) / math.sqrt(2)  # both frames have it
            self.sigma = _MEMORY * self.sigma + (1 - _MEMORY) * noise if self.sigma else noise
        return self.sigma


def _median(levels: npt.NDArray[np.uint8]) -> float:
    """Between the levels too, for that of a quiet camera lies below 1: by the share of the level that it falls in."""
    counts = np.bincount(levels.ravel(), minlength=256)
    half, below = levels.size / 2, 0.0
    for level, count in enumerate(counts.tolist()):
        if below + count >= half:
            inside = (half - below) / count
            # Differences are rounded: a level holds what is up to a half away, and 0 only what is above it.
            return float(0.5 * inside if level == 0 else level - 0.5 + inside)
        below += count
    return 255.0

"""The machine's second look, measured: crops where a detector doubts are fetched in full quality and looked at again.

What is sent besides the base layers is each crop in both layers of `lite`, as an enhancement would be, with
the bytes of its request and header. The detector then sees the decoded frame with the decoded crops in their places.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from secondlook.shared.codec import load_codec
from secondlook.shared.detection import Detection, Detector
from secondlook.shared.layers import LayeredCodec

U8 = npt.NDArray[np.uint8]
Crop = tuple[int, int, int, int]  # left, top, right, bottom, in pixels

DOUBTFUL = 0.15  # score from which a detection is worth a look, up to the one from which it is taken for true
CONFIDENT = 0.5
MOST_CROPS = 3  # of a frame
_MARGIN = 0.25  # of the sides of a box, on each side
_GRID = 16  # crops begin and end on multiples of it
_OVERHEAD_BYTES = 60  # of asking for a crop and of its header
_BASE_QUALITY, _QUALITY = 16, 40  # of a crop's layers: what an agent sends for people


def crops_of(found: Sequence[Detection], width: int, height: int) -> list[Crop]:
    """Where to look again: around the doubtful detections, the least sure of the sure ones first; none in another."""
    doubtful = sorted((one for one in found if DOUBTFUL <= one.score < CONFIDENT), key=lambda one: -one.score)
    crops: list[Crop] = []
    for one in doubtful:
        x0, y0, x1, y1 = one.box
        wide, high = _MARGIN * (x1 - x0), _MARGIN * (y1 - y0)
        left, top = (max(0, int(low) // _GRID * _GRID) for low in (x0 - wide, y0 - high))
        right = min(width, -(-int(x1 + wide + 1) // _GRID) * _GRID)
        bottom = min(height, -(-int(y1 + high + 1) // _GRID) * _GRID)
        inside = any(
            left >= a and top >= b and right <= c and bottom <= d for a, b, c, d in crops
        )  # of one that is fetched already
        if right - left >= _GRID and bottom - top >= _GRID and not inside:
            crops.append((left, top, right, bottom))
        if len(crops) == MOST_CROPS:
            break
    return crops


class SecondLook:
    """Looks again at decoded frames, with the frames as they were before coding at hand."""

    def __init__(self, codec: LayeredCodec | None = None) -> None:
        self._codec = codec or load_codec("lite", threads=1)

    def look(self, decoded: Sequence[U8], frames: Sequence[U8], detector: Detector) -> tuple[list[U8], int]:
        """The frames with their crops, uint8[H,W,3] each, and the bytes that these took."""
        seen, size = [], 0
        for shown, frame in zip(decoded, frames, strict=True):
            height, width = frame.shape[:2]
            better = shown.copy()
            for left, top, right, bottom in crops_of(detector.detect(shown), width, height):
                crop = np.ascontiguousarray(frame[top:bottom, left:right])
                layers = self._codec.encode(crop, base_quality=_BASE_QUALITY, quality=_QUALITY).layers
                size += len(layers.base) + len(layers.enhancement) + _OVERHEAD_BYTES
                better[top:bottom, left:right] = self._codec.decode_enhanced(layers.base, layers.enhancement)
            seen.append(better)
        return seen, size

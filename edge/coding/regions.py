"""What becomes of a camera's picture before it is coded: privacy masks, ignored regions, regions of interest.

Privacy masks are filled first, in the picture that everything else is made of: no layer, no background and no picture
that is kept holds what was there. What machines are shown is made of that: ignored regions are one grey, and outside
the regions of interest the picture is the background, in which nothing moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from secondlook.edge.config import RegionsConfig
from secondlook.edge.polygons import Mask, Polygon, fill, outline
from secondlook.shared.errors import ConfigError

U8Image = npt.NDArray[np.uint8]  # height x width x 3, RGB

MASKED = (0, 0, 0)
IGNORED = (114, 114, 114)  # what detectors are trained to see around a picture
# Pixels around a privacy mask that are filled with it: scaling and the camera's own coding smear what they take in.
MARGIN = 2
_KINDS = (("privacy", (230, 60, 60)), ("ignored", (240, 170, 40)), ("interest", (60, 200, 90)))


@dataclass(frozen=True)
class _Masks:
    """Of one size of picture; None where there is nothing to do."""

    hidden: Mask | None
    ignored: Mask | None
    still: Mask | None  # outside of the regions of interest
    watched: Mask | None  # what none of these covers


class Regions:
    """The polygons of one camera. Not for use by several threads."""

    def __init__(self, config: RegionsConfig) -> None:
        """Raises ConfigError."""
        self._polygons: dict[str, tuple[Polygon, ...]] = config.polygons()
        self._masks: dict[tuple[int, int], _Masks] = {}

    @property
    def need_background(self) -> bool:
        """Whether `for_machines` takes the place outside of the regions of interest from a background."""
        return bool(self._polygons["interest"])

    def hide(self, image: U8Image) -> U8Image:
        """The picture, uint8[H,W,3] RGB, with the privacy masks filled: a copy where there are any."""
        hidden = self._of(image).hidden
        return image if hidden is None else _laid_over(image, _flat(*image.shape[:2], MASKED), hidden)

    def for_machines(self, image: U8Image, background: U8Image | None) -> U8Image:
        """What is coded for machines, of a picture with its masks filled. `background`: of the same size and masks."""
        masks = self._of(image)
        if masks.still is not None and background is not None:
            if background.shape != image.shape:
                raise ConfigError(f"a background of {background.shape[:2]} for a frame of {image.shape[:2]}")
            image = _laid_over(image, background, masks.still)
        if masks.ignored is None:
            return image
        return _laid_over(image, _flat(*image.shape[:2], IGNORED), masks.ignored)

    def watched(self, height: int, width: int) -> Mask | None:
        """Where a movement counts: bool[H,W]; None for everywhere."""
        return self._for_size(height, width).watched

    def drawn_on(self, image: U8Image) -> U8Image:
        """A copy of the picture with the outlines of all polygons."""
        picture = image.copy()
        thickness = max(1, min(image.shape[:2]) // 240)
        for kind, colour in _KINDS:
            outline(picture, self._polygons[kind], colour, thickness=thickness)
        return picture

    def _of(self, image: U8Image) -> _Masks:
        return self._for_size(*image.shape[:2])

    def _for_size(self, height: int, width: int) -> _Masks:
        if (height, width) not in self._masks:
            self._masks.clear()  # a camera that changes its size does not change it back and forth
            covered = {
                kind: fill(polygons, width, height, margin=MARGIN if kind == "privacy" else 0)
                if polygons
                else None
                for kind, polygons in self._polygons.items()
            }
            inside = covered["interest"]
            hidden, ignored = covered["privacy"], covered["ignored"]
            still = None if inside is None else ~inside
            unwatched = [mask for mask in (hidden, ignored, still) if mask is not None]
            watched = ~np.logical_or.reduce(unwatched) if unwatched else None
            self._masks[height, width] = _Masks(hidden, ignored, still, watched)
        return self._masks[height, width]


def _laid_over(image: U8Image, other: U8Image, where: Mask) -> U8Image:
    """A copy of the picture that is the other one where the mask says so; NumPy takes several times as long."""
    picture = image.copy()
    cv2.copyTo(other, where.view(np.uint8), picture)
    return picture


@lru_cache(maxsize=4)
def _flat(height: int, width: int, colour: tuple[int, int, int]) -> U8Image:
    return np.full((height, width, 3), colour, np.uint8)

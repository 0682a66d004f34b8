"""Polygons in a camera's picture: how settings write them, and which pixels of a picture they touch.

A polygon is written as its corners, `x,y x,y x,y`: in percent of the picture's sides (`10%,25%`), or in pixels of a
picture whose size is given beside it. Either way it keeps its place when the camera sends another size.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np
import numpy.typing as npt

from secondlook.shared.errors import ConfigError

Mask = npt.NDArray[np.bool_]  # height x width

MAX_CORNERS = 100
_NUMBER = r"(\d{1,6}(?:\.\d{1,6})?)"
_CORNER = re.compile(rf"{_NUMBER}(%?),{_NUMBER}(%?)")
_SHIFT = 8  # fractional bits of corners when they are drawn
_LEAST_AREA = 1e-6  # of the picture

Point = tuple[float, float]


@dataclass(frozen=True)
class Polygon:
    """Corners in shares of the picture's width and height, 0 to 1; the last is joined to the first."""

    corners: tuple[Point, ...]

    @classmethod
    def parse(cls, text: str, picture: tuple[int, int] | None = None) -> Polygon:
        """`picture`: width and height of the picture that pixels are of. Raises ConfigError, without the name."""
        words = text.split()
        if not 3 <= len(words) <= MAX_CORNERS:
            raise ConfigError(f"has {len(words)} corners, a polygon has 3 to {MAX_CORNERS}")
        found = [_CORNER.fullmatch(word) for word in words]
        for word, match in zip(words, found, strict=True):
            if match is None or match[2] != match[4]:
                raise ConfigError(f"holds {word!r}, a corner is x,y in pixels or x%,y%")
        units = {match[2] for match in found if match is not None}
        if len(units) > 1:
            raise ConfigError("mixes percent and pixels")
        if units == {""} and picture is None:
            raise ConfigError("is in pixels, of which picture says regions.picture: set it")
        width, height = picture if picture is not None and units == {""} else (100, 100)
        corners = tuple((float(match[1]), float(match[3])) for match in found if match is not None)
        for x, y in corners:
            if x > width or y > height:
                raise ConfigError(f"has a corner {x:g},{y:g} outside of {width}x{height}")
        polygon = cls(tuple((x / width, y / height) for x, y in corners))
        polygon._check()
        return polygon

    def _check(self) -> None:
        """What crosses itself has insides that are told apart by taste, and a mask must leave no doubt."""
        edges = list(zip(self.corners, (*self.corners[1:], self.corners[0]), strict=True))
        last = len(edges) - 1
        for (at, one), (there, other) in combinations(enumerate(edges), 2):
            if there - at not in (1, last) and _cross(one, other):
                raise ConfigError("crosses itself")
        if abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in edges)) / 2 < _LEAST_AREA:
            raise ConfigError("has no area")

    def drawn(self, width: int, height: int) -> npt.NDArray[np.int32]:
        """The corners as OpenCV draws them, int32[N,1,2] with `_SHIFT` fractional bits: centres of pixels are whole."""
        scaled = [(x * width - 0.5, y * height - 0.5) for x, y in self.corners]
        corners = np.rint(np.array(scaled, np.float64) * (1 << _SHIFT))
        return np.asarray(corners[:, None], np.int32)


def _turn(a: Point, b: Point, c: Point) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _cross(one: tuple[Point, Point], other: tuple[Point, Point]) -> bool:
    """Whether two edges that are no neighbours meet."""
    (a, b), (c, d) = one, other
    sides = _turn(a, b, c) * _turn(a, b, d), _turn(c, d, a) * _turn(c, d, b)
    if max(sides) > 0:
        return False
    if max(sides) < 0:
        return True
    return all(
        max(min(p[axis] for p in one), min(p[axis] for p in other))
        <= min(max(p[axis] for p in one), max(p[axis] for p in other))
        for axis in (0, 1)
    )


def fill(polygons: Iterable[Polygon], width: int, height: int, *, margin: int = 0) -> Mask:
    """The pixels that polygons cover, and those up to `margin` pixels around: bool[H,W]."""
    drawn = np.zeros((height, width), np.uint8)
    for polygon in polygons:
        cv2.fillPoly(drawn, [polygon.drawn(width, height)], (1,), cv2.LINE_8, _SHIFT)
    if margin:
        drawn = np.asarray(cv2.dilate(drawn, np.ones((2 * margin + 1,) * 2, np.uint8)), np.uint8)
    return drawn.astype(bool)


def outline(
    picture: npt.NDArray[np.uint8],
    polygons: Iterable[Polygon],
    colour: tuple[int, int, int],
    *,
    thickness: int,
) -> None:
    """Draw the edges of polygons into uint8[H,W,3], in place."""
    height, width = picture.shape[:2]
    for polygon in polygons:
        corners = polygon.drawn(width, height)
        cv2.polylines(picture, [corners], True, colour, thickness, cv2.LINE_AA, _SHIFT)

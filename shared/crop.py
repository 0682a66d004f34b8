"""A crop: the part of a frame that is fetched by itself, since it is what a person is asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

GRID = 16  # crops begin and end on multiples of it, or where the frame ends
LEAST_SIDE = 64  # pixels: smaller ones are hardly cheaper
MAX_SHARE = 0.5  # of a frame: a larger crop saves too little to do without the rest
GROWN_SHARE = 0.2  # of a frame, up to which a crop grows to hold further boxes


@dataclass(frozen=True)
class Crop:
    """In pixels of the frame; `right` and `bottom` lie outside. Raises ValueError where there is nothing inside."""

    left: int
    top: int
    right: int
    bottom: int

    def __post_init__(self) -> None:
        if not (0 <= self.left < self.right and 0 <= self.top < self.bottom):
            raise ValueError(f"crop {self} holds nothing")

    def __str__(self) -> str:
        return f"{self.left},{self.top},{self.right},{self.bottom}"

    @classmethod
    def parse(cls, text: str) -> Crop:
        """What `str` made of one. Raises ValueError on anything else."""
        left, top, right, bottom = (int(part) for part in text.split(","))
        return cls(left, top, right, bottom)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.right - self.left, self.bottom - self.top

    @property
    def pixels(self) -> int:
        width, height = self.size
        return width * height

    @property
    def index(self) -> tuple[slice, slice]:
        """Rows and columns of an array of the frame."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def within(self, width: int, height: int) -> Crop | None:
        """The part that lies in a frame of this size; None where none does."""
        right, bottom = min(self.right, width), min(self.bottom, height)
        return Crop(self.left, self.top, right, bottom) if self.left < right and self.top < bottom else None

    @classmethod
    def around(
        cls, boxes: Sequence[tuple[float, float, float, float]], width: int, height: int, margin: float
    ) -> Crop | None:
        """What holds the first box (x0, y0, x1, y1 in pixels) with `margin` of its own sides around it, and those
        behind it as long as all together stay within `GROWN_SHARE` of a frame of this size.

        None where there is no box, or where the first one takes over `MAX_SHARE` of the frame.
        """
        crop: Crop | None = None
        for x0, y0, x1, y1 in boxes:
            wide, high = margin * (x1 - x0), margin * (y1 - y0)
            left, right = _span(x0 - wide, x1 + wide, width)
            top, bottom = _span(y0 - high, y1 + high, height)
            one = cls(left, top, right, bottom)
            if crop is None:
                crop = one
                continue
            both = crop._with(one)
            if both.pixels <= max(crop.pixels, GROWN_SHARE * width * height):
                crop = both
        return None if crop is None or crop.pixels > MAX_SHARE * width * height else crop

    def _with(self, other: Crop) -> Crop:
        return Crop(
            min(self.left, other.left),
            min(self.top, other.top),
            max(self.right, other.right),
            max(self.bottom, other.bottom),
        )


def _span(low: float, high: float, length: int) -> tuple[int, int]:
    """From the grid's line before `low` to the one behind `high`, `LEAST_SIDE` long at least, within 0..length."""
    missing = max(0.0, LEAST_SIDE - (high - low)) / 2
    first = max(0, int(low - missing) // GRID * GRID)
    first = min(first, max(0, length - LEAST_SIDE) // GRID * GRID)
    last = min(length, max(first + LEAST_SIDE, -(-int(high + missing + 1) // GRID) * GRID))
    return first, last

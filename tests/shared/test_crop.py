"""Crops of frames: around boxes, on a grid, within the frame, as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.shared.crop import GRID, GROWN_SHARE, LEAST_SIDE, Crop

sides = st.integers(min_value=1, max_value=4000)
shares = st.floats(min_value=0, max_value=1)


@given(sides, sides, st.lists(st.tuples(shares, shares, shares, shares), min_size=1, max_size=5), shares)
def test_around_boxes_the_first_is_in_it_and_it_in_the_frame(width, height, corners, margin) -> None:
    boxes = [
        (min(a, c) * width, min(b, d) * height, max(a, c) * width, max(b, d) * height)
        for a, b, c, d in corners
    ]
    crop, alone = (Crop.around(some, width, height, margin) for some in (boxes, boxes[:1]))
    assert (crop is None) == (alone is None)
    if crop is None or alone is None:
        return
    assert crop.within(width, height) == crop
    assert crop.pixels <= max(alone.pixels, GROWN_SHARE * width * height)
    x0, y0, x1, y1 = boxes[0]
    assert crop.left <= x0 <= x1 <= crop.right and crop.top <= y0 <= y1 <= crop.bottom
    assert crop.left % GRID == crop.top % GRID == 0
    assert crop.right % GRID == 0 or crop.right == width
    assert min(crop.size[0], width) >= min(LEAST_SIDE, width)
    assert Crop.parse(str(crop)) == crop


def test_a_margin_is_of_the_boxes_own_sides_and_small_boxes_get_room() -> None:
    assert Crop.around([(320, 160, 420, 260)], 1920, 1080, 0.5) == Crop(256, 96, 480, 320)
    assert Crop.around([(100, 100, 104, 108)], 1920, 1080, 0.5) == Crop(64, 64, 144, 144)
    assert Crop.around([(0, 0, 4, 4)], 1920, 1080, 0) == Crop(0, 0, 64, 64)
    assert Crop.around([(1915, 1075, 1920, 1080)], 1920, 1080, 0) == Crop(1856, 1008, 1920, 1080)


def test_what_is_most_of_a_frame_is_no_crop_of_it() -> None:
    assert Crop.around([], 640, 480, 0.5) is None
    assert Crop.around([(0, 0, 600, 400)], 640, 480, 0) is None
    near, far = (70, 10, 90, 30), (600, 440, 640, 480)
    assert Crop.around([(0, 0, 20, 20), far, near], 640, 480, 0) == Crop(0, 0, 128, 64)


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "4,0,4,9", "0,9,5,2", "-1,0,5,5", "a,b,c,d"])
def test_what_is_no_crop(text: str) -> None:
    with pytest.raises(ValueError):
        Crop.parse(text)


def test_a_crop_is_cut_to_the_frame() -> None:
    assert Crop(600, 400, 700, 500).within(640, 480) == Crop(600, 400, 640, 480)
    assert Crop(640, 0, 700, 50).within(640, 480) is None
    assert Crop(16, 32, 48, 96).index == (slice(32, 96), slice(16, 48))

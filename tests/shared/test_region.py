"""Parts of frames: around boxes, on a grid, within the frame, as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.shared.region import GRID, GROWN_SHARE, LEAST_SIDE, Region

sides = st.integers(min_value=1, max_value=4000)
shares = st.floats(min_value=0, max_value=1)


@given(sides, sides, st.lists(st.tuples(shares, shares, shares, shares), min_size=1, max_size=5), shares)
def test_around_boxes_the_first_is_in_it_and_it_in_the_frame(width, height, corners, margin) -> None:
    boxes = [
        (min(a, c) * width, min(b, d) * height, max(a, c) * width, max(b, d) * height)
        for a, b, c, d in corners
    ]
    region, alone = (Region.around(some, width, height, margin) for some in (boxes, boxes[:1]))
    assert (region is None) == (alone is None)
    if region is None or alone is None:
        return
    assert region.within(width, height) == region
    assert region.pixels <= max(alone.pixels, GROWN_SHARE * width * height)
    x0, y0, x1, y1 = boxes[0]
    assert region.left <= x0 <= x1 <= region.right and region.top <= y0 <= y1 <= region.bottom
    assert region.left % GRID == region.top % GRID == 0
    assert region.right % GRID == 0 or region.right == width
    assert min(region.size[0], width) >= min(LEAST_SIDE, width)
    assert Region.parse(str(region)) == region


def test_a_margin_is_of_the_boxes_own_sides_and_small_boxes_get_room() -> None:
    assert Region.around([(320, 160, 420, 260)], 1920, 1080, 0.5) == Region(256, 96, 480, 320)
    assert Region.around([(100, 100, 104, 108)], 1920, 1080, 0.5) == Region(64, 64, 144, 144)
    assert Region.around([(0, 0, 4, 4)], 1920, 1080, 0) == Region(0, 0, 64, 64)
    assert Region.around([(1915, 1075, 1920, 1080)], 1920, 1080, 0) == Region(1856, 1008, 1920, 1080)


def test_what_is_most_of_a_frame_is_no_part_of_it() -> None:
    assert Region.around([], 640, 480, 0.5) is None
    assert Region.around([(0, 0, 600, 400)], 640, 480, 0) is None
    near, far = (70, 10, 90, 30), (600, 440, 640, 480)
    assert Region.around([(0, 0, 20, 20), far, near], 640, 480, 0) == Region(0, 0, 128, 64)


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "4,0,4,9", "0,9,5,2", "-1,0,5,5", "a,b,c,d"])
def test_what_is_no_part(text: str) -> None:
    with pytest.raises(ValueError):
        Region.parse(text)


def test_a_part_is_cut_to_the_frame() -> None:
    assert Region(600, 400, 700, 500).within(640, 480) == Region(600, 400, 640, 480)
    assert Region(640, 0, 700, 50).within(640, 480) is None
    assert Region(16, 32, 48, 96).index == (slice(32, 96), slice(16, 48))

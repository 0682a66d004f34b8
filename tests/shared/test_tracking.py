"""Objects over frames: parked, passing, hidden, out of order; and where zones are."""

from __future__ import annotations

import random

import pytest

from secondlook.shared.detection import Detection
from secondlook.shared.errors import ConfigError
from secondlook.shared.tracking import Track, begin, follow, iou
from secondlook.shared.zones import parse_zone, stands_in

SECOND = 1_000_000_000


def car(
    x: float, y: float = 100.0, *, score: float = 0.8, label: str = "car", size: float = 60.0
) -> Detection:
    return Detection(label, score, (x, y, x + size, y + size / 2))


class Camera:
    """Follows objects as the catalogue does, without one."""

    def __init__(self) -> None:
        self.tracks: list[Track] = []

    def frame(self, at_seconds: float, *found: Detection) -> list[int | None]:
        """The number of the object of each detection."""
        numbers: list[int | None] = []
        for index, track in follow(list(self.tracks), found, round(at_seconds * SECOND)):
            if track is None:
                numbers.append(None)
            elif index is None:
                self.tracks.append(track)
                numbers.append(len(self.tracks) - 1)
            else:
                self.tracks[index] = track
                numbers.append(index)
        return numbers


def test_a_parked_car_is_one_object_for_hours_and_through_a_minute_hidden() -> None:
    camera, rng = Camera(), random.Random(1)
    seen = set()
    for second in range(3600):
        if second % 600 < 560:  # a lorry stands before it for 40 s
            seen.update(camera.frame(second, car(200 + rng.uniform(-2, 2), score=rng.uniform(0.3, 0.9))))
    assert seen == {0}
    assert camera.tracks[0].first_ns == 0 and camera.tracks[0].frames == 3360


def test_a_car_that_passes_is_one_object_and_the_next_another() -> None:
    camera = Camera()
    first = [camera.frame(0.2 * step, car(10 + 15 * step)) for step in range(30)]
    assert first == [[0]] * 30
    assert camera.frame(9.0, car(10)) == [1], "three seconds later another comes the same way"
    assert camera.tracks[0].speed[0] == pytest.approx(75, rel=0.05)


def test_fast_things_are_found_where_they_should_be_by_now() -> None:
    """A step of its whole length a frame: nothing overlaps where it was."""
    camera = Camera()
    assert camera.frame(0.0, car(0)) == [0]
    assert camera.frame(0.2, car(25)) == [0]
    assert camera.frame(0.7, car(87)) == [0]
    assert iou(car(25).box, car(87).box) == 0


def test_two_that_cross_keep_their_numbers() -> None:
    camera = Camera()
    for step in range(40):
        numbers = camera.frame(0.2 * step, car(10 * step), car(390 - 10 * step, 118.0))
        assert numbers == [0, 1]


def test_what_the_detector_is_unsure_of_carries_an_object_on_and_begins_none() -> None:
    camera = Camera()
    assert camera.frame(0.0, car(100, score=0.15)) == [None]
    assert camera.frame(0.2, car(100)) == [0]
    assert camera.frame(0.4, car(101, score=0.15)) == [0]
    assert camera.frame(0.6, car(300, score=0.15)) == [None]


def test_the_sure_one_is_matched_first() -> None:
    camera = Camera()
    camera.frame(0.0, car(100))
    assert camera.frame(0.2, car(101, score=0.3), car(104, score=0.9)) == [1, 0]


def test_a_car_that_was_a_truck_a_moment_ago_is_the_same_where_it_is_at_the_same_place() -> None:
    camera = Camera()
    camera.frame(0.0, car(100))
    assert camera.frame(0.2, car(100, label="truck", score=0.9)) == [0]
    assert camera.tracks[0].label == "truck", "the surest name"
    assert camera.frame(0.4, car(130, label="person", score=0.9)) == [1]


def test_frames_may_come_in_any_order() -> None:
    order = list(range(30))
    random.Random(4).shuffle(order)
    camera = Camera()
    for step in order:
        assert camera.frame(0.2 * step, car(200 + step / 10)) == [0]
    track = camera.tracks[0]
    assert (track.first_ns, track.last_ns, track.frames) == (0, round(5.8 * SECOND), 30)
    assert track.box == car(202.9).box, "the latest, not the last that came"


def test_no_two_detections_of_a_frame_are_one_object() -> None:
    rng = random.Random(7)
    camera = Camera()
    for step in range(60):
        found = [
            car(rng.uniform(0, 300), rng.uniform(0, 200), score=rng.random())
            for _ in range(rng.randint(0, 12))
        ]
        numbers = [number for number in camera.frame(step / 5, *found) if number is not None]
        assert len(numbers) == len(set(numbers))


def test_an_object_is_sought_for_as_long_as_it_may_be_away() -> None:
    standing = begin(car(0), 0)
    assert standing.is_sought(60 * SECOND) and not standing.is_sought(61 * SECOND)
    moving = standing.seen(car(30), SECOND)
    assert moving.is_sought(3 * SECOND) and not moving.is_sought(4 * SECOND)


def test_overlaps() -> None:
    assert iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert iou((0, 0, 10, 10), (10, 0, 20, 10)) == 0


def test_a_zone_is_a_polygon_of_a_camera_host() -> None:
    zone = parse_zone("gate: 0,0.5 1,0.5 1,1 0,1")
    assert zone.edge_id == "gate" and zone.holds((0.3, 0.8)) and not zone.holds((0.3, 0.4))
    notch = parse_zone("*: 0,0 1,0 1,1 0.5,0.2 0,1")
    assert notch.holds((0.1, 0.5)) and not notch.holds((0.5, 0.6))
    assert stands_in([zone], "gate", (0.3, 0.8)) and not stands_in([zone], "gate", (0.3, 0.1))
    assert stands_in([zone], "barn", (0.3, 0.1)), "where there is no zone everything counts"
    assert not stands_in([notch], "barn", (0.5, 0.6))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gate",
        "gate:",
        "gate: 0,0 1,1",
        ": 0,0 1,0 1,1",
        "gate: 0,0 1,0 1,2",
        "gate: 0,0 1,0 nan,1",
        "gate: 0 1 2",
    ],
)
def test_texts_that_are_no_zone(text: str) -> None:
    with pytest.raises(ConfigError, match="zone"):
        parse_zone(text)

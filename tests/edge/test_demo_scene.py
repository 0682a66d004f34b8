"""The drawn street: the same whatever the rate, cars that never meet, and a detector that finds them."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from secondlook.edge.source.demo_scene import _CAR_LENGTH, _LANES, HEIGHT, WIDTH, Scene, cars_of


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


def test_a_frame_depends_on_its_time_alone(scene: Scene) -> None:
    first = scene.image(3.2)
    assert (first.shape, first.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    scene.image(50.0)
    assert np.array_equal(first, scene.image(3.2))
    assert np.array_equal(first, Scene().image(3.2))


@pytest.mark.parametrize("number", range(len(_LANES)))
def test_cars_keep_their_numbers_and_their_distance(number: int) -> None:
    lane, step = _LANES[number], 0.5
    before: dict[int, float] = {}
    for tick in range(400):
        now = dict(cars_of(lane, number, tick * step))
        for car in before.keys() & now.keys():
            assert now[car] - before[car] == pytest.approx(lane.speed * step)
        for one, other in itertools.pairwise(sorted(now.values())):
            assert other - one >= lane.gaps[0] > _CAR_LENGTH
        before = now


def test_traffic_has_no_end(scene: Scene) -> None:
    day = 86_400.0
    assert sum(len(list(cars_of(lane, number, day))) for number, lane in enumerate(_LANES)) >= 4
    assert not np.array_equal(scene.image(day), scene.image(0.0))


def test_cars_are_sharp_and_the_street_stays(scene: Scene) -> None:
    frames = [scene.image(number * 0.4).astype(int) for number in range(6)]
    still = np.median(frames, axis=0)
    changed = [(np.abs(frame - still) > 40).any(axis=2).mean() for frame in frames]
    assert min(changed) > 0.005 and max(changed) < 0.3
    assert cv2.Laplacian(frames[0].astype(np.uint8), cv2.CV_64F).std() > 10


def test_the_shipped_detector_sees_cars(scene: Scene) -> None:
    """What the demo is for: sure finds in most frames, a doubt now and then, and few that are none."""
    detectors = pytest.importorskip("secondlook.cloud.workers.detectors")
    detector = detectors.load_detector("builtin", threads=1)
    found = [detector.detect(scene.image(second)) for second in range(30)]
    sure = [[one for one in frame if one.score >= 0.55] for frame in found]
    assert sum(map(bool, sure)) >= 27
    assert {one.label for frame in sure for one in frame} == {"car"}
    assert 3 <= sum(any(0.30 <= one.score < 0.55 for one in frame) for frame in found) <= 27

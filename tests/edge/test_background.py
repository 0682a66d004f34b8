"""The background: learned from what stays, never from what pauses, renewed when it is worth a key."""

from __future__ import annotations

import numpy as np
import pytest

from secondlook.edge.coding.background import Background, BackgroundRules, Renewed
from secondlook.shared.errors import ConfigError
from tests.pictures import photo

HEIGHT, WIDTH = 64, 96
GROUND = photo(HEIGHT, WIDTH)
RED = (230, 30, 30)


def scene(left: int | None = None, *, seed: int = 0, light: int = 0) -> np.ndarray:
    """The ground with a little noise, and a red square at `left` when there is one."""
    image = GROUND.astype(int) + light
    if left is not None:
        image[20:50, left : left + 24] = RED
    noise = np.random.default_rng(seed).normal(0, 1.5, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def off(image: np.ndarray, light: int = 0) -> float:
    """Share of pixels that are not the ground's."""
    truth = np.clip(GROUND.astype(int) + light, 0, 255)
    return float((np.abs(image.astype(int) - truth).max(axis=2) >= 16).mean())


def watch(background: Background, frames, start: float = 0.0):
    """What is handed out while `frames` come one a second: (second, picture, why)."""
    handed = []
    for number, image in enumerate(frames):
        if (new := background.learn(image, start + number)) is not None:
            handed.append((number, *new))
    return handed


def test_the_first_frame_is_the_first_background() -> None:
    (first,) = watch(Background(), [scene(10)])
    assert first[0] == 0 and first[2] is Renewed.FIRST
    assert np.array_equal(first[1], scene(10))


def test_what_moves_off_after_the_first_frame_leaves_the_background_soon() -> None:
    frames = [scene(10)] + [scene(seed=n) for n in range(1, 30)]
    handed = watch(Background(), frames)
    assert off(handed[0][1]) > 0.1
    assert len(handed) == 2 and handed[1][2] is Renewed.LEARNED
    assert handed[1][0] < 15 and off(handed[1][1]) < 0.01


@pytest.mark.parametrize("pause", [10, 30, 55])
def test_what_pauses_does_not_enter(pause: int) -> None:
    background = Background()
    watch(background, [scene(seed=n) for n in range(260)])
    pausing = [scene(30, seed=n) for n in range(pause)] + [scene(seed=n) for n in range(100)]
    assert watch(background, pausing, start=260) == []


def test_what_stays_does() -> None:
    background = Background()
    watch(background, [scene(seed=n) for n in range(260)])
    ((second, picture, why),) = watch(background, [scene(30, seed=n) for n in range(90)], start=260)
    assert 55 <= second <= 65 and why is Renewed.LEARNED
    assert abs(int(picture[30, 40, 0]) - RED[0]) < 8


def test_passers_by_never_enter() -> None:
    """A road that is seldom empty: the square stands at another place in every sample."""
    frames = [scene((13 * n) % 70, seed=n) for n in range(200)]
    handed = watch(Background(), frames)
    assert off(handed[-1][1]) < 0.01
    assert all(second < 30 for second, _, _ in handed)  # all learned by then, and nothing forgotten since


def test_other_light_is_seen_within_three_samples_and_dusk_is_followed_without_a_key_a_minute() -> None:
    background = Background()
    watch(background, [scene(seed=n) for n in range(260)])
    handed = watch(background, [scene(seed=n, light=50) for n in range(60)], start=260)
    assert [(second, why) for second, _, why in handed] == [(2, Renewed.CHANGED)]
    assert off(handed[0][1], light=50) < 0.01

    dusk = [scene(seed=n, light=50 - n // 8) for n in range(400)]
    handed = watch(background, dusk, start=320)
    assert 1 <= len(handed) <= 4 and {why for _, _, why in handed} == {Renewed.LEARNED}


def test_a_flash_is_not_other_light() -> None:
    background = Background()
    watch(background, [scene(seed=n) for n in range(260)])
    flash = [scene(light=80), scene(light=80), *(scene(seed=n) for n in range(30))]
    assert watch(background, flash, start=260) == []


def test_frames_between_samples_cost_and_change_nothing() -> None:
    background = Background(BackgroundRules(sample_seconds=1.0, first_patience=2, patience=2))
    background.learn(scene(), 0.0)
    for number in range(1, 20):
        assert background.learn(scene(10, seed=number), number / 25) is None


def test_what_was_handed_out_stays_as_it_was_and_another_size_begins_anew() -> None:
    background = Background()
    first = background.learn(scene(), 0.0)
    assert first is not None
    kept = first[0].copy()
    watch(background, [scene(seed=n, light=10) for n in range(20)], start=1)
    assert np.array_equal(first[0], kept)
    smaller = background.learn(scene()[:32], 30.0)
    assert smaller is not None and smaller[1] is Renewed.FIRST and smaller[0].shape == (32, WIDTH, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sample_seconds": 0.0},
        {"patience": 3},
        {"renew_share": 0.0},
        {"changed_share": 1.5},
        {"difference": 0},
        {"changed_samples": 0},
    ],
)
def test_rules_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        BackgroundRules(**wrong)

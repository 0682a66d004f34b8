"""Deltas of `lite` on cameras: what counts as a change, and that the smaller of key and delta is sent."""

from __future__ import annotations

import numpy as np
import pytest

from secondlook.edge.coding.encode import FrameEncoder
from secondlook.edge.coding.noise import NoiseMeter
from secondlook.edge.config import CodecConfig
from secondlook.edge.source.camera import Frame
from secondlook.shared.codec import load_codec
from secondlook.shared.errors import ConfigError
from tests.pictures import photo, psnr

BOOT = "a" * 32
SCENE = photo(128, 192)


@pytest.fixture(scope="module")
def codec():
    return load_codec(threads=1)


def noisy(sigma: float, seed: int, scene: np.ndarray = SCENE) -> np.ndarray:
    """With noise of brightness, as a camera's."""
    grey = np.random.default_rng(seed).normal(0, sigma, scene.shape[:2])[..., None]
    return np.clip(np.rint(scene + grey), 0, 255).astype(np.uint8)


def encoded(codec, images: list[np.ndarray], **settings: object):
    encoder = FrameEncoder(codec, CodecConfig(key_interval=50, **settings), BOOT)
    return [encoder.encode(Frame(image, 0)) for image in images], encoder


@pytest.mark.parametrize("levels", [3.0, 6.0, 12.0])
def test_the_unit_is_noise_of_so_many_levels(codec, levels: float) -> None:
    key = codec.encode(SCENE, base_quality=16, quality=40).key
    shares = {
        part: codec.encode(
            noisy(part * levels, 1), base_quality=16, quality=40, key=key, change_levels=levels
        ).changed
        for part in (0.75, 1.5)
    }
    assert shares[0.75] < 0.1 and shares[1.5] > 0.9


def test_without_a_setting_quality_says_how_much_as_before(codec) -> None:
    key = codec.encode(SCENE, base_quality=16, quality=40).key
    image = noisy(5.7, 1)
    before = codec.encode(image, base_quality=16, quality=40, key=key)
    same = codec.encode(image, base_quality=16, quality=40, key=key, change_levels=5.71)
    assert 0 < before.changed < 1 and same.changed == pytest.approx(before.changed, abs=0.05)


@pytest.mark.parametrize("sigma", [0.5, 2, 5, 10])
def test_noise_is_measured_whatever_moves(sigma: float) -> None:
    meter = NoiseMeter()
    grey = np.full((120, 160, 3), 128, np.uint8)
    for number in range(20):
        image = noisy(sigma, number, grey)
        image[:, 8 * number : 8 * number + 40] = 240
        meter.see(image)
    assert meter.sigma == pytest.approx(sigma, rel=0.25)
    meter.see(grey[:60])
    assert meter.sigma == pytest.approx(sigma, rel=0.25), "another size is no noise"


def test_noise_of_the_camera_is_no_change_however_low_the_setting(codec) -> None:
    images = [noisy(6, seed) for seed in range(4)]
    frames, _ = encoded(codec, images, change_levels=1.0)
    assert [frame.info.key_seq for frame in frames] == [None, 0, 0, 0]
    assert max(len(frame.base) for frame in frames[1:]) < 0.2 * len(frames[0].base)
    quiet, _ = encoded(codec, [images[0], noisy(6, 1, images[0])], change_levels=1.0)
    assert len(quiet[1].base) < 0.2 * len(quiet[0].base)


def test_what_moves_is_coded_all_the_same(codec) -> None:
    image = noisy(3, 9)
    image[32:96, 64:128] = 255 - image[32:96, 64:128]
    frames, _ = encoded(codec, [noisy(3, 1), noisy(3, 2), image], change_levels=4.0)
    shown = codec.decode_base(frames[2].base, key=frames[0].base)
    alone = codec.decode_base(codec.encode(image, base_quality=16, quality=40).layers.base)
    part = slice(40, 88), slice(72, 120)
    assert psnr(shown[part], image[part]) > psnr(alone[part], image[part]) - 1


def test_the_smaller_of_key_and_delta_is_sent_and_a_new_key_is_the_next_ones(codec) -> None:
    other = photo(128, 192)[::-1, ::-1].copy()
    frames, _ = encoded(codec, [SCENE, SCENE, other, other])
    assert [frame.info.key_seq for frame in frames] == [None, 0, None, 2]
    as_delta = codec.encode(
        other, base_quality=16, quality=40, key=codec.encode(SCENE, base_quality=16, quality=40).key
    )
    assert len(frames[2].base) <= len(as_delta.layers.base)
    assert len(frames[3].base) < 0.2 * len(frames[2].base)
    assert psnr(codec.decode_base(frames[3].base, key=frames[2].base), codec.decode_base(frames[2].base)) > 40


def test_levels_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"change_levels is 0, it must be a number from 0\.1 to 255 levels"):
        CodecConfig(change_levels=0)

"""Figures of rate and distortion, and the peers that our curves stand beside."""

from __future__ import annotations

import numpy as np
import pytest

for package in ("av", "torch", "pytorch_msssim"):
    pytest.importorskip(package, reason="training is not installed")

# ruff: noqa: E402 - what follows needs them
from secondlook.training.bench_cli import PEER_NAMES
from secondlook.training.published import KODAK_CURVES, is_kodak
from secondlook.training.rate_distortion import PEERS, Point, bd_rate, bpp, ms_ssim, psnr
from tests.pictures import photo


def test_the_command_offers_every_peer() -> None:
    assert (*PEERS, *KODAK_CURVES) == PEER_NAMES


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_spends_more_bits_on_higher_quality(name: str) -> None:
    peer, image = PEERS[name], photo(192, 128)
    low, high = (peer.encode(image, quality) for quality in (peer.qualities[0], peer.qualities[-1]))
    decoded = peer.decode(high)
    assert decoded.shape == image.shape and decoded.dtype == np.uint8
    assert bpp(len(low), image) < bpp(len(high), image)
    assert psnr(image, peer.decode(low)) < psnr(image, decoded)
    assert psnr(image, decoded) > 30


def test_half_the_bits_at_every_quality_is_a_bd_rate_of_minus_fifty_percent() -> None:
    theirs = [Point(rate, 30 + 4 * step) for step, rate in enumerate((0.2, 0.5, 1.0, 1.9))]
    assert bd_rate([Point(p.bpp / 2, p.psnr) for p in theirs], theirs) == pytest.approx(-50)


def test_ms_ssim_falls_with_noise_and_needs_five_scales() -> None:
    image = photo(192, 176)
    rng = np.random.default_rng(1)
    little, much = (
        np.clip(image + rng.normal(0, sigma, image.shape), 0, 255).astype(np.uint8) for sigma in (5, 30)
    )
    a, b, c = (ms_ssim(image, other) for other in (image, little, much))
    assert a is not None and b is not None and c is not None
    assert a == pytest.approx(1) and a > b > c > 0
    assert ms_ssim(image[:160], image[:160]) is None


def test_published_curves_rise_and_stand_beside_the_whole_set_only() -> None:
    for points in KODAK_CURVES.values():
        assert sorted(points, key=lambda p: p.bpp) == sorted(points, key=lambda p: p.psnr) == list(points)
    assert is_kodak([(512, 768)] * 18 + [(768, 512)] * 6)
    assert not is_kodak([(512, 768)] * 23) and not is_kodak([(100, 100)] * 24)

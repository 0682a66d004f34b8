"""What every post-filter must do, and that this one takes noise away."""

from __future__ import annotations

import numpy as np

import secondlook
from secondlook.conformance import PostFilterConformance, psnr


class TestBilateral(PostFilterConformance):
    """By its name, as settings give it: the package is installed."""

    postfilter = "bilateral"


def test_noise_goes() -> None:
    clean = np.full((80, 90, 3), 120, np.uint8)
    noise = np.random.default_rng(0).integers(-6, 7, clean.shape)
    noisy = (clean.astype(np.int16) + noise).astype(np.uint8)
    assert psnr(clean, secondlook.refine(noisy, model="bilateral")) > psnr(clean, noisy) + 2

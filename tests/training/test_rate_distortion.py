"""Figures of rate and distortion, and the peers that our curves stand beside."""

from __future__ import annotations

import numpy as np
import pytest

from tests.pictures import photo
from training.main import PEER_NAMES
from training.rate_distortion import PEERS, Point, bd_rate, bpp, psnr


def test_the_command_offers_every_peer() -> None:
    assert tuple(PEERS) == PEER_NAMES


@pytest.mark.parametrize("name", PEER_NAMES)
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

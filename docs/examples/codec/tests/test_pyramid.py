"""What every codec family must do, and what this one does besides."""

from __future__ import annotations

import numpy as np
from secondlook_pyramid import MODELS

import secondlook
from secondlook.conformance import CodecConformance, picture


class TestPyramid(CodecConformance):
    """By its name, as settings give it: the package is installed."""

    model = "pyramid"


class TestFolder(CodecConformance):
    """By its folder."""

    model = MODELS / "pyramid"


def test_the_finest_step_loses_nothing() -> None:
    image = picture(75, 61)
    layers = secondlook.encode(image, quality=63, model="pyramid")
    assert np.array_equal(secondlook.decode_enhanced(layers), image)


def test_the_stream_names_the_family() -> None:
    layers = secondlook.encode(picture(16, 16), model="pyramid")
    assert secondlook.inspect(layers.base).family == "pyramid"

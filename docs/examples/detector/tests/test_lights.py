"""What every detector must do, and that this one sees a lamp."""

from __future__ import annotations

import numpy as np

import secondlook
from secondlook.conformance import DetectorConformance


class TestLights(DetectorConformance):
    """By its name, as settings give it: the package is installed."""

    detector = "lights"


def test_a_lamp_at_night() -> None:
    night = np.zeros((60, 80, 3), np.uint8)
    night[20:26, 30:38] = 250
    (found,) = secondlook.detect(night, detector="lights")
    assert (found.label, found.box) == ("light", (30.0, 20.0, 38.0, 26.0))

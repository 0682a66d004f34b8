"""Qualities as people write them."""

from __future__ import annotations

import argparse

import pytest

from secondlook.shared.bitstream import MAX_QUALITY
from secondlook.shared.quality import PRESETS, parse_quality


def test_numbers_and_presets():
    assert [parse_quality(str(q)) for q in (0, 40, MAX_QUALITY)] == [0, 40, MAX_QUALITY]
    assert parse_quality("lambda-0.010") == PRESETS["lambda-0.010"] == 35


def test_a_preset_is_the_integer_nearest_to_its_lambda():
    for name, quality in PRESETS.items():
        lam = float(name.removeprefix("lambda-"))
        distance = {q: abs(q - 63 * _log60(lam / 0.001)) for q in range(MAX_QUALITY + 1)}
        assert min(distance, key=distance.__getitem__) == quality


def _log60(x):
    import math

    return math.log(x) / math.log(60)


@pytest.mark.parametrize("text", ["", "-1", "64", "4.5", "lambda", "lambda-0.5", "1e1", "٣"])
def test_what_is_no_quality(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"0 to 63, or one of lambda-0\.005"):
        parse_quality(text)

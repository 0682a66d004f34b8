"""Qualities 0..63 of a layered codec, and the names of four of them.

A quality is a λ of the training loss R + λ·255²·MSE, on a geometric scale: λ(q) = 0.001 · 60^(q/63). The named ones are
the four λ of the paper this project builds on, at the integers nearest to them.
"""

from __future__ import annotations

import argparse

from secondlook.shared.bitstream import MAX_QUALITY

DEFAULT_QUALITY = 40  # of both layers, as a camera host has it
PRESETS = {"lambda-0.005": 25, "lambda-0.010": 35, "lambda-0.020": 46, "lambda-0.030": 52}


def parse_quality(text: str) -> int:
    """A quality from a command line: 0..63, or a preset's name. Raises argparse.ArgumentTypeError."""
    if text in PRESETS:
        return PRESETS[text]
    if not text.isascii() or not text.isdigit() or int(text) > MAX_QUALITY:
        raise argparse.ArgumentTypeError(f"a quality is 0 to {MAX_QUALITY}, or one of {', '.join(PRESETS)}")
    return int(text)

"""Types of flags: numbers with their limits, so that what is out of range is one line and not a traceback later."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def positive(text: str) -> float:
    """A number above 0. Raises argparse.ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def at_least(low: int, step: int = 1) -> Callable[[str], int]:
    """A whole number from `low` on, in steps of `step`."""

    def whole(text: str) -> int:
        value = int(text) if text.isascii() and text.isdigit() else -1
        if value < low or value % step:
            steps = f", a multiple of {step}" if step > 1 else ""
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} on{steps}")
        return value

    return whole


def pair(text: str) -> tuple[str, str]:
    """NAME=CLASS, without spaces around either."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=CLASS")
    return name, value


def class_map_flag(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Which classes the categories of an annotation file are."""
    parser.add_argument(
        "--class-map",
        type=pair,
        action="append",
        default=[],
        metavar="NAME=CLASS",
        help="a category of the annotations, and the detector's class that it is; may repeat",
    )


def run_flags(parser: argparse.ArgumentParser, seed: int) -> None:
    """What every training run has beside its time."""
    parser.add_argument(
        "--seed", type=at_least(0), default=seed, help="of all that is drawn (default %(default)s)"
    )
    parser.add_argument(
        "--tensorboard", action="store_true", help="write events for TensorBoard as well, beside the CSV file"
    )

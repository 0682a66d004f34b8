"""Pauses between attempts: doubling, capped, and jittered so that many hosts do not return at once."""

from __future__ import annotations

import random


class Backoff:
    """Gives the next pause in seconds: between half and all of a limit that doubles from low to high."""

    def __init__(self, low_seconds: float, high_seconds: float, rng: random.Random) -> None:
        self._low = low_seconds
        self._high = high_seconds
        self._rng = rng
        self._limit = low_seconds

    def next(self) -> float:
        pause = self._limit * self._rng.uniform(0.5, 1.0)
        self._limit = min(self._limit * 2.0, self._high)
        return pause

    def reset(self) -> None:
        """The attempt worked: begin low again."""
        self._limit = self._low

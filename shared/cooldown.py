"""How often a person is told: after one message about a thing, none about the same for so long.

Logic without I/O; instants are seconds of one clock, handed in. What a restart forgets is when it told last, so that a
message may come once more.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from secondlook.shared.conditions import Change

_MAX_KEYS = 10_000  # of things that are remembered; beyond, the oldest are forgotten


@dataclass
class _Told:
    at: float
    passed_over: int = 0


@dataclass
class Cooldown:
    """Of events: those of one key are passed over for `seconds` after one of them was told."""

    seconds: float
    _told: dict[Hashable, _Told] = field(default_factory=dict)

    def take(self, key: Hashable, now: float) -> int | None:
        """None where it is to be passed over; else how many of this key were, since one was told."""
        if self.seconds <= 0:
            return 0
        told = self._told.get(key)
        if told is not None and 0 <= now - told.at < self.seconds:
            told.passed_over += 1
            return None
        self._told.pop(key, None)
        self._told[key] = _Told(now)
        while len(self._told) > _MAX_KEYS:
            del self._told[next(iter(self._told))]
        return 0 if told is None else told.passed_over

    def copy(self) -> Cooldown:
        """Another one that knows the same: to try what a batch of events comes to, and throw that away if need be."""
        return Cooldown(
            self.seconds, {key: _Told(one.at, one.passed_over) for key, one in self._told.items()}
        )


@dataclass
class _Heard:
    """Of one condition and subject: when it was told to begin, whether that holds for who was told, what waits."""

    began_at: float
    holds: bool = False
    waiting: Change | None = None


@dataclass
class CalmChanges:
    """Of conditions that begin and end: one that begins again within `seconds` waits, and is told if it lasts.

    An end is told at once, and only to who heard of the beginning. So one that comes and goes makes two messages in
    `seconds` at most, and one that stays is never kept back for longer than that.
    """

    seconds: float
    _heard: dict[tuple[str, str], _Heard] = field(default_factory=dict)

    def take(self, change: Change, now: float) -> bool:
        """Whether to tell of it now."""
        if self.seconds <= 0:
            return True
        self._forget(now)
        key = (change.condition.name, change.condition.subject)
        heard = self._heard.get(key)
        if not change.began:
            if heard is None:
                return True  # it began before this process, or before it was watched
            waited, heard.waiting = heard.waiting, None
            held, heard.holds = heard.holds, False
            return held and waited is None
        if heard is None or not 0 <= now - heard.began_at < self.seconds:
            self._heard[key] = _Heard(now, holds=True)
            return True
        heard.waiting = change
        return False

    def due(self, now: float) -> list[Change]:
        """Beginnings that have waited for long enough, and still hold."""
        found = []
        for heard in self._heard.values():
            if heard.waiting is not None and not 0 <= now - heard.began_at < self.seconds:
                found.append(heard.waiting)
                heard.began_at, heard.holds, heard.waiting = now, True, None
        return found

    def wait_seconds(self, now: float) -> float | None:
        """Until something is due; None where nothing waits."""
        waits = [
            max(0.0, heard.began_at + self.seconds - now)
            for heard in self._heard.values()
            if heard.waiting is not None
        ]
        return min(waits, default=None)

    def _forget(self, now: float) -> None:
        over = [
            key
            for key, heard in self._heard.items()
            if not heard.holds and heard.waiting is None and now - heard.began_at >= self.seconds
        ]
        for key in over:
            del self._heard[key]

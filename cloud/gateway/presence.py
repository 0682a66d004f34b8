"""Which workers and refiners are there, by what they tell of themselves every few seconds.

Logic without I/O; instants are Unix seconds handed in as ``now``. One that says nothing any more is kept, so that it
can be told of, until another of its role comes up on its host, or for a day.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

_FORGET_SECONDS = 86_400.0
_MOST = 1000
AWAY_SECONDS = 15.0


@dataclass(frozen=True)
class Present:
    """A worker or refiner. ``age_seconds`` is that of its heartbeat, ``waits`` why its work stands still."""

    name: str
    role: str
    host: str
    first_at: float
    heard_at: float
    age_seconds: float
    waits: str
    done: int  # frames or reviews since it started
    device: str
    shed: int = 0  # frames that it has not looked at, while it cannot keep up; else 0

    def silence(self, now: float) -> float:
        """Seconds without a sign of progress."""
        return max(0.0, now - self.heard_at) + self.age_seconds


class Presence:
    def __init__(self) -> None:
        self._known: dict[str, Present] = {}

    def tell(self, told: Present) -> None:
        """Take in what one says of itself now."""
        before = self._known.pop(told.name, None)
        if before is None:
            self._known = {
                name: one
                for name, one in self._known.items()
                if (one.role, one.host) != (told.role, told.host)
                or told.heard_at - one.heard_at < AWAY_SECONDS
            }
            if len(self._known) >= _MOST:
                self._known.pop(next(iter(self._known)))
        self._known[told.name] = told if before is None else replace(told, first_at=before.first_at)

    def leave(self, name: str) -> None:
        """It ends because it was told to."""
        self._known.pop(name, None)

    def all(self, now: float) -> list[Present]:
        self._known = {name: one for name, one in self._known.items() if now - one.heard_at < _FORGET_SECONDS}
        return sorted(self._known.values(), key=lambda one: (one.role, one.name))

    def silences(self, now: float) -> dict[str, float | None]:
        """Seconds without progress, by what people call it: "worker host-17"."""
        return {f"{one.role} {one.name}": one.silence(now) for one in self.all(now)}

    def shedding(self, now: float) -> dict[str, float | None]:
        """Frames that workers do not look at because they cannot keep up, by what people call the worker."""
        return {f"{one.role} {one.name}": float(one.shed) for one in self.all(now) if one.role == "worker"}

    def heard(self, now: float) -> dict[str, int]:
        """How many of each role are there."""
        found = {"worker": 0, "refiner": 0}
        for one in self.all(now):
            found[one.role] = found.get(one.role, 0) + (one.silence(now) < AWAY_SECONDS)
        return found

    def as_rows(self, now: float) -> list[dict[str, Any]]:
        return [{**asdict(one), "silent_seconds": one.silence(now)} for one in self.all(now)]

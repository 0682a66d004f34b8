"""When a machine worker that cannot keep up leaves frames without a look, and which. Without I/O, the time passed in.

A backlog alone is no reason: a worker that gains on it looks at every frame, however many wait after an outage. One
falls behind when the frames it gets have waited for longer than it may take and that wait does not shrink. Then it
chooses, by one of two rules:

- ``newest``: frames that have waited for more than a few seconds are left, so that the others are looked at at once;
- ``every``: of each camera host every n-th frame is looked at, with the least n that keeps up.

It is over once nothing had to be left for a minute. Whoever owns this stores the frames that are left, and says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Rule = Literal["newest", "every"]

PERIOD_SECONDS = 5.0  # ages are looked at as the highest of so long
TRIAL_SECONDS = 60.0  # a wait that has not shrunk in so long does not shrink
REST_SECONDS = 60.0  # without a frame left for so long, it is over
_FRESH_SECONDS = 10.0  # what has waited for less is new
_GAIN = 0.1  # seconds that the wait must shrink in each, to count as shrinking
_CATCH_UP_SECONDS = 600.0  # in which `every` wants to be back
_LARGEST_STEP = 4096
_MOST_HOSTS = 10_000


@dataclass(frozen=True)
class Turn:
    """Shedding has begun, or is over: for the log."""

    began: bool
    age_seconds: float  # of the oldest frame at hand
    frames: int = 0  # that were left since it began
    seconds: float = 0.0  # that it lasted

    def line(self, rule: Rule) -> str:
        if self.began:
            which = "the newest" if rule == "newest" else "one in every few of each camera"
            return (
                f"cannot keep up: frames wait for {self.age_seconds:.0f} s, and that does not shrink; {which} are "
                f"looked at, the others stored without (worker.shed = {rule})"
            )
        return (
            f"keeps up again after {self.seconds:.0f} s: {self.frames} frames were stored and not looked at"
        )


class Shedder:
    """One worker's. `after_seconds`: frames may wait for so long; 0: every frame is looked at."""

    def __init__(self, rule: Rule, after_seconds: float) -> None:
        self._rule, self._after = rule, after_seconds
        self._fresh = min(_FRESH_SECONDS, after_seconds / 4)
        self._ages: list[tuple[float, float]] = []  # end of a period, the highest age in it; oldest first
        self._period: tuple[float, float] | None = None  # since when, and the highest age so far
        self._began_at: float | None = None
        self._left_at = 0.0  # when a frame was left last
        self._step = 1
        self._seen: Counter[str] = Counter()  # by camera host, for `every`
        self.left = 0  # frames since it began; 0 while every frame is looked at

    @property
    def is_shedding(self) -> bool:
        return self._began_at is not None

    @property
    def step(self) -> int:
        """Under the rule `every`: one frame in so many is looked at."""
        return self._step

    def observe(self, age_seconds: float, now: float) -> Turn | None:
        """Take in the age of the oldest frame of a lease, 0 where there was none; what begins or ends by that."""
        if self._after <= 0:
            return None
        if self._period is None or now < self._period[0]:  # at the start, or a clock that was set back
            self._period, self._ages = (now, age_seconds), []
            return None
        since, highest = self._period
        highest = max(highest, age_seconds)
        self._period = (since, highest)
        if now - since < PERIOD_SECONDS:
            return None
        self._period = (now, 0.0)
        self._ages.append((now, highest))
        while len(self._ages) > 1 and now - self._ages[1][0] >= TRIAL_SECONDS:
            self._ages.pop(0)
        if self._began_at is None:
            return self._begin(highest, now)
        self._adapt(highest)
        return self._end(highest, now)

    def choose(self, frames: Sequence[tuple[str, float]], *, drained: bool) -> list[bool]:
        """Which frames of a lease, given as camera host and age, are to be looked at; ask once for each.

        `drained`: nothing else waits, so the newest of them is looked at however old it is.
        """
        looks = [self._looks_at(edge_id, age) for edge_id, age in frames]
        if frames and drained and self._rule == "newest" and not any(looks):
            looks[min(range(len(frames)), key=lambda place: frames[place][1])] = True
        return looks

    def _looks_at(self, edge_id: str, age_seconds: float) -> bool:
        if self._began_at is None:
            return True
        if self._rule == "newest":
            return age_seconds <= self._fresh
        if len(self._seen) >= _MOST_HOSTS:
            self._seen.clear()
        place = self._seen[edge_id]
        self._seen[edge_id] = place + 1
        return place % self._step == 0

    def note_left(self, frames: int, now: float) -> None:
        """So many frames were stored without a look."""
        self.left += frames
        self._left_at = now

    def _begin(self, age: float, now: float) -> Turn | None:
        if age < self._after or not self._does_not_shrink(now):
            return None
        self._began_at, self._left_at, self._step, self.left = now, now, 2, 0
        self._seen.clear()
        return Turn(True, age)

    def _end(self, age: float, now: float) -> Turn | None:
        assert self._began_at is not None
        if now - self._left_at < REST_SECONDS or (self._rule == "every" and self._step > 1):
            return None
        over = Turn(False, age, self.left, now - self._began_at)
        self._began_at, self._step, self.left, self._ages = None, 1, 0, []
        return over

    def _adapt(self, age: float) -> None:
        """The rule `every`: leave more while the wait does not shrink fast enough, fewer once it is short."""
        if age <= self._fresh / 2:
            self._step = max(1, self._step - 1)
        if age <= self._fresh or len(self._ages) < 2:
            return
        (before, earlier), (now, _) = self._ages[-2:]
        is_near = age <= 4 * self._fresh
        wanted = 0.0 if is_near else (now - before) * max(0.5, age / _CATCH_UP_SECONDS)
        if earlier - age <= wanted:
            self._step = min(self._step + 1 if is_near else self._step * 2, _LARGEST_STEP)

    def _does_not_shrink(self, now: float) -> bool:
        """Whether the wait was tried for long enough, and is about what it was."""
        at, age = self._ages[0]
        return now - at >= TRIAL_SECONDS and self._ages[-1][1] > age - _GAIN * (now - at)

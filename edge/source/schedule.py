"""What a camera does now: a duty cycle, and which of pause, hours and cycle counts. Logic without I/O, time passed in.

A duty cycle is for hosts that live on little power: wake, capture, deliver, sleep, at fixed intervals. While it sleeps
the source is closed and so is the link.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

from secondlook.edge.config import DutyConfig


class Phase(enum.Enum):
    """Where a duty cycle is."""

    CAPTURING = "capturing"
    DELIVERING = "delivering"
    ASLEEP = "asleep"


class DutyCycle:
    """Wake, capture, deliver, sleep. Instants are monotonic seconds."""

    def __init__(self, config: DutyConfig, open_seconds: float, now: float) -> None:
        """`open_seconds`: time allowed to the first frame of each cycle."""
        self._config = config
        self._open_seconds = open_seconds
        self._woke_at = now
        self._captures_until = now + open_seconds
        self._has_frame = False  # in this cycle
        self._slept = False  # in this cycle

    def captured(self, now: float) -> None:
        """A frame came: the time to capture begins with the first one, for cameras take theirs to open."""
        if not self._has_frame and now < self._captures_until:
            self._has_frame = True
            self._captures_until = now + self._config.capture_seconds

    def phase(self, now: float, *, is_delivered: bool) -> Phase:
        """`is_delivered`: nothing waits in the spool; asked for only behind `capture_seconds`."""
        every = self._config.every_seconds
        if every == 0:
            return Phase.CAPTURING
        if now - self._woke_at >= every:
            # On the grid, however late we are.
            self._woke_at += every * ((now - self._woke_at) // every)
            self._slept = self._has_frame = False
            self._captures_until = self._woke_at + self._open_seconds
        if now < self._captures_until:
            return Phase.CAPTURING
        awake_until = self._captures_until + self._config.deliver_seconds
        if not self._slept and not is_delivered and now < awake_until:
            return Phase.DELIVERING
        self._slept = True
        return Phase.ASLEEP


Why = Literal["paused", "off hours", "delivering", "asleep"]


@dataclass(frozen=True)
class Rest:
    """What a camera does not do now, and why: one word for `status`."""

    why: Why | None = None
    link: bool = False  # the link rests too


RUNNING = Rest()
PAUSED = Rest("paused")
OFF_HOURS = Rest("off hours")
_OF_PHASE = {
    Phase.CAPTURING: RUNNING,
    Phase.DELIVERING: Rest("delivering"),
    Phase.ASLEEP: Rest("asleep", link=True),
}


def rest(*, paused: bool, open_hours: bool, phase: Phase) -> Rest:
    """A pause wins over hours, and these over a duty cycle. Frames that wait are delivered in a pause and off hours."""
    if paused:
        return PAUSED
    if not open_hours:
        return OFF_HOURS
    return _OF_PHASE[phase]

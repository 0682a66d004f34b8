"""Opens and closes the source as pause, hours and duty cycle say; to the agent it is one camera that goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from secondlook.edge.config import EdgeConfig
from secondlook.edge.hours import Hours, within_hours
from secondlook.edge.pause import is_paused
from secondlook.edge.source.camera import Frame, SourceState
from secondlook.edge.source.schedule import RUNNING, DutyCycle, Phase, Rest, Why, rest

_LOOK_SECONDS = 0.5  # between two looks at pause and hours
_REST_SECONDS = 1.0  # of waiting at once while nothing is captured

CameraState = SourceState | Why


class Frames(Protocol):
    """Where frames come from: a camera that is captured, or a program that hands them over."""

    can_reopen: bool  # whether another one can take its place once it was closed

    @property
    def state(self) -> SourceState: ...
    @property
    def trouble(self) -> Exception | None:
        """Why the source does not work at the moment."""

    def read(self, timeout_seconds: float) -> Frame | None: ...
    def close(self) -> None: ...


class Shutter:
    """The camera of one agent. Not for use by several threads."""

    def __init__(
        self,
        config: EdgeConfig,
        open_source: Callable[[str | None], Frames],
        wait: Callable[[float], object],
        after: str | None = None,
    ) -> None:
        """`open_source` opens the source behind a place in it; `wait` waits for seconds, or until told to stop."""
        self._data_dir: Path = config.data_dir
        self._hours = [Hours.parse(text) for text in config.schedule.hours]
        self._zone = config.schedule.zone()
        self._duty = DutyCycle(config.duty, config.source.open_seconds, time.monotonic())
        self._open_source, self._wait = open_source, wait
        self._place = after
        self._source: Frames | None = None
        self._looked_at = float("-inf")
        self._has_ended = False
        self.rest: Rest = RUNNING
        # In this cycle: nothing waits in the spool. Whoever owns this keeps it up to date while `is_delivering`.
        self.is_delivered = False

    @property
    def state(self) -> CameraState:
        if self._has_ended:
            return "ended"
        if self.rest.why is not None:
            return self.rest.why
        return "running" if self._source is None else self._source.state

    @property
    def trouble(self) -> Exception | None:
        return None if self._source is None else self._source.trouble

    def read(self, timeout_seconds: float) -> Frame | None:
        """The next frame, or None when none came in time. Raises SourceError where trying again would not help."""
        self._look(time.monotonic())
        if self._has_ended or self.rest.why is not None:
            self._wait(_REST_SECONDS)
            return None
        if self._source is None:
            self._source = self._open_source(self._place)
        frame = self._source.read(timeout_seconds)
        self._has_ended = self._source.state == "ended"
        if frame is not None:
            self._duty.captured(time.monotonic())
            self._place = frame.place or self._place
        return frame

    def close(self) -> None:
        """End the capture for good."""
        self._close_source()
        self._has_ended = True

    def _look(self, now: float) -> None:
        if now - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now
        wall = time.time()
        paused = is_paused(self._data_dir, wall)
        phase = self._duty.phase(now, is_delivered=self.is_delivered)
        if phase is not Phase.DELIVERING:
            self.is_delivered = False  # of the next cycle nothing is known yet
        self.rest = rest(paused=paused, open_hours=within_hours(self._hours, wall, self._zone), phase=phase)
        if self.rest.why is not None and self._source is not None and self._source.can_reopen:
            self._close_source()

    @property
    def is_delivering(self) -> bool:
        """Whether the duty cycle waits for `is_delivered`."""
        return self.rest.why == "delivering"

    def _close_source(self) -> None:
        if self._source is not None:
            self._source.close()
            self._source = None

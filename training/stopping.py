"""How a training run ends before its time: nothing that it learned is lost."""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

SAVE_SECONDS = 30.0  # between two checkpoints, at most: what a run loses that is killed


class StopSignals:
    """A context in which Ctrl-C and SIGTERM ask for an end after the step at hand; a second one ends it at once.

    A run asks `asked` before each step, saves when it is set, and calls `end`.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        self.asked = signal.Signals(number)
        signal.signal(number, self._before[self.asked])

    def end(self, checkpoint: Path, step: int, *, resumes: bool = True) -> None:
        """Once all is saved: say where, and raise what the signal would have raised (KeyboardInterrupt, SystemExit)."""
        if self.asked is None:
            return
        cure = ": --resume goes on from it" if resumes else ""
        print(
            f"{self.asked.name} after step {step}: saved as {checkpoint}{cure}", file=sys.stderr, flush=True
        )
        if self.asked is signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.asked)


class SaveClock:
    """Whether it is time for a checkpoint again."""

    def __init__(self, seconds: float = SAVE_SECONDS) -> None:
        self._seconds = seconds
        self._last = time.monotonic()

    def is_due(self) -> bool:
        if time.monotonic() - self._last < self._seconds:
            return False
        self._last = time.monotonic()
        return True

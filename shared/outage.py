"""Saying in a log what is away, without filling it.

A store or a peer that is away is told of once when it goes, once a minute while it stays away, and once when it is
back. What may happen a thousand times a second is told of once a second, with how often it happened since.
Instants are seconds, handed in as ``now``; a clock that goes back costs a line more or less.
"""

from __future__ import annotations

import logging

_AGAIN_SECONDS = 60.0
_LINE_SECONDS = 1.0
_MAX_CAUSES = 32
_OTHERS = "others"


class Outage:
    """One thing that can be away. ``why`` is the latest cause while it is, else None."""

    def __init__(self, log: logging.Logger, again_seconds: float = _AGAIN_SECONDS) -> None:
        self.why: str | None = None
        self._log = log
        self._again_seconds = again_seconds
        self._began_at = 0.0
        self._told_at = 0.0

    def met(self, cause: object, now: float) -> None:
        """It is away, or still is."""
        if self.why is None:
            self._began_at = self._told_at = now
            self._log.warning("waiting: %s", cause)
        elif now - self._told_at >= self._again_seconds:
            self._told_at = now
            self._log.warning("still waiting, for %.0f s now: %s", max(0.0, now - self._began_at), cause)
        self.why = str(cause)

    def over(self, now: float) -> None:
        """All is well, or well again."""
        if self.why is not None:
            self._log.info(
                "going on after %.1f s; the cause was: %s", max(0.0, now - self._began_at), self.why
            )
            self.why = None


class LimitedLog:
    """At most one warning a second for each cause. The next one of a cause says how many were left out.

    Causes beyond the first 32 share one line: whoever names causes must not be able to fill the log with new names.
    """

    def __init__(self, log: logging.Logger, seconds: float = _LINE_SECONDS) -> None:
        self._log = log
        self._seconds = seconds
        self._said_at: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def warning(self, cause: str, text: str, now: float) -> None:
        if cause not in self._said_at and len(self._said_at) >= _MAX_CAUSES:
            cause = _OTHERS
        last = self._said_at.get(cause)
        if last is not None and 0 <= now - last < self._seconds:
            self._left_out[cause] = self._left_out.get(cause, 0) + 1
            return
        self._said_at[cause] = now
        more = self._left_out.pop(cause, 0)
        self._log.warning("%s%s", text, f" ({more} more since the last line)" if more else "")

    def flush(self) -> None:
        """Say what was left out and not told yet, as when a program ends."""
        for cause, more in self._left_out.items():
            self._log.warning("%s: %d more", cause, more)
        self._left_out.clear()

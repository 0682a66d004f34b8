"""Telling a supervisor that work goes on: systemd's notification socket (sd_notify(3), sd_watchdog_enabled(3)).

A unit of ``Type=notify`` with ``WatchdogSec=`` is killed and started anew when it has told of no progress for so long.
It is told by the loops that do the work, each time they have come around; no timer speaks for them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping


class Watchdog:
    """Speaks to the supervisor, or to nobody when there is none. Use from any thread."""

    def __init__(
        self,
        address: str | None = None,
        seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``address`` is that of the socket, ``seconds`` how long the supervisor waits for a sign of progress."""
        self._address = None if address is None else address.replace("@", "\0", 1)
        # A quarter, so that a sign that comes late for its turn still comes in time.
        self._interval = None if seconds is None else seconds / 4
        self._clock = clock
        self._told_at = float("-inf")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Watchdog:
        """What systemd wrote into the environment of this process."""
        address = environment.get("NOTIFY_SOCKET")
        if address is None or not address.startswith(("/", "@")):
            return cls()
        microseconds = environment.get("WATCHDOG_USEC", "")
        meant = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        return cls(address, int(microseconds) / 1e6 if microseconds.isdigit() and meant else None)

    def ready(self) -> None:
        """The service has opened all it needs, and begins."""
        self._tell("READY=1")

    def heartbeat(self) -> None:
        """Work has gone on; said as often as one likes, passed on as often as needed."""
        now = self._clock()
        if self._interval is not None and now - self._told_at >= self._interval:
            self._told_at = now
            self._tell("WATCHDOG=1")

    def stopping(self) -> None:
        """The service was told to end, and finishes what it has begun."""
        self._tell("STOPPING=1")

    def _tell(self, what: str) -> None:
        if self._address is None:
            return
        # A supervisor that is gone is no reason to stop.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
            speaker.setblocking(False)
            speaker.connect(self._address)
            speaker.send(what.encode())

"""The heartbeat of a role: one sign of progress for systemd's watchdog, ``/healthz`` and ``/readyz`` alike.

systemd hears of it through its notification socket (sd_notify(3), sd_watchdog_enabled(3)): a unit of ``Type=notify``
with ``WatchdogSec=`` is killed and started anew when it has told of no progress for so long. ``shared.health`` tells
it by HTTP. It is given by the loops that do the work, each time they have come around; no timer speaks for them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping


class Watchdog:
    """Keeps the heartbeat, and tells a supervisor, if there is one. Use from any thread."""

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
        self._moved_at = clock()
        self.has_started = False
        self.is_stopping = False
        self.waits_for: str | None = None  # what is away that this role cannot do without

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
        self._moved_at = self._clock()
        self.has_started = True
        self._tell("READY=1")

    def heartbeat(self) -> None:
        """Work has gone on; said as often as one likes, passed on as often as needed."""
        now = self._moved_at = self._clock()
        if self._interval is not None and now - self._told_at >= self._interval:
            self._told_at = now
            self._tell("WATCHDOG=1")

    def waits(self, why: str | None) -> None:
        """A store or peer is away, for this reason; None when all that is needed is there."""
        self.waits_for = why

    def stopping(self) -> None:
        """The service was told to end, and finishes what it has begun."""
        self.is_stopping = True
        self._tell("STOPPING=1")

    @property
    def age_seconds(self) -> float:
        """Time since the last sign of progress; since the start of the process, where there was none."""
        return max(0.0, self._clock() - self._moved_at)

    def _tell(self, what: str) -> None:
        if self._address is None:
            return
        # A supervisor that is gone is no reason to stop.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
            speaker.setblocking(False)
            speaker.connect(self._address)
            speaker.send(what.encode())

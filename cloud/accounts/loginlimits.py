"""Settings of log-ins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from secondlook.shared.settings import Seconds, Settings, within

_NANOSECONDS = 1_000_000_000

_Attempts = Annotated[int, within(1, 1_000_000, "attempts")]


@dataclass(frozen=True)
class SessionTimes(Settings):
    """How long a log-in lasts."""

    # a person who does nothing for so long is logged out
    idle_minutes: Annotated[float, within(2, 525_600, "minutes")] = 60.0
    max_hours: Annotated[float, within(0.01, 8760, "hours")] = 12.0  # and everybody is after this

    @property
    def idle_ns(self) -> int:
        return int(self.idle_minutes * 60 * _NANOSECONDS)

    @property
    def max_ns(self) -> int:
        return int(self.max_hours * 3600 * _NANOSECONDS)


@dataclass(frozen=True)
class LoginLimits(Settings):
    """How often a password may be wrong."""

    account_attempts: _Attempts = 10  # wrong ones for one name from one address, at once
    account_seconds: Seconds = 60.0  # and one more after this
    address_attempts: _Attempts = 30  # wrong ones from one address, at once
    address_seconds: Seconds = 10.0  # and one more after this
    # wrong ones for one name from all addresses where it never logged in, at once
    name_attempts: _Attempts = 100
    name_seconds: Seconds = 10.0  # and one more after this

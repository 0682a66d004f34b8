"""Settings of log-ins."""

from __future__ import annotations

from dataclasses import dataclass

from secondlook.shared.errors import ConfigError

_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True)
class SessionTimes:
    """How long a log-in lasts."""

    idle_minutes: float = 60.0  # a person who does nothing for so long is logged out
    max_hours: float = 12.0  # and everybody is after this

    def __post_init__(self) -> None:
        if self.idle_minutes <= 1 or self.max_hours <= 0:
            raise ConfigError("idle_minutes must be above 1 and max_hours above 0")

    @property
    def idle_ns(self) -> int:
        return int(self.idle_minutes * 60 * _NANOSECONDS)

    @property
    def max_ns(self) -> int:
        return int(self.max_hours * 3600 * _NANOSECONDS)


@dataclass(frozen=True)
class LoginLimits:
    """How often a password may be wrong."""

    account_attempts: int = 10  # wrong ones for one name from one address, at once
    account_seconds: float = 60.0  # and one more after this
    address_attempts: int = 30  # wrong ones from one address, at once
    address_seconds: float = 10.0  # and one more after this
    name_attempts: int = 100  # wrong ones for one name from all addresses where it never logged in, at once
    name_seconds: float = 10.0  # and one more after this

    def __post_init__(self) -> None:
        if min(vars(self).values()) <= 0:
            raise ConfigError("attempts and seconds must be above 0")

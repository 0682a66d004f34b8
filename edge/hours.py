"""Hours of the week in which a camera runs: their text, and whether an instant lies within them. Logic without I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, tzinfo

from secondlook.shared.errors import ConfigError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MINUTES = 24 * 60
_TEXT = re.compile(r"(?:(?P<days>[a-z,-]+)\s+)?(?P<begin>\d{1,2}:\d\d)\s*-\s*(?P<end>\d{1,2}:\d\d)")
_FORM = 'is not hours such as "mon-fri 06:00-22:00"'


@dataclass(frozen=True)
class Hours:
    """`begin` to `end`, minutes of the day, on some days of the week (0: Monday).

    An end that is not behind its begin lies on the next day.
    """

    days: frozenset[int]
    begin: int
    end: int

    @classmethod
    def parse(cls, text: str) -> Hours:
        """``"mon-fri 06:00-22:00"``, ``"sat,sun 22:00-04:00"``, ``"06:00-22:00"`` for every day. Raises ConfigError."""
        found = _TEXT.fullmatch(text.strip().lower())
        if found is None:
            raise ConfigError(f"{text!r} {_FORM}")
        begin, end = (_minutes(found[name], text) for name in ("begin", "end"))
        if begin in (end, _DAY_MINUTES):
            raise ConfigError(f"{text!r} begins when it ends")
        return cls(_days(found["days"], text), begin, end)

    def hold(self, day: int, minute: int) -> bool:
        """Whether a minute of a day of the week lies within them."""
        if self.end > self.begin:
            return day in self.days and self.begin <= minute < self.end
        return (day in self.days and minute >= self.begin) or (
            (day - 1) % 7 in self.days and minute < self.end
        )


def _minutes(text: str, whole: str) -> int:
    hours, _, minutes = text.partition(":")
    value = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or value > _DAY_MINUTES:
        raise ConfigError(f"{whole!r} holds {text}, which is no time of day")
    return value


def _days(text: str | None, whole: str) -> frozenset[int]:
    if text is None:
        return frozenset(range(7))
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            raise ConfigError(f"{whole!r} {_FORM}: days are {', '.join(DAYS)}")
        begin, end = DAYS.index(first), DAYS.index(last if dash else first)
        found.update((begin + step) % 7 for step in range((end - begin) % 7 + 1))
    return frozenset(found)


def within_hours(hours: Iterable[Hours], now: float, zone: tzinfo | None) -> bool:
    """Whether an instant, in seconds since 1970, lies within any of them; always where there are none.

    `zone`: whose clock they are of; this host's own where None.
    """
    listed = list(hours)
    if not listed:
        return True
    local = (
        datetime.fromtimestamp(now, zone) if zone is not None else datetime.fromtimestamp(now).astimezone()
    )
    return any(one.hold(local.weekday(), local.hour * 60 + local.minute) for one in listed)

"""What a metered link may cost a day and a month: logic without I/O, the wall clock's time passed in.

A budget gives a rate, and the rate control of the cameras does the rest: first the quantiser, then the frame rate.
While less is spent than the part of the period that is over, up to four times the even pace may go; when more is spent,
what is left is spread over the time that is left; when nothing is left, nothing goes until the next period, and frames
wait in the spool.
"""

from __future__ import annotations

import enum
import json
import math
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from secondlook.edge.config import UplinkConfig
from secondlook.shared.packet import MAX_NS

_BURST = 4.0  # times the even pace, while less is spent than would be due
_AHEAD = 0.05  # of the budget that may be spent ahead of time before the rate is lowered
_LEAST_BYTES = 4096  # left: less than a frame, and so nothing
_LEAP_SECONDS = 2 * 86_400.0  # by which a clock that goes on may be wrong: the host was off, or the clock is
_LAST_SECOND = MAX_NS / 1e9
_BELIEVED_SECONDS = 600.0  # a clock that is so far behind is set by a time server meanwhile, or it is right


class Spending(enum.Enum):
    """How a budget stands."""

    WITHIN = "within"
    HELD = "held"  # more is spent than is due by now: the rest is spread
    EXHAUSTED = "exhausted"


@dataclass(frozen=True)
class Spent:
    """Bytes of the day and the month at hand, by the names of both: "2026-11-29" and the first day of the month."""

    day: str = ""
    day_bytes: int = 0
    month: str = ""
    month_bytes: int = 0
    seen: float = 0.0  # the latest instant that was seen: a clock that goes back is not believed at once
    left: Spent | None = None  # the page that the clock last leaped from: it may come back there

    @classmethod
    def parse(cls, data: bytes) -> Spent:
        """What `to_bytes` made; nothing spent where that cannot be read."""
        try:
            return cls._of(json.loads(data))
        except (ValueError, OverflowError, TypeError, KeyError, AttributeError, RecursionError):
            return cls()

    @classmethod
    def _of(cls, found: dict[str, Any]) -> Spent:
        left, seen = found.get("left"), float(found["seen"])
        if not 0 <= seen <= _LAST_SECOND or int(found["day_bytes"]) < 0 or int(found["month_bytes"]) < 0:
            raise ValueError("out of range")
        return cls(
            str(found["day"]),
            int(found["day_bytes"]),
            str(found["month"]),
            int(found["month_bytes"]),
            seen,
            None if left is None else cls._of(left),
        )

    def at(self, seen: float, month_begins: int) -> Spent:
        """The same at an instant: nothing is spent of a day or a month that is new."""
        day = day_of(seen)[0].strftime("%Y-%m-%d")
        month = month_of(seen, month_begins)[0].strftime("%Y-%m-%d")
        day_bytes = self.day_bytes if day == self.day else 0
        month_bytes = self.month_bytes if month == self.month else 0
        return Spent(day, day_bytes, month, month_bytes, seen, self.left)

    def behind_a_leap(self, seen: float, month_begins: int) -> Spent:
        """The same where the clock has leaped: the host was off, or the clock is wrong, or it is right again.

        In a day or month that it has come back to, what went before counts, and what went while it was wrong.
        """
        page, left = self.at(seen, month_begins), self.left
        if left is not None and left.day == page.day:
            page = replace(page, day_bytes=left.day_bytes + self.day_bytes)
        if left is not None and left.month == page.month != self.month:
            page = replace(page, month_bytes=left.month_bytes + self.month_bytes)
        return replace(page, left=replace(self, left=None))

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()


class Budget:
    """The budgets of one host. Instants are seconds since 1970; days begin at midnight UTC."""

    def __init__(self, config: UplinkConfig, spent: Spent = Spent()) -> None:
        self._config = config
        self._states = {"day": Spending.WITHIN, "month": Spending.WITHIN}
        self._news: list[str] = []
        self._behind_since: float | None = None  # when the clock was first seen to be far behind
        self.spent = spent

    def spend(self, size: int, now: float) -> None:
        """So many bytes went, headers included."""
        self._turn_page(now)
        self.spent = replace(
            self.spent, day_bytes=self.spent.day_bytes + size, month_bytes=self.spent.month_bytes + size
        )

    def rate(self, now: float) -> float:
        """Bytes a second that may go now; infinite without a budget, 0 when one is used up."""
        self._turn_page(now)
        now = self.spent.seen
        day = self._rate("day", self._config.bytes_per_day, self.spent.day_bytes, day_of(now), now)
        month = self._rate(
            "month",
            self._config.bytes_per_month,
            self.spent.month_bytes,
            month_of(now, self._config.month_begins),
            now,
        )
        return min(day, month)

    @property
    def is_exhausted(self) -> bool:
        return Spending.EXHAUSTED in self._states.values()

    def news(self) -> list[str]:
        """Lines for the log, each handed out once."""
        news, self._news = self._news, []
        return news

    def status(self) -> dict[str, object]:
        """For status.json: what was spent of what, and how it stands."""
        limits = {
            "day": (self.spent.day_bytes, self._config.bytes_per_day),
            "month": (self.spent.month_bytes, self._config.bytes_per_month),
        }
        return {
            name: {"bytes": used, "budget": most, "state": self._states[name].value}
            for name, (used, most) in limits.items()
        }

    def _turn_page(self, now: float) -> None:
        kept, begins = self.spent, self._config.month_begins
        if now >= kept.seen - _LEAP_SECONDS:
            self._behind_since = None
            leaps = now > kept.seen + _LEAP_SECONDS
            self.spent = kept.behind_a_leap(now, begins) if leaps else kept.at(max(now, kept.seen), begins)
            return
        # Far behind: the clock was not set yet, or what it said before was wrong.
        if self._behind_since is None or now < self._behind_since:
            self._behind_since = now
        if now - self._behind_since >= _BELIEVED_SECONDS:
            self._behind_since = None
            self.spent = kept.behind_a_leap(now, begins)
            was, date = (datetime.fromtimestamp(one, UTC).strftime("%Y-%m-%d") for one in (kept.seen, now))
            self._news.append(f"the clock said {was}, and goes on at {date}: so do the uplink's budgets")

    def _rate(
        self, name: str, most: int | None, used: int, period: tuple[datetime, datetime], now: float
    ) -> float:
        if most is None:
            return math.inf
        begin, end = period[0].timestamp(), period[1].timestamp()
        due = most * (now - begin) / (end - begin)
        left, seconds = most - used, max(1.0, end - now)
        if left < _LEAST_BYTES:
            state, rate = Spending.EXHAUSTED, 0.0
        elif used > due + (0.0 if self._states[name] is Spending.HELD else _AHEAD * most):
            state, rate = Spending.HELD, left / seconds
        else:
            state, rate = Spending.WITHIN, _BURST * most / (end - begin)
        if state is not self._states[name]:
            self._tell(name, state, f"{used / most:.0%} of the {name}'s {most} bytes", rate, period[1])
            self._states[name] = state
        return min(rate, max(0.0, float(left)))

    def _tell(self, name: str, state: Spending, used: str, rate: float, end: datetime) -> None:
        until = f"until {end:%Y-%m-%d %H:%M} UTC"
        kbps = f"{rate * 8 / 1000:.1f}"
        lines = {
            Spending.WITHIN: f"the uplink's budget of the {name} is kept to again: {used} are spent",
            Spending.HELD: f"{used} are spent ahead of time: the uplink is held to {kbps} kbit/s {until}",
            Spending.EXHAUSTED: f"{used} are spent: frames wait in the spool {until}",
        }
        self._news.append(lines[state])


def day_of(now: float) -> tuple[datetime, datetime]:
    """Begin and end of the day, UTC, that an instant lies in."""
    begin = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return begin, begin + timedelta(days=1)


def month_of(now: float, begins: int) -> tuple[datetime, datetime]:
    """Begin and end of the month of a contract that begins on this day of the month, 1 to 28."""
    today = day_of(now)[0]
    begin = today.replace(day=begins)
    if today.day < begins:
        begin = (begin.replace(day=1) - timedelta(days=1)).replace(day=begins)
    end = (begin.replace(day=28) + timedelta(days=4)).replace(day=begins)
    return begin, end

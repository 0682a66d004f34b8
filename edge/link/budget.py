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

from secondlook.edge.config import UplinkConfig

_BURST = 4.0  # times the even pace, while less is spent than would be due
_AHEAD = 0.05  # of the budget that may be spent ahead of time before the rate is lowered
_LEAST_BYTES = 4096  # left: less than a frame, and so nothing


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
    seen: float = 0.0  # the latest instant that was seen: a clock that goes back is not believed

    @classmethod
    def parse(cls, data: bytes) -> Spent:
        """What `to_bytes` made; nothing spent where that cannot be read."""
        try:
            found = json.loads(data)
            return cls(
                str(found["day"]),
                int(found["day_bytes"]),
                str(found["month"]),
                int(found["month_bytes"]),
                float(found["seen"]),
            )
        except (ValueError, TypeError, KeyError):
            return cls()

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()


class Budget:
    """The budgets of one host. Instants are seconds since 1970; days begin at midnight UTC."""

    def __init__(self, config: UplinkConfig, spent: Spent = Spent()) -> None:
        self._config = config
        self._states = {"day": Spending.WITHIN, "month": Spending.WITHIN}
        self._news: list[str] = []
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
        seen = max(now, self.spent.seen)
        day = day_of(seen)[0].strftime("%Y-%m-%d")
        month = month_of(seen, self._config.month_begins)[0].strftime("%Y-%m-%d")
        kept = self.spent
        self.spent = Spent(
            day,
            kept.day_bytes if day == kept.day else 0,
            month,
            kept.month_bytes if month == kept.month else 0,
            seen,
        )

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

"""The link of a host that several cameras share, within a rate and a budget. Safe from the threads of their uplinks.

One `Pacer` measures what the link carries for all of them; `FairShare` says whose turn it is; `Budget` lowers the rate.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from secondlook.edge.config import UplinkConfig
from secondlook.edge.link.budget import Budget, Spent
from secondlook.edge.link.pacing import OVERHEAD_BYTES, Pacer, Pacing
from secondlook.edge.link.share import FairShare
from secondlook.shared.errors import StorageError
from secondlook.shared.files import write_atomically

log = logging.getLogger(__name__)

_FILE = "uplink.json"
_FOLLOW_SECONDS = 0.2  # between two looks at the budget
_KEEP_SECONDS = 60.0  # between two writings of what was spent
_LEAST_RATE = 1.0  # bytes a second that a camera counts on at least, for nobody divides by 0


@dataclass(frozen=True)
class Clocks:
    """Seconds of the monotonic clock, and of the wall clock since 1970."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


class HostLink:
    """The rate and the budgets of one host."""

    def __init__(self, config: UplinkConfig, folder: Path, clocks: Clocks = Clocks()) -> None:
        """`folder` keeps what was spent over restarts. `config` bounds something."""
        self._path = folder / _FILE
        self._clocks = clocks
        self._most = math.inf if config.kbps is None else config.kbps * 1000 / 8
        self._budget = Budget(config, _kept(self._path))
        self._share = FairShare()
        self._in_flight: dict[str, int] = {}
        self._numbers = itertools.count()
        self._lock = threading.RLock()
        self._kept_at = self._followed_at = clocks.monotonic()
        self._pacer = Pacer(self._allowed(), clocks.monotonic())

    def camera(self, name: str, weight: float, own: Pacer | None = None) -> Pacing:
        """The part of one camera, whose own bounds `own` has, if any."""
        with self._lock:
            # One that hangs while its successor is at work must not be taken for that.
            claim = f"{name}#{next(self._numbers)}"
            self._share.join(claim, weight)
            self._in_flight[claim] = 0
        return _CameraPacer(self, claim, own)

    @property
    def is_exhausted(self) -> bool:
        """Whether nothing may go before the next day or month."""
        with self._lock:
            return self._budget.is_exhausted

    def status(self) -> dict[str, object]:
        """For status.json: the rate as far as it is known, and the budgets."""
        with self._lock:
            return {"kbps": round(self._pacer.rate * 8 / 1000, 1), **self._budget.status()}

    def keep(self, *, now_or_never: bool = False) -> None:
        """Follow the budget, tell what is new of it, and write down what was spent, now and then.

        Where the disk hangs, whoever called this hangs alone.
        """
        with self._lock:
            self._follow(at_once=now_or_never)
            for line in self._budget.news():
                log.warning("%s", line)
            now = self._clocks.monotonic()
            if not now_or_never and now - self._kept_at < _KEEP_SECONDS:
                return
            self._kept_at = now
            data = self._budget.spent.to_bytes()
        try:
            write_atomically(self._path, data)
        except StorageError as error:
            log.warning("what the uplink has spent is not written down: %s", error)

    def _follow(self, *, at_once: bool = False) -> None:
        now = self._clocks.monotonic()
        if at_once or now - self._followed_at >= _FOLLOW_SECONDS:
            self._followed_at = now
            self._pacer.allow(self._allowed())

    def _allowed(self) -> float:
        return min(self._most, self._budget.rate(self._clocks.wall()))

    def _spend(self, name: str, size: int) -> None:
        self._share.sent(name, size, self._clocks.monotonic())
        self._budget.spend(size, self._clocks.wall())


class _CameraPacer:
    """What one camera sees of the link, until it leaves."""

    def __init__(self, link: HostLink, name: str, own: Pacer | None) -> None:
        self._link, self._name, self._own = link, name, own

    def leave(self) -> None:
        with self._link._lock:
            self._link._share.leave(self._name)
            self._link._in_flight.pop(self._name, None)

    @property
    def is_open(self) -> bool:
        return not self._link.is_exhausted

    @property
    def rate(self) -> float:
        link = self._link
        with link._lock:
            rate = link._share.share_of(self._name, link._pacer.rate, link._clocks.monotonic())
        own = math.inf if self._own is None else self._own.rate
        return max(_LEAST_RATE, min(own, rate))

    def may_send(self, in_flight: int, now: float) -> bool:
        if self._own is not None and not self._own.may_send(in_flight, now):
            return False
        link = self._link
        with link._lock:
            link._in_flight[self._name] = in_flight
            link._follow()
            if not link._share.may_send(self._name, link._pacer.rate, now):
                return False
            if link._pacer.may_send(sum(link._in_flight.values()), now):
                return True
            link._share.held_up(self._name, now)
            return False

    def sent(self, size: int) -> None:
        if self._own is not None:
            self._own.sent(size)
        with self._link._lock:
            self._link._pacer.sent(size)
            self._link._spend(self._name, size)

    def spoke(self, size: int) -> None:
        with self._link._lock:
            self._link._spend(self._name, size)

    def chunk_bytes(self, now: float) -> int:
        with self._link._lock:
            self._link._follow()
            most = self._link._pacer.chunk_bytes(now)
        return most if self._own is None else min(most, self._own.chunk_bytes(now))

    def chunk_sent(self, size: int) -> None:
        if self._own is not None:
            self._own.chunk_sent(size)
        with self._link._lock:
            self._link._pacer.chunk_sent(size)
            self._link._spend(self._name, size + OVERHEAD_BYTES)

    def acknowledged(self, size: int, now: float) -> None:
        if self._own is not None:
            self._own.acknowledged(size, now)
        with self._link._lock:
            self._link._in_flight[self._name] = max(0, self._link._in_flight.get(self._name, 0) - size)
            self._link._pacer.acknowledged(size, now)

    def connected(self, now: float) -> None:
        if self._own is not None:
            self._own.connected(now)
        with self._link._lock:
            self._link._in_flight[self._name] = 0


def _kept(path: Path) -> Spent:
    try:
        return Spent.parse(path.read_bytes())
    except OSError:
        return Spent()

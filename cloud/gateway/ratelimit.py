"""How much one peer may do: token buckets, without clocks. Instants are seconds handed in as ``now``.

Two limits a camera host, on packets and on bytes. Credit follows what is left of both, so an agent that keeps within
its credit is slowed down and never refused; one that does not keep within it may run up a debt of one burst, and is
refused beyond.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from secondlook.cloud.config import RateLimits

T = TypeVar("T")

_SMOOTHING = 1 / 16  # weight of the newest packet in the mean size
_FIRST_GUESS_BYTES = 300.0  # mean size of a packet until it is known; too low only means less credit at first


class TokenBucket:
    """Fills at ``rate`` a second up to ``burst``; ``take`` may go into debt down to ``-debt``."""

    def __init__(self, rate: float, burst: float, *, debt: float = 0.0, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._debt = debt
        self._level = burst
        self._at = now

    def level(self, now: float) -> float:
        """Tokens there are; below 0 in debt."""
        # A clock that was set back gives nothing, and takes nothing away.
        self._level = min(self._burst, self._level + max(0.0, now - self._at) * self._rate)
        self._at = now
        return self._level

    def allows(self, tokens: float, now: float) -> bool:
        return self.level(now) - tokens >= -self._debt

    def take(self, tokens: float, now: float) -> None:
        """Take the tokens, whether or not ``allows`` would let them go."""
        self._level = self.level(now) - tokens

    def give_back(self, tokens: float) -> None:
        self._level = min(self._burst, self._level + tokens)

    def seconds_until(self, tokens: float, now: float) -> float:
        """How long until so many tokens are there."""
        return max(0.0, (tokens - self.level(now)) / self._rate)


class Latest(Generic[T]):
    """Things by name, made by ``make(now)`` when first asked for; only the ``most`` used last are remembered."""

    def __init__(self, make: Callable[[float], T], *, most: int) -> None:
        self._make = make
        self._most = most
        self._things: OrderedDict[str, T] = OrderedDict()

    def of(self, name: str, now: float) -> T:
        thing = self._things.get(name)
        if thing is None:
            thing = self._things[name] = self._make(now)
            if len(self._things) > self._most:
                self._things.popitem(last=False)
        else:
            self._things.move_to_end(name)
        return thing


class _Rates:
    def __init__(self, limits: RateLimits, now: float) -> None:
        self.packets = _bucket(limits.packets_per_second, limits.burst_seconds, now)
        self.bytes = _bucket(limits.bytes_per_second, limits.burst_seconds, now)
        self.mean_bytes = _FIRST_GUESS_BYTES
        self.told_at = float("-inf")


class EdgeRates:
    """The buckets of all camera hosts, by edge id. An edge id is known once its key, or its hello, named it."""

    def __init__(self, limits: RateLimits, *, most: int) -> None:
        """``most``: camera hosts remembered; beyond, the one that was quiet longest begins anew."""
        self._latest = Latest(lambda now: _Rates(limits, now), most=most)

    def admits(self, edge_id: str, *, packets: float, size_bytes: int, now: float) -> bool:
        """Count what a camera host sent; False when it is over its limits and must be refused."""
        rates = self._latest.of(edge_id, now)
        if not (rates.packets.allows(packets, now) and rates.bytes.allows(size_bytes, now)):
            return False
        rates.packets.take(packets, now)
        rates.bytes.take(size_bytes, now)
        rates.mean_bytes += (size_bytes - rates.mean_bytes) * _SMOOTHING
        return True

    def admits_as(self, edge_id: str, *, packets: int, size_bytes: int, now: float) -> bool:
        """Whether a message that ``admits`` counted as one may be so many: it then counts as if each had come alone."""
        rates = self._latest.of(edge_id, now)
        if not rates.packets.allows(packets - 1, now):
            return False
        rates.packets.take(packets - 1, now)
        before = (rates.mean_bytes - size_bytes * _SMOOTHING) / (1 - _SMOOTHING)
        each = size_bytes / packets
        rates.mean_bytes = each + (before - each) * (1 - _SMOOTHING) ** packets
        return True

    def charge(self, edge_id: str, *, packets: float, now: float) -> None:
        """Count what a camera host's last message cost beyond the others."""
        self._latest.of(edge_id, now).packets.take(packets, now)

    def may_tell(self, edge_id: str, now: float) -> bool:
        """Whether to tell a refused host so: once a second, lest refusals become a flood of their own."""
        rates = self._latest.of(edge_id, now)
        if now - rates.told_at < 1.0:
            return False
        rates.told_at = now
        return True

    def credit(self, edge_id: str, now: float) -> int:
        """Bytes that a camera host may have in flight without getting near a refusal."""
        rates = self._latest.of(edge_id, now)
        room = min(rates.bytes.level(now), rates.packets.level(now) * rates.mean_bytes)
        return max(0, int(room))


def _bucket(rate: float, burst_seconds: float, now: float) -> TokenBucket:
    burst = rate * burst_seconds
    return TokenBucket(rate, burst, debt=burst, now=now)

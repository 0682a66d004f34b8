"""One link and several cameras: whose turn it is, and what each may count on. Logic without I/O, time passed in.

Turns are those of weighted fair queueing: who has sent least, divided by its weight, goes first. A camera that had
nothing to send saves up nothing, and one that wants no more leaves its part to the others. What a camera may count on
is its max-min share: what the others leave, but never less than its weight's part of the link.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_WANTS_SECONDS = 0.35  # since it last asked: longer than a turn of the uplink that asks
_LEAD_SECONDS = (
    0.25  # of the link by which one may be ahead, so that nobody waits for one that does not ask just now
)
_MEMORY_SECONDS = 5.0  # over which what a camera sends is averaged
_ROOM = 1.25  # times what a camera sends: left to it while it could send more


def max_min(rate: float, wants: Sequence[tuple[float, float]]) -> list[float]:
    """Divide `rate` among (weight, wanted rate): nobody gets more than it wants, and what is left over goes to the
    others by their weights."""
    shares = [0.0] * len(wants)
    order = sorted(range(len(wants)), key=lambda index: wants[index][1] / wants[index][0])
    left, weights = max(0.0, rate), sum(weight for weight, _ in wants)
    for index in order:  # those come first that are content with the least, by their weight
        weight, wanted = wants[index]
        shares[index] = min(max(0.0, wanted), left * weight / weights)
        left -= shares[index]
        weights -= weight
        if weights <= 0:
            break
    return shares


@dataclass
class _Claim:
    weight: float
    turn: float  # bytes sent for each unit of weight; who has the least goes first
    wanted_at: float = -math.inf
    refused_at: float = -math.inf
    used: float = 0.0  # bytes, those of long ago counting less
    used_at: float = 0.0

    def rate(self, now: float) -> float:
        return self.used * math.exp(-max(0.0, now - self.used_at) / _MEMORY_SECONDS) / _MEMORY_SECONDS


class FairShare:
    """The cameras of one link, by name."""

    def __init__(self) -> None:
        self._claims: dict[str, _Claim] = {}

    def join(self, name: str, weight: float) -> None:
        """A camera comes; the weight of one that is there already is changed."""
        claim = self._claims.get(name)
        if claim is None:
            self._claims[name] = _Claim(weight, self._most())
        else:
            claim.weight = weight

    def leave(self, name: str) -> None:
        self._claims.pop(name, None)

    def may_send(self, name: str, rate: float, now: float) -> bool:
        """Whether it is this camera's turn, which wants to send now; `rate`: bytes a second of the link."""
        claim = self._claims[name]
        if now - claim.wanted_at > _WANTS_SECONDS:
            # Nothing is saved up while nothing is wanted.
            others = self._wanting(now)
            claim.turn = max(claim.turn, min((one.turn for one in others), default=self._least_turn()))
        claim.wanted_at = now
        wanting = self._wanting(now)
        lead = rate * _LEAD_SECONDS / sum(one.weight for one in wanting)
        if claim.turn > min(one.turn for one in wanting) + lead:
            claim.refused_at = now
            return False
        return True

    def held_up(self, name: str, now: float) -> None:
        """It was this camera's turn, and the link had no room."""
        self._claims[name].refused_at = now

    def sent(self, name: str, size: int, now: float) -> None:
        """So many bytes went, headers included."""
        claim = self._claims[name]
        claim.turn += size / claim.weight
        claim.used = claim.rate(now) * _MEMORY_SECONDS + size
        claim.used_at = now

    def share_of(self, name: str, rate: float, now: float) -> float:
        """Bytes a second of a link of `rate` that this camera may count on while the others do what they do."""
        wants = []
        for other, claim in self._claims.items():
            is_limited = other == name or now - claim.refused_at <= _MEMORY_SECONDS
            wants.append((claim.weight, math.inf if is_limited else _ROOM * claim.rate(now)))
        return max_min(rate, wants)[list(self._claims).index(name)]

    def _wanting(self, now: float) -> list[_Claim]:
        return [one for one in self._claims.values() if now - one.wanted_at <= _WANTS_SECONDS]

    def _most(self) -> float:
        return max((one.turn for one in self._claims.values()), default=0.0)

    def _least_turn(self) -> float:
        """Where nobody wants anything: nobody is ahead of anybody."""
        return self._most()

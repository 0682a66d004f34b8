"""How fast a camera host may send: logic without I/O, time passed in. All rates are bytes a second, headers included.

Two things bound what goes out: the rate that the settings allow, and the rate that the link carries, as
acknowledgements tell it. What is in flight is kept to a few seconds of that rate: so a link that becomes thin is
noticed in seconds, and not when minutes of frames have piled up in buffers that nobody sees. While the link is what
limits, its rate is what was acknowledged; while it is not, more and more of it is tried.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

# What a base packet takes beside its payload: its header (70 bytes), ZeroMQ's and CURVE's (66), TCP and IP (52, shared
# where packets leave together), rounded down.
OVERHEAD_BYTES = 160
PING_BYTES = 200  # with its headers, and what TCP says to the answer
HELLO_BYTES = 400

_BURST_SECONDS = 0.3  # of the rate that may go out at once
_FLIGHT_SECONDS = 2.5  # of the link's rate that may be in flight
_LEAST_FLIGHT = 3000  # bytes: a picture or two
_HORIZON_SECONDS = 4.0  # over which acknowledged bytes are counted
_STEP_SECONDS = 0.5  # between two looks at the rate
_BLOCKED_SECONDS = 1.0  # since the window last held something up: so long the link is what limits
_GROWTH = 1.04  # of the rate at each look while it is not
_TRIED = 1.5  # times what was acknowledged: more is not believed of a link that was not asked for it
_SMOOTHING = 0.3  # of what is measured in each look
_LEAST_SHARE = 0.02  # of the allowed rate, however bad the link
_ENHANCEMENT_SHARE = 0.3  # of the rate, while enhancements are asked for
_CHUNK_SECONDS = 0.5  # of that share in one chunk
_LEAST_CHUNK = 1024


class _Bucket:
    """Room for bytes that grows with time. What is larger than the room goes all the same, and is worked off."""

    def __init__(self, now: float) -> None:
        self._room = 0.0
        self._at = now

    def is_open(self, rate: float, now: float) -> bool:
        self._room = min(rate * _BURST_SECONDS, self._room + rate * max(0.0, now - self._at))
        self._at = now
        return self._room > 0

    def take(self, size: int) -> None:
        self._room -= size


class Pacing(Protocol):
    """What the uplink of one camera asks before each packet, and tells of what went and what was acknowledged."""

    @property
    def rate(self) -> float:
        """Bytes a second that this camera may count on."""

    @property
    def is_open(self) -> bool:
        """Whether anything may go at all; False once a budget is used up."""

    def may_send(self, in_flight: int, now: float) -> bool: ...
    def sent(self, size: int) -> None: ...
    def chunk_bytes(self, now: float) -> int: ...
    def chunk_sent(self, size: int) -> None: ...
    def acknowledged(self, size: int, now: float) -> None: ...
    def connected(self, now: float) -> None: ...
    def spoke(self, size: int) -> None: ...
    def leave(self) -> None: ...


class Pacer:
    """One link. Its owner asks before each packet, and tells of what went and what was acknowledged."""

    def __init__(self, most: float, now: float) -> None:
        """`most`: the rate that is allowed."""
        self._most = most
        self.rate = most  # bytes a second that the link carries, as far as is known
        self._base, self._enhancements = _Bucket(now), _Bucket(now)
        self._acknowledged: deque[tuple[float, int]] = deque()
        self._blocked_at = float("-inf")
        self._began = self._looked_at = now
        self._asked_at = float("-inf")  # when an enhancement last wanted to go

    @property
    def is_open(self) -> bool:
        return self._most > 0

    def allow(self, most: float) -> None:
        """Another rate is allowed from now on; 0 stops the link."""
        if most > self._most == self.rate:
            self.rate = most  # it was not the link that limited
        self._most = most
        self.rate = min(self.rate, most)

    def may_send(self, in_flight: int, now: float) -> bool:
        """Whether a base packet may go, with so many bytes in flight."""
        self._look(now)
        share = 1 - _ENHANCEMENT_SHARE if now - self._asked_at < _STEP_SECONDS else 1.0
        if not self._base.is_open(share * self._most, now):
            return False
        if in_flight > 0 and in_flight >= max(self.rate * _FLIGHT_SECONDS, _LEAST_FLIGHT):
            self._blocked_at = now
            return False
        return True

    def sent(self, size: int) -> None:
        """A base packet went, of so many bytes."""
        self._base.take(size)

    def spoke(self, size: int) -> None:
        """Something else went, which waits for no rate: a hello, a ping."""

    def leave(self) -> None:
        """Nothing is sent any more: whoever shares the link has it."""

    def chunk_bytes(self, now: float) -> int:
        """The most that a chunk of an enhancement may have now; 0 while none may go."""
        self._look(now)
        self._asked_at = now
        rate = _ENHANCEMENT_SHARE * self.rate
        if not self._enhancements.is_open(rate, now):
            return 0
        return max(_LEAST_CHUNK, int(rate * _CHUNK_SECONDS))

    def chunk_sent(self, size: int) -> None:
        self._enhancements.take(size + OVERHEAD_BYTES)

    def acknowledged(self, size: int, now: float) -> None:
        """So many bytes that were in flight have arrived."""
        if size > 0:
            self._acknowledged.append((now, size))
        self._look(now)

    def connected(self, now: float) -> None:
        """A new connection: what was measured on the last one counts for little, and nothing is in flight."""
        self._acknowledged.clear()
        self._began, self._blocked_at = now, float("-inf")

    def _look(self, now: float) -> None:
        if now - self._looked_at < _STEP_SECONDS:
            return
        self._looked_at = now
        while self._acknowledged and now - self._acknowledged[0][0] > _HORIZON_SECONDS:
            self._acknowledged.popleft()
        seconds = min(_HORIZON_SECONDS, max(_STEP_SECONDS, now - self._began))
        measured = sum(size for _, size in self._acknowledged) / seconds
        if now - self._blocked_at <= _BLOCKED_SECONDS:
            self.rate += _SMOOTHING * (measured - self.rate)
        else:
            self.rate = max(self.rate, min(self.rate * _GROWTH, _TRIED * measured))
        self.rate = min(self._most, max(_LEAST_SHARE * self._most, self.rate))

"""Delivery of base frames over a link that loses, repeats and breaks: both ends, without sockets or clocks.

`BaseSender` serves the edge. The spool on disk holds the frames; the sender only remembers, for the present
connection, how far it has read each boot and what is in flight. Its owner asks it what to read and what to
repeat, and tells it what was sent and what came back. What a boot goes through on a connection is the table
`BOOT_TABLE`. All times are monotonic seconds passed in as `now`.

`Received` serves the gateway: the set of sequences of one boot that are safe, as one cumulative number and
a few ranges. `PACKETS.md` has the rules that both follow.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from secondlook.shared.settings import Seconds, Settings


def parts_beside(first: int, last: int, ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The parts of `first` to `last` that lie in none of `ranges`, which ascend."""
    for low, high in ranges:
        if low > last:
            break
        if first < low:
            yield first, low - 1
        first = max(first, high + 1)
    if first <= last:
        yield first, last


class Received:
    """Sequences of one boot that arrived or were given up: everything up to `cumulative`, then ranges."""

    def __init__(self, cumulative: int = -1, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self.cumulative = cumulative
        self._ranges: list[tuple[int, int]] = []  # ascending, disjoint, none touching a neighbour
        for first, last in ranges:
            self.add(first, last)

    def __contains__(self, seq: int) -> bool:
        return self.covers(seq, seq)

    def covers(self, first: int, last: int) -> bool:
        """Whether every sequence from `first` to `last` is in."""
        if last <= self.cumulative:
            return True
        index = bisect_left(self._ranges, (max(first, self.cumulative + 1) + 1,)) - 1
        return index >= 0 and self._ranges[index][1] >= last

    def add(self, first: int, last: int | None = None) -> bool:
        """Count `first` to `last` (one sequence without it). Returns whether any of them was new."""
        last = first if last is None else last
        if self.covers(first, last):
            return False
        first = max(first, self.cumulative + 1)
        begin = bisect_left(self._ranges, (first,))
        if begin > 0 and self._ranges[begin - 1][1] >= first - 1:
            begin -= 1
        end = begin
        while end < len(self._ranges) and self._ranges[end][0] <= last + 1:
            end += 1
        touched = self._ranges[begin:end]
        merged = (min([first, *(low for low, _ in touched)]), max([last, *(high for _, high in touched)]))
        self._ranges[begin:end] = [merged]
        if self._ranges[0][0] == self.cumulative + 1:
            self.cumulative = self._ranges.pop(0)[1]
        return True

    def selective(self, most: int) -> tuple[tuple[int, int], ...]:
        """The first `most` ranges beyond `cumulative`, as an acknowledgement carries them."""
        return tuple(self._ranges[:most])

    def parts(self) -> list[tuple[int, int]]:
        """All that is in, as ascending ranges."""
        return [(0, self.cumulative), *self._ranges] if self.cumulative >= 0 else list(self._ranges)

    def missing(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The parts of `first` to `last` that are not in."""
        return parts_beside(max(first, self.cumulative + 1), last, self._ranges)


@dataclass(frozen=True)
class LinkTimes(Settings):
    """Timers of the sender, in seconds."""

    resend_seconds: Seconds = 20.0  # an unacknowledged frame is sent again after this
    hello_seconds: Seconds = 5.0  # an unanswered hello is said again after this; so it is while credit is 0


@dataclass(frozen=True)
class Read:
    """What to read from the spool next: frames of `boot_id` from `from_seq` on, to fill `room_bytes`."""

    boot_id: str
    from_seq: int
    room_bytes: int


_FlightKey = tuple[str, int, int, bool]  # boot, first, last, whether it is a tombstone


@dataclass(frozen=True)
class Flight:
    """Something sent and not acknowledged: one frame, or a tombstone (`size_bytes` 0) with its range."""

    boot_id: str
    first_seq: int
    last_seq: int
    size_bytes: int
    sent_at: float
    overhead_bytes: int = 0  # of headers that went with it

    @property
    def is_tombstone(self) -> bool:
        return self.size_bytes == 0

    @property
    def key(self) -> _FlightKey:
        # A frame that was dropped on its way and its tombstone are both in flight.
        return self.boot_id, self.first_seq, self.last_seq, self.is_tombstone


class BootState(Enum):
    """How far one boot has come on the present connection."""

    SILENT = "silent"  # no hello was said for it
    GREETED = "greeted"  # its hello waits for a welcome
    READING = "reading"  # welcomed; the spool may hold more to send
    DRAINED = "drained"  # welcomed; the spool had nothing more when last asked


class BootEvent(Enum):
    HELLO = "hello said"
    WELCOME = "welcome came"
    SPOOLED = "something new in the spool"
    EMPTY = "nothing more in the spool"


# A pair that is not here changes nothing. A hello is said in the later states too, while credit is 0. On a new
# connection every boot is SILENT.
BOOT_TABLE: Mapping[tuple[BootState, BootEvent], BootState] = {
    (BootState.SILENT, BootEvent.HELLO): BootState.GREETED,
    (BootState.GREETED, BootEvent.WELCOME): BootState.READING,
    (BootState.READING, BootEvent.EMPTY): BootState.DRAINED,
    (BootState.DRAINED, BootEvent.SPOOLED): BootState.READING,
}


@dataclass
class _Boot:
    """What one connection knows of one boot."""

    state: BootState = BootState.SILENT
    hello_at: float = -math.inf
    from_seq: int = 0  # the spool is read from here on
    held: Received | None = field(default_factory=Received)  # by the gateway; None once compared

    def take(self, event: BootEvent) -> None:
        self.state = BOOT_TABLE.get((self.state, event), self.state)

    @property
    def is_welcome(self) -> bool:
        return self.state in (BootState.READING, BootState.DRAINED)


class BaseSender:
    """Decides what goes out on the bulk connection. Owner's cycle, on each wake-up:

    1. say `Hello` for every boot in `hellos(...)`;
    2. repeat what `overdue(now)` returns (or report it `gone`);
    3. send new tombstones, reporting each with `sent`;
    4. while `next_read()` names a place: read frames there, send those that `may_send`, report each with
       `sent`, and `drained` when the spool has no more;
    5. feed every `Welcome` and `Ack` back;
    6. compare the boots in `to_compare()` with the spool, reporting each with `compared`.
    """

    def __init__(self, times: LinkTimes) -> None:
        self._times = times
        self._boots: dict[str, _Boot] = {}
        self._flights: dict[_FlightKey, Flight] = {}  # oldest sending first
        self._window_bytes = 0
        self._in_flight_bytes = self._overhead_bytes = 0

    @property
    def in_flight_bytes(self) -> int:
        return self._in_flight_bytes

    @property
    def link_bytes(self) -> int:
        """What is in flight with its headers, tombstones included: bytes that the link has yet to carry."""
        return self._in_flight_bytes + self._overhead_bytes

    @property
    def in_flight(self) -> int:
        """Frames and tombstones that were sent and not acknowledged."""
        return len(self._flights)

    def connected(self) -> None:
        """A new connection: nothing is in flight on it, nobody is welcomed, no credit is given."""
        self._boots.clear()
        self._flights.clear()
        self._window_bytes = self._in_flight_bytes = self._overhead_bytes = 0

    def hellos(self, boots: Sequence[str], now: float) -> list[str]:
        """Which of `boots` (those with anything undelivered, oldest first) to greet now.

        The ones returned count as greeted at `now`.
        """
        due = []
        for boot_id in boots:
            boot = self._boots.setdefault(boot_id, _Boot())
            waits = not boot.is_welcome or self._window_bytes == 0
            if waits and now - boot.hello_at >= self._times.hello_seconds:
                boot.take(BootEvent.HELLO)
                boot.hello_at = now
                due.append(boot_id)
        return due

    def welcomed(self, boot_id: str, cumulative: int, credit_bytes: int) -> None:
        """Take in a `Welcome`. Reading begins behind what is safe; a repeated one does not rewind."""
        self._event(boot_id, BootEvent.WELCOME)
        self.acknowledged(boot_id, cumulative, (), credit_bytes)

    def acknowledged(
        self, boot_id: str, cumulative: int, selective: Sequence[tuple[int, int]], credit_bytes: int
    ) -> None:
        """Take in an `Ack`: what it covers is no longer in flight, and its credit is the window now."""
        self._window_bytes = credit_bytes
        safe = Received(cumulative, selective)
        for key, flight in list(self._flights.items()):
            if flight.boot_id == boot_id and safe.covers(flight.first_seq, flight.last_seq):
                self._land(key)
        boot = self._boots.get(boot_id)
        if boot is not None:
            boot.from_seq = max(boot.from_seq, cumulative + 1)
            if boot.held is not None:
                for first, last in ((0, cumulative), *selective):
                    if last >= first:
                        boot.held.add(first, last)

    def to_compare(self) -> list[tuple[str, Received]]:
        """Boots that were welcomed on this connection, with what the gateway says it holds of each.

        A gateway may have been given an older copy of its data: what the spool counts as safe and the gateway
        does not hold must be sent again.
        """
        return [
            (id_, boot.held) for id_, boot in self._boots.items() if boot.is_welcome and boot.held is not None
        ]

    def compared(self, boot_id: str, again_from: int | None) -> None:
        """The spool knows what is missing; from `again_from` on it holds frames to send again (None: none)."""
        boot = self._boots[boot_id]
        boot.held = None
        if again_from is not None:
            boot.from_seq = min(boot.from_seq, again_from)
            boot.take(BootEvent.SPOOLED)

    def spooled(self, boot_id: str) -> None:
        """The spool holds something new for this boot."""
        self._event(boot_id, BootEvent.SPOOLED)

    def next_read(self) -> Read | None:
        """Where to read the next frame to send, or None: no room, nobody welcomed, or nothing left."""
        room = self._window_bytes - self._in_flight_bytes
        if self._window_bytes == 0 or (room <= 0 and self._in_flight_bytes > 0):
            return None
        for boot_id, boot in self._boots.items():
            if boot.state is BootState.READING:
                return Read(boot_id, boot.from_seq, room)
        return None

    def may_send(self, size_bytes: int) -> bool:
        """Whether a frame of this size fits the credit; alone, any size does while there is any credit."""
        if self._in_flight_bytes == 0:
            return self._window_bytes > 0
        return self._in_flight_bytes + size_bytes <= self._window_bytes

    def drained(self, boot_id: str) -> None:
        """The spool holds no more frames of this boot from where `next_read` pointed."""
        self._event(boot_id, BootEvent.EMPTY)

    def sent(
        self,
        boot_id: str,
        first_seq: int,
        last_seq: int,
        size_bytes: int,
        now: float,
        overhead_bytes: int = 0,
    ) -> None:
        """A frame (`first_seq` = `last_seq`), or a tombstone (`size_bytes` 0), was handed to the socket.

        `overhead_bytes`: its headers, or its part of those that several frames share. They need no credit.
        """
        flight = Flight(boot_id, first_seq, last_seq, size_bytes, now, overhead_bytes)
        self._land(flight.key)
        self._flights[flight.key] = flight
        self._in_flight_bytes += size_bytes
        self._overhead_bytes += overhead_bytes
        if size_bytes:
            boot = self._boots[boot_id]
            boot.from_seq = max(boot.from_seq, last_seq + 1)

    def overdue(self, now: float) -> list[Flight]:
        """What was sent so long ago that it must be sent again, oldest first."""
        due = []
        for flight in self._flights.values():  # in the order of sending, so the first young one ends it
            if now - flight.sent_at < self._times.resend_seconds:
                break
            due.append(flight)
        return due

    def rewind(self, boot_id: str, seq: int) -> None:
        """What was sent from `seq` on is not taken as it was: it is read, and sent, once more."""
        boot = self._boots.get(boot_id)
        if boot is None:
            return
        for key, flight in list(self._flights.items()):
            if flight.boot_id == boot_id and flight.first_seq >= seq and not flight.is_tombstone:
                self._land(key)
        boot.from_seq = min(boot.from_seq, seq)
        boot.take(BootEvent.SPOOLED)

    def gone(self, flight: Flight) -> None:
        """The spool no longer holds what was in flight: acknowledged meanwhile, or dropped."""
        self._land(flight.key)

    def _event(self, boot_id: str, event: BootEvent) -> None:
        if boot_id in self._boots:
            self._boots[boot_id].take(event)

    def _land(self, key: _FlightKey) -> None:
        flight = self._flights.pop(key, None)
        if flight is not None:
            self._in_flight_bytes -= flight.size_bytes
            self._overhead_bytes -= flight.overhead_bytes

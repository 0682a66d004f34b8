"""Workers that wait for frames: the broker answers them once there are some, or when their time is over.

So an idle worker need not ask ten times a second. Logic without I/O; instants are Unix seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

_MOST = 10_000  # that wait at a time; the one that has waited longest is answered beyond


@dataclass(frozen=True)
class Parked:
    """A request whose answer comes later: by then, at the latest."""

    request_id: int
    until: float


class Waiting:
    """Whose answers are owed."""

    def __init__(self) -> None:
        self._parked: dict[bytes, Parked] = {}  # by peer; a worker makes one call at a time

    def __bool__(self) -> bool:
        return bool(self._parked)

    def park(self, peer: bytes, parked: Parked) -> None:
        """A peer waits; what it waited for before it has given up."""
        self._parked.pop(peer, None)
        self._parked[peer] = parked

    def due(self, *, now: float, has_frames: bool) -> list[tuple[bytes, int]]:
        """Peers to answer now, each with the id of its request; they wait no more."""
        crowd = len(self._parked) - _MOST
        found = [
            (peer, parked.request_id)
            for place, (peer, parked) in enumerate(self._parked.items())
            if has_frames or now >= parked.until or place < crowd
        ]
        for peer, _ in found:
            del self._parked[peer]
        return found

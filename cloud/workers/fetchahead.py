"""How much may be fetched before a refiner asks: a budget of bytes for each camera host, by the time handed in."""

from __future__ import annotations

from dataclasses import dataclass, field

_MINUTE = 60.0


@dataclass
class FetchAhead:
    """So many bytes a minute from each camera host, saved up for one minute at most; 0: nothing."""

    bytes_per_minute: int
    _left: dict[str, tuple[float, float]] = field(default_factory=dict)  # bytes, and when that was

    def takes(self, edge_id: str, size_bytes: int, *, now: float) -> bool:
        """Whether there is room for an enhancement of this size, in seconds of any steady clock; takes the room."""
        left = self._room(edge_id, now)
        if size_bytes > left or self.bytes_per_minute == 0:
            return False
        # Whoever has saved up all there is needs no entry: as many stay as have spent something this minute.
        self._left = {name: kept for name, kept in self._left.items() if 0 <= now - kept[1] < _MINUTE}
        self._left[edge_id] = left - size_bytes, now
        return True

    def _room(self, edge_id: str, now: float) -> float:
        left, since = self._left.get(edge_id, (float(self.bytes_per_minute), now))
        gained = max(0.0, now - since) / _MINUTE * self.bytes_per_minute
        return min(float(self.bytes_per_minute), left + gained)

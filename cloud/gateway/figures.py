"""What a gateway knows of its site's state, as figures for `shared.conditions` and for metrics."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from secondlook.cloud.gateway.intake import Intake
from secondlook.cloud.gateway.keys import Registry, Role
from secondlook.cloud.gateway.presence import Presence
from secondlook.cloud.storage.ledger import EdgeRecord
from secondlook.cloud.storage.stores import Stores
from secondlook.shared import metrics

Figures = dict[str, dict[str, float | None]]

_EDGES_SECONDS = 5.0  # between two looks into the ledger
_IDLE_SECONDS = (
    45.0  # an idle camera host pings every 30 s (`link.idle_ping_seconds`), and says nothing in between
)
_BUSY_SECONDS = 3.0  # a host that was heard so long after its last frame is idle: it pings 5 s after that
_WATCHED_SECONDS = 7 * 86_400.0  # a camera host that was not heard for so long is watched no more
_REFUSED_SECONDS = 60.0  # a refused key is told of for so long after its last attempt
_NANOSECONDS = 1_000_000_000


class SiteFigures:
    """Use in the gateway's thread. Instants are Unix seconds handed in as ``now``."""

    def __init__(
        self,
        stores: Stores,
        intake: Intake,
        presence: Presence,
        registry: Registry | None,
        data_dir: Path,
        now: float,
    ) -> None:
        self._stores = stores
        self._intake = intake
        self._presence = presence
        self._registry = registry
        self._data_dir = data_dir
        self._started_at = now
        self._edges: list[EdgeRecord] = []
        self._edges_at = float("-inf")
        self.refused: dict[str, float] = {}  # names whose key was refused, and when it was last

    def look(self, now: float) -> Figures:
        """The figures of all conditions that a gateway can tell. Raises the StorageErrors of its stores."""
        if not 0 <= now - self._edges_at < _EDGES_SECONDS:
            self._edges, self._edges_at = self._stores.ledger.edges(), now
        away = self.away(now)
        queue = self._stores.queue
        self.refused = {
            name: at
            for name, at in self.refused.items()
            if 0 <= now - at < _REFUSED_SECONDS and self._intake.tally.heard.get(name, 0.0) <= at
        }
        figures: Figures = {
            "camera-away": dict(away),
            "camera-silent": dict(self._silences(away, now)),
            "key-refused": dict.fromkeys(self.refused, 1.0),
            "clock-off": {edge: abs(offset) for edge, offset in self._intake.clock_offsets().items()},
            "queue-old": {"queue": queue.oldest_age(now)},
            "frames-dead": {"queue": float(queue.dead_count)},
            "worker-away": self._presence.silences(now),
            "worker-behind": self._presence.shedding(now),
            "disk-low": {str(self._data_dir): self._free_bytes()},
        }
        self._measure(figures, now)
        return figures

    def away(self, now: float) -> Mapping[str, float]:
        """Seconds since each camera host was heard of, of those that are watched; 0 while an idle one may be silent."""
        found: dict[str, float] = {}
        for edge in self._edges:
            heard = self._intake.tally.heard.get(edge.edge_id)
            if self._registry is not None and not self._may_come(edge.edge_id, now):
                continue
            if self._stores.is_embedded:
                # What was heard before this start is on record; that this gateway did not run is nobody's fault.
                last = max(edge.last_seen_ns / _NANOSECONDS, heard or 0.0)
                if now - last < _WATCHED_SECONDS:
                    found[edge.edge_id] = max(0.0, now - max(last, self._started_at))
            elif heard is not None and edge.last_seen_ns / _NANOSECONDS <= heard + 1.0:
                found[edge.edge_id] = max(0.0, now - heard)  # else it has gone to another gateway
        idle = [name for name, silence in found.items() if silence < _IDLE_SECONDS and self._was_idle(name)]
        return {**found, **dict.fromkeys(idle, 0.0)}

    def _was_idle(self, edge_id: str) -> bool:
        """Whether a camera host had nothing to deliver when it was heard last; False of one not heard in this run."""
        heard, delivered = (
            told.get(edge_id) for told in (self._intake.tally.heard, self._intake.tally.delivered)
        )
        return heard is not None and delivered is not None and heard - delivered > _BUSY_SECONDS

    def _silences(self, away: Mapping[str, float], now: float) -> Mapping[str, float | None]:
        """Seconds without a frame, of hosts that are there."""
        connected = self._intake.connected()
        return {
            edge_id: max(0.0, now - self._intake.tally.delivered.get(edge_id, self._started_at))
            if edge_id in connected and seconds < 10.0
            else None
            for edge_id, seconds in away.items()
        }

    def _may_come(self, name: str, now: float) -> bool:
        assert self._registry is not None
        entries = [one for one in self._registry.entries if one.name == name and one.role is Role.EDGE]
        # One whose key has ended of itself is missed; one that was revoked is not.
        return any(not one.revoked for one in entries)

    def _free_bytes(self) -> float | None:
        try:
            return float(shutil.disk_usage(self._data_dir).free)
        except OSError:
            return None

    def _measure(self, figures: Figures, now: float) -> None:
        queue = self._stores.queue
        metrics.measure("queue_frames", queue.depth)
        metrics.measure("queue_bytes", queue.depth_bytes)
        metrics.measure("queue_oldest_seconds", figures["queue-old"]["queue"] or 0.0)
        metrics.measure("dead_frames", figures["frames-dead"]["queue"] or 0.0)
        metrics.measure("cameras_connected", len(self._intake.connected()))
        for role, many in self._presence.heard(now).items():
            metrics.measure("workers_heard", many, role)
        for edge_id, offset in self._intake.clock_offsets().items():
            metrics.measure("clock_offset_seconds", offset, edge_id)
        free = figures["disk-low"][str(self._data_dir)]
        if free is not None:
            metrics.measure("disk_free_bytes", free, str(self._data_dir))

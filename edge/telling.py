"""What an agent tells of itself beside its status file: metrics, and conditions that begin and end."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from secondlook.shared import metrics
from secondlook.shared.alerts import open_alerts
from secondlook.shared.conditions import WatchConfig
from secondlook.shared.mail import SmtpConfig
from secondlook.shared.watch import Watch

# The log hears of these where they happen: at each ping, and when the link goes and comes.
_SILENT = frozenset({"clock-off", "link-down"})
_NEWS_SECONDS, _NO_NEWS_SECONDS = 1.0, 5.0
_COUNTED = {
    "frames_captured_total": "captured",
    "frames_encoded_total": "encoded",
    "frames_spooled_total": "spooled",
}
_GAUGES = {
    "spool_bytes": "spool_bytes",
    "base_quality": "base_quality",
    "link_kbps": "link_kbps",
    "clock_offset_seconds": "clock_offset_seconds",
}


class TellingTimes:
    """When a status is due: within a second where something is new, every few seconds where nothing is.

    What is written each second wears out a card, and keeps an idle host awake.
    """

    def __init__(self) -> None:
        self._told: object = None
        self._told_at = float("-inf")

    def is_due(self, what: object, now: float) -> bool:
        """`what` stands for all that is worth a line; `now` is monotonic seconds. It counts as told then."""
        if now - self._told_at < (_NEWS_SECONDS if what != self._told else _NO_NEWS_SECONDS):
            return False
        self._told, self._told_at = what, now
        return True


class Telling:
    """One camera's. It is handed what goes into status.json whenever that is written; use in one thread."""

    def __init__(
        self, config: WatchConfig, smtp: SmtpConfig, camera: str, data_dir: Path, spool_bytes: int
    ) -> None:
        """`camera` is the edge id, `spool_bytes` what the spool may hold at most."""
        alert = open_alerts(config, smtp, "edge")
        self._watch = Watch(config, silent=_SILENT, alert=alert)
        self._camera = camera
        self._data_dir = str(data_dir)
        self._spool_bytes = spool_bytes
        self._up_at: float | None = None  # when the link was last up
        self._frame_at: float | None = None  # when the latest frame was seen to have come
        self._last_frame: object = None
        self._counted: dict[tuple[str, ...], float] = {}  # what was told to the metrics, by name and labels

    def tell(
        self, status: Mapping[str, Any], dropped: Mapping[str, int], waiting: tuple[int, int], now: float
    ) -> list[dict[str, Any]]:
        """Take in a status; returns the conditions that hold, for it. `now` is Unix seconds.

        `dropped`: frames under tombstones by reason; `waiting`: undelivered frames and their bytes.
        """
        self._measure(status, dropped, waiting[0], now)
        if self._watch.is_due(now):
            self._watch.look(self._figures(status, waiting[1], now), now)
        return self._watch.told(now)

    def _measure(
        self, status: Mapping[str, Any], dropped: Mapping[str, int], waiting: int, now: float
    ) -> None:
        camera = self._camera
        for name, key in _COUNTED.items():
            self._count_to(float(status[key]), name, camera)
        safe = status["acknowledged"] + status["acknowledged_earlier"]
        self._count_to(float(safe), "frames_acknowledged_total", camera)
        for reason, many in dropped.items():
            self._count_to(float(many), "frames_dropped_total", camera, reason)
        for layer, at, key in (
            ("base", "encoded", "bytes_base"),
            ("enhancement", "encoded", "bytes_enhancement_stored"),
            ("enhancement", "sent", "bytes_enhancement_sent"),
        ):
            self._count_to(float(status[key]), "layer_bytes_total", camera, layer, at)
        for name, key in _GAUGES.items():
            if status[key] is not None:
                metrics.measure(name, float(status[key]), camera)
        metrics.measure("link_up", float(status["link"] == "up"), camera)
        metrics.measure("spool_waiting_frames", waiting, camera)
        metrics.measure("spool_oldest_seconds", _oldest(status, now), camera)
        if status["disk_free_bytes"] is not None:
            metrics.measure("disk_free_bytes", status["disk_free_bytes"], self._data_dir)

    def _count_to(self, total: float, name: str, *labels: str) -> None:
        """Raise a counter by what a total of this start grew by. The counter is of the process, which may have seen
        earlier starts of the camera."""
        before = self._counted.get((name, *labels), 0.0)
        if total > before:
            self._counted[name, *labels] = total
            metrics.count(name, *labels, by=total - before)

    def _figures(
        self, status: Mapping[str, Any], waiting_bytes: int, now: float
    ) -> dict[str, dict[str, float | None]]:
        # In a duty cycle the link is closed on purpose.
        up = status["link"] == "up" or status["source"] == "asleep"
        if self._up_at is None or up or now < self._up_at:
            self._up_at = now
        if self._frame_at is None or status["last_frame"] != self._last_frame or now < self._frame_at:
            self._last_frame, self._frame_at = status["last_frame"], now
        clock = status["clock_offset_seconds"]
        # Frames may be an hour apart: it is the source that says whether it is there.
        lost = now - self._frame_at if status["source"] == "reconnecting" else 0.0
        camera = self._camera
        return {
            "link-down": {camera: now - self._up_at},
            "link-slow": {camera: _oldest(status, now) if up else None},
            "clock-off": {camera: None if clock is None else abs(clock)},
            "disk-low": {self._data_dir: status["disk_free_bytes"]},
            "spool-filling": {camera: waiting_bytes / self._spool_bytes},
            "camera-lost": {camera: lost},
        }


def _oldest(status: Mapping[str, Any], now: float) -> float:
    """Age of the oldest frame that is not delivered, 0 where there is none."""
    text = (status["all_boots"] or {}).get("oldest_undelivered")
    if text is None:
        return 0.0
    return max(0.0, now - datetime.fromisoformat(text).timestamp())

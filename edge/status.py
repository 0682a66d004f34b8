"""`secondlook edge status`: what the agents of this host last wrote of themselves, a row a camera."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from secondlook.edge.config import EdgeConfig
from secondlook.edge.fleet import HOST_FILE
from secondlook.edge.outage import duration
from secondlook.edge.pause import is_paused
from secondlook.edge.site import Site

_OLD_SECONDS = 15.0  # a status that is older was written by an agent that is gone, or hangs
_COLUMNS = (
    "camera",
    "state",
    "source",
    "link",
    "captured",
    "waiting",
    "oldest",
    "dropped",
    "spool",
    "trouble",
)


def camera_statuses(site: Site, now: float) -> list[dict[str, Any]]:
    """One for each camera: its status.json, and with it `state`, `age_seconds` and `why`. `now`: seconds since 1970.

    States: running, failed, hangs, done, paused, stopped (nobody writes it any more), unknown (nobody ever did).
    """
    host = _read(site.data_dir / HOST_FILE) if site.has_tables else {}
    told = host.get("cameras")
    cameras: dict[str, Any] = (
        told if isinstance(told, dict) and _age(host.get("time"), now) < _OLD_SECONDS else {}
    )
    return [_status(config, cameras.get(config.edge_id) or {}, now) for config in site.cameras]


def _status(config: EdgeConfig, told: dict[str, Any], now: float) -> dict[str, Any]:
    found = _read(config.data_dir / "status.json")
    age = _age(found.get("time"), now)
    state = told.get("state") or ("running" if age < _OLD_SECONDS else "stopped")
    if not found and not told:
        state = "unknown"
    if state == "running" and is_paused(config.data_dir, now):
        state = "paused"
    return {
        **found,
        "edge_id": config.edge_id,
        "camera": config.camera,
        "state": state,
        "age_seconds": None if math.isinf(age) else round(age, 1),
        "why": told.get("why") or found.get("source_trouble"),
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _age(said: object, now: float) -> float:
    try:
        at = datetime.fromisoformat(said).timestamp() if isinstance(said, str) else float(said)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return math.inf
    return max(0.0, now - at)


def table(statuses: Sequence[dict[str, Any]], now: float) -> str:
    """The rows for people, with a heading."""
    rows = [_COLUMNS, *(_row(status, now) for status in statuses)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _row(status: dict[str, Any], now: float) -> tuple[str, ...]:
    boots = status.get("all_boots")
    counts: dict[str, Any] = boots if isinstance(boots, dict) else {}
    oldest = counts.get("oldest_undelivered")
    return (
        str(status["edge_id"]),
        str(status["state"]),
        _shown(status.get("source")),
        _shown(status.get("link")),
        _shown(status.get("captured")),
        _shown(counts.get("undelivered")),
        "-" if oldest is None else duration(_age(oldest, now)),
        _shown(status.get("tombstoned")),
        _size(status.get("spool_bytes")),
        _shown(status.get("why")),
    )


def _shown(value: object) -> str:
    return "-" if value is None else str(value)


def _size(value: object) -> str:
    return f"{value / 1e6:.1f} MB" if isinstance(value, int | float) else "-"

"""What the edge agents of a run said of themselves in their status files, added up over restarts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secondlook.shared.errors import StoreCorrupt

_SUMMED = (
    "captured",
    "encoded",
    "acknowledged",
    "tombstoned",
    "bytes_base",
    "bytes_enhancement_stored",
    "bytes_enhancement_sent",
)


@dataclass(frozen=True)
class EdgeTotals:
    """Sums over the agent's starts in one run; rates and times are those of the last start."""

    captured: int = 0
    encoded: int = 0
    acknowledged: int = 0
    tombstoned: int = 0
    bytes_base: int = 0
    bytes_enhancement_stored: int = 0
    bytes_enhancement_sent: int = 0
    encode_fps: float | None = None
    encode_ms: Mapping[str, float | None] = field(default_factory=dict)  # p50 and p95, once known
    source: str = "starting"


class EdgeStatus:
    """Follows the status file over restarts of the agent; what an earlier run left there does not count."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._by_boot: dict[str, dict[str, Any]] = {}
        left = self._load()
        self._left_boot = None if left is None else left["boot_id"]

    def boots(self) -> list[str]:
        """Boot ids in the order they were seen."""
        return list(self._by_boot)

    def read(self) -> EdgeTotals:
        """The totals now. Raises StoreCorrupt."""
        status = self._load()
        if status is not None and status["boot_id"] != self._left_boot:
            self._by_boot[status["boot_id"]] = status
        if not self._by_boot:
            return EdgeTotals()
        last = list(self._by_boot.values())[-1]
        return EdgeTotals(
            **{name: sum(_counted(each, name) for each in self._by_boot.values()) for name in _SUMMED},
            encode_fps=last["encode_fps"],
            encode_ms=last["encode_ms"],
            source=last["source"],
        )

    def _load(self) -> dict[str, Any] | None:
        try:
            status: dict[str, Any] = json.loads(self._path.read_text())
        except FileNotFoundError:
            return None
        except ValueError as cause:
            raise StoreCorrupt(f"not a status file: {self._path}") from cause
        return status


def _counted(status: dict[str, Any], name: str) -> int:
    """A start also delivers what earlier ones left in the spool."""
    return int(status[name]) + (int(status["acknowledged_earlier"]) if name == "acknowledged" else 0)

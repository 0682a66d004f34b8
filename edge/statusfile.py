"""The file status.json of an agent, and what is said in it of time, disk and spool."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from secondlook.edge.spooled import SpoolCounts
from secondlook.shared.errors import DiskFull
from secondlook.shared.files import write_atomically

log = logging.getLogger(__name__)


def write_status(folder: Path, status: Mapping[str, Any]) -> None:
    """Write what people are told; a full disk leaves what was told before. Raises Unwritable."""
    try:
        write_atomically(folder / "status.json", json.dumps(status, indent=1).encode(), synced=False)
    except DiskFull as error:
        log.warning("the status is out of date: %s", error)


def counts_of(counts: SpoolCounts | None) -> dict[str, Any] | None:
    """What all boots of a spool have come to; None where that was never counted."""
    if counts is None:
        return None
    return {
        "boots": counts.boots,
        "frames": counts.frames,
        "acknowledged": counts.acknowledged,
        "undelivered": counts.undelivered,
        "dropped_untold": counts.dropped_untold,
        "oldest_undelivered": instant(counts.oldest_undelivered_ns),
    }


def free_bytes(folder: Path) -> int | None:
    """What is free on the disk of a folder; None where nobody can tell."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def instant(time_ns: int | None) -> str | None:
    """An instant in UTC, to the millisecond; None for none, or one that no calendar has."""
    if time_ns is None:
        return None
    try:
        moment = datetime.fromtimestamp(time_ns / 1e9, UTC)
    except (OverflowError, ValueError, OSError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

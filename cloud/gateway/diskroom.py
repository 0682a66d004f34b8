"""Room on the gateway's disk: frames are taken while there is enough of it to work off what is queued.

A machine worker keeps each base layer that it takes out of the queue. On the same disk, a queue that took the last
byte could not be drained any more. So nothing is taken where less is free than what is queued, and some more. Others
may fill the disk all the same: leases and acknowledgements must be written even then, so a file keeps room for them,
and is given up when there is no other.
"""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from secondlook.cloud.retention.reserve import RESERVED_BYTES, Reserve

_LOOK_SECONDS = 0.2
_MB = 1e6


class DiskRoom:
    """The disk under ``folder``. ``to_come`` tells the bytes that will be written there, whatever is taken now."""

    def __init__(
        self,
        folder: Path,
        min_free_bytes: int,
        to_come: Callable[[], int],
        *,
        reserved_bytes: int = RESERVED_BYTES,
    ) -> None:
        self._folder = folder
        self._min_free_bytes = min_free_bytes
        self._to_come = to_come
        self._reserved_bytes = reserved_bytes
        self._reserve = Reserve(folder / "gateway.reserve", reserved_bytes)
        self._reserve.hold()
        self._looked_at = 0.0
        self._why: str | None = None
        self._gave_up = False  # the reserve: what it left free is for those who drain the queue

    def why_full(self, now: float) -> str | None:
        """Why nothing more may be taken; None while something may. Looks at the disk a few times a second."""
        if 0 <= now - self._looked_at < _LOOK_SECONDS:
            return self._why
        self._looked_at = now
        try:
            free = shutil.disk_usage(self._folder).free
        except OSError:
            return self._why  # to write will show the cause
        if free < self._reserved_bytes // 4:
            self._gave_up |= self._reserve.release()
        elif self._reserve.hold():
            self._gave_up = False
        if self._gave_up:
            free = max(0, free - self._reserved_bytes)
        wanted = self._min_free_bytes + self._to_come()
        if self._why is not None:
            wanted += self._min_free_bytes // 4  # not back and forth with every frame
        self._why = None
        if free < wanted:
            self._why = f"disk full: {free / _MB:.0f} MB are free, and {wanted / _MB:.0f} MB are needed"
        return self._why


def on_one_disk(folder: Path, other: str) -> bool:
    """Whether blobs at ``other``, a path or a URL, lie on the file system of ``folder``."""
    try:
        status = Path(other).stat()
        return stat.S_ISDIR(status.st_mode) and status.st_dev == folder.stat().st_dev
    except OSError:
        return False

"""Room that is kept free for deleting: to mark what goes, a database must be written, also on a disk that is full."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

RESERVED_BYTES = 16 << 20  # far more than a batch writes


class Reserve:
    """A file that takes up room until it is needed."""

    def __init__(self, path: Path, size: int = RESERVED_BYTES) -> None:
        self._path = path
        self._size = size

    def hold(self) -> bool:
        """Take the room, if there is plenty of it; whether it is held now."""
        try:
            if self._path.exists():
                return True
            if shutil.disk_usage(self._path.parent).free < 4 * self._size:
                return False
            with self._path.open("wb") as stream:
                os.posix_fallocate(stream.fileno(), 0, self._size)
        except OSError:
            # Without a reserve everything works but on a full disk.
            self.release()
            return False
        return True

    def release(self) -> bool:
        """Give the room back; whether there was any."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True

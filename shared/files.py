"""Writing files so that a reader, or a crash, never meets half of one."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path

from secondlook.shared.errors import DiskFull, StorageError, Unwritable

_TEMPORARY = re.compile(r"\..+\.[0-9]+-[0-9]+")


def storage_error(path: Path, cause: OSError) -> StorageError:
    """Our error for an operating-system error met while writing `path`."""
    if cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"no space left to write {path}")
    return Unwritable(f"cannot write {path}: {cause.strerror or cause}")


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` through a temporary file beside it. Raises DiskFull or Unwritable."""
    write_all({path: data})


def write_all(files: Mapping[Path, bytes]) -> None:
    """Write several files, none before the bytes of all are safely on disk.

    Raises DiskFull or Unwritable; the files that were there before are then untouched.
    """
    written: dict[Path, Path] = {}
    try:
        for path, data in files.items():
            try:
                written[path] = _write_beside(path, data)
            except OSError as cause:
                raise storage_error(path, cause) from cause
        for path in files:
            try:
                os.replace(written[path], path)
            except OSError as cause:
                raise storage_error(path, cause) from cause
            del written[path]
    finally:
        for temporary in written.values():
            temporary.unlink()


def is_temporary(path: Path) -> bool:
    """Whether this is a file beside its place, which a writer that died has left."""
    return _TEMPORARY.fullmatch(path.name) is not None


def _write_beside(path: Path, data: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary

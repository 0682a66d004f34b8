"""Writing files so that a reader, or a crash, never meets half of one; and for their owner's eyes only.

What Secondlook keeps is pictures of people, secrets and accounts: its folders have mode 0700, its files 0600, whatever
the umask is. What earlier versions left open is closed when a store is opened.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from secondlook.shared.errors import DiskFull, StorageError, StoreBusy, Unwritable

log = logging.getLogger(__name__)

PRIVATE_FILE = 0o600
PUBLIC_FILE = 0o666  # less the umask: what a person asked a command to write
PRIVATE_FOLDER = 0o700
_OTHERS = stat.S_IRWXG | stat.S_IRWXO

_TEMPORARY = re.compile(r"\..+\.[0-9]+-[0-9]+")


def storage_error(path: Path, cause: OSError) -> StorageError:
    """Our error for an operating-system error met while writing `path`."""
    if cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"no space left to write {path}")
    return Unwritable(f"cannot write {path}: {cause.strerror or cause}")


def make_folder(folder: Path, *, mode: int = PRIVATE_FOLDER) -> None:
    """Create ``folder`` and its parents, for their owner only; folders that are there stay as they are.

    Raises Unwritable.
    """
    try:
        _make_with_mode(folder, mode)
    except OSError as error:
        raise Unwritable(f"{folder}: cannot create this folder ({error.strerror})") from error


def _make_with_mode(folder: Path, mode: int) -> None:
    # Not mkdir(parents=True), which gives its mode to the last folder only.
    if not folder.parent.exists():
        _make_with_mode(folder.parent, mode)
    folder.mkdir(mode, exist_ok=True)


def keep_private(*paths: Path) -> None:
    """Take from others what they may do with data folders and files of ours, where that is anything.

    What is missing, or is not ours to change, is left alone: whoever opens it says what is wrong with it. So are
    folders that hardly hold our data alone: sticky ones such as /tmp, and those right below the root.
    """
    for path in paths:
        if _close_to_others(path):
            log.warning("%s was open to other users; now its owner alone may use it", path)


def _close_to_others(path: Path) -> bool:
    with suppress(OSError):
        status = path.stat()
        mode = stat.S_IMODE(status.st_mode)
        shared = stat.S_ISDIR(status.st_mode) and (mode & stat.S_ISVTX or len(path.resolve().parts) < 3)
        if mode & _OTHERS and status.st_uid == os.geteuid() and not shared:
            path.chmod(mode & ~_OTHERS)
            return True
    return False


@contextmanager
def only_process(folder: Path, name: str, what: str) -> Iterator[None]:
    """Hold the lock file ``name`` that keeps a second process of a kind (``what``) out of a data folder.

    The system drops it if we are killed. Raises StoreBusy naming the other's process id, Unwritable, DiskFull.
    """
    make_folder(folder)
    path = folder / name
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
    except OSError as error:
        raise storage_error(path, error) from error
    with os.fdopen(descriptor, "r+b", buffering=0) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = stream.read(20).decode("ascii", "replace").strip()
            raise StoreBusy(
                f"{folder} is in use by another {what} (process {holder or 'unknown'})"
            ) from error
        try:
            stream.truncate(0)
            stream.write(b"%d\n" % os.getpid())
        except OSError as error:
            # The lock is what counts; the number is for people.
            log.warning("%s", storage_error(path, error))
        yield


def write_atomically(path: Path, data: bytes, *, mode: int = PRIVATE_FILE, synced: bool = True) -> None:
    """Write `data` to `path` through a temporary file beside it. Raises DiskFull or Unwritable.

    Without `synced` it may be lost in a power cut: for what is written over and over, and read while we run.
    """
    write_all({path: data}, mode=mode, synced=synced)


def write_parts_atomically(path: Path, parts: Iterable[bytes], *, mode: int = PRIVATE_FILE) -> None:
    """Like ``write_atomically``, for what is too much to be held at once. Raises DiskFull or Unwritable."""
    try:
        temporary = _write_beside(path, parts, mode, True)
        try:
            os.replace(temporary, path)
        except OSError:
            temporary.unlink()
            raise
    except OSError as cause:
        raise storage_error(path, cause) from cause


def write_all(files: Mapping[Path, bytes], *, mode: int = PRIVATE_FILE, synced: bool = True) -> None:
    """Write several files, none before the bytes of all are safely on disk, where they are to be `synced`.

    Nobody but their owner may read them unless `mode` says otherwise; the umask takes from it as ever.
    Raises DiskFull or Unwritable; the files that were there before are then untouched.
    """
    written: dict[Path, Path] = {}
    try:
        for path, data in files.items():
            try:
                written[path] = _write_beside(path, (data,), mode, synced)
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


def _write_beside(path: Path, parts: Iterable[bytes], mode: int, synced: bool) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    with ExitStack() as undo:
        undo.callback(temporary.unlink, missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as stream:
            for part in parts:
                stream.write(part)
            stream.flush()
            if synced:
                os.fsync(stream.fileno())
        undo.pop_all()
    return temporary

"""What the embedded stores share: how a SQLite file is opened, and what its errors mean.

Every store that must survive a power cut is opened by ``prepare``: a write-ahead log, so that readers never
block the writer, and a sync for each commit (``synchronous=NORMAL`` may lose the last ones when power goes).
"""

from __future__ import annotations

import errno
import os
import pwd
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secondlook.shared.errors import (
    DiskFull,
    SecondlookError,
    StorageError,
    StoreBusy,
    StoreCorrupt,
    Unwritable,
)
from secondlook.shared.files import PRIVATE_FILE, keep_private, make_folder
from secondlook.shared.files import storage_error as file_error

_BUSY_PAUSE_SECONDS = 0.02
# Another thread's connection must not come between creating a file and closing it.
_CREATING = threading.Lock()
_CAUSES: dict[int, tuple[type[StorageError], str]] = {
    sqlite3.SQLITE_FULL: (DiskFull, "no space left"),
    sqlite3.SQLITE_IOERR_SHMSIZE: (DiskFull, "no space left for its index"),  # an I/O error in SQLite's words
    sqlite3.SQLITE_CORRUPT: (StoreCorrupt, "the database is damaged"),
    sqlite3.SQLITE_NOTADB: (StoreCorrupt, "the file is not a database"),
    sqlite3.SQLITE_READONLY: (Unwritable, "the database cannot be written"),
    sqlite3.SQLITE_CANTOPEN: (Unwritable, "the database cannot be opened"),
    sqlite3.SQLITE_PERM: (Unwritable, "the database may not be opened"),
    sqlite3.SQLITE_IOERR: (Unwritable, "reading or writing the database failed"),
    sqlite3.SQLITE_BUSY: (StoreBusy, "another process held the database for too long"),
    sqlite3.SQLITE_LOCKED: (StoreBusy, "another connection held the database for too long"),
}


def storage_error(error: BaseException, where: str) -> StorageError | None:
    """Our error for a SQLite error; None for one about data (a violated constraint) or about a bug."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return None
    # The low byte is the primary code; the rest tells where in SQLite it arose.
    cause = _CAUSES.get(code) or _CAUSES.get(code & 0xFF)
    return None if cause is None else cause[0](f"{where}: {cause[1]} ({error})")


@contextmanager
def named_errors(where: str | Path) -> Iterator[None]:
    """Turn SQLite errors about the file itself into ours; let all others pass."""
    try:
        yield
    except sqlite3.Error as error:
        ours: SecondlookError | None = storage_error(error, str(where))
        if ours is None:
            raise
        raise ours from error


@contextmanager
def immediate(connection: sqlite3.Connection) -> Iterator[None]:
    """One transaction that holds the write lock from its start: committed at the end, or rolled back whole.

    Raises DiskFull where an error within, which somebody caught, has made SQLite roll all of it back.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        if not connection.in_transaction:
            raise DiskFull("the disk was full in the middle of a transaction: all of it was rolled back")
        connection.execute("COMMIT")
    finally:
        # SQLite may have rolled back by itself already, as it does when the disk is full.
        if connection.in_transaction:
            connection.execute("ROLLBACK")


@contextmanager
def part(connection: sqlite3.Connection) -> Iterator[None]:
    """A part of the open transaction that is undone alone when it fails."""
    connection.execute("SAVEPOINT part")
    done = False
    try:
        yield
        done = True
    finally:
        # SQLite may have rolled back all of it by itself already.
        if not done and connection.in_transaction:
            connection.execute("ROLLBACK TO part")
            connection.execute("RELEASE part")
    connection.execute("RELEASE part")


def private_database(path: Path) -> None:
    """Make ready the place of a database that its owner alone may read, its log and index included.

    The file is created here where it is missing, since SQLite would do so by the umask; what SQLite makes beside it
    later has the mode of the file itself. One that exists is never opened here: closing it again would drop the POSIX
    locks of every connection that this process has to it, and another process would delete the log under them
    (sqlite.org/howtocorrupt.html, 2.2). Raises Unwritable, DiskFull.
    """
    make_folder(path.absolute().parent)
    try:
        with _CREATING:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE))
    except FileExistsError:
        if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
            raise Unwritable(f"cannot write {path}{_owners(path)}: {os.strerror(errno.EACCES)}") from None
    except PermissionError as error:
        raise Unwritable(f"cannot write {path}{_owners(path)}: {error.strerror}") from error
    except OSError as error:
        raise file_error(path, error) from error
    keep_private(path, *(path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal")))


def _owners(path: Path) -> str:
    """Whose the file is and who we are, where that is not the same."""
    try:
        owner = path.stat().st_uid
    except OSError:
        return ""
    return (
        "" if owner == os.geteuid() else f", which belongs to {_user(owner)} and not to {_user(os.geteuid())}"
    )


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def prepare(connection: sqlite3.Connection, *, busy_seconds: float) -> None:
    """Set the durability rules of this module on a fresh connection."""
    connection.execute(f"PRAGMA busy_timeout = {int(busy_seconds * 1000)}")
    _log_ahead(connection, time.monotonic() + busy_seconds)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _log_ahead(connection: sqlite3.Connection, deadline: float) -> None:
    """Turn to a write-ahead log. SQLite does not wait for others who do so at the same moment on a new file."""
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(_BUSY_PAUSE_SECONDS)

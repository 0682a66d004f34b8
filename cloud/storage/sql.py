"""What the stores behind a SQLAlchemy URL share: how an engine is made, and what its errors mean.

Two databases are known. SQLite serves one machine and follows the durability rules of ``shared.sqlite``. PostgreSQL
serves many, and commits to disk unless its operator turned ``synchronous_commit`` off.
"""

from __future__ import annotations

import os
import pwd
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from sqlalchemy import Connection, Engine, MetaData, Table, create_engine, event, func, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError

from secondlook.cloud.storage.addresses import redacted
from secondlook.shared.errors import (
    ConfigError,
    DiskFull,
    StorageError,
    StoreBusy,
    StoreCorrupt,
    StoreUnavailable,
    Unwritable,
)
from secondlook.shared.files import make_folder
from secondlook.shared.sqlite import prepare, private_database
from secondlook.shared.sqlite import storage_error as sqlite_error

Insert: TypeAlias = postgresql.Insert | sqlite.Insert

_BUSY_SECONDS = 15.0
_MAKING_TABLES = 7601  # number of the advisory lock under which tables are made

# A statement that waits this long for another transaction, or a server that is silent this long, is given up.
_POSTGRESQL: dict[str, Any] = {
    "connect_timeout": 5,
    "tcp_user_timeout": 15_000,
    "keepalives_idle": 10,
    "options": "-c statement_timeout=15000 -c lock_timeout=10000 -c idle_in_transaction_session_timeout=30000",
}

# SQLSTATE, or the class it begins with; the first that fits.
_CAUSES: Sequence[tuple[str, type[StorageError], str]] = (
    ("53100", DiskFull, "no space left"),
    ("53", StoreUnavailable, "the server has no resources left"),
    ("40", StoreBusy, "another transaction was in the way"),
    ("55P03", StoreBusy, "another transaction was in the way for too long"),
    ("57014", StoreBusy, "it took too long"),
    ("57P", StoreUnavailable, "the server is going down or starting"),
    ("08", StoreUnavailable, "the connection broke"),
    ("25006", Unwritable, "the database is read-only"),
    ("42501", Unwritable, "permission denied"),
    ("3F000", Unwritable, "this role has no schema to use"),
    ("58", StoreUnavailable, "the server cannot reach its files"),
    ("XX", StoreCorrupt, "the database is damaged"),
)


def open_engine(url: str, what: str) -> Engine:
    """An engine for ``url``; ``what`` names the store in errors. Raises ConfigError, Unwritable."""
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
        if backend == "sqlite":
            return _open_sqlite(parsed, what)
        if backend != "postgresql":
            raise ConfigError(f"{what}: only sqlite and postgresql+psycopg are known, not {backend}")
        options = {key: value for key, value in _POSTGRESQL.items() if key not in parsed.query}
        # Whatever the server's own default is: readers by number look again with each statement.
        return create_engine(
            parsed, pool_pre_ping=True, connect_args=options, isolation_level="READ COMMITTED"
        )
    except ImportError as error:
        raise ConfigError(
            f"{what}: {error.name} is not installed: pip install 'secondlook[scale]'"
        ) from error
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise ConfigError(
            f"{what}: cannot use the address {redacted(url)!r} ({redacted(str(error))})"
        ) from error


@contextmanager
def named_errors(engine: Engine, what: str) -> Iterator[None]:
    """Turn the database's errors about itself into ours; let those about data pass."""
    try:
        yield
    except DBAPIError as error:
        where = f"{what} {engine.url.database}"
        ours = storage_error(error, where)
        if ours is None:
            raise
        raise ours from error


def storage_error(error: DBAPIError, where: str) -> StorageError | None:
    """Our error for a driver's error; None for one about data (a violated constraint) or about a bug."""
    cause = error.orig
    if cause is None or isinstance(error, IntegrityError):
        return None
    if isinstance(cause, sqlite3.Error):
        return sqlite_error(cause, where)
    state = getattr(cause, "sqlstate", None)
    line = redacted(" ".join(str(cause).split()))
    if state is None:
        # No answer of the server at all: it could not be reached, or went away.
        return StoreUnavailable(f"{where}: no answer ({line})") if _is_about_connection(error) else None
    for prefix, kind, meaning in _CAUSES:
        if state.startswith(prefix):
            return kind(f"{where}: {meaning} ({line})")
    return StoreUnavailable(f"{where}: no answer ({line})") if error.connection_invalidated else None


def make_tables(connection: Connection, tables: MetaData) -> None:
    """Make the tables and indexes that are missing; processes that start together wait for each other."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _MAKING_TABLES})
    tables.create_all(connection)
    for table in tables.sorted_tables:
        for index in table.indexes:  # a table of an earlier version may lack one
            index.create(connection, checkfirst=True)


def hold_lock(connection: Connection, name: str) -> None:
    """Wait until nobody else holds ``name``, and hold it to the end of the transaction.

    On SQLite nothing is to be done: a writing transaction is alone there.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))


def insert(connection: Connection, table: Table) -> Insert:
    """An INSERT that can say what shall happen on conflict, in the words of the connection's database."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def _is_about_connection(error: DBAPIError) -> bool:
    return type(error).__name__ in ("OperationalError", "InterfaceError")


def _check_writable(database: Path, what: str) -> None:
    """Whether this user may write a SQLite database, its log files and their folder. Raises Unwritable.

    SQLite itself opens what it may only read without a word, and fails at the first change.
    """
    log_files = [database.with_name(database.name + ending) for ending in ("-wal", "-shm")]
    for path in (database.parent, database, *log_files):
        if path.exists() and not os.access(path, os.W_OK, effective_ids=True):
            user = _name_of(os.geteuid())
            raise Unwritable(
                f"{what}: {path} belongs to {_name_of(path.stat().st_uid)}, and {user} may not write it; "
                f"give it to {user} (chown), and run what uses it as {user}"
            )


def _name_of(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


def _open_sqlite(url: URL, what: str) -> Engine:
    if url.database:
        database = Path(url.database).absolute()
        make_folder(database.parent)
        _check_writable(database, what)
    engine = create_engine(url, connect_args={"timeout": _BUSY_SECONDS})
    if url.database and url.database != ":memory:" and not url.database.startswith("file:"):
        event.listen(engine, "do_connect", lambda *_: private_database(Path(str(url.database))))
    event.listen(engine, "connect", _on_sqlite_connect)
    event.listen(engine, "begin", _on_sqlite_begin)
    return engine


def _on_sqlite_connect(connection: sqlite3.Connection, _record: object) -> None:
    # Python's sqlite3 would open transactions by itself, and too late; ``_on_sqlite_begin`` does it.
    connection.isolation_level = None
    prepare(connection, busy_seconds=_BUSY_SECONDS)


def _on_sqlite_begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("takes_write_lock", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

"""Where the gateway keeps ledger and requests: its own SQLite file, or a PostgreSQL server that gateways share.

In the file they lie beside the embedded queue, on one connection: what happens inside ``transaction`` is committed
together, whether it came through SQLAlchemy or straight through ``sqlite3``. A server commits each step by itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    StaticPool,
    Table,
    create_engine,
    func,
    inspect,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError

from secondlook.cloud.storage.sql import insert, make_tables, storage_error
from secondlook.cloud.storage.sql import named_errors as named_server_errors
from secondlook.shared.errors import UnsupportedStore
from secondlook.shared.sqlite import immediate, named_errors, part, prepare, private_database

SCHEMA_VERSION = 3
_READABLE = (
    1,
    2,
    SCHEMA_VERSION,
)  # tables of the earlier ones have the same columns, but those that are added
TABLES = MetaData()
_version = Table("gateway_schema", TABLES, Column("version", Integer, primary_key=True))

# Pages that hold most of a packet, and a log that is copied into the file seldom: a packet that is worked off
# meanwhile leaves pages that the next one takes, and they are copied once.
_PAGE_BYTES = 8192
_LOG_PAGES = 4096
_CACHE_KB = 32 << 10  # holds the pages of a commit, and those that workers take soon after
_WHERE = "gateway database"


def open_database(path: Path) -> sqlite3.Connection:
    """Open the gateway's SQLite file for this thread. Raises Unwritable, StoreCorrupt."""
    private_database(path)
    with named_errors(path):
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")  # of a new file only
        prepare(connection, busy_seconds=10)
        connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """One durable step. Inside another it is a part of that one: undone alone when it fails, durable when the
    whole is. Raises DiskFull and other StorageErrors."""
    step = part if connection.in_transaction else immediate
    with named_errors(_WHERE), step(connection):
        yield


class Database(Protocol):
    """Ledger and requests see their database through this. Both raise the StorageErrors of ``cloud.storage.sql``."""

    is_shared: bool  # whether other gateways change the same rows

    def changing(self) -> AbstractContextManager[Connection]:
        """One transaction that is durable at its end, unless it is a part of a larger one."""
        ...

    def reading(self) -> AbstractContextManager[Connection]: ...


class EmbeddedDatabase:
    """A ``Database`` on the connection of the gateway's own file, which its owner closes."""

    is_shared = False

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._raw = connection
        # SQLAlchemy begins and ends nothing here: transactions are those of ``transaction``, on the same connection.
        engine = create_engine(
            "sqlite://",
            creator=lambda: connection,
            poolclass=StaticPool,
            pool_reset_on_return=None,
            isolation_level="AUTOCOMMIT",
        )
        with named_errors(_WHERE):
            self._connection = engine.connect()

    @contextmanager
    def changing(self) -> Iterator[Connection]:
        with transaction(self._raw), _plain_errors():
            yield self._connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with _plain_errors():
            yield self._connection


class ServerDatabase:
    """A ``Database`` behind an engine of ``cloud.storage.sql``, which its owner disposes of."""

    is_shared = True

    def __init__(self, engine: Engine, what: str) -> None:
        """``what`` names the store in errors."""
        self._engine = engine
        self._what = what

    @contextmanager
    def changing(self) -> Iterator[Connection]:
        with named_server_errors(self._engine, self._what), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with named_server_errors(self._engine, self._what), self._engine.connect() as connection:
            yield connection


def prepare_tables(connection: Connection) -> None:
    """Make the tables that are missing, and the columns that tables of an earlier version lack.

    Raises UnsupportedStore.
    """
    make_tables(connection, TABLES)
    version = connection.scalar(select(func.max(_version.c.version)))
    if version is None:
        connection.execute(insert(connection, _version).values(version=SCHEMA_VERSION))
    elif version not in _READABLE:
        raise UnsupportedStore(f"ledger: schema version {version} is not {SCHEMA_VERSION}")
    elif version != SCHEMA_VERSION:
        for table in TABLES.sorted_tables:
            _add_columns(connection, table)
        connection.execute(update(_version).values(version=SCHEMA_VERSION))


def _add_columns(connection: Connection, table: Table) -> None:
    """The columns that a table of an earlier version lacks; all of them may be NULL."""
    there = {column["name"] for column in inspect(connection).get_columns(table.name)}
    for column in table.columns:
        if column.name not in there:
            kind = column.type.compile(connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind}")


def take_over(connection: Connection, old: str, new: Table) -> None:
    """Move the rows of a table that an earlier version kept in the gateway's own file under another name."""
    if connection.dialect.name != "sqlite":
        return
    listed = connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = ?", (old,)).first()
    if listed is None:
        return
    there = {column["name"] for column in inspect(connection).get_columns(old)}
    columns = ", ".join(column.name for column in new.columns if column.name in there)
    connection.exec_driver_sql(f"INSERT INTO {new.name} ({columns}) SELECT {columns} FROM {old}")
    if new.dialect_options["sqlite"]["autoincrement"]:
        # Numbers that were given once are not given again.
        connection.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = ?", (new.name,))
        connection.exec_driver_sql("UPDATE sqlite_sequence SET name = ? WHERE name = ?", (new.name, old))
    connection.exec_driver_sql(f"DROP TABLE {old}")


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn what SQLAlchemy made of SQLite's errors about the file into ours."""
    try:
        yield
    except DBAPIError as error:
        ours = storage_error(error, _WHERE)
        if ours is None:
            raise
        raise ours from error

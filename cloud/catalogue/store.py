"""Opening the catalogue, and its transactions.

``Catalogue.reading()`` gives a session for queries, ``Catalogue.writing()`` one for a single change: it commits
when the block ends and rolls back when it raises. On SQLite a writing transaction takes the write lock at its
start, so that what it reads cannot have changed when it writes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.orm import Session

from cloud.catalogue.schema import SCHEMA_VERSION, AuditEntry, Base, SchemaVersion
from shared.errors import ConfigError, UnsupportedStore
from shared.sqlite import make_folder, prepare, storage_error

_BUSY_SECONDS = 15.0


class Catalogue:
    """The catalogue database at one SQLAlchemy URL. May be shared between threads, not between processes."""

    def __init__(self, engine: Engine) -> None:
        self._reader = engine
        self._writer = engine.execution_options(takes_write_lock=True)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        with _named_errors(self._reader), Session(self._reader) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        # Objects stay readable after the commit, so that functions can return what they stored.
        with (
            _named_errors(self._writer),
            Session(self._writer, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    def close(self) -> None:
        self._reader.dispose()


def open_catalogue(url: str) -> Catalogue:
    """Open the catalogue at ``url`` (``sqlite:///folder/catalogue.db``); make its tables if they are missing.

    Raises ConfigError for an address that cannot be understood, Unwritable, StoreCorrupt, UnsupportedStore.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            if parsed.database:
                make_folder(Path(parsed.database).absolute().parent)
            engine = create_engine(parsed, connect_args={"timeout": _BUSY_SECONDS})
            event.listen(engine, "connect", _on_sqlite_connect)
            event.listen(engine, "begin", _on_sqlite_begin)
        else:
            engine = create_engine(parsed, pool_pre_ping=True)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        # Without what follows the scheme: there may be a password in it, in the error's text too.
        raise ConfigError(f"catalogue: cannot use the {url.partition('://')[0]} address") from error
    catalogue = Catalogue(engine)
    with catalogue.writing() as session:
        Base.metadata.create_all(session.connection())
        version = session.scalars(select(SchemaVersion.version)).one_or_none()
        if version is None:
            session.add(SchemaVersion(version=SCHEMA_VERSION))
        elif version != SCHEMA_VERSION:
            raise UnsupportedStore(f"catalogue: schema version {version} is not {SCHEMA_VERSION}")
    return catalogue


def append_audit(
    session: Session, *, at_ns: int, actor: str, action: str, subject: str, detail: dict[str, Any]
) -> None:
    """Add one line to the audit trail, in the transaction of the change it tells of."""
    session.add(AuditEntry(at_ns=at_ns, actor=actor, action=action, subject=subject, detail=detail))


def _on_sqlite_connect(connection: sqlite3.Connection, _record: object) -> None:
    # Python's sqlite3 would open transactions by itself, and too late; ``_on_sqlite_begin`` does it.
    connection.isolation_level = None
    prepare(connection, busy_seconds=_BUSY_SECONDS)


def _on_sqlite_begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("takes_write_lock", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


@contextmanager
def _named_errors(engine: Engine) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        ours = None if error.orig is None else storage_error(error.orig, f"catalogue {engine.url.database}")
        if ours is None:
            raise
        raise ours from error

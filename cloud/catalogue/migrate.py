"""Bringing the catalogue's tables, those of accounts included, to the schema that this program knows.

The steps are Alembic migrations in ``migrations/versions``, one file each, named by the revision it leads to; in the
order of their names each follows the one before. ``open_catalogue`` takes those that are missing, all of them or none:
processes that start together wait for the first, and a database of a later program is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, inspect, text

from secondlook.shared.errors import StoreCorrupt, UnsupportedStore

log = logging.getLogger(__name__)

VERSION_TABLE = "catalogue_version"
_FOLDER = Path(__file__).parent / "migrations"
_MIGRATING = 7603  # number of the advisory lock under which the schema changes
_WAIT_SECONDS = 600  # for another process that is at it


@dataclass(frozen=True)
class Schema:
    """The revision of a catalogue, None for an empty database, and what this program would add."""

    revision: str | None
    missing: tuple[str, ...]


def revisions() -> list[str]:
    """All revisions that this program knows, oldest first."""
    return sorted(path.stem for path in (_FOLDER / "versions").glob("[0-9]*.py"))


def current_schema(engine: Engine) -> Schema:
    """Where a catalogue stands. Raises UnsupportedStore for one that a later program has changed."""
    with engine.connect() as connection:
        return _schema(connection)


def upgrade(engine: Engine) -> Schema:
    """Take the migrations that are missing; returns where the catalogue stood before. Raises UnsupportedStore."""
    before = current_schema(engine)
    if not before.missing:
        return before
    with _alone(engine) as connection:
        before = _schema(connection)  # another process may have been first
        if before.missing:
            # Only an upgrade needs Alembic; every other start is quicker without it.
            from alembic import command

            logging.getLogger("alembic").setLevel(logging.WARNING)
            command.upgrade(alembic_config(connection), "head")
            log.info("catalogue: schema brought to %s", before.missing[-1])
    return before


def alembic_config(connection: Connection, metadata: object = None) -> Any:
    """Alembic's configuration for one connection; ``metadata`` is what it compares tables with."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes.update(connection=connection, metadata=metadata, version_table=VERSION_TABLE)
    return config


def _schema(connection: Connection) -> Schema:
    known = revisions()
    if not inspect(connection).has_table(VERSION_TABLE):
        return Schema(None, tuple(known))
    found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalars().all()
    unknown = [revision for revision in found if revision not in known]
    if unknown:
        raise UnsupportedStore(
            f"catalogue: its schema is {unknown[0]}, made by a later program; this one knows {known[-1]}"
        )
    if not found:
        return Schema(None, tuple(known))
    return Schema(found[0], tuple(known[known.index(found[0]) + 1 :]))


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
    """A transaction that no other process changes the schema beside. Raises StoreCorrupt."""
    with engine.execution_options(takes_write_lock=True).connect() as connection:
        if connection.dialect.name != "sqlite":
            with connection.begin():
                for setting in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
                    connection.execute(text(f"SET LOCAL {setting} = '{_WAIT_SECONDS}s'"))
                connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _MIGRATING})
                yield connection
            return
        # A table is changed by making another and dropping it; with foreign keys on, its dependants would go too.
        # Both settings hold for a connection, and this one goes back into the pool.
        database: Any = connection.connection.dbapi_connection
        (wait,) = database.execute("PRAGMA busy_timeout").fetchone()
        database.execute("PRAGMA foreign_keys = OFF")
        database.execute(f"PRAGMA busy_timeout = {_WAIT_SECONDS * 1000}")
        try:
            with connection.begin():
                yield connection
                broken = connection.execute(text("PRAGMA foreign_key_check")).first()
                if broken is not None:
                    raise StoreCorrupt(
                        f"catalogue: a row of {broken[0]} refers to one of {broken[2]} that is gone"
                    )
        finally:
            database.execute("PRAGMA foreign_keys = ON")
            database.execute(f"PRAGMA busy_timeout = {wait}")

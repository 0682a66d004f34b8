"""Opening the catalogue, and its transactions.

``Catalogue.reading()`` gives a session for queries, ``Catalogue.writing()`` one for a single change: it commits
when the block ends and rolls back when it raises. On SQLite a writing transaction takes the write lock at its
start, so that what it reads cannot have changed when it writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from secondlook.cloud.catalogue.schema import SCHEMA_VERSION, AuditEntry, Base, SchemaVersion
from secondlook.cloud.storage.sql import make_tables, named_errors, open_engine
from secondlook.shared.errors import UnsupportedStore

_WHAT = "catalogue"


class Catalogue:
    """The catalogue database at one SQLAlchemy URL. May be shared between threads, not between processes."""

    def __init__(self, engine: Engine) -> None:
        self._reader = engine
        self._writer = engine.execution_options(takes_write_lock=True)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        with named_errors(self._reader, _WHAT), Session(self._reader) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        # Objects stay readable after the commit, so that functions can return what they stored.
        with (
            named_errors(self._writer, _WHAT),
            Session(self._writer, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    def close(self) -> None:
        self._reader.dispose()


def open_catalogue(url: str) -> Catalogue:
    """Open the catalogue at ``url`` (``sqlite:///folder/catalogue.db``, or ``postgresql+psycopg://host/database``).

    Makes its tables if they are missing. Raises ConfigError for an address that cannot be understood, Unwritable,
    StoreCorrupt, StoreUnavailable, UnsupportedStore.
    """
    engine = open_engine(url, _WHAT)
    catalogue = Catalogue(engine)
    with ExitStack() as undo:
        undo.callback(catalogue.close)
        with catalogue.writing() as session:
            make_tables(session.connection(), Base.metadata)
            version = session.scalars(select(SchemaVersion.version)).one_or_none()
            if version is None:
                session.add(SchemaVersion(version=SCHEMA_VERSION))
            elif version != SCHEMA_VERSION:
                raise UnsupportedStore(f"catalogue: schema version {version} is not {SCHEMA_VERSION}")
        undo.pop_all()
    return catalogue


def append_audit(
    session: Session, *, at_ns: int, actor: str, action: str, subject: str, detail: dict[str, Any]
) -> None:
    """Add one line to the audit trail, in the transaction of the change it tells of."""
    session.add(AuditEntry(at_ns=at_ns, actor=actor, action=action, subject=subject, detail=detail))

"""Opening the catalogue, and its transactions.

``Catalogue.reading()`` gives a session for queries, ``Catalogue.writing()`` one for a single change: it commits
when the block ends and rolls back when it raises. On SQLite a writing transaction takes the write lock at its
start, so that what it reads cannot have changed when it writes.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from sqlalchemy import Engine, PoolProxiedConnection, update
from sqlalchemy.orm import Session

from secondlook.cloud.catalogue.auditschema import AuditEntry, AuditHead, audit_sha256
from secondlook.cloud.catalogue.horizon import announce_writer
from secondlook.cloud.catalogue.migrate import upgrade
from secondlook.cloud.storage.sql import hold_lock, named_errors, open_engine
from secondlook.shared.errors import AuditBroken

_WHAT = "catalogue"

# What machines do to reviews and frames. A person may ask for a review, too; the policy asks for the others.
_OF_MACHINES = frozenset(
    {
        "review created",
        "review skipped",
        "review refined",
        "review settled",
        "review expired",
        "review failed",
        "frames deleted",
        "verdict told",
    }
)


class Catalogue:
    """The catalogue database at one SQLAlchemy URL. May be shared between threads, not between processes."""

    def __init__(self, engine: Engine) -> None:
        self._reader = engine
        self._writer = engine.execution_options(takes_write_lock=True)
        self._watcher: PoolProxiedConnection | None = None

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
            announce_writer(session.connection())
            yield session

    def version(self) -> int | None:
        """Another number once anybody has committed a change; None where the database does not tell. For one thread.

        SQLite tells by a counter in shared memory, which no statement of ours has to be read for.
        """
        url = self._reader.url
        if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
            return None
        try:
            if self._watcher is None:  # it counts what others commit, so it is none of those that write
                self._watcher = self._reader.raw_connection()
            cursor = self._watcher.cursor()
            cursor.execute("PRAGMA data_version")
            (version,) = cursor.fetchone() or (0,)
            cursor.close()
        except sqlite3.Error:
            return None  # whoever reads or writes says what is wrong
        return int(version)

    def close(self) -> None:
        if self._watcher is not None:
            self._watcher.close()
        self._reader.dispose()


def open_catalogue(url: str) -> Catalogue:
    """Open the catalogue at ``url`` (``sqlite:///folder/catalogue.db``, or ``postgresql+psycopg://host/database``).

    Brings its tables to the schema of this program first, or makes them.
    Raises ConfigError for an address that cannot be understood, Unwritable,
    StoreCorrupt, StoreUnavailable, UnsupportedStore.
    """
    engine = open_engine(url, _WHAT)
    catalogue = Catalogue(engine)
    with ExitStack() as undo:
        undo.callback(catalogue.close)
        with named_errors(engine, _WHAT):
            upgrade(engine)
        undo.pop_all()
    return catalogue


def note_export(catalogue: Catalogue, actor: str, what: str, detail: dict[str, Any], *, now_ns: int) -> None:
    """Leave a line in the audit trail that somebody took data away."""
    with catalogue.writing() as session:
        append_audit(
            session, at_ns=now_ns, actor=actor, action="exported", subject=f"export {what}", detail=detail
        )


def is_by_person(actor: str, action: str) -> bool:
    """Whether a line of the audit trail is of what a person did."""
    return action not in _OF_MACHINES or (action == "review created" and actor != "policy")


def append_audit(
    session: Session, *, at_ns: int, actor: str, action: str, subject: str, detail: dict[str, Any]
) -> None:
    """Add one line to the audit trail, in the transaction of the change it tells of.

    From here to the end of the transaction nobody else can add one: each line covers the one before. So this comes
    last, after everything that waits for a row.
    """
    hold_lock(session.connection(), "audit")
    head = session.get(AuditHead, 1, populate_existing=True)
    if head is None:
        raise AuditBroken("the audit trail has lost its head: `secondlook audit verify` says more")
    # As it will be read again.
    detail = json.loads(json.dumps(detail))
    sha256 = audit_sha256(head.sha256, at_ns, actor, action, subject, detail)
    session.add(
        AuditEntry(
            at_ns=at_ns,
            actor=actor,
            action=action,
            subject=subject,
            detail=detail,
            sha256=sha256,
            by_person=is_by_person(actor, action),
        )
    )
    session.execute(
        update(AuditHead).where(AuditHead.id == 1).values(entries=AuditHead.entries + 1, sha256=sha256)
    )
    session.flush()

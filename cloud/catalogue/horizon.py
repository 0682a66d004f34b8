"""Up to which number the rows of a table are all there: what lets a reader go on from a number and miss none.

Rows are numbered when they are inserted, and seen when their transaction commits. On SQLite these are the same order:
one transaction writes at a time, and numbers are not given out again. On PostgreSQL a writer may draw 7 and commit
after another has drawn 8 and committed; whoever read 8 in between and went on from there would never see 7.

So every writing transaction first takes shared advisory locks, one a table, that name the last number given out so
far: whatever it will insert comes after. They wait for nobody and nobody waits for them, and they end with the
transaction, however it ends. A reader asks for the last number given out, then for the locks that are held, and
trusts the rows up to the least of all these: a writer that drew a lower number had its lock before the first question,
and has either committed by the second, or is still among the holders. A transaction that hangs holds up readers, for as
long as the server lets it (`idle_in_transaction_session_timeout`); it makes none of them miss a row.

A number whose transaction was rolled back, or whose row was deleted since, is a hole, which nobody waits for.
"""

from __future__ import annotations

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

LATEST = 2**63 - 1

# Tables that are read by number, and the tag of their locks. An advisory lock of PostgreSQL has 64 bits: the tag has
# the upper 16, the number the others.
_TAGS = {
    "frames": 0x5E11,
    "reviews": 0x5E12,
    "verdicts": 0x5E13,
    "tombstones": 0x5E14,
    "objects": 0x5E15,
    "comments": 0x5E16,
}
_NUMBER_BITS = 48

_ANNOUNCE = text(
    "SELECT "
    + ", ".join(
        f"pg_advisory_xact_lock_shared({tag << _NUMBER_BITS} + coalesce(pg_sequence_last_value('{table}_id_seq'), 0))"
        for table, tag in _TAGS.items()
    )
)
_LAST = text("SELECT coalesce(pg_sequence_last_value(CAST(:sequence AS regclass)), 0)")
_HELD = text(
    "SELECT min(((classid::bigint & 65535) << 32) | objid::bigint) FROM pg_locks "
    "WHERE locktype = 'advisory' AND objsubid = 1 AND mode = 'ShareLock' AND (classid::bigint >> 16) = :tag "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def announce_writer(connection: Connection) -> None:
    """Say that this transaction may insert rows. Comes first in it."""
    if connection.dialect.name == "postgresql":
        connection.execute(_ANNOUNCE)


def horizon(session: Session, table: str) -> int:
    """No row of `table` with this number or a lower one will appear any more, but for those that are seen now.

    Ask before reading the rows, in a transaction that reads what is committed (the default of both databases here).
    """
    connection = session.connection()
    if connection.dialect.name != "postgresql":
        return LATEST
    last: int = connection.execute(_LAST, {"sequence": f"{table}_id_seq"}).scalar_one()
    held: int | None = connection.execute(_HELD, {"tag": _TAGS[table]}).scalar_one()
    return last if held is None else min(last, held)

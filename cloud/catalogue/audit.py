"""Checking the chain of the audit trail: that no entry was changed, removed, added or moved from outside.

Each entry's hash covers the entry before, and the head tells their number and the last hash. Who can write the
database can also write a whole other chain: noting the last hash elsewhere, now and then, and asking for it again
shows that too.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from secondlook.cloud.catalogue.auditschema import AUDIT_START, AuditEntry, AuditHead, audit_sha256
from secondlook.cloud.catalogue.store import Catalogue
from secondlook.shared.errors import AuditBroken

_ROWS = 1000  # read at a time


@dataclass(frozen=True)
class Trail:
    """A whole audit trail: how many entries, and the hash of the last, which stands for all of them."""

    entries: int
    sha256: str


def verify_audit(catalogue: Catalogue, *, noted: str | None = None) -> Trail:
    """Check every entry. Raises AuditBroken where the chain breaks, or when it does not hold the hash ``noted``."""
    with catalogue.reading() as session:
        if session.get_bind().dialect.name == "postgresql":
            # One view of all rows, while others add more.
            session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        head = session.get(AuditHead, 1)
        if head is None:
            raise AuditBroken("the audit trail has lost its head")
        return _follow(session, head, noted)


def _follow(session: Session, head: AuditHead, noted: str | None) -> Trail:
    count, last, after = 0, AUDIT_START, 0
    seen = noted is None
    while True:
        entries = session.scalars(
            select(AuditEntry).where(AuditEntry.id > after).order_by(AuditEntry.id).limit(_ROWS)
        ).all()
        for entry in entries:
            expected = audit_sha256(last, entry.at_ns, entry.actor, entry.action, entry.subject, entry.detail)
            if entry.sha256 != expected:
                raise AuditBroken(
                    f"the audit trail is broken at entry {entry.id} ({entry.action}, {entry.subject}): it was changed, "
                    "or one before it was removed or added"
                )
            count, last = count + 1, expected
            seen = seen or last == noted
        if not entries:
            break
        after = entries[-1].id
        session.expunge_all()
    if (count, last) != (head.entries, head.sha256):
        raise AuditBroken(f"the audit trail ends after {count} entries, and its head tells of {head.entries}")
    if not seen:
        raise AuditBroken(f"the audit trail holds no entry with the hash {noted}")
    return Trail(count, last)

"""The tables of the audit trail: who did what to which subject, and when, as one chain of hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import BigInteger, Boolean, Index, Integer, String, true
from sqlalchemy.orm import Mapped, mapped_column

from secondlook.cloud.catalogue.schema import Base

_Id = BigInteger().with_variant(Integer(), "sqlite")
_Nanoseconds = BigInteger


class AuditEntry(Base):
    """Append-only: who did what to which subject, and when. Each entry's hash covers the one before."""

    __tablename__ = "audit"
    __table_args__ = (
        Index("audit_times", "at_ns"),
        Index("audit_actors", "actor", "id"),
        Index("audit_people", "by_person", "id"),
    )

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    at_ns: Mapped[int] = mapped_column(_Nanoseconds)
    actor: Mapped[str] = mapped_column(String(128))
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(255), index=True)
    detail: Mapped[dict[str, Any]]
    sha256: Mapped[str] = mapped_column(String(64))  # ``audit_sha256``
    # Whether a person did it; follows from actor and action, and is what lists of the trail are read by.
    by_person: Mapped[bool] = mapped_column(Boolean, server_default=true(), default=True)


class AuditHead(Base):
    """One row, numbered 1: how many entries the audit trail has, and the hash of the last."""

    __tablename__ = "audit_head"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    entries: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))


AUDIT_START = "0" * 64  # what the first entry of the trail covers in place of one before


def audit_sha256(
    previous: str, at_ns: int, actor: str, action: str, subject: str, detail: Mapping[str, Any]
) -> str:
    """The hash of an audit entry after one with the hash ``previous``: SHA-256 of canonical JSON, in hex."""
    parts = [previous, at_ns, actor, action, subject, detail]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

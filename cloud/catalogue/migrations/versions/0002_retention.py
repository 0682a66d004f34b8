"""What retention needs to know of a frame; numbers that are not given out again; the chain of the audit trail."""

from __future__ import annotations

import hashlib
import json

import sqlalchemy as sa
from alembic import op

revision = "0002_retention"
down_revision = "0001_first"

_ROWS = 1000  # read at a time
_START = "0" * 64


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _count_without_reuse()
    op.add_column("frames", sa.Column("retention", sa.String(16), nullable=False, server_default="undecided"))
    op.add_column("frames", sa.Column("retention_ns", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("frames", sa.Column("stored_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    _classify()
    op.create_index("frames_retention", "frames", ["retention", "retention_ns", "id", "stored_bytes"])
    only_deltas = sa.text("key_seq IS NOT NULL")
    op.create_index(
        "frames_deltas",
        "frames",
        ["edge_id", "boot_id", "key_seq"],
        sqlite_where=only_deltas,
        postgresql_where=only_deltas,
    )
    op.add_column("audit", sa.Column("sha256", sa.String(64)))
    entries, last = _chain()
    with op.batch_alter_table("audit") as audit:
        audit.alter_column("sha256", existing_type=sa.String(64), nullable=False)
    head = op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("entries", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
    )
    op.bulk_insert(head, [{"id": 1, "entries": entries, "sha256": last}])
    op.drop_table("schema_version", if_exists=True)


def _count_without_reuse() -> None:
    """SQLite gives the highest number out again once its row is deleted, unless a table says AUTOINCREMENT."""
    for table in ("frames", "reviews", "verdicts"):
        made = sa.text("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = :name")
        if "AUTOINCREMENT" in str(op.get_bind().scalar(made, {"name": table})):
            continue
        with op.batch_alter_table(table, recreate="always", table_kwargs={"sqlite_autoincrement": True}):
            pass


def _classify() -> None:
    """Give each frame its class, and since when; of pictures the sizes are not known."""
    op.execute(
        "UPDATE frames SET retention = 'unreviewed', retention_ns = detected_ns, stored_bytes = base_bytes "
        "WHERE NOT EXISTS (SELECT * FROM reviews WHERE reviews.frame_id = frames.id)"
    )
    op.execute(
        "UPDATE frames SET retention_ns = detected_ns, stored_bytes = base_bytes + coalesce("
        "(SELECT enhancement_bytes FROM reviews WHERE reviews.frame_id = frames.id), 0) "
        "WHERE retention = 'undecided'"
    )
    for where, retention in (("reason <> 'audit sample'", "decided"), ("reason = 'audit sample'", "audit")):
        op.execute(
            f"UPDATE frames SET retention = '{retention}', retention_ns = coalesce((SELECT max(decided_ns) "
            "FROM verdicts JOIN reviews ON reviews.id = verdicts.review_id "
            "WHERE reviews.frame_id = frames.id AND undone_ns IS NULL), detected_ns) WHERE id IN "
            f"(SELECT frame_id FROM reviews WHERE state = 'decided' AND {where})"
        )


def _chain() -> tuple[int, str]:
    """Hash the entries of the audit trail, each with the one before; returns their number and the last hash."""
    bind = op.get_bind()
    audit = sa.table(
        "audit",
        sa.column("id", sa.BigInteger),
        sa.column("at_ns", sa.BigInteger),
        sa.column("actor", sa.String),
        sa.column("action", sa.String),
        sa.column("subject", sa.String),
        sa.column("detail", sa.JSON),
        sa.column("sha256", sa.String),
    )
    change = sa.update(audit).where(audit.c.id == sa.bindparam("of_id")).values(sha256=sa.bindparam("hash"))
    entries, last, after = 0, _START, 0
    while True:
        query = sa.select(audit).where(audit.c.id > after).order_by(audit.c.id).limit(_ROWS)
        rows = bind.execute(query).all()
        if not rows:
            return entries, last
        changes = []
        for row in rows:
            parts = [last, row.at_ns, row.actor, row.action, row.subject, row.detail]
            text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
            last = hashlib.sha256(text.encode()).hexdigest()
            changes.append({"of_id": row.id, "hash": last})
        bind.execute(change, changes)
        entries, after = entries + len(rows), rows[-1].id

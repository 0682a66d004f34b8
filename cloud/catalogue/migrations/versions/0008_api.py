"""Numbers of tombstones that are not given out again, scopes of tokens, and what is told to other systems."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008_api"
down_revision = "0007_station"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_NEVER_REUSED = {"sqlite_autoincrement": True}


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        with op.batch_alter_table("tombstones", recreate="always", table_kwargs=_NEVER_REUSED):
            pass
    op.add_column("api_tokens", sa.Column("scopes", sa.String(64), nullable=False, server_default=""))
    op.create_table(
        "deliveries",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("sink", sa.String(64), nullable=False),
        sa.Column("uid", sa.String(36), nullable=False, unique=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("next_ns", sa.BigInteger(), nullable=False),
        sa.Column("last_error", sa.String(255)),
        sa.Column("dead_ns", sa.BigInteger()),
        sqlite_autoincrement=True,
    )
    op.create_index("deliveries_due", "deliveries", ["sink", "dead_ns", "next_ns"])
    op.create_table(
        "notified",
        sa.Column("sink", sa.String(64), primary_key=True),
        sa.Column("cursor", sa.String(128), nullable=False),
    )
    op.create_table(
        "notified_cameras",
        sa.Column("sink", sa.String(64), primary_key=True),
        sa.Column("edge_id", sa.String(64), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("since_ns", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "senders",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("until_ns", sa.BigInteger(), nullable=False),
    )

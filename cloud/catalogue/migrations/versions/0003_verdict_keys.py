"""Verdicts: the key under which one is sent, and the verdict of somebody else that one contests."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003_verdict_keys"
down_revision = "0002_retention"


def upgrade() -> None:
    with op.batch_alter_table("verdicts") as batch:
        batch.add_column(sa.Column("idempotency_key", sa.String(64), nullable=True))
        batch.add_column(sa.Column("conflicts_with", sa.BigInteger(), nullable=True))
        batch.create_index("verdicts_key", ["reviewer", "idempotency_key"], unique=True)

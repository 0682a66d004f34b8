"""A known frame that somebody handed on instead of judging it says to whom; to that person it looks handed over."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014_put_off"
down_revision = "0013_unseen"


def upgrade() -> None:
    op.add_column("opinions", sa.Column("handed_to", sa.String(128), nullable=True))
    op.add_column("opinions", sa.Column("handed_ns", sa.BigInteger(), nullable=True))

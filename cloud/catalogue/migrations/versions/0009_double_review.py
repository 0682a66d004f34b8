"""Double review, known frames, and what figures and archives are read from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009_double_review"
down_revision = "0008_api"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "double_reviews",
        sa.Column("review_id", _ID, sa.ForeignKey("reviews.id"), primary_key=True, autoincrement=False),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("since_ns", sa.BigInteger(), nullable=False),
        sa.Column("counting", sa.String(128), nullable=True),
    )
    op.create_index("ix_double_reviews_stage", "double_reviews", ["stage"])
    op.create_table(
        "opinions",
        sa.Column("review_id", _ID, sa.ForeignKey("reviews.id"), primary_key=True, autoincrement=False),
        sa.Column("reviewer", sa.String(128), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("asked_ns", sa.BigInteger(), nullable=False),
        sa.Column("given_ns", sa.BigInteger(), nullable=True),
    )
    op.create_index("opinions_of", "opinions", ["reviewer", "kind", "given_ns"])
    op.create_table(
        "known_frames",
        sa.Column("review_id", _ID, sa.ForeignKey("reviews.id"), primary_key=True, autoincrement=False),
        sa.Column("since_ns", sa.BigInteger(), nullable=False),
        sa.Column("chosen_by", sa.String(128), nullable=False),
    )
    op.create_table(
        "station_secrets",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.String(64), nullable=False),
    )
    op.add_column("verdicts", sa.Column("probe", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_index("verdicts_decided", "verdicts", ["decided_ns", "reviewer"])
    op.create_index("audit_times", "audit", ["at_ns"])

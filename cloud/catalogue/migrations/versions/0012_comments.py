"""Comments on frames, frames that are handed to colleagues, and verdicts that are kept from who may judge next."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012_comments"
down_revision = "0011_cameras"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "comments",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("review_id", _ID, sa.ForeignKey("reviews.id"), nullable=False),
        sa.Column("author", sa.String(128), nullable=False),
        sa.Column("text", sa.String(2000), nullable=False),
        sa.Column("written_ns", sa.BigInteger(), nullable=False),
        sa.Column("deleted_ns", sa.BigInteger(), nullable=True),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_comments_review_id", "comments", ["review_id"])
    op.create_table(
        "handovers",
        sa.Column("review_id", _ID, sa.ForeignKey("reviews.id"), primary_key=True, autoincrement=False),
        sa.Column("colleague", sa.String(128), nullable=False),
        sa.Column("giver", sa.String(128), nullable=False),
        sa.Column("since_ns", sa.BigInteger(), nullable=False),
    )
    op.create_index("ix_handovers_colleague", "handovers", ["colleague"])
    op.add_column("verdicts", sa.Column("withheld", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.execute(
        "UPDATE verdicts SET withheld = true WHERE review_id IN "
        "(SELECT review_id FROM double_reviews WHERE stage IN ('second', 'third'))"
    )
    stands = sa.text("undone_ns IS NULL")
    op.drop_index("verdicts_found", "verdicts")
    op.create_index(
        "verdicts_found",
        "verdicts",
        ["verdict", "captured_ns", "frame_id", "edge_id", "probe", "withheld"],
        sqlite_where=stands,
        postgresql_where=stands,
    )

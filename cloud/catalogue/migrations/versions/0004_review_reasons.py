"""Reviews keep all their reasons, may wait or be skipped, and count attempts; a secret of the site; large layers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004_review_reasons"
down_revision = "0003_verdict_keys"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_NEVER_REUSED = {"sqlite_autoincrement": True}  # where SQLite has to make a table anew
_STATES = ("due", "leased", "ready", "expired", "decided")

# Until now a review had one reason, and its text began with the rule.
_RULES = (
    ("watched", "watched:%"),
    ("rule", "rule:%"),
    ("uncertain", "uncertain:%"),
    ("every-nth", "every %"),
    ("audit", "audit sample"),
)


def upgrade() -> None:
    op.create_table(
        "site_secrets",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.String(64), nullable=False),
    )
    op.create_table(
        "review_reasons",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("review_id", _ID, sa.ForeignKey("reviews.id"), nullable=False),
        sa.Column("rule", sa.String(32), nullable=False),
        sa.Column("reason", sa.String(255), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("decisive", sa.Boolean(), nullable=False),
        sa.UniqueConstraint("review_id", "rule"),
    )
    for rule, pattern in _RULES:
        op.get_bind().execute(
            sa.text(
                "INSERT INTO review_reasons (review_id, rule, reason, priority, decisive) "
                "SELECT id, :rule, reason, priority, :yes FROM reviews WHERE reason LIKE :pattern"
            ),
            {"rule": rule, "pattern": pattern, "yes": True},
        )
    with op.batch_alter_table("frames", table_kwargs=_NEVER_REUSED) as frames:
        frames.alter_column("enhancement_bytes", existing_type=sa.Integer(), type_=sa.BigInteger())
    with op.batch_alter_table("reviews", table_kwargs=_NEVER_REUSED) as reviews:
        reviews.add_column(sa.Column("why_waiting", sa.String(255), nullable=True))
        reviews.add_column(sa.Column("not_before_ns", sa.BigInteger(), nullable=True))
        reviews.add_column(sa.Column("attempts", sa.Integer(), server_default="0", nullable=False))
        reviews.drop_constraint("reviewstate", type_="check")
        states = ", ".join(f"'{state}'" for state in (*_STATES, "skipped"))
        reviews.create_check_constraint("reviewstate", f"state IN ({states})")

"""Reviews that the machine settles by a second look, what it is to look at, and what came of it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016_second_looks"
down_revision = "0015_crops"

_NEVER_REUSED = {"sqlite_autoincrement": True}  # where SQLite has to make a table anew
_STATES = ("due", "leased", "ready", "expired", "settled", "skipped", "decided")


def upgrade() -> None:
    with op.batch_alter_table("reviews", table_kwargs=_NEVER_REUSED) as reviews:
        reviews.add_column(sa.Column("doubts", sa.JSON(), nullable=True))
        reviews.add_column(sa.Column("second_look", sa.JSON(), nullable=True))
        reviews.drop_constraint("reviewstate", type_="check")
        states = ", ".join(f"'{state}'" for state in _STATES)
        reviews.create_check_constraint("reviewstate", f"state IN ({states})")
    _let_refiners_settle()


def _let_refiners_settle() -> None:
    """Where each service has a role of its own (deploy/kubernetes/postgres), that of refiners gets the right."""
    bind = op.get_bind()
    if bind.dialect.name != "postgresql":
        return
    role = "SELECT count(*) FROM pg_roles WHERE rolname = 'secondlook_refiner'"
    may = "SELECT has_column_privilege('secondlook_refiner', 'frames', 'stored_bytes', 'UPDATE')"
    if bind.scalar(sa.text(role)) and bind.scalar(sa.text(may)):
        op.execute("GRANT UPDATE (retention, retention_ns) ON frames TO secondlook_refiner")

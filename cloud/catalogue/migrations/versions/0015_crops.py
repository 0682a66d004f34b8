"""Reviews of which a crop is fetched alone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015_crops"
down_revision = "0014_put_off"


def upgrade() -> None:
    op.add_column("reviews", sa.Column("crop", sa.String(32)))
    op.add_column(
        "reviews", sa.Column("wants_whole", sa.Boolean(), nullable=False, server_default=sa.false())
    )

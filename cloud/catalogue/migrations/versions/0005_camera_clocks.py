"""How far the clock of each camera host is off."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005_camera_clocks"
down_revision = "0004_review_reasons"


def upgrade() -> None:
    with op.batch_alter_table("cameras") as cameras:
        cameras.add_column(sa.Column("clock_offset_seconds", sa.Float(), nullable=True))

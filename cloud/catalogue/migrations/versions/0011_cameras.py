"""What gateways know of camera hosts, events of cameras, and frames that no machine looked at."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011_cameras"
down_revision = "0010_pace"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    for name in ("noted_ns", "heard_ns", "delivered_ns", "reported_ns", "waiting_frames", "oldest_ns"):
        op.add_column("cameras", sa.Column(name, sa.BigInteger(), nullable=True))
    op.add_column("cameras", sa.Column("source", sa.String(64), nullable=True))
    op.add_column("cameras", sa.Column("model", sa.String(255), nullable=True))
    op.add_column("cameras", sa.Column("trouble", sa.String(255), nullable=True))
    op.add_column("cameras", sa.Column("last_trouble", sa.String(255), nullable=True))
    op.add_column("cameras", sa.Column("trouble_ns", sa.BigInteger(), nullable=True))
    op.create_table(
        "camera_events",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("edge_id", sa.String(64), nullable=False),
        sa.Column("what", sa.String(16), nullable=False),
        sa.Column("began_ns", sa.BigInteger(), nullable=False),
        sa.Column("well_ns", sa.BigInteger(), nullable=True),
        sa.Column("ended_ns", sa.BigInteger(), nullable=True),
        sa.Column("times", sa.Integer(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("camera_events_of_host", "camera_events", ["edge_id", "id"])
    op.add_column("frames", sa.Column("unseen", sa.String(32), nullable=True))

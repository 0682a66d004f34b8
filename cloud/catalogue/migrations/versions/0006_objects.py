"""Objects over the frames of a camera, and which of them a detection shows; frames stored before show none."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006_objects"
down_revision = "0005_camera_clocks"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "objects",
        sa.Column("id", _ID, nullable=False),
        sa.Column("edge_id", sa.String(64), nullable=False),
        sa.Column("label", sa.String(64), nullable=False),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("first_ns", sa.BigInteger(), nullable=False),
        sa.Column("last_ns", sa.BigInteger(), nullable=False),
        sa.Column("frames", sa.Integer(), nullable=False),
        sa.Column("x0", sa.Float(), nullable=False),
        sa.Column("y0", sa.Float(), nullable=False),
        sa.Column("x1", sa.Float(), nullable=False),
        sa.Column("y1", sa.Float(), nullable=False),
        sa.Column("speed_x", sa.Float(), nullable=False),
        sa.Column("speed_y", sa.Float(), nullable=False),
        sa.Column("called", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(["edge_id"], ["cameras.edge_id"]),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("objects_of_host", "objects", ["edge_id", "last_ns"])
    # Both databases add such a column at once; a table altered in a batch would be copied, and this is the longest.
    kind = "BIGINT" if op.get_bind().dialect.name == "postgresql" else "INTEGER"
    op.execute(f"ALTER TABLE detections ADD COLUMN object_id {kind} REFERENCES objects (id)")
    op.create_index("ix_detections_object_id", "detections", ["object_id"])

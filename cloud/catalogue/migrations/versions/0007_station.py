"""Claims and preferences of reviewers, verdicts of more kinds, and what pages of frames are read from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007_station"
down_revision = "0006_objects"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_NEVER_REUSED = {"sqlite_autoincrement": True}  # where SQLite has to make a table anew
_KINDS = (
    "confirm",
    "reject",
    "wrong_class",
    "missed_object",
    "unsure",
    "no_object",
    "incomplete",
    "corrected",
)


def upgrade() -> None:
    op.create_table(
        "preferences",
        sa.Column("person", sa.String(128), primary_key=True),
        sa.Column("chosen", sa.JSON(), nullable=False),
    )
    op.create_table(
        "claims",
        sa.Column("review_id", _ID, sa.ForeignKey("reviews.id"), primary_key=True, autoincrement=False),
        sa.Column("holder", sa.String(128), nullable=False),
        sa.Column("tab", sa.String(64), nullable=False),
        sa.Column("since_ns", sa.BigInteger(), nullable=False),
        sa.Column("until_ns", sa.BigInteger(), nullable=False),
    )
    with op.batch_alter_table("verdicts", table_kwargs=_NEVER_REUSED) as verdicts:
        verdicts.drop_constraint("verdictkind", type_="check")
        kinds = ", ".join(f"'{kind}'" for kind in _KINDS)
        verdicts.create_check_constraint("verdictkind", f"verdict IN ({kinds})")
    _copy_times("detections")
    op.create_index("detections_found", "detections", ["label", "captured_ns", "frame_id", "score"])
    _copy_times("reviews")
    op.create_index("reviews_captured", "reviews", ["captured_ns", "frame_id"])
    op.add_column("frames", sa.Column("top_score", sa.Float(), nullable=True))
    op.execute(
        "UPDATE frames SET top_score = "
        "(SELECT max(score) FROM detections WHERE detections.frame_id = frames.id)"
    )
    op.drop_index("frames_captured", "frames")
    op.create_index("frames_captured", "frames", ["captured_ns", "id", "top_score"])
    op.drop_index("frames_of_host", "frames")
    op.create_index("frames_of_host", "frames", ["edge_id", "captured_ns", "id", "top_score"])
    op.create_index("tombstones_of_host", "tombstones", ["edge_id", "received_ns"])


def _copy_times(table: str) -> None:
    """Give each row of a table the time at which its frame was captured."""
    captured = sa.Column("captured_ns", sa.BigInteger(), server_default=sa.text("0"), nullable=False)
    op.add_column(table, captured)
    op.execute(
        f"UPDATE {table} SET captured_ns = (SELECT captured_ns FROM frames WHERE frames.id = {table}.frame_id)"
    )

"""The tables as they were before there were migrations; what is there already stays as it is.

Only SQLite's AUTOINCREMENT was not there yet: tables that were made before get it from the next migration.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001_first"
down_revision = None

# SQLite counts rows only in a column declared INTEGER; it holds 64 bits there all the same.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make what is missing, table by table: a process once made only those that it knew."""
    _cameras_and_frames()
    _reviews_and_verdicts()
    _accounts()
    op.create_table(
        "audit",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("at_ns", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        if_not_exists=True,
    )
    for name, table, columns in (
        ("frames_captured", "frames", ["captured_ns"]),
        ("frames_of_host", "frames", ["edge_id", "captured_ns"]),
        ("ix_detections_frame_id", "detections", ["frame_id"]),
        ("reviews_order", "reviews", ["state", "priority", "created_ns"]),
        ("ix_verdicts_review_id", "verdicts", ["review_id"]),
        ("ix_audit_subject", "audit", ["subject"]),
        ("ix_user_sessions_user", "user_sessions", ["user"]),
        ("ix_api_tokens_user", "api_tokens", ["user"]),
    ):
        op.create_index(name, table, columns, if_not_exists=True)


def _cameras_and_frames() -> None:
    op.create_table(
        "cameras",
        sa.Column("edge_id", sa.String(64), primary_key=True),
        sa.Column("camera", sa.String(255), nullable=False),
        sa.Column("first_seen_ns", sa.BigInteger(), nullable=False),
        sa.Column("last_seen_ns", sa.BigInteger(), nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "frames",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("edge_id", sa.String(64), sa.ForeignKey("cameras.edge_id"), nullable=False),
        sa.Column("boot_id", sa.String(32), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("captured_ns", sa.BigInteger(), nullable=False),
        sa.Column("received_ns", sa.BigInteger(), nullable=False),
        sa.Column("detected_ns", sa.BigInteger(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("key_seq", sa.BigInteger()),
        sa.Column("base_blob", sa.String(255), nullable=False),
        sa.Column("base_bytes", sa.Integer(), nullable=False),
        sa.Column("enhancement_bytes", sa.Integer(), nullable=False),
        sa.UniqueConstraint("edge_id", "boot_id", "seq"),
        sqlite_autoincrement=True,
        if_not_exists=True,
    )
    op.create_table(
        "tombstones",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("edge_id", sa.String(64), nullable=False),
        sa.Column("boot_id", sa.String(32), nullable=False),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(255), nullable=False),
        sa.Column("received_ns", sa.BigInteger(), nullable=False),
        sa.UniqueConstraint("edge_id", "boot_id", "first_seq", "last_seq"),
        if_not_exists=True,
    )
    op.create_table(
        "detections",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("frame_id", _ID, sa.ForeignKey("frames.id"), nullable=False),
        sa.Column("label", sa.String(64), nullable=False),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("x0", sa.Float(), nullable=False),
        sa.Column("y0", sa.Float(), nullable=False),
        sa.Column("x1", sa.Float(), nullable=False),
        sa.Column("y1", sa.Float(), nullable=False),
        sa.Column("detector", sa.String(255), nullable=False),
        if_not_exists=True,
    )


def _reviews_and_verdicts() -> None:
    op.create_table(
        "reviews",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("frame_id", _ID, sa.ForeignKey("frames.id"), nullable=False, unique=True),
        sa.Column("reason", sa.String(255), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column(
            "state", _words("reviewstate", "due", "leased", "ready", "expired", "decided"), nullable=False
        ),
        sa.Column("lease_owner", sa.String(128)),
        sa.Column("lease_until_ns", sa.BigInteger()),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.Column("requested_ns", sa.BigInteger()),
        sa.Column("refined_ns", sa.BigInteger()),
        sa.Column("enhancement_blob", sa.String(255)),
        sa.Column("enhancement_bytes", sa.Integer()),
        sa.Column("base_image", sa.String(255)),
        sa.Column("enhanced_image", sa.String(255)),
        sa.Column("refined_image", sa.String(255)),
        sa.Column("shown_sha256", sa.String(64)),
        sa.Column("postfilter", sa.String(128)),
        sa.Column("codec_model", sa.String(64)),
        sa.Column("why_expired", sa.String(255)),
        sqlite_autoincrement=True,
        if_not_exists=True,
    )
    kinds = _words("verdictkind", "confirm", "reject", "wrong_class", "missed_object", "unsure")
    op.create_table(
        "verdicts",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("review_id", _ID, sa.ForeignKey("reviews.id"), nullable=False),
        sa.Column("reviewer", sa.String(128), nullable=False),
        sa.Column("verdict", kinds, nullable=False),
        sa.Column("note", sa.String(2000), nullable=False),
        sa.Column("box_index", sa.Integer()),
        sa.Column("label", sa.String(64)),
        sa.Column("x0", sa.Float()),
        sa.Column("y0", sa.Float()),
        sa.Column("x1", sa.Float()),
        sa.Column("y1", sa.Float()),
        sa.Column("decided_ns", sa.BigInteger(), nullable=False),
        sa.Column("shown_sha256", sa.String(64), nullable=False),
        sa.Column("undone_ns", sa.BigInteger()),
        sqlite_autoincrement=True,
        if_not_exists=True,
    )


def _accounts() -> None:
    op.create_table(
        "users",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("role", _words("role", "viewer", "reviewer", "admin"), nullable=False),
        sa.Column("password_hash", sa.String(255), nullable=False),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.Column("removed_ns", sa.BigInteger()),
        if_not_exists=True,
    )
    op.create_table(
        "user_sessions",
        sa.Column("secret_sha256", sa.String(64), primary_key=True),
        sa.Column("user", sa.String(64), sa.ForeignKey("users.name"), nullable=False),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.Column("seen_ns", sa.BigInteger(), nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "api_tokens",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("user", sa.String(64), sa.ForeignKey("users.name"), nullable=False),
        sa.Column("label", sa.String(64), nullable=False),
        sa.Column("role", _words("role", "viewer", "reviewer", "admin"), nullable=False),
        sa.Column("secret_sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.Column("expires_ns", sa.BigInteger()),
        sa.Column("revoked_ns", sa.BigInteger()),
        if_not_exists=True,
    )


def _words(name: str, *words: str) -> sa.Enum:
    """A text column that admits only these."""
    return sa.Enum(*words, name=name, native_enum=False, create_constraint=True, length=16)

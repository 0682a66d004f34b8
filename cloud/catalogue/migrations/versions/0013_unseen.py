"""Frames that no machine looked at are found by an index; known frames that are not decided any more try nobody."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013_unseen"
down_revision = "0012_comments"


def upgrade() -> None:
    unseen = sa.text("unseen IS NOT NULL")
    op.create_index(
        "frames_unseen",
        "frames",
        ["captured_ns", "id", "edge_id"],
        sqlite_where=unseen,
        postgresql_where=unseen,
    )
    op.execute(
        "DELETE FROM known_frames WHERE review_id IN (SELECT id FROM reviews WHERE state <> 'decided')"
    )
    # What was asked of people, and not answered, for a frame that is known no more.
    op.execute(
        "DELETE FROM opinions WHERE kind = 'known' AND ("
        "review_id IN (SELECT id FROM reviews WHERE state <> 'decided') "
        "OR (given_ns IS NULL AND review_id NOT IN (SELECT review_id FROM known_frames)))"
    )

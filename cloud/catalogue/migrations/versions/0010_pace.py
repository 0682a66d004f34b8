"""What lists and figures of a million frames are read from: facts of frames beside what is searched; judged boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

from secondlook.shared.texts import class_key

revision = "0010_pace"
down_revision = "0009_double_review"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_BATCH = 1000
_MACHINES = (
    "review created",
    "review skipped",
    "review refined",
    "review expired",
    "review failed",
    "frames deleted",
)


def upgrade() -> None:
    _add_facts()
    _add_indexes()
    op.create_table(
        "judged_boxes",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("review_id", _ID, sa.ForeignKey("reviews.id"), nullable=False),
        sa.Column("decided_ns", sa.BigInteger(), nullable=False),
        sa.Column("edge_id", sa.String(64), nullable=False),
        sa.Column("label", sa.String(64), nullable=False),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("is_right", sa.Boolean(), nullable=True),
    )
    _fill_judged_boxes()
    op.create_index("ix_judged_boxes_review_id", "judged_boxes", ["review_id"])
    op.create_index(
        "judged_boxes_decided", "judged_boxes", ["decided_ns", "score", "is_right", "label", "edge_id"]
    )


def _add_facts() -> None:
    """Give rows what they are searched by of their frames, and lines of the audit trail whether a person did it."""
    for table in ("detections", "reviews"):
        _add(table, "edge_id", "frames", "frame_id")
    op.add_column("reviews", sa.Column("top_score", sa.Float(), nullable=True))
    op.execute(
        "UPDATE reviews SET top_score = (SELECT top_score FROM frames WHERE frames.id = reviews.frame_id)"
    )
    for table in ("verdicts", "review_reasons"):
        for name in ("frame_id", "captured_ns", "edge_id"):
            _add(table, name, "reviews", "review_id")
    op.add_column("audit", sa.Column("by_person", sa.Boolean(), server_default=sa.true(), nullable=False))
    machines = ", ".join(f"'{action}'" for action in _MACHINES)
    op.get_bind().execute(
        sa.text(
            f"UPDATE audit SET by_person = :no WHERE action IN ({machines}) "
            "AND NOT (action = 'review created' AND actor <> 'policy')"
        ),
        {"no": False},
    )


def _add(table: str, name: str, source: str, key: str) -> None:
    """A column like that of the row of ``source`` that ``key`` names."""
    if name == "edge_id":
        op.add_column(table, sa.Column(name, sa.String(64), server_default="", nullable=False))
    else:
        op.add_column(table, sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    of_source = f"(SELECT {name} FROM {source} WHERE {source}.id = {table}.{key})"
    op.execute(f"UPDATE {table} SET {name} = coalesce({of_source}, {name})")


def _add_indexes() -> None:
    anew = {
        ("detections", "detections_found"): ["label", "captured_ns", "frame_id", "score", "edge_id"],
        ("reviews", "reviews_captured"): ["captured_ns", "id", "edge_id", "state"],
        ("verdicts", "verdicts_decided"): [
            "decided_ns",
            "reviewer",
            "review_id",
            "undone_ns",
            "probe",
            "verdict",
        ],
    }
    for (table, name), columns in anew.items():
        op.drop_index(name, table)
        op.create_index(name, table, columns)
    op.drop_index("ix_detections_object_id", "detections")
    of_object = ["object_id", "captured_ns", "frame_id", "label", "score", "edge_id"]
    op.create_index("detections_of_object", "detections", of_object)
    op.create_index("reasons_found", "review_reasons", ["rule", "captured_ns", "frame_id", "edge_id"])
    stands, named = sa.text("undone_ns IS NULL"), sa.text("label IS NOT NULL")
    op.create_index(
        "verdicts_found",
        "verdicts",
        ["verdict", "captured_ns", "frame_id", "edge_id", "probe"],
        sqlite_where=stands,
        postgresql_where=stands,
    )
    op.create_index("verdicts_named", "verdicts", ["label"], sqlite_where=named, postgresql_where=named)
    op.create_index("audit_actors", "audit", ["actor", "id"])
    op.create_index("audit_people", "audit", ["by_person", "id"])


def _fill_judged_boxes() -> None:
    """From the verdicts that stand on decided frames, batch by batch."""
    bind = op.get_bind()
    judged = sa.table(
        "judged_boxes",
        *map(sa.column, ("review_id", "decided_ns", "edge_id", "label", "score", "is_right")),
    )
    last = 0
    while True:
        reviews = bind.execute(
            sa.text(
                "SELECT reviews.id, frame_id, edge_id, state, double_reviews.counting, double_reviews.since_ns "
                "FROM reviews LEFT JOIN double_reviews ON double_reviews.review_id = reviews.id "
                "WHERE reviews.id > :last ORDER BY reviews.id LIMIT :most"
            ),
            {"last": last, "most": _BATCH},
        ).all()
        if not reviews:
            return
        span = {"first": reviews[0].id, "last": reviews[-1].id}
        verdicts = _grouped(
            "SELECT id, review_id AS owner, reviewer, verdict, box_index, label, decided_ns, conflicts_with "
            "FROM verdicts WHERE review_id BETWEEN :first AND :last AND undone_ns IS NULL AND NOT probe ORDER BY id",
            span,
        )
        boxes = _grouped(
            "SELECT detections.id, reviews.id AS owner, label, score FROM reviews "
            "JOIN detections ON detections.frame_id = reviews.frame_id "
            "WHERE reviews.id BETWEEN :first AND :last ORDER BY detections.id",
            span,
        )
        rows = [
            row
            for review in reviews
            if review.state == "decided"
            for row in _judged(review, verdicts.get(review.id, []), boxes.get(review.id, []))
        ]
        if rows:
            bind.execute(judged.insert(), rows)
        last = reviews[-1].id


def _grouped(query: str, span: dict[str, int]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for row in op.get_bind().execute(sa.text(query), span):
        found.setdefault(row.owner, []).append(row)
    return found


def _judged(review: Any, verdicts: Sequence[Any], boxes: Sequence[Any]) -> list[dict[str, Any]]:
    """The rows of one decided review; none where somebody contests another's verdict."""
    if review.counting is not None:
        verdicts = [v for v in verdicts if v.reviewer == review.counting or v.decided_ns > review.since_ns]
    if any(verdict.conflicts_with is not None for verdict in verdicts):
        return []
    whole = [v for v in verdicts if v.box_index is None and v.verdict != "missed_object"]
    of_box = {verdict.box_index: verdict for verdict in verdicts if verdict.box_index is not None}
    rows = []
    for index, box in enumerate(boxes):
        said = of_box.get(index, whole[-1] if whole else None)
        right = None if said is None else _is_right(said, box.label)
        if right is not None:
            rows.append(_row(review, said, box.label, box.score, right))
    drawn = [verdict for verdict in verdicts if verdict.verdict == "missed_object"]
    return rows + [_row(review, verdict, verdict.label, None, None) for verdict in drawn]


def _row(review: Any, verdict: Any, label: str, score: float | None, right: bool | None) -> dict[str, Any]:
    of_review = {"review_id": review.id, "edge_id": review.edge_id, "decided_ns": verdict.decided_ns}
    return {**of_review, "label": label, "score": score, "is_right": right}


def _is_right(verdict: Any, label: str) -> bool | None:
    if verdict.verdict in ("wrong_class", "corrected"):
        return class_key(verdict.label or "") == class_key(label)
    return {"confirm": True, "reject": False}.get(verdict.verdict)

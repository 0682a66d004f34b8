"""What verdicts say of the detector's boxes, kept beside them: figures of the detector are counted, not worked out.

The rows of a frame follow from its standing verdicts, and are made anew in the transaction that changes these. A frame
that is not decided, or contested, has none.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete
from sqlalchemy.orm import Session

from secondlook.cloud.catalogue.blind import counting_verdicts
from secondlook.cloud.catalogue.schema import JudgedBox, Review, ReviewState, Verdict, VerdictKind
from secondlook.shared.texts import class_key

_NAMED = frozenset({VerdictKind.WRONG_CLASS, VerdictKind.CORRECTED})


def note_judged(session: Session, review: Review, *, contested: bool) -> None:
    """Bring a review's rows up to date after a change of its verdicts, its state or its double review."""
    session.execute(
        delete(JudgedBox).where(JudgedBox.review_id == review.id),
        execution_options={"synchronize_session": False},
    )
    if review.state is ReviewState.DECIDED and not contested:
        session.add_all(judged_boxes(review))


def judged_boxes(review: Review) -> list[JudgedBox]:
    """One row for each box of the detector that people found right or wrong, and for each object they drew."""
    frame = review.frame
    of_review = {"review_id": review.id, "edge_id": frame.edge_id}
    standing = [entry for entry in counting_verdicts(review) if entry.undone_ns is None]
    on_frame = _last_on_frame(standing)
    on_box = {entry.box_index: entry for entry in standing if entry.box_index is not None}
    rows = []
    for index, box in enumerate(frame.detections):
        said = on_box.get(index, on_frame)
        right = None if said is None else is_right(said, box.label)
        if said is not None and right is not None:
            about = {"label": box.label, "score": box.score, "is_right": right}
            rows.append(JudgedBox(**of_review, **about, decided_ns=said.decided_ns))
    rows += [
        JudgedBox(**of_review, label=entry.label, decided_ns=entry.decided_ns)
        for entry in standing
        if entry.verdict is VerdictKind.MISSED_OBJECT
    ]
    return rows


def is_right(verdict: Verdict, label: str) -> bool | None:
    """Whether a verdict on a box, or on its frame, finds the detector's class right; None where it leaves that open."""
    if verdict.verdict in _NAMED:
        return class_key(verdict.label or "") == class_key(label)
    if verdict.verdict is VerdictKind.REJECT:
        return False
    return True if verdict.verdict is VerdictKind.CONFIRM else None


def _last_on_frame(standing: Sequence[Verdict]) -> Verdict | None:
    whole = [v for v in standing if v.box_index is None and v.verdict is not VerdictKind.MISSED_OBJECT]
    return whole[-1] if whole else None

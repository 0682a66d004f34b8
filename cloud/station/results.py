"""What people decided, as programs fetch it: changes since some line of the audit trail, and objects.

A program that fetches changes goes on where it left off: every verdict and every undo is a line of the audit trail, and
lines are only ever added. What is told of a frame is how it stands now.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sqlalchemy import func, select, true
from sqlalchemy.orm import Session, selectinload

from secondlook.cloud.catalogue import (
    AuditEntry,
    Camera,
    Catalogue,
    DetectedBox,
    Frame,
    Retention,
    Review,
    ReviewState,
    SeenObject,
    Verdict,
    VerdictKind,
    conflict_of,
    counting_verdicts,
)
from secondlook.cloud.station import schema
from secondlook.cloud.station.export import final_boxes, image_facts, is_unsure
from secondlook.shared.texts import class_key

_CHANGES = ("verdict given", "verdict undone")
_BATCH = 200
_WITH_FRAME = (
    selectinload(Review.frame).selectinload(Frame.detections),
    selectinload(Review.verdicts),
    selectinload(Review.double),
)


def changes(
    catalogue: Catalogue, *, since_ns: int, after: int | None, limit: int, root_path: str
) -> schema.Changes:
    """Frames that verdicts or undos touched after line ``after`` of the audit trail, or, without it, since an instant.

    Each is told once, as it stands. One that is not decided, or in doubt, or gone, says so: ``settled`` is false. That
    a frame is judged blindly is told to nobody: the line by which it is decided is not withheld. What is said of known
    frames changes none.
    """
    with catalogue.reading() as session:
        start = _line_before(session, since_ns) if after is None else after
        query = (
            select(AuditEntry.id, AuditEntry.subject, AuditEntry.detail)
            # The first condition says which index is entered: most lines are of machines.
            .where(AuditEntry.by_person == true(), AuditEntry.id > start, AuditEntry.action.in_(_CHANGES))
            .order_by(AuditEntry.id)
            .limit(limit)
        )
        lines = session.execute(query).all()
        given = {line.detail.get("verdict_id") for line in lines}
        of_known = select(Verdict.id).where(Verdict.id.in_(given), Verdict.probe.is_(True))
        probes = set(session.scalars(of_known))
        told = [
            line
            for line in lines
            if not line.detail.get("withheld") and line.detail.get("verdict_id") not in probes
        ]
        numbers = list(dict.fromkeys(int(line.subject.partition("/")[2]) for line in told))
        found = {
            review.id: review
            for review in session.scalars(select(Review).options(*_WITH_FRAME).where(Review.id.in_(numbers)))
        }
        return schema.Changes(
            frames=[_change(number, found.get(number), root_path) for number in numbers],
            next=lines[-1].id if lines else start,
            more=len(lines) == limit,
        )


def object_lines(catalogue: Catalogue, *, edge_id: str | None, label: str | None) -> Iterator[str]:
    """One JSON object a line for each thing that cameras had in view, with what people said of its boxes."""
    last = 0
    while True:
        with catalogue.reading() as session:
            query = select(SeenObject, Camera.camera).join(Camera, Camera.edge_id == SeenObject.edge_id)
            query = query.where(SeenObject.id > last)
            if edge_id is not None:
                query = query.where(SeenObject.edge_id == edge_id)
            if label is not None:
                query = query.where(SeenObject.label == label)
            rows = session.execute(query.order_by(SeenObject.id).limit(_BATCH)).all()
            said = _said_of(session, [row.SeenObject.id for row in rows])
        if not rows:
            return
        yield "".join(
            json.dumps(_object(row.SeenObject, row.camera, said.get(row.SeenObject.id, []))) + "\n"
            for row in rows
        )
        last = rows[-1].SeenObject.id


def _line_before(session: Session, since_ns: int) -> int:
    """The last line of the audit trail from before an instant."""
    first = session.scalar(select(func.min(AuditEntry.id)).where(AuditEntry.at_ns >= since_ns))
    return (session.scalar(select(func.max(AuditEntry.id))) or 0) if first is None else first - 1


def _change(number: int, review: Review | None, root_path: str) -> schema.Change:
    if review is None or review.frame.retention is Retention.DELETING:
        return schema.Change(review_id=number, name=None, settled=False, facts=None, picture=None)
    frame = review.frame
    name = f"{frame.edge_id}_{frame.boot_id}_{frame.seq:08d}"
    settled = (
        review.state is ReviewState.DECIDED and not is_unsure(review) and conflict_of(review.verdicts) is None
    )
    if not settled:
        return schema.Change(review_id=number, name=name, settled=False, facts=None, picture=None)
    facts = image_facts(review, root_path)
    boxes = [
        {
            "label": box.label,
            "box": list(box.box),
            "verified": box.verified,
            "score": box.score,
            "detected_label": box.detected_label,
            "object_id": box.object_id,
        }
        for box in final_boxes(review)
    ]
    picture = None
    if review.shown_sha256 is not None:
        kind = facts["station_path"].rpartition("/")[2]
        picture = schema.ChangedPicture(version=kind, sha256=review.shown_sha256)
    return schema.Change(
        review_id=number, name=name, settled=True, facts={**facts, "boxes": boxes}, picture=picture
    )


def _said_of(session: Session, objects: list[int]) -> dict[int, list[str]]:
    """The answers of people to boxes of these objects: a class, or "" where there was nothing."""
    shown = (
        select(DetectedBox.id, DetectedBox.object_id, Review.id.label("review_id"))
        .join(Review, Review.frame_id == DetectedBox.frame_id)
        .where(DetectedBox.object_id.in_(objects), Review.state == ReviewState.DECIDED)
    )
    rows = session.execute(shown).all()
    reviews = {
        review.id: review
        for review in session.scalars(
            select(Review).options(*_WITH_FRAME).where(Review.id.in_({row.review_id for row in rows}))
        )
    }
    said: dict[int, list[str]] = {}
    for row in rows:
        review = reviews[row.review_id]
        index = [box.id for box in review.frame.detections].index(row.id)
        answer = _answer(review, index)
        if answer is not None:
            said.setdefault(row.object_id, []).append(answer)
    return said


def _answer(review: Review, index: int) -> str | None:
    standing = [v for v in counting_verdicts(review) if v.undone_ns is None]
    of_box = [v for v in standing if v.box_index == index]
    whole = [v for v in standing if v.box_index is None and v.verdict is not VerdictKind.MISSED_OBJECT]
    last: Verdict | None = of_box[-1] if of_box else whole[-1] if whole else None
    if last is None or last.verdict in (VerdictKind.UNSURE, VerdictKind.INCOMPLETE):
        return None
    if last.verdict is VerdictKind.REJECT:
        return ""
    return last.label or review.frame.detections[index].label


def _object(seen: SeenObject, camera: str, said: list[str]) -> dict[str, Any]:
    confirmed = [answer for answer in said if answer]
    return {
        "object_id": seen.id,
        "edge_id": seen.edge_id,
        "camera": camera,
        "label": seen.label,
        "score": seen.score,
        "first_seen": schema.instant(seen.first_ns).isoformat(),
        "last_seen": schema.instant(seen.last_ns).isoformat(),
        "frames": seen.frames,
        "box": [seen.x0, seen.y0, seen.x1, seen.y1],
        "judged": len(said),
        "confirmed": len(confirmed),
        "rejected": len(said) - len(confirmed),
        "labels_given": sorted(set(confirmed), key=class_key),
    }

"""Objects of a camera: what follows one thing through its frames, so that a parked car is one object, reviewed once.

They are rows like everything else: any worker may look at any frame, and frames may come in any order. A frame is
linked in the transaction that stores it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from secondlook.cloud.catalogue.schema import DetectedBox, Frame, Rule, SeenObject
from secondlook.shared.detection import Detection
from secondlook.shared.tracking import STANDING_SECONDS, Track, follow

_LATEST_NS = 2**63 - 1  # what the wire and the tables can hold
_SOUGHT_NS = round(STANDING_SECONDS * 1_000_000_000)
_MOST_SOUGHT = 500  # objects of one camera, the latest


def link_objects(session: Session, frame: Frame, detections: Sequence[Detection]) -> None:
    """Give each detection of a new frame its object: one of the camera's, or a new one."""
    if not detections:
        return
    at_ns = frame.captured_ns
    near = (
        select(SeenObject)
        .where(
            SeenObject.edge_id == frame.edge_id,
            SeenObject.last_ns >= max(at_ns - _SOUGHT_NS, 0),
            SeenObject.last_ns <= min(at_ns + _SOUGHT_NS, _LATEST_NS),
        )
        .order_by(SeenObject.last_ns.desc(), SeenObject.id)
        .limit(_MOST_SOUGHT)
    )
    rows = session.scalars(near.with_for_update()).all()
    followed = follow([_track(row) for row in rows], detections, at_ns)
    for box, (index, track) in zip(frame.detections, followed, strict=True):
        if track is None:
            continue
        row = SeenObject(edge_id=frame.edge_id, called="") if index is None else rows[index]
        row.label, row.score, row.frames = track.label, track.score, track.frames
        row.x0, row.y0, row.x1, row.y1 = track.box
        row.speed_x, row.speed_y = track.speed
        row.first_ns, row.last_ns = track.first_ns, track.last_ns
        box.object = row
    session.flush()


def is_called(row: SeenObject, rule: Rule) -> bool:
    """Whether this rule has had the object reviewed."""
    return rule.value in row.called.split(",")


def note_call(row: SeenObject, rule: Rule) -> None:
    """This rule has called for a review in which the object is to be seen."""
    if not is_called(row, rule):
        row.called = ",".join(filter(None, (*row.called.split(","), rule.value)))


def objects_in(session: Session, frame_ids: Collection[int]) -> list[int]:
    """The numbers of the objects that frames show."""
    shown = select(DetectedBox.object_id).where(
        DetectedBox.frame_id.in_(frame_ids), DetectedBox.object_id.is_not(None)
    )
    return [number for number in session.scalars(shown.distinct()) if number is not None]


def remove_unseen(session: Session, object_ids: Collection[int]) -> None:
    """Remove those objects of which no frame is left."""
    seen = select(DetectedBox.id).where(DetectedBox.object_id == SeenObject.id).exists()
    session.execute(
        delete(SeenObject).where(SeenObject.id.in_(object_ids), ~seen),
        execution_options={"synchronize_session": False},
    )


def _track(row: SeenObject) -> Track:
    return Track(
        number=row.id,
        label=row.label,
        score=row.score,
        box=(row.x0, row.y0, row.x1, row.y1),
        speed=(row.speed_x, row.speed_y),
        first_ns=row.first_ns,
        last_ns=row.last_ns,
        frames=row.frames,
    )

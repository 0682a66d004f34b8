"""Changes the machine worker makes: frames with their detections, reviews that fall due, tombstones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from secondlook.cloud.catalogue.newreviews import UNLIMITED, NewReview, ReviewBudget, call_for_review
from secondlook.cloud.catalogue.objects import link_objects
from secondlook.cloud.catalogue.schema import (
    Camera,
    DetectedBox,
    Frame,
    Retention,
    Tombstone,
    table_of,
)
from secondlook.cloud.catalogue.store import Catalogue
from secondlook.cloud.storage.sql import hold_lock, insert
from secondlook.shared.crop import Crop
from secondlook.shared.detection import Detection
from secondlook.shared.link import parts_beside
from secondlook.shared.packet import FrameInfo

BEHIND = "behind"  # why a frame was stored without a look: the worker could not keep up


@dataclass(frozen=True)
class NewFrame:
    """A frame that has come, with what is kept of it."""

    edge_id: str
    camera: str
    received_ns: int  # Unix nanoseconds by the gateway's clock
    info: FrameInfo
    base_blob: str
    base_bytes: int


@dataclass(frozen=True)
class FrameTombstone:
    """Frames first_seq..last_seq of one boot that never reached the cloud, and why."""

    edge_id: str
    boot_id: str
    first_seq: int
    last_seq: int
    reason: str
    received_ns: int


def frame_is_stored(catalogue: Catalogue, edge_id: str, boot_id: str, seq: int) -> bool:
    with catalogue.reading() as session:
        return _find_frame(session, edge_id, boot_id, seq) is not None


def store_frame(
    catalogue: Catalogue,
    frame: NewFrame,
    detections: Sequence[Detection],
    *,
    detector: str,
    reasons: Sequence[NewReview],
    now_ns: int,
    budget: ReviewBudget = UNLIMITED,
    crop: Crop | None = None,
) -> bool:
    """Store a frame, its detections and the review that `reasons` call for, of `crop` if given, all or nothing.

    Returns False, and changes nothing, when the frame is there already. A tombstone over it is cut: see
    `store_tombstones`.
    """
    try:
        with catalogue.writing() as session:
            _hold_boot(session, frame.edge_id, frame.info.boot_id)
            if _find_frame(session, frame.edge_id, frame.info.boot_id, frame.info.seq) is not None:
                return False
            _see_camera(session, frame.edge_id, frame.camera, now_ns)
            row = _row(frame, now_ns)
            row.top_score = max((detection.score for detection in detections), default=None)
            row.detections = [_box(detection, detector, frame) for detection in detections]
            session.add(row)
            session.flush()
            link_objects(session, row, detections)
            _cut_tombstones(session, row)
            call_for_review(session, row, reasons, budget, now_ns=now_ns, crop=crop)
    except IntegrityError:
        # A database that lets two writers in: another worker stored this frame after our look.
        if frame_is_stored(catalogue, frame.edge_id, frame.info.boot_id, frame.info.seq):
            return False
        raise
    return True


def store_unseen(catalogue: Catalogue, frames: Sequence[NewFrame], why: str, *, now_ns: int) -> int:
    """Store frames that no machine looked at, all or nothing; returns how many were new.

    One that is there already stays as it is. Tombstones over them are cut, as `store_frame` does.
    """
    try:
        return _store_unseen(catalogue, frames, why, now_ns=now_ns)
    except IntegrityError:
        # A database that lets two writers in: another worker stored one of these after our look.
        if len(frames) > 1:
            return sum(store_unseen(catalogue, [frame], why, now_ns=now_ns) for frame in frames)
        (frame,) = frames
        if frame_is_stored(catalogue, frame.edge_id, frame.info.boot_id, frame.info.seq):
            return 0
        raise


def _store_unseen(catalogue: Catalogue, frames: Sequence[NewFrame], why: str, *, now_ns: int) -> int:
    new = 0
    with catalogue.writing() as session:
        for name in sorted({(frame.edge_id, frame.info.boot_id) for frame in frames}):
            _hold_boot(session, *name)
        for edge_id, camera in sorted({frame.edge_id: frame.camera for frame in frames}.items()):
            _see_camera(session, edge_id, camera, now_ns)
        for frame in frames:
            if _find_frame(session, frame.edge_id, frame.info.boot_id, frame.info.seq) is None:
                row = _row(frame, now_ns)
                row.unseen = why
                session.add(row)
                session.flush()
                _cut_tombstones(session, row)
                new += 1
    return new


def store_tombstones(catalogue: Catalogue, dropped: Sequence[FrameTombstone]) -> int:
    """Store those tombstones that are not there yet; returns how many were new.

    A frame that is here is left out, and what lies beside it stays: its queue had it when the gateway died
    before it could say so, and the camera host, who had not heard, dropped it. Such a frame may also come later.
    """
    with catalogue.writing() as session:
        for name in sorted({(tombstone.edge_id, tombstone.boot_id) for tombstone in dropped}):
            _hold_boot(session, *name)
        return sum(
            _add_tombstones(session, tombstone, _frames_within(session, tombstone)) for tombstone in dropped
        )


def note_clocks(catalogue: Catalogue, offsets: Mapping[str, float]) -> None:
    """Keep by how many seconds the gateway's clock is ahead of each camera host's."""
    with catalogue.reading() as session:
        known = {camera.edge_id: camera.clock_offset_seconds for camera in session.scalars(select(Camera))}
    changed = [name for name in offsets.keys() & known.keys() if known[name] != offsets[name]]
    if not changed:
        return
    with catalogue.writing() as session:
        for edge_id in sorted(changed):
            found = update(Camera).where(Camera.edge_id == edge_id)
            session.execute(found.values(clock_offset_seconds=offsets[edge_id]))


def _hold_boot(session: Session, edge_id: str, boot_id: str) -> None:
    """A frame and a tombstone of one boot are not stored at the same time: each has to see the other."""
    hold_lock(session.connection(), f"{edge_id}/{boot_id}")


def _frames_within(session: Session, tombstone: FrameTombstone) -> Sequence[int]:
    return session.scalars(
        select(Frame.seq)
        .where(
            Frame.edge_id == tombstone.edge_id,
            Frame.boot_id == tombstone.boot_id,
            Frame.seq.between(tombstone.first_seq, tombstone.last_seq),
        )
        .order_by(Frame.seq)
    ).all()


def _add_tombstones(session: Session, tombstone: FrameTombstone, present: Sequence[int]) -> int:
    connection, table = session.connection(), table_of(Tombstone)
    added = 0
    for first, last in parts_beside(tombstone.first_seq, tombstone.last_seq, ((seq, seq) for seq in present)):
        row = {**vars(tombstone), "first_seq": first, "last_seq": last}
        new = insert(connection, table).values(row).on_conflict_do_nothing().returning(table.c.id)
        added += len(connection.execute(new).all())
    return added


def _cut_tombstones(session: Session, frame: Frame) -> None:
    table = table_of(Tombstone)
    of_tombstone = [table.c[field.name] for field in fields(FrameTombstone)]
    cut = session.connection().execute(
        delete(table)
        .where(table.c.edge_id == frame.edge_id, table.c.boot_id == frame.boot_id)
        .where(table.c.first_seq <= frame.seq, table.c.last_seq >= frame.seq)
        .returning(*of_tombstone)
    )
    for row in cut.all():
        _add_tombstones(session, FrameTombstone(**row._mapping), [frame.seq])


def _row(frame: NewFrame, now_ns: int) -> Frame:
    return Frame(
        **vars(frame.info),
        edge_id=frame.edge_id,
        received_ns=frame.received_ns,
        detected_ns=now_ns,
        base_blob=frame.base_blob,
        base_bytes=frame.base_bytes,
        retention=Retention.UNREVIEWED,
        retention_ns=now_ns,
        stored_bytes=frame.base_bytes,
    )


def _find_frame(session: Session, edge_id: str, boot_id: str, seq: int) -> int | None:
    return session.scalars(
        select(Frame.id).where(Frame.edge_id == edge_id, Frame.boot_id == boot_id, Frame.seq == seq)
    ).one_or_none()


def _see_camera(session: Session, edge_id: str, camera: str, now_ns: int) -> None:
    connection, table = session.connection(), table_of(Camera)
    seen = insert(connection, table).values(
        edge_id=edge_id, camera=camera, first_seen_ns=now_ns, last_seen_ns=now_ns
    )
    # Two workers may meet a new camera at the same moment.
    connection.execute(
        seen.on_conflict_do_update(
            index_elements=[table.c.edge_id],
            set_={"camera": seen.excluded.camera, "last_seen_ns": seen.excluded.last_seen_ns},
        )
    )


def _box(detection: Detection, detector: str, frame: NewFrame) -> DetectedBox:
    x0, y0, x1, y1 = detection.box
    return DetectedBox(
        label=detection.label,
        score=detection.score,
        x0=x0,
        y0=y0,
        x1=x1,
        y1=y1,
        detector=detector,
        captured_ns=frame.info.captured_ns,
        edge_id=frame.edge_id,
    )

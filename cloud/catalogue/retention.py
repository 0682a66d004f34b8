"""What retention asks of the catalogue: how much there is, what is oldest, and its removal in two steps.

A frame that goes is first marked ``deleting``, in a transaction of its own. From then on nothing changes it and its
blobs may be deleted; its rows go last. Whoever dies in between leaves marked frames, which the next run finds and
finishes, so that no row stays that names a missing blob. Every step bears repetition, and two processes at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, Select, and_, delete, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from secondlook.cloud.catalogue.objects import objects_in, remove_unseen
from secondlook.cloud.catalogue.schema import (
    Claim,
    Comment,
    DetectedBox,
    DoubleReview,
    Frame,
    Handover,
    JudgedBox,
    KnownFrame,
    Opinion,
    Reason,
    Retention,
    Review,
    Tombstone,
    Verdict,
)
from secondlook.cloud.catalogue.store import Catalogue, append_audit
from secondlook.cloud.storage.blobs import (
    background_owner,
    base_key,
    crop_key,
    enhancement_key,
    image_key,
    parse_key,
    thumb_key,
)

_IMAGES = ("base", "enhanced", "refined")
_REVIEWED = frozenset({Retention.DECIDED, Retention.AUDIT})


@dataclass(frozen=True)
class Held:
    """So many frames, and the bytes of their blobs, about."""

    frames: int = 0
    bytes: int = 0

    def __add__(self, other: Held) -> Held:
        return Held(self.frames + other.frames, self.bytes + other.bytes)


@dataclass(frozen=True)
class Doomed:
    """A frame that is being deleted, with the keys of all blobs that may be there for it."""

    frame_id: int
    retention_ns: int
    stored_bytes: int
    blob_keys: tuple[str, ...]


@dataclass(frozen=True)
class Candidates:
    """Which frames may go: those of ``retention`` since before ``before_ns``, and after the frame ``after``.

    ``after`` is a frame's (retention_ns, frame_id): where a look at the frames goes on. ``going``, by class, is what
    else goes in the same run, since before when: a key frame stays while a delta that does not go wants it.
    """

    retention: Retention
    before_ns: int
    after: tuple[int, int] = (-1, 0)
    going: Mapping[Retention, int] | None = None


def held_by_class(catalogue: Catalogue) -> dict[Retention, Held]:
    """What is kept, by class; frames that are being deleted too."""
    query = select(Frame.retention, func.count(), func.sum(Frame.stored_bytes)).group_by(Frame.retention)
    with catalogue.reading() as session:
        found = {row[0]: Held(row[1], int(row[2])) for row in session.execute(query)}
    return {retention: found.get(retention, Held()) for retention in Retention}


def list_candidates(catalogue: Catalogue, wanted: Candidates, *, limit: int) -> list[Doomed]:
    """The oldest frames that may go, at most ``limit``; changes nothing."""
    with catalogue.reading() as session:
        return _doomed(session, session.scalars(_oldest(wanted).limit(limit)).all())


def mark_deleting(
    catalogue: Catalogue, wanted: Candidates, *, limit: int, enough_bytes: int | None = None, now_ns: int
) -> list[Doomed]:
    """Mark the oldest frames that may go, at most ``limit``, and no more than make up ``enough_bytes``.

    Frames that people have judged leave a line in the audit trail, with the numbers of their reviews.
    """
    with catalogue.writing() as session:
        frames: list[Frame] = []
        size = 0
        for frame in session.scalars(_oldest(wanted).limit(limit).with_for_update(skip_locked=True)):
            if enough_bytes is not None and size >= enough_bytes:
                break
            frames.append(frame)
            size += frame.stored_bytes
        doomed = _doomed(session, frames)
        if frames:
            ids = [frame.id for frame in frames]
            session.execute(
                update(Frame).where(Frame.id.in_(ids)).values(retention=Retention.DELETING),
                execution_options={"synchronize_session": False},
            )
            if wanted.retention in _REVIEWED:
                _audit(session, wanted.retention, ids, size, now_ns)
        return doomed


def list_deleting(catalogue: Catalogue, *, after: int, limit: int) -> list[Doomed]:
    """Frames that somebody has marked and not removed, by number, from above ``after``."""
    query = select(Frame).where(Frame.retention == Retention.DELETING, Frame.id > after)
    with catalogue.reading() as session:
        return _doomed(session, session.scalars(query.order_by(Frame.id).limit(limit)).all())


def remove_deleted(catalogue: Catalogue, frame_ids: Collection[int]) -> Held:
    """Remove the rows of frames that are marked, their detections, reviews and verdicts, and objects seen in no other.

    Their blobs must be gone. Returns what was removed here; a frame that another process removed does not count.
    """
    with catalogue.writing() as session:
        mine = session.execute(
            select(Frame.id, Frame.stored_bytes)
            .where(Frame.id.in_(frame_ids), Frame.retention == Retention.DELETING)
            .order_by(Frame.id)
            .with_for_update(skip_locked=True)
        ).all()
        ids = [row.id for row in mine]
        of_frames, shown = Review.frame_id.in_(ids), objects_in(session, ids)
        for statement in (
            delete(DetectedBox).where(DetectedBox.frame_id.in_(ids)),
            delete(Verdict).where(Verdict.review_id.in_(select(Review.id).where(of_frames))),
            *(
                delete(kind).where(kind.review_id.in_(select(Review.id).where(of_frames)))
                for kind in (Claim, Comment, DoubleReview, Handover, JudgedBox, KnownFrame, Opinion)
            ),
            delete(Reason).where(Reason.review_id.in_(select(Review.id).where(of_frames))),
            delete(Review).where(of_frames),
            delete(Frame).where(Frame.id.in_(ids)),
        ):
            session.execute(statement, execution_options={"synchronize_session": False})
        remove_unseen(session, shown)
        return Held(len(ids), sum(row.stored_bytes for row in mine))


def wanted_blobs(catalogue: Catalogue, keys: Iterable[str]) -> set[str]:
    """Those of ``keys`` that a row wants, or that say nothing about frames and reviews.

    A base or enhancement layer is wanted by its frame, by every delta that refers to it, and by the frames behind it in
    its group, whether or not it has a row itself; a background by all frames of its camera host.
    """
    owners: dict[str, list[str]] = {}
    layers: dict[tuple[str, str], dict[int, list[str]]] = {}
    images: dict[int, list[str]] = {}
    wanted = set()
    for key in keys:
        of = parse_key(key)
        if (owner := background_owner(key)) is not None:
            owners.setdefault(owner, []).append(key)
        elif of is None:
            wanted.add(key)
        elif isinstance(of, int):
            images.setdefault(of, []).append(key)
        else:
            edge_id, boot_id, seq = of
            layers.setdefault((edge_id, boot_id), {}).setdefault(seq, []).append(key)
    with catalogue.reading() as session:
        for (edge_id, boot_id), keys_of in layers.items():
            for column in (Frame.seq, Frame.key_seq):
                found = session.scalars(
                    select(column)
                    .where(Frame.edge_id == edge_id, Frame.boot_id == boot_id)
                    # That it is not null lets a partial index serve.
                    .where(column.is_not(None), column.in_(list(keys_of)))
                )
                wanted.update(key for seq in found if seq is not None for key in keys_of[seq])
            for seq, own in keys_of.items():
                if wanted.isdisjoint(own) and _is_inside_group(session, edge_id, boot_id, seq):
                    wanted.update(own)
        for edge_id, keys_of_edge in owners.items():
            if session.scalar(select(Frame.id).where(Frame.edge_id == edge_id).limit(1)) is not None:
                wanted.update(keys_of_edge)
        for id_ in session.scalars(select(Review.id).where(Review.id.in_(list(images)))):
            wanted.update(images[id_])
    return wanted


def _is_inside_group(session: Session, edge_id: str, boot_id: str, seq: int) -> bool:
    """Whether the next frame of its boot belongs to a group that began before this one, and so needs it."""
    behind = select(Frame.key_seq).where(Frame.edge_id == edge_id, Frame.boot_id == boot_id, Frame.seq > seq)
    key_seq = session.scalar(behind.order_by(Frame.seq).limit(1))
    return key_seq is not None and key_seq < seq


def delete_tombstones(catalogue: Catalogue, *, before_ns: int, limit: int) -> int:
    """Delete tombstones that came before an instant, at most ``limit``; returns how many."""
    with catalogue.writing() as session:
        ids = (
            select(Tombstone.id).where(Tombstone.received_ns < before_ns).order_by(Tombstone.id).limit(limit)
        )
        result = session.execute(delete(Tombstone).where(Tombstone.id.in_(ids.scalar_subquery())))
        return cast("CursorResult[Any]", result).rowcount


def count_tombstones(catalogue: Catalogue, *, before_ns: int) -> int:
    with catalogue.reading() as session:
        query = select(func.count()).select_from(Tombstone).where(Tombstone.received_ns < before_ns)
        return session.scalar(query) or 0


def _oldest(wanted: Candidates) -> Select[Frame]:
    since_ns, id_ = wanted.after
    delta = aliased(Frame)
    stays: ColumnElement[bool] = delta.retention != Retention.DELETING
    for retention, before_ns in (wanted.going or {}).items():
        stays = and_(stays, or_(delta.retention != retention, delta.retention_ns >= before_ns))
    wanting = select(delta.id).where(
        delta.edge_id == Frame.edge_id, delta.boot_id == Frame.boot_id, delta.key_seq == Frame.seq, stays
    )
    # A frame of a video group is decoded through all before it in its group, until the picture for its review is made.
    later = aliased(Frame)
    undecoded = (
        select(later.id)
        .join(Review, Review.frame_id == later.id)
        .where(
            later.edge_id == Frame.edge_id,
            later.boot_id == Frame.boot_id,
            later.key_seq.is_not(None),
            later.key_seq == Frame.key_seq,
            later.seq > Frame.seq,
            later.retention != Retention.DELETING,
            Review.base_image.is_(None),
        )
    )
    return (
        select(Frame)
        .where(
            Frame.retention == wanted.retention,
            Frame.retention_ns < wanted.before_ns,
            # The first condition says where the index is entered.
            Frame.retention_ns >= since_ns,
            or_(Frame.retention_ns > since_ns, Frame.id > id_),
            or_(Frame.key_seq.is_not(None), ~wanting.exists()),
            or_(Frame.key_seq.is_(None), ~undecoded.exists()),
        )
        .order_by(Frame.retention_ns, Frame.id)
    )


def _doomed(session: Session, frames: Sequence[Frame]) -> list[Doomed]:
    ids = [frame.id for frame in frames]
    reviews = {
        review.frame_id: review for review in session.scalars(select(Review).where(Review.frame_id.in_(ids)))
    }
    return [
        Doomed(frame.id, frame.retention_ns, frame.stored_bytes, _blob_keys(frame, reviews.get(frame.id)))
        for frame in frames
    ]


def _blob_keys(frame: Frame, review: Review | None) -> tuple[str, ...]:
    """Also of those that no row tells of: a crash may have come between a blob and its row."""
    name = (frame.edge_id, frame.boot_id, frame.seq)
    keys = {frame.base_blob, base_key(*name), enhancement_key(*name), crop_key(*name), thumb_key(*name)}
    if review is not None:
        keys.update(image_key(review.id, kind) for kind in _IMAGES)
        told = (review.enhancement_blob, review.base_image, review.enhanced_image, review.refined_image)
        keys.update(key for key in told if key is not None)
    return tuple(sorted(keys))


def _audit(session: Session, retention: Retention, frame_ids: list[int], size: int, now_ns: int) -> None:
    reviews = session.scalars(select(Review.id).where(Review.frame_id.in_(frame_ids)).order_by(Review.id))
    append_audit(
        session,
        at_ns=now_ns,
        actor="retention",
        action="frames deleted",
        subject=f"class {retention.value}",
        detail={"frames": len(frame_ids), "bytes": size, "reviews": list(reviews)},
    )

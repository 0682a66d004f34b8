"""What the versioned API sends. A field may be added in any version, and is taken away only with the whole `/v1`.

Numbers are those of the catalogue and are not given out again. Boxes are x0, y0, x1, y1 in pixels of the frame.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue.feed import Event, EventKind
from secondlook.cloud.station.schema import SecondLook, crop_of, instant, second_look_of

Item = TypeVar("Item", bound=BaseModel)
Box: TypeAlias = tuple[float, float, float, float]
Layer = Literal["base", "enhanced", "refined", "thumb"]

_AT = "2026-03-01T11:59:58.120000Z"
_HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
Instant = Annotated[datetime, Field(examples=[_AT])]
Number = Annotated[int, Field(examples=[1042])]
CameraId = Annotated[
    str, Field(description="The camera host, as its agent is called.", examples=["gate-north"])
]


class Camera(BaseModel):
    id: CameraId
    name: str = Field(description="What the agent calls its source.", examples=["North gate"])
    first_seen_at: Instant
    last_seen_at: datetime = Field(description="When its last frame was stored.", examples=[_AT])
    clock_offset_seconds: float | None = Field(
        description="The gateway's clock minus the camera host's; null until it was measured.",
        examples=[0.012],
    )
    heard_at: datetime | None = Field(description="When a gateway heard of it last.", examples=[_AT])
    source: str | None = Field(
        description="The state of its source, as its host told; null where it did not.", examples=["running"]
    )
    model: str | None = Field(description="What makes its base layers.", examples=["lite 1f0c22d9a4b38e67"])
    trouble: str | None = Field(description="What is wrong with its source.", examples=[None])
    waiting_frames: int | None = Field(
        description="On its host, not delivered; null: not told.", examples=[0]
    )
    oldest_waiting_at: datetime | None = Field(
        description="When the oldest of them was captured.", examples=[None]
    )
    reported_at: datetime | None = Field(description="When its host told the last five.", examples=[_AT])


class CameraTrouble(BaseModel):
    """A time in which a camera did not do well. One that comes and goes makes one."""

    what: Literal["stalled", "silent", "offline"] = Field(description="The worst of it.")
    began_at: Instant
    ended_at: datetime | None = Field(
        description="When it did well again, once that has lasted; null before.", examples=[_AT]
    )
    times: int = Field(description="How often it went, and came back too soon to be over it.", examples=[1])


class FrameDetection(BaseModel):
    id: Number
    label: str = Field(examples=["person"])
    score: float = Field(examples=[0.83])
    box: Box = Field(examples=[(210.0, 40.0, 290.0, 120.0)])
    detector: str = Field(examples=["builtin"])
    object_id: int | None = Field(
        description="The thing that it shows, over the frames of its camera.", examples=[77]
    )


class Detection(FrameDetection):
    frame_id: Number
    camera: CameraId
    captured_at: datetime = Field(description="By the clock of the camera host.", examples=[_AT])


class Frame(BaseModel):
    id: Number
    camera: CameraId
    boot_id: str = Field(description="One start of the agent.", examples=["ab" * 16])
    seq: int = Field(description="The frame's number within its boot.", examples=[311])
    captured_at: datetime = Field(description="By the clock of the camera host.", examples=[_AT])
    received_at: Instant
    detected_at: Instant
    width: int = Field(examples=[1280])
    height: int = Field(examples=[720])
    base_bytes: int = Field(examples=[2911])
    enhancement_bytes: int = Field(description="Waiting on the camera host.", examples=[21400])
    review_id: int | None = Field(examples=[12])
    unseen: str | None = Field(
        description="Why no machine looked at it, as `behind`; null: one did.", examples=[None]
    )
    detections: list[FrameDetection]


class SeenObject(BaseModel):
    id: Number
    camera: CameraId
    label: str = Field(description="By its surest detection.", examples=["car"])
    score: float = Field(examples=[0.91])
    first_at: Instant
    last_at: Instant
    frames: int = Field(description="In which it was seen so far.", examples=[41])
    box: Box = Field(description="Where it was seen last.", examples=[(210.0, 40.0, 290.0, 120.0)])


class Review(BaseModel):
    id: Number
    frame_id: Number
    camera: CameraId
    captured_at: Instant
    state: cat.ReviewState
    priority: int = Field(examples=[90])
    reason: str = Field(examples=["watched class: dog"])
    created_at: Instant
    refined_at: datetime | None = Field(examples=[_AT])
    shown_sha256: str | None = Field(description="Of the best picture there is.", examples=[_HASH])
    crop: tuple[int, int, int, int] | None = Field(
        description="Left, top, right and bottom of what is in full quality, in pixels; null: the whole frame.",
        examples=[[96, 128, 256, 288]],
    )
    second_look: SecondLook | None = Field(
        description="What the machine said of boxes in doubt when it looked again; null where it did not."
    )
    postfilter: str | None = Field(examples=["rrdb-fast:c176621909eda2e0"])
    codec_model: str | None = Field(examples=["1f0c22d9a4b38e67"])
    why_expired: str | None = Field(examples=["the camera host no longer has it"])
    handed_to: str | None = Field(description="The one person for whom it waits.", examples=["bea"])
    handed_by: str | None = Field(description="Who handed it over.", examples=["rolf"])
    handed_at: datetime | None = Field(examples=[_AT])


class Verdict(BaseModel):
    id: Number
    review_id: Number
    frame_id: Number
    camera: CameraId
    captured_at: datetime = Field(description="The frame's, by the clock of the camera host.", examples=[_AT])
    reviewer: str = Field(examples=["rolf"])
    verdict: cat.VerdictKind
    box_index: int | None = Field(description="The detection, counted from 0; null: the frame.", examples=[0])
    label: str | None = Field(description="The right class, or a missed object's.", examples=["dog"])
    box: Box | None = Field(description="Where a missed object is, or a box should be.", examples=[None])
    note: str = Field(examples=[""])
    shown_sha256: str = Field(description="Of the picture that was judged.", examples=[_HASH])
    decided_at: Instant
    undone_at: datetime | None = Field(description="When it was taken back.", examples=[None])
    conflicts_with: int | None = Field(
        description="Another person's verdict that its giver had not seen.", examples=[None]
    )


class Comment(BaseModel):
    """What a person wrote beside a frame."""

    id: Number
    review_id: Number
    frame_id: Number
    camera: CameraId
    captured_at: datetime = Field(description="The frame's, by the clock of the camera host.", examples=[_AT])
    author: str = Field(examples=["rolf"])
    text: str | None = Field(
        description="Plain text; null once it was deleted, and of another person while the frame is judged blindly.",
        examples=["Is that the neighbour's dog again?"],
    )
    written_at: Instant
    deleted_at: datetime | None = Field(examples=[None])


class Tombstone(BaseModel):
    """Frames that were captured but never came, and why. A frame that came after all is told of as a frame."""

    id: Number
    camera: CameraId
    boot_id: str = Field(examples=["ab" * 16])
    first_seq: int = Field(examples=[100])
    last_seq: int = Field(examples=[107])
    frames: int = Field(examples=[8])
    reason: str = Field(examples=["idle"])
    received_at: datetime = Field(description="By the gateway's clock.", examples=[_AT])


class Picture(BaseModel):
    layer: Layer = Field(
        description="`base`: what machines saw; `enhanced`; `refined`; `thumb`: small, lossy."
    )
    sha256: str = Field(description="Of the file's bytes.", examples=[_HASH])
    media_type: str = Field(examples=["image/webp"])
    bytes: int = Field(examples=[48211])


class Page(BaseModel, Generic[Item]):
    items: list[Item]
    next: str = Field(
        description="Pass as `after` for what comes behind these items, also later, for what is new by then."
    )
    more: bool = Field(
        description="Whether there may be more now. A page may be short, or empty, and have more behind it."
    )


class EventData(BaseModel):
    """What an event of the stream, and a webhook, carries."""

    kind: EventKind
    what: str = Field(
        description="`stored`; of a review `created`, `skipped`, `refined`, `settled`, `expired`, `failed`, `retried`, "
        "`handed`; of a verdict `given`, `undone`; of a comment `given`, `deleted`.",
        examples=["stored"],
    )
    at: Instant
    detection: Detection | None = None
    tombstone: Tombstone | None = None
    review: Review | None = Field(default=None, description="As it is now, not as it was then.")
    verdict: Verdict | None = None
    comment: Comment | None = Field(default=None, description="As it is now.")


class CameraEvent(BaseModel):
    """What is told of a camera host that falls silent or comes back."""

    kind: Literal["camera"] = "camera"
    what: Literal["online", "silent"]
    at: Instant
    camera: Camera


class Problem(BaseModel):
    """RFC 9457, `application/problem+json`."""

    model_config = ConfigDict(extra="allow")
    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["unknown parameter: colour"])
    errors: list[dict[str, Any]] | None = Field(None, description="What is wrong with which parameter.")


def camera_facts(row: cat.Camera) -> Camera:
    return Camera(
        id=row.edge_id,
        name=row.camera,
        first_seen_at=instant(row.first_seen_ns),
        last_seen_at=instant(row.last_seen_ns),
        clock_offset_seconds=row.clock_offset_seconds,
        heard_at=_instant(row.heard_ns),
        source=row.source,
        model=row.model,
        trouble=row.trouble or None,
        waiting_frames=row.waiting_frames,
        oldest_waiting_at=_instant(row.oldest_ns),
        reported_at=_instant(row.reported_ns),
    )


def trouble_facts(row: cat.CameraEvent) -> CameraTrouble:
    return CameraTrouble(
        what=row.what,  # type: ignore[arg-type]
        began_at=instant(row.began_ns),
        ended_at=_instant(row.ended_ns),
        times=row.times,
    )


def frame_facts(row: cat.Frame) -> Frame:
    """Detections and review must be loaded."""
    return Frame(
        id=row.id,
        camera=row.edge_id,
        boot_id=row.boot_id,
        seq=row.seq,
        captured_at=instant(row.captured_ns),
        received_at=instant(row.received_ns),
        detected_at=instant(row.detected_ns),
        width=row.width,
        height=row.height,
        base_bytes=row.base_bytes,
        enhancement_bytes=row.enhancement_bytes,
        review_id=None if row.review is None else row.review.id,
        unseen=row.unseen,
        detections=[FrameDetection(**_found(box)) for box in row.detections],
    )


def detection_facts(row: cat.DetectedBox, frame: cat.Frame) -> Detection:
    return Detection(
        **_found(row), frame_id=frame.id, camera=frame.edge_id, captured_at=instant(frame.captured_ns)
    )


def object_facts(row: cat.SeenObject) -> SeenObject:
    return SeenObject(
        id=row.id,
        camera=row.edge_id,
        label=row.label,
        score=row.score,
        first_at=instant(row.first_ns),
        last_at=instant(row.last_ns),
        frames=row.frames,
        box=(row.x0, row.y0, row.x1, row.y1),
    )


def review_facts(row: cat.Review, frame: cat.Frame, trial: cat.Opinion | None) -> Review:
    """``trial``: that it is shown to somebody who is to judge it as a known frame."""
    state = row.state if trial is None else cat.state_to_judge(row)
    handed = row.handover if trial is None else cat.seeming(trial)
    return Review(
        id=row.id,
        frame_id=row.frame_id,
        camera=frame.edge_id,
        captured_at=instant(frame.captured_ns),
        state=state,
        priority=row.priority,
        reason=row.reason,
        created_at=instant(row.created_ns),
        refined_at=_instant(row.refined_ns),
        shown_sha256=row.shown_sha256,
        crop=crop_of(row),
        second_look=second_look_of(row) if trial is None else None,
        postfilter=row.postfilter,
        codec_model=row.codec_model,
        why_expired=row.why_expired,
        handed_to=None if handed is None else handed.colleague,
        handed_by=None if handed is None else handed.giver,
        handed_at=None if handed is None else instant(handed.since_ns),
    )


def verdict_facts(row: cat.Verdict, frame: cat.Frame) -> Verdict:
    placed = row.x0 is not None and row.y0 is not None and row.x1 is not None and row.y1 is not None
    return Verdict(
        id=row.id,
        review_id=row.review_id,
        frame_id=frame.id,
        camera=frame.edge_id,
        captured_at=instant(frame.captured_ns),
        reviewer=row.reviewer,
        verdict=row.verdict,
        box_index=row.box_index,
        label=row.label,
        box=(row.x0, row.y0, row.x1, row.y1) if placed else None,  # type: ignore[arg-type]
        note=row.note,
        shown_sha256=row.shown_sha256,
        decided_at=instant(row.decided_ns),
        undone_at=_instant(row.undone_ns),
        conflicts_with=row.conflicts_with,
    )


def comment_facts(row: cat.Comment, frame: cat.Frame, *, hidden: bool) -> Comment:
    return Comment(
        id=row.id,
        review_id=row.review_id,
        frame_id=frame.id,
        camera=frame.edge_id,
        captured_at=instant(frame.captured_ns),
        author=row.author,
        text=None if hidden or row.deleted_ns is not None else row.text,
        written_at=instant(row.written_ns),
        deleted_at=_instant(row.deleted_ns),
    )


def tombstone_facts(row: cat.Tombstone) -> Tombstone:
    return Tombstone(
        id=row.id,
        camera=row.edge_id,
        boot_id=row.boot_id,
        first_seq=row.first_seq,
        last_seq=row.last_seq,
        frames=row.last_seq - row.first_seq + 1,
        reason=row.reason,
        received_at=instant(row.received_ns),
    )


def event_facts(event: Event, audience: cat.Audience) -> EventData:
    data = EventData(kind=event.kind, what=event.what, at=instant(event.at_ns))
    row, frame = event.row, event.frame
    if isinstance(row, cat.Tombstone):
        data.tombstone = tombstone_facts(row)
    elif frame is not None:
        if isinstance(row, cat.DetectedBox):
            data.detection = detection_facts(row, frame)
        elif isinstance(row, cat.Review):
            data.review = review_facts(row, frame, event.trial)
        elif isinstance(row, cat.Comment):
            secret = event.is_blind or event.trial is not None
            hidden = secret and not (audience.unsettled or row.author == audience.person)
            data.comment = comment_facts(row, frame, hidden=hidden)
        else:
            data.verdict = verdict_facts(row, frame)
    return data


def event_json(event: Event, audience: cat.Audience = cat.ANYBODY) -> str:
    """What happened, as ``audience`` may know it, without the members that are about other kinds of events."""
    data = event_facts(event, audience)
    others = {kind.value for kind in EventKind if kind is not event.kind}
    return data.model_dump_json(exclude=others)


def _found(row: cat.DetectedBox) -> dict[str, Any]:
    return {
        "id": row.id,
        "label": row.label,
        "score": row.score,
        "box": (row.x0, row.y0, row.x1, row.y1),
        "detector": row.detector,
        "object_id": row.object_id,
    }


def _instant(at_ns: int | None) -> datetime | None:
    return None if at_ns is None else instant(at_ns)

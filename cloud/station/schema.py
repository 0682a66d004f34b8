"""What the station's API takes and answers. Times are ISO 8601 in UTC, sizes bytes, boxes frame pixels."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    field_validator,
    model_validator,
)

from secondlook.cloud.accounts import Principal
from secondlook.cloud.catalogue import NewVerdict, Review, ReviewState, Stage, VerdictKind
from secondlook.cloud.catalogue.camerastates import CameraState
from secondlook.cloud.catalogue.claims import TAB_PATTERN
from secondlook.cloud.catalogue.comments import MAX_COMMENT_LENGTH, comment_text
from secondlook.cloud.catalogue.verdicts import KEY_PATTERN, REVIEWER_PATTERN
from secondlook.shared.crop import Crop
from secondlook.shared.errors import ReviewConflict
from secondlook.shared.texts import class_name, has_control

Filter = Literal["open", "ready", "pending", "expired", "settled", "skipped", "decided"]
ImageVersion = Literal["base", "enhanced", "refined"]
Box = tuple[float, float, float, float]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def instant(ns: int) -> datetime:
    """Unix nanoseconds as a time of day, to the microsecond."""
    return _EPOCH + timedelta(microseconds=ns // 1000)


def nanoseconds(at: datetime | None, otherwise: int) -> int:
    """An instant in Unix nanoseconds, within what the tables hold; without an offset it is UTC."""
    if at is None:
        return otherwise
    since = (at if at.tzinfo is not None else at.replace(tzinfo=UTC)) - _EPOCH
    return min(max(since // timedelta(microseconds=1) * 1000, 0), 2**63 - 1)


class Station(BaseModel):
    title: str
    version: str
    labels: list[str]
    common: list[str] = Field(description="Those met most in reviews, at most nine.")
    learned_filter: bool = Field(
        description="Whether this site shows pictures as the learned filter made them."
    )


class ClaimFacts(BaseModel):
    """A frame that somebody has open to judge it."""

    review_id: int
    holder: str
    since: datetime


class Claim(ClaimFacts):
    seconds: float = Field(description="For so long it holds, unless it is renewed.")


class Summary(BaseModel):
    revision: str = Field(description="Changes whenever a list or a review may have changed.")
    filters: dict[Filter, int]
    remaining: int = Field(description="Reviews without a decision.")
    pending: int = Field(description="Those of them whose full quality is still on its way.")
    handed: int = Field(description="Frames that colleagues handed to this person.")
    decided_last_day: int
    rate_per_hour: float | None = Field(description="Decisions an hour lately; null before the third one.")
    eta_seconds: float | None
    claims: list[ClaimFacts] = Field(description="Frames that people have open.")


class HandedFacts(BaseModel):
    """A frame waits for one person by name: nobody else is given it."""

    colleague: str
    giver: str
    at: datetime


class CommentFacts(BaseModel):
    id: int
    author: str
    text: str = Field(description="Empty once it was deleted.")
    at: datetime
    deleted: bool


class ReviewRow(BaseModel):
    id: int
    frame_id: int
    captured_at: datetime
    stamp: str = Field(description="Changes whenever the review changes.")
    state: ReviewState
    priority: int
    reason: str
    edge_id: str
    camera: str
    labels: list[str] = Field(description="Classes found, the surest first.")
    created_at: datetime
    hindrance: str | None = Field(description="What holds it up, or why its full quality was lost.")
    verdict: VerdictKind | None = Field(description="The last one that stands.")
    contested: bool = Field(description="Two people decided it differently, neither having seen the other.")
    burst: int = Field(
        description="How many of this list that can be judged are of one scene with it, itself too."
    )
    handed: HandedFacts | None = Field(description="Whom it was handed to, and by whom.")
    comments: int = Field(description="Those that were not deleted.")


class ReviewList(BaseModel):
    total: int = Field(
        description="How many there are; of one camera, class, score or reason, at most 10,000 are counted."
    )
    reviews: list[ReviewRow]


class FrameFacts(BaseModel):
    id: int
    edge_id: str
    camera: str
    boot_id: str
    seq: int
    key_seq: int | None
    captured_at: datetime = Field(description="By the clock of the camera host.")
    clock_offset_seconds: float | None = Field(
        description="The gateway's clock minus the camera host's, as measured last; null where that is unknown."
    )
    corrected_at: datetime | None = Field(
        description="When it was captured by the gateway's clock; null unless the camera's is more than 2 s off."
    )
    received_at: datetime
    detected_at: datetime
    width: int
    height: int
    base_bytes: int
    enhancement_bytes: int = Field(description="Waiting on the camera host.")


class ObjectFacts(BaseModel):
    id: int
    label: str = Field(description="By its surest detection.")
    since: datetime = Field(description="When it was first in view, by the clock of the camera host.")
    frames: int = Field(description="In which it was seen so far.")


class DetectionFacts(BaseModel):
    label: str
    score: float
    box: Box
    object: ObjectFacts | None = Field(description="The thing that it shows, over the frames of its camera.")


class VerdictFacts(BaseModel):
    id: int
    reviewer: str
    verdict: VerdictKind
    box_index: int | None
    label: str | None
    box: Box | None
    note: str
    shown_sha256: str
    decided_at: datetime
    undone: bool
    conflicts_with: int | None = Field(description="Another person's verdict that its giver had not seen.")


class SeenAgain(BaseModel):
    """A box that was in doubt, after the machine's second look."""

    index: int = Field(description="The detection, counted from 0.", examples=[0])
    label: str = Field(examples=["car"])
    before: float = Field(description="Its score in the base picture.", examples=[0.41])
    after: float | None = Field(description="In full quality; null: not found there.", examples=[0.83])
    outcome: Literal["confirmed", "refuted", "in_doubt"] = Field(examples=["confirmed"])


class SecondLook(BaseModel):
    """What the detector said of the boxes in doubt when it looked again, in full quality."""

    detector: str = Field(examples=["ssdlite-1f0c22d9"])
    boxes: list[SeenAgain]
    called_for: str | None = Field(
        description="A reason of another rule that it found there, for which a person is asked all the same.",
        examples=[None],
    )


class ReviewDetail(BaseModel):
    id: int
    stamp: str
    state: ReviewState
    priority: int
    reason: str
    known: bool = Field(description="Reviewers are tried with it.")
    double: Stage | None = Field(description="How far its double review is, where it was drawn for one.")
    why_expired: str | None
    why_waiting: str | None = Field(description="What holds it up, while it waits.")
    created_at: datetime
    requested_at: datetime | None
    refined_at: datetime | None
    fetched_bytes: int | None = Field(description="Enhancement bytes that came from the camera host.")
    codec_model: str | None
    postfilter: str | None
    detector: str | None
    frame: FrameFacts
    detections: list[DetectionFacts]
    images: dict[ImageVersion, bool] = Field(description="Which pictures exist.")
    crop: tuple[int, int, int, int] | None = Field(
        description="Left, top, right and bottom of what is in full quality, in pixels; null: the whole frame."
    )
    second_look: SecondLook | None = Field(
        description="What the machine said when it looked again; null where it did not."
    )
    image_stamp: str = Field(description="Changes when the pictures are written anew.")
    verdicts: list[VerdictFacts] = Field(description="Oldest first, undone ones included.")
    contested: bool = Field(description="Two people decided it differently, neither having seen the other.")
    handed: HandedFacts | None = Field(description="Whom it was handed to, and by whom.")
    comments: list[CommentFacts] = Field(
        description="Oldest first, deleted ones without their text; of a frame that is judged blindly one's own alone."
    )


class FrameRow(BaseModel):
    id: int
    edge_id: str
    camera: str
    captured_at: datetime
    labels: list[str] = Field(description="Classes found, the surest first.")
    top_score: float | None
    review_id: int | None
    state: ReviewState | None
    reason: str | None
    verdict: VerdictKind | None = Field(description="The last one that stands.")
    unseen: str | None = Field(description="Why no machine looked at it; null: one did.")


class FramePage(BaseModel):
    frames: list[FrameRow]
    next: str | None = Field(description="Pass as `before` for the next page; null on the last one.")


class FrameDetail(FrameRow):
    boot_id: str
    seq: int
    width: int
    height: int
    base_bytes: int
    enhancement_bytes: int = Field(description="Waiting on the camera host.")
    detections: list[DetectionFacts]


class Neighbour(BaseModel):
    id: int
    seconds: float = Field(description="After the frame that was asked about; before it where negative.")


class Dropped(BaseModel):
    """Frames that were captured, but dropped on the camera host."""

    at: datetime
    frames: int
    reason: str


class CameraEventFacts(BaseModel):
    """A time in which a camera did not do well. One that comes and goes makes one."""

    what: CameraState = Field(description="The worst of it.")
    began_at: datetime
    ended_at: datetime | None = Field(
        description="When it did well again, once that has lasted; null before."
    )
    times: int = Field(description="How often it went, and came back too soon to be over it.")


class NewestFrame(BaseModel):
    """The frame of a camera that was captured last; null where none is stored."""

    id: int | None
    captured_at: datetime | None = Field(description="By the clock of the camera host.")


class CameraFacts(BaseModel):
    edge_id: str
    camera: str
    first_seen: datetime
    last_seen: datetime
    silent_seconds: float
    clock_offset_seconds: float | None
    last_frame: int | None
    frames_per_second: float | None = Field(description="Over the last ten minutes of frames.")
    base_bits_per_second: float | None
    fetched_bits_per_second: float | None = Field(description="Of enhancements, likewise.")
    open_reviews: int
    last_dropped: Dropped | None
    state: CameraState
    state_seconds: float = Field(description="For how long it has been so, as far as is known.")
    source: str | None = Field(
        description="The state of its source, as its host told; null where it did not."
    )
    model: str | None = Field(description="What makes its base layers.")
    waiting_frames: int | None = Field(description="On its host, for more than a moment; null: not told.")
    oldest_waiting_seconds: float | None = Field(
        description="For how long the oldest of them has waited; of a host that is offline, when it was heard last."
    )
    trouble: str | None = Field(description="What is wrong with its source.")
    last_trouble: str | None
    last_trouble_at: datetime | None
    events: list[CameraEventFacts] = Field(description="The last ones, the latest first.")


class Slot(BaseModel):
    frames: int
    found: int = Field(description="Those of them with a detection.")
    unseen: int = Field(description="Those of them that no machine looked at.")


class TimelineReview(BaseModel):
    id: int
    at: datetime
    state: ReviewState


class TimelineObject(BaseModel):
    """One thing that a camera had in view."""

    id: int
    label: str
    score: float
    first: datetime
    last: datetime
    frames: int


class Timeline(BaseModel):
    since: datetime
    until: datetime
    slots: list[Slot]
    reviews: list[TimelineReview]
    dropped: list[Dropped]
    objects: list[TimelineObject] = Field(
        description="What was in view, those seen longest, in order of time."
    )


class ChangedPicture(BaseModel):
    version: ImageVersion
    sha256: str


class Change(BaseModel):
    """A frame whose verdicts changed, as it now stands."""

    review_id: int
    name: str | None = Field(description="Of camera host, boot and sequence; null where the frame is gone.")
    settled: bool = Field(description="It is decided, and beyond doubt and dispute.")
    facts: dict[str, Any] | None = Field(description="As a line of frames.jsonl; null unless settled.")
    picture: ChangedPicture | None = Field(description="The best there is, and the hash of its bytes.")


class Changes(BaseModel):
    frames: list[Change]
    next: int = Field(description="Pass as `after` for what follows, now or later.")
    more: bool = Field(description="There is a next page already.")


class Conflict(BaseModel):
    """Why a verdict was refused. With `conflict`: somebody else decided the frame meanwhile, and both are kept."""

    detail: str
    conflict: VerdictFacts | None = Field(None, description="The other person's decision.")
    review: ReviewDetail | None = Field(None, description="The review as it then stands.")


class HistoryEntry(BaseModel):
    id: int
    at: datetime
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]
    verdict_id: int | None
    review_id: int | None
    frame_id: int | None = Field(description="Of the review, while it is kept.")
    standing: bool = Field(description="The verdict given here has not been undone.")
    comment: str | None = Field(description="What was written, while it stands and the reader may know it.")


class History(BaseModel):
    entries: list[HistoryEntry]
    next_before: int | None = Field(description="Pass as `before` for the next page; null on the last one.")


class Incoming(BaseModel):
    """What comes in: no field that is not known, and no text with control characters in it.

    A field named in ``texts`` may hold line ends.
    """

    model_config = ConfigDict(extra="forbid")
    texts: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _is_text(cls, given: Any) -> Any:
        if isinstance(given, dict):
            for name, value in given.items():
                if isinstance(value, str) and has_control(value, lines=name in cls.texts):
                    raise ValueError("text must not hold NUL or other control characters")
        return given


class ReviewerIn(Incoming):
    reviewer: str | None = Field(
        None,
        pattern=f"^{REVIEWER_PATTERN}$",
        description="Where there is no log-in, the name a reviewer goes by; else null, or one's own name.",
    )


class ClaimantIn(ReviewerIn):
    tab: str = Field(pattern=f"^{TAB_PATTERN}$", description="Names one page of the reviewer's browser.")


class ClaimIn(ClaimantIn):
    """Asks for ``review_id``, or, with ``or_next``, for the first one after it in its list that nobody has."""

    review_id: int | None = Field(None, ge=1, le=2**63 - 1)
    or_next: bool = False
    keep: list[int] = Field(
        [], max_length=100, description="What the tab has besides: frames whose verdicts are on their way."
    )


class ClaimRefused(BaseModel):
    detail: str
    holder: str | None


def _comment(text: str) -> str:
    return comment_text(text) if text.strip() else ""


class CommentIn(ReviewerIn):
    texts = frozenset({"text"})

    text: Annotated[str, AfterValidator(comment_text)] = Field(
        description=f"Plain text, 1 to {MAX_COMMENT_LENGTH} characters."
    )


class HandoverIn(ReviewerIn):
    """``to`` a colleague by name, or back to all: null."""

    texts = frozenset({"comment"})

    to: str | None = Field(pattern=f"^{REVIEWER_PATTERN}$")
    comment: Annotated[str, AfterValidator(_comment)] = Field(
        "", description="What there is to say; shown beside the frame."
    )


class KnownIn(ReviewerIn):
    known: bool = Field(description="Whether reviewers are to be tried with this frame.")


class Chosen(BaseModel):
    learned_filter: bool = Field(
        True, description="Whether pictures are shown as the learned filter made them."
    )


class ChosenIn(ReviewerIn):
    learned_filter: bool


class VerdictIn(ReviewerIn):
    """A verdict on the whole frame, or, with `box_index`, on one detection.

    `wrong_class` needs `box_index` and `label`; `missed_object` needs `box` and `label`; `corrected` needs all three.
    `no_object` says of a frame without a box that there is nothing in it, `incomplete` that a frame holds more than
    has a box.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)
    texts = frozenset({"note"})

    verdict: VerdictKind
    shown_sha256: str
    """Of the very picture on the reviewer's screen, as its `X-Content-SHA256` header gave it."""
    box_index: int | None = None
    label: str | None = None
    box: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat] | None = None
    note: str = ""
    idempotency_key: str | None = Field(None, pattern=f"^{KEY_PATTERN}$")
    """The same each time this verdict is sent: it is stored once, and answered as it was the first time."""
    seen_verdict_id: int | None = Field(None, ge=0, le=2**63 - 1)
    """The highest number among the verdicts of this review that the reviewer has seen, 0 for none. A frame that
    somebody else decided since is answered with 409. Null: no such check."""

    @field_validator("label")
    @classmethod
    def _is_class(cls, label: str | None) -> str | None:
        return None if label is None else class_name(label)

    @field_validator("note")
    @classmethod
    def _one_kind_of_line_end(cls, note: str) -> str:
        return note.replace("\r\n", "\n")

    @model_validator(mode="after")
    def _makes_sense(self) -> VerdictIn:
        self.as_verdict(self.reviewer or "nobody yet")
        return self

    def as_verdict(self, reviewer: str, label: str | None = None) -> NewVerdict:
        """``label``: another spelling of its class. Raises ValueError when the parts do not make sense together."""
        return NewVerdict(
            kind=self.verdict,
            reviewer=reviewer,
            shown_sha256=self.shown_sha256,
            note=self.note,
            box_index=self.box_index,
            label=label or self.label,
            box=self.box,
            idempotency_key=self.idempotency_key,
            seen_verdict_id=self.seen_verdict_id,
        )


def reviewer_of(body: ReviewerIn, caller: Principal) -> str:
    """Under which name a change is made: that of who is logged in, or the one given where nobody is.

    Raises ReviewConflict when there is none, or when it is somebody else's.
    """
    if caller.name is None:
        if body.reviewer is None:
            raise ReviewConflict("reviewer is missing, and nobody is logged in")
        return body.reviewer
    if body.reviewer not in (None, caller.name):
        raise ReviewConflict(f"{caller.name} is logged in and cannot act as {body.reviewer}")
    return caller.name


def second_look_of(review: Review) -> SecondLook | None:
    return None if review.second_look is None else SecondLook(**review.second_look)


def crop_of(review: Review) -> tuple[int, int, int, int] | None:
    """What is shown of a review in full quality, where that is a crop of its frame."""
    if review.crop is None or (review.refined_image is None and review.enhancement_blob is None):
        return None
    crop = Crop.parse(review.crop)
    return crop.left, crop.top, crop.right, crop.bottom

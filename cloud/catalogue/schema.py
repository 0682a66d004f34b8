"""The tables of the catalogue: what was seen, what was found in it, who looked again, and what they said.

SQLite by default, PostgreSQL by URL; only portable types are used. Instants are Unix nanoseconds. Pictures are
not here: columns named ``*_blob`` and ``*_image`` hold keys of ``cloud.storage.blobs``.

A change here wants a migration (``cloud/catalogue/migrations``); CONTRIBUTING.md says how one is made.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar, cast

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Enum,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

# SQLite counts rows only in a column declared INTEGER; it holds 64 bits there all the same.
_Id = BigInteger().with_variant(Integer(), "sqlite")
_Nanoseconds = BigInteger
_BlobKey = String(255)
# The number of a deleted row is not given out again: blob keys and the audit trail name it.
_NEVER_REUSED = {"sqlite_autoincrement": True}


class ReviewState(StrEnum):
    """Where a review stands; ``reviews.TRANSITIONS`` says what may follow what."""

    DUE = "due"  # wants its enhancement layer
    LEASED = "leased"  # a refiner is fetching and refining it
    READY = "ready"  # a person can look at the refined image
    EXPIRED = "expired"  # the enhancement cannot be had; a person can look at the base image
    SETTLED = "settled"  # the machine was in no doubt any more when it looked again; likewise
    SKIPPED = "skipped"  # beyond the budget of open reviews; nobody is asked, but anybody may ask for it
    DECIDED = "decided"  # the verdicts that stand settle it (``verdicts.is_decided``)


class VerdictKind(StrEnum):
    CONFIRM = "confirm"
    REJECT = "reject"
    WRONG_CLASS = "wrong_class"
    MISSED_OBJECT = "missed_object"
    UNSURE = "unsure"
    NO_OBJECT = "no_object"  # of a frame without a box: there is nothing in it
    INCOMPLETE = "incomplete"  # there is more in the frame than has a box
    CORRECTED = "corrected"  # of a box: where it should be, and its class


class Retention(StrEnum):
    """Which rule says how long a frame is kept; ``cloud.retention`` has the rules."""

    UNREVIEWED = "unreviewed"  # nobody was asked about it
    UNDECIDED = "undecided"  # its review has no verdict that settles it: never deleted
    DECIDED = "decided"
    AUDIT = "audit"  # decided, and of the random audit sample
    DELETING = "deleting"  # its blobs are being deleted, and its rows will be


def _names(kind: type[StrEnum], *, checked: bool = True) -> Enum:
    """A text column for the values of ``kind``; where it is ``checked``, the database admits no others."""
    return Enum(
        kind,
        native_enum=False,
        create_constraint=checked,
        length=16,
        values_callable=lambda members: [member.value for member in members],
        name=kind.__name__.lower(),
    )


class Base(DeclarativeBase):
    type_annotation_map: ClassVar = {dict[str, Any]: JSON}


def table_of(kind: type[Base]) -> Table:
    """The table of a class, for statements that the object mapper has no words for."""
    return cast(Table, kind.__table__)


class Camera(Base):
    __tablename__ = "cameras"
    edge_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    camera: Mapped[str] = mapped_column(String(255))  # what the agent calls its source
    first_seen_ns: Mapped[int] = mapped_column(_Nanoseconds)
    last_seen_ns: Mapped[int] = mapped_column(_Nanoseconds)
    # The gateway's clock minus the camera host's, as measured last; NULL until then.
    clock_offset_seconds: Mapped[float | None] = mapped_column(Float)
    # What a gateway told of the host last, by its clock, and when that was; NULL until then (``catalogue.hosts``).
    noted_ns: Mapped[int | None] = mapped_column(_Nanoseconds)
    heard_ns: Mapped[int | None] = mapped_column(_Nanoseconds)
    delivered_ns: Mapped[int | None] = mapped_column(_Nanoseconds)  # a frame or a tombstone
    # What the host itself told, and when.
    reported_ns: Mapped[int | None] = mapped_column(_Nanoseconds)
    waiting_frames: Mapped[int | None] = mapped_column(BigInteger)  # not delivered
    oldest_ns: Mapped[int | None] = mapped_column(_Nanoseconds)  # when the oldest of them was captured
    source: Mapped[str | None] = mapped_column(String(64))  # the state of its source
    model: Mapped[str | None] = mapped_column(String(255))  # what makes its base layers
    trouble: Mapped[str | None] = mapped_column(String(255))  # with its source; empty without any
    last_trouble: Mapped[str | None] = mapped_column(String(255))  # the same, kept when it is over
    trouble_ns: Mapped[int | None] = mapped_column(_Nanoseconds)  # when that was told last


class CameraEvent(Base):
    """A time in which a camera did not do well; ``catalogue.camerastates`` says what begins and ends one."""

    __tablename__ = "camera_events"
    __table_args__ = (Index("camera_events_of_host", "edge_id", "id"), _NEVER_REUSED)

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    edge_id: Mapped[str] = mapped_column(String(64))
    what: Mapped[str] = mapped_column(String(16))  # ``CameraState``, the worst of it
    began_ns: Mapped[int] = mapped_column(_Nanoseconds)
    well_ns: Mapped[int | None] = mapped_column(_Nanoseconds)  # since when it does well again
    ended_ns: Mapped[int | None] = mapped_column(_Nanoseconds)  # the same, once that has lasted
    times: Mapped[int] = mapped_column(Integer)  # it went so often


class Frame(Base):
    """A frame whose base layer was decoded and searched by a machine, or stored without that (``unseen``)."""

    __tablename__ = "frames"
    __table_args__ = (
        UniqueConstraint("edge_id", "boot_id", "seq"),
        # Pages of frames in order of time; with the score, so that a search by it reads the index alone.
        Index("frames_captured", "captured_ns", "id", "top_score"),
        Index("frames_of_host", "edge_id", "captured_ns", "id", "top_score"),
        # The oldest of a class, and how much each class holds, from the index alone.
        Index("frames_retention", "retention", "retention_ns", "id", "stored_bytes"),
        Index(
            "frames_deltas",
            "edge_id",
            "boot_id",
            "key_seq",
            sqlite_where=text("key_seq IS NOT NULL"),
            postgresql_where=text("key_seq IS NOT NULL"),
        ),
        # Frames that no machine looked at, in order of time, from the index alone.
        Index(
            "frames_unseen",
            "captured_ns",
            "id",
            "edge_id",
            sqlite_where=text("unseen IS NOT NULL"),
            postgresql_where=text("unseen IS NOT NULL"),
        ),
        _NEVER_REUSED,
    )

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    edge_id: Mapped[str] = mapped_column(String(64), ForeignKey("cameras.edge_id"))
    boot_id: Mapped[str] = mapped_column(String(32))
    seq: Mapped[int] = mapped_column(BigInteger)
    captured_ns: Mapped[int] = mapped_column(_Nanoseconds)  # clock of the camera host
    received_ns: Mapped[int] = mapped_column(_Nanoseconds)  # clock of the gateway
    detected_ns: Mapped[int] = mapped_column(_Nanoseconds)  # clock of the machine worker
    width: Mapped[int]
    height: Mapped[int]
    key_seq: Mapped[int | None] = mapped_column(BigInteger)  # the frame a delta refers to
    base_blob: Mapped[str] = mapped_column(_BlobKey)
    base_bytes: Mapped[int]
    enhancement_bytes: Mapped[int] = mapped_column(BigInteger)  # waiting on the camera host, as it says
    # Rows of unknown class are kept, hence this default.
    retention: Mapped[Retention] = mapped_column(
        _names(Retention, checked=False), server_default=Retention.UNDECIDED.value
    )
    retention_ns: Mapped[int] = mapped_column(_Nanoseconds, server_default=text("0"))  # since when it is so
    stored_bytes: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))  # of all its blobs, about
    top_score: Mapped[float | None] = mapped_column(Float)  # of its surest detection; NULL without any
    unseen: Mapped[str | None] = mapped_column(String(32))  # why no machine looked at it; NULL: one did

    detections: Mapped[list[DetectedBox]] = relationship(order_by="DetectedBox.id", back_populates="frame")
    review: Mapped[Review | None] = relationship(back_populates="frame")


class Tombstone(Base):
    """Frames that were captured but dropped on the camera host before they could be delivered."""

    __tablename__ = "tombstones"
    __table_args__ = (
        UniqueConstraint("edge_id", "boot_id", "first_seq", "last_seq"),
        Index("tombstones_of_host", "edge_id", "received_ns"),
        _NEVER_REUSED,
    )

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    edge_id: Mapped[str] = mapped_column(String(64))
    boot_id: Mapped[str] = mapped_column(String(32))
    first_seq: Mapped[int] = mapped_column(BigInteger)
    last_seq: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str] = mapped_column(String(255))
    received_ns: Mapped[int] = mapped_column(_Nanoseconds)


class DetectedBox(Base):
    """One detection; the box is x0, y0, x1, y1 in pixels of the frame. Its index is its rank by id."""

    __tablename__ = "detections"
    # Frames with a class, or an object, in order of time, from the index alone.
    __table_args__ = (
        Index("detections_found", "label", "captured_ns", "frame_id", "score", "edge_id"),
        Index("detections_of_object", "object_id", "captured_ns", "frame_id", "label", "score", "edge_id"),
    )

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    frame_id: Mapped[int] = mapped_column(ForeignKey("frames.id"), index=True)
    label: Mapped[str] = mapped_column(String(64))
    score: Mapped[float] = mapped_column(Float)
    x0: Mapped[float] = mapped_column(Float)
    y0: Mapped[float] = mapped_column(Float)
    x1: Mapped[float] = mapped_column(Float)
    y1: Mapped[float] = mapped_column(Float)
    detector: Mapped[str] = mapped_column(String(255))
    # What it is one sight of; NULL where the detector was too unsure to begin an object.
    object_id: Mapped[int | None] = mapped_column(ForeignKey("objects.id"))
    captured_ns: Mapped[int] = mapped_column(_Nanoseconds, server_default=text("0"))  # of its frame
    edge_id: Mapped[str] = mapped_column(String(64), server_default="")  # of its frame

    frame: Mapped[Frame] = relationship(back_populates="detections")
    object: Mapped[SeenObject | None] = relationship()


class SeenObject(Base):
    """One thing that a camera has in view, over its frames; `shared.tracking` says how it is known again.

    Its box is where it was seen last, in pixels of the frame; label and score are those of its surest detection.
    """

    __tablename__ = "objects"
    __table_args__ = (Index("objects_of_host", "edge_id", "last_ns"), _NEVER_REUSED)

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    edge_id: Mapped[str] = mapped_column(String(64), ForeignKey("cameras.edge_id"))
    label: Mapped[str] = mapped_column(String(64))
    score: Mapped[float] = mapped_column(Float)
    first_ns: Mapped[int] = mapped_column(_Nanoseconds)  # clock of the camera host
    last_ns: Mapped[int] = mapped_column(_Nanoseconds)
    frames: Mapped[int]  # in which it was seen
    x0: Mapped[float] = mapped_column(Float)
    y0: Mapped[float] = mapped_column(Float)
    x1: Mapped[float] = mapped_column(Float)
    y1: Mapped[float] = mapped_column(Float)
    speed_x: Mapped[float] = mapped_column(Float)  # pixels a second
    speed_y: Mapped[float] = mapped_column(Float)
    called: Mapped[str] = mapped_column(String(64))  # the rules that had it reviewed, with commas between


class Review(Base):
    """A frame that a person shall see in full quality."""

    __tablename__ = "reviews"
    __table_args__ = (
        Index("reviews_order", "state", "priority", "created_ns"),
        Index("reviews_captured", "captured_ns", "id", "edge_id", "state"),
        _NEVER_REUSED,
    )

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    frame_id: Mapped[int] = mapped_column(ForeignKey("frames.id"), unique=True)
    reason: Mapped[str] = mapped_column(String(255))  # all that the policy saw, as one line
    priority: Mapped[int]  # higher is sooner
    state: Mapped[ReviewState] = mapped_column(_names(ReviewState))
    lease_owner: Mapped[str | None] = mapped_column(String(128))
    lease_until_ns: Mapped[int | None] = mapped_column(_Nanoseconds)
    created_ns: Mapped[int] = mapped_column(_Nanoseconds)
    requested_ns: Mapped[int | None] = mapped_column(_Nanoseconds)  # first lease by a refiner
    refined_ns: Mapped[int | None] = mapped_column(_Nanoseconds)
    enhancement_blob: Mapped[str | None] = mapped_column(_BlobKey)
    enhancement_bytes: Mapped[int | None]
    base_image: Mapped[str | None] = mapped_column(_BlobKey)
    enhanced_image: Mapped[str | None] = mapped_column(_BlobKey)
    refined_image: Mapped[str | None] = mapped_column(_BlobKey)
    shown_sha256: Mapped[str | None] = mapped_column(String(64))  # of the best image there is
    # What is shown in full quality, as `shared.crop` writes it; NULL: the whole frame
    crop: Mapped[str | None] = mapped_column(String(32))
    wants_whole: Mapped[bool] = mapped_column(
        Boolean, server_default=false(), default=False
    )  # and not the crop alone
    # Of one that nothing but doubt calls for: what is in doubt, for the machine's second look (``secondlooks``).
    # NULL: a person is to see it.
    doubts: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    second_look: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # what came of it
    postfilter: Mapped[str | None] = mapped_column(String(128))
    codec_model: Mapped[str | None] = mapped_column(String(64))
    why_expired: Mapped[str | None] = mapped_column(String(255))
    why_waiting: Mapped[str | None] = mapped_column(String(255))  # what holds up one that is due
    not_before_ns: Mapped[int | None] = mapped_column(_Nanoseconds)  # one that is due is not leased earlier
    # Times its picture was worked on without an end: its worker failed, or is at it, or died.
    attempts: Mapped[int] = mapped_column(Integer, server_default="0", default=0)
    # Of its frame, so that lists of reviews are chosen and sorted without it.
    captured_ns: Mapped[int] = mapped_column(_Nanoseconds, server_default=text("0"))
    edge_id: Mapped[str] = mapped_column(String(64), server_default="")
    top_score: Mapped[float | None] = mapped_column(Float)

    frame: Mapped[Frame] = relationship(back_populates="review")
    # Those that speak of the frame; what people said of it as a known frame is in `Verdict.probe` rows.
    verdicts: Mapped[list[Verdict]] = relationship(
        primaryjoin="and_(Review.id == Verdict.review_id, Verdict.probe.is_(False))",
        order_by="Verdict.id",
        back_populates="review",
    )
    double: Mapped[DoubleReview | None] = relationship(lazy="select")
    comments: Mapped[list[Comment]] = relationship(order_by="Comment.id", back_populates="review")
    handover: Mapped[Handover | None] = relationship(lazy="select")
    reasons: Mapped[list[Reason]] = relationship(order_by="Reason.id", back_populates="review")


class Rule(StrEnum):
    """What may ask for a review."""

    WATCHED = "watched"
    OPERATOR = "rule"
    UNCERTAIN = "uncertain"
    EVERY_NTH = "every-nth"
    AUDIT = "audit"


class Reason(Base):
    """One of the reasons for a review."""

    __tablename__ = "review_reasons"
    # Frames with a reason in order of time, from the index alone.
    __table_args__ = (
        UniqueConstraint("review_id", "rule"),
        Index("reasons_found", "rule", "captured_ns", "frame_id", "edge_id"),
    )

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    review_id: Mapped[int] = mapped_column(ForeignKey("reviews.id"))
    rule: Mapped[str] = mapped_column(String(32))
    reason: Mapped[str] = mapped_column(String(255))
    priority: Mapped[int]
    # Whether it called for the review by itself; else the same rule had called for one nearby in time.
    decisive: Mapped[bool]
    # Of its frame.
    frame_id: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    captured_ns: Mapped[int] = mapped_column(_Nanoseconds, server_default=text("0"))
    edge_id: Mapped[str] = mapped_column(String(64), server_default="")

    review: Mapped[Review] = relationship(back_populates="reasons")


class SiteSecret(Base):
    """Random numbers that all workers of a site share and nobody else may know."""

    __tablename__ = "site_secrets"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(64))  # 32 bytes, in hex


class StationSecret(Base):
    """Random numbers that the stations of a site share: not those of workers, which no station may read."""

    __tablename__ = "station_secrets"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(64))  # 32 bytes, in hex


class Verdict(Base):
    """What a person said of a frame, or of one box in it. Undone verdicts stay, marked by ``undone_ns``."""

    __tablename__ = "verdicts"
    __table_args__ = (
        Index("verdicts_key", "reviewer", "idempotency_key", unique=True),
        # What people did in a time, from the index alone.
        Index("verdicts_decided", "decided_ns", "reviewer", "review_id", "undone_ns", "probe", "verdict"),
        # Frames with a standing verdict of a kind in order of time, from the index alone.
        Index(
            "verdicts_found",
            "verdict",
            "captured_ns",
            "frame_id",
            "edge_id",
            "probe",
            "withheld",
            sqlite_where=text("undone_ns IS NULL"),
            postgresql_where=text("undone_ns IS NULL"),
        ),
        Index(
            "verdicts_named",
            "label",
            sqlite_where=text("label IS NOT NULL"),
            postgresql_where=text("label IS NOT NULL"),
        ),
        _NEVER_REUSED,
    )

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    review_id: Mapped[int] = mapped_column(ForeignKey("reviews.id"), index=True)
    reviewer: Mapped[str] = mapped_column(String(128))
    verdict: Mapped[VerdictKind] = mapped_column(_names(VerdictKind))
    note: Mapped[str] = mapped_column(String(2000))
    box_index: Mapped[int | None]
    label: Mapped[str | None] = mapped_column(String(64))  # the right class, or that of a missed object
    # where a missed object is, in pixels of the frame
    x0: Mapped[float | None] = mapped_column(Float)
    y0: Mapped[float | None] = mapped_column(Float)
    x1: Mapped[float | None] = mapped_column(Float)
    y1: Mapped[float | None] = mapped_column(Float)
    decided_ns: Mapped[int] = mapped_column(_Nanoseconds)
    shown_sha256: Mapped[str] = mapped_column(String(64))
    undone_ns: Mapped[int | None] = mapped_column(_Nanoseconds)
    idempotency_key: Mapped[str | None] = mapped_column(
        String(64)
    )  # a verdict that is sent again carries the same
    # another person's verdict that had decided the frame, unseen, when this one was given
    conflicts_with: Mapped[int | None] = mapped_column(BigInteger)
    # Of a known frame, given by somebody who did not know: it says how its giver judges, and nothing of the frame.
    probe: Mapped[bool] = mapped_column(Boolean, server_default=false(), default=False)
    # Of its frame.
    frame_id: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    captured_ns: Mapped[int] = mapped_column(_Nanoseconds, server_default=text("0"))
    edge_id: Mapped[str] = mapped_column(String(64), server_default="")
    # Others may still have to judge the frame without knowing of it (``blind``).
    withheld: Mapped[bool] = mapped_column(Boolean, server_default=false(), default=False)

    review: Mapped[Review] = relationship(back_populates="verdicts")


class JudgedBox(Base):
    """What verdicts say of one box of a decided frame that is beyond dispute: all that the detector is measured by.

    Of a box of the detector ``is_right`` says whether people found it right; boxes of which somebody was unsure have no
    row. A row without score is an object that a person drew. ``judged`` keeps the rows with the verdicts.
    """

    __tablename__ = "judged_boxes"
    # Counted by class, camera and score over a time, from the index alone.
    __table_args__ = (Index("judged_boxes_decided", "decided_ns", "score", "is_right", "label", "edge_id"),)

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    review_id: Mapped[int] = mapped_column(ForeignKey("reviews.id"), index=True)
    decided_ns: Mapped[int] = mapped_column(_Nanoseconds)  # of the verdict that says so
    edge_id: Mapped[str] = mapped_column(String(64))
    label: Mapped[str] = mapped_column(String(64))  # the detector's class; of a drawn object, the person's
    score: Mapped[float | None] = mapped_column(Float)
    is_right: Mapped[bool | None] = mapped_column(Boolean)


class Comment(Base):
    """What a person wrote beside a frame, for others. Whoever deletes one takes its text away; its row stays."""

    __tablename__ = "comments"
    __table_args__ = (_NEVER_REUSED,)

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    review_id: Mapped[int] = mapped_column(ForeignKey("reviews.id"), index=True)
    author: Mapped[str] = mapped_column(String(128))
    text: Mapped[str] = mapped_column(String(2000))  # empty once it is deleted
    written_ns: Mapped[int] = mapped_column(_Nanoseconds)
    deleted_ns: Mapped[int | None] = mapped_column(_Nanoseconds)

    review: Mapped[Review] = relationship(back_populates="comments")


class Handover(Base):
    """To whom a frame was handed that waits to be judged. It ends with that person's verdict, or goes back."""

    __tablename__ = "handovers"

    review_id: Mapped[int] = mapped_column(
        _Id, ForeignKey("reviews.id"), primary_key=True, autoincrement=False
    )
    colleague: Mapped[str] = mapped_column(String(128), index=True)
    giver: Mapped[str] = mapped_column(String(128))
    since_ns: Mapped[int] = mapped_column(_Nanoseconds)


class Claim(Base):
    """Who has a frame on the screen to judge it. It holds until an instant that the page moves on while it is open."""

    __tablename__ = "claims"

    review_id: Mapped[int] = mapped_column(
        _Id, ForeignKey("reviews.id"), primary_key=True, autoincrement=False
    )
    holder: Mapped[str] = mapped_column(String(128))  # a reviewer's name
    tab: Mapped[str] = mapped_column(String(64))  # of the holder's browser, for one has several
    since_ns: Mapped[int] = mapped_column(_Nanoseconds)
    until_ns: Mapped[int] = mapped_column(_Nanoseconds)


class Stage(StrEnum):
    """How far the double review of a frame is; ``opinions.AFTER`` says what leads where."""

    FIRST = "first"  # nobody has judged it
    SECOND = "second"  # one person has: another one is to, without knowing
    THIRD = "third"  # two have, and differ: a third one is to
    AGREED = "agreed"  # two said the same
    SETTLED = "settled"  # a third one decided between two


class DoubleReview(Base):
    """A frame of the sample that several people judge, none of them knowing what the others said."""

    __tablename__ = "double_reviews"

    review_id: Mapped[int] = mapped_column(
        _Id, ForeignKey("reviews.id"), primary_key=True, autoincrement=False
    )
    stage: Mapped[Stage] = mapped_column(_names(Stage, checked=False), index=True)
    since_ns: Mapped[int] = mapped_column(_Nanoseconds)
    # Whose verdicts count once it is decided; those of the others who judged it blindly do not.
    counting: Mapped[str | None] = mapped_column(String(128))


class OpinionKind(StrEnum):
    DOUBLE = "double"  # one of several, of a frame in double review
    KNOWN = "known"  # of a frame whose objects are known


class Opinion(Base):
    """That a person judges, or has judged, a frame without knowing what others said; verdicts say how."""

    __tablename__ = "opinions"
    __table_args__ = (Index("opinions_of", "reviewer", "kind", "given_ns"),)

    review_id: Mapped[int] = mapped_column(
        _Id, ForeignKey("reviews.id"), primary_key=True, autoincrement=False
    )
    reviewer: Mapped[str] = mapped_column(String(128), primary_key=True)
    kind: Mapped[OpinionKind] = mapped_column(_names(OpinionKind, checked=False))
    asked_ns: Mapped[int] = mapped_column(_Nanoseconds)
    given_ns: Mapped[int | None] = mapped_column(_Nanoseconds)  # NULL while it is wanted
    # Of a known frame: to whom this person handed it instead of judging it, and when. It went nowhere.
    handed_to: Mapped[str | None] = mapped_column(String(128))
    handed_ns: Mapped[int | None] = mapped_column(_Nanoseconds)


class KnownFrame(Base):
    """A decided frame of which an admin says that its decision is right; reviewers are tried with it."""

    __tablename__ = "known_frames"

    review_id: Mapped[int] = mapped_column(
        _Id, ForeignKey("reviews.id"), primary_key=True, autoincrement=False
    )
    since_ns: Mapped[int] = mapped_column(_Nanoseconds)
    chosen_by: Mapped[str] = mapped_column(String(128))


class Preferences(Base):
    """How a person wants the station to be."""

    __tablename__ = "preferences"
    person: Mapped[str] = mapped_column(String(128), primary_key=True)
    chosen: Mapped[dict[str, Any]]

"""What happened, in an order that can be gone on with: detections, tombstones, reviews and verdicts behind a cursor.

A cursor says where a reader is in each of three tables that only grow: frames (and how far in the detections of
one), tombstones, and the audit trail, which tells of reviews and verdicts. Each is read up to its horizon
(`cloud.catalogue.horizon`), so that nothing is missed and nothing comes twice, whoever writes meanwhile; the audit
trail needs none, for its entries are added one transaction after the other. Between the tables there is no order: a
review may be told of before the detections of its frame.

What retention has deleted is not told of again. A verdict on a frame that several judge without knowing of each other
is told of at once to its giver and to programs that may know (`blind.Audience`), to others once its frame is decided.
Of a known frame that tries a listener, reviews are told as they are to look to that person.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Row, Select, and_, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session, selectinload

from secondlook.cloud.catalogue.auditschema import AuditEntry
from secondlook.cloud.catalogue.blind import ANYBODY, KNOWN_HANDED_OVER, Audience, blind_reviews, trials_of
from secondlook.cloud.catalogue.horizon import LATEST, horizon
from secondlook.cloud.catalogue.schema import (
    Comment,
    DetectedBox,
    Frame,
    Opinion,
    Retention,
    Review,
    Tombstone,
    Verdict,
)
from secondlook.cloud.catalogue.store import Catalogue
from secondlook.shared.errors import ConfigError

T = TypeVar("T")

WINDOW = 20_000  # numbers that one look goes through, at most: a filter that fits nothing must not read a whole table

_CURSOR = re.compile(r"([0-9]{1,19})-([0-9]{1,19})-([0-9]{1,19})-([0-9]{1,19})")


class EventKind(StrEnum):
    DETECTION = "detection"
    TOMBSTONE = "tombstone"
    REVIEW = "review"
    VERDICT = "verdict"
    COMMENT = "comment"


_WITHHELD_TILL_NOW = "verdict told"

# What the audit trail calls it -> the kind, and what happened to it.
_TOLD: dict[str, tuple[EventKind, str]] = {
    "review created": (EventKind.REVIEW, "created"),
    "review skipped": (EventKind.REVIEW, "skipped"),
    "review refined": (EventKind.REVIEW, "refined"),
    "review settled": (EventKind.REVIEW, "settled"),
    "review expired": (EventKind.REVIEW, "expired"),
    "review failed": (EventKind.REVIEW, "failed"),
    "review retried": (EventKind.REVIEW, "retried"),
    "review handed over": (EventKind.REVIEW, "handed"),
    KNOWN_HANDED_OVER: (EventKind.REVIEW, "handed"),  # to its actor alone
    "verdict given": (EventKind.VERDICT, "given"),
    _WITHHELD_TILL_NOW: (EventKind.VERDICT, "given"),
    "verdict undone": (EventKind.VERDICT, "undone"),
    "comment given": (EventKind.COMMENT, "given"),
    "comment deleted": (EventKind.COMMENT, "deleted"),
}


@dataclass(frozen=True)
class Cursor:
    """All frames before `frame` were told of, and of that one the detections up to `box`; likewise the others."""

    frame: int = 1
    box: int = 0
    tombstone: int = 0
    entry: int = 0

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Raises ConfigError for what is no cursor."""
        match = _CURSOR.fullmatch(text)
        if match is None or max(map(int, match.groups())) > LATEST:
            raise ConfigError(f"{text[:80]!r} is no cursor")
        return cls(*map(int, match.groups()))

    def __str__(self) -> str:
        return f"{self.frame}-{self.box}-{self.tombstone}-{self.entry}"


START = Cursor()


@dataclass(frozen=True)
class Interest:
    """Which events are wanted; None: whatever it is. `labels` and `min_score` narrow detections alone.

    `audience`: who is to hear of them.
    """

    kinds: frozenset[EventKind] = frozenset(EventKind)
    edge_id: str | None = None
    labels: frozenset[str] | None = None
    min_score: float = 0.0
    audience: Audience = ANYBODY


@dataclass(frozen=True)
class Event:
    """One thing that happened. `row` is as it is now; `cursor` goes on behind it.

    `at_ns` is when it was stored: by the machine worker's clock for a detection, by the gateway's for a tombstone.
    """

    kind: EventKind
    what: str  # created, refined, given, ...; "stored" for detections and tombstones
    at_ns: int
    frame: Frame | None  # None for a tombstone
    row: DetectedBox | Tombstone | Review | Verdict | Comment
    cursor: Cursor
    is_blind: bool = False  # of a comment: its frame is judged by people who are not to know of it
    trial: Opinion | None = None  # that its frame is a known one, which tries the listener


@dataclass(frozen=True)
class Look:
    """What one look found. `cursor` goes on behind all of it; `more`: the look ended before the end."""

    events: Sequence[Event]
    cursor: Cursor
    more: bool


def newest(catalogue: Catalogue) -> Cursor:
    """Behind all that has happened so far."""
    with catalogue.reading() as session:
        frames, tombstones = horizon(session, "frames"), horizon(session, "tombstones")
        return Cursor(
            frame=_top(session, Frame.id, frames) + 1,
            tombstone=_top(session, Tombstone.id, tombstones),
            entry=_top(session, AuditEntry.id, LATEST),
        )


def look(catalogue: Catalogue, after: Cursor, interest: Interest, *, limit: int) -> Look:
    """What happened behind `after`, at most `limit` events."""
    events: list[Event] = []
    more = False
    with catalogue.reading() as session:
        for part in (_detections, _tombstones, _entries):
            found, after, unfinished = part(session, after, interest, limit - len(events))
            events += found
            more = more or unfinished
        session.expunge_all()
    return Look(events, after, more)


Found = tuple[list[Event], Cursor, bool]


def _detections(session: Session, after: Cursor, interest: Interest, limit: int) -> Found:
    top = _top(session, Frame.id, horizon(session, "frames"))
    last = min(top, after.frame + WINDOW - 1)
    if last < after.frame:
        return [], after, False
    if limit <= 0:
        return [], after, True
    if EventKind.DETECTION not in interest.kinds:
        return [], replace(after, frame=top + 1, box=0), False
    query = (
        select(DetectedBox, Frame)
        .join(Frame, Frame.id == DetectedBox.frame_id)
        .where(behind(after.frame, after.box), Frame.id <= last, Frame.retention != Retention.DELETING)
        .order_by(DetectedBox.frame_id, DetectedBox.id)
        .limit(limit)
    )
    if interest.edge_id is not None:
        query = query.where(unindexed(Frame.edge_id) == interest.edge_id)
    if interest.labels is not None:
        query = query.where(unindexed(DetectedBox.label).in_(sorted(interest.labels)))
    if interest.min_score > 0:
        query = query.where(DetectedBox.score >= interest.min_score)
    rows = session.execute(query).all()
    events = []
    for box, frame in rows:
        after = replace(after, frame=frame.id, box=box.id)
        events.append(Event(EventKind.DETECTION, "stored", frame.detected_ns, frame, box, after))
    if len(rows) == limit:
        return events, after, True
    return events, replace(after, frame=last + 1, box=0), last < top


def unindexed(column: InstrumentedAttribute[T]) -> ColumnElement[T]:
    """A column for a condition that no index is to be chosen for.

    What is read by number goes through a bounded stretch of numbers; an index of a camera or a class would be gone
    through from end to end for it, and sorted.
    """
    return func.coalesce(column, column)


def finds(query: Select[Any]) -> ColumnElement[bool]:
    """Whether a query finds anything, asked anew for each row of the one around it.

    EXISTS would say the same; PostgreSQL may make a join of that, and read a whole table for a page of sixty rows.
    """
    return query.limit(1).scalar_subquery().is_not(None)


def behind(frame_id: int, box_id: int) -> Any:
    """Detections behind one place, in the order of their frames."""
    # The first condition says where the index is entered.
    return and_(
        DetectedBox.frame_id >= frame_id, or_(DetectedBox.frame_id > frame_id, DetectedBox.id > box_id)
    )


def _tombstones(session: Session, after: Cursor, interest: Interest, limit: int) -> Found:
    top = _top(session, Tombstone.id, horizon(session, "tombstones"))
    last = min(top, after.tombstone + WINDOW)
    if last <= after.tombstone:
        return [], after, False
    if limit <= 0:
        return [], after, True
    if EventKind.TOMBSTONE not in interest.kinds:
        return [], replace(after, tombstone=top), False
    query = select(Tombstone).where(Tombstone.id > after.tombstone, Tombstone.id <= last)
    if interest.edge_id is not None:
        query = query.where(unindexed(Tombstone.edge_id) == interest.edge_id)
    events = []
    for row in session.scalars(query.order_by(Tombstone.id).limit(limit)):
        after = replace(after, tombstone=row.id)
        events.append(Event(EventKind.TOMBSTONE, "stored", row.received_ns, None, row, after))
    if len(events) == limit:
        return events, after, True
    return events, replace(after, tombstone=last), last < top


def _entries(session: Session, after: Cursor, interest: Interest, limit: int) -> Found:
    top = _top(session, AuditEntry.id, LATEST)
    last = min(top, after.entry + WINDOW)
    if last <= after.entry:
        return [], after, False
    if limit <= 0:
        return [], after, True
    actions = [action for action, (kind, _) in _TOLD.items() if kind in interest.kinds]
    if not actions:
        return [], replace(after, entry=top), False
    query = (
        select(
            AuditEntry.id,
            AuditEntry.at_ns,
            AuditEntry.actor,
            AuditEntry.action,
            AuditEntry.subject,
            AuditEntry.detail,
        )
        .where(AuditEntry.id > after.entry, AuditEntry.id <= last, AuditEntry.action.in_(actions))
        .order_by(AuditEntry.id)
        .limit(limit)
    )
    entries = session.execute(query).all()
    rows = _told_of(session, entries)
    blind = blind_reviews(session, rows.reviews) if rows.comments else set()
    trials = trials_of(session, rows.reviews, interest.audience.judge)
    events = []
    for entry in entries:
        after = replace(after, entry=entry.id)
        kind, what = _TOLD[entry.action]
        review = rows.reviews.get(_number(entry.subject))
        if review is None or interest.edge_id not in (None, review.frame.edge_id):
            continue
        if entry.action == KNOWN_HANDED_OVER and entry.actor != (interest.audience.judge or None):
            continue
        row = rows.of(kind, review, entry.detail)
        if row is None or (isinstance(row, Verdict) and not _hears(interest.audience, entry, row)):
            continue
        hidden, trial = review.id in blind, trials.get(review.id)
        events.append(Event(kind, what, entry.at_ns, review.frame, row, after, hidden, trial))
    if len(entries) == limit:
        return events, after, True
    return events, replace(after, entry=last), last < top


def _hears(audience: Audience, entry: Row[Any], verdict: Verdict) -> bool:
    """Each verdict comes once, with the entry of its giving or with that by which it is withheld no more."""
    at_once = audience.unsettled or verdict.reviewer == audience.person
    if entry.action == _WITHHELD_TILL_NOW:
        return not at_once and audience.hears(verdict)
    if at_once:
        return True
    if entry.detail.get("withheld") or verdict.probe:
        return False
    return entry.action == "verdict undone" or audience.hears(verdict)


@dataclass(frozen=True)
class _Rows:
    """What entries of the audit trail are about, by number."""

    reviews: dict[int, Review]
    verdicts: dict[int | None, Verdict]
    comments: dict[int | None, Comment]

    def of(
        self, kind: EventKind, review: Review, detail: dict[str, Any]
    ) -> Review | Verdict | Comment | None:
        if kind is EventKind.REVIEW:
            return review
        if kind is EventKind.COMMENT:
            return self.comments.get(detail.get("comment_id"))
        return self.verdicts.get(detail.get("verdict_id"))


def _told_of(session: Session, entries: Sequence[Row[Any]]) -> _Rows:
    numbers = {_number(entry.subject) for entry in entries}
    query = select(Review).options(selectinload(Review.frame), selectinload(Review.handover))
    reviews = {review.id: review for review in session.scalars(query.where(Review.id.in_(numbers)))}
    given = {number for entry in entries if (number := entry.detail.get("verdict_id")) is not None}
    verdicts = session.scalars(select(Verdict).where(Verdict.id.in_(given))) if given else ()
    said = {number for entry in entries if (number := entry.detail.get("comment_id")) is not None}
    comments = session.scalars(select(Comment).where(Comment.id.in_(said))) if said else ()
    return _Rows(reviews, {row.id: row for row in verdicts}, {row.id: row for row in comments})


def _number(subject: str) -> int:
    """Of "review/12"; 0, which none has, of anything else."""
    word, _, number = subject.partition("/")
    return int(number) if word == "review" and number.isdecimal() else 0


def _top(session: Session, column: Any, most: int) -> int:
    """The highest number there is, at most `most`; 0 without any."""
    query: Select[Any] = select(func.max(column))
    return (session.scalar(query if most == LATEST else query.where(column <= most))) or 0

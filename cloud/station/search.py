"""Searching all frames, page by page, in a time that does not grow with their number.

Each thing that is searched for has an index in order of time (`cloud.catalogue.schema`): frames of a camera, frames
that no machine looked at, detections of a class or an object, standing verdicts of a kind, reasons for a review. A
search goes through the one with the fewest entries and asks of each what else is wanted; where one index answers
everything, that is all. One page looks at a bounded number of entries: it may hold fewer frames than were asked for,
even none, and says where to go on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import ColumnElement, Select, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from secondlook.cloud.catalogue import (
    Audience,
    DetectedBox,
    Frame,
    Reason,
    Review,
    Rule,
    Verdict,
    VerdictKind,
)
from secondlook.cloud.catalogue.feed import finds, unindexed
from secondlook.shared.errors import ConfigError

Place = tuple[int, int]  # instant and number of a frame

_LATEST_NS = 2**63 - 1
_MOST_LOOKED = 20_000  # entries that one page looks at
_ANY_SCORE = (0.0, 1.0)


@dataclass(frozen=True)
class _Entries:
    """What a search may go through: rows of one table, each with its frame, the instant and the camera host of that."""

    id: InstrumentedAttribute[int]
    at: InstrumentedAttribute[int]
    edge_id: ColumnElement[str] | InstrumentedAttribute[str]
    conditions: tuple[ColumnElement[bool], ...] = ()


@dataclass(frozen=True)
class FrameSearch:
    """What frames are looked for; None: whatever it is. Instants in Unix nanoseconds.

    ``before`` is where a page goes on: the instant and the number of the last frame of the one before. ``scores`` are
    those of a detection, of the class or object where one is given, else of the surest. ``unseen``: those alone that no
    machine looked at. ``viewer`` is who asks: nothing is found by verdicts that are a secret from this person.
    """

    edge_id: str | None = None
    label: str | None = None
    scores: tuple[float, float] = _ANY_SCORE
    since_ns: int = 0
    until_ns: int = _LATEST_NS
    verdict: VerdictKind | None = None
    rule: Rule | None = None
    object_id: int | None = None
    unseen: bool = False
    before: Place | None = None
    viewer: str = ""

    def page(self, session: Session, limit: int) -> tuple[list[int], Place | None]:
        """The numbers of at most ``limit`` frames, the latest first, and where to go on; None: nowhere."""
        through = self._through(session)
        further = self._further(through)
        query, end = self._listed(through), None
        if further:
            end = session.execute(query.offset(_MOST_LOOKED - 1).limit(1)).one_or_none()
            if end is not None:
                behind = or_(through.at > end.at, through.id >= end.id)
                query = self._listed(through, since_ns=end.at).where(behind)
            query = query.where(*further)
        found = session.execute(query.limit(limit + 1)).all()
        page = [row.id for row in found[:limit]]
        last = found[limit - 1] if len(found) > limit else end
        return page, None if last is None else (last.at, last.id)

    @property
    def _scored(self) -> bool:
        return self.scores != _ANY_SCORE

    def _through(self, session: Session) -> _Entries:
        """What has the fewest entries."""
        choices = self._choices()
        if len(choices) == 1:
            return choices[0]
        counts = []
        for choice in choices:
            some = self._listed(choice).limit(_MOST_LOOKED).subquery()
            counts.append(session.scalar(select(func.count()).select_from(some)) or 0)
        return choices[counts.index(min(counts))]

    def _choices(self) -> list[_Entries]:
        choices = []
        if self.verdict is not None:
            choices.append(
                _Entries(
                    Verdict.frame_id, Verdict.captured_ns, Verdict.edge_id, self._of_verdict(self.verdict)
                )
            )
        if self.rule is not None:
            choices.append(
                _Entries(Reason.frame_id, Reason.captured_ns, Reason.edge_id, self._of_reason(self.rule))
            )
        if self._in_detections:
            box = DetectedBox
            choices.append(_Entries(box.frame_id, box.captured_ns, box.edge_id, self._of_detection()))
        scored = (Frame.top_score.between(*self.scores),) if self._scored else ()
        if self.unseen:
            # Of a camera too by the index of these: that of the host would be gone through for each frame of it.
            unseen = (Frame.unseen.is_not(None), *scored)
            choices.append(_Entries(Frame.id, Frame.captured_ns, unindexed(Frame.edge_id), unseen))
        elif not choices:
            choices.append(_Entries(Frame.id, Frame.captured_ns, Frame.edge_id, scored))
        return choices

    @property
    def _in_detections(self) -> bool:
        return self.label is not None or self.object_id is not None

    def _of_verdict(
        self, kind: VerdictKind, column: ColumnElement[VerdictKind] | None = None
    ) -> tuple[ColumnElement[bool], ...]:
        said = (Verdict.verdict if column is None else column) == kind
        return (said, Verdict.undone_ns.is_(None), Audience(self.viewer).told())

    def _of_reason(
        self, rule: Rule, column: ColumnElement[str] | None = None
    ) -> tuple[ColumnElement[bool], ...]:
        return ((Reason.rule if column is None else column) == rule.value,)

    def _of_detection(
        self, label: ColumnElement[str] | None = None, object_id: ColumnElement[int | None] | None = None
    ) -> tuple[ColumnElement[bool], ...]:
        wanted: list[ColumnElement[bool]] = []
        if self.object_id is not None:
            wanted.append((DetectedBox.object_id if object_id is None else object_id) == self.object_id)
        if self.label is not None:
            wanted.append((DetectedBox.label if label is None else label) == self.label)
        if self._scored:
            wanted.append(DetectedBox.score.between(*self.scores))
        return tuple(wanted)

    def _listed(self, through: _Entries, since_ns: int | None = None) -> Select[Any]:
        """The ``id`` and instant ``at`` of frames, in order."""
        id_, at = through.id, through.at
        # One bound at either end, which says where the index is entered and left.
        first = self.since_ns if since_ns is None else since_ns
        last = self.until_ns if self.before is None else min(self.until_ns, self.before[0])
        query = cast("Select[Any]", select(id_.label("id"), at.label("at")))
        query = query.where(*through.conditions, at >= first, at <= last)
        if id_ is not Frame.id:
            query = query.distinct()  # a frame may hold a class, or have a verdict, more than once
        if self.edge_id is not None:
            query = query.where(through.edge_id == self.edge_id)
        if self.before is not None:
            last_ns, last_id = self.before
            query = query.where(or_(at < last_ns, id_ < last_id))
        return query.order_by(at.desc(), id_.desc())

    def _further(self, through: _Entries) -> list[ColumnElement[bool]]:
        """What else is wanted of a frame: asked by its number, so that no other index is gone through for each."""
        id_ = through.id
        wanted: list[ColumnElement[bool]] = []
        of_review = (Review.frame_id == id_,)
        if self.verdict is not None and id_ is not Verdict.frame_id:
            given = self._of_verdict(self.verdict, unindexed(Verdict.verdict))
            wanted.append(finds(select(Verdict.id).where(*of_review, Verdict.review_id == Review.id, *given)))
        if self.rule is not None and id_ is not Reason.frame_id:
            called = self._of_reason(self.rule, unindexed(Reason.rule))
            wanted.append(finds(select(Reason.id).where(*of_review, Reason.review_id == Review.id, *called)))
        if self._in_detections and id_ is not DetectedBox.frame_id:
            found = self._of_detection(unindexed(DetectedBox.label), unindexed(DetectedBox.object_id))
            wanted.append(finds(select(DetectedBox.id).where(DetectedBox.frame_id == id_, *found)))
        if self.unseen and id_ is not Frame.id:
            wanted.append(finds(select(Frame.id).where(Frame.id == id_, Frame.unseen.is_not(None))))
        if self._scored and not self._in_detections and id_ is not Frame.id:
            top = Frame.top_score.between(*self.scores)
            wanted.append(finds(select(Frame.id).where(Frame.id == id_, top)))
        return wanted


def parse_cursor(text: str | None) -> Place | None:
    """Raises ConfigError for what is no cursor."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,19})\.([0-9]{1,19})", text)
    if match is None or max(map(int, match.groups())) > _LATEST_NS:
        raise ConfigError(f"{text!r} is no place to go on from")
    return int(match[1]), int(match[2])

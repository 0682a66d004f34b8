"""Figures of people and of the detector, read from verdicts. Nothing here changes anything."""

from __future__ import annotations

import statistics
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, selectinload

from secondlook.cloud.catalogue import (
    Catalogue,
    DetectedBox,
    DoubleReview,
    Frame,
    KnownFrame,
    Opinion,
    OpinionKind,
    Review,
    ReviewState,
    Stage,
    Verdict,
    VerdictKind,
    counting_verdicts,
    frame_opinion,
)
from secondlook.cloud.catalogue.opinions import same_opinion
from secondlook.cloud.station import precision, schema
from secondlook.cloud.station.agreement import Agreement, Item, Marks, agreement, agreements, items_of, marks
from secondlook.shared.texts import class_key

_NANOSECONDS = 1_000_000_000
_HOUR_NS = 3600 * _NANOSECONDS
_DAY_NS = 24 * _HOUR_NS
_DAYS = 14
_PAUSE_NS = 300 * _NANOSECONDS  # who has said nothing for so long was not at it
_MOST_OPINIONS = 20_000
_MOST_VERDICTS = 100_000
_BATCH = 500
_RIGHT = frozenset({VerdictKind.CONFIRM})
_NAMED = frozenset({VerdictKind.WRONG_CLASS, VerdictKind.CORRECTED})


def day(catalogue: Catalogue, reviewer: str, *, since_ns: int) -> schema.Day:
    """What a person did since ``since_ns``, hour by hour, on the days before, and what others did."""
    given = (
        select(Verdict.review_id, Verdict.decided_ns, Verdict.verdict, Verdict.undone_ns)
        .where(Verdict.reviewer == reviewer, Verdict.decided_ns >= since_ns)
        .order_by(Verdict.decided_ns)
        .limit(_MOST_VERDICTS)
    )
    team = (
        select(Verdict.reviewer, func.count(Verdict.review_id.distinct()).label("frames"))
        .where(Verdict.decided_ns >= since_ns, Verdict.undone_ns.is_(None))
        .group_by(Verdict.reviewer)
        .order_by(func.count(Verdict.review_id.distinct()).desc(), Verdict.reviewer)
        .limit(100)
    )
    with catalogue.reading() as session:
        rows = session.execute(given).all()
        before = [
            _frames_of_day(session, reviewer, since_ns - back * _DAY_NS) for back in range(_DAYS - 1, 0, -1)
        ]
        others = [
            schema.PersonsFrames(reviewer=row.reviewer, frames=row.frames) for row in session.execute(team)
        ]
    today = [row for row in rows if row.undone_ns is None]
    paces, frames = _paces(today), len({row.review_id for row in today})
    return schema.Day(
        reviewer=reviewer,
        since=schema.instant(since_ns),
        frames=frames,
        verdicts=dict(Counter(row.verdict for row in today)),
        undone=len(rows) - len(today),
        seconds_a_frame=statistics.median(paces) / _NANOSECONDS if paces else None,
        frames_an_hour=3600 * _NANOSECONDS * len(paces) / sum(paces) if paces and sum(paces) else None,
        hours=_hours(today, since_ns),
        days=[*before, frames],
        team=others,
    )


def agreement_report(catalogue: Catalogue, *, since_ns: int) -> schema.AgreementReport:
    """How far people agreed on frames that several judged blindly, and how each did with known ones."""
    items: list[Item] = []
    upheld: Counter[str] = Counter()
    judged: Counter[str] = Counter()
    tried: dict[str, Marks] = {}
    with catalogue.reading() as session:
        counts = session.execute(select(DoubleReview.stage, func.count()).group_by(DoubleReview.stage))
        stages: dict[Stage, int] = {row[0]: row[1] for row in counts}
        known = session.scalar(select(func.count()).select_from(KnownFrame)) or 0
        for review, people in _opinions(session, OpinionKind.DOUBLE, since_ns):
            labels = [class_key(box.label) for box in review.frame.detections]
            said = {
                person: frame_opinion(review, [v for v in review.verdicts if v.reviewer == person])
                for person in people
            }
            if len(people) > 1:
                items += items_of(labels, said[people[0]], said[people[1]])
            counting = None if review.double is None else review.double.counting
            if counting in said:
                for person in people:
                    judged[person] += 1
                    upheld[person] += same_opinion(said[person], said[counting])
        for review, people in _opinions(session, OpinionKind.KNOWN, since_ns):
            labels = [class_key(box.label) for box in review.frame.detections]
            truth = frame_opinion(review, counting_verdicts(review))
            for person in people:
                probes = session.scalars(
                    select(Verdict)
                    .where(
                        Verdict.review_id == review.id, Verdict.reviewer == person, Verdict.probe.is_(True)
                    )
                    .order_by(Verdict.id)
                ).all()
                mark = marks(labels, truth, frame_opinion(review, probes))
                tried[person] = tried.get(person, Marks()).plus(mark)
    return schema.AgreementReport(
        stages={stage: stages.get(stage, 0) for stage in Stage if stage is not Stage.FIRST},
        overall=_row(agreement("", items)),
        classes=[_row(one) for one in agreements(items)],
        known_frames=known,
        people=[
            _person(person, judged[person], upheld[person], tried.get(person, Marks()))
            for person in sorted({*judged, *tried})
        ],
    )


def detector_report(
    catalogue: Catalogue, *, since_ns: int, doubt: tuple[float, float]
) -> schema.DetectorReport:
    """Precision of the detector on what people judged since an instant; ``doubt``: scores that are reviewed now."""
    with catalogue.reading() as session:
        boxes, drawn = _judged_boxes(session, since_ns)
    band = precision.halving_band(boxes, *doubt)
    return schema.DetectorReport(
        judged=len(boxes),
        right=sum(box.right for box in boxes),
        classes=[_precision(one) for one in precision.by_class(boxes)],
        cameras=[_precision(one) for one in precision.by_camera(boxes)],
        scores=[_precision(one) for one in precision.by_score(boxes)],
        missed=[schema.Counted(name=name, count=count) for name, count in drawn.most_common()],
        doubt=doubt,
        band=None if band is None else schema.Band(**vars(band)),
    )


class DetectorReports:
    """Reports of the detector, each made once for as long as nobody judges anything: they read all verdicts."""

    def __init__(self, catalogue: Catalogue, doubt: tuple[float, float]) -> None:
        self._catalogue, self._doubt = catalogue, doubt
        self._lock = threading.Lock()
        self._made: tuple[object, schema.DetectorReport] | None = None

    def get(self, since_ns: int) -> schema.DetectorReport:
        """Of verdicts since an instant, to the hour."""
        since_ns -= since_ns % _HOUR_NS
        with self._lock:
            key = (since_ns, self._verdicts())
            if self._made is None or self._made[0] != key:
                report = detector_report(self._catalogue, since_ns=since_ns, doubt=self._doubt)
                self._made = key, report
            return self._made[1]

    def _verdicts(self) -> tuple[Any, ...]:
        """Changes with every verdict and undo, and when a dispute is settled."""
        with self._catalogue.reading() as session:
            given = session.execute(select(func.max(Verdict.id), func.max(Verdict.undone_ns))).one()
            double = session.scalar(select(func.max(DoubleReview.since_ns)))
        return *given, double


def _judged_boxes(session: Session, since_ns: int) -> tuple[list[precision.JudgedBox], Counter[str]]:
    """Boxes that people judged, and what they drew besides, by class. Reviews under dispute are left out."""
    doubles = {
        row.review_id: row
        for row in session.execute(
            select(DoubleReview.review_id, DoubleReview.counting, DoubleReview.since_ns)
        )
    }
    given: dict[int, list[Any]] = {}
    verdicts = (
        select(
            Verdict.id,
            Verdict.review_id,
            Verdict.reviewer,
            Verdict.verdict,
            Verdict.box_index,
            Verdict.label,
            Verdict.decided_ns,
            Verdict.conflicts_with,
        )
        .join(Review, Review.id == Verdict.review_id)
        .where(Verdict.decided_ns >= since_ns, Verdict.undone_ns.is_(None), Verdict.probe.is_(False))
        .where(Review.state == ReviewState.DECIDED)
    )
    for row in session.execute(verdicts.order_by(Verdict.id)):
        double = doubles.get(row.review_id)
        aside = (
            double is not None
            and double.counting is not None
            and row.reviewer != double.counting
            and row.decided_ns <= double.since_ns
        )
        if not aside:
            given.setdefault(row.review_id, []).append(row)
    boxes: list[precision.JudgedBox] = []
    drawn: Counter[str] = Counter()
    settled = {number: rows for number, rows in given.items() if all(r.conflicts_with is None for r in rows)}
    for rows in settled.values():
        drawn.update(row.label for row in rows if row.verdict is VerdictKind.MISSED_OBJECT)
    for number, found in _detections(session, settled):
        whole, of_box = _last(settled[number])
        for index, box in enumerate(found):
            right = _is_right(of_box.get(index, whole), box.label, index in of_box)
            if right is not None:
                boxes.append(precision.JudgedBox(box.label, box.edge_id, box.score, right))
    return boxes, drawn


def _detections(session: Session, reviews: Mapping[int, object]) -> Iterator[tuple[int, list[Any]]]:
    """Of each of these reviews that has any, the detections in their order."""
    if not reviews:
        return
    query = (
        select(Review.id.label("review_id"), DetectedBox.label, DetectedBox.score, Frame.edge_id)
        .join(Frame, Frame.id == Review.frame_id)
        .join(DetectedBox, DetectedBox.frame_id == Frame.id)
        .where(Review.id.between(min(reviews), max(reviews)), Review.state == ReviewState.DECIDED)
        .order_by(Review.id, DetectedBox.id)
    )
    rows = session.execute(query.execution_options(yield_per=5000))
    for number, found in groupby(rows, key=attrgetter("review_id")):
        if number in reviews:
            yield number, list(found)


def _last(rows: Sequence[Any]) -> tuple[Any, dict[int, Any]]:
    whole = [r for r in rows if r.box_index is None and r.verdict is not VerdictKind.MISSED_OBJECT]
    return (whole[-1] if whole else None), {r.box_index: r for r in rows if r.box_index is not None}


def _is_right(verdict: Any, label: str, of_box: bool) -> bool | None:
    """Whether people found a box right; None where they left it open."""
    if verdict is None or verdict.verdict is VerdictKind.UNSURE:
        return None
    if verdict.verdict in _NAMED and of_box:
        return class_key(verdict.label or "") == class_key(label)
    if verdict.verdict is VerdictKind.REJECT:
        return False
    return True if verdict.verdict in _RIGHT else None


def _opinions(session: Session, kind: OpinionKind, since_ns: int) -> Iterator[tuple[Review, list[str]]]:
    """Reviews that people judged blindly, and who did, in the order in which they did; the latest so many opinions."""
    query = (
        select(Opinion.review_id, Opinion.reviewer)
        .where(Opinion.kind == kind, Opinion.given_ns >= since_ns)
        .order_by(Opinion.given_ns.desc())
        .limit(_MOST_OPINIONS)
    )
    people: dict[int, list[str]] = {}
    for row in reversed(session.execute(query).all()):
        people.setdefault(row.review_id, []).append(row.reviewer)
    numbers = sorted(people)
    options = (
        selectinload(Review.frame).selectinload(Frame.detections),
        selectinload(Review.verdicts),
        selectinload(Review.double),
    )
    for first in range(0, len(numbers), _BATCH):
        some = select(Review).options(*options).where(Review.id.in_(numbers[first : first + _BATCH]))
        for review in session.scalars(some.order_by(Review.id)):
            yield review, people[review.id]


def _paces(rows: Sequence[Any]) -> list[int]:
    """Nanoseconds from one frame to the next, without pauses."""
    ends: dict[int, int] = {}
    for row in rows:
        ends[row.review_id] = row.decided_ns
    times = sorted(ends.values())
    gaps = [later - earlier for earlier, later in pairwise(times)]
    return [gap for gap in gaps if gap <= _PAUSE_NS]


def _hours(rows: Sequence[Any], since_ns: int) -> list[int]:
    """Frames judged in each of the 24 hours from ``since_ns`` on, each in the hour of its last verdict."""
    ends: dict[int, int] = {}
    for row in rows:
        ends[row.review_id] = row.decided_ns
    hours = [0] * 24
    for at in ends.values():
        hours[min((at - since_ns) // _HOUR_NS, 23)] += 1
    return hours


def _frames_of_day(session: Session, reviewer: str, since_ns: int) -> int:
    query = select(func.count(Verdict.review_id.distinct())).where(
        Verdict.reviewer == reviewer,
        Verdict.decided_ns.between(since_ns, since_ns + _DAY_NS - 1),
        Verdict.undone_ns.is_(None),
    )
    return session.scalar(query) or 0


def _row(one: Agreement) -> schema.AgreementFacts:
    return schema.AgreementFacts(label=one.label, items=one.items, alike=one.alike, kappa=one.kappa)


def _person(person: str, judged: int, upheld: int, mark: Marks) -> schema.PersonsMarks:
    return schema.PersonsMarks(
        reviewer=person,
        doubles=judged,
        upheld=upheld,
        known=mark.frames,
        known_right=mark.right,
        precision=mark.precision,
        recall=mark.recall,
    )


def _precision(one: precision.Precision) -> schema.PrecisionFacts:
    return schema.PrecisionFacts(name=one.name, judged=one.judged, right=one.right, precision=one.precision)


def since_of(at: datetime | None, now_ns: int, days: int) -> int:
    """Where a report begins: at an instant, else so many days ago."""
    return schema.nanoseconds(at, max(now_ns - days * _DAY_NS, 0))

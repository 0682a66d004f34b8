"""Figures of people and of the detector, read from verdicts. Nothing here changes anything."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from sqlalchemy import ColumnElement, Integer, SQLColumnExpression, and_, case, cast, func, select, true
from sqlalchemy.orm import Session, selectinload

from secondlook.cloud.catalogue import (
    Catalogue,
    DoubleReview,
    Frame,
    JudgedBox,
    KnownFrame,
    Opinion,
    OpinionKind,
    Review,
    Stage,
    Verdict,
    counting_verdicts,
    frame_opinion,
)
from secondlook.cloud.catalogue.feed import unindexed
from secondlook.cloud.catalogue.opinions import same_opinion
from secondlook.cloud.station import figure_schema, precision, schema
from secondlook.cloud.station.agreement import Agreement, Item, Marks, agreement, agreements, items_of, marks
from secondlook.cloud.station.precision import Judged
from secondlook.shared.texts import class_key

_NANOSECONDS = 1_000_000_000
_HOUR_NS = 3600 * _NANOSECONDS
_DAY_NS = 24 * _HOUR_NS
_DAYS = 14
_PAUSE_NS = 300 * _NANOSECONDS  # who has said nothing for so long was not at it
_MOST_OPINIONS = 10_000
_MOST_VERDICTS = 100_000
_BATCH = 500


def day(catalogue: Catalogue, reviewer: str, *, since_ns: int) -> figure_schema.Day:
    """What a person did since ``since_ns``, hour by hour, on the days before, and what others did."""
    given = (
        select(Verdict.review_id, Verdict.decided_ns, Verdict.verdict, Verdict.undone_ns)
        .where(unindexed(Verdict.reviewer) == reviewer, Verdict.decided_ns >= since_ns)
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
            figure_schema.PersonsFrames(reviewer=row.reviewer, frames=row.frames)
            for row in session.execute(team)
        ]
    today = [row for row in rows if row.undone_ns is None]
    paces, frames = _paces(today), len({row.review_id for row in today})
    return figure_schema.Day(
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


def agreement_report(catalogue: Catalogue, *, since_ns: int) -> figure_schema.AgreementReport:
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
    return figure_schema.AgreementReport(
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
) -> figure_schema.DetectorReport:
    """Precision of the detector on what people judged since an instant; ``doubt``: scores that are reviewed now."""
    since = JudgedBox.decided_ns >= since_ns
    classes: Tally = {}
    cameras: Tally = {}
    scores: dict[int, Judged] = {}
    doubted: dict[int, Judged] = {}
    drawn: Counter[str] = Counter()
    with catalogue.reading() as session:
        for label, edge_id, at, in_doubt, one in _counted(session, since, doubt):
            if at is None:
                drawn[label] += one.judged
                continue
            classes[label] = classes.get(label, _NONE).plus(one)
            cameras[edge_id] = cameras.get(edge_id, _NONE).plus(one)
            scores[at] = scores.get(at, _NONE).plus(one)
            if in_doubt:
                doubted[at] = doubted.get(at, _NONE).plus(one)
    band = precision.halving_band(doubted, *doubt)
    return figure_schema.DetectorReport(
        judged=sum(one.judged for one in scores.values()),
        right=sum(one.right for one in scores.values()),
        classes=[_precision(one) for one in precision.sorted_rows(classes)],
        cameras=[_precision(one) for one in precision.sorted_rows(cameras)],
        scores=[_precision(one) for one in precision.by_tenth(scores)],
        missed=[
            figure_schema.Counted(name=name, count=count)
            for name, count in sorted(drawn.items(), key=lambda one: (-one[1], one[0]))
        ],
        doubt=doubt,
        band=None if band is None else figure_schema.Band(**vars(band)),
    )


Tally = dict[str, Judged]
_NONE = Judged(0, 0)


def _counted(
    session: Session, since: ColumnElement[bool], doubt: tuple[float, float]
) -> Iterator[tuple[str, str, int | None, bool, Judged]]:
    """Class, camera host, hundredths of the score (None: drawn by a person), whether it is in ``doubt``, and how many
    boxes there are of these; all in one pass."""
    hundredths = JudgedBox.score * precision.STEP
    if session.get_bind().dialect.name == "postgresql":
        at: ColumnElement[Any] = func.floor(hundredths)
    else:
        at = cast(hundredths, Integer)  # towards zero; PostgreSQL's goes to the nearest
    within = and_(JudgedBox.score >= doubt[0], JudgedBox.score < doubt[1])
    in_doubt = case((within, 1), else_=0).label("in_doubt")
    by: list[SQLColumnExpression[Any]] = [JudgedBox.label, JudgedBox.edge_id, at.label("at"), in_doubt]
    right = func.sum(case((JudgedBox.is_right == true(), 1), else_=0)).label("right")
    columns = [*by, func.count().label("judged"), right]
    for row in session.execute(select(*columns).where(since).group_by(*by[:2], "at", "in_doubt")):
        score = None if row.at is None else int(row.at)
        yield row.label, row.edge_id, score, bool(row.in_doubt), Judged(row.judged, row.right)


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
        unindexed(Verdict.reviewer) == reviewer,
        Verdict.decided_ns.between(since_ns, since_ns + _DAY_NS - 1),
        Verdict.undone_ns.is_(None),
    )
    return session.scalar(query) or 0


def _row(one: Agreement) -> figure_schema.AgreementFacts:
    return figure_schema.AgreementFacts(label=one.label, items=one.items, alike=one.alike, kappa=one.kappa)


def _person(person: str, judged: int, upheld: int, mark: Marks) -> figure_schema.PersonsMarks:
    return figure_schema.PersonsMarks(
        reviewer=person,
        doubles=judged,
        upheld=upheld,
        known=mark.frames,
        known_right=mark.right,
        precision=mark.precision,
        recall=mark.recall,
    )


def _precision(one: precision.Precision) -> figure_schema.PrecisionFacts:
    return figure_schema.PrecisionFacts(
        name=one.name, judged=one.judged, right=one.right, precision=one.precision
    )


def since_of(at: datetime | None, now_ns: int, days: int) -> int:
    """Where a report begins: at an instant, else so many days ago."""
    return schema.nanoseconds(at, max(now_ns - days * _DAY_NS, 0))

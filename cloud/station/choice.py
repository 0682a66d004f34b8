"""Which reviews a list shows, and in which order: the same choice makes the list, and hands out work from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from fastapi import Depends, Query
from sqlalchemy import ColumnElement, Exists, Select, exists, func, literal, select
from sqlalchemy.orm import Session, aliased

from secondlook.cloud.catalogue import (
    DetectedBox,
    Opinion,
    OpinionKind,
    Reason,
    Review,
    ReviewState,
    Rule,
    Verdict,
    handed_elsewhere,
    tried_by,
)
from secondlook.cloud.catalogue.feed import finds, unindexed
from secondlook.cloud.station import schema
from secondlook.cloud.station.access import Viewer

Order = Literal["priority", "newest", "oldest", "surest", "least sure", "alike"]

STATES: dict[schema.Filter, tuple[ReviewState, ...]] = {
    "open": (ReviewState.READY, ReviewState.EXPIRED, ReviewState.DUE, ReviewState.LEASED),
    "ready": (ReviewState.READY,),
    "pending": (ReviewState.DUE, ReviewState.LEASED),
    "expired": (ReviewState.EXPIRED,),
    "settled": (ReviewState.SETTLED,),
    "skipped": (ReviewState.SKIPPED,),
    "decided": (ReviewState.DECIDED,),
}
_FEW = 2000
_DECIDABLE = (ReviewState.READY, ReviewState.EXPIRED)


@dataclass(frozen=True)
class ReviewChoice:
    """Reviews of a camera host, with a class found in them, of a score, for a rule; None: whatever it is.

    ``scores`` are the least and the greatest score of a detection, of ``label`` where that is given. ``viewer`` is who
    looks: what this person has judged, and others are to judge as well, is not before them any more.
    """

    filter: schema.Filter = "open"
    order: Order = "priority"
    edge_id: str | None = None
    label: str | None = None
    scores: tuple[float, float] = (0.0, 1.0)
    rule: Rule | None = None
    viewer: str = ""
    # Whether few detections are of the class, and few reviews have the reason: then the list is made from these.
    few_of_class: bool = False
    few_of_reason: bool = False
    # Whether the index of states is kept out: most reviews are decided, and it would have all of them sorted.
    beside_states: bool = False

    def weighed(self, session: Session) -> ReviewChoice:
        """The same choice, with what is known of how much fits it."""
        in_time = self.filter == "decided" and self.order in ("priority", "newest", "oldest")
        return replace(
            self,
            # SQLite keeps no count of what is in which state; PostgreSQL does.
            beside_states=in_time and session.get_bind().dialect.name == "sqlite",
            few_of_class=self.label is not None and _are_few(session, DetectedBox.label == self.label),
            few_of_reason=self.rule is not None and _are_few(session, Reason.rule == self.rule.value),
        )

    def chosen(self, query: Select[Any]) -> Select[Any]:
        """``query``, which selects from reviews, for those that are chosen."""
        state = unindexed(Review.state) if self.beside_states else Review.state
        query = query.where(state.in_(STATES[self.filter]))
        if self.viewer and self.filter == "decided":
            query = query.where(Review.id.not_in(tried_by(self.viewer)))
        elif self.viewer:
            query = query.where(~given_by(self.viewer))
        return self.narrowed(query)

    def narrowed(self, query: Select[Any]) -> Select[Any]:
        """``query`` for those that are chosen, whatever their state."""
        if self.edge_id is not None:
            query = query.where(Review.edge_id == self.edge_id)
        if self.few_of_class:
            found = select(DetectedBox.frame_id).where(
                DetectedBox.label == self.label, DetectedBox.score.between(*self.scores)
            )
            query = query.where(Review.frame_id.in_(found))
        elif self.label is not None or self.scores != (0.0, 1.0):
            holds = select(DetectedBox.id).where(
                DetectedBox.frame_id == Review.frame_id, DetectedBox.score.between(*self.scores)
            )
            # By the frame: the index of classes would be gone through for each.
            of_class = unindexed(DetectedBox.label) == self.label
            query = query.where(finds(holds if self.label is None else holds.where(of_class)))
        if self.few_of_reason and self.rule is not None:
            for_it = select(Reason.frame_id).where(Reason.rule == self.rule.value)
            query = query.where(Review.frame_id.in_(for_it))
        elif self.rule is not None:
            called = select(Reason.id).where(Reason.review_id == Review.id, Reason.rule == self.rule.value)
            query = query.where(finds(called))
        return query

    def ordered(self, query: Select[Any]) -> Select[Any]:
        """Decided ones by their last verdict, newest first, unless another order is asked for."""
        if self.order == "priority":
            if self.filter == "decided":
                # From verdict to review, the newest first: a page reads no more than it shows. What is said of known
                # frames moves none up: others would know by that which they are.
                later = aliased(Verdict)
                overtaken = exists(later.id).where(
                    later.review_id == Verdict.review_id, later.id > Verdict.id, later.probe.is_(False)
                )
                query = query.join(Verdict, Verdict.review_id == Review.id)
                query = query.where(Verdict.probe.is_(False), ~overtaken)
                return query.order_by(Verdict.id.desc())
            return query.order_by(Review.priority.desc(), Review.created_ns, Review.id)
        if self.order in ("newest", "oldest"):
            newest = self.order == "newest"
            by = Review.captured_ns.desc() if newest else Review.captured_ns.asc()
            return query.order_by(by, Review.id.desc() if newest else Review.id)
        if self.order == "alike":
            # What one camera saw one after the other.
            return query.order_by(Review.edge_id, Review.captured_ns, Review.id)
        # A frame without a box has no score and comes last either way.
        score = Review.top_score
        return query.order_by(
            score.is_(None), score.desc() if self.order == "surest" else score.asc(), Review.id
        )

    @property
    def is_whole(self) -> bool:
        """Whether nothing but the state is asked for."""
        return not self.described()

    def described(self) -> dict[str, Any]:
        """What was asked for, in words that fit into the audit trail."""
        asked = {"camera": self.edge_id, "class": self.label, "reason": self.rule and self.rule.value}
        if self.scores != (0.0, 1.0):
            asked["scores"] = f"{self.scores[0]} to {self.scores[1]}"
        return {name: value for name, value in asked.items() if value is not None}

    def to_judge(self, limit: int) -> Select[Any]:
        """The numbers of those that can be judged now, in order, without those that wait for somebody else."""
        ready = self.chosen(select(Review.id)).where(Review.state.in_(_DECIDABLE))
        if self.viewer:
            ready = ready.where(~handed_elsewhere(self.viewer))
        return self.ordered(ready).limit(limit)


EVERY = ReviewChoice()


def _are_few(session: Session, condition: ColumnElement[bool]) -> bool:
    some = select(literal(1)).where(condition).limit(_FEW).subquery()
    return (session.scalar(select(func.count()).select_from(some)) or 0) < _FEW


def given_by(reviewer: str) -> Exists:
    """That a person has had their say on a review whose frame is judged by several."""
    return exists(Opinion.review_id).where(
        Opinion.review_id == Review.id, Opinion.reviewer == reviewer, Opinion.kind == OpinionKind.DOUBLE
    )


def _choice(
    viewer: Viewer,
    filter: schema.Filter = "open",
    order: Order = "priority",
    camera: Annotated[str | None, Query(max_length=64)] = None,
    label: Annotated[str | None, Query(max_length=64)] = None,
    min_score: Annotated[float, Query(ge=0, le=1)] = 0.0,
    max_score: Annotated[float, Query(ge=0, le=1)] = 1.0,
    reason: Rule | None = None,
) -> ReviewChoice:
    return ReviewChoice(filter, order, camera, label, (min_score, max_score), reason, viewer)


Chosen = Annotated[ReviewChoice, Depends(_choice)]

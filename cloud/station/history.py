"""The audit trail as people are shown it: page by page, the newest first, without what is a secret from who asks.

What is said of known frames stands in it, and that they are known: that is for admins. Whom a known frame tries finds
what they did with it themselves, in the words and states of any other frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select, true
from sqlalchemy.orm import Session

from secondlook.cloud.catalogue import (
    KNOWN_HANDED_OVER,
    AuditEntry,
    Catalogue,
    Review,
    ReviewState,
    Verdict,
    blind_reviews,
    shown_states,
)
from secondlook.cloud.station import schema
from secondlook.cloud.station.talk import texts_of

_VERDICT_ACTIONS = ("verdict given", "verdict undone", "verdict told")
_KNOWN_ACTIONS = ("known frame chosen", "known frame dropped", KNOWN_HANDED_OVER)


def history(
    catalogue: Catalogue,
    *,
    limit: int,
    before: int | None,
    actor: str = "",
    people: bool = False,
    viewer: str = "",
    may_know: bool = False,
) -> schema.History:
    """The audit trail, newest first, from just below line ``before``; of one actor, or of what people did alone.

    That others said something of a frame which ``viewer`` may have to judge without knowing is left out, and so is
    which frames are known and what others said of these, but where the viewer ``may_know``. A page may be short by
    that.
    """
    with catalogue.reading() as session:
        query = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(limit + 1)
        if before is not None:
            query = query.where(AuditEntry.id < before)
        if actor:
            query = query.where(AuditEntry.actor == actor)
        if people:
            query = query.where(AuditEntry.by_person == true())
        lines = session.scalars(query).all()
        page = lines[:limit]
        entries = _entries(session, page, viewer, may_know)
    return schema.History(entries=entries, next_before=page[-1].id if len(lines) > limit else None)


def _entries(
    session: Session, page: Sequence[AuditEntry], viewer: str, may_know: bool
) -> list[schema.HistoryEntry]:
    of_review = select(Review.id, Review.frame_id).where(Review.id.in_({_review_id(line) for line in page}))
    frames: dict[int, int] = {row.id: row.frame_id for row in session.execute(of_review)}
    of_verdict = select(Verdict.id, Verdict.undone_ns, Verdict.probe)
    of_verdict = of_verdict.where(Verdict.id.in_({_number(line, "verdict_id") for line in page}))
    verdicts = {row.id: row for row in session.execute(of_verdict)}
    tried = shown_states(session, viewer)
    blind = blind_reviews(session, frames) | set(tried)
    written = texts_of(session, {_comment_id(line) for line in page}, blind, viewer)

    def is_told(line: AuditEntry) -> bool:
        own = bool(viewer) and line.actor == viewer
        if line.action in _KNOWN_ACTIONS:
            return may_know or (own and line.action == KNOWN_HANDED_OVER)
        if line.action not in _VERDICT_ACTIONS or own:
            return True
        verdict = verdicts.get(_number(line, "verdict_id"))
        is_probe = verdict is not None and verdict.probe
        return _review_id(line) not in blind and (may_know or not is_probe)

    entries = []
    for line in page:
        if not is_told(line):
            continue
        number = _review_id(line)
        given = _number(line, "verdict_id") if line.action == "verdict given" else 0
        own = line.action == KNOWN_HANDED_OVER and line.actor == viewer
        entries.append(
            schema.HistoryEntry(
                id=line.id,
                at=schema.instant(line.at_ns),
                actor=line.actor,
                action="review handed over" if own else line.action,
                subject=line.subject,
                detail=_detail(line, tried.get(number)),
                verdict_id=given or None,
                review_id=number if number in frames else None,
                frame_id=frames.get(number),
                standing=given in verdicts and verdicts[given].undone_ns is None,
                comment=written.get(_comment_id(line)),
            )
        )
    return entries


def _detail(line: AuditEntry, shown: ReviewState | None) -> dict[str, Any]:
    """``shown``: the state in which a known frame is shown to whom it tries."""
    if shown is None or line.action not in _VERDICT_ACTIONS:
        return line.detail
    return {**line.detail, "state_before": shown.value, "state_after": shown.value}


def _review_id(line: AuditEntry) -> int:
    """Of "review/12"; 0, which none has, of anything else."""
    kind, _, number = line.subject.partition("/")
    return int(number) if kind == "review" and number.isdecimal() else 0


def _comment_id(line: AuditEntry) -> int:
    """The comment that this line of the trail tells of; 0 where it does not."""
    return _number(line, "comment_id") if line.action == "comment given" else 0


def _number(line: AuditEntry, name: str) -> int:
    found = line.detail.get(name)
    return found if isinstance(found, int) else 0

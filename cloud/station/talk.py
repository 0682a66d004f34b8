"""What people write beside frames, and to whom they hand them, as it is read. Nothing here changes anything.

While a frame is judged by people who are not to know of each other, each is shown their own comments alone.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session, selectinload

from secondlook.cloud.accounts import Role, list_users
from secondlook.cloud.catalogue import (
    Audience,
    Catalogue,
    Comment,
    Handover,
    Retention,
    Review,
    Verdict,
    blind_reviews,
    list_claims,
    seeming,
    trials_of,
    tried_known,
)
from secondlook.cloud.station import schema
from secondlook.shared.errors import AccountConflict, AccountNotFound, ReviewConflict

_BATCH = 200
_MOST_NAMES = 200


@dataclass(frozen=True)
class Talk:
    """What stands beside a frame: how many comments, and whom it waits for. ``stamp`` changes with either."""

    comments: int = 0
    handed: schema.HandedFacts | None = None
    stamp: str = ""


def talks(session: Session, numbers: Sequence[int], hidden: Collection[int], viewer: str) -> dict[int, Talk]:
    """By review; of those that are ``hidden`` from ``viewer``, their own comments are counted."""
    query = (
        select(Comment.review_id, func.count(Comment.id), func.count(Comment.deleted_ns))
        .where(Comment.review_id.in_(numbers))
        .where(or_(Comment.review_id.not_in(list(hidden)), Comment.author == viewer))
        .group_by(Comment.review_id)
    )
    said = {row[0]: (row[1], row[2]) for row in session.execute(query)}
    rows = session.scalars(select(Handover).where(Handover.review_id.in_(numbers)))
    handed = {row.review_id: handed_facts(row) for row in rows}
    for trial in trials_of(session, numbers, viewer).values():
        row = seeming(trial)
        if row is not None:
            handed[trial.review_id] = handed_facts(row)
    return {number: _talk(*said.get(number, (0, 0)), handed.get(number)) for number in {*said, *handed}}


def _talk(written: int, deleted: int, handed: schema.HandedFacts | None) -> Talk:
    whom = "" if handed is None else f"{handed.giver}>{handed.colleague}@{handed.at}"
    return Talk(written - deleted, handed, f"{written}.{deleted}.{whom}")


def handed_facts(row: Handover) -> schema.HandedFacts:
    return schema.HandedFacts(colleague=row.colleague, giver=row.giver, at=schema.instant(row.since_ns))


def comments_of(review: Review, viewer: str, *, hidden: bool) -> list[schema.CommentFacts]:
    """All comments on a frame, or, where it is ``hidden``, those of ``viewer``."""
    return [
        schema.CommentFacts(
            id=row.id,
            author=row.author,
            text=row.text,
            at=schema.instant(row.written_ns),
            deleted=row.deleted_ns is not None,
        )
        for row in review.comments
        if not hidden or row.author == viewer
    ]


def texts_of(
    session: Session, comment_ids: Collection[int], hidden: Collection[int], viewer: str
) -> dict[int, str]:
    """What comments say that stand, but for those of others on ``hidden`` reviews."""
    query = select(Comment).where(Comment.id.in_(comment_ids), Comment.deleted_ns.is_(None))
    return {
        row.id: row.text
        for row in session.scalars(query)
        if row.review_id not in hidden or row.author == viewer
    }


def comment_lines(catalogue: Catalogue, audience: Audience) -> Iterator[str]:
    """One JSON object a line for each comment that stands; without those that ``audience`` is not to know yet."""
    last = 0
    while True:
        with catalogue.reading() as session:
            query = select(Comment).options(selectinload(Comment.review).selectinload(Review.frame))
            following = query.where(Comment.id > last).order_by(Comment.id).limit(_BATCH)
            rows = session.scalars(following).all()
            hidden = set() if audience.unsettled else blind_reviews(session, {row.review_id for row in rows})
            if audience.judge:
                hidden |= set(tried_known(session, audience.judge))
            session.expunge_all()
        if not rows:
            return
        yield "".join(
            json.dumps(_line(row)) + "\n"
            for row in rows
            if row.deleted_ns is None
            and row.review.frame.retention is not Retention.DELETING
            and (row.review_id not in hidden or row.author == audience.person)
        )
        last = rows[-1].id


def _line(row: Comment) -> dict[str, Any]:
    frame = row.review.frame
    return {
        "comment_id": row.id,
        "review_id": row.review_id,
        "edge_id": frame.edge_id,
        "boot_id": frame.boot_id,
        "seq": frame.seq,
        "captured_at": schema.instant(frame.captured_ns).isoformat(),
        "author": row.author,
        "text": row.text,
        "written_at": schema.instant(row.written_ns).isoformat(),
    }


def colleagues(catalogue: Catalogue, *, now_ns: int) -> list[str]:
    """Whom a frame may be handed to; where nobody logs in, those who have judged something or have a frame open."""
    users = list_users(catalogue)
    if users:
        return [user.name for user in users if not user.removed and user.role.includes(Role.REVIEWER)]
    with catalogue.reading() as session:
        judged = set(session.scalars(select(Verdict.reviewer).distinct().limit(_MOST_NAMES)))
    return sorted(
        judged | {claim.holder for claim in list_claims(catalogue, now_ns=now_ns)}, key=str.casefold
    )


def check_colleague(catalogue: Catalogue, name: str) -> None:
    """Raises AccountNotFound where nobody is called so, AccountConflict where that person judges nothing.

    Where nobody logs in, every name that a reviewer can have will do.
    """
    users = list_users(catalogue)
    found = next((user for user in users if user.name == name and not user.removed), None)
    if not users:
        if name != name.strip():
            raise ReviewConflict("a name has no blanks around it")
    elif found is None:
        raise AccountNotFound(f"there is no user {name}")
    elif not found.role.includes(Role.REVIEWER):
        raise AccountConflict(f"{name} is a {found.role.value}, and judges nothing")

"""Who has which frame before them: claims keep two people from judging the same one unknowingly.

A claim holds until an instant that the page moves on while it shows the frame; a page that dies leaves one that runs
out. A tab has one claim at a time. Claims are no locks: a verdict is stored whoever has the claim, for what a person
said while the station was away must not be lost. A frame that was handed to somebody is nobody else's to claim
(``handover``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from sqlalchemy import and_, case, delete, or_, select
from sqlalchemy.orm import Session

from secondlook.cloud.catalogue.blind import is_tried
from secondlook.cloud.catalogue.handover import holder_by_name
from secondlook.cloud.catalogue.reviews import audit_review
from secondlook.cloud.catalogue.schema import Claim, Review, ReviewState, table_of
from secondlook.cloud.catalogue.store import Catalogue
from secondlook.cloud.storage.sql import insert
from secondlook.shared.errors import ClaimHeld, ReviewConflict, ReviewNotFound

TAB_PATTERN = r"[A-Za-z0-9-]{8,64}"

_TO_JUDGE = frozenset({ReviewState.READY, ReviewState.EXPIRED})
_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True)
class Claimant:
    """One tab of a reviewer's browser."""

    reviewer: str
    tab: str


@dataclass(frozen=True)
class ClaimedReview:
    """A frame that somebody has before them, and since when (Unix nanoseconds)."""

    review_id: int
    holder: str
    since_ns: int


def claim_review(
    catalogue: Catalogue,
    review_id: int,
    claimant: Claimant,
    *,
    keep: Collection[int] = (),
    lease_seconds: float,
    now_ns: int,
) -> ClaimedReview:
    """Take a frame, or hold it for longer; what the tab held before is free again, except `keep`.

    Raises ReviewNotFound, ClaimHeld while another person has it, or it was handed to one, ReviewConflict when it is
    decided, or not ready.
    """
    with catalogue.writing() as session:
        review = session.get(Review, review_id, with_for_update=True)
        if review is None:
            raise ReviewNotFound(f"there is no review {review_id}")
        if review.state not in _TO_JUDGE and not is_tried(session, review_id, claimant.reviewer):
            raise ReviewConflict(f"review {review_id} is {review.state.value}: nothing is to be judged in it")
        handed = holder_by_name(session, review_id, claimant.reviewer)
        if handed is not None:
            raise ClaimHeld(
                f"{handed.giver} handed this frame to {handed.colleague}", holder=handed.colleague
            )
        claimed = _take(session, review_id, claimant, lease_seconds, now_ns)
        if claimed is None:
            holder = session.get_one(Claim, review_id).holder
            raise ClaimHeld(f"{holder} has this frame open", holder=holder)
        _let_go_of_others(session, claimant, {review_id, *keep})
        return claimed


def claim_first(
    catalogue: Catalogue,
    review_ids: Iterable[int],
    claimant: Claimant,
    *,
    keep: Collection[int] = (),
    lease_seconds: float,
    now_ns: int,
) -> ClaimedReview | None:
    """Take the first of these frames that is to be judged and that nobody else has; None when there is none, and the
    tab then holds nothing but `keep`.

    One that somebody changes at this moment is passed over. Those in `keep` are not handed out: the tab has judged
    them, and their verdicts are on their way.
    """
    with catalogue.writing() as session:
        for review_id in review_ids:
            if review_id in keep:
                continue
            # Those that were passed over stay locked: in another list's order, two would wait for each other.
            review = session.get(Review, review_id, with_for_update={"skip_locked": True})
            if review is None:
                continue
            if review.state not in _TO_JUDGE and not is_tried(session, review_id, claimant.reviewer):
                continue
            if holder_by_name(session, review_id, claimant.reviewer) is not None:
                continue
            claimed = _take(session, review_id, claimant, lease_seconds, now_ns)
            if claimed is not None:
                _let_go_of_others(session, claimant, {review_id, *keep})
                return claimed
        _let_go_of_others(session, claimant, keep)
    return None


def let_go(catalogue: Catalogue, claimant: Claimant, *, keep: Collection[int] = ()) -> None:
    """Free what a tab holds, except `keep`: it went to a frame that it did not get."""
    with catalogue.writing() as session:
        _let_go_of_others(session, claimant, keep)


def renew_claim(
    catalogue: Catalogue, review_id: int, claimant: Claimant, *, lease_seconds: float, now_ns: int
) -> None:
    """Hold a frame for longer. Raises ReviewConflict when the claim is gone: freed, or another's by now."""
    with catalogue.writing() as session:
        claim = session.get(Claim, review_id, with_for_update=True)
        if claim is None or claim.holder != claimant.reviewer:
            raise ReviewConflict(f"{claimant.reviewer} does not have review {review_id} any more")
        claim.until_ns, claim.tab = _later(now_ns, lease_seconds), claimant.tab


def release_claim(catalogue: Catalogue, review_id: int, claimant: Claimant) -> None:
    """Let go of a frame; nothing happens when the tab does not have it."""
    with catalogue.writing() as session:
        session.execute(
            delete(Claim).where(
                Claim.review_id == review_id, Claim.holder == claimant.reviewer, Claim.tab == claimant.tab
            )
        )


def free_claim(catalogue: Catalogue, review_id: int, *, actor: str, now_ns: int) -> None:
    """Take a frame from whoever has it. Raises ReviewConflict when nobody does."""
    with catalogue.writing() as session:
        claim = session.get(Claim, review_id, with_for_update=True)
        if claim is None or claim.until_ns <= now_ns:
            raise ReviewConflict(f"nobody has review {review_id}")
        holder = claim.holder
        session.delete(claim)
        audit_review(session, now_ns, actor, "claim freed", review_id, {"holder": holder})


def list_claims(catalogue: Catalogue, *, now_ns: int) -> list[ClaimedReview]:
    """Every frame that somebody has before them. One that is decided tries its holder, which nobody else is to know."""
    query = select(Claim).join(Review, Review.id == Claim.review_id)
    query = query.where(Claim.until_ns > now_ns, Review.state != ReviewState.DECIDED).order_by(
        Claim.review_id
    )
    with catalogue.reading() as session:
        return [ClaimedReview(row.review_id, row.holder, row.since_ns) for row in session.scalars(query)]


def _take(
    session: Session, review_id: int, claimant: Claimant, lease_seconds: float, now_ns: int
) -> ClaimedReview | None:
    connection, table = session.connection(), table_of(Claim)
    own = table.c.holder == claimant.reviewer
    held = and_(own, table.c.until_ns > now_ns)
    new = insert(connection, table).values(
        review_id=review_id,
        holder=claimant.reviewer,
        tab=claimant.tab,
        since_ns=now_ns,
        until_ns=_later(now_ns, lease_seconds),
    )
    taken = connection.execute(
        new.on_conflict_do_update(
            index_elements=[table.c.review_id],
            set_={
                "holder": new.excluded.holder,
                "tab": new.excluded.tab,
                "since_ns": case((held, table.c.since_ns), else_=new.excluded.since_ns),
                "until_ns": new.excluded.until_ns,
            },
            where=or_(own, table.c.until_ns <= now_ns),
        ).returning(table.c.since_ns)
    ).one_or_none()
    return None if taken is None else ClaimedReview(review_id, claimant.reviewer, taken.since_ns)


def _let_go_of_others(session: Session, claimant: Claimant, kept: Collection[int]) -> None:
    others = and_(Claim.holder == claimant.reviewer, Claim.tab == claimant.tab, Claim.review_id.not_in(kept))
    session.execute(delete(Claim).where(others))


def _later(now_ns: int, seconds: float) -> int:
    return now_ns + int(seconds * _NANOSECONDS)

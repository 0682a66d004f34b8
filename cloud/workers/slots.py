"""Reviews that a refiner has in hand, and whose turn it is next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from secondlook.cloud.catalogue import LeasedReview
from secondlook.cloud.workers.pictures import EnhancedPicture


@dataclass
class OpenReview:
    """A review that waits for its enhancement, and for that of its key if it is a delta."""

    review: LeasedReview
    began_at: float
    give_up_at: float
    lease_ends_at: float
    aside: bool  # others need not wait for it
    has_base_image: bool
    alone: bool = False  # its enhancement needs that of no key, though its base layer refers to one
    base_image_bytes: int = 0  # 0 where another refiner made it
    looked_at: float = 0.0
    counted: bool = False  # the catalogue knows that its picture is being worked on
    request_ids: list[int] = field(default_factory=list)
    enhanced: EnhancedPicture | None = None  # it is shown, and waits for the post-filter
    settled: bool = False  # nobody has to be asked

    @property
    def wanted(self) -> list[int]:
        """The sequences whose enhancements it needs."""
        review = self.review
        return [review.seq] if review.key_seq is None or self.alone else [review.seq, review.key_seq]


def next_to_refine(held: Sequence[OpenReview]) -> OpenReview | None:
    """Of the reviews that wait for the post-filter, the one that people are to see first."""
    waiting = [each for each in held if each.enhanced is not None]
    return min(waiting, key=lambda each: each.review.turn, default=None)


def next_hosts(held: Sequence[OpenReview], connected: Collection[str], slots: int) -> list[str]:
    """Of whom the next review may be, among the camera hosts that are connected.

    A host that answers nothing keeps its own slots, not those of others: it gets no further ones once as many of its
    reviews as there are ``slots`` stand aside, and one that has none under way finds a slot although all are taken
    (up to twice their number).
    """
    of_host = Counter(waiting.review.edge_id for waiting in held)
    aside = Counter(waiting.review.edge_id for waiting in held if waiting.aside)
    taken = len(held) - aside.total()
    if taken < slots:
        return [edge_id for edge_id in connected if aside[edge_id] < slots]
    return [edge_id for edge_id in connected if not of_host[edge_id]] if taken < 2 * slots else []

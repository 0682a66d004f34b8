"""How many reviews wait, and for how long: figures for `shared.conditions`, metrics and `secondlook status`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import func, or_, select

from secondlook.cloud.catalogue.schema import Review, ReviewState
from secondlook.cloud.catalogue.store import Catalogue
from secondlook.cloud.config import PolicyConfig
from secondlook.shared import metrics
from secondlook.shared.conditions import Change, WatchConfig
from secondlook.shared.errors import StorageError
from secondlook.shared.watch import Watch

log = logging.getLogger(__name__)

_OPEN = (ReviewState.DUE, ReviewState.LEASED, ReviewState.READY, ReviewState.EXPIRED)
_COUNTED = (*_OPEN, ReviewState.SETTLED, ReviewState.SKIPPED)
_NANOSECONDS = 1_000_000_000
_LOOK_SECONDS = 5.0


@dataclass(frozen=True)
class ReviewFigures:
    """Reviews without a decision, by state; and how long the oldest waits that nobody holds up."""

    by_state: dict[str, int]
    unrefined_seconds: float

    @property
    def open(self) -> int:
        return sum(self.by_state.get(state.value, 0) for state in _OPEN)

    def figures(self, policy: PolicyConfig) -> dict[str, dict[str, float | None]]:
        """For conditions."""
        most = policy.max_open_reviews
        return {
            "reviews-waiting": {"reviews": self.open / most if most else None},
            "reviews-unrefined": {"reviews": self.unrefined_seconds},
        }


def review_figures(catalogue: Catalogue, *, now_ns: int) -> ReviewFigures:
    """Raises StorageError."""
    with catalogue.reading() as session:
        counted = session.execute(
            select(Review.state, func.count()).where(Review.state.in_(_COUNTED)).group_by(Review.state)
        ).all()
        oldest = session.scalar(
            select(func.min(Review.created_ns)).where(
                Review.state == ReviewState.DUE,
                or_(Review.not_before_ns.is_(None), Review.not_before_ns <= now_ns),
                Review.why_waiting.is_(None),  # else its camera host is away
            )
        )
    waited = 0.0 if oldest is None else max(0.0, (now_ns - oldest) / _NANOSECONDS)
    return ReviewFigures({state.value: many for state, many in counted}, waited)


@contextmanager
def reviews_watched(
    opened: Callable[[], Catalogue],
    policy: PolicyConfig,
    config: WatchConfig,
    alert: Callable[[Change], None] | None = None,
    seconds: float = _LOOK_SECONDS,
) -> Iterator[Watch]:
    """Look at the reviews every few seconds, in a thread, while the block lasts; ``opened`` gives its catalogue."""
    stop, watch = threading.Event(), Watch(config, alert=alert)

    def run() -> None:
        catalogue = opened()
        while not stop.wait(seconds):
            try:
                found = review_figures(catalogue, now_ns=time.time_ns())
            except StorageError as error:
                log.debug("%s", error)  # whoever serves people says it
                continue
            for state in _COUNTED:
                metrics.measure("reviews", found.by_state.get(state.value, 0), state.value)
            watch.look(found.figures(policy), time.time())
        catalogue.close()

    thread = threading.Thread(target=run, name="reviews", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join(5.0)

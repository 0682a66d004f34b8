"""The refiner: fetches the enhancement layer of a due review, decodes, refines, and shows it as ready.

Each review goes through: leased, base image stored, enhancement asked for, waited for, decoded and stored, refined.
What people see first is made first: base images of all, then enhanced ones, and between two pictures of the slow
post-filter, which takes them in the order in which they are shown, there is a look for more. Several wait at a
time (``in_flight``), so that a slow link does not idle the post-filter. Whoever keeps us waiting stands aside, so that
it holds up nobody else: a review that has waited for ``slot_seconds`` gives up its slot and is looked at now and then;
one whose camera host is not connected goes back into the catalogue, and is looked at again when the host has come back.

What nothing but doubt calls for is looked at again by the detector before it is shown (``redetector``): where that is
sure of it now, it is settled, and neither the filter nor a person sees it.

What cannot be had, or not be decoded, ends as expired with its reason; the base image stays to be judged. A worker
that dies leaves leases that run out; the next one repeats the steps, and each of them bears repetition. Work on a
picture is counted when it begins: what ended its worker, or failed, twice is set aside with its cause.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property, partial

from secondlook.cloud.catalogue import (
    Catalogue,
    LeasedReview,
    begin_attempt,
    check_catalogue,
    extend_review_lease,
    fail_review,
    lease_due_review,
    mark_expired,
    mark_ready,
    park_review,
    release_review,
    set_base_image,
    set_enhanced_image,
    settle_review,
    wake_reviews,
)
from secondlook.cloud.config import RefinerConfig
from secondlook.cloud.decoding.groups import GroupDecoders
from secondlook.cloud.storage.blobs import Blobs
from secondlook.cloud.storage.requests import RequestState
from secondlook.cloud.workers.broker_client import BrokerClient, EnhancementState
from secondlook.cloud.workers.pictures import KEPT_PIXELS, EnhancedPicture, PictureMaker
from secondlook.cloud.workers.redetector import Redetector
from secondlook.cloud.workers.secondlook import SecondLook
from secondlook.cloud.workers.slots import OpenReview, next_hosts, next_to_refine
from secondlook.shared import metrics, tracing
from secondlook.shared.errors import (
    TRANSIENT_ERRORS,
    BitstreamError,
    GatewayUnreachable,
    ModelNotFound,
    RequestRefused,
    ReviewConflict,
    StorageError,
    Unforeseen,
)
from secondlook.shared.faults import cause_of, unforeseen_named
from secondlook.shared.filters import ImageFilter
from secondlook.shared.layers import LayeredCodec
from secondlook.shared.logs import about, step
from secondlook.shared.outage import Outage
from secondlook.shared.tiles import told_of_tiles

log = logging.getLogger(__name__)

_FORESEEN = (ReviewConflict, BitstreamError, ModelNotFound, GatewayUnreachable, StorageError)
_TROUBLE_SECONDS = 2.0  # pause after the gateway or the disk failed us
_AGAIN_SECONDS = 2.0  # after which reviews are looked for though nobody has written
_LOOK_SECONDS = 1.0  # between looks at who is connected, and at reviews that stand aside
_AWAY_SECONDS = 1.0  # another gateway may have the camera host: its request is sent by then
_AWAY_AT_ONCE = 16
_SHORTEST_PARKED, _LONGEST_PARKED = 2.0, 30.0
_QUIET_SHARE = 0.05  # of the time in which nothing was due is waited before another look: 0.2 s after 4 s
_RETRY_SECONDS = 10.0  # before a picture whose processing failed is tried again
_NANOSECONDS = 1_000_000_000


@dataclass
class Refiner:
    """``owner`` names this worker in leases; ``clock`` gives Unix seconds.

    ``heartbeat`` hears of every review that was looked at and every look for more, ``waits`` why work stands still,
    or None.
    """

    owner: str
    broker: BrokerClient
    codec: LayeredCodec
    postfilter: ImageFilter
    catalogue: Catalogue
    blobs: Blobs
    config: RefinerConfig
    clock: Callable[[], float] = time.time
    heartbeat: Callable[[], None] = lambda: None
    waits: Callable[[str | None], None] = lambda _why: None
    redetector: Redetector | None = None

    def __post_init__(self) -> None:
        self._open: list[OpenReview] = []
        self.done = 0  # reviews since the start
        self._outage = Outage(log)
        self._connected: set[str] = set()
        self._connected_at = 0.0
        self._started_at = self._busy_at = self.clock()
        self._version: int | None = None
        self._looked_at = float("-inf")

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set, then give back what is unfinished.

        Raises what the post-filter or the catalogue says when it cannot work at all.
        """
        self.check()
        while not stop.is_set():
            try:
                finished = self.step() if self._open or self._has_news() else 0
                if finished or self._open:
                    self._busy_at = self.clock()
                pause = self._pause()
                self._outage.over(time.monotonic())
            except (GatewayUnreachable, *TRANSIENT_ERRORS) as error:
                self._outage.met(error, time.monotonic())
                pause = _TROUBLE_SECONDS
            self.waits(self._outage.why)
            self.heartbeat()
            stop.wait(pause)
        for waiting in self._open:
            self._unless_lost(waiting.review, lambda id_: release_review(self.catalogue, id_, self.owner))

    def _has_news(self) -> bool:
        """Whether a review may be due: somebody has written, or time has passed, in which one that was put off is.

        To ask for the version of the catalogue costs a hundredth of looking for reviews.
        """
        now, version = self.clock(), self.catalogue.version()
        if version is not None and version == self._version and 0 <= now - self._looked_at < _AGAIN_SECONDS:
            return False
        self._version, self._looked_at = version, now
        return True

    def _pause(self) -> float:
        """Seconds until the next look; the longer nothing was due, the longer."""
        if next_to_refine(self._open) is not None:
            return 0.0
        quiet = abs(self.clock() - self._busy_at) * _QUIET_SHARE
        return min(
            max(self.config.poll_seconds, quiet), max(self.config.poll_seconds, self.config.idle_seconds)
        )

    def check(self) -> None:
        """Find out whether this worker can work at all, before it takes a review. Raises ModelCorrupt, Unwritable."""
        check_catalogue(self.catalogue)
        self._pictures.check()

    @property
    def _pictures(self) -> PictureMaker:
        return PictureMaker(self.codec, self.postfilter, self.blobs, self.config.max_pixels, self._groups)

    @cached_property
    def _groups(self) -> GroupDecoders:
        """Reviews of a camera follow each other: their decoders stay."""
        return GroupDecoders(self.blobs, self.config.max_pixels, kept_pixels=KEPT_PIXELS)

    def step(self) -> int:
        """Take what is due, look at what has come, refine; returns how many left our hands, well or badly."""
        finished = self._look()
        for _ in range(self.config.in_flight):
            waiting = next_to_refine(self._open)
            if waiting is None:
                break
            self._guarded(waiting, partial(self._finish, waiting))
            self._open.remove(waiting)
            finished += 1 + self._look()  # what came meanwhile need not wait for all the others
        return finished

    def _look(self) -> int:
        """Base images of what is due, enhanced ones of what has come; returns how many left our hands."""
        self._look_around()
        while self._begin(among=next_hosts(self._open, self._connected, self.config.in_flight)):
            self.heartbeat()
        finished = self._look_at_the_away()
        in_turn = sorted(self._open, key=lambda each: (each.has_base_image, each.review.turn))
        for waiting in in_turn:
            if self._is_to_be_looked_at(waiting):
                finished += self._advance(waiting)
                self.heartbeat()
        return finished

    def _look_around(self) -> None:
        """Who is connected; what waited for somebody who was away is due again."""
        now = self.clock()
        if 0 <= now - self._connected_at < _LOOK_SECONDS:
            return
        connected = self.broker.edges_connected()
        if back := connected - self._connected:
            wake_reviews(self.catalogue, back)
        self._connected, self._connected_at = connected, now

    def _begin(self, *, among: Collection[str] | None = None, outside: Collection[str] = ()) -> bool:
        """Lease one review of certain camera hosts; False when none is due."""
        now = self.clock()
        review = None
        if among is None or among:
            review = lease_due_review(
                self.catalogue,
                self.owner,
                lease_seconds=self.config.lease_seconds,
                now_ns=self._now_ns(),
                among=among,
                outside=outside,
            )
        if review is None:
            return False
        # The time this worker did not run is not held against the camera host.
        asked_at = max(review.requested_ns / _NANOSECONDS, self._started_at)
        self._open.append(
            OpenReview(
                review=review,
                began_at=now,
                give_up_at=asked_at + self.config.deadline_seconds,
                lease_ends_at=now + self.config.lease_seconds,
                aside=among is None,
                has_base_image=review.has_base_image,
            )
        )
        return True

    def _look_at_the_away(self) -> int:
        """Reviews whose camera host is not connected: base images for new ones, a look at those that wait.

        Returns how many ended. At most one picture a step is decoded, for those who are there come first.
        """
        finished = 0
        for _ in range(_AWAY_AT_ONCE):
            away = sum(waiting.review.edge_id not in self._connected for waiting in self._open)
            if away >= self.config.in_flight or not self._begin(outside=self._connected):
                break
            waiting = self._open[-1]
            is_new, waiting.looked_at = not waiting.has_base_image, self.clock()
            finished += self._advance(waiting)
            self.heartbeat()
            if is_new:
                break
        return finished

    def _show_base(self, waiting: OpenReview) -> None:
        """Make the base image: it can be judged while the enhancement travels."""
        review = waiting.review
        self._count_attempt(waiting)
        base = self._pictures.make_base(review, lambda: self._progress(waiting))
        waiting.base_image_bytes = base.size_bytes
        set_base_image(
            self.catalogue,
            review.review_id,
            self.owner,
            key=base.key,
            sha256=base.sha256,
            image_bytes=base.size_bytes,
        )
        waiting.has_base_image, waiting.counted = True, False

    def _is_to_be_looked_at(self, waiting: OpenReview) -> bool:
        if waiting.enhanced is not None:
            return False
        now = self.clock()
        if waiting.aside and 0 <= now - waiting.looked_at < _LOOK_SECONDS / 2:
            return False
        waiting.looked_at = now
        return True

    def _ask(self, waiting: OpenReview) -> None:
        review = waiting.review
        left = max(0.0, waiting.give_up_at - self.clock())
        waiting.alone = self._pictures.stands_alone(review)
        waiting.request_ids = [
            self.broker.request_enhancement(
                review.edge_id,
                review.boot_id,
                seq,
                deadline_seconds=left,
                priority=review.priority,
                crop=review.crop if waiting.alone else None,
            )
            for seq in waiting.wanted
        ]

    def _advance(self, waiting: OpenReview) -> bool:
        """Look at one waiting review; whether it has ended, or is out of our hands."""
        if not self._goes_on(waiting):
            self._open.remove(waiting)
            return True
        return False

    def _goes_on(self, waiting: OpenReview) -> bool:
        review, now = waiting.review, self.clock()
        try:
            self._renew(waiting)
        except ReviewConflict:
            log.info("review %d went to another worker meanwhile", review.review_id)
            return False
        if not waiting.request_ids:
            self._ask(waiting)  # it travels while the base image is made
        if not waiting.has_base_image and not self._guarded(waiting, lambda: self._show_base(waiting)):
            return False
        try:
            states = [self.broker.enhancement_state(id_) for id_ in waiting.request_ids]
        except RequestRefused:
            # The gateway lost its requests with its database: ask again.
            waiting.request_ids = []
            return True
        for seq, state in zip(waiting.wanted, states, strict=True):
            if state.state in (RequestState.EXPIRED, RequestState.REFUSED):
                which = "enhancement" if seq == review.seq else f"enhancement of its key frame {seq}"
                self._expire(review, f"{which} {state.state.value}: {state.reason}")
                return False
        blobs = [state.blob for state in states if state.blob is not None]
        if len(blobs) == len(waiting.wanted):
            if not self._has_room():
                return True
            return self._guarded(waiting, lambda: self._show_enhanced(waiting, blobs)) and not waiting.settled
        if now > waiting.give_up_at + self.config.lease_seconds:
            self._expire(review, "the gateway gave no answer in time")
            return False
        if self._is_away(waiting, states):
            if now < waiting.give_up_at:
                self._park(waiting)
            else:
                self._expire(review, "its camera host was away until the deadline")
            return False
        waiting.aside = waiting.aside or now - waiting.began_at >= self.config.slot_seconds
        return True

    def _has_room(self) -> bool:
        """Whether one more decoded picture may wait for the post-filter: not where they have the largest's pixels."""
        held = sum(waiting.enhanced.pixels for waiting in self._open if waiting.enhanced is not None)
        return held < self.config.max_pixels

    def _is_away(self, waiting: OpenReview, states: list[EnhancementState]) -> bool:
        """Whether nobody is there to answer: not here, and no other gateway has sent the request to anybody."""
        if waiting.review.edge_id in self._connected:
            return False
        now = self.clock()
        if any(state.state is RequestState.SENT for state in states):
            return now - waiting.began_at >= self.config.slot_seconds
        return now - waiting.review.requested_ns / _NANOSECONDS >= _AWAY_SECONDS

    def _park(self, waiting: OpenReview) -> None:
        """Back into the catalogue, until the camera host speaks. Another gateway may hear it: look now and then."""
        now = self.clock()
        waited = now - waiting.review.requested_ns / _NANOSECONDS
        pause = min(max(waited / 2, _SHORTEST_PARKED), _LONGEST_PARKED)
        look_again = min(now + pause, waiting.give_up_at)
        self._unless_lost(
            waiting.review,
            lambda id_: park_review(
                self.catalogue, id_, self.owner, look_again_ns=int(look_again * _NANOSECONDS)
            ),
        )

    def _show_enhanced(self, waiting: OpenReview, enhancement_blobs: list[str]) -> None:
        """Make the enhanced image: shown until the post-filter has had its turn, and it keeps no slot from others."""
        review, began_ns = waiting.review, time.time_ns()
        _span("request", review, review.requested_ns, began_ns)
        self._count_attempt(waiting)
        enhanced = self._pictures.enhance(review, enhancement_blobs, lambda: self._progress(waiting))
        seen = None if self.redetector is None else self.redetector.look(review, enhanced)
        self._progress(waiting)
        if seen is not None and seen.settles and self._settle(waiting, enhanced, seen):
            _span("settle", review, began_ns)
            return
        set_enhanced_image(
            self.catalogue,
            review.review_id,
            self.owner,
            key=enhanced.stored.key,
            sha256=enhanced.stored.sha256,
            image_bytes=waiting.base_image_bytes + enhanced.stored.size_bytes,
            second_look=None if seen is None else seen.as_json(),
        )
        waiting.enhanced, waiting.counted, waiting.aside = enhanced, False, True
        _span("enhance", review, began_ns)

    def _settle(self, waiting: OpenReview, enhanced: EnhancedPicture, seen: SecondLook) -> bool:
        """Nobody has to be asked; False where somebody wants to see it meanwhile."""
        review = waiting.review
        result = self._pictures.unfiltered(review, enhanced, base_image_bytes=waiting.base_image_bytes)
        waiting.settled = settle_review(
            self.catalogue, review.review_id, self.owner, result, seen.as_json(), now_ns=self._now_ns()
        )
        if waiting.settled:
            self.done += 1
            metrics.count("reviews_settled_total", review.edge_id)
            step("settled", review.edge_id, review.boot_id, review.seq, review=review.review_id)
            frame = about(review.edge_id, review.boot_id, review.seq, review=review.review_id)
            log.info("review %d is settled by a second look", review.review_id, extra=frame)
        return waiting.settled

    def _finish(self, waiting: OpenReview) -> None:
        review, began_ns = waiting.review, time.time_ns()
        assert waiting.enhanced is not None
        self._count_attempt(waiting)
        result = self._pictures.refine(
            review,
            waiting.enhanced,
            lambda: self._progress(waiting),
            base_image_bytes=waiting.base_image_bytes,
        )
        mark_ready(self.catalogue, review.review_id, self.owner, result, now_ns=self._now_ns())
        self.done += 1
        metrics.count("reviews_refined_total", review.edge_id)
        metrics.measure("refine_seconds", self.clock() - waiting.began_at)
        step("refined", review.edge_id, review.boot_id, review.seq, review=review.review_id)
        _span("refine", review, began_ns)
        frame = about(review.edge_id, review.boot_id, review.seq, review=review.review_id)
        log.info("review %d is ready", review.review_id, extra=frame)

    def _count_attempt(self, waiting: OpenReview) -> None:
        """Before work on a picture. Not again where a full disk only made us begin anew."""
        if waiting.counted:
            return
        begin_attempt(
            self.catalogue,
            waiting.review.review_id,
            self.owner,
            lease_seconds=self.config.lease_seconds,
            now_ns=self._now_ns(),
        )
        waiting.counted, waiting.lease_ends_at = True, self.clock() + self.config.lease_seconds

    def _guarded(self, waiting: OpenReview, work: Callable[[], None]) -> bool:
        """Work on one picture; whether it went well. Else this review has ended, or this attempt at it, and no other.

        As in ``machine``, whatever codec and post-filter raise over the picture is taken for its fault. What does not
        come from the picture passes through.
        """
        review = waiting.review
        try:
            with unforeseen_named(*_FORESEEN), told_of_tiles(lambda: self._progress(waiting)):
                work()
            return True
        except ReviewConflict:
            log.info("review %d went to another worker meanwhile", review.review_id)
        except (BitstreamError, ModelNotFound) as error:
            self._expire(review, cause_of(error))
        except Unforeseen as error:
            self._fail(review, error)
        return False

    def _fail(self, review: LeasedReview, error: Unforeseen) -> None:
        """Count a failed attempt; then find out whether it is the picture or this worker."""
        why = str(error)
        log.warning("review %d failed: %s", review.review_id, why)
        log.debug("review %d", review.review_id, exc_info=error)
        self._unless_lost(
            review,
            lambda id_: fail_review(
                self.catalogue, id_, self.owner, why=why, retry_seconds=_RETRY_SECONDS, now_ns=self._now_ns()
            ),
        )
        self.check()

    def _progress(self, waiting: OpenReview) -> None:
        """A tile is done: hold all that is in hand. Raises ReviewConflict when the review at work is lost.

        A catalogue that is busy or away just now is no reason to begin the picture anew.
        """
        self.heartbeat()
        for held in self._open:
            try:
                self._renew(held)
            except TRANSIENT_ERRORS:
                # Each try may take seconds: the next one when half of what is left is over.
                held.lease_ends_at = self.clock() + self.config.lease_seconds * 0.75
            except ReviewConflict:
                if held is waiting:
                    raise
                # Noticed when its turn comes.

    def _renew(self, waiting: OpenReview) -> None:
        """Hold the lease for longer when half of it is over. Raises ReviewConflict when it is lost."""
        now = self.clock()
        if waiting.lease_ends_at - now < self.config.lease_seconds / 2:
            extend_review_lease(
                self.catalogue,
                waiting.review.review_id,
                self.owner,
                lease_seconds=self.config.lease_seconds,
                now_ns=self._now_ns(),
            )
            waiting.lease_ends_at = now + self.config.lease_seconds

    def _expire(self, review: LeasedReview, why: str) -> None:
        frame = about(review.edge_id, review.boot_id, review.seq, review=review.review_id)
        log.warning("review %d cannot be refined: %s", review.review_id, why, extra=frame)
        metrics.count("reviews_expired_total", review.edge_id)
        self._unless_lost(
            review, lambda id_: mark_expired(self.catalogue, id_, self.owner, why=why, now_ns=self._now_ns())
        )

    def _unless_lost(self, review: LeasedReview, change: Callable[[int], None]) -> bool:
        """Make a change to a review we hold; False when another worker took it over meanwhile."""
        try:
            change(review.review_id)
        except ReviewConflict:
            log.info("review %d went to another worker meanwhile", review.review_id)
            return False
        return True

    def _now_ns(self) -> int:
        return int(self.clock() * _NANOSECONDS)


def _span(name: str, review: LeasedReview, began_ns: int, ended_ns: int | None = None) -> None:
    """A step of work on a review is over, now unless `ended_ns` says when."""
    tracing.span(
        name, review.edge_id, review.boot_id, review.seq, began_ns, ended_ns, review=review.review_id
    )

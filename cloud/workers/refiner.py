"""The refiner: fetches the enhancement layer of a due review, decodes, refines, and shows it as ready.

Each review goes through: leased, base image stored, enhancement asked for, waited for, refined. Several wait at a
time, so that a slow link does not idle the post-filter. What cannot be had, or not be decoded, ends as expired with
its reason; the base image stays to be judged. A worker that dies leaves leases that run out; the next one repeats
the steps, and each of them bears repetition.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from secondlook.cloud.catalogue import (
    Catalogue,
    LeasedReview,
    Refinement,
    extend_review_lease,
    lease_due_review,
    mark_expired,
    mark_ready,
    release_review,
    set_base_image,
)
from secondlook.cloud.config import RefinerConfig
from secondlook.cloud.storage.blobs import Blobs, image_key
from secondlook.cloud.storage.requests import RequestState
from secondlook.cloud.workers.broker_client import BrokerClient
from secondlook.shared.errors import (
    TRANSIENT_ERRORS,
    BitstreamError,
    GatewayUnreachable,
    ModelNotFound,
    ReferenceMissing,
    RequestRefused,
    ReviewConflict,
    StoreCorrupt,
)
from secondlook.shared.layers import LayeredCodec, Layers
from secondlook.shared.outage import Outage

log = logging.getLogger(__name__)

U8Image = npt.NDArray[np.uint8]

_TROUBLE_SECONDS = 2.0  # pause after the gateway or the disk failed us
_PNG_COMPRESSION = 3
_NANOSECONDS = 1_000_000_000


class ImageFilter(Protocol):
    """What the refiner needs of ``cloud.workers.postfilter``."""

    name: str
    model_hash: bytes

    def apply(self, image: U8Image) -> U8Image: ...


@dataclass
class _Open:
    """A review that waits for its enhancement, and for that of its key if it is a delta."""

    review: LeasedReview
    request_ids: list[int]
    give_up_at: float
    lease_ends_at: float


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

    def __post_init__(self) -> None:
        self._open: list[_Open] = []
        self._outage = Outage(log)

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set, then give back what is unfinished."""
        while not stop.is_set():
            try:
                self.step()
                pause = self.config.poll_seconds if self._open else self.config.idle_seconds
                self._outage.over(time.monotonic())
            except (GatewayUnreachable, *TRANSIENT_ERRORS) as error:
                self._outage.met(error, time.monotonic())
                pause = _TROUBLE_SECONDS
            self.waits(self._outage.why)
            self.heartbeat()
            stop.wait(pause)
        for waiting in self._open:
            self._unless_lost(waiting.review, lambda id_: release_review(self.catalogue, id_, self.owner))

    def step(self) -> int:
        """Take what is due, look at what has come; returns how many reviews were finished, well or badly."""
        while len(self._open) < self.config.in_flight and self._begin():
            self.heartbeat()
        finished = 0
        for waiting in list(self._open):
            if self._advance(waiting):
                self._open.remove(waiting)
                finished += 1
            self.heartbeat()
        return finished

    def _begin(self) -> bool:
        """Lease one review, store its base image, ask for its layers; False when none is due."""
        now = self.clock()
        review = lease_due_review(
            self.catalogue, self.owner, lease_seconds=self.config.lease_seconds, now_ns=self._now_ns()
        )
        if review is None:
            return False
        try:
            image = self.codec.decode_base(self.blobs.get(review.base_blob), key=self._key_base(review))
        except (BitstreamError, ModelNotFound, StoreCorrupt) as error:
            self._expire(review, f"{type(error).__name__}: {error}")
            return True
        shown = self._store_image(review, "base", image)
        self._unless_lost(
            review,
            lambda id_: set_base_image(
                self.catalogue, id_, self.owner, key=image_key(id_, "base"), sha256=shown
            ),
        )
        wanted = [review.seq] if review.key_seq is None else [review.seq, review.key_seq]
        # Remembered before it is asked for: should the gateway be away now, the next step asks again.
        waiting = _Open(review, [], now + self.config.deadline_seconds, now + self.config.lease_seconds)
        self._open.append(waiting)
        self._ask(waiting, wanted)
        return True

    def _ask(self, waiting: _Open, wanted: list[int]) -> None:
        review = waiting.review
        left = max(0.0, waiting.give_up_at - self.clock())
        waiting.request_ids = [
            self.broker.request_enhancement(
                review.edge_id, review.boot_id, seq, deadline_seconds=left, priority=review.priority
            )
            for seq in wanted
        ]

    def _advance(self, waiting: _Open) -> bool:
        """Look at one waiting review; whether it is finished."""
        review, now = waiting.review, self.clock()
        if waiting.lease_ends_at - now < self.config.lease_seconds / 2:
            waiting.lease_ends_at = now + self.config.lease_seconds
            if not self._unless_lost(review, self._extend):
                return True
        wanted = [review.seq] if review.key_seq is None else [review.seq, review.key_seq]
        if not waiting.request_ids:
            self._ask(waiting, wanted)
        try:
            states = [self.broker.enhancement_state(id_) for id_ in waiting.request_ids]
        except RequestRefused:
            # The gateway lost its requests with its database: ask again.
            waiting.request_ids = []
            return False
        for seq, state in zip(wanted, states, strict=True):
            if state.state in (RequestState.EXPIRED, RequestState.REFUSED):
                which = "enhancement" if seq == review.seq else f"enhancement of its key frame {seq}"
                self._expire(review, f"{which} {state.state.value}: {state.reason}")
                return True
        blobs = [state.blob for state in states if state.blob is not None]
        if len(blobs) == len(wanted):
            self._finish(review, blobs)
            return True
        if now > waiting.give_up_at + self.config.lease_seconds:
            self._expire(review, "the gateway gave no answer in time")
            return True
        return False

    def _finish(self, review: LeasedReview, enhancement_blobs: list[str]) -> None:
        try:
            enhancement = self.blobs.get(enhancement_blobs[0])
            key_base = self._key_base(review)
            key = None if key_base is None else Layers(key_base, self.blobs.get(enhancement_blobs[1]))
            image = self.codec.decode_enhanced(self.blobs.get(review.base_blob), enhancement, key=key)
        except (BitstreamError, ModelNotFound, StoreCorrupt) as error:
            self._expire(review, f"{type(error).__name__}: {error}")
            return
        self._store_image(review, "enhanced", image)
        shown = self._store_image(review, "refined", self.postfilter.apply(image))
        result = Refinement(
            enhancement_blob=enhancement_blobs[0],
            enhancement_bytes=len(enhancement),
            base_image=image_key(review.review_id, "base"),
            enhanced_image=image_key(review.review_id, "enhanced"),
            refined_image=image_key(review.review_id, "refined"),
            shown_sha256=shown,
            postfilter=f"{self.postfilter.name}:{self.postfilter.model_hash.hex()}",
            codec_model=self.codec.model_hash.hex(),
        )
        self._unless_lost(
            review, lambda id_: mark_ready(self.catalogue, id_, self.owner, result, now_ns=self._now_ns())
        )
        log.info("review %d is ready", review.review_id)

    def _key_base(self, review: LeasedReview) -> bytes | None:
        """The base layer of a delta's key; None for a frame that is a key itself."""
        if review.key_seq is None:
            return None
        if review.key_base_blob is None:
            raise ReferenceMissing(f"its key frame {review.key_seq} is not in the catalogue")
        return self.blobs.get(review.key_base_blob)

    def _expire(self, review: LeasedReview, why: str) -> None:
        log.warning("review %d cannot be refined: %s", review.review_id, why)
        self._unless_lost(
            review, lambda id_: mark_expired(self.catalogue, id_, self.owner, why=why, now_ns=self._now_ns())
        )

    def _extend(self, review_id: int) -> None:
        extend_review_lease(
            self.catalogue,
            review_id,
            self.owner,
            lease_seconds=self.config.lease_seconds,
            now_ns=self._now_ns(),
        )

    def _unless_lost(self, review: LeasedReview, change: Callable[[int], None]) -> bool:
        """Make a change to a review we hold; False when another worker took it over meanwhile."""
        try:
            change(review.review_id)
        except ReviewConflict:
            log.info("review %d went to another worker meanwhile", review.review_id)
            return False
        return True

    def _store_image(self, review: LeasedReview, kind: str, image: U8Image) -> str:
        """Store an image as PNG; returns the SHA-256 of its bytes."""
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        _, encoded = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, _PNG_COMPRESSION])
        png = encoded.tobytes()
        self.blobs.put(image_key(review.review_id, kind), png)
        return hashlib.sha256(png).hexdigest()

    def _now_ns(self) -> int:
        return int(self.clock() * _NANOSECONDS)

"""Lets the detector look again at what doubt calls a person for, and says when it cannot.

It opens the detector when the first such picture is there. Whatever goes wrong with it, the review goes to a person,
as it would without.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from secondlook.cloud.catalogue import LeasedReview
from secondlook.cloud.config import PolicyConfig
from secondlook.cloud.workers.pictures import EnhancedPicture
from secondlook.cloud.workers.policy import FrameIdentity
from secondlook.cloud.workers.secondlook import SecondLook, look_again
from secondlook.shared.detection import Detection, Detector
from secondlook.shared.errors import ReviewConflict, Unforeseen
from secondlook.shared.faults import unforeseen_named
from secondlook.shared.logs import about

log = logging.getLogger(__name__)

_AGAIN_SECONDS = 600.0  # before a detector that could not be opened is tried again


@dataclass
class Redetector:
    """``opened`` opens the detector of the machine workers; ``clock`` gives seconds, from any start."""

    policy: PolicyConfig
    opened: Callable[[], Detector]
    clock: Callable[[], float] = time.monotonic
    _detector: Detector | None = None
    _failed_at: float | None = None
    _told_of: set[str] = field(default_factory=set)

    def look(self, review: LeasedReview, picture: EnhancedPicture) -> SecondLook | None:
        """What a second look says of a review's doubts; None where there is none to be had.

        Raises ReviewConflict where the lease was lost meanwhile.
        """
        # What failed, or ended a worker, before is left to people.
        if self.policy.second_look == "none" or review.doubts is None or review.attempts:
            return None
        detector = self._ready()
        if detector is None or not self._is_same(detector, review.doubts.detector):
            return None
        found = self._found(detector, review, picture)
        if found is None:
            return None
        height, width = picture.image.shape[:2]
        name = FrameIdentity(review.edge_id, review.boot_id, review.seq)
        return look_again(self.policy, name, review.doubts, found, size=(width, height), crop=picture.crop)

    def _ready(self) -> Detector | None:
        if self._detector is not None:
            return self._detector
        if self._failed_at is not None and self.clock() - self._failed_at < _AGAIN_SECONDS:
            return None
        try:
            with unforeseen_named():
                self._detector = self.opened()
        except Unforeseen as error:
            level = logging.ERROR if self._failed_at is None else logging.DEBUG
            log.log(level, "no second look, people are asked: the detector cannot be opened: %s", error)
            self._failed_at = self.clock()
            return None
        log.info("looking again with %s", self._detector.name)
        self._failed_at = None
        return self._detector

    def _is_same(self, detector: Detector, first: str) -> bool:
        """Scores of two detectors cannot be compared."""
        if detector.name != first and first not in self._told_of:
            self._told_of.add(first)
            log.warning(
                "no second look at what %s found, people are asked: worker.detector is %s here",
                first,
                detector.name,
            )
        return detector.name == first

    def _found(
        self, detector: Detector, review: LeasedReview, picture: EnhancedPicture
    ) -> list[Detection] | None:
        try:
            with unforeseen_named(ReviewConflict):
                return detector.detect(picture.image)
        except Unforeseen as error:
            frame = about(review.edge_id, review.boot_id, review.seq, review=review.review_id)
            log.warning(
                "the second look at review %d failed, a person is asked: %s",
                review.review_id,
                error,
                extra=frame,
            )
            return None

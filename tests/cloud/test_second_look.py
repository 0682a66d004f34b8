"""What a person sees first is made first: base, enhanced, refined, in the order of the list, with looks in between."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from secondlook.cloud import catalogue as cat
from secondlook.cloud.config import PolicyConfig, RefinerConfig
from secondlook.cloud.workers.broker_client import BrokerClient
from secondlook.cloud.workers.pictures import PictureMaker
from secondlook.shared.detection import Detection
from tests.cloud.helpers import Brighter, OneBox, base_frame, grey
from tests.cloud.test_workers import Site, site

__all__ = ["site"]  # the fixture


class Slow(Brighter):
    """Tells what it refines, after `between` was called."""

    def __init__(self, between: Callable[[], None] = lambda: None) -> None:
        self.levels: list[int] = []
        self.between = between

    def apply(
        self, image: np.ndarray, progress: Callable[[], None] = lambda: None, *, quality: int = 40
    ) -> np.ndarray:
        if image.shape != (64, 64, 3):  # the test of whether the filter works at all
            self.levels.append(int(image[0, 0, 0]))
            self.between()
        return super().apply(image, progress)


class ByLevel(OneBox):
    """Two classes, told by the grey level: those above 100 are watched."""

    def detect(self, image: np.ndarray) -> list[Detection]:
        label = "dog" if image[0, 0, 0] > 100 else "cat"
        return [Detection(label, 0.52 if label == "dog" else 0.4, (1.0, 1.0, 5.0, 4.0))]


def states(site: Site) -> list[tuple[str, bool, bool, bool]]:
    """State of each review, and which of its pictures are there."""
    with site.catalogue.reading() as session:
        rows = session.query(cat.Review).order_by(cat.Review.id).all()
        return [
            (
                row.state.value,
                *(image is not None for image in (row.base_image, row.enhanced_image, row.refined_image)),
            )
            for row in rows
        ]


def test_the_enhanced_picture_is_shown_before_the_refined_one(site: Site) -> None:
    seen = []

    def look() -> None:
        review = site.review()
        seen.append((review.state.value, review.enhanced_image, review.refined_image))
        shown = site.blobs.get("image/1/enhanced.webp")
        assert review.shown_sha256 == hashlib.sha256(shown).hexdigest()

    site.refiner.postfilter = Slow(look)
    site.deliver(base_frame(0, grey(10)))
    site.machine.step()
    site.refiner.step()
    assert states(site) == [("leased", True, False, False)]
    site.answer({0: grey(5)})
    assert site.refiner.step() == 1
    assert seen == [("leased", "image/1/enhanced.webp", None)]
    assert states(site) == [("ready", True, True, True)]
    assert site.review().shown_sha256 != site.review().enhanced_image


def test_the_enhancement_is_asked_for_before_the_base_image_is_made(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.deliver(base_frame(0, grey(10)))
    site.machine.step()  # which may have fetched it ahead
    order: list[str] = []
    for name, kind, method in (
        ("ask", BrokerClient, "request_enhancement"),
        ("base", PictureMaker, "make_base"),
    ):
        whole = getattr(kind, method)

        def noted(*args: Any, _name: str = name, _whole: Callable[..., Any] = whole, **named: Any) -> Any:
            order.append(_name)
            return _whole(*args, **named)

        monkeypatch.setattr(kind, method, noted)
    site.refiner.step()
    assert order == ["ask", "base"]


def test_the_longer_nothing_is_due_the_longer_is_the_pause(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    refiner = site.refiner
    refiner.config = RefinerConfig(poll_seconds=0.1, idle_seconds=0.5)
    began, pauses = time.time(), []
    for quiet in (0, 2, 4, 10, 3600):
        monkeypatch.setattr(refiner, "clock", lambda quiet=quiet: began + quiet)
        refiner._busy_at = began
        pauses.append(round(refiner._pause(), 3))
    assert pauses == [0.1, 0.1, 0.2, 0.5, 0.5]


def test_all_are_enhanced_before_the_first_is_refined_and_then_in_their_turn(site: Site) -> None:
    site.machine.detector = ByLevel()
    site.machine.policy = PolicyConfig(
        watched_labels=("dog",),
        watched_apart_seconds=0,
        uncertain_apart_seconds=0,
        audit_every=0,
        once_per_object=False,
    )
    before: list[list[bool]] = []
    slow = Slow(lambda: before.append([enhanced for _, _, enhanced, _ in states(site)]))
    site.refiner.postfilter = slow
    levels = (10, 20, 130)
    site.deliver(*(base_frame(seq, grey(level)) for seq, level in enumerate(levels)))
    site.machine.step()
    site.refiner.step()
    site.answer({seq: grey(5) for seq in range(3)})
    assert site.refiner.step() == 3
    assert before[0] == [True] * 3
    assert slow.levels == [135, 15, 25], "the watched one first"


def test_what_comes_while_a_picture_is_refined_has_its_base_image_before_the_next(site: Site) -> None:
    bases: list[list[bool]] = []

    def one_more() -> None:
        bases.append([base for _, base, _, _ in states(site)])
        if len(bases) == 1:
            site.deliver(base_frame(2, grey(30)))
            site.machine.step()

    site.refiner.postfilter = Slow(one_more)
    site.deliver(base_frame(0, grey(10)), base_frame(1, grey(20)))
    site.machine.step()
    site.refiner.step()
    site.answer({0: grey(5), 1: grey(5)})
    assert site.refiner.step() == 2
    assert bases == [[True, True], [True, True, True]]


def test_a_worker_that_dies_over_one_picture_costs_those_that_wait_no_attempt(site: Site) -> None:
    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    site.refiner.postfilter = Slow(die)
    site.deliver(base_frame(0, grey(10)), base_frame(1, grey(20)))
    site.machine.step()
    site.refiner.step()
    site.answer({0: grey(5), 1: grey(5)})
    with pytest.raises(Killed):
        site.refiner.step()
    assert [site.review(number).attempts for number in (1, 2)] == [1, 0]


def test_decoded_pictures_that_wait_for_the_filter_are_bounded(site: Site) -> None:
    """One picture of 48 pixels is all that may wait: the others are decoded when it has gone."""
    site.refiner.config = RefinerConfig(max_pixels=48)
    waiting: list[int] = []
    held = site.refiner._open
    site.refiner.postfilter = Slow(lambda: waiting.append(sum(each.enhanced is not None for each in held)))
    site.deliver(*(base_frame(seq, grey(10 * seq)) for seq in range(3)))
    site.machine.step()
    site.refiner.step()
    site.answer({seq: grey(5) for seq in range(3)})
    assert site.refiner.step() == 3
    assert waiting == [1, 1, 1]


def test_what_waits_for_the_filter_keeps_no_slot(site: Site) -> None:
    site.refiner.config = RefinerConfig(in_flight=1)
    order: list[list[str]] = []

    def look() -> None:
        order.append([state for state, *_ in states(site)])

    site.refiner.postfilter = Slow(look)
    site.deliver(base_frame(0, grey(10)), base_frame(1, grey(20)))
    site.machine.step()
    site.refiner.step()
    assert [state for state, *_ in states(site)] == ["leased", "due"]
    site.answer({0: grey(5)})
    site.refiner.step()
    site.refiner.step()
    assert states(site)[1][1], "its base image is there"


def test_decoders_of_cameras_stay_between_reviews(site: Site) -> None:
    """A group has up to 255 frames, and the next review is some behind the last."""
    assert site.refiner._pictures.groups is site.refiner._pictures.groups

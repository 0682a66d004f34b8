"""Refiners where camera hosts are away or silent, pictures take long, and post-filters fail."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from secondlook.cloud import catalogue as cat
from secondlook.cloud.config import RefinerConfig
from secondlook.cloud.workers.refiner import Refiner
from secondlook.shared import packet as p
from secondlook.shared.errors import ModelCorrupt
from tests.cloud.helpers import Brighter, Edge, base_frame, grey, running, settings, wait_until
from tests.cloud.test_workers import Site, site

__all__ = ["site"]  # the fixture


def address_of(site: Site) -> str:
    return str(site.edge.bulk.getsockopt_string(32))  # LAST_ENDPOINT


def deliver_and_leave(site: Site, edge_id: str, frames: int) -> None:
    """A camera host that sends frames, and is switched off before it takes a request."""
    with Edge(address_of(site), edge_id) as edge:
        edge.hello()
        for seq in range(frames):
            edge.send(base_frame(seq, grey(10)))
        while edge.expect().cumulative < frames - 1:
            pass


def detect_all(site: Site) -> None:
    while site.machine.step():
        pass


def states(site: Site, edge_id: str) -> list[tuple[cat.ReviewState, str | None]]:
    with site.catalogue.reading() as session:
        rows = session.scalars(select(cat.Review).join(cat.Frame).where(cat.Frame.edge_id == edge_id))
        return [(row.state, row.why_waiting) for row in rows]


def answer_requests(edge: Edge, layer: bytes, *, seconds: float = 0.05) -> list[int]:
    """Answer what has been asked for; the sequences, in order."""
    answered = []
    while (heard := edge.hear("control", seconds)) is not None:
        if isinstance(heard, p.EnhancementRequest):
            answered.append(heard.seq)
            edge.send(p.Chunk(heard.request_id, 0, len(layer), zlib.crc32(layer), layer), "control")
    return answered


def step_until(site: Site, condition: Callable[[], bool], edge: Edge | None = None) -> None:
    def stepped() -> bool:
        site.refiner.step()
        if edge is not None:
            answer_requests(edge, grey(5))
        return condition()

    wait_until(stepped, 15.0)


def ready(site: Site, edge_id: str) -> int:
    return [state for state, _ in states(site, edge_id)].count(cat.ReviewState.READY)


def test_camera_hosts_that_are_away_hold_up_nobody(site: Site) -> None:
    deliver_and_leave(site, "away", 7)
    detect_all(site)
    site.refiner.step()
    site.deliver(base_frame(0, grey(10)), base_frame(1, grey(20)))
    detect_all(site)
    step_until(site, lambda: ready(site, "gate") == 2, site.edge)
    assert ready(site, "away") == 0
    step_until(site, lambda: states(site, "away") == [(cat.ReviewState.DUE, cat.CAMERA_AWAY)] * 7)
    with site.catalogue.reading() as session:
        rows = session.scalars(select(cat.Review).join(cat.Frame).where(cat.Frame.edge_id == "away")).all()
    assert all(row.base_image is not None and row.attempts == 0 for row in rows)
    with Edge(address_of(site), "away") as back:
        back.hello("control")
        step_until(site, lambda: ready(site, "away") == 7, back)
    assert {why for _, why in states(site, "away")} == {None}


def test_a_camera_host_that_stays_away_is_given_up_at_the_deadline(site: Site) -> None:
    site.refiner.config = RefinerConfig(deadline_seconds=1.5)
    deliver_and_leave(site, "away", 3)
    detect_all(site)
    step_until(site, lambda: {state for state, _ in states(site, "away")} == {cat.ReviewState.EXPIRED})
    with site.catalogue.reading() as session:
        reasons = {row.why_expired for row in session.scalars(select(cat.Review))}
    # Whoever notices first: the gateway, which keeps the request, or the refiner.
    assert reasons <= {"enhancement expired: deadline", "its camera host was away until the deadline"}


def test_a_camera_host_that_hears_and_says_nothing_keeps_no_slot_for_long(site: Site) -> None:
    """And none at all from a host that has no review under way."""
    site.refiner.config = RefinerConfig(deadline_seconds=60, in_flight=2, slot_seconds=1.0)
    with Edge(address_of(site), "mute") as mute:
        mute.hello()
        mute.hello("control")
        for seq in range(6):
            mute.send(base_frame(seq, grey(10)))
        while mute.expect().cumulative < 5:
            pass
        detect_all(site)
        site.refiner.step()
        taken = [state for state, _ in states(site, "mute")].count(cat.ReviewState.LEASED)
        assert taken == 2
        site.deliver(*(base_frame(seq, grey(10)) for seq in range(4)))
        detect_all(site)
        step_until(site, lambda: ready(site, "gate") == 4, site.edge)
        held = [state for state, _ in states(site, "mute")].count(cat.ReviewState.LEASED)
        assert held <= 4  # those in slots, and as many that stand aside
        assert len(answer_requests(mute, grey(5))) >= 2
        step_until(site, lambda: ready(site, "mute") == 6, mute)


class Tiles(Brighter):
    """A post-filter that takes its time: after every tile the clock of the site has moved on."""

    def __init__(self, site: Site, tiles: int, between: Callable[[], None] = lambda: None) -> None:
        self.site, self.tiles, self.between, self.pictures = site, tiles, between, 0

    def apply(
        self, image: np.ndarray, progress: Callable[[], None] = lambda: None, *, quality: int = 40
    ) -> np.ndarray:
        if image.shape == (64, 64, 3):  # the test of whether the filter works at all
            return image
        self.pictures += 1
        for _ in range(self.tiles):
            self.site.skew_seconds += 25.0
            progress()
            self.between()
        return super().apply(image)


def fetched(site: Site) -> None:
    site.deliver(base_frame(0, grey(10)))
    site.machine.step()
    site.refiner.step()
    site.answer({0: grey(5)})


def test_a_picture_that_outlasts_its_lease_is_refined_once(site: Site) -> None:
    """20 tiles of 25 s under a lease of 60 s, and another worker that looks for work after every one."""
    second = site.make_refiner("r2")
    slow = Tiles(site, 20, lambda: second.step() and None)
    site.refiner.postfilter = slow
    fetched(site)
    assert site.refiner.step() == 1
    review = site.review()
    assert (review.state, slow.pictures, review.lease_owner) == (cat.ReviewState.READY, 1, None)


def test_who_lost_a_review_stops_in_the_middle_of_it(site: Site) -> None:
    def lose() -> None:
        with site.catalogue.writing() as session:
            session.get_one(cat.Review, 1).lease_owner = "somebody else"

    slow = Tiles(site, 20, lose)
    site.refiner.postfilter = slow
    fetched(site)
    assert site.refiner.step() == 1
    assert site.review().lease_owner == "somebody else"
    assert slow.site.skew_seconds < 20 * 25


class Failing(Brighter):
    def __init__(self, error: Exception, *, always: bool = False) -> None:
        self.error, self.always = error, always

    def apply(
        self, image: np.ndarray, progress: Callable[[], None] = lambda: None, *, quality: int = 40
    ) -> np.ndarray:
        if self.always or image.shape != (64, 64, 3):
            raise self.error
        return image


def test_a_review_that_fails_twice_is_set_aside_with_its_cause(site: Site) -> None:
    site.refiner.postfilter = Failing(MemoryError("no 3 GB in one piece"))
    fetched(site)
    assert site.refiner.step() == 1
    review = site.review()
    assert (review.state, review.attempts) == (cat.ReviewState.DUE, 1)
    assert review.why_waiting == "to be tried again: MemoryError: no 3 GB in one piece"
    site.refiner.step()
    assert site.review().state is cat.ReviewState.DUE  # not at once
    site.skew_seconds += 11
    site.refiner.step()
    review = site.review()
    assert (review.state, review.why_expired) == (
        cat.ReviewState.EXPIRED,
        "set aside: it failed 2 times, at last with MemoryError: no 3 GB in one piece",
    )
    assert review.base_image == "image/1/base.webp"
    site.refiner.postfilter = Brighter()
    cat.retry_review(site.catalogue, 1, actor="ann", now_ns=1)
    site.refiner.step()
    assert site.review().state is cat.ReviewState.READY


def test_a_review_that_ends_its_worker_twice_is_set_aside(site: Site) -> None:
    class Killed(BaseException):
        """What no boundary catches."""

    class Deadly(Brighter):
        def apply(
            self, image: np.ndarray, progress: Callable[[], None] = lambda: None, *, quality: int = 40
        ) -> np.ndarray:
            raise Killed

    site.deliver(base_frame(0, grey(10)))
    site.machine.step()
    site.refiner.step()
    site.answer({0: grey(5)})
    for attempt in (1, 2):
        victim: Refiner = site.make_refiner(f"victim-{attempt}")
        victim.postfilter = Deadly()  # type: ignore[assignment]
        site.skew_seconds += 61
        with pytest.raises(Killed):
            victim.step()
        assert site.review().attempts == attempt
    site.skew_seconds += 61
    site.make_refiner("r9").step()
    review = site.review()
    assert review.state is cat.ReviewState.EXPIRED
    assert review.why_expired == "set aside: 2 times its worker died or hung while it was at this picture"


def test_a_post_filter_that_fails_on_any_picture_ends_its_worker(site: Site) -> None:
    site.refiner.postfilter = Failing(RuntimeError("wrong provider"), always=True)
    with pytest.raises(ModelCorrupt, match="fails on a grey picture: RuntimeError: wrong provider"):
        site.refiner.check()
    fetched(site)
    with pytest.raises(ModelCorrupt):
        site.refiner.step()
    assert site.review().state is cat.ReviewState.DUE


def test_a_frame_with_too_many_pixels_is_not_refined(tmp_path: Path) -> None:
    from secondlook.shared.codec import load_codec

    layers = (
        load_codec("lite", threads=1)
        .encode(np.full((64, 128, 3), 90, np.uint8), base_quality=20, quality=30)
        .layers
    )
    with running(settings(tmp_path)) as gateway, Edge(gateway.edge_address) as edge:
        edge.hello()
        edge.hello("control")
        site = Site(gateway, edge, tmp_path)
        site.machine.codec = site.refiner.codec = load_codec("lite", threads=1)
        with site.broker:
            site.refiner.config = RefinerConfig(max_pixels=64 * 128 - 1)
            site.deliver(base_frame(0, layers.base, width=128, height=64))
            site.machine.step()
            site.refiner.step()
        assert site.review().why_expired == ("PictureTooLarge: 128x64 is 8192 pixels, at most 8191 are taken")
        site.catalogue.close()

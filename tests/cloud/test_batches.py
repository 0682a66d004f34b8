"""Frames that one run of the detector looks at together, and what becomes of the neighbours of a bad one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from secondlook.cloud import catalogue as cat
from secondlook.shared.detection import Detection
from secondlook.shared.errors import LeaseLost
from tests.cloud.helpers import OneBox, base_frame, grey
from tests.cloud.test_workers import Site, site

__all__ = ["site"]  # the fixture

BAD = 66


class Batches(OneBox):
    """Counts how many frames each run had; fails over a level, and over any batch with it."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    def detect(self, image: np.ndarray) -> list[Detection]:
        return self.detect_batch([image])[0]

    def detect_batch(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        levels = [int(image[0, 0, 0]) for image in images]
        self.runs.append(len(levels))
        if BAD in levels:
            raise ValueError("an odd picture")
        return [[Detection("cat", level / 255, (1.0, 1.0, 5.0, 4.0))] for level in levels]


@pytest.fixture
def batches(site: Site, monkeypatch: pytest.MonkeyPatch) -> Batches:
    monkeypatch.setattr("secondlook.cloud.workers.machine.retry_delay", lambda _: 0.0)
    detector = Batches()
    site.machine.detector = detector
    return detector


def scores(site: Site) -> dict[int, float]:
    with site.catalogue.reading() as session:
        return {row.seq: round(255 * row.detections[0].score) for row in session.query(cat.Frame)}


def attempts(site: Site) -> dict[int, int]:
    return {item["seq"]: item["attempts"] for item in site.broker.stats()["dead_frames"]}


def test_a_batch_is_one_run_of_the_detector_and_every_frame_gets_its_own(
    site: Site, batches: Batches
) -> None:
    site.deliver(*(base_frame(seq, grey(10 * seq + 10)) for seq in range(4)))
    assert site.machine.step() == 4
    assert batches.runs == [4]
    assert scores(site) == {0: 10, 1: 20, 2: 30, 3: 40}
    assert site.broker.stats()["depth"] == 0


def test_a_bad_frame_in_a_batch_costs_its_neighbours_nothing(
    site: Site, batches: Batches, caplog: pytest.LogCaptureFixture
) -> None:
    site.deliver(*(base_frame(seq, grey(BAD if seq == 1 else 10)) for seq in range(4)))
    assert site.machine.step() == 4
    assert batches.runs[:5] == [4, 1, 1, 1, 1], "all together, then one by one"
    assert (
        "looking at 4 frames at once failed, each is looked at alone: ValueError: an odd picture"
        in caplog.text
    )
    assert sorted(scores(site)) == [0, 2, 3]
    assert site.machine.step() == 1, "only the bad one comes again"
    assert attempts(site) == {1: 2}


def test_a_frame_that_does_not_decode_is_left_out_of_the_batch(site: Site, batches: Batches) -> None:
    site.deliver(base_frame(0, grey(10)), base_frame(1, b"junk"), base_frame(2, grey(30)))
    assert site.machine.step() == 3
    assert batches.runs == [2] and scores(site) == {0: 10, 2: 30}


def test_what_was_in_other_hands_is_looked_at_alone_and_last(site: Site, batches: Batches) -> None:
    site.deliver(*(base_frame(seq, grey(10 * seq + 10)) for seq in range(3)))
    (first,) = site.broker.lease(1, 60.0)
    site.broker.nack(first.id, delay_seconds=0.0, why="its worker was stopped")
    order: list[int] = []
    store = site.machine._file

    def noted(frame: object, *rest: object) -> bool:
        order.append(frame.info.seq)  # type: ignore[attr-defined]
        return store(frame, *rest)  # type: ignore[arg-type]

    site.machine._file = noted  # type: ignore[method-assign,assignment]
    assert site.machine.step() == 3
    assert order == [1, 2, 0] and batches.runs == [2, 1]


def test_a_detector_without_batches_looks_at_each(site: Site) -> None:
    site.deliver(*(base_frame(seq, grey(10)) for seq in range(3)))
    assert site.machine.step() == 3
    assert site.frames() == [(0, 1), (1, 1), (2, 1)]


def test_a_lease_lost_in_the_middle_of_a_batch_ends_it(
    site: Site, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.deliver(*(base_frame(seq, grey(10)) for seq in range(2)))

    def lost(images: object) -> object:
        raise LeaseLost("another worker has it")

    monkeypatch.setattr(batches, "detect_batch", lost)
    assert site.machine.step() == 2
    assert site.frames() == []

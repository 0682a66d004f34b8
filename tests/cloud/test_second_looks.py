"""A second look at doubts: the comparison, when it is made, and what a refiner does with it, whatever goes wrong."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue import Doubts
from secondlook.cloud.config import PolicyConfig
from secondlook.cloud.workers.policy import FrameIdentity
from secondlook.cloud.workers.redetector import Redetector
from secondlook.cloud.workers.refiner import Refiner
from secondlook.cloud.workers.secondlook import Outcome, SecondLook, look_again
from secondlook.shared import metrics
from secondlook.shared.crop import Crop
from secondlook.shared.detection import Detection
from secondlook.shared.errors import DetectorError
from tests.cloud.helpers import BOOT, OneBox, base_frame, grey
from tests.cloud.test_workers import Site, site

__all__ = ["site"]  # the fixture

S = cat.ReviewState
POLICY = PolicyConfig(audit_every=0, uncertain_apart_seconds=0, once_per_object=False, second_look="certain")
NAME, SIZE = FrameIdentity("gate", BOOT, 0), (640, 360)
PLACE = (100.0, 100.0, 160.0, 140.0)
BESIDE = (400.0, 200.0, 460.0, 240.0)


def look(
    *found: Detection,
    policy: PolicyConfig = POLICY,
    crop: Crop | None = None,
    doubts: tuple[Detection, ...] = (Detection("car", 0.41, PLACE),),
) -> SecondLook:
    of_frame = Doubts("tiny", tuple(enumerate(doubts)))
    return look_again(policy, NAME, of_frame, found, size=SIZE, crop=crop)


def outcome(*found: Detection, crop: Crop | None = None) -> tuple[Outcome, float | None]:
    (box,) = look(*found, crop=crop).boxes
    return box.outcome, box.after


def test_each_outcome() -> None:
    moved = (110.0, 104.0, 170.0, 144.0)  # IoU 0.6
    off = (140.0, 120.0, 200.0, 160.0)  # IoU 0.1
    assert outcome(Detection("car", 0.55, moved)) == (Outcome.CONFIRMED, 0.55)
    assert outcome(Detection("car", 0.54, PLACE)) == (Outcome.IN_DOUBT, 0.54)
    assert outcome(Detection("car", 0.30, PLACE)) == (Outcome.IN_DOUBT, 0.30)
    assert outcome(Detection("car", 0.29, PLACE)) == (Outcome.REFUTED, 0.29)
    assert outcome() == (Outcome.REFUTED, None)
    assert outcome(Detection("car", 0.9, off)) == (Outcome.REFUTED, None), "another one beside it"
    assert outcome(Detection("truck", 0.9, PLACE)) == (Outcome.IN_DOUBT, None), "something is there"
    assert outcome(Detection("truck", 0.2, PLACE)) == (Outcome.REFUTED, None)
    assert outcome(Detection("truck", 0.9, PLACE), Detection("car", 0.6, PLACE)) == (Outcome.CONFIRMED, 0.6)


def test_what_lies_outside_the_crop_stays_in_doubt() -> None:
    whole, cut = Crop(96, 96, 160, 160), Crop(96, 96, 159, 160)
    sure = Detection("car", 0.9, PLACE)
    assert outcome(sure, crop=whole) == (Outcome.CONFIRMED, 0.9)
    assert outcome(sure, crop=cut) == (Outcome.IN_DOUBT, 0.9)
    assert outcome(crop=cut) == (Outcome.IN_DOUBT, None)


def test_all_doubts_have_to_be_settled() -> None:
    two = (Detection("car", 0.41, PLACE), Detection("car", 0.5, BESIDE))
    confirmed, both = (replace(POLICY, second_look=name) for name in ("confirmed", "certain"))
    sure = Detection("car", 0.8, PLACE)
    assert look(sure, doubts=two, policy=both).settles, "one confirmed, one refuted"
    assert not look(sure, doubts=two, policy=confirmed).settles, "what is not found may yet be there"
    assert look(sure, doubts=two[:1], policy=confirmed).settles
    assert not look(sure, doubts=two, policy=replace(POLICY, second_look="none")).settles
    assert not look(Detection("car", 0.8, PLACE), Detection("car", 0.4, BESIDE), doubts=two).settles
    assert not look(doubts=()).settles


def test_what_people_are_to_see_however_sure_it_is_settles_nothing() -> None:
    sure, elsewhere = Detection("car", 0.83, PLACE), Detection("person", 0.83, BESIDE)
    assert look(sure, elsewhere).settles
    for policy, found, called in (
        (replace(POLICY, watched_labels=("car",)), (sure,), "watched: car 0.83"),
        (replace(POLICY, watched_labels=("person",)), (sure, elsewhere), "watched: person 0.83"),
        (replace(POLICY, watched_labels=("dog",)), (sure, elsewhere), None),
        (replace(POLICY, rule_score=0.8), (sure,), "rule: car 0.83"),
        (replace(POLICY, watched_labels=("car",), min_height=0.5), (sure,), None),
        (replace(POLICY, every_nth=1, audit_every=1), (sure,), None),
    ):
        seen = look(*found, policy=policy)
        assert (seen.called_for, seen.settles) == (called, called is None)


def test_what_is_kept_of_it() -> None:
    assert look(Detection("car", 0.8349999, PLACE)).as_json() == {
        "detector": "tiny",
        "boxes": [{"index": 0, "label": "car", "before": 0.41, "after": 0.835, "outcome": "confirmed"}],
        "called_for": None,
    }


def boxes() -> st.SearchStrategy[tuple[float, float, float, float]]:
    side = st.integers(0, 30)
    return st.tuples(side, side, st.integers(1, 30), st.integers(1, 30)).map(
        lambda b: (float(b[0]), float(b[1]), float(b[0] + b[2]), float(b[1] + b[3]))
    )


def detections() -> st.SearchStrategy[Detection]:
    return st.builds(Detection, st.sampled_from(["car", "dog"]), st.floats(0, 1), boxes())


@given(st.lists(detections(), max_size=4).map(tuple), st.lists(detections(), max_size=6))
def test_a_second_look_depends_on_what_is_in_place_alone(
    doubts: tuple[Detection, ...], found: list[Detection]
) -> None:
    seen = look(*found, doubts=doubts)
    assert [box.index for box in seen.boxes] == list(range(len(doubts)))
    far = Detection("car", 0.99, (500.0, 300.0, 540.0, 340.0))
    assert look(*reversed(found), far, doubts=doubts).boxes == seen.boxes
    surer = [replace(one, score=min(1.0, one.score + 0.2)) for one in found]
    for box, doubt, then in zip(seen.boxes, doubts, look(*surer, doubts=doubts).boxes, strict=True):
        sure = box.after is not None and box.after >= POLICY.uncertain_high
        assert (box.outcome is Outcome.CONFIRMED) == sure
        assert box.outcome is not Outcome.CONFIRMED or then.outcome is Outcome.CONFIRMED
        assert then.outcome is not Outcome.REFUTED or box.outcome is Outcome.REFUTED
        assert not sure or any(one.label == doubt.label for one in found)
    assert all(box.outcome is Outcome.REFUTED for box in look(doubts=doubts).boxes)
    outside = look(*found, doubts=doubts, crop=Crop(100, 100, 200, 200))
    assert all(box.outcome is Outcome.IN_DOUBT for box in outside.boxes)
    certain = all(box.outcome is not Outcome.IN_DOUBT for box in seen.boxes)
    assert seen.settles == (bool(doubts) and certain)


class Again(OneBox):
    """The machine's detector, which sees full quality otherwise; ``meanwhile`` happens while it looks."""

    def __init__(self, score: float | None, name: str = "one-box") -> None:
        self.name, self.score, self.looks = name, score, 0
        self.meanwhile: Callable[[], None] = lambda: None

    def detect(self, image: np.ndarray) -> list[Detection]:
        self.looks += 1
        self.meanwhile()
        return [] if self.score is None else [Detection("cat", self.score, (1.0, 1.0, 5.0, 4.0))]


class Dies(BaseException):
    """What ends a process."""


@pytest.fixture
def doubtful(site: Site) -> Site:
    site.machine.policy = POLICY
    return site


def watching(site: Site, detector: Again, policy: PolicyConfig = POLICY, owner: str = "r1") -> Refiner:
    site.refiner = site.make_refiner(owner)
    site.refiner.redetector = Redetector(policy, lambda: detector)
    return site.refiner


def come(site: Site, seq: int = 0) -> None:
    """A frame in doubt comes, and its enhancement."""
    site.deliver(base_frame(seq, grey(10 + seq)))
    site.machine.step()
    site.refiner.step()
    site.answer({seq: grey(5)})


@pytest.mark.parametrize("score", [0.83, None])
def test_a_doubt_that_is_none_any_more_needs_neither_filter_nor_person(
    doubtful: Site, score: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, detector = doubtful, Again(score)
    refiner = watching(site, detector)
    counted: list[tuple[object, ...]] = []
    come(site)
    monkeypatch.setattr(metrics, "count", lambda *name, **_: counted.append(name))
    monkeypatch.setattr(refiner.postfilter, "apply", lambda *_, **__: pytest.fail("nobody sees it"))
    assert refiner.step() == 1
    review = site.review()
    assert (review.state, review.refined_image, detector.looks) == (S.SETTLED, None, 1)
    assert review.second_look == {
        "detector": "one-box",
        "boxes": [
            {
                "index": 0,
                "label": "cat",
                "before": 0.4,
                "after": score,
                "outcome": "confirmed" if score else "refuted",
            }
        ],
        "called_for": None,
    }
    shown = site.blobs.get(str(review.enhanced_image))
    assert review.shown_sha256 == hashlib.sha256(shown).hexdigest()
    assert ("reviews_settled_total", "gate") in counted and (refiner.done, refiner._open) == (1, [])
    assert review.attempts == 0 and refiner.step() == 0


def test_what_stays_in_doubt_goes_to_a_person_who_sees_what_was_said(doubtful: Site) -> None:
    site = doubtful
    refiner = watching(site, Again(0.45))
    come(site)
    assert refiner.step() == 1
    review = site.review()
    assert review.state is S.READY and review.refined_image is not None
    assert review.second_look is not None
    assert review.second_look["boxes"][0]["outcome"] == "in_doubt"


@pytest.mark.parametrize(
    "beside",
    [
        {"every_nth": 1},
        {"audit_every": 1},
        {"watched_labels": ("cat",), "watched_score": 0.4},
        {"rule_score": 0.4},
    ],
)
def test_a_review_that_another_rule_calls_for_is_not_looked_at_again(
    doubtful: Site, beside: dict[str, Any]
) -> None:
    site, detector, policy = doubtful, Again(0.83), replace(POLICY, **beside)
    site.machine.policy = policy
    refiner = watching(site, detector, policy)
    come(site)
    refiner.step()
    assert (site.review().state, detector.looks, site.review().second_look) == (S.READY, 0, None)


def test_one_that_a_person_asked_for_is_not_looked_at_again(doubtful: Site) -> None:
    site, detector = doubtful, Again(0.83)
    refiner = watching(site, detector)
    site.deliver(base_frame(0, grey(10)))
    site.machine.step()
    cat.want_whole_frame(site.catalogue, 1, actor="bea", now_ns=1)
    refiner.step()
    site.answer({0: grey(5)})
    refiner.step()
    assert (site.review().state, detector.looks) == (S.READY, 0)


def test_one_that_a_person_asks_for_meanwhile_goes_there(doubtful: Site) -> None:
    site, detector = doubtful, Again(0.83)
    refiner = watching(site, detector)
    detector.meanwhile = lambda: (cat.ask_for_review(site.catalogue, 1, actor="bea", now_ns=1), None)[1]
    come(site)
    assert refiner.step() == 1
    assert (site.review().state, detector.looks, refiner.done) == (S.READY, 1, 1)


def test_one_that_went_to_another_worker_meanwhile_is_left_to_it(doubtful: Site) -> None:
    site, detector = doubtful, Again(0.83)
    refiner = watching(site, detector)

    def lose() -> None:
        later = int((refiner.clock() + 61) * 1e9)
        assert cat.lease_due_review(site.catalogue, "r2", lease_seconds=60, now_ns=later) is not None

    detector.meanwhile = lose
    come(site)
    refiner.step()
    assert (site.review().state, site.review().lease_owner) == (S.LEASED, "r2")
    assert refiner._open == []


def test_a_worker_that_dies_over_it_is_followed_by_one_that_does_not_look(doubtful: Site) -> None:
    site, detector = doubtful, Again(0.83)
    refiner = watching(site, detector)

    def die() -> None:
        raise Dies

    detector.meanwhile = die
    come(site)
    with pytest.raises(Dies):
        refiner.step()
    assert (site.review().state, site.review().attempts) == (S.LEASED, 1)
    site.skew_seconds = 61
    again = watching(site, detector, owner="r2")
    again.step()
    assert again.step() + again.done >= 1
    assert (site.review().state, detector.looks) == (S.READY, 1)


def test_a_detector_that_fails_over_a_picture_loses_nothing(
    doubtful: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site, detector = doubtful, Again(0.83)
    refiner = watching(site, detector)

    def fail() -> None:
        if detector.looks == 1:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    detector.meanwhile = fail
    come(site)
    assert refiner.step() == 1
    assert site.review().state is S.READY and site.review().second_look is None
    assert "the second look at review 1 failed, a person is asked: RuntimeError: CUDA error" in caplog.text
    come(site, 1)
    refiner.step()
    assert site.review(2).state is S.SETTLED


def test_a_detector_that_cannot_be_opened_is_told_of_once_and_tried_again(
    doubtful: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site, now = doubtful, [0.0]
    tries: list[float] = []

    def opened() -> Again:
        tries.append(now[0])
        if now[0] < 600:
            raise DetectorError("no detector at /models/x.onnx: there is no such file")
        return Again(0.83)

    refiner = site.refiner
    refiner.redetector = Redetector(POLICY, opened, lambda: now[0])
    refiner.step()
    assert tries == [], "no doubt, no detector"
    for seq in range(2):
        come(site, seq)
        refiner.step()
        assert site.review(seq + 1).state is S.READY
    errors = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert tries == [0.0] and len(errors) == 1 and "/models/x.onnx: there is no such file" in errors[0]
    now[0] = 601.0
    come(site, 2)
    refiner.step()
    assert site.review(3).state is S.SETTLED and len(tries) == 2


def test_another_detector_than_the_machines_settles_nothing(
    doubtful: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site, detector = doubtful, Again(0.83, "other-0a0b")
    refiner = watching(site, detector)
    for seq in range(2):
        come(site, seq)
        refiner.step()
    assert [site.review(number).state for number in (1, 2)] == [S.READY, S.READY] and detector.looks == 0
    told = [record for record in caplog.records if "no second look" in record.message]
    assert len(told) == 1 and "what one-box found" in told[0].message and "other-0a0b" in told[0].message


def test_the_setting_turns_it_off(doubtful: Site) -> None:
    site = doubtful
    site.refiner.redetector = Redetector(
        replace(POLICY, second_look="none"), lambda: pytest.fail("it is not even opened")
    )
    come(site)
    site.refiner.step()
    assert site.review().state is S.READY

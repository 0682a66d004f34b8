from __future__ import annotations

import pytest

from secondlook.cloud.catalogue import Rule
from secondlook.cloud.config import PolicyConfig
from secondlook.cloud.workers.policy import FrameIdentity, ReviewReason, ordinal, wish_for_review
from secondlook.shared.detection import Detection
from secondlook.shared.errors import ConfigError

FRAME = FrameIdentity("gate", "ab" * 16, 7)
QUIET = PolicyConfig(uncertain_low=0, uncertain_high=0, audit_every=0)
SECRET = bytes(range(32))


def found(*pairs: tuple[str, float]) -> list[Detection]:
    return [Detection(label, score, (0.0, 0.0, 1.0, 1.0)) for label, score in pairs]


def with_rules(**rules: object) -> PolicyConfig:
    return PolicyConfig(**{**vars(QUIET), **rules})  # type: ignore[arg-type]


def wishes(
    config: PolicyConfig, detections: list[Detection], frame: FrameIdentity = FRAME, secret: bytes = SECRET
) -> tuple[ReviewReason, ...]:
    return wish_for_review(config, frame, detections, secret=secret)


def test_nothing_is_wished_for_when_every_rule_is_off() -> None:
    assert wishes(QUIET, found(("cat", 0.5), ("dog", 1.0))) == ()


@pytest.mark.parametrize(("score", "wished"), [(0.29, False), (0.3, True), (0.54, True), (0.55, False)])
def test_the_uncertain_band_includes_its_lower_end(score: float, wished: bool) -> None:
    config = with_rules(uncertain_low=0.3, uncertain_high=0.55)
    assert bool(wishes(config, found(("cat", score)))) == wished


def test_the_least_certain_box_is_named() -> None:
    config = with_rules(uncertain_low=0.3, uncertain_high=0.5)
    wished = wishes(config, found(("cat", 0.31), ("dog", 0.41), ("cow", 0.9)))
    assert wished == (ReviewReason(Rule.UNCERTAIN, "uncertain: dog 0.41", 50, 5.0, boxes=(0, 1), once=True),)


def test_every_reason_is_kept_the_most_urgent_first() -> None:
    config = with_rules(
        uncertain_low=0.3,
        uncertain_high=0.55,
        watched_labels=("dog",),
        rule_score=0.58,
        every_nth=7,
        audit_every=1,
    )
    wished = wishes(config, found(("cat", 0.4), ("dog", 0.6)))
    assert wished == (
        ReviewReason(Rule.WATCHED, "watched: dog 0.60", 90, 60.0, boxes=(1,), once=True),
        ReviewReason(Rule.OPERATOR, "rule: dog 0.60", 70, 60.0, boxes=(1,), once=True),
        ReviewReason(Rule.UNCERTAIN, "uncertain: cat 0.40", 50, 5.0, boxes=(0,), once=True),
        ReviewReason(Rule.EVERY_NTH, "every 7th frame", 20, 0.0),
        ReviewReason(Rule.AUDIT, "audit sample", 10, 0.0),
    )


def test_each_rule_has_a_distance_of_its_own_but_the_audit_sample() -> None:
    names = {name for name in vars(QUIET) if name.endswith("_apart_seconds")}
    assert names == {
        "uncertain_apart_seconds",
        "watched_apart_seconds",
        "rule_apart_seconds",
        "every_nth_apart_seconds",
    }
    config = with_rules(
        uncertain_low=0.3,
        uncertain_high=0.55,
        watched_labels=("dog",),
        rule_score=0.58,
        every_nth=1,
        audit_every=1,
        **{name: float(position) for position, name in enumerate(sorted(names), 1)},
    )
    wished = {wish.rule: wish.apart_seconds for wish in wishes(config, found(("cat", 0.4), ("dog", 0.6)))}
    assert wished == {
        Rule.EVERY_NTH: 1.0,
        Rule.OPERATOR: 2.0,
        Rule.UNCERTAIN: 3.0,
        Rule.WATCHED: 4.0,
        Rule.AUDIT: 0.0,
    }


@pytest.mark.parametrize("apart", [-1.0, float("inf"), float("nan")])
@pytest.mark.parametrize("rule", ["uncertain", "watched", "rule", "every_nth"])
def test_a_distance_in_time_is_finite(rule: str, apart: float) -> None:
    with pytest.raises(ConfigError, match=f"{rule}_apart_seconds"):
        with_rules(**{f"{rule}_apart_seconds": apart})


def placed(*boxes: tuple[float, float, float, float]) -> list[Detection]:
    return [Detection("dog", 0.9, box) for box in boxes]


def boxes_of(config: PolicyConfig, detections: list[Detection], edge_id: str = "gate") -> tuple[int, ...]:
    """Which detections of a frame of 200x100 pixels its one wish speaks of."""
    frame = FrameIdentity(edge_id, "ab" * 16, 7)
    wished = wish_for_review(config, frame, detections, secret=SECRET, size=(200, 100))
    return () if not wished else wished[0].boxes or ()


def test_rules_look_only_into_their_zones() -> None:
    """Where something stands: the middle of its lower edge."""
    found_there = placed((10, 0, 30, 40), (10, 30, 30, 80), (150, 40, 170, 100), (10, 60, 30, 100))
    config = with_rules(watched_labels=("dog",), zones=("gate: 0,0.5 0.5,0.5 0.5,1 0,1",))
    assert boxes_of(config, found_there) == (1, 3)
    assert boxes_of(config, found_there, "barn") == (0, 1, 2, 3), "who has no zone is seen everywhere"
    two = with_rules(watched_labels=("dog",), zones=(*config.zones, "*: 0.7,0.9 1,0.9 1,1 0.7,1"))
    assert boxes_of(two, found_there) == (1, 2, 3) and boxes_of(two, found_there, "barn") == (2,)


def test_rules_look_only_at_what_has_the_size() -> None:
    config = with_rules(watched_labels=("dog",), min_height=0.2, max_height=0.5)
    assert boxes_of(config, placed((0, 0, 9, 19), (0, 0, 9, 20), (0, 0, 9, 50), (0, 0, 9, 51))) == (1, 2)
    with pytest.raises(ConfigError, match="min_height"):
        with_rules(min_height=0.6, max_height=0.5)
    with pytest.raises(ConfigError, match="no corner"):
        with_rules(zones=("gate: here",))


def test_samples_take_no_notice_of_zones() -> None:
    config = with_rules(every_nth=1, audit_every=1, zones=("gate: 0,0 0.1,0 0,0.1",), dwell_seconds=60)
    wished = wish_for_review(config, FRAME, placed((50, 50, 90, 90)), secret=SECRET, size=(200, 100))
    assert [(wish.rule, wish.boxes, wish.dwell_seconds) for wish in wished] == [
        (Rule.EVERY_NTH, None, 0.0),
        (Rule.AUDIT, None, 0.0),
    ]


def test_the_operators_rule() -> None:
    config = with_rules(rule_score=0.8)
    assert wishes(config, found(("cat", 0.79))) == ()
    assert [wish.reason for wish in wishes(config, found(("cat", 0.8)))] == ["rule: cat 0.80"]
    config = with_rules(rule_score=0.8, rule_labels=("dog",))
    assert wishes(config, found(("cat", 0.9))) == ()


def test_every_nth_frame() -> None:
    config = with_rules(every_nth=3)
    wished = [wishes(config, [], FrameIdentity("gate", "ab" * 16, seq)) for seq in range(7)]
    assert [bool(wish) for wish in wished] == [True, False, False, True, False, False, True]


@pytest.mark.parametrize(
    ("every", "words"),
    [(1, "every frame"), (2, "every 2nd frame"), (3, "every 3rd frame"), (20, "every 20th frame")],
)
def test_every_nth_frame_in_words(every: int, words: str) -> None:
    (wish,) = wishes(with_rules(every_nth=every), [], FrameIdentity("gate", "ab" * 16, 0))
    assert wish.reason == words


def test_ordinals() -> None:
    assert [ordinal(n) for n in (1, 2, 3, 4, 10, 11, 12, 13, 21, 22, 23, 101, 111, 112, 1003)] == [
        *("1st", "2nd", "3rd", "4th", "10th", "11th", "12th", "13th"),
        *("21st", "22nd", "23rd", "101st", "111th", "112th", "1003rd"),
    ]


def drawn(boot_id: str, frames: int, every: int, secret: bytes = SECRET) -> set[int]:
    config = with_rules(audit_every=every)
    identities = [FrameIdentity("gate", boot_id, seq) for seq in range(frames)]
    return {frame.seq for frame in identities if wishes(config, [], frame, secret)}


def test_the_audit_sample_is_stable_nested_and_of_the_right_size() -> None:
    boot = "ab" * 16
    assert drawn(boot, 4000, 20) == drawn(boot, 4000, 20)
    assert drawn(boot, 4000, 40) < drawn(boot, 4000, 20)
    assert 140 < len(drawn(boot, 4000, 20)) < 260
    assert len(drawn(boot, 4000, 1)) == 4000


def test_a_camera_that_chooses_its_boot_id_cannot_dodge_the_audit_sample() -> None:
    """Of 1,000 boot ids it takes the one that a draw with any other secret spares: it fares as by chance."""
    boots = [f"{number:032x}" for number in range(1000)]
    guess, frames, every = b"what a camera may guess", 100, 20
    spared = [boot for boot in boots if not drawn(boot, frames, every, guess)]
    assert 1 <= len(spared) <= 30  # (19/20)^100 of them: 6 in the mean
    hits = sum(len(drawn(boot, frames, every)) for boot in spared)
    assert hits >= len(spared)  # 5 each in the mean; without a secret 0
    total = sum(len(drawn(boot, frames, every)) for boot in boots)
    assert 4700 < total < 5300  # 5,000 in the mean, 69 its deviation


@pytest.mark.parametrize(
    "wrong",
    [
        {"uncertain_low": 0.9},
        {"rule_score": 1.5},
        {"audit_priority": 101},
        {"every_nth": -1},
        {"max_open_reviews": -1},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        PolicyConfig(**wrong)  # type: ignore[arg-type]

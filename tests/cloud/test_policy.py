from __future__ import annotations

import pytest

from secondlook.cloud.workers.policy import FrameIdentity, PolicyConfig, ReviewReason, wish_for_review
from secondlook.shared.detection import Detection
from secondlook.shared.errors import ConfigError

FRAME = FrameIdentity("gate", "ab" * 16, 7)
QUIET = PolicyConfig(uncertain_low=0, uncertain_high=0, audit_every=0)


def found(*pairs: tuple[str, float]) -> list[Detection]:
    return [Detection(label, score, (0.0, 0.0, 1.0, 1.0)) for label, score in pairs]


def with_rules(**rules: object) -> PolicyConfig:
    return PolicyConfig(**{**vars(QUIET), **rules})  # type: ignore[arg-type]


def test_nothing_is_wished_for_when_every_rule_is_off() -> None:
    assert wish_for_review(QUIET, FRAME, found(("cat", 0.5), ("dog", 1.0))) is None


@pytest.mark.parametrize(("score", "wished"), [(0.29, False), (0.3, True), (0.54, True), (0.55, False)])
def test_the_uncertain_band_includes_its_lower_end(score: float, wished: bool) -> None:
    config = with_rules(uncertain_low=0.3, uncertain_high=0.55)
    assert (wish_for_review(config, FRAME, found(("cat", score))) is not None) == wished


def test_the_least_certain_box_is_named() -> None:
    config = with_rules(uncertain_low=0.3, uncertain_high=0.5)
    wish = wish_for_review(config, FRAME, found(("cat", 0.31), ("dog", 0.41), ("cow", 0.9)))
    assert wish == ReviewReason("uncertain: dog 0.41", 50, 5.0)


def test_watched_classes_win_over_doubt() -> None:
    config = with_rules(uncertain_low=0.3, uncertain_high=0.55, watched_labels=("dog",))
    assert wish_for_review(config, FRAME, found(("cat", 0.4), ("dog", 0.6))) == ReviewReason(
        "watched: dog 0.60", 90
    )
    assert wish_for_review(config, FRAME, found(("dog", 0.45))) == ReviewReason(
        "uncertain: dog 0.45", 50, 5.0
    )


def test_only_doubt_gives_way_to_reviews_nearby() -> None:
    config = with_rules(
        uncertain_low=0.3, uncertain_high=0.55, uncertain_apart=2.5, watched_labels=("dog",), rule_score=0.9,
        every_nth=1,
    )  # fmt: skip
    wishes = [
        wish_for_review(config, FRAME, found(*boxes))
        for boxes in ([("cat", 0.4)], [("dog", 0.6)], [("cat", 0.95)], [])
    ]
    assert [wish and (wish.reason, wish.apart_seconds) for wish in wishes] == [
        ("uncertain: cat 0.40", 2.5), ("watched: dog 0.60", 0), ("rule: cat 0.95", 0), ("every 1th frame", 0),
    ]  # fmt: skip


@pytest.mark.parametrize("apart", [-1.0, float("inf"), float("nan")])
def test_a_distance_in_time_is_finite(apart: float) -> None:
    with pytest.raises(ConfigError, match="uncertain_apart"):
        with_rules(uncertain_apart=apart)


def test_the_operators_rule() -> None:
    config = with_rules(rule_score=0.8)
    assert wish_for_review(config, FRAME, found(("cat", 0.79))) is None
    assert wish_for_review(config, FRAME, found(("cat", 0.8))) == ReviewReason("rule: cat 0.80", 70)
    config = with_rules(rule_score=0.8, rule_labels=("dog",))
    assert wish_for_review(config, FRAME, found(("cat", 0.9))) is None


def test_every_nth_frame() -> None:
    config = with_rules(every_nth=3)
    wished = [wish_for_review(config, FrameIdentity("gate", "ab" * 16, seq), []) for seq in range(7)]
    assert [wish is not None for wish in wished] == [True, False, False, True, False, False, True]


def test_the_audit_sample_is_stable_nested_and_of_the_right_size() -> None:
    def sample(every: int) -> set[int]:
        config = with_rules(audit_every=every)
        frames = [FrameIdentity("gate", "ab" * 16, seq) for seq in range(4000)]
        return {frame.seq for frame in frames if wish_for_review(config, frame, []) is not None}

    assert sample(20) == sample(20)
    assert sample(40) < sample(20)
    assert 140 < len(sample(20)) < 260
    assert len(sample(1)) == 4000


@pytest.mark.parametrize(
    "wrong",
    [{"uncertain_low": 0.9}, {"rule_score": 1.5}, {"audit_priority": 101}, {"every_nth": -1}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        PolicyConfig(**wrong)  # type: ignore[arg-type]

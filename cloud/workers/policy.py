"""Which frames a person shall see: pure rules over what the machine found.

A frame is reviewed for the first of these that holds, in the order of their default priorities: it shows a watched
class; the operator's own rule matches; the detector is in doubt; the frame belongs to the random audit sample. The
sample depends on the frame's identity alone, so that a redelivered frame meets the same decision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from secondlook.shared.detection import Detection
from secondlook.shared.errors import ConfigError
from secondlook.shared.settings import DAY_SECONDS, Settings, within

Score = Annotated[float, within(0, 1, "")]
Priority = Annotated[int, within(0, 100, "")]
_Count = Annotated[int, within(0, 1_000_000_000, "frames")]

AUDIT_SAMPLE = "audit sample"  # the reason of reviews that were drawn at random; retention knows them by it


@dataclass(frozen=True)
class FrameIdentity:
    edge_id: str
    boot_id: str
    seq: int


@dataclass(frozen=True)
class ReviewReason:
    """Why a frame shall be seen, for people, and how soon: higher priorities go first, 0 to 100.

    It is given up where a frame of the same camera host captured less than `apart_seconds` before or after it is
    under review already: the same thing is there to see. 0: it never is.
    """

    reason: str
    priority: int
    apart_seconds: float = 0.0


@dataclass(frozen=True)
class PolicyConfig(Settings):
    """The rules. Scores are between 0 and 1; an empty or zero setting turns its rule off."""

    uncertain_low: Score = 0.30
    uncertain_high: Score = 0.55  # a detection with a score in [low, high) is in doubt
    uncertain_priority: Priority = 50
    # between frames of one camera host reviewed for doubt; 0 reviews every one
    uncertain_apart: Annotated[float, within(0, DAY_SECONDS, "seconds")] = 5.0
    watched_labels: tuple[str, ...] = ()
    watched_score: Score = 0.5
    watched_priority: Priority = 90
    rule_labels: tuple[str, ...] = ()  # the operator's rule: these labels (none: any) ...
    rule_score: Score = 0.0  # ... from this score on; 0 turns the rule off
    rule_priority: Priority = 70
    every_nth: _Count = 0  # review frames whose sequence is a multiple of it
    every_nth_priority: Priority = 20
    audit_every: _Count = 200  # one frame in so many, chosen at random
    audit_priority: Priority = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.uncertain_low > self.uncertain_high:
            raise ConfigError("uncertain_low must not exceed uncertain_high")


def wish_for_review(
    config: PolicyConfig, frame: FrameIdentity, detections: Sequence[Detection]
) -> ReviewReason | None:
    """The most urgent reason to show this frame to a person, or None."""
    wishes = [
        wish
        for wish in (
            _watched(config, detections),
            _operator_rule(config, detections),
            _uncertain(config, detections),
            _every_nth(config, frame),
            _audit(config, frame),
        )
        if wish is not None
    ]
    return max(wishes, key=lambda wish: wish.priority, default=None)


def _named(rule: str, detection: Detection) -> str:
    return f"{rule}: {detection.label} {detection.score:.2f}"


def _watched(config: PolicyConfig, detections: Sequence[Detection]) -> ReviewReason | None:
    seen = [
        found
        for found in detections
        if found.label in config.watched_labels and found.score >= config.watched_score
    ]
    best = max(seen, key=lambda found: found.score, default=None)
    return None if best is None else ReviewReason(_named("watched", best), config.watched_priority)


def _operator_rule(config: PolicyConfig, detections: Sequence[Detection]) -> ReviewReason | None:
    if config.rule_score == 0:
        return None
    seen = [
        found
        for found in detections
        if found.score >= config.rule_score and (not config.rule_labels or found.label in config.rule_labels)
    ]
    best = max(seen, key=lambda found: found.score, default=None)
    return None if best is None else ReviewReason(_named("rule", best), config.rule_priority)


def _uncertain(config: PolicyConfig, detections: Sequence[Detection]) -> ReviewReason | None:
    middle = (config.uncertain_low + config.uncertain_high) / 2
    seen = [found for found in detections if config.uncertain_low <= found.score < config.uncertain_high]
    worst = min(seen, key=lambda found: abs(found.score - middle), default=None)
    if worst is None:
        return None
    return ReviewReason(_named("uncertain", worst), config.uncertain_priority, config.uncertain_apart)


def _every_nth(config: PolicyConfig, frame: FrameIdentity) -> ReviewReason | None:
    if config.every_nth == 0 or frame.seq % config.every_nth:
        return None
    return ReviewReason(f"every {config.every_nth}th frame", config.every_nth_priority)


def _audit(config: PolicyConfig, frame: FrameIdentity) -> ReviewReason | None:
    if config.audit_every == 0:
        return None
    name = f"{frame.edge_id}/{frame.boot_id}/{frame.seq}".encode()
    draw = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")
    # Comparing, not taking a remainder: the frames of a sparser sample are then part of a denser one.
    if draw * config.audit_every >= 1 << 64:
        return None
    return ReviewReason(AUDIT_SAMPLE, config.audit_priority)

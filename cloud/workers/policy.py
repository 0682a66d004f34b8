"""Which frames a person shall see: pure rules over what the machine found.

A frame is reviewed when any of these holds: it shows a watched class; the operator's own rule matches; the detector
is in doubt; its number is a multiple of `every_nth`; it belongs to the random audit sample. It keeps every reason that
holds. The sample depends on the frame's identity and on a secret of the site: a redelivered frame meets the same
decision on every worker, and a camera host, which chooses its own names, cannot foresee it.

The three rules that look at detections see only those in the zones and of the sizes that are set, and speak of objects
(`shared.tracking`): something parked in view is reviewed once a rule, and what only passes may be left out.

Each rule has a distance of its own (`*_apart_seconds`), measured against reviews that the same rule called for. The
audit sample has none: a sample thinned out by what lies beside it says nothing of the whole. For the same reason the
budgets of open reviews do not touch it; `audit_every` alone sets its size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from secondlook.cloud.catalogue import Rule
from secondlook.cloud.config import PolicyConfig
from secondlook.shared.crop import Crop
from secondlook.shared.detection import Detection
from secondlook.shared.zones import Zone, parse_zone, stands_in

_LOWEST = 1 - 1e-6
_Indexed = tuple[int, Detection]


@dataclass(frozen=True)
class FrameIdentity:
    edge_id: str
    boot_id: str
    seq: int


@dataclass(frozen=True)
class ReviewReason:
    """Why a frame shall be seen, for people, and how soon: higher priorities go first, 0 to 100.

    By itself it calls for no review where the same rule called for one of a frame of the same camera host captured
    less than `apart_seconds` before or after: the same thing is there to see. 0: it always does.

    `boxes`: the detections, by index, that it speaks of; None where it speaks of none. Only objects in view for
    `dwell_seconds` count, and with `once` each calls for one review by this rule.
    """

    rule: Rule
    reason: str
    priority: int
    apart_seconds: float = 0.0
    boxes: tuple[int, ...] | None = None
    dwell_seconds: float = 0.0
    once: bool = False


def wish_for_review(
    config: PolicyConfig,
    frame: FrameIdentity,
    detections: Sequence[Detection],
    *,
    secret: bytes,
    size: tuple[int, int] | None = None,
) -> tuple[ReviewReason, ...]:
    """Every reason to show this frame to a person, the most urgent first. `secret`: 1 to 64 bytes, of the site.

    `size`: width and height of the frame, which zones and heights are shares of; without it all of a frame counts.
    """
    counting = [
        (index, found)
        for index, found in enumerate(detections)
        if size is None or _counts(config, frame.edge_id, found, size)
    ]
    wishes = [
        wish
        for wish in (
            _watched(config, counting),
            _operator_rule(config, counting),
            _uncertain(config, counting),
            _every_nth(config, frame),
            _audit(config, frame, secret),
        )
        if wish is not None
    ]
    return tuple(sorted(wishes, key=lambda wish: -wish.priority))


def chosen_anyway(config: PolicyConfig, frame: FrameIdentity, *, secret: bytes) -> bool:
    """Whether a frame has a reason to be shown that no detection can change: it can be fetched before one looks."""
    return _every_nth(config, frame) is not None or _audit(config, frame, secret) is not None


def crop_wanted(
    config: PolicyConfig,
    wishes: Sequence[ReviewReason],
    detections: Sequence[Detection],
    size: tuple[int, int],
) -> Crop | None:
    """The crop of a frame of this width and height that answers the most urgent wish, and of the others what lies
    close by; None where all of it is to be fetched."""
    if config.fetch != "boxes" or not wishes or any(wish.boxes is None for wish in wishes):
        return None
    boxes = [detections[index].box for wish in wishes for index in _named_first(config, wish, detections)]
    return Crop.around(boxes, *size, config.fetch_margin)


def _named_first(config: PolicyConfig, wish: ReviewReason, detections: Sequence[Detection]) -> list[int]:
    """The detections that a wish speaks of, the one that its reason names ahead of the others."""
    middle = (config.uncertain_low + config.uncertain_high) / 2

    def rank(index: int) -> float:
        score = detections[index].score
        return abs(score - middle) if wish.rule is Rule.UNCERTAIN else -score

    return sorted(wish.boxes or (), key=rank)


def _counts(config: PolicyConfig, edge_id: str, found: Detection, size: tuple[int, int]) -> bool:
    """Whether a detection is of a size, and stands where the rules look."""
    width, height = size
    x0, y0, x1, y1 = found.box
    if not config.min_height <= min((y1 - y0) / height, 1.0) <= config.max_height:
        return False
    # Boxes end where the frame does, and the frame's lower rim belongs to the zones that touch it.
    foot = ((x0 + x1) / 2 / width, min(y1 / height, _LOWEST))
    return stands_in(_zones(config.zones), edge_id, foot)


@cache
def _zones(texts: tuple[str, ...]) -> tuple[Zone, ...]:
    return tuple(map(parse_zone, texts))


def _named(rule: str, detection: Detection) -> str:
    return f"{rule}: {detection.label} {detection.score:.2f}"


def _of_detections(
    config: PolicyConfig, rule: Rule, seen: Sequence[_Indexed], best: Detection, priority: int, apart: float
) -> ReviewReason:
    word = {Rule.WATCHED: "watched", Rule.OPERATOR: "rule", Rule.UNCERTAIN: "uncertain"}[rule]
    return ReviewReason(
        rule,
        _named(word, best),
        priority,
        apart,
        boxes=tuple(index for index, _ in seen),
        dwell_seconds=config.dwell_seconds,
        once=config.once_per_object,
    )


def _watched(config: PolicyConfig, detections: Sequence[_Indexed]) -> ReviewReason | None:
    seen = [
        (index, found)
        for index, found in detections
        if found.label in config.watched_labels and found.score >= config.watched_score
    ]
    best = max((found for _, found in seen), key=lambda found: found.score, default=None)
    if best is None:
        return None
    return _of_detections(
        config, Rule.WATCHED, seen, best, config.watched_priority, config.watched_apart_seconds
    )


def _operator_rule(config: PolicyConfig, detections: Sequence[_Indexed]) -> ReviewReason | None:
    if config.rule_score == 0:
        return None
    seen = [
        (index, found)
        for index, found in detections
        if found.score >= config.rule_score and (not config.rule_labels or found.label in config.rule_labels)
    ]
    best = max((found for _, found in seen), key=lambda found: found.score, default=None)
    if best is None:
        return None
    return _of_detections(config, Rule.OPERATOR, seen, best, config.rule_priority, config.rule_apart_seconds)


def _uncertain(config: PolicyConfig, detections: Sequence[_Indexed]) -> ReviewReason | None:
    middle = (config.uncertain_low + config.uncertain_high) / 2
    seen = [
        (index, found)
        for index, found in detections
        if config.uncertain_low <= found.score < config.uncertain_high
    ]
    worst = min((found for _, found in seen), key=lambda found: abs(found.score - middle), default=None)
    if worst is None:
        return None
    return _of_detections(
        config, Rule.UNCERTAIN, seen, worst, config.uncertain_priority, config.uncertain_apart_seconds
    )


def _every_nth(config: PolicyConfig, frame: FrameIdentity) -> ReviewReason | None:
    if config.every_nth == 0 or frame.seq % config.every_nth:
        return None
    which = "every frame" if config.every_nth == 1 else f"every {ordinal(config.every_nth)} frame"
    return ReviewReason(Rule.EVERY_NTH, which, config.every_nth_priority, config.every_nth_apart_seconds)


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st, 112th: a whole number as a place in a row."""
    ending = "th" if number // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _audit(config: PolicyConfig, frame: FrameIdentity, secret: bytes) -> ReviewReason | None:
    if config.audit_every == 0:
        return None
    name = f"{frame.edge_id}/{frame.boot_id}/{frame.seq}".encode()
    draw = int.from_bytes(hashlib.blake2b(name, digest_size=8, key=secret).digest(), "big")
    # Comparing, not taking a remainder: the frames of a sparser sample are then part of a denser one.
    if draw * config.audit_every >= 1 << 64:
        return None
    return ReviewReason(Rule.AUDIT, "audit sample", config.audit_priority)

"""Reviews as data sets: COCO annotations with the reviewers' corrections, and verdicts as JSON lines.

Where verdicts overlap, the one on a box wins over the one on its whole frame, and the last one that stands
wins over earlier ones. Rejected boxes are left out, wrong classes relabelled, missed objects added.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from secondlook.cloud.catalogue import DetectedBox, Review, Verdict, VerdictKind
from secondlook.cloud.station.queries import box_of
from secondlook.cloud.station.schema import Box, instant
from secondlook.shared.detection import COCO_CLASSES

# The data set numbers its 80 classes from 1 to 90, with these left out.
_COCO_GAPS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
_COCO_IDS = dict(zip(COCO_CLASSES, (i for i in range(1, 91) if i not in _COCO_GAPS), strict=True))
_FIRST_OWN_ID = 1000  # for classes that COCO does not have


@dataclass(frozen=True)
class FinalBox:
    """One object of a frame after review; ``score`` is None where a person drew it."""

    label: str
    box: Box
    verified: bool
    score: float | None
    detected_label: str | None


def final_boxes(review: Review) -> list[FinalBox]:
    """What is in a frame once its standing verdicts are applied to its detections."""
    standing = [verdict for verdict in review.verdicts if verdict.undone_ns is None]
    on_frame = _last_on_frame(standing)
    on_box = {verdict.box_index: verdict for verdict in standing if verdict.box_index is not None}
    boxes = []
    for index, detected in enumerate(review.frame.detections):
        box = _judged(detected, on_box.get(index, on_frame))
        if box is not None:
            boxes.append(box)
    for verdict in standing:
        place = box_of(verdict)
        if place is not None and verdict.label is not None:
            boxes.append(FinalBox(verdict.label, place, True, None, None))
    return boxes


def coco(reviews: Iterable[Review], *, description: str) -> dict[str, Any]:
    """A COCO detection data set. Classes of COCO keep their official numbers; others follow from 1000."""
    images: list[dict[str, Any]] = []
    kept: list[tuple[int, FinalBox]] = []
    for review in reviews:
        images.append(_image(review))
        kept.extend((review.frame_id, box) for box in final_boxes(review))
    labels = sorted({box.label for _, box in kept} | set(COCO_CLASSES))
    own = [label for label in labels if label not in _COCO_IDS]
    ids = _COCO_IDS | {label: _FIRST_OWN_ID + i for i, label in enumerate(own)}
    return {
        "info": {"description": description, "version": "1"},
        "images": images,
        "annotations": [
            _annotation(number, frame_id, box, ids[box.label])
            for number, (frame_id, box) in enumerate(kept, start=1)
        ],
        "categories": [
            {"id": ids[label], "name": label} for label in sorted(labels, key=lambda name: ids[name])
        ],
    }


def verdict_lines(reviews: Iterable[Review]) -> Iterator[str]:
    """One JSON object a line for every verdict ever given, undone ones included."""
    for review in reviews:
        for verdict in review.verdicts:
            yield json.dumps(_verdict_line(review, verdict)) + "\n"


def _judged(detected: DetectedBox, verdict: Verdict | None) -> FinalBox | None:
    box = (detected.x0, detected.y0, detected.x1, detected.y1)
    label, verified = detected.label, False
    if verdict is not None:
        if verdict.verdict is VerdictKind.REJECT:
            return None
        verified = verdict.verdict in {VerdictKind.CONFIRM, VerdictKind.WRONG_CLASS}
        if verdict.verdict is VerdictKind.WRONG_CLASS and verdict.label is not None:
            label = verdict.label
    return FinalBox(label, box, verified, detected.score, detected.label)


def _last_on_frame(standing: list[Verdict]) -> Verdict | None:
    whole = [v for v in standing if v.box_index is None and v.verdict is not VerdictKind.MISSED_OBJECT]
    return whole[-1] if whole else None


def _image(review: Review) -> dict[str, Any]:
    frame = review.frame
    standing = [verdict for verdict in review.verdicts if verdict.undone_ns is None]
    on_frame = _last_on_frame(standing)
    settled = on_frame is not None and on_frame.verdict is not VerdictKind.UNSURE
    judged = {v.box_index: v for v in standing if v.box_index is not None}
    each_box = bool(frame.detections) and all(
        index in judged and judged[index].verdict is not VerdictKind.UNSURE
        for index in range(len(frame.detections))
    )
    return {
        "id": frame.id,
        "file_name": f"{frame.edge_id}/{frame.boot_id}/{frame.seq:08d}.png",
        "width": frame.width,
        "height": frame.height,
        "date_captured": instant(frame.captured_ns).isoformat(),
        "verified": settled or each_box,
        "review_id": review.id,
        "state": review.state.value,
        "reason": review.reason,
        "reviewers": sorted({verdict.reviewer for verdict in standing}),
        "shown_sha256": standing[-1].shown_sha256 if standing else None,
        "station_path": f"/api/reviews/{review.id}/images/{'refined' if review.refined_image else 'base'}",
    }


def _annotation(number: int, frame_id: int, box: FinalBox, category_id: int) -> dict[str, Any]:
    x0, y0, x1, y1 = box.box
    width, height = x1 - x0, y1 - y0
    return {
        "id": number,
        "image_id": frame_id,
        "category_id": category_id,
        "bbox": [x0, y0, width, height],
        "area": width * height,
        "iscrowd": 0,
        "verified": box.verified,
        "source": "reviewer" if box.score is None else "detector",
        "score": box.score,
        "detected_label": box.detected_label,
    }


def _verdict_line(review: Review, verdict: Verdict) -> dict[str, Any]:
    frame = review.frame
    detected = None if verdict.box_index is None else frame.detections[verdict.box_index]
    place = box_of(verdict)
    return {
        "verdict_id": verdict.id,
        "review_id": review.id,
        "edge_id": frame.edge_id,
        "boot_id": frame.boot_id,
        "seq": frame.seq,
        "captured_at": instant(frame.captured_ns).isoformat(),
        "reason": review.reason,
        "reviewer": verdict.reviewer,
        "verdict": verdict.verdict.value,
        "box_index": verdict.box_index,
        "detected": None
        if detected is None
        else {
            "label": detected.label,
            "score": detected.score,
            "box": [detected.x0, detected.y0, detected.x1, detected.y1],
            "detector": detected.detector,
        },
        "label": verdict.label,
        "box": None if place is None else list(place),
        "note": verdict.note,
        "decided_at": instant(verdict.decided_ns).isoformat(),
        "undone_at": None if verdict.undone_ns is None else instant(verdict.undone_ns).isoformat(),
        "shown_sha256": verdict.shown_sha256,
        "codec_model": review.codec_model,
        "postfilter": review.postfilter,
    }

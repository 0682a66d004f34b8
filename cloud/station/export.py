"""Reviews as data sets: COCO annotations with the reviewers' corrections, and verdicts as JSON lines.

Where verdicts overlap, the one on a box wins over the one on its whole frame, and the last one that stands
wins over earlier ones. Rejected boxes are left out, wrong classes relabelled, corrected boxes moved, missed objects
added; a frame in which there is nothing is an image without annotations. Frames of which a reviewer was unsure or that
hold more than has a box, and those that two people decided differently, are left out unless asked for; where they are
asked for, the decision that came first counts.

Both files are made while they are sent: however many reviews there are, a batch of them is in memory.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import PurePosixPath
from typing import IO, Any

from secondlook.cloud.catalogue import (
    Audience,
    DetectedBox,
    Review,
    ReviewState,
    Verdict,
    VerdictKind,
    conflict_of,
    counting_verdicts,
)
from secondlook.cloud.station.queries import box_of
from secondlook.cloud.station.schema import Box, crop_of, instant
from secondlook.shared.detection import COCO_CLASSES
from secondlook.shared.texts import class_key

# The data set numbers its 80 classes from 1 to 90, with these left out.
_COCO_GAPS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
_COCO_IDS = dict(zip(COCO_CLASSES, (i for i in range(1, 91) if i not in _COCO_GAPS), strict=True))
_FIRST_OWN_ID = 1000  # for classes that COCO does not have
_CORRECTIONS = frozenset({VerdictKind.WRONG_CLASS, VerdictKind.CORRECTED})
_BATCH = 200  # reviews, or annotations, that are sent together


@dataclass(frozen=True)
class FinalBox:
    """One object of a frame after review; ``score`` is None where a person drew it."""

    label: str
    box: Box
    verified: bool
    score: float | None
    detected_label: str | None
    object_id: int | None = None  # of the thing that it shows, over the frames of its camera
    moved: bool = False  # a person put it into its place


def final_boxes(review: Review) -> list[FinalBox]:
    """What is in a frame once its standing verdicts are applied to its detections; boxes end where it ends."""
    frame, standing = review.frame, _counting(review)
    on_frame = _last_on_frame(standing)
    on_box = _last_on_boxes(standing)
    boxes = []
    for index, detected in enumerate(frame.detections):
        box = _judged(detected, on_box.get(index, on_frame))
        if box is not None:
            boxes.append(box)
    for verdict in standing:
        place = box_of(verdict) if verdict.verdict is VerdictKind.MISSED_OBJECT else None
        if place is not None and verdict.label is not None:
            boxes.append(FinalBox(verdict.label, place, True, None, None))
    inside = ((box, _clipped(box.box, frame.width, frame.height)) for box in boxes)
    return [replace(box, box=place) for box, place in inside if place is not None]


def rejected_boxes(review: Review) -> list[DetectedBox]:
    """Boxes of the detector in which people found nothing."""
    standing = _counting(review)
    on_frame, on_box = _last_on_frame(standing), _last_on_boxes(standing)
    judged = ((box, on_box.get(index, on_frame)) for index, box in enumerate(review.frame.detections))
    return [box for box, v in judged if v is not None and v.verdict is VerdictKind.REJECT]


def is_unsure(review: Review) -> bool:
    """Whether what counts of the verdicts leaves the frame, or one of its boxes, to doubt, or boxes to be drawn."""
    standing = _counting(review)
    on_frame, on_box = _last_on_frame(standing), _last_on_boxes(standing)
    judging = [on_frame, *(on_box.get(index) for index in range(len(review.frame.detections)))]
    if any(verdict is not None and verdict.verdict is VerdictKind.UNSURE for verdict in judging):
        return True
    return on_frame is not None and _is_incomplete(review, on_frame)


def chosen(reviews: Iterable[Review], *, unsure: bool, contested: bool) -> Iterator[Review]:
    """Without the decided frames that are in doubt, or contested, unless they are asked for."""
    for review in reviews:
        if review.state is ReviewState.DECIDED:
            if not unsure and is_unsure(review):
                continue
            if not contested and conflict_of(review.verdicts) is not None:
                continue
        yield review


def coco_parts(reviews: Iterable[Review], *, description: str, root_path: str = "") -> Iterator[str]:
    """The text of a COCO detection data set, in parts.

    Classes of COCO keep their official numbers; others follow from 1000 in the order in which they are met, however
    each is capitalised. Annotations wait in a packed temporary file until all images have been written.
    """
    yield f'{{"info": {json.dumps({"description": description, "version": "1"})},\n"images": ['
    classes = CocoClasses()
    with tempfile.TemporaryFile() as file:
        with gzip.open(file, "wt", compresslevel=1, encoding="utf-8") as kept:
            separator, number = "\n", 0
            for batch in _batches(reviews):
                parts = []
                for review in batch:
                    parts.append(separator + json.dumps(image_facts(review, root_path)))
                    separator = ",\n"
                    for box in final_boxes(review):
                        number += 1
                        kept.write(json.dumps(_annotation(number, review.frame_id, box, classes)) + "\n")
                yield "".join(parts)
        yield '\n],\n"annotations": ['
        file.seek(0)
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            yield from _joined(lines)
    yield f'\n],\n"categories": {json.dumps(classes.categories())}}}\n'


class CocoClasses:
    """The numbers of classes."""

    def __init__(self) -> None:
        self._ids = {class_key(label): number for label, number in _COCO_IDS.items()}
        self._names = list(_COCO_IDS.items())

    def number_of(self, label: str) -> int:
        key = class_key(label)
        if key not in self._ids:
            self._ids[key] = _FIRST_OWN_ID + len(self._ids) - len(_COCO_IDS)
            self._names.append((label, self._ids[key]))
        return self._ids[key]

    def categories(self) -> list[dict[str, Any]]:
        return [{"id": number, "name": label} for label, number in self._names]


def _batches(reviews: Iterable[Review]) -> Iterator[list[Review]]:
    rest = iter(reviews)
    while batch := list(islice(rest, _BATCH)):
        yield batch


def _joined(lines: IO[str]) -> Iterator[str]:
    """Lines as items of a JSON array, many at a time."""
    separator = "\n"
    while batch := list(islice(lines, _BATCH)):
        yield separator + ",\n".join(line.rstrip("\n") for line in batch)
        separator = ",\n"


def verdict_lines(
    reviews: Iterable[Review], audience: Audience, hidden: Collection[int] = ()
) -> Iterator[str]:
    """One JSON object a line for every verdict ever given that ``audience`` may know, undone ones included.

    Of reviews that are ``hidden`` there are none.
    """
    for batch in _batches(reviews):
        yield "".join(
            json.dumps(_verdict_line(review, verdict)) + "\n"
            for review in batch
            for verdict in review.verdicts
            if audience.hears(verdict) and review.id not in hidden
        )


def _judged(detected: DetectedBox, verdict: Verdict | None) -> FinalBox | None:
    box: Box = (detected.x0, detected.y0, detected.x1, detected.y1)
    label, verified = detected.label, False
    if verdict is not None:
        if verdict.verdict is VerdictKind.REJECT:
            return None
        verified = verdict.verdict in {VerdictKind.CONFIRM, *_CORRECTIONS}
        if verdict.verdict in _CORRECTIONS and verdict.label is not None:
            label = verdict.label
        box = box_of(verdict) or box
    moved = verdict is not None and box_of(verdict) is not None
    return FinalBox(label, box, verified, detected.score, detected.label, detected.object_id, moved)


def _counting(review: Review) -> list[Verdict]:
    """Verdicts that stand; while the frame is contested, those that contest do not count."""
    contested = conflict_of(review.verdicts) is not None
    return [
        verdict
        for verdict in counting_verdicts(review)
        if verdict.undone_ns is None and not (contested and verdict.conflicts_with is not None)
    ]


def _last_on_frame(standing: list[Verdict]) -> Verdict | None:
    whole = [v for v in standing if v.box_index is None and v.verdict is not VerdictKind.MISSED_OBJECT]
    return whole[-1] if whole else None


def _is_incomplete(review: Review, on_frame: Verdict) -> bool:
    """Whether there is something in the frame that has no box; who rejects "no box" says so, too."""
    denied = on_frame.verdict is VerdictKind.REJECT and not review.frame.detections
    drawn = any(
        v.undone_ns is None and v.verdict is VerdictKind.MISSED_OBJECT for v in counting_verdicts(review)
    )
    return on_frame.verdict is VerdictKind.INCOMPLETE or (denied and not drawn)


def _last_on_boxes(standing: list[Verdict]) -> dict[int, Verdict]:
    return {verdict.box_index: verdict for verdict in standing if verdict.box_index is not None}


def _clipped(box: Box, width: int, height: int) -> Box | None:
    """The part of a box that lies in the frame; None when there is none."""
    x0, y0, x1, y1 = box
    x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def image_facts(review: Review, root_path: str) -> dict[str, Any]:
    """What an image of a data set says of its frame; ``verified``: nothing in it is left open."""
    frame = review.frame
    standing = _counting(review)
    on_frame = _last_on_frame(standing)
    settled = (
        on_frame is not None
        and on_frame.verdict is not VerdictKind.UNSURE
        and not _is_incomplete(review, on_frame)
    )
    judged = _last_on_boxes(standing)
    each_box = bool(frame.detections) and all(
        index in judged and judged[index].verdict is not VerdictKind.UNSURE
        for index in range(len(frame.detections))
    )
    contested = conflict_of(review.verdicts) is not None
    incomplete = on_frame is not None and _is_incomplete(review, on_frame)
    ending = PurePosixPath(
        review.refined_image or review.enhanced_image or review.base_image or "x.webp"
    ).suffix
    verified = (settled or (each_box and not incomplete)) and not contested
    return {
        "id": frame.id,
        "file_name": f"{frame.edge_id}/{frame.boot_id}/{frame.seq:08d}{ending}",
        "width": frame.width,
        "height": frame.height,
        "date_captured": instant(frame.captured_ns).isoformat(),
        "verified": verified,
        "no_object": verified and not final_boxes(review),
        "contested": contested,
        "review_id": review.id,
        "state": review.state.value,
        "reason": review.reason,
        "reviewers": sorted({verdict.reviewer for verdict in standing}),
        "shown_sha256": standing[-1].shown_sha256 if standing else None,
        "crop": crop_of(review),  # what is in full quality, where that is not all of the frame
        "station_path": f"{root_path}/api/reviews/{review.id}/images/{_best_image(review)}",
    }


def _best_image(review: Review) -> str:
    if review.refined_image is not None:
        return "refined"
    return "base" if review.enhanced_image is None else "enhanced"


def _annotation(number: int, frame_id: int, box: FinalBox, classes: CocoClasses) -> dict[str, Any]:
    x0, y0, x1, y1 = box.box
    width, height = x1 - x0, y1 - y0
    return {
        "id": number,
        "image_id": frame_id,
        "category_id": classes.number_of(box.label),
        "bbox": [x0, y0, width, height],
        "area": width * height,
        "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],  # the box, for tools that want an outline
        "iscrowd": 0,
        "verified": box.verified,
        "source": "reviewer" if box.score is None else "detector",
        "score": box.score,
        "detected_label": box.detected_label,
        "object_id": box.object_id,
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
            "object_id": detected.object_id,
        },
        "label": verdict.label,
        "box": None if place is None else list(place),
        "note": verdict.note,
        "decided_at": instant(verdict.decided_ns).isoformat(),
        "conflicts_with": verdict.conflicts_with,
        "undone_at": None if verdict.undone_ns is None else instant(verdict.undone_ns).isoformat(),
        "shown_sha256": verdict.shown_sha256,
        "codec_model": review.codec_model,
        "postfilter": review.postfilter,
    }

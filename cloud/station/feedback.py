"""The feedback set: what people said of the detector's work, as an archive that ``secondlook train detector`` reads.

Each frame is there as machines saw it (`seen/`, its base layer decoded), in the best quality there is (`originals/`)
and as the layer itself (`layers/`). `labels.json` is a COCO data set whose file names are those below `seen/`; an
annotation says how it came about (`confirmed`, `corrected`, `missed`), an image which boxes were nothing (`rejected`).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

from secondlook.cloud.catalogue import Review
from secondlook.cloud.decoding.files import media_type
from secondlook.cloud.station.export import CocoClasses, FinalBox, final_boxes, image_facts, rejected_boxes
from secondlook.cloud.station.zipstream import PART, ZipStream
from secondlook.shared.texts import class_key


@dataclass(frozen=True)
class FeedbackPictures:
    """Where the bytes of a frame come from; each gives None for what is gone."""

    seen: Callable[[Review], bytes | None]  # the base picture, lossless
    original: Callable[[Review], bytes | None]  # the best picture, lossless
    layer: Callable[[Review], bytes | None]  # the base layer


def feedback_parts(
    reviews: Iterable[Review], pictures: FeedbackPictures, *, description: str
) -> Iterator[bytes]:
    """The archive, made while it is sent. A frame whose base picture is gone is named in `left_out.txt`."""
    classes = CocoClasses()
    with (
        ZipStream() as archive,
        tempfile.TemporaryFile() as left_out,
        tempfile.TemporaryFile("w+", encoding="utf-8") as images,
        tempfile.TemporaryFile("w+", encoding="utf-8") as annotations,
    ):
        number = 0
        for review in reviews:
            frame = review.frame
            name = f"{frame.edge_id}_{frame.boot_id}_{frame.seq:08d}"
            seen = pictures.seen(review)
            if seen is None:
                left_out.write(f"{name}: its base picture is gone\n".encode())
                continue
            facts = _image(review, name, seen)
            archive.add(facts["file_name"], seen)
            number = _write_annotations(review, classes, annotations, number)
            for kind, data in (("original", pictures.original(review)), ("layer", pictures.layer(review))):
                if data is None:
                    facts[f"{kind}_file_name"] = None
                else:
                    archive.add(facts[f"{kind}_file_name"], data)
            images.write(json.dumps(facts) + "\n")
            if archive.size >= PART:
                yield archive.take()
        with tempfile.TemporaryFile() as labels:
            _write_labels(labels, images, annotations, classes, description)
            yield from archive.copied("labels.json", labels)
        if left_out.tell():
            yield from archive.copied("left_out.txt", left_out)
        yield from archive.ended()


def _write_labels(
    file: IO[bytes], images: IO[str], annotations: IO[str], classes: CocoClasses, description: str
) -> None:
    info = json.dumps({"description": description, "version": "1"})
    file.write(f'{{"info": {info},\n"images": ['.encode())
    _copy_lines(images, file)
    file.write(b'\n],\n"annotations": [')
    _copy_lines(annotations, file)
    file.write(f'\n],\n"categories": {json.dumps(classes.categories())}}}\n'.encode())


def outcome_of(box: FinalBox) -> str:
    """How an object came to be in the set."""
    if box.score is None:
        return "missed"
    same = class_key(box.label) == class_key(box.detected_label or "")
    return "corrected" if box.moved or not same else "confirmed" if box.verified else "unjudged"


def _image(review: Review, name: str, seen: bytes) -> dict[str, Any]:
    facts = image_facts(review, "")
    best = review.refined_image or review.enhanced_image or review.base_image or "x.webp"
    rejected = [
        {"bbox": _bbox((box.x0, box.y0, box.x1, box.y1)), "label": box.label, "score": box.score}
        for box in rejected_boxes(review)
    ]
    return {
        **{key: facts[key] for key in ("id", "width", "height", "date_captured", "verified", "contested")},
        "file_name": f"seen/{name}.{media_type(seen).rpartition('/')[2]}",
        "original_file_name": f"originals/{name}{PurePosixPath(best).suffix}",
        "layer_file_name": f"layers/{name}.slk",
        "no_object": facts["no_object"],
        "review_id": review.id,
        "crop": facts["crop"],
        "camera": review.frame.edge_id,
        "reviewers": facts["reviewers"],
        "rejected": rejected,
    }


def _write_annotations(review: Review, classes: CocoClasses, lines: IO[str], number: int) -> int:
    for box in final_boxes(review):
        number += 1
        x, y, width, height = _bbox(box.box)
        annotation = {
            "id": number,
            "image_id": review.frame_id,
            "category_id": classes.number_of(box.label),
            "bbox": [x, y, width, height],
            "area": width * height,
            "iscrowd": 0,
            "outcome": outcome_of(box),
            "score": box.score,
            "detected_label": box.detected_label,
            "object_id": box.object_id,
        }
        lines.write(json.dumps(annotation) + "\n")
    return number


def _bbox(box: tuple[float, float, float, float]) -> list[float]:
    x0, y0, x1, y1 = box
    return [x0, y0, x1 - x0, y1 - y0]


def _copy_lines(lines: IO[str], file: IO[bytes]) -> None:
    lines.seek(0)
    separator = "\n"
    for line in lines:
        file.write((separator + line.rstrip("\n")).encode())
        separator = ",\n"

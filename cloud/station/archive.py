"""Data sets with their pictures, as ZIP archives that are made while they are sent: YOLO, and JSON lines.

Pictures are stored as they are, since they are packed already. What is said of all frames at once (class names, lines)
comes last, and waits in a temporary file until then.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath

from secondlook.cloud.catalogue import Review
from secondlook.cloud.station.export import FinalBox, final_boxes, image_facts
from secondlook.cloud.station.zipstream import PART, ZipStream
from secondlook.shared.detection import COCO_CLASSES
from secondlook.shared.texts import class_key


class _YoloClasses:
    """Numbers from 0: those of COCO's 80 classes in their order, others behind them as they are met."""

    def __init__(self) -> None:
        self.names = list(COCO_CLASSES)
        self._numbers = {class_key(name): number for number, name in enumerate(self.names)}

    def number_of(self, label: str) -> int:
        key = class_key(label)
        if key not in self._numbers:
            self._numbers[key] = len(self.names)
            self.names.append(label)
        return self._numbers[key]


def yolo_parts(reviews: Iterable[Review], picture: Callable[[str], bytes | None]) -> Iterator[bytes]:
    """A YOLO data set: `images/`, `labels/`, `data.yaml`.

    ``picture`` gives the bytes of a blob; a frame whose picture is gone is left out and named in `left_out.txt`.
    """
    classes = _YoloClasses()

    def describe(review: Review, name: str) -> tuple[str, str]:
        lines = [_yolo_line(box, review, classes) for box in final_boxes(review)]
        return f"labels/{name}.txt", "".join(line + "\n" for line in lines)

    def finish(archive: ZipStream) -> Iterator[bytes]:
        names = "".join(f"  {number}: {json.dumps(name)}\n" for number, name in enumerate(classes.names))
        archive.add("data.yaml", f"train: images\nval: images\nnames:\n{names}")
        yield archive.take()

    yield from _parts(reviews, picture, describe, finish)


def jsonl_parts(
    reviews: Iterable[Review], picture: Callable[[str], bytes | None], *, root_path: str
) -> Iterator[bytes]:
    """`images/`, and `frames.jsonl` with one object a frame: what it is, and its boxes in pixels (x0, y0, x1, y1)."""
    with tempfile.TemporaryFile() as lines:

        def describe(review: Review, name: str) -> None:
            boxes = [
                {
                    "label": box.label,
                    "box": list(box.box),
                    "verified": box.verified,
                    "score": box.score,
                    "detected_label": box.detected_label,
                    "object_id": box.object_id,
                }
                for box in final_boxes(review)
            ]
            facts = image_facts(review, root_path)
            line = {**facts, "file_name": _file_name(review, name), "boxes": boxes}
            lines.write(json.dumps(line).encode() + b"\n")

        yield from _parts(reviews, picture, describe, lambda archive: archive.copied("frames.jsonl", lines))


def _parts(
    reviews: Iterable[Review],
    picture: Callable[[str], bytes | None],
    describe: Callable[[Review, str], tuple[str, str] | None],
    finish: Callable[[ZipStream], Iterator[bytes]],
) -> Iterator[bytes]:
    with ZipStream() as archive, tempfile.TemporaryFile() as left_out:
        for review in reviews:
            frame = review.frame
            name = f"{frame.edge_id}_{frame.boot_id}_{frame.seq:08d}"
            key = review.refined_image or review.enhanced_image or review.base_image
            data = None if key is None else picture(key)
            if data is None:
                left_out.write(f"{name}: its picture is gone\n".encode())
                continue
            archive.add(_file_name(review, name), data)
            described = describe(review, name)
            if described is not None:
                archive.add(*described)
            if archive.size >= PART:
                yield archive.take()
        yield from finish(archive)
        if left_out.tell():
            yield from archive.copied("left_out.txt", left_out)
        yield from archive.ended()


def _file_name(review: Review, name: str) -> str:
    key = review.refined_image or review.enhanced_image or review.base_image or ""
    return f"images/{name}{PurePosixPath(key).suffix}"


def _yolo_line(box: FinalBox, review: Review, classes: _YoloClasses) -> str:
    """Class, then centre and size as parts of the frame."""
    width, height = review.frame.width, review.frame.height
    x0, y0, x1, y1 = box.box
    parts = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
    return " ".join([str(classes.number_of(box.label)), *(f"{part:.6f}" for part in parts)])

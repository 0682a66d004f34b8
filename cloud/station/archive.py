"""Data sets with their pictures, as ZIP archives that are made while they are sent: YOLO, and JSON lines.

Pictures are stored as they are, since they are packed already. What is said of all frames at once (class names, lines)
comes last, and waits in a temporary file until then.
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath
from typing import IO

from secondlook.cloud.catalogue import Review
from secondlook.cloud.station.export import FinalBox, final_boxes, image_facts
from secondlook.shared.detection import COCO_CLASSES
from secondlook.shared.texts import class_key

PART = 1 << 16  # bytes that are sent together


class Sink(io.RawIOBase):
    """Keeps what is written until it is taken; cannot go back, so that the archive is written in one go."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        part = bytes(data)  # type: ignore[call-overload]
        self._parts.append(part)
        self.size += len(part)
        return len(part)

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts, self.size = [], 0
        return data


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

    def finish(archive: zipfile.ZipFile) -> None:
        names = "".join(f"  {number}: {json.dumps(name)}\n" for number, name in enumerate(classes.names))
        archive.writestr("data.yaml", f"train: images\nval: images\nnames:\n{names}")

    yield from _parts(reviews, picture, describe, finish)


def jsonl_parts(
    reviews: Iterable[Review], picture: Callable[[str], bytes | None], *, root_path: str
) -> Iterator[bytes]:
    """`images/`, and `frames.jsonl` with one object a frame: what it is, and its boxes in pixels (x0, y0, x1, y1)."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as lines:

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
            lines.write(json.dumps({**facts, "file_name": _file_name(review, name), "boxes": boxes}) + "\n")

        def finish(archive: zipfile.ZipFile) -> None:
            lines.seek(0)
            with archive.open("frames.jsonl", "w") as file:
                _copy(lines, file)

        yield from _parts(reviews, picture, describe, finish)


def _parts(
    reviews: Iterable[Review],
    picture: Callable[[str], bytes | None],
    describe: Callable[[Review, str], tuple[str, str] | None],
    finish: Callable[[zipfile.ZipFile], None],
) -> Iterator[bytes]:
    sink, left_out = Sink(), []
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for review in reviews:
            frame = review.frame
            name = f"{frame.edge_id}_{frame.boot_id}_{frame.seq:08d}"
            key = review.refined_image or review.base_image
            data = None if key is None else picture(key)
            if data is None:
                left_out.append(f"{name}: its picture is gone\n")
                continue
            archive.writestr(_file_name(review, name), data)
            described = describe(review, name)
            if described is not None:
                archive.writestr(*described)
            if sink.size >= PART:
                yield sink.take()
        finish(archive)
        if left_out:
            archive.writestr("left_out.txt", "".join(left_out))
    yield sink.take()


def _file_name(review: Review, name: str) -> str:
    key = review.refined_image or review.base_image or ""
    return f"images/{name}{PurePosixPath(key).suffix}"


def _yolo_line(box: FinalBox, review: Review, classes: _YoloClasses) -> str:
    """Class, then centre and size as parts of the frame."""
    width, height = review.frame.width, review.frame.height
    x0, y0, x1, y1 = box.box
    parts = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
    return " ".join([str(classes.number_of(box.label)), *(f"{part:.6f}" for part in parts)])


def _copy(lines: IO[str], file: IO[bytes]) -> None:
    while text := lines.read(PART):
        file.write(text.encode())

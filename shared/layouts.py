"""How families of detection networks take their frames and write their candidates, told apart by shape.

| outputs for one frame | family | frames |
|---|---|---|
| [cells, 5 + classes], cells of strides 8, 16, 32 | YOLOX, undecoded | BGR 0..255, top left, grey beside |
| [3 x cells, 5 + classes] | YOLOv5 | RGB 0..1, in the middle of grey |
| [4 + classes, cells] | YOLOv8 to v11 | the same |
| [n, 6] | with the suppression inside | the same |
| [n, 4 + classes], n from 100 to 1000 and fewer than cells | RT-DETR by ultralytics | RGB 0..1, stretched |
| [n, 4] and [n, classes], n up to 1000 | RT-DETR, D-FINE: boxes and logits | the same |
| [n, 1, 4] and [n, classes] | SSD, decoded | RGB 0..255, stretched |
| [anchors, 4] and [anchors, classes] | SSD, offsets and logits | the same |
| [cells, classes + 4 x bins], or both apart, or both per stride | NanoDet | BGR, normalised, stretched |
| [n, 4], [n] and [n], perhaps their count | boxes, scores, numbers of classes, told apart by name | as said |

What a manifest says of its graph (`graphfacts`) goes before all of this; `namedlayouts` reads what only it can tell.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from secondlook.shared.detection import (
    COCO_CLASSES,
    NANODET_PLUS_STRIDES,
    NANODET_STRIDES,
    Place,
    Raw,
    U8Image,
    coco_numbering,
    decode_corners,
    decode_detr,
    decode_end_to_end,
    decode_nanodet,
    decode_ssd,
    decode_yolov5,
    decode_yolov8,
    decode_yolox,
    grid_cells,
    letterbox,
    sigmoid,
    ssd_anchors,
    stretch,
    yolox_cells,
)
from secondlook.shared.errors import DetectorError

F32 = npt.NDArray[np.float32]
Shape = tuple[int, ...]

MIN_QUERIES, MAX_QUERIES = 100, 1000  # of a DETR; an SSD has more anchors


@dataclass(frozen=True)
class Intake:
    """What becomes of a frame before a network sees it: (value - mean) / deviation, of bytes."""

    fit: Literal["middle", "top left", "stretch"] = "middle"
    bgr: bool = False
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    deviation: tuple[float, ...] = (255.0, 255.0, 255.0)

    def place(self, image: U8Image, height: int, width: int) -> tuple[F32, Place]:
        """The network's input, float32[H,W,3], and where in it the frame lies."""
        place: Place
        if self.fit == "stretch":
            canvas, place = stretch(image, height, width)
        else:
            canvas, place = letterbox(image, height, width, centred=self.fit == "middle")
        return self.values(canvas), place

    def values(self, canvas: U8Image) -> F32:
        """float32[H,W,3] of an RGB picture of the network's size."""
        ordered = canvas[..., ::-1] if self.bgr else canvas
        values = ordered.astype(np.float32)
        if any(self.mean):
            values -= np.array(self.mean, np.float32)
        if self.deviation != (1.0, 1.0, 1.0):
            values /= np.array(self.deviation, np.float32)
        return values


YOLO = Intake()
YOLOX = Intake(fit="top left", bgr=True, deviation=(1.0, 1.0, 1.0))
DETR = Intake(fit="stretch")
SSD = Intake(fit="stretch", deviation=(1.0, 1.0, 1.0))
NANODET = Intake("stretch", bgr=True, mean=(103.53, 116.28, 123.675), deviation=(57.375, 57.12, 58.395))


@dataclass(frozen=True)
class Layout:
    """How one family takes its frames and writes its candidates.

    `decode` gets the outputs of one frame, without the axis of frames and in the graph's order.
    """

    family: str
    decode: Callable[[Sequence[F32]], Raw]
    classes: int | None  # None where the outputs do not tell
    intake: Intake = YOLO
    suppressed: bool = False  # duplicates are already gone
    scores: tuple[int, ...] = ()  # outputs of scores alone: those of what is no class can be left out
    logits: bool = False  # these are logits, not scores in 0..1
    prepare: Callable[[F32], F32] | None = None  # makes float32[n, classes] in 0..1 of an output of scores
    numbered: bool = False  # candidates carry the numbers of their classes, what is no class counted
    overlap: float | None = None  # of boxes that overlap by more, duplicates go; None: as for all


def recognise(shapes: Sequence[Shape], height: int, width: int, metadata: dict[str, str]) -> Layout:
    """The layout of outputs of these shapes for an input of height x width. Raises DetectorError if none fits.

    `metadata`: the graph's own; `names` lists its classes, `anchors` the anchors of an SSD. A YOLOX export is
    expected as its authors' tool writes it by default, without its boxes decoded.
    """
    layout = None
    if all(len(shape) in (3, 4) and shape[0] == 1 for shape in shapes):
        if len(shapes) == 1:
            layout = _single(shapes[0], height, width, metadata)
        elif len(shapes) == 2:
            layout = _pair(shapes, height, width, metadata)
        if layout is None and len(shapes) > 1:
            layout = _nanodet_levels(shapes, height, width)
    if layout is None:
        listed = " and ".join(str(shape) for shape in shapes)
        raise DetectorError(f"output of shape {listed} for a {height}x{width} input is of no known layout")
    return layout


def _single(shape: Shape, height: int, width: int, metadata: dict[str, str]) -> Layout | None:
    if len(shape) != 3:
        return None
    _, rows, columns = shape
    cells, named = yolox_cells(height, width), len(names_of(metadata) or COCO_CLASSES)
    bins, odd = divmod(columns - named, 4)
    if rows in _nanodet_rows(height, width) and columns != named + 5 and bins > 1 and not odd:
        return Layout("NanoDet", partial(_joined_nanodet, named, height, width), named, NANODET)
    if rows == cells and columns > 5:
        decode = partial(decode_yolox, height=height, width=width)
        return Layout("YOLOX", _of_first(decode), columns - 5, YOLOX)
    if columns == 6 and rows < cells:
        return Layout("end to end", _of_first(decode_end_to_end), None, suppressed=True, numbered=True)
    if rows > columns > 5 and rows >= 3 * cells:
        return Layout("YOLOv5", _of_first(decode_yolov5), columns - 5)
    if columns > rows > 4 and columns >= cells:
        return Layout("YOLOv8", _of_first(decode_yolov8), rows - 4)
    if MIN_QUERIES <= rows <= MAX_QUERIES and columns > 6 and rows < cells:
        return Layout("RT-DETR", partial(_joined_detr, height, width), columns - 4, DETR, suppressed=True)
    return None


def _pair(shapes: Sequence[Shape], height: int, width: int, metadata: dict[str, str]) -> Layout | None:
    """Boxes and scores apart, in any order."""
    by_box = sorted(range(2), key=lambda index: shapes[index][-1] != 4)
    box, score = by_box
    if shapes[box][-1] != 4 or len(shapes[score]) != 3 or shapes[box][1] != shapes[score][1]:
        return None
    _, rows, classes = shapes[score]
    if len(shapes[box]) == 4:
        if shapes[box][2] != 1:
            return None
        decode = partial(_boxes_and_scores, box, score, decode_corners, height, width)
        return Layout("SSD", decode, classes, SSD, scores=(score,))
    anchors = own_anchors(metadata)
    if anchors is None and rows == len(ssd_anchors(height, width)):
        anchors = ssd_anchors(height, width)
    if anchors is not None and len(anchors) == rows:
        decode = partial(_offsets_and_logits, box, score, anchors, height, width)
        return Layout("SSD", decode, classes, SSD, scores=(score,), logits=True)
    if rows <= MAX_QUERIES:
        decode = partial(_boxes_and_scores, box, score, _detr_logits, height, width)
        return Layout("DETR", decode, classes, DETR, suppressed=True, scores=(score,))
    return None


def _nanodet_rows(height: int, width: int) -> set[int]:
    return {grid_cells(height, width, strides) for strides in (NANODET_STRIDES, NANODET_PLUS_STRIDES)}


def _nanodet_levels(shapes: Sequence[Shape], height: int, width: int) -> Layout | None:
    """Scores and distances apart, in one piece or one per stride, in any order: the cells tell the strides."""
    if any(len(shape) != 3 for shape in shapes) or len(shapes) % 2:
        return None
    order = sorted(range(len(shapes)), key=lambda index: -shapes[index][1])
    pairs = [order[at : at + 2] for at in range(0, len(order), 2)]
    if any(shapes[one][1] != shapes[other][1] for one, other in pairs):
        return None
    if sum(shapes[one][1] for one, _ in pairs) not in _nanodet_rows(height, width):
        return None
    widths = {shapes[index][2] for index in order}
    distances = [columns for columns in widths if columns % 4 == 0 and columns <= 4 * 33]
    if len(widths) != 2 or not distances:
        return None
    # Where both could be distances, classes are more: 80 beside 32 or 44.
    bins = min(distances)
    (classes,) = widths - {bins}
    if any({shapes[one][2], shapes[other][2]} != widths for one, other in pairs):
        return None
    scores = [index for pair in pairs for index in pair if shapes[index][2] == classes]
    sides = [index for pair in pairs for index in pair if shapes[index][2] == bins]
    decode = partial(_nanodet_of, scores, sides, height, width)
    return Layout("NanoDet", decode, classes, NANODET, scores=tuple(scores))


def _of_first(decode: Callable[[F32], Raw]) -> Callable[[Sequence[F32]], Raw]:
    return lambda outputs: decode(outputs[0])


def _joined_nanodet(classes: int, height: int, width: int, outputs: Sequence[F32]) -> Raw:
    return decode_nanodet(outputs[0][:, :classes], outputs[0][:, classes:], height, width)


def _nanodet_of(
    scores: Sequence[int], sides: Sequence[int], height: int, width: int, outputs: Sequence[F32]
) -> Raw:
    return decode_nanodet(
        np.concatenate([outputs[index] for index in scores]),
        np.concatenate([outputs[index] for index in sides]),
        height,
        width,
    )


def _joined_detr(height: int, width: int, outputs: Sequence[F32]) -> Raw:
    return decode_detr(outputs[0][:, :4], outputs[0][:, 4:], height, width)


def _detr_logits(boxes: F32, logits: F32, height: int, width: int) -> Raw:
    return decode_detr(boxes, sigmoid(logits), height, width)


def _boxes_and_scores(
    box: int,
    score: int,
    decode: Callable[[F32, F32, int, int], Raw],
    height: int,
    width: int,
    outputs: Sequence[F32],
) -> Raw:
    return decode(outputs[box].reshape(-1, 4), outputs[score], height, width)


def _offsets_and_logits(
    box: int, score: int, anchors: F32, height: int, width: int, outputs: Sequence[F32]
) -> Raw:
    return decode_ssd(outputs[box], outputs[score], anchors, height, width)


def class_names(metadata: dict[str, str], count: int | None, detector: str) -> tuple[str, ...]:
    """The name of each score that a network gives, empty for what is no class: background, a gap in COCO's numbers.

    The graph's metadata tell them, else they are COCO's: all 80, or by their numbers to 90; either may have
    the background before it. Raises DetectorError where they do not fit `count`, or the network is no detector.
    """
    if metadata.get("task", "detect") != "detect":
        raise DetectorError(f"{detector} was exported for {metadata['task']}, not for detection")
    listed = names_of(metadata)
    if "names" in metadata and listed is None:
        raise DetectorError(f"{detector} has class names in its metadata that cannot be read")
    known = [COCO_CLASSES, coco_numbering()] if listed is None else [listed]
    for names in known:
        if count in (None, len(names)):
            return names
        if count == len(names) + 1:
            return ("", *names)
    raise DetectorError(
        f"{detector} scores {count} classes, but {len(known[0])} names are known: a manifest can name "
        "them, and its layout (docs/plugins.md, detectors)"
    )


def names_of(metadata: dict[str, str]) -> tuple[str, ...] | None:
    """The class names of a graph's metadata, a list or a table by number; None where there are none to read."""
    listed = literal(metadata.get("names", ""))
    if isinstance(listed, dict) and all(isinstance(key, int) for key in listed):
        listed = [listed[key] for key in sorted(listed)]
    if not isinstance(listed, (list, tuple)) or not all(isinstance(item, str) for item in listed):
        return None
    return tuple(listed)


def literal(text: str) -> Any:
    """A Python or JSON literal of lists, dicts, numbers and text; None when it is not one."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def own_anchors(metadata: dict[str, str]) -> F32 | None:
    """Anchors float32[N,4] that the graph's metadata list as JSON. Raises DetectorError where they cannot be read."""
    if "anchors" not in metadata:
        return None
    try:
        anchors = np.array(json.loads(metadata["anchors"]), np.float32)
    except (ValueError, TypeError, RecursionError) as error:
        raise DetectorError(f"the anchors in the metadata cannot be read: {error}") from error
    if anchors.ndim != 2 or anchors.shape[1] != 4 or not np.isfinite(anchors).all():
        raise DetectorError(f"the anchors in the metadata have shape {anchors.shape}, not (n, 4)")
    return anchors

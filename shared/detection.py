"""Detections, and the arithmetic that detection networks need around them: fitting a frame into the network's input,
reading its raw numbers (YOLO, SSD, NanoDet, DETR), and suppressing duplicates. Arrays in, arrays out; no model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import cv2
import numpy as np
import numpy.typing as npt

from secondlook.shared.errors import DetectorError

U8Image = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]

PAD_VALUE = 114
YOLOX_STRIDES = (8, 16, 32)
NANODET_STRIDES = (8, 16, 32)
NANODET_PLUS_STRIDES = (8, 16, 32, 64)
SSD_LAYERS, SSD_SCALES = 6, (0.2, 0.95)
SSD_VARIANCES = (10.0, 10.0, 5.0, 5.0)  # by which SSD multiplies the offsets and log sizes that it learns

# fmt: off
COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase",
    "scissors", "teddy bear", "hair drier", "toothbrush",
)
# fmt: on
# COCO numbers its categories from 1 to 90, and has given up these.
_COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


@dataclass(frozen=True)
class Detection:
    """One object. `box` is x0, y0, x1, y1 in pixels of the frame, with x0 < x1 and y0 < y1."""

    label: str
    score: float
    box: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        x0, y0, x1, y1 = self.box
        if not (x0 < x1 and y0 < y1):
            raise ValueError(f"box {self.box} is empty")
        if not 0.0 <= self.score <= 1.0:
            raise ValueError(f"score {self.score} is not within 0..1")


class Detector(Protocol):
    """Finds objects in one RGB frame, uint8[H,W,3]; best first."""

    @property
    def name(self) -> str: ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of everything it can find."""
        ...

    def detect(self, image: U8Image) -> list[Detection]: ...


@runtime_checkable
class BatchDetector(Detector, Protocol):
    """A detector that may look at several frames, of any sizes, at once."""

    def detect_batch(self, images: Sequence[U8Image]) -> list[list[Detection]]: ...


def detect_all(detector: Detector, images: Sequence[U8Image]) -> list[list[Detection]]:
    """What `detect` finds in each frame, in as few runs of the network as the detector can."""
    if isinstance(detector, BatchDetector):
        return detector.detect_batch(images)
    return [detector.detect(image) for image in images]


@dataclass(frozen=True)
class Letterbox:
    """Where a frame lies inside the network's input: frame x `scale` + offset = input."""

    scale: float
    left: float
    top: float

    def to_frame(self, boxes: F32) -> F32:
        """Boxes float32[N,4] (x0,y0,x1,y1) in input pixels, in pixels of the frame."""
        offset = np.array([self.left, self.top, self.left, self.top], np.float32)
        return ((boxes - offset) / np.float32(self.scale)).astype(np.float32)


@dataclass(frozen=True)
class Stretch:
    """A frame that fills the network's input, whatever its shape: frame x scale = input, each way its own."""

    scale_x: float
    scale_y: float

    def to_frame(self, boxes: F32) -> F32:
        """Boxes float32[N,4] (x0,y0,x1,y1) in input pixels, in pixels of the frame."""
        return (boxes / np.array([self.scale_x, self.scale_y] * 2, np.float32)).astype(np.float32)


Place: TypeAlias = Letterbox | Stretch


@dataclass(frozen=True)
class Raw:
    """What a network saw before duplicates are removed, N candidates.

    `boxes` float32[N,4] as x0,y0,x1,y1 in input pixels; `scores` float32[N] in 0..1; `classes` int64[N].
    """

    boxes: F32
    scores: F32
    classes: npt.NDArray[np.int64]

    def at_least(self, score: float) -> Raw:
        keep = self.scores >= score
        return Raw(self.boxes[keep], self.scores[keep], self.classes[keep])


def letterbox(image: U8Image, height: int, width: int, *, centred: bool) -> tuple[U8Image, Letterbox]:
    """Scale a frame to fit height x width, keeping its shape; the rest is grey.

    The frame lies in the middle, as YOLOv5 and later have it, or top left, as YOLOX has it.
    """
    rows, columns = image.shape[:2]
    scale = min(height / rows, width / columns)
    new_rows, new_columns = min(height, round(rows * scale)), min(width, round(columns * scale))
    new_rows, new_columns = max(1, new_rows), max(1, new_columns)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(image, (new_columns, new_rows), interpolation=method)
    top = (height - new_rows) // 2 if centred else 0
    left = (width - new_columns) // 2 if centred else 0
    canvas = np.full((height, width, 3), PAD_VALUE, np.uint8)
    canvas[top : top + new_rows, left : left + new_columns] = resized
    return canvas, Letterbox(scale, float(left), float(top))


def stretch(image: U8Image, height: int, width: int) -> tuple[U8Image, Stretch]:
    """Scale a frame to height x width, its shape lost; bilinearly, as these networks learned it."""
    rows, columns = image.shape[:2]
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return resized.astype(np.uint8, copy=False), Stretch(width / columns, height / rows)


def decode_yolox(output: F32, height: int, width: int) -> Raw:
    """YOLOX: float32[N,5+C], one row per cell of strides 8, 16, 32: offset, log size, objectness, classes."""
    if yolox_cells(height, width) != len(output):
        raise DetectorError(f"{len(output)} rows do not fit a {height}x{width} input with strides 8, 16, 32")
    cells, strides = _grid([(height // stride, width // stride, stride) for stride in YOLOX_STRIDES])
    centre = (output[:, :2] + cells) * strides
    size = np.exp(np.minimum(output[:, 2:4], 10.0)) * strides
    return candidates(_corners(centre, size), output[:, 4:5] * output[:, 5:])


def decode_yolov5(output: F32) -> Raw:
    """YOLOv5: float32[N,5+C] with centre and size in input pixels, objectness, classes."""
    return candidates(_corners(output[:, :2], output[:, 2:4]), output[:, 4:5] * output[:, 5:])


def decode_yolov8(output: F32) -> Raw:
    """YOLOv8, v9, v11: float32[4+C,N] with centre and size in input pixels, classes; no objectness."""
    rows = np.ascontiguousarray(output.T)
    return candidates(_corners(rows[:, :2], rows[:, 2:4]), rows[:, 4:])


def decode_corners(boxes: F32, scores: F32, height: int, width: int) -> Raw:
    """SSD with the anchors inside: boxes float32[N,4] as y0,x0,y1,x1 in shares of the input, scores float32[N,C]."""
    size = np.array([width, height] * 2, np.float32)
    return candidates((boxes[:, [1, 0, 3, 2]] * size).astype(np.float32), scores)


def decode_ssd(offsets: F32, logits: F32, anchors: F32, height: int, width: int) -> Raw:
    """SSD without: float32[N,4] of centre y, x and log height, width, relative to `anchors` (as `ssd_anchors`)."""
    scaled = offsets / np.array(SSD_VARIANCES, np.float32)
    centre = scaled[:, :2] * anchors[:, 2:] + anchors[:, :2]
    half = np.exp(np.minimum(scaled[:, 2:], 10.0)) * anchors[:, 2:] / 2
    corners = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
    return decode_corners(corners, sigmoid(logits), height, width)


def ssd_anchors(height: int, width: int) -> F32:
    """The boxes that an SSD of six layers, the first at stride 16, starts from; float32[N,4].

    Centre y, centre x, height, width in shares of the input. Scales go from 0.2 to 0.95; each cell has boxes of the
    shapes 1, 2, 1/2, 3, 1/3 and a larger square, in the first layer a small square and the shapes 2 and 1/2.
    """
    low, high = SSD_SCALES
    scales = [low + (high - low) * layer / (SSD_LAYERS - 1) for layer in range(SSD_LAYERS)] + [1.0]
    rows, columns = math.ceil(height / 16), math.ceil(width / 16)
    anchors = []
    for layer in range(SSD_LAYERS):
        scale, larger = scales[layer], math.sqrt(scales[layer] * scales[layer + 1])
        shapes = [(scale, ratio) for ratio in (1.0, 2.0, 0.5, 3.0, 1 / 3)] + [(larger, 1.0)]
        if layer == 0:
            shapes = [(0.1, 1.0), (scale, 2.0), (scale, 0.5)]
        sizes = [(one / math.sqrt(ratio), one * math.sqrt(ratio)) for one, ratio in shapes]
        y, x = np.mgrid[:rows, :columns]
        centres = np.stack([(y.ravel() + 0.5) / rows, (x.ravel() + 0.5) / columns], 1)
        centres = np.repeat(centres, len(sizes), axis=0)
        anchors.append(np.concatenate([centres, np.tile(sizes, (rows * columns, 1))], axis=1))
        rows, columns = math.ceil(rows / 2), math.ceil(columns / 2)
    boxes: F32 = np.concatenate(anchors).astype(np.float32)
    return boxes


def decode_nanodet(scores: F32, distances: F32, height: int, width: int) -> Raw:
    """NanoDet: scores float32[N,C] in 0..1, one row per cell of strides 8, 16, 32 (NanoDet-Plus: and 64).

    `distances` float32[N,4*B] are B logits for each of left, top, right and bottom: of the distances 0 to B-1 strides,
    whose mean is taken. NanoDet measures from the middle of a cell, NanoDet-Plus from its corner.
    """
    known = {NANODET_STRIDES: 0.5, NANODET_PLUS_STRIDES: 0.0}  # where in a cell distances begin
    strides = next((one for one in known if grid_cells(height, width, one) == len(scores)), None)
    if strides is None:
        raise DetectorError(f"{len(scores)} rows do not fit a {height}x{width} input with strides of NanoDet")
    cells, step = _grid([(math.ceil(height / one), math.ceil(width / one), one) for one in strides])
    logits = distances.reshape(len(distances), 4, -1)
    weights = np.exp(logits - logits.max(axis=2, keepdims=True))
    bins = np.arange(logits.shape[2], dtype=np.float32)
    sides = (weights @ bins) / weights.sum(axis=2) * step
    centre = (cells + np.float32(known[strides])) * step
    return candidates(np.concatenate([centre - sides[:, :2], centre + sides[:, 2:]], axis=1), scores)


def decode_detr(boxes: F32, scores: F32, height: int, width: int) -> Raw:
    """RT-DETR, D-FINE: boxes float32[N,4] as centre and size in shares of the input, scores float32[N,C] in 0..1."""
    scaled = boxes * np.array([width, height] * 2, np.float32)
    return candidates(_corners(scaled[:, :2], scaled[:, 2:]), scores)


def sigmoid(logits: F32) -> F32:
    """Logits as scores in 0..1."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -60, 60))), np.float32)


def decode_end_to_end(output: F32) -> Raw:
    """Networks with the suppression inside: float32[N,6] as x0,y0,x1,y1,score,class; padding has score 0."""
    scores = np.clip(output[:, 4], 0.0, 1.0).astype(np.float32)
    return Raw(output[:, :4].astype(np.float32), scores, output[:, 5].astype(np.int64))


def yolox_cells(height: int, width: int) -> int:
    """How many rows a YOLOX network of this input size returns."""
    return sum((height // stride) * (width // stride) for stride in YOLOX_STRIDES)


def grid_cells(height: int, width: int, strides: Sequence[int]) -> int:
    """How many cells of these strides cover an input, those that reach over its rim included."""
    return sum(math.ceil(height / stride) * math.ceil(width / stride) for stride in strides)


def coco_numbering() -> tuple[str, ...]:
    """COCO's classes at their numbers less one, 90 in all; the numbers that stand for nothing are empty."""
    names = iter(COCO_CLASSES)
    return tuple("" if number in _COCO_GAPS else next(names) for number in range(1, 91))


def suppress(raw: Raw, overlap: float, limit: int) -> Raw:
    """Keep the best of boxes of one class that overlap by more than `overlap` (IoU), at most `limit`; best first.

    A box that is no box, with a coordinate that is not finite, is left out.
    """
    finite = np.isfinite(raw.boxes).all(axis=1)
    raw = Raw(raw.boxes[finite], raw.scores[finite], raw.classes[finite])
    if not len(raw.scores):
        return raw
    boxes = raw.boxes.copy()
    boxes[:, 2:] -= boxes[:, :2]  # OpenCV's boxes are x, y, width, height
    best = cv2.dnn.NMSBoxesBatched(
        boxes.tolist(), raw.scores.tolist(), raw.classes.tolist(), score_threshold=0.0, nms_threshold=overlap
    )
    chosen = np.asarray(best, np.int64).reshape(-1)[:limit]
    return Raw(raw.boxes[chosen], raw.scores[chosen], raw.classes[chosen])


def to_detections(raw: Raw, place: Place, shape: tuple[int, ...], names: tuple[str, ...]) -> list[Detection]:
    """Name the candidates and clip them to a frame of `shape` (H, W, ...); boxes outside it are dropped."""
    rows, columns = shape[:2]
    boxes = place.to_frame(raw.boxes)
    boxes[:, 0::2] = np.clip(boxes[:, 0::2], 0, columns)
    boxes[:, 1::2] = np.clip(boxes[:, 1::2], 0, rows)
    found = []
    rows_of = zip(boxes.tolist(), raw.scores.tolist(), raw.classes.tolist(), strict=True)
    for (x0, y0, x1, y1), score, index in rows_of:
        if x0 < x1 and y0 < y1 and 0 <= index < len(names):
            found.append(Detection(names[index], score, (x0, y0, x1, y1)))
    return found


def _grid(levels: Sequence[tuple[int, int, int]]) -> tuple[F32, F32]:
    """The cells of levels of (rows, columns, stride): x and y in their own grid, float32[N,2], and stride, [N,1]."""
    cells, strides = [], []
    for rows, columns, stride in levels:
        y, x = np.mgrid[:rows, :columns]
        cells.append(np.stack([x.ravel(), y.ravel()], 1))
        strides.append(np.full((x.size, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)


def _corners(centre: F32, size: F32) -> F32:
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1).astype(np.float32)


def candidates(boxes: F32, scores: F32) -> Raw:
    """Each box, float32[N,4] in input pixels, with the best of its scores float32[N,C]."""
    classes = scores.argmax(1)
    best = scores[np.arange(len(scores)), classes]
    return Raw(boxes, np.clip(best, 0.0, 1.0).astype(np.float32), classes.astype(np.int64))

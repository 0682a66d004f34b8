"""Detections, and the arithmetic every YOLO-like network needs around it: fitting a frame into the network's
square, reading its raw numbers, and suppressing duplicates. Arrays in, arrays out; no model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from secondlook.shared.errors import DetectorError

U8Image = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]

PAD_VALUE = 114
YOLOX_STRIDES = (8, 16, 32)

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


def decode_yolox(output: F32, height: int, width: int) -> Raw:
    """YOLOX: float32[N,5+C], one row per cell of strides 8, 16, 32: offset, log size, objectness, classes."""
    cells, strides = _grid(height, width)
    if len(cells) != len(output):
        raise DetectorError(f"{len(output)} rows do not fit a {height}x{width} input with strides 8, 16, 32")
    centre = (output[:, :2] + cells) * strides
    size = np.exp(np.minimum(output[:, 2:4], 10.0)) * strides
    return _raw(_corners(centre, size), output[:, 4:5] * output[:, 5:])


def decode_yolov5(output: F32) -> Raw:
    """YOLOv5: float32[N,5+C] with centre and size in input pixels, objectness, classes."""
    return _raw(_corners(output[:, :2], output[:, 2:4]), output[:, 4:5] * output[:, 5:])


def decode_yolov8(output: F32) -> Raw:
    """YOLOv8, v9, v11: float32[4+C,N] with centre and size in input pixels, classes; no objectness."""
    rows = np.ascontiguousarray(output.T)
    return _raw(_corners(rows[:, :2], rows[:, 2:4]), rows[:, 4:])


def decode_end_to_end(output: F32) -> Raw:
    """Networks with the suppression inside: float32[N,6] as x0,y0,x1,y1,score,class; padding has score 0."""
    scores = np.clip(output[:, 4], 0.0, 1.0).astype(np.float32)
    return Raw(output[:, :4].astype(np.float32), scores, output[:, 5].astype(np.int64))


def yolox_cells(height: int, width: int) -> int:
    """How many rows a YOLOX network of this input size returns."""
    return sum((height // stride) * (width // stride) for stride in YOLOX_STRIDES)


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


def to_detections(
    raw: Raw, place: Letterbox, shape: tuple[int, ...], names: tuple[str, ...]
) -> list[Detection]:
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


def _grid(height: int, width: int) -> tuple[F32, F32]:
    cells, strides = [], []
    for stride in YOLOX_STRIDES:
        y, x = np.mgrid[: height // stride, : width // stride]
        cells.append(np.stack([x.ravel(), y.ravel()], 1))
        strides.append(np.full((x.size, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)


def _corners(centre: F32, size: F32) -> F32:
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1).astype(np.float32)


def _raw(boxes: F32, scores: F32) -> Raw:
    classes = scores.argmax(1)
    best = scores[np.arange(len(scores)), classes]
    return Raw(boxes, np.clip(best, 0.0, 1.0).astype(np.float32), classes.astype(np.int64))

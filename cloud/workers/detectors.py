"""The engines behind the Detector protocol: the model that ships, any YOLO ONNX export, ultralytics."""

from __future__ import annotations

import ast
import importlib
import logging
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from secondlook.shared.detection import (
    COCO_CLASSES,
    Detection,
    Detector,
    Raw,
    U8Image,
    decode_end_to_end,
    decode_yolov5,
    decode_yolov8,
    decode_yolox,
    letterbox,
    suppress,
    to_detections,
    yolox_cells,
)
from secondlook.shared.device import gpu_of
from secondlook.shared.errors import DetectorError, DeviceUnavailable
from secondlook.shared.inference import Session, open_session
from secondlook.shared.models import MODELS_ROOT, find_model

log = logging.getLogger(__name__)

F32 = npt.NDArray[np.float32]

BUILTIN = "builtin"
DEFAULT_MIN_SCORE = 0.1
DEFAULT_SIDE = 640
OVERLAP = 0.5
MAX_DETECTIONS = 300


def load_detector(
    spec: str, *, threads: int, min_score: float | None = None, device: str = "cpu"
) -> Detector:
    """Open the detector a setting names.

    `spec`: "builtin"; a folder with a detector's manifest, its path with a slash in it; a path to a YOLO export
    ending in .onnx; or the name of ultralytics weights ("yolo11n", "yolo11n.pt"), which that package may download.
    A .pt file is a pickle: load only those you trust. `min_score`: detections below it are not reported; None
    takes the model's own. `threads`: 0 = one per core; `device`: see `open_session`.
    Raises DetectorError, DeviceUnavailable for a GPU that is not there, and ModelNotFound or ModelCorrupt for a model
    folder.
    """
    path = Path(spec)
    if spec == BUILTIN or ("/" in spec and os.path.isfile(path / "manifest.json")):
        return _open_folder(MODELS_ROOT / "detector" if spec == BUILTIN else path, threads, min_score, device)
    if path.suffix == ".onnx":
        if not path.is_file():
            raise DetectorError(f"no detector at {spec}: there is no such file")
        session = open_session(path, threads, device=device)
        return OnnxDetector(session, path.stem, min_score or DEFAULT_MIN_SCORE)
    if path.suffix == ".pt" or path.name.lower().startswith(("yolo", "rtdetr")):
        return UltralyticsDetector(spec, threads, min_score or DEFAULT_MIN_SCORE, device)
    raise DetectorError(
        f"no detector {spec!r}: give {BUILTIN!r}, a path to a .onnx export, or ultralytics weights by name"
    )


def _open_folder(path: Path, threads: int, min_score: float | None, device: str) -> OnnxDetector:
    folder = find_model(path, kind="detector")
    session = open_session(folder.file("model.onnx"), threads, device=device)
    if min_score is None:
        min_score = float(folder.manifest.get("report_score", DEFAULT_MIN_SCORE))
    return OnnxDetector(session, f"{folder.name}-{folder.model_hash.hex()[:8]}", min_score)


@dataclass(frozen=True)
class Layout:
    """How one family of exports takes its frames and writes its candidates.

    YOLOX takes BGR 0..255 with the frame top left, the others RGB 0..1 with the frame in the middle.
    """

    decode: Callable[[F32], Raw]
    classes: int | None  # None where the output does not tell
    bgr_bytes: bool = False
    suppressed: bool = False  # duplicates are already gone


def recognise(shape: tuple[int, ...], height: int, width: int) -> Layout:
    """The layout of an output of `shape` for an input of height x width. Raises DetectorError if none fits.

    A YOLOX export is expected as its authors' tool writes it by default, without its boxes decoded.
    """
    if len(shape) != 3 or shape[0] != 1:
        raise DetectorError(f"output of shape {shape} is of no known YOLO layout")
    _, rows, columns = shape
    cells = yolox_cells(height, width)
    if rows == cells and columns > 5:
        return Layout(partial(decode_yolox, height=height, width=width), columns - 5, bgr_bytes=True)
    if columns == 6 and rows < cells:
        return Layout(decode_end_to_end, None, suppressed=True)
    if rows > columns > 5 and rows >= 3 * cells:
        return Layout(decode_yolov5, columns - 5)
    if columns > rows > 4 and columns >= cells:
        return Layout(decode_yolov8, rows - 4)
    raise DetectorError(f"output of shape {shape} for a {height}x{width} input is of no known YOLO layout")


class OnnxDetector:
    """A YOLO-like ONNX graph with one image in and candidates out."""

    def __init__(self, session: Session, name: str, min_score: float) -> None:
        self.name = name
        self.min_score = min_score
        self._session = session
        self._height, self._width = _input_size(session, name)
        grey = np.full((self._height, self._width, 3), 114, np.uint8)
        output = self._run(grey, bgr_bytes=True)  # which values it sees does not change an output's shape
        self._layout = recognise(output.shape, self._height, self._width)
        self.classes = _class_names(session.metadata, self._layout.classes, name)

    def detect(self, image: U8Image) -> list[Detection]:
        """Objects in an RGB frame uint8[H,W,3], best first. Raises DetectorError where all is NaN."""
        layout = self._layout
        canvas, place = letterbox(image, self._height, self._width, centred=not layout.bgr_bytes)
        with np.errstate(invalid="ignore"):  # what is no number becomes no class
            seen = layout.decode(self._run(canvas, bgr_bytes=layout.bgr_bytes)[0])
        if seen.scores.size and (np.isnan(seen.scores).all() or np.isnan(seen.boxes).all()):
            raise DetectorError(f"{self.name} found nothing but NaN in a frame: its weights are damaged")
        raw = seen.at_least(self.min_score)
        kept = suppress(raw, 1.0 if layout.suppressed else OVERLAP, MAX_DETECTIONS)
        return to_detections(kept, place, image.shape, self.classes)

    def _run(self, canvas: U8Image, *, bgr_bytes: bool) -> F32:
        planes = canvas.transpose(2, 0, 1)
        values = planes[::-1].astype(np.float32) if bgr_bytes else planes.astype(np.float32) / np.float32(255)
        outputs = self._session.run({self._session.inputs[0]: np.ascontiguousarray(values[None])})
        return np.asarray(outputs[self._session.outputs[0]], np.float32)


def _input_size(session: Session, name: str) -> tuple[int, int]:
    """Height and width the graph is run at: its own, else what its metadata says, else 640."""
    shape = session.input_shape
    if len(session.inputs) != 1 or len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != 3):
        raise DetectorError(f"{name} does not take one image: its input is {list(shape)}")
    height, width = shape[2:]
    if isinstance(height, int) and isinstance(width, int):
        return height, width
    size = _literal(session.metadata.get("imgsz", ""))
    if isinstance(size, (list, tuple)) and len(size) == 2 and all(isinstance(v, int) and v > 0 for v in size):
        return int(size[0]), int(size[1])
    return DEFAULT_SIDE, DEFAULT_SIDE


def _class_names(metadata: dict[str, str], count: int | None, name: str) -> tuple[str, ...]:
    if metadata.get("task", "detect") != "detect":
        raise DetectorError(f"{name} was exported for {metadata['task']}, not for detection")
    names: tuple[str, ...] = COCO_CLASSES
    if "names" in metadata:
        listed = _literal(metadata["names"])
        if isinstance(listed, dict) and all(isinstance(key, int) for key in listed):
            listed = [listed[key] for key in sorted(listed)]
        if not isinstance(listed, (list, tuple)) or not all(isinstance(item, str) for item in listed):
            raise DetectorError(f"{name} has class names in its metadata that cannot be read")
        names = tuple(listed)
    if count is not None and count != len(names):
        raise DetectorError(f"{name} scores {count} classes, but {len(names)} names are known")
    return names


def _literal(text: str) -> Any:
    """A Python or JSON literal of lists, dicts, numbers and text; None when it is not one."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


class UltralyticsDetector:
    """Weights run by the ultralytics package, which is AGPL-3.0 and installed apart from this one."""

    def __init__(self, spec: str, threads: int, min_score: float, device: str) -> None:
        gpu = gpu_of(device)
        try:
            torch: Any = importlib.import_module("torch")
            ultralytics: Any = importlib.import_module("ultralytics")
        except ImportError as error:
            raise DetectorError(
                f"detector {spec!r} needs the ultralytics package ({error}): pip install ultralytics"
            ) from error
        if threads > 0:
            torch.set_num_threads(threads)
        gpus = int(torch.cuda.device_count())
        if gpu is not None and gpu >= gpus and device != "auto":
            raise DeviceUnavailable(f"device {device}: torch sees {gpus} GPUs")
        self._device = "cpu" if gpu is None or gpu >= gpus else f"cuda:{gpu}"
        weights = spec if Path(spec).suffix else f"{spec}.pt"
        try:
            self._model = ultralytics.YOLO(weights, task="detect")
            self._labels: dict[int, str] = dict(self._model.names)
        except (OSError, RuntimeError, ValueError, KeyError, AttributeError, pickle.UnpicklingError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise DetectorError(f"cannot load ultralytics weights {weights!r}: {reason}") from error
        log.info("%s runs on %s", weights, self._device)
        # The package drops candidates that are no numbers: damaged weights would find nothing, and say nothing.
        parameters = getattr(self._model.model, "parameters", tuple)
        if any(bool(torch.isnan(one).any()) for one in parameters()):
            raise DetectorError(f"ultralytics weights {weights!r} hold NaN: they are damaged")
        self.name = Path(weights).stem
        self.classes = tuple(self._labels.values())
        self.min_score = min_score

    def detect(self, image: U8Image) -> list[Detection]:
        """Objects in an RGB frame uint8[H,W,3], best first."""
        bgr = np.ascontiguousarray(image[:, :, ::-1])
        result = self._model.predict(
            bgr, conf=self.min_score, max_det=MAX_DETECTIONS, device=self._device, verbose=False
        )[0]
        found = []
        for (x0, y0, x1, y1), score, index in zip(
            result.boxes.xyxy.tolist(), result.boxes.conf.tolist(), result.boxes.cls.tolist(), strict=True
        ):
            if x0 < x1 and y0 < y1:
                found.append(Detection(self._labels[int(index)], min(float(score), 1.0), (x0, y0, x1, y1)))
        return found

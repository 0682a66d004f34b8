"""The detector that a worker's setting names: what `shared.detectors` opens, or weights of ultralytics."""

from __future__ import annotations

import importlib
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from secondlook.shared.detection import Detection, Detector, U8Image
from secondlook.shared.detectors import AUTO, BUILTIN, DEFAULT_MIN_SCORE, MAX_DETECTIONS, open_detector
from secondlook.shared.device import gpu_of
from secondlook.shared.errors import DetectorError, DeviceUnavailable
from secondlook.shared.plugins import DETECTORS, plugin_names

log = logging.getLogger(__name__)


def load_detector(
    spec: str, *, threads: int, min_score: float | None = None, device: str = "cpu"
) -> Detector:
    """Open the detector a setting names.

    `spec`: what `open_detector` takes, or the name of ultralytics weights ("yolo11n", "yolo11n.pt"), which that package
    may download. A .pt file is a pickle: load only those you trust. The other arguments and errors are those of
    `open_detector`; DetectorError besides where nothing has this name.
    """
    found = open_detector(spec, threads=threads, min_score=min_score, device=device)
    if found is not None:
        return found
    if Path(spec).suffix == ".pt" or Path(spec).name.lower().startswith(("yolo", "rtdetr")):
        return UltralyticsDetector(spec, threads, min_score or DEFAULT_MIN_SCORE, device)
    brought = "".join(f", {name!r}" for name in plugin_names(DETECTORS))
    raise DetectorError(
        f"no detector {spec!r}: give {AUTO!r}, {BUILTIN!r}{brought}, a model that was added (secondlook models list), "
        "a path to a .onnx export, or ultralytics weights by name"
    )


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
        parameters = getattr(getattr(self._model, "model", None), "parameters", tuple)
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

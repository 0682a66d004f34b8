"""Detectors as ONNX graphs: model folders, exports of the families in `layouts`, and what other packages bring.

Both sides open them here: workers, which look for objects, and camera hosts, which mask classes before they encode.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from secondlook.shared.detection import (
    PAD_VALUE,
    Detection,
    Detector,
    Place,
    U8Image,
    suppress,
    to_detections,
)
from secondlook.shared.errors import DetectorError
from secondlook.shared.graphfacts import NOTHING, GraphFacts, read_facts
from secondlook.shared.inference import Session, open_session
from secondlook.shared.layouts import Layout, class_names, literal
from secondlook.shared.models import MODELS_ROOT, ModelFolder, added_models, find_model, find_root
from secondlook.shared.namedlayouts import Graph, choose_layout
from secondlook.shared.plugins import DETECTORS, find_plugin, load_plugin

log = logging.getLogger(__name__)

F32 = npt.NDArray[np.float32]

AUTO, BUILTIN = "auto", "builtin"
GENERAL = "ssdlite"  # the model that `auto` prefers: what `secondlook models fetch` adds
DEFAULT_MIN_SCORE = 0.1
DEFAULT_SIDE = 640
OVERLAP = 0.5
MAX_DETECTIONS = 300
_INPUT_TYPES: dict[str, type[np.generic]] = {"float": np.float32, "float16": np.float16, "uint8": np.uint8}


def open_detector(
    spec: str, *, threads: int, min_score: float | None = None, device: str = "cpu"
) -> Detector | None:
    """Open the detector a setting names; None where it is no model, export or package that is known here.

    `spec`: "auto", the general detector where it was added, else the small one that ships; "builtin", always that
    one; the name of a model (`shared.models` says where it is looked for); a folder with a detector's manifest, its
    path with a slash in it; a path to an export ending in .onnx; or a detector of another package, by its name.
    `min_score`: detections below it are not reported; None takes the model's own. `threads`: 0 = one per core;
    `device`: see `open_session`.
    Raises DetectorError, DeviceUnavailable for a GPU that is not there, ModelNotFound or ModelCorrupt for a model
    folder, ConfigError for a package that cannot be loaded.
    """
    path = Path(spec)
    if spec == AUTO:
        spec = GENERAL if find_root(GENERAL) is not None else BUILTIN
        if spec == BUILTIN:
            log.info(
                "detector auto takes the small one that ships: %s holds no %s; secondlook models fetch adds it",
                added_models(),
                GENERAL,
            )
    if spec == BUILTIN:
        return _open_folder(find_model(MODELS_ROOT / "detector"), threads, min_score, device)
    if ("/" in spec and os.path.isfile(path / "manifest.json")) or find_root(spec) is not None:
        return _open_folder(find_model(spec, kind="detector"), threads, min_score, device)
    if path.suffix == ".onnx":
        if not path.is_file():
            raise DetectorError(f"no detector at {spec}: there is no such file")
        session = open_session(path, threads, device=device)
        return OnnxDetector(session, path.stem, min_score or DEFAULT_MIN_SCORE)
    if find_plugin(DETECTORS, spec) is not None:
        return _open_engine(spec, None, threads, min_score, device)
    return None


def _open_folder(folder: ModelFolder, threads: int, min_score: float | None, device: str) -> Detector:
    log.info("detector %s lies in %s", folder.name, folder.path)
    if min_score is None:
        min_score = float(folder.manifest.get("report_score", DEFAULT_MIN_SCORE))
    if "engine" in folder.manifest:
        return _open_engine(folder.manifest["engine"], folder, threads, min_score, device)
    facts = read_facts(folder.manifest["graph"], folder.name) if "graph" in folder.manifest else NOTHING
    session = open_session(folder.file("model.onnx"), threads, device=device)
    return OnnxDetector(session, f"{folder.name}-{folder.model_hash.hex()[:8]}", min_score, facts)


def _open_engine(
    engine: object, folder: ModelFolder | None, threads: int, min_score: float | None, device: str
) -> Detector:
    entry = find_plugin(DETECTORS, engine) if isinstance(engine, str) else None
    if entry is None:
        named = "" if folder is None else f"model {folder.name}: "
        raise DetectorError(f"{named}no installed package brings the detector {engine!r}")
    lowest = DEFAULT_MIN_SCORE if min_score is None else min_score
    opened: Detector = load_plugin(entry)(folder, threads=threads, min_score=lowest, device=device)
    return opened


class OnnxDetector:
    """An ONNX graph with frames in and candidates out, of a layout that its manifest, or `layouts`, knows.

    A graph for a fixed number of frames gets them so: what is missing is filled up, what is more goes in turns.
    """

    def __init__(self, session: Session, name: str, min_score: float, facts: GraphFacts = NOTHING) -> None:
        """Raises DetectorError where the graph is no such detector."""
        self.name = name
        self.min_score = min_score
        self._session = session
        if session.input_type not in _INPUT_TYPES:
            raise DetectorError(f"{name} takes {session.input_type}, not one of {', '.join(_INPUT_TYPES)}")
        self._dtype = _INPUT_TYPES[session.input_type]
        self._metadata = facts.over(session.metadata)
        self._channels_last, self._height, self._width = _input_size(session, name, self._metadata, facts)
        fixed = session.input_shape[0]
        self._frames = fixed if isinstance(fixed, int) and fixed > 0 else None
        self._unframed = False
        outputs = self._run(np.full((1, self._height, self._width, 3), PAD_VALUE, np.float32))
        shapes = tuple(output.shape for output in outputs)  # values do not change them
        if all(len(shape) <= 2 for shape in shapes) and any(shape[-1:] == (4,) for shape in shapes):
            self._unframed, self._frames = True, 1
            shapes = tuple((1, *shape) for shape in shapes)
        graph = Graph(name, session.outputs, shapes, self._height, self._width, self._dtype == np.uint8)
        self._layout, said = choose_layout(graph, self._metadata, facts)
        self._names = class_names(said, self._layout.classes, name)
        self.classes = tuple(label for label in self._names if label)
        # A background, or a gap in the numbering, must not win over a class.
        self._columns = [index for index, label in enumerate(self._names) if label]

    @property
    def metadata(self) -> dict[str, str]:
        """What the graph says of itself, or its manifest in its place."""
        return self._metadata

    @property
    def layout(self) -> Layout:
        """How its network takes frames and writes candidates."""
        return self._layout

    @property
    def columns(self) -> list[int]:
        """Where in its scores each of `classes` is."""
        return list(self._columns)

    @property
    def channels_last(self) -> bool:
        """Whether its network takes [N,H,W,3], not [N,3,H,W]."""
        return self._channels_last

    @property
    def family(self) -> str:
        """What kind of network it is."""
        return self._layout.family

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width that frames are brought to."""
        return self._height, self._width

    def detect(self, image: U8Image) -> list[Detection]:
        """Objects in an RGB frame uint8[H,W,3], best first. Raises DetectorError where all is NaN."""
        return self.detect_batch([image])[0]

    def detect_batch(self, images: Sequence[U8Image]) -> list[list[Detection]]:
        """`detect` of each frame; one run of the network where it takes several frames at once."""
        placed = [self._layout.intake.place(image, self._height, self._width) for image in images]
        step = self._frames or len(images)
        found: list[list[Detection]] = []
        for start in range(0, len(images), max(step, 1)):
            part = placed[start : start + step]
            outputs = self._run(np.stack([values for values, _ in part]))
            found += [
                self._read([output[index] for output in outputs], place, images[start + index].shape)
                for index, (_, place) in enumerate(part)
            ]
        return found

    def _read(self, outputs: list[F32], place: Place, shape: tuple[int, ...]) -> list[Detection]:
        layout = self._layout
        for index in layout.scores:
            scores = outputs[index] if layout.prepare is None else layout.prepare(outputs[index])
            outputs[index] = scores[:, self._columns]
        with np.errstate(invalid="ignore"):  # what is no number becomes no class
            seen = layout.decode(outputs)
        if seen.scores.size and (np.isnan(seen.scores).all() or np.isnan(seen.boxes).all()):
            raise DetectorError(f"{self.name} found nothing but NaN in a frame: its weights are damaged")
        overlap = layout.overlap or OVERLAP
        kept = suppress(seen.at_least(self.min_score), 1.0 if layout.suppressed else overlap, MAX_DETECTIONS)
        found = to_detections(kept, place, shape, self._names if layout.numbered else self.classes)
        return [one for one in found if one.label]

    def _run(self, frames: F32) -> list[F32]:
        """The outputs for frames float32[N,H,W,3] that are ready for the network; N is what it can take, or less."""
        count = len(frames)
        if self._frames is not None and count < self._frames:
            frames = np.concatenate([frames, np.repeat(frames[-1:], self._frames - count, axis=0)])
        if not self._channels_last:
            frames = frames.transpose(0, 3, 1, 2)
        fed = np.ascontiguousarray(frames, self._dtype)
        outputs = self._session.run({self._session.inputs[0]: fed})
        arrays = [np.asarray(outputs[name], np.float32) for name in self._session.outputs]
        if self._unframed:
            return [one[None] for one in arrays]
        return [one[:count] if one.ndim else one for one in arrays]


def _input_size(
    session: Session, name: str, metadata: dict[str, str], facts: GraphFacts
) -> tuple[bool, int, int]:
    """Whether channels come last, and the height and width to run at: the graph's, what is said of it, else 640."""
    shape = session.input_shape
    last = len(shape) == 4 and shape[3] == 3 and shape[1] != 3
    if facts.channels is not None:
        last = facts.channels == "last"
    if (
        len(session.inputs) != 1
        or len(shape) != 4
        or (isinstance(shape[3 if last else 1], int) and shape[3 if last else 1] != 3)
    ):
        raise DetectorError(f"{name} does not take one image: its input is {list(shape)}")
    height, width = shape[1:3] if last else shape[2:]
    size = literal(metadata.get("imgsz", ""))
    known = (
        isinstance(size, (list, tuple)) and len(size) == 2 and all(isinstance(v, int) and v > 0 for v in size)
    )
    if isinstance(height, int) and isinstance(width, int):
        if facts.input is not None and facts.input != (height, width):
            raise DetectorError(
                f"{name} takes {height}x{width}, and its manifest says {facts.input[0]}x{facts.input[1]}"
            )
        return last, height, width
    return (last, int(size[0]), int(size[1])) if known else (last, DEFAULT_SIDE, DEFAULT_SIDE)

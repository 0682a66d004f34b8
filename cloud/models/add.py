"""Filing a model of others as a model folder: converted where it must be, tried once, described in its manifest."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from secondlook.cloud.models.convert import convert
from secondlook.cloud.models.sources import Package, Source
from secondlook.cloud.models.tfjs import GraphModel, read_graph_model
from secondlook.cloud.workers.detectors import load_detector
from secondlook.cloud.workers.postfilter import load_postfilter
from secondlook.shared.detection import ssd_anchors
from secondlook.shared.detectors import AUTO, BUILTIN, OnnxDetector
from secondlook.shared.errors import ConfigError, ModelCorrupt
from secondlook.shared.files import storage_error, write_all
from secondlook.shared.graphfacts import NOTHING, read_facts
from secondlook.shared.inference import open_session
from secondlook.shared.models import MODELS_ROOT, ModelFolder, describe_bytes, find_model, model_names

log = logging.getLogger(__name__)

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_RESERVED = (AUTO, BUILTIN)
NOT_STATED = "not stated by its source"


@dataclass(frozen=True)
class Licence:
    """`name` for people, the whole text where there is one."""

    name: str
    text: str | None


def add_model(
    source: Source,
    root: Path,
    *,
    name: str | None = None,
    file: str | None = None,
    licence: str | None = None,
    replace: bool = False,
    graph_facts: dict[str, Any] | None = None,
) -> ModelFolder:
    """Make a model folder under `root` from the model in `source`; `file` chooses one of several.

    `name`: of the folder, by default the model's file's or the package's. `licence`: a text, where the source has none.
    A folder of this name that is there already stays, unless `replace`. `graph_facts`: the manifest's table `graph`.
    Raises ModelNotFound, ModelCorrupt, DetectorError for a network of no known family, ConfigError for a name that
    cannot be one or is taken, DiskFull or Unwritable.
    """
    model = source.choose(file)
    package = source.package()
    chosen = name if name is not None else _default_name(model, package)
    check_name(chosen)
    if os.path.lexists(root / chosen) and not replace:
        raise ConfigError(f"{root / chosen} is there already; --replace puts this one in its place")
    graph, data, facts = None, source.files[model], {}
    if not model.endswith(".onnx"):
        graph = read_graph_model(data, lambda shard: source.beside(model, shard))
        data = convert(graph)
        facts = {"converted_from": "TensorFlow.js graph model"}
    manifest: dict[str, Any] = {"name": chosen, "kind": "detector", "format": 1}
    manifest["files"] = {"model.onnx": describe_bytes(data)}
    said = NOTHING
    if graph_facts:
        manifest["graph"], said = graph_facts, read_facts(graph_facts, chosen)
    origin = {"file": source.path.name, "sha256": source.sha256, "model": model, **facts}
    if package is not None:
        origin |= {"package": package.name, "version": package.version}
    try:
        root.mkdir(parents=True, exist_ok=True)
        # Beside its place, so that a folder is there whole or not at all.
        with tempfile.TemporaryDirectory(prefix=f".{chosen}-", dir=root) as made:
            folder = Path(made) / chosen
            folder.mkdir()
            write_all({folder / "model.onnx": data})
            detector = OnnxDetector(open_session(folder / "model.onnx", 1), chosen, 0.0, said)
            detector.detect(np.zeros((48, 64, 3), np.uint8))
            manifest |= _describe(detector, graph)
            terms = _licence(source, model, package, detector, licence)
            manifest |= {"licence": terms.name, "licence_text": terms.text, "source": origin}
            text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
            write_all({folder / "manifest.json": text.encode()})
            find_model(folder, kind="detector")
            _move(folder, root / chosen, Path(made) / "before")
    except OSError as error:
        raise storage_error(root / chosen, error) from error
    return find_model(root / chosen, kind="detector")


def facts_of_files(table: Path | None, names: Path | None) -> dict[str, Any]:
    """The table `graph` from a JSON file of it, and from a file with the name of a class a line; empty lines are none.

    Raises ConfigError.
    """
    try:
        facts: Any = json.loads(table.read_bytes()) if table is not None else {}
        if not isinstance(facts, dict):
            raise ConfigError(f"{table} holds no JSON object")
        if names is not None:
            facts["classes"] = [line.strip() for line in names.read_text().rstrip().split("\n")]
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{table or names} cannot be read: {error}") from error
    return facts


def check_name(name: str) -> None:
    """Raises ConfigError for a name that no added model can have."""
    if _NAME.fullmatch(name) is None or name.endswith((".onnx", ".pt")):
        raise ConfigError(
            f"{name!r} cannot be a model's name: small letters, digits, '.', '_', '-'; give --name"
        )
    if name in _RESERVED or name in model_names(MODELS_ROOT):
        raise ConfigError(f"{name!r} is the name of a model that ships; give another with --name")


def verify_model(folder: ModelFolder) -> str:
    """Try a folder whose hashes were verified, and say what it is. Raises what `load_detector` raises."""
    if folder.kind == "postfilter":
        load_postfilter(folder.path.absolute(), threads=1).apply(np.zeros((48, 64, 3), np.uint8))
    if folder.kind != "detector":
        return f"{folder.kind}, {len(folder.manifest['files'])} files"
    detector = load_detector(str(folder.path.absolute()), threads=1)
    detector.detect(np.zeros((48, 64, 3), np.uint8))
    listed = folder.manifest.get("classes")
    if listed is not None and list(detector.classes) != list(listed):
        raise ModelCorrupt(f"model {folder.name!r} gives other classes than its manifest lists")
    return f"detector of {len(detector.classes)} classes"


def anchor_distance(graph: GraphModel, height: int, width: int) -> float | None:
    """How far the anchors inside a graph lie from those of SSD's rule at most, in shares of the input.

    None where no constant of the graph could be such anchors.
    """
    expected = ssd_anchors(height, width)
    centre, half = expected[:, :2], expected[:, 2:] / 2
    corners = np.concatenate([centre - half, centre + half], axis=1)
    distances = [
        _most_apart(values.reshape(-1, 4), both)
        for values in graph.weights.values()
        if values.dtype == np.float32 and values.shape[-2:] == corners.shape and values.size == corners.size
        for both in (corners, expected)
    ]
    return min(distances, default=None)


def _most_apart(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    return float(np.abs(one - other).max())


def _describe(detector: OnnxDetector, graph: GraphModel | None) -> dict[str, Any]:
    height, width = detector.input_size
    facts: dict[str, Any] = {
        "family": detector.family,
        "classes": list(detector.classes),
        "input": [height, width],
    }
    apart = None if graph is None else anchor_distance(graph, height, width)
    if apart is not None:
        same = apart < 1e-4
        facts["anchors"] = (
            "of the graph, equal to SSD's rule" if same else "of the graph, others than SSD's rule"
        )
    return facts


def _licence(
    source: Source, model: str, package: Package | None, detector: OnnxDetector, given: str | None
) -> Licence:
    """What was given, else what lies beside the model, with the name that package or graph have for it."""
    named = package.licence if package is not None else ""
    named = named or detector.metadata.get("license", "")
    if given is not None:
        return Licence(named or given.strip().partition("\n")[0].strip(), given)
    found = source.licence(model)
    if found is not None:
        return Licence(named or found[1].strip().partition("\n")[0].strip(), found[1])
    if not named:
        log.warning("%s states no licence: --licence FILE puts one on record", source.path)
    return Licence(named or NOT_STATED, None)


def _default_name(model: str, package: Package | None) -> str:
    stem = PurePosixPath(model).stem
    if stem == "model":
        stem = PurePosixPath(model).parent.name or (package.name if package is not None else stem)
    return stem.lower().replace(" ", "-")


def _move(folder: Path, place: Path, before: Path) -> None:
    """Put a finished folder in its place; what was there goes with the temporary folder."""
    if place.is_symlink() or place.is_file():
        place.unlink()
    elif place.exists():
        os.rename(place, before)
    try:
        os.rename(folder, place)
    except OSError:
        if before.exists():
            shutil.move(before, place)
        raise

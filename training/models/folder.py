"""Model folders of the paper family: written after training or import, read by the run-time codec.

codec.json                 sizes, the base layer's quality, and one entry for each additional model
entropy.safetensors        integer probability tables of all layers
machine.safetensors        state dict of the machine model, under the published names
additional-qNN.safetensors one a λ: state dict of the additional model whose quality is NN
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import safetensors.torch
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from secondlook.shared.bitstream import MAX_QUALITY
from secondlook.shared.errors import ModelCorrupt
from secondlook.shared.files import PUBLIC_FILE, write_all
from secondlook.shared.models import ModelFolder, describe_bytes, model_hash
from secondlook.training.models.coding import LayerCoder, Tables, gaussian_tables, hyper_tables
from secondlook.training.models.config import TcmConfig
from secondlook.training.models.tcm import AdditionalModel, Tcm

FAMILY = "paper"
TABLES = "entropy.safetensors"
MACHINE_FILE = "machine.safetensors"
BUILT_LATER = ("_offset", "_quantized_cdf", "_cdf_length", "scale_table")  # of entropy models; see TABLES


@dataclass(frozen=True)
class Point:
    """One additional model: the quality 0..63 that bitstreams carry for it, and the λ it was trained with."""

    quality: int
    lam: float
    weights: str  # file name


@dataclass(frozen=True)
class PaperFacts:
    """What `codec.json` says."""

    machine: TcmConfig
    additional: TcmConfig
    base_quality: int
    base_lambda: float
    points: tuple[Point, ...]

    def nearest(self, quality: int) -> Point:
        """The point whose quality is nearest, the lower of two."""
        return min(self.points, key=lambda point: (abs(point.quality - quality), point.quality))


def plain_state(model: Tcm) -> dict[str, torch.Tensor]:
    """A state dict with exactly the published shapes: the tables that entropy models build are left empty."""
    return {
        name: value.new_empty(0)
        if name.rpartition(".")[2] in BUILT_LATER
        else value.detach().cpu().contiguous()
        for name, value in model.state_dict().items()
    }


def write_folder(
    folder: Path,
    machine: Tcm,
    additional: Mapping[int, tuple[float, AdditionalModel]],
    *,
    base: tuple[int, float],
    facts: dict[str, Any],
    half: bool = False,
) -> None:
    """Write a model folder. `additional`: quality -> (λ, model); `base`: quality and λ of the machine model.

    `facts` goes into the manifest. `half` keeps convolutions and linear layers in 16 bits.
    Raises DiskFull or Unwritable.
    """
    points = tuple(
        Point(quality, lam, f"additional-q{quality:02d}.safetensors")
        for quality, (lam, _) in sorted(additional.items())
    )
    models: dict[str, Tcm] = {MACHINE_FILE: machine}
    models |= {point.weights: additional[point.quality][1] for point in points}
    tables = gaussian_tables()
    files = {}
    for name, model in models.items():
        stem = name.partition(".")[0]
        tables |= {f"{stem}.{key}": value for key, value in hyper_tables(model.entropy_bottleneck).items()}
        files[name] = safetensors.torch.save(_shrunk(plain_state(model)) if half else plain_state(model))
    files[TABLES] = save(tables)
    described = PaperFacts(machine.config, next(iter(additional.values()))[1].config, *base, points)
    files["codec.json"] = (json.dumps(asdict(described), indent=1) + "\n").encode()
    entries = {name: describe_bytes(data) for name, data in files.items()}
    manifest = {
        "name": folder.name,
        "kind": "codec",
        "family": FAMILY,
        "format": 1,
        "files": entries,
        "model_hash": model_hash(entries).hex(),
        **facts,
    }
    files["manifest.json"] = (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()
    folder.mkdir(parents=True, exist_ok=True)
    write_all({folder / name: data for name, data in files.items()}, mode=PUBLIC_FILE)


def _shrunk(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name: value.half() if name.endswith(".weight") and value.ndim > 1 else value
        for name, value in state.items()
    }


def read_facts(folder: ModelFolder) -> PaperFacts:
    """Parse `codec.json`. Raises ModelCorrupt."""
    try:
        told = json.loads(folder.file("codec.json").read_text())
        facts = PaperFacts(
            *(_config(told[name]) for name in ("machine", "additional")),
            int(told["base_quality"]),
            float(told["base_lambda"]),
            tuple(Point(int(p["quality"]), float(p["lam"]), str(p["weights"])) for p in told["points"]),
        )
    except (ValueError, LookupError, TypeError) as error:
        raise ModelCorrupt(f"model {folder.name}: codec.json cannot be read: {error}") from error
    qualities = [facts.base_quality, *(point.quality for point in facts.points)]
    if not facts.points or any(not 0 <= quality <= MAX_QUALITY for quality in qualities):
        raise ModelCorrupt(
            f"model {folder.name}: codec.json names no additional model, or a quality out of range"
        )
    return facts


def _config(told: dict[str, Any]) -> TcmConfig:
    return TcmConfig(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}
    )


def read_coder(
    folder: ModelFolder, facts: PaperFacts, point: Point | None, device: torch.device
) -> LayerCoder:
    """The machine model, or the additional model of a point, ready to code. Raises ModelCorrupt."""
    name = MACHINE_FILE if point is None else point.weights
    model = Tcm(facts.machine) if point is None else AdditionalModel(facts.additional)
    try:
        state = safetensors.torch.load_file(folder.file(name))
        model.load_state_dict(state)
        tables = load_file(folder.file(TABLES))
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise ModelCorrupt(f"model {folder.name}: {name} does not fit its sizes: {error}") from error
    return LayerCoder(model.eval().requires_grad_(False).to(device), _tables_of(tables, name))


def _tables_of(tables: Tables, name: str) -> dict[str, npt.NDArray[Any]]:
    """The Gaussian tables and those of the layer in file `name`."""
    stem = name.partition(".")[0]
    own = {key.removeprefix(f"{stem}."): value for key, value in tables.items() if key.startswith(f"{stem}.")}
    return {key: value for key, value in tables.items() if "." not in key} | own

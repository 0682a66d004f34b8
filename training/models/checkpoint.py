"""Model folders from checkpoints: the authors' published ones, and those of our own training."""

from __future__ import annotations

import hashlib
import math
import pickle
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from secondlook.shared.bitstream import MAX_QUALITY
from secondlook.shared.errors import ConfigError, ModelCorrupt, ModelNotFound, SourceNotFound
from secondlook.shared.models import find_model
from secondlook.training.lite.model import LAMBDA_HIGH, LAMBDA_LOW
from secondlook.training.models.config import SIZES
from secondlook.training.models.folder import plain_state, read_coder, read_facts, write_folder
from secondlook.training.models.tcm import AdditionalModel, Tcm
from secondlook.training.models.train import read_checkpoint

AUTHORS = (
    "weights made by others and converted: their authors' terms apply. The repository final-0/ICM-v1, where the "
    "checkpoints of arXiv 2403.04173 and 2405.09152 were published, states no licence: ask before passing them on"
)
ROLES = ("machine", "additional")
Model = TypeVar("Model", bound=Tcm)
Shapes = dict[str, tuple[int, ...]]


def quality_of(lam: float) -> int:
    """The quality 0..63 nearest to λ: the number that bitstreams carry for a model trained with it."""
    place = math.log(lam / LAMBDA_LOW) / math.log(LAMBDA_HIGH / LAMBDA_LOW)
    return min(max(round(MAX_QUALITY * place), 0), MAX_QUALITY)


def import_checkpoints(
    machine: Path, additional: Path, out: Path, *, base_lambda: float, lam: float
) -> dict[str, Any]:
    """Turn the authors' pair of checkpoints into a model folder. Returns what was found: the size and both hashes.

    Raises SourceNotFound, ModelCorrupt (not such a checkpoint), DiskFull or Unwritable.
    """
    states = [read_state(path) for path in (machine, additional)]
    size = size_of(states[0])
    below, above = Tcm(SIZES[size][0]), AdditionalModel(SIZES[size][1])
    known = [_shapes(model) for model in (below, above)]
    for i, path in enumerate((machine, additional)):
        check_shapes(states[i], known[i], known[1 - i], f"{path} is no {ROLES[i]} model of the paper")
    below.load_state_dict(states[0])
    above.load_state_dict(states[1])
    sources = {
        role: {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for role, path in zip(ROLES, (machine, additional), strict=True)
    }
    facts = {"licence": AUTHORS, "size": size, "imported": sources}
    write_folder(
        out, below, {quality_of(lam): (lam, above)}, base=(quality_of(base_lambda), base_lambda), facts=facts
    )
    return facts


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict inside a checkpoint, without the prefix of data-parallel training and without tables.

    No code in the file is run. Raises SourceNotFound or ModelCorrupt.
    """
    if not path.is_file():
        raise SourceNotFound(f"no such file: {path}")
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError) as error:
        raise ModelCorrupt(f"{path} is no checkpoint that torch reads without running code in it") from error
    state = held.get("state_dict", held) if isinstance(held, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise ModelCorrupt(f"{path} holds no state dict")
    return {name.removeprefix("module."): value for name, value in state.items()}


def size_of(state: dict[str, Tensor]) -> str:
    """The size whose first convolution `state` has, else the full one, for `check_shapes` to say what differs."""
    first = state.get("g_a.0.conv1.weight", torch.empty(0))
    return next((size for size, (c, _) in SIZES.items() if len(first) == 2 * c.width), "full")


def check_shapes(state: dict[str, Tensor], wanted: Shapes, other: Shapes, refusal: str) -> None:
    """Raise ModelCorrupt unless names and shapes are those of `wanted`; tables may have been built already.

    `other`: those of the model that may have been given in its place.
    """
    got = {name: tuple(value.shape) for name, value in state.items()}
    differing = _differing(got, wanted)
    if differing and not _differing(got, other):
        raise ModelCorrupt(f"{refusal}, but the other one of the pair; the machine model comes first")
    if differing:
        raise ModelCorrupt(f"{refusal}: {len(differing)} tensors differ, {differing[0]} among them")


def _differing(got: Shapes, wanted: Shapes) -> list[str]:
    return sorted(got.keys() ^ wanted.keys()) or sorted(
        name for name, shape in wanted.items() if shape != (0,) and got[name] != shape
    )


def _shapes(model: Tcm) -> Shapes:
    return {name: tuple(value.shape) for name, value in plain_state(model).items()}


def machine_weights(folder: Path) -> dict[str, Tensor]:
    """State dict of the machine model of a model folder, to build additional models on. Raises a ModelError."""
    found = find_model(folder, kind="codec")
    state: dict[str, Tensor] = read_coder(
        found, read_facts(found), None, torch.device("cpu")
    ).model.state_dict()
    return state


def export_trained(work: Path, out: Path, facts: dict[str, Any], *, machine: Path | None) -> None:
    """Write a model folder from the checkpoints in `work`, one additional model for each λ that was trained.

    `machine`: a model folder whose machine model they build on; without it, the one trained in `work`.
    Weights of a reduced size are kept in 16 bits. Raises ModelNotFound, ConfigError, DiskFull or Unwritable.
    """
    trained = sorted(work.glob("paper-additional-*.pt"))
    if not trained:
        raise ModelNotFound(f"no checkpoint paper-additional-*.pt in {work}: train one first, or give --work")
    states = [read_checkpoint(path) for path in trained]
    sizes = {state["config"]["size"] for state in states}
    if machine is None:
        state = read_checkpoint(work / "paper-machine.pt")
        sizes.add(state["config"]["size"])
        weights, base_lambda = state["model"], state["config"]["lam"]
    else:
        weights, base_lambda = machine_weights(machine), read_facts(find_model(machine)).base_lambda
    if len(sizes) != 1:
        raise ConfigError(f"the checkpoints in {work} are of several sizes: {', '.join(sorted(sizes))}")
    size = sizes.pop()
    below = _loaded(Tcm(SIZES[size][0]), weights)
    above = {
        quality_of(state["config"]["lam"]): (
            state["config"]["lam"],
            _loaded(AdditionalModel(SIZES[size][1]), state["model"]),
        )
        for state in states
    }
    if len(above) < len(states):
        raise ConfigError(f"two of the λ trained in {work} are one quality: move the checkpoint of one away")
    base = (quality_of(base_lambda), base_lambda)
    # Checkpoints of earlier versions do not say what they were trained on.
    sources = {
        path.stem: state["source"] for path, state in zip(trained, states, strict=True) if state.get("source")
    }
    facts["training"] = {**facts.get("training", {}), **({"runs": sources} if sources else {})}
    write_folder(out, below, above, base=base, facts={"size": size, **facts}, half=size == "reduced")


def _loaded(model: Model, state: dict[str, Tensor]) -> Model:
    model.load_state_dict(state)
    return model

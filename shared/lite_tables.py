"""The integers of a `lite` model: tables of frequencies, and the networks that choose among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from secondlook.shared.entropy import EntropyTables
from secondlook.shared.errors import ModelCorrupt
from secondlook.shared.models import ModelFolder
from secondlook.shared.scale_network import ScaleNetwork


@dataclass(frozen=True)
class LayerModel:
    """The integers of one layer: which table codes a symbol, and the tables."""

    scales: ScaleNetwork
    tables: EntropyTables

    @classmethod
    def load(cls, tensors: dict[str, npt.NDArray[Any]], layer: str) -> LayerModel:
        """Raises ModelCorrupt."""
        tables = entropy_tables(tensors, layer)
        return cls(ScaleNetwork.load(tensors, layer, len(tables.reach)), tables)


def load_tables(folder: ModelFolder) -> dict[str, npt.NDArray[Any]]:
    """All tensors of the folder's `entropy.safetensors`. Raises ModelCorrupt."""
    try:
        tensors = load_file(folder.file("entropy.safetensors"))
    except SafetensorError as error:
        raise ModelCorrupt(f"model {folder.name}: its tables cannot be read: {error}") from error
    wanted = {f"{name}.frequencies" for name in ("hyper", "base", "enhancement")}
    missing = {*wanted, "reach", "listed_below", "change_threshold"} - tensors.keys()
    if missing:
        raise ModelCorrupt(f"model {folder.name}: its tables lack {', '.join(sorted(missing))}")
    return tensors


def entropy_tables(tensors: dict[str, npt.NDArray[Any]], name: str) -> EntropyTables:
    """The tables of `name`: hyper, base or enhancement. Raises ModelCorrupt."""
    return EntropyTables(tensors[f"{name}.frequencies"], tensors["reach"], int(tensors["listed_below"][0]))

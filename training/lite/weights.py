"""The committed weights of a codec folder, to go on training from."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor


def load_weights(folder: Path) -> dict[str, Tensor]:
    """State dict, float32, of `FOLDER/weights.safetensors` (stored as float16)."""
    return {name: tensor.float() for name, tensor in load_file(folder / "weights.safetensors").items()}

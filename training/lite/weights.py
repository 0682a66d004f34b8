"""The committed weights of a model folder, to go on training from."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from secondlook.shared.errors import ModelNotFound


def load_weights(folder: Path) -> dict[str, Tensor]:
    """State dict, float32, of `FOLDER/weights.safetensors` (stored as float16). Raises ModelNotFound without one."""
    path = folder / "weights.safetensors"
    if not path.is_file():
        raise ModelNotFound(
            f"no weights to start from at {path}; an installed wheel leaves them out, a clone has them"
        )
    return {name: tensor.float() for name, tensor in load_file(path).items()}

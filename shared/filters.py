"""What the second look needs of a post-filter: the contract between filters and all that use them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

U8Image = npt.NDArray[np.uint8]


class ImageFilter(Protocol):
    """Refines decoded pictures. Its two texts are read only."""

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> str:
        """What it computes, for the record of a review: name, hash of the weights or version, precision."""
        ...

    def apply(self, image: U8Image, progress: Callable[[], None] = ..., *, quality: int = ...) -> U8Image:
        """uint8[H,W,3] RGB to the same. `quality`: 0..63, of the enhancement. `progress` is called now and then; what
        it raises ends the work."""
        ...

"""The two layers of a frame, and what a codec family has to do: the contract between codecs and all that use them.

`shared.codec` holds the family `lite`; others come by entry point (`shared.plugins`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

U8Image = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Layers:
    """Both coded layers of one frame, as .slk bytes."""

    base: bytes
    enhancement: bytes


@dataclass(frozen=True)
class Key:
    """What an encoder keeps of a key frame to code deltas against it.

    `latents_*`: what a decoder will have; `signal`: the enhancement latents before quantisation.
    """

    sequence: int
    base_quality: int
    quality: int
    size: tuple[int, int]
    symbol_crcs: tuple[int, int]  # of base and enhancement
    latents_base: F32
    latents_enhancement: F32
    signal: F32


@dataclass(frozen=True)
class Encoded:
    """Layers of one frame and the key that later deltas may refer to (the frame itself, or the key it used)."""

    layers: Layers
    key: Key | None  # None from a codec family that has no deltas
    changed: float  # share of 16x16 positions that were coded: 1.0 in a key


class LayeredCodec(Protocol):
    """What edge, worker and refiner need of a codec."""

    @property
    def name(self) -> str: ...

    @property
    def model_hash(self) -> bytes: ...

    def encode(
        self,
        image: U8Image,
        *,
        base_quality: int,
        quality: int,
        sequence: int = 0,
        key: Key | None = None,
        change_levels: float | None = None,
    ) -> Encoded: ...

    def decode_base(self, base: bytes, *, key: bytes | None = None) -> U8Image: ...

    def decode_enhanced(self, base: bytes, enhancement: bytes, *, key: Layers | None = None) -> U8Image: ...

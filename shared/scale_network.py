"""The integer network from hyper-latent symbols to σ-indexes, bit-exact on every machine.

Encoder and decoder must find the same σ-index for every symbol, or nothing after the first difference decodes.
So weights are int8, activations uint8, biases int32, and requantisation is a shift with rounding. Sums are taken
in float32: `IntegerConv` proves on loading that no accumulator can reach 2^24, below which float32 holds every
integer, so any order of summation, any thread count and any BLAS give the same result.
(Ballé et al., "Integer Networks for Data Compression", ICLR 2019; JPEG AI and PICO integerise the same path.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from secondlook.shared.errors import ModelCorrupt

F32 = npt.NDArray[np.float32]
QUALITIES = 64
EXACT_LIMIT = 1 << 24
MAX_ACTIVATION = 255
Z_CLAMP, Z_GAIN = 31, 4
BASE_CLAMP, BASE_GAIN = 15, 16
_BAND_POSITIONS = 1 << 14  # latent positions that are looked at at once: a frame of 4 megapixels


@dataclass(frozen=True)
class IntegerConv:
    """1x1 convolution (`weight` int8[Co,Ci]) or depthwise 3x3 (`weight` int8[C,3,3]); `bias` int32[64,Co] a quality."""

    weight: F32
    bias: F32
    shift: int

    @classmethod
    def load(
        cls, name: str, weight: npt.NDArray[np.int8], bias: npt.NDArray[np.int32], shift: int
    ) -> IntegerConv:
        """Raises ModelCorrupt when shapes are wrong or a sum could leave the exact range of float32."""
        if (
            weight.dtype != np.int8
            or bias.dtype != np.int32
            or not (weight.ndim == 2 or weight.shape[1:] == (3, 3))
            or weight.size == 0
            or bias.shape != (QUALITIES, len(weight))
            or not 0 < shift < 20
        ):
            raise ModelCorrupt(f"scale network: layer {name} has wrong shapes or types")
        sums = np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(axis=1) * MAX_ACTIVATION
        if (sums + np.abs(bias.astype(np.int64)).max(axis=0) + (1 << shift)).max() >= EXACT_LIMIT:
            raise ModelCorrupt(f"scale network: layer {name} could leave the range where float32 is exact")
        return cls(weight.astype(np.float32), bias.astype(np.float32), shift)

    def __call__(self, a: F32, quality: int) -> F32:
        """Integer-valued float32[Ci,H,W] -> float32[Co,H,W]: floor((w·a + b + half) / 2^shift)."""
        c, h, w = a.shape
        if self.weight.ndim == 2:
            acc = (self.weight @ a.reshape(c, h * w)).reshape(-1, h, w)
        else:
            padded = np.pad(a, ((0, 0), (1, 1), (1, 1)))
            acc = np.zeros_like(a)
            for dy in range(3):
                for dx in range(3):
                    acc += self.weight[:, dy, dx, None, None] * padded[:, dy : dy + h, dx : dx + w]
        acc += (self.bias[quality] + np.float32(1 << (self.shift - 1)))[:, None, None]
        acc *= np.float32(2.0**-self.shift)
        return np.asarray(np.floor(acc, out=acc))


@dataclass(frozen=True)
class ScaleNetwork:
    """σ-indexes of one layer's latents, and of its hyper-latents.

    `hyper_index`: uint8[64,Z], the σ-index of every hyper-latent channel at every quality.
    """

    up1: IntegerConv
    up2: IntegerConv
    base: IntegerConv | None
    spread: IntegerConv
    index: IntegerConv
    hyper_index: npt.NDArray[np.uint8]
    levels: int

    @classmethod
    def load(cls, tensors: Mapping[str, npt.NDArray[np.generic]], prefix: str, levels: int) -> ScaleNetwork:
        """From tensors `PREFIX.LAYER.weight|bias|shift` and `PREFIX.hyper_index`. Raises ModelCorrupt."""

        def layer(name: str) -> IntegerConv:
            try:
                weight, bias, shift = (
                    tensors[f"{prefix}.{name}.{part}"] for part in ("weight", "bias", "shift")
                )
            except KeyError as error:
                raise ModelCorrupt(f"scale network: tensor {error} is missing") from error
            if shift.size != 1:
                raise ModelCorrupt(f"scale network: {prefix}.{name}.shift is not one number")
            return IntegerConv.load(f"{prefix}.{name}", weight, bias, int(shift[0]))  # type: ignore[arg-type]

        hyper = tensors.get(f"{prefix}.hyper_index")
        if hyper is None or hyper.dtype != np.uint8 or hyper.size == 0 or int(hyper.max()) >= levels:
            raise ModelCorrupt(f"scale network: {prefix}.hyper_index is missing or out of range")
        base = layer("base") if any(name.startswith(f"{prefix}.base.") for name in tensors) else None
        network = cls(layer("up1"), layer("up2"), base, layer("spread"), layer("index"), hyper, levels)  # type: ignore[arg-type]
        if not network._fits():
            raise ModelCorrupt(f"scale network: the layers of {prefix} do not fit together")
        return network

    def _fits(self) -> bool:
        up1, up2, spread, index = (layer.weight for layer in (self.up1, self.up2, self.spread, self.index))
        wide = len(up2) // 4
        if self.base is not None:
            wide += len(self.base.weight)
        return (
            self.hyper_index.shape == (QUALITIES, *up1.shape[1:])
            and (len(up1), len(up2) % 4) == (4 * up2.shape[1], 0)
            and (self.base is None or self.base.weight.ndim == 2)
            and spread.shape == (wide, 3, 3)
            and index.shape[1:] == (wide,)
            and up2.ndim == 2
        )

    def hyper_indexes(self, quality: int, h: int, w: int) -> npt.NDArray[np.uint8]:
        """uint8[Z,h,w]."""
        row = self.hyper_index[quality]
        return np.broadcast_to(row[:, None, None], (len(row), h, w))

    def indexes(
        self, z: npt.NDArray[np.int16], quality: int, base: npt.NDArray[np.int16] | None = None
    ) -> npt.NDArray[np.uint8]:
        """`z`: int16[Z,h,w]; `base`: int16[M,4h,4w], the base layer's symbols -> uint8[C,4h,4w].

        Band by band of rows, so that memory is bounded; integers come out the same.
        """
        if self.base is not None and base is None:
            raise ModelCorrupt("scale network: this layer needs the base layer's symbols")
        _, rows, columns = z.shape
        found = np.empty((len(self.index.weight), 4 * rows, 4 * columns), np.uint8)
        band = max(1, _BAND_POSITIONS // (16 * columns))
        for top in range(0, rows, band):
            bottom = min(top + band, rows)
            # A row of hyper-latents on either side is four of latents, and `spread` looks one to each side.
            first, last = max(top - 1, 0), min(bottom + 1, rows)
            symbols = None if base is None else base[:, 4 * first : 4 * last]
            piece = self._indexes(z[:, first:last], quality, symbols)
            found[:, 4 * top : 4 * bottom] = piece[:, 4 * (top - first) : 4 * (bottom - first)]
        return found

    def _indexes(
        self, z: npt.NDArray[np.int16], quality: int, base: npt.NDArray[np.int16] | None
    ) -> npt.NDArray[np.uint8]:
        a = np.clip(z, -Z_CLAMP, Z_CLAMP).astype(np.float32) * Z_GAIN
        a = _shuffle(_rectify(self.up1(a, quality)))
        a = _shuffle(_rectify(self.up2(a, quality)))
        if self.base is not None and base is not None:
            magnitude = np.minimum(np.abs(base.astype(np.int32)), BASE_CLAMP).astype(np.float32) * BASE_GAIN
            a = np.concatenate([a, _rectify(self.base(magnitude, quality))])
        a = _rectify(self.spread(a, quality))
        return np.clip(self.index(a, quality), 0, self.levels - 1).astype(np.uint8)


def _rectify(a: F32) -> F32:
    return np.clip(a, 0, MAX_ACTIVATION, out=a)


def _shuffle(a: F32) -> F32:
    """Pixel shuffle by 2: [4C,h,w] -> [C,2h,2w]."""
    c, h, w = a.shape
    return np.ascontiguousarray(a.reshape(c // 4, 2, 2, h, w).transpose(0, 3, 1, 4, 2)).reshape(
        c // 4, 2 * h, 2 * w
    )

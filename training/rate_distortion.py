"""Rate-distortion figures: PSNR, curves, BD-rate, and the classical still codecs beside ours."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.interpolate import PchipInterpolator

U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Point:
    """Bits a pixel, of real bytes, and PSNR in dB over RGB."""

    bpp: float
    psnr: float


def psnr(image: U8, other: U8) -> float:
    """PSNR in dB over all channels; infinite for equal images."""
    error = float(np.mean(np.square(image.astype(np.float64) - other)))
    return 10 * math.log10(255**2 / error) if error > 0 else math.inf


def bpp(size: int, image: U8) -> float:
    return 8 * size / (image.shape[0] * image.shape[1])


def bd_rate(ours: Sequence[Point], theirs: Sequence[Point]) -> float:
    """Bjøntegaard delta rate in percent (VCEG-M33, piecewise cubic): below zero, ours needs fewer bits.

    Raises ValueError where the curves share no PSNR range or do not rise.
    """
    curves = []
    for points in (ours, theirs):
        line = sorted(points, key=lambda p: p.psnr)
        quality = [p.psnr for p in line]
        if len(line) < 2 or any(b <= a for a, b in pairwise(quality)):
            raise ValueError("a curve needs at least two points of rising PSNR")
        curves.append(PchipInterpolator(quality, [math.log(p.bpp) for p in line]))
    low = max(min(p.psnr for p in points) for points in (ours, theirs))
    high = min(max(p.psnr for p in points) for points in (ours, theirs))
    if high <= low:
        raise ValueError("the curves share no range of PSNR")
    mine, other = (float(curve.integrate(low, high)) / (high - low) for curve in curves)
    return 100 * (math.exp(mine - other) - 1)


def psnr_at(points: Sequence[Point], rate: float) -> float | None:
    """PSNR of a curve at `rate` bits a pixel, None outside it."""
    line = sorted(points, key=lambda p: p.bpp)
    if not line[0].bpp <= rate <= line[-1].bpp:
        return None
    return float(PchipInterpolator([math.log(p.bpp) for p in line], [p.psnr for p in line])(math.log(rate)))


def _pillow(form: str, **settings: object) -> Callable[[U8, int], bytes]:
    def encode(image: U8, quality: int) -> bytes:
        out = io.BytesIO()
        Image.fromarray(image).save(out, form, quality=quality, **settings)
        return out.getvalue()

    return encode


@dataclass(frozen=True)
class Peer:
    """A still codec of Pillow's: how it encodes, and the qualities that span its curve."""

    encode: Callable[[U8, int], bytes]
    qualities: tuple[int, ...]

    def decode(self, data: bytes) -> U8:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


PEERS = {
    "jpeg": Peer(
        _pillow("JPEG", optimize=True, subsampling="4:2:0"), (5, 10, 15, 22, 30, 40, 52, 65, 78, 88)
    ),
    "webp": Peer(_pillow("WEBP", method=6), (1, 8, 20, 35, 50, 65, 78, 88)),
    "avif": Peer(_pillow("AVIF", speed=6), (15, 25, 35, 45, 55, 65, 75, 85)),
}

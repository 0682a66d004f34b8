"""Rate-distortion figures: PSNR, curves, BD-rate, and the classical still codecs beside ours."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import numpy.typing as npt
import pytorch_msssim
import torch
from av.video.reformatter import ColorRange
from PIL import Image
from scipy.interpolate import PchipInterpolator

from secondlook.shared.peers import Peer

U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Point:
    """Bits per pixel, of real bytes, and PSNR in dB over RGB."""

    bpp: float
    psnr: float


def psnr(image: U8, other: U8) -> float:
    """PSNR in dB over all channels; infinite for equal images."""
    error = float(np.mean(np.square(image.astype(np.float64) - other)))
    return 10 * math.log10(255**2 / error) if error > 0 else math.inf


def ms_ssim(image: U8, other: U8) -> float | None:
    """MS-SSIM over RGB (Wang et al. 2003, five scales); None below 161 pixels a side, where a scale is lost."""
    if min(image.shape[:2]) <= 160:
        return None
    pair = (torch.from_numpy(a.transpose(2, 0, 1)[None].copy()).float() for a in (image, other))
    return float(pytorch_msssim.ms_ssim(*pair, data_range=255))


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
    """PSNR of a curve at `rate` bits per pixel, None outside it, and of what is no curve."""
    line = sorted(points, key=lambda p: p.bpp)
    if len(line) < 2 or not line[0].bpp <= rate <= line[-1].bpp:
        return None
    return float(PchipInterpolator([math.log(p.bpp) for p in line], [p.psnr for p in line])(math.log(rate)))


def _pillow(form: str, **settings: object) -> Callable[[U8, int], bytes]:
    def encode(image: U8, quality: int) -> bytes:
        out = io.BytesIO()
        Image.fromarray(image).save(out, form, quality=quality, **settings)
        return out.getvalue()

    return encode


def _pillow_decode(data: bytes) -> U8:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _intra(encoder: str) -> Callable[[U8, int], bytes]:
    """One picture as an intra frame of x264 or x265: 4:4:4, full range, preset medium, `quality` the CRF."""

    def encode(image: U8, quality: int) -> bytes:
        height, width = image.shape[:2]
        context = av.CodecContext.create(encoder, "w")
        assert isinstance(context, av.VideoCodecContext)
        context.width, context.height, context.pix_fmt = width, height, "yuv444p"
        context.color_range, context.time_base = ColorRange.JPEG, Fraction(1, 25)
        context.options = {"preset": "medium", "crf": str(quality), "g": "1", "x265-params": "log-level=none"}
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        packets = context.encode(frame.reformat(format="yuv444p", dst_color_range=ColorRange.JPEG))
        return b"".join(bytes(packet) for packet in [*packets, *context.encode(None)])

    return encode


def _intra_decode(decoder: str) -> Callable[[bytes], U8]:
    def decode(data: bytes) -> U8:
        context = av.CodecContext.create(decoder, "r")
        assert isinstance(context, av.VideoCodecContext)
        frame = [*context.decode(av.Packet(data)), *context.decode(None)][0]
        shown = frame.reformat(format="rgb24", src_color_range=ColorRange.JPEG)
        return np.asarray(shown.to_ndarray(), np.uint8)

    return decode


PEERS = {
    "jpeg": Peer(
        _pillow("JPEG", optimize=True, subsampling="4:2:0"),
        _pillow_decode,
        (5, 10, 15, 22, 30, 40, 52, 65, 78, 88),
    ),
    "webp": Peer(_pillow("WEBP", method=6), _pillow_decode, (1, 8, 20, 35, 50, 65, 78, 88)),
    "avif": Peer(_pillow("AVIF", speed=6), _pillow_decode, (15, 25, 35, 45, 55, 65, 75, 85)),
    "x264": Peer(_intra("libx264"), _intra_decode("h264"), (44, 40, 36, 32, 28, 24, 20, 16)),
    "x265": Peer(_intra("libx265"), _intra_decode("hevc"), (48, 44, 40, 36, 32, 28, 24, 20, 16)),
}

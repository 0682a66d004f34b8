"""What the machine's layer costs people: total bits at equal PSNR, as the base layer grows.

Scalable coding costs what of the base layer the enhancement cannot use. A base layer that is used in full makes the
enhancement smaller by its own size: then the total stays as it is, however large the base layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from secondlook.shared.layers import LayeredCodec
from secondlook.training.data import U8
from secondlook.training.rate_distortion import Point, bd_rate, bpp, psnr

BASE_QUALITIES = (0, 8, 16, 24, 32)
QUALITIES = (20, 28, 36, 44, 52)


def base_layer_cost(codec: LayeredCodec, images: Sequence[U8]) -> list[dict[str, Any]]:
    """BD-rate in percent of both layers at each base quality against the lowest; bits per pixel of the base layer.

    Empty for a codec whose base layer has one size. None where a codec has too few qualities for a curve.
    """
    first = images[0]
    tried = (codec.encode(first, base_quality=q, quality=QUALITIES[-1]).layers for q in BASE_QUALITIES[::4])
    if len({len(layers.base) for layers in tried}) == 1:
        return []
    sizes, curves = [], []
    for base_quality in BASE_QUALITIES:
        bases, points = [], []
        for quality in QUALITIES:
            base, total, decibels = np.mean(
                [_measured(codec, image, base_quality, quality) for image in images], axis=0
            )
            bases.append(float(base))
            points.append(Point(float(total), float(decibels)))
        sizes.append(float(np.mean(bases)))
        curves.append(points)
    return [
        {"base_quality": base_quality, "bpp_base": size, "bd_rate_percent": _cost(points, curves[0])}
        for base_quality, size, points in zip(BASE_QUALITIES, sizes, curves, strict=True)
    ]


def _cost(points: Sequence[Point], least: Sequence[Point]) -> float | None:
    try:
        return bd_rate(points, least)
    except ValueError:
        return None


def _measured(codec: LayeredCodec, image: U8, base_quality: int, quality: int) -> tuple[float, float, float]:
    """Bits per pixel of the base layer and of both, of real bytes, and PSNR of both in dB."""
    layers = codec.encode(image, base_quality=base_quality, quality=quality).layers
    decoded = codec.decode_enhanced(layers.base, layers.enhancement)
    sizes = len(layers.base), len(layers.base) + len(layers.enhancement)
    return bpp(sizes[0], image), bpp(sizes[1], image), psnr(image, decoded)


def sentence(costs: Sequence[dict[str, Any]]) -> list[str]:
    """The figures for people: one sentence, or none where there are none."""
    if not costs:
        return []
    first, *others = costs
    shown = ", ".join(
        f"{c['bd_rate_percent']:+.1f} % with {c['bpp_base']:.3f} bpp"
        for c in others
        if c["bd_rate_percent"] is not None
    )
    text = f"Total bits at equal PSNR, against a base layer of {first['bpp_base']:.3f} bpp: {shown}."
    return [text] if shown else []

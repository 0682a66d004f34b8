"""Fig. 3 of the paper: input and output of the post-filter with their coding noise, brighter where it is larger."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from secondlook.training.rate_distortion import psnr

U8 = npt.NDArray[np.uint8]
FIELDS = ("image", "filter", "lambda", "psnr_input", "psnr_output", "gain_db", "nearer", "farther")
GAIN = 8
GAP = 8  # pixels between panels
FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
GROUND, INK = (24, 24, 24), (240, 240, 240)


@dataclass(frozen=True)
class Example:
    """One picture of the figure: original, what the filter was given, and what it made of it."""

    name: str
    filter: str
    lam: float
    original: U8
    decoded: U8
    refined: U8


def noise(original: U8, other: U8, gain: float) -> U8:
    """|x̂ − x|, mean over channels, times `gain`, clipped: uint8[H,W]."""
    error = np.abs(original.astype(np.float64) - other).mean(axis=2)
    shown: U8 = np.clip(np.rint(gain * error), 0, 255).astype(np.uint8)
    return shown


def rows(examples: Sequence[Example]) -> list[dict[str, object]]:
    """The figure for CSV: PSNR in dB, and the shares of pixels the filter brought nearer or took farther away."""
    result: list[dict[str, object]] = []
    for e in examples:
        before, after = (
            np.abs(e.original.astype(int) - other).sum(axis=2) for other in (e.decoded, e.refined)
        )
        given, made = psnr(e.original, e.decoded), psnr(e.original, e.refined)
        result.append(
            {
                "image": e.name,
                "filter": e.filter,
                "lambda": e.lam,
                "psnr_input": given,
                "psnr_output": made,
                "gain_db": made - given,
                "nearer": float((after < before).mean()),
                "farther": float((after > before).mean()),
            }
        )
    return result


def sheet(example: Example, gain: float = GAIN) -> bytes:
    """Four captioned panels as PNG, in the pixels of the picture: input and output above, their noise below."""
    e = example
    panels = []
    for title, other in (("Input of the filter", e.decoded), (f"Output of {e.filter}", e.refined)):
        panels.append((f"{title}, {psnr(e.original, other):.2f} dB", other))
    for title, other in (("input", e.decoded), ("output", e.refined)):
        grey = np.repeat(noise(e.original, other, gain)[:, :, None], 3, axis=2)
        panels.append((f"Noise of the {title}, × {gain:g}", grey))
    height, width = e.original.shape[:2]
    size = int(np.clip(width / 22, 9, 22))
    bar = 2 * size
    font = ImageFont.truetype(str(FONT), size)
    canvas = Image.new("RGB", (2 * width + GAP, 2 * (height + bar) + GAP), GROUND)
    draw = ImageDraw.Draw(canvas)
    for i, (title, panel) in enumerate(panels):
        left, top = (i % 2) * (width + GAP), (i // 2) * (height + bar + GAP)
        draw.text((left + size // 2, top + bar // 2), title, font=font, fill=INK, anchor="lm")
        canvas.paste(Image.fromarray(panel), (left, top + bar))
    out = io.BytesIO()
    canvas.save(out, "PNG", optimize=True)
    return out.getvalue()

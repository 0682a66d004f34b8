"""Fig. 2 of the paper: rate and PSNR of the layers, with and without post-processing, beside single-layer codecs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secondlook.training.paper.measure import Row
from secondlook.training.paper.metrics import COLUMNS
from secondlook.training.paper.published import ONE, PLAIN, TWO
from secondlook.training.published import KODAK_CURVES, KODAK_IMAGES
from secondlook.training.rate_distortion import Point, bd_rate

FIELDS = ("curve", "source", "setting", "images", "bpp", *COLUMNS)
PEER_TITLES = {
    "x265": "HEVC (x265, 4:4:4, intra)",
    "vvc": "VVC (VVenC, 4:2:0, intra)",
    "avif": "AVIF (4:2:0)",
    "jpeg": "JPEG (4:2:0)",
    "webp": "WebP (4:2:0)",
    "x264": "H.264 (x264, 4:4:4, intra)",
}
PUBLISHED = "cheng2020-anchor"  # single-layer, of the family the paper's two layers are built from
# Okabe and Ito's colours, told apart by people with any colour vision; black becomes grey to show on dark.
COLOURS = {
    ONE: "#0072B2",
    TWO: "#0072B2",
    PLAIN: "#56B4E9",
    "single": "#8C8C8C",
    "x265": "#D55E00",
    "vvc": "#009E73",
    "avif": "#CC79A7",
    "jpeg": "#E69F00",
    "webp": "#8C8C8C",
    "x264": "#F0E442",
}
COLOURS_ON_DARK = COLOURS | {ONE: "#2F8FD6", TWO: "#2F8FD6", PLAIN: "#A6DAF7"}
GROUNDS = {False: "#ffffff", True: "#14171a"}  # of the page
MARKERS = {ONE: "^", TWO: "o", PLAIN: "s", "single": "P", "x265": "D", "vvc": "v", "avif": "X", "jpeg": "*"}
DPI = 130


@dataclass(frozen=True)
class Curve:
    """One line of the figure: `kind` picks its colour; `total` says whether the base layer's bits count.

    `points`: (setting, means over the pictures) in order of rate; `source`: measured, or published;
    `comparable`: of the same images as ours.
    """

    title: str
    kind: str
    points: tuple[tuple[str, Row], ...]
    total: bool = True
    source: str = "measured"
    images: int = 0
    comparable: bool = True

    @property
    def rates(self) -> list[float]:
        return [_number(row["bpp" if self.total else "bpp_additional"]) for _, row in self.points]

    @property
    def quality(self) -> list[float]:
        return [_number(row["psnr"]) for _, row in self.points]


def our_curves(
    name: str, means: Mapping[int, Mapping[str, Row]], filters: Mapping[str, str], images: int
) -> list[Curve]:
    """Total and additional-only rate, without a filter and with each of `filters` (role -> name).

    `means`: by quality, then role.
    """
    curves = []
    for role in (*filters, PLAIN):
        points = tuple((f"quality {q}", means[q][role]) for q in sorted(means))
        with_filter = f" + {filters[role]}" if role in filters else ""
        for total, said in ((True, "total"), (False, "additional only")):
            curves.append(Curve(f"{name}{with_filter}, {said}", role, points, total, images=images))
    return curves


def measured_curve(title: str, kind: str, means: Mapping[int, Row], images: int) -> Curve:
    """A codec of one layer, `means` by its quality."""
    points = sorted(means.items(), key=lambda item: _number(item[1]["bpp"]))
    return Curve(title, kind, tuple((f"quality {q}", row) for q, row in points), images=images)


def published_curve(comparable: bool) -> Curve:
    """The single-layer reference from the literature: its figures belong to the 24 Kodak images."""
    points = tuple(
        (f"published point {i}", {"bpp": p.bpp, "psnr": p.psnr, "ssim": None, "ms_ssim": None, "lpips": None})
        for i, p in enumerate(KODAK_CURVES[PUBLISHED], 1)
    )
    title = f"{PUBLISHED} (published, {KODAK_IMAGES} Kodak images)"
    return Curve(title, "single", points, source="published", images=KODAK_IMAGES, comparable=comparable)


def rows(curves: Sequence[Curve]) -> list[dict[str, object]]:
    """The figure for CSV, FIELDS as columns; `bpp` is the rate that is drawn."""
    return [
        {"curve": c.title, "source": c.source, "setting": setting, "images": c.images, "bpp": rate}
        | {name: row[name] for name in COLUMNS}
        for c in curves
        for (setting, row), rate in zip(c.points, c.rates, strict=True)
    ]


def bd_rates(curves: Sequence[Curve]) -> dict[str, dict[str, float | None]]:
    """BD-rate in percent of our total curves against single-layer ones of the same images; None: no common range."""
    ours = [c for c in curves if c.kind in (ONE, TWO, PLAIN) and c.total]
    others = [c for c in curves if c.kind not in (ONE, TWO, PLAIN) and c.comparable]
    return {c.title: {other.title: _bd_rate(c, other) for other in others} for c in ours}


def drawn(curves: Sequence[Curve]) -> list[Curve]:
    """The curves of the picture: those of the same images; of the filters only the deepest, since the two coincide."""
    deepest = TWO if any(c.kind == TWO for c in curves) else ONE
    return [c for c in curves if c.comparable and (c.kind not in (ONE, TWO) or c.kind == deepest)]


def plot(curves: Sequence[Curve], images: int, *, dark: bool = False) -> bytes:
    """The figure as PNG: dotted lines count the machine's layer, solid ones the additional information, as printed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curves = drawn(curves)
    ours = [c for c in curves if c.kind in (ONE, TWO, PLAIN)]
    right = 1.3 * max(rate for c in ours for rate in c.rates)
    with pyplot.style.context("dark_background" if dark else "default"):
        figure, axes = pyplot.subplots(figsize=(8.4, 5.4))
        for curve in curves:
            axes.plot(curve.rates, curve.quality, label=curve.title, **_style(curve, dark))
        seen = [q for c in curves for r, q in zip(c.rates, c.quality, strict=True) if r <= right]
        axes.set(
            xlabel="rate (bits per pixel, of real bytes)",
            ylabel="PSNR over RGB (dB)",
            xlim=(0, right),
            ylim=(max(min(seen), min(q for c in ours for q in c.quality) - 4) - 0.5, max(seen) + 0.5),
            title=f"Rate and quality, mean of {images} image{'s' if images != 1 else ''}",
        )
        axes.grid(alpha=0.3)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncol=2, fontsize=9, frameon=False)
        axes.set_facecolor(GROUNDS[dark])
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=DPI, bbox_inches="tight", facecolor=GROUNDS[dark])
        pyplot.close(figure)
    return out.getvalue()


def _style(curve: Curve, dark: bool) -> dict[str, Any]:
    colour = (COLOURS_ON_DARK if dark else COLOURS).get(curve.kind)  # else one of the style's own
    style: dict[str, Any] = {
        "color": colour,
        "marker": MARKERS.get(curve.kind, "o"),
        "ms": 6,
        "lw": 1.5,
        "ls": "-.",
    }
    if curve.kind in (ONE, TWO, PLAIN):
        style |= {"ls": ":" if curve.total else "-", "lw": 2.2}
        if curve.total:
            style |= {"mfc": "none"}
    elif curve.source != "measured":
        style |= {"ls": "--", "ms": 5}
    return style


def _bd_rate(ours: Curve, other: Curve) -> float | None:
    lines = [
        [Point(rate, quality) for rate, quality in zip(c.rates, c.quality, strict=True)]
        for c in (ours, other)
    ]
    try:
        return bd_rate(*lines)
    except ValueError:
        return None


def _number(value: float | None) -> float:
    assert value is not None
    return value

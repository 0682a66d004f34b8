"""`secondlook bench codec`: rate, quality and time of our layers beside JPEG, WebP, AVIF, x264 and x265, in one run."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cloud.postfilter import PostFilter, load_postfilter
from shared.codec import LiteCodec, load_codec
from shared.errors import SourceNotFound
from training.data import U8, list_images, read_rgb
from training.lite.model import LAMBDA_HIGH, LAMBDA_LOW
from training.lite.scale_network import QUALITIES
from training.rate_distortion import PEERS, Point, bd_rate, bpp, psnr, psnr_at

PAPER_LAMBDAS = (0.005, 0.010, 0.020, 0.030)
BASE_QUALITY = 8
COMMON_RATES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
Row = dict[str, Any]


def photographs() -> Path:
    """The folder of photographs that the ultralytics package carries. Raises SourceNotFound."""
    spec = importlib.util.find_spec("ultralytics")
    if spec is None or not spec.submodule_search_locations:
        raise SourceNotFound("the package ultralytics is not installed: name a folder with --images")
    return Path(spec.submodule_search_locations[0]) / "assets"


def quality_of(lam: float) -> int:
    """The integer quality nearest to λ (inverse of `training.lite.model.lambda_of`)."""
    return round((QUALITIES - 1) * np.log(lam / LAMBDA_LOW) / np.log(LAMBDA_HIGH / LAMBDA_LOW))


def measure_ours(
    codec: LiteCodec, images: Sequence[U8], base_quality: int, quality: int, filters: dict[str, PostFilter]
) -> Row:
    """Means over the images at one pair of qualities; times in milliseconds a frame."""
    totals: list[list[float]] = []
    gains: dict[str, list[float]] = {name: [] for name in filters}
    for image in images:
        start = time.perf_counter()
        layers = codec.encode(image, base_quality=base_quality, quality=quality).layers
        encoded = time.perf_counter()
        base = codec.decode_base(layers.base)
        based = time.perf_counter()
        enhanced = codec.decode_enhanced(layers.base, layers.enhancement)
        done = time.perf_counter()
        rates = bpp(len(layers.base), image), bpp(len(layers.base) + len(layers.enhancement), image)
        times = (1e3 * (encoded - start), 1e3 * (based - encoded), 1e3 * (done - based))
        plain = psnr(image, enhanced)
        totals.append([*rates, psnr(image, base), plain, *times])
        for name, postfilter in filters.items():
            gains[name].append(psnr(image, postfilter.apply(enhanced)) - plain)
    names = ("bpp_base", "bpp", "psnr_base", "psnr", "encode_ms", "decode_base_ms", "decode_ms")
    row: Row = dict(zip(names, np.mean(totals, 0).tolist(), strict=True))
    return {
        "codec": "lite", "base_quality": base_quality, "quality": quality, **row,
        "gain_db": {name: float(np.mean(values)) for name, values in gains.items()},
    }  # fmt: skip


def measure_peer(name: str, images: Sequence[U8]) -> list[Row]:
    peer, rows = PEERS[name], []
    for quality in peer.qualities:
        totals = []
        for image in images:
            start = time.perf_counter()
            data = peer.encode(image, quality)
            encoded = time.perf_counter()
            decoded = peer.decode(data)
            done = time.perf_counter()
            totals.append(
                [bpp(len(data), image), psnr(image, decoded), 1e3 * (encoded - start), 1e3 * (done - encoded)]
            )
        row = dict(zip(("bpp", "psnr", "encode_ms", "decode_ms"), np.mean(totals, 0).tolist(), strict=True))
        rows.append({"codec": name, "quality": quality, "bpp_base": None, **row})
    return rows


def curve(rows: Sequence[Row], name: str) -> list[Point]:
    """The points of one codec, in order of rate, without those that add rate and no quality."""
    points: list[Point] = []
    for row in sorted((r for r in rows if r["codec"] == name), key=lambda r: float(r["bpp"])):
        if not points or row["psnr"] > points[-1].psnr:
            points.append(Point(row["bpp"], row["psnr"]))
    return points


def bench_codec(
    images_folder: Path,
    *,
    model: str,
    peers: Sequence[str],
    filters: Sequence[str],
    limit: int | None,
    threads: int,
) -> dict[str, Any]:
    """Measure everything; the figures that `--json` writes."""
    cv2.setNumThreads(threads)
    images = [read_rgb(p) for p in list_images(images_folder)[:limit]]
    codec = load_codec(model, threads=threads)
    codec.decode_enhanced(
        *vars(codec.encode(images[0], base_quality=BASE_QUALITY, quality=32).layers).values()
    )
    presets = [quality_of(lam) for lam in PAPER_LAMBDAS]
    loaded = {name: load_postfilter(name, threads=threads) for name in filters}
    rows = [
        measure_ours(codec, images, min(BASE_QUALITY, quality), quality, loaded if quality in presets else {})
        for quality in sorted({0, 6, 12, 18, 63, *presets})
    ]
    for name in peers:
        rows += measure_peer(name, images)
    ours = curve(rows, "lite")
    over = {name: [difference(ours, curve(rows, name), rate) for rate in COMMON_RATES] for name in peers}
    return {
        "images": len(images), "model": codec.model_hash.hex(), "rows": rows,
        "bd_rate_percent": {name: bd_rate(ours, curve(rows, name)) for name in peers},
        "psnr_over_peer_db": {"bpp": list(COMMON_RATES), **over},
        "rrdb_gain_db": {
            name: [row["gain_db"][name] for row in rows if row["codec"] == "lite" and row["quality"] in presets]
            for name in filters
        },
    }  # fmt: skip


def difference(ours: Sequence[Point], theirs: Sequence[Point], rate: float) -> float | None:
    a, b = psnr_at(ours, rate), psnr_at(theirs, rate)
    return None if a is None or b is None else a - b


def plot(result: dict[str, Any], path: Path) -> None:
    """RD curves as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 5))
    for name in dict.fromkeys(row["codec"] for row in result["rows"]):
        points = curve(result["rows"], name)
        label = "lite, both layers" if name == "lite" else name
        axes.plot(
            [p.bpp for p in points],
            [p.psnr for p in points],
            "o-",
            ms=4,
            lw=2 if name == "lite" else 1,
            label=label,
        )
    axes.set(
        xlabel="bits a pixel", ylabel="PSNR (dB)", xlim=(0, 2), title=f"Mean of {result['images']} images"
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def report(result: dict[str, Any]) -> str:
    """The figures as a table of text."""
    lines = [
        f"{'codec':6} {'quality':>7} {'base bpp':>9} {'bpp':>7} {'PSNR dB':>8} {'enc ms':>7} {'dec ms':>7}"
    ]
    for row in result["rows"]:
        base = f"{row['bpp_base']:.4f}" if row["bpp_base"] is not None else "-"
        lines.append(
            f"{row['codec']:6} {row['quality']:>7} {base:>9} {row['bpp']:>7.4f} {row['psnr']:>8.3f} "
            f"{row['encode_ms']:>7.1f} {row['decode_ms']:>7.1f}"
        )
    for name, percent in result["bd_rate_percent"].items():
        lines.append(f"BD-rate against {name}: {percent:+.1f} %")
    rates = result["psnr_over_peer_db"]["bpp"]
    for name in result["bd_rate_percent"]:
        shown = ", ".join(
            f"{d:+.2f} at {r}"
            for r, d in zip(rates, result["psnr_over_peer_db"][name], strict=True)
            if d is not None
        )
        lines.append(f"PSNR over {name} in dB, at equal bits a pixel: {shown}")
    for name, gains in result["rrdb_gain_db"].items():
        shown = ", ".join(f"{g:+.3f} at λ {lam}" for lam, g in zip(PAPER_LAMBDAS, gains, strict=True))
        lines.append(f"{name} gains in dB: {shown}")
    return "\n".join(lines)


def write_json(result: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(result, indent=1) + "\n")

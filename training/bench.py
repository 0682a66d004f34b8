"""`secondlook bench codec`: rate, quality and time of our layers beside still and learned codecs, in one run."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from secondlook.cloud.workers.postfilter import PostFilter, load_postfilter
from secondlook.shared.codec import LiteCodec, load_codec
from secondlook.shared.errors import ConfigError, SourceNotFound
from secondlook.shared.files import PUBLIC_FILE, write_atomically
from secondlook.shared.quality import DEFAULT_QUALITY, PRESETS
from secondlook.training.data import U8, list_images, read_rgb
from secondlook.training.published import KODAK_CURVES, is_kodak
from secondlook.training.rate_distortion import PEERS, Point, bd_rate, bpp, ms_ssim, psnr, psnr_at
from secondlook.training.scalability import base_layer_cost, sentence
from secondlook.training.speed import compare_speed

LEARNED_PEERS = tuple(KODAK_CURVES)
BASE_QUALITY = 8
COMMON_RATES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
Row = dict[str, Any]


def photographs() -> list[Path]:
    """Photographs inside the scikit-image package, in the public domain. Raises SourceNotFound."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise SourceNotFound("the package scikit-image is not installed: name a folder with --images")
    return [Path(spec.submodule_search_locations[0]) / "data" / name for name in PHOTOGRAPHS]


def measure_ours(
    codec: LiteCodec,
    images: Sequence[U8],
    base_quality: int,
    quality: int,
    filters: dict[str, PostFilter],
    filtered: int | None,
) -> Row:
    """Means over the images at one pair of qualities, gains over the first `filtered`; milliseconds a frame."""
    totals: list[list[float | None]] = []
    gains: dict[str, list[float]] = {name: [] for name in filters}
    for number, image in enumerate(images):
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
        totals.append([*rates, psnr(image, base), plain, ms_ssim(image, enhanced), *times])
        if filtered is None or number < filtered:
            for name, postfilter in filters.items():
                gains[name].append(psnr(image, postfilter.apply(enhanced, quality=quality)) - plain)
    names = ("bpp_base", "bpp", "psnr_base", "psnr", "ms_ssim", "encode_ms", "decode_base_ms", "decode_ms")
    row: Row = dict(zip(names, means(totals), strict=True))
    return {
        "codec": "lite",
        "base_quality": base_quality,
        "quality": quality,
        **row,
        "gain_db": {name: float(np.mean(values)) for name, values in gains.items()},
    }


def means(rows: Sequence[Sequence[float | None]]) -> list[float | None]:
    """The mean of each column; None where a row has none."""
    return [
        None if None in column else float(np.mean(np.array(column, float)))
        for column in zip(*rows, strict=True)
    ]


def measure_peer(name: str, images: Sequence[U8]) -> list[Row]:
    peer, rows = PEERS[name], []
    for quality in peer.qualities:
        totals: list[list[float | None]] = []
        for image in images:
            start = time.perf_counter()
            data = peer.encode(image, quality)
            encoded = time.perf_counter()
            decoded = peer.decode(data)
            done = time.perf_counter()
            quality_figures = (psnr(image, decoded), ms_ssim(image, decoded))
            times = (1e3 * (encoded - start), 1e3 * (done - encoded))
            totals.append([bpp(len(data), image), *quality_figures, *times])
        row = dict(zip(("bpp", "psnr", "ms_ssim", "encode_ms", "decode_ms"), means(totals), strict=True))
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
    images_folder: Path | None,
    *,
    model: str,
    peers: Sequence[str],
    filters: Sequence[str],
    limit: int | None,
    threads: int,
    filter_limit: int | None = None,
) -> dict[str, Any]:
    """Measure everything on the images of a folder, or on `photographs`; the figures that `--json` writes."""
    cv2.setNumThreads(threads)
    paths = photographs() if images_folder is None else list_images(images_folder)
    images = [read_rgb(path) for path in paths[:limit]]
    codec = load_codec(model, threads=threads)
    codec.decode_enhanced(
        *vars(codec.encode(images[0], base_quality=BASE_QUALITY, quality=32).layers).values()
    )
    presets = list(PRESETS.values())
    loaded = {name: load_postfilter(name, threads=threads) for name in filters}
    rows = [
        measure_ours(
            codec,
            images,
            min(BASE_QUALITY, quality),
            quality,
            loaded if quality in presets else {},
            filter_limit,
        )
        for quality in sorted({0, 6, 12, 18, 63, *presets})
    ]
    learned = tuple(name for name in peers if name in LEARNED_PEERS)
    still = [name for name in peers if name not in learned]
    for name in still:
        rows += measure_peer(name, images)
    ours_rows = [row for row in rows if row["codec"] == "lite"]
    ours = curve(rows, "lite")
    over = {name: [difference(ours, curve(rows, name), rate) for rate in COMMON_RATES] for name in still}
    theirs: dict[str, Sequence[Point]] = {name: curve(rows, name) for name in still}
    if is_kodak([image.shape[:2] for image in images]):
        theirs |= {name: KODAK_CURVES[name] for name in learned}
    speed = compare_speed(
        codec, images[0], base_quality=BASE_QUALITY, quality=DEFAULT_QUALITY, threads=threads, peers=learned
    )
    mean = speed["peers"].get("mbt2018-mean q4", {})
    return {
        "images": len(images),
        "model": codec.model_hash.hex(),
        "threads": threads,
        "rows": rows,
        "bd_rate_percent": {key(name): bd_rate(ours, points) for name, points in theirs.items()},
        "published": {name: [[p.bpp, p.psnr] for p in theirs[name]] for name in learned if name in theirs},
        "speedup": {
            "encode_vs_mbt2018_mean": mean.get("encode_ratio"),
            "decode_base_vs_mbt2018_mean": mean.get("decode_base_ratio"),
        },
        "times": speed,
        "base_layer_cost": base_layer_cost(codec, images),
        "psnr_over_peer_db": {"bpp": list(COMMON_RATES), **over},
        "rrdb_gain_db": {
            name.removeprefix("rrdb-"): [
                row["gain_db"][name] for row in ours_rows if row["quality"] in presets
            ]
            for name in filters
        },
        "rrdb_images": min(len(images), filter_limit or len(images)) if filters else 0,
    }


def key(name: str) -> str:
    """A peer's name as JSON has it."""
    return name.replace("-", "_")


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
    for (name, points), style in zip(result["published"].items(), cycle(["--", ":"]), strict=False):
        axes.plot(*zip(*points, strict=True), style, color="0.5", lw=1, label=f"{name} (published)")
    base = [r for r in result["rows"] if r["codec"] == "lite"]
    axes.plot(
        [r["bpp_base"] for r in base],
        [r["psnr_base"] for r in base],
        "s",
        ms=4,
        label="lite, base layer alone",
    )
    axes.set(
        xlabel="bits per pixel, of real bytes",
        ylabel="PSNR (dB)",
        xlim=(0, 1.6),
        ylim=(22, 40),
        title=f"Mean of {result['images']} images",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def report(result: dict[str, Any]) -> str:
    """The figures as a table of text."""
    titles = f"{'codec':6} {'quality':>7} {'base bpp':>9} {'bpp':>7} {'PSNR dB':>8} {'MS-SSIM':>8}"
    lines = [f"{titles} {'enc ms':>7} {'dec ms':>7}"]
    for row in result["rows"]:
        base = f"{row['bpp_base']:.4f}" if row["bpp_base"] is not None else "-"
        similarity = f"{row['ms_ssim']:.4f}" if row["ms_ssim"] is not None else "-"
        lines.append(
            f"{row['codec']:6} {row['quality']:>7} {base:>9} {row['bpp']:>7.4f} {row['psnr']:>8.3f} "
            f"{similarity:>8} {row['encode_ms']:>7.1f} {row['decode_ms']:>7.1f}"
        )
    for name, percent in result["bd_rate_percent"].items():
        lines.append(f"BD-rate against {name}: {percent:+.1f} %")
    rates = result["psnr_over_peer_db"]["bpp"]
    for name in result["psnr_over_peer_db"].keys() - {"bpp"}:
        shown = ", ".join(
            f"{d:+.2f} at {r}"
            for r, d in zip(rates, result["psnr_over_peer_db"][name], strict=True)
            if d is not None
        )
        lines.append(f"PSNR over {name} in dB, at equal bits per pixel: {shown}")
    for name, times in result["times"]["peers"].items():
        lines.append(
            f"{name}: compress {times['encode_ms']:.0f} ms, {times['encode_ratio']:.1f} times our encoding of both "
            f"layers; decompress {times['decode_ms']:.0f} ms, {times['decode_base_ratio']:.1f} times our base layer"
        )
    lines.append(f"entropy coding: {100 * result['times']['entropy_share']:.0f} % of the time of encoding")
    lines.append(sentence(result["base_layer_cost"]))
    for name, gains in result["rrdb_gain_db"].items():
        shown = ", ".join(f"{g:+.3f} at {preset}" for preset, g in zip(PRESETS, gains, strict=True))
        lines.append(f"{name} gains in dB, {result['rrdb_images']} images: {shown}")
    return "\n".join(lines)


README_MARKS = "<!-- bench codec -->", "<!-- end of bench codec -->"


def table(result: dict[str, Any]) -> str:
    """Our curve, and the peers beside it, as two tables of Markdown."""
    rows = [row for row in result["rows"] if row["codec"] == "lite"]
    lines = [
        f"Mean of {result['images']} images, model `{result['model']}`, {result['threads']} threads.",
        "",
        "| quality | base, bpp | both, bpp | PSNR, dB | MS-SSIM | encode, ms | decode base, ms | decode both, ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        similarity = f"{row['ms_ssim']:.4f}" if row["ms_ssim"] is not None else "-"
        times = (row["encode_ms"], row["decode_base_ms"], row["decode_ms"])
        cells = (f"{row['bpp_base']:.3f}", f"{row['bpp']:.3f}", f"{row['psnr']:.2f}", similarity)
        lines.append(f"| {' | '.join([str(row['quality']), *cells, *(f'{ms:.0f}' for ms in times)])} |")
    lines += [
        "",
        "| peer | BD-rate of both layers against it | encode, ms | decode, ms |",
        "|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["codec"] for row in result["rows"] if row["codec"] != "lite"):
        percent = result["bd_rate_percent"].get(key(name))
        theirs = [row for row in result["rows"] if row["codec"] == name]
        spans = [
            f"{min(values):.0f} to {max(values):.0f}"
            for values in ([row[kind] for row in theirs] for kind in ("encode_ms", "decode_ms"))
        ]
        lines.append(f"| {name} | {shown_percent(percent)} | {' | '.join(spans)} |")
    for name, times in result["times"]["peers"].items():
        percent = result["bd_rate_percent"].get(key(name.split(" ")[0]))
        lines.append(
            f"| {name}, a 768x512 picture (rate: published curve) | {shown_percent(percent)} | "
            f"{times['encode_ms']:.0f}: ours {times['encode_ratio']:.1f} times faster | "
            f"{times['decode_ms']:.0f}: our base layer {times['decode_base_ratio']:.1f} times faster |"
        )
    if result["rrdb_gain_db"]:
        head = f"| post-filter, gain in dB, {result['rrdb_images']} images |"
        lines += ["", f"{head} {' | '.join(PRESETS)} |", "|---|---|---|---|---|"]
    for name, gains in result["rrdb_gain_db"].items():
        lines.append(f"| rrdb-{name} | {' | '.join(f'{gain:+.3f}' for gain in gains)} |")
    share = 100 * result["times"]["entropy_share"]
    lines += ["", f"Entropy coding takes {share:.0f} % of the time of encoding a 768x512 picture."]
    lines += ["", sentence(result["base_layer_cost"])]
    return "\n".join(lines)


def shown_percent(percent: float | None) -> str:
    return "-" if percent is None else f"{percent:+.1f} %"


def write_table(result: dict[str, Any], path: Path) -> None:
    """Put `table` between the marks of a Markdown file. Raises ConfigError where they are missing."""
    text = path.read_text()
    first, last = README_MARKS
    before, found, rest = text.partition(first)
    _, ended, after = rest.partition(last)
    if not found or not ended:
        raise ConfigError(f"{path} has no lines {first} and {last}")
    write_atomically(path, f"{before}{first}\n{table(result)}\n{last}{after}".encode(), mode=PUBLIC_FILE)


def write_json(result: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(result, indent=1) + "\n")

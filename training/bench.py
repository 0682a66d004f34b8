"""`secondlook bench codec`: rate, quality and time of our layers beside still and learned codecs, in one run."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import cv2

from secondlook.cloud.workers.postfilter import load_postfilter
from secondlook.shared.codec import load_codec
from secondlook.shared.errors import ConfigError, SourceNotFound
from secondlook.shared.files import PUBLIC_FILE, write_atomically
from secondlook.shared.filters import ImageFilter
from secondlook.shared.layers import LayeredCodec
from secondlook.shared.peers import FoundPeer, find_peer
from secondlook.shared.quality import DEFAULT_QUALITY, PRESETS
from secondlook.training.bench_rows import (
    LOSSLESS_DB,
    Picture,
    Row,
    RowLog,
    Setting,
    common_pictures,
    measure_layers,
    measure_peer,
    point_of,
)
from secondlook.training.data import list_images, read_rgb, usable_images
from secondlook.training.published import KODAK_CURVES, is_kodak
from secondlook.training.rate_distortion import PEERS, Point, bd_rate, psnr_at
from secondlook.training.scalability import base_layer_cost, sentence
from secondlook.training.speed import compare_speed

LEARNED_PEERS = tuple(KODAK_CURVES)
BASE_QUALITY = 8
COMMON_RATES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
QUALITIES = tuple(sorted({0, 6, 12, 18, 63, *PRESETS.values()}))
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


def photographs() -> list[Path]:
    """Photographs inside the scikit-image package, in the public domain. Raises SourceNotFound."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise SourceNotFound("the package scikit-image is not installed: name a folder with --images")
    return [Path(spec.submodule_search_locations[0]) / "data" / name for name in PHOTOGRAPHS]


def curve(rows: Sequence[Row], name: str) -> list[Point]:
    """The points of one codec, in order of rate, without those that add rate and no quality."""
    points: list[Point] = []
    for row in sorted((r for r in rows if r["codec"] == name), key=lambda r: float(r["bpp"])):
        if not points or row["psnr"] > points[-1].psnr:
            points.append(Point(row["bpp"], row["psnr"]))
    return points


def measure_all(
    codec: LayeredCodec,
    ours: str,
    pictures: Sequence[Picture],
    peers: Sequence[FoundPeer],
    filters: dict[str, ImageFilter],
    filter_limit: int | None,
    log: RowLog,
    say: Callable[[str], None],
) -> list[Row]:
    """A row for each picture at each setting of our codec, called `ours`, and of every peer, in that order."""
    rows: list[Row] = []
    for quality in QUALITIES:
        setting = Setting(ours, codec.model_hash.hex(), quality, min(BASE_QUALITY, quality))
        judged = filters if quality in PRESETS.values() else {}
        for number, picture in enumerate(pictures):
            some = judged if filter_limit is None or number < filter_limit else {}
            rows.append(
                log.measured(
                    setting,
                    picture,
                    lambda s=setting, p=picture, f=some: measure_layers(codec, p.rgb, s, f),
                    filters=some,
                )
            )
        say(f"{ours}, quality {quality}: measured")
    for found in peers:
        for quality in found.peer.qualities:
            setting = Setting(found.name, found.made_by, quality)
            rows += [
                log.measured(
                    setting, picture, lambda f=found, p=picture, q=quality: measure_peer(f.peer, p.rgb, q)
                )
                for picture in pictures
            ]
        say(f"{found.name}: measured")
    return rows


def points_of(rows: Sequence[Row], common: Sequence[str]) -> list[Row]:
    """A row for each point of each curve: means over the pictures that all codecs managed."""
    settings: dict[tuple[Any, ...], list[Row]] = {}
    wanted = set(common)
    for row in rows:
        if "error" not in row and row["digest"] in wanted:
            settings.setdefault((row["codec"], row["base_quality"], row["quality"]), []).append(row)
    return [point_of(of_setting) for of_setting in settings.values()]


def bench_codec(
    images_folder: Path | None,
    *,
    model: str,
    peers: Sequence[str],
    filters: Sequence[str],
    limit: int | None,
    threads: int,
    filter_limit: int | None = None,
    log: RowLog | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure everything on the images of a folder, or on `photographs`; the figures that `--json` writes.

    Pictures that are damaged are named and left out. Raises ConfigError for a peer that is not known, and where no
    picture could be coded by all; SourceNotFound, ModelNotFound.
    """
    cv2.setNumThreads(threads)
    learned = tuple(name for name in peers if name in LEARNED_PEERS)
    still = [find_peer(name, PEERS) for name in peers if name not in learned]
    codec = load_codec(model, threads=threads)
    ours = f"{codec.name} (layers)" if codec.name in peers else codec.name
    loaded = {Path(name).name: load_postfilter(name, threads=threads) for name in filters}
    paths = photographs() if images_folder is None else list_images(images_folder)
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit {limit}: at least one image is needed")
    pictures = [Picture.of(path.name, read_rgb(path)) for path in usable_images(paths[:limit], 1)]
    _warm_up(codec, pictures[0])
    rows = measure_all(codec, ours, pictures, still, loaded, filter_limit, log or RowLog(say=say), say)
    common = common_pictures(rows)
    if not common or all(row["codec"] != ours or "error" in row for row in rows):
        raise ConfigError(
            "no picture was coded by all: " + next(row["error"] for row in rows if "error" in row)
        )
    used = [picture for picture in pictures if picture.digest in common]
    points = points_of(rows, common)
    say("measuring times, and what the base layer costs")
    return {
        "images": len(used),
        "left_out": [picture.name for picture in pictures if picture not in used],
        "codec": ours,
        "model": codec.model_hash.hex(),
        "threads": threads,
        "rows": points,
        **_compared(ours, points, learned, used),
        **_timed(codec, used, threads, learned),
        "base_layer_cost": base_layer_cost(codec, [picture.rgb for picture in used]),
        "rrdb_gain_db": {
            name.removeprefix("rrdb-"): [
                row["gain_db"].get(name)
                for row in points
                if row["codec"] == ours and row["quality"] in PRESETS.values()
            ]
            for name in loaded
        },
        "rrdb_images": min(len(used), filter_limit or len(used)) if filters else 0,
        "filters": {name.removeprefix("rrdb-"): name for name in loaded},
    }


def _warm_up(codec: LayeredCodec, picture: Picture) -> None:
    """The first call opens networks, which no figure counts."""
    layers = codec.encode(picture.rgb, base_quality=BASE_QUALITY, quality=32).layers
    codec.decode_enhanced(layers.base, layers.enhancement)


def _compared(
    name: str, points: Sequence[Row], learned: Sequence[str], used: Sequence[Picture]
) -> dict[str, Any]:
    """Our curve against those of the peers, and published ones where the pictures are those that they are of."""
    ours, others = curve(points, name), [one for one in codecs_of(points) if one != name]
    theirs: dict[str, Sequence[Point]] = {other: curve(points, other) for other in others}
    over = {other: [difference(ours, theirs[other], rate) for rate in COMMON_RATES] for other in others}
    if is_kodak([picture.rgb.shape[:2] for picture in used]):
        theirs |= {other: KODAK_CURVES[other] for other in learned}
    return {
        "bd_rate_percent": {key(other): bd_rate_or_none(ours, curve) for other, curve in theirs.items()},
        "published": {
            other: [[p.bpp, p.psnr] for p in theirs[other]] for other in learned if other in theirs
        },
        "psnr_over_peer_db": {"bpp": list(COMMON_RATES), **over},
    }


def _timed(
    codec: LayeredCodec, used: Sequence[Picture], threads: int, learned: tuple[str, ...]
) -> dict[str, Any]:
    speed = compare_speed(
        codec,
        used[0].rgb,
        base_quality=BASE_QUALITY,
        quality=DEFAULT_QUALITY,
        threads=threads,
        peers=learned,
    )
    mean = speed["peers"].get("mbt2018-mean q4", {})
    ratios = {
        "encode_vs_mbt2018_mean": mean.get("encode_ratio"),
        "decode_base_vs_mbt2018_mean": mean.get("decode_base_ratio"),
    }
    return {"speedup": ratios, "times": speed}


def codecs_of(points: Sequence[Row]) -> list[str]:
    """The codecs that have points, in order."""
    return list(dict.fromkeys(row["codec"] for row in points))


def bd_rate_or_none(ours: Sequence[Point], theirs: Sequence[Point]) -> float | None:
    """BD-rate in percent; None where the curves share no range, or one is no curve."""
    try:
        return bd_rate(ours, theirs)
    except ValueError:
        return None


def key(name: str) -> str:
    """A peer's name as JSON has it."""
    return name.replace("-", "_")


def difference(ours: Sequence[Point], theirs: Sequence[Point], rate: float) -> float | None:
    a, b = psnr_at(ours, rate), psnr_at(theirs, rate)
    return None if a is None or b is None else a - b


def plot(result: dict[str, Any], path: Path) -> None:
    """RD curves as PNG: what the axes hold follows from our own curve, base layer included."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 5))
    name = result["codec"]
    for codec in codecs_of(result["rows"]):
        points, ours = curve(result["rows"], codec), codec == name
        label = f"{name}, both layers" if ours else codec
        rates, quality = [p.bpp for p in points], [p.psnr for p in points]
        axes.plot(rates, quality, "o-", ms=4, lw=2 if ours else 1, label=label)
    for (codec, published), style in zip(result["published"].items(), cycle(["--", ":"]), strict=False):
        axes.plot(*zip(*published, strict=True), style, color="0.5", lw=1, label=f"{codec} (published)")
    base = base_points(result)
    axes.plot(*zip(*base, strict=True), "s", ms=4, label=f"{name}, base layer alone")
    left, right, bottom, top = bounds(result)
    axes.set(
        xlabel="bits per pixel, of real bytes",
        ylabel="PSNR (dB)",
        xlim=(left, right),
        ylim=(bottom, top),
        title=f"{name} ({result['model'][:8]}), mean of {result['images']} image{'s' * (result['images'] != 1)}",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def base_points(result: dict[str, Any]) -> list[tuple[float, float]]:
    """Bits per pixel and PSNR of our base layer alone, each once."""
    ours = [row for row in result["rows"] if row["codec"] == result["codec"]]
    return sorted({(row["bpp_base"], row["psnr_base"]) for row in ours})


def bounds(result: dict[str, Any]) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of the plot: all of ours, and of the peers what lies at those rates."""
    ours = [(row["bpp"], row["psnr"]) for row in result["rows"] if row["codec"] == result["codec"]]
    right = 1.05 * max(rate for rate, _ in ours)
    others = [(row["bpp"], row["psnr"]) for row in result["rows"]]
    others += [tuple(point) for points in result["published"].values() for point in points]
    seen = [quality for rate, quality in (*ours, *base_points(result), *others) if rate <= right]
    finite = [quality for quality in seen if quality < LOSSLESS_DB]  # what lost nothing has no height
    return 0.0, right, min(finite, default=0.0) - 1.0, max(finite, default=1.0) + 1.0


def report(result: dict[str, Any]) -> str:
    """The figures as a table of text."""
    wide = max(6, *map(len, codecs_of(result["rows"])))
    titles = f"{'codec':{wide}} {'quality':>7} {'base bpp':>9} {'bpp':>7} {'PSNR dB':>8} {'MS-SSIM':>8}"
    lines = [f"{titles} {'enc ms':>7} {'dec ms':>7}"]
    for row in result["rows"]:
        base = f"{row['bpp_base']:.4f}" if row["bpp_base"] is not None else "-"
        similarity = f"{row['ms_ssim']:.4f}" if row["ms_ssim"] is not None else "-"
        lines.append(
            f"{row['codec']:{wide}} {row['quality']:>7} {base:>9} {row['bpp']:>7.4f} {row['psnr']:>8.3f} "
            f"{similarity:>8} {row['encode_ms']:>7.1f} {row['decode_ms']:>7.1f}"
        )
    for name, percent in result["bd_rate_percent"].items():
        lines.append(f"BD-rate against {name}: {shown_percent(percent)}")
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
    lines += [*entropy_sentence(result), *sentence(result["base_layer_cost"])]
    if result["left_out"]:
        lines.append(f"left out, for a codec failed at them: {', '.join(result['left_out'])}")
    for name, gains in result["rrdb_gain_db"].items():
        shown = ", ".join(f"{shown_gain(g)} at {preset}" for preset, g in zip(PRESETS, gains, strict=True))
        lines.append(f"{name} gains in dB, {result['rrdb_images']} images: {shown}")
    return "\n".join(lines)


README_MARKS = "<!-- bench codec -->", "<!-- end of bench codec -->"


def table(result: dict[str, Any]) -> str:
    """Our curve, and the peers beside it, as two tables of Markdown."""
    ours = result["codec"]
    rows = [row for row in result["rows"] if row["codec"] == ours]
    lines = [
        f"Mean of {result['images']} images, `{ours}`, model `{result['model']}`, {result['threads']} threads.",
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
    for name in (one for one in codecs_of(result["rows"]) if one != ours):
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
        lines.append(f"| {result['filters'][name]} | {' | '.join(map(shown_gain, gains))} |")
    for text in (*entropy_sentence(result), *sentence(result["base_layer_cost"])):
        lines += ["", text]
    return "\n".join(lines)


def entropy_sentence(result: dict[str, Any]) -> list[str]:
    """Only `lite` tells how long its entropy coder takes."""
    share = result["times"]["entropy_share"]
    if share is None:
        return []
    return [f"Entropy coding takes {100 * share:.0f} % of the time of encoding a 768x512 picture."]


def shown_gain(gain: float | None) -> str:
    return "-" if gain is None else f"{gain:+.3f}"


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

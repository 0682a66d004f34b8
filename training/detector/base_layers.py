"""Detection accuracy at equal bits: base layers beside AVIF and JPEG, for any number of detectors.

    secondlook evaluate base --images DIR --annotations FILE [--detector D ...] [--model M ...] [--postfilter F ...]

Average precision (COCO, IoU 0.5 to 0.95) over all of the classes a detector has. Bits are those of real bytes. How far
few images can tell two codecs apart is a standard error: of the difference, over images drawn with replacement.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from secondlook.cloud.workers.detectors import load_detector
from secondlook.cloud.workers.postfilter import load_postfilter
from secondlook.shared.filters import ImageFilter
from secondlook.training.detector.categories import check_categories, load_truth
from secondlook.training.detector.evaluate import (
    LOWEST_SCORE,
    BaseLayer,
    Change,
    average_precision,
    match,
    resampled_precision,
)
from secondlook.training.rate_distortion import PEERS, U8

BASE_QUALITIES = (0, 4, 8, 12, 16, 20, 24, 28)
PEER_QUALITIES = {"avif": (3, 6, 10, 15, 20, 26, 34), "jpeg": (3, 5, 8, 12, 18, 25)}
RATES = (0.10, 0.15, 0.20)  # bits per pixel at which accuracies are compared
RESAMPLES = 100


@dataclass(frozen=True)
class Point:
    """Bits per pixel, and AP in percent by detector: on all images, and on each draw of them."""

    quality: int
    bpp: float
    ap: dict[str, float]
    resampled: dict[str, list[float]] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        return {"quality": self.quality, "bpp": self.bpp, "ap": self.ap}


class Still:
    """Images through a still codec; counts the bytes."""

    def __init__(self, name: str, quality: int) -> None:
        self._peer, self._quality = PEERS[name], quality
        self.bits, self.pixels = 0, 0

    def __call__(self, image: U8) -> U8:
        data = self._peer.encode(image, self._quality)
        self.bits += 8 * len(data)
        self.pixels += image.shape[0] * image.shape[1]
        return self._peer.decode(data)


class Kept:
    """What a codec made of each image, so that several detectors judge the same pictures."""

    def __init__(self, change: Change) -> None:
        self._change, self._pictures, self._next = change, list[U8](), 0

    def __call__(self, image: U8) -> U8:
        if self._next == len(self._pictures):
            self._pictures.append(self._change(image))
        self._next += 1
        return self._pictures[self._next - 1]

    def rewind(self) -> Kept:
        self._next = 0
        return self


def measure(
    codec: BaseLayer | Still,
    quality: int,
    detectors: dict[str, Any],
    truth: Any,
    images: Path,
    filters: Sequence[ImageFilter] = (),
) -> list[Point]:
    """The point of the decoded pictures, then one for each filter behind the decoder, at the same bits."""
    kept = Kept(codec)
    seen = [kept, *(Kept(lambda image, f=f: f.apply(kept(image))) for f in filters)]
    points = []
    for pictures in seen:
        ap, resampled = {}, {}
        for name, detector in detectors.items():
            kept.rewind()
            matched = match(detector, truth, images, pictures.rewind(), detector.classes)
            ap[name] = average_precision(matched)["AP"]
            resampled[name] = resampled_precision(matched, RESAMPLES)
        points.append(Point(quality, codec.bits / codec.pixels, ap, resampled))
    return points


def accuracy_at(points: Sequence[Point], detector: str, rate: float) -> float | None:
    """AP at `rate` bits per pixel, linear in the logarithm of the rate; None outside the curve."""
    line = sorted(points, key=lambda p: p.bpp)
    if not line[0].bpp <= rate <= line[-1].bpp:
        return None
    return float(np.interp(np.log(rate), [np.log(p.bpp) for p in line], [p.ap[detector] for p in line]))


def bits_for(points: Sequence[Point], detector: str, accuracy: float) -> float | None:
    """The least rate from which a curve reaches `accuracy`; None where it never does or always has."""
    line = sorted(points, key=lambda p: p.bpp)
    for low, high in pairwise(line):
        a, b = low.ap[detector], high.ap[detector]
        if a < accuracy <= b:
            share = (accuracy - a) / (b - a)
            return float(np.exp(np.log(low.bpp) * (1 - share) + np.log(high.bpp) * share))
    return None


def difference(
    ours: Sequence[Point], peer: Sequence[Point], detector: str, rate: float
) -> list[float] | None:
    """AP of `ours` less that of `peer` at `rate` bits per pixel, and its standard error; None outside a curve."""

    def gap(a: Sequence[Point], b: Sequence[Point]) -> float | None:
        pair = accuracy_at(a, detector, rate), accuracy_at(b, detector, rate)
        return None if pair[0] is None or pair[1] is None else pair[0] - pair[1]

    def draw(points: Sequence[Point], number: int) -> list[Point]:
        return [replace(p, ap={detector: p.resampled[detector][number]}) for p in points]

    whole = gap(ours, peer)
    if whole is None:
        return None
    gaps = [gap(draw(ours, n), draw(peer, n)) for n in range(len(ours[0].resampled[detector]))]
    return [whole, float(np.std(np.array(gaps, np.float64)))]


def compare(curves: dict[str, list[Point]], detectors: Sequence[str]) -> dict[str, Any]:
    """AP of every curve at the common rates, how far it is from AVIF's, and the share of its bits that reaches it."""
    at = {
        name: {d: {str(rate): accuracy_at(points, d, rate) for rate in RATES} for d in detectors}
        for name, points in curves.items()
    }
    share: dict[str, Any] = {}
    less_avif: dict[str, Any] = {}
    for name, points in curves.items():
        if name in PEER_QUALITIES or "avif" not in curves:
            continue
        share[name] = {d: {} for d in detectors}
        less_avif[name] = {
            d: {str(r): difference(points, curves["avif"], d, r) for r in RATES} for d in detectors
        }
        for d in detectors:
            for rate in RATES:
                wanted = at["avif"][d][str(rate)]
                needed = bits_for(points, d, wanted) if wanted is not None else None
                share[name][d][str(rate)] = needed / rate if needed is not None else None
    return {"ap_at_bpp": at, "ap_less_avif": less_avif, "share_of_avif_bits_at_equal_ap": share}


def report(result: dict[str, Any]) -> str:
    """The figures as text."""
    detectors = list(result["originals"])
    titles = "".join(f"{name[:14]:>16}" for name in detectors)
    lines = [f"{'':24}{'bpp':>8}{titles}   (AP)"]
    lines.append(f"{'originals':24}{'':>8}" + "".join(f"{result['originals'][d]:>16.1f}" for d in detectors))
    for name, points in result["curves"].items():
        for point in points:
            aps = "".join(f"{point['ap'][d]:>16.1f}" for d in detectors)
            lines.append(f"{name + ' ' + str(point['quality']):24}{point['bpp']:>8.4f}{aps}")
    for name, by_detector in result["ap_at_bpp"].items():
        for d, values in by_detector.items():
            shown = ", ".join(f"{v:.1f} at {rate}" for rate, v in values.items() if v is not None)
            lines.append(f"AP of {d} on {name}: {shown}")
    for name, by_detector in result["ap_less_avif"].items():
        for d, pairs in by_detector.items():
            shown = ", ".join(
                f"{p[0]:+.1f} ± {p[1]:.1f} at {rate}" for rate, p in pairs.items() if p is not None
            )
            lines.append(f"{name}, {d}: AP less AVIF's, with its standard error: {shown or 'no common rate'}")
    for name, by_detector in result["share_of_avif_bits_at_equal_ap"].items():
        for d, values in by_detector.items():
            shown = ", ".join(f"{100 * v:.0f} % at {rate}" for rate, v in values.items() if v is not None)
            lines.append(f"{name}, {d}: bits for AVIF's AP in percent of AVIF's: {shown or 'never reached'}")
    return "\n".join(lines)


def titles_of(given: Sequence[str | Path]) -> list[str]:
    """A short title of each model or file: its name, or the whole of what was given where names are the same."""
    names = [Path(each).name.removesuffix(".onnx") for each in given]
    return [name if names.count(name) == 1 else str(each) for name, each in zip(names, given, strict=True)]


def run(args: argparse.Namespace) -> int:
    truth = load_truth(args.annotations, dict(args.class_map))
    specs = args.detector or ["builtin"]
    detectors = {
        title: load_detector(s, threads=args.threads, min_score=LOWEST_SCORE)
        for title, s in zip(titles_of(specs), specs, strict=True)
    }
    for name, detector in detectors.items():
        check_categories(truth, args.annotations, name, detector.classes)
    originals = {
        name: average_precision(match(detector, truth, args.images, lambda image: image, detector.classes))[
            "AP"
        ]
        for name, detector in detectors.items()
    }
    curves: dict[str, list[Point]] = {}
    filters = [load_postfilter(f, threads=args.threads) for f in args.postfilter]
    models = args.model or ["lite"]
    for name, model in zip(titles_of(models), models, strict=True):
        rows = [
            measure(BaseLayer(model, q, args.quality), q, detectors, truth, args.images, filters)
            for q in args.base_quality or BASE_QUALITIES
        ]
        titles = [name, *(f"{name}+{title}" for title in titles_of(args.postfilter))]
        curves.update(
            {title: list(points) for title, points in zip(titles, zip(*rows, strict=True), strict=True)}
        )
    for peer in args.peers:
        curves[peer] = [
            measure(Still(peer, q), q, detectors, truth, args.images)[0] for q in PEER_QUALITIES[peer]
        ]
    result = {
        "images": len(truth.imgs),
        "originals": originals,
        "curves": {name: [p.row() for p in points] for name, points in curves.items()},
        **compare(curves, list(detectors)),
    }
    print(report(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0

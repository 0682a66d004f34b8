"""Three minutes on a machine with a GPU: what batching and the provider's options bring there.

    python -m secondlook.training.gpu_check [--device cuda] [--seconds 180] [--json OUT]

Each figure is a median over as long as its share of the time allows. Ends with status 1 where ONNX Runtime did not
really compute on the GPU, or its pictures differ from the CPU's by more than one grey level.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from secondlook.cloud.workers.detectors import load_detector
from secondlook.cloud.workers.postfilter import load_postfilter
from secondlook.shared.codec import load_codec
from secondlook.shared.detection import U8Image, detect_all
from secondlook.shared.errors import DeviceUnavailable

FILTERS = ("rrdb-fast", "rrdb-l1", "rrdb-l2")
BATCHES = (1, 2, 4, 8, 16)
TILES = (384, 768, 1536)
SIZE = (432, 768)
MOST_APART = 1  # grey levels between the CPU's picture and the GPU's


def picture(seed: int, height: int = SIZE[0], width: int = SIZE[1]) -> U8Image:
    """uint8[H,W,3]: smooth shapes with some noise, as a coder likes them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = [np.sin(x / rng.uniform(9, 90) + y / rng.uniform(9, 90)) for _ in range(3)]
    values = 128 + 90 * np.stack(waves, -1) + rng.normal(0, 6, (height, width, 3))
    return np.clip(values, 0, 255).astype(np.uint8)


def median_ms(work: Callable[[], object], seconds: float) -> float:
    """Of at least three runs, after one that warms up."""
    work()
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - before))
    return round(float(np.median(times)), 2)


def measure(device: str, seconds: float, filters: Sequence[str] = FILTERS) -> dict[str, Any]:
    """All figures, milliseconds a frame of 768x432. Raises DeviceUnavailable where the device is not there."""
    frames = [picture(seed) for seed in range(max(BATCHES))]
    share = seconds / (2 + len(BATCHES) + len(filters) * (1 + len(TILES)))
    figures: dict[str, Any] = {"device": device}
    codec, on_cpu = load_codec(device=device), load_codec()
    layers = on_cpu.encode(frames[0], base_quality=16, quality=40).layers
    figures["decode base"] = median_ms(lambda: codec.decode_base(layers.base), share)
    figures["decode both"] = median_ms(lambda: codec.decode_enhanced(layers.base, layers.enhancement), share)
    apart = [_apart(codec.decode_base(layers.base), on_cpu.decode_base(layers.base))]
    detector = load_detector("auto", threads=0, device=device)
    figures["detector"] = detector.name
    for count in BATCHES:
        some = frames[:count]
        spent = median_ms(lambda some=some: detect_all(detector, some), share)  # type: ignore[misc]
        figures[f"detect, batches of {count}"] = round(spent / count, 2)
    for name in filters:
        exact = load_postfilter(name).apply(frames[0][:128, :128])
        for tile in TILES:
            loaded = load_postfilter(name, device=device, tile=tile)
            figures[f"{name}, tiles of {tile}"] = median_ms(lambda f=loaded: f.apply(frames[0]), share)  # type: ignore[misc]
        apart.append(_apart(loaded.apply(frames[0][:128, :128]), exact))
    figures["grey levels apart"] = max(apart)
    return figures


def _apart(a: U8Image, b: U8Image) -> int:
    return int(np.abs(a.astype(int) - b).max())


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures. 1 where the device is not there, or computes something else."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=180.0, help="for all figures (default %(default)g)")
    parser.add_argument("--filters", nargs="*", default=list(FILTERS), help="post-filters to time")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures")
    args = parser.parse_args(arguments)
    try:
        figures = measure(args.device, args.seconds, args.filters)
    except DeviceUnavailable as error:
        print(error)
        return 1
    text = json.dumps(figures, indent=1)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")
    return 0 if figures["grey levels apart"] <= MOST_APART else 1


if __name__ == "__main__":
    raise SystemExit(main())

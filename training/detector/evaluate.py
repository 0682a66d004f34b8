"""Average precision of detectors on COCO-style annotations, on the images and on decoded base layers.

python -m secondlook.training.detector.evaluate --images DIR --annotations FILE [--against FILE] [--codec lite]
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from secondlook.cloud.workers.detectors import load_detector
from secondlook.shared.codec import load_codec
from secondlook.shared.detection import Detector, U8Image
from secondlook.shared.errors import ConfigError
from secondlook.training.detector.categories import category_ids, check_categories, load_truth
from secondlook.training.detector.cli import parse

Change = Callable[[U8Image], U8Image]
LOWEST_SCORE = 0.01  # average precision needs the weak detections too


class BaseLayer:
    """Images through the codec's base layer; counts the bytes."""

    def __init__(self, model: str, base_quality: int, quality: int) -> None:
        self._codec = load_codec(model, threads=1)
        self._base_quality, self._quality = base_quality, quality
        self.bits, self.pixels = 0, 0

    def __call__(self, image: U8Image) -> U8Image:
        encoded = self._codec.encode(image, base_quality=self._base_quality, quality=self._quality)
        self.bits += 8 * len(encoded.layers.base)
        self.pixels += image.shape[0] * image.shape[1]
        return self._codec.decode_base(encoded.layers.base)


def _first_image(truth: Any, folder: Path) -> U8Image:
    entry = next(iter(truth.imgs.values()))
    return _read(folder / entry["file_name"])


def _read(path: Path) -> U8Image:
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise ConfigError(f"cannot read {path}")
    return np.ascontiguousarray(bgr[:, :, ::-1]).astype(np.uint8)


def match(detector: Detector, truth: Any, folder: Path, change: Change, classes: Sequence[str]) -> Any:
    """Detections on all images, matched with their annotations: a COCOeval, or None where nothing was found."""
    from pycocotools.cocoeval import COCOeval

    ids = category_ids(truth, classes)
    results = []
    for image_id, entry in truth.imgs.items():
        image = change(_read(folder / entry["file_name"]))
        for found in detector.detect(image):
            if found.label in ids:
                x0, y0, x1, y1 = found.box
                box = [x0, y0, x1 - x0, y1 - y0]
                results.append(
                    {"image_id": image_id, "category_id": ids[found.label], "bbox": box, "score": found.score}
                )
    if not results:  # which the COCO tools cannot read
        return None
    with contextlib.redirect_stdout(io.StringIO()):
        matched = COCOeval(truth, truth.loadRes(results), "bbox")
        matched.params.catIds = sorted(ids.values())
        matched.evaluate()
    return matched


def average_precision(matched: Any) -> dict[str, float]:
    """AP (IoU 0.5 to 0.95), AP50 and each class's AP50 over the classes of `match`, in percent."""
    if matched is None:
        return {"AP": 0.0, "AP50": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):
        matched.accumulate()
        matched.summarize()
    figures = {"AP": round(100 * matched.stats[0], 1), "AP50": round(100 * matched.stats[1], 1)}
    precision = matched.eval["precision"][0, :, :, 0, 2]
    for column, category in enumerate(matched.params.catIds):
        values = precision[:, column]
        if (values > -1).any():
            label = matched.cocoGt.cats[category]["name"]
            figures[f"AP50 {label}"] = round(100 * float(values[values > -1].mean()), 1)
    return figures


def resampled_precision(matched: Any, resamples: int) -> list[float]:
    """AP in percent on as many images drawn with replacement, `resamples` times (bootstrap).

    The draws depend on the number of images alone, so the spread of a difference between two codecs is that of
    the differences draw by draw.
    """
    if matched is None:
        return [0.0] * resamples
    params = copy.copy(matched.params)
    params.areaRng, params.maxDets = params.areaRng[:1], params.maxDets[-1:]
    images = len(params.imgIds)
    by_image = np.array(matched.evalImgs, dtype=object).reshape(-1, images)  # class and area, image
    draw, rng, values = copy.copy(matched), np.random.default_rng(0), []
    for _ in range(resamples):
        draw.evalImgs = by_image[:, rng.integers(0, images, images)].ravel().tolist()
        with contextlib.redirect_stdout(io.StringIO()):
            draw.accumulate(params)
        precision = draw.eval["precision"]
        present = precision > -1
        values.append(100 * float(precision[present].mean()) if present.any() else 0.0)
    return values


def milliseconds(spec: str, threads: int, runs: int = 20) -> float:
    """Median time of one 768x432 frame, fitting it in and suppression included."""
    detector = load_detector(spec, threads=threads)
    frame = np.random.default_rng(0).integers(0, 256, (432, 768, 3), np.uint8)
    return _median(lambda: detector.detect(frame), runs)


def decode_milliseconds(model: str, base_quality: int, image: U8Image, threads: int, runs: int = 20) -> float:
    """Median time in which the base layer of `image` at 768x432 is decoded."""
    codec = load_codec(model, threads=threads)
    frame = cv2.resize(image, (768, 432), interpolation=cv2.INTER_AREA).astype(np.uint8)
    layer = codec.encode(frame, base_quality=base_quality, quality=40).layers.base
    return _median(lambda: codec.decode_base(layer), runs)


def _median(work: Callable[[], object], runs: int) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return round(1000 * float(np.median(times)), 1)


def run(args: argparse.Namespace) -> int:
    truth = load_truth(args.annotations, dict(args.class_map))
    specs = [args.detector, *([args.against] if args.against else [])]
    detectors = {spec: load_detector(spec, threads=1, min_score=LOWEST_SCORE) for spec in specs}
    # What is judged side by side is judged on the same classes.
    known = [detector.classes for detector in detectors.values()]
    classes = [name for name in known[0] if all(name in others for others in known)]
    check_categories(truth, args.annotations, " and ".join(specs), classes)
    figures: dict[str, Any] = {}
    for spec, detector in detectors.items():
        role = "detector" if spec == args.detector else "against " + Path(spec).stem
        figures[f"{role}, images"] = average_precision(
            match(detector, truth, args.images, lambda image: image, classes)
        )
    for base_quality in args.base_quality if args.codec else ():
        for spec, detector in detectors.items():
            role = "detector" if spec == args.detector else "against " + Path(spec).stem
            layer = BaseLayer(args.codec, base_quality, args.quality)
            scored = average_precision(match(detector, truth, args.images, layer, classes))
            figures[f"{role}, base {base_quality}"] = {**scored, "bpp": round(layer.bits / layer.pixels, 4)}
    for threads in (1, 2):
        cores = f"{threads} thread{'s' * (threads > 1)}"
        figures[f"ms a 768x432 frame, {cores}"] = milliseconds(args.detector, threads)
        for base_quality in args.base_quality if args.codec else ():
            figures[f"ms to decode base {base_quality} at 768x432, {cores}"] = decode_milliseconds(
                args.codec, base_quality, _first_image(truth, args.images), threads
            )
    print(json.dumps(figures, indent=2))
    if args.record:
        manifest = json.loads(args.record.read_text())
        manifest["figures"].update(figures)
        args.record.write_text(json.dumps(manifest, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(parse("evaluate")))

"""Send training images through the codec's base layer, once, for the student to see in their place.

    secondlook train detector-frames --data DIR [--video FILE] --out DIR --codec lite

Writes `OUT/<name of the image>/<n>.png`, of the image's own size. Each image is coded at a random scale and base
quality, so that the artefacts come in the sizes that cameras of other resolutions would give them.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from secondlook.shared.codec import load_codec
from secondlook.shared.layers import LayeredCodec
from secondlook.training.detector.cli import parse
from secondlook.training.detector.views import U8, load_images, load_video

VIDEO_STEP = 6  # as in training: the frames it draws are these


@dataclass(frozen=True)
class DecodeConfig:
    lowest_base_quality: int = 4
    highest_base_quality: int = 36
    quality: int = 40
    largest_scale: float = 1.7


def through_base(codec: LayeredCodec, image: U8, rng: np.random.Generator, config: DecodeConfig) -> U8:
    """The BGR image enlarged at random, coded, decoded from its base layer and brought back to its size."""
    rows, columns = image.shape[:2]
    scale = float(rng.uniform(1.0, config.largest_scale))
    size = (round(columns * scale), round(rows * scale))
    large = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)
    base_quality = int(rng.integers(config.lowest_base_quality, config.highest_base_quality + 1))
    rgb = np.ascontiguousarray(large[:, :, ::-1])
    encoded = codec.encode(rgb, base_quality=base_quality, quality=config.quality)
    decoded = np.ascontiguousarray(codec.decode_base(encoded.layers.base)[:, :, ::-1])
    return np.asarray(cv2.resize(decoded, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)


def run(args: argparse.Namespace) -> int:
    codec, rng, config = load_codec(args.codec, threads=1), np.random.default_rng(args.seed), DecodeConfig()
    samples = load_images(args.data)
    for path in args.video:
        samples += load_video(path, VIDEO_STEP)
    for sample in samples[:: args.every]:
        folder = args.out / Path(sample.name).stem
        if folder.is_dir():
            continue  # made by an earlier run
        decoded = through_base(codec, sample.image, rng, config)
        folder.mkdir(parents=True)
        cv2.imwrite(str(folder / "0.png"), decoded, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return 0


if __name__ == "__main__":
    raise SystemExit(run(parse("decoded")))

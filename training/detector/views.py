"""Training views: crops, mosaics and letterboxes of a folder of images, clean for the teacher and
degraded for the student."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from secondlook.training.data import U8, list_images, read_rgb, usable_images

PAD = 114
SUFFIXES = {".jpg", ".jpeg", ".png"}


@dataclass(frozen=True)
class Sample:
    """One source image (BGR) and, where made, the same image decoded from base layers."""

    name: str
    image: U8
    decoded: tuple[U8, ...] = ()


@dataclass(frozen=True)
class ViewConfig:
    size: int = 320
    mosaic_share: float = 0.35
    letterbox_share: float = 0.2
    degrade_share: float = 0.35
    decoded_share: float = 0.0


def is_validation(name: str) -> bool:
    """About one image in sixteen, by a hash of its name, is kept from training."""
    return hashlib.sha256(name.encode()).digest()[0] < 16


def load_images(folder: Path) -> list[Sample]:
    """Pictures of a folder, BGR. Raises FileNotFoundError and ConfigError where there is none that can be read."""
    return [
        Sample(path.name, np.ascontiguousarray(read_rgb(path)[:, :, ::-1]))
        for path in usable_images(list_images(folder), 1)
    ]


def load_video(path: Path, step: int) -> list[Sample]:
    """Every `step`-th frame of a video."""
    capture = cv2.VideoCapture(str(path))
    samples: list[Sample] = []
    index = 0
    while True:
        good, frame = capture.read()
        if not good:
            break
        if index % step == 0:
            samples.append(Sample(f"{path.stem}-{index:05d}", np.asarray(frame, np.uint8)))
        index += 1
    capture.release()
    return samples


@dataclass
class ViewMaker:
    """Draws pairs of views; `weights` says how often a sample is drawn relative to others."""

    samples: list[Sample]
    weights: npt.NDArray[np.float64]
    rng: np.random.Generator
    _cumulative: npt.NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self._cumulative = np.cumsum(self.weights / self.weights.sum())

    def pair(self, config: ViewConfig) -> tuple[U8, U8]:
        """(for the teacher, for the student): BGR (size, size, 3), the same scene pixel for pixel."""
        draw = self.rng.random()
        if draw < config.mosaic_share:
            clean, seen = self._mosaic(config)
        elif draw < config.mosaic_share + config.letterbox_share:
            clean, seen = self._letterbox(config)
        else:
            clean, seen = self._crop(config, config.size, config.size)
        if seen is clean and self.rng.random() < config.degrade_share:
            seen = _degrade(self.rng, clean)
        return clean, seen

    def _draw(self, config: ViewConfig) -> tuple[U8, U8]:
        index = int(np.searchsorted(self._cumulative, self.rng.random(), side="right"))
        sample = self.samples[min(index, len(self.samples) - 1)]
        seen = sample.image
        if sample.decoded and self.rng.random() < config.decoded_share:
            seen = sample.decoded[int(self.rng.integers(len(sample.decoded)))]
        return _jitter(self.rng, sample.image, seen)

    def _crop(self, config: ViewConfig, width: int, height: int) -> tuple[U8, U8]:
        """A random window, scaled by 0.5 to 2 and stretched a little, mirrored half the time."""
        clean, seen = self._draw(config)
        rows, columns = clean.shape[:2]
        fit = max(width / columns, height / rows)
        scale = fit * float(np.exp(self.rng.uniform(np.log(0.5), np.log(1.8))))
        stretch = float(np.exp(self.rng.uniform(-0.15, 0.15)))
        sx, sy = scale * stretch, scale / stretch
        mirror = -1.0 if self.rng.random() < 0.5 else 1.0
        slack_x, slack_y = abs(width - columns * sx), abs(height - rows * sy)
        tx = width / 2 + self.rng.uniform(-0.5, 0.5) * slack_x
        ty = height / 2 + self.rng.uniform(-0.5, 0.5) * slack_y
        matrix = np.array(
            [[mirror * sx, 0, tx - mirror * sx * columns / 2], [0, sy, ty - sy * rows / 2]], np.float64
        )
        return _both(clean, seen, lambda image: _warp(image, matrix, width, height))

    def _letterbox(self, config: ViewConfig) -> tuple[U8, U8]:
        """The whole image, as the detector gets it in service: top left, grey below or to the right."""
        clean, seen = self._draw(config)
        mirror = self.rng.random() < 0.5
        return _both(clean, seen, lambda image: letterboxed(_flip(image) if mirror else image, config.size))

    def _mosaic(self, config: ViewConfig) -> tuple[U8, U8]:
        """Four windows around a random centre."""
        size = config.size
        cx, cy = (int(v) for v in self.rng.integers(size // 4, 3 * size // 4, 2))
        clean = np.full((size, size, 3), PAD, np.uint8)
        seen = clean.copy()
        same = True
        for x0, x1 in ((0, cx), (cx, size)):
            for y0, y1 in ((0, cy), (cy, size)):
                a, b = self._crop(config, x1 - x0, y1 - y0)
                clean[y0:y1, x0:x1], seen[y0:y1, x0:x1] = a, b
                same &= a is b
        return clean, clean if same else seen


def _both(clean: U8, seen: U8, change: Callable[[U8], U8]) -> tuple[U8, U8]:
    first = change(clean)
    return first, first if seen is clean else change(seen)


def letterboxed(image: U8, size: int) -> U8:
    """The image scaled to fit a square of `size`, top left, grey elsewhere."""
    scale = min(size / image.shape[0], size / image.shape[1])
    return _warp(image, np.array([[scale, 0, 0], [0, scale, 0]], np.float64), size, size)


def _flip(image: U8) -> U8:
    return np.ascontiguousarray(image[:, ::-1])


def _warp(image: U8, matrix: npt.NDArray[np.float64], width: int, height: int) -> U8:
    shrink = min(abs(matrix[0, 0]), matrix[1, 1])
    if shrink < 0.6:  # linear sampling would alias
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), 0.4 / shrink), np.uint8)
    warped = cv2.warpAffine(
        image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=(PAD, PAD, PAD)
    )
    return np.asarray(warped, np.uint8)


def _jitter(rng: np.random.Generator, clean: U8, seen: U8) -> tuple[U8, U8]:
    """The same tone curve per channel for both, sometimes grey."""
    if rng.random() < 0.2:
        return clean, seen
    gamma = np.exp(rng.uniform(-0.4, 0.4)) * np.exp(rng.uniform(-0.08, 0.08, 3))
    gain = rng.uniform(0.7, 1.15)
    ramp = np.linspace(0.0, 1.0, 256)[:, None]
    table = np.clip(255 * gain * ramp**gamma + rng.uniform(-12, 12), 0, 255).astype(np.uint8)[:, None, :]
    grey = rng.random() < 0.08

    def change(image: U8) -> U8:
        if grey:
            image = np.repeat(np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))[..., None], 3, 2)
        return np.asarray(cv2.LUT(image, table), np.uint8)

    return _both(clean, seen, change)


def _degrade(rng: np.random.Generator, image: U8) -> U8:
    """What cheap cameras and coarse coding do: blur, noise, block artefacts."""
    kind = rng.integers(4)
    if kind == 0:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.6)), np.uint8)
    if kind == 1:
        noise = rng.normal(0, rng.uniform(3, 14), image.shape).astype(np.float32)
        return np.clip(image + noise, 0, 255).astype(np.uint8)
    if kind == 2:
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(12, 60))])
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    factor = rng.uniform(0.4, 0.8)
    small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return np.asarray(
        cv2.resize(small, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR), np.uint8
    )

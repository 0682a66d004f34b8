"""Pairs of an original and what `video` made of it, to train an enhancement that sees the decoded base layer.

Of clips, each coded from its beginning as a camera host codes it, in groups behind a learned background; of still
images, each the background of a group and the only frame in it. Crops of both are kept in one file: coding takes
minutes, and a run that is compared with another has to see the same.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from secondlook.shared.errors import ConfigError
from secondlook.training.data import U8, fits, list_images, read_rgb
from secondlook.training.machine.codecs import video
from secondlook.training.machine.measure import find_videos, read_clip

QUALITIES = (6, 12, 18, 24, 32, 40)  # base qualities of `video`
GROUP_FRAMES = 250
FPS, MOST_FRAMES = 5.0, 150
FRAMES = 36  # of a clip at a quality that crops are taken of
CROPS = 2  # of a frame
MARGIN = 64  # pixels by which a kept crop is wider than one that is trained on
CODE = 1  # raised when the crops of the same settings would come out otherwise


@dataclass(frozen=True)
class Clips:
    """Clips to train on: files and folders of them; those of the names in `hold_out` (stems) are left out."""

    videos: tuple[Path, ...]
    hold_out: tuple[str, ...] = ()

    def paths(self) -> list[Path]:
        """Raises ConfigError where none is left, and for a name of `hold_out` that no clip has."""
        found = find_videos(self.videos)
        unknown = set(self.hold_out) - {path.stem for path in found}
        if unknown:
            raise ConfigError(f"--hold-out names no clip that is there: {', '.join(sorted(unknown))}")
        kept = [path for path in found if path.stem not in self.hold_out]
        if not kept:
            raise ConfigError("--hold-out leaves no clip to train on")
        return kept


def decode(frames: Sequence[U8], quality: int) -> tuple[U8, ...]:
    """What the decoder of `video` has of the frames of a clip."""
    return video("x264", group_frames=GROUP_FRAMES)(frames, quality).decoded


def chosen(count: int, most: int) -> list[int]:
    """At most `most` frames of `count`, evenly spread, without the first, which is its own background."""
    return sorted({round(at) for at in np.linspace(min(1, count - 1), count - 1, most)})


class _Crops:
    """Takes crops of `side` from pairs, one after the other."""

    def __init__(self, side: int, rng: np.random.Generator) -> None:
        self._side, self._rng = side, rng
        self.taken: list[U8] = []  # uint8[side,side,6]
        self.qualities: list[int] = []

    def take(self, image: U8, decoded: U8, quality: int) -> None:
        top, left = (int(self._rng.integers(length - self._side + 1)) for length in image.shape[:2])
        window = (slice(top, top + self._side), slice(left, left + self._side))
        self.taken.append(np.concatenate([image[window], decoded[window]], 2))
        self.qualities.append(quality)


def make(clips: Sequence[Path], stills: Sequence[Path], side: int, seed: int) -> tuple[U8, U8]:
    """Crops uint8[N,side,side,6], original and decoded, and the base quality uint8[N] of each."""
    rng = np.random.default_rng(seed)
    crops = _Crops(side, rng)
    for path in clips:
        frames = read_clip(path, fps=FPS, most_frames=MOST_FRAMES).frames
        if not fits(frames[0], side):
            raise ConfigError(f"{path} has less than {side} pixels a side")
        for quality in QUALITIES:
            decoded = decode(frames, quality)
            for number in chosen(len(frames), FRAMES):
                for _ in range(CROPS):
                    crops.take(frames[number], decoded[number], quality)
    for path in stills:
        image = read_rgb(path)
        if fits(image, side):
            quality = int(rng.choice(QUALITIES))
            decoded = decode([image], quality)[0]
            for _ in range(CROPS):
                crops.take(image, decoded, quality)
    return np.stack(crops.taken), np.array(crops.qualities, np.uint8)


def kept_pairs(clips: Clips, stills: Path, work: Path, crop: int, seed: int) -> Path:
    """The file in `work` with the crops of these sources, made if it is not there. See `load_pairs`."""
    paths, images, side = clips.paths(), list_images(stills), crop + MARGIN
    told = [(str(path.resolve()), path.stat().st_size) for path in (*paths, *images)]
    settings = (told, side, seed, QUALITIES, GROUP_FRAMES, FPS, MOST_FRAMES, FRAMES, CROPS, CODE)
    name = hashlib.sha256(repr(settings).encode()).hexdigest()[:16]
    file = work / f"pairs-{name}.npz"
    if not file.exists():
        crops, qualities = make(paths, images, side, seed)
        part = file.with_suffix(".part")
        with part.open("wb") as out:
            np.savez(out, crops=crops, qualities=qualities)
        os.replace(part, file)
    return file


@dataclass
class PairSampler:
    """Random crops of kept ones, with flips: `batch` gives original and decoded, or the original alone."""

    crops: U8
    qualities: U8
    crop: int
    rng: np.random.Generator
    decoded: bool

    def batch(self, n: int) -> tuple[U8, npt.NDArray[np.int64]]:
        """uint8[n,6 or 3,crop,crop] and the base qualities int64[n]; what is drawn does not depend on `decoded`."""
        out = np.empty((n, self.crop, self.crop, 6), np.uint8)
        drawn = self.rng.integers(len(self.crops), size=n)
        for place, k in enumerate(drawn):
            top, left = (int(at) for at in self.rng.integers(MARGIN + 1, size=2))
            patch = self.crops[k, top : top + self.crop, left : left + self.crop]
            out[place] = patch[:, ::-1] if self.rng.random() < 0.5 else patch
        planes = out.transpose(0, 3, 1, 2)
        return planes if self.decoded else planes[:, :3], self.qualities[drawn].astype(np.int64)


def load_pairs(file: Path, crop: int, seed: int, *, decoded: bool) -> PairSampler:
    with np.load(file) as held:
        return PairSampler(held["crops"], held["qualities"], crop, np.random.default_rng(seed), decoded)


def with_decoded(images: Sequence[Tensor], quality: int) -> Iterator[Tensor]:
    """Still pictures float[1,3,H,W] with what `video` makes of each behind it: float[1,6,H,W]."""
    for image in images:
        shown = np.ascontiguousarray((image[0] * 255).round().permute(1, 2, 0).numpy().astype(np.uint8))
        decoded = torch.from_numpy(decode([shown], quality)[0]).permute(2, 0, 1)[None].float() / 255
        yield torch.cat([image, decoded], 1)

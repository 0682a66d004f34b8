"""Images for training: a folder read once into memory, random crops with flips."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from secondlook.shared.errors import ConfigError

U8 = npt.NDArray[np.uint8]
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
NAMED = 5  # pictures that are left out, of each cause


def list_images(folder: Path) -> list[Path]:
    """Image files of `folder` and of the folders in it, sorted by path; hidden ones are left out.

    Raises FileNotFoundError when there is none.
    """
    found = sorted(path for path in folder.rglob("*") if _is_image(path, folder))
    if not found:
        raise FileNotFoundError(f"no image in {folder}")
    return found


def _is_image(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix.lower() in SUFFIXES and not hidden and path.is_file()


def usable_images(paths: Sequence[Path], side: int) -> list[Path]:
    """Those that decode to their end and hold a square of `side` pixels; the others are named on standard error.

    Raises ConfigError where none is left.
    """
    usable, broken, small = [], [], []
    for path in paths:
        cause = _damage(path)
        if cause:
            broken.append(f"{path} ({cause})")
        elif not fits(read_rgb(path), side):
            small.append(str(path))
        else:
            usable.append(path)
    _tell_left_out(len(paths), broken, "cannot be decoded whole")
    _tell_left_out(len(paths), small, f"have less than {side} pixels a side")
    if not usable:
        raise ConfigError(
            f"none of {len(paths)} images is of use: {len(broken)} cannot be decoded whole, "
            f"{len(small)} have less than {side} pixels a side"
        )
    return usable


def _damage(path: Path) -> str:
    """Why it cannot be decoded to its end; empty where it can. OpenCV reads half a JPEG without a word."""
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, ImportError, Image.DecompressionBombError) as error:
        return str(error) or type(error).__name__
    return ""


def _tell_left_out(count: int, names: Sequence[str], cause: str) -> None:
    if names:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        listed = ", ".join(names[:NAMED])
        print(
            f"left out, {len(names)} of {count} images {cause}: {listed}{more}", file=sys.stderr, flush=True
        )


def read_rgb(path: Path) -> U8:
    """Decode one image to RGB uint8[H,W,3]."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise ValueError(f"cannot decode {path}")
    return np.ascontiguousarray(bgr[:, :, ::-1])


@dataclass
class CropSampler:
    """Random crops from images held in memory, each with planes that belong to it (an edge mask, say).

    `images` are uint8[H,W,3]; `planes` uint8[H,W] of the same sizes, or None.
    """

    images: list[U8]
    planes: list[U8] | None
    crop: int
    rng: np.random.Generator

    def batch(self, n: int) -> tuple[U8, U8]:
        """Return uint8[n,3,crop,crop] and uint8[n,1,crop,crop] (zeros where there are no planes).

        Channels lie next to each other in memory, as they do in a picture.
        """
        out = np.empty((n, self.crop, self.crop, 3), np.uint8)
        mask = np.zeros((n, 1, self.crop, self.crop), np.uint8)
        for i in range(n):
            k = int(self.rng.integers(len(self.images)))
            image = self.images[k]
            top = int(self.rng.integers(image.shape[0] - self.crop + 1))
            left = int(self.rng.integers(image.shape[1] - self.crop + 1))
            window = (slice(top, top + self.crop), slice(left, left + self.crop))
            patch = image[window]
            plane = self.planes[k][window] if self.planes is not None else None
            if self.rng.random() < 0.5:
                patch = patch[:, ::-1]
                plane = plane[:, ::-1] if plane is not None else None
            out[i] = patch
            if plane is not None:
                mask[i, 0] = plane
        return out.transpose(0, 3, 1, 2), mask


def fits(image: U8, crop: int) -> bool:
    return bool(min(image.shape[:2]) >= crop)

"""Images for training: a folder read once into memory, random crops with flips."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def list_images(folder: Path) -> list[Path]:
    """Image files of `folder`, sorted by name. Raises FileNotFoundError when there is none."""
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not found:
        raise FileNotFoundError(f"no image in {folder}")
    return found


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

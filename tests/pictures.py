"""Pictures for tests, made by code: the same on every machine."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

U8Image = npt.NDArray[np.uint8]


def photo(height: int, width: int, seed: int = 1) -> U8Image:
    """uint8[H,W,3] with what photographs have: shading, edges of objects, texture in places and a little grain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    picture = np.stack([110 + 60 * np.sin(x / 90 + k + seed) * np.cos(y / 70 - k) for k in range(3)], -1)
    for _ in range(2 + height * width // 3000):
        cx, cy = rng.uniform(0, width), rng.uniform(0, height)
        a, b = rng.uniform(4, 30, 2)
        inside = ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1
        texture = rng.uniform(0, 25) * np.sin(x * rng.uniform(0.2, 1.2) + y * rng.uniform(0.2, 1.2))
        picture[inside] = (rng.uniform(20, 235, 3) + texture[..., None])[inside]
    return np.clip(picture + rng.normal(0, 1.5, picture.shape), 0, 255).astype(np.uint8)


def noise(height: int, width: int, seed: int = 1) -> U8Image:
    """The hardest picture there is: escapes in every channel."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def psnr(a: U8Image, b: U8Image) -> float:
    """dB over all channels; 100 for equal pictures."""
    return min(float(cv2.PSNR(a, b)), 100.0)

"""Masks of boundaries: drawn by people, found by the small network, or plain Canny edges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from secondlook.shared.errors import ConfigError, ModelNotFound
from secondlook.training.data import U8
from secondlook.training.masks.cache import MaskProvider, file_hash
from secondlook.training.masks.network import EdgeNet, load_network, probabilities

DILATION_PIXELS = 7


def widen(plane: U8) -> U8:
    """Widen what is set in uint8[H,W], so that both sides of an edge are inside; stretch it to 0..255.

    A detector reads the contrast across a boundary, not the line itself.
    """
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (DILATION_PIXELS, DILATION_PIXELS))
    wide = cv2.GaussianBlur(cv2.dilate(plane, kernel), (5, 5), 0)
    return np.clip(wide.astype(np.float32) * 1.5, 0, 255).astype(np.uint8)


class NetworkEdges(MaskProvider):
    """Boundaries as the small network sees them."""

    name = "edges"

    def __init__(self, checkpoint: Path) -> None:
        """`checkpoint`: what `secondlook train edges` wrote; it is opened when it is first needed."""
        self._checkpoint, self._net = checkpoint, None
        self._hash = file_hash(checkpoint) if checkpoint.is_file() else "none"

    @property
    def settings(self) -> Mapping[str, str | int | float]:
        return {"network": self._hash, "dilation": DILATION_PIXELS}

    def mask(self, path: Path, image: U8) -> U8:
        """Raises ModelNotFound where there is no network yet."""
        return widen((probabilities(self._network(path), image) * 255).astype(np.uint8))

    def _network(self, path: Path) -> EdgeNet:
        if self._net is None:
            if not self._checkpoint.is_file():
                raise ModelNotFound(
                    f"no edge network at {self._checkpoint} for the mask of {path.name}: "
                    "run `secondlook train edges` with the same --work first"
                )
            self._net = load_network(self._checkpoint)
        return self._net


class HumanBoundaries(MaskProvider):
    """Boundaries drawn by people (BSDS500, say) where `folder/STEM.png` is there, those of `elsewhere` otherwise."""

    name = "human"

    def __init__(self, folder: Path, elsewhere: MaskProvider) -> None:
        self._folder, self._elsewhere = folder, elsewhere

    @property
    def settings(self) -> Mapping[str, str | int | float]:
        return {**self._elsewhere.settings, "elsewhere": self._elsewhere.name, "dilation": DILATION_PIXELS}

    def evidence(self, path: Path) -> bytes:
        drawn = self._drawn(path)
        return drawn.read_bytes() if drawn.exists() else b""

    def mask(self, path: Path, image: U8) -> U8:
        """Raises ConfigError where a drawn boundary cannot be read or is of another size than its image."""
        drawn = self._drawn(path)
        if not drawn.exists():
            return self._elsewhere.mask(path, image)
        plane = cv2.imread(str(drawn), cv2.IMREAD_GRAYSCALE)
        if plane is None or plane.shape != image.shape[:2]:
            raise ConfigError(f"{drawn} is no boundary map of the size of {path.name}")
        return widen(np.asarray(plane, np.uint8))

    def _drawn(self, path: Path) -> Path:
        return self._folder / f"{path.stem}.png"


class CannyEdges(MaskProvider):
    """Every strong edge, of texture as well: the weak baseline that segmentations are measured against."""

    name = "canny"
    LOW, HIGH = 100, 200

    @property
    def settings(self) -> Mapping[str, str | int | float]:
        return {"low": self.LOW, "high": self.HIGH, "dilation": DILATION_PIXELS}

    def mask(self, path: Path, image: U8) -> U8:
        grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (5, 5), 0)
        return widen(np.asarray(cv2.Canny(grey, self.LOW, self.HIGH), np.uint8))

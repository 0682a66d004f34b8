"""Tells frames in which nothing moved from others, so that they need not be sent: logic without I/O, time passed in.

Brightness is averaged over blocks of 8x8 pixels and compared with that of the last frame that was sent: so noise of
pixels counts for little, and what moves slowly is seen once it has moved far enough. How much blocks differ by noise
alone is measured all the time, and the threshold keeps clear of it.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from secondlook.edge.config import IdleConfig
from secondlook.edge.polygons import Mask

U8Image = npt.NDArray[np.uint8]
_F32 = npt.NDArray[np.float32]

BLOCK = 8  # pixels a side
_NOISES = 8.0  # standard deviations of noise that a movement has to exceed
_NOISE_MEMORY = 0.9  # of the noise measured before, at each frame
_SIGMA = 1.4826  # standard deviation of a normal distribution whose median absolute deviation is 1


class StillGate:
    """Decides of each frame of a camera whether it is sent. Opens at once, and closes after a while of stillness."""

    def __init__(self, config: IdleConfig) -> None:
        self._config = config
        self._sent: _F32 | None = None  # blocks of the last frame that was sent
        self._before: _F32 | None = None  # blocks of the frame before this
        self._latest: tuple[_F32, float] | None = None  # blocks of the frame looked at last, and when
        self._noise = 0.0  # of a block's difference between two frames, in levels
        self._moved_at = self._sent_at = 0.0

    @property
    def threshold(self) -> float:
        """Levels by which a block must differ for a movement."""
        return max(self._config.difference, _NOISES * self._noise)

    def is_idle(self, image: U8Image, now: float, watched: Mask | None = None) -> bool:
        """Whether the frame, uint8[H,W,3] RGB, seen at `now` (seconds, of a clock that may jump), need not be sent.

        `watched`: bool[H,W], where movements count. Says False for every frame while the settings ask for no gate.
        """
        if self._config.heartbeat_seconds == 0:
            return False
        blocks = _blocks(image)
        if self._before is None or self._before.shape != blocks.shape:
            self._before, self._moved_at = blocks, now
            self._latest = blocks, now
            return False
        self._measure(blocks)
        self._latest = blocks, now
        if self._sent is None or self._sent.shape != blocks.shape:
            return False
        changed = cv2.absdiff(blocks, self._sent) > self.threshold
        if watched is not None:
            changed &= _touched(watched, blocks.shape)
        if changed.any():
            self._moved_at = now
            return False
        closed = not 0 <= now - self._moved_at < self._config.after_seconds
        return closed and 0 <= now - self._sent_at < self._config.heartbeat_seconds

    def sent(self) -> None:
        """The frame that was looked at last is sent: what comes is compared with it."""
        if self._latest is not None:
            self._sent, self._sent_at = self._latest

    def _measure(self, blocks: _F32) -> None:
        """Follow the noise: of two frames in a row most blocks differ by nothing else."""
        assert self._before is not None
        differences = blocks - self._before
        middle = float(np.median(differences))
        noise = _SIGMA * float(np.median(np.abs(differences - middle)))
        self._noise = _NOISE_MEMORY * self._noise + (1 - _NOISE_MEMORY) * noise if self._noise else noise
        self._before = blocks


def _blocks(image: U8Image) -> _F32:
    """Mean brightness of blocks: float32[h,w]."""
    size = -(-image.shape[1] // BLOCK), -(-image.shape[0] // BLOCK)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.float32)


def _touched(watched: Mask, shape: tuple[int, ...]) -> Mask:
    """The blocks that hold anything watched."""
    part = cv2.resize(watched.astype(np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(part > 0)

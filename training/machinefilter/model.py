"""A filter that makes decoded camera frames easier for detectors: plain residual blocks on an unshuffled picture.

It sees the background that the frame's group began from beside the frame. There the scene was coded once and in peace,
so it shows what coarse quantisation takes from what moves in front of it. What it makes is for machines alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

UNSHUFFLE = 4
PLANES = 3 * UNSHUFFLE**2  # of one picture, unshuffled
SMALL = 0.1  # of a block's second convolution at first: each block begins near the identity


class Residual(nn.Module):
    """Two 3x3 convolutions around a ReLU, added to what came in: float[B,C,H,W] -> the same shape."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(features, features, 3, padding=1)
        self.second = nn.Conv2d(features, features, 3, padding=1)
        self.second.weight.data *= SMALL
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(F.relu(self.first(x)))
        return x + y


class MachineFilter(nn.Module):
    """Decoded frame and background, float[B,3,H,W] in 0..1 each -> filtered frame, same shape.

    H and W are multiples of `unshuffle`. The last convolution starts at zero: the filter begins as the identity.
    """

    unshuffle = UNSHUFFLE

    def __init__(self, *, features: int = 48, blocks: int = 4) -> None:
        super().__init__()
        self.features = features
        self.first = nn.Conv2d(2 * PLANES, features, 3, padding=1)
        self.body = nn.Sequential(*(Residual(features) for _ in range(blocks)))
        self.last = nn.Conv2d(features, PLANES, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    @property
    def radius(self) -> int:
        """Receptive radius in pixels: how far around a pixel the filter looks."""
        return (2 * len(self.body) + 2) * self.unshuffle

    @property
    def macs_per_pixel(self) -> float:
        """Multiplications of the convolutions, a pixel of the picture."""
        return 9 * self.features * (3 * PLANES + 2 * len(self.body) * self.features) / self.unshuffle**2

    def forward(self, image: Tensor, background: Tensor) -> Tensor:
        a = torch.cat([F.pixel_unshuffle(each - 0.5, self.unshuffle) for each in (image, background)], 1)
        return image + F.pixel_shuffle(self.last(self.body(self.first(a))), self.unshuffle).float()

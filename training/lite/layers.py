"""Blocks and the DCT start of the `lite` codec."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

F64 = npt.NDArray[np.float64]


class DepthConvBlock(nn.Module):
    """Residual 1x1 / depthwise 3x3 / 1x1, then a residual 1x1 pair (the block of DCVC-RT); identity at the start."""

    def __init__(self, c: int, expand: float = 1.5) -> None:
        super().__init__()
        k = int(c * expand)
        self.p1, self.dw, self.p2 = (
            nn.Conv2d(c, c, 1),
            nn.Conv2d(c, c, 3, padding=1, groups=c),
            nn.Conv2d(c, c, 1),
        )
        self.f1, self.f2 = nn.Conv2d(c, k, 1), nn.Conv2d(k, c, 1)
        for last in (self.p2, self.f2):
            nn.init.normal_(last.weight, std=1e-3)
            nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.p2(F.leaky_relu(self.dw(F.leaky_relu(self.p1(x), 0.1)), 0.1))
        return x + self.f2(F.leaky_relu(self.f1(x), 0.1))


def conv1x1(weight: F64 | None = None, *, cin: int = 0, cout: int = 0, std: float = 1e-3) -> nn.Conv2d:
    """A 1x1 convolution that starts as `weight` [cout, cin], or near zero."""
    if weight is not None:
        cout, cin = weight.shape
    conv = nn.Conv2d(cin, cout, 1)
    nn.init.zeros_(conv.bias)
    if weight is None:
        nn.init.normal_(conv.weight, std=std)
    else:
        conv.weight.data = torch.tensor(weight, dtype=torch.float32)[:, :, None, None]
    return conv


def dct_basis(channels: int) -> tuple[F64, list[int]]:
    """Rows [channels, 192]: YCbCr 8x8 DCT functions over an RGB block (planes, then rows, then columns); their planes.

    Luma comes whole (64 rows), chroma with its lowest frequencies.
    """
    n = np.arange(8)
    d = np.cos((2 * n[None] + 1) * n[:, None] * np.pi / 16) * math.sqrt(2 / 8)
    d[0] /= math.sqrt(2)
    block = np.einsum("ui,vj->uvij", d, d)
    ycbcr = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
    order = sorted(((u, v) for u in range(8) for v in range(8)), key=lambda t: (t[0] + t[1], t[0]))
    chroma = (channels - 64) // 2
    rows = [
        (plane, np.einsum("c,ij->cij", ycbcr[plane], block[u, v]).ravel())
        for plane, count in ((0, 64), (1, chroma), (2, chroma))
        for u, v in order[:count]
    ]
    return np.stack([row for _, row in rows]), [plane for plane, _ in rows]


HAAR = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2.0


def haar_choice(planes: list[int], luma: int, chroma: int) -> list[tuple[int, int]]:
    """(band, channel) pairs: all four Haar bands of the lowest `luma` + 2x`chroma` DCT channels."""
    first = {p: planes.index(p) for p in (0, 1, 2)}
    kept = [first[p] + i for p, count in ((0, luma), (1, chroma), (2, chroma)) for i in range(count)]
    return [(band, channel) for band in range(4) for channel in kept]


def haar_down(channels: int, choice: list[tuple[int, int]]) -> F64:
    """Weights [len(choice), channels, 2, 2] of a 2x2 stride-2 convolution."""
    weight = np.zeros((len(choice), channels, 2, 2))
    for row, (band, channel) in enumerate(choice):
        weight[row, channel] = HAAR[band].reshape(2, 2)
    return weight


def haar_up(channels: int, choice: list[tuple[int, int]]) -> F64:
    """Weights [4*channels, len(choice)] of a 1x1 convolution before PixelShuffle(2)."""
    weight = np.zeros((4 * channels, len(choice)))
    for column, (band, channel) in enumerate(choice):
        weight[[4 * channel + p for p in range(4)], column] = HAAR[band]
    return weight

"""RRDB post-filter: Residual in Residual Dense Blocks (ESRGAN, arXiv 1809.00219), l of them, between convolutions.

The published filter works at full resolution. The fast variant runs the same blocks on a picture unshuffled by 2,
at a quarter of the cost; the tiny one, for frames that only machines see, narrower blocks on a picture unshuffled by 4.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RESIDUAL_SCALE = 0.2


class DenseBlock(nn.Module):
    """Five 3x3 convolutions, each fed with all outputs before it: float[B,C,H,W] -> the same shape."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(features + i * growth, growth if i < 4 else features, 3, padding=1) for i in range(5)
        )
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight, a=0.2)
            conv.weight.data *= 0.1
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for conv in list(self.convs)[:-1]:
            seen.append(F.leaky_relu(conv(torch.cat(seen, 1)), 0.2))
        return x + RESIDUAL_SCALE * self.convs[-1](torch.cat(seen, 1))


class Rrdb(nn.Module):
    """Three dense blocks in a residual."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(DenseBlock(features, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        return x + RESIDUAL_SCALE * self.blocks(x)


class PostFilter(nn.Module):
    """Decoded picture float[B,3,H,W] in 0..1 -> refined picture, same shape; H and W multiples of `unshuffle`.

    `length` is the paper's l. The last convolution starts at zero: the filter begins as the identity. Qualities, which
    other filters are told, it sees for itself.
    """

    def __init__(self, length: int, *, unshuffle: int = 1, features: int = 64, growth: int = 32) -> None:
        super().__init__()
        self.length, self.unshuffle, self.features, self.growth = length, unshuffle, features, growth
        channels = 3 * unshuffle**2
        self.first = nn.Conv2d(channels, features, 3, padding=1)
        self.body = nn.Sequential(*(Rrdb(features, growth) for _ in range(length)))
        self.trunk = nn.Conv2d(features, features, 3, padding=1)
        self.last = nn.Conv2d(features, channels, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    @property
    def radius(self) -> int:
        """Receptive radius in pixels: how far around a pixel the filter looks."""
        return (15 * self.length + 3) * self.unshuffle

    def forward(self, x: Tensor, quality: Tensor | None = None) -> Tensor:
        a = self.first(F.pixel_unshuffle(x - 0.5, self.unshuffle) if self.unshuffle > 1 else x - 0.5)
        a = F.leaky_relu(a + self.trunk(self.body(a)), 0.2)
        residual = self.last(a)
        return x + (F.pixel_shuffle(residual, self.unshuffle) if self.unshuffle > 1 else residual).float()


def lengthen(short: PostFilter) -> PostFilter:
    """A filter with one more RRDB that computes what `short` computes: where training of l + 1 starts."""
    sizes = {"unshuffle": short.unshuffle, "features": short.features, "growth": short.growth}
    long = PostFilter(short.length + 1, **sizes)
    state = short.state_dict()
    long.load_state_dict(state, strict=False)
    for block in long.body[-1].blocks:
        nn.init.zeros_(block.convs[-1].weight)
    # An RRDB of identities multiplies by 1 + RESIDUAL_SCALE; the convolution behind it takes that back.
    long.trunk.weight.data /= 1 + RESIDUAL_SCALE
    return long

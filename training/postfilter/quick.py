"""The quick post-filter: most of what one RRDB gains, at a twentieth of its cost.

Plain 3x3 convolutions on an unshuffled picture, told which quality the encoder had. In training each convolution has
two branches beside it, a 1x1 convolution and the identity (Ding et al., CVPR 2021, "RepVGG"), which make such a stack
learn; all three are linear, so one 3x3 convolution is what remains of them in the exported graph.
"""

from __future__ import annotations

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secondlook.shared.quality import MAX_QUALITY

SLOPE = 0.1  # of the leaky ReLUs
SMALL = 0.05  # of what the last convolution says: grey levels are corrected by few hundredths, Adam's steps are larger
CONDITION = 16  # hidden units between the quality and the channels


class Branched(nn.Module):
    """A 3x3 convolution, a 1x1 one and the identity, added: float[B,C,H,W] -> the same shape."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(features, features, 3, padding=1)
        self.narrow = nn.Conv2d(features, features, 1, bias=False)
        for conv in (self.wide, self.narrow):
            nn.init.kaiming_normal_(conv.weight, a=SLOPE)
            conv.weight.data *= 0.3  # the identity carries the signal at first
        assert self.wide.bias is not None
        nn.init.zeros_(self.wide.bias)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.merged()
        return F.conv2d(x, weight, bias, padding=1)

    def merged(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one convolution that computes the same."""
        identity = torch.eye(len(self.wide.weight), device=self.wide.weight.device)[:, :, None, None]
        assert self.wide.bias is not None
        return self.wide.weight + F.pad(self.narrow.weight + identity, (1, 1, 1, 1)), self.wide.bias


class QuickFilter(nn.Module):
    """Decoded float[B,3,H,W] in 0..1 and qualities float[B] in 0..MAX_QUALITY -> refined picture, same shape.

    H and W are multiples of `unshuffle`. The last convolution starts at zero: the filter begins as the identity.
    """

    def __init__(self, *, unshuffle: int = 2, features: int = 48, blocks: int = 6) -> None:
        super().__init__()
        self.unshuffle, self.features = unshuffle, features
        channels = 3 * unshuffle**2
        self.first = nn.Conv2d(channels, features, 3, padding=1)
        self.condition = nn.Sequential(
            nn.Linear(1, CONDITION), nn.LeakyReLU(SLOPE), nn.Linear(CONDITION, 2 * features)
        )
        self.body = nn.ModuleList(Branched(features) for _ in range(blocks))
        self.last = nn.Conv2d(features, channels, 3, padding=1)
        for layer in (self.last, self.condition[2]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def radius(self) -> int:
        """Receptive radius in pixels: how far around a pixel the filter looks."""
        return (len(self.body) + 2) * self.unshuffle

    @property
    def macs_per_pixel(self) -> float:
        """Multiplications of the convolutions as exported, a pixel of the picture."""
        channels = 3 * self.unshuffle**2
        products = 9 * self.features * (2 * channels + len(self.body) * self.features)
        return products / self.unshuffle**2

    def plain(self) -> QuickFilter:
        """A copy that computes the same with one convolution in place of each three. For export, not for training."""
        copy = deepcopy(self)
        for number, block in enumerate(self.body):
            weight, bias = block.merged()
            conv = nn.Conv2d(self.features, self.features, 3, padding=1)
            conv.weight.data, conv.bias.data = weight.detach().clone(), bias.detach().clone()
            copy.body[number] = conv
        return copy

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        told = self.condition(quality.to(x.dtype)[:, None] / MAX_QUALITY * 2 - 1)
        scale, shift = told[:, :, None, None].chunk(2, 1)
        a = self.first(F.pixel_unshuffle(x - 0.5, self.unshuffle))
        a = F.leaky_relu(a * (1 + scale) + shift, SLOPE)
        for block in self.body:
            a = F.leaky_relu(block(a), SLOPE)
        return x + SMALL * F.pixel_shuffle(self.last(a), self.unshuffle).float()

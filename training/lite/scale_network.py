"""The integer network that maps hyper-latents to σ-indexes, in a form that can be trained.

Forward values are exactly those of the shipped integer network (`shared.scale_network`): weights are int8,
activations uint8, accumulators integers, requantisation a shift with rounding. Gradients pass straight through
the roundings (Ballé et al., "Integer Networks for Data Compression", ICLR 2019).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WEIGHT_STEPS = 64  # one unit of weight is 64 integer steps
ACTIVATION_STEPS = 16
HIDDEN_SHIFT = 6  # 64 * 16 steps in the accumulator back to 16 steps
INDEX_SHIFT = 7  # one unit of the last layer's output is 8 σ-indexes
KNOTS = 8
QUALITIES = 64


def round_ste(x: Tensor) -> Tensor:
    return x + (torch.round(x) - x).detach()


class _Bounded(torch.autograd.Function):
    """Clamp whose gradient also passes where it would pull a value back inside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.low, ctx.high = low, high
        return torch.clamp(x, low, high)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        blocked = ((x < ctx.low) & (grad > 0)) | ((x > ctx.high) & (grad < 0))
        return grad.masked_fill(blocked, 0.0), None, None


def bounded(x: Tensor, low: float, high: float) -> Tensor:
    clamped: Tensor = _Bounded.apply(x, low, high)
    return clamped


def floor_ste(x: Tensor) -> Tensor:
    return x + (torch.floor(x) - x).detach()


def knot_weights() -> Tensor:
    """float[64, KNOTS]: linear interpolation of a quality between equally spaced knots."""
    position = torch.linspace(0, KNOTS - 1, QUALITIES)
    return torch.clamp(1 - (position[:, None] - torch.arange(KNOTS)[None]).abs(), min=0)


class PerQuality(nn.Module):
    """A vector for every quality 0..63, interpolated between learned knots."""

    def __init__(self, initial: Tensor) -> None:
        """`initial`: float[KNOTS, C]."""
        super().__init__()
        self.knots = nn.Parameter(initial.clone())
        self.register_buffer("weights", knot_weights(), persistent=False)

    def forward(self, quality: Tensor) -> Tensor:
        """`quality`: int64[B] -> float[B,C,1,1]."""
        return (self.weights[quality] @ self.knots)[:, :, None, None]

    def table(self) -> Tensor:
        """float[64, C]."""
        return self.weights @ self.knots


class IntegerConv(nn.Module):
    """1x1 (`kernel` 1) or depthwise 3x3 (`kernel` 3) convolution on integer-valued tensors, with a bias a quality."""

    def __init__(self, cin: int, cout: int, *, kernel: int = 1, shift: int = HIDDEN_SHIFT) -> None:
        super().__init__()
        self.kernel, self.shift, self.groups = kernel, shift, cin if kernel == 3 else 1
        fan = kernel * kernel if kernel == 3 else cin
        weight = torch.randn(cout, cin // self.groups, kernel, kernel) * (0.7 / fan**0.5)
        if kernel == 3:
            weight = weight * 0.2
            weight[:, :, 1, 1] += 1.0
        self.weight = nn.Parameter(weight)
        self.bias = PerQuality(torch.zeros(KNOTS, cout))

    def integer_weight(self) -> Tensor:
        return torch.clamp(round_ste(self.weight * WEIGHT_STEPS), -127, 127)

    def forward(self, a: Tensor, quality: Tensor) -> Tensor:
        acc = F.conv2d(a, self.integer_weight(), padding=self.kernel // 2, groups=self.groups)
        acc = acc + round_ste(self.bias(quality) * (WEIGHT_STEPS * ACTIVATION_STEPS))
        return floor_ste((acc + (1 << (self.shift - 1))) / (1 << self.shift))


def activation(x: Tensor) -> Tensor:
    """Rectify to uint8."""
    return torch.clamp(x, 0, 255)


class ScaleNetwork(nn.Module):
    """Hyper-latent symbols at 1/64 (and, for the enhancement, base symbols at 1/16) -> σ-index at 1/16.

    z: integer-valued float[B,Z,h,w]; base: integer-valued float[B,M,4h,4w] or None. Returns float[B,C,4h,4w] in
    0..levels-1, integer-valued, with straight-through gradients.
    """

    def __init__(self, z: int, channels: int, base: int = 0, hidden: int = 64, levels: int = 64) -> None:
        super().__init__()
        self.levels = levels
        self.up1 = IntegerConv(z, 4 * hidden)
        self.up2 = IntegerConv(hidden, 4 * hidden)
        self.base = IntegerConv(base, hidden) if base else None
        wide = hidden * (2 if base else 1)
        self.spread = IntegerConv(wide, wide, kernel=3)
        self.index = IntegerConv(wide, channels, shift=INDEX_SHIFT)

    def forward(self, z: Tensor, quality: Tensor, base: Tensor | None = None) -> Tensor:
        a = torch.clamp(z, -31, 31) * 4
        a = F.pixel_shuffle(activation(self.up1(a, quality)), 2)
        a = F.pixel_shuffle(activation(self.up2(a, quality)), 2)
        if self.base is not None:
            assert base is not None
            magnitude = torch.clamp(base.abs(), max=15) * 16
            a = torch.cat([a, activation(self.base(magnitude, quality))], 1)
        a = activation(self.spread(a, quality))
        return bounded(self.index(a, quality), 0, self.levels - 1)

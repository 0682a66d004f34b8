"""LIC-TCM with SWAtten channel-wise entropy model and latent residual prediction, as in arXiv 2303.14978.

`Tcm(MACHINE)` is the machine model of SA-ICM (arXiv 2403.04173). `AdditionalModel` is the human layer of ICMH-FF
(arXiv 2405.09152): it codes latents of its own, which are added to the leading channels of the base latents, and
synthesises from the sum. Names and shapes of the state dicts are those of the authors' published checkpoints.

Pictures are float[B,3,H,W] in 0..1 with sides that are multiples of SIDE_STEP; latents float[B,C,H/16,W/16];
hyper-latents float[B,C,H/64,W/64].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secondlook.training.models.blocks import ParallelBlock, SwAtten
from secondlook.training.models.config import ADDITIONAL, MACHINE, TcmConfig
from secondlook.training.models.parts import (
    CompressionModel,
    EntropyBottleneck,
    GaussianConditional,
    ResidualBlockUpsample,
    ResidualBlockWithStride,
    conv3x3,
    quantize_ste,
    subpel_conv3x3,
)

Quantise = Callable[[int, Tensor, Tensor], Tensor]
"""(slice, means, scales) -> the slice before latent residual prediction: a symbol plus its mean, at every position."""


@dataclass(frozen=True)
class Coded:
    """What the forward pass gives: the picture, the latents behind it, and likelihoods of both kinds of symbols."""

    picture: Tensor
    latents: Tensor
    likelihoods: Tensor
    hyper_likelihoods: Tensor

    def bits(self) -> Tensor:
        """Estimated bits of each picture of the batch: float[B]."""
        return -sum(torch.log2(part).flatten(1).sum(1) for part in (self.likelihoods, self.hyper_likelihoods))  # type: ignore[return-value]


def _stage(c: TcmConfig, head: int, window: int) -> list[nn.Module]:
    return [ParallelBlock(c.width, head, window, shifted=bool(i % 2)) for i in range(c.blocks)]


def _slice_network(channels: int, c: TcmConfig) -> nn.Sequential:
    first, second = c.context
    return nn.Sequential(
        conv3x3(channels, first), nn.GELU(), conv3x3(first, second), nn.GELU(), conv3x3(second, c.slice_width)
    )


class Tcm(CompressionModel):
    """Transforms and entropy model of one layer."""

    def __init__(self, config: TcmConfig = MACHINE) -> None:
        super().__init__()
        self.config = c = config
        wide = 2 * c.width
        first, middle, last = c.heads
        self.g_a = nn.Sequential(
            ResidualBlockWithStride(3, wide),
            *_stage(c, first, c.window),
            ResidualBlockWithStride(wide, wide),
            *_stage(c, middle, c.window),
            ResidualBlockWithStride(wide, wide),
            *_stage(c, last, c.window),
            conv3x3(wide, c.latents, stride=2),
        )
        self.g_s = nn.Sequential(
            ResidualBlockUpsample(c.fused, wide),
            *_stage(c, last, c.window),
            ResidualBlockUpsample(wide, wide),
            *_stage(c, middle, c.window),
            ResidualBlockUpsample(wide, wide),
            *_stage(c, first, c.window),
            subpel_conv3x3(wide, 3, 2),
        )
        self.h_a = nn.Sequential(
            ResidualBlockWithStride(c.latents, wide),
            *_stage(c, c.hyper_heads, c.hyper_window),
            conv3x3(wide, c.hyper, stride=2),
        )
        self.h_mean_s, self.h_scale_s = (
            nn.Sequential(
                ResidualBlockUpsample(c.hyper, wide),
                *_stage(c, c.hyper_heads, c.hyper_window),
                subpel_conv3x3(wide, c.latents, 2),
            )
            for _ in range(2)
        )
        known = [c.latents + i * c.slice_width for i in range(c.slices + 1)]
        self.atten_mean, self.atten_scale = (
            nn.ModuleList(
                nn.Sequential(SwAtten(n, c.attention, c.attention_heads, c.window)) for n in known[:-1]
            )
            for _ in range(2)
        )
        self.cc_mean_transforms, self.cc_scale_transforms = (
            nn.ModuleList(_slice_network(n, c) for n in known[:-1]) for _ in range(2)
        )
        self.lrp_transforms = nn.ModuleList(_slice_network(n, c) for n in known[1:])
        self.entropy_bottleneck = EntropyBottleneck(c.hyper)
        self.gaussian_conditional = GaussianConditional(None)

    def medians(self) -> Tensor:
        """Medians of the hyper-latents, float[1,C,1,1]: what their symbols are counted from."""
        return self.entropy_bottleneck.quantiles[:, :, 1].detach()[None, :, :, None]

    def decode_slices(self, z_hat: Tensor, quantise: Quantise) -> Tensor:
        """Latents float[B,latents,H/16,W/16] from hyper-latents, slice by slice.

        Encoder and decoder both come here, so that both see the same means and scales; `quantise` is all they
        do differently.
        """
        means, scales = self.h_mean_s(z_hat), self.h_scale_s(z_hat)
        known: list[Tensor] = []
        for i in range(self.config.slices):
            support = self.atten_mean[i](torch.cat([means, *known], 1))
            mean = self.cc_mean_transforms[i](support)
            scale = self.cc_scale_transforms[i](self.atten_scale[i](torch.cat([scales, *known], 1)))
            rough = quantise(i, mean, scale)
            correction = 0.5 * torch.tanh(self.lrp_transforms[i](torch.cat([support, rough], 1)))
            known.append(rough + correction)
        return torch.cat(known, 1)

    def code(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantised latents and the likelihoods of latents and hyper-latents.

        In training, likelihoods are of latents with noise, and rounding passes gradients straight through.
        Never in 16 bits: the tails of likelihoods need more.
        """
        with torch.autocast(y.device.type, enabled=False):
            y = y.to(self.entropy_bottleneck.quantiles.dtype)
            z = self.h_a(y)
            _, hyper_likelihoods = self.entropy_bottleneck(z)
            z_hat = quantize_ste(z - self.medians()) + self.medians()
            slices, likelihoods = y.chunk(self.config.slices, 1), []

            def quantise(i: int, mean: Tensor, scale: Tensor) -> Tensor:
                likelihoods.append(self.gaussian_conditional(slices[i], scale, mean)[1])
                return quantize_ste(slices[i] - mean) + mean

            y_hat = self.decode_slices(z_hat, quantise)
            return y_hat, torch.cat(likelihoods, 1), hyper_likelihoods

    def forward(self, x: Tensor) -> Coded:
        y_hat, likelihoods, hyper_likelihoods = self.code(self.g_a(x))
        return Coded(self.g_s(y_hat), y_hat, likelihoods, hyper_likelihoods)


class AdditionalModel(Tcm):
    """The additional information of ICMH-FF, and the synthesis for people."""

    def __init__(self, config: TcmConfig = ADDITIONAL) -> None:
        super().__init__(config)

    def fuse(self, base: Tensor, additional: Tensor) -> Tensor:
        """Base latents float[B,fused,h,w] with the additional ones added to their leading channels."""
        leading, rest = base.split([self.config.latents, self.config.fused - self.config.latents], 1)
        return torch.cat([leading + additional, rest], 1)

    def forward(self, x: Tensor, base: Tensor) -> Coded:
        """`base`: quantised latents of the machine model for the same pictures."""
        y_hat, likelihoods, hyper_likelihoods = self.code(self.g_a(x))
        return Coded(self.g_s(self.fuse(base, y_hat)), y_hat, likelihoods, hyper_likelihoods)

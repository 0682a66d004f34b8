"""The enhancement of `lite` conditioned on a picture that its decoder has already: the decoded base layer of `video`.

There is no base layer of `lite` then. The decoded picture goes through the trunk and the heads that the encoder has
for originals, so its latents lie beside those of the original; what they tell takes the place of the decoded base
latents (features for the means and the synthesis), and they are a further prior of the means, channel by channel as
far as the picture's quality lets one trust them. A small network on them adds to all three, and their features at 1/8
join the synthesis where it has that scale; both begin at zero.

The σ-indexes see none of it: they follow from the hyper-latents alone, in integers, so a decoder whose RGB differs by a
rounding reads the same symbols, and its picture differs by as little.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from secondlook.training.lite.layers import DepthConvBlock, conv1x1
from secondlook.training.lite.model import LiteCodec, LiteConfig
from secondlook.training.lite.scale_network import KNOTS, PerQuality

SMOOTH = (
    0.05  # what a step between neighbouring knots weighs beside the mean knot's evidence, in the first gains
)


def _silent(cin: int, cout: int) -> nn.Conv2d:
    return conv1x1(cin=cin, cout=cout, std=0.0)


class Condition(nn.Module):
    """What the decoded picture adds; see the module's text. `gain` goes by the base quality of `video`, 0..63."""

    def __init__(self, c: LiteConfig) -> None:
        super().__init__()
        latents = c.enhancement_latents
        self.gain = PerQuality(torch.zeros(KNOTS, latents))
        self.blocks = nn.Sequential(DepthConvBlock(latents), DepthConvBlock(latents))
        self.prior = _silent(latents, latents)
        self.features = _silent(latents, c.base_latents)
        self.fusion = _silent(latents, latents)
        self.wide = _silent(c.trunk, c.trunk)


class Known(NamedTuple):
    """What encoder and decoder both have of the decoded picture, before the gain of the enhancement's quality.

    `features` float[B,64,h,w], `prior` and `fused` float[B,192,h,w] at 1/16, `wide` float[B,128,2h,2w] at 1/8;
    `symbols`: zeros in the place of the base layer's.
    """

    features: Tensor
    prior: Tensor
    fused: Tensor
    wide: Tensor
    symbols: Tensor


class ConditionedCodec(LiteCodec):
    """Pictures go in as float[B,6,H,W] in 0..1: the original's planes, then the decoded picture's."""

    def __init__(self) -> None:
        super().__init__()
        self.condition = Condition(self.config)

    def enhancement_parts(self) -> tuple[nn.Module, ...]:
        return (*super().enhancement_parts(), self.condition)

    def _look(self, decoded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(features at 1/8, features in the place of the base layer's, latents) of float[B,3,H,W]."""
        wide = self.trunk8(self.first(decoded - 0.5))
        deep = self.down(wide)
        return wide, self.base_features(self.base_head(deep)), self.enhancement_head(deep)

    def known(self, decoded: Tensor, base_quality: Tensor) -> Known:
        """What a decoded picture float[B,3,H,W] tells; `base_quality` int64[B] of `video`."""
        part = self.condition
        wide, features, latents = self._look(decoded)
        prior = self.prior(features)
        deep = part.blocks(latents)
        return Known(
            features + part.features(deep),
            prior + part.gain(base_quality) * (latents - prior) + part.prior(deep),
            self.fusion(features) + part.fusion(deep),
            part.wide(wide),
            torch.zeros_like(features),
        )

    def synthesise_conditioned(self, latents: Tensor, known: Known, quality: Tensor) -> Tensor:
        plain = latents * torch.exp(self.enhancement.log_ungain(quality))
        return self.enhancement_synthesis(plain + known.fused, known.wide) + 0.5

    def forward(self, x: Tensor, base_quality: Tensor, quality: Tensor | None) -> dict[str, Tensor]:
        """As that of `LiteCodec`; the decoded picture is "base", for no bits."""
        assert quality is not None, "a conditioned codec has an enhancement alone"
        decoded = x[:, 3:]
        known = self.known(decoded, base_quality)
        _, y = self.analyse(x[:, :3])
        prior = known.prior * torch.exp(self.enhancement.log_gain(quality))
        coded, bits = self._code_layer(self.enhancement, y, quality, prior, known.features, known.symbols)
        return {
            "base": decoded,
            "bpp_base": torch.zeros_like(bits),
            "enhanced": self.synthesise_conditioned(coded.latents, known, quality),
            "bpp_enhancement": bits / (x.shape[2] * x.shape[3]),
        }

    @torch.no_grad()
    def start_gain(self, x: Tensor, base_quality: Tensor) -> None:
        """The gains of least squares, from float[B,6,H,W] with decoded pictures of int64[B] base qualities."""
        _, features, latents = self._look(x[:, 3:])
        prior = self.prior(features)
        told, wanted = latents - prior, self.analyse(x[:, :3])[1] - prior
        weights = self.condition.gain.get_buffer("weights")[base_quality]
        square, product = ((told * other).sum((2, 3)) for other in (told, wanted))
        left = torch.einsum("bc,bk,bl->ckl", square, weights, weights)
        right = torch.einsum("bc,bk->ck", product, weights)
        step = torch.diff(torch.eye(KNOTS, device=x.device), dim=0)
        smooth = SMOOTH * left.diagonal(dim1=1, dim2=2).mean(1)
        left = left + smooth[:, None, None] * (step.T @ step) + 1e-6 * torch.eye(KNOTS, device=x.device)
        self.condition.gain.knots.copy_(torch.linalg.lstsq(left, right).solution.clamp(0, 1).T)

"""The `lite` layered codec: an SA-ICM base layer and a feature-fusion enhancement (ICMH-FF) on one trunk.

Transforms follow DCVC-RT (arXiv 2502.20762): one convolution to 1/8 scale, depthwise-separable blocks there and at
1/16, no other scales. Both ends start as an 8x8 DCT in YCbCr with a 2x2 Haar step, so training begins from a
working transform coder. The entropy model has a Gaussian a symbol: means from float networks in two channel groups,
scales in one shot from the integer network of `scale_network`.

Notation: y latents at 1/16, z hyper-latents at 1/64, subscript b base and e enhancement. The enhancement codes
round(y_e - μ_e) with μ_e predicted from the decoded base latents, so what the base layer already tells costs no
bits; its σ-indexes see the base layer's integer symbols; its synthesis adds base features to its latents.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secondlook.training.lite.layers import (
    F64,
    DepthConvBlock,
    conv1x1,
    dct_basis,
    haar_choice,
    haar_down,
    haar_up,
)
from secondlook.training.lite.scale_network import (
    KNOTS,
    QUALITIES,
    PerQuality,
    ScaleNetwork,
    bounded,
    round_ste,
)

LAMBDA_LOW, LAMBDA_HIGH = 0.001, 0.06
BASE_SHARE = 0.18  # of λ, for the base layer at the same quality: its rates reach below 0.1 bit per pixel
SIGMA_LEVELS, SIGMA_LOW, SIGMA_HIGH = 64, 0.11, 80.0
Z_INDEX_STEPS = 8  # one learned unit is 8 σ-indexes, so that Adam moves it as fast as a log σ
# A cubic in the σ-index; training goes through it, so synthesis knows.
DEAD_ZONE = (0.311, -4.449e-2, 2.493e-3, -5.03e-5)
LOG_STEP = math.log(SIGMA_HIGH / SIGMA_LOW) / (SIGMA_LEVELS - 1)


def lambda_of(quality: Tensor, low: float = LAMBDA_LOW, high: float = LAMBDA_HIGH) -> Tensor:
    """λ of L = R + λ·255²·MSE for a quality 0..63 (geometric between the two ends)."""
    return low * (high / low) ** (quality.float() / (QUALITIES - 1))


def base_lambda_of(quality: Tensor) -> Tensor:
    """λ of the base layer's own loss at a base quality 0..63."""
    return BASE_SHARE * lambda_of(quality)


def sigma_of(index: Tensor) -> Tensor:
    return SIGMA_LOW * torch.exp(index * LOG_STEP)


@dataclass(frozen=True)
class LiteConfig:
    """Channel counts. `trunk` at 1/8; `deep` and `latents` of each layer at 1/16; `hyper` of each layer at 1/64.

    The two `_blocks` are the blocks of each synthesis at 1/16 and at 1/8: the decoder carries more than the encoder,
    which has one at 1/8, for its hosts are small.
    """

    trunk: int = 128
    deep: int = 192
    base_latents: int = 64
    enhancement_latents: int = 192
    base_hyper: int = 32
    enhancement_hyper: int = 48
    base_width: int = 96
    base_blocks: tuple[int, int] = (2, 4)
    enhancement_blocks: tuple[int, int] = (3, 6)


class Coded(NamedTuple):
    """One layer's quantised latents. Symbols are integer-valued floats."""

    symbols: Tensor
    latents: Tensor
    hyper: Tensor


def gain_knots(channels: int, lambda_at: Callable[[Tensor], Tensor]) -> Tensor:
    """log gain a knot: the step that is optimal at high rate for L = R + λ·255²·MSE, Δ² = 12 / (2 ln 2 · λ · 255²)."""
    lam = lambda_at(torch.linspace(0, QUALITIES - 1, KNOTS))
    log_gain = 0.5 * torch.log(2 * math.log(2) * lam * 255**2 / 12)
    return log_gain[:, None].expand(KNOTS, channels).contiguous()


class HyperAnalysis(nn.Sequential):
    """float[B,C,4h,4w] -> float[B,Z,h,w]."""

    def __init__(self, channels: int, z: int) -> None:
        super().__init__(nn.Conv2d(channels, 2 * z, 2, 2), nn.LeakyReLU(0.1), nn.Conv2d(2 * z, z, 2, 2))


class HyperMean(nn.Sequential):
    """Hyper-latents float[B,Z,h,w] -> context float[B,C,4h,4w] for the means."""

    def __init__(self, z: int, channels: int) -> None:
        c = channels
        super().__init__(
            nn.Conv2d(z, 4 * c, 1),
            nn.PixelShuffle(2),
            nn.LeakyReLU(0.1),
            nn.Conv2d(c, 4 * c, 1),
            nn.PixelShuffle(2),
            nn.LeakyReLU(0.1),
        )


class MeanQuantiser(nn.Module):
    """Quantise latents around means that are predicted in two channel groups, the second from the decoded first."""

    def __init__(self, channels: int, context: int) -> None:
        super().__init__()
        self.half = channels // 2
        self.first = nn.Sequential(DepthConvBlock(context), conv1x1(cin=context, cout=self.half))
        wide = context + self.half
        self.second = nn.Sequential(DepthConvBlock(wide, 0.5), conv1x1(cin=wide, cout=channels - self.half))

    def means(self, context: Tensor, prior: Tensor, latents_of_first: Tensor | None) -> Tensor:
        """Means of the first group (`latents_of_first` None) or of the second; `prior` float[B,C,h,w] is added."""
        if latents_of_first is None:
            return prior[:, : self.half] + self.first(context)
        seen = latents_of_first - prior[:, : self.half]
        return prior[:, self.half :] + self.second(torch.cat([context, seen], 1))

    def quantise(
        self,
        y: Tensor,
        context: Tensor,
        prior: Tensor,
        dead_zone: Tensor,
        keep: Tensor | None = None,
        reference: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return (symbols, latents, means); where `keep` is 0 the latent is the reference's and the symbol 0.

        Without `keep` and `reference` every position is coded. `dead_zone` float[B,C,h,w]: residuals up to so much
        beyond a half become 0 too.
        """
        symbols, latents, means = [], [], []
        groups = (slice(None, self.half), slice(self.half, None))
        for group in groups:
            mean = self.means(context, prior, latents[0] if latents else None)
            residual = y[:, group] - mean
            symbol = torch.round(residual) * (residual.abs() > 0.5 + dead_zone[:, group])
            if residual.requires_grad:  # which passes straight through, also where a residual was put to 0
                symbol = residual + (symbol - residual).detach()
            latent = symbol + mean
            if keep is not None and reference is not None:
                symbol = symbol * keep
                latent = latent * keep + reference[:, group] * (1 - keep)
            symbols.append(symbol)
            latents.append(latent)
            means.append(mean)
        return torch.cat(symbols, 1), torch.cat(latents, 1), torch.cat(means, 1)

    def dequantise(
        self, symbols: Tensor, context: Tensor, prior: Tensor, keep: Tensor, reference: Tensor
    ) -> Tensor:
        """The decoder's half of `quantise`."""
        first = (symbols[:, : self.half] + self.means(context, prior, None)) * keep + reference[
            :, : self.half
        ] * (1 - keep)
        mean = self.means(context, prior, first)
        second = (symbols[:, self.half :] + mean) * keep + reference[:, self.half :] * (1 - keep)
        return torch.cat([first, second], 1)


class Synthesis(nn.Module):
    """Latents float[B,C,h,w] -> picture float[B,3,16h,16w]: blocks at 1/16, Haar up, blocks at 1/8, DCT up."""

    def __init__(self, latents: int, width: int, blocks: tuple[int, int], up: F64, out: F64) -> None:
        super().__init__()
        self.deep = nn.Sequential(*(DepthConvBlock(latents) for _ in range(blocks[0])))
        self.up = conv1x1(up)
        self.wide = nn.Sequential(*(DepthConvBlock(width) for _ in range(blocks[1])))
        self.out = conv1x1(out)

    def forward(self, latents: Tensor, beside: Tensor | None = None) -> Tensor:
        """`beside`: float[B,width,2h,2w], added at 1/8."""
        wide = F.pixel_shuffle(self.up(self.deep(latents)), 2)
        wide = self.wide(wide if beside is None else wide + beside)
        return F.pixel_shuffle(self.out(wide), 8)


class LayerEntropy(nn.Module):
    """Gains, hyperprior, means and σ-indexes of one layer."""

    def __init__(self, channels: int, z: int, context: int, base: int = 0) -> None:
        super().__init__()
        knots = gain_knots(channels, lambda_of if base else base_lambda_of)
        self.log_gain = PerQuality(knots)
        self.log_ungain = PerQuality(-knots)
        self.hyper_analysis = HyperAnalysis(channels, z)
        self.hyper_mean = HyperMean(z, context)
        self.quantiser = MeanQuantiser(channels, context + base)
        self.scale = ScaleNetwork(z, channels, base)
        self.z_index = PerQuality(torch.full((KNOTS, z), 24.0 / Z_INDEX_STEPS))

    def hyper_scale_index(self, quality: Tensor) -> Tensor:
        """σ-index float[B,Z,1,1] of the hyper-latents, integer-valued."""
        return bounded(round_ste(self.z_index(quality) * Z_INDEX_STEPS), 0, SIGMA_LEVELS - 1)


class LiteCodec(nn.Module):
    """x: float[B,3,H,W] in 0..1, H and W multiples of 64. See `forward` for training; `export` wraps the parts."""

    def __init__(self, config: LiteConfig = LiteConfig()) -> None:
        super().__init__()
        c = self.config = config
        basis, planes = dct_basis(c.trunk)
        narrow, narrow_planes = dct_basis(c.base_width)
        choice = haar_choice(planes, 36, 6)
        base_choice = haar_choice(planes, 12, 2)
        self.first = nn.Conv2d(3, c.trunk, 8, 8)
        self.first.weight.data = torch.tensor(basis.reshape(c.trunk, 3, 8, 8), dtype=torch.float32)
        self.down = nn.Conv2d(c.trunk, c.deep, 2, 2)
        self.down.weight.data = torch.tensor(haar_down(c.trunk, choice), dtype=torch.float32)
        for conv in (self.first, self.down):
            nn.init.zeros_(conv.bias)
        self.trunk8 = DepthConvBlock(c.trunk, 1.0)
        selection = np.zeros((c.base_latents, c.deep))
        for row, pair in enumerate(base_choice):
            selection[row, choice.index(pair)] = 1.0
        self.base_head = nn.Sequential(conv1x1(selection), DepthConvBlock(c.base_latents))
        self.enhancement_head = nn.Sequential(DepthConvBlock(c.deep), conv1x1(np.eye(c.enhancement_latents)))

        self.base = LayerEntropy(c.base_latents, c.base_hyper, 64)
        self.enhancement = LayerEntropy(c.enhancement_latents, c.enhancement_hyper, 64, base=c.base_latents)
        self.base_features = DepthConvBlock(c.base_latents)
        self.prior = conv1x1(selection.T.copy())

        narrow_choice = haar_choice(narrow_planes, 12, 2)
        self.base_synthesis = Synthesis(
            c.base_latents,
            c.base_width,
            c.base_blocks,
            haar_up(c.base_width, narrow_choice),
            np.linalg.pinv(narrow),
        )
        self.fusion = conv1x1(cin=c.base_latents, cout=c.enhancement_latents)
        self.enhancement_synthesis = Synthesis(
            c.enhancement_latents,
            c.trunk,
            c.enhancement_blocks,
            haar_up(c.trunk, choice),
            np.linalg.pinv(basis),
        )

    def enhancement_parts(self) -> tuple[nn.Module, ...]:
        """What learns when the enhancement alone does."""
        return (
            self.enhancement_head,
            self.base_features,
            self.prior,
            self.fusion,
            self.enhancement,
            self.enhancement_synthesis,
        )

    def analyse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (y_b, y_e), float[B,C,H/16,W/16], before gains."""
        return self.analyse_trunk(self.first(x - 0.5))

    def analyse_trunk(self, first: Tensor) -> tuple[Tensor, Tensor]:
        """The latents from the first convolution's output float[B,C,H/8,W/8]."""
        features = self.down(self.trunk8(first))
        return self.base_head(features), self.enhancement_head(features)

    def base_latents(self, latents: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Undo the base gain; return (latents in signal units, features for the enhancement)."""
        plain = latents * torch.exp(self.base.log_ungain(quality))
        return plain, self.base_features(plain)

    def enhancement_prior(self, features: Tensor, quality: Tensor) -> Tensor:
        return self.prior(features) * torch.exp(self.enhancement.log_gain(quality))

    def synthesise_base(self, plain: Tensor) -> Tensor:
        return self.base_synthesis(plain) + 0.5

    def synthesise_enhanced(self, latents: Tensor, features: Tensor, quality: Tensor) -> Tensor:
        plain = latents * torch.exp(self.enhancement.log_ungain(quality))
        return self.enhancement_synthesis(plain + self.fusion(features)) + 0.5

    def forward(self, x: Tensor, base_quality: Tensor, quality: Tensor | None) -> dict[str, Tensor]:
        """Training pass: pictures and bits per pixel of each layer, float[B] (likelihoods with additive noise).

        With `quality` None the base layer alone.
        """
        pixels = x.shape[2] * x.shape[3]
        trunk = self.down(self.trunk8(self.first(x - 0.5)))
        coded_b, bits_b = self._code_layer(self.base, self.base_head(trunk), base_quality, None, None, None)
        plain_b, _ = self.base_latents(coded_b.latents, base_quality)
        base = {"base": self.synthesise_base(plain_b), "bpp_base": bits_b / pixels}
        if quality is None:
            return base
        # The base layer answers to its own loss only, as in ICMH-FF: what the enhancement would like must not swell it.
        _, features = self.base_latents(coded_b.latents.detach(), base_quality)
        prior = self.enhancement_prior(features, quality)
        y_e = self.enhancement_head(trunk)
        coded_e, bits_e = self._code_layer(self.enhancement, y_e, quality, prior, features, coded_b.symbols)
        return base | {
            "enhanced": self.synthesise_enhanced(coded_e.latents, features, quality),
            "bpp_enhancement": bits_e / pixels,
        }

    def _code_layer(
        self,
        layer: LayerEntropy,
        y: Tensor,
        quality: Tensor,
        prior: Tensor | None,
        features: Tensor | None,
        base_symbols: Tensor | None,
    ) -> tuple[Coded, Tensor]:
        y = y * torch.exp(layer.log_gain(quality))
        prior = torch.zeros_like(y) if prior is None else prior
        z = layer.hyper_analysis(y - prior)
        z_hat = round_ste(z)
        context = layer.hyper_mean(z_hat)
        if features is not None:
            context = torch.cat([context, features], 1)
        index = layer.scale(z_hat, quality, base_symbols.detach() if base_symbols is not None else None)
        symbols, latents, means = layer.quantiser.quantise(y, context, prior, dead_zone(index.detach()))
        residual, hyper = (y - means, z) if self.training else (symbols, z_hat)
        bits = gaussian_bits(noisy(residual, self.training), sigma_of(index))
        bits = bits + gaussian_bits(noisy(hyper, self.training), sigma_of(layer.hyper_scale_index(quality)))
        return Coded(symbols, latents, z_hat), bits


def train_only(model: LiteCodec, layer: str) -> None:
    """Let one layer learn, "base" or "enhancement", and everything else stand still, the common trunk too.

    A base layer that stands still keeps its bitstreams and pictures while the enhancement fits itself to them.
    """
    own = {
        "base": (model.base_head, model.base, model.base_synthesis),
        "enhancement": model.enhancement_parts(),
    }
    model.requires_grad_(False)
    for part in own[layer]:
        part.requires_grad_(True)


@torch.no_grad()
def silence_base(model: LiteCodec) -> None:
    """Make the codec a single-layer one of the same size: base latents are 0 for good and cost next to nothing.

    What two layers cost is measured against such a codec, trained alike.
    """
    layer = model.base
    for part in (
        model.base_head,
        layer.hyper_analysis[-1],
        layer.quantiser.first[-1],
        layer.quantiser.second[-1],
        layer.scale.index,
    ):
        for parameter in part.parameters():
            parameter.zero_()
    layer.z_index.knots.zero_()
    for part in (layer, model.base_head, model.base_synthesis):
        part.requires_grad_(False)


def noisy(v: Tensor, training: bool) -> Tensor:
    """The differentiable stand-in for rounding while training; symbols as they are otherwise."""
    return v + torch.rand_like(v) - 0.5 if training else v


def likelihood_of(v: Tensor, sigma: Tensor) -> Tensor:
    """Mass of a zero-mean Gaussian on the unit bin around `v`."""
    v, scale = v.abs(), 1 / (sigma * math.sqrt(2))
    # mirrored to the tail so that the difference keeps its precision far from the mean
    return 0.5 * (torch.erfc((v - 0.5) * scale) - torch.erfc((v + 0.5) * scale))


def dead_zone(index: Tensor) -> Tensor:
    """How far beyond a half a residual may be and still become 0, by its σ-index float: the same shape.

    With L = R + D at the optimal step, a symbol ±1 of residual r pays for itself when 8.66·(2r - 1) exceeds the bits
    that it takes more than a 0. Means and synthesis were trained on plain rounding, so only 0.3 of that is used; the
    cubic follows it within 0.01, and costs a fifth of a look-up in the encoder's graph.
    """
    a, b, c, d = DEAD_ZONE
    return (a + index * (b + index * (c + index * d))).clamp(min=0)


def gaussian_bits(v: Tensor, sigma: Tensor) -> Tensor:
    """Bits float[B] of `v`."""
    return -torch.log2(torch.clamp(likelihood_of(v, sigma), min=1e-9)).flatten(1).sum(1)


def edge_weighted_error(x: Tensor, x_hat: Tensor, mask: Tensor, floor: float) -> Tensor:
    """SA-ICM distortion float[B]: squared error where the edge mask is set, and a small share of it elsewhere.

    `mask`: float[B,1,H,W] in 0..1. With floor 0 it is the published loss.
    """
    weight = floor + (1 - floor) * mask
    return (weight * F.mse_loss(x_hat, x, reduction="none")).flatten(1).mean(1)

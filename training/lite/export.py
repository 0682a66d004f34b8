"""Export a trained `lite` codec: seven ONNX graphs, the integer tables, weights and a manifest."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_weights
from torch import Tensor, nn

from secondlook.shared.entropy import MAX_SYMBOL
from secondlook.shared.models import describe_files, model_hash
from secondlook.training.lite.model import LayerEntropy, LiteCodec, dead_zone
from secondlook.training.lite.scale_network import ACTIVATION_STEPS, WEIGHT_STEPS, IntegerConv, activation
from secondlook.training.lite.tables import entropy_tables, integer_layers
from secondlook.training.lite.weights import load_weights
from secondlook.training.onnx_files import export_onnx

CHANGE_THRESHOLD = 0.02
LATENT = {2: "h16", 3: "w16"}
HYPER = {2: "h64", 3: "w64"}
IMAGE = {1: "height", 2: "width"}


class Analysis(nn.Module):
    """image uint8[1,H,W,3] -> y_base, y_enhancement float[1,C,H/16,W/16]."""

    def __init__(self, codec: LiteCodec) -> None:
        super().__init__()
        self.codec = codec
        # The scaling to -0.5..0.5 is a part of the first convolution's weights: a pass over the frame less.
        self.first = deepcopy(codec.first)
        self.first.weight.data /= 255
        assert self.first.bias is not None
        self.first.bias.data -= 0.5 * codec.first.weight.data.sum((1, 2, 3))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.codec.analyse_trunk(self.first(image.permute(0, 3, 1, 2).float()))


class UpConv(nn.Module):
    """A 1x1 convolution and a pixel shuffle by 2 as one transposed convolution: the same values in half the time.

    float[1,Z,h,w] -> float[1,C,2h,2w]. The bias differs within the 2x2, so it is the weight of a channel of ones.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        assert conv.bias is not None
        rows = torch.cat([conv.weight.detach()[:, :, 0, 0], conv.bias.detach()[:, None]], 1)
        self.weight = nn.Parameter(rows.unflatten(0, (-1, 2, 2)).permute(3, 0, 1, 2).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        with_ones = nn.functional.pad(x, (0, 0, 0, 0, 0, 1), value=1.0)
        return nn.functional.conv_transpose2d(with_ones, self.weight, stride=2)


def join_shuffles(codec: LiteCodec) -> None:
    """Make each 1x1 convolution and pixel shuffle on the way of the means one `UpConv`."""
    for layer in (codec.base, codec.enhancement):
        mean = layer.hyper_mean
        for at in [i for i, part in enumerate(mean) if isinstance(part, nn.PixelShuffle)]:
            conv = mean[at - 1]
            assert isinstance(conv, nn.Conv2d)
            mean[at - 1], mean[at] = UpConv(conv), nn.Identity()


class IntegerScales(nn.Module):
    """The integer network of `scale_network` inside the encoder's graph: float32 holds each of its sums exactly."""

    def __init__(self, layer: LayerEntropy) -> None:
        super().__init__()
        self.network = layer.scale
        self.levels = layer.scale.levels
        self.weights = nn.ParameterDict()
        self.shifts: dict[str, int] = {}
        for name, conv in layer.scale.named_children():
            assert isinstance(conv, IntegerConv)
            self.weights[name] = nn.Parameter(conv.integer_weight().detach().clone(), requires_grad=False)
            table = torch.round(conv.bias.table() * (WEIGHT_STEPS * ACTIVATION_STEPS))
            self.register_buffer(
                f"bias_{name}", table.to(torch.int32)
            )  # as int32, since float16 could not hold it
            self.shifts[name] = conv.shift

    def layer(self, name: str, a: Tensor, quality: Tensor) -> Tensor:
        weight, shift = self.weights[name], self.shifts[name]
        groups = weight.shape[0] if weight.shape[1:] == (1, 3, 3) else 1
        acc = nn.functional.conv2d(a, weight, padding=weight.shape[2] // 2, groups=groups)
        bias = self.get_buffer(f"bias_{name}")[quality].float()[:, :, None, None]
        return torch.floor((acc + bias + (1 << (shift - 1))) * 2.0**-shift)

    def forward(self, z: Tensor, quality: Tensor, base: Tensor | None = None) -> Tensor:
        """σ-indexes float[1,C,4h,4w], integer-valued, as `shared.scale_network.ScaleNetwork.indexes` has them."""
        a = torch.clamp(z, -31, 31) * 4
        for name in ("up1", "up2"):
            a = nn.functional.pixel_shuffle(activation(self.layer(name, a, quality)), 2)
        if base is not None:
            magnitude = torch.clamp(base.abs(), max=15) * 16
            a = torch.cat([a, activation(self.layer("base", magnitude, quality))], 1)
        a = activation(self.layer("spread", a, quality))
        return torch.clamp(self.layer("index", a, quality), 0, self.levels - 1)


def condition(layer: LayerEntropy, z: Tensor, features: Tensor | None) -> Tensor:
    context = layer.hyper_mean(z)
    return context if features is None else torch.cat([context, features], 1)


def hyper_symbols(layer: LayerEntropy, residual: Tensor, keep: Tensor | None) -> Tensor:
    if keep is None:
        z = torch.round(layer.hyper_analysis(residual))
    else:
        covered = nn.functional.max_pool2d(keep, 4)
        z = torch.round(layer.hyper_analysis(residual * keep)) * covered
    return z.clamp(-MAX_SYMBOL, MAX_SYMBOL)


class Symbols(nn.Module):
    """Latents to symbols and σ-indexes of both layers; see `MeanQuantiser`, also for `keep` and `references`."""

    def __init__(self, codec: LiteCodec) -> None:
        super().__init__()
        self.codec = codec
        self.scales = nn.ModuleList(IntegerScales(layer) for layer in (codec.base, codec.enhancement))

    def forward(
        self,
        y_base: Tensor,
        y_enhancement: Tensor,
        base_quality: Tensor,
        quality: Tensor,
        keep: Tensor | None = None,
        references: tuple[Tensor | None, Tensor | None] = (None, None),
    ) -> tuple[Tensor, ...]:
        codec = self.codec
        y = y_base * torch.exp(codec.base.log_gain(base_quality))
        z_b = hyper_symbols(codec.base, y, keep)
        index_b = self.scales[0](z_b, base_quality)
        s_b, latents_b, _ = codec.base.quantiser.quantise(
            y, condition(codec.base, z_b, None), torch.zeros_like(y), dead_zone(index_b), keep, references[0]
        )
        _, features = codec.base_latents(latents_b, base_quality)
        prior = codec.enhancement_prior(features, quality)
        y = y_enhancement * torch.exp(codec.enhancement.log_gain(quality))
        z_e = hyper_symbols(codec.enhancement, y - prior, keep)
        index_e = self.scales[1](z_e, quality, s_b)
        s_e, latents_e, _ = codec.enhancement.quantiser.quantise(
            y, condition(codec.enhancement, z_e, features), prior, dead_zone(index_e), keep, references[1]
        )
        symbols = (s.clamp(-MAX_SYMBOL, MAX_SYMBOL).to(torch.int16) for s in (z_b, s_b, z_e, s_e))
        indexes = (index.to(torch.uint8) for index in (index_b, index_e))
        return (*symbols, *indexes, latents_b, latents_e)


class Quantise(nn.Module):
    """Latents to symbols and σ-indexes where they changed since a key.

    A position is coded (`keep` 1) where the mean over the channels of the squared change since `key_signal` is above
    `threshold`, or one channel alone changed by 32 thresholds: a small sharp object. A threshold below 0 codes all.
    """

    def __init__(self, codec: LiteCodec) -> None:
        super().__init__()
        self.symbols = Symbols(codec)

    def forward(
        self,
        y_base: Tensor,
        y_enhancement: Tensor,
        key_signal: Tensor,
        reference_base: Tensor,
        reference_enhancement: Tensor,
        threshold: Tensor,
        base_quality: Tensor,
        quality: Tensor,
    ) -> tuple[Tensor, ...]:
        change = (y_enhancement - key_signal).square()
        changed = (change.mean(1, keepdim=True) > threshold) | (change.amax(1, keepdim=True) > 32 * threshold)
        references = (reference_base, reference_enhancement)
        coded = self.symbols(y_base, y_enhancement, base_quality, quality, changed.float(), references)
        return (*coded, changed)


class Encode(nn.Module):
    """The whole encoder of a key: image uint8[1,H,W,3] to symbols, σ-indexes and what deltas compare with."""

    def __init__(self, codec: LiteCodec) -> None:
        super().__init__()
        self.analysis, self.symbols = Analysis(codec), Symbols(codec)

    def forward(self, image: Tensor, base_quality: Tensor, quality: Tensor) -> tuple[Tensor, ...]:
        y_base, y_enhancement = self.analysis(image)
        return (*self.symbols(y_base, y_enhancement, base_quality, quality), y_enhancement)


class DequantiseBase(nn.Module):
    def __init__(self, codec: LiteCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, z_base: Tensor, symbols_base: Tensor, keep: Tensor, reference_base: Tensor) -> Tensor:
        layer, symbols = self.codec.base, symbols_base.float()
        context = condition(layer, z_base.float(), None)
        return layer.quantiser.dequantise(symbols, context, torch.zeros_like(symbols), keep, reference_base)


class DequantiseEnhancement(nn.Module):
    def __init__(self, codec: LiteCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(
        self,
        z_enhancement: Tensor,
        symbols_enhancement: Tensor,
        latents_base: Tensor,
        keep: Tensor,
        reference_enhancement: Tensor,
        base_quality: Tensor,
        quality: Tensor,
    ) -> Tensor:
        layer = self.codec.enhancement
        _, features = self.codec.base_latents(latents_base, base_quality)
        prior = self.codec.enhancement_prior(features, quality)
        context = condition(layer, z_enhancement.float(), features)
        return layer.quantiser.dequantise(
            symbols_enhancement.float(), context, prior, keep, reference_enhancement
        )


def to_image(picture: Tensor) -> Tensor:
    """float[1,3,H,W] in 0..1 -> uint8[1,H,W,3]."""
    return torch.round(picture.clamp(0, 1) * 255).permute(0, 2, 3, 1).to(torch.uint8)


class SynthesisBase(nn.Module):
    def __init__(self, codec: LiteCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, latents_base: Tensor, base_quality: Tensor) -> Tensor:
        plain, _ = self.codec.base_latents(latents_base, base_quality)
        return to_image(self.codec.synthesise_base(plain))


class SynthesisEnhanced(nn.Module):
    def __init__(self, codec: LiteCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(
        self, latents_base: Tensor, latents_enhancement: Tensor, base_quality: Tensor, quality: Tensor
    ) -> Tensor:
        _, features = self.codec.base_latents(latents_base, base_quality)
        return to_image(self.codec.synthesise_enhanced(latents_enhancement, features, quality))


def bake_qualities(codec: LiteCodec) -> None:
    """Replace interpolation between knots by a table look-up: exact, and one Gather in the graph."""
    for module in codec.modules():
        if hasattr(module, "knots"):
            table = module.table().detach().clone()
            del module._parameters["knots"]
            module.register_buffer("tabled", table)
            module.forward = lambda quality, t=table: t[quality][:, :, None, None]
            module.table = lambda t=table: t


CODED = [
    "z_base",
    "symbols_base",
    "z_enhancement",
    "symbols_enhancement",
    "indexes_base",
    "indexes_enhancement",
    "latents_base",
    "latents_enhancement",
]


def write_graphs(codec: LiteCodec, folder: Path) -> list[str]:
    """Write the seven graphs; return their file names.

    `encode` does what `analysis` and `quantise` do, at once, for keys that need no tiles.
    """
    c = codec.config
    h, w = 4, 8
    image = torch.zeros(1, 16 * h, 16 * w, 3, dtype=torch.uint8)
    y_b, y_e = torch.zeros(1, c.base_latents, h, w), torch.zeros(1, c.enhancement_latents, h, w)
    z_b, z_e = (torch.zeros(1, z, h // 4, w // 4).short() for z in (c.base_hyper, c.enhancement_hyper))
    keep = torch.ones(1, 1, h, w)
    q_b, q_e = {"base_quality": torch.tensor([16])}, {"quality": torch.tensor([32])}
    key = {
        "key_signal": y_e,
        "reference_base": y_b,
        "reference_enhancement": y_e,
        "threshold": torch.tensor([0.1]),
    }
    latents = {"latents_base": y_b, "latents_enhancement": y_e}
    plans: dict[str, tuple[nn.Module, dict[str, Tensor], list[str]]] = {
        "encode": (Encode(codec), {"image": image} | q_b | q_e, [*CODED, "y_enhancement"]),
        "analysis": (Analysis(codec), {"image": image}, ["y_base", "y_enhancement"]),
        "quantise": (
            Quantise(codec),
            {"y_base": y_b, "y_enhancement": y_e} | key | q_b | q_e,
            [*CODED, "changed"],
        ),
        "dequantise_base": (
            DequantiseBase(codec),
            {"z_base": z_b, "symbols_base": y_b.short(), "keep": keep, "reference_base": y_b},
            ["latents_base"],
        ),
        "dequantise_enhancement": (
            DequantiseEnhancement(codec),
            {
                "z_enhancement": z_e,
                "symbols_enhancement": y_e.short(),
                "latents_base": y_b,
                "keep": keep,
                "reference_enhancement": y_e,
            }
            | q_b
            | q_e,
            ["latents_enhancement"],
        ),
        "synthesis_base": (SynthesisBase(codec), {"latents_base": y_b} | q_b, ["image"]),
        "synthesis_enhanced": (SynthesisEnhanced(codec), latents | q_b | q_e, ["image"]),
    }
    for name, (module, feeds, outputs) in plans.items():
        dynamic = {
            n: IMAGE if n == "image" else HYPER if n.startswith("z_") else LATENT
            for n in [*feeds, *outputs]
            if not n.endswith("quality") and n != "threshold"
        }
        path = folder / f"{name}.onnx"
        export_onnx(module, list(feeds.values()), path, inputs=list(feeds), outputs=outputs, dynamic=dynamic)
    return [f"{name}.onnx" for name in plans]


def export_lite(
    codec: LiteCodec, folder: Path, facts: dict[str, Any], counts: npt.NDArray[np.int64] | None = None
) -> None:
    """Write the model folder. `facts` go into the manifest; `counts` as for `entropy_tables`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(
        {k: v.half().contiguous() for k, v in codec.state_dict().items()}, folder / "weights.safetensors"
    )
    tensors = (
        entropy_tables(counts)
        | integer_layers(codec.base, "base")
        | integer_layers(codec.enhancement, "enhancement")
    )
    tensors["change_threshold"] = np.array([CHANGE_THRESHOLD], np.float32)
    save_file(tensors, folder / "entropy.safetensors")
    bake_qualities(codec)
    join_shuffles(codec)
    names = [*write_graphs(codec, folder), "entropy.safetensors"]
    files = describe_files(folder, names)
    manifest = {
        "name": folder.name,
        "kind": "codec",
        "format": 1,
        "files": files,
        "model_hash": model_hash(files).hex(),
        "weights": describe_files(folder, ["weights.safetensors"]),
        **facts,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def load_lite(folder: Path) -> LiteCodec:
    """The torch model of a model folder, to go on training from."""
    codec = LiteCodec()
    codec.load_state_dict(load_weights(folder))
    return codec

"""Last stage of training: fit the integer scale networks, then the tables, to the symbols that are really coded.

During joint training rates come from latents with uniform noise. Here everything but the scale networks stands still,
so pictures and symbols do not change; the loss is the cross-entropy of the rounded symbols, floored as the
integer tables floor it. Then symbols are counted under each σ-index; tables of what occurs, with its dead zone and
its tails, take the place of Gaussians. What is saved is bits alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from secondlook.training.data import CropSampler, list_images, usable_images
from secondlook.training.lite.model import (
    SIGMA_LEVELS,
    LayerEntropy,
    LiteCodec,
    dead_zone,
    likelihood_of,
    sigma_of,
)
from secondlook.training.lite.scale_network import round_ste
from secondlook.training.lite.tables import gaussian_masses
from secondlook.training.lite.train import TrainConfig, draw_qualities, load_sampler

FLOOR = 2.0**-20  # about what a table gives a symbol far outside its Gaussian
CROP, BATCH = 192, 6
COUNTED_BATCHES = 150
LR, LR_END = 4e-4, 2e-5


class Coded(NamedTuple):
    """One layer as the encoder has it; integer-valued floats but for the latents."""

    hyper: Tensor
    symbols: Tensor
    latents: Tensor
    index: Tensor


def real_bits(symbols: Tensor, sigma: Tensor) -> Tensor:
    """Bits float[] of integer-valued symbols under the coder's floored Gaussians."""
    return -torch.log2(likelihood_of(symbols, sigma) + FLOOR).sum()


@torch.no_grad()
def code_layer(
    layer: LayerEntropy,
    y: Tensor,
    quality: Tensor,
    prior: Tensor,
    features: Tensor | None,
    base: Tensor | None,
) -> Coded:
    """What the encoder makes of `y`."""
    y = y * torch.exp(layer.log_gain(quality))
    z = round_ste(layer.hyper_analysis(y - prior))
    context = layer.hyper_mean(z)
    if features is not None:
        context = torch.cat([context, features], 1)
    index = layer.scale(z, quality, base)
    symbols, latents, _ = layer.quantiser.quantise(y, context, prior, dead_zone(index))
    return Coded(z, symbols, latents, index)


def scale_parameters(model: LiteCodec) -> list[nn.Parameter]:
    layers = (model.base, model.enhancement)
    return [p for layer in layers for part in (layer.scale, layer.z_index) for p in part.parameters()]


@torch.no_grad()
def code(model: LiteCodec, x: Tensor, base_quality: Tensor, quality: Tensor) -> tuple[Coded, Coded]:
    """Both layers of float[B,3,H,W] as the encoder has them."""
    y_b, y_e = model.analyse(x)
    base = code_layer(model.base, y_b, base_quality, torch.zeros(()).expand_as(y_b), None, None)
    _, features = model.base_latents(base.latents, base_quality)
    prior = model.enhancement_prior(features, quality)
    return base, code_layer(model.enhancement, y_e, quality, prior, features, base.symbols)


def bits_of(model: LiteCodec, x: Tensor, base_quality: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
    """Real bits float[] of (base, enhancement), with gradients into the scale networks only."""
    base, enhancement = code(model, x, base_quality, quality)
    bits = []
    for layer, coded, q, below in (
        (model.base, base, base_quality, None),
        (model.enhancement, enhancement, quality, base.symbols),
    ):
        hyper = real_bits(coded.hyper, sigma_of(layer.hyper_scale_index(q)))
        bits.append(hyper + real_bits(coded.symbols, sigma_of(layer.scale(coded.hyper, q, below))))
    return bits[0], bits[1]


def count_symbols(model: LiteCodec, sampler: CropSampler, batches: int) -> npt.NDArray[np.int64]:
    """How often base and enhancement code each symbol under each σ-index: int64[2, levels, width].

    The layout is that of `training.lite.export.gaussian_masses`. Means are taken over signs.
    """
    _, reach = gaussian_masses()
    width = 2 * int(reach.max()) + 2
    counts = np.zeros((2, SIGMA_LEVELS * width), np.int64)
    for _ in range(batches):
        x = torch.from_numpy(sampler.batch(BATCH)[0]).float() / 255
        for row, coded in zip(counts, code(model, x, *draw_qualities(BATCH, sampler.rng)), strict=True):
            level = coded.index.long().numpy().ravel()
            symbol, most = coded.symbols.numpy().ravel().astype(np.int64), reach[level]
            place = np.where(np.abs(symbol) > most, 2 * most + 1, symbol + most)
            row += np.bincount(level * width + place, minlength=len(row))
    counts = counts.reshape(2, SIGMA_LEVELS, width)
    for layer in counts:
        for row, r in zip(layer, reach, strict=True):
            both = row[: 2 * r + 1] + row[2 * r :: -1]
            row[: 2 * r + 1] = both // 2
    return counts


def fit_scales(
    data: Path,
    work: Path,
    minutes: float,
    *,
    threads: int,
    crop: int = CROP,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> Path:
    """Fit the scale networks of the checkpoint `work/lite.pt` in place. Returns its path.

    `clock` gives seconds; it is asked once a step, and the learning rate falls with it.
    """
    torch.set_num_threads(threads)
    checkpoint = work / "lite.pt"
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model = LiteCodec()
    model.load_state_dict(state["model"])
    paths = usable_images(list_images(data / "train" / "images"), crop)
    sampler = load_sampler(paths, work, TrainConfig(crop=crop), None)
    sampler.rng = np.random.default_rng((seed, int(state["step"])))
    optimiser = torch.optim.Adam(scale_parameters(model), lr=LR)
    start, step = clock(), 0
    mean = np.zeros(2)
    while (spent := (clock() - start) / (60 * minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = LR * (LR_END / LR) ** spent
        x = torch.from_numpy(sampler.batch(BATCH)[0]).float() / 255
        base, enhancement = bits_of(model, x, *draw_qualities(BATCH, sampler.rng))
        pixels = BATCH * crop**2
        optimiser.zero_grad(set_to_none=True)
        ((base + enhancement) / pixels).backward()
        optimiser.step()
        step += 1
        now = np.array([base.item(), enhancement.item()]) / pixels
        mean = now if step == 1 else 0.98 * mean + 0.02 * now
        if step % 50 == 0:
            print(
                json.dumps(
                    {"step": step, "bpp_base": round(mean[0], 4), "bpp_enhancement": round(mean[1], 4)}
                ),
                flush=True,
            )
    counts = torch.from_numpy(count_symbols(model, sampler, COUNTED_BATCHES))
    part = checkpoint.with_suffix(".part")
    torch.save({**state, "model": model.state_dict(), "counts": counts}, part)
    part.replace(checkpoint)
    return checkpoint

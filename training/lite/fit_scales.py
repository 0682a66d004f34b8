"""Last stage of training: fit the integer scale networks to the symbols that are really coded.

During joint training rates come from latents with uniform noise. Here everything but the scale networks stands still,
so pictures and symbols do not change; the loss is the cross-entropy of the rounded symbols, floored as the
integer tables floor it. What is saved is bits alone.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from training.lite.model import LayerEntropy, LiteCodec, dead_zones, likelihood_of, sigma_of
from training.lite.scale_network import round_ste
from training.lite.train import TrainConfig, draw_qualities, load_sampler

FLOOR = 2.0**-20  # about what a table gives a symbol far outside its Gaussian
CROP, BATCH = 192, 6
LR, LR_END = 4e-4, 2e-5


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
) -> tuple[Tensor, Tensor, Tensor]:
    """(hyper symbols, symbols, latents) as the encoder has them."""
    y = y * torch.exp(layer.log_gain(quality))
    z = round_ste(layer.hyper_analysis(y - prior))
    context = layer.hyper_mean(z)
    if features is not None:
        context = torch.cat([context, features], 1)
    dead_zone = None if base is None else dead_zones()[layer.scale(z, quality, base).long()]
    symbols, latents, _ = layer.quantiser.quantise(
        y, context, prior, torch.ones_like(y[:, :1]), torch.zeros_like(y), dead_zone
    )
    return z, symbols, latents


def scale_parameters(model: LiteCodec) -> list[nn.Parameter]:
    layers = (model.base, model.enhancement)
    return [p for layer in layers for part in (layer.scale, layer.z_index) for p in part.parameters()]


def bits_of(model: LiteCodec, x: Tensor, base_quality: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
    """Real bits float[] of (base, enhancement), with gradients into the scale networks only."""
    with torch.no_grad():
        y_b, y_e = model.analyse(x)
        z_b, s_b, latents_b = code_layer(
            model.base, y_b, base_quality, torch.zeros(()).expand_as(y_b), None, None
        )
        _, features = model.base_latents(latents_b, base_quality)
        prior = model.enhancement_prior(features, quality)
        z_e, s_e, _ = code_layer(model.enhancement, y_e, quality, prior, features, s_b)
    bits = []
    for layer, z, s, q, base in (
        (model.base, z_b, s_b, base_quality, None),
        (model.enhancement, z_e, s_e, quality, s_b),
    ):
        hyper = real_bits(z, sigma_of(layer.hyper_scale_index(q)))
        bits.append(hyper + real_bits(s, sigma_of(layer.scale(z, q, base))))
    return bits[0], bits[1]


def fit_scales(data: Path, work: Path, minutes: float, *, threads: int, crop: int = CROP) -> Path:
    """Fit the scale networks of the checkpoint `work/lite.pt` in place. Returns its path."""
    torch.set_num_threads(threads)
    checkpoint = work / "lite.pt"
    state = torch.load(checkpoint, weights_only=True)
    model = LiteCodec()
    model.load_state_dict(state["model"])
    sampler = load_sampler(data, work, TrainConfig(crop=crop), None)
    sampler.rng = np.random.default_rng(int(state["step"]))
    optimiser = torch.optim.Adam(scale_parameters(model), lr=LR)
    start, step = time.monotonic(), 0
    mean = np.zeros(2)
    while (spent := (time.monotonic() - start) / (60 * minutes)) < 1:
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
    part = checkpoint.with_suffix(".part")
    torch.save({**state, "model": model.state_dict()}, part)
    part.replace(checkpoint)
    return checkpoint

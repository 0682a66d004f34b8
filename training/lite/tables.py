"""The integer tables of a trained `lite` codec: frequencies of symbols, and its σ-index networks as integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import erf

from secondlook.shared.entropy import TABLE_BITS
from secondlook.training.lite.layers import F64
from secondlook.training.lite.model import SIGMA_LEVELS, LayerEntropy, sigma_of
from secondlook.training.lite.scale_network import ACTIVATION_STEPS, QUALITIES, WEIGHT_STEPS, IntegerConv

LISTED_BELOW = 3  # σ < 0.15: at most one symbol in 1,500 is not 0; a step more cost 0.1 % of bits
PRIOR_SYMBOLS = 3000  # what the Gaussian weighs beside symbols that were counted


def gaussian_masses() -> tuple[F64, npt.NDArray[np.int32]]:
    """Discretised Gaussians float64[levels, width], a row the mass of -reach..reach, then the rest; and reaches."""
    sigmas = sigma_of(torch.arange(SIGMA_LEVELS)).double().numpy()
    reach = np.clip(np.ceil(4.5 * sigmas), 2, 255).astype(np.int32)
    masses = np.zeros((SIGMA_LEVELS, 2 * int(reach.max()) + 2))
    for row, sigma, r in zip(masses, sigmas, reach, strict=True):
        edges = (np.arange(-r, r + 2) - 0.5) / (sigma * np.sqrt(2))
        row[: 2 * r + 1] = np.diff(0.5 * (1 + erf(edges)))
        row[2 * r + 1] = 1 - row.sum()
    return masses, reach


def frequencies(masses: F64, reach: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Integer frequencies int32[levels, width] of masses that sum to 1 a row; nothing in an alphabet is impossible."""
    table = np.round(masses * (1 << TABLE_BITS)).astype(np.int32)
    for row, r in zip(table, reach, strict=True):
        np.maximum(row[: 2 * r + 1], 8, out=row[: 2 * r + 1])
        row[2 * r + 1] = max(row[2 * r + 1], 64)
    return table


def entropy_tables(counts: npt.NDArray[np.int64] | None) -> dict[str, npt.NDArray[Any]]:
    """The tables of `EntropyTables`, by name of what they code.

    `counts`: how often each symbol was coded under each index, in the layout of `gaussian_masses`, int64[2, levels,
    width] for base and enhancement (`training.lite.fit_scales.count_symbols`). Without them both are Gaussian.
    """
    masses, reach = gaussian_masses()
    tables = {"hyper": masses, "base": masses, "enhancement": masses}
    for name, seen in zip(("base", "enhancement"), () if counts is None else counts, strict=False):
        mixed = seen + PRIOR_SYMBOLS * masses
        tables[name] = mixed / mixed.sum(axis=1, keepdims=True)
    return {f"{name}.frequencies": frequencies(mass, reach) for name, mass in tables.items()} | {
        "reach": reach,
        "listed_below": np.array([LISTED_BELOW], np.int32),
    }


@torch.no_grad()
def integer_layers(layer: LayerEntropy, prefix: str) -> dict[str, npt.NDArray[Any]]:
    """The σ-index network as integers, in the names of `shared.scale_network`."""
    tensors: dict[str, npt.NDArray[Any]] = {}
    for name, conv in layer.scale.named_children():
        assert isinstance(conv, IntegerConv)
        weight = conv.integer_weight().numpy().astype(np.int8)
        weight = weight[:, 0] if conv.kernel == 3 else weight[:, :, 0, 0]
        bias = torch.round(conv.bias.table() * (WEIGHT_STEPS * ACTIVATION_STEPS)).numpy().astype(np.int32)
        tensors |= {
            f"{prefix}.{name}.weight": np.ascontiguousarray(weight),
            f"{prefix}.{name}.bias": bias,
            f"{prefix}.{name}.shift": np.array([conv.shift], np.int32),
        }
    hyper = layer.hyper_scale_index(torch.arange(QUALITIES))[:, :, 0, 0]
    tensors[f"{prefix}.hyper_index"] = hyper.numpy().astype(np.uint8)
    return tensors

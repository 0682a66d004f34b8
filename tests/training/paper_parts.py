"""Reduced models of the paper family with weights that exercise every path: what several tests start from."""

from __future__ import annotations

import torch

from secondlook.training.models.config import REDUCED_ADDITIONAL, REDUCED_MACHINE
from secondlook.training.models.folder import write_folder
from secondlook.training.models.tcm import AdditionalModel, Tcm


@torch.no_grad()
def lively(model, seed):
    """Random weights under which symbols, scales and masks vary; fresh ones would give zeros nearly everywhere."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith(".bias") or "biases" in name or "factors" in name:
            parameter += 0.1 * noise
        elif name.endswith("relative_position_params"):
            parameter += 0.5 * noise
        elif name.endswith((".beta", ".gamma")):
            parameter += 0.02 * noise.abs()
        elif name.endswith("quantiles"):
            parameter[:, :, 1] += 0.3 * noise[:, :, 1]
    last = model.g_a[len(model.g_a) - 1]
    last.weight *= 8
    model.h_a[len(model.h_a) - 1].weight *= 4
    for network in model.cc_scale_transforms:
        network[4].bias += 2.0
    return model.eval().requires_grad_(False)


def lively_pair():
    """A machine model and an additional model of the reduced size."""
    torch.manual_seed(11)
    return lively(Tcm(REDUCED_MACHINE), 1), lively(AdditionalModel(REDUCED_ADDITIONAL), 2)


def write_pair(folder, pair=None):
    """A model folder of a lively pair: base quality 30, one additional model of quality 40."""
    machine, additional = pair or lively_pair()
    write_folder(folder, machine, {40: (0.0137, additional)}, base=(30, 0.007), facts={"licence": "none"})
    return folder

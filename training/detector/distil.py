"""What the student is asked to reproduce of the teacher, and how far off it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from secondlook.training.detector.model import STRIDES
from secondlook.training.detector.teacher import MAPS


@dataclass(frozen=True)
class LossConfig:
    maps: float = 3.0
    objectness: float = 1.0
    classes: float = 2.0
    boxes: float = 3.0


def map_errors(
    student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], views: Tensor | None = None
) -> dict[str, Tensor]:
    """For each map, squared error over the teacher's own spread: 1 means nothing learned, 0 equal.

    `views`: bool (N,), which of the batch to look at, at least one; None for all.
    """
    errors = {}
    for name in MAPS:
        target, guess = teacher[name], student[name].float()
        if views is not None:
            target, guess = target[views], guess[views]
        target = _squash(target)
        spread = target.var(dim=(0, 2, 3), keepdim=True)
        spread = torch.maximum(spread, 0.1 * spread.mean())
        errors[name] = ((_squash(guess) - target) ** 2 / spread).mean()
    return errors


def _squash(value: Tensor) -> Tensor:
    """SiLU is next to nothing below -4: differences down there hardly matter."""
    return torch.where(value < -4.0, 0.1 * value - 3.6, value)


def output_errors(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Objectness over all cells; classes and boxes where the teacher sees an object, weighted by how surely.

    Each is divided by the teacher's total objectness, so that empty images do not dilute the rest.
    """
    sums = {"objectness": torch.zeros(()), "classes": torch.zeros(()), "boxes": torch.zeros(())}
    mass = torch.zeros(())
    for stride in STRIDES:
        target = teacher[f"obj{stride}"].sigmoid()
        guess = student[f"obj{stride}"].float()
        entropy = F.binary_cross_entropy_with_logits(guess, target, reduction="none")
        floor = F.binary_cross_entropy_with_logits(teacher[f"obj{stride}"], target, reduction="none")
        sums["objectness"] = sums["objectness"] + (entropy - floor).sum()
        weight = torch.where(target > 0.02, target, torch.zeros_like(target))
        mass = mass + weight.sum()
        wanted = teacher[f"cls{stride}"]
        soft = wanted.sigmoid()
        classes = F.binary_cross_entropy_with_logits(student[f"cls{stride}"].float(), soft, reduction="none")
        classes = classes - F.binary_cross_entropy_with_logits(wanted, soft, reduction="none")
        sums["classes"] = sums["classes"] + (weight * classes).sum()
        boxes = _box_error(student[f"reg{stride}"].float(), teacher[f"reg{stride}"])
        sums["boxes"] = sums["boxes"] + (weight * boxes).sum()
    mass = mass.clamp_min(1.0)
    return {name: value / mass for name, value in sums.items()}


def total_error(maps: Mapping[str, Tensor], outputs: Mapping[str, Tensor], config: LossConfig) -> Tensor:
    error = config.maps * torch.stack(list(maps.values())).mean()
    error = error + config.objectness * outputs["objectness"]
    error = error + config.classes * outputs["classes"]
    return error + config.boxes * outputs["boxes"]


def _box_error(guess: Tensor, wanted: Tensor) -> Tensor:
    """1 - IoU plus a smooth L1 of the raw numbers, (N, 4, h, w) twice -> (N, 1, h, w), in cells."""
    gx, gy, gw, gh = (v.unsqueeze(1) for v in guess.unbind(1))
    wx, wy, ww, wh = (v.unsqueeze(1) for v in wanted.unbind(1))
    gw, gh, ww, wh = (v.clamp(-6.0, 6.0).exp() for v in (gw, gh, ww, wh))
    overlap_x = torch.minimum(gx + gw / 2, wx + ww / 2) - torch.maximum(gx - gw / 2, wx - ww / 2)
    overlap_y = torch.minimum(gy + gh / 2, wy + wh / 2) - torch.maximum(gy - gh / 2, wy - wh / 2)
    overlap = overlap_x.clamp_min(0) * overlap_y.clamp_min(0)
    iou = overlap / (gw * gh + ww * wh - overlap + 1e-6)
    raw = F.smooth_l1_loss(guess, wanted, reduction="none", beta=0.2).mean(1, keepdim=True)
    return 1 - iou + raw

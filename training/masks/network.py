"""A small network that finds object boundaries, trained on those that people drew.

SA-ICM (arXiv 2403.04173) takes the edges of a segmentation. Where there is none, this stands in for it: a three-level
U-Net of 0.1 M parameters, trained on the human boundaries of BSDS500 with a class-balanced cross-entropy.
"""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secondlook.shared.errors import ConfigError
from secondlook.training.data import U8, CropSampler, list_images, read_rgb

F32 = npt.NDArray[np.float32]


class EdgeNet(nn.Module):
    """float[B,3,H,W] in 0..1, H and W multiples of 8 -> boundary logits float[B,1,H,W]."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()

        def stage(cin: int, cout: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(cin, cout, 3, padding=1),
                nn.LeakyReLU(0.1),
                nn.Conv2d(cout, cout, 3, padding=1),
                nn.LeakyReLU(0.1),
            )

        w = width
        self.down1, self.down2, self.down3 = stage(12, w), stage(w, 2 * w), stage(2 * w, 3 * w)
        self.up2, self.up1 = stage(5 * w, 2 * w), stage(3 * w, w)
        self.head = nn.Conv2d(w, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(F.pixel_unshuffle(x - 0.5, 2))
        b = self.down2(F.avg_pool2d(a, 2))
        c = self.down3(F.avg_pool2d(b, 2))
        b = self.up2(torch.cat([b, F.interpolate(c, scale_factor=2.0)], 1))
        a = self.up1(torch.cat([a, F.interpolate(b, scale_factor=2.0)], 1))
        return F.pixel_shuffle(self.head(a), 2)


def train_edges(
    images: Path,
    boundaries: Path,
    out: Path,
    minutes: float,
    threads: int = 2,
    steps: int | None = None,
    seed: int = 1,
) -> float:
    """Train on pairs `NAME.*` / `NAME.png` for `minutes`, or for `steps` where given; write a state dict to `out`.

    Returns the last mean loss. Raises ConfigError where no boundary map belongs to an image.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    photographs = {p.stem: p for p in list_images(images)}
    names = [p for p in list_images(boundaries) if p.stem in photographs]
    if not names:
        raise ConfigError(f"no boundary map in {boundaries} is named like an image in {images}")
    pictures = [read_rgb(photographs[p.stem]) for p in names]
    truth = [cv2.imread(str(p), cv2.IMREAD_GRAYSCALE) for p in names]
    sampler = CropSampler(
        pictures, [cv2.dilate(t, np.ones((3, 3), np.uint8)) for t in truth], 160, np.random.default_rng(seed)
    )
    net = EdgeNet().to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    start, step, recent = time.monotonic(), 0, 0.0
    while (spent := step / steps if steps else (time.monotonic() - start) / (60 * minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1.0, 2.0 * (1 - spent) + 0.02)
        x, m = sampler.batch(8)
        target = torch.from_numpy(m).float() / 255
        logits = net(torch.from_numpy(x).float().div(255).to(memory_format=torch.channels_last))
        weight = 0.15 + 0.85 * (target > 0.1).float()
        loss = (
            F.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight
        ).sum() / weight.sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        step += 1
        recent = 0.98 * recent + 0.02 * loss.item() if step > 1 else loss.item()
        if step % 100 == 0:
            print(f"edges step {step} loss {recent:.4f}", flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), out)
    return recent


def load_network(checkpoint: Path) -> EdgeNet:
    """The network of a state dict that `train_edges` wrote."""
    net = EdgeNet()
    net.load_state_dict(torch.load(checkpoint, weights_only=True))
    return net.eval()


@torch.no_grad()
def probabilities(net: EdgeNet, image: U8) -> F32:
    """RGB uint8[H,W,3] of any size -> probability of a boundary, float32[H,W]."""
    height, width = image.shape[:2]
    padded = cv2.copyMakeBorder(image, 0, -height % 8, 0, -width % 8, cv2.BORDER_REFLECT)
    x = torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 255
    return np.asarray(torch.sigmoid(net(x))[0, 0, :height, :width].numpy(), np.float32)

"""Object boundaries for the SA-ICM base layer: human ones where they exist, a small network's elsewhere.

SA-ICM (arXiv 2403.04173) takes the edges of a segmentation and spends distortion only there. The network
here is a three-level U-Net of 0.1 M parameters, trained on the human boundaries of BSDS500 with a
class-balanced cross-entropy. `masks_for` dilates the boundary map, since a detector reads both sides of an edge.
"""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.data import U8, CropSampler, list_images, read_rgb

DILATION_PIXELS = 7


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


def train_edges(images: Path, boundaries: Path, out: Path, minutes: float, threads: int = 2) -> float:
    """Train on pairs `NAME.jpg` / `NAME.png` for `minutes`; write a state dict to `out`; return the last mean loss."""
    torch.set_num_threads(threads)
    names = list_images(boundaries)
    pictures = [read_rgb(images / (p.stem + ".jpg")) for p in names]
    truth = [cv2.imread(str(p), cv2.IMREAD_GRAYSCALE) for p in names]
    sampler = CropSampler(
        pictures, [cv2.dilate(t, np.ones((3, 3), np.uint8)) for t in truth], 160, np.random.default_rng(1)
    )
    net = EdgeNet().to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    start, step, recent = time.monotonic(), 0, 0.0
    while (spent := (time.monotonic() - start) / (60 * minutes)) < 1:
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


def dilate(boundary: U8) -> U8:
    """Widen a boundary map uint8[H,W] so that both sides of an edge are inside; stretch it to 0..255."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (DILATION_PIXELS, DILATION_PIXELS))
    wide = cv2.GaussianBlur(cv2.dilate(boundary, kernel), (5, 5), 0)
    return np.clip(wide.astype(np.float32) * 1.5, 0, 255).astype(np.uint8)


@torch.no_grad()
def masks_for(paths: list[Path], boundaries: Path | None, checkpoint: Path, cache: Path) -> list[U8]:
    """Edge masks uint8[H,W] for `paths`, from human boundaries where `boundaries/STEM.png` exists; cached as PNG."""
    cache.mkdir(parents=True, exist_ok=True)
    net = EdgeNet()
    net.load_state_dict(torch.load(checkpoint, weights_only=True))
    net.eval()
    masks = []
    for path in paths:
        kept = cache / f"{path.stem}.png"
        if not kept.exists():
            human = boundaries / f"{path.stem}.png" if boundaries is not None else None
            if human is not None and human.exists():
                plane = cv2.imread(str(human), cv2.IMREAD_GRAYSCALE)
            else:
                image = read_rgb(path)
                h, w = image.shape[:2]
                padded = cv2.copyMakeBorder(image, 0, -h % 8, 0, -w % 8, cv2.BORDER_REFLECT)
                x = torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 255
                plane = (torch.sigmoid(net(x))[0, 0, :h, :w].numpy() * 255).astype(np.uint8)
            cv2.imwrite(str(kept), dilate(plane))
        masks.append(cv2.imread(str(kept), cv2.IMREAD_GRAYSCALE))
    return masks

"""Train an RRDB post-filter with MSE on pictures that a codec decoded. Resumable and time-boxed.

Patches are coded on the fly by the torch model of a codec folder (symbols rounded as the bitstream has them, pictures
rounded to 8 bits): `lite` at the four λ of the paper and between, with base qualities as edges use them; the paper
family at each λ that an additional model was trained for.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from training.data import CropSampler, fits, list_images, read_rgb
from training.lite.train import evaluation_images
from training.models.pair import load_torch_codec
from training.postfilter.model import PostFilter, lengthen

NAMES = ("rrdb-l1", "rrdb-l2", "rrdb-fast")
CODED_CROP, BORDER = 128, 16
QUALITY_RANGE = (18, 58)
BASE_QUALITY_RANGE = (2, 30)
EASY_ERROR = 1e-5  # 50 dB: patches better than this count less
LR, LR_END = 2e-4, 5e-6


def build(name: str, work: Path) -> PostFilter:
    """A fresh filter; l = 2 starts from the l = 1 checkpoint in `work`."""
    if name == "rrdb-l2":
        short = PostFilter(1)
        short.load_state_dict(torch.load(work / "rrdb-l1.pt", weights_only=True)["model"])
        return lengthen(short)
    return PostFilter(1, unshuffle=2 if name == "rrdb-fast" else 1)


@torch.no_grad()
def decoded(codec: nn.Module, x: Tensor, base_quality: Tensor, quality: Tensor) -> Tensor:
    """What a viewer gets of float[B,3,H,W]: enhanced pictures rounded to 8 bits."""
    out: Tensor = codec(x, base_quality, quality)["enhanced"]
    return torch.round(out.clamp(0, 1) * 255) / 255


def draw(sampler: CropSampler, codec: nn.Module, batch: int, crop: int) -> tuple[Tensor, Tensor]:
    """(decoded, original) patches float[batch,3,crop,crop], away from the borders of what was coded."""
    rng = sampler.rng
    x = torch.from_numpy(sampler.batch(batch)[0]).float() / 255
    base_quality = torch.from_numpy(rng.integers(*BASE_QUALITY_RANGE, batch))
    y = decoded(codec, x, base_quality, torch.from_numpy(rng.integers(*QUALITY_RANGE, batch)))
    top, left = (
        BORDER + 4 * int(rng.integers(0, (CODED_CROP - 2 * BORDER - crop) // 4 + 1)) for _ in range(2)
    )
    window = (..., slice(top, top + crop), slice(left, left + crop))
    return y[window], x[window]


def error_ratio(refined: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """MSE behind the filter over MSE before it, a patch, then the mean: what mean PSNR rewards.

    A plain MSE over a batch would be ruled by its noisiest patch, and smooth camera frames would teach nothing.
    """
    after, before = ((a - x).square().flatten(1).mean(1) for a in (refined, y))
    return (after / (before + EASY_ERROR)).mean()


@torch.no_grad()
def gains(net: PostFilter, pairs: list[tuple[Tensor, Tensor]]) -> list[float]:
    """PSNR gain in dB for each (decoded, original) pair."""
    net.eval()
    result = []
    for y, x in pairs:
        with torch.autocast("cpu", torch.bfloat16):
            refined = net(y)
        refined = torch.round(refined.clamp(0, 1) * 255) / 255
        result.append(10 * math.log10((y - x).square().mean().item() / (refined - x).square().mean().item()))
    net.train()
    return result


def validation_pairs(codec: nn.Module, folder: Path, count: int) -> list[tuple[Tensor, Tensor]]:
    pairs = []
    for i, x in enumerate(evaluation_images(folder, count)):
        y = decoded(codec, x, torch.tensor([8]), torch.tensor([(25, 35, 46, 52)[i % 4]]))
        pairs.append((y[..., :192, :192], x[..., :192, :192]))
    return pairs


def train(
    name: str, data: Path, model: Path, work: Path, minutes: float,
    *, resume: bool, threads: int, more: Sequence[Path] = (), batch: int = 6,
) -> Path:  # fmt: skip
    """Train filter `name` for the codec in folder `model`; checkpoint to `work/NAME.pt`. Returns its path.

    Patches come from `data/train/images` and from the folders in `more`, camera frames say.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(3)
    codec = load_torch_codec(model)
    paths = [path for folder in (data / "train" / "images", *more) for path in list_images(folder)]
    images = [i for i in map(read_rgb, paths) if fits(i, CODED_CROP)]
    sampler = CropSampler(images, None, CODED_CROP, np.random.default_rng(int(time.time())))
    checkpoint = work / f"{name}.pt"
    net = build(name, work)
    optimiser = torch.optim.Adam(net.parameters(), lr=LR)
    step = 0
    if resume and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        step = state["step"]
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    crop = 96 if net.unshuffle > 1 else 48
    pairs = validation_pairs(codec, data / "val", 8)
    start, mean = time.monotonic(), 0.0
    while (spent := (time.monotonic() - start) / (60 * minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = LR_END + (LR - LR_END) * 0.5 * (1 + math.cos(math.pi * spent))
        y, x = draw(sampler, codec, batch, crop)
        with torch.autocast("cpu", torch.bfloat16):
            refined = net(y.to(memory_format=torch.channels_last))
        loss = error_ratio(refined, y, x)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        step += 1
        mean = loss.item() if mean == 0 else 0.98 * mean + 0.02 * loss.item()
        if step % 50 == 0:
            print(json.dumps({"step": step, "error_ratio": round(mean, 4)}), flush=True)
        if step % 100 == 0:
            print(
                json.dumps({"step": step, "val_gain_db": round(float(np.mean(gains(net, pairs))), 4)}),
                flush=True,
            )
            save(checkpoint, net, optimiser, step)
    save(checkpoint, net, optimiser, step)
    return checkpoint


def save(path: Path, net: PostFilter, optimiser: torch.optim.Optimizer, step: int) -> None:
    part = path.with_suffix(".part")
    torch.save({"model": net.state_dict(), "optimiser": optimiser.state_dict(), "step": step}, part)
    part.replace(path)

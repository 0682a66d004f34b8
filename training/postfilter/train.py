"""Train a post-filter on pictures that a codec decoded. Resumable and time-boxed.

Pictures are coded ahead by the torch model of a codec folder (symbols rounded as the bitstream has them, pictures
rounded to 8 bits): `lite` at the four λ of the paper and between, with base qualities as edges use them; the paper
family at each λ that an additional model was trained for.

For people the filter learns from squared errors on enhanced pictures. For machines it learns on base layers, and from
the distance of a detector's features between filtered picture and original (Shindo et al., ICALET 2023, "Accuracy
Improvement of Object Detection in VVC Coded Video Using YOLO-v7 Features").

A teacher, a larger filter, shows what can be known: originals differ from decoded pictures by much that no filter can
guess, and a student's steps would be mostly noise. Its picture is mixed into the original.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secondlook.shared.errors import ConfigError, ModelNotFound
from secondlook.training.data import U8, list_images, usable_images
from secondlook.training.detector.features import STRIDE, open_features
from secondlook.training.devices import (
    CPU,
    Recorded,
    adam,
    half_precision,
    read_ahead,
    restore,
    set_rate,
    training_device,
)
from secondlook.training.lite.train import evaluation_images
from secondlook.training.lite.weights import load_weights
from secondlook.training.models.pair import load_torch_codec
from secondlook.training.postfilter.model import PostFilter, lengthen
from secondlook.training.postfilter.pictures import Teach, code_ahead, draw, through_codec
from secondlook.training.postfilter.quick import QuickFilter
from secondlook.training.provenance import command_line, describe_images, tell_changes
from secondlook.training.runlog import RunLog
from secondlook.training.stopping import SaveClock, StopSignals

SIZES = {
    "rrdb-l1": {"unshuffle": 1, "features": 64, "growth": 32},
    "rrdb-fast": {"unshuffle": 2, "features": 64, "growth": 32},
    "rrdb-tiny": {"unshuffle": 4, "features": 32, "growth": 16},
}
QUICK = {"unshuffle": 2, "features": 48, "blocks": 6}
AnyFilter = PostFilter | QuickFilter
TEACHER_SHARE = 0.8  # of a student's target; the rest is the original
LARGEST_PATCH = 256  # pixels a side
EDGE = 4  # pixels at the sides of a patch that count for nothing: a filter lacks their surroundings
EASY_ERROR = 1e-5  # 50 dB: pictures better than this count less
EASY_DISTANCE = 0.02  # in units of FeatureDistance, likewise
PIXEL_SHARE = 0.1  # of the pixel loss beside features, which alone would let colours drift
WARM_UP_STEPS = 300  # until Adam knows how much each gradient varies
LR_END_SHARE = 0.025  # of the learning rate, where the cosine ends
CODING_SHARE = 0.2  # of a run's minutes, at most, in which pictures are coded
WHOLE = 3  # thirds of a patch's side
PAUSE_SECONDS = 60.0  # between two looks at the validation images

# (refined, decoded, original) float[B,3,H,W], errors of their whole pictures float[B], and at how many thirds of the
# side a detector sees them -> float[]
Loss = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class FilterConfig:
    """`layer`: "base", as machines see, or "enhanced", as people do. `loss`: "mse", or "features" of a detector.

    `patch`: side of what a step refines, pixels; 0 for 48, or 96 where the filter or its loss works at a lower scale.
    `steps`: over which the learning rate falls, and after which the run ends; 0: it falls over the minutes of a run.
    """

    layer: str = "enhanced"
    loss: str = "mse"
    batch: int = 6
    lr: float = 2e-4  # at the start
    patch: int = 0
    seed: int = 3
    steps: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1 or self.patch % 16 or not 0 <= self.patch <= LARGEST_PATCH:
            raise ConfigError(
                f"a step takes at least one patch, of at most {LARGEST_PATCH} pixels in steps of 16"
            )


def checkpoint_of(name: str, layer: str, work: Path) -> Path:
    """Filters of the two layers never share a file."""
    return work / f"{filter_name(name, layer)}.pt"


def filter_name(name: str, layer: str) -> str:
    """How the exported folder is called."""
    return name if layer == "enhanced" else f"{name}-{layer}"


def fresh(name: str) -> AnyFilter:
    """A filter of the size `name` that does nothing yet."""
    if name == "quick":
        return QuickFilter(**QUICK)
    length, size = (2, "rrdb-l1") if name == "rrdb-l2" else (1, name)
    return PostFilter(length, **SIZES[size])


def build(name: str, work: Path, layer: str = "enhanced") -> AnyFilter:
    """A fresh filter; l = 2 starts from the l = 1 checkpoint in `work`. Raises ModelNotFound if that is missing."""
    if name == "rrdb-l2":
        start = checkpoint_of("rrdb-l1", layer, work)
        if not start.exists():
            raise ModelNotFound(f"rrdb-l2 starts from {start}, which is not there: train rrdb-l1 first")
        short = PostFilter(1, **SIZES["rrdb-l1"])
        short.load_state_dict(torch.load(start, map_location="cpu", weights_only=True)["model"])
        return lengthen(short)
    return fresh(name)


def error_ratio(refined: Tensor, y: Tensor, x: Tensor, errors: Tensor, thirds: int = WHOLE) -> Tensor:
    """1 less what a patch gains in MSE, over the MSE of its whole picture, then the mean: what mean PSNR rewards."""
    inner = (..., slice(EDGE, -EDGE), slice(EDGE, -EDGE))
    after, before = ((a - x)[inner].square().flatten(1).mean(1) for a in (refined, y))
    return 1 + ((after - before) / (errors + EASY_ERROR)).mean()


class FeatureRatio:
    """Feature distance behind the filter over that before it, a patch, then the mean; and a share of `error_ratio`."""

    def __init__(self, detector: Path, device: torch.device = CPU) -> None:
        """`detector`: the YOLOX-nano export. Raises DetectorError for another file."""
        self._distance = open_features(detector).to(device)

    def __call__(self, refined: Tensor, y: Tensor, x: Tensor, errors: Tensor, thirds: int = WHOLE) -> Tensor:
        side = x.shape[2] * thirds // 3 // STRIDE * STRIDE
        return self.features(refined, y, x, side) + PIXEL_SHARE * error_ratio(refined, y, x, errors)

    def features(self, refined: Tensor, y: Tensor, x: Tensor, side: int | None = None) -> Tensor:
        """The ratio alone, seen at `side` pixels: below 1 where a detector gains."""
        with torch.no_grad():
            before = self._distance(x, y, side)
        return (self._distance(x, refined, side) / (before + EASY_DISTANCE)).mean()


def open_loss(loss: str, detector: Path | None, device: torch.device = CPU) -> Loss:
    """Raises ConfigError where a loss lacks its detector, and DetectorError where that is no usable one."""
    if loss == "mse":
        return error_ratio
    if detector is None:
        raise ConfigError(
            "--loss features needs --detector: the YOLOX-nano export whose features it compares"
        )
    return FeatureRatio(detector, device)


def open_teacher(folder: Path, device: torch.device) -> Teach:
    """The filter of a model folder, of this module's sizes, as what another learns from. Raises ModelNotFound."""
    name = folder.name
    if name not in SIZES and name != "rrdb-l2":
        raise ModelNotFound(
            f"no teacher at {folder}: it is the folder of an RRDB filter, exported_models/rrdb-l1 say"
        )
    net = fresh(name)
    net.load_state_dict(load_weights(folder))
    net = net.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def teach(y: Tensor) -> Tensor:
        height, width = y.shape[2:]
        wide = F.pad(y, (0, -width % net.unshuffle, 0, -height % net.unshuffle), mode="replicate")
        with torch.no_grad(), half_precision(device.type):
            refined: Tensor = net(wide.to(memory_format=torch.channels_last))
        return refined.float()[..., :height, :width]

    return teach


Pair = tuple[Tensor, Tensor, Tensor]  # decoded, original float[1,3,H,W], quality float[1]


@torch.no_grad()
def gains(net: AnyFilter, pairs: list[Pair]) -> list[float]:
    """PSNR gain in dB for each pair."""
    net.eval()
    result = []
    for y, x, quality in pairs:
        with half_precision(y.device.type):
            refined = net(y, quality)
        refined = torch.round(refined.clamp(0, 1) * 255) / 255
        result.append(10 * math.log10((y - x).square().mean().item() / (refined - x).square().mean().item()))
    net.train()
    return result


@torch.no_grad()
def judge(net: AnyFilter, pairs: list[Pair], loss: Loss) -> dict[str, float]:
    """Figures for the log."""
    facts = {"val_gain_db": float(np.mean(gains(net, pairs)))}
    if isinstance(loss, FeatureRatio):
        net.eval()
        facts["val_feature_ratio"] = float(
            np.mean([loss.features(net(y, q).clamp(0, 1), y, x).item() for y, x, q in pairs])
        )
        net.train()
    return {name: round(value, 4) for name, value in facts.items()}


def validation_pairs(
    codec: nn.Module, folder: Path, count: int, layer: str, device: torch.device = CPU
) -> list[Pair]:
    pairs = []
    for i, image in enumerate(evaluation_images(folder, count)):
        x = image.to(device)
        base, quality = (torch.tensor([q], device=device) for q in (8, (25, 35, 46, 52)[i % 4]))
        y = through_codec(codec, x, base, quality, layer)
        pairs.append((y[..., :192, :192], x[..., :192, :192], quality.float()))
    return pairs


def train(
    name: str,
    data: Path,
    model: str | Path,
    work: Path,
    minutes: float,
    *,
    resume: bool,
    threads: int,
    more: Sequence[Path] = (),
    detector: Path | None = None,
    start_from: Path | None = None,
    teacher: Path | None = None,
    config: FilterConfig = FilterConfig(),
    tensorboard: bool = False,
) -> Path:
    """Train filter `name` for the codec in folder `model`; checkpoint to `work`. Returns its path.

    Patches come from `data/train/images` and from the folders in `more`, camera frames say. `start_from`: a model
    folder whose weights a run begins with that has no checkpoint to resume. `teacher`: one of a filter to learn from.
    """
    torch.set_num_threads(threads)
    device = training_device()
    loss_of = open_loss(config.loss, detector, device)
    work.mkdir(parents=True, exist_ok=True)
    codec = load_torch_codec(model).to(device)
    checkpoint = checkpoint_of(name, config.layer, work)
    torch.manual_seed(config.seed)
    net = build(name, work, config.layer) if start_from is None else fresh(name)
    net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = adam(net, config.lr, device)
    step = first = begin(net, optimiser, checkpoint if resume else None, start_from, config)
    rng = np.random.default_rng((config.seed, step))
    side = config.patch or (48 if net.unshuffle == 1 and config.loss == "mse" else 96)
    found = [path for folder in (data / "train" / "images", *more) for path in list_images(folder)]
    paths = usable_images(found, side)
    source = {**describe_images(paths), "seed": config.seed, "command": command_line()}
    start = time.monotonic()
    pairs = validation_pairs(codec, data / "val", 8, config.layer, device)
    spent = partial(share_spent, start, minutes)
    teach = None if teacher is None else open_teacher(teacher, device)
    coded = code_ahead(
        codec, paths, config.layer, side, rng, device, is_over=lambda: spent() > CODING_SHARE, teach=teach
    )
    draws = read_ahead(lambda: draw(coded, config.batch, side, rng), device)
    advance = Recorded(stepper(net, optimiser, loss_of), device)
    mean, clock, telling = torch.zeros((), device=device), SaveClock(), SaveClock(PAUSE_SECONDS)
    length = {"minutes": minutes, "steps": config.steps, "start": first}
    with RunLog(work, checkpoint.stem, **length, tensorboard=tensorboard) as log, StopSignals() as stop:
        log.say({"coded": len(coded), "seconds": round(time.monotonic() - start)})
        while (step == first or spent() < 1) and not 0 < config.steps <= step and stop.asked is None:
            progress = step / config.steps if config.steps else spent()
            rate = config.lr * rate_share(progress, step - first)
            set_rate(optimiser, rate)
            drawn = next(draws)
            ratio = advance(drawn.thirds if config.loss == "features" else WHOLE, *drawn[:-1])["ratio"]
            step += 1
            mean = mean + (0.02 if step > first + 1 else 1.0) * (ratio - mean)
            log.advance(step)
            if step % 50 == 0:
                log.tell(step, {f"{config.loss}_ratio": mean.item(), "lr": rate})
            if clock.is_due():
                save(checkpoint, net, optimiser, step, config, source)
            if telling.is_due():
                _tell(log, step, net, pairs, loss_of)
        draws.close()
        save(checkpoint, net, optimiser, step, config, source)
        stop.end(checkpoint, step)
        _tell(log, step, net, pairs, loss_of)
    return checkpoint


def _tell(log: RunLog, step: int, net: AnyFilter, pairs: list[Pair], loss: Loss) -> None:
    log.tell(step, judge(net, pairs, loss))
    log.picture(step, sample_of(net, pairs[0]))


@torch.no_grad()
def sample_of(net: AnyFilter, pair: Pair) -> U8:
    """Original, decoded and refined, side by side: uint8[H,3W,3]."""
    y, x, quality = pair
    net.eval()
    with half_precision(y.device.type):
        refined = net(y, quality)
    net.train()
    shown = torch.cat([x, y, refined.float()], 3)[0].clamp(0, 1).mul(255).round()
    return np.ascontiguousarray(shown.permute(1, 2, 0).to(torch.uint8).cpu().numpy())


def begin(
    net: AnyFilter,
    optimiser: torch.optim.Optimizer,
    checkpoint: Path | None,
    start_from: Path | None,
    config: FilterConfig,
) -> int:
    """Load a checkpoint, where there is one, else the weights of a model folder, if given. -> steps taken so far."""
    if checkpoint is not None and checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        net.load_state_dict(state["model"])
        restore(optimiser, state["optimiser"])
        tell_changes(state.get("config", {}), asdict(config))
        return int(state["step"])
    if start_from is not None:
        net.load_state_dict(load_weights(start_from))
    return 0


def share_spent(start: float, minutes: float) -> float:
    """Of a run that began at `start` of the monotonic clock."""
    return (time.monotonic() - start) / (60 * minutes)


def rate_share(spent: float, steps: int) -> float:
    """What to multiply the learning rate with: up over the first steps, then down as a cosine of its share of a run."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(spent, 1.0)))
    return min(1.0, (steps + 1) / WARM_UP_STEPS) * (LR_END_SHARE + (1 - LR_END_SHARE) * cosine)


def stepper(
    net: nn.Module, optimiser: torch.optim.Optimizer, loss_of: Loss
) -> Callable[..., dict[str, Tensor]]:
    """A step of `optimiser` for `Recorded`: (thirds, the tensors of a `Draw`) -> its loss as "ratio" float[]."""

    def step(
        thirds: int, decoded: Tensor, original: Tensor, taught: Tensor, errors: Tensor, qualities: Tensor
    ) -> dict[str, Tensor]:
        y, x, shown = decoded.float() / 255, original.float() / 255, taught.float() / 255
        x = x + TEACHER_SHARE * (shown - x)  # gradients as of both errors, in these shares
        with half_precision(x.device.type):
            refined = net(y.to(memory_format=torch.channels_last), qualities)
        loss = loss_of(refined, y, x, errors, thirds)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        return {"ratio": loss.detach()}

    return step


def save(
    path: Path,
    net: AnyFilter,
    optimiser: torch.optim.Optimizer,
    step: int,
    config: FilterConfig,
    source: Mapping[str, Any],
) -> None:
    part = path.with_suffix(".part")
    state = {
        "model": net.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": step,
        "config": asdict(config),
        "source": dict(source),
    }
    torch.save(state, part)
    part.replace(path)

"""Train the machine's filter on frames as workers decode them. Resumable and time-boxed.

The loss is the distance of a detector's features between filtered frame and original, over that before the filter
(Shindo et al., ICALET 2023, "Accuracy Improvement of Object Detection in VVC Coded Video Using YOLO-v7 Features"), and
a share of the squared error's ratio, without which colours would drift. Ratios are of whole halves of a batch: what
coding lost most counts most.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from secondlook.shared.errors import ConfigError
from secondlook.training.data import list_images, usable_images
from secondlook.training.detector.features import STRIDE, FeatureDistance, open_features
from secondlook.training.devices import adam, half_precision, restore, set_rate, training_device
from secondlook.training.lite.weights import load_weights
from secondlook.training.machine.measure import find_videos, read_clip
from secondlook.training.machinefilter.model import MachineFilter
from secondlook.training.machinefilter.scenes import Sample, cropped, samples_of_clip, samples_of_images
from secondlook.training.postfilter.train import rate_share
from secondlook.training.provenance import command_line, describe_images, tell_changes
from secondlook.training.runlog import RunLog
from secondlook.training.stopping import SaveClock, StopSignals

NAME = "machine-filter"
SIDE = 224  # pixels of a crop
FPS = 5.0
PIXEL_SHARE = 0.1  # of the squared error's ratio
EASY_DISTANCE, EASY_ERROR = 1e-3, 1e-5  # what was hardly lost cannot be won back
SEEN_SIDES = (96, 320)  # pixels at which a crop is shown to the detector
SEEN_SCALES = (0.8, 1.25)  # around the scale at which it sees whole frames
CODING_SHARE = 0.2  # of a run's minutes, at most, in which scenes of images are coded
AVERAGING = 0.998  # decay a step of the moving average of the weights, which is what is exported
KEPT_OUT = 20  # every so manyth sample is for validation
PAUSE_SECONDS = 300.0  # between two looks at those, which take a while


@dataclass(frozen=True)
class MachineFilterConfig:
    """`batch`: crops a step, half of clips and half of images; `lr`: at the start; `clip_frames`: of each clip."""

    batch: int = 8
    lr: float = 6e-4
    clip_frames: int = 100
    seed: int = 5
    features: int = 48
    blocks: int = 4

    def __post_init__(self) -> None:
        if self.batch < 2 or self.batch % 2:
            raise ConfigError("a step takes an even number of crops, half of clips and half of images")


@dataclass(frozen=True)
class Half:
    """Crops seen at one scale: uint8[B,3,SIDE,SIDE] each, and the side at which a detector sees them."""

    decoded: Tensor
    background: Tensor
    original: Tensor
    seen_at: int

    def to(self, device: torch.device) -> Half:
        pictures = (each.to(device) for each in (self.decoded, self.background, self.original))
        return Half(*pictures, self.seen_at)


def stacked(samples: Sequence[Sample], scale: float, rng: np.random.Generator) -> Half:
    """Crops of `SIDE` pixels at random places, half of them flipped, to be seen at about `scale`."""
    low, high = SEEN_SCALES
    side = round(SIDE * scale * low * (high / low) ** rng.random() / STRIDE) * STRIDE
    planes: list[list[np.ndarray]] = [[], [], []]
    for sample in samples:
        one = cropped(sample, SIDE, rng)
        step = -1 if rng.random() < 0.5 else 1
        for into, picture in zip(planes, (one.decoded, one.background, one.original), strict=True):
            into.append(picture[:, ::step].transpose(2, 0, 1))
    pictures = (torch.from_numpy(np.stack(each)) for each in planes)
    return Half(*pictures, min(max(side, SEEN_SIDES[0]), SEEN_SIDES[1]))


class Pools:
    """Samples to draw from: those of images, and those of each clip."""

    def __init__(
        self, of_images: list[Sample], of_clips: list[list[Sample]], config: MachineFilterConfig
    ) -> None:
        self._pools = [of_images, *of_clips]
        self._half = config.batch // 2
        self._kept_out = [pool[::KEPT_OUT] for pool in self._pools]
        self._learned = [
            [sample for number, sample in enumerate(pool) if number % KEPT_OUT] for pool in self._pools
        ]

    @property
    def sizes(self) -> list[int]:
        """Samples of images, then of each clip."""
        return [len(pool) for pool in self._pools]

    def draw(self, rng: np.random.Generator) -> list[Half]:
        """Crops of images, then of one clip."""
        clip = 1 + int(rng.integers(len(self._pools) - 1))
        return [self._of(self._learned[pool], rng) for pool in (0, clip)]

    def validation(self) -> list[Half]:
        rng = np.random.default_rng(0)
        return [self._of(pool, rng) for pool in self._kept_out]

    def _of(self, pool: list[Sample], rng: np.random.Generator) -> Half:
        chosen = [pool[int(one)] for one in rng.integers(len(pool), size=self._half)]
        return stacked(chosen, chosen[0].scale, rng)


def ratios(distance: FeatureDistance, filtered: Tensor, half: Half) -> tuple[Tensor, Tensor]:
    """Feature distance and squared error behind the filter over those before it, float[] each."""
    before, original = (each.float() / 255 for each in (half.decoded, half.original))
    both, alone = (
        each.contiguous(memory_format=torch.channels_last)
        for each in (torch.cat([original, before]), filtered)
    )
    with half_precision(before.device.type):
        with torch.no_grad():
            maps = distance.maps(both, half.seen_at)
        found = distance.maps(alone, half.seen_at)
    wanted, coded = zip(*(each.float().chunk(2) for each in maps), strict=True)
    lost = distance.between(wanted, coded).sum()
    left = distance.between(wanted, [each.float() for each in found]).sum()
    squared = [(each - original).square().mean() for each in (filtered, before)]
    return left / (lost + EASY_DISTANCE), squared[0] / (squared[1] + EASY_ERROR)


def filtered_of(net: torch.nn.Module, halves: Sequence[Half]) -> list[Tensor]:
    """All halves through the filter at once, float[B,3,SIDE,SIDE] each."""
    image, background = (
        torch.cat([getattr(half, name) for half in halves]).float() / 255
        for name in ("decoded", "background")
    )
    with half_precision(image.device.type):
        filtered = net(*(each.to(memory_format=torch.channels_last) for each in (image, background)))
    return list(filtered.float().split([len(half.decoded) for half in halves]))


@torch.no_grad()
def judge(
    net: torch.nn.Module, distances: Sequence[FeatureDistance], kept_out: Sequence[Half]
) -> dict[str, float]:
    """Means over the samples that were kept out, and over detectors: below 1 where the filter helps."""
    found = []
    for half in kept_out:
        filtered = filtered_of(net, [half])[0].clamp(0, 1)
        found += [[float(one) for one in ratios(distance, filtered, half)] for distance in distances]
    figures = np.mean(found, axis=0)
    return {"val_feature_ratio": round(float(figures[0]), 4), "val_error_ratio": round(float(figures[1]), 4)}


def train(
    data: Path,
    videos: Sequence[Path],
    detectors: Sequence[Path],
    work: Path,
    minutes: float,
    *,
    resume: bool,
    threads: int,
    start_from: Path | None = None,
    config: MachineFilterConfig = MachineFilterConfig(),
    tensorboard: bool = False,
) -> Path:
    """Train; checkpoint to `work`. Returns its path.

    Scenes are made of `data/train/images` and of the clips in `videos`. `detectors`: whose features are
    compared, those of one a step: model folders or the YOLOX-nano export. `start_from`: a model folder whose weights a
    run begins with. Raises ConfigError without a detector.
    """
    torch.set_num_threads(threads)
    device, began = training_device(), time.monotonic()
    if not detectors:
        raise ConfigError("the loss needs at least one detector")
    distances = [open_features(detector).to(device) for detector in detectors]
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = work / f"{NAME}.pt"
    torch.manual_seed(config.seed)
    net = MachineFilter(features=config.features, blocks=config.blocks)
    net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if start_from is not None:
        net.load_state_dict(load_weights(start_from))
    averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(AVERAGING))
    optimiser = adam(net, config.lr, device)
    step = first = _restored(checkpoint, net, averaged, optimiser, config) if resume else 0
    rng = np.random.default_rng((config.seed, step))

    def spent() -> float:
        return (time.monotonic() - began) / (60 * minutes)

    with (
        StopSignals() as stop,
        RunLog(work, NAME, minutes=minutes, start=first, tensorboard=tensorboard) as log,
    ):
        paths, clips = usable_images(list_images(data / "train" / "images"), SIDE), find_videos(videos)
        source = {**describe_images(paths), "videos": [path.name for path in clips]}
        source |= {"seed": config.seed, "command": command_line()}
        pools = _coded_ahead(paths, clips, config, rng, spent)
        kept_out = [half.to(device) for half in pools.validation()]
        log.say({"samples": pools.sizes, "seconds": round(time.monotonic() - began)})
        mean, clock, telling = np.ones(2), SaveClock(), SaveClock(PAUSE_SECONDS)
        while (step == first or spent() < 1) and stop.asked is None:
            rate = config.lr * rate_share(spent(), step - first)
            set_rate(optimiser, rate)
            distance = distances[int(rng.integers(len(distances)))]
            found = _advance(net, averaged, optimiser, distance, [one.to(device) for one in pools.draw(rng)])
            mean += 0.02 * (found - mean)
            step += 1
            log.advance(step)
            if step % 50 == 0:
                log.tell(step, {"feature_ratio": mean[0], "error_ratio": mean[1], "lr": rate})
            if clock.is_due():
                _save(checkpoint, net, averaged, optimiser, step, config, source)
            if telling.is_due():
                log.tell(step, judge(averaged.module, distances, kept_out))
        _save(checkpoint, net, averaged, optimiser, step, config, source)
        stop.end(checkpoint, step)
        log.tell(step, judge(averaged.module, distances, kept_out))
    return checkpoint


def _coded_ahead(
    paths: Sequence[Path],
    clips: Sequence[Path],
    config: MachineFilterConfig,
    rng: np.random.Generator,
    spent: Callable[[], float],
) -> Pools:
    """Samples of all clips, and of images for `CODING_SHARE` of the run."""
    of_clips = [samples_of_clip(read_clip(path, fps=FPS, most_frames=config.clip_frames)) for path in clips]
    until = spent() + CODING_SHARE
    return Pools(samples_of_images(paths, SIDE, rng, is_over=lambda: spent() > until), of_clips, config)


def _advance(
    net: MachineFilter,
    averaged: AveragedModel,
    optimiser: torch.optim.Optimizer,
    distance: FeatureDistance,
    halves: Sequence[Half],
) -> np.ndarray:
    """One step; its two ratios, float[2]."""
    filtered = filtered_of(net, halves)
    found = [ratios(distance, one, half) for one, half in zip(filtered, halves, strict=True)]
    features, errors = (torch.stack(each).mean() for each in zip(*found, strict=True))
    optimiser.zero_grad(set_to_none=True)
    (features + PIXEL_SHARE * errors).backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimiser.step()
    averaged.update_parameters(net)
    return np.array([float(features.detach()), float(errors.detach())])


def _restored(
    checkpoint: Path,
    net: MachineFilter,
    averaged: AveragedModel,
    optimiser: torch.optim.Optimizer,
    config: MachineFilterConfig,
) -> int:
    """Load the checkpoint, where there is one. -> steps taken so far."""
    if not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    net.load_state_dict(state["learning"])
    averaged.module.load_state_dict(state["model"])
    averaged.n_averaged.fill_(state["step"])
    restore(optimiser, state["optimiser"])
    tell_changes(state.get("config", {}), asdict(config))
    return int(state["step"])


def _save(
    path: Path,
    net: MachineFilter,
    averaged: AveragedModel,
    optimiser: torch.optim.Optimizer,
    step: int,
    config: MachineFilterConfig,
    source: Mapping[str, Any],
) -> None:
    part = path.with_suffix(".part")
    state = {
        "model": averaged.module.state_dict(),
        "learning": net.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": step,
        "config": asdict(config),
        "source": dict(source),
    }
    torch.save(state, part)
    part.replace(path)

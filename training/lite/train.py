"""Train the `lite` codec: both layers, all qualities, one run. Resumable and time-boxed.

Loss a sample, with λ drawn through the quality of each layer:
    R_b + λ_b·255²·D_b + R_e + λ_e·255²·mean((x - x̂)²)
    D_b = mean(w·(x - x̂_b)²) + f·d(x, x̂_b),  w from the edge masks (SA-ICM), d the distance of a detector's features.
Samples are weighted by λ_e^-0.25, so that the high qualities do not drown the low ones.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from secondlook.shared.errors import ConfigError
from secondlook.training.data import U8, CropSampler, list_images, read_rgb, usable_images
from secondlook.training.detector.features import STRIDE, open_features
from secondlook.training.devices import (
    Recorded,
    adam,
    half_precision,
    read_ahead,
    restore,
    set_rate,
    training_device,
)
from secondlook.training.lite.conditioned import ConditionedCodec
from secondlook.training.lite.decoded_pairs import Clips, PairSampler, kept_pairs, load_pairs, with_decoded
from secondlook.training.lite.layers import DepthConvBlock
from secondlook.training.lite.model import (
    BASE_SHARE,
    LAMBDA_HIGH,
    LAMBDA_LOW,
    LOG_STEP,
    SIGMA_LOW,
    LiteCodec,
    edge_weighted_error,
    lambda_of,
    silence_base,
    train_only,
)
from secondlook.training.lite.scale_network import KNOTS, QUALITIES
from secondlook.training.lite.weights import load_weights
from secondlook.training.masks.cache import MaskProvider, masks_for
from secondlook.training.masks.choice import DEFAULT_MASKS, MaskConfig, open_masks
from secondlook.training.provenance import command_line, describe_images, tell_changes
from secondlook.training.runlog import RunLog
from secondlook.training.stopping import SaveClock, StopSignals

GAIN_CROPS = 256  # from which a conditioned codec's first gains are found
SHOWN_QUALITY = 16  # base quality of `video` in what a conditioned codec is evaluated on


@dataclass(frozen=True)
class TrainConfig:
    """Learning rate decays from `lr` to `lr_end` over the last 45% of `total_steps`.

    `averaging` is the decay a step of the exponential moving average of the weights, which is what is exported.
    `feature_weight`: squared error (0..1 scale) that one unit of feature distance is worth in the base layer.
    `base_skew`: base qualities are drawn as 64·u^base_skew, so that more of them are low, where base layers live.
    `single_layer`: the base layer is put to silence, and the enhancement is all there is.
    `only`: "base" or "enhancement", the layer that learns; the other and the trunk stand still. Empty for both.
    `conditioned`: the enhancement sees what `video` made of the picture, in the place of the base layer.
    `lambda_low`, `lambda_high`: λ of qualities 0 and 63; `base_share`: of λ, for the base layer at the same quality.
    """

    crop: int = 128
    batch: int = 8
    lr: float = 5e-4
    lr_end: float = 2e-5
    total_steps: int = 15000
    mask_floor: float = 0.5
    feature_weight: float = 0.0
    base_skew: float = 1.4
    single_layer: bool = False
    only: str = ""
    conditioned: bool = False
    seed: int = 7
    averaging: float = 0.999
    lambda_low: float = LAMBDA_LOW
    lambda_high: float = LAMBDA_HIGH
    base_share: float = BASE_SHARE

    def lambda_of(self, quality: Tensor) -> Tensor:
        """λ float[B] of the enhancement at qualities int64[B]; the base layer's is `base_share` of it."""
        return lambda_of(quality, self.lambda_low, self.lambda_high)


def name_of(config: TrainConfig) -> str:
    """Of the checkpoint and of the figures beside it."""
    return "conditioned" if config.conditioned else "lite"


def check_clips(config: TrainConfig, clips: Clips | None, start_from: Path | None) -> None:
    """Raises ConfigError for settings that do not go together."""
    if config.conditioned and clips is None:
        raise ConfigError("--conditioned needs --clips, whose frames `video` codes")
    if clips is not None and config.only != "enhancement":
        raise ConfigError("--clips trains the enhancement alone: add --only enhancement")
    if clips is not None and start_from is None:
        raise ConfigError("--clips goes on from the weights of a model: add --from-model")


def draw_qualities(n: int, rng: np.random.Generator, skew: float = 1.4) -> tuple[Tensor, Tensor]:
    """(base, enhancement) qualities int64[n]; base ones lean to the low end with `skew` above 1."""
    base = np.floor(QUALITIES * rng.random(n) ** skew).astype(np.int64)
    return torch.from_numpy(base), torch.from_numpy(rng.integers(0, QUALITIES, n))


class Draw(NamedTuple):
    """What one step trains on: uint8[B,3,crop,crop], masks uint8[B,1,crop,crop], qualities int64[B].

    A conditioned codec takes uint8[B,6,crop,crop], original and decoded, and masks may be uint8[B,1,1,1].
    `thirds`: of the crop's side, at which the detector sees it.
    """

    pictures: Tensor
    masks: Tensor
    base_quality: Tensor
    quality: Tensor
    thirds: int


def loss_of(
    out: dict[str, Tensor],
    x: Tensor,
    base_error: Tensor,
    base_quality: Tensor,
    quality: Tensor | None,
    config: TrainConfig,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`base_error`: D_b float[B]. Returns the loss and figures for the log; with `quality` None of the base alone."""
    lam = config.lambda_of(base_quality)
    each = out["bpp_base"] + config.base_share * lam * 255**2 * base_error
    facts = {
        "bpp_base": out["bpp_base"].mean(),
        "psnr_base": (-10 * torch.log10((out["base"] - x).square().flatten(1).mean(1))).mean(),
    }
    if quality is not None:
        lam = config.lambda_of(quality)
        error = (out["enhanced"] - x).square().flatten(1).mean(1)
        each = each + out["bpp_enhancement"] + lam * 255**2 * error
        facts["bpp_enhancement"] = out["bpp_enhancement"].mean()
        facts["psnr"] = (-10 * torch.log10(error)).mean()
    return (each * (lam / 0.01) ** -0.25).mean(), {name: value.detach() for name, value in facts.items()}


@torch.no_grad()
def start_scales(model: LiteCodec, sampler: CropSampler) -> None:
    """Set the biases of the σ-index networks from the spread of each channel, measured at every knot."""
    for knot in range(KNOTS):
        quality = torch.full((16,), round(knot * (QUALITIES - 1) / (KNOTS - 1)))
        x = torch.from_numpy(sampler.batch(16)[0]).float() / 255
        y_b, y_e = model.analyse(x)
        for layer, y in ((model.base, y_b), (model.enhancement, y_e)):
            y = y * torch.exp(layer.log_gain(quality))
            z = layer.hyper_analysis(y)
            for values, knots, per_unit in (
                (y, layer.scale.index.bias.knots, 8),
                (z, layer.z_index.knots, 8),
            ):
                spread = values.transpose(0, 1).flatten(1).std(1).clamp(min=SIGMA_LOW)
                knots[knot] = torch.log(spread / SIGMA_LOW) / LOG_STEP / per_unit


def evaluation_images(folder: Path, count: int) -> list[Tensor]:
    """The first `count` images, cropped to multiples of 64: float[1,3,H,W]."""
    images = []
    for path in list_images(folder)[:count]:
        image = read_rgb(path)
        h, w = (s // 64 * 64 for s in image.shape[:2])
        images.append(torch.from_numpy(image[:h, :w].transpose(2, 0, 1)[None].astype(np.float32) / 255))
    return images


@torch.no_grad()
def evaluate(model: LiteCodec, images: list[Tensor], points: list[tuple[int, int]]) -> list[dict[str, float]]:
    """Mean estimated rates and PSNR at (base quality, quality) points. An estimate for training only."""
    model.eval()
    rows = []
    device = next(model.parameters()).device
    for base_quality, quality in points:
        facts = []
        for x in (image.to(device) for image in images):
            out = model(x, *(torch.tensor([q], device=device) for q in (base_quality, quality)))
            errors = [(out[k].clamp(0, 1) - x[:, :3]).square().mean().item() for k in ("base", "enhanced")]
            facts.append(
                [
                    out["bpp_base"].item(),
                    out["bpp_enhancement"].item(),
                    *(-10 * math.log10(e) for e in errors),
                ]
            )
        mean = np.mean(facts, 0)
        rows.append(
            {
                "base_quality": base_quality,
                "quality": quality,
                "bpp_base": mean[0],
                "bpp": mean[0] + mean[1],
                "psnr_base": mean[2],
                "psnr": mean[3],
            }
        )
    model.train()
    return rows


@torch.no_grad()
def sample_of(model: LiteCodec, image: Tensor) -> U8:
    """A validation picture beside what is decoded of it, from the base layer and from both: uint8[H,3W,3]."""
    device = next(model.parameters()).device
    x = image.to(device)
    model.eval()
    out = model(x, *(torch.tensor([quality], device=device) for quality in (16, 36)))
    model.train()
    shown = torch.cat([x[:, :3], out["base"], out["enhanced"]], 3)[0].clamp(0, 1).mul(255).round()
    return np.ascontiguousarray(shown.permute(1, 2, 0).to(torch.uint8).cpu().numpy())


def load_sampler(
    paths: list[Path], work: Path, config: TrainConfig, masks: MaskProvider | None
) -> CropSampler:
    """Crops of the training images, with their masks where there is a provider of any."""
    made = None if masks is None else masks_for(masks, paths, work / "masks")
    return CropSampler(
        [read_rgb(path) for path in paths], made, config.crop, np.random.default_rng(config.seed)
    )


def halve_precision(model: LiteCodec) -> None:
    """Run the blocks in bfloat16 where that is fast. Residual paths, so also means and symbols, stay float32."""
    for module in model.modules():
        if isinstance(module, DepthConvBlock):
            device = module.p1.weight.device.type
            module.forward = half_precision(device)(module.forward)  # type: ignore[method-assign]


class Run:
    """A training run: model, its average, optimiser, data and the step it is at."""

    def __init__(
        self,
        data: Path,
        work: Path,
        config: TrainConfig,
        detector: Path | None,
        masks: MaskConfig,
        clips: Clips | None = None,
    ) -> None:
        self.config, self.checkpoint, self.step = config, work / f"{name_of(config)}.pt", 0
        self.device = training_device()
        base_learns = config.only != "enhancement"
        seen = base_learns and detector is not None
        self.distance = open_features(detector).to(self.device) if seen else None
        provider = open_masks(masks, data, work) if base_learns else None
        paths = usable_images(list_images(data / "train" / "images"), config.crop)
        self.sampler: CropSampler | PairSampler
        if clips is None:
            self.sampler = load_sampler(paths, work, config, provider)
        else:
            pairs = kept_pairs(clips, data / "train" / "images", work, config.crop, config.seed)
            self.sampler = load_pairs(pairs, config.crop, config.seed, decoded=config.conditioned)
            paths += clips.paths()
        self.source = describe_images(paths)
        model = ConditionedCodec() if config.conditioned else LiteCodec()
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = adam(self.model, config.lr, self.device)
        self.recorded = Recorded(self._step, self.device)

    def start(self, *, resume: bool, start_from: Path | None) -> None:
        """From the checkpoint if `resume` and there is one, else from a model folder's weights, else from the DCT."""
        average = None
        if resume and self.checkpoint.exists():
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            self.model.load_state_dict(state["live"])
            restore(self.optimiser, state["optimiser"])
            self.step, average = state["step"], state["model"]
            tell_changes(state["config"], asdict(self.config))
            self.sampler.rng = np.random.default_rng(self.config.seed + self.step)
        elif isinstance(self.sampler, PairSampler):
            assert start_from is not None
            self.model.load_state_dict(load_weights(start_from), strict=not self.config.conditioned)
            if isinstance(self.model, ConditionedCodec):
                pictures, base_quality = (torch.from_numpy(a) for a in self.sampler.batch(GAIN_CROPS))
                x = pictures.float() / 255
                self.model.start_gain(x.to(self.device), base_quality.to(self.device))
                # so that it learns on the crops that a run without the condition draws
                self.sampler.rng = np.random.default_rng(self.config.seed)
        elif start_from is not None:
            self.model.load_state_dict(load_weights(start_from))
        else:
            start_scales(self.model, self.sampler)
        if self.config.single_layer:
            silence_base(self.model)
        if self.config.only:
            train_only(self.model, self.config.only)
        self.average = AveragedModel(
            self.model, multi_avg_fn=get_ema_multi_avg_fn(self.config.averaging), use_buffers=True
        )
        if average is not None:
            self.average.module.load_state_dict(average)
            self.average.n_averaged.fill_(self.step)
        halve_precision(self.model)

    def save(self) -> None:
        part = self.checkpoint.with_suffix(".part")
        state = {
            "model": self.average.module.state_dict(),
            "live": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "config": asdict(self.config),
            "source": {**self.source, "seed": self.config.seed, "command": command_line()},
        }
        torch.save(state, part)
        part.replace(self.checkpoint)

    def draw(self) -> Draw:
        rng = self.sampler.rng
        pictures, masks = (torch.from_numpy(a) for a in self.sampler.batch(self.config.batch))
        qualities = draw_qualities(self.config.batch, rng, self.config.base_skew)
        if isinstance(self.sampler, PairSampler):  # what came with the pictures are qualities of `video`
            coded = masks if self.config.conditioned else qualities[0]
            return Draw(
                pictures, torch.zeros(len(pictures), 1, 1, 1, dtype=torch.uint8), coded, qualities[1], 3
            )
        # Detectors mostly look at frames scaled down; at times they see every pixel.
        return Draw(pictures, masks, *qualities, int(rng.integers(2, 4)) if self.distance is not None else 3)

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        config = self.config
        decay = max(0.0, (self.step / config.total_steps - 0.55) / 0.45)
        return config.lr * (config.lr_end / config.lr) ** decay * min(1.0, (self.step + 1) / 200)

    def advance(self, draw: Draw) -> dict[str, Tensor]:
        """One step of the optimiser; its figures, float[] each."""
        set_rate(self.optimiser, self.rate)
        figures = self.recorded(draw.thirds, *draw[:4])
        self.average.update_parameters(self.model)
        self.step += 1
        return figures

    def _step(
        self, thirds: int, pictures: Tensor, masks: Tensor, base_quality: Tensor, quality: Tensor
    ) -> dict[str, Tensor]:
        config = self.config
        x, mask = pictures.float() / 255, masks.float() / 255
        wanted = None if config.only == "base" else quality
        out = self.model(x, base_quality, wanted)
        x = x[:, :3]
        base_error = edge_weighted_error(x, out["base"], mask, config.mask_floor)
        seen = torch.zeros((), device=x.device)
        if self.distance is not None:
            side = config.crop * thirds // 3 // STRIDE * STRIDE
            seen = self.distance(x, out["base"], side)
            base_error = base_error + config.feature_weight * seen
        loss, facts = loss_of(out, x, base_error, base_quality, wanted, config)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 2.0)
        self.optimiser.step()
        return {**facts, "features": seen.mean().detach(), "loss": loss.detach()}


def train(
    data: Path,
    work: Path,
    minutes: float,
    config: TrainConfig,
    *,
    resume: bool,
    threads: int,
    start_from: Path | None = None,
    detector: Path | None = None,
    masks: MaskConfig = DEFAULT_MASKS,
    clips: Clips | None = None,
    tensorboard: bool = False,
) -> Path:
    """Train for `minutes` or until `total_steps`; checkpoint `work/lite.pt` every half minute. Returns its path.

    With `clips` on frames of them as well, coded by `video`; a conditioned codec's checkpoint is `conditioned.pt`.
    """
    check_clips(config, clips, start_from)
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    torch.manual_seed(config.seed)
    work.mkdir(parents=True, exist_ok=True)
    run = Run(data, work, config, detector, masks, clips)
    run.start(resume=resume, start_from=start_from)
    images = evaluation_images(data / "val", 8)
    if config.conditioned:
        images = list(with_decoded(images, SHOWN_QUALITY))
    deadline = time.monotonic() + 60 * minutes
    mean: dict[str, Tensor] = {}
    draws, clock = read_ahead(run.draw, run.device), SaveClock()
    length = {"minutes": minutes, "steps": config.total_steps, "start": run.step}
    with StopSignals() as stop, RunLog(work, name_of(config), **length, tensorboard=tensorboard) as log:
        while run.step < config.total_steps and time.monotonic() < deadline and stop.asked is None:
            mean = {k: 0.99 * mean.get(k, v) + 0.01 * v for k, v in run.advance(next(draws)).items()}
            log.advance(run.step)
            if run.step % 100 == 0:
                log.tell(run.step, {**{name: value.item() for name, value in mean.items()}, "lr": run.rate})
            if clock.is_due():
                run.save()
            if run.step % 2000 == 0:
                points = [(16, 25), (16, 36), (SHOWN_QUALITY if config.conditioned else 32, 48)]
                log.say(evaluate(run.average.module, images, points))
                log.picture(run.step, sample_of(run.average.module, images[0]))
        draws.close()
        run.save()
        stop.end(run.checkpoint, run.step)
    return run.checkpoint

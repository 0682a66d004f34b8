"""Training of the paper family: the machine model with SA-ICM's masked MSE, then one additional model a λ with MSE.

    machine:     R + λ·255²·mean(m·(x - x̂)²)      m: edge mask of a segmentation (arXiv 2403.04173)
    additional:  R + λ·255²·mean((x - x̂)²)        the machine model frozen, its latents fused (arXiv 2405.09152)

Rates are bits per pixel of the layer itself. Resumable, within a time you set, on one device or on many by torchrun.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from secondlook.shared.errors import ConfigError, ModelNotFound
from secondlook.training.data import U8
from secondlook.training.devices import Recorded, adam_of_groups, restore, set_rate
from secondlook.training.lite.model import edge_weighted_error
from secondlook.training.masks.cache import mask_files
from secondlook.training.masks.choice import DEFAULT_MASKS, MaskConfig, open_masks
from secondlook.training.models.batches import Batches, find_pictures, held_out_tensors, stream
from secondlook.training.models.config import SIZES
from secondlook.training.models.tcm import AdditionalModel, Coded, Tcm
from secondlook.training.provenance import command_line, describe_images, tell_changes
from secondlook.training.runlog import RunLog
from secondlook.training.stopping import SaveClock, StopSignals

STAGES = ("machine", "additional")
LOG_EVERY, JUDGE_EVERY = 50, 1000  # steps
LR_END_SHARE = 0.02  # of the first learning rate, where a cosine ends
STOP_EVERY = 10  # steps between the moments at which the processes of a distributed run agree to go on


@dataclass(frozen=True)
class TrainConfig:
    """One run. The defaults are the published ones where the papers tell them."""

    stage: str  # machine or additional
    lam: float  # λ of the loss
    size: str = "full"  # full or reduced
    crop: int = 256  # pixels a side, a multiple of 128
    batch: int = 8  # crops a step, on each device
    lr: float = 1e-4  # learning rate of Adam
    cosine: bool = (
        False  # how it falls: to LR_END_SHARE as a cosine, or to a tenth in the last tenth of the steps
    )
    steps: int = 1_000_000
    mask_floor: float = 0.0  # share of the errors outside the mask that counts; 0 as published
    clip: float = 1.0  # largest norm of the gradient
    quantile_lr: float = 1e-3  # of the hyper-latents' quantiles
    seed: int = 7

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        if self.cosine:
            fall = 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.steps)))
            return self.lr * (LR_END_SHARE + (1 - LR_END_SHARE) * fall)
        return self.lr * (0.1 if step >= 0.9 * self.steps else 1.0)

    def __post_init__(self) -> None:
        if self.stage not in STAGES or self.size not in SIZES:
            raise ConfigError(f"there is no stage {self.stage} of size {self.size}")
        if self.crop % 128 or self.crop < 128 or self.batch < 1 or self.steps < 1:
            raise ConfigError("crops have sides in steps of 128, and batches and runs at least one of each")
        if not self.lam > 0:
            raise ConfigError(f"λ {self.lam} is not positive")


def reduced(stage: str, lam: float, **changes: Any) -> TrainConfig:
    """The preset for a CPU and for tests."""
    return replace(
        TrainConfig(stage, lam, "reduced", crop=128, batch=4, lr=1e-3, cosine=True, steps=600), **changes
    )


@dataclass(frozen=True)
class Ranks:
    """Where a process stands in a distributed run, as torchrun says."""

    rank: int = 0
    local: int = 0
    world: int = 1


@dataclass(frozen=True)
class Place:
    """Folders of a run, and its masks. `machine`: state dict of the machine model an additional model builds on."""

    data: Path
    work: Path
    machine: dict[str, Tensor] | None = None
    masks: MaskConfig = DEFAULT_MASKS


def checkpoint_path(work: Path, stage: str, lam: float) -> Path:
    """One checkpoint for the machine model, one for each λ of the additional model."""
    return work / ("paper-machine.pt" if stage == "machine" else f"paper-additional-{lam:g}.pt")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Raises ModelNotFound."""
    if not path.exists():
        raise ModelNotFound(f"no checkpoint {path}: train it first, or give --work")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


class Step(nn.Module):
    """The loss of one batch; a module, so that DistributedDataParallel can wrap it."""

    def __init__(self, model: Tcm, machine: Tcm | None, config: TrainConfig) -> None:
        super().__init__()
        self.model = model
        self._frozen = (machine,)  # in a tuple: neither trained, nor saved, nor kept equal between processes
        self.config = config

    def code(self, x: Tensor) -> Coded:
        machine = self._frozen[0]
        if machine is None:
            return self.model(x)
        with torch.no_grad():
            base = machine.code(machine.g_a(x))[0]
        return self.model(x, base)

    def forward(self, x: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """`x`: float[B,3,H,W] in 0..1; `mask`: float[B,1,H,W]. Figures of the batch, `loss` among them."""
        coded = self.code(x)
        picture = coded.picture.float()
        error = (picture - x).square().mean()
        if self.config.stage == "machine":
            distortion = edge_weighted_error(x, picture, mask, self.config.mask_floor).mean()
        else:
            distortion = error
        bpp = coded.bits().sum() / (x.shape[0] * x.shape[2] * x.shape[3])
        loss = bpp + self.config.lam * 255**2 * distortion
        # The quantiles have a loss of their own, which reaches nothing else.
        quantiles: Tensor = self.model.entropy_bottleneck.loss()
        return {"loss": loss, "quantiles": quantiles, "bpp": bpp, "psnr": -10 * torch.log10(error)}


def build(config: TrainConfig, machine: dict[str, Tensor] | None) -> tuple[Tcm, Tcm | None]:
    """The model to train and the frozen machine model below it.

    An additional model starts from all tensors of the machine model whose name and shape it shares.
    """
    sizes = SIZES[config.size]
    if config.stage == "machine":
        return Tcm(sizes[0]), None
    if machine is None:
        raise ConfigError("an additional model needs a machine model to build on")
    below, model = Tcm(sizes[0]), AdditionalModel(sizes[1])
    below.load_state_dict(machine)
    own = model.state_dict()
    model.load_state_dict(own | {k: v for k, v in machine.items() if k in own and own[k].shape == v.shape})
    return model, below.eval().requires_grad_(False)


class Run:
    """A training run: model, optimiser and the step it is at."""

    def __init__(self, place: Place, config: TrainConfig, ranks: Ranks, device: torch.device) -> None:
        self.config, self.ranks, self.device, self.step = config, ranks, device, 0
        self.checkpoint = checkpoint_path(place.work, config.stage, config.lam)
        self.source: dict[str, Any] = {}  # of the pictures, for the manifest
        torch.manual_seed(config.seed)
        model, machine = build(config, place.machine)
        self.model = model.to(device)
        self.inner = Step(self.model, None if machine is None else machine.to(device), config).to(device)
        quantiles = self.model.entropy_bottleneck.quantiles
        self.weights = [p for p in self.model.parameters() if p is not quantiles]
        self.optimiser = adam_of_groups(
            [(self.weights, config.lr), ([quantiles], config.quantile_lr)], device
        )
        self.step_module: nn.Module = self.inner
        if ranks.world > 1:
            self.step_module = nn.parallel.DistributedDataParallel(
                self.inner, device_ids=[device.index] if device.type == "cuda" else None
            )
        # What other processes take part in is not recorded.
        self._advance = Recorded(self._take, device) if ranks.world == 1 else self._take
        # Noise for the likelihoods differs between processes; the weights above do not.
        torch.manual_seed(config.seed + ranks.rank)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one. Raises ConfigError when it is of another size."""
        if not self.checkpoint.exists():
            return
        state = read_checkpoint(self.checkpoint)
        if state["config"]["size"] != self.config.size:
            raise ConfigError(
                f"{self.checkpoint} is of size {state['config']['size']}, not {self.config.size}"
            )
        self.model.load_state_dict(state["model"])
        restore(self.optimiser, state["optimiser"])
        self.step = state["step"]
        if self.ranks.rank == 0:
            tell_changes(state["config"], asdict(self.config))
        torch.manual_seed(self.config.seed + self.ranks.rank + self.step)

    def save(self) -> None:
        if self.ranks.rank:
            return
        state = {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "config": asdict(self.config),
            "source": self.source,
        }
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        part = self.checkpoint.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.checkpoint)

    def advance(self, crops: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """One step of the optimiser; its figures float[], which the next step may overwrite."""
        set_rate(self.optimiser, self.config.rate(self.step), groups=slice(0, 1))
        self.step += 1
        return self._advance(0, crops, masks)

    def _take(self, _kind: int, *drawn: Tensor) -> dict[str, Tensor]:
        x, mask = (t.to(self.device, non_blocking=True).float() / 255 for t in drawn)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            figures = self.step_module(x, mask)
        self.optimiser.zero_grad(set_to_none=True)
        (figures["loss"] + figures["quantiles"]).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.weights, self.config.clip)
        # A gradient that is no number must not reach the weights; asking whether it is would end a recording.
        sound = torch.isfinite(norm)
        for weight in self.weights:
            if weight.grad is not None:
                weight.grad.masked_fill_(~sound, 0.0)
        self.optimiser.step()
        return {name: value.detach() for name, value in figures.items()}

    def goes_on(self, deadline: float) -> bool:
        """Whether there is time for another step. All processes answer alike: the first one decides."""
        if self.ranks.world == 1:
            return time.monotonic() < deadline
        if self.step % STOP_EVERY:
            return True
        decision = torch.tensor(float(time.monotonic() < deadline), device=self.device)
        dist.broadcast(decision, 0)
        return bool(decision.item())

    @torch.no_grad()
    def judge(self, pictures: list[Tensor]) -> dict[str, float]:
        """Mean estimated bpp, PSNR and loss on held-out crops; masks are left out, so this loss is of plain MSE."""
        self.model.eval()
        rows = []
        for x in pictures:
            x = x.to(self.device)
            coded = self.inner.code(x)
            error = (coded.picture.clamp(0, 1) - x).square().mean().item()
            bpp = coded.bits().item() / (x.shape[2] * x.shape[3])
            rows.append((bpp, -10 * math.log10(error), bpp + self.config.lam * 255**2 * error))
        self.model.train()
        return dict(zip(("bpp", "psnr", "loss"), np.mean(rows, 0).tolist(), strict=True))

    @torch.no_grad()
    def sample(self, picture: Tensor) -> U8:
        """A held-out crop beside what is decoded of it: uint8[H,2W,3]."""
        self.model.eval()
        x = picture.to(self.device)
        shown = torch.cat([x, self.inner.code(x).picture.float()], 3)[0].clamp(0, 1).mul(255).round()
        self.model.train()
        return np.ascontiguousarray(shown.permute(1, 2, 0).to(torch.uint8).cpu().numpy())


def train(
    place: Place,
    config: TrainConfig,
    minutes: float,
    *,
    resume: bool,
    threads: int,
    ranks: Ranks = Ranks(),
    workers: int = 0,
    tensorboard: bool = False,
) -> Path:
    """Train for `minutes` or until `config.steps`. Returns the checkpoint's path.

    Raises ConfigError, FileNotFoundError and ModelNotFound on what is missing in `place`.
    """
    torch.set_num_threads(threads)
    pictures = find_pictures(place.data)
    with distributed(ranks) as device, contextlib.ExitStack() as signals:
        masks = None
        if config.stage == "machine":
            provider = open_masks(place.masks, place.data, place.work)
            masks = _once(ranks, lambda: mask_files(provider, pictures.train, place.work / "masks"))
        run = Run(place, config, ranks, device)
        if ranks.rank == 0:
            told = {"seed": config.seed, "command": command_line()}
            run.source = {**describe_images(pictures.train), **told}
        if resume:
            run.resume()
        seed = (config.seed, ranks.rank)
        batches = Batches(pictures.train, masks, crop=config.crop, batch=config.batch, seed=seed)
        judged_by = held_out_tensors(pictures, 256)
        deadline, mean, clock = time.monotonic() + 60 * minutes, dict[str, Tensor](), SaveClock()
        stop = signals.enter_context(StopSignals())
        log = None
        if ranks.rank == 0:
            length = {"minutes": minutes, "steps": config.steps, "start": run.step}
            place.work.mkdir(parents=True, exist_ok=True)
            log = signals.enter_context(
                RunLog(place.work, run.checkpoint.stem, **length, tensorboard=tensorboard)
            )
        for crops, mask in stream(batches, run.step, config.steps, workers):
            if not run.goes_on(0.0 if stop.asked else deadline):
                break
            mean = {k: 0.98 * mean.get(k, v.clone()) + 0.02 * v for k, v in run.advance(crops, mask).items()}
            if log is not None:
                log.advance(run.step)
            if log is not None and run.step % LOG_EVERY == 0:
                figures = {k: v.item() for k, v in mean.items()}
                log.tell(run.step, {**figures, "lr": config.rate(run.step - 1)})
            if clock.is_due():
                run.save()
            if log is not None and run.step % JUDGE_EVERY == 0:
                _judge(run, judged_by, log)
        run.save()
        stop.end(run.checkpoint, run.step)
        if log is not None:
            _judge(run, judged_by, log)
    return run.checkpoint


@contextlib.contextmanager
def distributed(ranks: Ranks) -> Iterator[torch.device]:
    """Join the other processes, if any; the device of this one."""
    gpu = torch.cuda.is_available()
    device = torch.device(f"cuda:{ranks.local}") if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    if ranks.world == 1:
        yield device
        return
    dist.init_process_group("nccl" if gpu else "gloo", rank=ranks.rank, world_size=ranks.world)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def _once(ranks: Ranks, make: Any) -> Any:
    """Let the first process make files; the others then find them."""
    if ranks.rank and ranks.world > 1:
        dist.barrier()
    made = make()
    if ranks.rank == 0 and ranks.world > 1:
        dist.barrier()
    return made


def _judge(run: Run, pictures: list[Tensor], log: RunLog) -> None:
    log.tell(run.step, {f"held_out_{name}": value for name, value in run.judge(pictures).items()})
    log.picture(run.step, run.sample(pictures[0]))

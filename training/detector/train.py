"""Distil the student from the teacher for a given number of minutes.

    python -m secondlook.training.detector.train --data DIR --teacher FILE --work DIR --minutes 75 [--resume]

First every stage learns the teacher's next map from the teacher's map before it, all stages at once;
then from the student's own maps, so that each makes up for those before it; then all are trained as one,
with cars drawn from above among the views, which the teacher does not know. In the last third, where
decoded base layers are given, the student sees those while the teacher sees the original. The share of
the time used so far decides all of this, so that a run can stop and resume anywhere.

A run that starts from trained weights (`--from-model`) trains all stages as one throughout, at half the rate.
"""

from __future__ import annotations

import argparse
import copy
import enum
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from secondlook.shared.detection import COCO_CLASSES
from secondlook.shared.errors import ConfigError
from secondlook.training.detector.classes import SHIPPED_CLASSES
from secondlook.training.detector.cli import parse
from secondlook.training.detector.distil import LossConfig, map_errors, output_errors, total_error
from secondlook.training.detector.drawn import DrawnConfig, drawn_view, write_targets
from secondlook.training.detector.model import Student, calibrate, parameters
from secondlook.training.detector.muon import Muon, pointwise_weights
from secondlook.training.detector.teacher import Teacher
from secondlook.training.detector.views import (
    Sample,
    ViewConfig,
    ViewMaker,
    is_validation,
    letterboxed,
    load_images,
    load_video,
)
from secondlook.training.devices import half_precision
from secondlook.training.lite.weights import load_weights
from secondlook.training.provenance import tell_changes
from secondlook.training.runlog import RunLog
from secondlook.training.stopping import SAVE_SECONDS, StopSignals

CHECKPOINT = "checkpoint.pt"
TRAINED_SHARE_OF_VIDEO = 0.85
SHIPPED_INDICES = tuple(COCO_CLASSES.index(name) for name in SHIPPED_CLASSES)


class Mode(enum.Enum):
    """Whose maps the stages read, and how far errors travel."""

    FORCED = "forced"  # the teacher's maps: every stage learns by itself, all at once
    APART = "apart"  # the student's own, but errors stay within a stage
    JOINED = "joined"  # the student's own, errors travel through all of it


@dataclass(frozen=True)
class TrainConfig:
    minutes: float
    batch: int = 8
    peak_rate: float = 2e-3
    final_rate: float = 2e-5
    matrix_rate_ratio: float = 3.0  # rate of pointwise weights over that of the others
    weight_decay: float = 1e-2
    apart_from: float = 0.32  # shares of the time after which the modes begin
    joined_from: float = 0.42
    joined_rate_ratio: float = 0.7
    decoded_from: float = 0.66  # share of the time after which decoded base layers are mixed in
    decoded_share: float = 0.5
    drawn_share: float = 0.15  # of views, once the stages are joined
    video_share: float = 0.1
    average_decay: float = 0.998
    checkpoint_seconds: float = SAVE_SECONDS
    seed: int = 7
    steps: int = 0  # that make up the whole run, whatever they take; 0: the minutes do

    def warm(self) -> TrainConfig:
        """For weights whose stages have learnt already."""
        return replace(
            self, apart_from=0.0, joined_from=0.0, decoded_from=0.25, peak_rate=0.5 * self.peak_rate
        )


def rate_at(progress: float, step: int, config: TrainConfig) -> float:
    """Cosine from peak to final rate, after a warm-up of 50 steps; lower once the stages are joined."""
    wave = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    rate = config.final_rate + (config.peak_rate - config.final_rate) * wave
    if mode_at(progress, config) is Mode.JOINED:
        rate *= config.joined_rate_ratio
    return rate * min(1.0, (step + 1) / 50)


def mode_at(progress: float, config: TrainConfig) -> Mode:
    if progress < config.apart_from:
        return Mode.FORCED
    return Mode.APART if progress < config.joined_from else Mode.JOINED


def size_at(progress: float, rng: np.random.Generator) -> int:
    """Small views while features form, mostly the size in service at the end."""
    shares = (0.35, 0.5, 0.15) if progress < 0.7 else (0.1, 0.45, 0.45)
    return int(rng.choice((256, 320, 416), p=shares))


@dataclass
class State:
    """All that a resumed run needs."""

    student: Student
    average: Student
    optimizers: tuple[torch.optim.Optimizer, ...]
    config: TrainConfig
    step: int = 0
    elapsed_seconds: float = 0.0

    def save(self, path: Path) -> None:
        partial = path.with_suffix(".partial")
        torch.save(
            {
                "student": self.student.state_dict(),
                "average": self.average.state_dict(),
                "optimizers": [o.state_dict() for o in self.optimizers],
                "step": self.step,
                "elapsed_seconds": self.elapsed_seconds,
                "config": asdict(self.config),
            },
            partial,
        )
        partial.replace(path)

    def restore(self, path: Path) -> None:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        self.student.load_state_dict(stored["student"])
        self.average.load_state_dict(stored["average"])
        for optimizer, kept in zip(self.optimizers, stored["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.step, self.elapsed_seconds = stored["step"], stored["elapsed_seconds"]
        # What the run began with holds to its end; only its time may be changed.
        tell_changes({**stored["config"], "minutes": self.config.minutes}, asdict(self.config))
        self.config = TrainConfig(**{**stored["config"], "minutes": self.config.minutes})

    def take_weights(self, folder: Path) -> None:
        """Start from the weights of a detector's model folder. Raises ModelNotFound where it holds none."""
        weights = load_weights(folder)
        for network in (self.student, self.average):
            network.load_state_dict(weights)


def fresh_state(config: TrainConfig) -> State:
    torch.manual_seed(config.seed)
    student = Student().to(memory_format=torch.channels_last)
    average = copy.deepcopy(student).eval().requires_grad_(False)
    matrices = pointwise_weights(student)
    chosen = {id(p) for p in matrices}
    others = [p for p in student.parameters() if id(p) not in chosen]
    return State(
        student,
        average,
        (
            Muon(matrices, config.peak_rate * config.matrix_rate_ratio, config.weight_decay),
            torch.optim.AdamW(others, lr=config.peak_rate, weight_decay=0.0),
        ),
        config,
    )


def set_rate(state: State, rate: float) -> None:
    for optimizer, ratio in zip(state.optimizers, (state.config.matrix_rate_ratio, 1.0), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate * ratio


def follow(average: nn.Module, student: nn.Module, decay: float) -> None:
    """Move the average towards the student."""
    with torch.no_grad():
        for kept, new in zip(average.parameters(), student.parameters(), strict=True):
            kept.lerp_(new, 1 - decay)


def load_samples(
    data: Path, videos: Sequence[Path], decoded: Path | None
) -> tuple[list[Sample], list[Sample]]:
    """(stills, video frames) for training, without what is kept for validation."""
    stills = [s for s in load_images(data) if not is_validation(s.name)]
    if not stills:
        raise ConfigError(f"no images to train on in {data}")
    frames: list[Sample] = []
    for path in videos:
        every = load_video(path, step=6)
        if not every:
            raise ConfigError(f"no frame can be read from {path}")
        frames += every[: int(len(every) * TRAINED_SHARE_OF_VIDEO)]
    if decoded is not None:
        stills = [with_decoded(sample, decoded) for sample in stills]
        frames = [with_decoded(sample, decoded) for sample in frames]
    return stills, frames


def with_decoded(sample: Sample, folder: Path) -> Sample:
    """Attach `folder/<stem>@<anything>.png`; these have the size of the sample."""
    found = load_images(folder / Path(sample.name).stem) if (folder / Path(sample.name).stem).is_dir() else []
    return Sample(sample.name, sample.image, tuple(s.image for s in found))


def draw_weights(
    stills: Sequence[Sample], frames: Sequence[Sample], wanted: set[str], share: float
) -> list[float]:
    """Stills the teacher finds our classes in count three times; all video frames together `share`."""
    weights = [3.0 if s.name in wanted else 1.0 for s in stills]
    if frames:
        each = sum(weights) * share / (1 - share) / len(frames)
        weights += [each] * len(frames)
    return weights


def names_with_objects(teacher: Teacher, samples: Sequence[Sample], classes: Sequence[int]) -> set[str]:
    """Names of the images in which the teacher sees one of the classes with a score above 0.35."""
    names = set()
    for sample in samples:
        view = letterboxed(sample.image, 416)
        maps = teacher.maps(np.ascontiguousarray(view.transpose(2, 0, 1)[None], np.float32))
        for stride in (8, 16, 32):
            score = _sigmoid(maps[f"obj{stride}"]) * _sigmoid(maps[f"cls{stride}"][:, list(classes)])
            if score.max() > 0.35:
                names.add(sample.name)
    return names


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


@dataclass(frozen=True)
class Batch:
    """Student images (N, 3, S, S) in 0..255, the teacher's maps of the clean views, and which views are drawn."""

    images: Tensor
    targets: dict[str, Tensor]
    drawn: Tensor  # bool (N,): targets are of logits only, the teacher's maps mean nothing there


def batch_of(
    maker: ViewMaker, teacher: Teacher, config: ViewConfig, count: int, drawn_share: float = 0.0
) -> Batch:
    clean, seen, boxes = [], [], []
    for _ in range(count):
        for_teacher, for_student = maker.pair(config)
        cars = None
        if maker.rng.random() < drawn_share:
            for_student, cars = drawn_view(maker.rng, for_teacher, DrawnConfig())
            for_teacher = for_student
        clean.append(for_teacher)
        seen.append(for_student)
        boxes.append(cars)
    targets = teacher.maps(np.ascontiguousarray(np.stack(clean).transpose(0, 3, 1, 2), np.float32))
    for index, cars in enumerate(boxes):
        if cars is not None:
            write_targets(targets, index, cars)
    images = torch.from_numpy(np.stack(seen).transpose(0, 3, 1, 2).astype(np.float32))
    return Batch(
        images.contiguous(memory_format=torch.channels_last),
        {k: torch.from_numpy(v).contiguous(memory_format=torch.channels_last) for k, v in targets.items()},
        torch.tensor([cars is not None for cars in boxes]),
    )


def train(
    state: State, maker: ViewMaker, teacher: Teacher, work: Path, stop: StopSignals, log: RunLog
) -> None:
    """Step until the minutes are used, or all steps are taken, saving to `work` as it goes."""
    config, loss_config = state.config, LossConfig()
    budget = config.minutes * 60
    has_decoded = any(s.decoded for s in maker.samples)
    saved = last = time.monotonic()
    state.student.train()
    while state.elapsed_seconds < budget and not 0 < config.steps <= state.step and stop.asked is None:
        progress = state.step / config.steps if config.steps else state.elapsed_seconds / budget
        late = has_decoded and progress >= config.decoded_from
        view = ViewConfig(
            size=size_at(progress, maker.rng), decoded_share=config.decoded_share if late else 0.0
        )
        drawn = config.drawn_share if mode_at(progress, config) is Mode.JOINED else 0.0
        batch = batch_of(maker, teacher, view, config.batch, drawn)
        rate = rate_at(progress, state.step, config)
        set_rate(state, rate)
        mode = mode_at(progress, config)
        with half_precision():
            outputs = state.student(
                batch.images, batch.targets if mode is Mode.FORCED else None, apart=mode is not Mode.JOINED
            )
        maps = map_errors(outputs, batch.targets, ~batch.drawn)
        heads = output_errors(outputs, batch.targets)
        error = total_error(maps, heads, loss_config)
        state.student.zero_grad(set_to_none=True)
        error.backward()
        norm = nn.utils.clip_grad_norm_(state.student.parameters(), 5.0)
        if torch.isfinite(norm):
            for optimizer in state.optimizers:
                optimizer.step()
        follow(state.average, state.student, min(config.average_decay, (1 + state.step) / (10 + state.step)))
        now = time.monotonic()
        state.elapsed_seconds += now - last
        last = now
        state.step += 1
        log.advance(state.step)
        if state.step % 25 == 0:
            figures = {name: value.item() for name, value in {**heads, **maps}.items()}
            log.tell(state.step, {"progress": progress, "mode": mode.value, **figures, "lr": rate})
        if now - saved > config.checkpoint_seconds:
            state.save(work / CHECKPOINT)
            saved = now
    state.save(work / CHECKPOINT)
    stop.end(work / CHECKPOINT, state.step)


def run(args: argparse.Namespace) -> int:
    if args.from_detector is not None:
        from secondlook.training.detector import finetune

        return finetune.run(args)
    if args.teacher is None or args.work is None:
        raise ConfigError(
            "distilling needs --teacher and --work; --from MODEL fine-tunes a detector without them"
        )
    torch.set_num_threads(args.threads)
    config = TrainConfig(minutes=args.minutes, seed=args.seed, steps=args.steps or 0)
    args.work.mkdir(parents=True, exist_ok=True)
    state = fresh_state(config if args.from_model is None else config.warm())
    checkpoint = args.work / CHECKPOINT
    if args.resume and checkpoint.is_file():
        state.restore(checkpoint)
    elif args.from_model is not None:
        state.take_weights(args.from_model)
    config = state.config
    teacher = Teacher(args.teacher, threads=args.threads)
    stills, frames = load_samples(args.data, args.video, args.decoded)
    wanted = names_with_objects(teacher, stills, SHIPPED_INDICES)
    weights = draw_weights(stills, frames, wanted, config.video_share)
    print(
        f"{len(stills)} stills ({len(wanted)} with shipped classes), {len(frames)} frames, "
        f"{parameters(state.student)} parameters, from step {state.step}",
        flush=True,
    )
    maker = ViewMaker(stills + frames, np.array(weights), np.random.default_rng(config.seed + state.step))
    if state.step == 0 and args.from_model is None:
        first = batch_of(maker, teacher, ViewConfig(degrade_share=0.0), 24)
        calibrate(state.student, first.images, first.targets)
        state.average.load_state_dict(state.student.state_dict())
    left = args.minutes - state.elapsed_seconds / 60
    length = {"minutes": max(left, 0.01), "steps": config.steps, "start": state.step}
    with RunLog(args.work, "detector", **length, tensorboard=args.tensorboard) as log, StopSignals() as stop:
        train(state, maker, teacher, args.work, stop, log)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(parse("train")))

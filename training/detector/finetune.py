"""Fine-tune a detector on decoded base layers: what `secondlook train detector --from` runs.

The student sees a picture as its base layer decodes, the teacher, the same network as it was, sees the original; the
student learns to say of the one what the teacher says of the other. So nothing is learnt that the detector did not
know, and no labels are needed. Where there are some, the station's COCO export with the base images beside it, boxes
that people confirmed, drew or took away count instead of the teacher's.

Convolutions learn, at a low rate; batch normalisation stands still. The result is kept only where it is better: by AP
on base layers, and not much worse on originals, on pictures it was not trained on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from secondlook.cloud.workers.detectors import load_detector
from secondlook.shared.codec import load_codec
from secondlook.shared.detection import Detection, Place, U8Image
from secondlook.shared.detectors import OnnxDetector
from secondlook.shared.errors import ConfigError
from secondlook.shared.layers import LayeredCodec
from secondlook.shared.models import ModelFolder, describe_files, find_model, model_hash
from secondlook.shared.tracking import iou
from secondlook.training.data import list_images, read_rgb, usable_images
from secondlook.training.detector.categories import check_categories, load_truth
from secondlook.training.detector.evaluate import LOWEST_SCORE, BaseLayer, average_precision, match
from secondlook.training.detector.onnx_net import OnnxNet
from secondlook.training.runlog import RunLog

BASE_QUALITY_RANGE = (4, 36)
QUALITY = 40
CODING_SHARE = 0.3  # of the minutes, at most, in which pictures are coded
OBJECT_SCORE = 0.3  # from here on a candidate of the teacher is an object, and its box counts
BOX_WEIGHT = 2.0
SAME, APART = 0.6, 0.3  # IoU with what a person says: the same thing, none of it
LABELLED = 0.95  # the score that a confirmed object shall have
BETTER, WORSE = 2.0, 1.0  # AP that must be won on base layers, and may be lost on originals
LOG_STEPS = 50

F32 = np.ndarray


@dataclass(frozen=True)
class Example:
    """float32 network inputs [H,W,3] of one picture; `labels`: what people say is there, None where nobody looked."""

    seen: F32  # as its base layer decodes
    original: F32  # what the teacher sees
    place: Place
    labels: tuple[Detection, ...] | None = None


@dataclass(frozen=True)
class Judgement:
    """AP in percent, before and after, on originals and on base layers."""

    originals: tuple[float, float]
    base_layers: tuple[float, float]

    @property
    def is_kept(self) -> bool:
        won = self.base_layers[1] - self.base_layers[0]
        lost = self.originals[0] - self.originals[1]
        return bool(won >= BETTER and lost < WORSE)  # JSON takes no bool of numpy's


class Tuner:
    """One run. `detector` says how its network takes frames and writes candidates."""

    def __init__(self, folder: ModelFolder, detector: OnnxDetector, rate: float) -> None:
        """Raises ConfigError for another family than SSD: only its candidates are the same for every picture."""
        self.detector = detector
        if detector.family != "SSD":
            raise ConfigError(
                f"{folder.name} is of the family {detector.family}; detectors of the family SSD learn here"
            )
        self._final = not detector.layout.logits
        path = folder.file("model.onnx")
        self.student, self.teacher = OnnxNet(path), OnnxNet(path).requires_grad_(False)
        self._optimiser = torch.optim.Adam(self.student.parameters(), lr=rate)
        self._rate = rate

    def rate_at(self, progress: float) -> float:
        """The learning rate at a share of the run."""
        return self._rate * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    def step(self, batch: Sequence[Example], progress: float) -> float:
        """One step on a few pictures, half of them mirrored; `progress`: share of the time that is over. The loss."""
        mirrored = [index % 2 == 1 for index in range(len(batch))]
        seen, original = (
            self._input([_mirror(each, m) for each, m in zip(arrays, mirrored, strict=True)])
            for arrays in ([one.seen for one in batch], [one.original for one in batch])
        )
        with torch.no_grad():
            targets = [output.clone() for output in self.teacher(original)]
            weights = self._weights(targets)
            for index, one in enumerate(batch):
                if one.labels is not None and not mirrored[index]:
                    self._correct(targets, weights, index, one)
        for group in self._optimiser.param_groups:
            group["lr"] = self.rate_at(progress)
        loss = self._loss(self.student(seen), targets, weights)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self._optimiser.step()
        return loss.item()

    def _input(self, frames: Sequence[F32]) -> Tensor:
        x = torch.from_numpy(np.ascontiguousarray(np.stack(frames)))
        return x if self.detector.channels_last else x.permute(0, 3, 1, 2).contiguous()

    def _scores(self, outputs: Sequence[Tensor]) -> Tensor:
        """float[B,N,C] in 0..1, of what is a class."""
        raw = outputs[self.detector.layout.scores[0]][..., self.detector.columns]
        return raw if self._final else raw.sigmoid()

    def _weights(self, targets: Sequence[Tensor]) -> Tensor:
        """float[B,N]: how much the box of a candidate counts."""
        best = self._scores(targets).amax(2)
        return torch.where(best >= OBJECT_SCORE, best, torch.zeros(()))

    def _loss(self, outputs: Sequence[Tensor], targets: Sequence[Tensor], weights: Tensor) -> Tensor:
        """Quality focal loss of the scores, and smooth L1 of the boxes of objects, over the number of objects."""
        said, wanted = (self._scores(each).clamp(1e-4, 1 - 1e-4) for each in (outputs, targets))
        entropy = F.binary_cross_entropy(said, wanted, reduction="none")
        scores = ((said - wanted).abs() ** 2 * entropy).sum()
        boxes = torch.zeros(())
        for index, (output, target) in enumerate(zip(outputs, targets, strict=True)):
            if index not in self.detector.layout.scores:
                apart = F.smooth_l1_loss(output, target, reduction="none", beta=0.05)
                boxes = boxes + (apart.flatten(2).mean(2) * weights).sum()
        return (scores + BOX_WEIGHT * boxes) / (1 + weights.sum())

    def _correct(self, targets: list[Tensor], weights: Tensor, index: int, example: Example) -> None:
        """Put what people say in place of what the teacher says of one picture."""
        assert example.labels is not None
        column = self.detector.layout.scores[0]
        # The decoder may write into what it gets.
        raw = self.detector.layout.decode([np.array(each[index].numpy()) for each in targets])
        candidates = example.place.to_frame(raw.boxes)
        high, low = (LABELLED, 0.0) if self._final else (_logit(LABELLED), -8.0)
        rows = targets[column][index]
        for number in np.flatnonzero(np.isfinite(candidates).all(1)):
            x0, y0, x1, y1 = candidates[number].tolist()
            if x0 >= x1 or y0 >= y1:
                continue
            near = [(iou((x0, y0, x1, y1), label.box), label) for label in example.labels]
            overlap, label = max(near, key=lambda pair: pair[0], default=(0.0, None))
            if label is not None and overlap >= SAME and label.label in self.detector.classes:
                rows[number, self.detector.columns] = low
                rows[number, self.detector.columns[self.detector.classes.index(label.label)]] = high
            elif overlap < APART:
                rows[number, self.detector.columns] = low
                weights[index, number] = 0.0


def _mirror(values: F32, mirrored: bool) -> F32:
    return values[:, ::-1] if mirrored else values


def _logit(score: float) -> float:
    return math.log(score / (1 - score))


def example_of(
    detector: OnnxDetector, original: U8Image, seen: U8Image, labels: tuple[Detection, ...] | None = None
) -> Example:
    """A picture and what its base layer decodes to, uint8[H,W,3] RGB, as the network takes them."""
    shown, place = detector.layout.intake.place(seen, *detector.input_size)
    clean, _ = detector.layout.intake.place(original, *detector.input_size)
    return Example(shown, clean, place, labels)


def code_ahead(
    detector: OnnxDetector,
    codec: LayeredCodec,
    paths: Sequence[Path],
    seconds: float,
    rng: np.random.Generator,
) -> list[Example]:
    """Pictures through the base layer at qualities as camera hosts have them, one at least, until the time is over."""
    start, examples = time.monotonic(), []
    for index in rng.permutation(len(paths)):
        if examples and time.monotonic() - start > seconds:
            break
        image = read_rgb(paths[index])
        base_quality = int(rng.integers(*BASE_QUALITY_RANGE))
        layers = codec.encode(image, base_quality=base_quality, quality=max(QUALITY, base_quality)).layers
        examples.append(example_of(detector, image, codec.decode_base(layers.base)))
    return examples


def labelled(detector: OnnxDetector, annotations: Path, folder: Path) -> list[Example]:
    """The feedback set of the station: what people settled, and the pictures as machines saw them, by their file names.

    Frames that people have not settled, or contradict each other on, are left out. Raises ConfigError.
    """
    truth = load_truth(annotations)
    names = {one["id"]: one["name"] for one in truth.dataset["categories"]}
    examples = []
    for image_id, entry in truth.imgs.items():
        path = folder / entry["file_name"]
        if not entry.get("verified", True) or entry.get("contested", False) or not path.is_file():
            continue
        labels = tuple(
            Detection(names[one["category_id"]], 1.0, (x, y, x + width, y + height))
            for one in truth.imgToAnns[image_id]
            for x, y, width, height in [one["bbox"]]
            if width > 0 and height > 0
        )
        seen = read_rgb(path)
        examples.append(example_of(detector, _original(entry, folder, seen), seen, labels))
    if not examples:
        raise ConfigError(f"{annotations} and {folder} have no settled frame with a picture in common")
    return examples


def _original(entry: dict[str, Any], folder: Path, seen: U8Image) -> U8Image:
    """The frame in full quality, where the feedback set has it, for the teacher to look at."""
    name = entry.get("original_file_name")
    if name is None or not (folder / name).is_file():
        return seen
    original = read_rgb(folder / name)
    return original if original.shape == seen.shape else seen


def judge(before: str, after: Path, args: argparse.Namespace) -> Judgement:
    """AP of two detectors on the annotated pictures, and on their base layers."""
    truth = load_truth(args.annotations, dict(args.class_map))
    pairs = []
    for change in (lambda image: image, BaseLayer(args.codec, args.base_quality, QUALITY)):
        figures = []
        for spec in (before, str(after.absolute())):
            detector = load_detector(spec, threads=args.threads, min_score=LOWEST_SCORE)
            check_categories(truth, args.annotations, spec, detector.classes)
            matched = match(detector, truth, args.images, change, detector.classes)
            figures.append(average_precision(matched)["AP"])
        pairs.append((figures[0], figures[1]))
    return Judgement(*pairs)


def write_folder(tuner: Tuner, source: ModelFolder, out: Path, facts: dict[str, Any]) -> None:
    """A model folder with what was learnt; licence, classes and the rest are those of the detector it came from."""
    out.mkdir(parents=True, exist_ok=True)
    tuner.student.write(out / "model.onnx")
    files = describe_files(out, ["model.onnx"])
    manifest = {**source.manifest, "name": out.name, "files": files, "fine_tuned": facts}
    if "model_hash" in manifest:
        manifest["model_hash"] = model_hash(files).hex()
    manifest.pop("weights", None)
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def run_steps(
    tuner: Tuner,
    examples: Sequence[Example],
    labels: Sequence[Example],
    args: argparse.Namespace,
    rng: np.random.Generator,
) -> int:
    """Step for the minutes, or the steps, of the command; the log is written beside what it is to make. The steps."""
    start, budget, step, mean = time.monotonic(), 60 * (1 - CODING_SHARE) * args.minutes, 0, 0.0
    length = {"minutes": budget / 60, "steps": args.steps or 0}
    with RunLog(args.out.parent, args.out.name, **length, tensorboard=args.tensorboard) as log:
        while step == 0 or (time.monotonic() - start < budget and step != args.steps):
            drawn = [examples[int(rng.integers(len(examples)))] for _ in range(args.batch)]
            if labels:  # at the even places, which are not mirrored
                drawn[0] = labels[int(rng.integers(len(labels)))]
            progress = step / args.steps if args.steps else (time.monotonic() - start) / budget
            loss = tuner.step(drawn, progress)
            mean += (loss - mean) * (0.05 if step else 1.0)
            step += 1
            log.advance(step)
            if step % LOG_STEPS == 0:
                log.tell(step, {"loss": mean, "lr": tuner.rate_at(progress)})
    return step


def run(args: argparse.Namespace) -> int:
    """Train, judge, and keep or discard. 0 where the result is kept, 1 where it is not."""
    if args.images is None or args.annotations is None or args.out is None:
        raise ConfigError("--from judges what it learnt: give --images, --annotations and --out")
    if os.path.lexists(args.out):
        raise ConfigError(f"{args.out} is there already")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    source = find_model(args.from_detector, kind="detector")
    detector = load_detector(str(source.path.absolute()), threads=args.threads)
    assert isinstance(detector, OnnxDetector)
    tuner = Tuner(source, detector, args.rate)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    codec = load_codec(args.codec, threads=args.threads)
    paths = usable_images(list_images(args.data), 1)
    examples = code_ahead(detector, codec, paths, CODING_SHARE * 60 * args.minutes, rng)
    labels = (
        []
        if args.labels is None
        else labelled(detector, args.labels, args.label_images or args.labels.parent)
    )
    print(json.dumps({"coded": len(examples), "labelled": len(labels)}), flush=True)
    step = run_steps(tuner, examples, labels, args, rng)
    beside = args.out.with_name(f".{args.out.name}.part")
    facts = {"from": source.model_hash.hex(), "steps": step, "rate": args.rate, "labelled": len(labels)}
    write_folder(tuner, source, beside, facts)
    verdict = judge(str(source.path.absolute()), beside, args)
    figures = {"AP on originals": verdict.originals, "AP on base layers": verdict.base_layers}
    print(json.dumps({**figures, "kept": verdict.is_kept}), flush=True)
    if not verdict.is_kept:
        for file in beside.iterdir():
            file.unlink()
        beside.rmdir()
        print(
            f"not kept: it must win {BETTER:g} on base layers and lose less than {WORSE:g} on originals",
            flush=True,
        )
        return 1
    write_folder(tuner, source, beside, {**facts, **figures, "base_quality": args.base_quality})
    beside.rename(args.out)
    print(args.out)
    return 0

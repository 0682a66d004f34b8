"""Turn a checkpoint into the model folder that ships: ONNX, weights, manifest.

python -m secondlook.training.detector.export --work DIR --data DIR --teacher FILE --out exported_models/detector
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from secondlook.shared.detection import COCO_CLASSES
from secondlook.shared.models import describe_files
from secondlook.training.detector.classes import SHIPPED_CLASSES
from secondlook.training.detector.cli import parse
from secondlook.training.detector.model import STRIDES, Student, parameters
from secondlook.training.detector.threshold import choose_threshold
from secondlook.training.detector.train import CHECKPOINT, State, TrainConfig, fresh_state
from secondlook.training.onnx_files import store_half
from secondlook.training.provenance import free_folder

INPUT_SIDE = 416
REPORT_SHARE = 0.5  # detections down to this share of the threshold are reported, for the policy to weigh

LICENCE = (
    "Apache-2.0 for what is ours. The weights were trained here from random numbers, on outputs of YOLOX-nano "
    "(Apache-2.0), whose weights are not part of this file. The training images are ImageNet samples (research "
    "terms), BSDS500 (research, non-commercial) and two videos; none of them is part of it either."
)


class Exported(nn.Module):
    """BGR (1, 3, 416, 416) in 0..255 -> (1, 3549, 5 + C) as YOLOX writes it: raw boxes, probabilities."""

    def __init__(self, student: Student, classes: Sequence[int]) -> None:
        super().__init__()
        self.student = student
        for head in self.student.heads:
            head.cls_out = keep_channels(head.cls_out, classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.student(images)
        levels = [
            torch.cat(
                [maps[f"reg{s}"], torch.sigmoid(maps[f"obj{s}"]), torch.sigmoid(maps[f"cls{s}"])], 1
            ).flatten(2)
            for s in STRIDES
        ]
        return torch.cat(levels, 2).transpose(1, 2)


def keep_channels(layer: nn.Conv2d, channels: Sequence[int]) -> nn.Conv2d:
    """The same 1x1 convolution with only these outputs."""
    kept = nn.Conv2d(layer.in_channels, len(channels), 1)
    assert layer.bias is not None and kept.bias is not None
    kept.weight.data.copy_(layer.weight.data[list(channels)])
    kept.bias.data.copy_(layer.bias.data[list(channels)])
    return kept


def write_onnx(student: Student, path: Path) -> None:
    """Export with the class names in the file's metadata, as YOLO exports carry them."""
    module = Exported(student, [COCO_CLASSES.index(name) for name in SHIPPED_CLASSES]).eval()
    example = torch.zeros(1, 3, INPUT_SIDE, INPUT_SIDE)
    torch.onnx.export(
        module,
        (example,),
        str(path),
        input_names=["images"],
        output_names=["output"],
        opset_version=18,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    model = onnx.load(str(path))
    strip_traces(model)
    store_half(model)
    onnx.helper.set_model_props(
        model, {"names": repr(dict(enumerate(SHIPPED_CLASSES))), "task": "detect", "layout": "yolox"}
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def strip_traces(model: onnx.ModelProto) -> None:
    """Drop what an exporter notes about the machine it ran on: stack traces with paths."""
    for item in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        del item.metadata_props[:]
        item.doc_string = ""
    del model.graph.metadata_props[:]
    model.graph.doc_string = model.doc_string = ""


def verify(student: Student, path: Path) -> None:
    """The file must compute what the module computes. Raises AssertionError otherwise."""
    import onnxruntime as ort

    rng = np.random.default_rng(3)
    image: npt.NDArray[np.float32] = rng.uniform(0, 255, (1, 3, INPUT_SIDE, INPUT_SIDE)).astype(np.float32)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": image})[0]
    with torch.no_grad():
        module = Exported(student, [COCO_CLASSES.index(name) for name in SHIPPED_CLASSES]).eval()
        wanted = module(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-3)


def training_record(state: State, args: argparse.Namespace) -> dict[str, Any]:
    return {
        "command": args.command_line,
        "steps": state.step,
        "minutes": round(state.elapsed_seconds / 60, 1),
        "weights": args.weights,
        "parameters": parameters(state.student),
        "teacher": "YOLOX-nano (Apache-2.0), distilled: stage maps, objectness, classes, boxes; no labels. "
        "Cars from above are drawn, with targets of their own",
        "data": "949 ImageNet samples and 300 BSDS500 train/val images, less one in sixteen kept for the "
        "threshold; highway-1.avi and one-by-one-person-detection.mp4, every sixth frame of the first 85 %",
        "config": {k: v for k, v in vars(state.config).items() if k != "minutes"},
        "history": args.note,
        "exported": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    }


def run(args: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    state = fresh_state(TrainConfig(minutes=args.minutes))
    free_folder(args.out, force=args.force)
    state.restore(args.work / CHECKPOINT)
    student = (state.student if args.weights == "last" else state.average).eval()
    args.out.mkdir(parents=True, exist_ok=True)
    kept = {name: value.half().contiguous() for name, value in student.state_dict().items()}
    save_file(kept, str(args.out / "weights.safetensors"))
    (args.out / "weights.safetensors").chmod(0o644)
    weights = {name: value.float() for name, value in kept.items()}  # the graph holds what the file holds
    write_onnx(fresh_copy(weights), args.out / "model.onnx")
    verify(fresh_copy(weights), args.out / "model.onnx")
    threshold, agreement = choose_threshold(args.out / "model.onnx", args.teacher, args.data)
    manifest = {
        "name": "detector",
        "kind": "detector",
        "format": 1,
        "files": describe_files(args.out, ["model.onnx"]),
        "weights": describe_files(args.out, ["weights.safetensors"]),
        "classes": list(SHIPPED_CLASSES),
        "input": INPUT_SIDE,
        "score_threshold": threshold,
        "report_score": round(threshold * REPORT_SHARE, 3),
        "licence": LICENCE,
        "training": training_record(state, args),
        "figures": {"f1_against_teacher_on_kept_back_images": agreement},
    }
    (args.out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    print(f"wrote {args.out}: step {state.step}, threshold {threshold}, F1 against the teacher {agreement}")
    return 0


def fresh_copy(weights: dict[str, Tensor]) -> Student:
    student = Student().eval()
    student.load_state_dict(weights)
    return student


if __name__ == "__main__":
    raise SystemExit(run(parse("export")))

"""The flags of the detector's commands, and their verbs of `secondlook`.

Nothing heavy is imported here: a command's module is imported when it runs.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from secondlook.shared.settings import model_argument
from secondlook.training.flagtypes import at_least, class_map_flag, positive, run_flags


def _train_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder of training images")
    parser.add_argument("--video", type=Path, action="append", default=[], help="further frames; may repeat")
    parser.add_argument("--teacher", type=Path, help="the YOLOX-nano ONNX export; not with --from")
    parser.add_argument("--work", type=Path, help="folder for checkpoints; not with --from")
    parser.add_argument("--decoded", type=Path, help="folder made by `secondlook train detector-frames`")
    parser.add_argument(
        "--minutes", type=positive, required=True, help="time for the whole run, resumed parts included"
    )
    parser.add_argument("--threads", type=at_least(1), default=1, help="cores to use (default 1)")
    run_flags(parser, seed=7)
    parser.add_argument(
        "--steps",
        type=at_least(1),
        help="end after so many, over which the schedule goes (default: it goes over --minutes)",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --work")
    parser.add_argument(
        "--from-model",
        type=Path,
        metavar="FOLDER",
        help="start from the weights of a detector's model folder",
    )
    _finetune_flags(parser)


def _finetune_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("fine-tuning of any detector on decoded base layers")
    group.add_argument(
        "--from",
        dest="from_detector",
        type=model_argument,
        metavar="MODEL",
        help="fine-tune this added model, or folder, in place of distilling the small one",
    )
    group.add_argument("--images", type=Path, help="annotated pictures that judge it, none of --data")
    group.add_argument("--annotations", type=Path, help="their COCO instances file")
    class_map_flag(group)
    group.add_argument("--out", type=Path, help="the model folder to write where it is better")
    group.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="labels.json of a feedback set, or a COCO export of the station",
    )
    group.add_argument("--label-images", type=Path, metavar="DIR", help="its frames as machines saw them")
    group.add_argument("--codec", type=model_argument, default="lite", help="codec of the base layers")
    group.add_argument("--base-quality", type=int, default=16, help="of the base layers that judge it, 0..63")
    group.add_argument("--rate", type=float, default=1e-4, help="learning rate (default %(default)s)")
    group.add_argument("--batch", type=int, default=8, help="pictures a step (default %(default)s)")


def _export_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--work", type=Path, required=True, help="folder with the checkpoint")
    parser.add_argument(
        "--data", type=Path, required=True, help="training images; those kept back set the threshold"
    )
    parser.add_argument("--teacher", type=Path, required=True, help="the YOLOX-nano ONNX export")
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    parser.add_argument("--force", action="store_true", help="replace a model folder that is there")
    parser.add_argument("--minutes", type=positive, required=True, help="what the run was given")
    parser.add_argument(
        "--weights",
        choices=("average", "last"),
        default="average",
        help="averaged over steps, or as last stepped",
    )
    parser.add_argument("--command-line", default="", help="the training command, for the record")
    parser.add_argument("--note", default="", help="how the weights came about, for the record")


def _evaluate_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, required=True, help="folder of the annotated images")
    parser.add_argument("--annotations", type=Path, required=True, help="COCO instances file")
    class_map_flag(parser)
    parser.add_argument("--detector", type=model_argument, default="builtin", help="as for the worker")
    parser.add_argument("--against", type=model_argument, help="a second detector, judged beside it")
    parser.add_argument("--codec", type=model_argument, help="also judge on base layers of this codec model")
    parser.add_argument("--base-quality", type=int, action="append", default=[], help="0..63; may repeat")
    parser.add_argument("--quality", type=int, default=40, help="of the enhancement that goes with it, 0..63")
    parser.add_argument("--record", type=Path, help="a manifest to write the figures into")


def _base_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, required=True, help="folder of the annotated images")
    parser.add_argument("--annotations", type=Path, required=True, help="COCO instances file")
    class_map_flag(parser)
    repeated: dict[str, Any] = {"type": model_argument, "action": "append", "default": []}
    parser.add_argument("--detector", **repeated, help="as for the worker; may repeat")
    parser.add_argument("--model", **repeated, help="codec name or folder; may repeat")
    parser.add_argument("--base-quality", type=int, action="append", default=[], help="0..63; may repeat")
    parser.add_argument("--quality", type=int, default=40, help="of the enhancement that goes with it, 0..63")
    parser.add_argument(
        "--postfilter",
        type=model_argument,
        action="append",
        default=[],
        metavar="FOLDER",
        help="also judge base layers refined by this filter; may repeat",
    )
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=("avif", "jpeg"),
        default=["avif", "jpeg"],
        help="still codecs beside it",
    )
    parser.add_argument("--threads", type=at_least(1), default=1, help="threads of each detector (default 1)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures")


def _decoded_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder of training images")
    parser.add_argument("--video", type=Path, action="append", default=[], help="further frames; may repeat")
    parser.add_argument("--out", type=Path, required=True, help="folder to write them to")
    parser.add_argument(
        "--codec", type=model_argument, default="lite", help="name or folder of a codec model"
    )
    parser.add_argument("--every", type=int, default=1, help="take every n-th image")
    parser.add_argument("--seed", type=int, default=11, help="of scales and qualities")


Declare = Callable[[argparse.ArgumentParser], None]

COMMANDS: dict[str, tuple[Declare, str]] = {
    "train": (_train_flags, "distil the small detector from a YOLOX teacher"),
    "export": (_export_flags, "write a trained detector as a model folder"),
    "evaluate": (_evaluate_flags, "average precision of detectors on COCO-style data"),
    "base_layers": (_base_flags, "average precision on base layers beside still codecs, at equal bits"),
    "decoded": (_decoded_flags, "send a detector's training images through a codec's base layer"),
}


def parse(name: str, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line of one of the modules, run by itself."""
    declare, text = COMMANDS[name]
    parser = argparse.ArgumentParser(prog=f"python -m secondlook.training.detector.{name}", description=text)
    declare(parser)
    return parser.parse_args(arguments)


def runner(name: str) -> Callable[[argparse.Namespace], int]:
    """What `secondlook VERB detector` runs: the `run` of that module, imported when it is called."""

    def run(args: argparse.Namespace) -> int:
        return int(importlib.import_module(f"secondlook.training.detector.{name}").run(args))

    return run

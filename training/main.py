"""The verbs of training: `secondlook train`, `export`, `evaluate`, `bench`, `paper`, `import-checkpoint`.

Heavy imports happen when one runs.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from secondlook.shared.commands import Subparsers, command_group
from secondlook.shared.settings import model_argument
from secondlook.training import bench_cli
from secondlook.training.detector import cli as detector
from secondlook.training.flagtypes import at_least, positive, run_flags
from secondlook.training.machine import cli as machine
from secondlook.training.machinefilter import cli as machinefilter
from secondlook.training.masks.choice import mask_config, mask_flags
from secondlook.training.models import cli as models
from secondlook.training.paper import cli as paper
from secondlook.training.provenance import free_folder

DEFAULT_WORK = Path("runs")
DEFAULT_MODELS = Path("exported_models")
TRAINABLE_FILTERS = (*bench_cli.FILTERS, "rrdb-tiny", "quick")


def register(subparsers: Subparsers) -> None:
    """Add the six commands to the `secondlook` parser."""
    train = command_group(subparsers, "train", "train a model; resumable, within a time you set")
    _train_parsers(train)
    _detector(train, "train")
    export = command_group(subparsers, "export", "write a trained checkpoint as a model folder")
    _export_parsers(export)
    _detector(export, "export")
    evaluate = command_group(subparsers, "evaluate", "judge a model on data it was not trained on")
    _detector(evaluate, "evaluate")
    bench = command_group(subparsers, "bench", "measure beside peers, in one run")
    bench_cli.codec_flags(_add(bench, "codec", bench_cli.TEXT, bench_cli.run))
    machine.flags(_add(bench, "machine", machine.TEXT, machine.run))
    figures = command_group(
        subparsers, "paper", "the tables and figures of the paper this project builds on, measured"
    )
    for verb, text in paper.VERBS.items():
        paper.declare(verb, _add(figures, verb, text, paper.run))
    models.import_flags(
        subparsers.add_parser("import-checkpoint", help=models.IMPORT_TEXT, description=models.IMPORT_TEXT)
    )


def _add(
    group: Subparsers, name: str, text: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    parser = group.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run, extra="training")  # a group may be shared with another package
    return parser


def _detector(group: Subparsers, verb: str) -> None:
    declare, text = detector.COMMANDS[verb]
    declare(_add(group, "detector", text, detector.runner(verb)))
    if verb == "evaluate":
        declare, text = detector.COMMANDS["base_layers"]
        declare(_add(group, "base", text, detector.runner("base_layers")))
    if verb == "train":
        declare, text = detector.COMMANDS["decoded"]
        declare(_add(group, "detector-frames", text, detector.runner("decoded")))


def _training_flags(parser: argparse.ArgumentParser, seed: int) -> None:
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with train/images, train/boundaries and val"
    )
    parser.add_argument(
        "--work", type=Path, default=DEFAULT_WORK, help="folder for checkpoints (default %(default)s)"
    )
    parser.add_argument(
        "--minutes", type=positive, required=True, help="stop after this time, at a checkpoint"
    )
    parser.add_argument("--threads", type=at_least(1), default=2, help="CPU threads (default %(default)s)")
    run_flags(parser, seed)


def _train_parsers(group: Subparsers) -> None:
    edges = _add(group, "edges", "the boundary network behind the SA-ICM masks", _train_edges)
    _training_flags(edges, seed=1)
    _lite_flags(_add(group, "lite", "the layered codec", _train_lite))
    scales = _add(group, "scales", "last stage of lite: its scale networks, on real symbols", _train_scales)
    _training_flags(scales, seed=0)
    _family_flags(_add(group, "paper", "a model of the paper family: SA-ICM, or ICMH-FF on it", _train_paper))
    _postfilter_flags(_add(group, "postfilter", "a post-filter for the codec", _train_postfilter))
    text = "a filter for machines behind the decoder of video"
    machinefilter.flags(_add(group, "machine-filter", text, machinefilter.run))


def _lite_flags(lite: argparse.ArgumentParser) -> None:
    _training_flags(lite, seed=7)
    lite.add_argument("--resume", action="store_true", help="go on from the checkpoint in --work")
    lite.add_argument(
        "--from-model", type=Path, metavar="FOLDER", help="start from the weights of a model folder"
    )
    lite.add_argument(
        "--steps", type=at_least(1), default=15000, help="length of the schedule (default %(default)s)"
    )
    lite.add_argument("--batch", type=at_least(1), default=8, help="crops a step (default %(default)s)")
    lite.add_argument(
        "--crop",
        type=at_least(64, 64),
        default=128,
        help="side of a crop, a multiple of 64 (default %(default)s)",
    )
    lite.add_argument("--lr", type=positive, default=5e-4, help="first learning rate (default %(default)s)")
    _lite_loss_flags(lite)


def _lite_loss_flags(lite: argparse.ArgumentParser) -> None:
    lite.add_argument(
        "--detector",
        type=Path,
        metavar="MODEL",
        help="a detector's folder, or a YOLOX-nano ONNX export, whose features the base layer keeps",
    )
    lite.add_argument(
        "--feature-weight",
        type=float,
        default=0.01,
        metavar="F",
        help="squared error that a unit of feature distance is worth, with --detector (default %(default)s)",
    )
    lite.add_argument(
        "--mask-floor",
        type=float,
        default=0.5,
        metavar="W",
        help="weight of errors outside object boundaries in the base layer, 1 for plain MSE (default %(default)s)",
    )
    mask_flags(lite)
    lite.add_argument(
        "--base-skew",
        type=float,
        default=1.4,
        metavar="S",
        help="draw base qualities as 64 u^S (default %(default)s)",
    )
    lite.add_argument(
        "--lambdas",
        type=positive,
        nargs=2,
        default=(0.001, 0.06),
        metavar="λ",
        help="of qualities 0 and 63 in R + λ·255²·MSE, the others between them (default 0.001 0.06)",
    )
    lite.add_argument(
        "--base-share",
        type=positive,
        default=0.18,
        metavar="S",
        help="the base layer's λ over the enhancement's at a quality (default %(default)s)",
    )
    _conditioned_flags(lite)
    layers = lite.add_mutually_exclusive_group()
    layers.add_argument(
        "--only",
        choices=("base", "enhancement"),
        default="",
        help="let this layer alone learn, the other and the common trunk stand still",
    )
    layers.add_argument(
        "--single-layer",
        action="store_true",
        help="leave the base layer empty: the reference for what two layers cost",
    )


def _conditioned_flags(lite: argparse.ArgumentParser) -> None:
    lite.add_argument(
        "--clips",
        type=Path,
        nargs="+",
        metavar="DIR|FILE",
        help="with --only enhancement: learn on frames of these too, which the family video has coded",
    )
    lite.add_argument(
        "--hold-out", nargs="+", default=[], metavar="NAME", help="clips to leave out, by name without suffix"
    )
    lite.add_argument(
        "--conditioned",
        action="store_true",
        help="the enhancement sees what video made of the frame, and there is no base layer; a trial, not exported",
    )


def _postfilter_flags(postfilter: argparse.ArgumentParser) -> None:
    _filter_flags(postfilter)
    _training_flags(postfilter, seed=3)
    postfilter.add_argument(
        "--loss",
        choices=("mse", "features"),
        default="mse",
        help="squared error, or the distance of a detector's features (default %(default)s)",
    )
    postfilter.add_argument(
        "--detector",
        type=Path,
        metavar="MODEL",
        help="the detector's folder, or YOLOX-nano export, for --loss features",
    )
    postfilter.add_argument(
        "--lr", type=positive, default=2e-4, help="first learning rate (default %(default)s)"
    )
    postfilter.add_argument(
        "--batch", type=at_least(1), default=6, help="patches a step (default %(default)s)"
    )
    postfilter.add_argument(
        "--patch",
        type=int,
        default=0,
        metavar="SIDE",
        help="side of a patch, at most 256 pixels (default 48, or 96 where the filter works at a lower scale)",
    )
    postfilter.add_argument(
        "--steps",
        type=at_least(1),
        help="end after so many, over which the learning rate falls (default: it falls over --minutes)",
    )
    postfilter.add_argument(
        "--from-model", type=Path, metavar="FOLDER", help="start from the weights of a model folder"
    )
    postfilter.add_argument(
        "--teacher", type=Path, metavar="FOLDER", help="learn from the RRDB filter of a model folder as well"
    )
    postfilter.add_argument("--resume", action="store_true", help="go on from the checkpoint in --work")
    postfilter.add_argument(
        "--more", type=Path, nargs="+", default=[], metavar="FOLDER", help="further images, camera frames say"
    )
    postfilter.add_argument(
        "--model", type=model_argument, default="lite", help="codec, by name or folder (default %(default)s)"
    )


def _family_flags(parser: argparse.ArgumentParser) -> None:
    _training_flags(parser, seed=7)
    models.train_flags(parser)
    mask_flags(parser)


def _filter_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", choices=TRAINABLE_FILTERS, help="its size")
    parser.add_argument(
        "--layer",
        choices=("base", "enhanced"),
        default="enhanced",
        help="the pictures it refines: those for machines or those for people (default %(default)s)",
    )


def _export_parsers(group: Subparsers) -> None:
    lite = _add(group, "lite", "the layered codec", _export_lite)
    postfilter = _add(group, "postfilter", "a post-filter", _export_postfilter)
    _filter_flags(postfilter)
    machine_filter = _add(group, "machine-filter", "a filter for machines", _export_machine_filter)
    family = _add(
        group, "paper", "the paper family: the machine model and all additional ones", _export_paper
    )
    models.export_flags(family)
    for parser in (lite, postfilter, machine_filter, family):
        parser.add_argument("--work", type=Path, default=DEFAULT_WORK, help="folder with the checkpoint")
        parser.add_argument(
            "--out",
            type=Path,
            default=DEFAULT_MODELS,
            help="where the model folder goes (default %(default)s)",
        )
        parser.add_argument("--note", default="", help="how it was trained, for the manifest")
        parser.add_argument(
            "--trained-on",
            metavar="TEXT",
            default="not stated",
            help="the data and their licences, for the manifest, beside their count and hash (default: %(default)s)",
        )
        parser.add_argument(
            "--licence",
            metavar="TEXT",
            default="not stated",
            help="of the weights, for the manifest (default: %(default)s)",
        )
        parser.add_argument("--force", action="store_true", help="replace a model folder that is there")


def _train_edges(args: argparse.Namespace) -> int:
    from secondlook.training.masks.network import train_edges

    train = args.data / "train"
    loss = train_edges(
        train / "images",
        train / "boundaries",
        args.work / "edges.pt",
        args.minutes,
        args.threads,
        seed=args.seed,
    )
    print(f"loss {loss:.4f}")
    return 0


def _train_lite(args: argparse.Namespace) -> int:
    from secondlook.training.lite.decoded_pairs import Clips
    from secondlook.training.lite.train import TrainConfig, train

    config = TrainConfig(
        total_steps=args.steps,
        batch=args.batch,
        crop=args.crop,
        lr=args.lr,
        mask_floor=args.mask_floor,
        feature_weight=args.feature_weight,
        base_skew=args.base_skew,
        single_layer=args.single_layer,
        only=args.only,
        conditioned=args.conditioned,
        seed=args.seed,
        lambda_low=min(args.lambdas),
        lambda_high=max(args.lambdas),
        base_share=args.base_share,
    )
    masks = mask_config(args)
    start = {"resume": args.resume, "start_from": args.from_model, "detector": args.detector, "masks": masks}
    clips = Clips(tuple(args.clips), tuple(args.hold_out)) if args.clips else None
    run = {"threads": args.threads, "tensorboard": args.tensorboard, "clips": clips}
    print(train(args.data, args.work, args.minutes, config, **run, **start))
    return 0


def _train_paper(args: argparse.Namespace) -> int:
    return models.run_train(args, os.environ)


def _train_scales(args: argparse.Namespace) -> int:
    from secondlook.training.lite.fit_scales import fit_scales

    print(fit_scales(args.data, args.work, args.minutes, threads=args.threads, seed=args.seed))
    return 0


def _train_postfilter(args: argparse.Namespace) -> int:
    from secondlook.training.postfilter.train import FilterConfig, train

    checkpoint = train(
        args.name,
        args.data,
        args.model,
        args.work,
        args.minutes,
        resume=args.resume,
        threads=args.threads,
        more=args.more,
        detector=args.detector,
        start_from=args.from_model,
        teacher=args.teacher,
        config=FilterConfig(
            args.layer, args.loss, args.batch, args.lr, args.patch, args.seed, args.steps or 0
        ),
        tensorboard=args.tensorboard,
    )
    print(checkpoint)
    return 0


def _checkpoint(path: Path) -> dict[str, Any]:
    import torch

    from secondlook.shared.errors import ModelNotFound

    if not path.exists():
        raise ModelNotFound(f"no checkpoint {path}: train first, or give --work")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _facts(args: argparse.Namespace, state: dict[str, Any]) -> dict[str, Any]:
    """For the manifest; checkpoints of earlier versions hold no `source`."""
    training = {"data": args.trained_on, **state.get("source", {}), "steps": state["step"], "note": args.note}
    return {"licence": args.licence, "training": training}


def _export_lite(args: argparse.Namespace) -> int:
    from secondlook.training.lite.export import export_lite
    from secondlook.training.lite.model import LiteCodec

    state = _checkpoint(args.work / "lite.pt")
    codec = LiteCodec()
    codec.load_state_dict(state["model"])
    counts = state["counts"].numpy() if "counts" in state else None
    folder = free_folder(args.out / "lite", force=args.force)
    facts = _facts(args, state)
    loss = ("lambda_low", "lambda_high", "base_share")
    facts["training"].update(
        {name: state["config"][name] for name in loss if name in state.get("config", {})}
    )
    export_lite(codec, folder, facts, counts)
    print(folder)
    return 0


def _export_postfilter(args: argparse.Namespace) -> int:
    from secondlook.training.postfilter.export import export_postfilter
    from secondlook.training.postfilter.train import build, checkpoint_of, filter_name

    state = _checkpoint(checkpoint_of(args.name, args.layer, args.work))
    net = build(args.name, args.work, args.layer)
    net.load_state_dict(state["model"])
    facts = _facts(args, state)
    facts["training"].update(state.get("config", {}))  # checkpoints of earlier versions hold none
    folder = free_folder(args.out / filter_name(args.name, args.layer), force=args.force)
    export_postfilter(net, folder, facts)
    print(folder)
    return 0


def _export_machine_filter(args: argparse.Namespace) -> int:
    from secondlook.training.machinefilter.export import export_machine_filter
    from secondlook.training.machinefilter.model import MachineFilter
    from secondlook.training.machinefilter.train import NAME

    state = _checkpoint(args.work / f"{NAME}.pt")
    config = state["config"]
    net = MachineFilter(features=config["features"], blocks=config["blocks"])
    net.load_state_dict(state["model"])
    facts = _facts(args, state)
    facts["training"].update(config)
    folder = free_folder(args.out / NAME, force=args.force)
    export_machine_filter(net, folder, facts)
    print(folder)
    return 0


def _export_paper(args: argparse.Namespace) -> int:
    from secondlook.training.models.checkpoint import export_trained

    folder = free_folder(args.out / args.name, force=args.force)
    facts = {"licence": args.licence, "training": {"data": args.trained_on, "note": args.note}}
    export_trained(args.work, folder, facts, machine=args.machine)
    print(folder)
    return 0

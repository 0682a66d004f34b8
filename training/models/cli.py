"""The flags of the paper family's commands. Nothing heavy is imported before one runs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from secondlook.training.flagtypes import at_least, positive
from secondlook.training.masks.choice import mask_config

BASE_LAMBDA, LAMBDA = 0.05, 0.01  # of the authors' published pair of checkpoints
IMPORT_TEXT = "make a model folder of the paper family from its authors' two checkpoints"


def train_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of `secondlook train paper` beside those that all training has."""
    parser.add_argument("stage", choices=("machine", "additional"), help="which of the two models")
    parser.add_argument(
        "--size",
        choices=("full", "reduced"),
        default="full",
        help="as published, or small enough for a CPU (default %(default)s)",
    )
    parser.add_argument(
        "--lam",
        type=positive,
        metavar="λ",
        help=f"weight of the squared error (default {BASE_LAMBDA:g} for machine, {LAMBDA:g} for additional)",
    )
    parser.add_argument(
        "--machine",
        type=Path,
        metavar="FOLDER",
        help="for additional: a model folder to take the machine model from (default: the checkpoint in --work)",
    )
    parser.add_argument(
        "--mask-floor",
        type=float,
        default=0.0,
        metavar="W",
        help="for machine: weight of errors outside the mask (default %(default)g, as published)",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --work")
    parser.add_argument(
        "--steps", type=at_least(1), help="length of the schedule (default 1000000, reduced 600)"
    )
    parser.add_argument("--batch", type=at_least(1), help="crops a step and device (default 8, reduced 4)")
    parser.add_argument(
        "--crop", type=at_least(64, 64), help="side of a crop, a multiple of 64 (default 256, reduced 128)"
    )
    parser.add_argument("--lr", type=positive, help="learning rate (default 1e-4, reduced 1e-3)")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that read images (default %(default)s)"
    )


def export_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of `secondlook export paper` beside those that all exports have."""
    parser.add_argument("--name", default="paper", help="name of the model folder (default %(default)s)")
    parser.add_argument(
        "--machine",
        type=Path,
        metavar="FOLDER",
        help="a model folder to take the machine model from (default: the checkpoint in --work)",
    )


def import_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of `secondlook import-checkpoint`."""
    parser.add_argument("machine", type=Path, metavar="ICM", help="the machine model, icm.pth.tar")
    parser.add_argument("additional", type=Path, metavar="ICA", help="the additional model, ica.pth.tar")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the model folder to write")
    parser.add_argument(
        "--base-lambda",
        type=positive,
        default=BASE_LAMBDA,
        metavar="λ",
        help="what the machine model was trained with (default %(default)g)",
    )
    parser.add_argument(
        "--lam",
        type=positive,
        default=LAMBDA,
        metavar="λ",
        help="what the additional model was trained with (default %(default)g)",
    )
    parser.set_defaults(run=run_import)


def run_train(args: argparse.Namespace, environment: Mapping[str, str]) -> int:
    """Train one model. `environment` tells of other processes, as torchrun sets it."""
    from secondlook.training.models.checkpoint import machine_weights
    from secondlook.training.models.train import (
        Place,
        Ranks,
        TrainConfig,
        checkpoint_path,
        read_checkpoint,
        reduced,
        train,
    )

    lam = args.lam or (BASE_LAMBDA if args.stage == "machine" else LAMBDA)
    changes = {name: getattr(args, name) for name in ("steps", "batch", "crop", "lr") if getattr(args, name)}
    changes |= {"mask_floor": args.mask_floor, "seed": args.seed}
    config = (
        TrainConfig(args.stage, lam, **changes)
        if args.size == "full"
        else reduced(args.stage, lam, **changes)
    )
    below = None
    if args.stage == "additional":
        trained = checkpoint_path(args.work, "machine", lam)
        below = machine_weights(args.machine) if args.machine else read_checkpoint(trained)["model"]
    ranks = Ranks(
        *(int(environment.get(name, n)) for name, n in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1)))
    )
    checkpoint = train(
        Place(args.data, args.work, below, mask_config(args)),
        config,
        args.minutes,
        resume=args.resume,
        threads=args.threads,
        ranks=ranks,
        workers=args.workers,
        tensorboard=args.tensorboard,
    )
    if ranks.rank == 0:
        print(checkpoint)
    return 0


def run_import(args: argparse.Namespace) -> int:
    """Write the folder and say what it is."""
    from secondlook.training.models.checkpoint import import_checkpoints

    facts = import_checkpoints(
        args.machine, args.additional, args.out, base_lambda=args.base_lambda, lam=args.lam
    )
    print(f"{args.out}  size {facts['size']}")
    print(f"licence: {facts['licence']}")
    return 0

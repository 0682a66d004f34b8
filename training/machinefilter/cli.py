"""`secondlook train machine-filter`: its flags, and what it does with them."""

from __future__ import annotations

import argparse
from pathlib import Path

from secondlook.training.flagtypes import at_least, positive, run_flags


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder with train/images")
    parser.add_argument(
        "--videos", type=Path, nargs="+", required=True, metavar="DIR|FILE", help="clips of fixed cameras"
    )
    parser.add_argument(
        "--detector",
        type=Path,
        nargs="+",
        required=True,
        metavar="MODEL",
        help="detectors' folders, or the YOLOX-nano export, whose features are compared, those of one a step",
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs"), help="folder for checkpoints (default %(default)s)"
    )
    parser.add_argument(
        "--minutes", type=positive, required=True, help="stop after this time, at a checkpoint"
    )
    parser.add_argument("--threads", type=at_least(1), default=2, help="CPU threads (default %(default)s)")
    parser.add_argument("--lr", type=positive, default=6e-4, help="first learning rate (default %(default)s)")
    parser.add_argument(
        "--batch", type=at_least(2, 2), default=8, help="crops a step, half of clips (default %(default)s)"
    )
    parser.add_argument(
        "--clip-frames",
        type=at_least(2),
        default=100,
        metavar="N",
        help="frames of each clip, at 5 a second (default %(default)s)",
    )
    parser.add_argument(
        "--from-model", type=Path, metavar="FOLDER", help="start from the weights of a model folder"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --work")
    run_flags(parser, seed=5)


def run(args: argparse.Namespace) -> int:
    """Train, and print the checkpoint."""
    from secondlook.training.machinefilter.train import MachineFilterConfig, train

    config = MachineFilterConfig(batch=args.batch, lr=args.lr, clip_frames=args.clip_frames, seed=args.seed)
    checkpoint = train(
        args.data,
        args.videos,
        args.detector,
        args.work,
        args.minutes,
        resume=args.resume,
        threads=args.threads,
        start_from=args.from_model,
        config=config,
        tensorboard=args.tensorboard,
    )
    print(checkpoint)
    return 0

"""`secondlook bench machine`: its flags, and what it does with them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secondlook.training.machine.measure import Measured

TEXT = "bits that a detector needs of a camera's frames, by codec"


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--videos", type=Path, nargs="+", required=True, metavar="DIR|FILE", help="clips, or folders of clips"
    )
    parser.add_argument(
        "--judge",
        nargs="+",
        default=["builtin"],
        metavar="DETECTOR",
        help="detectors that judge: builtin, a model folder, or an .onnx export (default: builtin)",
    )
    parser.add_argument(
        "--codecs",
        nargs="+",
        metavar="NAME",
        help="only these, `filtered MODEL` for video x265 behind a filter for machines, or `peer NAME` for a still "
        "codec of a package (default: all; a wrong name lists them)",
    )
    parser.add_argument(
        "--fps", type=float, default=5.0, help="frames taken from each second (default %(default)g)"
    )
    parser.add_argument(
        "--frames", type=int, default=150, help="frames of each clip at most (default %(default)s)"
    )
    parser.add_argument(
        "--moving",
        action="store_true",
        help="as a camera would see the clips that pans and trembles: a window wanders over the frames",
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of the judges (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures, after every clip")
    parser.add_argument(
        "--resume", action="store_true", help="take over what the file of --json holds, and measure the rest"
    )
    parser.add_argument("--plot", type=Path, metavar="DIR", help="write a plot for each clip")
    parser.add_argument(
        "--readme", type=Path, metavar="FILE.md", help="put the table between the marks of this file"
    )


def run(args: argparse.Namespace) -> int:
    """Measure clip by clip, write what is known after each, print the report."""
    from secondlook.cloud.workers.detectors import load_detector
    from secondlook.shared.errors import ConfigError
    from secondlook.shared.files import write_atomically
    from secondlook.training.machine import measure, report
    from secondlook.training.machine.accuracy import LOWEST
    from secondlook.training.machine.codecs import CODECS, OURS, PEER_KEYS, REFERENCES, find_codec

    codecs = [find_codec(name) for name in args.codecs or CODECS]
    if args.fps <= 0 or args.frames < 2 or args.threads < 1:
        raise ConfigError("--fps must be above 0, --frames at least 2, --threads at least 1")
    judges = {
        Path(spec).stem or spec: load_detector(spec, threads=args.threads, min_score=LOWEST)
        for spec in args.judge
    }
    known = {clip.clip: clip for clip in _known(args)}
    clips = []
    for path in measure.find_videos(args.videos):
        clip = measure.read_clip(path, fps=args.fps, most_frames=args.frames)
        clip = measure.as_moving(clip, args.fps) if args.moving else clip
        found = known.get(clip.name)
        if found is None:
            clips.append(measure.measure_clip(clip, codecs, judges, print))
        else:
            clips.append(found)
            rest = measure.missing_codecs(found, clip, codecs, judges)
            found.rows += measure.measure_clip(clip, rest, judges, print).rows if rest else []
        if args.json:
            figures = measure.as_json(clips, OURS, PEER_KEYS)
            write_atomically(args.json, (json.dumps(figures, indent=1) + "\n").encode())
        if args.plot:
            report.plot(clips[-1:], args.plot)
    print(report.report(clips, REFERENCES))
    if args.readme:
        report.write_table(clips, REFERENCES, args.readme)
    return 0


def _known(args: argparse.Namespace) -> list[Measured]:
    """The figures to go on from."""
    from secondlook.shared.errors import ConfigError
    from secondlook.training.machine.measure import from_json

    if not args.resume:
        return []
    if args.json is None:
        raise ConfigError("--resume goes on from the file of --json: name one")
    if not args.json.exists():
        return []
    try:
        figures = json.loads(args.json.read_text())
    except ValueError as error:
        raise ConfigError(f"{args.json} holds no JSON: {error}") from error
    return from_json(figures)

"""The flags of `secondlook demo`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

DESCRIPTION = """\
Run a camera agent, gateway, machine worker, refiner, station and retention on this machine, connected
as they would be over a network, and show where to look. Ctrl-C stops all of them."""

_VIRTUAL = "demo:"
_FRAMES_WITH_EXIT = 60
_FPS_LIVE = 5.0


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `demo` to the `secondlook` parser."""
    demo = subparsers.add_parser("demo", help="the whole pipeline on this machine", description=DESCRIPTION)
    demo.add_argument(
        "--source",
        default=_VIRTUAL,
        help="video file, image folder, camera number, rtsp:// or http:// address "
        "(default: %(default)s, a virtual camera)",
    )
    demo.add_argument("--frames", type=_positive, metavar="N", help="stop capturing after N frames")
    demo.add_argument(
        "--fps",
        type=float,
        metavar="N",
        help=f"take so many frames a second (default {_FPS_LIVE:g}; all of them with --exit)",
    )
    demo.add_argument(
        "--exit",
        action="store_true",
        help=f"end when all frames and reviews are done (--frames is then {_FRAMES_WITH_EXIT} unless given)",
    )
    demo.add_argument("--report", type=Path, metavar="FILE", help="write what was measured as JSON")
    demo.add_argument(
        "--port",
        type=_port,
        help="of the station, 0 for any free one (default: 7600, or any if that is taken)",
    )
    demo.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="keep all data here (default: a temporary folder)"
    )
    demo.add_argument(
        "--open",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="open the station in a browser (default: on a terminal, without --exit)",
    )
    _choices(demo)
    demo.set_defaults(run=run)


def _choices(demo: argparse.ArgumentParser) -> None:
    """What the processes of the demo shall do differently."""
    demo.add_argument("--restart", action="store_true", help="start a process again when something kills it")
    demo.add_argument(
        "--audit-every",
        type=_positive,
        default=20,
        metavar="N",
        help="review every N-th frame, whatever is found in it (default %(default)s)",
    )
    demo.add_argument(
        "--key-interval",
        type=_positive,
        default=1,
        metavar="N",
        help="of family lite: one key frame in N, the others deltas (default %(default)s)",
    )
    demo.add_argument(
        "--family",
        choices=("auto", "lite", "video"),
        default="auto",
        help="what base layers are coded by: the model (lite), or a video encoder in groups of frames (video); auto "
        "takes video for cameras and video files, lite for images (default %(default)s)",
    )
    demo.add_argument(
        "--codec",
        default="lite",
        metavar="MODEL",
        help="codec of both ends, by name or folder; the family `paper` needs the training extra (default %(default)s)",
    )
    demo.add_argument(
        "--detector",
        help="auto, builtin, the name of a model or of a package's detector, an .onnx export, or ultralytics weights "
        "by name (default: builtin for the virtual camera, whose drawn cars only the small detector knows; else auto)",
    )
    demo.add_argument(
        "--postfilter",
        default="rrdb-fast",
        metavar="MODEL",
        help="what cleans reviewed pictures: rrdb-fast, rrdb-l1, rrdb-l2, a folder, or one that a package brings "
        "(default %(default)s)",
    )
    demo.add_argument(
        "--fetch",
        choices=("frame", "boxes"),
        default="frame",
        help="what is fetched first of a frame that the detector doubts: all of it, or the crop around the box "
        "(default %(default)s)",
    )
    demo.add_argument(
        "--device",
        default="auto",
        help="where networks run: auto, cpu, cuda or cuda:N (default %(default)s)",
    )
    demo.add_argument(
        "--stall-seconds",
        type=float,
        default=180.0,
        help="with --exit, give up when nothing moves for so long (default %(default)g)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo that the flags ask for."""
    from secondlook.cloud.demo.run import run_demo
    from secondlook.cloud.demo.settings import DemoConfig
    from secondlook.shared.config import SOURCE_CREDENTIALS
    from secondlook.shared.redact import refuse_on_command_line
    from secondlook.shared.settings import NameOrPath, SourceAddress

    refuse_on_command_line(
        "--source", args.source, f"put user and password as USER:PASSWORD into {SOURCE_CREDENTIALS}"
    )
    frames = args.frames if args.frames is not None or not args.exit else _FRAMES_WITH_EXIT
    detector = args.detector or ("builtin" if args.source == _VIRTUAL else "auto")
    open_browser = args.open if args.open is not None else sys.stdout.isatty() and not args.exit
    return run_demo(
        DemoConfig(
            # The processes read their settings in a folder of their own.
            source=SourceAddress.resolve(args.source, Path.cwd()),
            frames=frames,
            fps=args.fps if args.fps is not None or args.exit else _FPS_LIVE,
            exit_when_done=args.exit,
            report=args.report,
            port=args.port,
            data_dir=args.data_dir,
            open_browser=open_browser,
            restart=args.restart,
            audit_every=args.audit_every,
            key_interval=args.key_interval,
            family=args.family,
            codec=NameOrPath.resolve(args.codec, Path.cwd()),
            detector=NameOrPath.resolve(detector, Path.cwd()),
            postfilter=NameOrPath.resolve(args.postfilter, Path.cwd()),
            device=args.device,
            stall_seconds=args.stall_seconds,
            fetch=args.fetch,
        )
    )


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65_535:
        raise argparse.ArgumentTypeError("must lie between 0 and 65535")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value

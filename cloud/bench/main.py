"""The flags of `secondlook bench pipeline`."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from secondlook.shared.commands import Subparsers, command_group
from secondlook.shared.errors import ConfigError

BENCH_TEXT = "measure beside peers, in one run"


def register(subparsers: Subparsers) -> None:
    """Add `bench pipeline`."""
    bench = command_group(subparsers, "bench", BENCH_TEXT)
    text = "durable packets a second of a gateway under many simulated camera hosts, beside the raw engines"
    parser = bench.add_parser("pipeline", help=text, description=text)
    parser.add_argument("--edges", type=int, default=100, help="camera hosts (default %(default)s)")
    parser.add_argument(
        "--packets", type=int, default=50_000, help="of all edges together (default %(default)s)"
    )
    parser.add_argument(
        "--packet-bytes", type=int, default=10_000, help="payload of a packet (default %(default)s)"
    )
    parser.add_argument(
        "--recorded",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="send these base layers in turn instead of noise",
    )
    parser.add_argument(
        "--in-flight",
        type=int,
        default=8,
        help="packets an edge sends before it waits (default %(default)s)",
    )
    parser.add_argument(
        "--processes", type=int, default=1, help="that simulate the edges (default %(default)s)"
    )
    parser.add_argument(
        "--store-only",
        action="store_true",
        help="let workers begin when all packets are acknowledged: the rate of storing, as the raw engines have it",
    )
    parser.add_argument("--queue", metavar="URL", help="queue of the gateway (default: the embedded one)")
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path(),
        help="a folder on the disk to measure; used and left as it was (default: the present one)",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures")
    parser.set_defaults(run=run, extra="cloud")
    _register_host(bench)


def _register_host(bench: Subparsers) -> None:
    text = "measure how many cameras this machine carries, and what each role needs of CPU, memory and disk"
    parser = bench.add_parser("host", help=text, description=text)
    parser.add_argument("--cameras", type=int, default=4, help="that one agent plays (default %(default)s)")
    parser.add_argument(
        "--fps", type=float, default=5.0, help="frames a second of each (default %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="that are measured (default %(default)s)")
    parser.add_argument("--size", default="768x432", help="of frames, WIDTHxHEIGHT (default %(default)s)")
    parser.add_argument(
        "--videos",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="play these instead of a scene of our own",
    )
    parser.add_argument(
        "--family", default="auto", help="of base layers: auto, lite or video (default %(default)s)"
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="where all is kept, and left (default: a temporary folder)",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures")
    parser.set_defaults(run=run_host, extra="cloud")


def run_host(args: argparse.Namespace) -> int:
    """Measure this machine and print what it carries."""
    import tempfile

    from secondlook.cloud.bench import host

    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", args.size)
    if match is None:
        raise ConfigError(f"--size {args.size} is not WIDTHxHEIGHT")
    size = int(match[1]), int(match[2])
    plan = host.Plan(args.cameras, args.fps, args.seconds, *size, tuple(args.videos), args.family)
    with tempfile.TemporaryDirectory(prefix="secondlook-") as temporary:
        figures = host.run(plan, args.data_dir or Path(temporary))
    print(host.report(figures))
    if args.json:
        host.write_json(figures, args.json)
    return 0


def run(args: argparse.Namespace) -> int:
    """Measure and print. Raises FramesLost when a packet was lost or doubled."""
    import os

    from secondlook.cloud.bench import pipeline

    if args.recorded:
        payloads = tuple(path.read_bytes() for path in args.recorded)
    else:
        # A few different ones: neither the disk nor anything else may profit from repetition.
        payloads = tuple(os.urandom(args.packet_bytes) for _ in range(16))
    plan = pipeline.Plan(
        args.edges, args.packets, payloads, args.in_flight, args.processes, args.queue, args.store_only
    )
    figures = pipeline.run(plan, args.data_dir)
    print(pipeline.report(figures))
    if args.json:
        pipeline.write_json(figures, args.json)
    pipeline.check(figures)
    return 0

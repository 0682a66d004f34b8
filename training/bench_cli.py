"""`secondlook bench codec`: its flags, and what it does with them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from secondlook.shared.settings import model_argument

PEER_NAMES = ("jpeg", "webp", "avif", "x264", "x265", "mbt2018-mean", "cheng2020-anchor")
FILTERS = ("rrdb-l1", "rrdb-l2", "rrdb-fast")
TEXT = "rate, quality and time of both layers beside still codecs"


def codec_flags(codec: argparse.ArgumentParser) -> None:
    codec.add_argument(
        "--images",
        type=Path,
        help="folder of images (default: four photographs inside the scikit-image package)",
    )
    codec.add_argument("--limit", type=int, help="only the first so many images")
    codec.add_argument(
        "--model", type=model_argument, default="lite", help="codec name or folder (default %(default)s)"
    )
    codec.add_argument(
        "--peers",
        nargs="*",
        metavar="NAME",
        default=list(PEER_NAMES),
        help=f"codecs to measure beside ours: {', '.join(PEER_NAMES)}, or one that a package brings (default: those)",
    )
    codec.add_argument(
        "--filters",
        nargs="*",
        type=model_argument,
        metavar="MODEL",
        default=[],
        help="post-filters to judge as well, by name or folder",
    )
    codec.add_argument(
        "--filter-limit", type=int, metavar="N", help="judge post-filters on only the first so many images"
    )
    codec.add_argument(
        "--threads", type=int, default=2, help="CPU threads of our codec (default %(default)s)"
    )
    codec.add_argument("--json", type=Path, metavar="OUT", help="write all figures")
    codec.add_argument(
        "--rows",
        type=Path,
        metavar="OUT.jsonl",
        help="write a line of JSON for each picture at each setting, as it is measured (default: beside --json)",
    )
    codec.add_argument(
        "--resume", action="store_true", help="take over what the file of --rows holds, and measure the rest"
    )
    codec.add_argument("--plot", type=Path, metavar="OUT.png", help="write the curves")
    codec.add_argument(
        "--readme", type=Path, metavar="FILE.md", help="put the tables between the marks of this file"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print the report, and write what was asked for."""
    from secondlook.shared.errors import ConfigError
    from secondlook.training.bench import bench_codec, plot, report, write_json, write_table
    from secondlook.training.bench_rows import RowLog

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    rows = args.rows or (args.json.with_suffix(".jsonl") if args.json else None)
    if args.resume and rows is None:
        raise ConfigError("--resume goes on from the file of --rows: name one")
    result = bench_codec(
        args.images,
        model=args.model,
        peers=args.peers,
        filters=args.filters,
        limit=args.limit,
        threads=args.threads,
        filter_limit=args.filter_limit,
        log=RowLog(rows, resume=args.resume, say=say),
        say=say,
    )
    print(report(result))
    if args.json:
        write_json(result, args.json)
    if args.plot:
        plot(result, args.plot)
    if args.readme:
        write_table(result, args.readme)
    return 0

"""`secondlook paper`: flags, and the files that its four verbs write."""

from __future__ import annotations

import argparse
import csv
import io
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from secondlook.shared.settings import model_argument

if TYPE_CHECKING:
    from secondlook.training.paper.curves import Curve
    from secondlook.training.paper.noise import Example
    from secondlook.training.paper.study import Study
    from secondlook.training.paper.table import Cell

VERBS = {
    "table1": "PSNR without and with post-processing, ours beside Table I",
    "fig2": "rate-distortion curves of both layers beside HEVC, VVC, AVIF and JPEG",
    "fig3": "input, output and coding noise of the post-filter",
    "report": "all of it, as CSV, PNG and one HTML page",
}
PEER_NAMES = ("x265", "vvc", "avif", "jpeg", "webp", "x264")
DEFAULT_PEERS = PEER_NAMES[:4]
LAMBDAS = (0.005, 0.010, 0.020, 0.030)


def declare(verb: str, parser: argparse.ArgumentParser) -> None:
    """Add the flags of one verb."""
    parser.set_defaults(verb=verb)
    parser.add_argument(
        "--codec",
        type=model_argument,
        default="lite",
        metavar="MODEL",
        help="codec, by name or folder",
    )
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of images")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for figures and records; a run that was cut goes on from the records in it",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first so many images")
    parser.add_argument(
        "--threads", type=int, default=2, metavar="N", help="CPU threads (default %(default)s)"
    )
    parser.add_argument("--gpu", action="store_true", help="post-filters on an NVIDIA GPU where there is one")
    parser.add_argument(
        "--base-quality",
        type=int,
        default=8,
        metavar="Q",
        help="of the machine's layer (default %(default)s)",
    )
    for name in ("l1", "l2"):
        parser.add_argument(
            f"--{name}",
            default=f"rrdb-{name}",
            metavar="MODEL",
            help=f"post-filter with l = {name[1]} RRDBs, by name or folder, or `none` (default %(default)s)",
        )
    parser.add_argument(
        "--lambdas",
        type=float,
        nargs="+",
        choices=LAMBDAS,
        default=list(LAMBDAS),
        metavar="λ",
        help="which λ of the paper (default: all four)",
    )
    parser.add_argument(
        "--lpips",
        type=Path,
        metavar="FILE",
        help="weights for LPIPS: torchvision's AlexNet, or a state dict of lpips.LPIPS(net='alex')",
    )
    if verb in ("fig2", "report"):
        _fig2_flags(parser)
    if verb in ("fig3", "report"):
        parser.add_argument(
            "--examples", type=int, default=2, metavar="N", help="pictures of Fig. 3 (default %(default)s)"
        )
        parser.add_argument(
            "--example-lambda",
            type=float,
            choices=LAMBDAS,
            default=LAMBDAS[0],
            metavar="λ",
            help="λ of Fig. 3 (default %(default)s)",
        )
        parser.add_argument(
            "--gain", type=float, default=8, help="how much brighter noise is drawn (default %(default)s)"
        )


def _fig2_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--qualities", type=int, nargs="*", default=[], metavar="Q", help="further qualities of ours, 0 to 63"
    )
    parser.add_argument(
        "--peers",
        nargs="*",
        metavar="NAME",
        default=list(DEFAULT_PEERS),
        help=f"codecs beside ours: {', '.join(PEER_NAMES)}, or one that a package brings "
        f"(default: {', '.join(DEFAULT_PEERS)})",
    )
    parser.add_argument("--vvenc", metavar="PROGRAM", help="vvencapp, where it is not on PATH")
    parser.add_argument("--vvdec", metavar="PROGRAM", help="vvdecapp, where it is not on PATH")
    parser.add_argument(
        "--single",
        type=Path,
        metavar="FOLDER",
        help="single-layer reference: a codec folder (default: single-layer inside the codec's folder, "
        "else published figures)",
    )


def run(args: argparse.Namespace) -> int:
    """Run one verb. Raises what `Study` raises, and DiskFull or Unwritable."""
    from secondlook.training.paper.study import Plan, Study

    plan = Plan(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in vars(args).items()
            if name in Plan.__dataclass_fields__
        }
    )
    study = Study(plan, lambda line: print(line, file=sys.stderr, flush=True))
    written = WRITERS[args.verb](study, args)
    for note in study.notes:
        print(f"note: {note}")
    for path in written:
        print(path)
    return 0


def _table1(study: Study, args: argparse.Namespace) -> list[Path]:
    return _table1_files(study.table1(), args)


def _fig2(study: Study, args: argparse.Namespace) -> list[Path]:
    return _fig2_files(study.fig2(), study, args)


def _fig3(study: Study, args: argparse.Namespace) -> list[Path]:
    return _fig3_files(study.fig3(), args)


def _report(study: Study, args: argparse.Namespace) -> list[Path]:
    from secondlook.training.paper import curves
    from secondlook.training.paper.page import page

    cells, found, examples = study.table1(), study.fig2(), study.fig3()
    written = [*_table1_files(cells, args), *_fig2_files(found, study, args), *_fig3_files(examples, args)]
    images, now = len(study.lab.pictures), f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    html = page(
        cells,
        found,
        (curves.plot(found, images), curves.plot(found, images, dark=True)),
        examples,
        [_sheet_path(e, args).read_bytes() for e in examples],
        facts=study.facts() | {"command": command(args), "written": now},
        notes=study.notes,
        gain=args.gain,
    )
    return [*written, _write(args.out / "report.html", html.encode())]


def _table1_files(cells: Sequence[Cell], args: argparse.Namespace) -> list[Path]:
    from secondlook.training.paper import table

    print(table.text(cells))
    return [_write_csv(args.out / "table1.csv", table.FIELDS, table.rows(cells))]


def _fig2_files(found: Sequence[Curve], study: Study, args: argparse.Namespace) -> list[Path]:
    from secondlook.training.paper import curves

    png = curves.plot(found, len(study.lab.pictures))
    return [
        _write_csv(args.out / "fig2.csv", curves.FIELDS, curves.rows(found)),
        _write(args.out / "fig2.png", png),
    ]


def _fig3_files(examples: Sequence[Example], args: argparse.Namespace) -> list[Path]:
    from secondlook.training.paper import noise

    return [
        _write_csv(args.out / "fig3.csv", noise.FIELDS, noise.rows(examples)),
        *(_write(_sheet_path(e, args), noise.sheet(e, args.gain)) for e in examples),
    ]


def _sheet_path(example: Example, args: argparse.Namespace) -> Path:
    path: Path = args.out / f"fig3-{example.name}.png"
    return path


WRITERS: dict[str, Callable[[Study, argparse.Namespace], list[Path]]] = {
    "table1": _table1,
    "fig2": _fig2,
    "fig3": _fig3,
    "report": _report,
}


def command(args: argparse.Namespace) -> str:
    """The command line that says all of `args`."""
    words = ["secondlook", "paper", args.verb]
    for name, value in vars(args).items():
        if name in ("command", "what", "verb", "run", "extra") or value in (None, False, []):
            continue
        values = value if isinstance(value, list) else [] if value is True else [value]
        words += [f"--{name.replace('_', '-')}", *(str(v) for v in values)]
    return shlex.join(words)


def _write_csv(path: Path, fields: Sequence[str], rows: Sequence[Mapping[str, object]]) -> Path:
    out = io.StringIO()
    writer = csv.DictWriter(out, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return _write(path, out.getvalue().encode())


def _write(path: Path, data: bytes) -> Path:
    from secondlook.shared.files import PUBLIC_FILE, write_atomically

    write_atomically(path, data, mode=PUBLIC_FILE)
    return path

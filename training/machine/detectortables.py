"""The commands that write a table of what a detector makes of clips between two lines of a page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from secondlook.cloud.workers.detectors import load_detector
from secondlook.shared.detection import Detector
from secondlook.training.machine.measure import find_videos
from secondlook.training.machine.report import put_between


class Table(Protocol):
    def __call__(
        self, videos: Sequence[Path], detector: Detector, *, fps: float, most_frames: int
    ) -> str: ...


def run_table(
    name: str,
    about: str | None,
    table: Table,
    marks: tuple[str, str],
    argv: Sequence[str] | None,
    *,
    frames: int,
) -> int:
    """`python -m secondlook.training.machine.NAME`: print the table and, where asked, write it. -> exit status.

    `frames`: of each clip, at most, where nothing is said.
    """
    parser = argparse.ArgumentParser(prog=f"python -m secondlook.training.machine.{name}", description=about)
    parser.add_argument("--videos", type=Path, nargs="+", required=True, metavar="DIR|FILE")
    parser.add_argument("--detector", default="auto")
    parser.add_argument("--fps", type=float, default=1.0)
    parser.add_argument("--frames", type=int, default=frames)
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="put the table between the marks")
    args = parser.parse_args(argv)
    detector = load_detector(args.detector, threads=1)
    made = table(find_videos(args.videos), detector, fps=args.fps, most_frames=args.frames)
    print(made)
    if args.write:
        put_between(args.write, marks, made)
    return 0

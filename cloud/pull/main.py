"""The command `secondlook pull`: what a station's reviewers decided, into a folder."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from secondlook.shared.config import TOKEN_VARIABLE
from secondlook.shared.errors import ConfigError


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `pull` to the `secondlook` parser."""
    parser = subparsers.add_parser(
        "pull",
        help="fetch reviewed frames from a station into a folder",
        description="Fetch decided frames and their pictures from a review station into a folder: frames.jsonl and "
        "images/. A folder that is there is brought up to date: new decisions are added, undone ones taken out. What "
        "is broken off is gone on with, and every picture's hash is checked. A token (secondlook tokens new) is read "
        f"from --token-file or {TOKEN_VARIABLE}.",
    )
    parser.add_argument("station", metavar="ADDRESS", help="the station, as https://review.example.org")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder")
    parser.add_argument(
        "--since",
        metavar="TIME",
        help="where a new folder begins: an instant in ISO 8601, or 12h, 7d; without it, all that is kept",
    )
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="first line is the token")
    parser.add_argument(
        "--ca-file", type=Path, metavar="FILE", help="who signed the station's certificate, PEM"
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="hash every picture in the folder, fetch damaged and missing ones anew",
    )
    parser.set_defaults(run=run_pull)


_ANSWER_SECONDS = 60.0  # a page of changes is worked out by the station


def run_pull(args: argparse.Namespace) -> int:
    """Fetch, and print what was done as JSON. Returns 0, or 1 where a picture that the station sends is damaged."""
    from secondlook.cloud.pull.folder import PullFolder
    from secondlook.cloud.pull.run import pull, verify
    from secondlook.stationlink import StationLink

    since = None if args.since is None else parse_since(args.since, datetime.now(UTC))
    link = StationLink(
        args.station, _token(args.token_file), timeout_seconds=_ANSWER_SECONDS, ca_file=args.ca_file
    )
    with link as station:
        folder = PullFolder(args.out, station.address, since)
        done = pull(station, folder)
        if args.verify:
            verify(station, folder, done)
    if done.gone:
        print(f"pictures that are gone from the station: {done.gone}", file=sys.stderr)
    if done.damaged:
        print(f"pictures that are damaged at the station: {done.damaged}", file=sys.stderr)
    print(json.dumps({**vars(done), "kept": len(folder)}))
    return 1 if done.damaged else 0


def parse_since(text: str, now: datetime) -> str:
    """An instant in ISO 8601; ``7d`` and ``12h`` count back from ``now``. Raises ConfigError."""
    back = re.fullmatch(r"([0-9]{1,6})([dh])", text)
    if back is not None:
        number = int(back[1])
        return (now - (timedelta(days=number) if back[2] == "d" else timedelta(hours=number))).isoformat()
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"--since {text!r} is no instant: it is as 2026-11-29, or 7d") from error
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).isoformat()


def _token(path: Path | None) -> str | None:
    from secondlook.shared.keyfiles import read_private

    if path is None:
        return os.environ.get(TOKEN_VARIABLE)
    try:
        return read_private(path).split("\n", 1)[0].strip()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text") from error

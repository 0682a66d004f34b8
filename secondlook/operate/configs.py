"""`secondlook config check` and `config show`: what the settings are, where each comes from, and what is wrong."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from secondlook.operate.places import add_place_flags
from secondlook.shared.commands import Subparsers
from secondlook.shared.config import EDGE_VARIABLES, VARIABLES, Explained, explain, problems, read_tree
from secondlook.shared.errors import ConfigError
from secondlook.shared.redact import redacted


def register(subparsers: Subparsers) -> None:
    config = subparsers.add_parser(
        "config",
        help="check settings, and show where each comes from",
        description="Settings of file and environment, as a role would find them.",
    )
    actions = config.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    check = actions.add_parser(
        "check",
        help="name all that is wrong",
        description="Name every unknown setting, with what may have been meant, and the first value that cannot be. "
        "The exit status is 1 where there is anything.",
    )
    show = actions.add_parser(
        "show",
        help="show the settings as they hold",
        description="Show every setting as it holds, as TOML names it; passwords are left out.",
    )
    show.add_argument(
        "--origin", action="store_true", help="say where each comes from: default, file or variable"
    )
    show.add_argument("--changed", action="store_true", help="only those that are not at their default")
    show.add_argument("--json", action="store_true", help="print JSON")
    for parser, run in ((check, run_check), (show, run_show)):
        add_place_flags(parser)
        parser.set_defaults(run=run, extra="edge")


def run_check(args: argparse.Namespace) -> int:
    """Print one line a problem. Returns 1 when there is one."""
    found = 0
    for path, cls, variables in _files(args):
        cameras = _cameras(path, cls)
        if cameras is not None:
            found += isinstance(cameras, ConfigError)
            told = cameras if isinstance(cameras, ConfigError) else f"{path}: well, {cameras} cameras"
            print(redacted(str(told)))
            continue
        wrong = problems(path, cls, os.environ, variables=variables)
        found += len(wrong)
        for line in wrong:
            print(redacted(line))
        if not wrong:
            changed = sum(
                one.origin != "default" for one in explain(path, cls, os.environ, variables=variables)
            )
            print(f"{path}: well, {changed} settings are not at their default")
    return 1 if found else 0


def _cameras(path: Path, cls: type[Any]) -> int | ConfigError | None:
    """How many cameras a file with `[[camera]]` tables has, or what is wrong with it; None for any other file."""
    from secondlook.edge.config import EdgeConfig
    from secondlook.edge.site import Given, has_tables, read_site

    try:
        if cls is not EdgeConfig or not has_tables(read_tree(path)):
            return None
        return len(read_site(path, Given({}, {}, os.environ)).cameras)
    except ConfigError as error:
        return error


def run_show(args: argparse.Namespace) -> int:
    """Print one line a setting."""
    told: dict[str, dict[str, Any]] = {}
    for path, cls, variables in _files(args):
        if _cameras(path, cls) is not None:
            raise ConfigError(
                f"{path} has [[camera]] tables: `secondlook edge status --json` tells of each camera"
            )
        settings = [
            one
            for one in explain(path, cls, os.environ, variables=variables)
            if not args.changed or one.origin != "default"
        ]
        told[str(path)] = {one.name: {"value": _plain(one.value), "origin": one.origin} for one in settings}
        if not args.json:
            print(f"# {path}")
            print("\n".join(_line(one, origin=args.origin) for one in settings))
    if args.json:
        print(json.dumps(told, indent=1))
    return 0


def _files(args: argparse.Namespace) -> list[tuple[Path, type[Any], str]]:
    """Each file with the class and the variables that belong to it. Raises ConfigError when there is none."""
    from secondlook.cloud.config import CloudConfig
    from secondlook.edge.config import EdgeConfig
    from secondlook.operate.places import place_files

    cloud, edges = place_files(args)
    files: list[tuple[Path, type[Any], str]] = [] if cloud is None else [(cloud, CloudConfig, VARIABLES)]
    files += [(path, EdgeConfig, EDGE_VARIABLES) for path in edges]
    if not files:
        raise ConfigError(
            "no cloud.toml or edge.toml here or in /etc/secondlook: name one with --config or --edge"
        )
    return files


def _line(one: Explained, *, origin: bool) -> str:
    text = f"{one.name} = {json.dumps(_plain(one.value))}"
    return f"{text:60}  # {one.origin}" if origin else text


def _plain(value: Any) -> Any:
    """A value as JSON and TOML have it; what could hold a password is shown without it."""
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Path | str):
        return redacted(str(value))
    return value

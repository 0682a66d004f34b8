"""`secondlook config check` and `config show`: what the settings are, where each comes from, and what is wrong."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
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
    for file in _files(args):
        wrong = problems(file.path, file.cls, os.environ, **file.more)
        found += len(wrong)
        for line in wrong:
            print(redacted(line))
        if not wrong:
            settings = explain(file.path, file.cls, os.environ, **file.more)
            changed = sum(one.origin != "default" for one in settings)
            print(f"{file.name}: well, {changed} settings are not at their default")
    return 1 if found else 0


def run_show(args: argparse.Namespace) -> int:
    """Print one line a setting."""
    told: dict[str, dict[str, Any]] = {}
    for file in _files(args):
        settings = [
            one
            for one in explain(file.path, file.cls, os.environ, **file.more)
            if not args.changed or one.origin != "default"
        ]
        told[file.name] = {one.name: {"value": _plain(one.value), "origin": one.origin} for one in settings}
        if not args.json:
            print(f"# {file.name}")
            print("\n".join(_line(one, origin=args.origin) for one in settings))
    if args.json:
        print(json.dumps(told, indent=1))
    return 0


@dataclass(frozen=True)
class _File:
    """What is checked or shown by itself: a file, or one camera of it. `more`: arguments of `explain`, `problems`."""

    name: str
    path: Path
    cls: type[Any]
    more: dict[str, Any]


def _files(args: argparse.Namespace) -> list[_File]:
    """Raises ConfigError when there is none."""
    from secondlook.cloud.config import CloudConfig
    from secondlook.operate.places import place_files

    cloud, edges = place_files(args)
    files = [] if cloud is None else [_File(str(cloud), cloud, CloudConfig, {"variables": VARIABLES})]
    files += [file for path in edges for file in _of_agent(path)]
    if not files:
        raise ConfigError(
            "no cloud.toml or edge.toml here or in /etc/secondlook: name one with --config or --edge"
        )
    return files


def _of_agent(path: Path) -> list[_File]:
    """The file of an agent, or each of its cameras where it has several. Raises ConfigError."""
    from secondlook.edge.config import EdgeConfig
    from secondlook.edge.site import Given, camera_trees, has_tables

    more: dict[str, Any] = {"variables": EDGE_VARIABLES}
    try:
        tree = read_tree(path)
    except ConfigError:
        return [_File(str(path), path, EdgeConfig, more)]  # which tells of it
    if not has_tables(tree):
        return [_File(str(path), path, EdgeConfig, more)]
    return [
        _File(told.removesuffix(": "), path, EdgeConfig, {**more, "tree": own, "told": told})
        for told, own in camera_trees(path, tree, Given({}, {}, os.environ))
    ]


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

"""Command groups that several packages add to, such as `secondlook bench`."""

from __future__ import annotations

import argparse
from typing import TypeAlias

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def command_group(subparsers: Subparsers, name: str, text: str) -> Subparsers:
    """The sub-commands of the command `name`; the first to ask for it creates it with the help `text`."""
    parser = subparsers.choices.get(name)
    if parser is None:
        parser = subparsers.add_parser(name, help=text, description=text)
        return parser.add_subparsers(title="what", metavar="WHAT", dest="what", required=True)
    return next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))

"""Flags that set a setting: how a command declares them, and how their values reach `shared.config.load`."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

Flag: TypeAlias = tuple[str, str, Callable[[str], object], str]  # flag, setting, type, meaning


class SettingDefault:
    """The default of a setting as a help text shows it: looked up only then, for schemas import much."""

    def __init__(self, schema: str, setting: str) -> None:
        """`schema`: the dataclass as ``module:class``."""
        self._schema = schema
        self._setting = setting

    def __str__(self) -> str:
        from secondlook.shared.config import schema
        from secondlook.shared.settings import number

        module, _, name = self._schema.partition(":")
        field = dict(schema(getattr(importlib.import_module(module), name)))[self._setting].field
        default: object = field.default
        if any(default is nothing for nothing in (None, False, dataclasses.MISSING)):
            return ""
        return f" (default: {number(default) if isinstance(default, int | float) else default})"


def add_flags(parser: argparse.ArgumentParser, flags: Iterable[Flag], schema: str) -> None:
    """Add ``--config`` and `flags`, whose defaults are those of the `schema`, given as ``module:class``."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings, TOML; the environment and flags win over them"
    )
    for flag, setting, kind, meaning in flags:
        action: Any = parser.add_argument(
            flag, dest=setting, type=kind, help=meaning, metavar=flag.rpartition("-")[2].upper()
        )
        action.setting = SettingDefault(schema, setting)


def show_defaults(parser: argparse.ArgumentParser) -> None:
    """Let the help of every flag of a parser and its sub-commands end with its default, if it has one."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                show_defaults(child)
        elif not action.help or "default" in action.help:
            continue
        elif hasattr(action, "setting"):
            action.help += "%(setting)s"
        elif action.option_strings and not _is_nothing(action.default):
            action.help += " (default: %(default)s)"


def _is_nothing(default: object) -> bool:
    # 0 is a default, and equals False
    return default in ([], ()) or any(default is one for one in (None, False, argparse.SUPPRESS))

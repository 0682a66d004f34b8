"""What the commands on the catalogue share: the flags that say where it is, and the settings that follow."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from secondlook.shared.flags import Flag, add_flags

if TYPE_CHECKING:
    from secondlook.cloud.config import CloudConfig

_STORE: tuple[Flag, ...] = (
    ("--data-dir", "data_dir", Path, "folder of queue, catalogue and blobs"),
    ("--catalogue", "catalogue", str, "SQLAlchemy URL of the catalogue"),
)


def add_store_flags(parser: argparse.ArgumentParser, *more: Flag) -> None:
    add_flags(parser, (*_STORE, *more), "secondlook.cloud.config:CloudConfig")


def store_config(args: argparse.Namespace, *more: Flag) -> CloudConfig:
    """The settings that file, environment and flags give. Raises ConfigError."""
    from secondlook.cloud.config import CloudConfig
    from secondlook.shared.config import load

    names = {setting: flag for flag, setting, *_ in (*_STORE, *more)}
    given = {setting: getattr(args, setting) for setting in names}
    return load(args.config, CloudConfig, given, os.environ, flag_names=names)

"""Which configuration files a command of the operator is about: those that were named, or those that lie about."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secondlook.cloud.config import CloudConfig
    from secondlook.edge.config import EdgeConfig

_CLOUD = (Path("cloud.toml"), Path("/etc/secondlook/cloud.toml"))
_EDGE = (Path("edge.toml"), Path("/etc/secondlook/edge.toml"))


@dataclass(frozen=True)
class Places:
    """The settings that were found, each with its file; without a cloud's None."""

    cloud: CloudConfig | None
    cloud_file: Path | None
    edges: tuple[tuple[Path, EdgeConfig], ...]  # a file may have several cameras


def add_place_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="settings of the cloud's roles; without it and --edge, those here or in /etc/secondlook",
    )
    parser.add_argument(
        "--edge",
        type=Path,
        metavar="FILE",
        action="append",
        default=[],
        help="settings of an agent on this machine; may be given several times",
    )


def place_files(args: argparse.Namespace) -> tuple[Path | None, list[Path]]:
    """The cloud's file and those of agents: what the flags name, or what is there."""
    named = args.config is not None or args.edge
    cloud = args.config or (None if named else next((path for path in _CLOUD if path.exists()), None))
    edges = args.edge or ([] if named else [path for path in _EDGE if path.exists()][:1])
    return cloud, edges


def find_places(args: argparse.Namespace) -> Places:
    """Read what the flags name, or what is there. Raises ConfigError."""
    cloud_file, edge_files = place_files(args)
    return Places(
        None if cloud_file is None else read_cloud(cloud_file),
        cloud_file,
        tuple((path, config) for path in edge_files for config in read_edges(path)),
    )


def read_cloud(path: Path) -> CloudConfig:
    """Raises ConfigError."""
    from secondlook.cloud.config import CloudConfig
    from secondlook.shared.config import load

    return load(path, CloudConfig, None, os.environ)


def read_edges(path: Path) -> tuple[EdgeConfig, ...]:
    """The cameras of a file, with the credentials of their sources. Raises ConfigError."""
    from secondlook.edge.site import Given, read_site, with_logins

    return with_logins(read_site(path, Given({}, {}, os.environ)), path, os.environ).cameras

"""The cameras of one configuration file: one, or as many as it has `[[camera]]` tables.

What stands outside of these tables holds for every camera; what stands inside wins over it. Each camera has an edge id,
a key, a folder and connections of its own, so that to the gateway it is a camera host like any other: keys can be
revoked one by one, and a camera that moves to another host takes its identity along.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from secondlook.edge.config import EdgeConfig
from secondlook.edge.source.credentials import with_credentials
from secondlook.shared.config import EDGE_VARIABLES, load, read_tree, variable
from secondlook.shared.errors import ConfigError

TABLES = "camera"
_NAME = "name"  # of a camera, for people, in its table
_OF_THE_HOST = ("uplink", "health", "metrics", "log", "tracing")  # tables that no camera has for itself
_OF_ONE_CAMERA = ("edge_id", "camera", "source.address")
_DATA_DIR, _KEYS = "data_dir", "link.secret_key_file"
_DEFAULT_DATA_DIR = "edge-data"
_KEY_ENDING = ".key_secret"


@dataclass(frozen=True)
class Given:
    """What came beside the file: flags by setting, their names for messages, and the environment."""

    flags: Mapping[str, object]
    flag_names: Mapping[str, str]
    environment: Mapping[str, str]

    def value(self, setting: str) -> tuple[str, object] | None:
        """Flag or variable of a setting, with its name; None where neither is given."""
        if (given := self.flags.get(setting)) is not None:
            return self.flag_names.get(setting, setting), given
        name = variable(setting, EDGE_VARIABLES)
        return (name, self.environment[name]) if self.environment.get(name) else None

    def without(self, settings: tuple[str, ...]) -> Given:
        names = {variable(setting, EDGE_VARIABLES) for setting in settings}
        flags = {setting: value for setting, value in self.flags.items() if setting not in settings}
        environment = {name: text for name, text in self.environment.items() if name not in names}
        return Given(flags, self.flag_names, environment)


@dataclass(frozen=True)
class Site:
    """What one process runs. `data_dir`: of the host, where that has several cameras."""

    cameras: tuple[EdgeConfig, ...]
    data_dir: Path
    has_tables: bool

    @property
    def host(self) -> EdgeConfig:
        """Any camera, for the settings of the host, which are the same in all."""
        return self.cameras[0]


def has_tables(tree: Mapping[str, Any]) -> bool:
    """Whether a configuration has `[[camera]]` tables, and not the name of its only camera."""
    return isinstance(tree.get(TABLES), list)


def read_site(
    path: Path | None, given: Given, *, names: tuple[str, ...] = (), credentials: bool = True
) -> Site:
    """What a file and what came beside it say; sources with their `credentials`, where these are wanted.

    `names`: what of `given` only says which camera is meant, where there are several. Raises ConfigError,
    SecretExposed.
    """
    tree = {} if path is None else read_tree(path)
    if path is None or not has_tables(tree):
        site = one_camera(path, given)
        environment = dict(given.environment)
    else:
        site = several_cameras(path, tree, given.without(names) if names else given)
        environment = {}  # what stands there would be the credentials of all cameras
    if not credentials:
        return site
    cameras = (replace(one, source=with_credentials(one.source, path, environment)) for one in site.cameras)
    return replace(site, cameras=tuple(cameras))


def one_camera(path: Path | None, given: Given) -> Site:
    """The settings of one camera. Raises ConfigError."""
    config = _load(path, given, None, None)
    return Site((config,), config.data_dir, False)


def several_cameras(path: Path, tree: Mapping[str, Any], given: Given) -> Site:
    """The settings of each camera of a file with `[[camera]]` tables, whose contents are `tree`. Raises ConfigError."""
    own = given.without((_DATA_DIR, _KEYS))
    cameras = [_load(path, own, merged, told) for told, merged in camera_trees(path, tree, given)]
    _check_apart(path, cameras)
    shared = {key: value for key, value in tree.items() if key != TABLES}
    return Site(tuple(cameras), _folder(path, shared, given), True)


def camera_trees(path: Path, tree: Mapping[str, Any], given: Given) -> list[tuple[str, dict[str, Any]]]:
    """Of each `[[camera]]` table what messages call it, and what a file of its own would hold. Raises ConfigError."""
    tables = tree[TABLES]
    shared = {key: value for key, value in tree.items() if key != TABLES}
    if not tables or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(f"{path}: {TABLES} must be [[{TABLES}]] tables, or the name of the only camera")
    if "edge_id" in shared:
        raise ConfigError(f"{path}: edge_id is of one camera: it belongs in each [[{TABLES}]] table")
    for setting in _OF_ONE_CAMERA:
        if (found := given.value(setting)) is not None:
            raise ConfigError(f"{found[0]} is of one camera, and {path} has [[{TABLES}]] tables")
    folder = _folder(path, shared, given)
    keys = given.value(_KEYS)
    trees = []
    for number, table in enumerate(tables, 1):
        told = f"{path}: {TABLES} {number}: "
        for name in _OF_THE_HOST:
            if name in table:
                raise ConfigError(
                    f"{told}{name} is of the host: it belongs outside of the [[{TABLES}]] tables"
                )
        try:
            trees.append((told, _camera_tree(shared, table, folder, keys, path.parent)))
        except OSError as error:
            raise ConfigError(f"{told}link.secret_key_file cannot be looked at: {error}") from error
    return trees


def _folder(path: Path, shared: Mapping[str, Any], given: Given) -> Path:
    """The data folder of the host: by flag or variable from the working folder, else from the file's."""
    found = given.value(_DATA_DIR)
    if found is not None:
        return Path(str(found[1])).expanduser().absolute()
    text = shared.get(_DATA_DIR, _DEFAULT_DATA_DIR)
    if not isinstance(text, str):
        raise ConfigError(f"{path}: {_DATA_DIR} must be a path")
    return path.parent / Path(text).expanduser()


def _camera_tree(
    shared: Mapping[str, Any],
    table: Mapping[str, Any],
    folder: Path,
    keys: tuple[str, object] | None,
    home: Path,
) -> dict[str, Any]:
    """The settings of one camera as a file of its own would have them. Raises OSError over the place of its key."""
    own = dict(table)
    edge_id = own.get("edge_id")
    merged = _merged(shared, own)
    merged[TABLES] = merged.pop(_NAME, edge_id)
    if _DATA_DIR not in own and isinstance(edge_id, str):
        merged[_DATA_DIR] = str((folder / edge_id).absolute())
    link = dict(merged.get("link", {}))
    if keys is not None:
        link["secret_key_file"] = str(Path(str(keys[1])).expanduser().absolute())
    file = link.get("secret_key_file")
    if isinstance(file, str) and isinstance(edge_id, str):
        place = home / Path(file).expanduser()
        if place.is_dir():  # one key a camera, by its edge id
            link["secret_key_file"] = str((place / f"{edge_id}{_KEY_ENDING}").absolute())
    if link:
        merged["link"] = link
    return merged


def _merged(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(shared)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result


def _load(path: Path | None, given: Given, tree: Mapping[str, Any] | None, told: str | None) -> EdgeConfig:
    return load(
        path,
        EdgeConfig,
        given.flags,
        given.environment,
        variables=EDGE_VARIABLES,
        flag_names=given.flag_names,
        tree=tree,
        told=told,
    )


def _check_apart(path: Path, cameras: list[EdgeConfig]) -> None:
    """Two cameras of one identity would be one, and two agents need two folders."""
    ids: set[str] = set()
    folders: set[Path] = set()
    for config in cameras:
        if config.edge_id in ids:
            raise ConfigError(f"{path}: two cameras have the edge_id {config.edge_id}")
        if config.data_dir.absolute() in folders:
            raise ConfigError(f"{path}: two cameras have the data_dir {config.data_dir}")
        ids.add(config.edge_id)
        folders.add(config.data_dir.absolute())

"""Configuration: a TOML file and command-line overrides become one frozen dataclass.

The dataclass is the schema. Tables map to fields that are dataclasses themselves; a key that no field
answers is an error, and so is a value of another type. Field types may be bool, int, float, str, `Path`,
``Literal[...]``, ``tuple[T, ...]``, ``T | None`` and nested dataclasses. Ranges are the business of the
dataclass: its ``__post_init__`` raises `ConfigError`.

A relative path in a file means relative to that file's folder; on the command line, to where one stands.
"""

from __future__ import annotations

import dataclasses
import tomllib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from secondlook.shared.errors import ConfigError

T = TypeVar("T")
_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "text", Path: "a path"}


def load(path: Path | None, cls: type[T], overrides: Mapping[str, object] | None = None) -> T:
    """An instance of the dataclass `cls`, from the TOML file at `path` (None: defaults) and `overrides`.

    `overrides` maps ``"key"`` or ``"section.key"`` to a value that wins over the file; None means not given.

    :raises ConfigError: naming the file or flag, and the key, when something is missing, unknown or wrong
    """
    given = {} if path is None else _read(path)
    tree: dict[str, object] = _resolve(given, path.parent) if path is not None else {}
    for dotted, value in (overrides or {}).items():
        if value is not None:
            _put(tree, dotted, value)
    where = "" if path is None else f"{path}: "
    return cast(T, _build(cls, tree, where, ""))


def _read(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


@dataclasses.dataclass(frozen=True)
class _FromFile:
    """A text that came from a file, with the folder that a relative path in it starts from."""

    text: str
    folder: Path


def _resolve(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {key: _resolve(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, folder) for item in value]
    return _FromFile(value, folder) if isinstance(value, str) else value


def _put(tree: dict[str, object], dotted: str, value: object) -> None:
    *sections, key = dotted.split(".")
    for section in sections:
        branch = tree.setdefault(section, {})
        if not isinstance(branch, dict):
            return  # the file gave a plain value for a table; _build says so
        tree = branch
    tree[key] = value


def _build(cls: type[Any], tree: Mapping[str, object], where: str, prefix: str) -> object:
    hints = get_type_hints(cls)
    members = {field.name: field for field in dataclasses.fields(cls) if field.init}
    unknown = [key for key in tree if key not in members]
    if unknown:
        raise ConfigError(f"{where}unknown setting {prefix}{unknown[0]} (known: {', '.join(members)})")
    values: dict[str, object] = {}
    for name, field in members.items():
        nested = dataclasses.is_dataclass(hints[name])
        if name in tree or nested:
            values[name] = _convert(hints[name], tree.get(name, {}), where, prefix + name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}setting {prefix}{name} is missing")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}{prefix}{error}") from error


def _convert(kind: Any, value: object, where: str, name: str) -> object:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}{name} must be a table")
        return _build(cast(type[Any], kind), value, where, f"{name}.")
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _convert(next(one for one in inner if one is not type(None)), value, where, name)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}{name} must be a list")
        return tuple(_convert(inner[0], item, where, f"{name}[{index}]") for index, item in enumerate(value))
    if origin is Literal:
        text = value.text if isinstance(value, _FromFile) else value
        if text not in inner:
            raise ConfigError(f"{where}{name} must be one of {', '.join(map(str, inner))}")
        return text
    return _scalar(kind, value, where, name)


def _scalar(kind: type, value: object, where: str, name: str) -> object:
    if isinstance(value, _FromFile):
        if kind is Path:
            return value.folder / value.text
        value = value.text
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:  # bool is an int to isinstance, not to us
        raise ConfigError(f"{where}{name} must be {_NAMES[kind]}")
    return value

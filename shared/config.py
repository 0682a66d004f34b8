"""Configuration: a TOML file, environment variables and flags become one frozen dataclass.

The dataclass is the schema. Tables map to fields that are dataclasses themselves; a key that no field answers is an
error, and so is a value of another type or outside its range. msgspec converts and checks, by the annotations that
`shared.settings` describes; here the layers are put together, the last winning: default, file, environment, flag.

A relative path in a file starts from that file's folder, and so does a default that is a path when there is a file;
on the command line and in the environment it starts from the working folder.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from secondlook.shared.errors import ConfigError
from secondlook.shared.models import MODELS_VARIABLE
from secondlook.shared.settings import (
    Given,
    Kind,
    check_finite,
    check_text,
    complaint,
    convert_text,
    is_path,
    item_type,
    kinds,
    number_type,
    without_none,
)

T = TypeVar("T")

VARIABLES = "SECONDLOOK_"  # the variable of worker.threads is SECONDLOOK_WORKER__THREADS
EDGE_VARIABLES = "SECONDLOOK_EDGE_"  # and an agent's codec.threads is SECONDLOOK_EDGE_CODEC__THREADS
SOURCE_CREDENTIALS = (
    "SECONDLOOK_EDGE_SOURCE_CREDENTIALS"  # no setting: the agent keeps it out of its configuration
)
TOKEN_VARIABLE = "SECONDLOOK_TOKEN"  # of `secondlook pull`
_NO_SETTINGS = (SOURCE_CREDENTIALS, MODELS_VARIABLE, TOKEN_VARIABLE)
_HERE = Path()
_PLACE = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One key of a configuration: its annotation, and the field that declares it."""

    kind: Kind
    field: dataclasses.Field[Any]

    @property
    def is_table(self) -> bool:
        return dataclasses.is_dataclass(self.kind)

    @property
    def is_required(self) -> bool:
        missing = dataclasses.MISSING
        return self.field.default is missing and self.field.default_factory is missing


def schema(cls: type[Any], prefix: str = "") -> Iterator[tuple[str, Setting]]:
    """Every setting below a dataclass, tables included, by its dotted name."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name, kind in kinds(cls).items():
        yield prefix + name, Setting(kind, fields[name])
        if dataclasses.is_dataclass(kind):
            yield from schema(cast(type[Any], kind), f"{prefix}{name}.")


def variable(dotted: str, variables: str = VARIABLES) -> str:
    """The environment variable of a setting."""
    return variables + dotted.replace(".", "__").upper()


def load(
    path: Path | None,
    cls: type[T],
    flags: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
    *,
    variables: str = VARIABLES,
    flag_names: Mapping[str, str] | None = None,
    tree: Mapping[str, Any] | None = None,
    told: str | None = None,
) -> T:
    """An instance of the dataclass `cls`, from the TOML file at `path` (None: no file), `environment` and `flags`.

    `flags` maps ``"key"`` or ``"section.key"`` to a value that wins over all else; None means not given. Of the
    `environment`, the names that begin with `variables` count; an empty one means not given. `flag_names`: how
    messages call what is wrong in `flags`. `tree`: what counts as the file's contents, where the caller made it of them
    (`read_tree`), and `told` how messages call it.

    :raises ConfigError: naming the file, variable or flag, and the key, when something is missing, unknown or wrong
    """
    where = told or ("" if path is None else f"{path}: ")
    layers = _Layers(dict(schema(cls)), {}, {}, where)
    if path is not None:
        layers.take_file(read_tree(path) if tree is None else tree, path.parent, "")
    layers.take_environment(environment or {}, variables)
    for dotted, value in (flags or {}).items():
        if value is not None:
            based = _based(layers.schema[dotted].kind, value, _HERE)
            layers.put(dotted, based, (flag_names or {}).get(dotted, ""))
    layers.complete(_HERE if path is None else path.parent)
    return layers.build(cls)


@dataclasses.dataclass(frozen=True)
class Explained:
    """One setting as it holds, and where that came from: "default", a file, or a variable."""

    name: str
    value: object
    origin: str


def explain(
    path: Path | None,
    cls: type[Any],
    environment: Mapping[str, str] | None = None,
    *,
    variables: str = VARIABLES,
    tree: Mapping[str, Any] | None = None,
    told: str | None = None,
) -> list[Explained]:
    """Every setting that is no table, in the order of the schema. Arguments and errors are those of `load`."""
    config = load(path, cls, None, environment, variables=variables, tree=tree, told=told)
    layers = _Layers(dict(schema(cls)), {}, {}, told or ("" if path is None else f"{path}: "))
    if path is not None:
        layers.take_file(read_tree(path) if tree is None else tree, path.parent, "")
    layers.take_environment(environment or {}, variables)
    found = []
    for dotted, setting in layers.schema.items():
        if setting.is_table:
            continue
        value: Any = config
        for key in dotted.split("."):
            value = getattr(value, key)
        found.append(Explained(dotted, value, layers.origins.get(dotted, "default")))
    return found


def problems(
    path: Path,
    cls: type[Any],
    environment: Mapping[str, str] | None = None,
    *,
    variables: str = VARIABLES,
    tree: Mapping[str, Any] | None = None,
    told: str | None = None,
) -> list[str]:
    """All that is wrong with a file: each unknown setting, and the first value that cannot be.

    Arguments as of `load`.
    """
    try:
        given = read_tree(path) if tree is None else copy.deepcopy(dict(tree))
    except ConfigError as error:
        return [str(error)]
    layers = _Layers(dict(schema(cls)), {}, {}, told or f"{path}: ")
    found = layers.unknown(given, "")  # which are taken out, so that what follows is about the rest
    try:
        layers.take_file(given, path.parent, "")
        layers.take_environment(environment or {}, variables)
        layers.complete(path.parent)
        layers.build(cls)
    except ConfigError as error:
        found.append(str(error))
    return found


def read_tree(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises ConfigError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is not TOML: it is nested too deeply") from error
    except ValueError as error:  # not TOML, not UTF-8, or a number of thousands of digits
        raise ConfigError(f"{path} is not TOML: {error}") from error


def _based(kind: Kind, value: Any, folder: Path) -> Any:
    """The value with the folder noted in a text that is or may be a path."""
    if isinstance(value, list | tuple):
        item_kind = item_type(kind) or kind
        return [_based(item_kind, item, folder) for item in value]
    if isinstance(value, dict) and dataclasses.is_dataclass(kind):
        inner = kinds(cast(type[Any], kind))
        return {key: _based(inner.get(key, str), item, folder) for key, item in value.items()}
    return Given(value, folder) if isinstance(value, str) and is_path(kind) else value


@dataclasses.dataclass
class _Layers:
    """What was given so far: `tree` as msgspec will convert it, `origins` where single settings came from."""

    schema: dict[str, Setting]
    tree: dict[str, Any]
    origins: dict[str, str]
    file: str

    def take_file(self, tree: Mapping[str, Any], folder: Path, prefix: str) -> None:
        for key, value in tree.items():
            setting = self.schema.get(prefix + key)
            if setting is None:
                raise ConfigError(f"{self.file}unknown setting {prefix}{key}{self._hint(prefix, key)}")
            if setting.is_table and isinstance(value, dict):
                self.take_file(value, folder, f"{prefix}{key}.")
            else:
                based = _based(setting.kind, value, folder)
                self.put(prefix + key, based, self.file.removesuffix(": "))

    def unknown(self, tree: dict[str, Any], prefix: str) -> list[str]:
        """What no setting answers to, each with what may have been meant; it is taken out of the tree."""
        found = []
        for key, value in list(tree.items()):
            setting = self.schema.get(prefix + key)
            if setting is None:
                found.append(f"{self.file}unknown setting {prefix}{key}{self._hint(prefix, key)}")
                del tree[key]
            elif setting.is_table and isinstance(value, dict):
                found += self.unknown(value, f"{prefix}{key}.")
        return found

    def take_environment(self, environment: Mapping[str, str], variables: str) -> None:
        for name, text in environment.items():
            foreign = variables == VARIABLES and name.startswith(EDGE_VARIABLES)
            foreign = foreign or name in _NO_SETTINGS
            if not name.startswith(variables) or foreign or not text:
                continue
            dotted = name.removeprefix(variables).lower().replace("__", ".")
            setting = self.schema.get(dotted)
            if setting is None or setting.is_table or name != variable(dotted, variables):
                known = [variable(one, variables) for one, what in self.schema.items() if not what.is_table]
                raise ConfigError(f"{name}: no setting has this variable{_near(name, known)}")
            self.put(dotted, _from_text(setting.kind, text), name)

    def put(self, dotted: str, value: object, origin: str) -> None:
        *sections, key = dotted.split(".")
        branch: Any = self.tree
        for section in sections:
            branch = branch.setdefault(section, {})
            if not isinstance(branch, dict):
                return  # a plain value was given for a table; build() says so
        branch[key] = value
        self.origins[dotted] = origin

    def complete(self, folder: Path) -> None:
        """Say what is missing, and base the defaults that are paths on `folder`."""
        for dotted, setting in self.schema.items():
            *sections, key = dotted.split(".")
            branch: Any = self.tree
            for section in sections:
                branch = branch.get(section) if isinstance(branch, dict) else None
            if not isinstance(branch, dict) or key in branch:
                continue
            if setting.is_table:
                branch[key] = {}
            elif setting.is_required:
                raise ConfigError(f"{self.file}setting {dotted} is missing")
            elif isinstance(setting.field.default, Path):
                branch[key] = folder / setting.field.default

    def build(self, cls: type[T]) -> T:
        self._check_values(self.tree, "")
        self._check_tables()
        try:
            return msgspec.convert(self.tree, cls, dec_hook=convert_text)
        except msgspec.ValidationError as error:
            raise ConfigError(self._explain(error)) from error

    def _check_tables(self) -> None:
        """That the keys of each table in an array of tables are known, and that none is missing."""
        for dotted, setting in self.schema.items():
            item = item_type(setting.kind)
            if dotted not in self.origins or not dataclasses.is_dataclass(item):
                continue
            inner = dict(schema(cast(type[Any], item)))
            value = self._at(dotted)[1]
            for index, table in enumerate(value if isinstance(value, list) else ()):
                name = f"{dotted}[{index}]"
                if not isinstance(table, dict):
                    raise ConfigError(f"{self._origin(name)}{name} must be a table")
                for key in table:
                    if key not in inner:
                        known = _near(key, list(inner)) or f" (known: {', '.join(inner)})"
                        raise ConfigError(f"{self._origin(name)}unknown setting {name}.{key}{known}")
                for key, one in inner.items():
                    if one.is_required and key not in table:
                        raise ConfigError(f"{self._origin(name)}setting {name}.{key} is missing")

    def _check_values(self, value: Any, name: str) -> None:
        """What holds of every text and number, whatever its setting."""
        if isinstance(value, dict):
            for key, item in value.items():
                self._check_values(item, f"{name}.{key}".strip("."))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                self._check_values(item, f"{name}[{index}]")
        try:
            check_finite(value)
            if isinstance(value, str):
                check_text(value)
        except ValueError as error:
            raise ConfigError(f"{self._origin(name)}{name} {error}") from error

    def _explain(self, error: msgspec.ValidationError) -> str:
        """One line for what msgspec refused. `__cause__` is what our own checks raised, if it was they."""
        found = _PLACE.search(str(error))
        name = "" if found is None else found["path"].replace("[...]", "")
        if isinstance(error.__cause__, ConfigError):  # the rules of a section, whose name it is
            prefix = f"{name}." if name else ""
            dotted = f"{prefix}{str(error.__cause__).split(maxsplit=1)[0]}"
            return f"{self._origin(dotted)}{prefix}{error.__cause__}"
        if self.schema.get(name) is not None and self.schema[name].is_table:
            return f"{self._origin(name)}{name} must be a table"
        kind, value = self._at(name)
        return f"{self._origin(name)}{complaint(name, kind, value, error.__cause__)}"

    def _at(self, name: str) -> tuple[Kind, object]:
        """Annotation and value of a setting, or of an item of a list, as msgspec names it."""
        kind: Kind = None
        value = cast(Any, self.tree)
        for part in re.findall(r"[^.\[\]]+", name):
            if isinstance(value, list):
                kind, value = item_type(kind) or str, value[int(part)]
            else:
                kind = self.schema[part].kind if kind is None else kinds(without_none(kind))[part]
                value = value[part]
        return without_none(kind), value

    def _origin(self, name: str) -> str:
        origin = self.origins.get(name.partition("[")[0])
        return self.file if origin is None else f"{origin}: " if origin else ""

    def _hint(self, prefix: str, key: str) -> str:
        """What may have been meant: a like name of this table, the same name in another, or what there is."""
        depth = prefix.count(".")
        here = [name for name in self.schema if name.startswith(prefix) and name.count(".") == depth]
        elsewhere = [name for name in self.schema if name.rpartition(".")[2] == key]
        near = _near(prefix + key, here)
        if near or elsewhere:
            return near or f"; did you mean {elsewhere[0]}?"
        return f" (known: {', '.join(name.removeprefix(prefix) for name in here)})"


def _near(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1, 0.75)
    return f"; did you mean {close[0]}?" if close else ""


def _from_text(kind: Kind, text: str) -> object:
    """The value that the text of a variable stands for; the text itself where it stands for none."""
    number = number_type(kind) or (bool if without_none(kind) is bool else None)
    try:
        if number is not None:
            return msgspec.convert(text, number, strict=False)
        if item_type(kind) is not None:
            listed = text.lstrip().startswith("[")
            items = msgspec.json.decode(text) if listed else [part.strip() for part in text.split(",")]
            return _based(kind, items, _HERE)
    except (msgspec.ValidationError, msgspec.DecodeError):
        return text
    return _based(kind, text, _HERE)

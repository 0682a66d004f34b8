"""What settings are made of: numbers with both bounds and a unit, and texts that are or may be paths.

A section of settings is a frozen dataclass that derives from `Settings`. The annotation of a field says all that can
be said of one value; it is checked whenever an instance is made, in code as from a file. `shared.config` fills
sections from files, flags and the environment, and knows which folder a relative path starts from.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import os
import re
import types
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

import msgspec

from secondlook.shared.errors import ConfigError
from secondlook.shared.models import find_root

Kind: TypeAlias = (
    Any  # an annotation: Annotated[int, within(...)], Path, Literal[...], tuple[str, ...], X | None, ...
)

_KINDS: dict[type[Any], dict[str, Kind]] = {}  # reading annotations takes longer than checking values

MAX_BYTES = 1 << 50  # 1 PiB
DAY_SECONDS = 86_400.0
MAX_KEPT_SECONDS = 3653 * DAY_SECONDS  # ten years
_MAX_TEXT = 4096  # characters; Linux takes no longer path

_NOUNS = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
_SQLITE = re.compile(r"(?P<scheme>sqlite(?:\+\w+)?:///)(?P<path>[^?]*)(?P<query>\?.*)?", re.DOTALL)
_FILE_URL = re.compile(r"(?P<scheme>(?:file|local)://)(?P<path>.*)", re.DOTALL)
_TCP = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[\w.-]{1,253}|\*):(?P<port>\d{1,9}|\*)", re.ASCII
)


def within(low: float, high: float, unit: str) -> msgspec.Meta:
    """Bounds of a number, both allowed, for `Annotated`; `unit` is a plural such as "seconds" or "frames"."""
    return msgspec.Meta(ge=low, le=high, extra={"unit": unit})


Seconds = Annotated[float, within(0.001, DAY_SECONDS, "seconds")]  # a pause or a time limit
Kept = Annotated[float, within(0.001, MAX_KEPT_SECONDS, "seconds")]  # how long something is kept
Bytes = Annotated[int, within(1, MAX_BYTES, "bytes")]
Threads = Annotated[int, within(0, 256, "threads")]


class Settings:
    """Base of the frozen dataclasses of settings: every value is checked against its field's annotation.

    A subclass with rules that concern several fields calls ``super().__post_init__()`` in its own.
    """

    def __post_init__(self) -> None:
        for name, kind in kinds(type(self)).items():
            if not dataclasses.is_dataclass(kind):
                value = getattr(self, name)
                try:
                    check_finite(value)
                    msgspec.convert(value, kind, dec_hook=convert_text)
                except msgspec.ValidationError as error:
                    raise ConfigError(complaint(name, kind, value, error.__cause__)) from error
                except ValueError as error:
                    raise ConfigError(f"{name} {error}") from error


class PathLike(str):
    """A text that is or may be a path. Plain strings may stand in its place in code; they are checked the same."""

    __slots__ = ()

    @classmethod
    def resolve(cls, text: str, folder: Path) -> str:
        """`text`, with a relative path in it (here: none) based on `folder`. Raises ValueError for what is none."""
        return text


class NameOrPath(PathLike):
    """A model by name, or the path of its file or folder.

    A text with a slash, and one that ends in ``.onnx``, is a path. Any other is a name, unless a file or folder of
    that name lies in `folder` and no model that ships or was added is called so.
    """

    __slots__ = ()

    @classmethod
    def resolve(cls, text: str, folder: Path) -> str:
        a_path = "/" in text or text.startswith("~") or text in (".", "..") or text.endswith(".onnx")
        if a_path or (os.path.exists(folder / text) and text and not cls._is_known(text)):
            path = str(folder / expanded(text))
            return path if "/" in path else f"./{path}"
        return text

    @staticmethod
    def _is_known(text: str) -> bool:
        return text in ("auto", "builtin") or find_root(text) is not None


class SourceAddress(PathLike):
    """A file or folder, or what is none: ``demo:``, a camera's number, a URL."""

    __slots__ = ()

    @classmethod
    def resolve(cls, text: str, folder: Path) -> str:
        a_path = text and text != "demo:" and not text.isdecimal() and "://" not in text
        return str(folder / expanded(text)) if a_path else text


class FolderOrUrl(PathLike):
    """A folder, or an fsspec URL; those of this machine's files may hold a relative path too."""

    __slots__ = ()

    @classmethod
    def resolve(cls, text: str, folder: Path) -> str:
        local = _FILE_URL.fullmatch(text)
        if local is not None:
            return local["scheme"] + str((folder / expanded(local["path"])).absolute())
        return text if "::" in text or "://" in text else str(folder / expanded(text))


class DatabaseUrl(PathLike):
    """A SQLAlchemy URL; one of SQLite holds a path."""

    __slots__ = ()

    @classmethod
    def resolve(cls, text: str, folder: Path) -> str:
        parts = _SQLITE.fullmatch(text)
        if parts is None or parts["path"] in ("", ":memory:"):
            return text
        path, uri = parts["path"], ""
        if path.startswith("file:"):  # SQLite's own kind of URI
            path, uri = path.removeprefix("file:"), "file:"
            if path.startswith(":memory:"):
                return text
        return f"{parts['scheme']}{uri}{folder / expanded(path)}{parts['query'] or ''}"


class Endpoint(PathLike):
    """A ZeroMQ address: ``tcp://HOST:PORT``, IPv6 in brackets; or, on this machine, ``ipc://PATH``."""

    __slots__ = ()

    @classmethod
    def resolve(cls, text: str, folder: Path) -> str:
        scheme, slashes, rest = text.partition("://")
        if scheme == "ipc" and rest:
            return text if rest == "*" or rest.startswith("@") else f"ipc://{folder / expanded(rest)}"
        if not slashes or scheme not in ("tcp", "ipc", "inproc") or not rest:
            raise ValueError(f"{text!r} must be tcp://HOST:PORT or ipc://PATH")
        # libzmq takes "source;destination": each part is checked
        for part in rest.split(";") if scheme == "tcp" else ():
            _check_tcp(text, part)
        return text

    @staticmethod
    def port(text: str) -> int | None:
        """The TCP port of an endpoint; None for a wildcard and for what is not TCP."""
        port = text.rpartition(":")[2]
        return int(port) if text.startswith("tcp://") and port.isdecimal() else None


def _check_tcp(text: str, part: str) -> None:
    found = _TCP.fullmatch(part)
    if found is None:
        raise ValueError(f"{text!r} must be tcp://HOST:PORT, an IPv6 address in brackets")
    host, port = found["host"], found["port"]
    if port != "*" and int(port) > 65_535:
        raise ValueError(f"{text!r} has port {port}, it must be at most 65535")
    try:
        if host.startswith("["):
            ipaddress.IPv6Address(host[1:-1])
        elif re.fullmatch(r"[\d.]+", host):
            ipaddress.IPv4Address(host)
    except ValueError:
        raise ValueError(f"{text!r} holds {host}, which is no address") from None


def model_argument(text: str) -> str:
    """The type of a command's own argument that names a model, or its file or folder in the working folder."""
    return NameOrPath.resolve(text, Path())


def expanded(text: str) -> str:
    """`text` with ``~`` or ``~user`` at its beginning replaced by that home folder. Raises ValueError."""
    try:
        return str(Path(text).expanduser()) if text.startswith("~") else text
    except RuntimeError:
        raise ValueError(f"{text.partition('/')[0]} is no home folder that is known here") from None


class Given(str):
    """A text as it was given, with the folder that a relative path in it starts from."""

    folder: Path

    def __new__(cls, text: str, folder: Path) -> Given:
        made = super().__new__(cls, text)
        made.folder = folder
        return made


def convert_text(kind: type[Any], value: object) -> Any:
    """How msgspec makes a `Path` or a `PathLike`; the same value where none is to be made. Raises ValueError."""
    if isinstance(value, Path) and kind is Path:
        check_text(str(value))
        return value
    if not isinstance(value, str):
        raise ValueError("must be a path" if kind is Path else "must be text")
    check_text(value)
    folder = value.folder if isinstance(value, Given) else Path()
    if kind is Path:
        if not value:
            raise ValueError("is empty, it must be a path")
        return folder / expanded(str(value))
    return kind(kind.resolve(str(value), folder))


def check_finite(value: object) -> None:
    """Raises ValueError for a number that is none; a range refuses it too, but a setting may lack one."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"is {value}, it must be finite")


def check_text(text: str) -> None:
    """Raises ValueError for what no file system, page or log takes."""
    if len(text) > _MAX_TEXT:
        raise ValueError(f"has {len(text)} characters, it may have {_MAX_TEXT}")
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError("holds a control character")
    if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        raise ValueError("is not valid UTF-8")


def kinds(cls: type[Any]) -> dict[str, Kind]:
    """The annotation of each field that may be set."""
    if cls not in _KINDS:
        hints = get_type_hints(cls, include_extras=True)
        _KINDS[cls] = {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}
    return _KINDS[cls]


def without_none(kind: Kind) -> Kind:
    """`X` for ``X | None``, `kind` itself for any other."""
    if _origin(kind) in (Union, types.UnionType):
        return next(one for one in get_args(kind) if one is not type(None))
    return kind


def plain(kind: Kind) -> Kind:
    """`X` for ``Annotated[X, ...]``, for ``X | None`` and for both together."""
    inner = without_none(kind)
    return get_args(inner)[0] if _origin(inner) is Annotated else inner


def bounds(kind: Kind) -> msgspec.Meta | None:
    """The range of a number; None for what is none, or has none."""
    inner = without_none(kind)
    if _origin(inner) is Annotated:
        return next((one for one in get_args(inner)[1:] if isinstance(one, msgspec.Meta)), None)
    return None


def number_type(kind: Kind) -> type[int] | type[float] | None:
    """`int` or `float` for the annotation of a number."""
    base = plain(kind)
    return base if base in (int, float) else None


def item_type(kind: Kind) -> Kind | None:
    """`X` for ``tuple[X, ...]``, None for what is no list."""
    base = plain(kind)
    return get_args(base)[0] if _origin(base) is tuple else None


def is_path(kind: Kind) -> bool:
    """Whether a text is or may be a path."""
    base = plain(kind)
    return isinstance(base, type) and issubclass(base, (Path, PathLike))


def describe(kind: Kind) -> str:
    """What a value must be, for people: "an integer from 1 to 16 frames"."""
    base, meta = plain(kind), bounds(kind)
    if _origin(base) is Literal:
        return f"one of {', '.join(map(str, get_args(base)))}"
    if _origin(base) is tuple:
        return "a list"
    noun = "a path" if base is Path else _NOUNS.get(base, "text")
    return noun if meta is None else f"{noun} {span(meta)}"


def _origin(kind: Kind) -> object:
    return get_origin(kind)


def span(meta: msgspec.Meta) -> str:
    """A range for people: "from 1 to 16 frames"."""
    unit = (meta.extra or {}).get("unit", "")
    return f"from {number(meta.ge)} to {number(meta.le)} {unit}".rstrip()


def number(value: float | None) -> str:
    """A number as a setting shows it: whole where it is whole, and short where it is absurd."""
    if value is None:
        return ""
    if isinstance(value, int):
        return str(value) if abs(value) < 1 << 64 else f"a number of {value.bit_length()} bits"
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.5f}".rstrip("0") if 1e-5 <= abs(value) < 1 else f"{value:g}"


def complaint(name: str, kind: Kind, value: object, cause: BaseException | None = None) -> str:
    """What is wrong with a value: one line that begins with the setting's name."""
    if cause is not None:
        return f"{name} {cause}"
    must = f"must be {describe(kind)}"
    if number_type(kind) is not None and type(value) in (int, float):
        return f"{name} is {number(value)}, it {must}"  # type: ignore[arg-type]
    return f"{name} {must}"

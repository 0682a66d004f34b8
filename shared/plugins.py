"""What packages of others bring: found by entry point, so that nothing here depends on them. docs/plugins.md.

| group | a name in it | what it leads to |
|---|---|---|
| `secondlook.codecs` | a codec family | callable(ModelFolder, *, threads: int, device: str) -> LayeredCodec |
| `secondlook.detectors` | an engine | callable(ModelFolder or None, *, threads, min_score, device) -> Detector |
| `secondlook.postfilters` | an engine | callable(ModelFolder or None, *, threads, device) -> ImageFilter |
| `secondlook.peers` | a codec of the benches | a Peer, or callable() -> Peer |
| `secondlook.sources` | the scheme of an address | callable(address: str) -> iterator of SourceFrame |
| `secondlook.models` | any | a folder that holds model folders |
"""

from __future__ import annotations

import functools
import os
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secondlook.shared.errors import ConfigError

if TYPE_CHECKING:
    from secondlook.shared.layers import LayeredCodec
    from secondlook.shared.models import ModelFolder

GROUP = "secondlook.codecs"
DETECTORS = "secondlook.detectors"
POSTFILTERS = "secondlook.postfilters"
PEERS = "secondlook.peers"
SOURCES = "secondlook.sources"
MODELS = "secondlook.models"

_OURS = {(GROUP, "paper"): "secondlook[training]"}  # what brings those of our own


def find_plugin(group: str, name: str) -> EntryPoint | None:
    """The entry point of this name. Raises ConfigError where two packages have one that lead to different things."""
    found = {entry.value: entry for entry in entry_points(group=group) if entry.name == name}
    if len(found) > 1:
        packages = " and ".join(sorted(f"{package_of(entry)} ({value})" for value, entry in found.items()))
        raise ConfigError(f"two packages bring {name!r} for {group}: {packages}; uninstall one")
    return next(iter(found.values()), None)


def plugin_names(group: str) -> list[str]:
    """The names in a group, sorted."""
    return sorted({entry.name for entry in entry_points(group=group)})


def load_plugin(entry: EntryPoint) -> Any:
    """What an entry point leads to. Raises ConfigError where it, or a package that it needs, is not there."""
    told = f"{entry.group} {entry.name} of {package_of(entry)}"
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        extra = _OURS.get((entry.group, entry.name))
        remedy = f": pip install '{extra}'" if extra else ", which is not installed"
        raise ConfigError(f"{told} needs {error.name}{remedy}") from error
    except (ImportError, AttributeError, OSError, SyntaxError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{told} cannot be loaded from {entry.value}: {reason}") from error


def package_of(entry: EntryPoint) -> str:
    """The package that brings an entry point, with its version, for people."""
    return "an unknown package" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"


def open_plugin(folder: ModelFolder, *, threads: int, device: str) -> LayeredCodec:
    """The codec of a model folder whose manifest names a family other than `lite`.

    Raises ConfigError where no plug-in serves the family, or a package that it needs is not installed.
    """
    family = folder.manifest["family"]
    told = f"model {folder.name} is of the codec family {family}"
    entry = find_plugin(GROUP, family) if isinstance(family, str) else None
    if entry is None:
        extra = _OURS.get((GROUP, family)) if isinstance(family, str) else None
        raise ConfigError(
            f"{told}, which no installed package serves{f'; it comes with {extra}' if extra else ''}"
        )
    try:
        opened: LayeredCodec = load_plugin(entry)(folder, threads=threads, device=device)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{told}, which needs {error.name}, and that is not installed") from error
    return opened


@functools.cache
def plugin_roots() -> tuple[Path, ...]:
    """The folders of models that packages bring, by the names of their entry points. Raises ConfigError."""
    roots = []
    for name in plugin_names(MODELS):
        entry = find_plugin(MODELS, name)
        assert entry is not None
        place = load_plugin(entry)
        if not isinstance(place, str | os.PathLike):
            raise ConfigError(f"{MODELS} {name} of {package_of(entry)} is no path of a folder")
        roots.append(Path(place))
    return tuple(roots)

"""Codec families that another package brings: found by entry point, so that nothing here depends on them."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from secondlook.shared.errors import ConfigError

if TYPE_CHECKING:
    from secondlook.shared.layers import LayeredCodec
    from secondlook.shared.models import ModelFolder

GROUP = (
    "secondlook.codecs"  # codec family -> callable(ModelFolder, *, threads: int, device: str) -> LayeredCodec
)


def open_plugin(folder: ModelFolder, *, threads: int, device: str) -> LayeredCodec:
    """The codec of a model folder whose manifest names a family other than `lite`.

    Raises ConfigError where no plug-in serves the family, or a package that it needs is not installed.
    """
    family = folder.manifest["family"]
    told = f"model {folder.name} is of the codec family {family}"
    found = [entry for entry in entry_points(group=GROUP) if entry.name == family]
    if not found:
        raise ConfigError(
            f"{told}, which no installed package serves; the family paper comes with secondlook[training]"
        )
    try:
        opened: LayeredCodec = found[0].load()(folder, threads=threads, device=device)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{told}, which needs {error.name}: pip install 'secondlook[training]'") from error
    return opened

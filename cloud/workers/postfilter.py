"""The post-filter at run time: overlapping tiles, so memory is bounded and no seam shows.

The margin of a tile is the network's receptive radius (see `shared.tiles`): tiling changes nothing but float rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
import numpy.typing as npt

from secondlook.shared.errors import ConfigError, ModelCorrupt, ModelNotFound
from secondlook.shared.filters import ImageFilter
from secondlook.shared.inference import Array, Session, open_session
from secondlook.shared.models import ModelFolder, find_model, find_root
from secondlook.shared.plugins import POSTFILTERS, find_plugin, load_plugin, plugin_names
from secondlook.shared.precision import FLOAT32
from secondlook.shared.quality import DEFAULT_QUALITY
from secondlook.shared.tiles import cut

U8Image = npt.NDArray[np.uint8]
DEFAULT_TILE = 384


class PostFilter:
    """Refines decoded pictures. `name` and `model_hash` identify the weights, `identity` what it computes with them."""

    def __init__(
        self, session: Session, *, name: str, model_hash: bytes, radius: int, multiple: int, tile: int
    ) -> None:
        """`radius`: receptive radius in pixels; `multiple`: sides must be multiples of it; `tile`: core side."""
        self.name, self.model_hash = name, model_hash
        suffix = "" if session.precision == FLOAT32 else f":{session.precision}"
        self.identity = f"{name}:{model_hash.hex()}{suffix}"
        self._is_told = "quality" in session.inputs
        self._session, self._radius, self._multiple, self._tile = session, radius, multiple, tile

    def apply(
        self,
        image: U8Image,
        progress: Callable[[], None] = lambda: None,
        *,
        quality: int = DEFAULT_QUALITY,
    ) -> U8Image:
        """Decoded uint8[H,W,3] RGB -> refined uint8[H,W,3]. Raises ConfigError on another shape or dtype.

        `quality`: 0..63, of the enhancement, for filters that are told. `progress` is called after every tile; what it
        raises ends the work.
        """
        return in_tiles(
            self._session,
            {"image": image},
            told={"quality": np.array([quality], np.float32)} if self._is_told else {},
            radius=self._radius,
            multiple=self._multiple,
            side=self._tile,
            progress=progress,
        )


def in_tiles(
    session: Session,
    pictures: Mapping[str, U8Image],
    *,
    radius: int,
    multiple: int,
    side: int,
    told: Mapping[str, Array] = MappingProxyType({}),
    progress: Callable[[], None] = lambda: None,
) -> U8Image:
    """Pictures of one size, uint8[H,W,3] by the names of a graph's inputs -> what its only output says of them.

    `radius`: receptive radius in pixels; `multiple`: what sides must be multiples of; `side`: of a tile's core; `told`:
    inputs besides. `progress` is called after every tile. Raises ConfigError on another shape or dtype.
    """
    for image in pictures.values():
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise ConfigError(f"a picture is uint8[H,W,3], not {image.dtype}{list(image.shape)}")
    m, margin = multiple, -(-radius // multiple) * multiple
    padded = {
        name: cv2.copyMakeBorder(image, 0, -image.shape[0] % m, 0, -image.shape[1] % m, cv2.BORDER_REPLICATE)
        for name, image in pictures.items()
    }
    height, width = next(iter(pictures.values())).shape[:2]
    rows, columns = next(iter(padded.values())).shape[:2]
    out = np.empty((rows, columns, 3), np.uint8)
    for tile in cut(rows, columns, side=max(side // m, 1) * m, margin=margin, multiple=m):
        pieces = {name: np.ascontiguousarray(image[tile.read()])[None] for name, image in padded.items()}
        out[tile.kept()] = session.run({**pieces, **told})[session.outputs[0]][0][tile.inner()]
        progress()
    return out[:height, :width].copy()


def load_postfilter(
    model: str | Path,
    *,
    threads: int = 0,
    tile: int = DEFAULT_TILE,
    device: str = "cpu",
    precision: str = "exact",
    root: Path | None = None,
) -> ImageFilter:
    """Open `rrdb-l1`, `rrdb-l2`, `rrdb-fast`, a folder of the same layout, or a filter of another package, by its name.

    A folder whose manifest names an `engine` is opened by the package that brings this one. `tile` and `precision` are
    for filters that are ONNX graphs. Raises ModelNotFound, ModelCorrupt, ConfigError for a package that cannot be
    loaded, or as `open_session` does DeviceUnavailable and PrecisionUnavailable.
    """
    is_name = isinstance(model, str) and "/" not in model and root is None
    if is_name and find_root(str(model)) is None and find_plugin(POSTFILTERS, str(model)) is not None:
        return _open_engine(str(model), None, threads, device)
    try:
        folder = find_model(model, kind="postfilter", root=root)
    except ModelNotFound as error:
        brought = plugin_names(POSTFILTERS)
        if is_name and brought:
            raise ModelNotFound(f"{error}; packages bring the post-filters {', '.join(brought)}") from error
        raise
    if "engine" in folder.manifest:
        return _open_engine(folder.manifest["engine"], folder, threads, device)
    radius, multiple = reach_of(folder, "post-filter")
    session = open_session(folder.file("filter.onnx"), threads, device=device, precision=precision)
    if session.inputs not in (("image",), ("image", "quality")) or session.outputs != ("refined",):
        raise ModelCorrupt(f"post-filter {folder.name}: its graph does not turn `image` into `refined`")
    return PostFilter(
        session, name=folder.name, model_hash=folder.model_hash, radius=radius, multiple=multiple, tile=tile
    )


def reach_of(folder: ModelFolder, what: str) -> tuple[int, int]:
    """Receptive radius of a filter in pixels, and what sides must be multiples of. Raises ModelCorrupt."""
    radius, multiple = folder.manifest.get("radius"), folder.manifest.get("multiple")
    if not isinstance(radius, int) or not isinstance(multiple, int) or radius < 0 or multiple < 1:
        raise ModelCorrupt(f"{what} {folder.name}: its manifest lacks radius or multiple")
    return radius, multiple


def _open_engine(engine: object, folder: ModelFolder | None, threads: int, device: str) -> ImageFilter:
    entry = find_plugin(POSTFILTERS, engine) if isinstance(engine, str) else None
    if entry is None:
        named = "" if folder is None else f"post-filter {folder.name}: "
        raise ConfigError(f"{named}no installed package brings the engine {engine!r}")
    opened: ImageFilter = load_plugin(entry)(folder, threads=threads, device=device)
    return opened

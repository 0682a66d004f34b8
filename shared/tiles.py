"""Frames of any size: padding to whole blocks, and graphs run in overlapping tiles, so that memory is bounded.

A tile is read with a margin of at least its graph's receptive radius and only its core is kept. Every value then has
the surroundings it would have had in the whole frame, so tiling changes nothing but float rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from secondlook.shared.bitstream import BLOCK
from secondlook.shared.inference import Array, Session

U8Image = npt.NDArray[np.uint8]

STEP = BLOCK  # the pixels under a hyper-latent
LATENT = 16  # the pixels under a latent
SIDE = 2560  # pixels of a tile's core at most, so that frames up to 2560x2560 are one tile

_progress: ContextVar[Callable[[], None]] = ContextVar("progress", default=lambda: None)


@contextmanager
def told_of_tiles(progress: Callable[[], None]) -> Iterator[None]:
    """Within, ``progress`` is called after every tile that a codec has run in this thread.

    What it raises ends the work. A large frame takes a codec long, and whoever holds a lease must show meanwhile that
    it is alive. What a codec is asked for (`shared.layers`) says nothing of tiles, and need not.
    """
    before = _progress.set(progress)
    try:
        yield
    finally:
        _progress.reset(before)


def tile_is_done() -> None:
    """Tell whoever wants to be `told_of_tiles` that one was run. Raises what they raise."""
    _progress.get()()


@dataclass(frozen=True)
class Tile:
    """A core, and the larger piece that has to be read for it: half-open ranges of rows and columns in pixels."""

    core: tuple[int, int, int, int]  # top, bottom, left, right
    piece: tuple[int, int, int, int]

    def kept(self, unit: int = 1) -> tuple[slice, slice]:
        """Where the core lies in a whole array that has an element for `unit` x `unit` pixels."""
        return _slices(self.core, unit)

    def read(self, unit: int = 1) -> tuple[slice, slice]:
        """Where the piece lies in a whole array."""
        return _slices(self.piece, unit)

    def inner(self, unit: int = 1) -> tuple[slice, slice]:
        """Where the core lies in an array of the piece."""
        top, bottom, left, right = self.core
        y0, _, x0, _ = self.piece
        return _slices((top - y0, bottom - y0, left - x0, right - x0), unit)


def _slices(ends: tuple[int, int, int, int], unit: int) -> tuple[slice, slice]:
    top, bottom, left, right = (end // unit for end in ends)
    return slice(top, bottom), slice(left, right)


def cut(rows: int, columns: int, *, side: int, margin: int, multiple: int) -> Iterator[Tile]:
    """Tiles whose cores, about equal and none over `side`, cover `rows` x `columns` once.

    All arguments are multiples of `multiple`, and so are all ends of tiles.
    """
    for top, bottom in _spans(rows, side, multiple):
        for left, right in _spans(columns, side, multiple):
            piece = (
                max(top - margin, 0),
                min(bottom + margin, rows),
                max(left - margin, 0),
                min(right + margin, columns),
            )
            yield Tile((top, bottom, left, right), piece)


def _spans(length: int, side: int, multiple: int) -> list[tuple[int, int]]:
    count = -(-length // side)
    ends = [multiple * (length // multiple * i // count) for i in range(count + 1)]
    return list(pairwise(ends))


def run_tiled(
    session: Session,
    feeds: Mapping[str, Array],
    *,
    margin: int | None,
    side: int = SIDE,
    wanted: Sequence[str] | None = None,
) -> dict[str, Array]:
    """Run a graph of the codec on a whole frame, in tiles where it is larger than `side` pixels.

    The names of inputs and outputs tell their layout: `image` is [1,H,W,3], names in `z_` are hyper-latents, those in
    `quality` have no place, all others are at the scale of latents. `margin`: the graph's receptive radius in pixels
    or more, a multiple of 64; None where the graph has to see the whole frame. Of several tiles only the outputs in
    `wanted` are put together, where that is given. Raises what `Session.run` raises.
    """
    name, array = next((name, array) for name, array in feeds.items() if array.ndim == 4)
    rows, columns = (size * _unit(name) for size in array.shape[_axes(name)])
    tiles = list(cut(rows, columns, side=side, margin=margin or 0, multiple=STEP))
    if len(tiles) == 1 or margin is None:
        result = session.run(feeds, release=len(tiles) > 1)
        tile_is_done()
        return result
    whole: dict[str, Array] = {}
    for tile in tiles:
        pieces = {
            name: np.ascontiguousarray(array[_at(name, tile.read)]) if array.ndim == 4 else array
            for name, array in feeds.items()
        }
        for name, piece in session.run(pieces, release=True).items():
            if wanted is not None and name not in wanted:
                continue
            if name not in whole:
                shape = list(piece.shape)
                shape[_axes(name)] = rows // _unit(name), columns // _unit(name)
                whole[name] = np.empty(shape, piece.dtype)
            whole[name][_at(name, tile.kept)] = piece[_at(name, tile.inner)]
        tile_is_done()
    return whole


def _unit(name: str) -> int:
    return 1 if name == "image" else STEP if name.startswith("z_") else LATENT


def _axes(name: str) -> slice:
    return slice(1, 3) if name == "image" else slice(2, 4)


def _at(name: str, place: Callable[[int], tuple[slice, slice]]) -> tuple[slice, ...]:
    """The index of a tile's place (`Tile.kept`, `read` or `inner`) in an array of this name."""
    before: int = _axes(name).start
    return (slice(None),) * before + place(_unit(name))


def pad(image: U8Image) -> U8Image:
    """uint8[H,W,3] with both sides extended to multiples of 64.

    A block of latents that the picture reaches is filled by replication, which leaves no edge at its border. Those
    beyond show nothing to anybody and get the mean of the block beside them: cheaper than the edges that replication
    would draw across them.
    """
    height, width = image.shape[:2]
    if height % STEP == 0 and width % STEP == 0:
        return image  # the largest frames are not copied for nothing
    padded = cv2.copyMakeBorder(image, 0, -height % STEP, 0, -width % STEP, cv2.BORDER_REPLICATE)
    bottom, right = (-(-size // LATENT) * LATENT for size in (height, width))
    if right < padded.shape[1]:
        beside = padded[:bottom, right - LATENT : right].reshape(-1, LATENT * LATENT, 3)
        means = np.rint(beside.mean(axis=1)).astype(np.uint8)
        padded[:bottom, right:] = np.repeat(means, LATENT, axis=0)[:, None]
    if bottom < padded.shape[0]:
        above = padded[bottom - LATENT : bottom].reshape(LATENT, -1, LATENT, 3)
        means = np.rint(above.mean(axis=(0, 2))).astype(np.uint8)
        padded[bottom:] = np.repeat(means, LATENT, axis=0)[None]
    return np.asarray(padded, np.uint8)

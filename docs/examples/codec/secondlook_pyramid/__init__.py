"""A codec family for Secondlook: means of 8x8 blocks as the base layer, and what they leave out as the enhancement.

All that decides what is decoded is integer arithmetic, so the two ends agree on every machine.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from secondlook.plugin import (
    Bitstream,
    Encoded,
    Key,
    Layers,
    MalformedBitstream,
    ModelCorrupt,
    ModelFolder,
    SymbolMismatch,
    base_layer,
    check_frame,
    enhancement_layer,
    read_layer,
)

MODELS = Path(__file__).parent / "models"

U8 = npt.NDArray[np.uint8]
I16 = npt.NDArray[np.int16]


class PyramidCodec:
    """What `secondlook.plugin.LayeredCodec` asks for. The family has no deltas: every frame is a key."""

    def __init__(self, folder: ModelFolder) -> None:
        """Raises ModelCorrupt for a folder whose steps cannot be read."""
        self.name, self.model_hash, self._folder = folder.name, folder.model_hash, folder
        try:
            told = json.loads(folder.file("steps.json").read_text())
            self._block, self._coarsest = int(told["block"]), int(told["coarsest_step"])
        except (ValueError, LookupError, TypeError) as error:
            raise ModelCorrupt(f"model {folder.name}: steps.json cannot be read: {error}") from error
        if not (1 <= self._block <= 64 and 1 <= self._coarsest <= 128):
            raise ModelCorrupt(f"model {folder.name}: steps.json is out of range")

    def encode(
        self,
        image: U8,
        *,
        base_quality: int,
        quality: int,
        sequence: int = 0,
        key: Key | None = None,
        change_levels: float | None = None,
    ) -> Encoded:
        """Both layers of uint8[H,W,3] RGB. Raises ConfigError on arguments out of range."""
        check_frame(image, base_quality, quality)
        height, width = image.shape[:2]
        means = self._means(image)
        step = self._step(base_quality)
        base_symbols = np.asarray((means + step // 2) // step, np.int16)
        base = base_layer(
            self._folder,
            (width, height),
            quality=base_quality,
            symbol_crc=_crc(base_symbols),
            payload=_packed(base_symbols),
        )
        rest = image.astype(np.int16) - self._picture(base_symbols, base)
        step = self._step(quality)
        symbols = np.asarray(np.sign(rest) * ((np.abs(rest) + step // 2) // step), np.int16)
        enhancement = enhancement_layer(
            base, quality=quality, symbol_crc=_crc(symbols), payload=_packed(symbols)
        )
        return Encoded(Layers(base.to_bytes(), enhancement.to_bytes()), None, 1.0)

    def decode_base(self, base: bytes, *, key: bytes | None = None) -> U8:
        """uint8[H,W,3]. Raises a subclass of BitstreamError, ModelNotFound for another model's layer."""
        return self._decode_base(read_layer(self._folder, base))

    def decode_enhanced(self, base: bytes, enhancement: bytes, *, key: Layers | None = None) -> U8:
        """uint8[H,W,3]. Raises as `decode_base` does."""
        lower = read_layer(self._folder, base)
        upper = read_layer(self._folder, enhancement, base=lower)
        symbols = _unpacked(upper, (upper.height, upper.width, 3))
        rest = symbols.astype(np.int32) * self._step(upper.quality)
        picture: U8 = np.clip(self._decode_base(lower) + rest, 0, 255).astype(np.uint8)
        return picture

    def _decode_base(self, base: Bitstream) -> U8:
        if base.reference is not None:
            raise MalformedBitstream("the pyramid family has no deltas")
        rows, columns = (-(-side // self._block) for side in (base.height, base.width))
        return self._picture(_unpacked(base, (rows, columns, 3)), base)

    def _picture(self, symbols: I16, base: Bitstream) -> U8:
        values = np.clip(symbols.astype(np.int32) * self._step(base.base_quality), 0, 255).astype(np.uint8)
        whole = values.repeat(self._block, axis=0).repeat(self._block, axis=1)
        return np.ascontiguousarray(whole[: base.height, : base.width])

    def _means(self, image: U8) -> npt.NDArray[np.int64]:
        """Means of whole blocks, int[rows,columns,3]; at the rim the last pixels stand for those outside."""
        block = self._block
        missing = [(0, -side % block) for side in image.shape[:2]]
        padded = np.pad(image, [*missing, (0, 0)], mode="edge").astype(np.int64)
        rows, columns = padded.shape[0] // block, padded.shape[1] // block
        sums = padded.reshape(rows, block, columns, block, 3).sum(axis=(1, 3))
        return np.asarray((sums + block * block // 2) // (block * block))

    def _step(self, quality: int) -> int:
        """From the coarsest at quality 0 down to 1 at quality 63."""
        return 1 + (63 - quality) * (self._coarsest - 1) // 63


def load(folder: ModelFolder, *, threads: int = 0, device: str = "cpu") -> PyramidCodec:
    """What the entry point `secondlook.codecs` leads to. It has no use for threads, nor for a GPU."""
    return PyramidCodec(folder)


def _crc(symbols: I16) -> int:
    return zlib.crc32(symbols.astype("<i2").tobytes())


def _packed(symbols: I16) -> bytes:
    return zlib.compress(symbols.astype("<i2").tobytes(), 9)


def _unpacked(layer: Bitstream, shape: tuple[int, int, int]) -> I16:
    """The symbols of a layer. Never takes more memory than the frame that its header names."""
    wanted = 2 * shape[0] * shape[1] * shape[2]
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(layer.payload, wanted + 1)
    except zlib.error as error:
        raise MalformedBitstream(f"the payload cannot be inflated: {error}") from error
    if len(data) != wanted or not inflater.eof or inflater.unused_data:
        raise MalformedBitstream("the payload is not of the length that its frame has")
    symbols = np.frombuffer(data, "<i2").reshape(shape).astype(np.int16)
    if _crc(symbols) != layer.symbol_crc:
        raise SymbolMismatch("decoded symbols fail their checksum")
    return symbols

"""The `lite` layered codec at run time: frames to layers and back, through ONNX graphs and integer tables.

Encoding:   image -> encode (ONNX; for deltas analysis, quantise) -> symbols, σ-indexes -> range coder -> .slk
Decoding:   .slk -> range coder -> symbols -> dequantise (ONNX) -> latents -> synthesis (ONNX) -> image

Only the path from symbols to σ-indexes has to be bit-exact between machines: the integers of `shared.scale_network`,
which the encoder finds inside its graph, in float32 sums that are exact.
The float graphs may differ by rounding noise, which moves a picture by as much and nothing else: they may run on a
GPU. The graphs that hold the integers never do.
Array layouts: images uint8[H,W,3] RGB; latents float32[1,C,H/16,W/16]; symbols int16[C,h,w]; hyper-latents at 1/64.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from secondlook.shared.bitstream import Bitstream, Codec, Layer, check_frame, parse
from secondlook.shared.delta import pack_map, unpack_map
from secondlook.shared.entropy import PART, SymbolDecoder, SymbolEncoder, coding_order
from secondlook.shared.errors import (
    ConfigError,
    LayerMismatch,
    ModelNotFound,
    ReferenceMissing,
    SymbolMismatch,
    UnsupportedBitstream,
)
from secondlook.shared.inference import Session, choose_device, open_session
from secondlook.shared.layers import F32, Encoded, Key, LayeredCodec, Layers, U8Image
from secondlook.shared.lite_tables import LayerModel, entropy_tables, load_tables
from secondlook.shared.models import ModelFolder, find_by_hash, find_model
from secondlook.shared.plugins import open_plugin
from secondlook.shared.tiles import SIDE, STEP, pad, run_tiled

I16 = npt.NDArray[np.int16]
T = TypeVar("T")

# Receptive radius of each graph in pixels, rounded up to whole hyper-latents. Symbols decide σ-indexes next to them and
# have to agree everywhere: of a frame that is quantised in tiles, σ-indexes are found again from all its symbols.
MARGINS = {
    "encode": None,
    "analysis": 64,
    "quantise": 128,
    "dequantise_base": 64,
    "dequantise_enhancement": 64,
    "synthesis_base": 64,
    "synthesis_enhanced": 128,
}
# Mean squared change of the latents by grey noise of one level between two pictures: in six pictures of different kinds
# 4.0e-5 to 4.7e-5 with the model that ships, and in proportion to the square of the noise from 1 to 8 levels.
_CHANGE_OF_A_LEVEL = 4.6e-5
EXACT = ("encode", "quantise")  # the graphs with the integer network inside: on the CPU, whatever the device

# What a frame of several tiles takes of the graph that quantises.
_OF_TILES = (
    "z_base",
    "symbols_base",
    "z_enhancement",
    "symbols_enhancement",
    "latents_base",
    "latents_enhancement",
    "changed",
)


@dataclass(frozen=True)
class _Latents:
    """Decoded latents of one frame, before synthesis."""

    bitstream: Bitstream
    symbols: I16
    latents: F32


class LiteCodec:
    """The `lite` codec. One object serves one thread at a time.

    Raises on decoding only subclasses of BitstreamError, and ModelNotFound for another model's bitstream.
    """

    def __init__(self, folder: ModelFolder, *, threads: int = 0, device: str = "cpu") -> None:
        """Load graphs and tables of a verified model folder. `threads`: 0 = one per core; `device`: see `open_session`.

        Raises ModelCorrupt, or DeviceUnavailable for a GPU that is not there.
        """
        self.name = folder.name
        self.model_hash = folder.model_hash
        self._graphs: dict[str, Session] = {}
        self._helper = ThreadPoolExecutor(1, "codec") if threads != 1 else None
        self._folder, self._threads = folder, threads
        self._device = device
        self._in_one = choose_device(device) == "cpu"  # at the start, so that a missing GPU is named at once
        tensors = load_tables(folder)
        self._hyper_tables = entropy_tables(tensors, "hyper")
        self._layers = {name: LayerModel.load(tensors, name) for name in ("base", "enhancement")}
        self._change_threshold = float(tensors["change_threshold"][0])

    def encode(
        self,
        image: U8Image,
        *,
        base_quality: int,
        quality: int,
        sequence: int = 0,
        key: Key | None = None,
        change_levels: float | None = None,
    ) -> Encoded:
        """Encode a frame, as a key or, with `key`, as a delta against it.

        `image`: uint8[H,W,3] RGB, any size from 1x1 to 16384x16384 within 2^26 pixels. Qualities: 0..63.
        `sequence` is what deltas will call this frame, should it be a key. A `key` of another size or quality is
        not used: the frame becomes a key. `change_levels`: of a delta, what differs from the key by less than grey
        noise of so many levels (root mean square) would make it is not coded; without it `quality` says how much.
        Raises ConfigError on arguments out of range.
        """
        check_frame(image, base_quality, quality)
        if not 0 <= sequence < 1 << 63:
            raise ConfigError(f"sequence number {sequence} is not in 0..2^63-1")
        height, width = image.shape[:2]
        wanted = ((width, height), base_quality, quality)
        if key is not None and (key.size, key.base_quality, key.quality) != wanted:
            key = None
        coded = self._code(pad(image)[None], base_quality, quality, key, change_levels)
        coded.pop("y_base", None)  # of the largest frames, every array counts
        keep = coded["changed"][0, 0]
        packed = self._pack(coded, base_quality, quality, keep)
        base = self._write_base(*packed["base"], keep, base_quality, width, height, key)
        enhancement = self._write_enhancement(*packed["enhancement"], base, quality, key)
        if key is None:
            key = Key(
                sequence,
                base_quality,
                quality,
                (width, height),
                (base.symbol_crc, enhancement.symbol_crc),
                coded["latents_base"],
                coded["latents_enhancement"],
                coded["y_enhancement"],
            )
        return Encoded(Layers(base.to_bytes(), enhancement.to_bytes()), key, float(keep.mean()))

    def _code(
        self, image: U8Image, base_quality: int, quality: int, key: Key | None, change_levels: float | None
    ) -> dict[str, Any]:
        """All that is coded of uint8[1,H,W,3], and the signal `y_enhancement` that later deltas compare with."""
        height, width = image.shape[1:3]
        grid = _grid(width, height)
        qualities = {"base_quality": _scalar(base_quality), "quality": _scalar(quality)}
        # One graph for both halves is quickest, where both may run on the same device.
        if key is None and max(height, width) <= SIDE and self._in_one:
            return {**self._run("encode", image=image, **qualities), "changed": np.ones((1, 1, *grid), bool)}
        signal = self._run("analysis", image=image)
        del image
        against = self._against(key, grid, self._threshold(quality, change_levels))
        if max(height, width) <= SIDE:
            return {**self._run("quantise", **signal, **against, **qualities), **signal}
        # Smaller tiles than those of pixels: here the arrays of the whole frame are there besides.
        feeds = {**signal, **against, **qualities}
        coded = self._run_in_tiles("quantise", feeds, side=SIDE // 2, wanted=_OF_TILES)
        return {**coded, **self._indexes(coded, base_quality, quality), **signal}

    def _indexes(self, coded: dict[str, Any], base_quality: int, quality: int) -> dict[str, Any]:
        """The σ-indexes that follow from a frame's symbols."""
        base, enhancement = (self._layers[name].scales for name in ("base", "enhancement"))
        symbols = coded["symbols_base"][0]
        return {
            "indexes_base": base.indexes(coded["z_base"][0], base_quality)[None],
            "indexes_enhancement": enhancement.indexes(coded["z_enhancement"][0], quality, symbols)[None],
        }

    def _threshold(self, quality: int, change_levels: float | None) -> float:
        """The mean squared change of a position's latents from which it is coded."""
        if change_levels is None:
            return float(self._change_threshold * 2.0 ** (-quality / 10.7))
        return _CHANGE_OF_A_LEVEL * change_levels * change_levels

    def _against(self, key: Key | None, grid: tuple[int, int], threshold: float) -> dict[str, F32]:
        """What the graph that quantises needs to know of the key; without one, that every position is coded."""
        if key is not None:
            signal, latents = key.signal, (key.latents_base, key.latents_enhancement)
        else:
            threshold = -1.0
            channels = [len(self._layers[name].scales.index.weight) for name in ("base", "enhancement")]
            nothing = np.zeros((1, 1, 1, 1), np.float32)
            base, signal = (np.broadcast_to(nothing, (1, c, *grid)) for c in channels)
            latents = (base, signal)
        return {
            "key_signal": signal,
            "reference_base": latents[0],
            "reference_enhancement": latents[1],
            "threshold": np.array([threshold], np.float32),
        }

    def decode_base(self, base: bytes, *, key: bytes | None = None) -> U8Image:
        """Decode a base layer to uint8[H,W,3]; a delta needs its key's base layer."""
        frame = self._read_base(base, self._read_base(key) if key is not None else None)
        picture = self._run(
            "synthesis_base", latents_base=frame.latents, base_quality=_scalar(frame.bitstream.quality)
        )["image"]
        return _crop(picture, frame.bitstream)

    def decode_enhanced(self, base: bytes, enhancement: bytes, *, key: Layers | None = None) -> U8Image:
        """Decode both layers to uint8[H,W,3]; a delta needs both layers of its key."""
        key_base = key_enhancement = None
        if key is not None:
            key_base = self._read_base(key.base)
            key_enhancement = self._read_enhancement(key.enhancement, key_base)
        lower = self._read_base(base, key_base)
        upper = self._read_enhancement(enhancement, lower, key_enhancement)
        picture = self._run(
            "synthesis_enhanced",
            latents_base=lower.latents,
            latents_enhancement=upper.latents,
            base_quality=_scalar(lower.bitstream.quality),
            quality=_scalar(upper.bitstream.quality),
        )["image"]
        return _crop(picture, upper.bitstream)

    def decode_latents(self, layers: Layers) -> dict[str, tuple[I16, F32]]:
        """Symbols int16[C,h,w] and latents float32[C,h,w] of a key frame, by layer. Raises as decoding does."""
        base = self._read_base(layers.base)
        enhancement = self._read_enhancement(layers.enhancement, base)
        return {
            "base": (base.symbols, base.latents[0]),
            "enhancement": (enhancement.symbols, enhancement.latents[0]),
        }

    def _write_base(
        self,
        payload: bytes,
        crc: int,
        keep: npt.NDArray[np.bool_],
        quality: int,
        width: int,
        height: int,
        key: Key | None,
    ) -> Bitstream:
        reference, reference_crc = (None, 0) if key is None else (key.sequence, key.symbol_crcs[0])
        return Bitstream(
            Codec.LITE,
            self.model_hash,
            Layer.BASE,
            quality,
            quality,
            width,
            height,
            reference,
            reference_crc,
            crc,
            crc,
            payload if key is None else pack_map(keep) + payload,
        )

    def _write_enhancement(
        self, payload: bytes, crc: int, base: Bitstream, quality: int, key: Key | None
    ) -> Bitstream:
        # The map of changed positions travels in the base layer only.
        reference_crc = 0 if key is None else key.symbol_crcs[1]
        return Bitstream(
            Codec.LITE,
            self.model_hash,
            Layer.ENHANCEMENT,
            quality,
            base.quality,
            base.width,
            base.height,
            base.reference,
            reference_crc,
            crc,
            base.symbol_crc,
            payload,
        )

    def _pack(
        self, coded: dict[str, Any], base_quality: int, quality: int, keep: npt.NDArray[np.bool_]
    ) -> dict[str, tuple[bytes, int]]:
        """Payload of each layer, and the CRC of its symbols."""
        parts = {name: (coded[f"z_{name}"][0], coded[f"symbols_{name}"][0]) for name in self._layers}
        indexes = {name: _at(coded[f"indexes_{name}"][0], keep) for name in self._layers}
        # The range coder keeps the interpreter to itself: what can do without it runs beside it.
        # Where memory is short, one order at a time.
        orders = {
            name: self._aside(coding_order, indexes[name]) if len(indexes[name]) <= PART else lambda: None
            for name in self._layers
        }
        crcs = {name: self._aside(_symbol_crc, *parts[name]) for name in self._layers}
        encoders = {name: SymbolEncoder() for name in self._layers}
        qualities, hyper_keep = {"base": base_quality, "enhancement": quality}, _hyper_map(keep)
        for name, encoder in encoders.items():
            z, scales = parts[name][0], self._layers[name].scales
            hyper_indexes = scales.hyper_indexes(qualities[name], *z.shape[1:])
            encoder.put(_at(z, hyper_keep), _at(hyper_indexes, hyper_keep), self._hyper_tables)
        for name, encoder in encoders.items():
            tables, symbols = self._layers[name].tables, _at(parts[name][1], keep)
            encoder.put(symbols, indexes[name], tables, orders[name]())
        return {name: (encoder.payload(), crcs[name]()) for name, encoder in encoders.items()}

    def _aside(self, work: Callable[..., T], *given: Any) -> Callable[[], T]:
        """What gives the result of `work(*given)`, begun now in a second thread where `threads` allows one."""
        return self._helper.submit(work, *given).result if self._helper else lambda: work(*given)

    def _unpack(
        self,
        payload: bytes,
        layer: str,
        quality: int,
        keep: npt.NDArray[np.bool_],
        base_symbols: I16 | None,
    ) -> tuple[I16, I16]:
        """Hyper-latent and latent symbols of a payload."""
        decoder, model = SymbolDecoder(payload), self._layers[layer]
        hyper_keep = _hyper_map(keep)
        hyper_indexes = model.scales.hyper_indexes(quality, *hyper_keep.shape)
        decoder.expect(hyper_indexes[:, 0, 0], int(hyper_keep.sum()), self._hyper_tables)
        z = np.zeros(hyper_indexes.shape, np.int16)
        places = np.broadcast_to(hyper_keep, z.shape)
        z[places] = decoder.take(hyper_indexes[places], self._hyper_tables)
        indexes = model.scales.indexes(z, quality, base_symbols)
        y = np.zeros(indexes.shape, np.int16)
        places = np.broadcast_to(keep, y.shape)
        y[places] = decoder.take(indexes[places], model.tables)
        decoder.finish()
        return z, y

    def _read_base(self, data: bytes, key: _Latents | None = None) -> _Latents:
        bitstream = self._parse(data, Layer.BASE)
        key = _key_of(bitstream, key)
        rows, columns = _grid(bitstream.width, bitstream.height)
        keep, payload = np.ones((rows, columns), bool), bitstream.payload
        if bitstream.reference is not None:
            keep, payload = unpack_map(payload, rows, columns)
        z, y = self._unpack(payload, "base", bitstream.quality, keep, None)
        if _symbol_crc(z, y) != bitstream.symbol_crc:
            raise SymbolMismatch("base layer: decoded symbols fail their checksum")
        reference = key.latents if key is not None else np.zeros((1, *y.shape), np.float32)
        latents = self._run(
            "dequantise_base",
            z_base=z[None],
            symbols_base=y[None],
            keep=_as_floats(keep),
            reference_base=reference,
        )["latents_base"]
        return _Latents(bitstream, y, latents)

    def _read_enhancement(self, data: bytes, base: _Latents, key: _Latents | None = None) -> _Latents:
        bitstream, lower = self._parse(data, Layer.ENHANCEMENT), base.bitstream
        same = (
            bitstream.width,
            bitstream.height,
            bitstream.reference,
            bitstream.base_quality,
            bitstream.base_symbol_crc,
        )
        if same != (lower.width, lower.height, lower.reference, lower.quality, lower.symbol_crc):
            raise LayerMismatch("this enhancement belongs to another base layer")
        key = _key_of(bitstream, key)
        rows, columns = _grid(bitstream.width, bitstream.height)
        keep = np.ones((rows, columns), bool)
        if lower.reference is not None:
            keep, _ = unpack_map(lower.payload, rows, columns)
        z, y = self._unpack(bitstream.payload, "enhancement", bitstream.quality, keep, base.symbols)
        if _symbol_crc(z, y) != bitstream.symbol_crc:
            raise SymbolMismatch("enhancement layer: decoded symbols fail their checksum")
        reference = key.latents if key is not None else np.zeros((1, *y.shape), np.float32)
        latents = self._run(
            "dequantise_enhancement",
            z_enhancement=z[None],
            symbols_enhancement=y[None],
            latents_base=base.latents,
            base_quality=_scalar(lower.quality),
            quality=_scalar(bitstream.quality),
            keep=_as_floats(keep),
            reference_enhancement=reference,
        )["latents_enhancement"]
        return _Latents(bitstream, y, latents)

    def _parse(self, data: bytes, layer: Layer) -> Bitstream:
        bitstream = parse(data)
        if bitstream.codec is not Codec.LITE:
            raise UnsupportedBitstream(
                f"codec family {bitstream.codec.name.lower()} needs another decoder than {self.name}"
            )
        if bitstream.layer is not layer:
            raise LayerMismatch(
                f"expected a layer of kind {layer.name.lower()}, got {bitstream.layer.name.lower()}"
            )
        if bitstream.model_hash != self.model_hash:
            raise ModelNotFound(
                f"this layer was coded with model {bitstream.model_hash.hex()}; "
                f"the loaded model {self.name} is {self.model_hash.hex()}"
            )
        return bitstream

    def _run(self, graph: str, **feeds: npt.NDArray[Any]) -> dict[str, Any]:
        return self._run_in_tiles(graph, feeds)

    def _run_in_tiles(
        self,
        graph: str,
        feeds: Mapping[str, npt.NDArray[Any]],
        side: int | None = None,
        wanted: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Run a graph, opening it on first use: an edge never needs synthesis, a worker never analysis."""
        if graph not in self._graphs:
            device = "cpu" if graph in EXACT else self._device
            path = self._folder.file(f"{graph}.onnx")
            self._graphs[graph] = open_session(path, self._threads, device=device)
        session, margin = self._graphs[graph], MARGINS[graph]
        return run_tiled(session, feeds, margin=margin, side=side or SIDE, wanted=wanted)


def load_codec(
    model: str | Path = "lite", *, threads: int = 0, device: str = "cpu", root: Path | None = None
) -> LayeredCodec:
    """Open a codec by model name or folder, for a device (see `open_session`).

    Raises ModelNotFound, ModelCorrupt, DeviceUnavailable, or what `open_plugin` raises.
    """
    folder = find_model(model, kind="codec", root=root)
    if folder.manifest.get("family", "lite") == "lite":
        return LiteCodec(folder, threads=threads, device=device)
    return open_plugin(folder, threads=threads, device=device)


def codec_of(layer: bytes, *, threads: int = 0, device: str = "cpu") -> LayeredCodec:
    """The codec whose model a layer of version 1 names, whichever family it is of.

    Raises a subclass of BitstreamError, ModelNotFound where the model is not here, and what `load_codec` raises.
    """
    header = parse(layer)
    return load_codec(model_of(header).path, threads=threads, device=device)


def model_of(header: Bitstream) -> ModelFolder:
    """The model that a layer names. Raises ModelNotFound, ModelCorrupt."""
    try:
        return find_by_hash(header.model_hash)
    except ModelNotFound as error:
        if header.codec is not Codec.NAMED:
            raise
        raise ModelNotFound(
            f"{error}; this layer is of the codec family {header.family}, which another package brings"
        ) from error


def _key_of(bitstream: Bitstream, key: _Latents | None) -> _Latents | None:
    """The key that `bitstream` builds on: the one given for a delta, none for a key."""
    if bitstream.reference is None:
        return None
    if key is None:
        raise ReferenceMissing(
            f"this layer is a delta against frame {bitstream.reference}, which was not given"
        )
    other = key.bitstream
    if (other.width, other.height, other.quality) != (bitstream.width, bitstream.height, bitstream.quality):
        raise LayerMismatch("this delta and its key differ in size or quality")
    if other.symbol_crc != bitstream.reference_crc:
        raise LayerMismatch(f"this delta builds on frame {bitstream.reference}, and another key was given")
    return key


def _grid(width: int, height: int) -> tuple[int, int]:
    """Rows and columns of the latents of a frame."""
    return -(-height // STEP) * STEP // 16, -(-width // STEP) * STEP // 16


def _crop(picture: U8Image, bitstream: Bitstream) -> U8Image:
    return np.ascontiguousarray(picture[0, : bitstream.height, : bitstream.width])


def _scalar(quality: int) -> npt.NDArray[np.int64]:
    return np.array([quality], np.int64)


def _at(values: npt.NDArray[Any], places: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """The values [C,h,w] at the places bool[h,w], in order: [C * count]."""
    return np.ascontiguousarray(values[:, places] if not places.all() else values).ravel()


def _hyper_map(keep: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which hyper-latent positions cover a coded latent position: bool[h/4,w/4]."""
    rows, columns = keep.shape
    return np.asarray(keep.reshape(rows // 4, 4, columns // 4, 4).any(axis=(1, 3)))


def _as_floats(keep: npt.NDArray[np.bool_]) -> F32:
    return keep[None, None].astype(np.float32)


def _symbol_crc(z: I16, y: I16) -> int:
    hyper, latents = (np.ascontiguousarray(part, "<i2").data for part in (z, y))
    return zlib.crc32(latents, zlib.crc32(hyper))

"""Good streams, and what becomes of them: altered, cut, grown, swapped, resized, forged.

Every mutation is drawn from a random generator alone, so a stream is known by its seed and its number.
"""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np

from secondlook.shared.bitstream import MAX_QUALITY, MAX_SIDE, Bitstream, Layer, parse
from secondlook.shared.codec import LiteCodec
from secondlook.shared.entropy import SymbolEncoder
from secondlook.shared.errors import BitstreamError
from secondlook.shared.layers import Layers
from tests.pictures import noise, photo


@dataclass(frozen=True)
class Stream:
    """What a decoder is handed: the layers of a frame, and those of its key where it is a delta."""

    layers: Layers
    key: Layers | None = None


@dataclass(frozen=True)
class Attempt:
    """A mutated stream, the good one it came from, and which layers are to be decoded."""

    kind: str
    stream: Stream
    origin: int
    enhanced: bool


def corpus(codec: LiteCodec) -> list[Stream]:
    """Keys and deltas of small frames: photographs, noise and a flat one, at low, middling and high qualities."""
    streams = []
    for height, width, base_quality, quality, make in (
        (16, 16, 16, 40, photo),
        (1, 1, 0, 0, photo),
        (64, 64, 8, 50, photo),
        (60, 60, 40, 40, lambda height, width: np.full((height, width, 3), 90, np.uint8)),
        (40, 56, 50, 20, noise),
        (64, 64, 30, 63, noise),
        (100, 72, 16, 40, photo),
        (90, 130, 63, 32, photo),
    ):
        image = make(height, width)
        coded = codec.encode(image, base_quality=base_quality, quality=quality, sequence=7)
        streams.append(Stream(coded.layers))
        moved = image.copy()
        moved[height // 4 : height // 2 + 1, : width // 2 + 1] = (230, 40, 60)
        for frame in (image, moved):
            delta = codec.encode(frame, base_quality=base_quality, quality=quality, sequence=8, key=coded.key)
            streams.append(Stream(delta.layers, coded.layers))
    return streams


class Mutator:
    """Attempts by number. The same seed, number and model give the same attempt."""

    def __init__(self, codec: LiteCodec, streams: list[Stream], seed: int) -> None:
        self._codec, self._streams, self._seed = codec, streams, seed

    def attempt(self, number: int) -> Attempt:
        rng = Random(f"{self._seed} {number}")
        # Small frames come first in the corpus and most often here: they take the least time.
        origin = int(len(self._streams) * rng.random() ** 2)
        good = self._streams[origin]
        kind = rng.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
        stream = KINDS[kind][1](rng, good, self)
        same = _bases(stream) == _bases(good)
        return Attempt(kind, stream, origin, same or rng.random() < 0.4)

    def other(self, rng: Random) -> Stream:
        return rng.choice(self._streams)

    def forge(self, rng: Random, stream: Stream) -> Stream:
        """Layers nobody encoded, under the right checksums: symbols mostly small, some as large as can be."""
        base, enhancement = parse(stream.layers.base), parse(stream.layers.enhancement)
        base = dataclasses.replace(base, reference=None, reference_crc=0)
        random = np.random.default_rng(rng.getrandbits(32))
        ends, lower = rng.choice([0.0, 0.001, 0.1, 1.0]), None
        forged = []
        for layer, model in zip((base, enhancement), self._codec._layers.values(), strict=True):
            scales = model.scales
            rows, columns = (-(-side // 64) for side in (layer.height, layer.width))
            z = _symbols(random, (scales.hyper_index.shape[1], rows, columns), ends)
            indexes = scales.indexes(z, layer.quality, lower)
            y = _symbols(random, indexes.shape, ends)
            encoder = SymbolEncoder()
            hyper_indexes = scales.hyper_indexes(layer.quality, rows, columns)
            encoder.put(z.ravel(), hyper_indexes.ravel(), self._codec._hyper_tables)
            encoder.put(y.ravel(), indexes.ravel(), model.tables)
            crc = zlib.crc32(y.astype("<i2").tobytes(), zlib.crc32(z.astype("<i2").tobytes()))
            forged.append((encoder.payload(), crc))
            lower = y
        (payload, crc), (upper_payload, upper_crc) = forged
        base = dataclasses.replace(base, payload=payload, symbol_crc=crc, base_symbol_crc=crc)
        enhancement = dataclasses.replace(
            enhancement,
            reference=None,
            reference_crc=0,
            payload=upper_payload,
            symbol_crc=upper_crc,
            base_symbol_crc=crc,
        )
        return Stream(Layers(base.to_bytes(), enhancement.to_bytes()))


def _bases(stream: Stream) -> tuple[bytes, bytes]:
    return stream.layers.base, stream.key.base if stream.key is not None else b""


def _symbols(random: np.random.Generator, shape: tuple[int, ...], ends: float) -> np.ndarray:
    small = np.round(random.laplace(0, 2, shape))
    return np.where(random.random(shape) < ends, random.choice([-32767, 32767], shape), small).astype(
        np.int16
    )


def sealed(body: bytes) -> bytes:
    """`body` with the checksum that makes it pass for undamaged."""
    return body + zlib.crc32(body).to_bytes(4, "little")


def _altered(rng: Random, stream: Stream, change: Callable[[bytes], bytes]) -> Stream:
    """`change` applied to one layer: the frame's mostly, sometimes its key's."""
    of_key = stream.key is not None and rng.random() < 0.2
    layers = stream.key if of_key and stream.key is not None else stream.layers
    name = rng.choice(["base", "enhancement"])
    layers = dataclasses.replace(layers, **{name: change(getattr(layers, name))})
    return dataclasses.replace(stream, **{"key" if of_key else "layers": layers})


def _flip(rng: Random, data: bytes, first: int = 0) -> bytes:
    """One to eight bits flipped, from byte `first` on."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        out[rng.randrange(first, len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _splice(rng: Random, data: bytes, source: bytes) -> bytes:
    """Bytes replaced, removed, put in or doubled; `source` is where new ones come from."""
    at, count = rng.randrange(len(data) + 1), rng.choice([1, 2, 4, 16, 64])
    start = rng.randrange(len(source)) if source else 0
    new = rng.choice([source[start : start + count], rng.randbytes(count), data[at : at + count]])
    return data[:at] + new + data[at + rng.choice([0, count, len(new)]) :]


def _flips(rng: Random, stream: Stream, mutator: Mutator) -> Stream:
    return _altered(rng, stream, lambda data: _flip(rng, data))


def _splices(rng: Random, stream: Stream, mutator: Mutator) -> Stream:
    source = mutator.other(rng).layers.enhancement
    return _altered(rng, stream, lambda data: _splice(rng, data, source))


def _cuts(rng: Random, stream: Stream, mutator: Mutator) -> Stream:
    return _altered(rng, stream, lambda data: data[: rng.randrange(len(data))])


def _grows(rng: Random, stream: Stream, mutator: Mutator) -> Stream:
    return _altered(rng, stream, lambda data: data + rng.randbytes(rng.choice([1, 4, 100, 5000])))


def _header(rng: Random, stream: Stream, mutator: Mutator) -> Stream:
    """Any byte before the payload, or a whole field of one, two, four or eight bytes; checksum repaired."""

    def change(data: bytes) -> bytes:
        body = bytearray(data[:-4])
        at = rng.randrange(4, len(body) - len(parse(data).payload))
        size = rng.choice([1, 1, 1, 2, 4, 8])
        old = int.from_bytes(body[at : at + size], "little")
        new = rng.choice(
            [0, 1, old + 1, old - 1, old ^ 1 << rng.randrange(8 * size), rng.getrandbits(8 * size), -1]
        )
        body[at : at + size] = (new % (1 << 8 * size)).to_bytes(size, "little")
        return sealed(bytes(body))

    return _altered(rng, stream, change)


def _lengths(rng: Random, stream: Stream, mutator: Mutator) -> Stream:
    """A payload length that is not that of the payload; checksum repaired."""

    def change(data: bytes) -> bytes:
        payload = parse(data).payload
        at = len(data) - 8 - len(payload)
        length = rng.choice([0, len(payload) + rng.randint(-3, 3), 1 << 28, rng.getrandbits(32)]) % (1 << 32)
        return sealed(data[:at] + struct.pack("<I", length) + data[at + 4 : -4])

    return _altered(rng, stream, change)


def _payloads(rng: Random, stream: Stream, mutator: Mutator) -> Stream:
    """Payload bytes flipped, spliced, cut, grown or made up; length and checksum repaired."""
    source = parse(mutator.other(rng).layers.enhancement).payload

    def change(data: bytes) -> bytes:
        layer = parse(data)
        payload = layer.payload
        kind = rng.randrange(6)
        if kind < 2:
            payload = _flip(rng, payload)
        elif kind == 2:
            payload = _splice(rng, payload, source)
        elif kind == 3:
            payload = payload[: rng.randrange(len(payload))]
        elif kind == 4:
            payload = payload + rng.randbytes(rng.choice([1, 4, 300]))
        else:
            words = rng.randrange(120)
            payload = bytes([words]) + rng.randbytes(4 * words + rng.choice([0, 0, 3, 40]))
        return dataclasses.replace(layer, payload=payload).to_bytes()

    return _altered(rng, stream, change)


def _maps(rng: Random, stream: Stream, mutator: Mutator) -> Stream:
    """Another map of changes in front of a base layer's payload, well deflated, of the right size or of none."""
    layer = parse(stream.layers.base)
    blocks = -(-layer.height // 64) * -(-layer.width // 64)
    size = rng.choice([2 * blocks, 2 * blocks, 2 * blocks, 2 * blocks + 1, 0, 1 << 20])
    packed = zlib.compress(rng.choice([bytes(size), b"\xff" * size, rng.randbytes(min(size, 4096))]))
    (skip,) = struct.unpack_from("<H", layer.payload) if layer.reference is not None else (0,)
    rest = layer.payload[2 + skip :] if layer.reference is not None else layer.payload
    payload = struct.pack("<H", len(packed) & 0xFFFF) + packed + rest
    base = dataclasses.replace(layer, payload=payload).to_bytes()
    return dataclasses.replace(stream, layers=dataclasses.replace(stream.layers, base=base))


def _swaps(rng: Random, stream: Stream, mutator: Mutator) -> Stream:
    """Layers and keys of different frames, or in each other's place."""
    a, b = stream.layers, mutator.other(rng).layers
    layers = rng.choice(
        [
            Layers(a.base, b.enhancement),
            Layers(b.base, a.enhancement),
            Layers(a.enhancement, a.base),
            Layers(a.base, a.base),
            Layers(a.enhancement, a.enhancement),
            a,
        ]
    )
    return Stream(layers, rng.choice([None, stream.key, b, a, Layers(b.base, a.enhancement)]))


def _claims(rng: Random, stream: Stream, mutator: Mutator) -> Stream:
    """Another size or quality in all layers alike, also in those of the key, so that they agree with each other."""
    size = rng.choice(
        [
            (rng.randint(1, 200), rng.randint(1, 200)),
            (MAX_SIDE, 4096),
            (MAX_SIDE, 1),
            (1, MAX_SIDE),
            (7680, 4320),
            (rng.randint(1, MAX_SIDE), rng.randint(1, 4096)),
        ]
    )
    qualities = rng.randint(0, MAX_QUALITY), rng.randint(0, MAX_QUALITY)
    resize = rng.random() < 0.6

    def change(data: bytes) -> bytes:
        layer = parse(data)
        if resize:
            layer = _or_same(layer, width=size[0], height=size[1])
        elif layer.layer is Layer.BASE:
            layer = _or_same(layer, quality=qualities[0], base_quality=qualities[0])
        else:
            layer = _or_same(layer, quality=qualities[1], base_quality=qualities[0])
        return layer.to_bytes()

    def both(layers: Layers) -> Layers:
        return Layers(change(layers.base), change(layers.enhancement))

    return Stream(both(stream.layers), both(stream.key) if stream.key is not None else None)


def _or_same(layer: Bitstream, **fields: int) -> Bitstream:
    """`layer` with other fields, or as it is where no layer can have them."""
    try:
        return dataclasses.replace(layer, **fields)
    except BitstreamError:
        return layer


def _transplants(rng: Random, stream: Stream, mutator: Mutator) -> Stream:
    """The payload of another frame, with its checksum of symbols, under this frame's header."""
    other = mutator.other(rng)
    lower, upper = parse(other.layers.base), parse(other.layers.enhancement)
    base, enhancement = parse(stream.layers.base), parse(stream.layers.enhancement)
    crc = lower.symbol_crc
    base = dataclasses.replace(base, payload=lower.payload, symbol_crc=crc, base_symbol_crc=crc)
    fields = {"payload": upper.payload, "symbol_crc": upper.symbol_crc, "base_symbol_crc": crc}
    enhancement = _or_same(enhancement, **fields)
    base = _or_same(base, reference_crc=lower.reference_crc)
    return Stream(Layers(base.to_bytes(), enhancement.to_bytes()), stream.key)


def _forges(rng: Random, stream: Stream, mutator: Mutator) -> Stream:
    return mutator.forge(rng, stream)


KINDS: dict[str, tuple[int, Callable[[Random, Stream, Mutator], Stream]]] = {
    "flips": (6, _flips),
    "splices": (6, _splices),
    "cuts": (4, _cuts),
    "grows": (4, _grows),
    "header": (5, _header),
    "lengths": (2, _lengths),
    "payloads": (6, _payloads),
    "maps": (2, _maps),
    "swaps": (2, _swaps),
    "claims": (2, _claims),
    "transplants": (2, _transplants),
    "forges": (1, _forges),
}

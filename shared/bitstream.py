"""The .slk container: one layer of one frame. The format is set down in FORMAT.md beside this file."""

from __future__ import annotations

import enum
import re
import struct
import zlib
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, SupportsIndex

from secondlook.shared.errors import (
    ConfigError,
    MalformedBitstream,
    NotABitstream,
    TruncatedBitstream,
    UnsupportedBitstream,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAGIC = b"\x89SLK"
VERSION = 1
MAX_SIDE = 16384
MAX_PIXELS = 1 << 26
MAX_QUALITY = 63
MAX_PAYLOAD_BYTES = 1 << 28
BLOCK = 64  # sides are padded to multiples of this

_HEAD = struct.Struct(
    "<4sBBBBBx8sHHI"
)  # magic version codec layer flags quality . hash width height symbol_crc
_ENHANCEMENT = struct.Struct("<BxxxI")  # base quality, symbol CRC of the base layer
_REFERENCE = struct.Struct("<QI")  # sequence of the key, symbol CRC of its layer of the same kind
_FAMILY_LENGTH = struct.Struct("<B")
_LENGTH = struct.Struct("<I")
_CRC = struct.Struct("<I")
_FLAG_DELTA = 1
_FAMILY = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)


def max_payload_bytes(width: int, height: int) -> int:
    """The longest payload that a frame of this size may have: 64 KiB and 8 bytes per pixel of the padded frame.

    Far beyond any real one (one byte per pixel is a lot); it keeps a small frame from bringing a large message.
    """
    padded = -(-width // BLOCK) * -(-height // BLOCK) * BLOCK**2
    return min(MAX_PAYLOAD_BYTES, (1 << 16) + 8 * padded)


def check_frame(image: npt.NDArray[np.uint8], base_quality: int, quality: int) -> None:
    """Raise ConfigError unless `image` is uint8[H,W,3] of a size that a bitstream can carry, and qualities are too."""
    if not hasattr(image, "dtype"):
        raise ConfigError(f"a frame is uint8[H,W,3], not {type(image).__name__}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != "uint8":
        raise ConfigError(f"a frame is uint8[H,W,3], not {image.dtype}{list(image.shape)}")
    height, width = image.shape[:2]
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE and height * width <= MAX_PIXELS):
        raise ConfigError(f"a frame of {width}x{height} is out of range")
    for name, value in (("base quality", base_quality), ("quality", quality)):
        if not isinstance(value, SupportsIndex) or not 0 <= index(value) <= MAX_QUALITY:
            raise ConfigError(f"{name} {value!r} is not a whole number in 0..{MAX_QUALITY}")


class Layer(enum.IntEnum):
    BASE = 1
    ENHANCEMENT = 2


class Codec(enum.IntEnum):
    """Codec families; a number is never given to another family."""

    LITE = 1
    PAPER = 2
    NAMED = 255  # a family that another package brings, called by the name that follows the header


# What a name may not be: families with a number, and words that settings have for something else.
RESERVED_FAMILIES = frozenset({"lite", "paper", "video", "named", "auto"})


def check_family(name: str) -> None:
    """Raises MalformedBitstream unless `name` can be that of a codec family of another package."""
    if _FAMILY.fullmatch(name) is None or name in RESERVED_FAMILIES:
        raise MalformedBitstream(f"{name[:40]!r} cannot be the name of a codec family of another package")


@dataclass(frozen=True)
class Bitstream:
    """One layer of one frame.

    `reference`: sequence number of the key frame a delta refers to, None for a key; `reference_crc`: symbol CRC of
    the key's layer of the same kind, 0 for a key. `symbol_crc`: CRC-32 of the decoded symbols. `base_quality` and
    `base_symbol_crc` tell an enhancement's base layer; in a base layer they repeat its own.
    """

    codec: Codec
    model_hash: bytes
    layer: Layer
    quality: int
    base_quality: int
    width: int
    height: int
    reference: int | None
    reference_crc: int
    symbol_crc: int
    base_symbol_crc: int
    payload: bytes
    family_name: str = ""  # of Codec.NAMED; empty for the others

    @property
    def family(self) -> str:
        """The name of the codec family."""
        return self.family_name or self.codec.name.lower()

    def __post_init__(self) -> None:
        if self.codec is Codec.NAMED:
            check_family(self.family_name)
        elif self.family_name:
            raise MalformedBitstream(f"codec family {self.codec.name.lower()} has a number and no name")
        if len(self.model_hash) != 8:
            raise MalformedBitstream(f"model hash has {len(self.model_hash)} bytes, not 8")
        for name, value in (("quality", self.quality), ("base quality", self.base_quality)):
            if not 0 <= value <= MAX_QUALITY:
                raise MalformedBitstream(f"{name} {value} is not in 0..{MAX_QUALITY}")
        if not (
            1 <= self.width <= MAX_SIDE
            and 1 <= self.height <= MAX_SIDE
            and self.width * self.height <= MAX_PIXELS
        ):
            raise MalformedBitstream(f"frame size {self.width}x{self.height} is out of range")
        lower = (self.base_quality, self.base_symbol_crc)
        if self.layer is Layer.BASE and lower != (self.quality, self.symbol_crc):
            raise MalformedBitstream("a base layer names another base layer")
        if self.reference is not None and not 0 <= self.reference < 1 << 63:
            raise MalformedBitstream(f"reference {self.reference} is out of range")
        if self.reference is None and self.reference_crc != 0:
            raise MalformedBitstream("a key refers to no other frame")
        _check_length(len(self.payload), self.width, self.height)

    def to_bytes(self) -> bytes:
        parts = [
            _HEAD.pack(
                MAGIC,
                VERSION,
                self.codec,
                self.layer,
                _FLAG_DELTA if self.reference is not None else 0,
                self.quality,
                self.model_hash,
                self.width,
                self.height,
                self.symbol_crc,
            )
        ]
        if self.family_name:
            parts += [_FAMILY_LENGTH.pack(len(self.family_name)), self.family_name.encode("ascii")]
        if self.layer is Layer.ENHANCEMENT:
            parts.append(_ENHANCEMENT.pack(self.base_quality, self.base_symbol_crc))
        if self.reference is not None:
            parts.append(_REFERENCE.pack(self.reference, self.reference_crc))
        parts += [_LENGTH.pack(len(self.payload)), self.payload]
        body = b"".join(parts)
        return body + _CRC.pack(zlib.crc32(body))


def _check_length(length: int, width: int, height: int) -> None:
    most = max_payload_bytes(width, height)
    if length > most:
        raise MalformedBitstream(f"payload of {length} bytes is over {most}, too long for {width}x{height}")


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def unpack(self, form: struct.Struct, what: str) -> tuple[int, ...]:
        return form.unpack(self.take(form.size, what))

    def take(self, count: int, what: str) -> bytes:
        if self.at + count > len(self.data):
            raise TruncatedBitstream(f"layer ends after {len(self.data)} bytes, inside its {what}")
        self.at += count
        return self.data[self.at - count : self.at]


def _read_family(reader: _Reader) -> str:
    (length,) = reader.unpack(_FAMILY_LENGTH, "codec family")
    name = reader.take(length, "codec family").decode("latin-1")
    check_family(name)
    return name


def parse(data: bytes) -> Bitstream:
    """Read one layer. Raises a subclass of BitstreamError, and nothing else, on any other bytes."""
    if data[:1] == b"\x8a":  # version 2, see `shared.videobits`
        raise UnsupportedBitstream("a packet of a video group, which decodes with its group only")
    if data[: len(MAGIC)] != MAGIC[: len(data)] or not data:
        raise NotABitstream("this is no .slk layer: its first bytes are wrong")
    reader = _Reader(data)
    head = reader.take(_HEAD.size, "header")
    _, version, codec, layer, flags, quality, model_hash, width, height, symbol_crc = _HEAD.unpack(head)
    if version != VERSION:
        raise UnsupportedBitstream(f"format version {version}; this build reads version {VERSION}")
    if codec not in Codec.__members__.values():
        raise UnsupportedBitstream(f"codec family {codec} is not known to this build")
    if layer not in Layer.__members__.values() or flags & ~_FLAG_DELTA:
        raise MalformedBitstream(f"layer {layer} with flags {flags:#x} is not defined")
    family_name = _read_family(reader) if codec == Codec.NAMED else ""
    base_quality, base_symbol_crc = quality, symbol_crc
    if layer == Layer.ENHANCEMENT:
        base_quality, base_symbol_crc = reader.unpack(_ENHANCEMENT, "header")
    reference, reference_crc = None, 0
    if flags & _FLAG_DELTA:
        reference, reference_crc = reader.unpack(_REFERENCE, "reference")
    (length,) = reader.unpack(_LENGTH, "payload length")
    _check_length(length, width, height)
    payload = reader.take(length, "payload")
    body_end = reader.at
    (crc,) = reader.unpack(_CRC, "checksum")
    if reader.at != len(data):
        raise MalformedBitstream(f"{len(data) - reader.at} bytes follow the layer")
    if zlib.crc32(memoryview(data)[:body_end]) != crc:
        raise MalformedBitstream("the layer fails its checksum: it was altered or damaged")
    parsed = Bitstream(
        Codec(codec),
        model_hash,
        Layer(layer),
        quality,
        base_quality,
        width,
        height,
        reference,
        reference_crc,
        symbol_crc,
        base_symbol_crc,
        payload,
        family_name,
    )
    if parsed.to_bytes() != data:
        raise MalformedBitstream("reserved bytes are not zero")
    return parsed

"""Checks for single packet fields, and the named field types that `packet.py` declares its kinds with.

A field type is ``Annotated[python type, check]``. A check is a frozen dataclass that returns the value in
its final form or raises `PacketMalformed` or `PacketTooLarge`; it runs when a packet is constructed, and
so on both ends of the wire.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Protocol, TypeAlias

from secondlook.shared.errors import PacketMalformed, PacketTooLarge

MAX_MESSAGE_BYTES = 4 << 20
MAX_HEADER_BYTES = 8 << 10  # the longest, an acknowledgement with all its ranges, has 5 KB
MAX_BASE_BYTES = MAX_MESSAGE_BYTES - (64 << 10)  # so that the whole message keeps to its limit
MAX_ENHANCEMENT_BYTES = 4 << 20
MAX_CHUNK_BYTES = 64 << 10
MAX_OUTSTANDING_CHUNKS = 4
MAX_RANGES = 256
MAX_SEQ = 2**53 - 1  # exact in every language that keeps numbers as float64
MAX_NS = 7_258_118_400 * 10**9  # the year 2200: leaves room for sums in 64 bits, as tables hold them
MAX_SIDE = 65_535
MAX_TEXT_BYTES = 4 * 200  # of the longest text, in UTF-8

CHANNELS = ("bulk", "control")
REFUSALS = ("expired", "busy", "unknown")
EDGE_ID = re.compile(r"[a-z0-9-]{1,64}")
BOOT_ID = re.compile(r"[0-9a-f]{32}")
CODE = re.compile(r"[a-z0-9-]{1,64}")
SHA256 = re.compile(r"[0-9a-f]{64}")


class Check(Protocol):
    """A limit on one field: returns the value in its final form or raises `PacketMalformed`."""

    def __call__(self, name: str, value: object) -> object: ...


@dataclass(frozen=True)
class Whole:
    """An integer from `low` to `high`; None as well where `optional`."""

    low: int
    high: int
    optional: bool = False

    def __call__(self, name: str, value: object) -> object:
        if value is None and self.optional:
            return None
        if type(value) is not int:  # bool is an int to isinstance, not to us
            raise PacketMalformed(f"{name} must be an integer, not {type(value).__name__}")
        if not self.low <= value <= self.high:
            raise PacketMalformed(f"{name} is {value}, outside {self.low}..{self.high}")
        return value


@dataclass(frozen=True)
class TextOf:
    """Text of at most `most` characters that matches `pattern` whole, if there is one."""

    most: int
    pattern: re.Pattern[str] | None = None

    def __call__(self, name: str, value: object) -> object:
        if not isinstance(value, str):
            raise PacketMalformed(f"{name} must be text, not {type(value).__name__}")
        if len(value) > self.most:
            raise PacketTooLarge(f"{name} has {len(value)} characters, at most {self.most} are allowed")
        if self.pattern is not None and self.pattern.fullmatch(value) is None:
            raise PacketMalformed(f"{name} {value!r} does not match {self.pattern.pattern}")
        if not value.isprintable():
            raise PacketMalformed(f"{name} holds characters that cannot be printed")
        return value


@dataclass(frozen=True)
class OneOf:
    choices: tuple[str, ...]

    def __call__(self, name: str, value: object) -> object:
        if not isinstance(value, str) or value not in self.choices:
            raise PacketMalformed(f"{name} must be one of {', '.join(self.choices)}")
        return value


@dataclass(frozen=True)
class AscendingRanges:
    """Pairs (first, last), ascending, with a gap of at least one number between neighbours."""

    def __call__(self, name: str, value: object) -> object:
        if not isinstance(value, list | tuple):
            raise PacketMalformed(f"{name} must be a list of ranges, not {type(value).__name__}")
        if len(value) > MAX_RANGES:
            raise PacketTooLarge(f"{name} holds {len(value)} ranges, at most {MAX_RANGES} are allowed")
        floor, pairs = 0, []
        for item in value:
            if not isinstance(item, list | tuple) or len(item) != 2:
                raise PacketMalformed(f"{name} must hold pairs (first, last)")
            first, last = item
            if type(first) is not int or type(last) is not int:
                raise PacketMalformed(f"{name} must hold pairs of integers")
            if not floor <= first <= last <= MAX_SEQ:
                raise PacketMalformed(f"{name} is not ascending at ({first}, {last})")
            pairs.append((first, last))
            floor = last + 2
        return tuple(pairs)


@dataclass(frozen=True)
class Payload:
    most: int

    def __call__(self, name: str, value: object) -> object:
        if not isinstance(value, bytes):
            raise PacketMalformed(f"{name} must be bytes, not {type(value).__name__}")
        if not value:
            raise PacketMalformed(f"{name} is empty")
        if len(value) > self.most:
            raise PacketTooLarge(f"{name} has {len(value)} bytes, at most {self.most} are allowed")
        return value


EdgeId: TypeAlias = Annotated[str, TextOf(64, EDGE_ID)]
BootId: TypeAlias = Annotated[str, TextOf(32, BOOT_ID)]
Seq: TypeAlias = Annotated[int, Whole(0, MAX_SEQ)]
MaybeSeq: TypeAlias = Annotated[int | None, Whole(0, MAX_SEQ, optional=True)]
Cumulative: TypeAlias = Annotated[int, Whole(-1, MAX_SEQ)]
Nanoseconds: TypeAlias = Annotated[int, Whole(0, MAX_NS)]
Side: TypeAlias = Annotated[int, Whole(1, MAX_SIDE)]
ByteCount: TypeAlias = Annotated[int, Whole(0, MAX_SEQ)]
EnhancementBytes: TypeAlias = Annotated[int, Whole(1, MAX_ENHANCEMENT_BYTES)]
MaybeNoBytes: TypeAlias = Annotated[int, Whole(0, MAX_ENHANCEMENT_BYTES)]
Crc: TypeAlias = Annotated[int, Whole(0, 2**32 - 1)]
RequestId: TypeAlias = Annotated[int, Whole(1, MAX_SEQ)]
Priority: TypeAlias = Annotated[int, Whole(0, 100)]
Code: TypeAlias = Annotated[str, TextOf(64, CODE)]
Text: TypeAlias = Annotated[str, TextOf(200)]
Digest: TypeAlias = Annotated[str, TextOf(64, SHA256)]
Channel: TypeAlias = Annotated[str, OneOf(CHANNELS)]
RefusalReason: TypeAlias = Annotated[str, OneOf(REFUSALS)]
Ranges: TypeAlias = Annotated[tuple[tuple[int, int], ...], AscendingRanges()]
BasePayload: TypeAlias = Annotated[bytes, Payload(MAX_BASE_BYTES)]
ChunkPayload: TypeAlias = Annotated[bytes, Payload(MAX_CHUNK_BYTES)]

"""Wire packets between a camera host and the gateway: one frozen dataclass a kind.

A message is two ZeroMQ frames, ``[header][payload]``. The header is a MessagePack array
``[version, kind, *fields]`` with the fields in the order they are declared here. `PACKETS.md` beside
this file is the format for people; the classes below are the format for programs.

Every field's annotation carries its limit, and one check serves both ends: a packet that could not be
parsed cannot be constructed either. `parse` raises `PacketError` subclasses and nothing else.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, get_type_hints

import msgpack

from secondlook.shared.errors import PacketCorrupt, PacketMalformed, PacketTooLarge, UnsupportedPacket
from secondlook.shared.packetfields import (
    EDGE_ID,
    MAX_HEADER_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_RANGES,
    MAX_TEXT_BYTES,
    BasePayload,
    BootId,
    ByteCount,
    Channel,
    Check,
    ChunkPayload,
    Code,
    Crc,
    Cumulative,
    Digest,
    EdgeId,
    EnhancementBytes,
    MaybeNoBytes,
    MaybeSeq,
    Nanoseconds,
    Priority,
    Ranges,
    RefusalReason,
    RequestId,
    Seq,
    Side,
    Text,
)

VERSION = 1


@dataclass(frozen=True)
class Packet:
    """Base of every kind. Constructing one checks all its fields (`PacketMalformed`, `PacketTooLarge`)."""

    KIND: ClassVar[int]
    CRC_OF_PAYLOAD: ClassVar[bool] = False  # the header then ends with the CRC-32 of the payload

    def __post_init__(self) -> None:
        for name, (title, check) in _CHECKS[type(self)].items():
            value = getattr(self, name)
            final = check(title, value)
            if final is not value:
                object.__setattr__(self, name, final)

    def to_frames(self) -> list[bytes]:
        """The two frames of this packet: MessagePack header, payload (empty for most kinds)."""
        head = [VERSION, self.KIND, *(getattr(self, name) for name in _HEADER[type(self)])]
        payload: bytes = getattr(self, "payload", b"")
        if self.CRC_OF_PAYLOAD:
            head.append(zlib.crc32(payload))
        header: bytes = msgpack.packb(head)
        return [header, payload]


@dataclass(frozen=True)
class Hello(Packet):
    """Edge → gateway, first on every connection and once for each boot that has frames to deliver."""

    KIND: ClassVar[int] = 1
    edge_id: EdgeId
    boot_id: BootId
    channel: Channel
    camera: Text
    next_seq: Seq
    oldest_seq: Seq
    software: Text

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.oldest_seq > self.next_seq:
            raise PacketMalformed(f"Hello.oldest_seq {self.oldest_seq} exceeds next_seq {self.next_seq}")


@dataclass(frozen=True)
class Welcome(Packet):
    """Gateway → edge, the answer to `Hello`: all sequences up to `cumulative` are safe (-1: none)."""

    KIND: ClassVar[int] = 2
    boot_id: BootId
    cumulative: Cumulative
    credit_bytes: ByteCount


@dataclass(frozen=True)
class BaseFrame(Packet):
    """Edge → gateway: the base layer of one frame, a delta to `key_seq` unless that is None."""

    KIND: ClassVar[int] = 3
    CRC_OF_PAYLOAD: ClassVar[bool] = True
    boot_id: BootId
    seq: Seq
    captured_ns: Nanoseconds
    width: Side
    height: Side
    key_seq: MaybeSeq
    enhancement_bytes: MaybeNoBytes
    payload: BasePayload

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.key_seq is not None and self.key_seq >= self.seq:
            raise PacketMalformed(f"BaseFrame.key_seq {self.key_seq} is not before seq {self.seq}")


@dataclass(frozen=True)
class Ack(Packet):
    """Gateway → edge: what is stored durably, and how many payload bytes may be in flight at once."""

    KIND: ClassVar[int] = 4
    boot_id: BootId
    cumulative: Cumulative
    selective: Ranges
    credit_bytes: ByteCount

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.selective and self.selective[0][0] <= self.cumulative + 1:
            raise PacketMalformed("Ack.selective must begin beyond cumulative + 1")


@dataclass(frozen=True)
class Tombstone(Packet):
    """Edge → gateway: frames that were captured and dropped before delivery, first to last inclusive."""

    KIND: ClassVar[int] = 5
    boot_id: BootId
    first_seq: Seq
    last_seq: Seq
    reason: Code

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first_seq > self.last_seq:
            raise PacketMalformed(f"Tombstone runs backwards: {self.first_seq}..{self.last_seq}")


@dataclass(frozen=True)
class EnhancementRequest(Packet):
    """Gateway → edge: send the enhancement layer of one frame. Higher `priority` goes first."""

    KIND: ClassVar[int] = 6
    request_id: RequestId
    boot_id: BootId
    seq: Seq
    deadline_ns: Nanoseconds
    priority: Priority


@dataclass(frozen=True)
class Chunk(Packet):
    """Edge → gateway: part of an enhancement of `total` bytes whose CRC-32 is `crc32` as a whole."""

    KIND: ClassVar[int] = 7
    request_id: RequestId
    offset: MaybeNoBytes
    total: EnhancementBytes
    crc32: Crc
    payload: ChunkPayload

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.offset + len(self.payload) > self.total:
            raise PacketMalformed(f"Chunk at {self.offset} runs past its total of {self.total} bytes")


@dataclass(frozen=True)
class Refusal(Packet):
    """Edge → gateway: the request cannot be answered."""

    KIND: ClassVar[int] = 8
    request_id: RequestId
    reason: RefusalReason


@dataclass(frozen=True)
class Ping(Packet):
    """Edge → gateway: wall clock of the camera host, in nanoseconds since 1970."""

    KIND: ClassVar[int] = 9
    now_ns: Nanoseconds


@dataclass(frozen=True)
class Pong(Packet):
    """Gateway → edge: wall clock of the gateway, in nanoseconds since 1970."""

    KIND: ClassVar[int] = 10
    now_ns: Nanoseconds


@dataclass(frozen=True)
class ChunkCredit(Packet):
    """Gateway → edge: every byte below `offset` of this request's answer has arrived."""

    KIND: ClassVar[int] = 11
    request_id: RequestId
    offset: ByteCount


@dataclass(frozen=True)
class Fault(Packet):
    """Gateway → edge: something sent before was rejected; `code` is for programs, `text` for people."""

    KIND: ClassVar[int] = 12
    code: Code
    text: Text


@dataclass(frozen=True)
class LeanFrame(Packet):
    """Edge → gateway: the first frame of a video group without its background, which the gateway has.

    `background`: SHA-256 of the background packet, in hexadecimal. With it, this is a `BaseFrame` without a key.
    """

    KIND: ClassVar[int] = 13
    CRC_OF_PAYLOAD: ClassVar[bool] = True
    boot_id: BootId
    seq: Seq
    captured_ns: Nanoseconds
    width: Side
    height: Side
    enhancement_bytes: MaybeNoBytes
    background: Digest
    payload: BasePayload


_ALL = (
    *(Hello, Welcome, BaseFrame, Ack, Tombstone, EnhancementRequest),
    *(Chunk, Refusal, Ping, Pong, ChunkCredit, Fault, LeanFrame),
)
KINDS: dict[int, type[Packet]] = {kind.KIND: kind for kind in _ALL}


def _field_checks(kind: type[Packet]) -> dict[str, tuple[str, Check]]:
    """Each field's check, with the name that its errors call it by."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        field.name: (f"{kind.__name__}.{field.name}", hints[field.name].__metadata__[0])
        for field in fields(kind)
    }


_CHECKS = {kind: _field_checks(kind) for kind in KINDS.values()}
_HEADER = {kind: [name for name in checks if name != "payload"] for kind, checks in _CHECKS.items()}


def parse(frames: Sequence[bytes]) -> Packet:
    """The packet in one received multipart message.

    :raises PacketTooLarge: a frame, text or list exceeds its limit
    :raises PacketMalformed: not two frames, not MessagePack, a field missing, extra, mistyped or out of range
    :raises UnsupportedPacket: version or kind is not known here
    :raises PacketCorrupt: the payload of a base frame fails its CRC
    """
    if sum(map(len, frames)) > MAX_MESSAGE_BYTES:
        raise PacketTooLarge(f"message exceeds {MAX_MESSAGE_BYTES} bytes")
    if len(frames) != 2:
        raise PacketMalformed(f"message has {len(frames)} frames, not 2")
    header, payload = frames
    kind, values = _open_header(header)
    names = _HEADER[kind]
    if len(values) != len(names) + kind.CRC_OF_PAYLOAD:
        raise PacketMalformed(f"{kind.__name__} has {len(values)} fields after its kind")
    if kind.CRC_OF_PAYLOAD:
        crc = values.pop()
        if type(crc) is not int:
            raise PacketMalformed(f"{kind.__name__}.crc32 must be an integer")
        if crc != zlib.crc32(payload):
            raise PacketCorrupt(f"payload of {kind.__name__} fails its CRC")
    members = dict(zip(names, values, strict=True))
    if "payload" in _CHECKS[kind]:
        members["payload"] = payload
    elif payload:
        raise PacketMalformed(f"{kind.__name__} carries no payload, but {len(payload)} bytes came")
    return kind(**members)


def is_edge_id(text: str) -> bool:
    """Whether `text` may name a camera host: 1 to 64 of a-z, 0-9 and hyphen."""
    return EDGE_ID.fullmatch(text) is not None


# More members than any kind has fields.
_FEW = 16
_NOTHING_ELSE = {"max_map_len": 0, "max_bin_len": 0, "max_ext_len": 0, "max_str_len": MAX_TEXT_BYTES}


def _open_long(header: bytes) -> list[object]:
    """The header of an acknowledgement, whose list of ranges may be long: read member by member, three levels deep."""
    unpacker = msgpack.Unpacker(None, max_buffer_size=MAX_HEADER_BYTES, max_array_len=0, **_NOTHING_ELSE)
    unpacker.feed(header)
    try:
        fields = unpacker.read_array_header()
        head: list[object] = [unpacker.unpack(), unpacker.unpack()]
        names = _HEADER[Ack]
        if head != [VERSION, Ack.KIND] or fields != len(names) + 2:
            raise PacketMalformed("header is not MessagePack, or has longer lists than its kind")
        for name in names:
            head.append(_ranges(unpacker) if name == "selective" else unpacker.unpack())
        if unpacker.tell() != len(header):
            raise PacketMalformed("header has bytes beyond its end")
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise PacketMalformed(f"header is not MessagePack: {type(error).__name__}") from error
    return head


def _ranges(unpacker: Any) -> list[list[object]]:
    many = unpacker.read_array_header()
    if many > MAX_RANGES:
        raise PacketTooLarge(f"Ack.selective holds {many} ranges, at most {MAX_RANGES} are allowed")
    pairs = []
    for _ in range(many):
        if unpacker.read_array_header() != 2:
            raise PacketMalformed("Ack.selective must hold pairs (first, last)")
        pairs.append([unpacker.unpack(), unpacker.unpack()])
    return pairs


def _open_header(header: bytes) -> tuple[type[Packet], list[object]]:
    if len(header) > MAX_HEADER_BYTES:
        raise PacketTooLarge(f"header has {len(header)} bytes, at most {MAX_HEADER_BYTES} are allowed")
    try:
        # Lengths are only claims until they are read: what is built for them is bounded first.
        head = msgpack.unpackb(header, max_array_len=_FEW, **_NOTHING_ELSE)
    except RecursionError as error:
        raise PacketMalformed("header is not MessagePack: RecursionError") from error
    except (ValueError, msgpack.UnpackException):
        head = _open_long(header)
    if not isinstance(head, list) or len(head) < 2:
        raise PacketMalformed("header must be an array that begins with version and kind")
    version, kind_id, *values = head
    if type(version) is not int or type(kind_id) is not int:
        raise PacketMalformed("version and kind must be integers")
    if version != VERSION:
        raise UnsupportedPacket(f"protocol version {version} is not supported, only {VERSION}")
    if kind_id not in KINDS:
        raise UnsupportedPacket(f"packet kind {kind_id} is not known")
    return KINDS[kind_id], values

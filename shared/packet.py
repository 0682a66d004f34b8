"""Wire packets between a camera host and the gateway: one frozen dataclass a kind.

A message is two ZeroMQ frames, ``[header][payload]``. The header is a MessagePack array
``[version, kind, *fields]`` with the fields in the order they are declared here. `PACKETS.md` beside
this file is the format for people; the classes below are the format for programs.

Every field's type is ``Annotated[python type, check]``. A check returns the value in its final form or raises
`PacketMalformed` or `PacketTooLarge`, and serves both ends: a packet that could not be parsed cannot be
constructed either. `parse` raises `PacketError` subclasses and nothing else.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import accumulate, pairwise
from typing import Annotated, Any, ClassVar, TypeAlias, get_type_hints

import msgpack
import msgspec
from msgspec import Meta

from secondlook.shared.errors import PacketCorrupt, PacketMalformed, PacketTooLarge, UnsupportedPacket
from secondlook.shared.packetfields import AscendingRanges, Check, OneOf, Payload, TextOf, Whole, Wholes

VERSION = 1
MAX_MESSAGE_BYTES = 4 << 20
MAX_HEADER_BYTES = 8 << 10  # the longest, an acknowledgement with all its ranges, has 5 KB
MAX_BASE_BYTES = MAX_MESSAGE_BYTES - (64 << 10)  # so that the whole message keeps to its limit
MAX_ENHANCEMENT_BYTES = 4 << 20
MAX_CHUNK_BYTES = 64 << 10
MAX_OUTSTANDING_CHUNKS = 4
MAX_RANGES = 256
MAX_RUN = 64  # frames in one message
CROPS = " +crops"  # ends the `software` of the hello of a camera host that answers a `CropRequest`
PROBE = " (probe)"  # ends the `software` of a hello that only tries the link: it is no camera host's own
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


EdgeId: TypeAlias = Annotated[str, TextOf(64, EDGE_ID)]
BootId: TypeAlias = Annotated[str, TextOf(32, BOOT_ID)]
Seq: TypeAlias = Annotated[int, Whole(0, MAX_SEQ)]
MaybeSeq: TypeAlias = Annotated[int | None, Whole(0, MAX_SEQ, optional=True)]
Cumulative: TypeAlias = Annotated[int, Whole(-1, MAX_SEQ)]
Nanoseconds: TypeAlias = Annotated[int, Whole(0, MAX_NS)]
MaybeNanoseconds: TypeAlias = Annotated[int | None, Whole(0, MAX_NS, optional=True)]
FrameCount: TypeAlias = Annotated[int, Whole(0, MAX_SEQ)]
Side: TypeAlias = Annotated[int, Whole(1, MAX_SIDE)]
Place: TypeAlias = Annotated[int, Whole(0, MAX_SIDE - 1)]
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
Ranges: TypeAlias = Annotated[tuple[tuple[int, int], ...], AscendingRanges(MAX_RANGES, MAX_SEQ)]
OffsetsNs: TypeAlias = Annotated[tuple[int, ...], Wholes(0, MAX_NS, 1, MAX_RUN - 1)]
RunEnhancements: TypeAlias = Annotated[tuple[int, ...], Wholes(0, MAX_ENHANCEMENT_BYTES, 2, MAX_RUN)]
RunSizes: TypeAlias = Annotated[tuple[int, ...], Wholes(1, MAX_BASE_BYTES, 2, MAX_RUN)]
BasePayload: TypeAlias = Annotated[bytes, Payload(MAX_BASE_BYTES)]
ChunkPayload: TypeAlias = Annotated[bytes, Payload(MAX_CHUNK_BYTES)]


@dataclass(frozen=True)
class FrameInfo:
    """What a camera host says of one frame: the record that goes with its layers from the spool to the catalogue.

    Its limits hold wherever a packet carries it (`BaseFrame`).
    """

    boot_id: BootId
    seq: Seq  # in its boot, from 0
    captured_ns: Nanoseconds  # Unix nanoseconds by the camera host's clock
    width: Side  # pixels
    height: Side
    key_seq: MaybeSeq  # of the frame that its base layer refers to; None: it stands alone
    enhancement_bytes: MaybeNoBytes  # that wait on the camera host


@dataclass(frozen=True)
class Packet:
    """Base of every kind. Constructing one checks all its fields (`PacketMalformed`, `PacketTooLarge`)."""

    KIND: ClassVar[int]
    CRC_OF_PAYLOAD: ClassVar[bool] = False  # the header then ends with the CRC-32 of the payload

    def __post_init__(self) -> None:
        members = self._members()
        for name, (title, check) in _CHECKS[type(self)].items():
            value = members[name]
            final = check(title, value)
            if final is not value:
                object.__setattr__(self, name, final)

    def _members(self) -> dict[str, Any]:
        """By name, what the header and the payload hold."""
        return vars(self)

    @classmethod
    def _of_members(cls, members: dict[str, Any]) -> Packet:
        return cls(**members)

    def to_frames(self) -> list[bytes]:
        """The two frames of this packet: MessagePack header, payload (empty for most kinds)."""
        members = self._members()
        head = [VERSION, self.KIND, *(members[name] for name in _HEADER[type(self)])]
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
    """Edge → gateway: the base layer of one frame, a delta to `info.key_seq` unless that is None.

    The header holds the members of `info`, in their order.
    """

    KIND: ClassVar[int] = 3
    CRC_OF_PAYLOAD: ClassVar[bool] = True
    info: FrameInfo
    payload: BasePayload

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.info.key_seq is not None and self.info.key_seq >= self.info.seq:
            raise PacketMalformed(f"BaseFrame.key_seq {self.info.key_seq} is not before seq {self.info.seq}")

    def _members(self) -> dict[str, Any]:
        return {**vars(self.info), "payload": self.payload}

    @classmethod
    def _of_members(cls, members: dict[str, Any]) -> BaseFrame:
        payload = members.pop("payload")
        return cls(FrameInfo(**members), payload)


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

    `background`: SHA-256 of the background packet, in hexadecimal. With it, this is a `BaseFrame` without a key. The
    header holds the members of `info`, in their order, ahead of it.
    """

    KIND: ClassVar[int] = 13
    CRC_OF_PAYLOAD: ClassVar[bool] = True
    info: FrameInfo
    background: Digest
    payload: BasePayload

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.info.key_seq is not None:
            raise PacketMalformed("LeanFrame.key_seq must be nil: it is the first of its group")

    def _members(self) -> dict[str, Any]:
        return {**vars(self.info), "background": self.background, "payload": self.payload}

    @classmethod
    def _of_members(cls, members: dict[str, Any]) -> LeanFrame:
        payload, background = members.pop("payload"), members.pop("background")
        return cls(FrameInfo(**members), background, payload)


@dataclass(frozen=True)
class Report(Packet):
    """Edge → gateway: how the camera host does, for people to see. Nothing else depends on it."""

    KIND: ClassVar[int] = 14
    waiting: FrameCount  # captured frames that are not delivered; 0 while none has waited for long
    oldest_ns: MaybeNanoseconds  # when the oldest of them was captured, by the camera host's clock
    source: Code  # the state of its source: running, reconnecting, ended, paused, ...
    model: Text  # what makes its base layers
    trouble: Text  # what is wrong with its source; empty where nothing is


@dataclass(frozen=True)
class CropRequest(EnhancementRequest):
    """Gateway → edge: an `EnhancementRequest` for a crop of the frame; `right` and `bottom` lie outside."""

    KIND: ClassVar[int] = 15
    left: Place
    top: Place
    right: Side
    bottom: Side

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.left >= self.right or self.top >= self.bottom:
            raise PacketMalformed("CropRequest holds nothing: it ends where it begins, or before")


@dataclass(frozen=True)
class FrameRun(Packet):
    """Edge → gateway: the base layers of frames that follow each other, deltas to one key, in one message.

    It stands for the `BaseFrame`s that `frames` gives. Frames are captured no earlier than the one before.
    """

    KIND: ClassVar[int] = 16
    CRC_OF_PAYLOAD: ClassVar[bool] = True
    boot_id: BootId
    first_seq: Seq
    captured_ns: Nanoseconds  # of the first
    width: Side
    height: Side
    key_seq: Seq
    offsets_ns: OffsetsNs  # of each but the first, since the one before
    enhancement_bytes: RunEnhancements  # of each
    sizes: RunSizes  # bytes of each base layer
    payload: BasePayload  # the base layers, one behind the other

    def __post_init__(self) -> None:
        super().__post_init__()
        count = len(self.sizes)
        if len(self.enhancement_bytes) != count or len(self.offsets_ns) != count - 1:
            raise PacketMalformed("FrameRun says of more frames, or of fewer, than it has sizes")
        if sum(self.sizes) != len(self.payload):
            raise PacketMalformed(
                f"FrameRun.sizes add up to {sum(self.sizes)} bytes, its payload has {len(self.payload)}"
            )
        if self.key_seq >= self.first_seq:
            raise PacketMalformed(f"FrameRun.key_seq {self.key_seq} is not before first_seq {self.first_seq}")
        if self.last_seq > MAX_SEQ or self.captured_ns + sum(self.offsets_ns) > MAX_NS:
            raise PacketMalformed("FrameRun ends beyond the last seq or the last instant")

    @property
    def last_seq(self) -> int:
        return self.first_seq + len(self.sizes) - 1

    def frames(self) -> list[BaseFrame]:
        """The frames, in their order."""
        captured, begins = (
            accumulate(self.offsets_ns, initial=self.captured_ns),
            accumulate(self.sizes, initial=0),
        )
        facts = zip(captured, self.enhancement_bytes, self.sizes, begins, strict=False)
        return [
            BaseFrame(
                FrameInfo(self.boot_id, seq, at, self.width, self.height, self.key_seq, waiting),
                self.payload[begin : begin + size],
            )
            for seq, (at, waiting, size, begin) in enumerate(facts, self.first_seq)
        ]

    @classmethod
    def of(cls, frames: Sequence[BaseFrame]) -> FrameRun:
        """The run of these frames. Raises PacketMalformed, PacketTooLarge where they make none."""
        infos = [frame.info for frame in frames]
        first = infos[0]
        run = cls(
            first.boot_id,
            first.seq,
            first.captured_ns,
            first.width,
            first.height,
            -1 if first.key_seq is None else first.key_seq,
            tuple(late.captured_ns - early.captured_ns for early, late in pairwise(infos)),
            tuple(info.enhancement_bytes for info in infos),
            tuple(len(frame.payload) for frame in frames),
            b"".join(frame.payload for frame in frames),
        )
        if run.frames() != list(frames):
            raise PacketMalformed("FrameRun is made of frames that do not follow each other")
        return run


_ALL = (
    *(Hello, Welcome, BaseFrame, Ack, Tombstone, EnhancementRequest),
    *(Chunk, Refusal, Ping, Pong, ChunkCredit, Fault, LeanFrame, Report, CropRequest, FrameRun),
)
KINDS: dict[int, type[Packet]] = {kind.KIND: kind for kind in _ALL}


def _field_checks(kind: type[Packet]) -> dict[str, tuple[str, Check]]:
    """Each field's check, with the name that its errors call it by."""
    hints = {
        name: hint for name, hint in get_type_hints(kind, include_extras=True).items() if name in _names(kind)
    }
    if "info" in hints:
        del hints["info"]
        hints = {**get_type_hints(FrameInfo, include_extras=True), **hints}
    return {name: (f"{kind.__name__}.{name}", hint.__metadata__[0]) for name, hint in hints.items()}


def _names(kind: type[Packet]) -> set[str]:
    return {field.name for field in fields(kind)}


_CHECKS = {kind: _field_checks(kind) for kind in KINDS.values()}
_HEADER = {kind: [name for name in checks if name != "payload"] for kind, checks in _CHECKS.items()}


def _as_msgspec(check: Check) -> Any:
    """The limits of a check, for a decoder that holds to them while it reads."""
    if isinstance(check, Whole):
        number = Annotated[int, Meta(ge=check.low, le=check.high)]
        return number | None if check.optional else number
    if isinstance(check, TextOf) and check.pattern is not None:
        return Annotated[str, Meta(max_length=check.most, pattern=rf"\A{check.pattern.pattern}\Z")]
    raise TypeError(f"no limits of {check} are known")


_BASE_HEADER = msgspec.msgpack.Decoder(
    msgspec.defstruct(
        "BaseHeader",
        [
            ("version", Annotated[int, Meta(ge=VERSION, le=VERSION)]),
            ("kind", Annotated[int, Meta(ge=BaseFrame.KIND, le=BaseFrame.KIND)]),
            *((name, _as_msgspec(_CHECKS[BaseFrame][name][1])) for name in _HEADER[BaseFrame]),
            ("crc32", int),
        ],
        array_like=True,
        forbid_unknown_fields=True,
    )
)


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
    return _sound_base_frame(header, payload) or _parse_closely(header, payload)


def _sound_base_frame(header: bytes, payload: bytes) -> BaseFrame | None:
    """A base frame, which nearly all packets are, in half the time; None for all that is another kind or not sound."""
    if len(header) > MAX_HEADER_BYTES or not 0 < len(payload) <= MAX_BASE_BYTES:
        return None
    try:
        _, _, *values, crc = msgspec.structs.astuple(_BASE_HEADER.decode(header))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    info = FrameInfo(*values)
    if crc != zlib.crc32(payload) or (info.key_seq is not None and info.key_seq >= info.seq):
        return None
    frame = object.__new__(BaseFrame)
    vars(frame).update(info=info, payload=payload)  # the decoder has checked them
    return frame


def _parse_closely(header: bytes, payload: bytes) -> Packet:
    """A packet of any kind, or what is wrong with it."""
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
    return kind._of_members(members)


def is_edge_id(text: str) -> bool:
    """Whether `text` may name a camera host: 1 to 64 of a-z, 0-9 and hyphen."""
    return EDGE_ID.fullmatch(text) is not None


# More members than any kind has fields.
_FEW = 16
_NOTHING_ELSE = {"max_map_len": 0, "max_bin_len": 0, "max_ext_len": 0, "max_str_len": MAX_TEXT_BYTES}


def _open_long(header: bytes) -> list[object]:
    """The header of a kind whose lists may be long: read member by member, three levels deep at most."""
    unpacker = msgpack.Unpacker(None, max_buffer_size=MAX_HEADER_BYTES, max_array_len=0, **_NOTHING_ELSE)
    unpacker.feed(header)
    try:
        fields = unpacker.read_array_header()
        head: list[object] = [unpacker.unpack(), unpacker.unpack()]
        kind = next((one for one in (Ack, FrameRun) if head == [VERSION, one.KIND]), None)
        if kind is None or fields != len(_HEADER[kind]) + 2 + kind.CRC_OF_PAYLOAD:
            raise PacketMalformed("header is not MessagePack, or has longer lists than its kind")
        for name in _HEADER[kind]:
            title, check = _CHECKS[kind][name]
            if isinstance(check, AscendingRanges | Wholes):
                head.append(_list(unpacker, title, check))
            else:
                head.append(unpacker.unpack())
        if kind.CRC_OF_PAYLOAD:
            head.append(unpacker.unpack())
        if unpacker.tell() != len(header):
            raise PacketMalformed("header has bytes beyond its end")
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise PacketMalformed(f"header is not MessagePack: {type(error).__name__}") from error
    return head


def _list(unpacker: Any, title: str, check: AscendingRanges | Wholes) -> list[object]:
    """A list of ranges or of numbers, no longer than its kind may have it."""
    many = unpacker.read_array_header()
    if many > check.most:
        raise PacketTooLarge(f"{title} holds {many} members, at most {check.most} are allowed")
    if isinstance(check, Wholes):
        return [unpacker.unpack() for _ in range(many)]
    pairs: list[object] = []
    for _ in range(many):
        if unpacker.read_array_header() != 2:
            raise PacketMalformed(f"{title} must hold pairs (first, last)")
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

"""Packets of the codec family `video`, bitstream version 2: a stored background, and frames that follow from it.

The format is set down in FORMAT.md beside this file. What is read here is read before libavcodec sees a byte: what a
packet holds, how many pictures, of which kind. Payloads are H.264 or H.265 in Annex B without the first start code,
or AV1 OBUs with lengths.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from secondlook.shared.bitstream import MAX_SIDE, max_payload_bytes
from secondlook.shared.errors import (
    LayerMismatch,
    MalformedBitstream,
    NotABitstream,
    TruncatedBitstream,
    UnsupportedBitstream,
)
from secondlook.shared.layers import Layers

MARK = 0x8A  # first byte of version 2; version 1 begins with 0x89
GROUP_MARK = bytes([MARK])
MAX_PIXELS = 1 << 24  # a decoder keeps up to 17 pictures of 1.5 bytes a pixel
MAX_PLACE = 255
MAX_SLICES = 32
ID_BYTES = 3
FRAME_HEADER_BYTES = 12

_FRAME = struct.Struct("<BB3sHBI")  # mark, kind and coding, background id, group, place, picture CRC
_BACKGROUND = struct.Struct("<BBHHI")  # mark, kind and coding, width, height, picture CRC
_HEAD = struct.Struct("<BBI")  # mark, kind and coding, length of the first of two parts
_CROP = struct.Struct("<BBHHI")  # mark, kind and coding, left, top, length of the base layer
_KIND_FRAME, _KIND_BACKGROUND, _KIND_HEAD, _KIND_PAIR, _KIND_CROP = 1, 2, 3, 4, 5
_NAMES = {_KIND_FRAME: "frame of a group", _KIND_BACKGROUND: "background", _KIND_HEAD: "head of a group"}
_START = b"\x00\x00\x01"


class Coding(enum.IntEnum):
    """The standards that payloads may follow; a number is never given to another one."""

    H264 = 1
    H265 = 2
    AV1 = 3


@dataclass(frozen=True)
class BackgroundPacket:
    """The coded background picture of one or more groups.

    `width`, `height`: of the frames (the coded picture has even sides); `picture_crc`: see `GroupFrame`.
    """

    coding: Coding
    width: int
    height: int
    picture_crc: int
    payload: bytes

    def __post_init__(self) -> None:
        sides_fit = 1 <= self.width <= MAX_SIDE and 1 <= self.height <= MAX_SIDE
        if not sides_fit or self.width * self.height > MAX_PIXELS:
            raise MalformedBitstream(f"frame size {self.width}x{self.height} is out of range")
        _check_length(self.payload, self.width, self.height)
        check_payload(self.payload, self.coding, key=True)

    @property
    def coded_size(self) -> tuple[int, int]:
        """Width and height of the coded picture: 4:2:0 has even sides."""
        return self.width + self.width % 2, self.height + self.height % 2

    @property
    def id(self) -> bytes:
        """What frames call it: the first bytes of the SHA-256 of the packet."""
        return hashlib.sha256(self.to_bytes()).digest()[:ID_BYTES]

    def to_bytes(self) -> bytes:
        kind = _KIND_BACKGROUND << 4 | self.coding
        return _BACKGROUND.pack(MARK, kind, self.width, self.height, self.picture_crc) + self.payload

    @classmethod
    def parse(cls, data: bytes) -> BackgroundPacket:
        """Raises a subclass of BitstreamError, and nothing else, on bytes that are no background packet."""
        coding = _read_kind(data, _KIND_BACKGROUND)
        if len(data) < _BACKGROUND.size:
            raise TruncatedBitstream(f"background ends after {len(data)} bytes, inside its header")
        _, _, width, height, crc = _BACKGROUND.unpack_from(data)
        return cls(coding, width, height, crc, data[_BACKGROUND.size :])


@dataclass(frozen=True)
class GroupFrame:
    """One frame of a group.

    `background_id`: of the group's background; `group`: its number modulo 2^16; `place`: 1 for the first frame
    behind the background; `picture_crc`: CRC-32 of the decoded planes Y, U, V, row by row, of the coded size.
    """

    coding: Coding
    background_id: bytes
    group: int
    place: int
    picture_crc: int
    payload: bytes

    def __post_init__(self) -> None:
        if len(self.background_id) != ID_BYTES:
            raise MalformedBitstream(f"background id has {len(self.background_id)} bytes, not {ID_BYTES}")
        if not 0 <= self.group < 1 << 16:
            raise MalformedBitstream(f"group {self.group} is not in 0..65535")
        if not 1 <= self.place <= MAX_PLACE:
            raise MalformedBitstream(f"place {self.place} is not in 1..{MAX_PLACE}")
        _check_length(self.payload, MAX_SIDE, MAX_PIXELS // MAX_SIDE)
        check_payload(self.payload, self.coding, key=False)

    def to_bytes(self) -> bytes:
        kind = _KIND_FRAME << 4 | self.coding
        head = _FRAME.pack(MARK, kind, self.background_id, self.group, self.place, self.picture_crc)
        return head + self.payload

    @classmethod
    def parse(cls, data: bytes) -> GroupFrame:
        """Raises a subclass of BitstreamError, and nothing else, on bytes that are no frame of a group."""
        coding = _read_kind(data, _KIND_FRAME)
        if len(data) < _FRAME.size:
            raise TruncatedBitstream(f"frame ends after {len(data)} bytes, inside its header")
        _, _, background_id, group, place, crc = _FRAME.unpack_from(data)
        return cls(coding, background_id, group, place, crc, data[_FRAME.size :])


def is_of_group(base: bytes) -> bool:
    """Whether a base layer is a packet of this family, so that it needs the frames before it in its group."""
    return base[:1] == GROUP_MARK


@dataclass(frozen=True)
class GroupHead:
    """The base layer of the first frame of a group: the background and the frame in one."""

    background: BackgroundPacket
    frame: GroupFrame

    def __post_init__(self) -> None:
        if self.background.coding is not self.frame.coding:
            raise MalformedBitstream(
                "the background and the frame of a head are coded by different standards"
            )
        if self.frame.place != 1:
            raise MalformedBitstream(f"the frame of a head has place {self.frame.place}, not 1")

    def to_bytes(self) -> bytes:
        background = self.background.to_bytes()
        kind = _KIND_HEAD << 4 | self.background.coding
        return _HEAD.pack(MARK, kind, len(background)) + background + self.frame.to_bytes()

    @classmethod
    def parse(cls, data: bytes) -> GroupHead:
        """Raises a subclass of BitstreamError, and nothing else, on bytes that are no head of a group."""
        coding = _read_kind(data, _KIND_HEAD)
        background, frame = _two_parts(data)
        head = cls(BackgroundPacket.parse(background), GroupFrame.parse(frame))
        if head.background.coding is not coding:
            raise MalformedBitstream("the head of a group names another coding than its parts")
        return head


def split_head(base: bytes) -> tuple[bytes, bytes] | None:
    """The background packet and the frame of a head of a group; None for any other base layer.

    Nothing but lengths is looked at. Raises TruncatedBitstream.
    """
    if base[:1] != GROUP_MARK or len(base) < 2 or base[1] >> 4 != _KIND_HEAD:
        return None
    return _two_parts(base)


def join_head(background: bytes, frame: bytes) -> bytes:
    """The head of a group of a background packet and its first frame, the inverse of `split_head`.

    Raises a subclass of BitstreamError where they are not those, or do not suit each other.
    """
    head = GroupHead(BackgroundPacket.parse(background), GroupFrame.parse(frame))
    if head.frame.background_id != head.background.id:
        raise LayerMismatch(
            f"the frame refers to background {head.frame.background_id.hex()}, this one is {head.background.id.hex()}"
        )
    return head.to_bytes()


def background_digest(background: bytes) -> str:
    """By which a background packet is referred to on the way to the cloud: its SHA-256, in hexadecimal."""
    return hashlib.sha256(background).hexdigest()


def parse_base(data: bytes) -> GroupHead | GroupFrame:
    """A base layer of this family: the head of a group, or a frame behind it. Raises subclasses of BitstreamError."""
    if len(data) > 1 and data[1] >> 4 == _KIND_HEAD:
        return GroupHead.parse(data)
    return GroupFrame.parse(data)


def join_layers(layers: Layers) -> bytes:
    """The enhancement of a base layer of this family: both layers of a picture that another family coded."""
    return _HEAD.pack(MARK, _KIND_PAIR << 4, len(layers.base)) + layers.base + layers.enhancement


def split_layers(enhancement: bytes) -> Layers:
    """What `join_layers` joined. Raises a subclass of BitstreamError."""
    if enhancement[:1] != GROUP_MARK:
        raise LayerMismatch("the enhancement of a frame of a video group holds both layers of a picture")
    if enhancement[1:2] != bytes([_KIND_PAIR << 4]):
        raise MalformedBitstream("no pair of layers, where one was expected")
    return Layers(*_two_parts(enhancement))


@dataclass(frozen=True)
class CropLayers:
    """The enhancement of a crop of a frame: both layers of a picture of it.

    `left`, `top`: of its upper left corner, in pixels; how large it is the layers say.
    """

    left: int
    top: int
    layers: Layers

    def __post_init__(self) -> None:
        if not (0 <= self.left < MAX_SIDE and 0 <= self.top < MAX_SIDE):
            raise MalformedBitstream(f"a crop at {self.left},{self.top} is outside of every frame")

    def to_bytes(self) -> bytes:
        base, enhancement = self.layers.base, self.layers.enhancement
        head = _CROP.pack(MARK, _KIND_CROP << 4, self.left, self.top, len(base))
        return head + base + enhancement

    @classmethod
    def parse(cls, data: bytes) -> CropLayers:
        """Raises a subclass of BitstreamError, and nothing else, on bytes that are no crop."""
        if data[:1] != GROUP_MARK:
            raise NotABitstream("this is no packet of a video group: its first byte is wrong")
        if data[1:2] != bytes([_KIND_CROP << 4]):
            raise MalformedBitstream("no crop of a frame, where one was expected")
        if len(data) < _CROP.size:
            raise TruncatedBitstream(f"crop ends after {len(data)} bytes, inside its header")
        _, _, left, top, length = _CROP.unpack_from(data)
        if _CROP.size + length > len(data):
            raise TruncatedBitstream(f"crop ends after {len(data)} bytes, inside its base layer")
        base, enhancement = data[_CROP.size :][:length], data[_CROP.size + length :]
        return cls(left, top, Layers(base, enhancement))


def is_crop(enhancement: bytes) -> bool:
    """Whether an enhancement is of a crop of its frame."""
    return enhancement[:2] == bytes([MARK, _KIND_CROP << 4])


def _two_parts(data: bytes) -> tuple[bytes, bytes]:
    if len(data) < _HEAD.size:
        raise TruncatedBitstream(f"packet ends after {len(data)} bytes, inside its header")
    (length,) = struct.unpack_from("<I", data, 2)
    if _HEAD.size + length > len(data):
        raise TruncatedBitstream(f"packet ends after {len(data)} bytes, inside its first part")
    return data[_HEAD.size : _HEAD.size + length], data[_HEAD.size + length :]


def _read_kind(data: bytes, wanted: int) -> Coding:
    if not data or data[0] != MARK:
        raise NotABitstream("this is no packet of a video group: its first byte is wrong")
    if len(data) < 2:
        raise TruncatedBitstream("packet ends after 1 byte, inside its header")
    kind, coding = data[1] >> 4, data[1] & 15
    if kind not in _NAMES or coding not in Coding.__members__.values():
        raise UnsupportedBitstream(f"packet kind {kind} with coding {coding} is not known to this build")
    if kind != wanted:
        raise MalformedBitstream(f"a {_NAMES[wanted]} was expected, and this is a {_NAMES[kind]}")
    return Coding(coding)


def _check_length(payload: bytes, width: int, height: int) -> None:
    most = max_payload_bytes(width, height)
    if len(payload) > most:
        raise MalformedBitstream(f"payload of {len(payload)} bytes is over {most}")


def nal_units(stream: bytes) -> Iterator[bytes]:
    """The NAL units of an Annex B stream that begins with a unit: without start codes and the zeros before them."""
    at = 0
    while True:
        end = stream.find(_START, at)
        if end < 0:
            yield stream[at:]
            return
        yield stream[at:end].rstrip(b"\0")
        at = end + len(_START)


def obus(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and whole bytes of each OBU of an AV1 temporal unit. Raises MalformedBitstream, TruncatedBitstream."""
    at = 0
    while at < len(stream):
        head = stream[at]
        if head & 0x80 or not head & 0x02:
            raise MalformedBitstream("an OBU without a length, or with its forbidden bit set")
        begin = at + 1 + (head >> 2 & 1)
        size = 0
        for shift in range(0, 35, 7):
            if begin >= len(stream):
                raise TruncatedBitstream("payload ends inside the length of an OBU")
            byte = stream[begin]
            size |= (byte & 0x7F) << shift
            begin += 1
            if byte < 0x80:
                break
        else:
            raise MalformedBitstream("the length of an OBU has too many bytes")
        if begin + size > len(stream):
            raise TruncatedBitstream("payload ends inside an OBU")
        yield head >> 3 & 15, stream[at : begin + size]
        at = begin + size


_DELIMITER, _SEQUENCE, _FRAME_HEADER, _TILES, _WHOLE_FRAME = 2, 1, 3, 4, 6  # types of OBUs


def _unit_type(unit: bytes, coding: Coding) -> int:
    return unit[0] & 31 if coding is Coding.H264 else unit[0] >> 1 & 63


def _is_slice(kind: int, coding: Coding, *, key: bool) -> bool:
    if coding is Coding.H264:
        return kind == (5 if key else 1)
    return 16 <= kind <= 20 if key else kind <= 9


def _is_parameter_set(kind: int, coding: Coding) -> bool:
    return kind in ((7, 8) if coding is Coding.H264 else (32, 33, 34))


def check_payload(payload: bytes, coding: Coding, *, key: bool) -> None:
    """Refuse what a group cannot hold: a payload is one picture, and parameter sets come with the background only.

    Raises TruncatedBitstream or MalformedBitstream. A decoder may then be given the payload: its work is bounded by
    one picture of at most MAX_SLICES slices.
    """
    if not payload:
        raise TruncatedBitstream("the packet has no payload")
    if coding is Coding.AV1:
        pictures, slices = _count_obus(payload, key)
    else:
        pictures, slices = _count_slices(payload, coding, key)
    if pictures != 1 or slices > MAX_SLICES:
        raise MalformedBitstream(f"a packet holds one picture, this one {pictures} in {slices} slices")


def _count_slices(payload: bytes, coding: Coding, key: bool) -> tuple[int, int]:
    pictures = slices = 0
    head = 1 if coding is Coding.H264 else 2  # bytes before the first bit of a slice
    for unit in nal_units(payload):
        if len(unit) <= head:
            raise TruncatedBitstream("payload ends inside a NAL unit")
        kind = _unit_type(unit, coding)
        if _is_slice(kind, coding, key=key):
            slices += 1
            # first_mb_in_slice is 0, or first_slice_segment_in_pic_flag is set: either way a 1 comes first
            pictures += unit[head] >> 7
        elif not (key and _is_parameter_set(kind, coding) and not slices):
            raise MalformedBitstream(f"a NAL unit of type {kind} has no place here")
    return pictures, slices


def _count_obus(payload: bytes, key: bool) -> tuple[int, int]:
    pictures = slices = 0
    allowed = {_DELIMITER, _FRAME_HEADER, _TILES, _WHOLE_FRAME} | ({_SEQUENCE} if key else set())
    for kind, _ in obus(payload):
        if kind not in allowed or (kind == _SEQUENCE and slices):
            raise MalformedBitstream(f"an OBU of type {kind} has no place here")
        pictures += kind in (_FRAME_HEADER, _WHOLE_FRAME)
        slices += kind in (_TILES, _WHOLE_FRAME)
    return pictures, slices


def packed(stream: bytes, coding: Coding, *, key: bool) -> bytes:
    """What is sent of an encoder's packet: the picture, a key's parameter sets; no messages, no first start code."""
    if coding is Coding.AV1:
        kept = {_FRAME_HEADER, _TILES, _WHOLE_FRAME} | ({_SEQUENCE} if key else set())
        return b"".join(unit for kind, unit in obus(stream) if kind in kept)
    units = []
    for unit in nal_units(stream[stream.find(_START) + len(_START) :]):
        kind = _unit_type(unit, coding) if unit else -1
        # An encoder may repeat a parameter set before a picture that is no key: the decoder has it.
        if kind >= 0 and not _is_message(kind, coding) and (key or not _is_parameter_set(kind, coding)):
            units.append(unit)
    return _START.join(units)


def _is_message(kind: int, coding: Coding) -> bool:
    """Delimiters, SEI, ends and filler: a picture decodes alike without."""
    return kind in ((6, 9, 10, 11, 12) if coding is Coding.H264 else range(35, 41))


def unpacked(payload: bytes, coding: Coding) -> bytes:
    """What a decoder is given of a payload."""
    return payload if coding is Coding.AV1 else b"\0" + _START + payload

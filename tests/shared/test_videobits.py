"""Packets of the family `video`: exact bytes, round trips, and refusals before a decoder sees anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.shared.bitstream import parse
from secondlook.shared.errors import (
    BitstreamError,
    LayerMismatch,
    MalformedBitstream,
    NotABitstream,
    TruncatedBitstream,
    UnsupportedBitstream,
)
from secondlook.shared.layers import Layers
from secondlook.shared.videobits import (
    FRAME_HEADER_BYTES,
    MAX_SLICES,
    BackgroundPacket,
    Coding,
    CropLayers,
    GroupFrame,
    GroupHead,
    check_payload,
    is_crop,
    is_of_group,
    join_layers,
    nal_units,
    obus,
    packed,
    parse_base,
    split_layers,
    unpacked,
)

START = b"\0\0\1"
P_SLICE, IDR, SPS, PPS, SEI = b"\x41\x9a", b"\x65\x88", b"\x67\x64", b"\x68\xeb", b"\x06\x05"  # H.264
TRAIL, IDR5, VPS, SPS5, PPS5, SEI5 = (
    bytes([kind << 1, 1, 0x80]) for kind in (1, 19, 32, 33, 34, 39)
)  # H.265
DELIMITER, SEQUENCE, PICTURE, METADATA = b"\x12\0", b"\x0a\1\0", b"\x32\2\x30\1", b"\x2a\1\0"  # AV1

KEYS = {
    Coding.H264: START.join([SPS, PPS, IDR]),
    Coding.H265: START.join([VPS, SPS5, PPS5, IDR5]),
    Coding.AV1: SEQUENCE + PICTURE,
}
FRAMES = {Coding.H264: P_SLICE, Coding.H265: TRAIL, Coding.AV1: PICTURE}

numbers = st.integers(0, 0xFFFFFFFF)
frames = st.builds(
    lambda coding, name, group, place, crc: GroupFrame(coding, name, group, place, crc, FRAMES[coding]),
    st.sampled_from(Coding),
    st.binary(min_size=3, max_size=3),
    st.integers(0, 0xFFFF),
    st.integers(1, 255),
    numbers,
)
backgrounds = st.builds(
    lambda coding, width, height, crc: BackgroundPacket(coding, width, height, crc, KEYS[coding]),
    st.sampled_from(Coding),
    st.integers(1, 1024),
    st.integers(1, 16384),
    numbers,
)


def test_headers_are_these_bytes() -> None:
    """As FORMAT.md has them: nothing moves without another version."""
    frame = GroupFrame(Coding.H264, b"\xaa\xbb\xcc", 0x0102, 7, 0x11223344, P_SLICE)
    assert frame.to_bytes() == bytes.fromhex("8a11 aabbcc 0201 07 44332211 419a")
    assert FRAME_HEADER_BYTES == len(frame.to_bytes()) - len(P_SLICE) == 12
    background = BackgroundPacket(Coding.AV1, 768, 431, 0x11223344, KEYS[Coding.AV1])
    assert background.to_bytes() == bytes.fromhex("8a23 0003 af01 44332211 0a0100 32023001")
    assert background.id == bytes.fromhex("3b32ec")
    assert background.coded_size == (768, 432)


@given(frames)
def test_a_frame_comes_back_as_it_was(frame: GroupFrame) -> None:
    assert GroupFrame.parse(frame.to_bytes()) == frame


@given(backgrounds)
def test_a_background_comes_back_as_it_was(background: BackgroundPacket) -> None:
    assert BackgroundPacket.parse(background.to_bytes()) == background


@given(st.one_of(frames, backgrounds), st.data())
def test_a_packet_cut_short_is_refused(packet: GroupFrame | BackgroundPacket, data: st.DataObject) -> None:
    whole = packet.to_bytes()
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    try:
        shorter = type(packet).parse(cut)
    except BitstreamError:
        return
    assert shorter.payload != packet.payload  # shorter payloads may be legal: their picture fails its CRC


@given(st.binary(max_size=64), st.sampled_from([GroupFrame, BackgroundPacket]), st.booleans())
def test_other_bytes_are_refused_with_our_errors_or_read_exactly(data, kind, marked) -> None:
    data = (b"\x8a" + data) if marked else data
    try:
        packet = kind.parse(data)
    except BitstreamError as error:
        assert "\n" not in str(error)
    else:
        assert packet.to_bytes() == data


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ("", NotABitstream),
        ("89534c4b01", NotABitstream),
        ("8a", TruncatedBitstream),
        ("8a51", UnsupportedBitstream),  # kind
        ("8a31 0a000000", MalformedBitstream),  # a head
        ("8a14", UnsupportedBitstream),  # coding
        ("8a10", UnsupportedBitstream),
        ("8a21 0003 b001 00000000 41", MalformedBitstream),  # a background
        ("8a11 aabbcc 0000 01 000000", TruncatedBitstream),
        ("8a11 aabbcc 0000 01 00000000", TruncatedBitstream),  # no payload
        ("8a11 aabbcc 0000 00 00000000 419a", MalformedBitstream),  # place 0
    ],
)
def test_what_is_no_frame_is_named(data: str, error: type[BitstreamError]) -> None:
    with pytest.raises(error):
        GroupFrame.parse(bytes.fromhex(data))


@pytest.mark.parametrize("size", [(0, 4), (4, 0), (16384, 1025)])
def test_sizes_out_of_range_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(MalformedBitstream, match="out of range"):
        BackgroundPacket(Coding.H264, *size, 0, KEYS[Coding.H264])


def test_a_payload_longer_than_the_frame_allows_is_refused() -> None:
    long = KEYS[Coding.H264] + b"\x55" * (1 << 17)
    with pytest.raises(MalformedBitstream, match="is over"):
        BackgroundPacket(Coding.H264, 16, 16, 0, long)
    assert BackgroundPacket(Coding.H264, 640, 480, 0, long).payload == long


HEAD = GroupHead(
    BackgroundPacket(Coding.H264, 64, 48, 1, KEYS[Coding.H264]),
    GroupFrame(Coding.H264, b"abc", 3, 1, 2, P_SLICE),
)


def test_the_head_of_a_group_is_these_bytes() -> None:
    background = HEAD.background.to_bytes()
    data = bytes.fromhex("8a31") + len(background).to_bytes(4, "little") + background + HEAD.frame.to_bytes()
    assert HEAD.to_bytes() == data and parse_base(data) == HEAD
    assert parse_base(HEAD.frame.to_bytes()) == HEAD.frame
    assert is_of_group(data) and not is_of_group(b"\x89SLK") and not is_of_group(b"")


@pytest.mark.parametrize("end", range(len(HEAD.to_bytes()) - 1))
def test_a_head_cut_short_is_refused(end: int) -> None:
    with pytest.raises(BitstreamError):
        GroupHead.parse(HEAD.to_bytes()[:end])


def test_a_head_of_parts_that_do_not_belong_together_is_refused() -> None:
    with pytest.raises(MalformedBitstream, match="different standards"):
        GroupHead(HEAD.background, GroupFrame(Coding.H265, b"abc", 3, 1, 2, TRAIL))
    with pytest.raises(MalformedBitstream, match="place 2"):
        GroupHead(HEAD.background, GroupFrame(Coding.H264, b"abc", 3, 2, 2, P_SLICE))
    data = bytearray(HEAD.to_bytes())
    data[1] = 0x32
    with pytest.raises(MalformedBitstream, match="another coding"):
        GroupHead.parse(bytes(data))
    data[2:6] = b"\xff\xff\xff\xff"
    with pytest.raises(TruncatedBitstream):
        GroupHead.parse(bytes(data))


def test_layers_of_another_family_come_back_as_they_were() -> None:
    layers = Layers(b"base", b"enhancement")
    joined = join_layers(layers)
    assert joined == bytes.fromhex("8a40 04000000") + b"baseenhancement" and split_layers(joined) == layers
    with pytest.raises(TruncatedBitstream):
        split_layers(joined[:8])
    with pytest.raises(TruncatedBitstream):
        split_layers(joined[:4])
    with pytest.raises(MalformedBitstream):
        split_layers(HEAD.to_bytes())
    with pytest.raises(LayerMismatch):
        split_layers(b"\x89SLK")


def test_a_crop_holds_both_layers_and_its_place() -> None:
    crop = CropLayers(256, 16, Layers(b"base", b"enhancement"))
    data = crop.to_bytes()
    assert data == bytes.fromhex("8a50 0001 1000 04000000") + b"baseenhancement"
    assert CropLayers.parse(data) == crop and is_crop(data) and is_of_group(data)
    for length in range(len(data) - len(b"enhancement")):
        with pytest.raises(BitstreamError):
            CropLayers.parse(data[:length])
    with pytest.raises(TruncatedBitstream, match="inside its base layer"):
        CropLayers.parse(data[:12])
    with pytest.raises(MalformedBitstream, match="no crop"):
        CropLayers.parse(join_layers(crop.layers))
    with pytest.raises(MalformedBitstream, match="no pair"):
        split_layers(data)
    with pytest.raises(NotABitstream):
        CropLayers.parse(b"\x89SLK")
    with pytest.raises(MalformedBitstream, match="outside of every frame"):
        CropLayers(1 << 15, 0, crop.layers)
    with pytest.raises(BitstreamError):
        parse_base(data)


@given(st.binary(max_size=40))
def test_a_crop_of_any_bytes_is_one_or_an_error_of_ours(data: bytes) -> None:
    for given_ in (data, b"\x8a\x50" + data):
        try:
            crop = CropLayers.parse(given_)
        except BitstreamError:
            continue
        assert crop.to_bytes() == given_


def test_version_1_readers_are_told_what_it_is() -> None:
    with pytest.raises(UnsupportedBitstream, match="video group"):
        parse(GroupFrame(Coding.H264, b"abc", 0, 1, 0, P_SLICE).to_bytes())


@pytest.mark.parametrize("coding", Coding)
def test_a_key_is_no_frame_and_a_frame_no_key(coding: Coding) -> None:
    check_payload(KEYS[coding], coding, key=True)
    check_payload(FRAMES[coding], coding, key=False)
    with pytest.raises(MalformedBitstream):
        check_payload(KEYS[coding], coding, key=False)
    if coding is not Coding.AV1:  # its frame type lies deeper; the decoder and the CRC tell
        with pytest.raises(MalformedBitstream):
            check_payload(FRAMES[coding], coding, key=True)


@pytest.mark.parametrize(
    ("payload", "coding"),
    [
        (P_SLICE + START + P_SLICE, Coding.H264),  # two pictures
        (b"\x41\x1a", Coding.H264),  # none: the slice is not the first of its picture
        (START.join([P_SLICE, *[b"\x41\x1a"] * MAX_SLICES]), Coding.H264),  # too many slices
        (SEI + START + P_SLICE, Coding.H264),
        (SPS + START + P_SLICE, Coding.H264),
        (IDR, Coding.H264),
        (TRAIL + START + TRAIL, Coding.H265),
        (SEI5 + START + TRAIL, Coding.H265),
        (PICTURE + PICTURE, Coding.AV1),
        (METADATA + PICTURE, Coding.AV1),
        (SEQUENCE + PICTURE, Coding.AV1),
        (DELIMITER, Coding.AV1),
        (b"\xb2\2\x30\1", Coding.AV1),  # forbidden bit
        (b"\x30\x30\1", Coding.AV1),  # no length
        (b"\x32\xff\xff\xff\xff\xff\1", Coding.AV1),  # length of too many bytes
    ],
)
def test_frames_hold_one_picture_and_nothing_else(payload: bytes, coding: Coding) -> None:
    with pytest.raises(MalformedBitstream):
        check_payload(payload, coding, key=False)


@pytest.mark.parametrize(
    ("payload", "coding"),
    [
        (b"", Coding.H264),
        (b"\x41", Coding.H264),
        (P_SLICE + START, Coding.H264),
        (b"\x02\1", Coding.H265),
        (b"\x32\5\x30", Coding.AV1),
        (b"\x32", Coding.AV1),
        (b"\x32\x80", Coding.AV1),
    ],
)
def test_payloads_that_end_too_soon_are_told(payload: bytes, coding: Coding) -> None:
    with pytest.raises(TruncatedBitstream):
        check_payload(payload, coding, key=False)


def test_messages_and_repeated_parameter_sets_are_not_sent() -> None:
    key = b"\0" + START + START.join([SPS, PPS, SEI, IDR])
    assert packed(key, Coding.H264, key=True) == KEYS[Coding.H264]
    assert packed(b"\0" + START + START.join([SPS, PPS, P_SLICE]), Coding.H264, key=False) == P_SLICE
    key = b"\0" + START + (b"\0" + START).join([VPS, SPS5, PPS5, SEI5, IDR5])
    assert packed(key, Coding.H265, key=True) == KEYS[Coding.H265]
    assert packed(DELIMITER + SEQUENCE + METADATA + PICTURE, Coding.AV1, key=True) == KEYS[Coding.AV1]
    assert packed(b"", Coding.H264, key=True) == b""
    assert unpacked(P_SLICE, Coding.H264) == b"\0" + START + P_SLICE
    assert unpacked(PICTURE, Coding.AV1) == PICTURE


@given(
    st.lists(
        st.binary(min_size=1, max_size=9).map(lambda unit: bytes(byte or 1 for byte in unit)), min_size=1
    )
)
def test_units_are_found_behind_long_and_short_start_codes(units: list[bytes]) -> None:
    assert list(nal_units(START.join(units))) == units
    assert list(nal_units((b"\0" + START).join(units))) == units


@given(st.binary(max_size=200))
def test_obus_lose_no_byte(data: bytes) -> None:
    try:
        found = list(obus(data))
    except BitstreamError:
        return
    assert b"".join(whole for _, whole in found) == data

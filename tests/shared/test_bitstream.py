"""The .slk container: exact bytes, one test a corruption, and fuzzing: a layer or `BitstreamError`."""

from __future__ import annotations

import dataclasses
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.shared.bitstream import (
    MAX_PAYLOAD_BYTES,
    MAX_PIXELS,
    MAX_QUALITY,
    MAX_SIDE,
    RESERVED_FAMILIES,
    Bitstream,
    Codec,
    Layer,
    max_payload_bytes,
    parse,
)
from secondlook.shared.errors import (
    BitstreamError,
    MalformedBitstream,
    NotABitstream,
    TruncatedBitstream,
    UnsupportedBitstream,
)

HASH = bytes.fromhex("0123456789abcdef")
BASE = Bitstream(Codec.LITE, HASH, Layer.BASE, 16, 16, 768, 432, None, 0, 0xDEADBEEF, 0xDEADBEEF, b"payload")
ENHANCEMENT = dataclasses.replace(
    BASE, layer=Layer.ENHANCEMENT, quality=36, symbol_crc=0xCAFEF00D, payload=b"more"
)
DELTA = dataclasses.replace(BASE, reference=7, reference_crc=0x600DCAFE)
ENHANCEMENT_OF_DELTA = dataclasses.replace(ENHANCEMENT, reference=7, reference_crc=0xFEEDF00D)

NAMED = dataclasses.replace(BASE, codec=Codec.NAMED, family_name="pyramid")
NAMED_ENHANCEMENT = dataclasses.replace(ENHANCEMENT, codec=Codec.NAMED, family_name="pyramid")

# Split as FORMAT.md lists the fields: a change here is a change of the format and needs another version.
GOLDEN = {
    "base": (
        BASE,
        "89534c4b 01 01 01 00 10 00 0123456789abcdef 0003 b001 efbeadde 07000000",
        b"payload",
        "253a1471",
    ),
    "enhancement": (
        ENHANCEMENT,
        "89534c4b 01 01 02 00 24 00 0123456789abcdef 0003 b001 0df0feca 10 000000 efbeadde 04000000",
        b"more",
        "9cf17b98",
    ),
    "delta": (
        DELTA,
        "89534c4b 01 01 01 01 10 00 0123456789abcdef 0003 b001 efbeadde 0700000000000000 feca0d60 07000000",
        b"payload",
        "0ec46e57",
    ),
    "enhancement of a delta": (
        ENHANCEMENT_OF_DELTA,
        (
            "89534c4b 01 01 02 01 24 00 0123456789abcdef 0003 b001 0df0feca 10 000000 efbeadde"
            " 0700000000000000 0df0edfe 04000000"
        ),
        b"more",
        "6ce50178",
    ),
    "family of another package": (
        NAMED,
        "89534c4b 01 ff 01 00 10 00 0123456789abcdef 0003 b001 efbeadde 07 707972616d6964 07000000",
        b"payload",
        "5517b439",
    ),
    "enhancement of another package's family": (
        NAMED_ENHANCEMENT,
        (
            "89534c4b 01 ff 02 00 24 00 0123456789abcdef 0003 b001 0df0feca 07 707972616d6964"
            " 10 000000 efbeadde 04000000"
        ),
        b"more",
        "ee7eaac4",
    ),
}

# Offsets of fields, and of the payload's length in BASE.
VERSION_AT, CODEC_AT, LAYER_AT, FLAGS_AT, QUALITY_AT, RESERVED_AT = range(4, 10)
WIDTH_AT, HEIGHT_AT, LENGTH_AT = 18, 20, 26
BASE_QUALITY_AT, BASE_RESERVED_AT = 26, 27
ENHANCEMENT_LENGTH_AT = 34


def sealed(body: bytes) -> bytes:
    """`body` with the checksum that makes it pass for undamaged."""
    return body + zlib.crc32(body).to_bytes(4, "little")


def altered(layer: Bitstream, at: int, value: bytes) -> bytes:
    """The bytes of `layer` with some of them replaced, and the checksum repaired."""
    body = layer.to_bytes()[:-4]
    return sealed(body[:at] + value + body[at + len(value) :])


@pytest.mark.parametrize("name", GOLDEN)
def test_exact_bytes(name):
    layer, head, payload, checksum = GOLDEN[name]
    expected = bytes.fromhex(head) + payload + bytes.fromhex(checksum)
    assert layer.to_bytes() == expected
    assert parse(expected) == layer


@pytest.mark.parametrize("name", GOLDEN)
def test_a_cut_anywhere_is_reported(name):
    whole = GOLDEN[name][0].to_bytes()
    for length in range(len(whole)):
        with pytest.raises(NotABitstream if length == 0 else TruncatedBitstream):
            parse(whole[:length])


def test_any_single_bit_flip_is_reported():
    whole = ENHANCEMENT_OF_DELTA.to_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BitstreamError):
            parse(bytes(damaged))


def test_bytes_after_the_layer_are_reported():
    with pytest.raises(MalformedBitstream, match="3 bytes follow"):
        parse(BASE.to_bytes() + b"abc")


def test_two_layers_in_one_message_are_reported():
    with pytest.raises(MalformedBitstream, match="follow the layer"):
        parse(BASE.to_bytes() + ENHANCEMENT.to_bytes())


@pytest.mark.parametrize("data", [b"", b"x", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"SLK" * 20])
def test_other_files_are_no_layer(data):
    with pytest.raises(NotABitstream):
        parse(data)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_other_versions_are_not_supported(version):
    with pytest.raises(UnsupportedBitstream, match=f"version {version}"):
        parse(altered(BASE, VERSION_AT, bytes([version])))


@pytest.mark.parametrize("codec", [0, 3, 254])
def test_other_codecs_are_not_supported(codec):
    with pytest.raises(UnsupportedBitstream, match=f"family {codec}"):
        parse(altered(BASE, CODEC_AT, bytes([codec])))


@pytest.mark.parametrize(
    "name", ["", "Pyramid", "1st", "-a", "a" * 33, "a b", "ä", "lite", "paper", "video", "named", "auto"]
)
def test_names_that_no_family_of_another_package_can_have(name):
    with pytest.raises(MalformedBitstream, match="cannot be the name of a codec family"):
        dataclasses.replace(NAMED, family_name=name)
    encoded = name.encode()
    body = NAMED.to_bytes()[:-4]
    with pytest.raises(MalformedBitstream):
        parse(sealed(body[:26] + bytes([len(encoded)]) + encoded + body[34:]))


def test_a_family_with_a_number_has_no_name():
    with pytest.raises(MalformedBitstream, match="has a number and no name"):
        dataclasses.replace(BASE, family_name="pyramid")
    assert (BASE.family, NAMED.family) == ("lite", "pyramid")


@pytest.mark.parametrize("layer", [0, 3, 255])
def test_other_layers_are_malformed(layer):
    with pytest.raises(MalformedBitstream, match=f"layer {layer}"):
        parse(altered(BASE, LAYER_AT, bytes([layer])))


@pytest.mark.parametrize("flags", [2, 3, 0x80, 0xFF])
def test_flags_without_meaning_are_malformed(flags):
    with pytest.raises(MalformedBitstream, match="flags"):
        parse(altered(DELTA, FLAGS_AT, bytes([flags])))


@pytest.mark.parametrize(
    "layer, at", [(BASE, RESERVED_AT), *((ENHANCEMENT, BASE_RESERVED_AT + i) for i in range(3))]
)
def test_reserved_bytes_must_be_zero(layer, at):
    with pytest.raises(MalformedBitstream, match="reserved"):
        parse(altered(layer, at, b"\1"))


@pytest.mark.parametrize(
    "width, height",
    [
        (0, 1),
        (1, 0),
        (MAX_SIDE + 1, 1),
        (1, MAX_SIDE + 1),
        (65535, 65535),
        (MAX_SIDE, MAX_PIXELS // MAX_SIDE + 1),
    ],
)
def test_sizes_out_of_range_are_malformed(width, height):
    size = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    with pytest.raises(MalformedBitstream, match=f"{width}x{height}"):
        parse(altered(BASE, WIDTH_AT, size))


@pytest.mark.parametrize(
    "width, height", [(1, 1), (MAX_SIDE, 1), (1, MAX_SIDE), (MAX_SIDE, MAX_PIXELS // MAX_SIDE)]
)
def test_extreme_sizes_are_allowed(width, height):
    layer = dataclasses.replace(BASE, width=width, height=height)
    assert parse(layer.to_bytes()) == layer


@pytest.mark.parametrize(
    "layer, at, name", [(BASE, QUALITY_AT, "quality"), (ENHANCEMENT, BASE_QUALITY_AT, "base quality")]
)
def test_qualities_out_of_range_are_malformed(layer, at, name):
    with pytest.raises(MalformedBitstream, match=f"{name} 64 "):
        parse(altered(layer, at, bytes([MAX_QUALITY + 1])))


def test_a_reference_out_of_range_is_malformed():
    with pytest.raises(MalformedBitstream, match="reference"):
        parse(altered(DELTA, LENGTH_AT, (1 << 63).to_bytes(8, "little")))


def test_a_payload_longer_than_the_message_is_truncated():
    longest = max_payload_bytes(BASE.width, BASE.height)
    with pytest.raises(TruncatedBitstream, match="payload"):
        parse(altered(BASE, LENGTH_AT, longest.to_bytes(4, "little")))


@pytest.mark.parametrize("width, height", [(1, 1), (64, 64), (65, 64), (768, 432), (MAX_SIDE, 4096)])
def test_a_payload_over_the_limit_of_its_frame_is_malformed(width, height):
    """Told from the header alone, before a byte of it is read; and no such layer can be made."""
    layer = dataclasses.replace(BASE, width=width, height=height)
    longest = max_payload_bytes(width, height)
    with pytest.raises(MalformedBitstream, match=f"over {longest}, too long for {width}x{height}"):
        parse(altered(layer, LENGTH_AT, (longest + 1).to_bytes(4, "little")))


def test_the_longest_payload_of_a_frame():
    assert max_payload_bytes(1, 1) == max_payload_bytes(64, 64) == 65536 + 8 * 4096
    assert max_payload_bytes(65, 64) == 65536 + 16 * 4096
    assert max_payload_bytes(MAX_SIDE, 4096) == MAX_PAYLOAD_BYTES
    small = dataclasses.replace(BASE, width=9, height=9)
    longest = dataclasses.replace(small, payload=bytes(max_payload_bytes(9, 9)))
    assert parse(longest.to_bytes()) == longest
    with pytest.raises(MalformedBitstream, match="too long for 9x9"):
        dataclasses.replace(longest, payload=longest.payload + b"x")


def test_a_payload_shorter_than_its_bytes_is_malformed():
    with pytest.raises(MalformedBitstream, match="follow"):
        parse(altered(ENHANCEMENT, ENHANCEMENT_LENGTH_AT, (3).to_bytes(4, "little")))


def test_a_failed_checksum_is_malformed():
    data = BASE.to_bytes()
    with pytest.raises(MalformedBitstream, match="checksum"):
        parse(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize(
    "change, what",
    [
        ({"model_hash": b"short"}, "model hash"),
        ({"quality": 64, "base_quality": 64}, "quality"),
        ({"quality": -1, "base_quality": -1}, "quality"),
        ({"width": 0}, "size"),
        ({"reference": -1}, "reference"),
        ({"reference": 1 << 63}, "reference"),
        ({"reference_crc": 1}, "key"),
        ({"base_quality": 15}, "base"),
        ({"base_symbol_crc": 1}, "base"),
    ],
)
def test_a_layer_that_no_reader_accepts_cannot_be_made(change, what):
    with pytest.raises(MalformedBitstream, match=what):
        dataclasses.replace(BASE, **change)


WORDS = st.integers(0, (1 << 32) - 1)
QUALITIES = st.integers(0, MAX_QUALITY)
SIZES = st.tuples(st.integers(1, MAX_SIDE), st.integers(1, MAX_SIDE)).filter(
    lambda size: size[0] * size[1] <= MAX_PIXELS
)

FAMILIES = st.from_regex(r"[a-z][a-z0-9-]{0,31}", fullmatch=True).filter(
    lambda name: name not in RESERVED_FAMILIES
)


@st.composite
def layers(draw):
    layer, quality, crc = draw(st.sampled_from(Layer)), draw(QUALITIES), draw(WORDS)
    lower = (draw(QUALITIES), draw(WORDS)) if layer is Layer.ENHANCEMENT else (quality, crc)
    reference = draw(st.none() | st.integers(0, (1 << 63) - 1))
    codec = draw(st.sampled_from(Codec))
    return Bitstream(
        codec=codec,
        model_hash=draw(st.binary(min_size=8, max_size=8)),
        layer=layer,
        quality=quality,
        base_quality=lower[0],
        width=(size := draw(SIZES))[0],
        height=size[1],
        reference=reference,
        reference_crc=0 if reference is None else draw(WORDS),
        symbol_crc=crc,
        base_symbol_crc=lower[1],
        payload=draw(st.binary(max_size=100)),
        family_name=draw(FAMILIES) if codec is Codec.NAMED else "",
    )


@given(layers())
def test_round_trip(layer):
    assert parse(layer.to_bytes()) == layer


def parses_to_itself_or_fails(data: bytes) -> None:
    try:
        layer = parse(data)
    except BitstreamError as error:
        assert "\n" not in str(error)
    else:
        assert layer.to_bytes() == data


@given(st.binary(max_size=200))
def test_arbitrary_bytes(data):
    parses_to_itself_or_fails(data)


@given(st.binary(max_size=120))
def test_arbitrary_bytes_behind_a_good_start(data):
    parses_to_itself_or_fails(sealed(bytes.fromhex("89534c4b 01 01") + data))


@given(layers(), st.data())
def test_altered_layers_with_a_repaired_checksum(layer, data):
    body = bytearray(layer.to_bytes()[:-4])
    for _ in range(data.draw(st.integers(1, 4), "edits")):
        at = data.draw(st.integers(0, len(body) - 1), "at")
        kind = data.draw(st.sampled_from(["replace", "remove", "insert"]), "kind")
        value = data.draw(st.binary(max_size=4), "value") if kind != "remove" else b""
        body[at : at + (0 if kind == "insert" else max(len(value), 1))] = value
        if not body:
            break
    parses_to_itself_or_fails(sealed(bytes(body)))

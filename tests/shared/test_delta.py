"""Maps of change: what counts as changed, the packed form, and packed forms that are none."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from secondlook.shared.delta import pack_map, unpack_map
from secondlook.shared.errors import BitstreamError, MalformedBitstream, TruncatedBitstream

MAP = np.array([[1, 0, 0, 0, 0, 0, 0, 1], [0, 1, 1, 0, 0, 0, 0, 0]], bool)
PACKED = bytes.fromhex("0a00 78da 6b4c0000 016400e2")


def packed(bits: bytes) -> bytes:
    deflated = zlib.compress(bits)
    return struct.pack("<H", len(deflated)) + deflated


def test_exact_bits():
    """Row order, first position in the highest bit; zlib implementations differ in how they deflate it."""
    assert zlib.decompress(pack_map(MAP)[2:]) == bytes([0b10000001, 0b01100000])
    keep, rest = unpack_map(PACKED + b"rest", 2, 8)
    assert keep.dtype == bool and np.array_equal(keep, MAP)
    assert rest == b"rest"


@given(
    hnp.arrays(
        bool, st.tuples(st.integers(1, 12).map(lambda n: 4 * n), st.integers(1, 12).map(lambda n: 4 * n))
    ),
    st.binary(max_size=20),
)
def test_round_trip(keep, rest):
    found, behind = unpack_map(pack_map(keep) + rest, *keep.shape)
    assert np.array_equal(found, keep) and behind == rest


def test_the_largest_frame_has_room_in_the_length():
    """A random map cannot be deflated; 16384x4096 pixels have the largest grid a container allows."""
    keep = np.random.default_rng(1).random((1024, 256)) < 0.5
    assert np.array_equal(unpack_map(pack_map(keep), 1024, 256)[0], keep)


def test_a_cut_anywhere_is_reported():
    for length in range(len(PACKED)):
        with pytest.raises(TruncatedBitstream):
            unpack_map(PACKED[:length], 2, 8)


@pytest.mark.parametrize("bits", [b"", b"\x81", b"\x81\x60\x00", b"\0" * 1_000_000])
def test_a_map_of_another_size_is_malformed(bits):
    with pytest.raises(MalformedBitstream, match="not 2"):
        unpack_map(packed(bits), 2, 8)


def test_deflated_data_that_is_none_is_malformed():
    with pytest.raises(MalformedBitstream, match="inflated"):
        unpack_map(b"\x04\0abcd", 2, 8)


def test_bytes_behind_the_deflated_data_are_malformed():
    deflated = PACKED[2:] + b"x"
    with pytest.raises(MalformedBitstream):
        unpack_map(struct.pack("<H", len(deflated)) + deflated, 2, 8)


def test_deflated_data_without_its_end_is_malformed():
    deflated = PACKED[2:-4]
    with pytest.raises(MalformedBitstream):
        unpack_map(struct.pack("<H", len(deflated)) + deflated, 2, 8)


def unpacks_or_fails(payload):
    try:
        keep, rest = unpack_map(payload, 4, 8)
    except BitstreamError as error:
        assert "\n" not in str(error)
    else:
        assert keep.shape == (4, 8) and payload.endswith(rest)


@given(st.binary(max_size=80))
def test_arbitrary_payloads(payload):
    unpacks_or_fails(payload)


@given(st.binary(max_size=12), st.binary(max_size=12))
def test_arbitrary_maps(bits, rest):
    unpacks_or_fails(packed(bits) + rest)

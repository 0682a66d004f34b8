"""FORMAT.md, rule by rule: a real layer that breaks one, and the error a decoder answers with."""

from __future__ import annotations

import dataclasses
import struct
import zlib

import numpy as np
import pytest

from secondlook.shared.bitstream import Codec, parse
from secondlook.shared.codec import load_codec
from secondlook.shared.delta import unpack_map
from secondlook.shared.entropy import SymbolEncoder, _read_varint, _varints
from secondlook.shared.errors import (
    LayerMismatch,
    MalformedBitstream,
    ModelNotFound,
    ReferenceMissing,
    SymbolMismatch,
    TruncatedBitstream,
    UnsupportedBitstream,
)
from secondlook.shared.layers import Layers
from tests.pictures import photo


@pytest.fixture(scope="module")
def codec():
    return load_codec(threads=1)


@pytest.fixture(scope="module")
def key(codec):
    return codec.encode(photo(100, 120), base_quality=16, quality=40, sequence=4)


@pytest.fixture(scope="module")
def delta(codec, key):
    moved = photo(100, 120)
    moved[20:50, 30:70] = 220
    return codec.encode(moved, base_quality=16, quality=40, key=key.key).layers


def fields(layer, **changes):
    return dataclasses.replace(layer, **changes).to_bytes()


def payload(change):
    """A rule broken in the payload of a key."""
    return lambda layer: fields(layer, payload=change(layer.payload))


def packed_map(change):
    """A rule broken in the map of a delta; what follows it stays."""

    def breaks(layer):
        (length,) = struct.unpack_from("<H", layer.payload)
        packed, rest = layer.payload[2 : 2 + length], layer.payload[2 + length :]
        packed = change(packed)
        return fields(layer, payload=struct.pack("<H", len(packed)) + packed + rest)

    return breaks


def crc(layer, value):
    return fields(layer, symbol_crc=value, base_symbol_crc=value)


def inflated(change):
    return packed_map(lambda packed: zlib.compress(change(zlib.decompress(packed))))


def more_words(payload):
    """Two words more than the symbols have."""
    count, at = _read_varint(payload, 0)
    words, escaped = payload[at : at + 4 * count], payload[at + 4 * count :]
    return _varints(np.array([count + 2])) + words + b"\x12\x34\x56\x78" * 2 + escaped


KEY_RULES = {
    "a codec that this decoder is not": (
        lambda b: fields(b, codec=Codec.PAPER),
        UnsupportedBitstream,
        "paper",
    ),
    "a model that is not loaded": (
        lambda b: fields(b, model_hash=bytes(8)),
        ModelNotFound,
        "0000000000000000",
    ),
    "a larger frame": (lambda b: fields(b, width=7680, height=4320), TruncatedBitstream, "cannot hold"),
    "the largest frame": (lambda b: fields(b, width=16384, height=4096), TruncatedBitstream, "cannot hold"),
    "a delta without its key": (lambda b: fields(b, reference=1), ReferenceMissing, "frame 1"),
    "a checksum of other symbols": (
        lambda b: crc(b, b.symbol_crc ^ 1),
        SymbolMismatch,
        "fail their checksum",
    ),
    "no payload": (payload(lambda p: b""), TruncatedBitstream, "inside a number"),
    "a number without end": (payload(lambda p: b"\xff" * 9), MalformedBitstream, "too long"),
    "more words than bytes": (payload(lambda p: b"\xff\x7f" + p[1:]), TruncatedBitstream, "announces 16383"),
    "fewer words than its symbols cost": (
        payload(lambda p: b"\1" + p[1:5]),
        TruncatedBitstream,
        "cannot hold",
    ),
    "words after the last symbol": (payload(more_words), MalformedBitstream, "words follow"),
    "bytes after the last symbol": (payload(lambda p: p + b"\0"), MalformedBitstream, "bytes follow"),
}
DELTA_RULES = {
    "another key": (lambda b: fields(b, reference_crc=b.reference_crc ^ 1), LayerMismatch, "another key"),
    "a key of another size": (lambda b: fields(b, width=b.width + 64), LayerMismatch, "size or quality"),
    "a key of another quality": (
        lambda b: fields(b, quality=9, base_quality=9),
        LayerMismatch,
        "size or quality",
    ),
    "no map": (payload(lambda p: b"\1"), TruncatedBitstream, "before its map"),
    "a map longer than the payload": (
        payload(lambda p: b"\xff\xff" + p[2:]),
        TruncatedBitstream,
        "inside its map",
    ),
    "a map that is no zlib data": (packed_map(lambda m: b"\0" * len(m)), MalformedBitstream, "inflated"),
    "a map that does not end": (packed_map(lambda m: m[:-2]), MalformedBitstream, "map of changes"),
    "bytes behind the map's end": (packed_map(lambda m: m + b"x"), MalformedBitstream, "map of changes"),
    "a map of a smaller frame": (inflated(lambda m: m[:-1]), MalformedBitstream, "not 8"),
    "a map of a larger frame": (inflated(lambda m: m + b"\0"), MalformedBitstream, "not 8"),
}
ENHANCEMENT_RULES = {
    "of another base layer": (lambda e: fields(e, base_symbol_crc=1), LayerMismatch, "another base layer"),
    "of another base quality": (lambda e: fields(e, base_quality=17), LayerMismatch, "another base layer"),
    "of another size": (lambda e: fields(e, width=e.width + 1), LayerMismatch, "another base layer"),
    "of a delta": (lambda e: fields(e, reference=3), LayerMismatch, "another base layer"),
    "a checksum of other symbols": (
        lambda e: fields(e, symbol_crc=e.symbol_crc ^ 1),
        SymbolMismatch,
        "enhancement",
    ),
    "bytes after the last symbol": (payload(lambda p: p + b"\0"), MalformedBitstream, "bytes follow"),
}


@pytest.mark.parametrize("rule", KEY_RULES)
def test_a_key_that_breaks_a_rule(codec, key, rule):
    breaks, error, told = KEY_RULES[rule]
    with pytest.raises(error, match=told):
        codec.decode_base(breaks(parse(key.layers.base)))


@pytest.mark.parametrize("rule", DELTA_RULES)
def test_a_delta_that_breaks_a_rule(codec, key, delta, rule):
    breaks, error, told = DELTA_RULES[rule]
    with pytest.raises(error, match=told):
        codec.decode_base(breaks(parse(delta.base)), key=key.layers.base)


@pytest.mark.parametrize("rule", ENHANCEMENT_RULES)
def test_an_enhancement_that_breaks_a_rule(codec, key, rule):
    breaks, error, told = ENHANCEMENT_RULES[rule]
    with pytest.raises(error, match=told):
        codec.decode_enhanced(key.layers.base, breaks(parse(key.layers.enhancement)))


def test_unbroken_they_decode(codec, key, delta):
    codec.decode_enhanced(key.layers.base, key.layers.enhancement)
    codec.decode_enhanced(delta.base, delta.enhancement, key=key.layers)
    codec.decode_enhanced(delta.base, delta.enhancement, key=Layers(key.layers.base, key.layers.enhancement))


def test_latents_that_the_words_cannot_hold(codec):
    """Hyper-latents that fit, and so many latents behind them that do not: told before those are decoded."""
    layer = parse(codec.encode(photo(64, 64), base_quality=63, quality=40).layers.base)
    model, everywhere = codec._layers["base"], np.ones((4, 4), bool)
    z, _ = codec._unpack(layer.payload, "base", 63, everywhere, None)
    encoder = SymbolEncoder()
    encoder.put(z.ravel(), model.scales.hyper_indexes(63, 1, 1).ravel(), codec._hyper_tables)
    alone = encoder.payload()
    least = model.tables.fewest_bits[model.scales.indexes(z, 63)].sum()
    assert least > 64, "a picture whose latents cost something"
    with pytest.raises(TruncatedBitstream, match="cannot hold"):
        codec.decode_base(fields(layer, payload=alone))


def test_a_delta_codes_only_what_its_map_says(codec, delta):
    layer = parse(delta.base)
    keep, _ = unpack_map(layer.payload, 8, 8)
    assert 0 < keep.mean() < 1

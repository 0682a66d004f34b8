"""The layered codec with the shipped weights: what a layer promises, whatever these weights are."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np
import pytest

from secondlook.shared.bitstream import Codec, Layer, parse
from secondlook.shared.codec import load_codec
from secondlook.shared.errors import (
    BitstreamError,
    ConfigError,
    LayerMismatch,
    ModelNotFound,
    ReferenceMissing,
    SymbolMismatch,
    UnsupportedBitstream,
)
from secondlook.shared.layers import Layers
from tests.pictures import noise, photo, psnr

BASE_QUALITY, QUALITY = 16, 40


@pytest.fixture(scope="module")
def codec():
    return load_codec(threads=1)


def encode(codec, image, base_quality=BASE_QUALITY, quality=QUALITY, **more):
    return codec.encode(image, base_quality=base_quality, quality=quality, **more)


@pytest.fixture(scope="module")
def picture():
    return photo(100, 152)


@pytest.fixture(scope="module")
def key(codec, picture):
    """A key frame with sequence number 5."""
    return encode(codec, picture, sequence=5)


@pytest.fixture(scope="module")
def moved(picture):
    """The picture with a new object in it."""
    image = picture.copy()
    image[20:44, 80:110] = (240, 30, 60)
    return image


@pytest.fixture(scope="module")
def delta(codec, moved, key):
    return encode(codec, moved, sequence=6, key=key.key)


@pytest.mark.parametrize(
    "height, width", [(1, 1), (16, 16), (17, 33), (64, 64), (100, 52), (65, 1), (432, 768)]
)
def test_round_trip_of_any_size(codec, height, width):
    image = photo(height, width)
    coded = encode(codec, image)
    base, enhanced = codec.decode_base(coded.layers.base), codec.decode_enhanced(*layers(coded))
    for decoded in (base, enhanced):
        assert decoded.shape == image.shape and decoded.dtype == np.uint8
        assert psnr(decoded, image) > 15
    header = parse(coded.layers.base)
    assert (header.width, header.height, header.quality, header.reference) == (
        width,
        height,
        BASE_QUALITY,
        None,
    )
    assert header.model_hash == codec.model_hash
    assert coded.changed == 1.0


def layers(coded):
    return coded.layers.base, coded.layers.enhancement


@pytest.mark.parametrize("base_quality", [0, 63])
@pytest.mark.parametrize("quality", [0, 63])
@pytest.mark.parametrize("make", [photo, noise])
def test_extreme_qualities(codec, base_quality, quality, make):
    image = make(70, 90)
    coded = encode(codec, image, base_quality, quality)
    assert codec.decode_enhanced(*layers(coded)).shape == image.shape


@pytest.mark.parametrize("level", [0, 255])
def test_flat_pictures_stay_flat_and_small(codec, level):
    image = np.full((128, 128, 3), level, np.uint8)
    coded = encode(codec, image)
    assert len(coded.layers.base) + len(coded.layers.enhancement) < 128 * 128 // 8
    assert psnr(codec.decode_enhanced(*layers(coded)), image) > 25


def test_the_enhancement_enhances(codec):
    image = photo(192, 256)
    coded = encode(codec, image)
    base, enhanced = codec.decode_base(coded.layers.base), codec.decode_enhanced(*layers(coded))
    assert psnr(enhanced, image) > psnr(base, image) + 1


def test_higher_quality_costs_more_and_is_better(codec):
    image = photo(192, 256)
    low, high = (encode(codec, image, q, q) for q in (5, 60))
    assert len(low.layers.base) < len(high.layers.base)
    assert len(low.layers.enhancement) < len(high.layers.enhancement)
    assert psnr(codec.decode_enhanced(*layers(low)), image) < psnr(
        codec.decode_enhanced(*layers(high)), image
    )
    assert psnr(codec.decode_base(low.layers.base), image) < psnr(codec.decode_base(high.layers.base), image)


def test_encoding_is_deterministic(codec, picture):
    other = load_codec(threads=1)
    assert encode(codec, picture).layers == encode(codec, picture).layers == encode(other, picture).layers


def test_the_number_of_threads_changes_no_byte(codec, picture, moved, key, delta):
    two = load_codec(threads=2)
    again = encode(two, picture, sequence=5)
    assert again.layers == key.layers
    assert encode(two, moved, sequence=6, key=again.key).layers == delta.layers
    assert psnr(two.decode_enhanced(*layers(key)), codec.decode_enhanced(*layers(key))) > 60


def test_memory_layout_of_the_picture_does_not_matter(codec, picture, key):
    views = (np.asfortranarray(picture), picture[::-1].copy()[::-1], np.repeat(picture, 2, 1)[:, ::2])
    for view in views:
        assert not view.flags.c_contiguous
        assert encode(codec, view, sequence=5).layers == key.layers


def test_the_picture_is_not_written_to(codec, picture):
    frozen = picture.copy()
    frozen.flags.writeable = False
    encode(codec, frozen)
    assert np.array_equal(frozen, picture)


def test_an_unchanged_frame_is_tiny(codec, picture, key):
    still = encode(codec, picture, sequence=6, key=key.key)
    assert still.changed == 0.0 and still.key is key.key
    assert len(still.layers.base) < 80 and len(still.layers.enhancement) < 80
    assert (
        psnr(codec.decode_base(still.layers.base, key=key.layers.base), codec.decode_base(key.layers.base))
        > 60
    )
    decoded = codec.decode_enhanced(*layers(still), key=key.layers)
    assert psnr(decoded, codec.decode_enhanced(*layers(key))) > 60


def test_a_delta_shows_what_changed(codec, moved, key, delta):
    assert 0 < delta.changed < 0.5
    assert len(delta.layers.enhancement) < len(key.layers.enhancement)
    assert parse(delta.layers.base).reference == parse(delta.layers.enhancement).reference == 5
    alone = encode(codec, moved)
    decoded = codec.decode_enhanced(*layers(delta), key=key.layers)
    assert psnr(decoded, moved) > psnr(codec.decode_enhanced(*layers(alone)), moved) - 1
    base = codec.decode_base(delta.layers.base, key=key.layers.base)
    assert psnr(base, moved) > psnr(codec.decode_base(alone.layers.base), moved) - 1


def test_deltas_decode_in_any_order_and_by_any_decoder(codec, picture, key):
    frames = []
    for shift in (8, 40, 90):
        image = picture.copy()
        image[50:70, shift : shift + 24] = 250
        frames.append(encode(codec, image, key=key.key).layers)
    forward = [codec.decode_enhanced(f.base, f.enhancement, key=key.layers) for f in frames]
    fresh = load_codec(threads=1)
    backward = [fresh.decode_enhanced(f.base, f.enhancement, key=key.layers) for f in reversed(frames)]
    for a, b in zip(forward, reversed(backward), strict=True):
        assert np.array_equal(a, b)


def test_a_delta_without_its_key(codec, delta):
    with pytest.raises(ReferenceMissing, match="frame 5"):
        codec.decode_base(delta.layers.base)
    with pytest.raises(ReferenceMissing, match="frame 5"):
        codec.decode_enhanced(*layers(delta))


def test_another_key_of_the_same_size_and_quality(codec, picture, delta):
    other = encode(codec, picture[::-1].copy(), sequence=5)
    with pytest.raises(LayerMismatch, match="another key"):
        codec.decode_base(delta.layers.base, key=other.layers.base)
    with pytest.raises(LayerMismatch, match="another key"):
        codec.decode_enhanced(*layers(delta), key=other.layers)


def test_a_delta_is_no_key(codec, delta):
    with pytest.raises(ReferenceMissing):
        codec.decode_base(delta.layers.base, key=delta.layers.base)
    with pytest.raises(ReferenceMissing):
        codec.decode_enhanced(*layers(delta), key=delta.layers)


@pytest.mark.parametrize("change", [{"base_quality": 17}, {"quality": 41}, {"image": photo(164, 152)}])
def test_a_key_of_another_size_or_quality(codec, picture, delta, change):
    """Decoding says so; encoding makes a key frame instead."""
    arguments = {"image": picture, "base_quality": BASE_QUALITY, "quality": QUALITY} | change
    other = codec.encode(**arguments)
    with pytest.raises(LayerMismatch):
        codec.decode_enhanced(*layers(delta), key=other.layers)
    again = encode(codec, picture, sequence=9, key=other.key)
    assert again.changed == 1.0 and again.key.sequence == 9
    assert parse(again.layers.base).reference is None


def test_layers_of_a_key_that_do_not_belong_together(codec, moved, key, delta):
    other = encode(codec, moved)
    with pytest.raises(LayerMismatch):
        codec.decode_enhanced(*layers(delta), key=Layers(key.layers.base, other.layers.enhancement))


def test_a_key_for_a_frame_that_needs_none_is_ignored(codec, key):
    other = encode(codec, photo(64, 64))
    alone = codec.decode_enhanced(*layers(other))
    assert np.array_equal(codec.decode_enhanced(*layers(other), key=key.layers), alone)
    assert np.array_equal(
        codec.decode_base(other.layers.base, key=key.layers.base), codec.decode_base(other.layers.base)
    )


def test_an_enhancement_of_another_base(codec, moved, key, delta):
    other = encode(codec, moved)
    for base in (other.layers.base, delta.layers.base, encode(codec, moved, 17).layers.base):
        with pytest.raises(LayerMismatch, match="another base layer"):
            codec.decode_enhanced(base, key.layers.enhancement, key=key.layers)


def test_layers_in_the_wrong_place(codec, key):
    base, enhancement = layers(key)
    with pytest.raises(LayerMismatch, match="expected a layer of kind base"):
        codec.decode_base(enhancement)
    with pytest.raises(LayerMismatch, match="expected a layer of kind enhancement"):
        codec.decode_enhanced(base, base)


def changed(data: bytes, **fields) -> bytes:
    return dataclasses.replace(parse(data), **fields).to_bytes()


def test_a_layer_of_another_model(codec, key):
    with pytest.raises(ModelNotFound, match="0102030405060708"):
        codec.decode_base(changed(key.layers.base, model_hash=bytes(range(1, 9))))


def test_a_layer_of_another_codec(codec, key):
    with pytest.raises(UnsupportedBitstream, match="paper"):
        codec.decode_base(changed(key.layers.base, codec=Codec.PAPER))


def test_symbols_that_fail_their_checksum(codec, key):
    base, enhancement = layers(key)
    wrong = parse(base).symbol_crc ^ 1
    with pytest.raises(SymbolMismatch, match="base"):
        codec.decode_base(changed(base, symbol_crc=wrong, base_symbol_crc=wrong))
    with pytest.raises(SymbolMismatch, match="enhancement"):
        codec.decode_enhanced(base, changed(enhancement, symbol_crc=wrong))


@pytest.mark.parametrize("width, height", [(153, 164), (16384, 4096), (1, 1), (4096, 1)])
def test_a_payload_for_another_size(codec, key, width, height):
    with pytest.raises(BitstreamError):
        codec.decode_base(changed(key.layers.base, width=width, height=height))


def mutate(rng, payload: bytes) -> bytes:
    """One of: bytes replaced, removed, doubled, cut off at the end, added there."""
    at, count = int(rng.integers(len(payload))), int(rng.integers(1, 5))
    middle = payload[at : at + count]
    return {
        0: payload[:at] + bytes([payload[at] ^ 1 << int(rng.integers(8))]) + payload[at + 1 :],
        1: payload[:at] + rng.bytes(count) + payload[at + count :],
        2: payload[:at] + payload[at + count :],
        3: payload[:at] + middle + payload[at:],
        4: payload[:at],
        5: payload + rng.bytes(count),
    }[int(rng.integers(6))]


@pytest.mark.parametrize("kind", ["key", "delta"])
@pytest.mark.parametrize("layer", list(Layer))
def test_an_altered_payload_never_gives_another_picture(codec, request, key, kind, layer):
    """The container's checksum is repaired, as by an attacker or a bug. The last bits of a range code are slack:
    altering those changes no symbol, so the picture must then be the true one."""
    base, enhancement = layers(request.getfixturevalue(kind))
    reference = key.layers if kind == "delta" else None

    def decode(base, enhancement):
        if layer is Layer.BASE:
            return codec.decode_base(base, key=reference.base if reference else None)
        return codec.decode_enhanced(base, enhancement, key=reference)

    true = decode(base, enhancement)
    rng = np.random.default_rng(8)
    refused = 0
    for _ in range(100):
        parts = [base, enhancement]
        target = parts[layer - 1]
        parts[layer - 1] = changed(target, payload=mutate(rng, parse(target).payload))
        try:
            shown = decode(*parts)
        except BitstreamError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            assert np.array_equal(shown, true)
    assert refused > 90


@pytest.mark.parametrize("layer", list(Layer))
def test_a_cut_anywhere_is_reported(codec, key, layer):
    data = layers(key)[layer - 1]
    for length in range(0, len(data), 7):
        with pytest.raises(BitstreamError):
            codec.decode_enhanced(*(data[:length] if i == layer else d for i, d in enumerate(layers(key), 1)))


def test_symbol_checksums_are_those_of_the_format(codec, key):
    """CRC-32 of hyper-latents, then latents, as little-endian int16."""
    bitstream = parse(key.layers.base)
    everywhere = np.ones((8, 12), bool)
    z, y = codec._unpack(bitstream.payload, "base", BASE_QUALITY, everywhere, None)
    assert z.any() and y.any()
    symbols = np.concatenate([z.ravel(), y.ravel()]).astype("<i2").tobytes()
    assert zlib.crc32(symbols) == bitstream.symbol_crc


@pytest.mark.parametrize(
    "arguments",
    [
        {"base_quality": -1},
        {"base_quality": 64},
        {"quality": -1},
        {"quality": 64},
        {"sequence": -1},
        {"sequence": 1 << 63},
        {"image": np.zeros((8, 8), np.uint8)},
        {"image": np.zeros((8, 8, 4), np.uint8)},
        {"image": np.zeros((0, 8, 3), np.uint8)},
        {"image": np.zeros((8, 0, 3), np.uint8)},
        {"image": np.zeros((8, 8, 3), np.float32)},
        {"image": np.broadcast_to(np.zeros(3, np.uint8), (16385, 1, 3))},
        {"image": np.broadcast_to(np.zeros(3, np.uint8), (16384, 4097, 3))},
    ],
)
def test_arguments_out_of_range(codec, picture, arguments):
    with pytest.raises(ConfigError):
        codec.encode(**{"image": picture, "base_quality": 1, "quality": 1} | arguments)

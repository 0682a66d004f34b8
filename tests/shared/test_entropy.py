"""Entropy coding: exact bytes of the coder, round trips, and payloads that are none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from secondlook.shared import entropy
from secondlook.shared.entropy import (
    MAX_SYMBOL,
    EntropyTables,
    SymbolDecoder,
    SymbolEncoder,
    _read_varint,
    _varints,
)
from secondlook.shared.errors import BitstreamError, MalformedBitstream, ModelCorrupt, TruncatedBitstream

# Rows for reaches 0, 1, 2 and 5; symbols of index 0 are listed. The last row has the size of a trained model's numbers.
FREQUENCIES = [
    [9, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [8, 100, 8, 1, 0, 0, 0, 0, 0, 0, 0, 0],
    [5, 50, 200, 50, 5, 3, 0, 0, 0, 0, 0, 0],
    [8, 1024, 40960, 409600, 1048576, 1194304, 1048576, 409600, 40960, 1024, 8, 64],
]
REACH = [0, 1, 2, 5]
LEVELS = len(REACH)
LISTED_BELOW = 1


def tables(frequencies=FREQUENCIES, reach=REACH, listed_below=LISTED_BELOW):
    return EntropyTables(np.array(frequencies, np.int32), np.array(reach, np.int32), listed_below)


TABLES = tables()


def encode(*parts):
    encoder = SymbolEncoder()
    for symbols, indexes in parts:
        encoder.put(np.array(symbols, np.int16), np.array(indexes, np.uint8), TABLES)
    return encoder.payload()


def decode(payload, *indexes):
    decoder = SymbolDecoder(payload)
    parts = [decoder.take(np.array(part, np.uint8), TABLES).tolist() for part in indexes]
    decoder.finish()
    return parts


# Words, then what is listed and escapes, as varints of zigzags: decoders in the field depend on every bit of these.
GOLDEN = [
    ([], "00"),
    ([([0, 0, 0], [0, 0, 0])], "0000"),
    ([([0, 1, -1, 0], [1, 1, 1, 1])], "01ffea8bdb00"),
    ([([2, -2, 3, -3], [2, 2, 2, 2])], "01e4ab85f9000605"),
    ([([MAX_SYMBOL, -MAX_SYMBOL, 64, -64], [3, 2, 1, 1])], "02ffffffffc8519bf10080017ffdff03feff03"),
    (
        [([1, 0, -5, 4, 2], [2, 0, 3, 3, 1]), ([-1, 0, 1] * 8, [1, 2, 3] * 8)],
        "033e3498ffc6f9559ad005b600000400",
    ),
    ([([0, -3, 1, 0, 200], [0, 0, 2, 0, 0]), ([1, 0], [0, 1])], "015ec55bd3020105029003010002"),
]


@pytest.mark.parametrize("parts, expected", GOLDEN, ids=range(len(GOLDEN)))
def test_exact_bytes(parts, expected):
    assert encode(*parts).hex() == expected
    assert decode(bytes.fromhex(expected), *(indexes for _, indexes in parts)) == [s for s, _ in parts]


def test_groups_of_equal_index_are_coded_in_ascending_order():
    mixed = encode(([2, 0, 0, 1], [3, 1, 2, 1]))
    assert mixed == encode(([0, 1, 0, 2], [1, 1, 2, 3]))


def test_zeros_of_the_listed_positions_cost_nothing():
    coded = encode(([1], [1]))
    assert encode(([0, 1, 0], [0, 1, 0])) == coded
    assert decode(coded, [0, 1, 0]) == [[0, 1, 0]]


def test_without_a_list_nothing_tells_of_it():
    plain = tables(listed_below=0)
    encoder = SymbolEncoder()
    encoder.put(np.array([0, 3], np.int16), np.array([0, 1], np.uint8), plain)
    payload = encoder.payload()
    assert payload[1 + 4 * payload[0] :].hex() == "06"
    assert SymbolDecoder(payload).take(np.array([0, 1], np.uint8), plain).tolist() == [0, 3]


@pytest.mark.parametrize(
    "tail, cause",
    [
        ("0103ff02", "listed for place 3, where none may be"),  # it has another index
        ("010402", "listed for place 4, where none may be"),  # there is no such place
        ("0200020302", "listed for place 4, where none may be"),
        ("01ffffffff7f02", "listed for place 34359738367, where none may be"),
        ("010100", "is 0"),
        ("0101ffff03", "out of range"),
    ],
)
def test_lists_that_cannot_be(tail, cause):
    symbols, indexes = [0, 5, 0, 0], [0, 0, 0, 1]
    good = encode((symbols, indexes))
    assert good.endswith(bytes.fromhex("01010a")) and decode(good, indexes) == [symbols]
    with pytest.raises(MalformedBitstream, match=cause):
        decode(good[:-3] + bytes.fromhex(tail), indexes)


@pytest.mark.parametrize("tail", ["", "01", "0101", "02010a", "0201", "02010a00"])
def test_lists_that_end_too_soon(tail):
    good = encode(([0, 5, 0, 0], [0, 0, 0, 1]))
    with pytest.raises(TruncatedBitstream):
        decode(good[:-3] + bytes.fromhex(tail), [0, 0, 0, 1])


def test_rate_is_close_to_the_entropy_of_the_tables():
    rng = np.random.default_rng(5)
    counts = np.array(FREQUENCIES[3][:-1], float)
    p = counts / counts.sum()
    symbols = rng.choice(np.arange(-5, 6), 20_000, p=p)
    bits = 8 * len(encode((symbols, np.full(20_000, 3))))
    ideal = -np.log2(p[symbols + 5]).sum()
    assert ideal < bits < 1.001 * ideal + 64


SYMBOLS = st.one_of(st.integers(-6, 6), st.integers(-MAX_SYMBOL, MAX_SYMBOL))


@given(st.lists(st.lists(st.tuples(SYMBOLS, st.integers(0, LEVELS - 1)), max_size=60), max_size=4))
def test_round_trip(parts):
    split = [([s for s, _ in part], [i for _, i in part]) for part in parts]
    assert decode(encode(*split), *(indexes for _, indexes in split)) == [s for s, _ in split]


INDEXES = hnp.arrays(np.uint8, st.integers(0, 300), elements=st.integers(0, LEVELS - 1))


def decodes_or_fails(payload, indexes):
    try:
        decoder = SymbolDecoder(payload)
        symbols = decoder.take(indexes, TABLES)
        decoder.finish()
    except BitstreamError as error:
        assert "\n" not in str(error)
    else:
        assert symbols.dtype == np.int16 and symbols.shape == indexes.shape
        assert np.abs(symbols.astype(int)).max(initial=0) <= MAX_SYMBOL


@given(st.binary(max_size=200), INDEXES)
def test_arbitrary_payloads(payload, indexes):
    decodes_or_fails(payload, indexes)


@given(st.integers(0, 40), st.binary(max_size=250), INDEXES)
def test_arbitrary_words(count, rest, indexes):
    decodes_or_fails(bytes([count]) + rest, indexes)


@given(INDEXES.filter(len), st.data())
def test_altered_payloads(indexes, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    symbols = rng.integers(-9, 10, len(indexes))
    payload = bytearray(encode((symbols, indexes)))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    decodes_or_fails(bytes(payload), indexes)


def test_a_cut_anywhere_is_reported():
    indexes = [1, 2, 3] * 40
    payload = encode(([0, 7, -300] * 40, indexes))
    for length in range(len(payload)):
        with pytest.raises(TruncatedBitstream):
            decode(payload[:length], indexes)


def test_bytes_after_the_last_symbol_are_reported():
    with pytest.raises(MalformedBitstream, match="2 bytes follow"):
        decode(encode(([1], [1])) + b"\0\0", [1])


def test_words_after_the_last_symbol_are_reported():
    payload = encode(([1, 0, 9], [1, 2, 3]))
    words = payload[0]
    padded = bytes([words + 4]) + payload[1 : 1 + 4 * words] + bytes(range(16)) + payload[1 + 4 * words :]
    with pytest.raises(MalformedBitstream, match="words follow"):
        decode(padded, [1, 2, 3])


def test_words_that_are_no_code_are_reported():
    """The range coder's interval never contains its very end."""
    with pytest.raises(MalformedBitstream, match="not a code"):
        decode(b"\x02" + b"\xff" * 8 + b"\0", [3] * 30)


def test_an_announced_count_is_checked_before_anything_is_read():
    with pytest.raises(TruncatedBitstream, match="announces 34359738367 words"):
        SymbolDecoder(b"\xff\xff\xff\xff\x7f" + b"\0" * 8)


def test_more_symbols_than_the_words_can_hold_are_reported():
    """The most frequent symbol of every row: no payload of as many symbols is shorter."""
    indexes = [1, 2, 3] * 200
    payload = encode(([0] * 600, indexes))
    assert decode(payload, indexes) == [[0] * 600]
    with pytest.raises(TruncatedBitstream, match="cannot hold symbols of"):
        decode(payload, indexes * 2)
    decoder = SymbolDecoder(payload)
    decoder.expect(np.array([1, 2, 3], np.uint8), 200, TABLES)
    with pytest.raises(TruncatedBitstream, match="cannot hold"):
        decoder.expect(np.array([1, 2, 3], np.uint8), 1 << 40, TABLES)
    assert decoder.take(np.array(indexes, np.uint8), TABLES).tolist() == [0] * 600
    with pytest.raises(TruncatedBitstream, match="cannot hold"):
        decoder.expect(np.array([3], np.uint8), 200, TABLES)


@given(st.integers(0, 1 << 30), st.integers(1, 3000))
def test_the_cheapest_symbols_there_are_fit_into_their_words(seed, count):
    """Rows as steep as 24 bits allow, where the rounding of probabilities weighs most."""
    rng = np.random.default_rng(seed)
    steep = [[1, (1 << 23) - int(rng.integers(1, 1000)), 1, 1], [8, 4194216, 8, 64], [0, 5, 0, 1]]
    rows = EntropyTables(np.array(steep, np.int32), np.array([1, 1, 1], np.int32), 0)
    indexes = np.repeat(rng.integers(0, 3, 3), count).astype(np.uint8)
    encoder = SymbolEncoder()
    encoder.put(np.zeros(len(indexes), np.int16), indexes, rows)
    assert not SymbolDecoder(encoder.payload()).take(indexes, rows).any()


@given(st.lists(st.integers(0, (1 << 35) - 1), max_size=20))
def test_numbers_come_back(numbers):
    data, at = _varints(np.array(numbers, np.int64)), 0
    for number in numbers:
        assert len(_varints(np.array([number]))) == max(1, -(-number.bit_length() // 7))
        found, at = _read_varint(data, at)
        assert found == number
    assert at == len(data)


def test_a_number_that_never_ends_is_reported():
    with pytest.raises(MalformedBitstream, match="too long"):
        SymbolDecoder(b"\x80" * 100)


@pytest.mark.parametrize("zigzag", [b"\xff\xff\x03", b"\x80\x80\x04", b"\xff\xff\xff\xff\x7f"])
def test_escapes_beyond_int16_are_reported(zigzag):
    """65535, 65536 and 2^35 - 1: the first is -32768, which has no negative."""
    payload = encode(([MAX_SYMBOL], [1]))
    assert payload.endswith(b"\xfe\xff\x03")
    with pytest.raises(MalformedBitstream, match="out of range"):
        decode(payload[:-3] + zigzag, [1])


@pytest.mark.parametrize(
    "change",
    [
        {"frequencies": [1, 2, 3]},
        {"reach": [0, 1, 2]},
        {"reach": [0, 1, 2, 6]},
        {"reach": [0, 1, 2, -1]},
        {"frequencies": [*FREQUENCIES[:3], [0] * 12]},
        {"frequencies": [*FREQUENCIES[:3], [-1] + [5] * 11]},
        {"frequencies": [*FREQUENCIES[:3], [1 << 24] + [0] * 11]},
        {"frequencies": [*FREQUENCIES[:3], [(1 << 31) - 1] * 12]},
        {"listed_below": -1},
        {"listed_below": 5},
        {"frequencies": [[1, 1]] * 257, "reach": [0] * 257},
    ],
)
def test_tables_that_cannot_be_used(change):
    with pytest.raises(ModelCorrupt):
        tables(**change)


@given(st.integers(0, 300), st.integers(0, 1 << 30))
def test_large_arrays_are_coded_in_parts_to_the_same_bytes(count, seed):
    """More than 7 symbols in place of some millions are looked for, not sorted."""
    rng = np.random.default_rng(seed)
    indexes = rng.integers(0, LEVELS, count).astype(np.uint8)
    symbols = rng.integers(-9, 10, count).astype(np.int16)
    whole = encode((symbols, indexes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entropy, "PART", 7)
        assert encode((symbols, indexes)) == whole
        assert decode(whole, indexes) == [symbols.tolist()]

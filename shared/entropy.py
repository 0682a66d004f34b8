"""Entropy coding of latent symbols with integer tables.

A symbol array comes with an array of σ-indexes; each index names one row of frequencies that ships with the model.
Symbols are coded grouped by index, so a coder call handles thousands of symbols. Values beyond a row's alphabet
are coded as its escape symbol, and their true values follow as varints. Where σ is so small that next to all symbols
are 0, the few others are listed instead, with their places: a third of all symbols then costs no time. The coder is
constriction's range coder.

Tables are integers below 2^24 given as float64, where every sum is exact: constriction's fixed-point quantisation
of them is then the same on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import constriction
import numpy as np
import numpy.typing as npt

from secondlook.shared.errors import MalformedBitstream, ModelCorrupt, TruncatedBitstream

Symbols = npt.NDArray[np.int16]
Indexes = npt.NDArray[np.uint8]

Categorical = constriction.stream.model.Categorical
RangeEncoder = constriction.stream.queue.RangeEncoder
RangeDecoder = constriction.stream.queue.RangeDecoder

MAX_SYMBOL = 32767
MAX_LEVELS = 256
TABLE_BITS = 22
PART = 1 << 22  # symbols that are counted at once; more are not sorted
# A payload may hold a little less than the bits that its symbols cost at least: `fewest_bits` is a float, and the coder
# rounds probabilities.
RATE_SLACK = 0.95


@dataclass(frozen=True)
class EntropyTables:
    """Frequencies for every σ-index.

    `frequencies`: int32[levels, width]; a row holds symbols -reach..reach, then the escape, then zeros.
    `reach`: int32[levels]. `listed_below`: at a smaller index, symbols other than 0 are listed, not coded.
    """

    frequencies: npt.NDArray[np.int32]
    reach: npt.NDArray[np.int32]
    listed_below: int
    models: tuple[Any, ...] = field(init=False, repr=False, compare=False)
    reaches: list[int] = field(init=False, repr=False, compare=False)
    fewest_bits: npt.NDArray[np.float64] = field(init=False, repr=False, compare=False)
    """float64[MAX_LEVELS]: the bits that a symbol of each σ-index costs at least."""

    def __post_init__(self) -> None:
        if self.frequencies.ndim != 2 or self.reach.shape != (len(self.frequencies),):
            raise ModelCorrupt("entropy tables: one row of frequencies and one reach for every σ-index")
        if not 0 <= self.listed_below <= len(self.reach) <= MAX_LEVELS:
            raise ModelCorrupt(
                f"entropy tables: {len(self.reach)} σ-indexes, {self.listed_below} of them listed"
            )
        if (2 * self.reach + 2 > self.frequencies.shape[1]).any() or (self.reach < 0).any():
            raise ModelCorrupt("entropy tables: a reach exceeds its row")
        totals = self.frequencies.sum(axis=1)
        if (self.frequencies < 0).any() or (totals <= 0).any() or (totals >= 1 << 24).any():
            raise ModelCorrupt(
                "entropy tables: frequencies of a row must be positive and sum to less than 2^24"
            )
        models = [
            Categorical(row[: 2 * reach + 2].astype(np.float64), perfect=False)
            for row, reach in zip(self.frequencies, self.reach, strict=True)
        ]
        object.__setattr__(self, "models", tuple(models))
        object.__setattr__(self, "reaches", self.reach.tolist())
        fewest = np.zeros(MAX_LEVELS)
        fewest[: len(totals)] = np.log2(totals / self.frequencies.max(axis=1))
        fewest[: self.listed_below] = 0
        object.__setattr__(self, "fewest_bits", fewest)


def coding_order(indexes: Indexes) -> npt.NDArray[np.intp]:
    """Places ordered by σ-index uint8[N], then by place: int64[N]. Other threads run meanwhile.

    Of more than `PART` symbols this is not asked for: it takes 16 bytes a symbol, and looking for one σ-index after the
    other takes one.
    """
    return np.argsort(indexes, kind="stable")


class SymbolEncoder:
    """Collects symbol arrays, then gives one payload."""

    def __init__(self) -> None:
        self._encoder = RangeEncoder()
        self._tail: list[npt.NDArray[Any]] = []

    def put(
        self,
        symbols: Symbols,
        indexes: Indexes,
        tables: EntropyTables,
        order: npt.NDArray[np.intp] | None = None,
    ) -> None:
        """Code `symbols` int16[N] under `indexes` uint8[N]. `order`: their `coding_order`, if known."""
        starts = _starts(indexes)
        levels = _present(starts, tables)
        if len(symbols) > PART:
            if tables.listed_below:
                self._list(symbols, np.flatnonzero((indexes < tables.listed_below) & (symbols != 0)))
            for level in levels:
                part = symbols[indexes == level]
                self._encode(part, int(np.abs(part).max()), level, tables)
            return
        order = coding_order(indexes) if order is None else order
        first = starts[tables.listed_below]
        if tables.listed_below:
            places = order[:first]
            self._list(symbols, np.sort(places[symbols.take(places) != 0]))
        if not levels:
            return
        ordered, starts = symbols.take(order[first:]), starts - first
        peaks = np.maximum.reduceat(np.abs(ordered), starts[levels]).tolist()
        for level, peak in zip(levels, peaks, strict=True):
            self._encode(ordered[starts[level] : starts[level + 1]], peak, level, tables)

    def _encode(self, symbols: Symbols, peak: int, level: int, tables: EntropyTables) -> None:
        """Code symbols of one σ-index; `peak`: the largest of them, signs aside."""
        reach = tables.reaches[level]
        shifted = symbols.astype(np.int32)
        shifted += reach
        if peak > reach:
            outside = (shifted < 0) | (shifted > 2 * reach)
            self._tail.append(_zigzag(shifted[outside] - reach))
            shifted[outside] = 2 * reach + 1  # the escape
        self._encoder.encode(shifted, tables.models[level])

    def _list(self, symbols: Symbols, places: npt.NDArray[np.intp]) -> None:
        """How many symbols other than 0 there are, at `places` in order; then the gap before each, and the symbol."""
        numbers = np.empty(1 + 2 * len(places), np.int64)
        numbers[0] = len(places)
        numbers[1::2] = places
        numbers[3::2] -= places[:-1] + 1
        numbers[2::2] = _zigzag(symbols[places].astype(np.int32))
        self._tail.append(numbers)

    def payload(self) -> bytes:
        words = self._encoder.get_compressed().astype("<u4")
        tail = np.concatenate([np.empty(0, np.int64), *self._tail])
        return b"".join([_varints(np.array([len(words)])), words.tobytes(), _varints(tail)])


class SymbolDecoder:
    """Gives back, in the same order, what a SymbolEncoder was fed."""

    def __init__(self, payload: bytes) -> None:
        count, at = _read_varint(payload, 0)
        end = at + 4 * count
        if end > len(payload):
            raise TruncatedBitstream(f"payload announces {count} words and holds {(len(payload) - at) // 4}")
        self._decoder = RangeDecoder(np.frombuffer(payload, "<u4", count, at).astype(np.uint32))
        self._payload, self._at = payload, end
        self._words = count
        self._bits = 0.0  # what the symbols taken so far cost at least

    def expect(self, indexes: Indexes, times: int, tables: EntropyTables) -> None:
        """Raise TruncatedBitstream when the payload cannot hold symbols of these σ-indexes, each so many times.

        Asked before anything of the claimed size is made, so that a few bytes cannot claim a huge frame.
        """
        self._need(times * float(tables.fewest_bits[indexes].sum()))

    def _need(self, bits: float) -> None:
        if RATE_SLACK * (self._bits + bits) > 32 * self._words:
            raise TruncatedBitstream(
                f"payload of {self._words} words cannot hold symbols of {(self._bits + bits) / 32:.0f} words"
            )

    def take(self, indexes: Indexes, tables: EntropyTables) -> Symbols:
        """Decode int16[N] symbols for `indexes` uint8[N]. Raises MalformedBitstream on impossible data."""
        starts = _starts(indexes)
        bits = float(np.diff(starts) @ tables.fewest_bits)
        self._need(bits)
        self._bits += bits
        symbols = np.zeros(len(indexes), np.int16)
        if tables.listed_below:
            self._take_listed(symbols, indexes < tables.listed_below)
        order = coding_order(indexes) if len(indexes) <= PART else None
        for level in _present(starts, tables):
            places = (
                np.flatnonzero(indexes == level)
                if order is None
                else order[starts[level] : starts[level + 1]]
            )
            try:
                shifted = self._decoder.decode(tables.models[level], len(places))
            except AssertionError as error:
                raise MalformedBitstream("payload is not a code of this entropy model") from error
            reach = tables.reaches[level]
            values = shifted - reach
            escapes = np.flatnonzero(shifted == 2 * reach + 1)
            for place in escapes:
                values[place] = self._symbol()
            symbols[places] = values
        return symbols

    def finish(self) -> None:
        """Raise MalformedBitstream when bytes are left, as far as a range coder can tell."""
        if not self._decoder.maybe_exhausted():
            raise MalformedBitstream("coded words follow the last symbol")
        if self._at != len(self._payload):
            raise MalformedBitstream(f"{len(self._payload) - self._at} bytes follow the last symbol")

    def _take_listed(self, symbols: Symbols, listed: npt.NDArray[np.bool_]) -> None:
        """Fill in the symbols that stand in the next list; they must lie where `listed` bool[N] is set."""
        count, place = self._varint(), -1
        for _ in range(count):
            place += 1 + self._varint()
            if place >= len(symbols) or not listed[place]:
                raise MalformedBitstream(f"a symbol is listed for place {place}, where none may be")
            symbols[place] = symbol = self._symbol()
            if symbol == 0:
                raise MalformedBitstream("a symbol is listed that is 0")

    def _varint(self) -> int:
        value, self._at = _read_varint(self._payload, self._at)
        return value

    def _symbol(self) -> int:
        value = self._varint()
        symbol = (value >> 1) ^ -(value & 1)
        if abs(symbol) > MAX_SYMBOL:
            raise MalformedBitstream(f"symbol {symbol} is out of range")
        return symbol


def _starts(indexes: Indexes) -> npt.NDArray[np.intp]:
    """Where each σ-index starts in the coding order: int64[MAX_LEVELS + 1]."""
    counts = np.zeros(MAX_LEVELS + 1, np.intp)
    for at in range(0, len(indexes), PART):
        counts[1:] += np.bincount(indexes[at : at + PART], minlength=MAX_LEVELS)
    return np.cumsum(counts)


def _present(starts: npt.NDArray[np.intp], tables: EntropyTables) -> list[int]:
    """The σ-indexes that are coded and occur, in order."""
    there: list[int] = np.flatnonzero(np.diff(starts)).tolist()
    return [level for level in there if tables.listed_below <= level < len(tables.reach)]


def _zigzag(values: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    return (values << 1) ^ (values >> 31)


def _varints(values: npt.NDArray[Any]) -> bytes:
    """Integers[N] from 0 to 2^35 - 1 one after the other, each in as many groups of 7 bits as it needs."""
    groups = values[:, None] >> np.arange(0, 42, 7)
    there = groups > 0
    there[:, 0] = True
    written: bytes = (groups[:, :5] & 0x7F | there[:, 1:] << 7)[there[:, :5]].astype(np.uint8).tobytes()
    return written


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data):
            raise TruncatedBitstream("payload ends inside a number")
        if shift > 28:
            raise MalformedBitstream("a number in the payload is too long")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at

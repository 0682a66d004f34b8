"""Mutated streams against the decoder: one of our errors or a picture, in little time and memory, whatever comes.

`python -m tests.mutations` attacks for as long as one likes; the daily tests do a few thousand.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from secondlook.shared.bitstream import Bitstream, parse
from secondlook.shared.codec import LiteCodec
from secondlook.shared.errors import BitstreamError, ModelNotFound
from tests.mutations.streams import Attempt, Mutator, Stream
from tests.pictures import U8Image, photo

MAX_CPU_SECONDS = 5.0  # of one stream
MEMORY_FACTOR = 2.0  # of a good frame of the size that a stream claims
MEASURED_SIDE = 384  # of the frame that tells what a pixel takes


@dataclass
class Tally:
    """What came of the streams: outcomes by name, and a line for each one that went wrong."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0  # CPU seconds of one stream
    largest: float = 0.0  # peak memory of one stream, as a share of what a good frame of its size may take

    def add(self, other: Tally) -> None:
        self.outcomes += other.outcomes
        self.failures += other.failures
        self.slowest, self.largest = max(self.slowest, other.slowest), max(self.largest, other.largest)


class PeakMemory:
    """Resident memory of this process at its highest since `restart`, as Linux counts it; None elsewhere."""

    _RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")

    def __init__(self) -> None:
        self.measured = self._RESET.exists()

    def restart(self) -> None:
        if self.measured:
            self._RESET.write_text("5")

    def bytes(self) -> float:
        """0.0 where it cannot be measured."""
        if not self.measured:
            return 0.0
        line = next(line for line in self._STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024.0 * int(line.split()[1])


class Attack:
    """Decodes mutated streams and judges what comes of them."""

    def __init__(self, codec: LiteCodec, streams: list[Stream], seed: int) -> None:
        self._codec, self._mutator = codec, Mutator(codec, streams, seed)
        self._streams = streams
        self._memory = PeakMemory()
        self._true = [(self._decode(stream, False), self._decode(stream, True)) for stream in streams]
        self._good_bytes, self._bytes_a_pixel = self._measure()

    def _measure(self) -> tuple[float, float]:
        """Peak of the process for a small good frame, and what every further pixel adds to it."""
        big = self._codec.encode(photo(MEASURED_SIDE, MEASURED_SIDE), base_quality=30, quality=50).layers
        self._memory.restart()
        for stream in self._streams:
            self._decode(stream, True)
        small = self._memory.bytes()
        self._memory.restart()
        self._codec.decode_enhanced(big.base, big.enhancement)
        return small, max(self._memory.bytes() - small, 0.0) / MEASURED_SIDE**2

    def _decode(self, stream: Stream, enhanced: bool) -> U8Image:
        layers, key = stream.layers, stream.key
        if enhanced:
            return self._codec.decode_enhanced(layers.base, layers.enhancement, key=key)
        return self._codec.decode_base(layers.base, key=key.base if key is not None else None)

    def run(self, first: int, count: int, tally: Tally) -> None:
        """Streams `first` to `first + count - 1`."""
        for number in range(first, first + count):
            self.one(number, tally)

    def one(self, number: int, tally: Tally) -> None:
        attempt = self._mutator.attempt(number)
        self._memory.restart()
        start = time.thread_time()
        try:
            picture = self._decode(attempt.stream, attempt.enhanced)
        except (BitstreamError, ModelNotFound) as error:
            outcome = type(error).__name__
            if "\n" in str(error):
                tally.failures.append(f"stream {number} ({attempt.kind}): its error has several lines")
        except BaseException as error:  # noqa: BLE001 - any other is what we are here to find
            outcome = f"FAILED {type(error).__name__}"
            tally.failures.append(f"stream {number} ({attempt.kind}): {type(error).__name__}: {error}")
        else:
            outcome, wrong = self._judge(attempt, picture)
            if wrong:
                tally.failures.append(f"stream {number} ({attempt.kind}): {wrong}")
        self._limits(number, attempt, time.thread_time() - start, tally)
        tally.outcomes[outcome] += 1

    def _judge(self, attempt: Attempt, picture: U8Image) -> tuple[str, str]:
        """The outcome's name, and what is wrong with it."""
        layers, good = attempt.stream.layers, self._streams[attempt.origin].layers
        pairs = [(layers.base, good.base), (layers.enhancement, good.enhancement)][: 1 + attempt.enhanced]
        found, kept = zip(*((parse(a), parse(b)) for a, b in pairs), strict=True)
        size = (found[-1].height, found[-1].width, 3)
        if picture.shape != size or picture.dtype != np.uint8:
            return (
                "FAILED shape",
                f"a picture {picture.dtype}{list(picture.shape)} where {list(size)} was told",
            )
        if [_meaning(layer) for layer in found] != [_meaning(layer) for layer in kept]:
            return "picture of another header", ""
        if not np.array_equal(picture, self._true[attempt.origin][attempt.enhanced]):
            return "FAILED picture", "a picture that is not the true one, and no checksum failed"
        return "picture, the true one", ""

    def _limits(self, number: int, attempt: Attempt, seconds: float, tally: Tally) -> None:
        tally.slowest = max(tally.slowest, seconds)
        if seconds > MAX_CPU_SECONDS:
            tally.failures.append(f"stream {number} ({attempt.kind}): {seconds:.1f} s of CPU")
        width, height = _claimed(attempt.stream)
        allowed = MEMORY_FACTOR * (self._good_bytes + self._bytes_a_pixel * width * height)
        peak = self._memory.bytes()
        if self._memory.measured:
            tally.largest = max(tally.largest, MEMORY_FACTOR * peak / allowed)
        if peak > allowed:
            tally.failures.append(
                f"stream {number} ({attempt.kind}): {peak / 2**20:.0f} MiB for {width}x{height}"
            )


def _meaning(layer: Bitstream) -> tuple[object, ...]:
    """All that a picture depends on, the payload aside: its symbols answer to the checksum."""
    return (
        layer.quality,
        layer.base_quality,
        layer.width,
        layer.height,
        layer.reference is None,
        layer.reference_crc,
        layer.symbol_crc,
        layer.base_symbol_crc,
    )


def _claimed(stream: Stream) -> tuple[int, int]:
    """Width and height that the base layer's header tells; nothing where it cannot be read."""
    try:
        layer = parse(stream.layers.base)
    except BitstreamError:
        return 0, 0
    return layer.width, layer.height

"""A few thousand mutated streams, and that the attack would see what it looks for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from secondlook.shared.bitstream import parse
from secondlook.shared.codec import load_codec
from secondlook.shared.errors import MalformedBitstream, SymbolMismatch, TruncatedBitstream
from tests import mutations
from tests.mutations import Attack, Tally, child
from tests.mutations.__main__ import main
from tests.mutations.streams import KINDS, Mutator, corpus

pytestmark = pytest.mark.process

STREAMS = 3000
SEED = 20


@pytest.fixture(scope="module")
def codec():
    return load_codec(threads=1)


@pytest.fixture(scope="module")
def streams(codec):
    return corpus(codec)


@pytest.fixture(scope="module")
def attack(codec, streams):
    return Attack(codec, streams, SEED)


def test_every_stream_is_refused_or_is_a_picture(attack):
    tally = Tally()
    attack.run(0, STREAMS, tally)
    assert tally.failures == []
    assert tally.outcomes.total() == STREAMS
    assert {
        "MalformedBitstream",
        "TruncatedBitstream",
        "NotABitstream",
        "UnsupportedBitstream",
        "SymbolMismatch",
        "LayerMismatch",
        "ReferenceMissing",
        "ModelNotFound",
        "picture, the true one",
        "picture of another header",
    } == set(tally.outcomes)


def test_a_stream_is_known_by_its_number(codec, streams):
    one, other = (Mutator(codec, streams, SEED) for _ in range(2))
    assert [one.attempt(n) for n in (5, 1, 5)] == [other.attempt(n) for n in (5, 1, 5)]
    assert one.attempt(5) != one.attempt(6)
    kinds = [one.attempt(n).kind for n in range(400)]
    assert set(kinds) == set(KINDS)


def wrong(codec, streams, count=150):
    tally = Tally()
    Attack(codec, streams, SEED).run(0, count, tally)
    return tally


def breaking(codec, monkeypatch, change):
    """From its second decoding of the corpus on, what the codec decodes passes through `change`."""
    real, calls = codec.decode_base, []

    def decode(base, *, key=None):
        calls.append(base)
        picture = real(base, key=key)
        return change(picture) if len(calls) > 24 else picture

    monkeypatch.setattr(codec, "decode_base", decode)


def test_another_exception_is_seen(codec, streams, monkeypatch):
    def change(picture):
        raise IndexError("out of bounds")

    breaking(codec, monkeypatch, change)
    tally = wrong(codec, streams)
    assert tally.outcomes["FAILED IndexError"] == len(tally.failures) > 0
    assert "IndexError: out of bounds" in tally.failures[0]


def test_another_picture_is_seen(codec, streams, monkeypatch):
    breaking(codec, monkeypatch, lambda picture: picture ^ 1)
    tally = wrong(codec, streams)
    assert tally.outcomes["FAILED picture"] == len(tally.failures) > 0


def test_a_picture_of_another_shape_is_seen(codec, streams, monkeypatch):
    breaking(codec, monkeypatch, lambda picture: picture.repeat(2, 0))
    assert wrong(codec, streams).outcomes["FAILED shape"] > 0


def test_slowness_and_memory_are_seen(codec, streams, monkeypatch):
    measured = mutations.PeakMemory().measured
    monkeypatch.setattr(mutations, "MAX_CPU_SECONDS", 0.0)
    assert "s of CPU" in wrong(codec, streams, 1).failures[0]
    monkeypatch.undo()
    if not measured:
        pytest.skip("peak memory is read from /proc, which is not here")

    memory = mutations.PeakMemory()
    memory.restart()
    too_much = 2 * int(memory.bytes()) + (256 << 20)

    def change(picture):
        np.ones(too_much, np.uint8)
        return picture

    breaking(codec, monkeypatch, change)
    assert any("MiB for" in line for line in wrong(codec, streams).failures)


def test_a_claimed_size_is_refused_before_memory_is_taken(codec, streams):
    """64 million pixels in a header, and a payload that could hold only some: told from header and tables."""
    memory = mutations.PeakMemory()
    for stream in streams:
        if stream.key is not None:
            continue
        huge = replace(parse(stream.layers.base), width=16384, height=4096).to_bytes()
        memory.restart()
        before = memory.bytes()
        with pytest.raises(TruncatedBitstream, match="cannot hold symbols"):
            codec.decode_base(huge)
        assert memory.bytes() - before < 8 << 20


def test_errors_are_counted_by_class(codec, streams, monkeypatch):
    errors = iter([SymbolMismatch("x"), MalformedBitstream("y\nz")])

    def decode(base, *, key=None):
        raise next(errors)

    attack = Attack(codec, streams, SEED)
    monkeypatch.setattr(codec, "decode_base", decode)
    monkeypatch.setattr(codec, "decode_enhanced", lambda base, enhancement, *, key=None: decode(base))
    tally = Tally()
    attack.run(0, 2, tally)
    assert tally.outcomes == {"SymbolMismatch": 1, "MalformedBitstream": 1}
    assert tally.failures == [f"stream 1 ({attack._mutator.attempt(1).kind}): its error has several lines"]


def test_a_run_in_a_child_goes_on_where_another_ended(capsys):
    assert main(["--streams", "40", "--start", "7", "--seed", "3"]) == 0
    told = capsys.readouterr().out
    assert "40 streams, next is 47" in told and "0 streams went wrong (seed 3)" in told


def test_a_child_that_dies_is_told():
    """As when a decoder crashes: here it cannot even begin."""
    tally, following = child.run_chunk([None], 3, 11, 5)
    assert following == 12
    assert tally.failures == ["stream 11: its decoder ended with status 1"]

"""Some thousand mutated groups, and that the attack would see what it looks for."""

from __future__ import annotations

import numpy as np
import pytest

from secondlook.shared import video
from tests.mutations import Tally, groups
from tests.mutations.__main__ import main
from tests.mutations.groups import KINDS, GroupAttack

pytestmark = pytest.mark.process

SEED = 20


@pytest.fixture(scope="module")
def corpus():
    return groups.corpus()


def attacked(corpus, count: int) -> Tally:
    tally, attack = Tally(), GroupAttack(corpus, SEED)
    for number in range(count):
        attack.one(number, tally)
    return tally


def test_every_frame_is_refused_or_is_a_true_picture(capsys) -> None:
    """In a child: what crashes libavcodec ends it, and is told."""
    assert main(["--family", "video", "--streams", "2500", "--seed", str(SEED)]) == 0
    told = capsys.readouterr().out
    assert f"0 streams went wrong (seed {SEED})" in told
    for outcome in (
        "ReferenceMissing",
        "MalformedBitstream",
        "SymbolMismatch",
        "TruncatedBitstream",
        "LayerMismatch",
        "NotABitstream",
        "UnsupportedBitstream",
        "picture, a true one",
        "picture of another sender",
        "background MalformedBitstream",
        "background SymbolMismatch",
        "background TruncatedBitstream",
    ):
        assert f"  {outcome}\n" in told


def test_a_group_is_known_by_its_number(corpus) -> None:
    one, other = (GroupAttack(corpus, SEED) for _ in range(2))
    assert [one.attempt(n) for n in (5, 1, 5)] == [other.attempt(n) for n in (5, 1, 5)]
    assert {one.attempt(n)[0] for n in range(300)} == set(KINDS)


def breaking(monkeypatch, change) -> None:
    """What decoders give passes through `change`, once the true pictures are known."""
    real, calls = video.GroupDecoder.decode, []

    def decode(self, data):
        calls.append(data)
        picture = real(self, data)
        return change(picture) if len(calls) > 7 * groups.FRAMES else picture

    monkeypatch.setattr(groups.GroupDecoder, "decode", decode)


def test_another_picture_is_seen(corpus, monkeypatch) -> None:
    breaking(monkeypatch, lambda picture: picture ^ 1)
    assert attacked(corpus, 60).outcomes["FAILED picture"] > 0


def test_a_checksum_that_is_not_looked_at_is_seen(corpus, monkeypatch) -> None:
    class Any(int):
        def __eq__(self, other: object) -> bool:
            return True

        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = int.__hash__

    monkeypatch.setattr(video, "planes_crc", lambda picture: Any(0))
    assert attacked(corpus, 200).outcomes["FAILED picture"] > 0


def test_another_exception_is_seen(corpus, monkeypatch) -> None:
    def change(picture):
        raise IndexError("out of bounds")

    breaking(monkeypatch, change)
    tally = attacked(corpus, 60)
    assert tally.outcomes["FAILED IndexError"] == len(tally.failures) > 0


def test_slowness_and_memory_are_seen(corpus, monkeypatch) -> None:
    monkeypatch.setattr(groups, "MAX_CPU_SECONDS", 0.0)
    assert "s of CPU" in attacked(corpus, 1).failures[0]
    monkeypatch.undo()
    if not groups.PeakMemory().measured:
        pytest.skip("peak memory is read from /proc, which is not here")

    def change(picture):
        np.ones(2 * groups.MAX_BYTES + (256 << 20), np.uint8)
        return picture

    breaking(monkeypatch, change)
    assert any(line.endswith("MiB") for line in attacked(corpus, 60).failures)

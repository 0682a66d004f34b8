"""What the uplink says of a link is what goes over it: bytes of TCP, counted on their way to a gateway with keys."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from secondlook.edge.link.gathering import run_overhead
from secondlook.edge.link.pacing import OVERHEAD_BYTES
from tests.link_cost import SEGMENT_BYTES, line

SIZE = 160


@pytest.mark.parametrize("count", [1, 2, 5, 20, 40])
def test_headers_are_counted_as_they_are(tmp_path: Path, count: int) -> None:
    with line(tmp_path, 0.5) as at_work:
        before, messages, told = at_work.passed(), at_work.messages(), at_work.pacer.went
        for _ in range(count):
            at_work.put(SIZE)
        at_work.settle()
        went, said = at_work.passed() - before, at_work.pacer.went - told
        assert at_work.messages() - messages == 1
    overhead = went + SEGMENT_BYTES - count * SIZE
    assert said == count * SIZE + int(run_overhead(count))
    assert overhead == pytest.approx(run_overhead(count), rel=0.2)
    assert went + SEGMENT_BYTES == pytest.approx(said, rel=0.08)


def test_gathering_saves_two_thirds_of_what_small_frames_cost(tmp_path: Path) -> None:
    """Ten frames: one by one, and in two runs."""
    costs = []
    for seconds in (0.0, 0.3):
        (folder := tmp_path / str(seconds)).mkdir()
        with line(folder, seconds) as at_work:
            before = at_work.passed()
            for _ in range(2):
                for _ in range(5):
                    at_work.put(SIZE)
                time.sleep(0.5)
            at_work.settle()
            costs.append(at_work.passed() - before - 10 * SIZE)
    alone, gathered = costs
    assert gathered < alone / 3 and alone == pytest.approx(10 * (OVERHEAD_BYTES - SEGMENT_BYTES), rel=0.3)

"""A camera host that was cut off delivers what it recorded meanwhile, much faster than it was recorded."""

from __future__ import annotations

import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from secondlook.edge.config import LinkConfig, SpoolConfig
from secondlook.edge.link.identity import AgentIdentity
from secondlook.edge.link.uplink import Uplink
from secondlook.edge.spool import Spool
from secondlook.edge.spooled import SpooledFrame
from secondlook.shared.packet import FrameInfo
from tests.chaos.proxy import Proxy, Weather
from tests.cloud.test_crash import free_port, gateway_process

BOOT, EARLIER = "ab" * 16, "cd" * 16
MINUTES, HOUR = 1600, 36_000  # frames
FRAMES_PER_SECOND = 10
SPEED = 5  # times real time, at least
BASE_BYTES, ENHANCEMENT_BYTES = 1200, 5000
_NANOSECONDS = 1_000_000_000


def record(store: Spool, first: int, count: int) -> None:
    """Frames at their pace, as their timestamps tell, in one commit."""
    step = _NANOSECONDS // FRAMES_PER_SECOND
    layer = bytes(BASE_BYTES - 8), bytes(ENHANCEMENT_BYTES)
    store.put(
        [
            SpooledFrame(
                FrameInfo(BOOT, seq, seq * step, 64, 48, None, len(layer[1])),
                seq.to_bytes(8, "big") + layer[0],
                layer[1],
            )
            for seq in range(first, first + count)
        ],
        time.time_ns(),
    )


@pytest.mark.timeout(900)
@pytest.mark.parametrize("frames", [MINUTES, pytest.param(HOUR, marks=pytest.mark.slow)])
def test_an_edge_catches_up_at_five_times_real_time_through_a_link_that_breaks(
    tmp_path: Path, frames: int
) -> None:
    before = Spool(tmp_path / "edge", SpoolConfig(min_free_bytes=0), EARLIER, 0)
    record(before, 0, frames // 2)
    before.close()
    store = Spool(tmp_path / "edge", SpoolConfig(min_free_bytes=0), BOOT, 0)
    edges, workers = free_port(), free_port()
    with gateway_process(tmp_path / "cloud", edges, workers):
        proxy = Proxy(edges)
        link = LinkConfig(f"tcp://127.0.0.1:{proxy.port}", retry_min_seconds=0.05, retry_max_seconds=0.2)
        uplink = Uplink(link, AgentIdentity("gate", BOOT, "yard"), store, random.Random(1))
        started = time.monotonic()
        uplink.start()
        cuts = [frames // 4, frames // 2]
        written = 0
        while uplink.acknowledged < frames:
            assert uplink.failure is None
            assert time.monotonic() - started < 800
            if written < frames // 2:
                record(store, written, 100)  # what is captured meanwhile
                written += 100
                uplink.wake()
            if cuts and uplink.acknowledged >= cuts[0]:
                cuts.pop(0)
                proxy.weather = Weather.CUT
                time.sleep(0.2)
                proxy.weather = Weather.FINE
            time.sleep(0.01)
        seconds = time.monotonic() - started
        uplink.stop()
        proxy.close()
    assert store.undelivered_boots() == []
    assert store.tombstones(0) == []
    store.close()
    print(f"{frames / FRAMES_PER_SECOND:.0f} s of frames in {seconds:.0f} s")
    assert seconds < frames / FRAMES_PER_SECOND / SPEED
    step = _NANOSECONDS // FRAMES_PER_SECOND
    with closing(sqlite3.connect(tmp_path / "cloud" / "gateway.db")) as db:
        found = db.execute("SELECT boot_id, seq, captured_ns FROM queue ORDER BY boot_id, seq").fetchall()
    expected = [(boot, seq, seq * step) for boot in (BOOT, EARLIER) for seq in range(frames // 2)]
    assert found == expected, "each once, with the time it was captured"

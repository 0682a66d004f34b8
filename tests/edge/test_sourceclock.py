"""The camera's own clock, from RTCP to the record on this host, beside ours."""

from __future__ import annotations

import json
import logging
import random
import time
from pathlib import Path

import pytest

from secondlook.edge.agent import Agent
from secondlook.edge.config import EdgeConfig, SourceConfig
from secondlook.edge.source.camera import Camera, Frame
from secondlook.edge.source.sources import open_shots
from secondlook.edge.source.streams import silence
from secondlook.shared.logs import JsonLines, LogConfig, configure_logs
from tests.edge.servers import RtspCamera, http_server, mjpeg
from tests.edge.test_agent import PlainCodec
from tests.edge.test_streams import Heard
from tests.pictures import photo

CLOCK_NS = 1_700_000_000_123_456_789
_PICTURE_NS = 40_000_000
_ROUNDING_NS = 20_000  # RTCP counts in 2^-32 s, RTP in 1/90000 s, FFmpeg in microseconds


@pytest.fixture(autouse=True)
def _silent() -> None:
    silence()


def stamps(address: str, count: int) -> list[int | None]:
    config = SourceConfig(address, open_seconds=5.0, stall_seconds=3.0)
    shots = open_shots(config, Heard()).shots
    return [shot.source_ns for shot, _ in zip(shots, range(count), strict=False)]


def test_the_clock_of_a_camera_is_read_from_its_sender_reports() -> None:
    with RtspCamera(clock_ns=CLOCK_NS) as camera:
        told = stamps(camera.address, 25)
    assert len(told) == 25 and None not in told
    for number, source_ns in enumerate(told):
        assert source_ns == pytest.approx(CLOCK_NS + number * _PICTURE_NS, abs=_ROUNDING_NS)


def test_before_the_first_report_nothing_is_claimed() -> None:
    with RtspCamera(clock_ns=CLOCK_NS, reports_from=60) as camera:
        told = stamps(camera.address, 75)
    assert told[:50] == [None] * 50 and None not in told[60:]
    for number, source_ns in enumerate(told[60:], 60):
        assert source_ns == pytest.approx(CLOCK_NS + number * _PICTURE_NS, abs=_ROUNDING_NS)


def test_a_clock_that_was_never_set_and_one_that_is_not_told() -> None:
    with RtspCamera(clock_ns=86_400 * 10**9) as camera:
        assert set(stamps(camera.address, 12)) == {None}
    with RtspCamera() as camera:
        assert set(stamps(camera.address, 12)) == {None}
    with http_server(camera=mjpeg(30)) as server:
        assert set(stamps(f"{server}/camera", 12)) == {None}


def test_it_comes_through_the_capture_process() -> None:
    with RtspCamera(clock_ns=CLOCK_NS) as server:
        camera = Camera(SourceConfig(server.address), random.Random(1))
        try:
            until, frame = time.monotonic() + 20, None
            while frame is None and time.monotonic() < until:
                frame = camera.read(0.1)
        finally:
            camera.close()
    assert frame is not None and frame.source_ns is not None
    assert -_ROUNDING_NS <= frame.source_ns - CLOCK_NS < 20 * 10**9
    assert abs(frame.captured_ns - time.time_ns()) < 30 * 10**9, "our own stamp stays ours"


@pytest.mark.parametrize("source_ns", [None, CLOCK_NS])
def test_it_is_kept_beside_ours(
    tmp_path: Path, source_ns: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    source = SourceConfig("demo:", record_dir=tmp_path)
    agent = Agent(EdgeConfig("gate", source, data_dir=tmp_path), PlainCodec())
    configure_logs(LogConfig(frames=True))
    try:
        with caplog.at_level(logging.INFO, "secondlook.frames"):
            agent._take(Frame(photo(48, 64), CLOCK_NS + 1_500_000_000, source_ns=source_ns))
    finally:
        configure_logs(LogConfig(level="warning"))
    (line,) = (json.loads(text) for text in (tmp_path / "times.jsonl").read_text().splitlines())
    assert line == {
        "frame": f"{agent.boot_id}-00000000.png",
        "captured_ns": CLOCK_NS + 1_500_000_000,
        "source_ns": source_ns,
    }
    assert (tmp_path / "times.jsonl").stat().st_mode & 0o777 == 0o600
    (record,) = [one for one in caplog.records if one.name == "secondlook.frames"]
    told = json.loads(JsonLines("edge").format(record))
    assert (told["step"], told["captured_ns"], told["source_ns"]) == (
        "encoded",
        CLOCK_NS + 1_500_000_000,
        source_ns,
    )
    assert agent._source_lag_ns == (None if source_ns is None else 1_500_000_000)

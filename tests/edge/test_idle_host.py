"""What an idle camera host does: it waits, is woken by what concerns it, and writes little."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest

from secondlook.edge.agent import Agent
from secondlook.edge.config import EdgeConfig, LinkConfig, SourceConfig, SpoolConfig
from secondlook.edge.source.camera import Camera
from secondlook.edge.telling import TellingTimes
from secondlook.shared.stop import Stop, descriptors
from tests.edge.gateway import Memory, SmallGateway, wait_until
from tests.edge.test_agent import PlainCodec


def idle_agent(tmp_path: Path, gateway: str) -> Agent:
    """Its source is open and has nothing to give."""
    (tmp_path / "pictures").mkdir(exist_ok=True)
    config = EdgeConfig(
        "gate",
        SourceConfig(str(tmp_path / "pictures"), watch=True),
        data_dir=tmp_path / "edge",
        link=LinkConfig(gateway=gateway),
        spool=SpoolConfig(min_free_bytes=0),
    )
    return Agent(config, PlainCodec())


def test_a_status_is_written_within_a_second_of_news_and_seldom_without() -> None:
    times = TellingTimes()
    told = [now / 10 for now in range(300) if times.is_due("up" if now < 123 else "down", now / 10)]
    assert told == [0.0, 5.0, 10.0, 12.3, 17.3, 22.3, 27.3]
    times = TellingTimes()
    told = [now / 10 for now in range(50) if times.is_due(now, now / 10)]
    assert told == [0.0, 1.0, 2.0, 3.0, 4.0], "however much is new"


def test_a_camera_without_frames_is_left_at_once_when_told_to_stop(tmp_path: Path) -> None:
    stop = Stop()
    camera = Camera(SourceConfig(str(tmp_path), watch=True), random.Random(1), wakes=descriptors(stop))
    try:
        wait_until(lambda: camera.read(0.1) is None and camera._process is not None)
        threading.Timer(0.2, stop.set).start()
        began = time.monotonic()
        while not stop.is_set():
            assert camera.read(20.0) is None
        assert time.monotonic() - began < 10
    finally:
        camera.close()


def test_a_camera_that_is_away_is_left_at_once_too() -> None:
    stop = Stop()
    config = SourceConfig("rtsp://127.0.0.1:9/x", retry_min_seconds=60.0)
    camera = Camera(config, random.Random(1), is_patient=True, wakes=descriptors(stop))
    try:
        wait_until(lambda: camera.read(0.1) is None and camera.state == "reconnecting", 30)
        threading.Timer(0.2, stop.set).start()
        began = time.monotonic()
        assert camera.read(20.0) is None and time.monotonic() - began < 10
    finally:
        camera.close()


@pytest.mark.timeout(120)
def test_an_idle_agent_takes_few_turns_and_ends_at_once(tmp_path: Path) -> None:
    gateway = SmallGateway(Memory())
    agent, stop = idle_agent(tmp_path, gateway.address), Stop()
    thread = threading.Thread(target=agent.run, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: agent._uplink is not None and agent._uplink.state == "up", 30)
        time.sleep(3.0)
        uplink, written = agent._uplink, (tmp_path / "edge" / "status.json").stat().st_mtime_ns
        assert uplink is not None
        turns = uplink.turns
        time.sleep(12.0)
        assert uplink.turns - turns <= 5, "one in five seconds, and a word of the gateway's now and then"
        assert (tmp_path / "edge" / "status.json").stat().st_mtime_ns > written, (
            "and yet it is told that it lives"
        )
        assert agent._watchdog.age_seconds < 8
    finally:
        began = time.monotonic()
        stop.set()
        thread.join(20)
        took = time.monotonic() - began
        gateway.stop()
    assert not thread.is_alive() and took < 4

"""What an agent meets and goes on with, or ends with in good order: odd times, disks and processes that fail."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from secondlook.edge.agent import Agent
from secondlook.edge.config import SpoolConfig
from secondlook.edge.source.camera import Camera
from secondlook.edge.source.place import PlaceKeeper
from secondlook.edge.spool import Spool
from secondlook.edge.spooled import SpooledFrame
from secondlook.shared.errors import DiskFull, SourceUnreadable, Unwritable
from secondlook.shared.packet import MAX_NS
from tests.edge.gateway import Memory, SmallGateway, wait_until
from tests.edge.test_agent import PlainCodec, config, seven_images, status, still


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return seven_images(tmp_path / "images")


@pytest.mark.parametrize("captured_ns", [-1, MAX_NS + 1, 2**80])
def test_a_frame_is_of_a_time_that_a_packet_can_carry(
    tmp_path: Path, folder: Path, captured_ns: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A package that is a source may say anything."""
    agent = Agent(config(tmp_path, folder, "tcp://127.0.0.1:9"), PlainCodec())
    before = time.time_ns()
    for at in (captured_ns, 0, MAX_NS):
        agent._take(replace(still(), captured_ns=at))
    first, *others = [item.info.captured_ns for item in agent._batch if isinstance(item, SpooledFrame)]
    assert before <= first <= time.time_ns() and others == [0, MAX_NS]
    assert f"taken {captured_ns} ns after 1970; it counts as taken now" in caplog.text


@pytest.mark.parametrize("failing", [(Spool, "put"), (PlaceKeeper, "about_to_spool")])
def test_a_disk_that_fails_once_costs_no_frame_that_has_a_number(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, failing: tuple[type, str]
) -> None:
    really, left = getattr(*failing), [3]

    def fails_once(*arguments: object, **more: object) -> object:
        left[0] -= 1
        if left[0] == 0:
            raise Unwritable("reading or writing the database failed")
        return really(*arguments, **more)

    monkeypatch.setattr(*failing, fails_once)
    settings = config(tmp_path, folder, "tcp://127.0.0.1:9")
    agent = Agent(replace(settings, spool=replace(settings.spool, commit_seconds=0.0)), PlainCodec())
    with pytest.raises(Unwritable, match="reading or writing"):
        agent.run(threading.Event())
    with closing(Spool(tmp_path / "edge", SpoolConfig(min_free_bytes=0), "c" * 32, time.time_ns())) as store:
        held = [one.info.seq for one in store.read(agent.boot_id, 0, 1 << 30)]
        assert held == list(range(agent.captured)) and len(held) >= 3
        assert store.tombstones(0) == []


def test_a_capture_that_cannot_be_ended_does_not_keep_the_uplink_running(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Camera) -> None:
        really_close(self)
        raise ValueError("it cannot be ended")

    really_close = Camera.close
    monkeypatch.setattr(Camera, "close", fails)
    agent = Agent(config(tmp_path, folder, "tcp://127.0.0.1:9"), PlainCodec())
    with pytest.raises(ValueError, match="cannot be ended"):
        agent.run(threading.Event())
    assert agent._uplink is not None and not agent._uplink.is_alive() and agent._uplink.failure is None


def test_an_agent_whose_capture_cannot_be_started_says_so(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_process(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("multiprocessing.context.SpawnProcess._Popen", no_process)
    agent = Agent(config(tmp_path, folder, "tcp://127.0.0.1:9"), PlainCodec())
    with pytest.raises(SourceUnreadable, match="cannot be started: Cannot allocate memory"):
        agent.run(threading.Event())
    assert agent._uplink is not None and not agent._uplink.is_alive()


def test_what_was_delivered_goes_in_time_though_nothing_new_comes(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secondlook.edge.agent._AGE_SECONDS", 0.2)
    gateway = SmallGateway(Memory())
    settings = config(tmp_path, folder, gateway.address)
    agent = Agent(replace(settings, spool=replace(settings.spool, retention_seconds=1.0)), PlainCodec())
    stop = threading.Event()
    running = threading.Thread(target=agent.run, args=(stop,))
    running.start()
    try:
        wait_until(
            lambda: (tmp_path / "edge" / "status.json").exists() and status(tmp_path)["acknowledged"] == 7, 30
        )
        wait_until(lambda: status(tmp_path)["spool_bytes"] == 0, 20)
    finally:
        stop.set()
        running.join()
        gateway.stop()


@pytest.mark.parametrize("error", [DiskFull("no space left"), Unwritable("cannot write: read-only")])
def test_a_record_that_cannot_be_written_does_not_end_the_agent(
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr("secondlook.edge.recorded.write_atomically", full)
    memory = Memory()
    gateway = SmallGateway(memory)
    plain = config(tmp_path, folder, gateway.address, exit_when_acknowledged=True)
    source = replace(plain.source, record_dir=tmp_path / "kept")
    Agent(replace(plain, source=source), PlainCodec()).run(threading.Event())
    gateway.stop()
    assert len(memory.frames) == 7 and list((tmp_path / "kept").iterdir()) == []
    assert caplog.text.count("a frame is not recorded: ") == 1, "a line a minute"

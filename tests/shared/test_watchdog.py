"""The supervisor's socket, played by the test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from secondlook.edge.agent import Agent
from secondlook.edge.config import EdgeConfig, SourceConfig
from secondlook.shared.watchdog import Watchdog
from tests.cloud.helpers import PlainCodec

ROOT = Path(__file__).parents[2]


class Supervisor:
    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(20)

    def heard(self) -> list[str]:
        """What has come so far."""
        self.socket.setblocking(False)
        found = []
        while True:
            try:
                found.append(self.socket.recv(100).decode())
            except BlockingIOError:
                self.socket.settimeout(20)
                return found


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(str(tmp_path / "notify"))
    yield supervisor
    supervisor.socket.close()


def test_progress_is_passed_on_as_often_as_needed(supervisor: Supervisor) -> None:
    now = 0.0
    watchdog = Watchdog(supervisor.socket.getsockname(), 20.0, clock=lambda: now)
    watchdog.ready()
    watchdog.heartbeat()
    watchdog.heartbeat()
    assert supervisor.heard() == ["READY=1", "WATCHDOG=1"]
    now = 4.9
    watchdog.heartbeat()
    assert supervisor.heard() == []
    now = 5.0
    watchdog.heartbeat()
    watchdog.stopping()
    assert supervisor.heard() == ["WATCHDOG=1", "STOPPING=1"]
    now = 1000.0
    assert supervisor.heard() == []  # time alone says nothing


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ({"WATCHDOG_USEC": "1000000"}, ["READY=1", "WATCHDOG=1"]),
        ({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())}, ["READY=1", "WATCHDOG=1"]),
        ({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}, ["READY=1"]),
        ({"WATCHDOG_USEC": "soon"}, ["READY=1"]),
        ({}, ["READY=1"]),
    ],
)
def test_what_the_environment_asks_for(
    supervisor: Supervisor, extra: dict[str, str], told: list[str]
) -> None:
    watchdog = Watchdog.from_environment({"NOTIFY_SOCKET": supervisor.socket.getsockname(), **extra})
    watchdog.ready()
    watchdog.heartbeat()
    assert supervisor.heard() == told


def test_an_abstract_socket_is_reached() -> None:
    supervisor = Supervisor(f"\0secondlook-test-{os.getpid()}")
    Watchdog.from_environment({"NOTIFY_SOCKET": f"@secondlook-test-{os.getpid()}"}).ready()
    assert supervisor.heard() == ["READY=1"]
    supervisor.socket.close()


def test_without_a_supervisor_nothing_happens(tmp_path: Path) -> None:
    for watchdog in (
        Watchdog.from_environment({}),
        Watchdog.from_environment({"NOTIFY_SOCKET": "vsock:2:1", "WATCHDOG_USEC": "1000"}),
        Watchdog(str(tmp_path / "gone"), 1.0),
    ):
        watchdog.ready()
        watchdog.heartbeat()
        watchdog.stopping()


def test_a_gateway_tells_that_it_is_ready_that_it_works_and_that_it_ends(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "secondlook", "gateway", "--data-dir", str(tmp_path / "data")]
    command += ["--listen", "tcp://127.0.0.1:0", "--listen-workers", "tcp://127.0.0.1:0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WATCHDOG_USEC": "400000"}
    environment["NOTIFY_SOCKET"] = supervisor.socket.getsockname()
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as gateway:
        assert [supervisor.socket.recv(100) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
        # Stopped, it lives, but says nothing: the supervisor would notice.
        gateway.send_signal(signal.SIGSTOP)
        supervisor.heard()
        supervisor.socket.settimeout(1.0)
        with pytest.raises(TimeoutError):
            supervisor.socket.recv(100)
        gateway.send_signal(signal.SIGCONT)
        supervisor.socket.settimeout(20)
        assert supervisor.socket.recv(100) == b"WATCHDOG=1"
        gateway.terminate()
        while (told := supervisor.socket.recv(100)) == b"WATCHDOG=1":
            pass
        assert told == b"STOPPING=1"
        assert gateway.wait(timeout=20) == 0


def test_an_agent_tells_progress_only_while_both_its_halves_go_on(supervisor: Supervisor) -> None:
    agent = Agent(EdgeConfig("gate", SourceConfig("demo:")), PlainCodec())
    agent._watchdog = Watchdog(supervisor.socket.getsockname(), 0.0)
    uplink = SimpleNamespace(turns=0)

    def told(*, turns: int, frames: int = 0) -> bool:
        uplink.turns += turns
        agent._captured += frames
        agent._tell_progress(uplink)
        return supervisor.heard() == ["WATCHDOG=1"]

    assert told(turns=1, frames=1)
    assert not told(turns=0, frames=1)  # the uplink hangs
    assert told(turns=5)  # frames may be an hour apart: a capture that stalls is ended by the camera
    assert not told(turns=0)

"""Every role as a process of its own: its health, its end, and that it is alone where it must be."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cloud.servers import free_port

ROOT = Path(__file__).parents[2]


@dataclass
class Role:
    """One running command in a process group of its own, as a supervisor starts it."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    port: int = 0  # of /healthz and /readyz

    def ask(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read()).get("status", "")
        except OSError:
            return 0, "no answer"
        finally:
            connection.close()

    def await_answer(self, path: str, wanted: tuple[int, str], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while (heard := self.ask(path)) != wanted:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, (heard, self.log.read_text())
            time.sleep(0.05)

    def end_group(self) -> None:
        """What systemd does: SIGTERM to all processes of the unit at once."""
        os.killpg(self.process.pid, signal.SIGTERM)


@dataclass
class Site:
    """A data folder, the configuration of the roles on it, and those that run."""

    folder: Path
    edge_port: int = field(default_factory=free_port)
    broker_port: int = field(default_factory=free_port)
    roles: list[Role] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "cloud.toml").write_text(
            'data_dir = "cloud"\n[health]\nstall_seconds = 1.0\n'
            f'[gateway]\nedge_address = "tcp://127.0.0.1:{self.edge_port}"\n'
            f'[broker]\naddress = "tcp://127.0.0.1:{self.broker_port}"\n'
        )
        (self.folder / "edge.toml").write_text(
            'edge_id = "gate"\ndata_dir = "edge"\n'
            '[source]\naddress = "demo:"\nrealtime = true\nfps = 4.0\nresize = "64"\n'
            f'[link]\ngateway = "tcp://127.0.0.1:{self.edge_port}"\n'
        )

    def start(self, name: str, *flags: str) -> Role:
        port = free_port()
        log = self.folder / f"{name}-{len(self.roles)}.log"
        where = ["--port", str(port)] if name == "station" else ["--health", f"127.0.0.1:{port}"]
        config = "edge.toml" if name == "edge" else "cloud.toml"
        command = [sys.executable, "-m", "secondlook", name, "--config", str(self.folder / config)]
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*command, *where, *flags],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=stream,
                stderr=stream,
                process_group=0,
            )
        role = Role(name, process, log, port)
        self.roles.append(role)
        return role


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    for role in site.roles:
        if role.process.poll() is None:
            os.killpg(role.process.pid, signal.SIGKILL)
            role.process.wait()


@contextmanager
def held(database: Path) -> Iterator[None]:
    """Another process has the write lock."""
    with closing(sqlite3.connect(database, isolation_level=None, timeout=20)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_a_gateway_whose_loop_hangs_says_so_although_its_sockets_accept(site: Site) -> None:
    gateway = site.start("gateway")
    gateway.await_answer("/readyz", (200, "ready"))
    with held(site.folder / "cloud" / "gateway.db"):
        began = time.monotonic()
        gateway.await_answer("/healthz", (503, "hung"), 8.0)
        assert time.monotonic() - began < 6.0  # it waits 10 s for the lock
        assert gateway.ask("/readyz") == (503, "hung")
        socket.create_connection(("127.0.0.1", site.edge_port), timeout=3).close()
    gateway.await_answer("/healthz", (200, "live"))
    gateway.await_answer("/readyz", (200, "ready"))


def test_a_second_gateway_on_one_data_folder_refuses_in_one_line(site: Site) -> None:
    first = site.start("gateway")
    first.await_answer("/readyz", (200, "ready"))
    second = site.start("gateway", "--listen", "tcp://127.0.0.1:0", "--listen-workers", "tcp://127.0.0.1:0")
    assert second.process.wait(30) == 1
    said = second.log.read_text()
    assert said.count("\n") == 1
    assert f"in use by another gateway (process {first.process.pid})" in said
    first.process.kill()
    first.process.wait()
    site.start("gateway").await_answer("/readyz", (200, "ready"))


def test_every_role_tells_its_health_and_ends_well_when_its_group_is_told_to(site: Site) -> None:
    gateway = site.start("gateway")
    gateway.await_answer("/readyz", (200, "ready"))
    others = [site.start(name) for name in ("worker", "refiner", "station", "edge")]
    for role in others:
        role.await_answer("/readyz", (200, "ready"))
        assert role.ask("/healthz") == (200, "live")
    status = site.folder / "edge" / "status.json"
    _wait(lambda: status.exists() and json.loads(status.read_text())["acknowledged"] > 2)
    # Downstream first, so that nobody has reason to miss another.
    for role in (*reversed(others), gateway):
        role.end_group()
        assert role.process.wait(30) == 0, (role.name, role.log.read_text())
        said = role.log.read_text()
        assert not re.search(r"WARNING|ERROR|Traceback|error:", said), (role.name, said)
    said = site.roles[-1].log.read_text()
    assert re.search(r"stopped: \d+ frames captured, \d+ acknowledged .*; \d+ wait in the spool\n", said)


def test_a_worker_without_a_gateway_is_live_but_not_ready(site: Site) -> None:
    worker = site.start("worker")
    worker.await_answer("/readyz", (503, "waiting"))
    # Its call may take 5 s, longer than this site allows without a sign; then there is one.
    worker.await_answer("/healthz", (200, "live"))
    site.start("gateway")
    worker.await_answer("/readyz", (200, "ready"))
    said = worker.log.read_text()
    assert said.count("waiting: ") == said.count("going on after") == 1


def test_a_demo_that_is_told_to_end_ends_well(site: Site) -> None:
    log = site.folder / "demo.log"
    command = [sys.executable, "-m", "secondlook", "demo", "--port", "0", "--no-open"]
    with log.open("wb") as stream:
        demo = subprocess.Popen(
            [*command, "--data-dir", str(site.folder / "demo")],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=stream,
            stderr=stream,
            process_group=0,
        )
    site.roles.append(Role("demo", demo, log))
    _wait(lambda: "station  http" in log.read_text() or demo.poll() is not None, 90.0)
    described = json.loads((site.folder / "demo" / "demo.json").read_text())
    os.killpg(demo.pid, signal.SIGTERM)
    assert demo.wait(30) == 0, log.read_text()
    assert "Traceback" not in log.read_text() and "error" not in log.read_text()
    assert not any(Path(f"/proc/{pid}").exists() for pid in described["pids"].values())


def _wait(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)

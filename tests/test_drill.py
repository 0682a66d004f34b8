"""An operator's drill: kill any process, fill a disk, cut a link, let a key end: it is named within 30 seconds.

Whole sites of real processes. What is asked is what an operator asks: `secondlook status` and `secondlook doctor`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from secondlook.cloud.gateway.keys import Registry
from secondlook.main import main
from tests.cloud.servers import free_port, small_disk

ROOT = Path(__file__).parents[1]
NAMED_WITHIN = 30.0
_START_SECONDS = 60.0


@dataclass
class Site:
    """One machine with all roles, as the settings in its folder say."""

    folder: Path
    data: str = "cloud"
    edge_port: int = field(default_factory=free_port)
    link_port: int = (
        0  # where the agent finds the gateway; the gateway's own port unless something lies between
    )
    keys: str = ""
    link_keys: str = ""
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def write(self) -> None:
        self.broker_port, self.station_port = free_port(), free_port()
        (self.folder / "cloud.toml").write_text(
            f'data_dir = "{self.data}"\n[gateway]\nedge_address = "tcp://127.0.0.1:{self.edge_port}"\n{self.keys}'
            f'[broker]\naddress = "tcp://127.0.0.1:{self.broker_port}"\n[station]\nport = {self.station_port}\n'
            '[worker]\ndetector = "builtin"\nthreads = 1\n[refiner]\nthreads = 1\n[retention]\ninterval_seconds = 2.0\n'
        )
        (self.folder / "edge.toml").write_text(
            'edge_id = "gate"\ndata_dir = "edge"\n[source]\naddress = "demo:"\nrealtime = true\nfps = 1.0\n'
            f'resize = "64"\n[link]\ngateway = "tcp://127.0.0.1:{self.link_port or self.edge_port}"\n{self.link_keys}'
            "retry_max_seconds = 2.0\n"
        )

    def start(self, *roles: str) -> None:
        for role in roles:
            config = "edge.toml" if role == "edge" else "cloud.toml"
            with (self.folder / f"{role}.log").open("ab") as log:
                self.running[role] = subprocess.Popen(
                    [sys.executable, "-m", "secondlook", role, "--config", str(self.folder / config)],
                    cwd=ROOT,
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                    stdout=log,
                    stderr=log,
                    process_group=0,
                )

    def kill(self, *roles: str) -> None:
        for role in roles:
            os.killpg(self.running[role].pid, signal.SIGKILL)
            self.running.pop(role).wait()

    def status(self, *flags: str) -> tuple[int, dict[str, Any]]:
        code, out = said("status", "--json", *self.places, *flags)
        return code, json.loads(out)

    def doctor(self, level: str = "fault") -> dict[str, str]:
        _, out = said("doctor", "--json", "--no-rate", *self.places)
        return {one["about"]: one["text"] for one in json.loads(out)["findings"] if one["level"] == level}

    @property
    def places(self) -> tuple[str, ...]:
        return ("--config", str(self.folder / "cloud.toml"), "--edge", str(self.folder / "edge.toml"))

    def conditions(self, *flags: str) -> dict[str, str]:
        return {one["name"]: one["text"] for one in self.status(*flags)[1]["conditions"]}

    def await_well(self, *flags: str) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            code, status = self.status(*flags)
            frames = (status["gateway"] or {}).get("received", 0)
            if code == 0 and frames > 2:
                return
            assert time.monotonic() < deadline, (status["conditions"], self.logs())
            time.sleep(0.5)

    def await_named(self, *names: str) -> dict[str, str]:
        deadline = time.monotonic() + NAMED_WITHIN
        while not set(names) <= (found := self.conditions()).keys():
            assert time.monotonic() < deadline, (found, self.logs())
            time.sleep(0.5)
        return found

    def logs(self) -> str:
        return "\n".join(f"{path.name}:\n{path.read_text()[-1500:]}" for path in self.folder.glob("*.log"))


def said(*arguments: str) -> tuple[int, str]:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = main(list(arguments))
    return code, out.getvalue()


@contextlib.contextmanager
def site_of(folder: Path, **other: Any) -> Iterator[Site]:
    site = Site(folder, **other)
    site.write()
    try:
        yield site
    finally:
        site.kill(*site.running)


class Wire:
    """A TCP proxy that can be cut: what went through it stands still, and nothing new gets through."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._whole = threading.Event()
        self._whole.set()
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        self._whole.set()

    def close(self) -> None:
        self.mend()
        for end in (self._listener, *self._ends):
            _end(end)
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                self._ends.append(here)
                try:
                    there = socket.create_connection(("127.0.0.1", self._to_port))
                except OSError:  # nobody listens there yet
                    _end(here)
                    continue
                self._ends.append(there)
                for one, other in ((here, there), (there, here)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                self._whole.wait()
                other.sendall(data)
        for end in (one, other):
            _end(end)


def _end(connection: socket.socket) -> None:
    """Shut down, which wakes the thread that reads it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def test_any_process_that_is_killed_is_named(tmp_path: Path) -> None:
    with site_of(tmp_path) as site:
        site.start("gateway", "worker", "refiner", "station", "retention", "edge")
        site.await_well()
        code, status = site.status()
        assert code == 0 and {one["role"] for one in status["gateway"]["workers"]} == {"worker", "refiner"}
        assert status["reviews"] is not None and status["station"] == "live"
        site.kill("worker", "refiner", "station", "edge")
        began = time.monotonic()
        found = site.await_named("worker-away", "station-away", "camera-away")
        away = {
            one["subject"].split()[0]
            for one in site.status()[1]["conditions"]
            if one["name"] == "worker-away"
        }
        while away != {"worker", "refiner"}:
            assert time.monotonic() - began < NAMED_WITHIN
            away = {
                one["subject"].split()[0]
                for one in site.status()[1]["conditions"]
                if one["name"] == "worker-away"
            }
        assert "camera host gate is away" in found["camera-away"]
        faults = site.doctor()
        assert "it does not run" in faults["gate agent"]
        warnings = site.doctor("warning")
        assert {"worker", "refiner", "station", "worker-away"} <= warnings.keys()
        # And it said so by itself, a line each.
        log = (tmp_path / "gateway.log").read_text()
        assert (
            log.count("camera host gate is away") == 1 and log.count("is away: nothing was heard of it") == 3
        )
        site.kill("gateway", "retention")
        found = site.await_named("gateway-away")
        assert "gateway" in site.doctor()
        site.start("gateway")
        deadline = time.monotonic() + _START_SECONDS
        while "gateway-away" in site.conditions():
            assert time.monotonic() < deadline
            time.sleep(0.5)
        # Retention runs every 2 s here; three times ten seconds without it are too many.
        status_of_retention = json.loads((tmp_path / "cloud" / "retention.json").read_text())
        status_of_retention["at"] -= 60
        (tmp_path / "cloud" / "retention.json").write_text(json.dumps(status_of_retention))
        assert "retention-late" in site.conditions()


def test_a_link_that_is_cut_is_named_on_both_sides_and_when_it_is_back(tmp_path: Path) -> None:
    edge_port = free_port()
    with (
        contextlib.closing(Wire(edge_port)) as wire,
        site_of(tmp_path, edge_port=edge_port, link_port=wire.port) as site,
    ):
        site.start("gateway", "worker", "refiner", "edge")
        site.await_well("--no-station")
        wire.cut()
        found = site.await_named("camera-away")  # by the gateway
        assert "gate" in found["camera-away"]
        # The agent hears nothing for link.silence_seconds (20 s) before it gives the connection up.
        deadline = time.monotonic() + NAMED_WITHIN + 10
        while "link-down" not in site.conditions():
            assert time.monotonic() < deadline, site.logs()
            time.sleep(0.5)
        wire.mend()
        site.await_well("--no-station")
        log = (tmp_path / "gateway.log").read_text()
        assert (
            log.count("camera host gate is away") == 2
        )  # as it began, and in the line that says that it is over
        assert "over after" in log


def test_a_disk_that_fills_is_named(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1024) as disk, site_of(tmp_path, data=str(disk / "cloud")) as site:
        site.start("gateway", "worker", "refiner", "edge")
        site.await_well("--no-station")
        (disk / "full").write_bytes(b"x" * (700 << 20))
        found = site.await_named("disk-low")
        assert str(disk) in found["disk-low"]
        faults = site.doctor()
        assert "free at" in faults["disk"]
        deadline = time.monotonic() + NAMED_WITHIN
        while "is low" not in (tmp_path / "gateway.log").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.2)
        (disk / "full").unlink()
        site.await_well("--no-station")


def test_a_key_that_ends_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (("gateway", "--role", "gateway"), ("gate",)):
        assert said("keys", "new", *arguments)[0] == 0
    keys = 'secret_key_file = "keys/gateway.key_secret"\nregistry_file = "keys/registry.json"\n'
    link = 'server_public_key_file = "keys/gateway.key"\nsecret_key_file = "keys/gate.key_secret"\n'
    with site_of(tmp_path, keys=keys, link_keys=link) as site:
        site.start("gateway", "worker", "refiner", "edge")
        site.await_well("--no-station")
        registry = Registry(tmp_path / "keys" / "registry.json")
        registry.rotate(
            "gate", "b" * 40, overlap_seconds=1, now=time.time()
        )  # and nobody brought the new one
        found = site.await_named("key-refused")
        assert "gate is refused: its key was revoked or has ended" in found["key-refused"]
        faults = site.doctor()
        assert "does not accept this host's key" in faults["gate link"]
        assert "keys list" in (tmp_path / "edge.log").read_text()
        assert said("keys", "revoke", "gate")[0] == 0
        # Let in again with the key that the host has: the last but one.
        listed = json.loads((tmp_path / "keys" / "registry.json").read_text())
        listed["keys"] = listed["keys"][:1]
        (tmp_path / "keys" / "registry.json").write_text(json.dumps(listed))
        assert said("keys", "admit", "gate")[0] == 0
        site.await_well("--no-station")

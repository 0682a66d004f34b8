"""The processes of a chaos run: two camera hosts behind proxies, gateway, workers, reviewer, and a broker if wanted.

Whatever ends is started again, as a service manager would. What is supposed to run, and what was asked to end, is
known, so that an end nobody asked for is told from one that somebody did.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cloud.bench.pipeline import free_ports
from cloud.demo.settings import to_toml
from tests.chaos.proxy import Proxy

ROOT = Path(__file__).parents[2]
EDGES = ("edge-0", "edge-1")
WORKERS = ("worker-0", "worker-1")
_ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
_SECONDLOOK = (sys.executable, "-P", "-m", "shared.main")
_VIDEO_FRAMES = 9000
_FPS = 5
_MOST_PROBLEMS = 50


@dataclass
class _Member:
    command: tuple[str, ...]
    log: Path
    says_ready: str  # in its log, once it works
    process: subprocess.Popen[bytes] | None = None
    asked_to_end: bool = False
    log_begins: int = 0  # where the log of the present process begins

    @property
    def is_ready(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            return False
        with self.log.open(errors="replace") as log:
            log.seek(self.log_begins)
            return self.says_ready in log.read()


@dataclass
class Fleet:
    """All processes, by name. `problems` gathers what must not happen and is not about single frames."""

    folder: Path  # logs, keys and settings
    cloud: Path  # data of the cloud side
    spools: dict[str, Path]  # data of each camera host
    backend: str  # sqlite or nats
    problems: list[str] = field(default_factory=list)
    excused: set[str] = field(default_factory=set)  # may end by themselves now: their disk is full

    def __post_init__(self) -> None:
        self._members: dict[str, _Member] = {}
        self.gateway_port, self.broker_port, self.nats_port = free_ports(3)
        self.proxies = {name: Proxy(self.gateway_port) for name in EDGES}
        self._make_keys()
        self._write_settings()

    @property
    def names(self) -> list[str]:
        return list(self._members)

    @property
    def ready(self) -> list[str]:
        """Those that run and have started up."""
        return [name for name, member in self._members.items() if member.is_ready]

    @property
    def broker_address(self) -> str:
        return f"tcp://127.0.0.1:{self.broker_port}"

    def start(self) -> None:
        cloud = str(self.folder / "cloud.toml")
        if self.backend == "nats":
            nats = ("nats-server", "--config", str(self.folder / "nats.conf"))
            self._add("broker", nats, "Server is ready")
        self._add("gateway", (*_SECONDLOOK, "gateway", "--config", cloud), "camera hosts connect")
        for name in WORKERS:
            self._add(name, (sys.executable, "-m", "tests.chaos.worker", cloud, name), "ready")
        self._add("reviewer", (*_SECONDLOOK, "reviewer", "--config", cloud), "refining with")
        for name in EDGES:
            self._add(name, (*_SECONDLOOK, "edge", "--config", str(self.folder / f"{name}.toml")), "boot")

    def signal(self, name: str, number: int) -> None:
        member = self._members[name]
        if member.process is not None and member.process.poll() is None:
            member.asked_to_end |= number in (signal.SIGKILL, signal.SIGTERM)
            member.process.send_signal(number)

    def tend(self) -> None:
        """Start again what has ended, and note an end that nobody asked for."""
        for name, member in self._members.items():
            if member.process is None or member.process.poll() is None:
                continue
            if not member.asked_to_end and name not in self.excused and len(self.problems) < _MOST_PROBLEMS:
                self.problems.append(
                    f"{name} ended with {member.process.returncode}: {_last_line(member.log)}"
                )
            self._launch(member)

    def retire(self, name: str, seconds: float = 30.0) -> None:
        """End a process for good, politely."""
        self.signal(name, signal.SIGCONT)
        self.signal(name, signal.SIGTERM)
        member = self._members.pop(name)
        assert member.process is not None
        try:
            member.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.problems.append(f"{name} did not end within {seconds:g} s of SIGTERM")
        _end_group(member.process)

    def stop_capturing(self) -> None:
        """Let the camera hosts go on without new frames (but for one), to deliver and to answer requests."""
        for name in EDGES:
            self.retire(name)
            command = (*_SECONDLOOK, "edge", "--config", str(self.folder / f"{name}.toml"), "--frames", "1")
            self._add(name, command, "boot")

    def close(self) -> None:
        """End everything at once, and look for crashes in the logs."""
        for member in self._members.values():
            if member.process is not None:
                _end_group(member.process)
        for proxy in self.proxies.values():
            proxy.close()
        for log in sorted(self.folder.glob("*.log")):
            text = log.read_text(errors="replace")
            if "Traceback" in text:
                self.problems.append(f"{log.name}: {text[text.index('Traceback') :][-1500:]}")

    def _add(self, name: str, command: tuple[str, ...], says_ready: str) -> _Member:
        member = self._members[name] = _Member(command, self.folder / f"{name}.log", says_ready)
        self._launch(member)
        return member

    def _launch(self, member: _Member) -> None:
        if member.process is not None:
            _end_group(member.process)  # a capture process may be left
        with member.log.open("ab") as output:
            member.log_begins = output.tell()
            member.process = subprocess.Popen(
                member.command, cwd=ROOT, env=_ENVIRONMENT, stdout=output, stderr=output, process_group=0
            )
        member.asked_to_end = False

    def _make_keys(self) -> None:
        for name, role in (("gateway", "gateway"), *((name, "edge") for name in (*EDGES, "evil"))):
            command = (*_SECONDLOOK, "keys", "new", name, "--folder", str(self.folder), "--role", role)
            registry = ("--registry", str(self.folder / "registry.json"))
            subprocess.run(
                (*command, *registry), cwd=ROOT, env=_ENVIRONMENT, check=True, stdout=subprocess.DEVNULL
            )

    def _write_settings(self) -> None:
        secret, registry = self.folder / "gateway.key_secret", self.folder / "registry.json"
        cloud: dict[str, Any] = {
            "data_dir": str(self.cloud),
            "queue": f"nats://127.0.0.1:{self.nats_port}" if self.backend == "nats" else None,
            "gateway": {
                "edge_address": f"tcp://127.0.0.1:{self.gateway_port}",
                "secret_key_file": str(secret),
                "registry_file": str(registry),
            },
            "gateway.limits": {"stall_seconds": 0.5},
            # A NATS server refuses a stream that may grow beyond its store, and the disks here are small.
            "gateway.queue": {"max_bytes": 8 << 20},
            "gateway.requests": {"lease_seconds": 3.0, "busy_seconds": 0.5},
            "broker": {"address": self.broker_address, "timeout_seconds": 3.0},
            "policy": {"every_nth": 15},
            "worker": {"lease_seconds": 5.0, "threads": 1},
            "reviewer": {
                "lease_seconds": 5.0,
                "deadline_seconds": 20.0,
                "postfilter": "rrdb-fast",
                "threads": 1,
            },
        }
        (self.folder / "cloud.toml").write_text(to_toml(cloud))
        if self.backend == "nats":
            (self.folder / "nats.conf").write_text(_nats_settings(self.nats_port, self.cloud / "nats"))
        video = self.folder / "scene.avi"
        _write_video(video)
        for number, name in enumerate(EDGES):
            # The second one has little room, and so a reason for tombstones whenever its link is down.
            spool = (
                {"min_free_bytes": 0, "max_bytes": 15_000, "drop": "keep-keys"}
                if number
                else {"min_free_bytes": 0}
            )
            (self.folder / f"{name}.toml").write_text(to_toml(self._edge_settings(name, video, spool)))

    def _edge_settings(self, name: str, video: Path, spool: dict[str, Any]) -> dict[str, Any]:
        return {
            "edge_id": name,
            "data_dir": str(self.spools[name]),
            # A machine under this much load may starve a capture process for long.
            "source": {
                "address": str(video),
                "realtime": True,
                "fps": _FPS,
                "open_seconds": 120.0,
                "stall_seconds": 120.0,
            },
            "codec": {"key_interval": 5, "threads": 1},
            "spool": spool,
            "link": {
                "gateway": f"tcp://127.0.0.1:{self.proxies[name].port}",
                "server_public_key_file": str(self.folder / "gateway.key"),
                "secret_key_file": str(self.folder / f"{name}.key_secret"),
                "resend_seconds": 3.0,
                "hello_seconds": 1.0,
                "ping_seconds": 0.5,
                "silence_seconds": 2.5,
                "retry_min_seconds": 0.1,
                "retry_max_seconds": 1.0,
            },
        }


def backends() -> list[str]:
    """The queues that this machine can run."""
    return ["sqlite", "nats"] if shutil.which("nats-server") else ["sqlite"]


def _nats_settings(port: int, store: Path) -> str:
    version = subprocess.run(["nats-server", "--version"], capture_output=True, text=True, check=True).stdout
    numbers = tuple(int(part) for part in version.rpartition("v")[2].strip().split(".")[:2])
    # Servers before 2.10 do not know the setting: a SIGKILL loses nothing there, but a power cut may.
    sync = "sync_interval: always" if numbers >= (2, 10) else ""
    # Without a limit it takes what is free when it starts: nothing, for good, when that is while the disk is full.
    jetstream = f'store_dir: "{store}"\nmax_file_store: 64MB\n{sync}\n'
    return f'host: "127.0.0.1"\nport: {port}\nmax_payload: 8MB\njetstream {{\n{jetstream}}}\n'


def _write_video(path: Path) -> None:
    """A bright square that wanders over a dim ground."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), _FPS, (64, 64))
    ground = np.random.default_rng(1).integers(60, 120, (64, 64, 3), np.uint8)
    for number in range(_VIDEO_FRAMES):
        frame = ground.copy()
        x, y = 3 * number % 50, 7 * (number // 50) % 50
        frame[y : y + 14, x : x + 14] = (40, 200, 240)
        writer.write(frame)
    writer.release()


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1] if lines else "it said nothing"

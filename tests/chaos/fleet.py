"""The processes of a chaos run: camera hosts, each on a link of its own, gateways, workers, a refiner, and servers.

Whatever ends is started again, as a service manager would. What is supposed to run, and what was asked to end, is
known, so that an end nobody asked for is told from one that somebody did.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secondlook.cloud.bench.pipeline import free_ports
from tests.chaos.namespace import Namespace, namespaces_permitted
from tests.chaos.proxy import Proxy
from tests.chaos.settings import EDGES, WORKERS, write_settings
from tests.cloud.servers import POSTGRESQL_USER, children, find_nats, find_postgresql, make_postgresql

ROOT = Path(__file__).parents[2]
BACKENDS = ("sqlite", "nats", "servers")
_ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
_SECONDLOOK = (sys.executable, "-P", "-m", "secondlook")
_MAX_PROBLEMS = 50


@dataclass
class _Member:
    command: tuple[str, ...]
    log: Path
    says_ready: str  # in its log, once it works
    options: dict[str, Any] = field(default_factory=dict)  # of Popen
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
    backend: str  # sqlite; nats: the queue on NATS; servers: the rest on PostgreSQL besides, and two gateways
    family: str = "lite"  # what base layers are coded by
    problems: list[str] = field(default_factory=list)
    excused: set[str] = field(default_factory=set)  # may end by themselves now: no room, no database

    def __post_init__(self) -> None:
        self._members: dict[str, _Member] = {}
        self.gateways = ("gateway-0", "gateway-1") if self.backend == "servers" else ("gateway",)
        self.nats_port, self.database_port, *ports = free_ports(2 + 2 * len(self.gateways))
        self.gateway_ports = dict(zip(self.gateways, ports[::2], strict=True))
        self.broker_ports = dict(zip(self.gateways, ports[1::2], strict=True))
        link = Namespace if namespaces_permitted() else Proxy
        self.links: dict[str, Namespace | Proxy] = {
            name: link(self.gateway_ports[self.gateway_of(name)]) for name in EDGES
        }
        self._make_keys()
        write_settings(self)

    @property
    def names(self) -> list[str]:
        return list(self._members)

    @property
    def ready(self) -> list[str]:
        """Those that run and have started up."""
        return [name for name, member in self._members.items() if member.is_ready]

    @property
    def catalogue_url(self) -> str:
        if self.backend == "servers":
            return f"postgresql+psycopg://secondlook:pass-word@127.0.0.1:{self.database_port}/postgres"
        return f"sqlite:///{self.cloud / 'catalogue.db'}"

    @property
    def blobs_url(self) -> str:
        return str(self.cloud / "blobs")

    def gateway_of(self, name: str) -> str:
        """The gateway that a camera host or a worker connects to: they take turns."""
        return self.gateways[int(name[-1]) % len(self.gateways)] if name[-1].isdigit() else self.gateways[0]

    def broker_address(self, gateway: str) -> str:
        return f"tcp://127.0.0.1:{self.broker_ports[gateway]}"

    def start(self) -> None:
        if self.backend != "sqlite":
            nats = (str(find_nats()), "--config", str(self.folder / "nats.conf"))
            self._add("broker", nats, "Server is ready")
        if self.backend == "servers":
            self._add_database()
        for name in self.gateways:
            self._add(
                name, (*_SECONDLOOK, "gateway", "--config", self._settings(name)), "camera hosts connect"
            )
        for name in WORKERS:
            settings = self._settings(self.gateway_of(name))
            self._add(name, (sys.executable, "-m", "tests.chaos.worker", settings, name), "ready")
        refiner = (*_SECONDLOOK, "refiner", "--config", self._settings(self.gateway_of("refiner")))
        self._add("refiner", refiner, "refining with")
        for name in EDGES:
            self._add_edge(name)

    def processes(self, name: str) -> list[int]:
        """Of a member that runs."""
        process = self._members[name].process
        if process is None or process.poll() is not None:
            return []
        # A process of its own serves each connection of a database.
        return [process.pid, *(children(process.pid) if name == "database" else ())]

    def signal(self, name: str, number: int) -> None:
        member = self._members[name]
        processes = self.processes(name)
        member.asked_to_end |= bool(processes) and number in (signal.SIGKILL, signal.SIGTERM)
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    def end_anyhow(self, name: str, seconds: float) -> None:
        """SIGTERM, and SIGKILL for a process that has not ended `seconds` later: as a service manager does."""
        process = self._members[name].process
        self.signal(name, signal.SIGTERM)
        assert process is not None
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()

    def halt(self, name: str) -> None:
        """End a process at once; it has ended when this returns."""
        member = self._members[name]
        assert member.process is not None
        member.asked_to_end = True
        _end_group(member.process)

    def tend(self) -> None:
        """Start again what has ended, and note an end that nobody asked for."""
        for name, member in self._members.items():
            if member.process is None or member.process.poll() is None:
                continue
            if not member.asked_to_end and name not in self.excused and len(self.problems) < _MAX_PROBLEMS:
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
            self._add_edge(name, "--frames", "1")

    def close(self) -> None:
        """End everything at once, and look for crashes in the logs."""
        for member in self._members.values():
            if member.process is not None:
                _end_group(member.process)
        for link in self.links.values():
            link.close()
        for log in sorted(self.folder.glob("*.log")):
            text = log.read_text(errors="replace")
            if "Traceback" in text:
                self.problems.append(f"{log.name}: {text[text.index('Traceback') :][-1500:]}")

    def _settings(self, name: str) -> str:
        return str(self.folder / f"{name}.toml")

    def _add(self, name: str, command: tuple[str, ...], says_ready: str, **options: Any) -> None:
        options = {"cwd": ROOT, "env": _ENVIRONMENT, **options}
        member = self._members[name] = _Member(command, self.folder / f"{name}.log", says_ready, options)
        self._launch(member)

    def _add_edge(self, name: str, *flags: str) -> None:
        command = (*_SECONDLOOK, "edge", "--config", self._settings(name), *flags)
        self._add(name, (*self.links[name].prefix, *command), "boot")

    def _add_database(self) -> None:
        """PostgreSQL on the cloud's disk, with as little of write-ahead log as it takes."""
        folder, binaries = self.cloud / "database", find_postgresql()
        assert binaries is not None
        folder.mkdir()
        self.folder.chmod(0o711)  # its user has to reach it
        sizes = {"min_wal_size": "32MB", "max_wal_size": "64MB", "shared_buffers": "16MB"}
        command = make_postgresql(binaries, folder, self.database_port, **sizes)
        self._add("database", tuple(command), "ready to accept connections", cwd=folder, **POSTGRESQL_USER)

    def _launch(self, member: _Member) -> None:
        if member.process is not None:
            _end_group(member.process)  # a capture process may be left
        with member.log.open("ab") as output:
            member.log_begins = output.tell()
            member.process = subprocess.Popen(
                member.command, stdout=output, stderr=output, process_group=0, **member.options
            )
        member.asked_to_end = False

    def _make_keys(self) -> None:
        for name, role in (("gateway", "gateway"), *((name, "edge") for name in (*EDGES, "evil"))):
            command = (*_SECONDLOOK, "keys", "new", name, "--folder", str(self.folder), "--role", role)
            registry = ("--registry", str(self.folder / "registry.json"))
            subprocess.run(
                (*command, *registry), cwd=ROOT, env=_ENVIRONMENT, check=True, stdout=subprocess.DEVNULL
            )


def backends() -> list[str]:
    """Those of BACKENDS that this machine can run."""
    there = {"sqlite": True, "nats": find_nats() is not None}
    there["servers"] = there["nats"] and find_postgresql() is not None
    return [name for name in BACKENDS if there[name]]


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1] if lines else "it said nothing"

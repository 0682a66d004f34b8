"""Servers that tests start for themselves: own port, own folder, own configuration, gone afterwards."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

_START_SECONDS = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def freeze(pid: int, frozen: bool) -> None:
    """Stop a process, and wait until all of it has stopped; or let it go on."""
    os.kill(pid, signal.SIGSTOP if frozen else signal.SIGCONT)
    threads = Path(f"/proc/{pid}/task")
    while frozen and any(") T " not in (one / "stat").read_text() for one in threads.iterdir()):
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """Processes that a process started, and that run."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    return [int(child) for child in listed.stdout.split()]


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


@dataclass
class NatsServer:
    """A NATS server with JetStream that can be killed and started again on its folder."""

    folder: Path
    port: int = field(default_factory=free_port)
    options: str = "max_payload: 8MB"
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        config = self.folder / "nats.conf"
        sync = "sync_interval: always" if nats_version() >= (2, 10) else ""
        config.write_text(
            f"host: 127.0.0.1\nport: {self.port}\n{self.options}\n"
            f'jetstream {{ store_dir: "{self.folder}/store"\nmax_file_store: 200GB\n{sync} }}\n'
        )
        command = [nats_binary(), "-c", str(config)]
        log = self.folder / "log"
        with log.open("ab") as stream:
            self.process = subprocess.Popen(command, stdout=stream, stderr=stream)
        wait_for_port(self.port, self.process, log)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def freeze(self, frozen: bool) -> None:
        assert self.process is not None
        freeze(self.process.pid, frozen)


def find_nats() -> str | None:
    return shutil.which("nats-server", path=f"{os.environ['PATH']}:/usr/sbin")


def nats_binary() -> str:
    """Skips the test where there is none."""
    found = find_nats()
    if found is None:
        pytest.skip("nats-server is not installed")
    return found


def nats_version() -> tuple[int, int]:
    told = subprocess.run([nats_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    major, minor = re.findall(r"\d+", told)[:2]
    return int(major), int(minor)


@contextmanager
def nats_running(folder: Path | None = None, options: str = "max_payload: 8MB") -> Iterator[NatsServer]:
    nats_binary()
    with tempfile.TemporaryDirectory(prefix="nats-") as temporary:
        server = NatsServer(folder or Path(temporary), options=options)
        server.start()
        try:
            yield server
        finally:
            server.kill()


@dataclass(frozen=True)
class PostgreSQL:
    """A PostgreSQL server; any number of schemas in it, each as good as a database of its own."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://secondlook:pass-word@127.0.0.1:{self.port}/postgres"

    def create(self, schema: str) -> str:
        """The URL of a new, empty schema."""
        with self.connected() as connection:
            connection.execute(f'CREATE SCHEMA "{schema}"')  # type: ignore[call-overload]
        return f"{self.url}?options=-csearch_path%3D{schema}"

    def connected(self) -> psycopg.Connection[tuple[object, ...]]:
        """A connection of the tests' own, as soon as the server takes one."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                return psycopg.connect(self.url.replace("+psycopg", ""), autocommit=True)
            except psycopg.OperationalError:
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def freeze(self, frozen: bool) -> None:
        # A backend of its own serves each connection.
        for pid in (self.process.pid, *children(self.process.pid)):
            freeze(pid, frozen)


def find_postgresql() -> Path | None:
    """The folder of its programs."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    found = shutil.which("initdb") or (str(folders[-1] / "initdb") if folders else None)
    return None if found is None else Path(found).parent


# PostgreSQL refuses to run as root; its package made a user for it.
POSTGRESQL_USER: dict[str, Any] = (
    {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
)


def make_postgresql(binaries: Path, folder: Path, port: int, **settings: object) -> list[str]:
    """Make a database cluster in `folder`, which is there; the command that runs it, as POSTGRESQL_USER."""
    (folder / "password").write_text("pass-word")
    if POSTGRESQL_USER:
        for path in (folder, folder / "password"):
            shutil.chown(path, "postgres", "postgres")
    subprocess.run(
        [
            *(binaries / "initdb", "-D", folder / "data", "-U", "secondlook", "-A", "scram-sha-256"),
            *("--no-sync", f"--pwfile={folder / 'password'}", "-E", "UTF8", "--no-locale"),
        ],
        check=True,
        capture_output=True,
        cwd=folder,
        **POSTGRESQL_USER,
    )
    settings = {"port": port, "unix_socket_directories": folder, "listen_addresses": "127.0.0.1", **settings}
    options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    return [str(binaries / "postgres"), "-D", str(folder / "data"), *options]


@contextmanager
def postgresql_running() -> Iterator[PostgreSQL]:
    binaries = find_postgresql()
    if binaries is None:
        pytest.skip("postgresql is not installed")
    with tempfile.TemporaryDirectory(prefix="postgresql-") as name:
        folder, port = Path(name), free_port()
        command = make_postgresql(binaries, folder, port, fsync="off", max_connections=200)
        log = folder / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(command, stdout=stream, stderr=stream, cwd=folder, **POSTGRESQL_USER)
        try:
            wait_for_port(port, process, log)
            server = PostgreSQL(port, process)
            server.connected().close()
            yield server
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait()


def point_aws_at(environment: pytest.MonkeyPatch, folder: Path, address: str) -> None:
    """Write the two files that AWS clients read, and let this process find no others."""
    (folder / "config").write_text(f"[default]\nregion = us-east-1\nendpoint_url = {address}\n")
    (folder / "credentials").write_text("[default]\naws_access_key_id = us\naws_secret_access_key = hush\n")
    environment.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    environment.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))


@contextmanager
def s3_running(folder: Path) -> Iterator[str]:
    """An object store with the bucket ``frames``; yields its address."""
    pytest.importorskip("moto")
    port = free_port()
    log = folder / "s3.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=stream,
            stderr=stream,
        )
    try:
        wait_for_port(port, process, log)
        with pytest.MonkeyPatch.context() as environment:
            point_aws_at(environment, folder, f"http://127.0.0.1:{port}")
            boto3 = pytest.importorskip("boto3")
            boto3.session.Session().client("s3").create_bucket(Bucket="frames")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own; skips where one may not be mounted."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)

"""A handful of chaos rounds; `make chaos ROUNDS=200` runs many. And: the audit finds what it looks for."""

from __future__ import annotations

import json
import random
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, select

from secondlook.cloud.catalogue import (
    DetectedBox,
    Frame,
    FrameTombstone,
    NewFrame,
    open_catalogue,
    store_frame,
    store_tombstones,
)
from secondlook.cloud.storage.blobs import open_blobs
from secondlook.edge.config import SpoolConfig
from secondlook.edge.spool import Safe, Spool, SpooledFrame
from secondlook.shared.detection import Detection
from secondlook.shared.packet import FrameInfo
from tests.chaos.audit import Audit, audit
from tests.chaos.fleet import backends
from tests.chaos.namespace import Namespace, namespaces_permitted
from tests.chaos.proxy import Proxy, Weather

ROOT = Path(__file__).parents[2]
BOOT = "ab" * 16


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", ["sqlite", "servers"])
def test_a_few_rounds_lose_and_double_nothing(backend: str) -> None:
    if backend not in backends():
        pytest.skip("nats-server and postgresql are not installed")
    command = [sys.executable, "-m", "tests.chaos", "--rounds", "4", "--seed", "5", "--backends", backend]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=550, check=False)
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(ended.stdout.splitlines()[-1])
    assert (figures["rounds"], figures["lost"], figures["duplicated"]) == (4, 0, 0)
    assert figures["frames"] > 0
    assert figures["backends"] == [backend]


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", ["sqlite", "servers"])
def test_an_older_copy_put_back_loses_and_doubles_nothing(backend: str) -> None:
    if backend not in backends():
        pytest.skip("nats-server and postgresql are not installed")
    command = [sys.executable, "-m", "tests.chaos", "--rounds", "1", "--seed", "3", "--backends", backend]
    ended = subprocess.run(
        [*command, "--only", "restore"], cwd=ROOT, capture_output=True, text=True, timeout=550, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "restore an older copy" in ended.stderr
    figures = json.loads(ended.stdout.splitlines()[-1])
    assert (figures["lost"], figures["duplicated"]) == (0, 0)


@pytest.fixture
def stores(tmp_path: Path) -> Path:
    """What a run leaves that captured three frames, of which the last was dropped."""
    spool = Spool(tmp_path / "edge-0", SpoolConfig(min_free_bytes=0), BOOT, 0)
    spool.put(
        [SpooledFrame(FrameInfo(BOOT, seq, 0, 8, 8, None, 3), b"base", b"enh") for seq in range(3)],
        0,
    )
    spool.mark_safe([Safe(BOOT, 2)])
    spool.close()
    (tmp_path / "cloud").mkdir()
    catalogue = open_catalogue(f"sqlite:///{tmp_path / 'cloud' / 'catalogue.db'}")
    blobs = open_blobs(str(tmp_path / "cloud" / "blobs"))
    for seq in range(2):
        blobs.put(f"base/{seq}", b"base")
        frame = NewFrame("edge-0", "yard", 2, FrameInfo(BOOT, seq, 1, 8, 8, None, 3), f"base/{seq}", 4)
        box = Detection("thing", 0.9, (1.0, 1.0, 5.0, 4.0))
        store_frame(catalogue, frame, [box], detector="one-box", reasons=[], now_ns=3)
    store_tombstones(catalogue, [FrameTombstone("edge-0", BOOT, 2, 2, "spool-full", 4)])
    catalogue.close()
    return tmp_path


def look(stores: Path) -> Audit:
    cloud = stores / "cloud"
    return audit(f"sqlite:///{cloud / 'catalogue.db'}", str(cloud / "blobs"), {"edge-0": stores / "edge-0"})


def test_the_audit_is_content_with_what_is_in_order(stores: Path) -> None:
    assert look(stores) == Audit(frames=3, tombstones=1)


def test_the_audit_finds_what_is_lost_doubled_or_at_odds(stores: Path) -> None:
    catalogue = open_catalogue(f"sqlite:///{stores / 'cloud' / 'catalogue.db'}")
    with catalogue.writing() as session:
        first, second = session.scalars(select(Frame.id).order_by(Frame.seq))
        box = {"label": "x", "score": 0.5, "x0": 0, "y0": 0, "x1": 1, "y1": 1, "detector": "d"}
        session.execute(insert(DetectedBox).values(frame_id=first, **box))
        session.execute(delete(DetectedBox).where(DetectedBox.frame_id == second))
    catalogue.close()
    (stores / "cloud" / "blobs" / "base" / "0").write_bytes(b"other")
    with closing(sqlite3.connect(stores / "edge-0" / "spool.db")) as spool:
        spool.execute("UPDATE frames SET safe = 0 WHERE seq = 1")
        spool.commit()
    found = look(stores)
    assert [seq for _, _, seq in found.duplicated] == [0]
    assert [seq for _, _, seq in found.lost] == [1]
    assert len(found.problems) == 2


def serve_echo(host: str) -> Iterator[int]:
    """A server that says again what it hears."""
    with socket.create_server((host, 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    while data := connection.recv(1000):
                        connection.sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def echo() -> Iterator[int]:
    yield from serve_echo("127.0.0.1")


@pytest.fixture
def everywhere() -> Iterator[int]:
    """The same on all interfaces."""
    yield from serve_echo("0.0.0.0")


def test_the_proxy_passes_holds_and_cuts(echo: int) -> None:
    proxy = Proxy(echo)
    with socket.create_connection(("127.0.0.1", proxy.port), 5) as link:
        link.sendall(b"fine")
        assert link.recv(10) == b"fine"
        proxy.weather = Weather.HALF_OPEN
        time.sleep(0.1)
        link.sendall(b"held")
        link.settimeout(0.3)
        with pytest.raises(TimeoutError):
            link.recv(10)
        link.settimeout(5)
        proxy.weather = Weather.SLOW
        assert link.recv(10) == b"held"
        noise, got = random.Random(1).randbytes(3000), b""
        started = time.monotonic()
        link.sendall(noise)
        while len(got) < len(noise):
            got += link.recv(5000)
        assert got == noise
        assert time.monotonic() - started > 0.1
        proxy.weather = Weather.CUT
        assert link.recv(10) == b""
    proxy.close()


_CLIENT = """
import socket, sys
link = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
for line in sys.stdin:
    link.sendall(b"x" * int(line))
    left = int(line)
    while left:
        left -= len(link.recv(left))
    print("back", flush=True)
"""


def test_a_cable_passes_holds_and_comes_back(everywhere: int) -> None:
    """Cut or half open, nothing passes and the connection lives: what was sent meanwhile arrives later."""
    if not namespaces_permitted():
        pytest.skip("network namespaces are not permitted here")
    cable = Namespace(everywhere)
    host = cable.gateway.removeprefix("tcp://").split(":")[0]
    command = [*cable.prefix, sys.executable, "-c", _CLIENT, host, str(everywhere)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as client:  # type: ignore[call-overload]

        def seconds_of(count: int) -> float:
            started = time.monotonic()
            client.stdin.write(f"{count}\n")
            client.stdin.flush()
            assert client.stdout.readline() == "back\n"
            return time.monotonic() - started

        try:
            seconds_of(10)
            for weather in (Weather.HALF_OPEN, Weather.CUT):
                cable.weather = weather
                healer = threading.Timer(0.7, setattr, (cable, "weather", Weather.FINE))
                healer.start()
                assert seconds_of(10) > 0.6
                healer.join()
            cable.weather = Weather.SLOW
            slow = seconds_of(30_000)
            assert slow > 1.0
            cable.weather = Weather.FINE
            assert seconds_of(30_000) < slow / 2
        finally:
            client.stdin.close()
            client.kill()
            cable.close()

"""Raw sockets at a station process: heads without end, slow senders, readers who take nothing.

An honest request is answered within a second meanwhile, and memory stays where it was.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from secondlook.cloud.config import ConnectionLimits, StationConfig
from secondlook.shared.errors import ConfigError
from tests.cloud.station.process import StationProcess
from tests.cloud.station.seed import seed

GROWTH_MB = 50
HONEST_SECONDS = 1.0
REQUEST_SECONDS = 2.0
PLACES = 16


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StationProcess]:
    folder = tmp_path_factory.mktemp("hostile")
    seed(folder, ("ready",))
    (folder / "cloud.toml").write_text(
        f"[station.connections]\nmax_connections = {PLACES}\nrequest_seconds = {REQUEST_SECONDS}\n"
        "stall_seconds = 1.0\n"
    )
    process = StationProcess(folder, "--config", str(folder / "cloud.toml"))
    yield process
    process.kill()


def connected(station: StationProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", station.port), timeout=30)


def answer_to(connection: socket.socket) -> bytes:
    """What comes until the station closes."""
    received = b""
    with contextlib.suppress(OSError):
        while data := connection.recv(65_536):
            received += data
    return received


def pour(connection: socket.socket, piece: bytes, total: int) -> int:
    """Send until all is sent or the station has had enough; how much that was."""
    sent = 0
    with contextlib.suppress(OSError):
        while sent < total:
            connection.sendall(piece)
            sent += len(piece)
    return sent


def held_up(station: StationProcess, attack: Callable[[], object]) -> float:
    """Seconds that the slowest honest request took during an attack; memory is looked at too."""
    before = station.memory_mb()
    thread = threading.Thread(target=attack)
    slowest, growth = 0.0, 0.0
    thread.start()
    while thread.is_alive():
        began = time.monotonic()
        assert httpx.get(f"{station.address}/api/summary", timeout=30).status_code == 200
        slowest = max(slowest, time.monotonic() - began)
        growth = max(growth, station.memory_mb() - before)
        time.sleep(0.02)
    thread.join()
    assert growth < GROWTH_MB
    return slowest


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"GET / HTTP/1.1\r\n", b"x-filler: " + b"y" * 980 + b"\r\n"),  # lines without end
        (b"GET / HTTP/1.1\r\n", b"a:b\r\n" * 200),  # as many as there can be
        (b"GET / HTTP/1.1\r\nx-long: ", b"y" * 65_536),  # one header without end
        (b"GET /", b"y" * 65_536),  # a path without end
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 1000),  # many at once
        (b"", b"\r\n" * 30_000),
    ],
)
def test_heads_without_end_are_refused(station: StationProcess, start: bytes, piece: bytes) -> None:
    def attack() -> None:
        for _ in range(3):
            with connected(station) as connection:
                connection.sendall(start)
                pour(connection, piece, 100_000_000 if b"HTTP/1.1\r\nhost" not in start else 3_000_000)

    assert held_up(station, attack) < HONEST_SECONDS


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"x-long: " + b"y" * 40_000, 431),
        (b"x-long: " + b"y" * 30_000, 200),
        (b"\r\n".join(b"x-%d: y" % number for number in range(150)), 431),
        (b"\r\n".join(b"x-%d: y" % number for number in range(90)), 200),
        (b"x-folded: y\r\n" + b" y\r\n" * 20_000 + b" y", 431),
    ],
)
def test_a_head_has_a_size_and_a_number_of_lines(station: StationProcess, head: bytes, status: int) -> None:
    with connected(station) as connection:
        host = b"host: 127.0.0.1:%d\r\nconnection: close\r\n" % station.port
        connection.sendall(b"GET /login HTTP/1.1\r\n" + host + head + b"\r\n\r\n")
        assert answer_to(connection).startswith(b"HTTP/1.1 %d " % status)


def test_slow_senders_are_cut_and_take_nobodys_place(station: StationProcess) -> None:
    """Three times as many as there are places, each with a byte of a header now and then."""
    ended: list[float] = []

    def drip() -> None:
        began = time.monotonic()
        with contextlib.suppress(OSError), connected(station) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nx-slow: ")
            while time.monotonic() - began < 3 * REQUEST_SECONDS:
                connection.sendall(b"y")
                time.sleep(0.1)
        ended.append(time.monotonic() - began)

    def attack() -> None:
        threads = [threading.Thread(target=drip) for _ in range(3 * PLACES)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert held_up(station, attack) < HONEST_SECONDS
    assert len(ended) == 3 * PLACES and max(ended) < 2 * REQUEST_SECONDS


def test_a_body_that_never_comes_is_given_up(station: StationProcess) -> None:
    with connected(station) as connection:
        began = time.monotonic()
        connection.sendall(
            b"POST /api/login HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: application/json\r\n"
            b"content-length: 100\r\n\r\n{" % station.port
        )
        assert not answer_to(connection).startswith(b"HTTP/1.1 200")
        assert REQUEST_SECONDS * 0.5 < time.monotonic() - began < REQUEST_SECONDS * 3


def test_a_reader_who_takes_nothing_is_cut(station: StationProcess) -> None:
    """Asks for pictures without end and reads none of them."""
    path = b"/api/reviews/1/images/refined"
    request = b"GET " + path + b" HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n\r\n" % station.port
    with connected(station) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(0.5)
        began, cut = time.monotonic(), False
        while not cut and time.monotonic() - began < 20:
            try:
                connection.sendall(request * 50)
            except TimeoutError:
                continue
            except OSError:
                cut = True
        assert cut


def test_requests_that_come_together_are_answered_in_turn(station: StationProcess) -> None:
    ask = b"GET /login HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n%s\r\n"
    last = b"connection: close\r\n"
    with connected(station) as connection:
        connection.sendall(ask % (station.port, b"") * 20 + ask % (station.port, last))
        assert answer_to(connection).count(b"HTTP/1.1 200 OK") == 21


def test_strangers_do_not_fill_the_log(station: StationProcess) -> None:
    before = len(station.log().splitlines())
    for _ in range(100):
        with connected(station) as connection:
            connection.sendall(b"\x16\x03\x01 not http\r\n\r\n")
            assert answer_to(connection).startswith(b"HTTP/1.1 400")
    assert len(station.log().splitlines()) - before < 20


def test_limits_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for wrong in ({"max_connections": 7}, {"request_seconds": float("nan")}, {"stall_seconds": float("inf")}):
        with pytest.raises(ConfigError):
            ConnectionLimits(**wrong)  # type: ignore[arg-type]
    assert StationConfig().connections == ConnectionLimits()

"""``/healthz`` and ``/readyz``: the heartbeat of a role, told by HTTP to whoever restarts or routes to it.

- ``/healthz`` is 200 while the loop that does the work comes around, 503 once it has not for ``stall_seconds``.
  Restarting helps then.
- ``/readyz`` is 200 while, besides, the role has started, is not about to end, and reaches the stores it needs.
  Restarting does not help where it is 503; waiting does.

The server has a thread of its own and knows the heartbeat only, so that it answers when the role hangs. Its answers
tell no names, addresses or numbers of frames: it needs no log-in, but belongs on loopback or a network of probes.

``/metrics`` (``shared.metrics``) tells names and numbers, and so has an address of its own, where the two others answer
too. Where both settings name one address, one server has all three.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from secondlook.shared import metrics
from secondlook.shared.errors import ConfigError, PortBusy
from secondlook.shared.settings import Seconds, Settings
from secondlook.shared.watchdog import Watchdog

STALL_SECONDS = 60.0  # as in the systemd units
_START_SECONDS = 300.0  # models may be large, and disks slow
_SLOW_CLIENT_SECONDS = 2.0
_MAX_CLIENTS = 16  # at a time; more are cut off
_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\s:/\[\]]+)):(?P<port>\d{1,5})")


@dataclass(frozen=True)
class HealthConfig(Settings):
    """Where a role tells by HTTP whether it works. Off unless an address is set; the station has its own port."""

    address: str | None = None  # HOST:PORT for /healthz and /readyz, such as "127.0.0.1:7610"
    stall_seconds: Seconds | None = (
        None  # hung when without progress for this long; unset: 60, refiner and retention 300
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.address is not None:
            parse_address(self.address)


@dataclass(frozen=True)
class MetricsConfig(Settings):
    """Where a role tells what it counts and measures, for Prometheus. Off unless an address is set."""

    address: str | None = None  # HOST:PORT for /metrics, /healthz and /readyz, such as "127.0.0.1:7620"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.address is not None:
            parse_address(self.address)


@dataclass(frozen=True)
class Health:
    """The answer to one question, as status and as what the body says."""

    well: bool
    text: str

    @property
    def status(self) -> HTTPStatus:
        return HTTPStatus.OK if self.well else HTTPStatus.SERVICE_UNAVAILABLE


def liveness(watchdog: Watchdog, stall_seconds: float) -> Health:
    """Whether the loop that does the work comes around. Starting may take longer than a turn of it."""
    limit = stall_seconds if watchdog.has_started else max(stall_seconds, _START_SECONDS)
    return Health(True, "live") if watchdog.age_seconds <= limit else Health(False, "hung")


def readiness(watchdog: Watchdog, stall_seconds: float) -> Health:
    """Whether work can be sent here now."""
    live = liveness(watchdog, stall_seconds)
    if not live.well:
        return live
    if watchdog.is_stopping:
        return Health(False, "stopping")
    if not watchdog.has_started:
        return Health(False, "starting")
    # The cause stands in the log; here it could tell names.
    return Health(True, "ready") if watchdog.waits_for is None else Health(False, "waiting")


ANSWERS = {"/healthz": liveness, "/readyz": readiness}


def parse_address(text: str) -> tuple[str, int]:
    """``HOST:PORT`` or ``[IPv6]:PORT`` as host and port. Raises ConfigError."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"]) > 65_535:
        raise ConfigError(f"address {text!r} is not HOST:PORT")
    return match["v6"] or match["name"], int(match["port"])


_NO_METRICS = MetricsConfig()


@contextmanager
def serve_health(
    config: HealthConfig,
    watchdog: Watchdog,
    stall_seconds: float = STALL_SECONDS,
    telling: MetricsConfig = _NO_METRICS,
) -> Iterator[int]:
    """Answer while the block lasts; yields the port of the first address that is set, 0 where there is none.

    ``stall_seconds`` holds unless the configuration says otherwise. ``telling``: where ``/metrics`` is to be had.
    Raises PortBusy, ConfigError.
    """
    stall = stall_seconds if config.stall_seconds is None else config.stall_seconds
    wanted = {"health": config.address, "metrics": telling.address}
    with ExitStack() as opened:
        ports = [
            opened.enter_context(
                _serving(
                    f"{setting}.address", address, watchdog, stall, with_metrics=address == telling.address
                )
            )
            for setting, address in wanted.items()
            if address is not None and not (setting == "metrics" and address == config.address)
        ]
        yield ports[0] if ports else 0


@contextmanager
def _serving(
    setting: str, address: str, watchdog: Watchdog, stall_seconds: float, *, with_metrics: bool
) -> Iterator[int]:
    server = _open(setting, address)
    server.watchdog = watchdog
    server.stall_seconds = stall_seconds
    server.with_metrics = with_metrics
    thread = threading.Thread(target=server.serve_forever, args=(0.2,), name="health", daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()


def _open(setting: str, address: str) -> _Server:
    host, port = parse_address(address)
    try:
        family, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return _server_for(family)(where[:2], _Handler)
    except socket.gaierror as error:
        raise ConfigError(f"{setting} {address}: {error.strerror}") from error
    except OSError as error:
        raise PortBusy(f"cannot listen on {address}: {error.strerror}") from error


def _server_for(family: int) -> type[_Server]:
    return _ServerV6 if family == socket.AF_INET6 else _Server


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    watchdog: Watchdog
    stall_seconds: float
    with_metrics: bool

    def __init__(self, *arguments: object) -> None:
        self._free = threading.BoundedSemaphore(_MAX_CLIENTS)
        super().__init__(*arguments)  # type: ignore[arg-type]

    def process_request(self, request: object, client_address: object) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)  # type: ignore[arg-type]
        else:
            self.shutdown_request(request)  # type: ignore[arg-type]

    def process_request_thread(self, request: object, client_address: object) -> None:
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]
        finally:
            self._free.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away in the middle is nothing to tell of."""


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout: ClassVar[float] = _SLOW_CLIENT_SECONDS
    server_version = "secondlook"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics" and self.server.with_metrics:
            self._send_bytes(HTTPStatus.OK, metrics.rendered(self._of_scrape), metrics.CONTENT_TYPE)
            return
        answer = ANSWERS.get(path)
        if answer is None:
            here = f"{', /metrics' if self.server.with_metrics else ''}"
            self._send(HTTPStatus.NOT_FOUND, {"detail": f"only /healthz, /readyz{here} are here"})
            return
        health = answer(self.server.watchdog, self.server.stall_seconds)
        self._send(health.status, {"status": health.text})

    def _of_scrape(self) -> tuple[float, bool]:
        watchdog = self.server.watchdog
        return watchdog.age_seconds, readiness(watchdog, self.server.stall_seconds).well

    do_HEAD = do_GET

    def _send(self, status: HTTPStatus, body: dict[str, str]) -> None:
        self._send_bytes(status, json.dumps(body).encode(), "application/json")

    def _send_bytes(self, status: HTTPStatus, data: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(data)))
        self.send_header("cache-control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Probes come every few seconds: they are not for the log."""

"""/healthz and /readyz follow the heartbeat, whatever the role's own thread does."""

from __future__ import annotations

import http.client
import json
import socket
import time

import pytest

from secondlook.shared.errors import ConfigError, PortBusy
from secondlook.shared.health import HealthConfig, liveness, parse_address, readiness, serve_health
from secondlook.shared.watchdog import Watchdog


def ask(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, json.loads(body)["status"] if body and answer.status != 404 else ""


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_role_is_live_by_its_heartbeat_and_ready_by_what_it_says() -> None:
    clock = Clock()
    watchdog = Watchdog(clock=clock)

    def health() -> tuple[str, str]:
        return liveness(watchdog, 10.0).text, readiness(watchdog, 10.0).text

    assert health() == ("live", "starting")
    clock.now += 299.0  # loading models may take long, but not for ever
    assert health() == ("live", "starting")
    clock.now += 2.0
    assert health() == ("hung", "hung")
    watchdog.ready()
    assert health() == ("live", "ready")
    clock.now += 10.0
    assert health() == ("live", "ready")
    clock.now += 0.1
    assert health() == ("hung", "hung")
    watchdog.heartbeat()
    watchdog.waits("catalogue: no answer")
    assert health() == ("live", "waiting")
    watchdog.waits(None)
    assert health() == ("live", "ready")
    watchdog.stopping()
    assert health() == ("live", "stopping")


def test_the_server_answers_from_a_thread_of_its_own() -> None:
    clock = Clock()
    watchdog = Watchdog(clock=clock)
    with serve_health(HealthConfig("127.0.0.1:0"), watchdog, 30.0) as port:
        assert ask(port, "/healthz") == (200, "live")
        assert ask(port, "/readyz") == (503, "starting")
        watchdog.ready()
        assert ask(port, "/readyz?probe=1") == (200, "ready")
        assert ask(port, "/readyz", "HEAD") == (200, "")
        clock.now += 31.0
        assert ask(port, "/healthz") == (503, "hung")
        assert ask(port, "/metrics")[0] == 404
    with pytest.raises(OSError):
        ask(port, "/healthz")


def test_the_configuration_may_allow_less_or_more_than_the_role() -> None:
    clock = Clock()
    watchdog = Watchdog(clock=clock)
    watchdog.ready()
    with serve_health(HealthConfig("127.0.0.1:0", stall_seconds=5.0), watchdog, 30.0) as port:
        clock.now += 6.0
        assert ask(port, "/healthz") == (503, "hung")


def test_slow_strangers_keep_no_probe_waiting() -> None:
    watchdog = Watchdog()
    watchdog.ready()
    with serve_health(HealthConfig("127.0.0.1:0"), watchdog) as port:
        strangers = [socket.create_connection(("127.0.0.1", port)) for _ in range(10)]
        began = time.monotonic()
        assert ask(port, "/healthz") == (200, "live")
        assert time.monotonic() - began < 1.5
        more = [socket.create_connection(("127.0.0.1", port)) for _ in range(30)]
        time.sleep(3.0)  # they were cut off
        assert ask(port, "/healthz") == (200, "live")
        for stranger in (*strangers, *more):
            stranger.close()


def test_without_an_address_nothing_listens() -> None:
    with serve_health(HealthConfig(), Watchdog()) as port:
        assert port == 0


def test_a_port_in_use_and_addresses_that_are_none_are_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(PortBusy, match=address), serve_health(HealthConfig(address), Watchdog()):
            pass
    for text in ("7610", "tcp://127.0.0.1:7610", "host:", "host:99999", "::1:7610", "[::1]", "a b:1", ""):
        with pytest.raises(ConfigError, match="HOST:PORT"):
            HealthConfig(text)
    assert parse_address("[::1]:7610") == ("::1", 7610)
    assert parse_address("0.0.0.0:7610") == ("0.0.0.0", 7610)
    for seconds in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="stall_seconds"):
            HealthConfig(stall_seconds=seconds)

"""A TCP proxy on loopback that can be cut, slowed down, or made to swallow everything (a half-open link)."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from dataclasses import dataclass, field
from enum import Enum

_TICK_SECONDS = 0.02
_READ_BYTES = 64 << 10
_BUFFER_BYTES = 256 << 10
_SLOW_BYTES = 300  # a direction and tick: 15 KB a second


class Weather(Enum):
    FINE = "fine"
    SLOW = "slow"
    HALF_OPEN = "half-open"  # connections stay open, nothing passes
    CUT = "cut"  # connections are reset, new ones too


@dataclass(eq=False)
class _Way:
    """One direction of one connection."""

    source: socket.socket
    target: socket.socket
    waiting: bytearray = field(default_factory=bytearray)
    ended: bool = False  # the source has said its last
    passed: int = 0  # bytes


class Proxy:
    """Serves in a thread from construction until `close`. `weather` may be changed at any time."""

    prefix = ()  # of commands whose connections go through it: it needs none

    def __init__(self, target_port: int) -> None:
        self.weather = Weather.FINE
        self._target = ("127.0.0.1", target_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._ways: list[_Way] = []
        self._up: list[_Way] = []  # of every connection there was, to the gateway
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def gateway(self) -> str:
        """What a camera host takes for the gateway's address."""
        return f"tcp://127.0.0.1:{self.port}"

    @property
    def passed(self) -> list[int]:
        """Bytes that passed towards the gateway, of every connection there was."""
        return [way.passed for way in self._up]

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._reset()
        self._listener.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._accept()
            weather = self.weather
            if weather is Weather.CUT:
                self._reset()
            if weather in (Weather.CUT, Weather.HALF_OPEN):
                time.sleep(_TICK_SECONDS)
                continue
            self._move(weather)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except BlockingIOError:
                return
            if self.weather is Weather.CUT:
                client.close()
                continue
            try:
                server = socket.create_connection(self._target, timeout=1.0)
            except OSError:
                client.close()  # the gateway is down just now
                continue
            for end in (client, server):
                end.setblocking(False)
            self._ways += [_Way(client, server), _Way(server, client)]
            self._up.append(self._ways[-2])

    def _move(self, weather: Weather) -> None:
        with selectors.DefaultSelector() as selector:
            for way in self._ways:
                if len(way.waiting) < _BUFFER_BYTES and not way.ended:
                    selector.register(way.source, selectors.EVENT_READ, way)
            selector.register(self._listener, selectors.EVENT_READ, None)
            ready = [key.data for key, _ in selector.select(_TICK_SECONDS) if key.data is not None]
        broken: set[socket.socket] = set()
        for way in ready:
            try:
                data = way.source.recv(_READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            way.waiting += data
            way.ended = not data
        for way in self._ways:
            most = _SLOW_BYTES if weather is Weather.SLOW else len(way.waiting)
            try:
                if way.waiting:
                    sent = way.target.send(way.waiting[:most])
                    way.passed += sent
                    del way.waiting[:sent]
            except BlockingIOError:
                continue
            except OSError:
                way.ended, way.waiting = True, bytearray()
            if way.ended and not way.waiting:
                broken |= {way.source, way.target}
        if weather is Weather.SLOW:
            time.sleep(_TICK_SECONDS)
        self._drop(broken)

    def _drop(self, broken: set[socket.socket]) -> None:
        for way in [way for way in self._ways if way.source in broken]:
            way.source.close()
            self._ways.remove(way)

    def _reset(self) -> None:
        self._drop({way.source for way in self._ways})

"""What the tests of gateway and workers share: a gateway in a thread, a small edge, a codec of a few lines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from secondlook.cloud.config import BrokerConfig, CloudConfig, GatewayConfig
from secondlook.cloud.gateway.server import Gateway
from secondlook.shared import packet as p
from secondlook.shared.detection import Detection
from secondlook.shared.errors import NotABitstream
from secondlook.shared.layers import Layers

BOOT = "ab" * 16


def free(config: CloudConfig) -> CloudConfig:
    """The same settings on any free ports."""
    return replace(
        config,
        gateway=replace(config.gateway, edge_address="tcp://127.0.0.1:0"),
        broker=BrokerConfig(address="tcp://127.0.0.1:0", timeout_seconds=5),
    )


def settings(folder: Path, **gateway: Any) -> CloudConfig:
    return free(CloudConfig(data_dir=folder, gateway=GatewayConfig(**gateway)))


@contextmanager
def running(config: CloudConfig) -> Iterator[Gateway]:
    """A gateway in a thread; what it raises is raised here in the end."""
    started, stop = threading.Event(), threading.Event()
    made: list[Gateway] = []

    def serve() -> None:
        try:
            # SQLite and ZeroMQ want to be used by the thread that opened them.
            with Gateway(config) as gateway:
                made.append(gateway)
                started.set()
                gateway.run(stop)
        finally:
            started.set()

    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve)
        started.wait()
        try:
            if made:
                yield made[0]
        finally:
            stop.set()
            served.result()


class Edge:
    """Two DEALER connections and blocking calls."""

    def __init__(self, address: str, edge_id: str = "gate", curve: tuple[bytes, bytes, bytes] | None = None):
        self.edge_id = edge_id
        self._context = zmq.Context()
        self.bulk, self.control = self._dealer(address, curve), self._dealer(address, curve)

    def _dealer(self, address: str, curve: tuple[bytes, bytes, bytes] | None) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.linger = 0
        if curve is not None:
            socket.curve_serverkey, socket.curve_publickey, socket.curve_secretkey = curve
        socket.connect(address)
        return socket

    def __enter__(self) -> Edge:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)

    def hello(self, channel: str = "bulk", boot_id: str = BOOT) -> p.Packet:
        self.send(p.Hello(self.edge_id, boot_id, channel, "yard", 0, 0, "test"), channel)
        return self.expect(channel)

    def send(self, packet: p.Packet, channel: str = "bulk") -> None:
        self.say(packet.to_frames(), channel)

    def say(self, frames: list[bytes], channel: str = "bulk") -> None:
        (self.bulk if channel == "bulk" else self.control).send_multipart(frames)

    def hear(self, channel: str = "bulk", seconds: float = 5.0) -> p.Packet | None:
        socket = self.bulk if channel == "bulk" else self.control
        return p.parse(socket.recv_multipart()) if socket.poll(int(seconds * 1000)) else None

    def expect(self, channel: str = "bulk") -> p.Packet:
        heard = self.hear(channel)
        assert heard is not None, "the gateway is silent"
        return heard


def base_frame(
    seq: int, payload: bytes = b"picture", key_seq: int | None = None, **other: Any
) -> p.BaseFrame:
    values = {"boot_id": BOOT, "captured_ns": 7, "width": 8, "height": 6, "enhancement_bytes": 99, **other}
    return p.BaseFrame(p.FrameInfo(seq=seq, key_seq=key_seq, **values), payload)


class PlainCodec:
    """Layers are one grey level each; the enhanced picture is their sum, and its key's."""

    model_hash = b"plain123"

    def decode_base(self, base: bytes, *, key: bytes | None = None) -> np.ndarray:
        return self._picture(self._level(base) + (0 if key is None else self._level(key)))

    def decode_enhanced(self, base: bytes, enhancement: bytes, *, key: Layers | None = None) -> np.ndarray:
        levels = [base, enhancement] + ([] if key is None else [key.base, key.enhancement])
        return self._picture(sum(map(self._level, levels)))

    @staticmethod
    def _level(layer: bytes) -> int:
        if not layer.startswith(b"grey"):
            raise NotABitstream("this is no grey")
        return layer[4]

    @staticmethod
    def _picture(level: int) -> np.ndarray:
        return np.full((6, 8, 3), level, np.uint8)


def grey(level: int) -> bytes:
    return b"grey" + bytes([level])


class OneBox:
    name = "one-box"
    classes = ("cat",)

    def detect(self, image: np.ndarray) -> list[Detection]:
        return [Detection("cat", 0.4, (1.0, 1.0, 5.0, 4.0))]


class Brighter:
    name = "brighter"
    model_hash = b"bright12"

    def apply(self, image: np.ndarray, progress: Callable[[], None] = lambda: None) -> np.ndarray:
        return image + np.uint8(1)


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)

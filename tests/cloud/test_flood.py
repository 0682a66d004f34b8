"""One registered camera host that floods a gateway process: the others are served, and its revocation holds at once."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from secondlook.cloud.gateway.keys import Registry, Role, create_key_files
from secondlook.shared import packet as p
from secondlook.shared.keyfiles import read_key_pair, read_public_key
from tests.cloud.helpers import BOOT, Edge, base_frame
from tests.cloud.servers import free_port

ROOT = Path(__file__).parents[2]
HELLO = p.Hello("flood", BOOT, "bulk", "yard", 0, 0, "test")
BOMB = [b"\xdc\xff\xff" * 1020, b""]  # lists in lists, each of which claims 65,535 members

FLOODS = {
    "bombs": [BOMB],
    "large bombs": [[b"\xdc\xff\xff" * 1020 + bytes(60_000), b""]],
    "tombstones": [p.Tombstone(BOOT, seq, seq, "spool-full").to_frames() for seq in range(0, 4000, 2)],
    "frames": [base_frame(seq, bytes(20_000)).to_frames() for seq in range(2000)],
}


@contextmanager
def gateway_process(folder: Path) -> Iterator[int]:
    """A gateway with keys for "flood" and "yard" in ``folder``; its port."""
    keys = folder / "keys"
    create_key_files(keys, "gateway")
    registry = Registry(keys / "registry.json")
    for name in ("flood", "yard"):
        registry.add(name, Role.EDGE, create_key_files(keys, name).public.decode(), now=0)
    port = free_port()
    command = [sys.executable, "-m", "secondlook", "gateway", "--data-dir", str(folder / "data")]
    command += ["--listen", f"tcp://127.0.0.1:{port}", "--listen-workers", f"tcp://127.0.0.1:{free_port()}"]
    command += ["--secret-key", str(keys / "gateway.key_secret"), "--registry", str(keys / "registry.json")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            yield port
            assert process.poll() is None, "the gateway has ended"
        finally:
            process.kill()


def curve(keys: Path, name: str) -> tuple[bytes, bytes, bytes]:
    return (read_public_key(keys / "gateway.key"), *read_key_pair(keys / f"{name}.key_secret"))


class Flood:
    """Sends as fast as its socket takes it, until it is stopped; notes when its connection was cut."""

    def __init__(self, port: int, keys: Path, messages: list[list[bytes]]) -> None:
        self.sent = 0
        self.cut_at: float | None = None
        self._stop = threading.Event()
        self._port, self._keys, self._messages = port, keys, messages
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Flood:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            with context.socket(zmq.DEALER) as dealer:
                dealer.linger = 0
                self._flood(dealer)
        finally:
            context.destroy(linger=0)

    def _flood(self, dealer: zmq.Socket[bytes]) -> None:
        dealer.sndhwm, dealer.immediate = 100, 1
        dealer.curve_serverkey, dealer.curve_publickey, dealer.curve_secretkey = curve(self._keys, "flood")
        monitor = dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        dealer.connect(f"tcp://127.0.0.1:{self._port}")
        hello = HELLO.to_frames()
        while not self._stop.is_set():
            if self.cut_at is None and monitor.poll(0):
                recv_monitor_message(monitor)
                self.cut_at = time.monotonic()
            if dealer.poll(20, zmq.POLLOUT) & zmq.POLLOUT:
                message = self._messages[self.sent % len(self._messages)]
                # The connection may have been cut since the poll: to wait for another would be for ever.
                with contextlib.suppress(zmq.Again):
                    dealer.send_multipart(message if self.sent else hello, zmq.DONTWAIT)
                    self.sent += 1
            while dealer.poll(0):
                dealer.recv_multipart()
        dealer.disable_monitor()
        monitor.close(0)


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_holds_up_nobody_and_its_revocation_holds_within_two_seconds(
    tmp_path: Path, name: str
) -> None:
    keys = tmp_path / "keys"
    with (
        gateway_process(tmp_path) as port,
        Edge(f"tcp://127.0.0.1:{port}", "yard", curve(keys, "yard")) as honest,
    ):
        honest.send(p.Hello("yard", BOOT, "bulk", "yard", 0, 0, "test"))
        assert isinstance(honest.hear(seconds=30), p.Welcome)
        with Flood(port, keys, FLOODS[name]) as flood:
            time.sleep(1.0)
            waits = []
            for seq in range(15):
                honest.send(base_frame(seq))
                began = time.monotonic()
                while (heard := honest.expect()) is not None:
                    if isinstance(heard, p.Ack) and heard.cumulative >= seq:
                        break
                waits.append(time.monotonic() - began)
                time.sleep(0.05)
            assert flood.sent > 50
            assert sorted(waits)[-2] < 1.0, waits
            assert flood.cut_at is None
            Registry(keys / "registry.json").revoke("flood", now=1)
            revoked = time.monotonic()
            while flood.cut_at is None:
                assert time.monotonic() - revoked < 10, "the revoked camera host is still connected"
                time.sleep(0.02)
            assert flood.cut_at - revoked < 2.0

"""Peers that mean no good. Each works for some seconds against the gateway's own port and reports what it got."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import time
from pathlib import Path
from typing import TypeAlias

import zmq

from secondlook.shared import packet as p
from secondlook.shared.keyfiles import read_key_pair, read_public_key

_Socket: TypeAlias = "zmq.Socket[bytes]"

BOOT = "e0" * 16
_CONNECTIONS = 20


class Attacker:
    """One hostile machine. `keys` is the folder with the gateway's public key and the pair of the edge `evil`."""

    def __init__(self, port: int, keys: Path, rng: random.Random) -> None:
        self._port = port
        self._keys = keys
        self._rng = rng

    def wrong_key(self, seconds: float) -> str | None:
        """Connect with a key that nobody registered. Not one byte may come back."""
        with zmq.Context() as context, self._dealer(context, zmq.curve_keypair()) as dealer:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                _offer(dealer, p.Hello("edge-0", BOOT, "bulk", "x", 9, 0, "x").to_frames())
                if dealer.poll(50):
                    return f"a peer without a registered key was answered: {dealer.recv_multipart()!r}"
        return None

    def malformed(self, seconds: float) -> str | None:
        """Real packets with bytes changed, cut off, doubled, and plain noise."""
        samples = [
            p.Hello("evil", BOOT, "bulk", "x", 9, 0, "x").to_frames(),
            p.BaseFrame(p.FrameInfo(BOOT, 1, 5, 64, 64, None, 9), b"x" * 300).to_frames(),
            p.Tombstone(BOOT, 2, 2**52, "evil").to_frames(),
            p.FrameRun(BOOT, 3, 5, 64, 64, 1, (1, 1), (9, 9, 9), (1, 2, 3), b"xyyzzz").to_frames(),
            p.Chunk(1, 0, 3, 0, b"abc").to_frames(),
        ]

        def one() -> list[bytes]:
            frames = [bytearray(frame) for frame in self._rng.choice(samples)]
            for _ in range(self._rng.randrange(4)):
                frame = self._rng.choice(frames)
                if frame:
                    frame[self._rng.randrange(len(frame))] = self._rng.randrange(256)
            if self._rng.random() < 0.3:
                frames.append(bytearray(self._rng.randbytes(self._rng.randrange(50))))
            return [bytes(frame) for frame in frames]

        return self._talk(one, seconds, rest=0.001)

    def replay(self, seconds: float) -> str | None:
        """Speak for another edge, and send its own frame over and over."""
        frames = [
            p.Hello("edge-0", BOOT, "bulk", "x", 9, 0, "x").to_frames(),
            p.Hello("evil", BOOT, "bulk", "x", 9, 0, "x").to_frames(),
            p.BaseFrame(p.FrameInfo(BOOT, 7, 5, 64, 64, None, 9), b"no layer").to_frames(),
            p.BaseFrame(p.FrameInfo(BOOT, 7, 5, 64, 64, None, 9), b"no layer").to_frames(),
        ]
        return self._talk(lambda: self._rng.choice(frames), seconds, rest=0.001)

    def flood(self, seconds: float) -> str | None:
        """As much as the link takes, never reading an answer."""
        hello = p.Hello("evil", BOOT, "control", "x", 9, 0, "x").to_frames()
        return self._talk(lambda: hello, seconds, rest=0.0)

    def oversized(self, seconds: float) -> str | None:
        noise = os.urandom(5 << 20)
        return self._talk(lambda: [b"\x93", noise], seconds, rest=0.05)

    def slowloris(self, seconds: float) -> str | None:
        """Many TCP connections that speak one byte at a time."""
        connections = []
        with contextlib.suppress(OSError):  # the gateway may be down just now
            while len(connections) < _CONNECTIONS:
                connections.append(socket.create_connection(("127.0.0.1", self._port), 2))
        greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE"
        end, sent = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            for connection in connections:
                try:
                    connection.send(greeting[sent % len(greeting) :][:1])
                except OSError:
                    continue  # it was shown the door
            sent += 1
            time.sleep(0.1)
        for connection in connections:
            connection.close()
        return None

    def _talk(self, message: object, seconds: float, rest: float) -> str | None:
        assert callable(message)
        keys = read_key_pair(self._keys / "evil.key_secret")
        with zmq.Context() as context, self._dealer(context, keys) as dealer:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                _offer(dealer, message())
                time.sleep(rest)
        return None

    def _dealer(self, context: zmq.Context[_Socket], keys: tuple[bytes, bytes]) -> _Socket:
        dealer = context.socket(zmq.DEALER)
        dealer.linger = 0
        dealer.sndtimeo = 100
        dealer.curve_publickey, dealer.curve_secretkey = keys
        dealer.curve_serverkey = read_public_key(self._keys / "gateway.key")
        dealer.connect(f"tcp://127.0.0.1:{self._port}")
        return dealer


def _offer(dealer: _Socket, frames: list[bytes]) -> None:
    try:
        dealer.send_multipart(frames)
    except zmq.Again:
        return

"""Hostile bytes at a real gateway process: `python -m tests.fuzz_gateway --minutes 10`

Throws malformed ZMTP at its ports, connects with keys that are not registered, and sends mutated packets and broker
calls with keys that are, while an honest camera host and an honest worker go on. It fails when the gateway ends, when
its memory grows, when an honest frame is not served, or when a peer without a registered key gets a byte that is not
part of the handshake. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import zmq

from secondlook.cloud.config import BrokerConfig
from secondlook.cloud.gateway.keys import Registry, Role, create_key_files
from secondlook.cloud.workers.broker_client import BrokerClient
from secondlook.shared import packet as p
from secondlook.shared.errors import SecondlookError
from secondlook.shared.keyfiles import read_key_pair, read_public_key
from tests.cloud.helpers import BOOT, Edge, base_frame

ROOT = Path(__file__).parents[1]
WARM_UP = 0.2  # of the run; caches fill, allocators take what they keep
MAX_GROWTH_MB = 24.0
HONEST_SECONDS = 20.0  # the longest an honest frame may wait on a machine under this load

GREETING_BYTES = 64
WELCOME_BYTES = 2 + 168
ERROR_BYTES = 2 + 10  # ERROR with the status "400"

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + b"\0" + bytes(31)
NULL_GREETING = GREETING.replace(b"CURVE", b"NULL\0")
HELLO_COMMAND = b"\x04\xc8\x05HELLO\x01\x00" + bytes(72) + bytes(32) + bytes(8) + bytes(80)
READY_COMMAND = b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06DEALER"


class Leak(AssertionError):
    """A stranger got bytes it should not have."""


class Target:
    """A gateway in a process of its own, with keys on both sockets."""

    def __init__(self, folder: Path) -> None:
        self.keys = folder / "keys"
        create_key_files(self.keys, "gateway")
        registry = Registry(self.keys / "registry.json")
        for name, role in (
            ("gate", Role.EDGE),
            ("rogue", Role.EDGE),
            ("worker", Role.WORKER),
            ("mole", Role.WORKER),
        ):
            registry.add(name, role, create_key_files(self.keys, name).public.decode(), now=0)
        for name in ("stranger", "other-gateway"):
            create_key_files(self.keys, name)
        self.edges, self.workers = _free_port(), _free_port()
        settings = folder / "cloud.toml"
        settings.write_text(
            f'data_dir = "{folder}/data"\n'
            f'[gateway]\nedge_address = "tcp://0.0.0.0:{self.edges}"\nsecret_key_file = "keys/gateway.key_secret"\n'
            'registry_file = "keys/registry.json"\nhandshake_seconds = 1.0\n'
            "[gateway.rates]\npackets_per_second = 200.0\nburst_seconds = 2.0\n"
            f'[broker]\naddress = "tcp://0.0.0.0:{self.workers}"\n'
        )
        self.log = folder / "gateway.log"
        command = [sys.executable, "-m", "secondlook", "gateway", "--config", str(settings)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=log, stdout=log
            )

    def curve(self, name: str, server: str = "gateway") -> tuple[bytes, bytes, bytes]:
        return (
            read_public_key(self.keys / f"{server}.key"),
            *read_key_pair(self.keys / f"{name}.key_secret"),
        )

    def worker(self, name: str) -> BrokerClient:
        return BrokerClient(
            BrokerConfig(
                f"tcp://127.0.0.1:{self.workers}",
                self.keys / "gateway.key",
                self.keys / f"{name}.key_secret",
                timeout_seconds=HONEST_SECONDS,
            ),
            name,
        )

    @property
    def edge_address(self) -> str:
        return f"tcp://127.0.0.1:{self.edges}"

    def rss_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def check(self) -> None:
        assert self.process.poll() is None, f"the gateway ended: {self.log.read_text()[-2000:]}"


# --- what a peer without a registered key gets


def handshake_only(data: bytes) -> None:
    """Raises Leak unless the bytes are a greeting, and then nothing but WELCOME and ERROR commands."""
    rest = data[GREETING_BYTES:]
    while rest:
        flags, size = rest[0], rest[1] if len(rest) > 1 else 0
        body = rest[2 : 2 + size]
        if flags != 0x04 or not (body.startswith((b"\x07WELCOME", b"\x05ERROR")) or len(body) < 8):
            raise Leak(rest[:80].hex())
        rest = rest[2 + size :]
    if len(data) > GREETING_BYTES + WELCOME_BYTES + ERROR_BYTES:
        raise Leak(f"{len(data)} bytes")


@contextlib.contextmanager
def overheard(port: int) -> Iterator[tuple[int, bytearray]]:
    """A port that passes one connection on to another port, and what came back through it."""
    came = bytearray()
    listener = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def forward() -> None:
        listener.settimeout(2)
        with contextlib.suppress(OSError), listener.accept()[0] as inner, _connect(port) as outer:
            while not done.is_set():
                for ready in select.select([inner, outer], [], [], 0.05)[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    if ready is outer:
                        came.extend(data)
                    (inner if ready is outer else outer).sendall(data)

    thread = threading.Thread(target=forward)
    thread.start()
    try:
        yield listener.getsockname()[1], came
    finally:
        done.set()
        thread.join()
        listener.close()


def raw_bytes(target: Target, rng: random.Random) -> str:
    """Malformed ZMTP on a TCP connection of its own."""
    greeting = rng.choice(
        [GREETING, NULL_GREETING, _mutated(GREETING, rng), rng.randbytes(rng.randint(0, 200))]
    )
    parts = [
        greeting,
        _mutated(HELLO_COMMAND, rng),
        HELLO_COMMAND,
        READY_COMMAND,
        rng.randbytes(rng.randint(1, 600)),
    ]
    # A frame that announces more than MAXMSGSIZE, or all there is.
    parts.append(b"\x02" + rng.choice([1 << 23, (1 << 63) - 1, (1 << 64) - 1]).to_bytes(8) + b"x" * 500)
    sent = [greeting, *rng.sample(parts[1:], rng.randint(0, 4))]
    port = rng.choice([target.edges, target.workers])
    came = b""
    with contextlib.suppress(OSError), _connect(port) as wire:
        for part in sent:
            wire.sendall(part)
        if rng.random() < 0.5:
            wire.shutdown(socket.SHUT_WR)
        wire.settimeout(rng.choice([0.02, 0.1]))
        while data := wire.recv(65536):
            came += data
    handshake_only(came)
    return "raw"


def wrong_key(target: Target, rng: random.Random) -> str:
    """A whole ZeroMQ client whose key is not registered, for this socket or at all; or that has none."""
    port, strangers = rng.choice(
        [(target.edges, ("stranger", "worker")), (target.workers, ("stranger", "gate"))]
    )
    curve = rng.choice(
        [None, *(target.curve(name) for name in strangers), target.curve("gate", server="other-gateway")]
    )
    with overheard(port) as (near, came):
        context: zmq.Context[Any] = zmq.Context()
        try:
            dealer = context.socket(zmq.DEALER)
            dealer.setsockopt(zmq.RECONNECT_IVL, 60_000)
            if curve is not None:
                dealer.curve_serverkey, dealer.curve_publickey, dealer.curve_secretkey = curve
            dealer.connect(f"tcp://127.0.0.1:{near}")
            hello = p.Hello("gate", BOOT, "bulk", "yard", 0, 0, "fuzz")
            dealer.send_multipart(hello.to_frames(), zmq.DONTWAIT)
            if dealer.poll(rng.choice([50, 150])):
                raise Leak(f"a message for a stranger: {dealer.recv_multipart()!r}")
        finally:
            context.destroy(linger=0)
        handshake_only(bytes(came))
    return "wrong-key"


def slow_crowd(target: Target, rng: random.Random) -> str:
    """Many connections that send a byte now and then, or nothing."""
    wires = []
    with contextlib.suppress(OSError):
        wires = [_connect(rng.choice([target.edges, target.workers])) for _ in range(rng.randint(5, 40))]
    for index in range(rng.randint(1, 5)):
        for wire in wires:
            with contextlib.suppress(OSError):
                wire.send(GREETING[index : index + 1])
        time.sleep(0.02)
    for wire in wires:
        wire.close()
    return "slow"


# --- what a registered one that went bad sends


def rogue_packets(target: Target, rng: random.Random) -> str:
    """Packets of every kind, as they are and mutated, on both channels, with a key that is registered."""
    edge_id = rng.choice(["rogue", "rogue", "gate"])
    with Edge(target.edge_address, edge_id, target.curve("rogue")) as edge:
        for channel in ("bulk", "control"):
            if rng.random() < 0.8:
                edge.send(
                    p.Hello(edge_id, rng.choice([BOOT, rng.randbytes(16).hex()]), channel, "c", 0, 0, "f"),
                    channel,
                )
        for _ in range(rng.randint(1, 60)):
            frames = rng.choice(_packets(rng)).to_frames()
            how = rng.random()
            if how < 0.5:
                frames = [_mutated(frame, rng) if rng.random() < 0.7 else frame for frame in frames]
            elif how < 0.7:
                frames = [rng.randbytes(rng.choice([0, 1, 60, 70_000])) for _ in range(rng.randint(1, 6))]
            edge.say(frames, rng.choice(["bulk", "control"]))
        deadline = time.monotonic() + 0.15
        while time.monotonic() < deadline:
            heard = edge.hear(rng.choice(["bulk", "control"]), 0.02)
            # What belongs to the gate never comes here.
            assert not isinstance(heard, p.EnhancementRequest), heard
    return "rogue"


def rogue_calls(target: Target, rng: random.Random) -> str:
    """Calls to the broker, mutated, with a key that is registered."""
    context: zmq.Context[Any] = zmq.Context()
    try:
        dealer = context.socket(zmq.DEALER)
        dealer.curve_serverkey, dealer.curve_publickey, dealer.curve_secretkey = target.curve("mole")
        dealer.connect(f"tcp://127.0.0.1:{target.workers}")
        calls = [
            [1, "stats", {}],
            [2, "nack", {"id": 1, "delay_seconds": 0, "worker": "mole", "why": "x"}],
            [3, "extend", {"ids": [1, 2], "ttl_seconds": 1, "worker": "mole"}],
            [4, "enhancement_state", {"request_id": rng.choice([1, 2**53])}],
            [5, "tombstones", {"after": 0}],
        ]
        for _ in range(rng.randint(1, 20)):
            call = msgpack.packb(rng.choice(calls))
            if rng.random() < 0.8:
                call = _mutated(call, rng)
            dealer.send_multipart([call] * rng.choice([1, 1, 1, 2]))
        while dealer.poll(50):
            dealer.recv_multipart()
    finally:
        context.destroy(linger=0)
    return "calls"


ATTACKS: tuple[tuple[int, Callable[[Target, random.Random], str]], ...] = (
    (6, raw_bytes),
    (3, wrong_key),
    (1, slow_crowd),
    (4, rogue_packets),
    (2, rogue_calls),
)


# --- the honest


class Honest(threading.Thread):
    """A camera host and a worker: every frame must be acknowledged, leased once, and worked off."""

    def __init__(self, target: Target) -> None:
        super().__init__(daemon=True)
        self._target = target
        self.stopping = threading.Event()
        self.frames = 0
        self.slowest = 0.0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._work()
        except (AssertionError, SecondlookError) as error:
            self.failure = error

    def _work(self) -> None:
        target = self._target
        with (
            Edge(target.edge_address, "gate", target.curve("gate")) as edge,
            target.worker("worker") as broker,
        ):
            assert isinstance(edge.hello(), p.Welcome)
            seen: set[int] = set()
            while not self.stopping.is_set():
                began = time.monotonic()
                edge.send(base_frame(self.frames, self.frames.to_bytes(8) * 500))
                deadline = began + HONEST_SECONDS
                while (heard := edge.hear(seconds=max(0.0, deadline - time.monotonic()))) is not None:
                    if isinstance(heard, p.Ack) and heard.cumulative >= self.frames:
                        break
                assert heard is not None, f"frame {self.frames} was not acknowledged in {HONEST_SECONDS:g} s"
                leased = broker.lease(16, 60)
                for item in leased:
                    if item.frame.edge_id == "gate":
                        assert item.frame.info.seq not in seen and item.attempts == 1
                        seen.add(item.frame.info.seq)
                        assert item.frame.payload == item.frame.info.seq.to_bytes(8) * 500
                broker.ack([item.id for item in leased])
                self.frames += 1
                self.slowest = max(self.slowest, time.monotonic() - began)
                time.sleep(0.02)
            while leased := broker.lease(16, 60):
                seen |= {item.frame.info.seq for item in leased if item.frame.edge_id == "gate"}
                broker.ack([item.id for item in leased])
            assert seen == set(range(self.frames)), "an honest frame is missing"


def fuzz(seconds: float, seed: int, folder: Path) -> dict[str, Any]:
    """Attack for so long; returns what happened. Raises AssertionError."""
    rng = random.Random(seed)
    target = Target(folder)
    counts: Counter[str] = Counter()
    try:
        _await_port(target)
        honest = Honest(target)
        honest.start()
        began = time.monotonic()
        warm_mb, weights = 0.0, [weight for weight, _ in ATTACKS]
        while (passed := time.monotonic() - began) < seconds:
            if not warm_mb and passed > WARM_UP * seconds:
                warm_mb = target.rss_mb()
            (attack,) = rng.choices([attack for _, attack in ATTACKS], weights)
            counts[attack(target, rng)] += 1
            target.check()
            assert honest.failure is None, honest.failure
        honest.stopping.set()
        honest.join(60)
        assert honest.failure is None and not honest.is_alive(), honest.failure
        end_mb = target.rss_mb()
        assert end_mb - warm_mb < MAX_GROWTH_MB, f"memory grew from {warm_mb:.1f} to {end_mb:.1f} MB"
        return {
            "seconds": round(seconds),
            "seed": seed,
            "attacks": dict(counts),
            "honest_frames": honest.frames,
            "honest_slowest_s": round(honest.slowest, 2),
            "rss_mb": [round(warm_mb, 1), round(end_mb, 1)],
        }
    finally:
        target.process.kill()
        target.process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None)
    args = parser.parse_args()
    seed = random.randrange(2**32) if args.seed is None else args.seed
    print(f"seed {seed}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(fuzz(args.minutes * 60, seed, Path(folder))))
    return 0


def _packets(rng: random.Random) -> list[p.Packet]:
    seq, id_ = rng.randrange(200), rng.choice([1, 2, 2**53 - 1])
    return [
        p.Hello("rogue", BOOT, "bulk", "c", 9, 0, "f"),
        base_frame(seq, rng.randbytes(rng.choice([1, 500, 60_000]))),
        base_frame(seq + 1, b"delta", key_seq=seq),
        p.FrameRun.of([base_frame(seq + at, b"delta", key_seq=seq) for at in range(1, rng.randint(3, 40))]),
        p.Tombstone(BOOT, seq, seq + rng.randrange(1000), "spool-full"),
        p.Chunk(id_, 0, 9, 7, b"part"),
        p.Refusal(id_, "unknown"),
        p.Ping(rng.randrange(2**62)),
        p.Welcome(BOOT, 5, 100),
        p.Ack(BOOT, -1, (), 100),
        p.EnhancementRequest(id_, BOOT, seq, 2**62, 1),
        p.Fault("rejected", "you, not me"),
    ]


def _mutated(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed) + 1)
        kind = rng.randrange(4)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at:at] = rng.randbytes(rng.randint(1, 9))
        elif kind == 2:
            del changed[at : at + rng.randint(1, 9)]
        else:
            changed[at : at + 1] = rng.choice([b"\x00", b"\xff", b"\x7f", b"\x80", b"\xc1"])
    return bytes(changed)


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_port(target: Target) -> None:
    deadline = time.monotonic() + 60
    while True:
        target.check()
        with contextlib.suppress(OSError):
            _connect(target.workers).close()
            return
        assert time.monotonic() < deadline, "the gateway does not listen"
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())

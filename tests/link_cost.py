"""What a small frame costs on the link, by the time that frames wait for others: the real uplink, with keys.

    python -m tests.link_cost [--seconds 20] [--bytes 160]

Counted are the bytes of TCP on the connection that carries frames, between an uplink and a small gateway on loopback;
TCP's own headers and IP's (52 bytes of a segment) come on top.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import zmq
import zmq.auth

from secondlook.edge.config import LinkConfig, SpoolConfig
from secondlook.edge.link.identity import AgentIdentity
from secondlook.edge.link.pacing import Pacer
from secondlook.edge.link.uplink import Uplink
from secondlook.edge.spool import Spool
from secondlook.edge.spooled import SpooledFrame
from secondlook.shared.packet import FrameInfo
from tests.chaos.proxy import Proxy
from tests.edge.gateway import Memory, SmallGateway, wait_until

BOOT = "ab" * 16
FPS = 5
SEGMENT_BYTES = 52  # of TCP and IP


class CountedPacer(Pacer):
    """A link of 1 Mbit/s, and what it was told that went."""

    def __init__(self) -> None:
        super().__init__(125_000.0, time.monotonic())
        self.went = 0

    def sent(self, size: int) -> None:
        self.went += size
        super().sent(size)


@dataclass
class Line:
    """A camera host whose group has begun, and its line to a gateway."""

    put: Callable[[int], None]  # the next delta, of so many bytes
    settle: Callable[[], None]  # until all is acknowledged
    passed: Callable[[], int]  # bytes of TCP towards the gateway
    pacer: CountedPacer
    memory: Memory

    def messages(self) -> int:
        return len(self.memory.messages)


@contextmanager
def line(folder: Path, gather_seconds: float) -> Iterator[Line]:
    zmq.auth.create_certificates(folder, "gateway")
    zmq.auth.create_certificates(folder, "edge")
    public, secret = zmq.auth.load_certificate(folder / "gateway.key_secret")
    assert secret is not None
    (folder / "edge.key_secret").chmod(0o600)
    gateway = SmallGateway(memory := Memory(), curve=(public, secret))
    proxy = Proxy(gateway.port)
    config = LinkConfig(
        gateway=proxy.gateway,
        server_public_key_file=folder / "gateway.key",
        secret_key_file=folder / "edge.key_secret",
    )
    spool = Spool(folder / "spool", SpoolConfig(min_free_bytes=0), BOOT, 0)
    identity, pacer = AgentIdentity("gate", BOOT, "door"), CountedPacer()
    uplink = Uplink(config, identity, spool, random.Random(1), pacer=pacer, gather_seconds=gather_seconds)
    uplink.start()

    def put(size: int) -> None:
        seq = spool.next_seq(BOOT) or 0
        info = FrameInfo(BOOT, seq, time.time_ns(), 768, 432, 0 if seq else None, 20_000)
        spool.put([SpooledFrame(info, random.Random(seq).randbytes(size), b"")], time.time_ns())
        uplink.wake()

    def settle() -> None:
        wait_until(lambda: spool.undelivered_boots() == [], 30)

    try:
        put(2000)
        settle()
        yield Line(put, settle, lambda: max(proxy.passed), pacer, memory)
    finally:
        uplink.stop()
        spool.close()
        proxy.close()
        gateway.stop()


def cost(folder: Path, gather_seconds: float, size: int, seconds: float) -> tuple[float, float]:
    """Bytes of TCP a frame, and frames a message, of a camera of 5 frames a second."""
    with line(folder, gather_seconds) as at_work:
        before, messages, frames = at_work.passed(), at_work.messages(), int(seconds * FPS)
        begin = time.monotonic()
        for number in range(frames):
            time.sleep(max(0.0, begin + number / FPS - time.monotonic()))
            at_work.put(size)
        at_work.settle()
        return (at_work.passed() - before) / frames, frames / (at_work.messages() - messages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each setting")
    parser.add_argument("--bytes", type=int, default=160, help="of a frame's base layer")
    given = parser.parse_args()
    print("| `gather_seconds` | frames a message | bytes of TCP a frame | with TCP's headers and IP's |")
    for seconds in (0.0, 0.5, 1.0, 2.0):
        with tempfile.TemporaryDirectory() as folder:
            each, together = cost(Path(folder), seconds, given.bytes, given.seconds)
        whole = each + SEGMENT_BYTES / together
        print(f"| {seconds:g} | {together:.1f} | {each:.0f} | {whole:.0f} |", flush=True)


if __name__ == "__main__":
    main()

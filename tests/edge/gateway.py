"""A small gateway for tests of the uplink: a real ROUTER on loopback that keeps what it is sent in memory."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import zmq

from secondlook.shared import packet as p
from secondlook.shared.link import Received
from secondlook.shared.videobits import background_digest, split_head


@dataclass
class Memory:
    """What outlives a restart of the gateway."""

    safe: dict[str, Received] = field(default_factory=dict)
    arrivals: Counter[tuple[str, int]] = field(default_factory=Counter)  # how often each frame came
    messages: list[tuple[float, str, list[int]]] = field(
        default_factory=list
    )  # frames that came together, and when
    frames: dict[tuple[str, int], p.BaseFrame | p.LeanFrame] = field(default_factory=dict)
    backgrounds: set[str] = field(default_factory=set)  # digests of those that came
    tombstones: list[p.Tombstone] = field(default_factory=list)
    hellos: list[p.Hello] = field(default_factory=list)
    control: list[p.Packet] = field(default_factory=list)
    reports: list[p.Report] = field(default_factory=list)


class SmallGateway:
    """Runs in a thread from construction until `stop`."""

    def __init__(
        self,
        memory: Memory,
        port: int = 0,
        credit_bytes: int = 1 << 20,
        acknowledges: Callable[[p.BaseFrame | p.LeanFrame], bool] = lambda _: True,
        curve: tuple[bytes, bytes] | None = None,
        answers_chunks: bool = True,
        forgets_tombstones: bool = False,
        fault: str | None = None,
        clock_ahead_seconds: float = 0.0,
        is_old: bool = False,
    ) -> None:
        """With ``fault``, every packet is answered by a Fault of this code and nothing else."""
        self.memory = memory
        self.credit_bytes = credit_bytes
        self.acknowledges = acknowledges
        self.answers_chunks = answers_chunks
        self.forgets_tombstones = forgets_tombstones
        self.fault = fault
        self.is_old = is_old  # takes no lean frames, no runs of frames, and no reports
        self.clock_ahead_ns = int(clock_ahead_seconds * 1e9)
        self.faults_sent = 0
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 0)  # a ROUTER drops what a slow edge leaves waiting beyond this
        if curve is not None:
            self._socket.curve_server = True
            self._socket.curve_publickey, self._socket.curve_secretkey = curve
        self.port = port or self._socket.bind_to_random_port("tcp://127.0.0.1")
        if port:
            self._bind(port)
        self._greeted: dict[bytes, str] = {}
        self._outgoing: list[list[bytes]] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._socket.close(0)
        self._context.term()

    def ask(self, packet: p.Packet) -> None:
        """Send on the control connection as soon as there is one."""
        self.say(packet.to_frames())

    def say(self, frames: list[bytes]) -> None:
        with self._lock:
            self._outgoing.append(frames)

    def _bind(self, port: int) -> None:
        for _ in range(100):  # the port may still be in the hands of the gateway that was stopped
            try:
                self._socket.bind(f"tcp://127.0.0.1:{port}")
                return
            except zmq.ZMQError:
                time.sleep(0.02)
        raise AssertionError(f"port {port} stays busy")

    def _run(self) -> None:
        while not self._stopping.is_set():
            if self._socket.poll(10):
                who, *frames = self._socket.recv_multipart()
                for answer in self._answers(who, p.parse(frames)):
                    self._socket.send_multipart([who, *answer.to_frames()])
            controls = [who for who, channel in self._greeted.items() if channel == "control"]
            with self._lock:
                while controls and self._outgoing:
                    self._socket.send_multipart([controls[-1], *self._outgoing.pop(0)])

    def _answers(self, who: bytes, packet: p.Packet) -> list[p.Packet]:
        memory = self.memory
        if self.fault is not None:
            if isinstance(packet, p.Hello):
                memory.hellos.append(packet)
                self._greeted[who] = packet.channel
            self.faults_sent += 1
            return [p.Fault(self.fault, "no")]
        if isinstance(packet, p.Hello):
            memory.hellos.append(packet)
            self._greeted[who] = packet.channel
            safe = memory.safe.setdefault(packet.boot_id, Received())
            welcome = p.Welcome(packet.boot_id, safe.cumulative, self.credit_bytes)
            ranges = safe.selective(8)
            return (
                [p.Ack(packet.boot_id, safe.cumulative, ranges, self.credit_bytes), welcome]
                if ranges
                else [welcome]
            )
        if who not in self._greeted:
            return [p.Fault("hello-first", "say hello")]
        if isinstance(packet, p.LeanFrame) and self.is_old:
            return [p.Fault("rejected", "packet kind 13 is not known")]
        if isinstance(packet, p.Report):
            memory.reports.append(packet)
            return [p.Fault("rejected", "packet kind 14 is not known")] if self.is_old else []
        if isinstance(packet, p.LeanFrame) and packet.background not in memory.backgrounds:
            return [p.Fault("background-unknown", "no")]
        if isinstance(packet, p.FrameRun):
            if self.is_old:
                return [p.Fault("rejected", "packet kind 16 is not known")]
            self._note(packet.frames())
            return [answer for frame in packet.frames() for answer in self._takes(frame)][-1:]
        if isinstance(packet, p.BaseFrame | p.LeanFrame):
            self._note([packet])
            return self._takes(packet)
        if isinstance(packet, p.Tombstone):
            memory.tombstones.append(packet)
            if self.forgets_tombstones:
                return []
            return [self._ack(packet.boot_id, packet.first_seq, packet.last_seq)]
        memory.control.append(packet)
        if isinstance(packet, p.Chunk) and self.answers_chunks:
            return [p.ChunkCredit(packet.request_id, packet.offset + len(packet.payload))]
        return [p.Pong(time.time_ns() + self.clock_ahead_ns)] if isinstance(packet, p.Ping) else []

    def _note(self, frames: Sequence[p.BaseFrame | p.LeanFrame]) -> None:
        seqs = [frame.info.seq for frame in frames]
        self.memory.messages.append((time.monotonic(), frames[0].info.boot_id, seqs))

    def _takes(self, packet: p.BaseFrame | p.LeanFrame) -> list[p.Packet]:
        memory = self.memory
        memory.arrivals[packet.info.boot_id, packet.info.seq] += 1
        if not self.acknowledges(packet):
            return []
        memory.frames[packet.info.boot_id, packet.info.seq] = packet
        if (parts := split_head(packet.payload)) is not None:
            memory.backgrounds.add(background_digest(parts[0]))
        return [self._ack(packet.info.boot_id, packet.info.seq, packet.info.seq)]

    def _ack(self, boot_id: str, first: int, last: int) -> p.Ack:
        safe = self.memory.safe[boot_id]
        safe.add(first, last)
        return p.Ack(boot_id, safe.cumulative, safe.selective(8), self.credit_bytes)


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for `condition`; fail when it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)

"""Simulated camera hosts: many ZeroMQ connections in one process, each speaking the real protocol.

What to send and when is decided by the same `shared.link.BaseSender` that a real camera host uses; in place of its
spool stands a generator that makes the packet for any sequence number again. An edge keeps a fixed number of packets
in flight, so the load is what the gateway takes, not what somebody guessed.
"""

from __future__ import annotations

import math
import time
from array import array
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TypeAlias

import zmq

from secondlook.shared.errors import GatewayUnreachable, RequestRefused
from secondlook.shared.link import BaseSender, LinkTimes, Received
from secondlook.shared.packet import Ack, BaseFrame, Fault, FrameInfo, Hello, Welcome, parse

_Socket: TypeAlias = "zmq.Socket[bytes]"
_Context: TypeAlias = "zmq.Context[_Socket]"

_TIMES = LinkTimes(resend_seconds=20.0, hello_seconds=5.0)
_POLL_MS = 200
_SIDE = 64
_SILENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Load:
    """What one load process does."""

    address: str  # of the gateway, for camera hosts
    boot_id: str  # of all its edges; each run has another one, for queues remember the frames of the last
    first_edge: int  # edges are numbered through all load processes
    edges: int
    packets: int  # an edge
    payloads: tuple[bytes, ...]  # sent in turn
    in_flight: int  # packets an edge has in flight at most


@dataclass(frozen=True)
class Sent:
    """What one load process measured. Instants are monotonic seconds, which all processes of a machine share."""

    started: float
    ended: float
    latencies: array[float]  # seconds from sending to the acknowledgement, a packet


def edge_name(number: int) -> str:
    return f"bench-{number}"


def send_load(load: Load, result: Connection) -> None:
    """Deliver all of a load, then send a `Sent`, or an error, through `result`."""
    context: _Context = zmq.Context()
    try:
        result.send(_deliver(load, context))
    except (GatewayUnreachable, RequestRefused) as error:
        result.send(error)
    finally:
        context.destroy(linger=0)


def _deliver(load: Load, context: _Context) -> Sent:
    latencies: array[float] = array("d")
    edges = [_Edge(context, load, load.first_edge + n, latencies) for n in range(load.edges)]
    by_socket = {edge.socket: edge for edge in edges}
    poller = zmq.Poller()
    for edge in edges:
        poller.register(edge.socket, zmq.POLLIN)
    # A hello to a connection that is not there yet would be missed, and said again seconds later.
    if not all(edge.socket.poll(int(1000 * _SILENCE_SECONDS), zmq.POLLOUT) for edge in edges):
        raise GatewayUnreachable(f"the gateway took no connection for {_SILENCE_SECONDS:g} s")
    started = heard = checked = time.monotonic()
    for edge in edges:
        edge.send_due(started)
    open_edges = len(edges)
    while open_edges:
        ready = poller.poll(_POLL_MS)
        now = time.monotonic()
        for socket, _ in ready:
            heard = now
            edge = by_socket[socket]
            edge.hear(now)
            edge.send_due(now)
            if edge.is_done:
                poller.unregister(socket)
                open_edges -= 1
        if now - checked > 1.0:  # timers: hellos and packets that were lost
            checked = now
            for edge in edges:
                if not edge.is_done:
                    edge.send_due(now)
        if now - heard > _SILENCE_SECONDS:
            raise GatewayUnreachable(f"the gateway said nothing for {_SILENCE_SECONDS:g} s")
    return Sent(started, time.monotonic(), latencies)


class _Edge:
    def __init__(self, context: _Context, load: Load, number: int, latencies: array[float]) -> None:
        self._load = load
        self._id = edge_name(number)
        self._sender = BaseSender(_TIMES)
        self._safe = Received()
        self._sent_at: dict[int, float] = {}
        self._latencies = latencies
        self.socket = context.socket(zmq.DEALER)
        for option, value in (
            *((zmq.LINGER, 0), (zmq.IMMEDIATE, 1), (zmq.SNDHWM, 64), (zmq.RCVHWM, 64)),
            (zmq.RECONNECT_IVL, 200),
        ):
            self.socket.setsockopt(option, value)
        self.socket.connect(load.address)

    @property
    def is_done(self) -> bool:
        return self._safe.cumulative == self._load.packets - 1

    def hear(self, now: float) -> None:
        """Take in all that has arrived. Raises RequestRefused when the gateway does not want it."""
        while True:
            try:
                packet = parse(self.socket.recv_multipart(zmq.DONTWAIT))
            except zmq.Again:
                return
            if isinstance(packet, Welcome):
                self._sender.welcomed(packet.boot_id, packet.cumulative, packet.credit_bytes)
            elif isinstance(packet, Ack):
                self._sender.acknowledged(
                    packet.boot_id, packet.cumulative, packet.selective, packet.credit_bytes
                )
                self._acknowledged(packet, now)
            elif isinstance(packet, Fault) and packet.code == "hello-first":
                self._sender.connected()
            elif isinstance(packet, Fault) and packet.code != "busy":  # which waits for credit
                raise RequestRefused(f"{packet.code}: {packet.text}")

    def _acknowledged(self, ack: Ack, now: float) -> None:
        self._safe.add(0, ack.cumulative) if ack.cumulative >= 0 else None
        for first, last in ack.selective:
            self._safe.add(first, last)
        for seq in [seq for seq in self._sent_at if seq in self._safe]:
            self._latencies.append(now - self._sent_at.pop(seq))

    def send_due(self, now: float) -> None:
        try:
            for boot_id in self._sender.hellos([self._load.boot_id], now):
                hello = Hello(self._id, boot_id, "bulk", self._id, self._load.packets, 0, "bench")
                self.socket.send_multipart(hello.to_frames(), zmq.DONTWAIT)
            for flight in self._sender.overdue(now):
                self._send(flight.first_seq, now)
            while len(self._sent_at) < self._load.in_flight and (read := self._sender.next_read()):
                if read.from_seq == self._load.packets:
                    self._sender.drained(read.boot_id)
                elif not self._sender.may_send(len(self._payload(read.from_seq))):
                    return
                else:
                    self._send(read.from_seq, now)
        except zmq.Again:
            return  # nothing connected yet, or its queue is full: the timers come back to it

    def _send(self, seq: int, now: float) -> None:
        payload = self._payload(seq)
        packet = BaseFrame(FrameInfo(self._load.boot_id, seq, time.time_ns(), _SIDE, _SIDE, None, 0), payload)
        self.socket.send_multipart(packet.to_frames(), zmq.DONTWAIT)
        self._sender.sent(self._load.boot_id, seq, seq, len(payload), now)
        self._sent_at.setdefault(seq, now)

    def _payload(self, seq: int) -> bytes:
        return self._load.payloads[seq % len(self._load.payloads)]


def quantile(sorted_values: array[float], share: float) -> float:
    """The value that this share (0 to 1) of ascending values keeps within."""
    return sorted_values[max(0, math.ceil(share * len(sorted_values)) - 1)]

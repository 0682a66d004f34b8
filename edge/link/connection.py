"""One ZeroMQ connection to the gateway, with the monitor that tells what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import zmq
import zmq.utils.monitor

from secondlook.edge.config import LinkConfig
from secondlook.edge.link.keys import Keys
from secondlook.shared.address import is_ipv6
from secondlook.shared.errors import ConfigError
from secondlook.shared.keepalive import IDLE_SECONDS, set_keepalive
from secondlook.shared.packet import MAX_MESSAGE_BYTES, Packet

_Context: TypeAlias = "zmq.Context[zmq.Socket[bytes]]"

MAX_QUEUED = 64  # messages in ZeroMQ's own queues, a side; credit is what really bounds them
UP = zmq.EVENT_HANDSHAKE_SUCCEEDED
REFUSED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
DOWN = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | REFUSED


@dataclass(frozen=True)
class AgentIdentity:
    """Who says hello."""

    edge_id: str
    boot_id: str
    camera: str


class Connection:
    """One DEALER socket with its monitor."""

    def __init__(self, context: _Context, config: LinkConfig, keys: Keys | None) -> None:
        self.socket = context.socket(zmq.DEALER)
        set_keepalive(self.socket, idle_seconds=IDLE_SECONDS)
        for option, value in (
            *((zmq.LINGER, 0), (zmq.IMMEDIATE, 1), (zmq.SNDHWM, MAX_QUEUED), (zmq.RCVHWM, MAX_QUEUED)),
            (zmq.RECONNECT_IVL, int(config.retry_min_seconds * 1000)),
            (zmq.RECONNECT_IVL_MAX, int(config.retry_max_seconds * 1000)),
            (zmq.CONNECT_TIMEOUT, 10_000),
            (zmq.IPV6, is_ipv6(config.gateway)),
            (zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES),
        ):
            self.socket.setsockopt(option, value)
        if keys is not None:
            self.socket.curve_serverkey = keys.server_public
            self.socket.curve_publickey = keys.public
            self.socket.curve_secretkey = keys.secret
        self.monitor = self.socket.get_monitor_socket(UP | DOWN)
        try:
            self.socket.connect(config.gateway)
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(f"link.gateway {config.gateway}: {error.strerror}") from error
        self.up = False
        self.blocked = False  # the socket would not take more; wait until it can

    def send(self, packet: Packet) -> bool:
        """Hand a packet to the socket; False when its queue is full."""
        try:
            self.socket.send_multipart(packet.to_frames(), zmq.DONTWAIT, copy=True)
        except zmq.Again:
            self.blocked = True
            return False
        return True

    def receive(self) -> list[bytes] | None:
        try:
            return self.socket.recv_multipart(zmq.DONTWAIT)
        except zmq.Again:
            return None

    def events(self) -> int:
        """What happened to the connection since last asked, as bits."""
        seen = 0
        while self.monitor.poll(0):
            seen |= zmq.utils.monitor.recv_monitor_message(self.monitor)["event"]
        return seen

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close(0)
        self.socket.close(0)

"""Tries the way to the gateway as an agent would, for `secondlook doctor`: handshake, round trip, rate.

It says hello on a control connection of its own, beside a running agent's. The rate is measured with chunks of a
request that nobody made: the gateway answers each with a fault, so the time to that tells how long the chunk took.
"""

from __future__ import annotations

import secrets
import socket
import time
import zlib
from dataclasses import dataclass

import zmq

from secondlook.edge.config import EdgeConfig
from secondlook.edge.link.connection import DOWN, REFUSED, UP, Connection
from secondlook.edge.link.keys import load_keys
from secondlook.shared.errors import GatewayUnreachable, KeyRejected, LinkError, PacketError
from secondlook.shared.packet import (
    MAX_CHUNK_BYTES,
    MAX_SEQ,
    PROBE,
    Chunk,
    Fault,
    Hello,
    Packet,
    Ping,
    Pong,
    Welcome,
    parse,
)
from secondlook.shared.version import __version__

_WAIT_SECONDS = 10.0
_PINGS = 5
_FIRST_BYTES = 4 << 10
_RATE_SECONDS = 2.0  # of sending
_QUICK_SECONDS = 0.2  # a chunk that takes less is followed by one of twice the size
_NOBODYS_REQUEST = MAX_SEQ


@dataclass(frozen=True)
class LinkFigures:
    """`clock_offset_seconds`: the gateway's clock minus ours; `kbps`: None where it was not measured."""

    connect_seconds: float
    round_trip_seconds: float
    clock_offset_seconds: float
    kbps: float | None


def probe_link(config: EdgeConfig, *, with_rate: bool = True) -> LinkFigures:
    """Connect, say hello, and measure. Raises GatewayUnreachable, KeyRejected, SecretExposed, LinkError."""
    began = time.monotonic()
    _reach(config.link.gateway)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    connection = Connection(context, config.link, load_keys(config.link))
    try:
        _await_handshake(connection, config)
        connected = time.monotonic() - began
        hello = Hello(
            config.edge_id,
            secrets.token_hex(16),
            "control",
            config.camera,
            0,
            0,
            f"secondlook {__version__}{PROBE}",
        )
        connection.send(hello)
        _await(connection, Welcome)
        trips = [_trip(connection) for _ in range(_PINGS)]
        trip, offset = min(trips)
        rate = _rate(connection, trip) if with_rate else None
        return LinkFigures(connected, trip, offset, rate)
    finally:
        connection.close()
        context.destroy(linger=0)


def _reach(gateway: str) -> None:
    """A plain TCP connection first: it tells a name or port that is wrong from a key that is."""
    host, _, port = gateway.removeprefix("tcp://").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_WAIT_SECONDS):
            return
    except socket.gaierror as error:
        raise GatewayUnreachable(f"the name of {gateway} has no address ({error.strerror})") from error
    except OSError as error:
        raise GatewayUnreachable(f"no connection to {gateway} ({error.strerror or error})") from error


def _await_handshake(connection: Connection, config: EdgeConfig) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        seen = connection.events()
        if seen & UP:
            return
        if seen & REFUSED:
            raise KeyRejected(f"gateway {config.link.gateway} does not accept this host's key")
        if seen & DOWN:
            raise KeyRejected(
                f"the handshake with {config.link.gateway} broke: is {config.link.server_public_key_file} its key?"
            )
        connection.monitor.poll(100)
    raise GatewayUnreachable(f"{config.link.gateway} did not shake hands in {_WAIT_SECONDS:g} s")


def _await(connection: Connection, *kinds: type[Packet]) -> Packet:
    deadline = time.monotonic() + _WAIT_SECONDS
    while (left := deadline - time.monotonic()) > 0 and connection.socket.poll(int(left * 1000) + 1):
        frames = connection.receive()
        if frames is None:
            continue
        try:
            packet = parse(frames)
        except PacketError as error:
            raise LinkError(f"the gateway answers with what is no packet: {error}") from error
        if isinstance(packet, kinds):
            return packet
        if isinstance(packet, Fault):
            raise LinkError(f"the gateway refuses this host: {packet.code}: {packet.text}")
    raise GatewayUnreachable(f"no answer in {_WAIT_SECONDS:g} s")


def _trip(connection: Connection) -> tuple[float, float]:
    """Seconds there and back, and the gateway's clock minus ours."""
    now_ns, began = time.time_ns(), time.monotonic()
    connection.send(Ping(now_ns))
    pong = _await(connection, Pong)
    trip = time.monotonic() - began
    assert isinstance(pong, Pong)
    return trip, (pong.now_ns - now_ns) / 1e9 - trip / 2


def _rate(connection: Connection, trip_seconds: float) -> float:
    """Kilobits a second upwards, by chunks of the largest size that about two seconds had room for."""
    size, sent, spent, began = _FIRST_BYTES, 0, 0.0, time.monotonic()
    while time.monotonic() - began < _RATE_SECONDS:
        payload = secrets.token_bytes(size)  # no modem can make less of it
        at = time.monotonic()
        connection.send(Chunk(_NOBODYS_REQUEST, 0, 2 * size, zlib.crc32(payload), payload))
        _await(connection, Fault)
        took = time.monotonic() - at
        sent, spent = sent + size, spent + max(1e-6, took - trip_seconds)
        if took < _QUICK_SECONDS and size < MAX_CHUNK_BYTES:
            size, sent, spent = 2 * size, 0, 0.0
    return sent * 8 / 1000 / max(spent, 1e-6) if sent else size * 8 / 1000 / max(took - trip_seconds, 1e-6)

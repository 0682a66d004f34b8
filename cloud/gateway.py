"""The gateway process: two ROUTER sockets and one thread that owns them and the database.

Camera hosts speak to ``cloud.intake``, workers to ``cloud.broker``; this module moves their bytes. One turn of the
loop takes what has arrived, stores it in one commit, and only then sends the acknowledgements. Keys are checked in
the same thread: ZeroMQ asks over an inproc socket (ZAP) before it lets a connection through.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeAlias

import zmq

from cloud.blobs import open_blobs
from cloud.broker import MAX_REQUEST_BYTES, Broker
from cloud.config import CloudConfig, GatewayConfig
from cloud.intake import Intake, Outgoing
from cloud.keys import Registry, Role, answer_zap
from cloud.ledger import Ledger
from cloud.queue import SqliteQueue, open_database
from cloud.requests import RequestTable
from cloud.wires import Wires, cut
from shared.address import is_loopback
from shared.errors import ConfigError, KeyRejected, PortBusy
from shared.keyfiles import read_key_pair
from shared.packetfields import MAX_MESSAGE_BYTES
from shared.sqlite import named_errors

_Context: TypeAlias = "zmq.Context[zmq.Socket[bytes]]"
_Socket: TypeAlias = "zmq.Socket[bytes]"

log = logging.getLogger(__name__)

_ZAP_ADDRESS = "inproc://zeromq.zap.01"
_POLL_MS = 100
_TICK_SECONDS = 0.25
_MESSAGES = 64  # ZeroMQ's own queues, a peer and side; credit is what really bounds them
_CALLS_AT_ONCE = 16
_UNREACHABLE = (zmq.EHOSTUNREACH, zmq.EAGAIN)


class Gateway:
    """Open sockets and stores; ``run`` serves until told to stop. Use in one thread, as a context manager."""

    def __init__(self, config: CloudConfig, clock: Callable[[], float] = time.time) -> None:
        """Raises ConfigError, KeyRejected, PortBusy, and the StorageErrors of a store that cannot be opened."""
        self._clock = clock
        gateway = config.gateway
        registry = None if gateway.registry_file is None else Registry(gateway.registry_file)
        keys = None if gateway.secret_key_file is None else read_key_pair(gateway.secret_key_file)
        plain_workers = is_loopback(config.broker.address)
        if not plain_workers and keys is None:
            raise ConfigError(f"broker.address {config.broker.address} faces a network: keys are needed")
        self._registry = registry
        self._worker_registry = None if plain_workers else registry
        self._wires = Wires()
        self._path = config.database
        self._database = open_database(config.database)
        ledger = Ledger(self._database)
        queue = SqliteQueue(self._database, gateway.queue)
        requests = RequestTable(self._database, gateway.requests)
        blobs = open_blobs(config.blobs_url)
        self._intake = Intake(ledger, queue, requests, blobs, gateway.limits, registry, gateway.rates)
        self._broker = Broker(queue, ledger, requests, blobs, self._intake.connected)
        self._context: _Context = zmq.Context()
        try:
            self._zap = self._context.socket(zmq.ROUTER)
            self._zap.bind(_ZAP_ADDRESS)  # must be there before a socket that asks it
            self._edges = self._router(gateway.edge_address, keys, Role.EDGE, MAX_MESSAGE_BYTES, gateway)
            self._workers = self._router(
                config.broker.address,
                None if plain_workers else keys,
                Role.WORKER,
                MAX_REQUEST_BYTES,
                gateway,
            )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Gateway:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def edge_address(self) -> str:
        """Where camera hosts reach this gateway; with the real port where the setting said 0."""
        return self._edges.getsockopt_string(zmq.LAST_ENDPOINT)

    @property
    def broker_address(self) -> str:
        return self._workers.getsockopt_string(zmq.LAST_ENDPOINT)

    def close(self) -> None:
        self._context.destroy(linger=0)
        self._database.close()

    def run(self, stop: threading.Event) -> None:
        """Serve until ``stop`` is set. Raises StoreCorrupt or Unwritable when the database fails for good."""
        poller = zmq.Poller()
        for socket in (self._zap, self._edges, self._workers):
            poller.register(socket, zmq.POLLIN)
        ticked_at = 0.0
        with named_errors(self._path):
            while not stop.is_set():
                ready = dict(poller.poll(_POLL_MS))
                if self._zap in ready:
                    self._answer_zap()
                if self._edges in ready:
                    self._serve_edges()
                served = self._workers in ready and self._serve_workers()
                if served or self._clock() - ticked_at >= _TICK_SECONDS:
                    ticked_at = self._clock()
                    self._refresh_registry()
                    self._cut_off(ticked_at)
                    self._send(self._intake.tick(now=ticked_at))

    def _router(
        self,
        address: str,
        keys: tuple[bytes, bytes] | None,
        role: Role,
        most_bytes: int,
        config: GatewayConfig,
    ) -> _Socket:
        socket = self._context.socket(zmq.ROUTER)
        for option, value in (
            *((zmq.LINGER, 0), (zmq.SNDHWM, _MESSAGES), (zmq.RCVHWM, _MESSAGES)),
            *((zmq.ROUTER_MANDATORY, 1), (zmq.MAXMSGSIZE, most_bytes)),
            *((zmq.HEARTBEAT_IVL, 5_000), (zmq.HEARTBEAT_TIMEOUT, 15_000)),
            *((zmq.HANDSHAKE_IVL, int(config.handshake_seconds * 1000)), (zmq.BACKLOG, config.backlog)),
        ):
            socket.setsockopt(option, value)
        if keys is not None:
            socket.zap_domain = role.value.encode()
            socket.curve_server = True
            socket.curve_publickey, socket.curve_secretkey = keys
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            if error.errno == zmq.EADDRINUSE:
                raise PortBusy(f"{address} is in use by another program") from error
            raise ConfigError(f"cannot listen on {address}: {error.strerror}") from error
        return socket

    def _answer_zap(self) -> None:
        if self._registry is None:
            return
        self._refresh_registry()
        while (frames := _receive(self._zap)) is not None:
            # The REQ inside ZeroMQ puts an empty frame before its request.
            peer, empty, *request = frames
            self._zap.send_multipart([peer, empty, *answer_zap(request, self._registry, now=self._clock())])

    def _refresh_registry(self) -> None:
        """Take in what was registered or revoked meanwhile; a file that cannot be read changes nothing."""
        if self._registry is not None:
            try:
                self._registry.refresh()
            except KeyRejected as error:
                log.error("the keys stay as they were: %s", error)

    def _cut_off(self, now: float) -> None:
        """End the connections whose keys have been revoked, or whose overlap has passed."""
        for peer in self._intake.expel(now=now):
            self._wires.cut(peer)
        self._wires.keep(self._intake.has)

    def _serve_edges(self) -> None:
        now = self._clock()
        while not self._intake.batch_is_full:
            try:
                first, *rest = self._edges.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                break
            key = _user_id(first)
            if not self._intake.serves(key, now=now):
                cut(_descriptor(first))
                continue
            peer, frames = first.bytes, [frame.bytes for frame in rest]
            self._send(self._intake.receive(peer, frames, key, now=now))
            if peer not in self._wires and self._intake.has(peer):
                self._wires.note(peer, _descriptor(first))
        self._send(self._intake.flush(now=now))

    def _serve_workers(self) -> bool:
        """Answer some calls; whether there were any."""
        served = False
        for _ in range(_CALLS_AT_ONCE):
            try:
                peer, *frames = self._workers.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                break
            served, now = True, self._clock()
            if not self._is_worker(peer, now):
                cut(_descriptor(peer))
            elif len(frames) == 1:
                answer = self._broker.answer(frames[0].bytes, now=now)
                _send(self._workers, [peer.bytes, answer])
        return served

    def _is_worker(self, frame: zmq.Frame, now: float) -> bool:
        """Whether the connection a frame came on may call the broker; a plain one, on this machine, may."""
        keys = self._worker_registry
        return keys is None or keys.find(_user_id(frame), Role.WORKER, now) is not None

    def _send(self, packets: list[Outgoing]) -> None:
        for peer, packet in packets:
            # What a slow peer's queue has no room for is dropped: acknowledgements and requests are repeated.
            if _send(self._edges, [peer, *packet.to_frames()]) == zmq.EHOSTUNREACH:
                self._intake.lost(peer)


def _receive(socket: _Socket) -> list[bytes] | None:
    try:
        return socket.recv_multipart(zmq.DONTWAIT)
    except zmq.Again:
        return None


def _send(socket: _Socket, frames: list[bytes]) -> int:
    """Send without waiting; returns 0, or why the peer could not be reached."""
    try:
        socket.send_multipart(frames, zmq.DONTWAIT)
    except zmq.ZMQError as error:
        if error.errno not in _UNREACHABLE:
            raise
        return int(error.errno)
    return 0


def _descriptor(frame: zmq.Frame) -> int:
    """The descriptor of the connection a frame came on."""
    return int(frame.get(zmq.SRCFD))


def _user_id(frame: zmq.Frame) -> str:
    """The key that ZAP accepted for the connection a frame came on; empty on a plain connection."""
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""

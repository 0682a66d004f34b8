"""The gateway process: two ROUTER sockets and one thread that owns them and the database.

Camera hosts speak to ``intake``, workers to ``broker``; this module moves their bytes. One turn of the loop takes
what has arrived from both, stores all of it in one commit (a commit waits for the disk; what it holds costs little),
and only then sends the answers. Keys are checked in the same thread: ZeroMQ asks over an inproc socket (ZAP) before it
lets a connection through.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import TypeAlias

import zmq

from secondlook.cloud.config import CloudConfig, GatewayConfig
from secondlook.cloud.gateway.broker import MAX_REQUEST_BYTES, Broker, waited
from secondlook.cloud.gateway.connections import ConnectionTable, disconnect
from secondlook.cloud.gateway.diskroom import DiskRoom, on_one_disk
from secondlook.cloud.gateway.figures import SiteFigures
from secondlook.cloud.gateway.intake import Intake, Outgoing
from secondlook.cloud.gateway.keys import Registry, Role, answer_zap, zap_key
from secondlook.cloud.gateway.presence import Presence
from secondlook.cloud.gateway.waiting import Parked, Waiting
from secondlook.cloud.storage.blobs import open_blobs
from secondlook.cloud.storage.stores import open_stores
from secondlook.shared.address import is_ipv6, is_loopback
from secondlook.shared.alerts import open_alerts
from secondlook.shared.conditions import WatchConfig
from secondlook.shared.errors import TRANSIENT_ERRORS, ConfigError, KeyRejected, PortBusy
from secondlook.shared.keepalive import IDLE_SECONDS, set_keepalive
from secondlook.shared.keyfiles import read_key_pair
from secondlook.shared.outage import LimitedLog
from secondlook.shared.packet import MAX_MESSAGE_BYTES
from secondlook.shared.sqlite import named_errors
from secondlook.shared.watch import Watch

_Context: TypeAlias = "zmq.Context[zmq.Socket[bytes]]"
_Socket: TypeAlias = "zmq.Socket[bytes]"

log = logging.getLogger(__name__)

_ZAP_ADDRESS = "inproc://zeromq.zap.01"
_POLL_MS = 500  # as often as time brings anything; what arrives wakes it
_SETTLE_MS = 1  # while the queue's server is storing a batch
_TICK_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 1.25  # of a worker for frames; it keeps its camera hosts for 2 s (`affinity`)
_MESSAGES = 64  # ZeroMQ's own queues, a peer and side; credit is what really bounds them
_CALLS_AT_ONCE = 32
_PACKETS_AT_ONCE = 1024  # answers of one turn that wait for its commit, about
_FORGET_SECONDS = 60.0  # between two deletions of what is too old
_FORGOTTEN_AT_ONCE = 1000  # rows; camera hosts wait meanwhile
_DAY_SECONDS = 86_400.0
# For taking in packets, and for calls: keys, workers and acknowledgements wait no longer. A batch fits in; with a fifth
# of it commits are so many that a gateway takes a third fewer packets.
_TURN_SECONDS = 0.1
_STRANGER_SECONDS = 60.0  # between two lines about connections with keys that nobody registered
_UNREACHABLE = (zmq.EHOSTUNREACH, zmq.EAGAIN)


@dataclass(frozen=True)
class _Call:
    """A worker's request; ``caller`` is the name that goes with its key."""

    peer: bytes
    message: bytes
    caller: str


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
        self._connections = ConnectionTable()
        self._path = config.database
        self._ticked_at = -_TICK_SECONDS  # monotonic
        self._forgot_at = -_FORGET_SECONDS  # monotonic
        self._retention = config.retention
        blobs = open_blobs(config.blobs_url)
        self._stores = stores = open_stores(config)
        self._intake = Intake(
            stores.ledger,
            stores.queue,
            stores.requests,
            blobs,
            gateway.limits,
            registry,
            gateway.rates,
            self._disk_fullness(config),
        )
        presence = Presence()
        # The clocks' lines are the intake's, at each ping.
        alert = open_alerts(config.watch, config.smtp, "gateway")
        self._watch = Watch(config.watch, silent={"clock-off"}, alert=alert)
        self._figures = SiteFigures(stores, self._intake, presence, registry, config.data_dir, clock())
        self._strangers = LimitedLog(log, _STRANGER_SECONDS)
        self._broker = Broker(
            stores.queue,
            stores.ledger,
            stores.requests,
            blobs,
            self._intake.connected,
            clock_offsets=self._intake.clock_offsets,
            greet_again=self._intake.greet_again,
            presence=presence,
            conditions=self._watch.told,
            # Into a queue that is a server, frames come by other gateways, too: then nobody is to wait here.
            longest_wait_seconds=_LONGEST_WAIT_SECONDS if config.queue is None else 0.0,
            tally=self._intake.tally,
        )
        self._waiting = Waiting()
        self._context: _Context = zmq.Context()
        with ExitStack() as undo:
            undo.callback(self.close)
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
            undo.pop_all()

    def __enter__(self) -> Gateway:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _disk_fullness(self, config: CloudConfig) -> Callable[[float], str | None]:
        if config.queue is not None and config.ledger_url is not None:
            return lambda now: None  # servers look after their own disks
        queue = self._stores.queue
        drains_here = config.queue is None and on_one_disk(config.data_dir, config.blobs_url)
        to_come = (lambda: queue.depth_bytes) if drains_here else (lambda: 0)
        return DiskRoom(config.data_dir, config.gateway.limits.min_free_bytes, to_come).why_full

    def watch(self, config: WatchConfig) -> None:
        """Other limits of what is told by itself, from now on."""
        self._watch.configure(config)

    @property
    def edge_address(self) -> str:
        """Where camera hosts reach this gateway; with the real port where the setting said 0."""
        return self._edges.getsockopt_string(zmq.LAST_ENDPOINT)

    @property
    def broker_address(self) -> str:
        return self._workers.getsockopt_string(zmq.LAST_ENDPOINT)

    def close(self) -> None:
        self._context.destroy(linger=0)
        self._stores.close()

    def run(
        self,
        stop: threading.Event,
        heartbeat: Callable[[], None] = lambda: None,
        waits: Callable[[str | None], None] = lambda _why: None,
    ) -> None:
        """Serve until ``stop`` is set. Raises StoreCorrupt or Unwritable when the database fails for good.

        ``heartbeat`` is called whenever all that had arrived is dealt with: stored and acknowledged, or refused;
        ``waits`` then hears which store is away, or None.
        """
        poller = zmq.Poller()
        for socket in (self._zap, self._edges, self._workers):
            poller.register(socket, zmq.POLLIN)
        with named_errors(self._path):
            while not stop.is_set():
                ready = dict(poller.poll(_SETTLE_MS if self._intake.awaits_queue else _POLL_MS))
                if self._zap in ready:
                    self._answer_zap()
                self._turn(self._edges in ready, self._workers in ready, self._clock())
                self._look_around(self._clock())
                waits(self._intake.waits_for(now=self._clock()))
                heartbeat()

    def _turn(self, from_edges: bool, from_workers: bool, now: float) -> None:
        """Take in what has arrived and do what time brings, in one commit; then send the answers."""
        calls = self._receive_calls(now) if from_workers else []
        due = time.monotonic() - self._ticked_at >= _TICK_SECONDS
        storing = from_edges or self._intake.awaits_queue
        if not (storing or calls or due):
            return
        if due:
            self._ticked_at = time.monotonic()
            self._refresh_registry()
            self._cut_off(now)
            if self._intake.disk_was_full:
                self._stores.shorten_log()
        packets: list[Outgoing] = []
        try:
            with self._stores.one_commit(synced=storing):
                if storing:
                    packets += self._receive_packets(now)
                answers = [
                    (call.peer, self._broker.answer(call.message, now=now, caller=call.caller))
                    for call in calls
                ]
                if due:
                    packets += self._intake.tick(now=now)
                    self._forget_old(now)
                elif calls:
                    packets += self._intake.serve_requests(now=now)
            self._intake.tally.committed(self._intake.clock_offsets(), now=now)
        except TRANSIENT_ERRORS as error:
            self._intake.on_rollback(error, now=now)
            packets, answers = (
                [],
                [(call.peer, self._broker.on_rollback(call.message, error)) for call in calls],
            )
        for peer, answer in answers:
            if isinstance(answer, Parked):
                self._waiting.park(peer, answer)
            else:
                _send(self._workers, [peer, answer])
        self._answer_waiting(storing, now)
        for peer, packet in packets:
            # What a slow peer's queue has no room for is dropped: acknowledgements and requests are repeated.
            if _send(self._edges, [peer, *packet.to_frames()]) == zmq.EHOSTUNREACH:
                self._intake.lost(peer)

    def _answer_waiting(self, storing: bool, now: float) -> None:
        """Tell workers that wait that frames have come, or that they have waited for long enough."""
        if self._waiting:
            has_frames = storing and self._stores.queue.depth > 0
            for peer, request_id in self._waiting.due(now=now, has_frames=has_frames):
                _send(self._workers, [peer, waited(request_id, has_frames=has_frames)])

    def _look_around(self, now: float) -> None:
        """See once a second whether all is well; a store that is away is the intake's to tell."""
        if self._watch.is_due(now):
            with contextlib.suppress(*TRANSIENT_ERRORS):
                self._watch.look(self._figures.look(now), now)

    def _forget_old(self, now: float) -> None:
        """Delete some of the tombstones and ended requests that were kept for long enough, once a minute."""
        if time.monotonic() - self._forgot_at < _FORGET_SECONDS:
            return
        self._forgot_at = time.monotonic()
        days = self._retention
        tombstones = requests = 0
        if days.tombstones_days:
            before_ns = int((now - days.tombstones_days * _DAY_SECONDS) * 1_000_000_000)
            tombstones = self._stores.ledger.forget_tombstones(before_ns=before_ns, most=_FORGOTTEN_AT_ONCE)
        if days.requests_days:
            requests = self._stores.requests.forget(
                before=now - days.requests_days * _DAY_SECONDS, most=_FORGOTTEN_AT_ONCE
            )
        if tombstones or requests:
            log.info("deleted %d old tombstones and %d old requests", tombstones, requests)
        if max(tombstones, requests) == _FORGOTTEN_AT_ONCE:
            self._forgot_at = -_FORGET_SECONDS  # there may be more

    def _router(
        self,
        address: str,
        keys: tuple[bytes, bytes] | None,
        role: Role,
        max_bytes: int,
        config: GatewayConfig,
    ) -> _Socket:
        socket = self._context.socket(zmq.ROUTER)
        set_keepalive(socket, idle_seconds=IDLE_SECONDS if role is Role.EDGE else None)
        for option, value in (
            *((zmq.LINGER, 0), (zmq.SNDHWM, _MESSAGES), (zmq.RCVHWM, _MESSAGES)),
            *((zmq.ROUTER_MANDATORY, 1), (zmq.MAXMSGSIZE, max_bytes), (zmq.IPV6, is_ipv6(address))),
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
            now = self._clock()
            reply = answer_zap(request, self._registry, now=now)
            if reply[2] != b"200":
                self._note_refusal(request, now)
            self._zap.send_multipart([peer, empty, *reply])

    def _note_refusal(self, request: list[bytes], now: float) -> None:
        """Say whose key it was that is refused; of one that nobody registered its first letters must do."""
        key = zap_key(request)
        if key is None or self._registry is None:
            return
        entry = self._registry.known(key)
        if entry is None:
            text = f"a connection was refused: its key {key[:8]}... is not registered (secondlook keys add)"
            self._strangers.warning("stranger", text, now)
        else:
            self._figures.refused[entry.name] = now

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
            self._connections.disconnect(peer)
        self._connections.keep(self._intake.has)

    def _receive_packets(self, now: float) -> list[Outgoing]:
        """Hand over what camera hosts sent, up to one batch, and store it; what to answer."""
        packets: list[Outgoing] = []
        take = self._take_plain if self._registry is None else self._take_authenticated
        end = time.monotonic() + _TURN_SECONDS
        while not self._intake.batch_is_full and len(packets) < _PACKETS_AT_ONCE and time.monotonic() < end:
            answers = take(now)
            if answers is None:
                break
            packets += answers
        return packets + self._intake.flush(now=now, wait=False)

    def _take_plain(self, now: float) -> list[Outgoing] | None:
        """Hand over one message of a socket without keys; None when there is none."""
        message = _receive(self._edges)
        return None if message is None else self._intake.receive(message[0], message[1:], "", now=now)

    def _take_authenticated(self, now: float) -> list[Outgoing] | None:
        """Hand over one message if its key is in force, else cut its connection; None when there is none."""
        try:
            first, *rest = self._edges.recv_multipart(zmq.DONTWAIT, copy=False)
        except zmq.Again:
            return None
        key = _user_id(first)
        if not self._intake.serves(key, now=now):
            disconnect(_descriptor(first))
            return []
        peer, frames = first.bytes, [frame.bytes for frame in rest]
        answers = self._intake.receive(peer, frames, key, now=now)
        if peer not in self._connections and self._intake.has(peer):
            self._connections.note(peer, _descriptor(first))
        return answers

    def _receive_calls(self, now: float) -> list[_Call]:
        """Some calls of workers."""
        calls: list[_Call] = []
        while len(calls) < _CALLS_AT_ONCE:
            try:
                peer, *frames = self._workers.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                break
            caller = self._caller(peer, now)
            if caller is None:
                disconnect(_descriptor(peer))
            elif len(frames) == 1:
                calls.append(_Call(peer.bytes, frames[0].bytes, caller))
        return calls

    def _caller(self, frame: zmq.Frame, now: float) -> str | None:
        """The registered name behind the connection a frame came on; empty for a plain one, on this machine.

        None for one that may not call the broker.
        """
        if self._worker_registry is None:
            return ""
        entry = self._worker_registry.find(_user_id(frame), Role.WORKER, now)
        return None if entry is None else entry.name


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

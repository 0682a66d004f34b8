"""The uplink: one thread with two ZeroMQ connections to the gateway, and the only sockets on the edge.

What to send and when is decided by `edge.link.delivery` (base frames) and `edge.link.enhance` (enhancements); this
module moves packets between them, the spool and the sockets. Routing ids are random, so that a gateway that still
remembers the last connection cannot mistake the new one for it. A connection that breaks, or on which
nothing arrives for too long, is closed for good and opened anew after a jittered pause.

Only what the spool holds on disk is ever sent, and only what the gateway calls safe is marked so.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import threading
import time
from typing import Literal, TypeAlias

import zmq

from secondlook.edge.backoff import Backoff
from secondlook.edge.config import LinkConfig
from secondlook.edge.link.clock import GatewayClock, ping_pause
from secondlook.edge.link.connection import DOWN, REFUSED, UP, Connection
from secondlook.edge.link.delivery import Delivery
from secondlook.edge.link.enhance import Finish, Layer, Responder, crop_of
from secondlook.edge.link.identity import AgentIdentity
from secondlook.edge.link.keys import load_keys
from secondlook.edge.link.pacing import PING_BYTES, Pacing
from secondlook.edge.link.reports import Doing, Reports
from secondlook.edge.outage import LinkOutage
from secondlook.edge.spool import Spool
from secondlook.edge.spooled import Safe
from secondlook.shared import tracing
from secondlook.shared.errors import (
    BitstreamError,
    DiskFull,
    KeyRejected,
    ModelError,
    PacketError,
    SecondlookError,
    SecretExposed,
    StoreBusy,
)
from secondlook.shared.outage import LimitedLog, Outage
from secondlook.shared.packet import (
    MAX_CHUNK_BYTES,
    MAX_ENHANCEMENT_BYTES,
    Ack,
    ChunkCredit,
    EnhancementRequest,
    Fault,
    Packet,
    Ping,
    Pong,
    Welcome,
    parse,
)
from secondlook.shared.stop import Wake

_Context: TypeAlias = "zmq.Context[zmq.Socket[bytes]]"

log = logging.getLogger(__name__)

_TICK_SECONDS = 0.1
_AWAY_SECONDS = 0.5  # between two looks at a gateway that is away
_IDLE_SECONDS = 5.0  # at most, where nothing is to be done before something arrives
_LEAVING_SECONDS = 0.3  # for what was gathered to be acknowledged before the connection is closed
_RECEIVE_AT_ONCE = 200
_COMPARED_AT_ONCE = 16  # earlier boots that are greeted at a time to compare what the gateway holds of them
_NEWS_KEPT = 64  # acknowledgements, while the disk is full
_GREET_SECONDS = 1.0  # between two greetings of a gateway that says it does not know us
_REFUSALS = frozenset({"wrong-edge", "too-many-connections"})  # of a whole connection
_CLOCK_AGAIN_SECONDS = 60.0  # between two comparisons of the clocks on a busy link


class Uplink:
    """The thread that delivers. `failure` is set, and the thread ends, when the spool fails it."""

    def __init__(
        self,
        config: LinkConfig,
        identity: AgentIdentity,
        spool: Spool,
        rng: random.Random,
        finish: Finish = lambda kept, _crop: kept,
        *,
        pacer: Pacing | None = None,
        gather_seconds: float = 0.0,
    ) -> None:
        """`finish` makes of what the spool keeps the enhancement to send; `pacer`: what the link may take, if bounded;
        `gather_seconds`: how long small frames wait for one another then, at most.

        Raises KeyRejected, SecretExposed.
        """
        self._config, self._gateway = config, f"gateway {config.gateway}"
        self._identity = identity
        self._spool = spool
        self._finish = finish
        self._keys = load_keys(config)
        self._context: _Context = zmq.Context()
        self._backoff = Backoff(config.retry_min_seconds, config.retry_max_seconds, rng)
        self._link_outage = LinkOutage(config.gateway, config.hello_seconds, time.monotonic())
        self._pacer = pacer
        self._delivery = Delivery(config, identity, spool, pacer, gather_seconds)
        self._responder = Responder(config.max_requests)
        self._reports = Reports()
        self.doing = Doing()  # what people are told; its owner keeps it up to date
        self._bulk: Connection | None = None
        self._control: Connection | None = None
        self._boots: list[str] = []  # to greet: those with anything undelivered, and the present one
        self._uncompared: list[str] = []  # delivered boots, not yet compared on this connection
        self._news: list[Safe] = []  # told safe, not yet marked in the spool
        self._broken = 0  # handshakes: the gateway may have its next key by now
        self._open_at = self._heard_at = self._pinged_at = self._active_at = 0.0
        self._asked_at = 0.0  # since when the gateway has something to answer
        self._resting = self._hurrying = False
        self._control_hello_at = 0.0  # when to say hello there (again); never once welcomed
        self._clock = GatewayClock()
        self._refused: str | None = None  # what the gateway said when it did not take this connection
        self._greet: dict[Connection, float] = {}  # when to say hello anew, because the gateway asked for it
        self._greeted_at: dict[Connection, float] = {}
        self._complaints = LimitedLog(log)
        self._spool_outage = Outage(log)
        self._busy = Outage(log, again_seconds=math.inf)  # the gateway says that it can take nothing
        self._wake = Wake()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{identity.edge_id} uplink", daemon=True)
        self.state: Literal["up", "down"] = "down"
        self.turns = self.enhancement_bytes_sent = 0
        self.acknowledged = 0  # frames that became safe
        self.acknowledged_earlier = 0  # those of them that are of earlier boots
        self.failure: SecondlookError | None = None

    @property
    def link_rate(self) -> float:
        """Bytes a second that the link carries as far as is known, with headers; infinite where it is not bounded."""
        return math.inf if self._pacer is None else self._pacer.rate

    @property
    def clock_offset_seconds(self) -> float | None:
        return self._clock.offset_seconds

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """The spool holds something new."""
        self._wake.call()

    def rest(self, resting: bool) -> None:
        """Keep the connections closed, or open them again; what waits stays in the spool."""
        if resting is not self._resting:
            self._resting = resting
            self.wake()

    def hurry(self, hurrying: bool) -> None:
        """No frame is to wait for others, as none may come; or they may again."""
        if hurrying is not self._hurrying:
            self._hurrying = hurrying
            self.wake()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """End the thread and close the sockets; what is undelivered stays in the spool."""
        self._stopping.set()
        self.wake()
        self._thread.join()
        self._context.term()
        self._wake.close()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._turn()
                self.turns += 1
            self._leave()
            self._mark_safe()
        except SecondlookError as error:
            self.failure = error
        finally:
            self.state = "down"
            self._close()
            self._complaints.flush()

    def _turn(self) -> None:
        """One cycle; a spool that another process holds is waited for, with the link down."""
        try:
            self._cycle()
            self._spool_outage.over(time.monotonic())
        except StoreBusy as error:
            self._spool_outage.met(error, time.monotonic())
            self.state = "down"
            self._close()
            self._open_at = time.monotonic() + self._backoff.next()

    def _cycle(self) -> None:
        if self._resting:
            if self._bulk is not None:
                self._leave()
                self._mark_safe()
                if self._control is not None and self._control.up:
                    self._send_report(self._control, time.monotonic(), leaves=True)
                    self._stopping.wait(_TICK_SECONDS)  # for it to go
                self.state = "down"
                self._close()
            self._wake.wait(_IDLE_SECONDS)
            return
        if self._bulk is None or self._control is None:
            if (pause := self._open_at - time.monotonic()) > 0:
                self._wake.wait(min(pause, _AWAY_SECONDS))
                return
            self._open()
        self._wait()
        self._mark_safe()
        self._compare()
        if self.state == "down" and (line := self._link_outage.waiting(time.monotonic())) is not None:
            log.warning(line)
        if self._check_connections(time.monotonic()):
            self._serve_bulk(time.monotonic())
            self._serve_control(time.monotonic())

    def _serve_bulk(self, now: float) -> None:
        if self._bulk is not None and self._bulk.up:
            hurries = self._hurrying or self._resting or self._stopping.is_set()
            self._delivery.serve(self._bulk, self._boots, now, hurries=hurries)

    def _leave(self) -> None:
        """Frames that wait for others go before the end; what the link or the gateway has no room for stays spooled."""
        if self._bulk is None or not self._delivery.gathers:
            return
        with contextlib.suppress(StoreBusy):
            self._serve_bulk(now := time.monotonic())
            while self._delivery.sender.in_flight and time.monotonic() - now < _LEAVING_SECONDS:
                self._wait()

    def _open(self) -> None:
        try:
            self._keys = load_keys(self._config, self._broken)  # they may have been rotated meanwhile
        except (KeyRejected, SecretExposed) as error:
            log.warning("going on with the keys at hand: %s", error)
        self._bulk = Connection(self._context, self._config, self._keys)
        self._control = Connection(self._context, self._config, self._keys)
        self._heard_at = time.monotonic()

    def _close(self) -> None:
        for connection in (self._bulk, self._control):
            if connection is not None:
                connection.close()
        self._bulk = self._control = self._refused = None
        self._delivery.disconnected()
        self._clock.disconnected()
        self._greet.clear()
        self._greeted_at.clear()

    def _wait(self) -> None:
        """Sleep until something can be done, then take in all that arrived."""
        assert self._bulk is not None and self._control is not None
        poller = zmq.Poller()
        poller.register(self._wake.fileno(), zmq.POLLIN)
        for connection in (self._bulk, self._control):
            poller.register(connection.socket, zmq.POLLIN | (zmq.POLLOUT if connection.blocked else 0))
            poller.register(connection.monitor, zmq.POLLIN)
            connection.blocked = False
        now = time.monotonic()
        patience = max(0.0, min(self._patience(now), self._delivery.due_at - now))
        poller.poll(math.ceil(1000 * patience))
        if self._wake.take():
            self._delivery.spooled(time.monotonic())
        for connection in (self._bulk, self._control):
            for _ in range(_RECEIVE_AT_ONCE):
                frames = connection.receive()
                if frames is None:
                    break
                self._take(connection, frames)

    def _check_connections(self, now: float) -> bool:
        """Follow what the monitors saw. False if the link was given up, to be opened again later."""
        assert self._bulk is not None and self._control is not None
        if self._refused is not None:
            return self._lost(f"{self._gateway} refuses this host: {self._refused}")
        for connection in (self._bulk, self._control):
            if now >= self._greet.get(connection, math.inf):
                self._greet_anew(connection)
            seen = connection.events()
            if seen & REFUSED:
                which = "" if self._keys is None else self._keys.hint
                return self._lost(f"{self._gateway} does not accept this host's key{which}")
            if seen & DOWN and not connection.up and self._keys is not None:
                self._broken += 1
                cure = f"{self._config.server_public_key_file} may not be the gateway's key any more"
                return self._lost(f"the handshake with {self._gateway} broke; where that goes on, {cure}")
            if seen & DOWN:
                return self._lost(f"connection to {self._gateway} broke")
            if seen & UP:
                connection.up = True
                self._heard_at = now
                self._greet_anew(connection)
        if not (self._is_busy or self._clock.is_asked):
            self._asked_at = now  # nothing has to be answered: silence tells nothing
        # While nothing is connected there is nothing to lose: ZeroMQ keeps trying by itself.
        silent = now - max(self._heard_at, self._asked_at) > self._config.silence_seconds
        if silent and (self._bulk.up or self._control.up):
            return self._lost(f"{self._gateway} has gone silent")
        return True

    def _patience(self, now: float) -> float:
        """Seconds until something may have to be done that no socket tells of."""
        is_up = any(one is not None and one.up for one in (self._bulk, self._control))
        if self.state == "down" and not is_up:
            return _AWAY_SECONDS
        if self._has_work or self._clock.is_asked:
            return _TICK_SECONDS
        pause = ping_pause(self._config, False, self._pinged_at, self._active_at)
        ping_at = max(self._heard_at, self._pinged_at) + pause
        due = min(ping_at, self._control_hello_at) - now
        return min(max(due, _TICK_SECONDS), self._config.hello_seconds, _IDLE_SECONDS)

    @property
    def _has_work(self) -> bool:
        """Whether something may have to be done soon that no socket tells of."""
        later = self._news or self._uncompared or self._greet or self._responder.has_requests
        return self._is_busy or bool(later) or self._delivery.has_frames

    @property
    def _is_busy(self) -> bool:
        return self.state == "down" or self._delivery.sender.in_flight > 0 or self._responder.is_answering

    def _lost(self, why: str) -> bool:
        pause = self._backoff.next()
        if (line := self._link_outage.lost(why, time.monotonic())) is not None:
            log.warning(line)
        self.state = "down"
        self._close()
        self._open_at = time.monotonic() + pause
        return False

    def _greet_anew(self, connection: Connection) -> None:
        """Nothing said before counts on this connection any more."""
        self._greet.pop(connection, None)
        self._greeted_at[connection] = time.monotonic()
        if connection is self._bulk:
            self._delivery.connected(time.monotonic())
            self._news.clear()  # of the connection before: the welcome says what holds now
            self._uncompared = self._spool.delivered_boots()
            self._list_boots()
        else:
            self._responder.connected()
            self._reports.connected()
            self._control_hello_at = 0.0

    def _list_boots(self) -> None:
        present = self._identity.boot_id
        undelivered = [boot for boot in self._spool.undelivered_boots() if boot != present]
        others = [boot for boot in self._uncompared if boot != present and boot not in undelivered]
        self._boots = [*undelivered, present, *others[:_COMPARED_AT_ONCE]]

    def _compare(self) -> None:
        """Does the gateway hold what it has called safe? Asked once a connection of every boot."""
        due = self._delivery.sender.to_compare()
        for boot_id, held in due:
            try:
                restored = self._spool.compare(boot_id, held)
            except (DiskFull, StoreBusy):
                return  # asked again in the next cycle
            self._delivery.sender.compared(boot_id, restored.again_from)
            self._uncompared = [boot for boot in self._uncompared if boot != boot_id]
            if restored.again or restored.gone:
                log.warning(
                    "gateway %s has lost frames of boot %s that it had called safe: %d are sent again, %d are gone",
                    self._config.gateway,
                    boot_id,
                    restored.again,
                    restored.gone,
                )
        if due:
            self._list_boots()

    def _mark_safe(self) -> None:
        if self._news:
            try:
                ours = [safe for safe in self._news if safe.boot_id == self._identity.boot_id]
                theirs = [safe for safe in self._news if safe.boot_id != self._identity.boot_id]
                if theirs:
                    marked = self._spool.mark_safe(theirs)
                    self.acknowledged += marked
                    self.acknowledged_earlier += marked
                if ours:
                    self.acknowledged += self._spool.mark_safe(ours)
                    tracing.delivered(self._identity.edge_id, ours)
            except (DiskFull, StoreBusy):
                # Tried again with the next news, which says most of it once more.
                del self._news[:-_NEWS_KEPT]
                return
            self._news = []
            self._list_boots()

    def _take(self, connection: Connection, frames: list[bytes]) -> None:
        try:
            packet = parse(frames)
        except PacketError as error:
            text = f"gateway sent a packet that cannot be accepted: {error}"
            self._complaints.warning("bad packet", text, time.monotonic())
            return
        self._heard_at = time.monotonic()
        if isinstance(packet, Fault):
            self._take_fault(connection, packet)
        elif connection is self._bulk:
            self._take_bulk(packet)
        else:
            self._take_control(packet)

    def _take_fault(self, connection: Connection, fault: Fault) -> None:
        """Nothing the gateway says may keep this host busy, or fill its log."""
        if self._refused is not None:
            return  # what was under way then is refused, too
        if fault.code in _REFUSALS:
            self._refused = fault.text
            return
        if fault.code == "busy":
            self._busy.met(f"{self._gateway} takes no frames: {fault.text}", self._heard_at)
            return
        if fault.code == "background-unknown":
            self._delivery.background_is_unknown()
            return
        if fault.code == "rejected" and connection is self._control and self._reports.refused():
            return  # it is of an earlier version
        if fault.code == "rejected" and connection is self._bulk and self._delivery.run_is_rejected():
            return
        self._complaints.warning(fault.code, f"gateway: {fault.code}: {fault.text}", self._heard_at)
        if fault.code == "rejected" and connection is self._bulk:
            self._delivery.is_rejected()
        if fault.code == "hello-first":
            # Every frame under way is answered so; one hello will do for all of them.
            due = self._greeted_at.get(connection, -math.inf) + _GREET_SECONDS
            self._greet.setdefault(connection, due)

    def _take_bulk(self, packet: Packet) -> None:
        if isinstance(packet, Welcome | Ack):
            self._active_at = self._heard_at
            if packet.credit_bytes > 0:
                self._busy.over(self._heard_at)
            self._delivery.answered(packet, time.monotonic())
        if isinstance(packet, Welcome):
            self._news.append(Safe(packet.boot_id, packet.cumulative))
            self._backoff.reset()
            if (line := self._link_outage.back(time.monotonic())) is not None:
                log.info(line)
            self.state = "up"
        elif isinstance(packet, Ack):
            self._news.append(Safe(packet.boot_id, packet.cumulative, packet.selective))

    def _take_control(self, packet: Packet) -> None:
        refusal = None
        if isinstance(packet, EnhancementRequest):
            left_ns = packet.deadline_ns - time.time_ns() - self._clock.offset_ns
            with contextlib.suppress(DiskFull, StoreBusy):
                self._spool.pin(packet.boot_id, packet.seq, left_ns / 1e9)
            refusal = self._responder.request(packet)
        elif isinstance(packet, ChunkCredit):
            answered = self._responder.confirm(packet)
            if answered is not None:
                with contextlib.suppress(DiskFull, StoreBusy):
                    self._spool.unpin(answered.boot_id, answered.seq)
        elif isinstance(packet, Welcome):
            self._control_hello_at = math.inf
        elif isinstance(packet, Pong):
            self._clock.answered(packet.now_ns, time.monotonic())
        if refusal is not None and self._control is not None:
            self._control.send(refusal)

    def _send_ping(self, control: Connection) -> None:
        now_ns, now = time.time_ns(), time.monotonic()
        if control.send(Ping(now_ns)):
            self._clock.asked(now_ns, now)
        self._pinged_at = now
        if self._pacer is not None:
            self._pacer.spoke(PING_BYTES)

    def _serve_control(self, now: float) -> None:
        control = self._control
        if control is None or not control.up:
            return
        if now >= self._control_hello_at:
            control.send(self._identity.hello(self._spool, self._identity.boot_id, "control"))
            self._send_ping(control)  # the answer tells the gateway's clock
            self._control_hello_at = now + self._config.hello_seconds
        pause = ping_pause(self._config, self._is_busy, self._pinged_at, self._active_at)
        silent = now - max(self._heard_at, self._pinged_at) >= pause
        if silent or now - self._pinged_at >= max(pause, _CLOCK_AGAIN_SECONDS):
            self._send_ping(control)
        self._send_report(control, now)
        for refusal in self._responder.expire(time.time_ns() + self._clock.offset_ns):
            control.send(refusal)
        while (request := self._responder.next_load()) is not None:
            refusal_or_none = self._responder.loaded(request, self._enhancement(request))
            if refusal_or_none is not None:
                control.send(refusal_or_none)
        self._send_chunks(control, now)

    def _send_report(self, control: Connection, now: float, *, leaves: bool = False) -> None:
        """Tell people how this host does, once the gateway has welcomed it and where there is news."""
        if self._control_hello_at != math.inf or not (leaves or self._reports.is_due(now)):
            return
        waiting = self._spool.waiting_since()
        report = self._reports.next(self.doing, waiting, now=now, now_ns=time.time_ns(), leaves=leaves)
        if report is not None and control.send(report):
            self._reports.sent(report, now)
            if self._pacer is not None:
                self._pacer.spoke(PING_BYTES)

    def _send_chunks(self, control: Connection, now: float) -> None:
        while self._responder.is_answering:
            most = MAX_CHUNK_BYTES if self._pacer is None else self._pacer.chunk_bytes(now)
            chunk = self._responder.next_chunk(most) if most else None
            if chunk is None or not control.send(chunk):
                return
            self._responder.sent(chunk)
            if self._pacer is not None:
                self._pacer.chunk_sent(len(chunk.payload))
            self.enhancement_bytes_sent += len(chunk.payload)

    def _enhancement(self, request: EnhancementRequest) -> Layer:
        kept = self._spool.enhancement(request.boot_id, request.seq)
        if not isinstance(kept, bytes):
            return kept
        try:
            layer = self._finish(kept, crop_of(request))
            if len(layer) <= MAX_ENHANCEMENT_BYTES:
                return layer
            why = f"it has {len(layer)} bytes, at most {MAX_ENHANCEMENT_BYTES} are possible"
        except (BitstreamError, ModelError) as error:
            why = str(error)
        text = f"frame {request.seq} of boot {request.boot_id} has no enhancement: {why}"
        self._complaints.warning("enhancement", text, time.monotonic())
        return "expired"

"""The gateway's side of the conversation with camera hosts, without sockets: packets in, packets out.

The owner hands over what arrives (``receive``), stores what has gathered (``flush``, the only place that gives
acknowledgements), calls ``tick`` now and then, and ``serve_requests`` when a worker may have asked for something. Each
returns the packets to send, with the peer they go to. Where the owner gathers several of these calls in one
transaction, it sends their packets after its commit, or calls ``on_rollback`` and sends none. A peer is a ROUTER's name
of one connection. Whatever a peer sends, the answer is a packet: at worst a ``Fault``.
Instants are Unix seconds handed in as ``now``. ``shared/PACKETS.md`` has the rules.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from secondlook.cloud.config import IntakeLimits, RateLimits
from secondlook.cloud.gateway.backgrounds import Backgrounds
from secondlook.cloud.gateway.batcher import Batch, IntakeBatcher, Settled
from secondlook.cloud.gateway.enhancements import Enhancements
from secondlook.cloud.gateway.keys import Registry
from secondlook.cloud.gateway.ratelimit import EdgeRates
from secondlook.cloud.gateway.sessions import CHANNEL_OF, PROBE_CHANNEL, Peer, Session, Sessions
from secondlook.cloud.gateway.tally import Tally
from secondlook.cloud.storage.blobs import Blobs
from secondlook.cloud.storage.ledger import BootName, FrameTombstone, Ledger, with_keys
from secondlook.cloud.storage.queue import FrameQueue, QueuedFrame
from secondlook.cloud.storage.requests import RequestTable
from secondlook.shared.errors import (
    TRANSIENT_ERRORS,
    BitstreamError,
    DiskFull,
    PacketError,
    QueueFull,
    StoreBusy,
    StoreUnavailable,
)
from secondlook.shared.link import Received
from secondlook.shared.outage import LimitedLog, Outage
from secondlook.shared.packet import (
    CROPS,
    MAX_RANGES,
    PROBE,
    Ack,
    BaseFrame,
    Chunk,
    Fault,
    FrameRun,
    Hello,
    LeanFrame,
    Packet,
    Ping,
    Pong,
    Refusal,
    Report,
    Tombstone,
    Welcome,
    parse,
)

log = logging.getLogger(__name__)

Outgoing = tuple[Peer, Packet]

_RATES = RateLimits()
_QUEUE_FULL = "queue full"
_NANOSECONDS = 1_000_000_000


class Intake:
    """All connections of one gateway. ``registry`` is None on a plain, loopback-only socket."""

    def __init__(
        self,
        ledger: Ledger,
        queue: FrameQueue,
        requests: RequestTable,
        blobs: Blobs,
        limits: IntakeLimits,
        registry: Registry | None,
        rates: RateLimits = _RATES,
        disk_full: Callable[[float], str | None] = lambda now: None,
    ) -> None:
        """``disk_full`` tells why the gateway's own disk takes no more, or None."""
        self._ledger = ledger
        self._queue = queue
        self._requests = requests
        self._backgrounds = Backgrounds(blobs)
        self._limits = limits
        self._costs = rates
        self._rates = EdgeRates(rates, most=limits.max_sessions)
        self._sessions = Sessions(registry)
        self._batcher = IntakeBatcher(limits, self._begin)
        self._least_room: int | None = None  # in the queue, for whomever; as of the last batch
        self._rooms: dict[str, int] = {}  # in the queue, by edge id; what was asked for since the last batch
        self._stalled_until = 0.0
        self._disk_full = disk_full
        self._outage = Outage(log)
        self._full = Outage(log)  # of the queue
        self._cannot_store = False  # the latest attempt failed
        self._disk_was_full = False
        self._stored_at = 0.0  # the turn of the latest attempt
        self._unreachable = False  # the latest trouble was a store that does not answer
        self._complaints = LimitedLog(log)
        self.tally = Tally()
        self._enhancements = Enhancements(requests, blobs, self.tally, self._fault)

    def waits_for(self, *, now: float) -> str | None:
        """Why nothing can be taken, where a store does not answer; None when all are there.

        One that is full answers: frames can and must be taken out of it.
        """
        return self._outage.why if self._unreachable and self._is_stalled(now) else None

    @property
    def disk_was_full(self) -> bool:
        """Whether the gateway's own disk takes no frames, as of the last tick."""
        return self._disk_was_full

    @property
    def batch_is_full(self) -> bool:
        return self._batcher.is_full

    @property
    def awaits_queue(self) -> bool:
        """Whether a server is storing a batch that ``flush`` began: call it again soon."""
        return self._batcher.awaits

    def connected(self) -> dict[str, list[str]]:
        """Edge ids, each with the channels on which it is connected."""
        return self._sessions.connected()

    def clock_offsets(self) -> dict[str, float]:
        """Seconds by which our clock is ahead of a camera host's, where that was measured."""
        return {
            session.edge_id: session.clock_offset_seconds
            for session in self._sessions.values()
            if session.clock_offset_seconds is not None
        }

    def serves(self, public_key: str, *, now: float) -> bool:
        """Whether a connection with this key may stay."""
        return self._sessions.speaks_for(public_key, now) != ""

    def expel(self, *, now: float) -> list[Peer]:
        """Forget the connections whose key is no longer in force; they are to be cut."""
        return self._sessions.expel(now)

    def greet_again(self, edge_id: str) -> None:
        """Let a camera host say hello anew on bulk, and so compare what it was told is safe with what is held."""
        self._sessions.to_greet.add(edge_id)

    def has(self, peer: Peer) -> bool:
        """Whether a peer said hello."""
        return peer in self._sessions

    def receive(self, peer: Peer, frames: Sequence[bytes], public_key: str, *, now: float) -> list[Outgoing]:
        """Take one message. ``public_key`` is the authenticated key of the connection, empty on a plain one."""
        session = self._sessions.of(peer, public_key)
        speaks_for = self._sessions.speaks_for(public_key, now)
        if speaks_for == "":
            self._sessions.pop(peer, None)
            return []
        sender = speaks_for or ("" if session is None else session.edge_id)
        if not self._rates.admits(sender, packets=1, size_bytes=sum(map(len, frames)), now=now):
            return [(peer, answer) for answer in self._too_fast(sender, now)]
        try:
            packet = parse(frames)
        except PacketError as error:
            if speaks_for:
                self._rates.charge(sender, packets=self._costs.rejected_packets, now=now)
            return [(peer, self._fault("rejected", str(error), now))]
        if isinstance(packet, FrameRun):
            frames_in, size = len(packet.sizes), sum(map(len, frames))
            if not self._rates.admits_as(sender, packets=frames_in, size_bytes=size, now=now):
                return [(peer, answer) for answer in self._too_fast(sender, now)]
        try:
            return [(peer, answer) for answer in self._answers(peer, packet, public_key, now)]
        except TRANSIENT_ERRORS as error:
            self._stall(error, now)
            return []

    def flush(self, *, now: float, wait: bool = True) -> list[Outgoing]:
        """Store what has gathered, a batch in one durable step, and acknowledge it.

        Without ``wait``, where the queue is a server, that begins and ends in different calls: see ``awaits_queue``.
        """
        packets: list[Outgoing] = []
        self._forget_rooms()
        while (batch := self._batcher.next_to_store(wait=wait)) is not None:
            packets += self._store(batch, now)
        return packets

    def _begin(self, batch: Batch) -> Settled | None:
        try:
            known = self._ledger.received
            taken = with_keys(batch.frames, known)
            fresh = [f for f in taken if f.info.seq not in known(f.edge_id, f.info.boot_id)]
            return self._queue.begin(fresh)
        except TRANSIENT_ERRORS:
            return None  # to store it will show the cause

    def _store(self, batch: Batch, now: float) -> list[Outgoing]:
        try:
            self._stored_at = now
            frames, tombstones = with_keys(batch.frames, self._ledger.received), batch.tombstones
            safe: set[BootName] = set()
            if (why := self._disk_full(now)) is not None:
                raise DiskFull(why)
            if frames or tombstones:
                safe = self._ledger.take(self._queue, frames, tombstones, now=now)
                self._cannot_store = False
                self.tally.stored(self._ledger)
        except (QueueFull, *TRANSIENT_ERRORS) as error:
            # Nothing counts as stored, so nothing is acknowledged; no credit, and the edge tries again later.
            self._cannot_store = True
            self._stall(error, now)
            safe = set()
        self._forget_rooms()
        try:
            share = self._share(now)
            return [
                (peer, self._ack(session, boot[1], share, now))
                for peer, boot in batch.peers
                if (session := self._sessions.get(peer)) is not None
                and (boot in safe or self._is_stalled(now))
            ]
        except TRANSIENT_ERRORS as error:
            self._stall(error, now)
            return []

    def on_rollback(self, error: Exception, *, now: float) -> None:
        """All that was done since the last commit is rolled back, and nobody heard of it."""
        self._batcher.forget()
        self._ledger.forget()
        self.tally.rolled_back()
        for session in self._sessions.values():
            session.told_busy = ""
            session.clock_noted = None
        self._cannot_store = self._cannot_store or self._stored_at == now
        self._stall(error, now)

    def tick(self, *, now: float) -> list[Outgoing]:
        """What time brings: deadlines, credit that can be given again, tests of silent peers, requests to send."""
        self._forget_rooms()
        self._attempt(self._look_at_disk, now)
        if not (self._cannot_store or self._is_stalled(now)):
            self._outage.over(now)
        elif self._outage.why is not None:
            self._outage.met(self._outage.why, now)
        steps = (
            self._end_requests,
            self._raised_credit,
            self._tell_busy,
            self._probes,
            self._requests_to_send,
        )
        return [packet for step in steps for packet in self._attempt(step, now)] + self._sessions.greetings()

    def serve_requests(self, *, now: float) -> list[Outgoing]:
        """What workers asked for: the enhancement requests to send now, and hosts that are to compare."""
        return self._attempt(self._requests_to_send, now) + self._sessions.greetings()

    def _attempt(self, step: Callable[[float], list[Outgoing]], now: float) -> list[Outgoing]:
        try:
            return step(now)
        except TRANSIENT_ERRORS as error:
            self._stall(error, now)
            return []

    def _look_at_disk(self, now: float) -> list[Outgoing]:
        """While there is too little room nothing is taken; once there is enough, all is well by that alone."""
        why = self._disk_full(now)
        if why is not None:
            self._cannot_store = self._disk_was_full = True
            self._stall(DiskFull(why), now)
        elif self._disk_was_full:
            self._cannot_store = self._disk_was_full = False
            self._stalled_until = 0.0
        return []

    def _tell_busy(self, now: float) -> list[Outgoing]:
        """Who waits hears why, once; and so does the log."""
        held_back = {
            peer: session
            for peer, session in self._sessions.items()
            if session.channel == "bulk" and session.credit_bytes == 0
        }
        answers: list[Outgoing] = []
        of_queue = 0
        share = self._share(now) if held_back else 0  # counts all connections: not for each of them
        for peer, session in held_back.items():
            why = self._why_busy(session, share, now)
            of_queue += why.startswith(_QUEUE_FULL)
            if why and session.told_busy != why:
                session.told_busy = why
                answers.append((peer, Fault("busy", why)))
        if of_queue:
            room = self._queue.room_bytes
            self._full.met(
                f"the queue has room for {room} bytes, and {of_queue} camera hosts have no share of it", now
            )
        else:
            self._full.over(now)
        return answers

    def _why_busy(self, session: Session, share: int, now: float) -> str:
        """Why a connection has no credit; empty where it sends too fast, or has some again."""
        if self._is_stalled(now) and self._outage.why is not None:
            if self._unreachable:
                return "a store does not answer"
            return "disk full" if self._disk_was_full else "disk or queue full"
        least = self._limits.least_credit_bytes
        if share < least:
            return _QUEUE_FULL
        return f"{_QUEUE_FULL} for this host" if self._room_of(session.edge_id) < least else ""

    def _end_requests(self, now: float) -> list[Outgoing]:
        self._enhancements.end(now)
        return []

    def lost(self, peer: Peer) -> None:
        """A packet could not be sent to a peer because its connection is gone."""
        self._sessions.pop(peer, None)

    def _answers(self, peer: Peer, packet: Packet, public_key: str, now: float) -> list[Packet]:
        if isinstance(packet, Hello):
            return self._hello(peer, packet, public_key, now)
        session = self._sessions.get(peer)
        if session is None:
            return [Fault("hello-first", "this connection has not said hello")]
        session.heard_at = now
        self.tally.hears(session, now)
        channel = CHANNEL_OF.get(type(packet))
        if channel != session.channel and (channel, session.channel) != ("control", PROBE_CHANNEL):
            name = type(packet).__name__
            return [self._fault("rejected", f"{name} does not belong on {session.channel}", now)]
        if isinstance(packet, LeanFrame):
            return self._collect_lean(peer, session, packet, now)
        if isinstance(packet, FrameRun):
            # Each goes its own way; what is said of several alike is said once.
            said = [a for frame in packet.frames() for a in self._collect(peer, session, frame, now)]
            return list(dict.fromkeys(said))
        if isinstance(packet, BaseFrame | Tombstone):
            return self._collect(peer, session, packet, now)
        if isinstance(packet, Chunk):
            return self._enhancements.chunk(session.edge_id, packet, now)
        if isinstance(packet, Refusal):
            return self._enhancements.refusal(session.edge_id, packet, now)
        if isinstance(packet, Report):
            self.tally.reports(session, packet, now)
            return []
        if isinstance(packet, Ping):
            self._compare_clocks(session, packet, now)
        return [Pong(int(now * _NANOSECONDS))]

    def _compare_clocks(self, session: Session, ping: Ping, now: float) -> None:
        """A ping carries the camera host's clock. What it took to come is part of the difference, and small."""
        offset = now - ping.now_ns / _NANOSECONDS
        if (news := session.compare_clock(offset)) is not None:
            self._complaints.warning("clock", news, now)
        if session.shall_note_clock(offset, now):
            self._ledger.note_clock(session.edge_id, offset)
            session.clock_noted = (offset, now)

    def _hello(self, peer: Peer, hello: Hello, public_key: str, now: float) -> list[Packet]:
        speaks_for = self._sessions.speaks_for(public_key, now)
        if speaks_for is not None and hello.edge_id != speaks_for:
            self._sessions.pop(peer, None)
            return [self._fault("wrong-edge", f"this key does not belong to {hello.edge_id}", now)]
        if not self._rates.admits(hello.edge_id, packets=self._costs.hello_packets, size_bytes=0, now=now):
            return self._too_fast(hello.edge_id, now)
        session = self._sessions.get(peer)
        probes = hello.software.endswith(PROBE) and hello.channel == "control"
        channel = PROBE_CHANNEL if probes else hello.channel
        if session is None or (session.edge_id, session.channel) != (hello.edge_id, channel):
            self._sessions.make_room_for(hello.edge_id, self._limits.max_sessions_of_edge)
            if len(self._sessions) >= self._limits.max_sessions:
                return [self._fault("too-many-connections", "the gateway serves no more connections", now)]
            session = Session(hello.edge_id, hello.camera, channel, public_key, now)
            # A new connection goes last: requests are sent on an edge's latest one.
            self._sessions.pop(peer, None)
            self._sessions[peer] = session
            if self._sessions.tells_of(hello.edge_id, channel, now):
                log.info("%s connected (%s)", hello.edge_id, channel)
        if hello.boot_id not in session.boots and len(session.boots) >= self._limits.max_boots:
            return [self._fault("too-many-boots", "deliver the earlier boots first", now)]
        session.boots.pop(hello.boot_id, None)
        session.boots[hello.boot_id] = None
        session.camera, session.heard_at = hello.camera, now
        session.takes_crops = hello.software.endswith(CROPS)
        if probes:
            return [Welcome(hello.boot_id, -1, 0)]
        self.tally.greeted(hello.edge_id, now)
        if not self._disk_was_full:  # else it is answered all the same
            now_ns = int(now * _NANOSECONDS)
            self._ledger.see_edge(hello.edge_id, camera=hello.camera, software=hello.software, now_ns=now_ns)
        if hello.channel == "control":
            self._requests.requeue_sent(hello.edge_id, now=now)
        session.credit_bytes = self._credit(session, self._share(now), now)
        safe = self._ledger.received(hello.edge_id, hello.boot_id)
        welcome = Welcome(hello.boot_id, safe.cumulative, session.credit_bytes)
        if hello.channel == "control":
            return [welcome]
        self._look_for_gaps(hello, safe, now)
        ranges = safe.selective(MAX_RANGES)
        # The camera host compares when it is welcomed, so it must know of the ranges before.
        before = [Ack(hello.boot_id, safe.cumulative, ranges, session.credit_bytes)] if ranges else []
        return [*before, welcome]

    def _look_for_gaps(self, hello: Hello, safe: Received, now: float) -> None:
        """Say what was acknowledged and is not in this ledger. The answer makes the camera host send it again."""
        gaps = list(safe.missing(0, hello.oldest_seq - 1))
        if gaps:
            self._queue.forget_names(hello.edge_id, hello.boot_id)
            many = sum(last - first + 1 for first, last in gaps)
            text = (
                f"{hello.edge_id}: {many} frames of boot {hello.boot_id} were acknowledged and are not in the ledger,"
                f" from {gaps[0][0]} to {gaps[-1][1]}: was an older copy put back? They are asked for again"
            )
            self._complaints.warning("gaps", text, now)

    def _collect_lean(self, peer: Peer, session: Session, packet: LeanFrame, now: float) -> list[Packet]:
        """Take the first frame of a group as if its background had come with it."""
        try:
            whole = self._backgrounds.whole(session.edge_id, packet, now=now)
        except (BitstreamError, PacketError) as error:
            return [self._fault("rejected", str(error), now)]
        if whole is None:
            text = (
                f"background {packet.background[:16]} of frame {packet.info.seq} is not here: send it along"
            )
            return [Fault("background-unknown", text)]
        # What a few bytes turn into counts as sent.
        if not self._rates.admits(session.edge_id, packets=0, size_bytes=len(whole.payload), now=now):
            return self._too_fast(session.edge_id, now)
        return self._collect(peer, session, whole, now)

    def _collect(
        self, peer: Peer, session: Session, packet: BaseFrame | Tombstone, now: float
    ) -> list[Packet]:
        boot_id = packet.info.boot_id if isinstance(packet, BaseFrame) else packet.boot_id
        if boot_id not in session.boots:
            return [Fault("hello-first", f"no hello was said for boot {boot_id}")]
        received_ns = int(now * _NANOSECONDS)
        self.tally.delivered[session.edge_id] = now
        if isinstance(packet, Tombstone):
            cost = self._costs.tombstone_packets
            if not self._rates.admits(session.edge_id, packets=cost, size_bytes=0, now=now):
                return self._too_fast(session.edge_id, now)
            tombstone = FrameTombstone(
                session.edge_id, boot_id, packet.first_seq, packet.last_seq, packet.reason, received_ns
            )
            self._batcher.growing.add_tombstone(peer, tombstone)
            return []
        if self._is_stalled(now):
            # Once is enough: it hears when there is credit again.
            return [self._ack(session, boot_id, 0, now)] if session.credit_bytes else []
        if len(packet.payload) > self._room_of(session.edge_id):
            # Its share of the queue is full: what it sends in spite of that is not taken.
            return [self._ack(session, boot_id, 0, now)] if session.credit_bytes else []
        frame = QueuedFrame(
            edge_id=session.edge_id,
            camera=session.camera,
            received_ns=received_ns,
            info=packet.info,
            payload=packet.payload,
        )
        self._backgrounds.keep(session.edge_id, packet.payload, may_write=not self._disk_was_full, now=now)
        self._batcher.growing.add_frame(peer, frame)
        return []

    def _requests_to_send(self, now: float) -> list[Outgoing]:
        wanted = self._enhancements.wanted_of(now)
        if not wanted:
            return []  # as mostly: no look at all connections
        control = {
            session.edge_id: (peer, session)
            for peer, session in self._sessions.items()
            if session.channel == "control"
        }
        return [
            (peer, request)
            for edge_id, (peer, session) in ((one, control[one]) for one in wanted if one in control)
            for request in self._enhancements.to_send(edge_id, now, takes_crops=session.takes_crops)
        ]

    def _raised_credit(self, now: float) -> list[Outgoing]:
        """Who was told to wait hears when there is room again."""
        held_back = [
            (peer, session)
            for peer, session in self._sessions.items()
            if session.channel == "bulk" and session.credit_bytes == 0
        ]
        share = self._share(now) if held_back else 0
        return [
            (peer, self._ack(session, session.boot_id, share, now))
            for peer, session in held_back
            if self._credit(session, share, now) > 0
        ]

    def _probes(self, now: float) -> list[Outgoing]:
        """A packet for each connection that has long been silent: sending shows whether it is still there."""
        silent = list(self._sessions.silent(self._limits.probe_seconds, now))
        share = self._share(now) if silent else 0
        return [
            (peer, self._ack(session, session.boot_id, share, now))
            if session.channel == "bulk"
            else (peer, Pong(int(now * _NANOSECONDS)))
            for peer, session in silent
        ]

    def _ack(self, session: Session, boot_id: str, share: int, now: float) -> Ack:
        session.credit_bytes = self._credit(session, share, now)
        safe = self._ledger.received(session.edge_id, boot_id)
        return Ack(boot_id, safe.cumulative, safe.selective(MAX_RANGES), session.credit_bytes)

    def _share(self, now: float) -> int:
        """A fair share of the queue's room for every bulk connection, or nothing."""
        if self._is_stalled(now):
            return 0
        return min(self._limits.window_bytes, self._queue.room_bytes // max(1, self._sessions.bulk))

    def _credit(self, session: Session, share: int, now: float) -> int:
        """The window of a bulk connection: its share within its rate, or nothing where that would be little."""
        room = self._room_of(session.edge_id)
        credit = min(share, room, self._rates.credit(session.edge_id, now))
        if credit < self._limits.least_credit_bytes:
            return 0
        session.told_busy = ""
        return credit

    def _room_of(self, edge_id: str) -> int:
        """Bytes that a camera host may still add to the queue, what is on its way there counted."""
        if self._least_room is None:
            self._least_room = self._queue.least_room_bytes
        least = self._least_room - self._batcher.size_bytes
        if least > 2 * self._limits.window_bytes:
            return least  # plenty: no need to look closer
        room = self._rooms.get(edge_id)
        if room is None:
            room = self._rooms[edge_id] = self._queue.room_of(edge_id)
        return room - self._batcher.bytes_of(edge_id)

    def _forget_rooms(self) -> None:
        self._least_room = None
        self._rooms.clear()

    def _is_stalled(self, now: float) -> bool:
        # The second bound is for a clock that was set back meanwhile.
        return 0 < self._stalled_until - now <= self._limits.stall_seconds

    def _stall(self, error: Exception, now: float) -> None:
        self._outage.met(error, now)
        self._unreachable = isinstance(error, StoreUnavailable | StoreBusy)
        self._stalled_until = now + self._limits.stall_seconds

    def _too_fast(self, sender: str, now: float) -> list[Packet]:
        text = f"{sender or 'this host'} sends more than it may"
        return [self._fault("too-fast", text, now)] if self._rates.may_tell(sender, now) else []

    def _fault(self, code: str, text: str, now: float) -> Fault:
        printable = "".join(letter if letter.isprintable() else "?" for letter in text)[:200]
        self._complaints.warning(code, f"{code}: {printable}", now)
        return Fault(code, printable)

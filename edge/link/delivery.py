"""What goes out on the bulk connection: hellos, tombstones and base frames, and what became of them.

`shared.link` decides what is due, the spool has it, `Gathering` says what goes together, `KnownBackgrounds` what may be
left out, and a pacer how much the link may take. The uplink owns the connection and calls `serve` in each of its turns.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from secondlook.edge.config import LinkConfig
from secondlook.edge.link.connection import MAX_QUEUED, Connection
from secondlook.edge.link.gathering import Gathering, run_overhead
from secondlook.edge.link.identity import AgentIdentity
from secondlook.edge.link.known import KnownBackgrounds
from secondlook.edge.link.pacing import HELLO_BYTES, OVERHEAD_BYTES, Pacing
from secondlook.edge.spool import Spool
from secondlook.shared.link import BaseSender, Flight
from secondlook.shared.packet import Ack, BaseFrame, FrameRun, LeanFrame, Packet, Welcome

log = logging.getLogger(__name__)

_READ_BYTES = 1 << 20  # read from the spool at once


class Delivery:
    """The base frames of one camera host, on one connection after the other. Use in the uplink's thread."""

    def __init__(
        self,
        config: LinkConfig,
        identity: AgentIdentity,
        spool: Spool,
        pacer: Pacing | None,
        gather_seconds: float,
    ) -> None:
        self._identity, self._spool, self._pacer = identity, spool, pacer
        self._gateway = config.gateway
        self.sender = BaseSender(config.times)
        self._known = KnownBackgrounds()
        # Where nothing bounds the link, nothing is worth waiting for.
        self._gathering = Gathering(identity.boot_id, 0.0 if pacer is None else gather_seconds)
        self._tombstone_id = 0  # tombstones up to this id were sent on this connection

    @property
    def gathers(self) -> bool:
        """Whether frames may wait here for others."""
        return self._gathering.is_on

    @property
    def due_at(self) -> float:
        """When frames that wait for others are to go, in monotonic seconds; infinite where none do."""
        return self._gathering.due_at

    @property
    def has_frames(self) -> bool:
        """Whether frames may go before anything else happens."""
        return self._gathering.due_at == math.inf and self.sender.next_read() is not None

    def connected(self, now: float) -> None:
        """Nothing said before counts on the new connection any more."""
        self.sender.connected()
        self._known.connected()
        self._gathering.connected(self._spool.next_seq(self._identity.boot_id) or 0)
        if self._pacer is not None:
            self._pacer.connected(now)
        self._tombstone_id = 0

    def disconnected(self) -> None:
        self._gathering.due_at = math.inf

    def spooled(self, now: float) -> None:
        """The spool holds something new of the present boot."""
        if self._gathering.is_on:
            self._gathering.spooled(self._spool.next_seq(self._identity.boot_id) or 0, now)
        self.sender.spooled(self._identity.boot_id)

    def answered(self, packet: Welcome | Ack, now: float) -> None:
        """The gateway said what is safe."""
        self._known.safe(packet.boot_id, packet.cumulative)
        self._gathering.safe(packet.boot_id, packet.cumulative)
        in_flight = self.sender.link_bytes
        if isinstance(packet, Welcome):
            self.sender.welcomed(packet.boot_id, packet.cumulative, packet.credit_bytes)
        else:
            self.sender.acknowledged(packet.boot_id, packet.cumulative, packet.selective, packet.credit_bytes)
        if self._pacer is not None:
            self._pacer.acknowledged(in_flight - self.sender.link_bytes, now)

    def background_is_unknown(self) -> None:
        """The gateway lacks a background that it was taken to have."""
        self._again(self._known.unknown())

    def run_is_rejected(self) -> bool:
        """The gateway rejects a packet; True if that may have been a run of frames: each goes by itself from now on."""
        again = self._gathering.refused()
        if again:
            log.info(
                "gateway %s is of an earlier version and takes no runs: each frame goes alone", self._gateway
            )
            self._again(again)
        return again is not None

    def is_rejected(self) -> None:
        """The gateway rejects a packet that was no run."""
        self._again(self._known.refused())

    def _again(self, boots: dict[str, int]) -> None:
        for boot_id, seq in boots.items():
            self.sender.rewind(boot_id, seq)

    def serve(self, bulk: Connection, boots: Sequence[str], now: float, *, hurries: bool = False) -> None:
        """Send what is due. `boots`: those to greet; `hurries`: nothing is to wait for other frames."""
        self._gathering.due_at, self._gathering.hurries = math.inf, hurries
        for boot_id in self.sender.hellos(boots, now):
            bulk.send(self._identity.hello(self._spool, boot_id, "bulk"))
            if self._pacer is not None:
                self._pacer.spoke(HELLO_BYTES)
        if self._pacer is not None and not self._pacer.is_open:
            return
        for flight in self.sender.overdue(now):
            self._repeat(bulk, flight, now)
        for tombstone in self._spool.tombstones(self._tombstone_id):
            if not bulk.send(tombstone.packet()):
                return
            self._tombstone_id = tombstone.id
            self._note(tombstone.boot_id, tombstone.first_seq, tombstone.last_seq, 0, now)
        self._send_frames(bulk, now)

    def _send_frames(self, bulk: Connection, now: float) -> None:
        rate = math.inf if self._pacer is None else self._pacer.rate
        while (read := self.sender.next_read()) is not None:
            most = min(read.room_bytes, _READ_BYTES)
            batch = self._spool.read(read.boot_id, read.from_seq, most, max_frames=MAX_QUEUED)
            if not batch:
                self.sender.drained(read.boot_id)
            sent = 0
            while sent < len(batch):
                frames = self._gathering.next(batch[sent:], rate, now)
                if sent and self._gathering.is_on and sent + len(frames) in (sent, len(batch)):
                    break  # more of them may be behind this batch
                if not frames or not self._send(bulk, frames, now):
                    return
                sent += len(frames)

    def _send(self, bulk: Connection, frames: Sequence[BaseFrame], now: float) -> bool:
        """Send frames, several as one run. False where credit, the link or the socket has no room."""
        sizes = [len(frame.payload) for frame in frames]
        packet = FrameRun.of(frames) if len(frames) > 1 else self._known.packet(frames[0])
        if not isinstance(packet, FrameRun):
            sizes = [len(packet.payload)]
        if not self._may_send(sum(sizes), now) or not bulk.send(packet):
            return False
        if isinstance(packet, FrameRun):
            self._gathering.sent(packet)
        else:
            self._known.sent(packet)
        overhead, rest = divmod(int(run_overhead(len(frames))), len(frames))
        for number, (frame, size) in enumerate(zip(frames, sizes, strict=True)):
            headers = overhead + (rest if number == 0 else 0)
            self._note(frame.info.boot_id, frame.info.seq, frame.info.seq, size, now, headers)
        return True

    def _may_send(self, size: int, now: float) -> bool:
        if not self.sender.may_send(size):
            return False
        return self._pacer is None or self._pacer.may_send(self.sender.link_bytes, now)

    def _note(
        self, boot_id: str, first: int, last: int, size: int, now: float, headers: int = OVERHEAD_BYTES
    ) -> None:
        """A frame, or a tombstone, was handed to the connection, with so many bytes of headers."""
        if self._pacer is not None:
            self._pacer.sent(size + headers)
        self.sender.sent(boot_id, first, last, size, now, headers)

    def _repeat(self, bulk: Connection, flight: Flight, now: float) -> None:
        """Send again what was not acknowledged in time, if the spool still has it."""
        packet: Packet | None = None
        if flight.is_tombstone:
            # A tombstone that has grown meanwhile was sent under its new id already.
            span = (flight.boot_id, flight.first_seq, flight.last_seq)
            for tombstone in self._spool.tombstones(0):
                if (tombstone.boot_id, tombstone.first_seq, tombstone.last_seq) == span:
                    packet = tombstone.packet()
        else:
            for pending in self._spool.read(flight.boot_id, flight.first_seq, 0, flight.last_seq):
                packet = self._known.packet(pending)
        if packet is None:
            self.sender.gone(flight)
        elif bulk.send(packet):
            size = 0
            if isinstance(packet, BaseFrame | LeanFrame):
                self._known.sent(packet)
                size = len(packet.payload)
            self._note(flight.boot_id, flight.first_seq, flight.last_seq, size, now)

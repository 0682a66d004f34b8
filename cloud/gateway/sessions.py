"""Who is connected: the connections that said hello, and for which camera host a key may speak.

A peer is a ROUTER's name of one connection. The name is no proof of anything: what a connection may do follows from
the key that ZeroMQ authenticated for the message at hand.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

from secondlook.cloud.gateway.keys import Registry, Role
from secondlook.shared.packet import (
    BaseFrame,
    Chunk,
    Fault,
    FrameRun,
    LeanFrame,
    Packet,
    Ping,
    Refusal,
    Report,
    Tombstone,
)

log = logging.getLogger(__name__)

_CLOCK_SECONDS = 2.0  # clocks of camera host and gateway may differ by so much
_CLOCK_CHANGE_SECONDS = 0.5  # what a change of the difference has to be to be noted
_CLOCK_NOTED_SECONDS = 30.0  # it is not noted more often than so
_LINE_SECONDS = 1.0  # between two lines of the log about connections of one camera host
_MAX_TOLD = 10_000

Peer = bytes
CHANNEL_OF: dict[type[Packet], str] = {
    BaseFrame: "bulk",
    LeanFrame: "bulk",
    FrameRun: "bulk",
    Tombstone: "bulk",
    Chunk: "control",
    Refusal: "control",
    Ping: "control",
    Report: "control",
}
PROBE_CHANNEL = "probe"  # of a connection that only tries the link: it may ping, and no request is sent on it


@dataclass
class Session:
    """A connection that said hello."""

    edge_id: str
    camera: str
    channel: str
    public_key: str  # Z85; empty on a plain connection
    heard_at: float
    boots: dict[str, None] = field(default_factory=dict)  # greeted ones, the latest last
    credit_bytes: int = 0  # what it was granted last
    told_busy: str = ""  # why it was told that it has no credit; empty once it has some
    takes_crops: bool = False  # it answers requests for crops of frames
    clock_offset_seconds: float | None = None  # gateway's clock minus the camera host's, by its latest ping
    clock_noted: tuple[float, float] | None = (
        None  # the difference that the ledger has, and when it was noted
    )

    @property
    def boot_id(self) -> str:
        return next(reversed(self.boots))

    def compare_clock(self, offset: float) -> str | None:
        """Take in by how much our clock is ahead of the camera host's; a line when it goes off, or is right again."""
        was_off = abs(self.clock_offset_seconds or 0.0) > _CLOCK_SECONDS
        self.clock_offset_seconds = offset
        is_off = abs(offset) > _CLOCK_SECONDS
        if is_off and not was_off:
            side = "behind" if offset > 0 else "ahead of"
            return (
                f"{self.edge_id}: its clock is {abs(offset):.1f} s {side} ours: times of its frames are wrong"
            )
        return f"{self.edge_id}: its clock agrees with ours again" if was_off and not is_off else None

    def shall_note_clock(self, offset: float, now: float) -> bool:
        """Whether the ledger should have this difference: it is another one, and the last was noted a while ago."""
        if self.clock_noted is None:
            return True
        noted, at = self.clock_noted
        return abs(offset - noted) >= _CLOCK_CHANGE_SECONDS and not 0 <= now - at < _CLOCK_NOTED_SECONDS


class Sessions(dict[Peer, Session]):
    """Sessions by peer, the newest last. ``registry`` is None on a plain, loopback-only socket."""

    def __init__(self, registry: Registry | None) -> None:
        super().__init__()
        self._registry = registry
        self.to_greet: set[str] = set()  # edge ids
        self._told_at: dict[tuple[str, str], float] = {}  # by edge id and channel

    def speaks_for(self, public_key: str, now: float) -> str | None:
        """The edge id a connection may speak for: None for any, "" for none."""
        if self._registry is None:
            return None
        entry = self._registry.find(public_key, Role.EDGE, now)
        return "" if entry is None else entry.name

    @property
    def bulk(self) -> int:
        """Connections that carry base frames."""
        return sum(session.channel == "bulk" for session in self.values())

    def tells_of(self, edge_id: str, channel: str, now: float) -> bool:
        """Whether the log should have a line of this connection: one a second, for a host that connects without end."""
        if 0 <= now - self._told_at.get((edge_id, channel), 0.0) < _LINE_SECONDS:
            return False
        if len(self._told_at) >= _MAX_TOLD:
            self._told_at.clear()
        self._told_at[edge_id, channel] = now
        return True

    def of(self, peer: Peer, public_key: str) -> Session | None:
        """The session of a connection with this key."""
        session = self.get(peer)
        if session is not None and session.public_key != public_key:
            # ROUTER gave the name of a connection that ended to another one: that one has said nothing yet.
            del self[peer]
            return None
        return session

    def connected(self) -> dict[str, list[str]]:
        """Edge ids, each with the channels on which it is connected."""
        found: dict[str, list[str]] = {}
        for session in self.values():
            if session.channel == PROBE_CHANNEL:
                continue
            channels = found.setdefault(session.edge_id, [])
            if session.channel not in channels:
                channels.append(session.channel)
        return found

    def greetings(self) -> list[tuple[Peer, Fault]]:
        """What lets the camera hosts in ``to_greet`` say hello anew on the connections that carry base frames."""
        to_greet, self.to_greet = self.to_greet, set()
        fault = Fault("hello-first", "frames that were received are lost: say hello, and compare")
        found = self.items() if to_greet else ()
        return [(peer, fault) for peer, one in found if one.channel == "bulk" and one.edge_id in to_greet]

    def expel(self, now: float) -> list[Peer]:
        """Forget the connections whose key is no longer in force; returns them."""
        gone = [peer for peer, session in self.items() if self.speaks_for(session.public_key, now) == ""]
        for peer in gone:
            log.warning("%s is cut off: its key is no longer in force", self.pop(peer).edge_id)
        return gone

    def make_room_for(self, edge_id: str, most: int) -> None:
        """One more connection of this edge: beyond its share, its oldest ones are forgotten, and nobody else's."""
        own = [peer for peer, session in self.items() if session.edge_id == edge_id]
        for peer in own[: max(0, len(own) + 1 - most)]:
            del self[peer]

    def silent(self, seconds: float, now: float) -> Iterator[tuple[Peer, Session]]:
        """Connections that were not heard for so long; they count as heard ``now``, when each is tested."""
        for peer, session in self.items():
            if not 0 <= now - session.heard_at < seconds:  # below 0: the clock was set back
                session.heard_at = now
                yield peer, session

"""Packets that have arrived and are not yet acknowledged: the batch that grows, and the one that is on its way.

An engine that shares the gateway's transaction stores a batch when it is told to. A server takes a while to answer, in
which the next batch can grow: then one batch at a time is *begun*, and stored once the server has answered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from secondlook.cloud.config import IntakeLimits
from secondlook.cloud.gateway.sessions import Peer
from secondlook.cloud.storage.ledger import BootName, FrameTombstone
from secondlook.cloud.storage.queue import QueuedFrame

Settled = Callable[[], bool]


@dataclass
class Batch:
    """What is stored, and acknowledged, together."""

    frames: list[QueuedFrame] = field(default_factory=list)
    tombstones: list[FrameTombstone] = field(default_factory=list)
    size_bytes: int = 0
    bytes_of: Counter[str] = field(default_factory=Counter)  # by edge id
    peers: dict[tuple[Peer, BootName], None] = field(default_factory=dict)  # who is to hear of it, in order

    def add_frame(self, peer: Peer, frame: QueuedFrame) -> None:
        self.frames.append(frame)
        self.size_bytes += len(frame.payload)
        self.bytes_of[frame.edge_id] += len(frame.payload)
        self.peers[peer, (frame.edge_id, frame.info.boot_id)] = None

    def add_tombstone(self, peer: Peer, tombstone: FrameTombstone) -> None:
        self.tombstones.append(tombstone)
        self.peers[peer, (tombstone.edge_id, tombstone.boot_id)] = None


class IntakeBatcher:
    """``begin`` starts to store the frames of a batch; it tells whether they are settled, or is None where the
    engine has nothing to begin."""

    def __init__(self, limits: IntakeLimits, begin: Callable[[Batch], Settled | None]) -> None:
        self._limits = limits
        self._begin = begin
        self.growing = Batch()
        self._begun: tuple[Batch, Settled] | None = None

    @property
    def is_full(self) -> bool:
        batch, limits = self.growing, self._limits
        many = len(batch.frames) + len(batch.tombstones) >= limits.batch_frames
        return many or batch.size_bytes >= limits.batch_bytes

    @property
    def awaits(self) -> bool:
        """Whether a batch is begun and not stored."""
        return self._begun is not None

    def bytes_of(self, edge_id: str) -> int:
        """Bytes of a camera host that are not stored yet."""
        begun = self._begun[0].bytes_of[edge_id] if self._begun is not None else 0
        return self.growing.bytes_of[edge_id] + begun

    @property
    def size_bytes(self) -> int:
        """Bytes that are not stored yet."""
        return self.growing.size_bytes + (0 if self._begun is None else self._begun[0].size_bytes)

    def forget(self) -> None:
        """Camera hosts send again what they do not hear of."""
        self.growing, self._begun = Batch(), None

    def next_to_store(self, *, wait: bool) -> Batch | None:
        """The batch to store now, in the order they came; None when there is none yet.

        With ``wait`` all of them are due. Without it, one that is not settled is due only when the next is full.
        """
        if self._begun is None and self.growing.peers:
            batch, self.growing = self.growing, Batch()
            settled = None if wait else self._begin(batch)
            if settled is None:
                return batch
            self._begun = batch, settled
        if self._begun is None:
            return None
        batch, is_settled = self._begun
        if not (wait or self.is_full or is_settled()):
            return None
        self._begun = None
        return batch

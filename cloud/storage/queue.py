"""The durable queue between the gateway and the machine workers.

``FrameQueue`` is what any engine must offer; ``queue_sqlite`` has the embedded one, ``queue_jetstream`` the one for
several gateways. An item is *ready*, *leased* to a worker until an instant, or *dead* after too many leases
that ended without an acknowledgement. A lease that runs out makes the item ready again, so a killed worker loses
nothing. Instants are Unix seconds handed in as ``now``: leases outlive the process, and so must their clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from secondlook.cloud.config import QueueLimits
from secondlook.shared.packet import FrameInfo
from secondlook.shared.videobits import is_of_group


@dataclass(frozen=True)
class QueuedFrame:
    """A base packet on its way to a machine worker."""

    edge_id: str
    camera: str
    received_ns: int  # Unix nanoseconds by the gateway's clock
    info: FrameInfo
    payload: bytes

    def values(self) -> tuple[Any, ...]:
        """Flat, in the order of FRAME_FIELDS: as tables, messages and the broker hold it."""
        return (self.edge_id, self.camera, self.received_ns, *vars(self.info).values(), self.payload)

    @classmethod
    def of_values(cls, values: Sequence[Any]) -> QueuedFrame:
        """The reverse of `values`. Raises TypeError, ValueError for values that are no frame's."""
        edge_id, camera, received_ns, *info, payload = values
        return cls(edge_id, camera, received_ns, FrameInfo(*info), payload)


FRAME_FIELDS = ("edge_id", "camera", "received_ns", *(member.name for member in fields(FrameInfo)), "payload")


@dataclass(frozen=True)
class Leased:
    """An item in a worker's hands; ``attempts`` counts this lease too."""

    id: int
    attempts: int
    frame: QueuedFrame
    age_seconds: float | None = (
        None  # since the gateway received it, by its clock; None where nobody has told
    )


@dataclass(frozen=True)
class Dead:
    """An item that was given up, and the last reason told."""

    id: int
    attempts: int
    edge_id: str
    boot_id: str
    seq: int
    why: str
    size_bytes: int  # of its payload
    died_at: float  # Unix seconds


# Hears of dead items that are removed for good, and of the reason, for the ledger.
Removed = Callable[[Sequence[Dead], str], None]
OVER_LIMIT = "dead-letter-limit"
PURGED = "dead-letter-purged"


def hosts_in_groups(leased: Sequence[Leased]) -> set[str]:
    """Edge ids of those camera hosts that frames of video groups are of."""
    return {item.frame.edge_id for item in leased if is_of_group(item.frame.payload)}


def edge_room(limits: QueueLimits, *, own_bytes: int, all_bytes: int) -> int:
    """Bytes that a camera host may still add: its share of what the others leave, without what it has.

    So one host alone leaves room for others, and two at their limits leave some for a third.
    """
    return max(0, int(limits.max_share * (limits.max_bytes - all_bytes + own_bytes)) - own_bytes)


def least_room(limits: QueueLimits, all_bytes: int) -> int:
    """Bytes that any camera host may add, even if all that is in the queue is its own."""
    return max(0, int(limits.max_share * limits.max_bytes) - all_bytes)


class FrameQueue(Protocol):
    """The queue as gateway and broker see it.

    Every change survives the death of this process when the call returns, and ``put`` a power cut too. (Where the
    queue shares a transaction with others, both hold once that is committed.) Every method raises StoreUnavailable
    when the queue is a server that does not answer. A change may have been made all the same; making it again is
    harmless.
    """

    def put(self, batch: Sequence[QueuedFrame], *, now: float) -> int:
        """Add a batch, all or nothing, but for frames that are there already. Returns how many are new.

        Raises QueueFull when the byte limit would be passed, DiskFull.
        """
        ...

    def begin(self, batch: Sequence[QueuedFrame]) -> Callable[[], bool] | None:
        """Start to add frames that a ``put`` will bring next, which then need not wait as long.

        Returns what tells whether that ``put`` would wait no more; None where there is nothing to start. Frames may
        get into the queue although they are never put, so they must be such as may be put.
        """
        ...

    def forget_names(self, edge_id: str, boot_id: str) -> None:
        """Worked-off frames of this boot come again, for a restored catalogue lost them: they are no repeated ones."""
        ...

    def lease(self, n: int, *, ttl_seconds: float, worker: str, now: float) -> list[Leased]:
        """Take up to ``n`` available items for ``ttl_seconds``, of each camera host the oldest in turn.

        Fewer when large. An item whose last lease ran out comes alone, for it may have killed its worker;
        a lease with others that ran out does not count as an attempt, for it may have been another's fault. Frames of
        video groups stay with a worker while it keeps up: see ``affinity``.
        """
        ...

    def extend(self, ids: Sequence[int], *, ttl_seconds: float, worker: str, now: float) -> None:
        """Hold leased items for ``ttl_seconds`` from now. Raises LeaseLost, having extended none."""
        ...

    def ack(self, ids: Sequence[int], *, worker: str) -> None:
        """Remove finished items, also those whose lease ran out, unless another worker has them now.

        Nothing happens for one that is gone or dead. Raises LeaseLost for those that are not ``worker``'s, when the
        others are removed.
        """
        ...

    def nack(
        self, id_: int, *, delay_seconds: float, worker: str, why: str, now: float, hopeless: str = ""
    ) -> None:
        """Give an item back, not to be leased again before the delay. Raises LeaseLost.

        One that had all its attempts is dead; with ``hopeless``, the reason of a tombstone, it is gone under that: for
        what no later attempt could make good.
        """
        ...

    def dead(self, n: int) -> list[Dead]:
        """The ``n`` newest dead items."""
        ...

    def dead_frame(self, id_: int) -> tuple[Dead, QueuedFrame] | None:
        """A dead item with its frame."""
        ...

    def requeue(self, ids: Sequence[int], *, now: float) -> int:
        """Let dead items be leased again, with all their attempts; returns how many there were.

        Raises QueueFull, having changed nothing or, where the queue is a server, some.
        """
        ...

    def purge(self, ids: Sequence[int]) -> int:
        """Remove dead items for good, under tombstones; returns how many there were."""
        ...

    @property
    def depth(self) -> int:
        """Items that are ready or leased."""
        ...

    @property
    def dead_count(self) -> int: ...

    @property
    def dead_bytes(self) -> int: ...

    @property
    def depth_bytes(self) -> int:
        """Bytes that are ready or leased: what counts against the limit."""
        ...

    @property
    def least_room_bytes(self) -> int:
        """Bytes that any camera host may add within its share, whatever it has already."""
        ...

    def room_of(self, edge_id: str) -> int:
        """Bytes that one camera host may add within its share, as far as is known."""
        ...

    @property
    def room_bytes(self) -> int:
        """Bytes that fit before the limit; a server's answer may be a second old."""
        ...

    def oldest_age(self, now: float) -> float:
        """Seconds since the oldest ready or leased item came in; 0 when there is none."""
        ...

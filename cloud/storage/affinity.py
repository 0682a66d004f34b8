"""Which camera hosts a worker keeps: frames of video groups go where the decoder of their group stands already.

A worker that takes frames of a group keeps its host while it comes back for more and gets all there is. What it cannot
keep up with, and the hosts of a worker that is not heard of, are anybody's at once; hosts are handed over where one
worker has more of them than another. Any worker can decode any frame: to keep hosts saves work, nothing depends on it.
Pure, in memory, a gateway's own; instants are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

STAY_SECONDS = 2.0  # a worker that has not asked for frames for so long keeps none
_FORGET_SECONDS = 60.0  # a camera host that has sent nothing for so long counts no more
_MOST = 10_000  # camera hosts remembered


@dataclass(frozen=True)
class _Asked:
    """A worker's latest lease, and whether it got all there was for it."""

    at: float
    drained: bool


class Affinity:
    def __init__(self) -> None:
        self._owners: dict[
            str, tuple[str, float]
        ] = {}  # by edge id: the worker, and when it took frames last
        self._asked: dict[str, _Asked] = {}  # by worker

    def reserved(self, worker: str, now: float) -> frozenset[str]:
        """Camera hosts whose frames are left to other workers when this one asks for some."""
        self._forget(now)
        self._balance(worker)
        return frozenset(
            edge_id
            for edge_id, (owner, _) in self._owners.items()
            if owner != worker and owner in self._asked and self._asked[owner].drained
        )

    def leased(self, worker: str, in_groups: Iterable[str], *, drained: bool, now: float) -> None:
        """A worker got frames: of these hosts some of groups, and perhaps all there were (``drained``)."""
        self._asked[worker] = _Asked(now, drained)
        for edge_id in in_groups:
            self._owners[edge_id] = (worker, now)

    def _balance(self, worker: str) -> None:
        """Hand hosts over from the worker that has most to the one that has fewest, until those differ by one."""
        hosts: dict[str, list[str]] = {name: [] for name in sorted(self._asked.keys() | {worker})}
        for edge_id, (owner, _) in self._owners.items():
            if owner in hosts:
                hosts[owner].append(edge_id)
        while True:
            most, least = (pick(hosts, key=lambda name: len(hosts[name])) for pick in (max, min))
            if len(hosts[most]) - len(hosts[least]) < 2:
                return
            edge_id = hosts[most].pop()
            hosts[least].append(edge_id)
            self._owners[edge_id] = (least, self._owners[edge_id][1])

    def _forget(self, now: float) -> None:
        """Workers and hosts not heard of for long; with a clock that was set back, all of them."""
        self._asked = {
            worker: asked for worker, asked in self._asked.items() if 0 <= now - asked.at < STAY_SECONDS
        }
        if len(self._owners) > _MOST:
            self._owners.clear()
        self._owners = {
            edge_id: owned for edge_id, owned in self._owners.items() if 0 <= now - owned[1] < _FORGET_SECONDS
        }

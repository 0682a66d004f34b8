"""Workers that only count: they lease and acknowledge frames, so that the queue does not merely grow."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event

from secondlook.cloud.config import BrokerConfig
from secondlook.cloud.gateway.broker import MAX_LEASED
from secondlook.cloud.workers.broker_client import BrokerClient
from secondlook.shared.errors import LinkError
from secondlook.shared.link import Received
from secondlook.shared.settings import Endpoint

_WORKERS = 16
_LEASE_SECONDS = 60.0
_IDLE_SECONDS = 0.02


@dataclass(frozen=True)
class Consumed:
    """What came out of the queue: distinct frames, and frames that came again."""

    frames: int
    duplicated: int


class _Seen:
    def __init__(self) -> None:
        self._boots: dict[tuple[str, str], Received] = {}
        self._lock = threading.Lock()
        self.counts: Counter[bool] = Counter()  # frames by whether they were new

    def add(self, edge_id: str, boot_id: str, seq: int) -> None:
        with self._lock:
            received = self._boots.setdefault((edge_id, boot_id), Received())
            self.counts[received.add(seq)] += 1


def consume(address: str, all_sent: Event, afterwards: bool, result: Connection) -> None:
    """Take frames until `all_sent` is set and the queue is empty, then send a `Consumed`, or an error.

    With `afterwards` the first is taken when all have been sent.
    """
    seen = _Seen()
    if afterwards:
        all_sent.wait()
    with ThreadPoolExecutor(_WORKERS) as pool:
        workers = [pool.submit(_work, address, number, all_sent, seen) for number in range(_WORKERS)]
    try:
        for worker in workers:
            worker.result()
    except LinkError as error:
        result.send(error)
        return
    result.send(Consumed(seen.counts[True], seen.counts[False]))


def _work(address: str, number: int, all_sent: Event, seen: _Seen) -> None:
    with BrokerClient(BrokerConfig(Endpoint(address), timeout_seconds=30.0), f"bench-{number}") as broker:
        while True:
            last_look = all_sent.is_set()
            leased = broker.lease(MAX_LEASED, _LEASE_SECONDS)
            for item in leased:
                seen.add(item.frame.edge_id, item.frame.info.boot_id, item.frame.info.seq)
            if leased:
                broker.ack([item.id for item in leased])
            elif last_look:
                return
            else:
                time.sleep(_IDLE_SECONDS)

"""A worker that only counts: it leases and acknowledges frames, so that the queue does not merely grow."""

from __future__ import annotations

import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event

from cloud.broker import MOST_LEASED
from cloud.broker_client import BrokerClient
from cloud.config import BrokerConfig
from shared.errors import LinkError
from shared.link import Received

_LEASE_SECONDS = 60.0
_IDLE_SECONDS = 0.01


@dataclass(frozen=True)
class Consumed:
    """What came out of the queue: distinct frames, and frames that came again."""

    frames: int
    duplicated: int


def consume(address: str, all_sent: Event, result: Connection) -> None:
    """Take frames until `all_sent` is set and the queue is empty, then send a `Consumed`, or an error."""
    seen: dict[tuple[str, str], Received] = {}
    frames = duplicated = 0
    try:
        with BrokerClient(BrokerConfig(address=address, timeout_seconds=30.0), "bench") as broker:
            while True:
                last_look = all_sent.is_set()
                leased = broker.lease(MOST_LEASED, _LEASE_SECONDS)
                for item in leased:
                    frame = item.frame
                    received = seen.setdefault((frame.edge_id, frame.boot_id), Received())
                    new = received.add(frame.seq)
                    frames += new
                    duplicated += not new
                if leased:
                    broker.ack([item.id for item in leased])
                elif last_look:
                    break
                else:
                    time.sleep(_IDLE_SECONDS)
    except LinkError as error:
        result.send(error)
        return
    result.send(Consumed(frames, duplicated))

"""The streams of a JetStream queue: made where they are missing, looked at, and mended.

Three of them bear the queue's name. Everything that must survive is in the first two:

- ``NAME``: work-queue retention, ``discard: new``. A frame has a subject of its own, ``NAME.frame.EDGE.BOOT.SEQ``, and
  a subject holds one message, so that a frame that is still queued cannot be put twice. For some time longer
  (``duplicate_seconds``) the server also knows the name (``Nats-Msg-Id``) of one that was worked off. Every camera host
  has a consumer of its own, ``edge-EDGE``: so one that floods the queue stands in nobody's way.
- ``NAME-dead``: frames that were given up, whole, with the reason in their headers.
- ``NAME-leases``: who holds which frame, in memory; the newest notes, many more than frames can be leased at a time.
  Without it (the server was started anew) a worker is told that its lease is lost, and the frame comes again when its
  time has run out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from nats.errors import Error as NatsError
from nats.js import api

from secondlook.cloud.config import JetStreamConfig, QueueLimits
from secondlook.cloud.storage.jetstream import JetStream, is_missing
from secondlook.cloud.storage.queue import edge_room
from secondlook.shared.errors import StorageError

log = logging.getLogger(__name__)

_CONSUMER = "edge-"
_EARLIER_CONSUMER = "workers"  # of all camera hosts together, in an earlier version
_LEASES_SECONDS = 8 * 86_400.0  # longer than any lease
_NOTES_PER_LEASE = 8  # about 200 bytes each
_LOOK_SECONDS = 1.0
# A camera host that had no frame left is asked again so much later: at first, and at most.
_EMPTY_SECONDS = 0.02
_LONGEST_EMPTY_SECONDS = 0.5
_PAGE = 256  # consumers that the server lists at a time
_SMOOTHING = 1 / 16  # weight of the newest frame in the mean size


@dataclass
class _Edge:
    """What is known here of one camera host's part of the queue."""

    items: int = 0  # that wait or are leased, as of the last look
    added_bytes: int = 0  # by this gateway since then
    mean_bytes: float = 0.0  # of a frame that this gateway put
    ask_at: float = 0.0  # monotonic; not before
    pause: float = _EMPTY_SECONDS
    asleep: bool = False  # nothing waits, nothing is leased


class Streams:
    """All coroutines run on the loop of ``nats``. ``room`` is how many bytes fit, as of the last look."""

    def __init__(self, nats: JetStream, name: str, limits: QueueLimits, config: JetStreamConfig) -> None:
        self._nats = nats
        self._limits, self._config = limits, config
        self.frames, self.dead, self.leases = name, f"{name}-dead", f"{name}-leases"
        self._news = f"{name}-news"  # gateways tell each other who has new frames
        self.room = 0
        self._mean_bytes = 0.0
        self._first = 0  # the oldest message, as of the last look
        self._edges: OrderedDict[str, _Edge] = OrderedDict()  # the next to be served first

    async def state(self, stream: str) -> api.StreamState:
        return (await self._nats.api.stream_info(stream)).state

    async def look(self) -> None:
        state = await self.state(self.frames)
        self.room = self._limits.max_bytes - state.bytes
        self._mean_bytes = state.bytes / state.messages if state.messages else 0.0

    def consumer(self, edge_id: str) -> str:
        return f"{_CONSUMER}{edge_id}"

    def edge_of(self, subject: str) -> str:
        """The camera host of a frame's subject."""
        return subject.removeprefix(f"{self.frames}.frame.").split(".", 1)[0]

    def line(self) -> list[str]:
        """Camera hosts that may have a frame to lease, the next in turn first."""
        now = time.monotonic()
        return [name for name, edge in self._edges.items() if not edge.asleep and edge.ask_at <= now]

    def served(self, edge_id: str) -> None:
        """It gave frames: it goes to the end of the line."""
        edge = self._edges.setdefault(edge_id, _Edge())  # a look may have taken it out meanwhile
        edge.pause = _EMPTY_SECONDS
        self._edges.move_to_end(edge_id)

    def pause(self, edge_id: str, seconds: float | None = None) -> None:
        """It had no frame left: it is asked again later, and later each time."""
        edge = self._edges.setdefault(edge_id, _Edge())
        edge.ask_at = time.monotonic() + (edge.pause if seconds is None else seconds)
        edge.pause = min(2 * edge.pause, _LONGEST_EMPTY_SECONDS)

    def wake(self, edge_ids: Collection[str]) -> None:
        """These may have something to lease."""
        for name in edge_ids:
            edge = self._edges.get(name)
            if edge is not None:
                edge.asleep, edge.ask_at, edge.pause = False, 0.0, _EMPTY_SECONDS

    async def welcome(self, sizes: dict[str, list[int]]) -> None:
        """Frames of these sizes are about to be put, by edge id: each camera host has a consumer."""
        for name, own in sizes.items():
            if name not in self._edges:
                await self._add_consumer(name)
                self._edges[name] = _Edge()
            edge = self._edges[name]
            for size in own:
                edge.added_bytes += size
                edge.mean_bytes += (size - edge.mean_bytes) * (_SMOOTHING if edge.mean_bytes else 1.0)
        self.wake(sizes)

    async def tell(self, edge_ids: Collection[str]) -> None:
        """Other gateways' workers may wait for the frames of these."""
        await self._nats.tell(self._news, " ".join(edge_ids).encode())

    async def listen(self) -> None:
        await self._nats.listen(self._news, self._hear)

    def _hear(self, news: bytes) -> None:
        names = news.decode().split()
        for name in names:
            self._edges.setdefault(name, _Edge())  # who tells of it has made its consumer
        self.wake(names)

    def room_of(self, edge_id: str) -> int:
        """Bytes that a camera host may add within its share, from how many frames it has, and of what size."""
        edge = self._edges.get(edge_id, _Edge())
        own = int(edge.items * (edge.mean_bytes or self._mean_bytes)) + edge.added_bytes
        held = self._limits.max_bytes - self.room
        return edge_room(self._limits, own_bytes=min(own, held), all_bytes=held)

    async def look_at_edges(self) -> None:
        """Bring the line up to date with what other gateways and workers did."""
        infos = await self._consumers()
        seen = set[str]()
        for info in infos:
            if not info.name.startswith(_CONSUMER):
                continue
            name = info.name.removeprefix(_CONSUMER)
            seen.add(name)
            edge = self._edges.setdefault(name, _Edge())
            waiting = info.num_pending or 0
            edge.items, edge.added_bytes = waiting + (info.num_ack_pending or 0), 0
            if edge.items and edge.asleep:
                self.wake([name])
            elif not edge.items and edge.ask_at > 0:
                edge.asleep = True
        for name, edge in list(self._edges.items()):
            if name not in seen and not edge.added_bytes:  # else it is as new as this listing
                del self._edges[name]  # the next frame that is put makes its consumer anew

    async def _consumers(self) -> list[api.ConsumerInfo]:
        found: list[api.ConsumerInfo] = []
        while page := await self._nats.api.consumers_info(self.frames, offset=len(found)):
            found += page
            if len(page) < _PAGE:
                break
        return found

    async def watch(self) -> None:
        """Keep an eye on the room, which other gateways and workers change too, and on stranded frames."""
        stranded: tuple[int, str] | None = None
        missing = False
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                if missing:
                    await self.prepare()
                missing = False
                await self.look()
                await self.look_at_edges()
                before, stranded = stranded, await self._stranded()
                if stranded is not None and stranded == before:
                    await self._renew_consumer(stranded[1])
            except NatsError as error:
                # Calls say what is wrong; here it is enough to look again.
                missing = is_missing(error)
            except (OSError, StorageError):
                continue

    async def _stranded(self) -> tuple[int, str] | None:
        """The number and camera host of a message that is there although its consumer has done with it.

        It would stay for ever. A server that is killed may forget that it removed a message, or, without
        ``sync_interval: always`` in a power cut, the message itself: its number is then given to another one. Nor is
        there a consumer for a message whose consumer was removed.
        """
        state = await self.state(self.frames)
        before, self._first = self._first, state.first_seq
        if not state.messages or state.first_seq != before:
            return None  # the oldest moves on
        try:
            message = await self._nats.api.get_msg(self.frames, state.first_seq)
        except NatsError as error:
            if is_missing(error):
                return None  # worked off meanwhile
            raise
        edge_id = self.edge_of(str(message.subject))
        try:
            consumer = await self._nats.api.consumer_info(self.frames, self.consumer(edge_id))
        except NatsError as error:
            if is_missing(error):
                return state.first_seq, edge_id
            raise
        done = 0 if consumer.ack_floor is None else consumer.ack_floor.stream_seq
        return (state.first_seq, edge_id) if state.first_seq <= done else None

    async def _renew_consumer(self, edge_id: str) -> None:
        """Let every message come again: what was worked off is recognised, what was not must not be lost."""
        log.warning(
            "the queue's server does not know what was done of %s before it stopped: its frames come again",
            edge_id,
        )
        try:
            await self._nats.api.delete_consumer(self.frames, self.consumer(edge_id))
        except NatsError as error:
            if not is_missing(error):
                raise
        await self._add_consumer(edge_id)
        self._edges.setdefault(edge_id, _Edge())
        self.wake([edge_id])

    async def _add_consumer(self, edge_id: str) -> None:
        consumer = api.ConsumerConfig(
            durable_name=self.consumer(edge_id),
            filter_subject=f"{self.frames}.frame.{edge_id}.>",
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=2 * self._config.timeout_seconds,
            max_deliver=-1,
            max_ack_pending=self._config.max_ack_pending,
        )
        await self._nats.api.add_consumer(self.frames, consumer)

    async def prepare(self) -> None:
        """Make streams where they are missing, and give them the limits of the configuration."""
        for wanted in self._wanted():
            try:
                there = (await self._nats.api.stream_info(str(wanted.name))).config
            except NatsError as error:
                if not is_missing(error):
                    raise
                await self._nats.api.add_stream(wanted)
                continue
            limits = [(c.max_bytes, c.max_msgs or -1, c.num_replicas) for c in (there, wanted)]
            if limits[0] != limits[1]:
                await self._nats.api.update_stream(wanted)
        try:
            await self._nats.api.delete_consumer(self.frames, _EARLIER_CONSUMER)
        except NatsError as error:
            if not is_missing(error):
                raise
        else:
            await self._take_over()
        await self.look_at_edges()

    async def _take_over(self) -> None:
        """An earlier version's frames had one consumer for all: each camera host that has some gets its own."""
        info = await self._nats.api.stream_info(self.frames, subjects_filter=f"{self.frames}.frame.>")
        for edge_id in {self.edge_of(subject) for subject in info.state.subjects or {}}:
            await self._add_consumer(edge_id)

    def _wanted(self) -> Sequence[api.StreamConfig]:
        kept: dict[str, Any] = {
            "storage": api.StorageType.FILE,
            "discard": api.DiscardPolicy.NEW,
            "max_msgs_per_subject": 1,
            "discard_new_per_subject": True,
            "num_replicas": self._config.replicas,
            "duplicate_window": self._config.duplicate_seconds,
        }
        return (
            api.StreamConfig(
                name=self.frames,
                subjects=[f"{self.frames}.frame.>"],
                retention=api.RetentionPolicy.WORK_QUEUE,
                max_bytes=self._limits.max_bytes,
                **kept,
            ),
            # Without a limit of the server's: gateways remove the oldest dead, and tell the ledger of them.
            api.StreamConfig(name=self.dead, subjects=[f"{self.dead}.>"], max_bytes=-1, **kept),
            api.StreamConfig(
                name=self.leases,
                subjects=[f"{self.leases}.>"],
                storage=api.StorageType.MEMORY,
                max_bytes=-1,
                max_msgs=_NOTES_PER_LEASE * self._config.max_ack_pending,
                max_msgs_per_subject=1,
                max_age=_LEASES_SECONDS,
                num_replicas=self._config.replicas,
            ),
        )

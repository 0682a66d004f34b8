"""The streams of a JetStream queue: made where they are missing, looked at, and mended.

Three of them bear the queue's name. Everything that must survive is in the first two:

- ``NAME``: work-queue retention, ``discard: new``. A frame has a subject of its own, ``NAME.frame.EDGE.BOOT.SEQ``, and
  a subject holds one message, so that a frame that is still queued cannot be put twice. For some time longer
  (``duplicate_seconds``) the server also knows the name (``Nats-Msg-Id``) of one that was worked off.
- ``NAME-dead``: frames that were given up, whole, with the reason in their headers.
- ``NAME-leases``: who holds which frame, in memory; the newest notes, many more than frames can be leased at a time.
  Without it (the server was started anew) a worker is told that its lease is lost, and the frame comes again when its
  time has run out.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from nats.errors import Error as NatsError
from nats.js import api

from secondlook.cloud.config import JetStreamConfig
from secondlook.cloud.storage.jetstream import JetStream, is_missing
from secondlook.cloud.storage.queue import QueueLimits

log = logging.getLogger(__name__)

CONSUMER = "workers"
_LEASES_SECONDS = 8 * 86_400.0  # longer than any lease
_NOTES_PER_LEASE = 8  # about 200 bytes each
_LOOK_SECONDS = 1.0


class Streams:
    """All coroutines run on the loop of ``nats``. ``room`` is how many bytes fit, as of the last look."""

    def __init__(self, nats: JetStream, name: str, limits: QueueLimits, config: JetStreamConfig) -> None:
        self._nats = nats
        self._limits, self._config = limits, config
        self.frames, self.dead, self.leases = name, f"{name}-dead", f"{name}-leases"
        self.room = 0

    async def state(self, stream: str) -> api.StreamState:
        return (await self._nats.api.stream_info(stream)).state

    async def look(self) -> None:
        states = await asyncio.gather(self.state(self.frames), self.state(self.dead))
        self.room = self._limits.max_bytes - sum(state.bytes for state in states)

    async def watch(self) -> None:
        """Keep an eye on the room, which other gateways and workers change too, and on stranded frames."""
        stranded: int | None = None
        missing = False
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                if missing:
                    await self.prepare()
                missing = False
                await self.look()
                before, stranded = stranded, await self._stranded()
                if stranded is not None and stranded == before:
                    await self._renew_consumer()
            except NatsError as error:
                # Calls say what is wrong; here it is enough to look again.
                missing = is_missing(error)
            except OSError:
                continue

    async def _stranded(self) -> int | None:
        """The number of a message that is there although the consumer has done with it, and so would stay for ever.

        A server that is killed may forget that it removed a message, or, without ``sync_interval: always`` in a power
        cut, the message itself: its number is then given to another one.
        """
        consumer = await self._nats.api.consumer_info(self.frames, CONSUMER)
        state = await self.state(self.frames)
        done = 0 if consumer.ack_floor is None else consumer.ack_floor.stream_seq
        return state.first_seq if state.messages and state.first_seq <= done else None

    async def _renew_consumer(self) -> None:
        """Let every message come again: what was worked off is recognised, what was not must not be lost."""
        log.warning("the queue's server does not know what was done before it stopped: its frames come again")
        try:
            await self._nats.api.delete_consumer(self.frames, CONSUMER)
        except NatsError as error:
            if not is_missing(error):
                raise
        await self.prepare()

    async def prepare(self) -> None:
        """Make streams and consumer where they are missing, and give them the limits of the configuration."""
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
        consumer = api.ConsumerConfig(
            durable_name=CONSUMER,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=2 * self._config.timeout_seconds,
            max_deliver=-1,
            max_ack_pending=self._config.max_ack_pending,
        )
        await self._nats.api.add_consumer(self.frames, consumer)

    def _wanted(self) -> tuple[api.StreamConfig, ...]:
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
            # Without a limit of its own: what dies was within the limit, and counts against it.
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

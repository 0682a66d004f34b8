"""The ``FrameQueue`` for several gateways, on NATS JetStream. Workers reach it through the broker of any gateway.

Three streams bear the queue's name. Everything that must survive is in the first two:

- ``NAME``: work-queue retention, ``discard: new``. A frame has a subject of its own, ``NAME.frame.EDGE.BOOT.SEQ``, and
  a subject holds one message, so that a frame that is still queued cannot be put twice. For some time longer
  (``duplicate_seconds``) the server also knows the name (``Nats-Msg-Id``) of one that was worked off.
- ``NAME-dead``: frames that were given up, whole, with the reason in their headers.
- ``NAME-leases``: who holds which frame, in memory. Without it (the server was started anew) a worker is told that its
  lease is lost, and the frame comes again when its time has run out.

One pull consumer with explicit acknowledgement serves all gateways. An item's number is its sequence in the stream,
and its attempts are the consumer's count of deliveries, so that any gateway can carry on what another began. A lease
is a *negative acknowledgement with a delay*, which is how JetStream lets a client choose when a message that is not
acknowledged comes again: unlike the consumer's fixed ``ack_wait`` it follows ``ttl_seconds``. ``ack_wait`` only bounds
what was delivered to a gateway that died before it made it a lease. Leases run by the server's clock, not by ``now``.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import api

from cloud.addresses import NatsAddress, parse_nats
from cloud.config import JetStreamConfig
from cloud.jetstream import JetStream, is_missing
from cloud.queue import Dead, Leased, QueuedFrame, QueueLimits
from shared.errors import ConfigError, LeaseLost, QueueFull, StorageError
from shared.packetfields import MAX_MESSAGE_BYTES

log = logging.getLogger(__name__)

_VERSION = 1  # of a message: MessagePack [version, field, ...] in the order of QueuedFrame
_CONSUMER = "workers"
_LEASES_SECONDS = 8 * 86_400.0  # longer than any lease
_LOOK_SECONDS = 1.0  # between looks at how full the streams are
_HEAD_BYTES = 300  # of a message, about: subject, headers, the server's own
_WHY, _ATTEMPTS, _ID = "Secondlook-Why", "Secondlook-Attempts", "Secondlook-Id"
_RAN_OUT = "its last lease ran out"


@dataclass(frozen=True)
class _Delivery:
    """What the acknowledgement subject of a delivered message tells."""

    reply: str
    id: int
    attempts: int

    @classmethod
    def of(cls, reply: str) -> _Delivery:
        numbers = Msg.Metadata._from_reply(reply)
        return cls(reply, numbers.sequence.stream, numbers.num_delivered)


class JetStreamQueue:
    """Use in one thread; ``close`` it."""

    def __init__(self, url: str, limits: QueueLimits, config: JetStreamConfig) -> None:
        """Raises ConfigError, StoreUnavailable."""
        address = parse_nats(url)
        self._limits, self._config = limits, config
        self._name = address.name
        self._dead, self._leases = f"{self._name}-dead", f"{self._name}-leases"
        self._room = 0
        self._nats = _connect(address, config)
        try:
            if self._nats.max_payload < MAX_MESSAGE_BYTES + _HEAD_BYTES:
                raise ConfigError(
                    f"the NATS server takes messages of {self._nats.max_payload} bytes; set its max_payload to 8MB"
                )
            self._nats.run(self._prepare())
            self._nats.run(self._look())
        except BaseException:
            self._nats.close()
            raise
        self._nats.start(self._watch())

    def close(self) -> None:
        """End the connection. What is leased stays leased."""
        self._nats.close()

    def put(self, batch: Sequence[QueuedFrame], *, now: float) -> int:
        messages = [(self._subject(frame), _pack(frame)) for frame in batch]
        wanted = sum(len(payload) + _HEAD_BYTES for _, payload in messages)
        if wanted > self._room:
            self._nats.run(self._look())
        if wanted > self._room:
            raise QueueFull(f"the queue has room for {self._room} of {self._limits.max_bytes} bytes")
        added = self._nats.run(self._put(messages))
        self._room -= wanted
        return added

    def lease(self, n: int, *, ttl_seconds: float, worker: str, now: float) -> list[Leased]:
        return self._nats.run(self._lease(n, ttl_seconds, worker))

    def extend(self, ids: Sequence[int], *, ttl_seconds: float, worker: str, now: float) -> None:
        self._nats.run(self._extend(ids, ttl_seconds, worker))

    def ack(self, ids: Sequence[int]) -> None:
        self._nats.run(self._ack(ids))

    def nack(self, id_: int, *, delay_seconds: float, worker: str, why: str, now: float) -> None:
        self._nats.run(self._nack(id_, delay_seconds, worker, why))

    def dead(self, n: int) -> list[Dead]:
        return self._nats.run(self._newest_dead(n))

    @property
    def depth(self) -> int:
        return int(self._nats.run(self._state(self._name)).messages)

    @property
    def dead_count(self) -> int:
        return int(self._nats.run(self._state(self._dead)).messages)

    @property
    def depth_bytes(self) -> int:
        self._nats.run(self._look())
        return self._limits.max_bytes - self._room

    @property
    def room_bytes(self) -> int:
        return max(0, self._room)

    def oldest_age(self, now: float) -> float:
        since = self._nats.run(self._oldest())
        return 0.0 if since is None else max(0.0, now - since)

    async def _put(self, messages: Sequence[tuple[str, bytes]]) -> int:
        # All at once and in order: the server answers each when it has written it.
        answers = await asyncio.gather(
            *(
                self._nats.publish(subject, payload, {"Nats-Msg-Id": subject})
                for subject, payload in messages
            ),
            return_exceptions=True,
        )
        # A full queue or disk says more than the silence that may follow it.
        failed = [answer for answer in answers if isinstance(answer, BaseException)]
        for error in sorted(failed, key=lambda error: not isinstance(error, QueueFull | StorageError)):
            raise error
        return sum(answer is True for answer in answers)

    async def _lease(self, n: int, ttl_seconds: float, worker: str) -> list[Leased]:
        leased: list[Leased] = []
        more = True
        while more and len(leased) < n:
            messages, more = await self._nats.pull(
                f"$JS.API.CONSUMER.MSG.NEXT.{self._name}.{_CONSUMER}", n - len(leased)
            )
            delivered = [(_Delivery.of(message.reply), message) for message in messages]
            taken = await asyncio.gather(
                *(self._take(delivery, message, ttl_seconds, worker) for delivery, message in delivered)
            )
            leased += [item for item in taken if item is not None]
        return leased

    async def _take(
        self, delivery: _Delivery, message: Msg, ttl_seconds: float, worker: str
    ) -> Leased | None:
        """Make a delivered message a lease; one that had its chances, or is no frame, is given up instead."""
        frame = _unpack(message.data)
        if frame is None:
            await self._bury(delivery, message.subject, message.data, "it is not a frame")
            return None
        if delivery.attempts > self._limits.max_attempts:
            await self._bury(delivery, message.subject, message.data, _RAN_OUT)
            return None
        await self._note(delivery, worker)
        await self._put_off(delivery, ttl_seconds)
        return Leased(delivery.id, delivery.attempts, frame)

    async def _extend(self, ids: Sequence[int], ttl_seconds: float, worker: str) -> None:
        held = await asyncio.gather(*(self._held(id_, worker) for id_ in ids))
        await asyncio.gather(*(self._put_off(delivery, ttl_seconds) for delivery in held))

    async def _ack(self, ids: Sequence[int]) -> None:
        await asyncio.gather(*(self._remove(id_) for id_ in ids))

    async def _nack(self, id_: int, delay_seconds: float, worker: str, why: str) -> None:
        delivery = await self._held(id_, worker)
        if delivery.attempts >= self._limits.max_attempts:
            message = await self._nats.api.get_msg(self._name, id_)
            await self._bury(delivery, str(message.subject), message.data or b"", why)
            return
        await self._forget(id_)
        await self._put_off(delivery, delay_seconds)

    async def _put_off(self, delivery: _Delivery, seconds: float) -> None:
        """Let a message come again after ``seconds``, unless it is acknowledged before."""
        delay = b' {"delay": %d}' % int(seconds * 1e9) if seconds > 0 else b""
        await self._nats.request(delivery.reply, b"-NAK" + delay)

    async def _remove(self, id_: int) -> None:
        noted = await self._noted(id_)
        # Without a note the numbers of the delivery are not known; the server looks for the message by its own.
        reply = noted[1].reply if noted is not None else f"$JS.ACK.{self._name}.{_CONSUMER}.1.{id_}.0.0.0"
        await self._nats.request(reply, b"+ACK")
        await self._forget(id_)

    async def _bury(self, delivery: _Delivery, subject: str, data: bytes, why: str) -> None:
        head = {
            "Nats-Msg-Id": f"{subject}/{delivery.id}",
            _WHY: "".join(letter if letter.isprintable() else " " for letter in why)[:500],
            _ATTEMPTS: str(min(delivery.attempts, self._limits.max_attempts)),
            _ID: str(delivery.id),
        }
        tail = subject.removeprefix(f"{self._name}.frame.")
        await self._nats.publish(f"{self._dead}.{tail}", data, head)
        await self._nats.request(delivery.reply, b"+ACK")
        await self._forget(delivery.id)

    async def _note(self, delivery: _Delivery, worker: str) -> None:
        """Write down who holds a message."""
        subject, note = f"{self._leases}.{delivery.id}", json.dumps([worker, delivery.reply]).encode()
        try:
            await self._nats.publish(subject, note, {})
        except NatsError as error:
            if not is_missing(error):
                raise
            # A stream in memory is gone when the server was started anew.
            await self._prepare()
            await self._nats.publish(subject, note, {})

    async def _noted(self, id_: int) -> tuple[str, _Delivery] | None:
        try:
            found = await self._nats.api.get_msg(self._leases, subject=f"{self._leases}.{id_}")
        except NatsError as error:
            if is_missing(error):
                return None
            raise
        worker, reply = json.loads(found.data or b"")
        return worker, _Delivery.of(reply)

    async def _held(self, id_: int, worker: str) -> _Delivery:
        noted = await self._noted(id_)
        if noted is None or noted[0] != worker:
            raise LeaseLost("the lease ran out; another worker may have the item now")
        return noted[1]

    async def _forget(self, id_: int) -> None:
        try:
            await self._nats.api.purge_stream(self._leases, subject=f"{self._leases}.{id_}")
        except NatsError as error:
            if not is_missing(error):
                raise

    async def _newest_dead(self, n: int) -> list[Dead]:
        state = await self._state(self._dead)
        found: list[Dead] = []
        for seq in range(state.last_seq, state.first_seq - 1, -1):
            if len(found) == min(n, state.messages):
                break
            try:
                message = await self._nats.api.get_msg(self._dead, seq)
            except NatsError as error:
                if not is_missing(error):
                    raise
                continue  # somebody removed it
            found.append(_dead(message))
        return found

    async def _state(self, stream: str) -> api.StreamState:
        return (await self._nats.api.stream_info(stream)).state

    async def _oldest(self) -> float | None:
        """When the oldest frame came in, in Unix seconds."""
        state = await self._state(self._name)
        if not state.messages:
            return None
        try:
            message = await self._nats.api.get_msg(self._name, state.first_seq)
        except NatsError as error:
            if is_missing(error):
                return None  # worked off meanwhile
            raise
        frame = _unpack(message.data or b"")
        return None if frame is None else frame.received_ns / 1e9

    async def _look(self) -> None:
        states = await asyncio.gather(self._state(self._name), self._state(self._dead))
        self._room = self._limits.max_bytes - sum(state.bytes for state in states)

    async def _watch(self) -> None:
        """Keep an eye on the room, which other gateways and workers change too, and on stranded frames."""
        stranded = None
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                await self._look()
                before, stranded = stranded, await self._stranded()
                if stranded is not None and stranded == before:
                    await self._renew_consumer()
            except (NatsError, OSError) as error:
                log.debug("the state of the queue cannot be seen now: %s", type(error).__name__)

    async def _stranded(self) -> int | None:
        """The number of a message that is there although the consumer has done with it, and so would stay for ever.

        A server that is killed may forget that it removed a message, or, without ``sync_interval: always`` in a power
        cut, the message itself: its number is then given to another one.
        """
        consumer = await self._nats.api.consumer_info(self._name, _CONSUMER)
        state = await self._state(self._name)
        done = 0 if consumer.ack_floor is None else consumer.ack_floor.stream_seq
        return state.first_seq if state.messages and state.first_seq <= done else None

    async def _renew_consumer(self) -> None:
        """Let every message come again: what was worked off is recognised, what was not must not be lost."""
        log.warning("the queue's server does not know what was done before it stopped: its frames come again")
        try:
            await self._nats.api.delete_consumer(self._name, _CONSUMER)
        except NatsError as error:
            if not is_missing(error):
                raise
        await self._prepare()

    async def _prepare(self) -> None:
        """Make streams and consumer where they are missing, and give them the limits of the configuration."""
        for wanted in self._streams():
            try:
                there = (await self._nats.api.stream_info(str(wanted.name))).config
            except NatsError as error:
                if not is_missing(error):
                    raise
                await self._nats.api.add_stream(wanted)
                continue
            if (there.max_bytes, there.num_replicas) != (wanted.max_bytes, wanted.num_replicas):
                await self._nats.api.update_stream(wanted)
        consumer = api.ConsumerConfig(
            durable_name=_CONSUMER,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=2 * self._config.timeout_seconds,
            max_deliver=-1,
            max_ack_pending=self._config.max_ack_pending,
        )
        await self._nats.api.add_consumer(self._name, consumer)

    def _streams(self) -> tuple[api.StreamConfig, ...]:
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
                name=self._name,
                subjects=[f"{self._name}.frame.>"],
                retention=api.RetentionPolicy.WORK_QUEUE,
                max_bytes=self._limits.max_bytes,
                **kept,
            ),
            # Without a limit of its own: what dies was within the limit, and counts against it.
            api.StreamConfig(name=self._dead, subjects=[f"{self._dead}.>"], max_bytes=-1, **kept),
            api.StreamConfig(
                name=self._leases,
                subjects=[f"{self._leases}.>"],
                storage=api.StorageType.MEMORY,
                max_bytes=-1,
                max_msgs_per_subject=1,
                max_age=_LEASES_SECONDS,
                num_replicas=self._config.replicas,
            ),
        )

    def _subject(self, frame: QueuedFrame) -> str:
        return f"{self._name}.frame.{frame.edge_id}.{frame.boot_id}.{frame.seq}"


def _connect(address: NatsAddress, config: JetStreamConfig) -> JetStream:
    return JetStream(
        address, seconds=config.timeout_seconds, credentials=config.credentials_file, ca=config.ca_file
    )


def _pack(frame: QueuedFrame) -> bytes:
    packed: bytes = msgpack.packb([_VERSION, *vars(frame).values()])
    return packed


def _unpack(data: bytes) -> QueuedFrame | None:
    """The frame in a message; None for anything else."""
    try:
        version, *values = msgpack.unpackb(data)
        return QueuedFrame(*values) if version == _VERSION else None
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError):
        return None


def _dead(message: api.RawStreamMsg) -> Dead:
    frame, head = _unpack(message.data or b""), message.headers or {}
    return Dead(
        id=int(head.get(_ID, 0)),
        attempts=int(head.get(_ATTEMPTS, 0)),
        edge_id="" if frame is None else frame.edge_id,
        boot_id="" if frame is None else frame.boot_id,
        seq=-1 if frame is None else frame.seq,
        why=head.get(_WHY, ""),
    )

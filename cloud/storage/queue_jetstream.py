"""The ``FrameQueue`` for several gateways, on NATS JetStream. Workers reach it through the broker of any gateway.

One pull consumer with explicit acknowledgement serves all gateways. An item's number is its sequence in the stream,
and its attempts are the consumer's count of deliveries, so that any gateway can carry on what another began. A lease
is a *negative acknowledgement with a delay*, which is how JetStream lets a client choose when a message that is not
acknowledged comes again: unlike the consumer's fixed ``ack_wait`` it follows ``ttl_seconds``. ``ack_wait`` only bounds
what was delivered to a gateway that died before it made it a lease. Leases run by the server's clock, not by ``now``.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass

import msgpack
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import api

from secondlook.cloud.config import JetStreamConfig
from secondlook.cloud.storage.addresses import NatsAddress, parse_nats
from secondlook.cloud.storage.jetstream import End, JetStream, Request, answered, is_missing, stored
from secondlook.cloud.storage.queue import Dead, Leased, QueuedFrame, QueueLimits
from secondlook.cloud.storage.streams import CONSUMER, Streams
from secondlook.shared.errors import ConfigError, LeaseLost, QueueFull, StorageError
from secondlook.shared.packetfields import MAX_MESSAGE_BYTES

_VERSION = 1  # of a message: MessagePack [version, field, ...] in the order of QueuedFrame
_HEAD_BYTES = 300  # of a message, about: subject, headers, the server's own
_WHY, _ATTEMPTS, _ID = "Secondlook-Why", "Secondlook-Attempts", "Secondlook-Id"
_QUIET_SECONDS = 1.0  # no more is asked for so long after the server had no answer
# And so long after it had no frame left, unless one is put or given back here: many idle workers ask often.
_EMPTY_SECONDS = 0.02
_RAN_OUT = "its last lease ran out"


@dataclass(frozen=True)
class _Delivery:
    """One delivery of a message; ``reply`` is the subject on which it is acknowledged."""

    id: int
    attempts: int
    reply: str

    @classmethod
    def of(cls, message: Msg) -> _Delivery:
        numbers = message.metadata
        return cls(numbers.sequence.stream, numbers.num_delivered, message.reply)


@dataclass(frozen=True)
class _Begun:
    """Frames on their way to the server."""

    subjects: frozenset[str]
    work: Future[dict[str, bool]]


class JetStreamQueue:
    """Use in one thread; ``close`` it."""

    def __init__(self, url: str, limits: QueueLimits, config: JetStreamConfig) -> None:
        """Raises ConfigError, StoreUnavailable."""
        address = parse_nats(url)
        self._limits, self._config = limits, config
        self._quiet_until = self._empty_until = 0.0
        self._begun: _Begun | None = None
        self._nats = _connect(address, config)
        self._streams = Streams(self._nats, address.name, limits, config)
        with ExitStack() as undo:
            undo.callback(self._nats.close)
            if self._nats.max_payload < MAX_MESSAGE_BYTES + _HEAD_BYTES:
                raise ConfigError(
                    f"the NATS server takes messages of {self._nats.max_payload} bytes; set its max_payload to 8MB"
                )
            self._nats.run(self._streams.prepare())
            self._nats.run(self._streams.look())
            undo.pop_all()
        self._nats.start(self._streams.watch())

    def close(self) -> None:
        """End the connection. What is leased stays leased."""
        self._nats.close()

    def put(self, batch: Sequence[QueuedFrame], *, now: float) -> int:
        wanted = {self._subject(frame): frame for frame in batch}
        new = self._end_begun(wanted)
        rest = [(subject, _pack(frame)) for subject, frame in wanted.items() if subject not in new]
        if rest:
            size_bytes = _size_bytes(rest)
            if size_bytes > self._streams.room:
                self._nats.run(self._streams.look())
            if size_bytes > self._streams.room:
                raise QueueFull(
                    f"the queue has room for {self._streams.room} of {self._limits.max_bytes} bytes"
                )
            self._empty_until = 0.0
            new |= self._nats.run(self._put(rest))
            self._streams.room -= size_bytes
        return sum(new[subject] for subject in wanted)

    def begin(self, batch: Sequence[QueuedFrame]) -> Callable[[], bool] | None:
        messages = [(self._subject(frame), _pack(frame)) for frame in batch]
        size_bytes = _size_bytes(messages)
        if not messages or size_bytes > self._streams.room or not self._nats.is_connected:
            return None
        self._empty_until = 0.0
        work = self._nats.begin(self._put(messages))
        self._streams.room -= size_bytes
        self._begun = _Begun(frozenset(subject for subject, _ in messages), work)
        return work.done

    def lease(self, n: int, *, ttl_seconds: float, worker: str, now: float) -> list[Leased]:
        return self._nats.run(self._lease(n, ttl_seconds, worker))

    def extend(self, ids: Sequence[int], *, ttl_seconds: float, worker: str, now: float) -> None:
        self._nats.run(self._extend(ids, ttl_seconds, worker))

    def ack(self, ids: Sequence[int]) -> None:
        self._nats.run(self._ack(ids))

    def nack(self, id_: int, *, delay_seconds: float, worker: str, why: str, now: float) -> None:
        self._empty_until = 0.0
        self._nats.run(self._nack(id_, delay_seconds, worker, why))

    def dead(self, n: int) -> list[Dead]:
        return self._nats.run(self._newest_dead(n))

    @property
    def depth(self) -> int:
        return int(self._nats.run(self._streams.state(self._streams.frames)).messages)

    @property
    def dead_count(self) -> int:
        return int(self._nats.run(self._streams.state(self._streams.dead)).messages)

    @property
    def depth_bytes(self) -> int:
        self._nats.run(self._streams.look())
        return self._limits.max_bytes - self._streams.room

    @property
    def room_bytes(self) -> int:
        return max(0, self._streams.room)

    def oldest_age(self, now: float) -> float:
        since = self._nats.run(self._oldest())
        return 0.0 if since is None else max(0.0, now - since)

    def _end_begun(self, wanted: Collection[str]) -> dict[str, bool]:
        """What came of the frames that were begun, by subject, if some of them are wanted."""
        begun, self._begun = self._begun, None
        if begun is None or begun.subjects.isdisjoint(wanted):
            return {}
        return self._nats.end(begun.work)

    async def _put(self, messages: Sequence[tuple[str, bytes]]) -> dict[str, bool]:
        """Whether each is new, by subject."""
        # All at once and in order: the server answers each when it has written it.
        answers = await self._nats.ask(
            [Request(subject, payload, {"Nats-Msg-Id": subject}) for subject, payload in messages]
        )
        new, failed = dict[str, bool](), list[NatsError | QueueFull | StorageError]()
        for (subject, _), answer in zip(messages, answers, strict=True):
            try:
                new[subject] = stored(answer)
            except (NatsError, QueueFull, StorageError) as error:
                failed.append(error)
        # A full queue or disk says more than the silence that may follow it.
        for failure in sorted(failed, key=lambda failure: isinstance(failure, NatsError)):
            raise failure
        return new

    async def _lease(self, n: int, ttl_seconds: float, worker: str) -> list[Leased]:
        leased: list[Leased] = []
        end = End.ENOUGH
        if time.monotonic() < max(self._quiet_until, self._empty_until):
            return leased
        while end is End.ENOUGH and len(leased) < n:
            pulled = await self._nats.pull(
                f"$JS.API.CONSUMER.MSG.NEXT.{self._streams.frames}.{CONSUMER}", n - len(leased)
            )
            end = pulled.end
            leased += await self._take(pulled.messages, ttl_seconds, worker)
        if end is End.SILENCE:
            # To ask again at once would only cost the gateway its time.
            self._quiet_until = time.monotonic() + _QUIET_SECONDS
        elif end is End.EMPTY:
            self._empty_until = time.monotonic() + _EMPTY_SECONDS
        return leased

    async def _take(self, messages: Sequence[Msg], ttl_seconds: float, worker: str) -> list[Leased]:
        """Make delivered messages leases; those that had their chances, or are no frames, are given up instead."""
        leased: list[Leased] = []
        taken: list[_Delivery] = []
        for message in messages:
            delivery, frame = _Delivery.of(message), _unpack(message.data)
            if frame is None:
                await self._bury(delivery, message.subject, message.data, "it is not a frame")
            elif delivery.attempts > self._limits.max_attempts:
                await self._bury(delivery, message.subject, message.data, _RAN_OUT)
            else:
                taken.append(delivery)
                leased.append(Leased(delivery.id, delivery.attempts, frame))
        await self._hold(taken, ttl_seconds, worker)
        return leased

    async def _hold(self, deliveries: Sequence[_Delivery], ttl_seconds: float, worker: str) -> None:
        """Write down who holds messages, and let them come again after ``ttl_seconds``."""
        notes = [
            Request(
                f"{self._streams.leases}.{delivery.id}",
                json.dumps([worker, delivery.attempts, delivery.reply]).encode(),
            )
            for delivery in deliveries
        ]
        delays = [Request(delivery.reply, _put_off(ttl_seconds)) for delivery in deliveries]
        answers = await self._nats.ask([*notes, *delays])
        try:
            for answer in answers[: len(notes)]:
                stored(answer)
        except NatsError as error:
            if not is_missing(error):
                raise
            # A stream in memory is gone when the server was started anew.
            await self._streams.prepare()
            for answer in await self._nats.ask(notes):
                stored(answer)
        for answer in answers[len(notes) :]:
            answered(answer)

    async def _extend(self, ids: Sequence[int], ttl_seconds: float, worker: str) -> None:
        held = await asyncio.gather(*(self._held(id_, worker) for id_ in ids))
        await self._hold(held, ttl_seconds, worker)

    async def _ack(self, ids: Sequence[int]) -> None:
        # Of the numbers of a delivery the server needs only the message's own. The note stays until newer ones push
        # it out: to remove it costs more than all the rest.
        for answer in await self._nats.ask([Request(self._reply(id_), b"+ACK") for id_ in ids]):
            answered(answer)

    async def _nack(self, id_: int, delay_seconds: float, worker: str, why: str) -> None:
        delivery = await self._held(id_, worker)
        if delivery.attempts >= self._limits.max_attempts:
            message = await self._nats.api.get_msg(self._streams.frames, id_)
            await self._bury(delivery, str(message.subject), message.data or b"", why)
            return
        await self._forget(id_)
        await self._nats.request(delivery.reply, _put_off(delay_seconds))

    async def _bury(self, delivery: _Delivery, subject: str, data: bytes, why: str) -> None:
        head = {
            "Nats-Msg-Id": f"{subject}/{delivery.id}",
            _WHY: json.dumps(why[:500]),  # a header is one line of ASCII
            _ATTEMPTS: str(min(delivery.attempts, self._limits.max_attempts)),
            _ID: str(delivery.id),
        }
        tail = subject.removeprefix(f"{self._streams.frames}.frame.")
        await self._nats.publish(f"{self._streams.dead}.{tail}", data, head)
        await self._nats.request(delivery.reply, b"+ACK")
        await self._forget(delivery.id)

    async def _noted(self, id_: int) -> tuple[str, _Delivery] | None:
        try:
            found = await self._nats.api.get_msg(
                self._streams.leases, subject=f"{self._streams.leases}.{id_}"
            )
        except NatsError as error:
            if is_missing(error):
                return None
            raise
        worker, attempts, reply = json.loads(found.data or b"")
        return worker, _Delivery(id_, attempts, reply)

    async def _held(self, id_: int, worker: str) -> _Delivery:
        noted, there = await asyncio.gather(self._noted(id_), self._is_queued(id_))
        if noted is None or noted[0] != worker or not there:
            raise LeaseLost("the lease ran out; another worker may have the item now")
        return noted[1]

    async def _is_queued(self, id_: int) -> bool:
        """Whether a message is still there: a note outlives what was acknowledged."""
        try:
            await self._nats.api.get_msg(self._streams.frames, id_)
        except NatsError as error:
            if is_missing(error):
                return False
            raise
        return True

    async def _forget(self, id_: int) -> None:
        try:
            await self._nats.api.purge_stream(self._streams.leases, subject=f"{self._streams.leases}.{id_}")
        except NatsError as error:
            if not is_missing(error):
                raise

    async def _newest_dead(self, n: int) -> list[Dead]:
        state = await self._streams.state(self._streams.dead)
        found: list[Dead] = []
        for seq in range(state.last_seq, state.first_seq - 1, -1):
            if len(found) == min(n, state.messages):
                break
            try:
                message = await self._nats.api.get_msg(self._streams.dead, seq)
            except NatsError as error:
                if not is_missing(error):
                    raise
                continue  # somebody removed it
            found.append(_dead(message))
        return found

    async def _oldest(self) -> float | None:
        """When the oldest frame came in, in Unix seconds."""
        state = await self._streams.state(self._streams.frames)
        if not state.messages:
            return None
        try:
            message = await self._nats.api.get_msg(self._streams.frames, state.first_seq)
        except NatsError as error:
            if is_missing(error):
                return None  # worked off meanwhile
            raise
        frame = _unpack(message.data or b"")
        return None if frame is None else frame.received_ns / 1e9

    def _reply(self, id_: int) -> str:
        """The subject on which a message is acknowledged."""
        return f"$JS.ACK.{self._streams.frames}.{CONSUMER}.1.{id_}.0.0.0"

    def _subject(self, frame: QueuedFrame) -> str:
        return f"{self._streams.frames}.frame.{frame.edge_id}.{frame.boot_id}.{frame.seq}"


def _connect(address: NatsAddress, config: JetStreamConfig) -> JetStream:
    return JetStream(address, seconds=config.timeout_seconds, nkey=config.nkey_file, ca=config.ca_file)


def _put_off(seconds: float) -> bytes:
    """The answer to a delivery that lets the message come again after ``seconds``, unless it is acknowledged before."""
    return b"-NAK" + (b' {"delay": %d}' % int(seconds * 1e9) if seconds > 0 else b"")


def _size_bytes(messages: Sequence[tuple[str, bytes]]) -> int:
    """What messages take in a stream, about."""
    return sum(len(payload) + _HEAD_BYTES for _, payload in messages)


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
        why=json.loads(head.get(_WHY, '""')),
    )

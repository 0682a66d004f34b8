"""The ``FrameQueue`` for several gateways, on NATS JetStream. Workers reach it through the broker of any gateway.

Each camera host has a pull consumer with explicit acknowledgement, which serves all gateways; a lease takes from the
camera hosts in turn. An item's number is its sequence in the stream. A lease is a *negative acknowledgement with a
delay*, which is how JetStream lets a client choose when a message that is not acknowledged comes again: unlike the
consumer's fixed ``ack_wait`` it follows ``ttl_seconds``. ``ack_wait`` only bounds what was delivered to a gateway that
died before it made it a lease. Leases run by the server's clock, not by ``now``. Beside each lease stands a note, so
that any gateway can carry on what another began: who holds the item, in which attempt, and with how many others.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, replace

import msgpack
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import api

from secondlook.cloud.config import JetStreamConfig, QueueLimits
from secondlook.cloud.storage.addresses import NatsAddress, parse_nats
from secondlook.cloud.storage.affinity import Affinity
from secondlook.cloud.storage.jetstream import End, JetStream, Request, answered, is_missing, stored
from secondlook.cloud.storage.queue import (
    OVER_LIMIT,
    PURGED,
    Dead,
    Leased,
    QueuedFrame,
    Removed,
    hosts_in_groups,
    least_room,
)
from secondlook.cloud.storage.streams import Streams
from secondlook.shared.errors import ConfigError, LeaseLost, QueueFull, StorageError, StoreUnavailable
from secondlook.shared.packet import MAX_MESSAGE_BYTES

_VERSION = 2  # of a message: MessagePack [version, field, ...] in the order of FRAME_FIELDS
_HEAD_BYTES = 300  # of a message, about: subject, headers, the server's own
_WHY, _ATTEMPTS = "Secondlook-Why", "Secondlook-Attempts"
_DIED = "Secondlook-Died"
_QUIET_SECONDS = 1.0  # a camera host's frames are not asked for so long after the server had no answer
_PULLS_AT_ONCE = 4  # camera hosts that one turn of a lease takes from
_MAX_PULLS = 32  # of one lease: a worker asks again
_LEASE_BYTES = 16 << 20  # payload bytes of one lease, about
_MAX_HOLDERS = 20_000
_MAX_RENAMED = 4096
_RAN_OUT = "its last lease ran out"
_LOST = "the lease ran out; another worker may have the item now"


def _ignore(removed: Sequence[Dead], why: str) -> None:
    pass


@dataclass(frozen=True)
class _Lease:
    """One delivery of a message; ``reply`` is the subject on which it is acknowledged.

    Written down as a note: without a worker it was given back.
    """

    id: int
    attempts: int
    reply: str
    worker: str = ""
    company: int = 1  # items of the lease, itself included

    def to_bytes(self) -> bytes:
        return json.dumps([self.worker, self.attempts, self.reply, self.company]).encode()

    @classmethod
    def parse(cls, id_: int, note: bytes) -> _Lease:
        worker, attempts, reply, *company = json.loads(note)
        return cls(id_, attempts, reply, worker, *company)


@dataclass(frozen=True)
class _Item:
    """A message that was delivered; a suspect's last lease ran out."""

    lease: _Lease
    frame: QueuedFrame
    is_suspect: bool


@dataclass(frozen=True)
class _Begun:
    """Frames on their way to the server."""

    subjects: frozenset[str]
    work: Future[dict[str, bool]]


class JetStreamQueue:
    """Use in one thread; ``close`` it."""

    def __init__(
        self, url: str, limits: QueueLimits, config: JetStreamConfig, removed: Removed = _ignore
    ) -> None:
        """Raises ConfigError, StoreUnavailable."""
        address = parse_nats(url)
        self._limits, self._config = limits, config
        self._removed = removed
        self._affinity = Affinity()
        self._holders: dict[int, tuple[_Lease, float]] = {}  # by id: what was leased here, and until when
        self._alone: deque[tuple[_Item, float]] = (
            deque()
        )  # suspects that wait for a lease of their own, since when
        self._died = False  # something, since the dead were last looked at
        self._begun: _Begun | None = None
        self._renamed: dict[
            str, str
        ] = {}  # subjects of boots that are put under other names, and what is added
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
            self._nats.run(self._streams.listen())
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
            new |= self._nats.run(self._put(rest))
            self._streams.room -= size_bytes
        return sum(new[subject] for subject in wanted)

    def begin(self, batch: Sequence[QueuedFrame]) -> Callable[[], bool] | None:
        messages = [(self._subject(frame), _pack(frame)) for frame in batch]
        size_bytes = _size_bytes(messages)
        if not messages or size_bytes > self._streams.room or not self._nats.is_connected:
            return None
        work = self._nats.begin(self._put(messages))
        self._streams.room -= size_bytes
        self._begun = _Begun(frozenset(subject for subject, _ in messages), work)
        return work.done

    def forget_names(self, edge_id: str, boot_id: str) -> None:
        if len(self._renamed) >= _MAX_RENAMED:
            self._renamed.clear()
        self._renamed[f"{self._streams.frames}.frame.{edge_id}.{boot_id}"] = secrets.token_hex(4)

    def lease(self, n: int, *, ttl_seconds: float, worker: str, now: float) -> list[Leased]:
        leased = self._nats.run(self._lease(n, ttl_seconds, worker, now))
        self._affinity.leased(worker, hosts_in_groups(leased), drained=len(leased) < n, now=now)
        self._trim_dead()
        return leased

    def extend(self, ids: Sequence[int], *, ttl_seconds: float, worker: str, now: float) -> None:
        self._nats.run(self._extend(ids, ttl_seconds, worker))

    def ack(self, ids: Sequence[int], *, worker: str) -> None:
        if not self._nats.run(self._ack(ids, worker)):
            raise LeaseLost(_LOST)

    def nack(
        self, id_: int, *, delay_seconds: float, worker: str, why: str, now: float, hopeless: str = ""
    ) -> None:
        lease, message = self._nats.run(self._given_back(id_, worker))
        if lease.attempts >= self._limits.max_attempts and hopeless:
            frame = _unpack(message.data or b"")
            if frame is not None:
                name, size = (frame.edge_id, frame.info.boot_id, frame.info.seq), len(frame.payload)
                # The ledger first: what it does not hear of stays.
                self._removed([Dead(id_, lease.attempts, *name, why, size, now)], hopeless)
            self._nats.run(self._drop(lease))
            return
        self._nats.run(self._nack(lease, message, delay_seconds, why, now))
        self._trim_dead()

    def dead(self, n: int) -> list[Dead]:
        return self._nats.run(self._newest_dead(n))

    def dead_frame(self, id_: int) -> tuple[Dead, QueuedFrame] | None:
        message = self._nats.run(self._get(self._streams.dead, id_))
        frame = None if message is None else _unpack(message.data or b"")
        return None if message is None or frame is None else (_dead(message), frame)

    def requeue(self, ids: Sequence[int], *, now: float) -> int:
        self._nats.run(self._streams.look())
        return sum(self._nats.run(self._requeue(id_)) for id_ in ids)

    def purge(self, ids: Sequence[int]) -> int:
        found = [message for id_ in ids if (message := self._nats.run(self._get(self._streams.dead, id_)))]
        self._remove_dead(found, PURGED)
        return len(found)

    def _trim_dead(self) -> None:
        """Remove the oldest dead beyond the limits."""
        if not self._died:
            return
        self._died = False
        state = self._nats.run(self._streams.state(self._streams.dead))
        count, size, seq = state.messages, state.bytes, state.first_seq
        over: list[api.RawStreamMsg] = []
        while count > self._limits.max_dead or size > self._limits.max_dead_bytes:
            message = self._nats.run(self._get(self._streams.dead, seq))
            seq += 1
            if message is not None:
                over.append(message)
                count, size = count - 1, size - len(message.data or b"") - _HEAD_BYTES
            if seq > state.last_seq:
                break
        self._remove_dead(over, OVER_LIMIT)

    def _remove_dead(self, messages: Sequence[api.RawStreamMsg], why: str) -> None:
        # The ledger first: what it does not hear of stays.
        if messages:
            self._removed([_dead(message) for message in messages], why)
            for message in messages:
                self._nats.run(self._nats.api.delete_msg(self._streams.dead, int(message.seq or 0)))

    @property
    def depth(self) -> int:
        return int(self._nats.run(self._streams.state(self._streams.frames)).messages)

    @property
    def dead_count(self) -> int:
        return int(self._nats.run(self._streams.state(self._streams.dead)).messages)

    @property
    def dead_bytes(self) -> int:
        return int(self._nats.run(self._streams.state(self._streams.dead)).bytes)

    @property
    def depth_bytes(self) -> int:
        self._nats.run(self._streams.look())
        return self._limits.max_bytes - self._streams.room

    @property
    def room_bytes(self) -> int:
        return max(0, self._streams.room)

    @property
    def least_room_bytes(self) -> int:
        return least_room(self._limits, self._limits.max_bytes - self._streams.room)

    def room_of(self, edge_id: str) -> int:
        return self._streams.room_of(edge_id)

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
        sizes: dict[str, list[int]] = {}
        for subject, payload in messages:
            sizes.setdefault(self._streams.edge_of(subject), []).append(len(payload) + _HEAD_BYTES)
        await self._streams.welcome(sizes)
        # All at once and in order: the server answers each when it has written it.
        answers = await self._nats.ask(
            [Request(subject, payload, {"Nats-Msg-Id": self._name(subject)}) for subject, payload in messages]
        )
        await self._streams.tell(sizes)
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

    def _name(self, subject: str) -> str:
        """By which the server knows a frame for a while after it was worked off."""
        added = self._renamed.get(subject.rpartition(".")[0])
        return subject if added is None else f"{subject}/{added}"

    async def _lease(self, n: int, ttl_seconds: float, worker: str, now: float) -> list[Leased]:
        alone = self._next_alone()
        if alone is not None:
            return await self._hold([alone], ttl_seconds, worker)
        taken: list[_Item] = []
        room, pulls = _LEASE_BYTES, 0
        reserved = self._affinity.reserved(worker, now)
        while len(taken) < n and pulls < _MAX_PULLS and room > 0:
            line = [edge_id for edge_id in self._streams.line() if edge_id not in reserved]
            line = line[: min(_PULLS_AT_ONCE, n - len(taken))]
            if not line:
                break
            pulls += len(line)
            many = -(-(n - len(taken)) // len(line))
            for items in await asyncio.gather(*(self._pull(edge_id, many, now) for edge_id in line)):
                for item in items:
                    if item.is_suspect:
                        self._alone.append((item, time.monotonic()))
                    else:
                        taken.append(item)
                        room -= len(item.frame.payload)
        if not taken and (alone := self._next_alone()) is not None:
            taken.append(alone)
        return await self._hold(taken, ttl_seconds, worker)

    def _next_alone(self) -> _Item | None:
        """A suspect that the server has not yet taken back."""
        while self._alone:
            item, since = self._alone.popleft()
            if time.monotonic() - since < self._config.timeout_seconds:
                return item
        return None

    async def _pull(self, edge_id: str, n: int, now: float) -> list[_Item]:
        """Up to ``n`` items of one camera host; those that had their chances, or are no frames, are given up."""
        consumer = self._streams.consumer(edge_id)
        try:
            pulled = await self._nats.pull(f"$JS.API.CONSUMER.MSG.NEXT.{self._streams.frames}.{consumer}", n)
        except StoreUnavailable:
            self._streams.pause(edge_id, _QUIET_SECONDS)  # its consumer was removed; it is made again
            return []
        if pulled.messages:
            self._streams.served(edge_id)
        if pulled.end is End.SILENCE:
            # To ask again at once would only cost the gateway its time.
            self._streams.pause(edge_id, _QUIET_SECONDS)
        elif pulled.end is End.EMPTY:
            self._streams.pause(edge_id)
        items: list[_Item] = []
        for message in pulled.messages:
            frame, lease, is_suspect = _unpack(message.data), *await self._judge(message)
            if frame is None:
                await self._bury(lease, message.subject, message.data, "it is not a frame", now)
            elif lease.attempts > self._limits.max_attempts:
                await self._bury(lease, message.subject, message.data, _RAN_OUT, now)
            else:
                items.append(_Item(lease, frame, is_suspect))
        return items

    async def _judge(self, message: Msg) -> tuple[_Lease, bool]:
        """Which attempt a delivery is, and whether the last lease of its message ran out."""
        numbers = message.metadata
        id_, delivered = numbers.sequence.stream, numbers.num_delivered
        if delivered == 1:
            return _Lease(id_, 1, message.reply), False
        noted = await self._noted(id_)
        if noted is None:
            # The server was started anew, or a gateway died with it. Whatever it was, it has one more chance.
            return _Lease(id_, min(delivered, self._limits.max_attempts), message.reply), True
        if not noted.worker:
            return _Lease(id_, noted.attempts + 1, message.reply), False
        return _Lease(id_, noted.attempts + (noted.company == 1), message.reply), True

    async def _hold(self, items: Sequence[_Item], ttl_seconds: float, worker: str) -> list[Leased]:
        """Make leases of items."""
        leases = [replace(item.lease, worker=worker, company=len(items)) for item in items]
        await self._note(leases, ttl_seconds)
        return [Leased(item.lease.id, item.lease.attempts, item.frame) for item in items]

    async def _note(self, leases: Sequence[_Lease], seconds: float) -> None:
        """Write down who holds messages, and let them come again after so long."""
        until = time.monotonic() + seconds
        notes = [Request(f"{self._streams.leases}.{lease.id}", lease.to_bytes()) for lease in leases]
        delays = [Request(lease.reply, _put_off(seconds)) for lease in leases]
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
        if len(self._holders) > _MAX_HOLDERS:
            now = time.monotonic()
            self._holders = {id_: held for id_, held in self._holders.items() if held[1] > now}
        self._holders.update((lease.id, (lease, until)) for lease in leases)

    async def _extend(self, ids: Sequence[int], ttl_seconds: float, worker: str) -> None:
        held = await asyncio.gather(*(self._held(id_, worker) for id_ in ids))
        await self._note(held, ttl_seconds)

    async def _ack(self, ids: Sequence[int], worker: str) -> bool:
        """Acknowledge a worker's messages; whether none of them was another's."""
        # The note stays until newer ones push it out: to remove it costs more than all the rest.
        found = await asyncio.gather(*(self._owned(id_, worker) for id_ in ids))
        own = [lease for lease in found if isinstance(lease, _Lease)]
        for answer in await self._nats.ask([Request(lease.reply, b"+ACK") for lease in own]):
            answered(answer)
        for lease in own:
            self._holders.pop(lease.id, None)
        return all(lease is not None for lease in found)

    async def _owned(self, id_: int, worker: str) -> _Lease | bool | None:
        """A worker's lease, also one that ran out; False for a message that is gone, None for another's."""
        lease, until = self._holders.get(id_, (None, 0.0))
        if lease is None or until <= time.monotonic():
            lease = await self._noted(id_)  # another gateway may have leased it since
        if lease is not None and lease.worker == worker:
            return lease
        return None if await self._get(self._streams.frames, id_) is not None else False

    async def _given_back(self, id_: int, worker: str) -> tuple[_Lease, api.RawStreamMsg]:
        """A worker's lease that ends now, and its message. Raises LeaseLost."""
        lease = await self._held(id_, worker)
        message = await self._get(self._streams.frames, id_)
        if message is None:
            raise LeaseLost(_LOST)
        self._holders.pop(id_, None)
        return lease, message

    async def _nack(
        self, lease: _Lease, message: api.RawStreamMsg, delay_seconds: float, why: str, now: float
    ) -> None:
        subject = str(message.subject)
        if lease.attempts >= self._limits.max_attempts:
            await self._bury(lease, subject, message.data or b"", why, now)
            return
        await self._note([replace(lease, worker="", company=1)], delay_seconds)
        self._holders.pop(lease.id, None)
        self._streams.wake([self._streams.edge_of(subject)])

    async def _drop(self, lease: _Lease) -> None:
        await self._nats.request(lease.reply, b"+ACK")
        await self._forget(lease.id)

    async def _bury(self, lease: _Lease, subject: str, data: bytes, why: str, now: float) -> None:
        head = {
            "Nats-Msg-Id": f"{subject}/{lease.id}",
            _WHY: json.dumps(why[:500]),  # a header is one line of ASCII
            _ATTEMPTS: str(min(lease.attempts, self._limits.max_attempts)),
            _DIED: str(now),
        }
        tail = subject.removeprefix(f"{self._streams.frames}.frame.")
        await self._nats.publish(f"{self._streams.dead}.{tail}", data, head)
        await self._nats.request(lease.reply, b"+ACK")
        await self._forget(lease.id)
        self._died = True

    async def _requeue(self, id_: int) -> bool:
        """Let a dead frame be leased again; whether there was one."""
        message = await self._get(self._streams.dead, id_)
        if message is None:
            return False
        data = message.data or b""
        subject = (
            f"{self._streams.frames}.frame.{str(message.subject).removeprefix(f'{self._streams.dead}.')}"
        )
        if len(data) + _HEAD_BYTES > self._streams.room:
            raise QueueFull(f"the queue has room for {self._streams.room} of {self._limits.max_bytes} bytes")
        size_bytes = len(data) + _HEAD_BYTES
        await self._streams.welcome({self._streams.edge_of(subject): [size_bytes]})
        await self._nats.publish(subject, data, {"Nats-Msg-Id": f"{subject}/requeued/{id_}"})
        self._streams.room -= size_bytes
        await self._nats.api.delete_msg(self._streams.dead, id_)
        return True

    async def _noted(self, id_: int) -> _Lease | None:
        message = await self._get(self._streams.leases, subject=f"{self._streams.leases}.{id_}")
        return None if message is None else _Lease.parse(id_, message.data or b"")

    async def _held(self, id_: int, worker: str) -> _Lease:
        # A note outlives what was acknowledged.
        noted, message = await asyncio.gather(self._noted(id_), self._get(self._streams.frames, id_))
        if noted is None or noted.worker != worker or message is None:
            raise LeaseLost(_LOST)
        return noted

    async def _get(
        self, stream: str, seq: int | None = None, subject: str | None = None
    ) -> api.RawStreamMsg | None:
        """A message by its number or, the newest, by its subject; None where it is gone."""
        try:
            return await self._nats.api.get_msg(stream, seq, subject)
        except NatsError as error:
            if is_missing(error):
                return None
            raise

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
            message = await self._get(self._streams.dead, seq)
            if message is not None:  # nobody removed it
                found.append(_dead(message))
        return found

    async def _oldest(self) -> float | None:
        """When the oldest frame came in, in Unix seconds."""
        state = await self._streams.state(self._streams.frames)
        if not state.messages:
            return None
        message = await self._get(self._streams.frames, state.first_seq)
        if message is None:
            return None  # worked off meanwhile
        frame = _unpack(message.data or b"")
        return None if frame is None else frame.received_ns / 1e9

    def _subject(self, frame: QueuedFrame) -> str:
        return f"{self._streams.frames}.frame.{frame.edge_id}.{frame.info.boot_id}.{frame.info.seq}"


def _connect(address: NatsAddress, config: JetStreamConfig) -> JetStream:
    return JetStream(address, seconds=config.timeout_seconds, nkey=config.nkey_file, ca=config.ca_file)


def _put_off(seconds: float) -> bytes:
    """The answer to a delivery that lets the message come again after ``seconds``, unless it is acknowledged before."""
    return b"-NAK" + (b' {"delay": %d}' % int(seconds * 1e9) if seconds > 0 else b"")


def _size_bytes(messages: Sequence[tuple[str, bytes]]) -> int:
    """What messages take in a stream, about."""
    return sum(len(payload) + _HEAD_BYTES for _, payload in messages)


def _pack(frame: QueuedFrame) -> bytes:
    packed: bytes = msgpack.packb([_VERSION, *frame.values()])
    return packed


def _unpack(data: bytes) -> QueuedFrame | None:
    """The frame in a message; None for anything else."""
    try:
        version, *values = msgpack.unpackb(data)
        return QueuedFrame.of_values(values) if version == _VERSION else None
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError):
        return None


def _dead(message: api.RawStreamMsg) -> Dead:
    frame, head = _unpack(message.data or b""), message.headers or {}
    return Dead(
        id=int(message.seq or 0),
        attempts=int(head.get(_ATTEMPTS, 0)),
        edge_id="" if frame is None else frame.edge_id,
        boot_id="" if frame is None else frame.info.boot_id,
        seq=-1 if frame is None else frame.info.seq,
        why=json.loads(head.get(_WHY, '""')),
        size_bytes=0 if frame is None else len(frame.payload),
        died_at=float(head.get(_DIED, 0.0)),
    )

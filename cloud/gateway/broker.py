"""What workers may ask of the gateway: leases of frames, enhancement layers, figures. Bytes in, bytes out.

A request is MessagePack ``[request_id, op, {argument: value}]``; the answer is ``[request_id, true, result]`` or
``[request_id, false, error class, text]``. It runs in the gateway's thread, which owns the database. A request that
makes no sense is answered with ``PacketMalformed`` and changes nothing; so is one that meets a fault of our own, with
``RequestRefused``. A worker's leases belong to the key that its connection showed, under the name that it gives itself:
no other key can acknowledge, extend or give them back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import msgpack

from secondlook.cloud.config import LONGEST_LEASE_SECONDS
from secondlook.cloud.storage.blobs import Blobs
from secondlook.cloud.storage.ledger import Ledger
from secondlook.cloud.storage.queue import FrameQueue
from secondlook.cloud.storage.requests import AHEAD, RequestState, RequestTable
from secondlook.shared.errors import PacketMalformed, RequestRefused, SecondlookError, StorageError
from secondlook.shared.packetfields import BOOT_ID, EDGE_ID, MAX_SEQ

MAX_LEASED = 64
MAX_ROWS = 500
MAX_REQUEST_BYTES = 64 << 10
_MAX_ARGUMENTS = 16
_COMPLAINT_SECONDS = 1.0
_LONGEST_DEADLINE_SECONDS = 7 * 86_400.0

T = TypeVar("T")

log = logging.getLogger(__name__)


class _Arguments:
    """The arguments of one call, taken out one by one with their types and limits."""

    def __init__(self, given: Mapping[str, object], caller: str) -> None:
        self._given = dict(given)
        self._caller = caller

    def whole(self, name: str, low: int, high: int) -> int:
        value = self._take(name, int)
        if not low <= value <= high:
            raise PacketMalformed(f"{name} is {value}, outside {low}..{high}")
        return value

    def seconds(self, name: str, most: float) -> float:
        value = self._given.pop(name, None)
        if type(value) not in (int, float) or not 0 <= float(str(value)) <= most:
            raise PacketMalformed(f"{name} must be seconds, 0 to {most:g}")
        return float(str(value))

    def text(self, name: str, most: int) -> str:
        value = self._take(name, str)
        if len(value) > most:
            raise PacketMalformed(f"{name} has more than {most} characters")
        if "\0" in value:
            raise PacketMalformed(f"{name} holds a NUL character")
        return value

    def worker(self) -> str:
        """Who calls: the name that goes with the key of the connection, and the one that the worker gives itself."""
        name = self.text("worker", 128)
        return f"{self._caller}/{name}" if self._caller else name

    def ids(self, name: str) -> list[int]:
        value = self._take(name, list)
        if len(value) > MAX_ROWS or any(type(item) is not int or not 0 < item <= MAX_SEQ for item in value):
            raise PacketMalformed(f"{name} must be a list of at most {MAX_ROWS} numbers")
        return value

    def frame(self) -> tuple[str, str, int]:
        edge_id, boot_id = self.text("edge_id", 64), self.text("boot_id", 32)
        if EDGE_ID.fullmatch(edge_id) is None or BOOT_ID.fullmatch(boot_id) is None:
            raise PacketMalformed("edge_id or boot_id is not one")
        return edge_id, boot_id, self.whole("seq", 0, MAX_SEQ)

    def end(self) -> None:
        if self._given:
            raise PacketMalformed("an argument is not known to this operation")

    def _take(self, name: str, kind: type[T]) -> T:
        value = self._given.pop(name, None)
        if type(value) is not kind:
            raise PacketMalformed(f"{name} must be of type {kind.__name__}")
        return value


@dataclass(frozen=True)
class Broker:
    """``connected`` tells which edges are connected, and on which channels; ``clock_offsets`` how far their clocks
    are behind, in seconds."""

    queue: FrameQueue
    ledger: Ledger
    requests: RequestTable
    blobs: Blobs
    connected: Callable[[], Mapping[str, Sequence[str]]]
    clock_offsets: Callable[[], Mapping[str, float]] = dict
    _complained_at: list[float] = field(default_factory=lambda: [0.0])

    def answer(self, message: bytes, *, now: float, caller: str = "") -> bytes:
        """The answer to one request; it raises nothing.

        ``caller`` is the registered name of the key that the connection showed, empty on a plain one.
        """
        request_id: object = None
        try:
            request_id, op, arguments = _open(message, caller)
            return _pack([request_id, True, _OPERATIONS[op](self, arguments, now)])
        except SecondlookError as error:
            return _pack([request_id, False, type(error).__name__, str(error)])
        except Exception as error:  # noqa: BLE001
            # A fault of ours in one call must not end the gateway, which serves everybody else.
            self._complain(error, now)
            return _pack([request_id, False, "RequestRefused", f"internal error: {type(error).__name__}"])

    def _complain(self, error: Exception, now: float) -> None:
        """A line with the traceback, once a second at most."""
        if not 0 <= now - self._complained_at[0] < _COMPLAINT_SECONDS:
            self._complained_at[0] = now
            log.error("a worker's request failed", exc_info=error)

    def on_rollback(self, message: bytes, error: StorageError) -> bytes:
        """The answer to a request whose work was rolled back with that of others."""
        try:
            request_id, *_ = _open(message, "")
        except PacketMalformed as malformed:
            return _pack([None, False, "PacketMalformed", str(malformed)])
        return _pack([request_id, False, type(error).__name__, str(error)])

    def lease(self, arguments: _Arguments, now: float) -> list[dict[str, Any]]:
        n = arguments.whole("n", 1, MAX_LEASED)
        ttl, worker = arguments.seconds("ttl_seconds", LONGEST_LEASE_SECONDS), arguments.worker()
        arguments.end()
        leased = self.queue.lease(n, ttl_seconds=ttl, worker=worker, now=now)
        return [{"id": item.id, "attempts": item.attempts, **vars(item.frame)} for item in leased]

    def ack(self, arguments: _Arguments, now: float) -> None:
        ids, worker = arguments.ids("ids"), arguments.worker()
        arguments.end()
        self.queue.ack(ids, worker=worker)

    def nack(self, arguments: _Arguments, now: float) -> None:
        id_ = arguments.whole("id", 1, MAX_SEQ)
        delay, worker = arguments.seconds("delay_seconds", LONGEST_LEASE_SECONDS), arguments.worker()
        why = arguments.text("why", 500)
        arguments.end()
        self.queue.nack(id_, delay_seconds=delay, worker=worker, why=why, now=now)

    def extend(self, arguments: _Arguments, now: float) -> None:
        ids, ttl = arguments.ids("ids"), arguments.seconds("ttl_seconds", LONGEST_LEASE_SECONDS)
        worker = arguments.worker()
        arguments.end()
        self.queue.extend(ids, ttl_seconds=ttl, worker=worker, now=now)

    def request_enhancement(self, arguments: _Arguments, now: float) -> int:
        edge_id, boot_id, seq = arguments.frame()
        deadline, priority = (
            arguments.seconds("deadline_seconds", _LONGEST_DEADLINE_SECONDS),
            arguments.whole("priority", AHEAD, 100),
        )
        arguments.end()
        known = self.requests.of_frame(edge_id, boot_id, seq)
        done = known is not None and known.blob is not None
        return self.requests.ask(
            edge_id,
            boot_id,
            seq,
            deadline=now + deadline,
            priority=priority,
            blob_gone=done and known is not None and not self.blobs.exists(str(known.blob)),
            now=now,
        )

    def enhancement_state(self, arguments: _Arguments, now: float) -> dict[str, Any]:
        id_ = arguments.whole("request_id", 1, MAX_SEQ)
        arguments.end()
        request = self.requests.get(id_)
        if request is None:
            raise RequestRefused(f"there is no enhancement request {id_}")
        blob = request.blob if request.state is RequestState.DONE else None
        return {"state": request.state.value, "reason": request.reason, "blob": blob}

    def tombstones(self, arguments: _Arguments, now: float) -> list[dict[str, Any]]:
        after = arguments.whole("after", 0, MAX_SEQ)
        arguments.end()
        return [
            {"id": id_, **asdict(tombstone)}
            for id_, tombstone in self.ledger.tombstones_after(after, MAX_ROWS)
        ]

    def edges_connected(self, arguments: _Arguments, now: float) -> list[str]:
        """Camera hosts that take requests from this gateway."""
        arguments.end()
        return [edge_id for edge_id, channels in self.connected().items() if "control" in channels]

    def dead_list(self, arguments: _Arguments, now: float) -> list[dict[str, Any]]:
        n = arguments.whole("n", 1, MAX_ROWS)
        arguments.end()
        return [asdict(item) for item in self.queue.dead(n)]

    def dead_show(self, arguments: _Arguments, now: float) -> dict[str, Any]:
        """All that is known of a dead item but its payload."""
        id_ = arguments.whole("id", 1, MAX_SEQ)
        arguments.end()
        found = self.queue.dead_frame(id_)
        if found is None:
            raise RequestRefused(f"there is no dead item {id_}")
        dead, frame = found
        return {**asdict(dead), **{name: value for name, value in vars(frame).items() if name != "payload"}}

    def dead_requeue(self, arguments: _Arguments, now: float) -> int:
        ids = arguments.ids("ids")
        arguments.end()
        return self.queue.requeue(ids, now=now)

    def dead_purge(self, arguments: _Arguments, now: float) -> int:
        ids = arguments.ids("ids")
        arguments.end()
        return self.queue.purge(ids)

    def clocks(self, arguments: _Arguments, now: float) -> dict[str, float]:
        """Seconds by which our clock is ahead of each camera host's, as measured last."""
        arguments.end()
        return {
            edge.edge_id: edge.clock_offset_seconds
            for edge in self.ledger.edges()
            if edge.clock_offset_seconds is not None
        }

    def stats(self, arguments: _Arguments, now: float) -> dict[str, Any]:
        arguments.end()
        connected, offsets = self.connected(), self.clock_offsets()
        return {
            "depth": self.queue.depth,
            "depth_bytes": self.queue.depth_bytes,
            "oldest_age_seconds": self.queue.oldest_age(now),
            "dead": self.queue.dead_count,
            "dead_bytes": self.queue.dead_bytes,
            "dead_frames": [asdict(item) for item in self.queue.dead(20)],
            **self.ledger.totals(),
            "edges": [
                {
                    **asdict(edge),
                    "channels": list(connected.get(edge.edge_id, ())),
                    "clock_offset_seconds": offsets.get(edge.edge_id, edge.clock_offset_seconds),
                }
                for edge in self.ledger.edges()
            ],
        }


_OPERATIONS: dict[str, Callable[[Broker, _Arguments, float], object]] = {
    "lease": Broker.lease,
    "ack": Broker.ack,
    "nack": Broker.nack,
    "extend": Broker.extend,
    "request_enhancement": Broker.request_enhancement,
    "enhancement_state": Broker.enhancement_state,
    "tombstones": Broker.tombstones,
    "edges_connected": Broker.edges_connected,
    "dead_list": Broker.dead_list,
    "dead_show": Broker.dead_show,
    "dead_requeue": Broker.dead_requeue,
    "dead_purge": Broker.dead_purge,
    "clocks": Broker.clocks,
    "stats": Broker.stats,
}


def _open(message: bytes, caller: str) -> tuple[int, str, _Arguments]:
    if len(message) > MAX_REQUEST_BYTES:
        raise PacketMalformed(f"request exceeds {MAX_REQUEST_BYTES} bytes")
    # Member by member, and no list but one: what is built never costs more than what came.
    unpacker = msgpack.Unpacker(
        None,
        max_buffer_size=MAX_REQUEST_BYTES,
        max_array_len=0,
        max_map_len=0,
        max_ext_len=0,
        max_bin_len=0,
    )
    unpacker.feed(message)
    try:
        if unpacker.read_array_header() != 3:
            raise PacketMalformed("request must be [request_id, op, arguments]")
        request_id, op, many = unpacker.unpack(), unpacker.unpack(), unpacker.read_map_header()
        if type(request_id) is not int or not isinstance(op, str):
            raise PacketMalformed("request must be [integer, text, map]")
        if many > _MAX_ARGUMENTS:
            raise PacketMalformed(f"request has more than {_MAX_ARGUMENTS} arguments")
        arguments: dict[str, object] = {}
        for _ in range(many):
            name = unpacker.unpack()
            if not isinstance(name, str):
                raise PacketMalformed("names of arguments must be text")
            arguments[name] = _numbers(unpacker) if name == "ids" else unpacker.unpack()
        if unpacker.tell() != len(message):
            raise PacketMalformed("request has bytes beyond its end")
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise PacketMalformed(f"request is not MessagePack: {type(error).__name__}") from error
    if op not in _OPERATIONS:
        raise PacketMalformed("operation is not known")
    return request_id, op, _Arguments(arguments, caller)


def _numbers(unpacker: Any) -> list[object]:
    many = unpacker.read_array_header()
    if many > MAX_ROWS:
        raise PacketMalformed(f"ids must be a list of at most {MAX_ROWS} numbers")
    return [unpacker.unpack() for _ in range(many)]


def _pack(answer: list[object]) -> bytes:
    packed: bytes = msgpack.packb(answer)
    return packed

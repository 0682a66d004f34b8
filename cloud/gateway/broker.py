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
from typing import Annotated, Any, TypeAlias

import msgpack
import msgspec
from msgspec import Meta, Struct

from secondlook.cloud.config import LONGEST_LEASE_SECONDS
from secondlook.cloud.gateway.presence import Presence, Present
from secondlook.cloud.gateway.tally import Tally
from secondlook.cloud.gateway.waiting import Parked
from secondlook.cloud.storage.blobs import Blobs
from secondlook.cloud.storage.ledger import Ledger
from secondlook.cloud.storage.queue import FRAME_FIELDS, FrameQueue
from secondlook.cloud.storage.requests import AHEAD, RequestState, RequestTable
from secondlook.shared.crop import Crop
from secondlook.shared.errors import (
    PacketMalformed,
    RequestRefused,
    SecondlookError,
    StorageError,
    Unforeseen,
)
from secondlook.shared.faults import unforeseen_named
from secondlook.shared.packet import BOOT_ID, CODE, EDGE_ID, MAX_SEQ

MAX_LEASED = 64
MAX_ROWS = 500
MAX_REQUEST_BYTES = 64 << 10
_MAX_ARGUMENTS = 16
_MAX_ASKED = 10_000
_COMPLAINT_SECONDS = 1.0
_LONGEST_DEADLINE_SECONDS = 7 * 86_400.0
_NANOSECONDS = 1_000_000_000
_CROP = r"\A[0-9]{1,5}(,[0-9]{1,5}){3}\Z"
_NO_NUL = r"\A[^\0]*\Z"

log = logging.getLogger(__name__)

_Id: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_SEQ)]
_Ids: TypeAlias = Annotated[list[_Id], Meta(max_length=MAX_ROWS)]
_Rows: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_ROWS)]
_LeaseSeconds: TypeAlias = Annotated[float, Meta(ge=0, le=LONGEST_LEASE_SECONDS)]
_Worker: TypeAlias = Annotated[str, Meta(max_length=128, pattern=_NO_NUL)]


class _Call(Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of one operation, with their types and limits."""


class _Lease(_Call, frozen=True):
    n: Annotated[int, Meta(ge=1, le=MAX_LEASED)]
    ttl_seconds: _LeaseSeconds
    worker: _Worker


class _Wait(_Call, frozen=True):
    seconds: Annotated[float, Meta(ge=0, le=60)]


class _Acknowledged(_Call, frozen=True):
    ids: _Ids
    worker: _Worker


class _GivenBack(_Call, frozen=True):
    id: _Id
    delay_seconds: _LeaseSeconds
    worker: _Worker
    why: Annotated[str, Meta(max_length=500, pattern=_NO_NUL)]
    hopeless: Annotated[str, Meta(pattern=rf"\A(?:{CODE.pattern})?\Z")] = ""


class _Extended(_Call, frozen=True):
    ids: _Ids
    ttl_seconds: _LeaseSeconds
    worker: _Worker


class _Frame(_Call, frozen=True):
    edge_id: Annotated[str, Meta(pattern=rf"\A{EDGE_ID.pattern}\Z")]
    boot_id: Annotated[str, Meta(pattern=rf"\A{BOOT_ID.pattern}\Z")]
    seq: Annotated[int, Meta(ge=0, le=MAX_SEQ)]


class _AskedFor(_Frame, frozen=True):
    deadline_seconds: Annotated[float, Meta(ge=0, le=_LONGEST_DEADLINE_SECONDS)]
    priority: Annotated[int, Meta(ge=AHEAD, le=100)]
    # As `shared.crop` writes it; None: all of the frame
    crop: Annotated[str, Meta(pattern=_CROP)] | None = None


class _OfRequest(_Call, frozen=True):
    request_id: _Id


class _After(_Call, frozen=True):
    after: Annotated[int, Meta(ge=0, le=MAX_SEQ)]


class _Newest(_Call, frozen=True):
    n: _Rows


class _OfItem(_Call, frozen=True):
    id: _Id


class _OfItems(_Call, frozen=True):
    ids: _Ids


class _Present(_Call, frozen=True):
    """What a worker or refiner tells of itself every few seconds."""

    worker: _Worker
    role: Annotated[str, Meta(pattern=r"\A(?:worker|refiner)\Z")]
    host: Annotated[str, Meta(max_length=64, pattern=_NO_NUL)]
    age_seconds: Annotated[float, Meta(ge=0, le=1e9)]
    waits: Annotated[str, Meta(max_length=500, pattern=_NO_NUL)]
    done: Annotated[int, Meta(ge=0, le=MAX_SEQ)]
    device: Annotated[str, Meta(max_length=32, pattern=_NO_NUL)]
    leaves: bool = False
    shed: Annotated[int, Meta(ge=0, le=MAX_SEQ)] = 0


@dataclass(frozen=True)
class _Later:
    """The result of an operation is known in so many seconds, or sooner."""

    seconds: float


@dataclass(frozen=True)
class Broker:
    """``connected`` tells which edges are connected, and on which channels; ``clock_offsets`` how far their clocks
    are behind, in seconds. ``greet_again`` lets a camera host say hello anew, so that it compares what is held here."""

    queue: FrameQueue
    ledger: Ledger
    requests: RequestTable
    blobs: Blobs
    connected: Callable[[], Mapping[str, Sequence[str]]]
    clock_offsets: Callable[[], Mapping[str, float]] = dict
    greet_again: Callable[[str], None] = lambda edge_id: None
    presence: Presence = field(default_factory=Presence)
    conditions: Callable[[float], list[dict[str, Any]]] = lambda now: []
    longest_wait_seconds: float = 0.0  # of a worker for frames; 0: it hears at once that there are none
    tally: Tally = field(default_factory=Tally)  # the intake's
    _asked: set[tuple[str, str, int]] = field(default_factory=set)  # for frames once more
    _complained_at: list[float] = field(default_factory=lambda: [0.0])

    def answer(self, message: bytes, *, now: float, caller: str = "") -> bytes | Parked:
        """The answer to one request, or that it comes later; it raises nothing.

        ``caller`` is the registered name of the key that the connection showed, empty on a plain one.
        """
        request_id: object = None
        try:
            with unforeseen_named(SecondlookError):
                request_id, op, call = _open(message)
                result = _OPERATIONS[op][1](self, call, caller, now)
                if isinstance(result, _Later):
                    return Parked(request_id, now + result.seconds)
                return _pack([request_id, True, result])
        except Unforeseen as error:
            # A fault of ours in one call must not end the gateway, which serves everybody else.
            self._complain(error, now)
            return _pack(
                [request_id, False, "RequestRefused", f"internal error: {type(error.__cause__).__name__}"]
            )
        except SecondlookError as error:
            return _pack([request_id, False, type(error).__name__, str(error)])

    def _complain(self, error: Unforeseen, now: float) -> None:
        """A line with the traceback, once a second at most."""
        if not 0 <= now - self._complained_at[0] < _COMPLAINT_SECONDS:
            self._complained_at[0] = now
            log.error("a worker's request failed", exc_info=error)

    def on_rollback(self, message: bytes, error: StorageError) -> bytes:
        """The answer to a request whose work was rolled back with that of others."""
        self._asked.clear()
        try:
            request_id, *_ = _open(message)
        except PacketMalformed as malformed:
            return _pack([None, False, "PacketMalformed", str(malformed)])
        return _pack([request_id, False, type(error).__name__, str(error)])

    def lease(self, call: _Lease, caller: str, now: float) -> list[dict[str, Any]]:
        worker = _name(caller, call.worker)
        leased = self.queue.lease(call.n, ttl_seconds=call.ttl_seconds, worker=worker, now=now)
        return [
            {
                "id": item.id,
                "attempts": item.attempts,
                "frame": item.frame.values(),
                # By the clock that says when it came: a worker's own may be another.
                "age_seconds": max(0.0, now - item.frame.received_ns / _NANOSECONDS),
            }
            for item in leased
        ]

    def wait(self, call: _Wait, caller: str, now: float) -> bool | _Later:
        """A worker found nothing to lease: whether frames have come, at once or when they do.

        While others hold some there is nothing to wait for: these may come back at any moment.
        """
        if self.queue.depth or self.longest_wait_seconds == 0:
            return self.queue.depth > 0
        return _Later(min(call.seconds, self.longest_wait_seconds))

    def ack(self, call: _Acknowledged, caller: str, now: float) -> None:
        self.queue.ack(call.ids, worker=_name(caller, call.worker))

    def nack(self, call: _GivenBack, caller: str, now: float) -> None:
        self.queue.nack(
            call.id,
            delay_seconds=call.delay_seconds,
            worker=_name(caller, call.worker),
            why=call.why,
            now=now,
            hopeless=call.hopeless,
        )

    def extend(self, call: _Extended, caller: str, now: float) -> None:
        self.queue.extend(call.ids, ttl_seconds=call.ttl_seconds, worker=_name(caller, call.worker), now=now)

    def ask_again(self, call: _Frame, caller: str, now: float) -> bool:
        """A worker finds that a frame which was received is not stored: its camera host is to send it again.

        Returns whether it is asked for, which happens once: what is gone there too comes back as a tombstone.
        """
        name = (call.edge_id, call.boot_id, call.seq)
        if name in self._asked or call.seq not in self.ledger.received(call.edge_id, call.boot_id):
            return False
        if len(self._asked) >= _MAX_ASKED:
            self._asked.clear()
        self._asked.add(name)
        self.queue.forget_names(call.edge_id, call.boot_id)
        self.ledger.take_out(*name)
        self.greet_again(call.edge_id)
        return True

    def request_enhancement(self, call: _AskedFor, caller: str, now: float) -> int:
        try:
            crop = None if call.crop is None else Crop.parse(call.crop)
        except ValueError as error:
            raise RequestRefused(str(error)) from error
        known = self.requests.of_frame(call.edge_id, call.boot_id, call.seq, crop)
        done = known is not None and known.blob is not None
        return self.requests.ask(
            call.edge_id,
            call.boot_id,
            call.seq,
            deadline=now + call.deadline_seconds,
            priority=call.priority,
            blob_gone=done and known is not None and not self.blobs.exists(str(known.blob)),
            now=now,
            crop=crop,
        )

    def enhancement_state(self, call: _OfRequest, caller: str, now: float) -> dict[str, Any]:
        request = self.requests.get(call.request_id)
        if request is None:
            raise RequestRefused(f"there is no enhancement request {call.request_id}")
        blob = request.blob if request.state is RequestState.DONE else None
        return {"state": request.state.value, "reason": request.reason, "blob": blob}

    def tombstones(self, call: _After, caller: str, now: float) -> list[dict[str, Any]]:
        return [
            {"id": id_, **asdict(tombstone)}
            for id_, tombstone in self.ledger.tombstones_after(call.after, MAX_ROWS)
        ]

    def edges_connected(self, call: _Call, caller: str, now: float) -> list[str]:
        """Camera hosts that take requests from this gateway."""
        return [edge_id for edge_id, channels in self.connected().items() if "control" in channels]

    def dead_list(self, call: _Newest, caller: str, now: float) -> list[dict[str, Any]]:
        return [asdict(item) for item in self.queue.dead(call.n)]

    def dead_show(self, call: _OfItem, caller: str, now: float) -> dict[str, Any]:
        """All that is known of a dead item but its payload."""
        found = self.queue.dead_frame(call.id)
        if found is None:
            raise RequestRefused(f"there is no dead item {call.id}")
        dead, frame = found
        return {**asdict(dead), **dict(zip(FRAME_FIELDS[:-1], frame.values(), strict=False))}

    def dead_requeue(self, call: _OfItems, caller: str, now: float) -> int:
        return self.queue.requeue(call.ids, now=now)

    def dead_purge(self, call: _OfItems, caller: str, now: float) -> int:
        return self.queue.purge(call.ids)

    def clocks(self, call: _Call, caller: str, now: float) -> dict[str, float]:
        """Seconds by which our clock is ahead of each camera host's, as measured last."""
        return {
            edge.edge_id: edge.clock_offset_seconds
            for edge in self.ledger.edges()
            if edge.clock_offset_seconds is not None
        }

    def hosts(self, call: _Call, caller: str, now: float) -> dict[str, Any]:
        """How camera hosts do, as far as this gateway knows. Instants are Unix seconds by its clock."""
        heard, delivered, reported = self.tally.heard, self.tally.delivered, self.tally.reported
        rows = {}
        for edge in self.ledger.edges():
            told = reported.get(edge.edge_id)
            rows[edge.edge_id] = {
                "heard_at": heard.get(edge.edge_id, edge.last_seen_ns / _NANOSECONDS),
                "delivered_at": delivered.get(edge.edge_id),
                "report": None if told is None else asdict(told),
            }
        return {"now": now, "hosts": rows}

    def present(self, call: _Present, caller: str, now: float) -> None:
        """A worker or refiner is there, and does so well; or it leaves."""
        name = _name(caller, call.worker)
        if call.leaves:
            self.presence.leave(name)
            return
        told = Present(
            name,
            call.role,
            call.host,
            now,
            now,
            call.age_seconds,
            call.waits,
            call.done,
            call.device,
            call.shed,
        )
        self.presence.tell(told)

    def stats(self, call: _Call, caller: str, now: float) -> dict[str, Any]:
        connected, offsets = self.connected(), self.clock_offsets()
        heard, delivered, reported = self.tally.heard, self.tally.delivered, self.tally.reported
        return {
            "now": now,
            "workers": self.presence.as_rows(now),
            "conditions": self.conditions(now),
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
                    "heard_at": heard.get(edge.edge_id),
                    "delivered_at": delivered.get(edge.edge_id),
                    "report": asdict(reported[edge.edge_id]) if edge.edge_id in reported else None,
                }
                for edge in self.ledger.edges()
            ],
        }


def _name(caller: str, worker: str) -> str:
    """Whose a lease is: the name that goes with the key of the connection, and the one the worker gives itself."""
    return f"{caller}/{worker}" if caller else worker


# Each with the type of its arguments.
_OPERATIONS: dict[str, tuple[type[_Call], Callable[..., object]]] = {
    "lease": (_Lease, Broker.lease),
    "wait": (_Wait, Broker.wait),
    "ack": (_Acknowledged, Broker.ack),
    "nack": (_GivenBack, Broker.nack),
    "ask_again": (_Frame, Broker.ask_again),
    "extend": (_Extended, Broker.extend),
    "request_enhancement": (_AskedFor, Broker.request_enhancement),
    "enhancement_state": (_OfRequest, Broker.enhancement_state),
    "tombstones": (_After, Broker.tombstones),
    "edges_connected": (_Call, Broker.edges_connected),
    "dead_list": (_Newest, Broker.dead_list),
    "dead_show": (_OfItem, Broker.dead_show),
    "dead_requeue": (_OfItems, Broker.dead_requeue),
    "dead_purge": (_OfItems, Broker.dead_purge),
    "clocks": (_Call, Broker.clocks),
    "hosts": (_Call, Broker.hosts),
    "present": (_Present, Broker.present),
    "stats": (_Call, Broker.stats),
}


def _open(message: bytes) -> tuple[int, str, _Call]:
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
    try:
        return request_id, op, msgspec.convert(arguments, _OPERATIONS[op][0])
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        raise PacketMalformed(f"{op}: {where.rstrip('`') or 'arguments'}: {what}") from error


def _numbers(unpacker: Any) -> list[object]:
    many = unpacker.read_array_header()
    if many > MAX_ROWS:
        raise PacketMalformed(f"ids must be a list of at most {MAX_ROWS} numbers")
    return [unpacker.unpack() for _ in range(many)]


def waited(request_id: int, *, has_frames: bool) -> bytes:
    """The answer to a worker that has waited."""
    return _pack([request_id, True, has_frames])


def _pack(answer: list[object]) -> bytes:
    packed: bytes = msgpack.packb(answer)
    return packed

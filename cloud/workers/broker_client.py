"""A worker's line to the gateway's broker: one call at a time, with a time limit and reconnection.

A call that times out may still have been carried out. All operations bear repetition: a lease nobody heard of runs
out, an acknowledgement or a request given twice changes nothing.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeAlias

import msgpack
import zmq

from secondlook.cloud.catalogue.hosts import SeenHost, SeenHosts
from secondlook.cloud.config import BrokerConfig
from secondlook.cloud.storage.ledger import FrameTombstone
from secondlook.cloud.storage.queue import Dead, Leased, QueuedFrame
from secondlook.cloud.storage.requests import RequestState
from secondlook.shared import errors
from secondlook.shared.address import is_ipv6, is_loopback
from secondlook.shared.crop import Crop
from secondlook.shared.errors import (
    ConfigError,
    GatewayUnreachable,
    KeyRejected,
    LeaseLost,
    PacketMalformed,
    RequestRefused,
    SecondlookError,
    SecretExposed,
)
from secondlook.shared.keepalive import set_keepalive
from secondlook.shared.keyfiles import read_key_pair, read_public_keys

log = logging.getLogger(__name__)

_Socket: TypeAlias = "zmq.Socket[bytes]"


@dataclass(frozen=True)
class EnhancementState:
    """How far a request has come; ``blob`` is the key of the layer once it is done."""

    state: RequestState
    reason: str
    blob: str | None


class BrokerClient:
    """Use in one thread. Every call raises GatewayUnreachable, or the error that the gateway answered with."""

    def __init__(self, config: BrokerConfig, worker: str) -> None:
        """Raises ConfigError, KeyRejected, SecretExposed."""
        self._config = config
        self._worker = worker
        self._attempts = 0  # that got no answer: the gateway may have its next key by now
        self._keys = self._read_keys()
        self._context: zmq.Context[_Socket] = zmq.Context()
        self._socket: _Socket | None = None
        self._last_id = 0
        self._can_wait = True

    def _read_keys(self) -> tuple[bytes, bytes, bytes] | None:
        config = self._config
        if config.server_public_key_file is not None and config.secret_key_file is not None:
            servers = read_public_keys(config.server_public_key_file)
            return (servers[self._attempts % len(servers)], *read_key_pair(config.secret_key_file))
        if not is_loopback(config.address):
            raise ConfigError(f"broker.address {config.address} is on a network: keys are needed")
        return None

    def __enter__(self) -> BrokerClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.destroy(linger=0)

    def lease(self, n: int, ttl_seconds: float) -> list[Leased]:
        rows = self._call("lease", n=n, ttl_seconds=ttl_seconds, worker=self._worker)
        try:
            return [
                Leased(
                    row["id"], row["attempts"], QueuedFrame.of_values(row["frame"]), row.get("age_seconds")
                )
                for row in rows
            ]
        except (TypeError, ValueError, KeyError) as error:
            raise PacketMalformed("the gateway leased something that is no frame") from error

    def wait(self, seconds: float, wakes: Sequence[int] = ()) -> bool:
        """Wait for frames to lease, for so long at most; whether there may be some.

        False at once where the gateway does not know when they come. ``wakes``: descriptors that end the wait.
        """
        if not self._can_wait:
            return False
        try:
            most = min(seconds, self._config.timeout_seconds / 2)
            return bool(self._exchange("wait", {"seconds": most}, wakes))
        except PacketMalformed:  # a gateway of an earlier version, which does not know the question
            self._can_wait = False
            return False

    def ack(self, ids: Sequence[int]) -> None:
        """Say that leased items are done. One that another worker has by now stays its affair: it will find out."""
        try:
            self._call("ack", ids=list(ids), worker=self._worker)
        except LeaseLost as error:
            log.info("too late: %s", error)

    def nack(self, id_: int, *, delay_seconds: float, why: str, hopeless: str = "") -> None:
        """Give an item back; after its last attempt it goes under a tombstone of the reason ``hopeless``, if any."""
        more = {"hopeless": hopeless} if hopeless else {}
        self._call("nack", id=id_, delay_seconds=delay_seconds, worker=self._worker, why=why[:500], **more)

    def ask_again(self, edge_id: str, boot_id: str, seq: int) -> bool:
        """Have a received frame that is not stored sent once more; False where it is not, or was, asked for."""
        return bool(self._call("ask_again", edge_id=edge_id, boot_id=boot_id, seq=seq))

    def extend(self, ids: Sequence[int], ttl_seconds: float) -> None:
        self._call("extend", ids=list(ids), ttl_seconds=ttl_seconds, worker=self._worker)

    def request_enhancement(
        self,
        edge_id: str,
        boot_id: str,
        seq: int,
        *,
        deadline_seconds: float,
        priority: int,
        crop: Crop | None = None,
    ) -> int:
        """`crop`: what is wanted, None for the whole frame. That may come all the same: from a camera host or through
        a gateway of an earlier version, or where it was coded before."""
        wanted = {
            "edge_id": edge_id,
            "boot_id": boot_id,
            "seq": seq,
            "deadline_seconds": deadline_seconds,
            "priority": priority,
        }
        if crop is not None:
            with contextlib.suppress(PacketMalformed):  # a gateway of an earlier version knows no crops
                return int(self._call("request_enhancement", **wanted, crop=str(crop)))
        return int(self._call("request_enhancement", **wanted))

    def enhancement_state(self, request_id: int) -> EnhancementState:
        row = self._call("enhancement_state", request_id=request_id)
        return EnhancementState(RequestState(row["state"]), row["reason"], row["blob"])

    def tombstones(self, after: int) -> list[tuple[int, FrameTombstone]]:
        return [(row.pop("id"), FrameTombstone(**row)) for row in self._call("tombstones", after=after)]

    def clocks(self) -> dict[str, float]:
        """Seconds by which the gateway's clock is ahead of each camera host's, where that was measured."""
        return {str(edge_id): float(offset) for edge_id, offset in self._call("clocks").items()}

    def hosts(self) -> SeenHosts:
        """How camera hosts do, as far as the gateway knows."""
        told = self._call("hosts")
        try:
            return SeenHosts(
                float(told["now"]), {str(name): _host(row) for name, row in told["hosts"].items()}
            )
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise PacketMalformed("the gateway's answer tells of no hosts") from error

    def edges_connected(self) -> set[str]:
        """Camera hosts that take requests from this gateway."""
        return {str(edge_id) for edge_id in self._call("edges_connected")}

    def dead(self, n: int) -> list[Dead]:
        """The ``n`` newest dead items."""
        return [Dead(**row) for row in self._call("dead_list", n=n)]

    def dead_item(self, id_: int) -> dict[str, Any]:
        """All that is known of a dead item but its payload. Raises RequestRefused where there is none."""
        return dict(self._call("dead_show", id=id_))

    def requeue(self, ids: Sequence[int]) -> int:
        """Let dead items be leased again; returns how many there were. Raises QueueFull."""
        return int(self._call("dead_requeue", ids=list(ids)))

    def purge(self, ids: Sequence[int]) -> int:
        """Remove dead items for good; returns how many there were."""
        return int(self._call("dead_purge", ids=list(ids)))

    def present(
        self,
        *,
        role: str,
        host: str,
        age_seconds: float,
        waits: str,
        done: int,
        device: str,
        leaves: bool = False,
        shed: int = 0,
    ) -> None:
        """Say that this worker or refiner is there, or that it leaves; ``shed``: frames that it has not looked at."""
        more = {"shed": shed} if shed else {}  # which a gateway of an earlier version would not take
        self._call(
            "present",
            worker=self._worker,
            role=role,
            host=host,
            age_seconds=age_seconds,
            waits=waits[:500],
            done=done,
            device=device[:32],
            leaves=leaves,
            **more,
        )

    def stats(self) -> dict[str, Any]:
        return dict(self._call("stats"))

    def _call(self, op: str, **arguments: object) -> Any:
        return self._exchange(op, arguments, ())

    def _exchange(self, op: str, arguments: dict[str, object], wakes: Sequence[int]) -> Any:
        """What the gateway answers; None where a descriptor of ``wakes`` can be read first."""
        self._last_id += 1
        socket = self._connected()
        try:
            socket.send(msgpack.packb([self._last_id, op, arguments]), zmq.DONTWAIT)
        except zmq.Again:
            # Nothing is connected yet (IMMEDIATE): wait for it, within the time of the call.
            if not socket.poll(self._timeout_ms, zmq.POLLOUT):
                raise self._unreachable() from None
            socket.send(msgpack.packb([self._last_id, op, arguments]))
        deadline = time.monotonic() + self._config.timeout_seconds
        poller = zmq.Poller()
        for one in (socket, *wakes):
            poller.register(one, zmq.POLLIN)
        while (left := deadline - time.monotonic()) > 0 and (
            ready := dict(poller.poll(int(left * 1000) + 1))
        ):
            if socket not in ready:
                return None
            request_id, well, *result = _open(socket.recv())
            if request_id not in (self._last_id, None):
                continue  # the late answer to a call that was given up
            if well:
                return result[0]
            raise _named_error(*result)
        raise self._unreachable()

    @property
    def _timeout_ms(self) -> int:
        return int(self._config.timeout_seconds * 1000)

    def _connected(self) -> _Socket:
        if self._socket is None:
            socket = self._context.socket(zmq.DEALER)
            set_keepalive(socket)
            for option, value in (
                *((zmq.LINGER, 0), (zmq.IMMEDIATE, 1), (zmq.IPV6, is_ipv6(self._config.address))),
                *((zmq.RECONNECT_IVL, 100), (zmq.RECONNECT_IVL_MAX, 5_000)),
            ):
                socket.setsockopt(option, value)
            try:
                self._keys = self._read_keys()  # they may have been rotated meanwhile
            except (KeyRejected, SecretExposed) as error:
                log.warning("going on with the keys at hand: %s", error)
            if self._keys is not None:
                socket.curve_serverkey, socket.curve_publickey, socket.curve_secretkey = self._keys
            try:
                socket.connect(self._config.address)
            except zmq.ZMQError as error:
                raise ConfigError(f"broker.address {self._config.address}: {error.strerror}") from error
            self._socket = socket
        return self._socket

    def _unreachable(self) -> GatewayUnreachable:
        # A fresh socket has a fresh name, so no late answer can reach the next call.
        if self._socket is not None:
            self._socket.close(0)
            self._socket = None
        self._attempts += 1
        # ZeroMQ tells a refused key from a silent gateway on its monitor only, and either may be the cause.
        key = "" if self._keys is None else f"; is this worker's key {self._keys[1].decode()} in force there?"
        return GatewayUnreachable(
            f"no answer from the gateway at {self._config.address} in {self._config.timeout_seconds:g} s{key}"
        )


def _host(row: Any) -> SeenHost:
    report = row["report"]
    said = {} if report is None else report
    return SeenHost(
        heard_at=float(row["heard_at"]),
        delivered_at=_instant(row["delivered_at"]),
        reported_at=_instant(said.get("at")),
        waiting=int(said.get("waiting", 0)),
        oldest_at=_instant(said.get("oldest_at")),
        source=str(said.get("source", "")),
        model=str(said.get("model", "")),
        trouble=str(said.get("trouble", "")),
    )


def _instant(value: Any) -> float | None:
    return None if value is None else float(value)


def _open(message: bytes) -> list[Any]:
    try:
        answer = msgpack.unpackb(message)
    except (ValueError, msgpack.UnpackException) as error:
        raise PacketMalformed("the gateway's answer is not MessagePack") from error
    if not isinstance(answer, list) or len(answer) not in (3, 4) or type(answer[1]) is not bool:
        raise PacketMalformed("the gateway's answer is not one")
    return answer


def _named_error(name: object, text: object) -> SecondlookError:
    """The error of our tree that the gateway named."""
    kind = getattr(errors, str(name), None)
    if isinstance(kind, type) and issubclass(kind, SecondlookError):
        return kind(str(text))
    return RequestRefused(f"{name}: {text}")

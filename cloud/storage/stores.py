"""What a gateway keeps, and where: queue, ledger and requests, opened as the configuration says.

Embedded, all three are one SQLite file of one gateway, and change in one transaction. Where several gateways serve
the same camera hosts, the queue is NATS JetStream, ledger and requests are PostgreSQL tables.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from secondlook.cloud.config import CloudConfig
from secondlook.cloud.storage.ledger import BootName, EdgeRecord, FrameTombstone, Ledger
from secondlook.cloud.storage.queue import FrameQueue, QueuedFrame, SqliteQueue, open_database
from secondlook.cloud.storage.requests import Request, RequestTable
from secondlook.shared.errors import ConfigError
from secondlook.shared.files import keep_private, only_process
from secondlook.shared.link import Received
from secondlook.shared.sqlite import immediate, named_errors

if TYPE_CHECKING:
    from secondlook.cloud.storage.queue_jetstream import JetStreamQueue


class FrameLedger(Protocol):
    """What was received of each boot of each camera host."""

    def take(
        self,
        queue: FrameQueue,
        frames: Sequence[QueuedFrame],
        tombstones: Sequence[FrameTombstone],
        *,
        now: float,
    ) -> set[BootName]:
        """Store new frames in the queue and new tombstones here; what came before is only counted.

        Returns the boots that may be acknowledged now; one that has too many holes is left out, and its frames of
        this batch with it. Raises QueueFull, DiskFull, StoreUnavailable: then nothing may be acknowledged.
        """
        ...

    def forget(self) -> None:
        """What was done since the last commit is rolled back: nothing that memory holds of it counts."""
        ...

    def received(self, edge_id: str, boot_id: str) -> Received:
        """The safe sequences of a boot; nothing for one that is not known."""
        ...

    def see_edge(self, edge_id: str, *, camera: str, software: str, now_ns: int) -> None:
        """Note that a camera host said hello, and what it calls its camera."""
        ...

    def edges(self) -> list[EdgeRecord]: ...

    def totals(self) -> dict[str, int]:
        """Frames received, frames that came again, and frames that tombstones stand for."""
        ...

    def tombstones_after(self, id_: int, most: int) -> list[tuple[int, FrameTombstone]]:
        """Gaps with a number above ``id_``, at most ``most``, in the order they came."""
        ...


class RequestStore(Protocol):
    """Requests for enhancement layers; ``cloud.storage.requests`` has their states."""

    def ask(
        self,
        edge_id: str,
        boot_id: str,
        seq: int,
        *,
        deadline: float,
        priority: int,
        blob_gone: bool,
        now: float,
    ) -> int:
        """The number of the request for a frame: of one that is open or done, or else of a new one."""
        ...

    def get(self, id_: int) -> Request | None: ...

    def of_frame(self, edge_id: str, boot_id: str, seq: int) -> Request | None:
        """The latest request for a frame."""
        ...

    def to_send(self, edge_id: str, *, now: float) -> list[Request]:
        """What to send to a camera host now, most urgent first; they count as sent from now on."""
        ...

    def edges_with_work(self, now: float) -> list[str]:
        """Camera hosts that ``to_send`` may have something for."""
        ...

    def extend_lease(self, request: Request, *, now: float) -> None:
        """A chunk came: the lease begins anew."""
        ...

    def requeue_sent(self, edge_id: str, *, now: float) -> None:
        """A camera host connected: what was sent to it before is to be sent again."""
        ...

    def defer(self, id_: int, *, now: float) -> None: ...

    def done(self, id_: int, blob: str) -> None: ...

    def refuse(self, id_: int, reason: str) -> None: ...

    def corrupt(self, request: Request, *, now: float) -> None:
        """An answer failed its CRC: ask again, a few times."""
        ...

    def expire(self, *, now: float) -> None:
        """End the open requests whose deadline has passed."""
        ...

    def ended(self, ids: Collection[int]) -> list[int]:
        """Which of ``ids`` are open no more, whoever ended them."""
        ...


@dataclass(frozen=True)
class Stores:
    queue: FrameQueue
    ledger: FrameLedger
    requests: RequestStore
    _path: Path  # of the gateway's own file
    _database: sqlite3.Connection | None
    _opened: ExitStack

    @contextmanager
    def one_commit(self, *, synced: bool) -> Iterator[None]:
        """Where the ledger is in the gateway's own file, what happens within to that file is committed together.

        What camera hosts are told must survive a power cut (``synced``). What workers do need not wait for the disk:
        every commit survives the process, and leases or acknowledgements that a power cut undoes are given again.
        Servers commit each step by itself.
        """
        if self._database is None:
            yield
            return
        self._database.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
        with named_errors(self._path), immediate(self._database):
            yield

    def close(self) -> None:
        self._opened.close()


def _open_jetstream(url: str, config: CloudConfig) -> JetStreamQueue:
    try:
        # The embedded queue needs no NATS.
        from secondlook.cloud.storage.queue_jetstream import JetStreamQueue
    except ModuleNotFoundError as error:
        raise ConfigError(f"queue: {error.name} is not installed: pip install 'secondlook[scale]'") from error
    return JetStreamQueue(url, config.gateway.queue, config.jetstream)


def open_stores(config: CloudConfig) -> Stores:
    """Open what the configuration names, for this thread.

    Raises ConfigError, and the StorageErrors of a store that cannot be opened; then none is left open.
    """
    gateway = config.gateway
    with ExitStack() as opened:
        database = None
        if config.queue is None or config.ledger_url is None:
            # Several gateways need stores that they share; this file serves one alone.
            opened.enter_context(only_process(config.data_dir, "gateway.lock", "gateway"))
            keep_private(config.data_dir)
            database = open_database(config.database)
            opened.callback(database.close)
        queue: FrameQueue
        if config.queue is None:
            assert database is not None
            queue = SqliteQueue(database, gateway.queue)
        else:
            jetstream = _open_jetstream(config.queue, config)
            opened.callback(jetstream.close)
            queue = jetstream
        if config.ledger_url is None:
            assert database is not None
            ledger: FrameLedger = Ledger(database)
            requests: RequestStore = RequestTable(database, gateway.requests)
        else:
            from secondlook.cloud.storage.ledger_sql import SqlLedger
            from secondlook.cloud.storage.requests_sql import SqlRequestTable
            from secondlook.cloud.storage.sql import open_engine

            engine = open_engine(config.ledger_url, "ledger")
            opened.callback(engine.dispose)
            if engine.dialect.name != "postgresql":
                raise ConfigError(f"ledger: must be a postgresql+psycopg:// URL, not {engine.dialect.name}")
            ledger, requests = SqlLedger(engine), SqlRequestTable(engine, gateway.requests)
        # A ledger elsewhere commits at once: the queue must not be committed later than what it tells of.
        shared = database if config.ledger_url is None else None
        return Stores(queue, ledger, requests, config.database, shared, opened.pop_all())

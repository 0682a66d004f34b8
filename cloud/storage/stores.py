"""What a gateway keeps, and where: queue, ledger and requests, opened as the configuration says.

Embedded, all three are one SQLite file of one gateway, and change in one transaction. Where several gateways serve
the same camera hosts, the queue is NATS JetStream, ledger and requests are PostgreSQL tables.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from secondlook.cloud.config import CloudConfig
from secondlook.cloud.storage.database import Database, EmbeddedDatabase, ServerDatabase, open_database
from secondlook.cloud.storage.ledger import FrameTombstone, Ledger
from secondlook.cloud.storage.queue import Dead, FrameQueue, Removed
from secondlook.cloud.storage.queue_sqlite import SqliteQueue
from secondlook.cloud.storage.requests import RequestTable
from secondlook.cloud.storage.sql import open_engine
from secondlook.shared import metrics
from secondlook.shared.errors import ConfigError
from secondlook.shared.files import keep_private, only_process
from secondlook.shared.packet import MAX_BASE_BYTES
from secondlook.shared.sqlite import immediate, named_errors

if TYPE_CHECKING:
    from secondlook.cloud.storage.queue_jetstream import JetStreamQueue


log = logging.getLogger(__name__)

_LONG_LOG_BYTES = 1 << 20


@dataclass(frozen=True)
class Stores:
    queue: FrameQueue
    ledger: Ledger
    requests: RequestTable
    is_embedded: bool  # the ledger is in the gateway's own file
    _path: Path  # of the gateway's own file
    _database: sqlite3.Connection | None  # that file, where anything is kept in it
    _shares_commit: bool
    _opened: ExitStack

    @contextmanager
    def one_commit(self, *, synced: bool) -> Iterator[None]:
        """Where queue and ledger are in the gateway's own file, what happens within to that file is committed together.

        What camera hosts are told must survive a power cut (``synced``). What workers do need not wait for the disk:
        every commit survives the process, and leases or acknowledgements that a power cut undoes are given again.
        Servers commit each step by itself, and so does the file beside one: neither the queue nor the ledger may be
        committed later than what tells of it.
        """
        if self._database is None or not self._shares_commit:
            yield
            return
        self._database.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
        with named_errors(self._path), immediate(self._database):
            yield

    def shorten_log(self) -> None:
        """Give the disk back what the write-ahead log has taken, if that is much: it may be all there is."""
        log_file = self._path.with_name(f"{self._path.name}-wal")
        if self._database is not None and log_file.exists() and log_file.stat().st_size > _LONG_LOG_BYTES:
            with contextlib.suppress(sqlite3.OperationalError):  # somebody reads: the next time, then
                self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        self._opened.close()


def _open_jetstream(url: str, config: CloudConfig, removed: Removed) -> JetStreamQueue:
    try:
        # The embedded queue needs no NATS.
        from secondlook.cloud.storage.queue_jetstream import JetStreamQueue
    except ModuleNotFoundError as error:
        raise ConfigError(f"queue: {error.name} is not installed: pip install 'secondlook[scale]'") from error
    return JetStreamQueue(url, config.gateway.queue, config.jetstream, removed)


def open_stores(config: CloudConfig) -> Stores:
    """Open what the configuration names, for this thread.

    Raises ConfigError, and the StorageErrors of a store that cannot be opened; then none is left open.
    """
    gateway = config.gateway
    if gateway.queue.max_bytes * gateway.queue.max_share < MAX_BASE_BYTES:
        log.warning(
            "gateway.queue.max_bytes %d is small: large frames of a camera host may not fit its share",
            gateway.queue.max_bytes,
        )
    with ExitStack() as opened:
        database = None
        if config.queue is None or config.ledger_url is None:
            # Several gateways need stores that they share; this file serves one alone.
            opened.enter_context(only_process(config.data_dir, "gateway.lock", "gateway"))
            keep_private(config.data_dir)
            database = open_database(config.database)
            opened.callback(database.close)
        rows: Database
        if config.ledger_url is None:
            assert database is not None
            rows = EmbeddedDatabase(database)
        else:
            engine = open_engine(config.ledger_url, "ledger")
            opened.callback(engine.dispose)
            if engine.dialect.name != "postgresql":
                raise ConfigError(f"ledger: must be a postgresql+psycopg:// URL, not {engine.dialect.name}")
            rows = ServerDatabase(engine, "ledger")
        ledger, requests = Ledger(rows), RequestTable(rows, gateway.requests)

        def removed(dead: Sequence[Dead], why: str) -> None:
            """Frames that were received and are lost after all: workers bring that to the catalogue."""
            now_ns = int(time.time() * 1e9)
            known = [item for item in dead if item.edge_id]  # else it was no frame
            for item in known:
                metrics.count("frames_dropped_total", item.edge_id, why)
            ledger.note_lost(
                [
                    FrameTombstone(item.edge_id, item.boot_id, item.seq, item.seq, why, now_ns)
                    for item in known
                ]
            )

        queue: FrameQueue
        if config.queue is None:
            assert database is not None
            queue = SqliteQueue(database, gateway.queue, removed)
        else:
            jetstream = _open_jetstream(config.queue, config, removed)
            opened.callback(jetstream.close)
            queue = jetstream
        return Stores(
            queue,
            ledger,
            requests,
            is_embedded=config.ledger_url is None,
            _path=config.database,
            _database=database,
            _shares_commit=config.queue is None and config.ledger_url is None,
            _opened=opened.pop_all(),
        )

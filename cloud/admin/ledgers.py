"""The gateway's ledger and queue, read beside a gateway that may run."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

from secondlook.cloud.config import CloudConfig
from secondlook.cloud.storage.database import EmbeddedDatabase, ServerDatabase
from secondlook.cloud.storage.ledger import Ledger
from secondlook.cloud.storage.sql import open_engine
from secondlook.cloud.workers.broker_client import BrokerClient
from secondlook.shared.errors import SecondlookError
from secondlook.shared.sqlite import named_errors

_ANSWER_SECONDS = 3.0


@contextmanager
def ledger_read(config: CloudConfig) -> Iterator[tuple[Ledger | None, int | None]]:
    """The ledger, and how many frames the queue holds, dead ones too; None for what is not to be had.

    In the gateway's own file both are as of one instant. Raises StorageError.
    """
    if config.ledger_url is not None:
        engine = open_engine(config.ledger_url, "ledger")
        try:
            yield Ledger(ServerDatabase(engine, "ledger"), reads_only=True), _told(config)
        finally:
            engine.dispose()
        return
    if not config.database.exists():
        yield None, None
        return
    with named_errors(config.database):
        opened = sqlite3.connect(
            f"file:{config.database}?mode=ro", uri=True, isolation_level=None, timeout=15
        )
        with closing(opened) as database:
            database.execute("BEGIN")
            queued = _told(config) if config.queue is not None else _counted(database)
            yield Ledger(EmbeddedDatabase(database), reads_only=True), queued


def _counted(database: sqlite3.Connection) -> int:
    """All items, of a queue of any version: to open it would bring it up to date."""
    (items,) = database.execute("SELECT count(*) FROM queue").fetchone()
    return int(items)


def _told(config: CloudConfig) -> int | None:
    """What a running gateway says, of a queue that is a server."""
    try:
        with BrokerClient(replace(config.broker, timeout_seconds=_ANSWER_SECONDS), "audit") as line:
            stats = line.stats()
    except SecondlookError:
        return None
    return int(stats["depth"]) + int(stats["dead"])

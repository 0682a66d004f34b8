"""The stream of events, as server-sent events: what happens, from a cursor on, for as long as somebody listens.

Every event carries the cursor behind it as its id. A stream that begins, and one that had nothing to say for a while,
sends its cursor too (`hello`, `alive`), so that a listener that is cut goes on from where it was, whatever its filter
left out meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from fastapi.concurrency import run_in_threadpool

from secondlook.cloud.catalogue import Catalogue
from secondlook.cloud.catalogue.feed import START, Cursor, Interest, look, newest
from secondlook.cloud.station.api import schema
from secondlook.shared.errors import StorageError

EVENTS_AT_ONCE = 500
POLL_SECONDS = 0.25
_ALIVE_SECONDS = 15.0
_CHECK_SECONDS = 30.0  # between two looks at whether the listener may still listen


def place_of(catalogue: Catalogue, after: str) -> Cursor:
    """`start`, `now` or a cursor. Raises ConfigError."""
    if after == "start":
        return START
    return newest(catalogue) if after == "now" else Cursor.parse(after)


@dataclass(frozen=True)
class Stream:
    """`seconds`: it ends after so long; None: when nobody listens. `may_listen` is asked now and then."""

    catalogue: Catalogue
    interest: Interest
    seconds: float | None
    may_listen: Callable[[], bool]
    stopping: asyncio.Event

    async def parts(self, cursor: Cursor) -> AsyncIterator[str]:
        clock = asyncio.get_running_loop().time
        began = said = checked = clock()
        yield _said("hello", cursor, "{}")
        while not self.stopping.is_set():
            try:
                found = await run_in_threadpool(
                    look, self.catalogue, cursor, self.interest, limit=EVENTS_AT_ONCE
                )
            except StorageError:
                return  # the listener comes again, and is told then what is wrong
            if found.events:
                yield "".join(
                    _said(event.kind.value, event.cursor, schema.event_json(event)) for event in found.events
                )
                said = clock()
            cursor = found.cursor
            now = clock()
            if now - said >= _ALIVE_SECONDS:
                yield _said("alive", cursor, "{}")
                said = now
            if found.more:
                continue
            if self.seconds is not None and now - began >= self.seconds:
                yield _said("alive", cursor, "{}")
                return
            if now - checked >= _CHECK_SECONDS:
                if not await run_in_threadpool(self.may_listen):
                    return
                checked = now
            await asyncio.sleep(POLL_SECONDS)


def _said(name: str, cursor: Cursor, data: str) -> str:
    return f"event: {name}\nid: {cursor}\ndata: {data}\n\n"

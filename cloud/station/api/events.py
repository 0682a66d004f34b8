"""The stream of events, as server-sent events: what happens, from a cursor on, for as long as somebody listens.

Every event carries the cursor behind it as its id. A stream that begins, and one that had nothing to say for a while,
sends its cursor too (`hello`, `alive`), so that a listener that is cut goes on from where it was, whatever its filter
left out meanwhile.

States of camera hosts are no part of the feed: a listener who asks for them hears of each as it is when the stream
begins, and then of changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from fastapi import Query
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import select

from secondlook.cloud.catalogue import Audience, Camera, Catalogue
from secondlook.cloud.catalogue.deliveries import CameraNote
from secondlook.cloud.catalogue.feed import START, Cursor, EventKind, Interest, look, newest
from secondlook.cloud.catalogue.hosts import followed
from secondlook.cloud.station.api import schema
from secondlook.cloud.station.api.cameras import CAMERA, camera_changes, camera_json
from secondlook.cloud.station.api.queries import CameraName, Least
from secondlook.shared.errors import StorageError

EVENTS_AT_ONCE = 500
POLL_SECONDS = 0.25
_ALIVE_SECONDS = 15.0
_LOOK_SECONDS = 2.0  # between two looks at camera hosts
_CHECK_SECONDS = 30.0  # between two looks at whether the listener may still listen


def place_of(catalogue: Catalogue, after: str) -> Cursor:
    """`start`, `now` or a cursor. Raises ConfigError."""
    if after == "start":
        return START
    return newest(catalogue) if after == "now" else Cursor.parse(after)


class StreamKind(StrEnum):
    """What a stream may tell of."""

    DETECTION = EventKind.DETECTION.value
    TOMBSTONE = EventKind.TOMBSTONE.value
    REVIEW = EventKind.REVIEW.value
    VERDICT = EventKind.VERDICT.value
    COMMENT = EventKind.COMMENT.value
    CAMERA = CAMERA


@dataclass(frozen=True)
class Listening:
    """What a listener asks for."""

    camera: CameraName = None
    kind: Annotated[
        list[StreamKind] | None,
        Query(description="Of these kinds; may come several times. Without it, all but `camera`."),
    ] = None
    label: Annotated[
        list[str] | None,
        Query(max_length=64, description="Detections of these classes; may come several times."),
    ] = None
    min_score: Least = 0.0
    after: Annotated[
        str,
        Query(
            max_length=80,
            description="`now`, `start`, or the id of an event; the header `Last-Event-ID` goes before it.",
        ),
    ] = "now"
    seconds: Annotated[
        float | None,
        Query(ge=0, le=86_400, description="End after so long; 0: after what there is. Without it, never."),
    ] = None

    def interest(self, audience: Audience) -> Interest:
        """Of what the feed holds, and as far as the listener may hear of it."""
        kinds = frozenset(EventKind) if self.kind is None else frozenset(self.kind) - {StreamKind.CAMERA}
        labels = None if self.label is None else frozenset(self.label)
        wanted = frozenset(EventKind(one.value) for one in kinds)
        return Interest(wanted, self.camera, labels, self.min_score, audience)

    @property
    def hears_of_cameras(self) -> bool:
        return self.kind is not None and StreamKind.CAMERA in self.kind


class CameraWatch:
    """What one listener was told of camera hosts: of all, or of `edge_id`."""

    def __init__(
        self, catalogue: Catalogue, edge_id: str | None, *, silent_seconds: float, now_ns: Callable[[], int]
    ) -> None:
        self._catalogue, self._edge_id = catalogue, edge_id
        self._silent_seconds, self._now_ns = silent_seconds, now_ns
        self._noted: dict[str, CameraNote] = {}
        self.looked_at = float("-inf")  # by the clock of who asks

    def changes(self) -> list[str]:
        """The data of the events that tell what changed."""
        query = select(Camera)
        if self._edge_id is not None:
            query = query.where(Camera.edge_id == self._edge_id)
        with self._catalogue.reading() as session:
            rows = {row.edge_id: row for row in session.scalars(query.order_by(Camera.edge_id))}
            now_ns = self._now_ns()
            by_events = followed(session, rows.values(), now_ns=now_ns)
        changed = camera_changes(
            rows.values(),
            self._noted,
            silent_seconds=self._silent_seconds,
            now_ns=now_ns,
            followed=by_events,
        )
        self._noted.update(changed)
        return [camera_json(rows[name], note) for name, note in changed.items()]


@dataclass(frozen=True)
class Stream:
    """`seconds`: it ends after so long; None: when nobody listens. `may_listen` is asked now and then."""

    catalogue: Catalogue
    interest: Interest
    seconds: float | None
    may_listen: Callable[[], bool]
    stopping: asyncio.Event
    cameras: CameraWatch | None = None

    async def parts(self, cursor: Cursor) -> AsyncIterator[str]:
        clock = asyncio.get_running_loop().time
        began = said = checked = clock()
        yield _said("hello", cursor, "{}")
        while not self.stopping.is_set():
            try:
                found = await run_in_threadpool(
                    look, self.catalogue, cursor, self.interest, limit=EVENTS_AT_ONCE
                )
                states = await self._states(clock())
            except StorageError:
                return  # the listener comes again, and is told then what is wrong
            if found.events:
                yield "".join(
                    _said(event.kind.value, event.cursor, schema.event_json(event, self.interest.audience))
                    for event in found.events
                )
                said = clock()
            cursor = found.cursor
            if states:
                yield "".join(_said(CAMERA, cursor, data) for data in states)
                said = clock()
            now = clock()
            if now - said >= _ALIVE_SECONDS:
                yield _said("alive", cursor, "{}")
                said = now
            if now - checked >= _CHECK_SECONDS:
                if not await run_in_threadpool(self.may_listen):
                    return
                checked = now
            if self._is_over(now - began, found.more):
                yield _said("alive", cursor, "{}")
                return
            if found.more:
                continue
            await asyncio.sleep(POLL_SECONDS)

    def _is_over(self, passed: float, more: bool) -> bool:
        """After `passed` seconds. One of 0 seconds ends once it has told what there is, however long that takes."""
        return self.seconds is not None and passed >= self.seconds and not (more and self.seconds == 0)

    async def _states(self, now: float) -> list[str]:
        if self.cameras is None or now - self.cameras.looked_at < _LOOK_SECONDS:
            return []
        self.cameras.looked_at = now
        return await run_in_threadpool(self.cameras.changes)


def _said(name: str, cursor: Cursor, data: str) -> str:
    return f"event: {name}\nid: {cursor}\ndata: {data}\n\n"

"""The part of the station's API that is about cameras: how they do, their last day, and their newest frame live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.concurrency import run_in_threadpool

from secondlook.cloud.catalogue import Catalogue
from secondlook.cloud.station import cameras, schema
from secondlook.cloud.station.access import GuardedRoute, Viewer
from secondlook.cloud.station.api.limits import CallerLimits
from secondlook.cloud.station.frame_routes import Instant

EdgeId = Annotated[str, Path(max_length=64)]

LONGEST_WAIT_SECONDS = 6.0  # below what the page, and proxies, wait for an answer
_LOOK_SECONDS = 0.25
_DAY_NS = 86_400 * 1_000_000_000


def build_camera_router(
    catalogue: Catalogue, *, silent_seconds: float, now_ns: Callable[[], int]
) -> APIRouter:
    """Routes below /api/cameras; ``now_ns`` tells the time in Unix nanoseconds."""
    router = APIRouter(prefix="/api", route_class=GuardedRoute)
    silent_ns = int(silent_seconds * 1_000_000_000)

    @router.get("/cameras")
    def listed() -> list[schema.CameraFacts]:
        """Every camera host: its state, its last frame, its rates over ten minutes of frames, its last events."""
        return cameras.list_cameras(catalogue, now_ns=now_ns(), silent_ns=silent_ns)

    @router.get("/cameras/{edge_id}/timeline")
    def timeline(
        edge_id: EdgeId, viewer: Viewer, since: Instant = None, until: Instant = None
    ) -> schema.Timeline:
        """How many frames came and in how many something was found, in 96 slots; reviews; objects; what was dropped.

        Without `since` and `until`, the last 24 hours.
        """
        last = max(schema.nanoseconds(until, now_ns()), 1)
        first = schema.nanoseconds(since, max(last - _DAY_NS, 0))
        return cameras.timeline(
            catalogue, edge_id, since_ns=min(first, last - 1), until_ns=last, viewer=viewer
        )

    @router.get("/cameras/{edge_id}/newest")
    async def newest(
        request: Request,
        edge_id: EdgeId,
        after: Annotated[int, Query(ge=0, le=2**63 - 1, description="A frame that is known already.")] = 0,
        seconds: Annotated[
            float, Query(ge=0, le=LONGEST_WAIT_SECONDS, description="Wait so long for another one than that.")
        ] = 0.0,
    ) -> schema.NewestFrame:
        """The frame that a camera captured last: at once where it is another one than `after`, else when one comes.

        While all places of streams are taken nobody waits.
        """
        limits: CallerLimits = request.app.state.api_limits
        found = await run_in_threadpool(cameras.newest_frame, catalogue, edge_id)
        if found.id not in (None, after) or not seconds or not limits.open_stream():
            return found
        try:
            clock = asyncio.get_running_loop().time
            until = clock() + seconds
            stopping: asyncio.Event = request.app.state.stopping
            while clock() < until and not stopping.is_set() and not await request.is_disconnected():
                await asyncio.sleep(_LOOK_SECONDS)
                found = await run_in_threadpool(cameras.newest_frame, catalogue, edge_id)
                if found.id not in (None, after):
                    break
        finally:
            limits.close_stream()
        return found

    return router

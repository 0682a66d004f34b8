"""The station's own ``/healthz`` and ``/readyz``, for whoever restarts it or routes to it; without a log-in.

The heartbeat comes around through the event loop and the pool of threads that serve requests: it stops when either
hangs. Whether the catalogue answers is looked at by the station itself, now and then, so that strangers who ask often
cost it nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from sqlalchemy import select

from secondlook.cloud.catalogue import Catalogue
from secondlook.cloud.catalogue.auditschema import AuditHead
from secondlook.cloud.station.access import GuardedRoute
from secondlook.shared.errors import StorageError
from secondlook.shared.health import Health, liveness, readiness
from secondlook.shared.outage import Outage
from secondlook.shared.watchdog import Watchdog

log = logging.getLogger(__name__)

_BEAT_SECONDS = 1.0
_LOOK_SECONDS = 2.0


def build_health_router(watchdog: Watchdog, stall_seconds: float) -> APIRouter:
    # Not in threads: when all of them hang, these two still answer.
    router = APIRouter(route_class=GuardedRoute, include_in_schema=False)

    @router.get("/healthz")
    async def healthz() -> JSONResponse:
        return _answer(liveness(watchdog, stall_seconds))

    @router.get("/readyz")
    async def readyz() -> JSONResponse:
        return _answer(readiness(watchdog, stall_seconds))

    return router


@asynccontextmanager
async def heartbeat(catalogue: Catalogue, watchdog: Watchdog) -> AsyncIterator[None]:
    """Give signs of life, and follow the catalogue, while the block lasts."""
    tasks = [asyncio.create_task(_beat(watchdog)), asyncio.create_task(_look(catalogue, watchdog))]
    watchdog.ready()
    try:
        yield
    finally:
        watchdog.stopping()
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _beat(watchdog: Watchdog) -> None:
    while True:
        await run_in_threadpool(watchdog.heartbeat)
        await asyncio.sleep(_BEAT_SECONDS)


async def _look(catalogue: Catalogue, watchdog: Watchdog) -> None:
    outage = Outage(log)
    while True:
        try:
            await run_in_threadpool(_ask, catalogue)
            outage.over(time.monotonic())
        except StorageError as error:
            outage.met(error, time.monotonic())
        watchdog.waits(outage.why)
        await asyncio.sleep(_LOOK_SECONDS)


def _ask(catalogue: Catalogue) -> None:
    with catalogue.reading() as session:
        session.scalars(select(AuditHead.id)).first()


def _answer(health: Health) -> JSONResponse:
    return JSONResponse({"status": health.text}, health.status, {"cache-control": "no-store"})

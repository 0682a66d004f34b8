"""Puts the station together: guard, API, static page."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from cloud.blobs import open_blobs
from cloud.catalogue import open_catalogue
from cloud.station.routes import build_router
from cloud.station.security import LOOPBACK_HOSTS, Guard
from shared.errors import ReviewConflict, ReviewNotFound, SecondlookError, StorageError
from shared.version import __version__

_STATIC = Path(__file__).parent / "static"

# The first class that fits gives the status.
_STATUS: Sequence[tuple[type[SecondlookError], HTTPStatus]] = (
    (ReviewNotFound, HTTPStatus.NOT_FOUND),
    (ReviewConflict, HTTPStatus.CONFLICT),
    (StorageError, HTTPStatus.SERVICE_UNAVAILABLE),
    (SecondlookError, HTTPStatus.INTERNAL_SERVER_ERROR),
)


def create_app(
    *,
    catalogue_url: str,
    blobs_url: str,
    title: str = "Secondlook",
    allowed_hosts: Collection[str] = LOOPBACK_HOSTS,
    now_ns: Callable[[], int] = time.time_ns,
) -> FastAPI:
    """The review station over one catalogue and one blob store.

    ``allowed_hosts`` are the names under which reviewers reach it; anything but loopback must be given, ``*``
    lets every name in. Raises what ``open_catalogue`` and ``open_blobs`` raise.
    """
    blobs = open_blobs(blobs_url)
    catalogue = open_catalogue(catalogue_url)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        catalogue.close()

    app = FastAPI(
        title=f"{title}: review station",
        version=__version__,
        # FastAPI's own pages load scripts from a content network; /docs is ours instead.
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(Guard, allowed_hosts=allowed_hosts)
    app.exception_handler(SecondlookError)(_on_error)
    app.exception_handler(RequestValidationError)(_on_invalid)
    app.include_router(build_router(catalogue, blobs, title=title, now_ns=now_ns))
    app.mount("/static", StaticFiles(directory=_STATIC))

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(_STATIC / "index.html")

    @app.get("/docs", include_in_schema=False)
    def docs() -> FileResponse:
        return FileResponse(_STATIC / "docs.html")

    return app


def _on_error(_request: Request, error: SecondlookError) -> JSONResponse:
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    return JSONResponse({"detail": str(error)}, status)


def _on_invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
    """Say what is wrong without sending the input back: it may not even be valid JSON."""
    detail = [{"loc": list(item["loc"]), "msg": item["msg"]} for item in error.errors()]
    return JSONResponse({"detail": detail}, HTTPStatus.UNPROCESSABLE_ENTITY)

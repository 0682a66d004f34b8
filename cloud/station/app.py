"""Puts the station together: guard, API, static page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from secondlook.cloud.accounts import any_users
from secondlook.cloud.accounts.login import LoginThrottle
from secondlook.cloud.catalogue import (
    SAMPLING_SECRET,
    Catalogue,
    Sampling,
    open_catalogue,
    station_secret,
)
from secondlook.cloud.config import LOOPBACK_NAMES, ApiLimits, LoginLimits, SessionTimes
from secondlook.cloud.decoding.base import BaseDecoder
from secondlook.cloud.receivers import NotifyConfig
from secondlook.cloud.station.access import Authorizer
from secondlook.cloud.station.account_routes import build_account_router
from secondlook.cloud.station.api.limits import CallerLimits
from secondlook.cloud.station.api.pictures import LayerPictures
from secondlook.cloud.station.api.routes import build_api
from secondlook.cloud.station.assets import Assets
from secondlook.cloud.station.camera_routes import build_camera_router
from secondlook.cloud.station.claim_routes import build_claim_router
from secondlook.cloud.station.classes import ClassBook
from secondlook.cloud.station.figure_routes import build_figure_router
from secondlook.cloud.station.frame_pictures import FramePictures
from secondlook.cloud.station.frame_routes import build_frame_router
from secondlook.cloud.station.health import build_health_router, heartbeat
from secondlook.cloud.station.pages import build_pages
from secondlook.cloud.station.problems import suited
from secondlook.cloud.station.result_routes import build_result_router
from secondlook.cloud.station.routes import build_router
from secondlook.cloud.station.security import Guard
from secondlook.cloud.station.talk_routes import build_talk_router
from secondlook.cloud.storage.blobs import Blobs, open_blobs
from secondlook.shared.codec import load_codec
from secondlook.shared.conditions import WatchConfig
from secondlook.shared.errors import (
    AccountConflict,
    AccountNotFound,
    CommentNotFound,
    ConfigError,
    FrameNotFound,
    KeyReused,
    LoginRefused,
    PasswordTooWeak,
    ReviewConflict,
    ReviewGone,
    ReviewNotFound,
    SecondlookError,
    StorageError,
    TooManyAttempts,
)
from secondlook.shared.health import STALL_SECONDS
from secondlook.shared.layers import LayeredCodec
from secondlook.shared.version import __version__
from secondlook.shared.watchdog import Watchdog

_STATIC = Path(__file__).parent / "static"
CLAIM_SECONDS = 120.0
SILENT_SECONDS = NotifyConfig().silent_seconds
STALLED_SECONDS = WatchConfig().silent_seconds
MAX_PIXELS = 36_000_000
_SESSION = SessionTimes()
_LOGIN = LoginLimits()
_API = ApiLimits()

# The first class that fits gives the status.
_STATUS: Sequence[tuple[type[SecondlookError], HTTPStatus]] = (
    (ReviewGone, HTTPStatus.GONE),
    (ReviewNotFound, HTTPStatus.NOT_FOUND),
    (FrameNotFound, HTTPStatus.NOT_FOUND),
    (CommentNotFound, HTTPStatus.NOT_FOUND),
    (ReviewConflict, HTTPStatus.CONFLICT),
    (KeyReused, HTTPStatus.UNPROCESSABLE_ENTITY),
    (LoginRefused, HTTPStatus.UNAUTHORIZED),
    (TooManyAttempts, HTTPStatus.TOO_MANY_REQUESTS),
    (AccountNotFound, HTTPStatus.NOT_FOUND),
    (AccountConflict, HTTPStatus.CONFLICT),
    (PasswordTooWeak, HTTPStatus.UNPROCESSABLE_ENTITY),
    (ConfigError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (StorageError, HTTPStatus.SERVICE_UNAVAILABLE),
    (SecondlookError, HTTPStatus.INTERNAL_SERVER_ERROR),
)


def create_app(
    *,
    catalogue_url: str,
    blobs_url: str,
    title: str = "Secondlook",
    claim_seconds: float = CLAIM_SECONDS,
    learned_filter: bool = True,
    double_share: float = 0.0,
    known_share: float = 0.0,
    doubt: tuple[float, float] = (0.3, 0.55),
    codec: Callable[[], LayeredCodec] = load_codec,
    max_pixels: int = MAX_PIXELS,
    allowed_hosts: Collection[str] = LOOPBACK_NAMES,
    exposed: bool = False,
    trusted_proxies: Sequence[str] = (),
    session: SessionTimes = _SESSION,
    login: LoginLimits = _LOGIN,
    api: ApiLimits = _API,
    silent_seconds: float = SILENT_SECONDS,
    stalled_seconds: float = STALLED_SECONDS,
    origins: Sequence[str] = (),
    root_path: str = "",
    instance: str = "",
    watchdog: Watchdog | None = None,
    stall_seconds: float = STALL_SECONDS,
    now_ns: Callable[[], int] = time.time_ns,
) -> FastAPI:
    """The review station over one catalogue and one blob store.

    ``allowed_hosts`` are the names under which reviewers reach it; anything but loopback must be given, ``*``
    lets every name in. ``exposed``: more than this machine reaches it, so that there must be users, and TLS.
    ``trusted_proxies``: addresses and networks whose X-Forwarded-For and -Proto count. ``origins``: what browsers show
    before the path where a proxy does not pass on the Host they asked for. ``root_path``: the folder, as "/review",
    below which a proxy shows the station. ``instance`` names its cookie, beside other stations of the same host.
    ``codec`` opens what decodes the base layers of up to ``max_pixels`` that nobody has made a picture of; it is called
    when the first one is looked at. ``claim_seconds``: a frame whose page is heard of no more is free for others after
    this. ``double_share`` of the frames are judged by a second person, ``known_share`` of a reviewer's are known ones.
    ``doubt``: scores that the policy has reviewed. ``learned_filter``: whether pages show what the learned filter made.
    ``stalled_seconds``: a camera that is there and has delivered nothing for so long is shown as stalled.
    ``watchdog`` hears the heartbeat; without one for ``stall_seconds`` the station says that it hangs.

    Raises ConfigError when it is exposed and there is no user, and what ``open_catalogue`` and ``open_blobs`` raise.
    """
    blobs = open_blobs(blobs_url)
    catalogue = open_catalogue(catalogue_url)
    if exposed:
        _check_users(catalogue)
    beats = watchdog or Watchdog()
    app = _bare_app(title, root_path, catalogue, beats, api)
    app.state.authorizer = Authorizer(
        catalogue, session, exposed=exposed, now_ns=now_ns, instance=instance, root_path=root_path
    )
    app.add_middleware(
        Guard, allowed_hosts=allowed_hosts, tls_only=exposed, origins=origins, root_path=root_path
    )
    if trusted_proxies:
        # Added last, so it comes first: what follows sees the client's own address and scheme.
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=list(trusted_proxies))
    parts = _Parts(catalogue, blobs, BaseDecoder(codec, blobs, max_pixels), title, root_path, now_ns)
    sampling = Sampling(double_share, known_share, station_secret(catalogue, SAMPLING_SECRET))
    _include_reviews(app, parts, sampling, learned_filter, doubt, claim_seconds)
    _include_frames(app, parts, sampling, silent_seconds, stalled_seconds)
    app.include_router(build_account_router(catalogue, LoginThrottle(login), session, now_ns=now_ns))
    app.include_router(build_pages(app, root_path))
    app.include_router(build_health_router(beats, stall_seconds))
    # Pages without what they show: whoever reads them learns what is in this repository.
    app.add_route("/static/{name:path}", Assets(_STATIC).answer, include_in_schema=False)
    return app


@dataclass(frozen=True)
class _Parts:
    """What most routes need."""

    catalogue: Catalogue
    blobs: Blobs
    decoder: BaseDecoder
    title: str
    root_path: str
    now_ns: Callable[[], int]

    @cached_property
    def pictures(self) -> FramePictures:
        return FramePictures(self.catalogue, self.blobs, self.decoder)

    @cached_property
    def classes(self) -> ClassBook:
        return ClassBook(self.catalogue, now_ns=self.now_ns)


def _include_reviews(
    app: FastAPI,
    parts: _Parts,
    sampling: Sampling,
    learned_filter: bool,
    doubt: tuple[float, float],
    claim_seconds: float,
) -> None:
    """What reviewers look at, say, take for themselves and get out of it."""
    catalogue, blobs, title, root_path = parts.catalogue, parts.blobs, parts.title, parts.root_path
    reviews = build_router(
        catalogue,
        blobs,
        title=title,
        root_path=root_path,
        now_ns=parts.now_ns,
        classes=parts.classes,
        sampling=sampling,
        learned_filter=learned_filter,
    )
    results = build_result_router(
        catalogue, blobs, parts.pictures, title=title, root_path=root_path, now_ns=parts.now_ns
    )
    figures = build_figure_router(catalogue, doubt, now_ns=parts.now_ns)
    claims = build_claim_router(catalogue, claim_seconds, now_ns=parts.now_ns)
    talk = build_talk_router(catalogue, now_ns=parts.now_ns)
    for router in (reviews, results, figures, claims, talk):
        app.include_router(router)


def _include_frames(
    app: FastAPI, parts: _Parts, sampling: Sampling, silent_seconds: float, stalled_seconds: float
) -> None:
    """All stored frames: for the pages, and for programs."""
    layers = LayerPictures(parts.catalogue, parts.blobs, parts.pictures)
    app.include_router(build_frame_router(parts.catalogue, parts.pictures, now_ns=parts.now_ns))
    app.include_router(
        build_camera_router(parts.catalogue, silent_seconds=stalled_seconds, now_ns=parts.now_ns)
    )
    app.include_router(
        build_api(
            parts.catalogue,
            layers,
            sampling=sampling,
            classes=parts.classes,
            silent_seconds=silent_seconds,
            now_ns=parts.now_ns,
        )
    )


def _bare_app(title: str, root_path: str, catalogue: Catalogue, beats: Watchdog, api: ApiLimits) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with heartbeat(catalogue, beats):
            yield
        catalogue.close()

    app = FastAPI(
        title=f"{title}: review station",
        version=__version__,
        # FastAPI's own pages load scripts from a content network; /docs is ours instead.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,  # ours too, so that it is guarded like the rest
        servers=[{"url": root_path}] if root_path else None,
        lifespan=lifespan,
    )
    app.state.api_limits = CallerLimits(api)
    app.state.stopping = asyncio.Event()  # whoever stops the server sets it: streams end then
    app.exception_handler(SecondlookError)(_on_error)
    app.exception_handler(RequestValidationError)(_on_invalid)
    app.exception_handler(HTTPException)(_on_refused)
    return app


def _check_users(catalogue: Catalogue) -> None:
    """Raises ConfigError, with the catalogue closed, when there are none."""
    if not any_users(catalogue):
        catalogue.close()
        raise ConfigError(
            "the station faces a network and has no users: make one with `secondlook users add`"
        )


def _on_error(request: Request, error: SecondlookError) -> Response:
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    headers = {"retry-after": str(error.wait_seconds)} if isinstance(error, TooManyAttempts) else None
    return suited(request.scope["path"], JSONResponse({"detail": str(error)}, status, headers))


def _on_refused(request: Request, error: HTTPException) -> Response:
    refusal = JSONResponse({"detail": error.detail}, error.status_code, error.headers)
    return suited(request.scope["path"], refusal)


def _on_invalid(request: Request, error: RequestValidationError) -> Response:
    """Say what is wrong without sending the input back: it may not even be valid JSON."""
    detail = [{"loc": list(item["loc"]), "msg": item["msg"]} for item in error.errors()]
    return suited(request.scope["path"], JSONResponse({"detail": detail}, HTTPStatus.UNPROCESSABLE_ENTITY))

"""Who may do what in the station: one table of rights, and the authorizer that holds every route to it.

A route that is not in the table cannot be built. Log-ins come as a cookie, programs come with a bearer token; a
station on loopback that has no users takes whoever reaches it for the one local user.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.routing import APIRoute

from secondlook.cloud.accounts import Principal, Role, Scope, any_users, find_session, find_token
from secondlook.cloud.accounts.roles import LOCAL, SCOPES
from secondlook.cloud.catalogue import Audience, Catalogue
from secondlook.cloud.config import SessionTimes
from secondlook.cloud.station.problems import suited
from secondlook.cloud.station.security import READING, is_tls

PUBLIC = None  # for whoever asks

RIGHTS: dict[str, Role | None] = {
    # They tell whether the station works, and nothing else.
    "GET /healthz": PUBLIC,
    "GET /readyz": PUBLIC,
    "GET /login": PUBLIC,
    "POST /api/login": PUBLIC,
    "GET /": Role.VIEWER,
    "GET /reviews": Role.VIEWER,
    "GET /reviews/{number}": Role.VIEWER,
    "GET /history": Role.VIEWER,
    "GET /frames": Role.VIEWER,
    "GET /frames/{number}": Role.VIEWER,
    "GET /cameras": Role.VIEWER,
    "GET /grid": Role.VIEWER,
    "GET /people": Role.VIEWER,
    "GET /figures": Role.VIEWER,
    "GET /docs": Role.VIEWER,
    "GET /openapi.json": Role.VIEWER,
    "GET /api/me": Role.VIEWER,
    "POST /api/logout": Role.VIEWER,
    "POST /api/password": Role.VIEWER,
    "GET /api/tokens": Role.VIEWER,
    "POST /api/tokens": Role.VIEWER,
    "POST /api/tokens/{token_id}/revoke": Role.VIEWER,
    "GET /api/station": Role.VIEWER,
    "GET /api/summary": Role.VIEWER,
    "GET /api/reviews": Role.VIEWER,
    "GET /api/reviews/{review_id}": Role.VIEWER,
    "GET /api/reviews/{review_id}/burst": Role.VIEWER,
    "POST /api/reviews/{review_id}/known": Role.ADMIN,
    "GET /api/reviews/{review_id}/images/{version}": Role.VIEWER,
    "GET /api/frames": Role.VIEWER,
    "GET /api/frames/{frame_id}": Role.VIEWER,
    "GET /api/frames/{frame_id}/neighbours": Role.VIEWER,
    "GET /api/frames/{frame_id}/thumb": Role.VIEWER,
    "GET /api/frames/{frame_id}/base": Role.VIEWER,
    "POST /api/frames/{frame_id}/review": Role.REVIEWER,
    "GET /api/cameras": Role.VIEWER,
    "GET /api/cameras/{edge_id}/timeline": Role.VIEWER,
    "GET /api/cameras/{edge_id}/newest": Role.VIEWER,
    "GET /api/figures/day": Role.VIEWER,
    "GET /api/figures/agreement": Role.VIEWER,
    "GET /api/figures/detector": Role.VIEWER,
    "GET /api/preferences": Role.VIEWER,
    "POST /api/preferences": Role.VIEWER,
    "POST /api/claims": Role.REVIEWER,
    "POST /api/claims/{review_id}/renew": Role.REVIEWER,
    "POST /api/claims/{review_id}/release": Role.REVIEWER,
    "POST /api/claims/{review_id}/free": Role.ADMIN,
    "GET /api/colleagues": Role.REVIEWER,
    "POST /api/reviews/{review_id}/comments": Role.REVIEWER,
    "POST /api/comments/{comment_id}/delete": Role.REVIEWER,
    "POST /api/reviews/{review_id}/handover": Role.REVIEWER,
    "GET /api/history": Role.VIEWER,
    "GET /api/export/coco.json": Role.VIEWER,
    "GET /api/export/verdicts.jsonl": Role.VIEWER,
    "GET /api/export/yolo.zip": Role.VIEWER,
    "GET /api/export/frames.zip": Role.VIEWER,
    "GET /api/export/feedback.zip": Role.VIEWER,
    "GET /api/export/objects.jsonl": Role.VIEWER,
    "GET /api/export/comments.jsonl": Role.VIEWER,
    "GET /api/export/changes": Role.VIEWER,
    "POST /api/reviews/{review_id}/verdicts": Role.REVIEWER,
    "POST /api/reviews/{review_id}/retry": Role.REVIEWER,
    "POST /api/reviews/{review_id}/whole": Role.REVIEWER,
    "POST /api/undo": Role.REVIEWER,
    "POST /api/verdicts/{verdict_id}/undo": Role.REVIEWER,
    "GET /api/users": Role.ADMIN,
    "POST /api/users": Role.ADMIN,
    "POST /api/users/{name}/role": Role.ADMIN,
    "POST /api/users/{name}/password": Role.ADMIN,
    "POST /api/users/{name}/remove": Role.ADMIN,
    "GET /api/v1/openapi.json": Role.VIEWER,
    "GET /api/v1/cameras": Role.VIEWER,
    "GET /api/v1/cameras/{edge_id}": Role.VIEWER,
    "GET /api/v1/cameras/{edge_id}/events": Role.VIEWER,
    "GET /api/v1/frames": Role.VIEWER,
    "GET /api/v1/frames/{frame_id}": Role.VIEWER,
    "GET /api/v1/frames/{frame_id}/pictures": Role.VIEWER,
    "GET /api/v1/frames/{frame_id}/pictures/{name}": Role.VIEWER,
    "GET /api/v1/detections": Role.VIEWER,
    "GET /api/v1/objects": Role.VIEWER,
    "GET /api/v1/reviews": Role.VIEWER,
    "GET /api/v1/reviews/{review_id}": Role.VIEWER,
    "GET /api/v1/verdicts": Role.VIEWER,
    "GET /api/v1/verdicts/{verdict_id}": Role.VIEWER,
    "GET /api/v1/tombstones": Role.VIEWER,
    "GET /api/v1/comments": Role.VIEWER,
    "GET /api/v1/comments/{comment_id}": Role.VIEWER,
    "GET /api/v1/events": Role.VIEWER,
    "POST /api/v1/reviews/{review_id}/verdicts": Role.REVIEWER,
    "POST /api/v1/verdicts/{verdict_id}/undo": Role.REVIEWER,
    "POST /api/v1/reviews/{review_id}/comments": Role.REVIEWER,
    "POST /api/v1/comments/{comment_id}/delete": Role.REVIEWER,
    "POST /api/v1/reviews/{review_id}/handover": Role.REVIEWER,
    "POST /api/v1/frames/{frame_id}/review": Role.REVIEWER,
}

_DATA = ("/api/", "/openapi.json")  # all else are pages, which lead to the log-in
_COOKIE = "secondlook"
_TLS_PREFIX = "__Host-"  # browsers let no other host, and no plain connection, set such a cookie

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class GuardedRoute(APIRoute):
    """A route that asks the authorizer before anything of the request is looked at."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()
        (right,) = {RIGHTS[f"{method} {self.path}"] for method in self.methods or ()}

        async def guarded(request: Request) -> Response:
            authorizer: Authorizer = request.app.state.authorizer
            if right is not PUBLIC:
                refusal = await run_in_threadpool(authorizer.admit, request, right)
                if refusal is None:
                    refusal = self.further_refusal(request)
                if refusal is not None:
                    return suited(request.scope["path"], refusal)
            return suited(request.scope["path"], await handle(request))

        return guarded

    def further_refusal(self, request: Request) -> Response | None:
        """What else may be wrong with a request whose sender is known."""
        return None


class Authorizer:
    """Tells who is behind a request, and whether the right is theirs."""

    def __init__(
        self,
        catalogue: Catalogue,
        times: SessionTimes,
        *,
        exposed: bool,
        now_ns: Callable[[], int],
        instance: str = "",
        root_path: str = "",
    ) -> None:
        """``exposed``: more than this machine can reach the station, so nobody is local.

        ``instance`` tells this station's cookie from those of others on the same host: browsers send a cookie to
        all ports of a host.
        """
        self.cookie = f"{_COOKIE}-{instance}" if instance else _COOKIE
        self._login_page = f"{root_path}/login"
        self._catalogue = catalogue
        self._times = times
        self._needs_login = exposed
        self._now_ns = now_ns

    def admit(self, request: Request, right: Role) -> Response | None:
        """The refusal of a request that may not pass; else its principal is in ``request.state``."""
        principal = self._principal(request)
        if principal is None:
            path = request.scope["path"]
            if not path.startswith(_DATA):
                query = request.scope["query_string"].decode("latin-1")
                wanted = f"{path[1:]}?{query}" if query else path[1:]
                back = "" if path == "/" else f"?next={quote(wanted)}"
                return RedirectResponse(self._login_page + back, HTTPStatus.SEE_OTHER)
            return JSONResponse(
                {"detail": "log in first"}, HTTPStatus.UNAUTHORIZED, {"www-authenticate": "Bearer"}
            )
        if not principal.role.includes(right):
            why = f"this needs the role {right.value}, and yours is {principal.role.value}"
            return JSONResponse({"detail": why}, HTTPStatus.FORBIDDEN)
        scope = SCOPES[right]
        if scope not in principal.scopes:
            why = f"this needs a token with the scope {scope.value}"
            return JSONResponse({"detail": why}, HTTPStatus.FORBIDDEN)
        if principal.via == "session" and request.method not in READING:
            sent = request.headers.get("x-csrf-token", "")
            if not hmac.compare_digest(sent.encode(), principal.csrf.encode()):
                return JSONResponse({"detail": "the CSRF token is missing or wrong"}, HTTPStatus.FORBIDDEN)
        request.state.principal = principal
        return None

    def still_admits(self, request: Request) -> bool:
        """Whether the one whom a long answer is for is still who may have it."""
        now, before = self._principal(request), _caller(request)
        return now is not None and now.role.includes(before.role) and now.scopes >= before.scopes

    def needs_login(self) -> bool:
        """Whether there is a log-in: always once there was a user, so that removing the last one opens nothing."""
        self._needs_login = self._needs_login or any_users(self._catalogue)
        return self._needs_login

    def _principal(self, request: Request) -> Principal | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if token and scheme.lower() == "bearer":
            return find_token(self._catalogue, token.strip(), now_ns=self._now_ns())
        if not self.needs_login():
            return LOCAL
        secret = session_secret(request)
        if secret is None:
            return None
        # What the page asks by itself says so; a write is always somebody's doing.
        active = request.method not in READING or request.headers.get("x-user-active") == "1"
        return find_session(self._catalogue, secret, self._times, active=active, now_ns=self._now_ns())


def session_secret(request: Request) -> str | None:
    return request.cookies.get(_cookie_name(request))


def set_session_cookie(request: Request, response: Response, secret: str) -> None:
    """No expiry: it goes with the browser, and the server ends it anyway."""
    response.set_cookie(
        _cookie_name(request),
        secret,
        path="/",
        secure=is_tls(request.scope),
        httponly=True,
        samesite="strict",
    )


def clear_session_cookie(request: Request, response: Response) -> None:
    response.delete_cookie(
        _cookie_name(request), path="/", secure=is_tls(request.scope), httponly=True, samesite="strict"
    )


def _cookie_name(request: Request) -> str:
    authorizer: Authorizer = request.app.state.authorizer
    return f"{_TLS_PREFIX}{authorizer.cookie}" if is_tls(request.scope) else authorizer.cookie


def _caller(request: Request) -> Principal:
    principal: Principal = request.state.principal
    return principal


Caller = Annotated[Principal, Depends(_caller)]


def _viewer(caller: Caller, reviewer: Annotated[str, Query(max_length=64)] = "") -> str:
    return caller.name or reviewer


# Under which name somebody looks: that of the log-in, or, where there is none, ``reviewer``.
Viewer = Annotated[str, Depends(_viewer)]


def may_know(caller: Principal) -> bool:
    """Whether somebody is told which frames are known: those who choose them are."""
    return caller.role is Role.ADMIN


def audience_of(caller: Principal) -> Audience:
    """Which verdicts somebody may hear of. Whoever could judge a frame hears of their own alone, an admin too."""
    return Audience(caller.name or "", caller.via == "token" and Scope.UNSETTLED in caller.scopes)


def _hearer(caller: Caller) -> Audience:
    return audience_of(caller)


Hearer = Annotated[Audience, Depends(_hearer)]

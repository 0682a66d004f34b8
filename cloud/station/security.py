"""The station's guard: which requests pass, whoever sends them, and the headers on every answer.

It keeps a person's own browser from being turned against the station by another page. A foreign page cannot post
a verdict: a post must be JSON and come from the station's own page. It cannot reach the station through a name of
its own either (DNS rebinding): only known host names are answered. Who may do what is ``access``'s business.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ANY_HOST = "*"
MAX_BODY_BYTES = 64 * 1024

READING = frozenset({"GET", "HEAD"})
_PROBES = frozenset({"/healthz", "/readyz"})
_HSTS = "max-age=31536000"
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """ASGI middleware. ``allowed_hosts`` are names without port; ``*`` lets every name in.

    With ``tls_only`` a request that did not come by TLS, here or at a trusted proxy, is refused.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Collection[str], *, tls_only: bool = False) -> None:
        self._app = app
        self._tls_only = tls_only
        self._allowed_hosts = frozenset(allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                if is_tls(scope):
                    headers["strict-transport-security"] = _HSTS
                # Browsers ask each time whether a file changed, so that an upgrade is seen at once.
                headers.setdefault("cache-control", "no-cache")
            await send(message)

        refusal = self._refusal(scope, Headers(scope=scope))
        answer = self._app if refusal is None else refusal
        await answer(scope, receive, send_guarded)

    def _refusal(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        if scope["path"] in _PROBES and scope["method"] in READING:
            # Probes come in the clear and by the address of a pod; what they are told is no secret.
            return None
        if self._tls_only and not is_tls(scope):
            return _refuse(403, "this station is reached by https only")
        host = headers.get("host", "")
        if ANY_HOST not in self._allowed_hosts and _host_name(host) not in self._allowed_hosts:
            return _refuse(400, "the station does not answer to this host name")
        if scope["method"] in READING:
            return None
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return _refuse(415, "the body must be application/json")
        if headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return _refuse(403, "this request comes from another site")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return _refuse(403, "this request comes from another site")
        length = headers.get("content-length", "")
        if not length.isdecimal():
            return _refuse(411, "the length of the body must be announced")
        if int(length) > MAX_BODY_BYTES:
            return _refuse(413, "the body is too long")
        return None


def is_tls(scope: Scope) -> bool:
    """Whether a request came by TLS, to this process or to the trusted proxy before it."""
    return bool(scope["scheme"] == "https")


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _refuse(status: int, why: str) -> JSONResponse:
    return JSONResponse({"detail": why}, status)

"""The station's guard: which requests pass, whoever sends them, and the headers on every answer.

It keeps a person's own browser from being turned against the station by another page. A foreign page cannot post
a verdict: a post must be JSON and come from the station's own page. It cannot reach the station through a name of
its own either (DNS rebinding): only known host names are answered. Who may do what is ``access``'s business.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from secondlook.cloud.station.problems import suited

ANY_HOST = "*"
MAX_BODY_BYTES = 64 * 1024
MAX_HEADERS = 100
MAX_HEADER_BYTES = 32 * 1024

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

    With ``tls_only`` a request that did not come by TLS, here or at a trusted proxy, is refused. ``origins`` are
    further addresses, as browsers show them, whose pages are the station's own. ``root_path`` is the folder below
    which a proxy shows the station; it may take it off or leave it on. HEAD is answered like GET, without the body.
    """

    def __init__(
        self,
        app: ASGIApp,
        allowed_hosts: Collection[str],
        *,
        tls_only: bool = False,
        origins: Collection[str] = (),
        root_path: str = "",
    ) -> None:
        self._app = app
        self._tls_only = tls_only
        self._allowed_hosts = frozenset(allowed_hosts)
        self._origins = frozenset(origins)
        self._root_path = root_path

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
                # What the station holds stays in no cache. Of its own files browsers ask each time whether one
                # changed, so that an upgrade is seen at once.
                api = within["path"].startswith("/api/")
                headers["cache-control"] = "no-store" if api else "no-cache"
            await send(message)

        within = self._without_root(scope)
        refusal = self._refusal(scope, Headers(scope=scope))
        if refusal is None and scope["path"] == self._root_path:
            refusal = RedirectResponse(f"{self._root_path}/", 308)
        answer = self._app if refusal is None else suited(within["path"], refusal)
        if scope["method"] == "HEAD":
            await answer({**within, "method": "GET"}, receive, _head_only(send_guarded))
        else:
            await answer(within, receive, send_guarded)

    def _without_root(self, scope: Scope) -> Scope:
        root = self._root_path
        if not root or not scope["path"].startswith(f"{root}/"):
            return scope
        raw = scope.get("raw_path") or b""
        return {
            **scope,
            "path": scope["path"].removeprefix(root),
            "raw_path": raw.removeprefix(root.encode()),
        }

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        sent = scope["headers"]
        if len(sent) > MAX_HEADERS or sum(len(name) + len(value) for name, value in sent) > MAX_HEADER_BYTES:
            return _refuse(431, "the headers are too many or too long")
        if self._without_root(scope)["path"] in _PROBES and scope["method"] in READING:
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
        if origin is not None and not self._is_own(origin, host):
            return _refuse(403, "this request comes from another site")
        length = headers.get("content-length", "")
        if not length.isdecimal():
            return _refuse(411, "the length of the body must be announced")
        if int(length) > MAX_BODY_BYTES:
            return _refuse(413, "the body is too long")
        return None

    def _is_own(self, origin: str, host: str) -> bool:
        try:
            return origin.lower() in self._origins or urlsplit(origin).netloc.lower() == host.lower()
        except ValueError:
            return False


def _head_only(send: Send) -> Send:
    """Pass on the start of an answer. The server then tells the app that nobody listens any more."""
    ended = False

    async def send_head(message: Message) -> None:
        nonlocal ended
        if message["type"] == "http.response.start":
            await send(message)
            ended = True
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        elif not ended:
            await send(message)

    return send_head


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

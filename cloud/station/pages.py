"""The station's pages: one document for all addresses of the page itself, the log-in, the API's description, and 404.

Addresses may be deep (``/reviews/12``) and lie below a folder of a proxy, so the documents are given the full address
of that folder when they are read; scripts find it by themselves.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from secondlook.cloud.station.access import GuardedRoute
from secondlook.cloud.station.assets import modules_of
from secondlook.cloud.station.problems import suited

PLACES = (
    "/",
    "/reviews",
    "/reviews/{number}",
    "/grid",
    "/frames",
    "/frames/{number}",
    "/cameras",
    "/history",
    "/people",
    "/figures",
)  # where the page itself is shown

_SCRIPT = re.compile(r'<script type="module" src="/static/([a-z]+\.js)">')
_STATIC = Path(__file__).parent / "static"


class Document:
    """An HTML file of ours, with its links led to ``root_path``."""

    def __init__(self, name: str, root_path: str) -> None:
        text = (_STATIC / name).read_text(encoding="utf-8")
        named: dict[str, None] = {}
        for script in _SCRIPT.findall(text):
            named |= dict.fromkeys(modules_of(_STATIC, script))
        links = "".join(f'<link rel="modulepreload" href="/static/{one}">\n  ' for one in named)
        text = text.replace("<script", f"{links}<script", 1)
        for attribute in ("href", "src", "action"):
            text = text.replace(f'{attribute}="/', f'{attribute}="{root_path}/')
        self._data = text.encode()
        self._etag = f'"{hashlib.sha256(self._data).hexdigest()[:32]}"'

    def answer(self, request: Request, status: int = 200) -> Response:
        headers = {"etag": self._etag}
        if status == 200 and request.headers.get("if-none-match") == self._etag:
            return Response(status_code=304, headers=headers)
        return Response(self._data, status, headers, media_type="text/html")


def build_pages(app: FastAPI, root_path: str) -> APIRouter:
    """Routes of the pages, and the page for addresses that there are not."""
    router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
    page, login, docs, missing = (
        Document(name, root_path) for name in ("index.html", "login.html", "docs.html", "missing.html")
    )

    def show_page(request: Request) -> Response:
        return page.answer(request)

    for place in PLACES:
        router.get(place)(show_page)

    @router.get("/login")
    def show_login(request: Request) -> Response:
        return login.answer(request)

    @router.get("/docs")
    def show_docs(request: Request) -> Response:
        return docs.answer(request)

    @router.get("/openapi.json")
    def openapi() -> JSONResponse:
        return JSONResponse(app.openapi())

    @app.exception_handler(404)
    def show_missing(request: Request, error: HTTPException) -> Response:
        wants_page = "text/html" in request.headers.get("accept", "")
        if wants_page and not request.scope["path"].startswith("/api/"):
            return missing.answer(request, 404)
        return suited(request.scope["path"], JSONResponse({"detail": error.detail}, 404))

    return router

"""The station's own files: scripts, style and icon, read and packed once, and served without a thread or a disk.

A browser asks for some forty of them when the page opens, and each time whether one changed.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from starlette._utils import get_route_path
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html"}


@dataclass(frozen=True)
class _Asset:
    media_type: str
    data: bytes
    packed: bytes
    etag: str

    @classmethod
    def read(cls, path: Path) -> _Asset:
        data = path.read_bytes()
        kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        digest = hashlib.sha256(data).hexdigest()[:32]
        return cls(kind, data, gzip.compress(data, mtime=0), f'"{digest}"')


class Assets:
    """ASGI application: the files of one folder, by name. They are read when it is made."""

    def __init__(self, folder: Path) -> None:
        self._files = {path.name: _Asset.read(path) for path in sorted(folder.iterdir()) if path.is_file()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, headers={"allow": "GET, HEAD"})
        asset = self._files.get(get_route_path(scope).removeprefix("/"))
        if asset is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        await _answer(asset, Headers(scope=scope))(scope, receive, send)


def _answer(asset: _Asset, asked: Headers) -> Response:
    headers = {"etag": asset.etag, "vary": "accept-encoding"}
    if asked.get("if-none-match") == asset.etag:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    if "gzip" not in asked.get("accept-encoding", ""):
        return Response(asset.data, headers=headers, media_type=asset.media_type)
    return Response(
        asset.packed, headers={**headers, "content-encoding": "gzip"}, media_type=asset.media_type
    )

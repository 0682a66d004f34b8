"""The station's own files: scripts, style and icon, read and packed once, and served without a thread or a disk.

A browser asks for some forty of them when the page opens, and each time whether one changed.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import re
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

_IMPORT = re.compile(r'^(?:import|export)[^;]*?from "\./([a-z]+\.js)";', re.MULTILINE)
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
        return cls(
            kind, data, gzip.compress(data, mtime=0), f'W/"{digest}"'
        )  # packed or not, it is the same file


class Assets:
    """The files of one folder, by name; they are read when it is made."""

    def __init__(self, folder: Path) -> None:
        self._files = {path.name: _Asset.read(path) for path in sorted(folder.iterdir()) if path.is_file()}

    async def answer(self, request: Request) -> Response:
        """To ``GET .../{name}``. Raises HTTPException where there is no such file."""
        asset = self._files.get(request.path_params["name"])
        if asset is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        headers = {"etag": asset.etag, "vary": "accept-encoding"}
        if request.headers.get("if-none-match") == asset.etag:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(asset.data, headers=headers, media_type=asset.media_type)
        packed = {**headers, "content-encoding": "gzip"}
        return Response(asset.packed, headers=packed, media_type=asset.media_type)


def modules_of(folder: Path, name: str) -> list[str]:
    """A script and all that it imports, however far off, each once: a page that names them has them fetched at once."""
    found, waiting = [name], [name]
    while waiting:
        text = (folder / waiting.pop()).read_text(encoding="utf-8")
        new = [other for other in dict.fromkeys(_IMPORT.findall(text)) if other not in found]
        found += new
        waiting += new
    return found

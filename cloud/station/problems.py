"""Refusals below /api/v1 are problem details (RFC 9457); elsewhere they stay what the page knows: `{"detail": ...}`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse, Response

PREFIX = "/api/v1/"
MEDIA_TYPE = "application/problem+json"
_KEPT_HEADERS = ("www-authenticate", "retry-after", "allow")


def problem(
    status: int,
    detail: str,
    headers: Mapping[str, str] | None = None,
    errors: Sequence[Mapping[str, Any]] | None = None,
) -> JSONResponse:
    """`errors` name what is wrong with single parameters: `{"loc": [...], "msg": ...}`."""
    status = int(status)
    content = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **({} if errors is None else {"errors": list(errors)}),
    }
    return JSONResponse(content, status, headers, media_type=MEDIA_TYPE)


def suited(path: str, refusal: Response) -> Response:
    """An answer, of which refusals are as those who ask for `path` expect it; `path` is without a proxy's folder."""
    known = refusal.media_type == MEDIA_TYPE or not isinstance(refusal, JSONResponse)
    if known or refusal.status_code < 400 or not path.startswith(PREFIX):
        return refusal
    detail = json.loads(bytes(refusal.body)).get("detail", "")
    errors = detail if isinstance(detail, list) else None
    text = "; ".join(_line(item) for item in errors) if errors is not None else str(detail)
    kept = {name: refusal.headers[name] for name in _KEPT_HEADERS if name in refusal.headers}
    return problem(refusal.status_code, text, kept, errors)


def _line(item: Mapping[str, Any]) -> str:
    return f"{item['loc'][-1]}: {item['msg']}" if item.get("loc") else str(item.get("msg", ""))

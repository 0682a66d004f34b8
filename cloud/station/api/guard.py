"""What holds for every route of the versioned API, beyond who may ask: limits, and no parameter that is not known."""

from __future__ import annotations

import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, get_args, get_origin

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.responses import JSONResponse

from secondlook.cloud.station.access import GuardedRoute
from secondlook.cloud.station.api.limits import CallerLimits


class ApiRoute(GuardedRoute):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._known = dict(_parameters(self.dependant))

    def further_refusal(self, request: Request) -> Response | None:
        limits: CallerLimits = request.app.state.api_limits
        wait = limits.wait_seconds(request.state.principal, time.monotonic())
        if wait:
            return JSONResponse(
                {"detail": f"too many requests; try again in {wait} s"},
                HTTPStatus.TOO_MANY_REQUESTS,
                {"retry-after": str(wait)},
            )
        given = [name for name, _ in request.query_params.multi_items()]
        for name in sorted(set(given)):
            if name not in self._known:
                known = f" (known: {', '.join(sorted(self._known))})" if self._known else ""
                return _unusable(f"unknown parameter: {name[:80]}{known}")
            if given.count(name) > 1 and not self._known[name]:
                return _unusable(f"the parameter {name} is given more than once")
        return None


def _parameters(dependant: Dependant) -> Iterator[tuple[str, bool]]:
    """The query parameters of a route, and whether each may come several times."""
    for field in dependant.query_params:
        kind = field.field_info.annotation
        yield field.alias, any(get_origin(one) is list for one in (kind, *get_args(kind)))
    for part in dependant.dependencies:
        yield from _parameters(part)


def _unusable(detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, HTTPStatus.UNPROCESSABLE_ENTITY)

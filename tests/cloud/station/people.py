"""Users of a station for tests, and browsers that are logged in as them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from fastapi import FastAPI

from secondlook.cloud.accounts import Role, add_user
from secondlook.cloud.catalogue import open_catalogue
from tests.cloud.station.seed import START

PASSWORDS = {"vera": "viewers look on", "rolf": "reviewers decide", "ada": "admins keep order"}
ROLES = {"vera": Role.VIEWER, "rolf": Role.REVIEWER, "ada": Role.ADMIN}


def add_people(catalogue_url: str) -> None:
    """One user a role."""
    import secondlook.cloud.accounts.schema  # noqa: F401 opening the catalogue makes its tables

    catalogue = open_catalogue(catalogue_url)
    for name, role in ROLES.items():
        add_user(catalogue, name, role, PASSWORDS[name], actor="test", now_ns=START)
    catalogue.close()


def log_in(client: httpx.Client, name: str, password: str | None = None) -> httpx.Response:
    """Log in; what the client sends from then on carries the session's CSRF token."""
    answer = client.post(
        "/api/login", json={"name": name, "password": password or PASSWORDS.get(name, "x" * 12)}
    )
    if answer.status_code == 200:
        client.headers["x-csrf-token"] = answer.json()["csrf"]
    return answer


@contextmanager
def as_user(address: str, name: str, **options: Any) -> Iterator[httpx.Client]:
    """A client that is logged in."""
    with httpx.Client(base_url=address, timeout=30, **options) as client:
        assert log_in(client, name).status_code == 200
        yield client


def all_routes(app: FastAPI) -> Iterator[Any]:
    """Every route of an app, those of included routers too."""
    pending = list(app.routes)
    while pending:
        route = pending.pop()
        included = getattr(route, "original_router", None)
        if included is not None:
            pending.extend(included.routes)
        else:
            yield route

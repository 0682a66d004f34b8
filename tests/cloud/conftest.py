"""Servers shared by the tests of one run, and what each test gets of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloud.queues import Engine
from tests.cloud.servers import NatsServer, PostgreSQL, nats_running, postgresql_running

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    with postgresql_running() as server:
        yield server


@pytest.fixture
def database_url(postgresql: PostgreSQL) -> str:
    """An empty database."""
    return postgresql.create(f"test{next(_numbers)}")


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NatsServer]:
    with nats_running() as server:
        yield server


@pytest.fixture
def nats_url(nats_server: NatsServer) -> str:
    """A queue of its own on the shared server."""
    return f"{nats_server.url}/test{next(_numbers)}"


@pytest.fixture(params=["sqlite", "postgresql"])
def catalogue_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Both databases that a catalogue may live in."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/new/catalogue.db"
    return str(request.getfixturevalue("database_url"))


@pytest.fixture(params=["sqlite", "jetstream"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    if request.param == "sqlite":
        where = str(tmp_path / "gateway.db")
    else:
        where = request.getfixturevalue("nats_url")
    engine = Engine(where)
    yield engine
    engine.close()

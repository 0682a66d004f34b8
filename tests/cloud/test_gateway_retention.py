"""Tombstones and ended requests do not stay at the gateway for ever, in its own file and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from secondlook.cloud.config import CloudConfig, RetentionConfig
from secondlook.cloud.gateway.server import Gateway
from secondlook.cloud.storage.ledger import FrameTombstone
from secondlook.cloud.storage.stores import Stores, open_stores
from tests.cloud.helpers import BOOT, free

NOW = 1_790_000_000.0
DAY = 86_400.0


@pytest.fixture(params=["sqlite", "postgresql"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> CloudConfig:
    ledger = request.getfixturevalue("database_url") if request.param == "postgresql" else None
    retention = RetentionConfig(tombstones_days=10, requests_days=5)
    return free(CloudConfig(data_dir=tmp_path, ledger=ledger, retention=retention))


@pytest.fixture
def stores(config: CloudConfig) -> Iterator[Stores]:
    stores = open_stores(config)
    yield stores
    stores.close()


def gap(seq: int, days: float) -> FrameTombstone:
    return FrameTombstone("gate", BOOT, seq, seq, "spool-full", int((NOW - days * DAY) * 1e9))


def ask(stores: Stores, seq: int, days: float) -> int:
    """A request whose deadline was so many days ago."""
    return stores.requests.ask(
        "gate", BOOT, seq, deadline=NOW - days * DAY, priority=5, blob_gone=False, now=NOW - days * DAY - 60
    )


def fill(stores: Stores) -> dict[int, int]:
    for seq, days in enumerate((20, 15, 3)):  # neighbours of one batch would become one
        stores.ledger.take(stores.queue, [], [gap(seq, days)], now=NOW)
    ids = {seq: ask(stores, seq, days) for seq, days in enumerate((20, 6, 1))}
    stores.requests.done(ids[0], "enhancement/x.slk")
    stores.requests.expire(now=NOW)
    ids[3] = ask(stores, 3, 9)  # open as yet, however late
    return ids


def test_a_gateway_deletes_what_is_too_old(config: CloudConfig, stores: Stores) -> None:
    ids = fill(stores)
    stores.close()
    with Gateway(config, clock=lambda: NOW) as gateway:
        gateway._turn(False, False, NOW)
    stores = open_stores(config)
    assert [gap.first_seq for _, gap in stores.ledger.tombstones_after(0, 9)] == [2]
    left = {seq for seq, id_ in ids.items() if stores.requests.get(id_) is not None}
    assert {0, 1} & left == set() and 2 in left
    # What was deleted is asked for anew, and what was received stays known.
    assert ask(stores, 0, -1) > max(ids.values())
    assert stores.ledger.received("gate", BOOT).cumulative == 2
    stores.close()


def test_it_deletes_a_few_at_a_time_and_nothing_without_an_age(config: CloudConfig, stores: Stores) -> None:
    fill(stores)
    stores.close()
    for_ever = replace(config, retention=RetentionConfig(tombstones_days=0, requests_days=0))
    with Gateway(for_ever, clock=lambda: NOW) as gateway:
        gateway._turn(False, False, NOW)
    stores = open_stores(config)
    assert len(stores.ledger.tombstones_after(0, 9)) == 3
    everything = int((NOW + DAY) * 1e9)
    assert [stores.ledger.forget_tombstones(before_ns=everything, most=2) for _ in range(3)] == [2, 1, 0]
    assert [stores.requests.forget(before=NOW + DAY, most=2) for _ in range(3)] == [2, 2, 0]
    stores.close()

"""What the broker makes of calls, without sockets: limits, faults of our own, whose lease is whose."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.cloud.config import CloudConfig
from secondlook.cloud.gateway.broker import _OPERATIONS, MAX_REQUEST_BYTES, Broker, _Call
from secondlook.cloud.storage.blobs import open_blobs
from secondlook.cloud.storage.ledger import FrameTombstone
from secondlook.cloud.storage.stores import open_stores
from tests.cloud.helpers import BOOT
from tests.cloud.queues import queued


@pytest.fixture(params=["sqlite", "postgresql"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    url = None if request.param == "sqlite" else request.getfixturevalue("database_url")
    stores = open_stores(CloudConfig(data_dir=tmp_path, ledger=url))
    blobs = open_blobs(str(tmp_path / "blobs"))
    yield Broker(stores.queue, stores.ledger, stores.requests, blobs, lambda: {"gate": ["bulk"]})
    stores.close()


def call(broker: Broker, op: str, caller: str = "", **arguments: object) -> list[object]:
    answer = broker.answer(msgpack.packb([1, op, arguments]), now=10.0, caller=caller)
    return list(msgpack.unpackb(answer)[1:])


def test_a_lease_belongs_to_the_key_that_took_it(broker: Broker) -> None:
    broker.queue.put([queued(0), queued(1)], now=1.0)
    well, leased = call(broker, "lease", "north", n=2, ttl_seconds=60, worker="w1")
    assert well
    ids = [row["id"] for row in leased]  # type: ignore[attr-defined]
    for caller, worker in (("south", "w1"), ("", "w1"), ("north", "w2"), ("", "north/w1/")):
        for op, arguments in (
            ("ack", {"ids": ids}),
            ("extend", {"ids": ids, "ttl_seconds": 60}),
            ("nack", {"id": ids[0], "delay_seconds": 0, "why": "x"}),
        ):
            assert call(broker, op, caller, worker=worker, **arguments)[:2] == [False, "LeaseLost"]
    assert broker.queue.depth == 2
    assert call(broker, "ack", "north", ids=ids, worker="w1") == [True, None]
    assert broker.queue.depth == 0


def test_figures_of_absurd_tombstones_are_told(broker: Broker) -> None:
    gaps = [FrameTombstone("gate", f"{n:032x}", 0, 2**53 - 1, "spool-full", 1) for n in range(2249)]
    broker.ledger.take(broker.queue, [], gaps, now=1.0)
    well, stats = call(broker, "stats")
    assert well
    assert stats["tombstones"] == 2**53 - 1  # type: ignore[call-overload]


def test_a_fault_of_ours_is_an_answer(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for result in (2**70, object()):
        monkeypatch.setitem(_OPERATIONS, "stats", (_Call, lambda *_, result=result: result))
        assert call(broker, "stats")[:2] == [False, "RequestRefused"]

    def divide(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setitem(_OPERATIONS, "stats", (_Call, divide))
    assert call(broker, "stats") == [False, "RequestRefused", "internal error: ZeroDivisionError"]
    # A line with its traceback, and no more than one a second.
    assert [record.message for record in caplog.records] == ["a worker's request failed"]


def test_the_dead_are_asked_for_within_limits(broker: Broker) -> None:
    for op, arguments in (
        ("dead_list", {"n": 501}),
        ("dead_list", {"n": 0}),
        ("dead_show", {"id": 2**53}),
        ("dead_requeue", {"ids": list(range(1, 502))}),
        ("dead_purge", {"ids": ["1"]}),
        ("dead_purge", {"ids": 1}),
        ("lease", {"n": 1, "ttl_seconds": 1, "worker": "a\0b"}),
    ):
        assert call(broker, op, **arguments)[:2] == [False, "PacketMalformed"], op
    assert call(broker, "dead_show", id=3)[:2] == [False, "RequestRefused"]
    assert call(broker, "dead_purge", ids=[1, 2, 3]) == [True, 0]
    assert call(broker, "dead_requeue", ids=[]) == [True, 0]


BOMBS = {
    "lists": b"\xdc\xff\xff" * 1020,
    "arguments": b"\x93\x01\xa5stats" + b"\x81\xa1a" * 1 + b"\xdc\xff\xff" * 1020,
    "maps": b"\x93\x01\xa5stats" + b"\xdf\xff\xff\xff\xff" * 1020,
    "ids": b"\x93\x01\xa3ack\x82\xa3ids" + b"\xdc\x01\xf4" * 1020,
    "many": b"\x93\x01\xa3ack\x81\xa3ids\xdc\xff\xff" + b"\x01" * 60_000,
    "text": b"\x93\x01\xdb\xff\xff\xff\xff" + b"a" * 60_000,
    "large": bytes(MAX_REQUEST_BYTES + 1),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_byte_of_a_hostile_request_costs_little(broker: Broker, name: str) -> None:
    bomb = BOMBS[name]
    costs = []
    for _ in range(7):
        began = time.process_time()
        for _ in range(20):
            assert msgpack.unpackb(broker.answer(bomb, now=1.0))[1:3] == [False, "PacketMalformed"]
        costs.append((time.process_time() - began) / 20)
    assert min(costs) < 0.000_5 + len(bomb) * 0.000_000_4, f"{min(costs) * 1e6:.0f} us"


_VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["gate", BOOT, "w1"])
    | st.lists(st.integers(-1, 2**64 - 1), max_size=5)
    | st.binary(max_size=3)
)
_NAMES = [
    *("n", "ttl_seconds", "worker", "ids", "id", "delay_seconds", "why", "edge_id", "boot_id", "seq"),
    *("deadline_seconds", "priority", "request_id", "after", "odd"),
]
_SHARED: list[Broker] = []


@given(st.sampled_from(sorted(_OPERATIONS)), st.dictionaries(st.sampled_from(_NAMES), _VALUES, max_size=7))
def test_every_call_is_answered(
    tmp_path_factory: pytest.TempPathFactory, op: str, arguments: dict[str, object]
) -> None:
    if not _SHARED:
        folder = tmp_path_factory.mktemp("broker")
        stores = open_stores(CloudConfig(data_dir=folder))
        blobs = open_blobs(str(folder / "blobs"))
        _SHARED.append(Broker(stores.queue, stores.ledger, stores.requests, blobs, dict))
    answer = msgpack.unpackb(_SHARED[0].answer(msgpack.packb([7, op, arguments]), now=5.0))
    assert answer[0] in (7, None)
    assert answer[1] is True or "internal error" not in answer[3]

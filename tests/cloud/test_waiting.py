"""Idle workers and refiners wait for what wakes them, and do not ask ten times a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from secondlook.cloud.catalogue import open_catalogue
from secondlook.cloud.config import BrokerConfig
from secondlook.cloud.gateway.broker import _OPERATIONS
from secondlook.cloud.gateway.waiting import Parked, Waiting
from secondlook.cloud.workers.broker_client import BrokerClient
from secondlook.shared.errors import PacketMalformed
from secondlook.shared.stop import Stop, descriptors
from tests.cloud.helpers import Edge, base_frame, grey, running, settings, wait_until
from tests.cloud.test_workers import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running(settings(tmp_path)) as gateway, Edge(gateway.edge_address) as edge:
        edge.hello()
        edge.hello("control")
        site = Site(gateway, edge, tmp_path)
        with site.broker:
            yield site
        site.catalogue.close()


def test_who_waits_is_answered_once_when_frames_come_or_time_is_over() -> None:
    waiting = Waiting()
    assert not waiting and waiting.due(now=9.0, has_frames=True) == []
    waiting.park(b"a", Parked(1, until=10.0))
    waiting.park(b"b", Parked(2, until=20.0))
    waiting.park(b"a", Parked(3, until=12.0))  # it gave up the call before
    assert waiting.due(now=11.9, has_frames=False) == []
    assert waiting.due(now=12.0, has_frames=False) == [(b"a", 3)]
    assert waiting.due(now=12.0, has_frames=True) == [(b"b", 2)]
    assert not waiting


def test_a_crowd_of_waiting_peers_is_bounded() -> None:
    waiting = Waiting()
    for number in range(10_003):
        waiting.park(b"%d" % number, Parked(number, until=99.0))
    assert [number for _, number in waiting.due(now=1.0, has_frames=False)] == [0, 1, 2]


def test_a_frame_wakes_a_worker_at_once(site: Site) -> None:
    began = time.monotonic()
    assert site.broker.wait(1.5) is False, "there was nothing"
    assert 1.0 < time.monotonic() - began < 4
    for seq in range(3):
        answered: list[float] = []

        def wait(answered: list[float] = answered) -> None:
            with BrokerClient(BrokerConfig(address=site.broker._config.address), "w2") as broker:
                assert broker.wait(1.5) is True
                answered.append(time.monotonic())
                (leased,) = broker.lease(1, 30)
                broker.ack([leased.id])

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.3)
        sent = time.monotonic()
        site.deliver(base_frame(seq, grey(1)))
        thread.join(10)
        assert answered and answered[0] - sent < 0.2


def test_while_others_hold_frames_nobody_waits(site: Site) -> None:
    site.deliver(base_frame(0, grey(1)))
    (leased,) = site.broker.lease(1, 30)
    began = time.monotonic()
    assert site.broker.wait(1.5) is True and time.monotonic() - began < 0.5
    site.broker.ack([leased.id])


def test_the_word_to_stop_ends_a_wait_and_the_line_stays_good(site: Site) -> None:
    stop = Stop()
    threading.Timer(0.1, stop.set).start()
    began = time.monotonic()
    assert site.broker.wait(1.5, descriptors(stop)) is False and time.monotonic() - began < 0.8
    assert site.broker.lease(1, 30) == [], "the answer that is late is passed over"
    time.sleep(1.7)
    assert site.broker.stats()["depth"] == 0


def test_a_gateway_of_an_earlier_version_is_asked_as_ever(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(_OPERATIONS, "wait")
    assert site.broker.wait(1.5) is False
    assert not site.broker._can_wait


def test_an_idle_worker_asks_now_and_then_and_works_at_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    exchange = BrokerClient._exchange

    def counted(client: BrokerClient, op: str, arguments: dict[str, object], wakes: object) -> object:
        asked.append(op)
        return exchange(client, op, arguments, wakes)  # type: ignore[arg-type]

    monkeypatch.setattr(BrokerClient, "_exchange", counted)
    stop = Stop()
    thread = threading.Thread(target=site.machine.run, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: "wait" in asked)
        asked.clear()
        time.sleep(4.0)
        assert 1 <= asked.count("lease") <= 4 and len(asked) <= 12, asked
        sent = time.monotonic()
        site.deliver(base_frame(0, grey(1)))
        wait_until(lambda: site.machine.done == 1)
        assert time.monotonic() - sent < 1.0
    finally:
        stop.set()
        thread.join(1.0)
    assert not thread.is_alive(), "it need not wait its time out to stop"


def test_a_catalogue_tells_when_anybody_has_written(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/catalogue.db"
    one, other = open_catalogue(url), open_catalogue(url)
    before = one.version()
    assert before is not None and one.version() == before
    with other.reading() as session:
        session.connection().exec_driver_sql("SELECT 1")
    assert one.version() == before
    for who in (one, other):
        with who.writing() as session:
            session.connection().exec_driver_sql("CREATE TABLE IF NOT EXISTS seen (n INTEGER)")
            session.connection().exec_driver_sql("INSERT INTO seen VALUES (1)")
        assert one.version() != before
        before = one.version()
    for catalogue in (one, other):
        catalogue.close()


def test_an_idle_refiner_looks_for_reviews_once_somebody_has_written(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[float] = []
    monkeypatch.setattr(site.refiner, "step", lambda: steps.append(time.monotonic()))
    stop = Stop()
    thread = threading.Thread(target=site.refiner.run, args=(stop,))
    thread.start()
    try:
        time.sleep(5.0)
        assert 2 <= len(steps) <= 4, "at the start, and every two seconds"
        before = len(steps)
        written = time.monotonic()
        site.deliver(base_frame(0, grey(1)))
        assert site.machine.step() == 1
        wait_until(lambda: len(steps) > before)
        assert steps[before] - written < 1.5
    finally:
        stop.set()
        thread.join(5)


def test_a_wait_that_makes_no_sense_is_refused(site: Site) -> None:
    for seconds in (-1, "x", 1e9):
        with pytest.raises(PacketMalformed, match=r"^wait: "):
            site.broker._exchange("wait", {"seconds": seconds}, ())

"""Several gateways with one queue, one ledger and one catalogue."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select, text

from secondlook.cloud import catalogue as cat
from secondlook.cloud.config import (
    BrokerConfig,
    CloudConfig,
    GatewayConfig,
    JetStreamConfig,
    PolicyConfig,
    QueueLimits,
    WorkerConfig,
)
from secondlook.cloud.gateway.server import Gateway
from secondlook.cloud.storage.blobs import open_blobs
from secondlook.cloud.storage.ledger import FrameTombstone
from secondlook.cloud.storage.requests import RequestState
from secondlook.cloud.storage.sql import open_engine
from secondlook.cloud.storage.stores import Stores, open_stores
from secondlook.cloud.workers.broker_client import BrokerClient
from secondlook.cloud.workers.machine import MachineWorker
from secondlook.shared import packet as p
from secondlook.shared.errors import ConfigError, StoreUnavailable, UnsupportedStore
from tests.cloud.helpers import BOOT, Edge, OneBox, PlainCodec, base_frame, free, grey, running, wait_until
from tests.cloud.queues import queued
from tests.cloud.servers import NatsServer, free_port, nats_running, postgresql_running

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path: Path, nats_url: str, database_url: str) -> CloudConfig:
    gateway = GatewayConfig(queue=QueueLimits(max_bytes=64 << 20))
    return free(CloudConfig(data_dir=tmp_path, queue=nats_url, catalogue=database_url, gateway=gateway))


def client(gateway: Gateway, worker: str = "w1") -> BrokerClient:
    return BrokerClient(BrokerConfig(address=gateway.broker_address), worker)


def deliver(edge: Edge, *seqs: int) -> None:
    for seq in seqs:
        edge.send(base_frame(seq, grey(seq % 200)))
    while edge.expect().cumulative < max(seqs):
        pass


def test_an_edge_that_moves_is_told_what_another_gateway_received(config: CloudConfig) -> None:
    with running(config) as first, running(config) as second:
        with Edge(first.edge_address) as here, Edge(second.edge_address) as there:
            assert here.hello().cumulative == -1
            deliver(here, *range(5))
            assert there.hello().cumulative == 4
            deliver(there, *range(3, 8))
            assert here.hello().cumulative == 7
        with client(first) as broker:
            stats = broker.stats()
            assert (stats["received"], stats["redelivered"], stats["depth"]) == (8, 2, 8)
            assert [edge["edge_id"] for edge in stats["edges"]] == ["gate"]


def test_a_lease_outlives_its_gateway(config: CloudConfig) -> None:
    with running(config) as first, Edge(first.edge_address) as edge, client(first) as broker:
        edge.hello()
        deliver(edge, 0, 1, 2)
        leased = broker.lease(3, 60)
    with running(config) as second, client(second) as broker, client(second, "w2") as other:
        broker.ack([leased[0].id])
        broker.extend([leased[1].id], 60)
        broker.nack(leased[2].id, delay_seconds=0, why="its key has not come")
        assert [(item.frame.info.seq, item.attempts) for item in other.lease(3, 60)] == [(2, 2)]
        assert other.stats()["depth"] == 2


def test_an_enhancement_is_asked_for_at_one_gateway_and_comes_to_another(config: CloudConfig) -> None:
    layer = b"enhancement" * 100
    with running(config) as first, running(config) as second, Edge(second.edge_address) as edge:
        edge.hello("control")
        with client(first) as broker:
            id_ = broker.request_enhancement("gate", BOOT, 3, deadline_seconds=60, priority=5)
            assert edge.expect("control").request_id == id_
            edge.send(p.Chunk(id_, 0, len(layer), zlib.crc32(layer), layer), "control")
            assert edge.expect("control") == p.ChunkCredit(id_, len(layer))
            state = broker.enhancement_state(id_)
            assert state.state is RequestState.DONE
            assert open_blobs(config.blobs_url).get(str(state.blob)) == layer


def test_a_single_gateway_may_keep_its_ledger_to_itself(tmp_path: Path, nats_url: str) -> None:
    gateway_config = GatewayConfig(queue=QueueLimits(max_bytes=64 << 20))
    config = free(CloudConfig(data_dir=tmp_path, queue=nats_url, gateway=gateway_config))
    with running(config) as gateway, Edge(gateway.edge_address) as edge:
        edge.hello()
        deliver(edge, 0, 1)
    with running(config) as gateway, Edge(gateway.edge_address) as edge, client(gateway) as broker:
        assert edge.hello().cumulative == 1
        deliver(edge, 1, 2)
        assert [item.frame.info.seq for item in broker.lease(9, 30)] == [0, 1, 2]


def test_tombstones_of_all_gateways_reach_a_worker(config: CloudConfig) -> None:
    with running(config) as first, running(config) as second:
        for gateway, seq in ((first, 0), (second, 5)):
            with Edge(gateway.edge_address) as edge:
                edge.hello()
                edge.send(p.Tombstone(BOOT, seq, seq + 4, "spool-full"))
                assert edge.expect().cumulative == seq + 4
        with client(first) as broker:
            assert [gap.first_seq for _, gap in broker.tombstones(0)] == [0, 5]


def test_nothing_is_acknowledged_while_the_queue_is_away(config: CloudConfig) -> None:
    with nats_running() as own:
        # Sooner than the edge of this test loses patience: what is on its way when the server dies waits for so long.
        patience = JetStreamConfig(timeout_seconds=2.0)
        config = CloudConfig(**{**vars(config), "queue": f"{own.url}/away", "jetstream": patience})
        with running(config) as gateway, Edge(gateway.edge_address) as edge, client(gateway) as broker:
            edge.hello()
            deliver(edge, 0)
            own.kill()
            edge.send(base_frame(1))
            heard = edge.expect()
            assert (heard.cumulative, heard.credit_bytes) == (0, 0)
            with pytest.raises(StoreUnavailable):
                broker.lease(1, 30)
            own.start()
            # Credit comes back by itself; then the frame is sent again, as an edge does.
            while isinstance(heard := edge.hear(seconds=20), p.Fault) or (
                heard is not None and heard.credit_bytes == 0
            ):
                pass
            assert heard is not None
            wait_until(lambda: is_taken(edge, 1), seconds=30)
            wait_until(lambda: leases(broker) == [0, 1], seconds=30)


def is_taken(edge: Edge, seq: int) -> bool:
    edge.send(base_frame(seq))
    heard = edge.hear(seconds=2.0)
    return isinstance(heard, p.Ack) and heard.cumulative >= seq


def leases(broker: BrokerClient) -> list[int]:
    try:
        return [item.frame.info.seq for item in broker.lease(4, 30)]
    except StoreUnavailable:
        return []


def test_nothing_is_acknowledged_while_the_ledger_is_away(config: CloudConfig) -> None:
    with postgresql_running() as own:
        config = CloudConfig(**{**vars(config), "ledger": own.create("away")})
        with running(config) as gateway, Edge(gateway.edge_address) as edge:
            edge.hello()
            deliver(edge, 0)
            own.process.send_signal(signal.SIGINT)  # ends every connection
            own.process.wait()
            edge.send(base_frame(1))
            while (heard := edge.hear(seconds=2.0)) is not None:
                if not isinstance(heard, p.Fault):  # it says that it is busy
                    assert (heard.cumulative, heard.credit_bytes) == (0, 0)


GATEWAY = """
queue = "{queue}"
catalogue = "{catalogue}"
data_dir = "{folder}"
[gateway]
edge_address = "tcp://127.0.0.1:{edges}"
queue.max_bytes = 60_000_000
[broker]
address = "tcp://127.0.0.1:{workers}"
"""


@contextmanager
def gateway_process(config: CloudConfig, number: int, edges: int, workers: int) -> Iterator[subprocess.Popen]:
    file = config.data_dir / f"gateway{number}.toml"
    file.write_text(
        GATEWAY.format(
            queue=config.queue,
            catalogue=config.catalogue,
            folder=config.data_dir,
            edges=edges,
            workers=workers,
        )
    )
    file.chmod(0o600)
    command = [sys.executable, "-m", "secondlook", "gateway", "--config", str(file)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=-3) as process:
        try:
            yield process
        finally:
            process.kill()


def send_all(edges: list[int], edge_id: str, frames: int) -> None:
    """An agent of few lines: sends until all is acknowledged, and goes to another gateway when one is silent.

    On one connection it sends a frame once. An agent that answered each acknowledgement with frames that it had sent
    before would be acknowledged for those as well, and drown in what it hears.
    """
    done, turn = -1, 0
    deadline = time.monotonic() + 60
    while done < frames - 1:
        assert time.monotonic() < deadline, f"{edge_id} stands at {done}"
        with Edge(f"tcp://127.0.0.1:{edges[turn % len(edges)]}", edge_id) as edge:
            turn, sent = turn + 1, done
            edge.send(p.Hello(edge_id, BOOT, "bulk", "yard", 0, 0, "test"))
            while (heard := edge.hear(seconds=1.5)) is not None:
                if isinstance(heard, p.Welcome | p.Ack):
                    assert isinstance(heard, p.Ack) or heard.cumulative >= done
                    done = max(done, heard.cumulative)
                    if done >= frames - 1:
                        break
                    for seq in range(max(done, sent) + 1, min(frames, done + 3)):
                        edge.send(base_frame(seq, grey(seq % 200)))
                        sent = seq
                    time.sleep(0.1)  # so that a gateway dies while it is on its way


def test_gateways_killed_while_edges_move_and_workers_work_lose_and_double_nothing(
    config: CloudConfig,
) -> None:
    frames, stop = 60, threading.Event()
    ports = [(free_port(), free_port()) for _ in range(2)]
    edge_ports = [edges for edges, _ in ports]

    def work(number: int) -> None:
        catalogue = cat.open_catalogue(config.catalogue_url)
        address = f"tcp://127.0.0.1:{ports[number % 2][1]}"
        with BrokerClient(BrokerConfig(address=address, timeout_seconds=3), f"w{number}") as broker:
            worker = WorkerConfig(lease_seconds=2.0, idle_seconds=0.05)
            blobs = open_blobs(config.blobs_url)
            MachineWorker(
                broker,
                PlainCodec(),
                OneBox(),
                catalogue,
                blobs,
                PolicyConfig(uncertain_apart_seconds=0),
                worker,
            ).run(stop)  # type: ignore[arg-type]
        catalogue.close()

    with ThreadPoolExecutor(6) as pool:
        workers = [pool.submit(work, number) for number in range(3)]
        agents = [
            pool.submit(send_all, order, f"edge-{number}", frames)
            for number, order in enumerate([edge_ports, edge_ports[::-1]])
        ]
        try:
            with gateway_process(config, 1, *ports[1]):
                with gateway_process(config, 0, *ports[0]) as doomed:
                    time.sleep(3.0)
                    os.kill(doomed.pid, signal.SIGKILL)
                with gateway_process(config, 0, *ports[0]):
                    for agent in agents:
                        agent.result()
                    with cat_opened(config) as catalogue:
                        wait_until(lambda: len(filed(catalogue)) >= 2 * frames, seconds=60)
        finally:
            stop.set()
        for one in workers:
            one.result()
    with cat_opened(config) as catalogue:
        assert filed(catalogue) == [(f"edge-{n}", seq) for n in range(2) for seq in range(frames)]


@contextmanager
def cat_opened(config: CloudConfig) -> Iterator[cat.Catalogue]:
    catalogue = cat.open_catalogue(config.catalogue_url)
    yield catalogue
    catalogue.close()


def filed(catalogue: cat.Catalogue) -> list[tuple[str, int]]:
    with catalogue.reading() as session:
        rows = session.execute(
            select(cat.Frame.edge_id, cat.Frame.seq).order_by(cat.Frame.edge_id, cat.Frame.seq)
        )
        return [(row[0], row[1]) for row in rows]


@pytest.fixture
def two(config: CloudConfig) -> Iterator[list[Stores]]:
    """The stores of two gateways."""
    stores = [open_stores(config), open_stores(config)]
    yield stores
    for each in stores:
        each.close()


def test_two_gateways_that_take_the_same_frames_count_each_once(two: list[Stores]) -> None:
    def take(stores: Stores) -> None:
        for start in range(0, 60, 3):
            batch = [queued(seq) for seq in range(start, start + 6)]
            assert stores.ledger.take(stores.queue, batch, [], now=time.time()) == {
                ("gate", batch[0].info.boot_id)
            }

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(take, two))
    for stores in two:
        stores.ledger.see_edge("gate", camera="yard", software="test", now_ns=1)
        assert stores.ledger.received("gate", queued(0).info.boot_id).cumulative == 62
        assert stores.ledger.totals() == {"received": 63, "redelivered": 2 * 120 - 63, "tombstones": 0}
        assert stores.queue.depth == 63


def test_a_reader_of_tombstones_misses_none_that_come_meanwhile(two: list[Stores]) -> None:
    def bury(number: int) -> None:
        for seq in range(40):
            gap = FrameTombstone(f"edge-{number}", BOOT, seq, seq, "spool-full", 1)
            two[number].ledger.take(two[number].queue, [], [gap], now=time.time())

    seen, last = [], 0
    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(bury, number) for number in range(2)]
        while not all(writer.done() for writer in writers) or two[0].ledger.tombstones_after(last, 1):
            for id_, gap in two[0].ledger.tombstones_after(last, 7):
                last = id_
                seen.append((gap.edge_id, gap.first_seq))
    assert sorted(seen) == [(f"edge-{number}", seq) for number in range(2) for seq in range(40)]


def test_two_refiners_that_ask_at_once_get_one_request(two: list[Stores]) -> None:
    def ask(stores: Stores) -> list[int]:
        return [
            stores.requests.ask("gate", BOOT, seq, deadline=99, priority=seq, blob_gone=False, now=1)
            for seq in range(20)
        ]

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(ask, two)
    assert first == second
    assert len(set(first)) == 20
    sent = [[request.id for request in stores.requests.to_send("gate", now=2)] for stores in two]
    assert sent == [[first[19], first[18], first[17], first[16]], []]


def test_a_ledger_of_the_version_before_gets_the_columns_it_lacks(config: CloudConfig) -> None:
    open_stores(config).close()
    engine = open_engine(config.catalogue_url, "test")
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE gateway_edges DROP COLUMN clock_offset_seconds"))
        connection.execute(text("UPDATE gateway_schema SET version = 1"))
    engine.dispose()
    for _ in range(2):
        stores = open_stores(config)
        stores.ledger.see_edge("gate", camera="yard", software="test", now_ns=1)
        stores.ledger.note_clock("gate", -600.25)
        assert [edge.clock_offset_seconds for edge in stores.ledger.edges()] == [-600.25]
        stores.close()


def test_a_ledger_of_a_later_version_is_refused(config: CloudConfig) -> None:
    open_stores(config).close()
    engine = open_engine(config.catalogue_url, "test")
    with engine.begin() as connection:
        connection.execute(text("UPDATE gateway_schema SET version = 9"))
    engine.dispose()
    with pytest.raises(UnsupportedStore, match="9"):
        open_stores(config)


def test_which_ledger_a_gateway_takes(tmp_path: Path) -> None:
    shared = "postgresql+psycopg://db/secondlook"
    assert CloudConfig().ledger_url is None
    assert CloudConfig(catalogue=shared).ledger_url is None
    assert CloudConfig(queue="nats://broker").ledger_url is None
    assert CloudConfig(queue="nats://broker", catalogue=shared).ledger_url == shared
    assert (
        CloudConfig(queue="nats://broker", catalogue=shared, ledger="postgresql://x").ledger_url
        == "postgresql://x"
    )
    with pytest.raises(ConfigError, match="postgresql"):
        open_stores(CloudConfig(data_dir=tmp_path, ledger="sqlite:///x.db"))


def test_a_queue_that_is_not_there_is_named(tmp_path: Path, nats_server: NatsServer) -> None:
    with pytest.raises(StoreUnavailable, match=r"nats://127\.0\.0\.1:1 "):
        quick = JetStreamConfig(timeout_seconds=0.5)
        open_stores(CloudConfig(data_dir=tmp_path, queue="nats://me:secret@127.0.0.1:1", jetstream=quick))
    for address in ("amqp://x", "nats://", "nats://x/a b", "nats://x/a?b=c"):
        with pytest.raises(ConfigError, match="queue"):
            open_stores(CloudConfig(data_dir=tmp_path, queue=address))

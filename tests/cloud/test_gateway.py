"""The gateway's sockets: real connections, keys, hostile peers, and the workers' line to the broker."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest
import zmq

from secondlook.cloud.config import BrokerConfig, GatewayConfig, QueueLimits
from secondlook.cloud.gateway.intake import Intake
from secondlook.cloud.gateway.server import Gateway
from secondlook.cloud.storage.requests import RequestState
from secondlook.cloud.workers.broker_client import BrokerClient
from secondlook.shared import packet as p
from secondlook.shared.errors import (
    ConfigError,
    GatewayUnreachable,
    LeaseLost,
    PacketMalformed,
    PortBusy,
    RequestRefused,
    StoreCorrupt,
)
from tests.cloud.helpers import BOOT, Edge, base_frame, running, settings, wait_until

ROOT = Path(__file__).parents[2]


def client(gateway: Gateway, worker: str = "w1") -> BrokerClient:
    return BrokerClient(BrokerConfig(address=gateway.broker_address), worker)


def test_frames_reach_a_worker_and_the_queue_empties(tmp_path: Path) -> None:
    with (
        running(settings(tmp_path)) as gateway,
        Edge(gateway.edge_address) as edge,
        client(gateway) as broker,
    ):
        assert isinstance(edge.hello(), p.Welcome)
        for seq in range(3):
            edge.send(base_frame(seq, bytes([seq + 1]) * 20))
        while edge.expect().cumulative < 2:
            pass
        leased = broker.lease(2, 30)
        assert [(item.frame.info.seq, item.frame.camera, item.frame.payload) for item in leased] == [
            (0, "yard", b"\1" * 20),
            (1, "yard", b"\2" * 20),
        ]
        broker.extend([item.id for item in leased], 60)
        broker.ack([leased[0].id])
        broker.nack(leased[1].id, delay_seconds=0, why="not now")
        assert [item.attempts for item in broker.lease(9, 30)] == [2, 1]
        with pytest.raises(LeaseLost):
            broker.extend([leased[0].id], 60)
        stats = broker.stats()
        assert (stats["depth"], stats["depth_bytes"], stats["received"], stats["dead"]) == (2, 40, 3, 0)
        assert [(row["edge_id"], row["channels"]) for row in stats["edges"]] == [("gate", ["bulk"])]


def test_a_routing_id_that_is_taken_cannot_disturb_who_has_it(tmp_path: Path) -> None:
    def dealer(context: zmq.Context[zmq.Socket[bytes]], address: str) -> zmq.Socket[bytes]:
        socket = context.socket(zmq.DEALER)
        socket.linger, socket.routing_id = 0, b"fixed"
        socket.connect(address)
        return socket

    def ask(socket: zmq.Socket[bytes], packet: p.Packet) -> p.Packet | None:
        socket.send_multipart(packet.to_frames())
        return p.parse(socket.recv_multipart()) if socket.poll(400) else None

    def hello(edge_id: str) -> p.Hello:
        return p.Hello(edge_id, BOOT, "bulk", "yard", 0, 0, "test")

    with running(settings(tmp_path)) as gateway, zmq.Context() as context:
        with dealer(context, gateway.edge_address) as first:
            assert isinstance(ask(first, hello("gate")), p.Welcome)
            with dealer(context, gateway.edge_address) as second:
                assert ask(second, hello("thief")) is None
                answer = ask(first, base_frame(0))
                assert isinstance(answer, p.Ack)
                assert answer.cumulative == 0
        with client(gateway) as broker:
            (item,) = broker.lease(9, 30)
            assert item.frame.edge_id == "gate"


def test_tombstones_reach_workers(tmp_path: Path) -> None:
    with (
        running(settings(tmp_path)) as gateway,
        Edge(gateway.edge_address) as edge,
        client(gateway) as broker,
    ):
        edge.hello()
        edge.send(p.Tombstone(BOOT, 0, 4, "spool-full"))
        assert edge.expect().cumulative == 4
        ((id_, gap),) = broker.tombstones(0)
        assert (gap.first_seq, gap.last_seq, gap.reason) == (0, 4, "spool-full")
        assert broker.tombstones(id_) == []


def test_an_enhancement_is_fetched_on_the_control_connection(tmp_path: Path) -> None:
    with (
        running(settings(tmp_path)) as gateway,
        Edge(gateway.edge_address) as edge,
        client(gateway) as broker,
    ):
        edge.hello("control")
        id_ = broker.request_enhancement("gate", BOOT, 4, deadline_seconds=60, priority=9)
        request = edge.expect("control")
        assert (request.request_id, request.boot_id, request.seq, request.priority) == (id_, BOOT, 4, 9)
        assert broker.enhancement_state(id_).state is RequestState.SENT
        edge.send(p.Chunk(id_, 0, 5, 0x3610A686, b"hello"), "control")
        assert edge.expect("control") == p.ChunkCredit(id_, 5)
        done = broker.enhancement_state(id_)
        assert (done.state, done.blob) == (RequestState.DONE, f"enhancement/gate/{BOOT}/4.slk")
        assert broker.request_enhancement("gate", BOOT, 4, deadline_seconds=60, priority=9) == id_
        (tmp_path / "blobs" / str(done.blob)).unlink()
        assert broker.request_enhancement("gate", BOOT, 4, deadline_seconds=60, priority=9) != id_
        with pytest.raises(RequestRefused):
            broker.enhancement_state(999)


def test_hostile_messages_leave_both_sockets_serving(tmp_path: Path) -> None:
    hello = p.Hello("gate", BOOT, "bulk", "yard", 0, 0, "test").to_frames()
    with (
        running(settings(tmp_path)) as gateway,
        Edge(gateway.edge_address) as edge,
        client(gateway) as broker,
    ):
        for frames in (
            [b""],
            [b"\xc1", b""],
            [b"x" * 70_000, b""],
            [*hello, b"more"],
            hello[:1],
            [b"", b"", b""],
        ):
            edge.say(frames)
            fault = edge.expect()
            assert isinstance(fault, p.Fault) and fault.code == "rejected"
        assert isinstance(edge.hello(), p.Welcome)
        header, payload = base_frame(0).to_frames()
        edge.say([header, payload + b"!"])
        assert edge.expect().code == "rejected"

        context = zmq.Context()
        raw = context.socket(zmq.DEALER)
        raw.linger = 0
        raw.connect(gateway.broker_address)
        calls = [
            [1, "lease", {"n": 10**9, "ttl_seconds": 1, "worker": "w"}],
            [1, "lease", {"n": True, "ttl_seconds": 1, "worker": "w"}],
            [1, "lease", {"n": 1, "ttl_seconds": float("nan"), "worker": "w"}],
            [1, "lease", {"n": 1, "ttl_seconds": 1, "worker": "w", "more": 1}],
            [1, "ack", {"ids": [1, "x"]}],
            [1, "request_enhancement", {"edge_id": "../..", "boot_id": BOOT, "seq": 1}],
            [1, "drop_everything", {}],
            ["one", "stats", {}],
            [1, "stats"],
            "stats",
        ]
        for message in [b"", b"\xc1", *map(msgpack.packb, calls)]:
            raw.send(message)
            assert raw.poll(5000), message
            assert msgpack.unpackb(raw.recv())[1:3] == [False, "PacketMalformed"], message
        raw.send_multipart([b"two", b"frames"])
        with pytest.raises(PacketMalformed):
            broker.nack(0, delay_seconds=0, why="no such id")
        assert broker.stats()["depth"] == 0
        context.destroy(linger=0)


def test_a_busy_port_is_named(tmp_path: Path) -> None:
    with running(settings(tmp_path / "one")) as gateway:
        config = settings(tmp_path / "two")
        busy = replace(config, gateway=replace(config.gateway, edge_address=gateway.edge_address))
        with pytest.raises(PortBusy, match=gateway.edge_address.rpartition(":")[2]):
            Gateway(busy)
        busy = replace(config, broker=BrokerConfig(address=gateway.broker_address))
        with pytest.raises(PortBusy):
            Gateway(busy)


def test_a_call_without_gateway_times_out_and_recovers(tmp_path: Path) -> None:
    with running(settings(tmp_path)) as gateway:
        address = gateway.broker_address
    with BrokerClient(BrokerConfig(address=address, timeout_seconds=0.2), "w1") as broker:
        with pytest.raises(GatewayUnreachable, match=address):
            broker.stats()
        config = settings(tmp_path)
        with running(replace(config, broker=BrokerConfig(address=address))):
            wait_until(lambda: _answers(broker))


def _answers(broker: BrokerClient) -> bool:
    try:
        return broker.stats()["depth"] == 0
    except GatewayUnreachable:
        return False


def test_plain_connections_stay_on_this_machine(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keys"):
        GatewayConfig(edge_address="tcp://0.0.0.0:7601")
    with pytest.raises(ConfigError, match="keys"):
        Gateway(replace(settings(tmp_path), broker=BrokerConfig(address="tcp://0.0.0.0:0")))
    with pytest.raises(ConfigError, match="keys"):
        BrokerClient(BrokerConfig(address="tcp://192.0.2.1:7602"), "w1")


def test_a_database_that_breaks_ends_the_gateway_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.db").write_bytes(b"no database, only text " * 100)
    config = settings(tmp_path)

    def read_damaged(*_: object, **__: object) -> None:
        with contextlib.closing(sqlite3.connect(tmp_path / "text.db")) as damaged:
            damaged.execute("SELECT * FROM queue")

    with pytest.raises(StoreCorrupt, match=r"gateway\.db"), running(config):
        monkeypatch.setattr(Intake, "tick", read_damaged)


def test_limits_of_settings_are_checked() -> None:
    with pytest.raises(ConfigError):
        QueueLimits(max_bytes=0)
    with pytest.raises(ConfigError, match="together"):
        GatewayConfig(registry_file=Path("registry.json"))


_BUSY_GATEWAY = """
import sys, threading, time
from pathlib import Path
from secondlook.cloud.gateway.server import Gateway
from tests.cloud.helpers import settings
with Gateway(settings(Path(sys.argv[1]))) as gateway:
    print(gateway.edge_address, flush=True)
    time.sleep(8)
    stop = threading.Event()
    threading.Timer(1, stop.set).start()
    gateway.run(stop)
print("ended", flush=True)
"""
_FLOOD = """
import contextlib, os, socket, struct, sys, time, zmq
with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
    dealer.connect(sys.argv[1])
    for _ in range(800):
        dealer.send(bytes(20_000))
    time.sleep(1)
    for descriptor in map(int, os.listdir("/proc/self/fd")):  # a reset ends the connection, no farewell
        with contextlib.suppress(OSError):
            wire = socket.socket(fileno=os.dup(descriptor))
            wire.getpeername()
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    print("sent", flush=True)
    time.sleep(60)
"""


def test_a_connection_that_breaks_while_its_messages_wait_does_no_harm(tmp_path: Path) -> None:
    """The gateway is busy, a peer fills its queue and is gone: with ZeroMQ's heartbeats on, that is an abort."""
    pipes = {"stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    gateway = subprocess.Popen([sys.executable, "-c", _BUSY_GATEWAY, str(tmp_path)], **pipes)  # type: ignore[call-overload]
    flood = subprocess.Popen([sys.executable, "-c", _FLOOD, gateway.stdout.readline().strip()], **pipes)  # type: ignore[call-overload]
    try:
        assert flood.stdout.readline() == "sent\n"
        flood.kill()
        assert gateway.stdout.readline() == "ended\n"
        assert gateway.wait() == 0
    finally:
        for process in (flood, gateway):
            process.kill()
            process.wait()
            process.stdout.close()

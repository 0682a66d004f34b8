"""The gateway's sockets: real connections, keys, hostile peers, and the workers' line to the broker."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import stat
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest
import zmq

from cloud.broker_client import BrokerClient
from cloud.config import BrokerConfig, CloudConfig, GatewayConfig
from cloud.gateway import Gateway
from cloud.intake import Intake
from cloud.keys import Registry, Role, create_key_files, read_key_file, read_secret_key_file
from cloud.queue import QueueLimits
from cloud.requests import RequestState
from shared import packet as p
from shared.errors import (
    ConfigError,
    GatewayUnreachable,
    KeyRejected,
    LeaseLost,
    PacketMalformed,
    PortBusy,
    RequestRefused,
    StoreCorrupt,
)
from tests.cloud.helpers import BOOT, Edge, base_frame, running, settings, wait_until


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
        assert [(item.frame.seq, item.frame.camera, item.frame.payload) for item in leased] == [
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


@pytest.fixture
def keyed(tmp_path: Path) -> CloudConfig:
    """Settings of a gateway with keys, where ``gate`` and ``yard`` are registered."""
    create_key_files(tmp_path / "keys", "gateway")
    registry = Registry(tmp_path / "keys" / "registry.json")
    for name in ("gate", "yard"):
        registry.add(name, Role.EDGE, create_key_files(tmp_path / "keys", name).public.decode())
    return settings(
        tmp_path / "data",
        secret_key_file=tmp_path / "keys" / "gateway.key_secret",
        registry_file=tmp_path / "keys" / "registry.json",
    )


def curve(folder: Path, name: str) -> tuple[bytes, bytes, bytes]:
    server = read_key_file(folder / "gateway.key").public
    return (server, *read_secret_key_file(folder / f"{name}.key_secret"))


def test_a_registered_key_speaks_for_its_edge_only(keyed: CloudConfig, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    with running(keyed) as gateway:
        with Edge(gateway.edge_address, "gate", curve(keys, "gate")) as edge:
            assert isinstance(edge.hello(), p.Welcome)
        with Edge(gateway.edge_address, "gate", curve(keys, "yard")) as edge:
            fault = edge.hello()
            assert isinstance(fault, p.Fault) and fault.code == "wrong-edge"
            edge.send(base_frame(0))
            assert edge.expect().code == "hello-first"


def test_unregistered_keys_and_plain_connections_get_nowhere(keyed: CloudConfig, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    create_key_files(keys, "stranger")
    hello = p.Hello("gate", BOOT, "bulk", "yard", 0, 0, "test")
    with running(keyed) as gateway:
        for secrets in (curve(keys, "stranger"), None):
            with Edge(gateway.edge_address, "gate", secrets) as edge:
                edge.send(hello)
                assert edge.hear(seconds=0.4) is None


def test_revoking_a_key_silences_its_open_connection(keyed: CloudConfig, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    with running(keyed) as gateway, Edge(gateway.edge_address, "gate", curve(keys, "gate")) as edge:
        edge.hello()
        Registry(keys / "registry.json").revoke("gate")

        def is_refused() -> bool:
            edge.send(base_frame(0))
            answer = edge.expect()
            return isinstance(answer, p.Fault) and answer.code == "key-revoked"

        wait_until(is_refused)
        with Edge(gateway.edge_address, "gate", curve(keys, "gate")) as again:
            again.send(p.Hello("gate", BOOT, "bulk", "yard", 0, 0, "test"))
            assert again.hear(seconds=0.4) is None


def test_a_registry_that_makes_no_sense_leaves_the_keys_as_they_were(
    keyed: CloudConfig, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    with running(keyed) as gateway:
        (keys / "registry.json").write_text("{")
        with Edge(gateway.edge_address, "gate", curve(keys, "gate")) as edge:
            assert isinstance(edge.hello(), p.Welcome)


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


def test_key_files_are_private_and_never_overwritten(tmp_path: Path) -> None:
    pair = create_key_files(tmp_path, "gate")
    secret = tmp_path / "gate.key_secret"
    assert stat.S_IMODE(os.stat(secret).st_mode) == 0o600
    assert read_secret_key_file(secret) == (pair.public, pair.secret)
    with pytest.raises(ConfigError, match="exists"):
        create_key_files(tmp_path, "gate")
    with pytest.raises(KeyRejected):
        read_secret_key_file(tmp_path / "gate.key")
    with pytest.raises(KeyRejected):
        read_key_file(tmp_path / "none.key")
    with pytest.raises(ConfigError, match="name"):
        create_key_files(tmp_path, "../gate")


def test_the_registry_refuses_doubles_and_nonsense(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    registry = Registry(path)
    registry.add("gate", Role.EDGE, "k" * 40)
    for name, key in (("gate", "l" * 40), ("yard", "k" * 40), ("No Name", "m" * 40)):
        with pytest.raises(ConfigError):
            registry.add(name, Role.EDGE, key)
    assert registry.find("k" * 40, Role.WORKER) is None
    registry.revoke("gate")
    with pytest.raises(ConfigError):
        registry.revoke("gate")
    registry.add("gate", Role.EDGE, "l" * 40)
    again = Registry(path)
    assert again.find("k" * 40, Role.EDGE) is None
    assert again.find("l" * 40, Role.EDGE) is not None
    for text in ("[]", "{", json.dumps({"keys": [{"name": "x"}]})):
        path.write_text(text)
        with pytest.raises(KeyRejected):
            Registry(path)


def test_limits_of_settings_are_checked() -> None:
    with pytest.raises(ConfigError):
        QueueLimits(max_bytes=0)
    with pytest.raises(ConfigError, match="together"):
        GatewayConfig(registry_file=Path("registry.json"))

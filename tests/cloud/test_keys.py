"""Key files, the registry, and what a gateway with keys lets whom do; over real sockets where that matters."""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import zmq
from zmq.utils import z85

from secondlook.cloud.config import BrokerConfig, CloudConfig
from secondlook.cloud.gateway.keys import Registry, Role, answer_zap, create_key_files
from secondlook.cloud.gateway.server import Gateway
from secondlook.cloud.workers.broker_client import BrokerClient
from secondlook.main import main
from secondlook.shared import packet as p
from secondlook.shared.errors import ConfigError, GatewayUnreachable, KeyRejected, SecretExposed
from secondlook.shared.keyfiles import read_key_pair, read_public_key
from tests.cloud.helpers import BOOT, Edge, base_frame, running, settings, wait_until

HELLO = p.Hello("gate", BOOT, "bulk", "yard", 0, 0, "test")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder with the gateway's keys and those of two edges and a worker, all registered."""
    folder = tmp_path / "keys"
    create_key_files(folder, "gateway")
    registry = Registry(folder / "registry.json")
    for name, role in (("gate", Role.EDGE), ("yard", Role.EDGE), ("worker-1", Role.WORKER)):
        registry.add(name, role, create_key_files(folder, name).public.decode(), now=0)
    return folder


@pytest.fixture
def keyed(keys: Path, tmp_path: Path) -> CloudConfig:
    """Settings of a gateway with those keys; its socket for workers faces the network, so it has keys too."""
    config = settings(
        tmp_path / "data",
        secret_key_file=keys / "gateway.key_secret",
        registry_file=keys / "registry.json",
        handshake_seconds=1.0,
    )
    return replace(config, broker=BrokerConfig(address="tcp://0.0.0.0:0", timeout_seconds=5))


def curve(folder: Path, name: str) -> tuple[bytes, bytes, bytes]:
    return (read_public_key(folder / "gateway.key"), *read_key_pair(folder / f"{name}.key_secret"))


def registered(keys: Path) -> Registry:
    return Registry(keys / "registry.json")


def worker_client(gateway: Gateway, keys: Path, name: str | None, timeout: float = 5.0) -> BrokerClient:
    port = gateway.broker_address.rpartition(":")[2]
    return BrokerClient(
        BrokerConfig(
            address=f"tcp://127.0.0.1:{port}",
            server_public_key_file=None if name is None else keys / "gateway.key",
            secret_key_file=None if name is None else keys / f"{name}.key_secret",
            timeout_seconds=timeout,
        ),
        "w1",
    )


@contextmanager
def watched(socket: zmq.Socket[bytes]) -> Iterator[zmq.Socket[bytes]]:
    """The monitor of a socket: its connection's events."""
    monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH)
    try:
        yield monitor
    finally:
        socket.disable_monitor()
        monitor.close(0)


def stored(gateway: Gateway, keys: Path) -> int:
    """Frames that the gateway has received, as a worker hears it."""
    with worker_client(gateway, keys, "worker-1") as broker:
        return int(broker.stats()["received"])


# --- who gets in


def test_a_registered_key_speaks_for_its_edge_only(keyed: CloudConfig, keys: Path) -> None:
    with running(keyed) as gateway:
        with Edge(gateway.edge_address, "gate", curve(keys, "gate")) as edge:
            assert isinstance(edge.hello(), p.Welcome)
        with Edge(gateway.edge_address, "gate", curve(keys, "yard")) as edge:
            fault = edge.hello()
            assert isinstance(fault, p.Fault) and fault.code == "wrong-edge"
            for packet in (base_frame(0), p.Tombstone(BOOT, 0, 4, "spool-full")):
                edge.send(packet)
                assert edge.expect().code == "hello-first"
        assert stored(gateway, keys) == 0


def test_unregistered_keys_and_plain_connections_get_nowhere(keyed: CloudConfig, keys: Path) -> None:
    create_key_files(keys, "stranger")
    with running(keyed) as gateway:
        # A worker's key opens no connection for edges.
        for secrets in (curve(keys, "stranger"), None, curve(keys, "worker-1")):
            with Edge(gateway.edge_address, "gate", secrets) as edge:
                edge.send(HELLO)
                assert edge.hear(seconds=0.4) is None


def test_workers_speak_over_curve(keyed: CloudConfig, keys: Path) -> None:
    create_key_files(keys, "stranger")
    with running(keyed) as gateway:
        with Edge(gateway.edge_address, "gate", curve(keys, "gate")) as edge:
            edge.hello()
            edge.send(base_frame(0, b"over curve"))
            edge.expect()
        with worker_client(gateway, keys, "worker-1") as broker:
            (leased,) = broker.lease(4, 30)
            assert (leased.frame.edge_id, leased.frame.payload) == ("gate", b"over curve")
        for name in ("stranger", "gate", None):
            with worker_client(gateway, keys, name, timeout=0.5) as broker, pytest.raises(GatewayUnreachable):
                broker.stats()


def test_zap_refuses_what_makes_no_sense(keys: Path) -> None:
    registry = registered(keys)
    key = z85.decode(read_public_key(keys / "gate.key"))
    good = [b"1.0", b"7", b"edge", b"127.0.0.1", b"", b"CURVE", key]
    assert answer_zap(good, registry, now=1)[2:4] == [b"200", b"OK"]
    for position, value in (
        (0, b"2.0"),
        (2, b"worker"),
        (2, b"gateway"),
        (2, b"\xff"),
        (5, b"NULL"),
        (6, b"x"),
    ):
        asked = [*good]
        asked[position] = value
        assert answer_zap(asked, registry, now=1)[2] == b"400", (position, value)
    for length in range(len(good)):
        assert answer_zap(good[:length], registry, now=1)[2] == b"400"


# --- revocation


def test_revocation_cuts_a_live_connection(keyed: CloudConfig, keys: Path) -> None:
    """Nothing more is taken from the revoked edge, nothing more sent to it, and nobody else notices."""
    with (
        running(keyed) as gateway,
        Edge(gateway.edge_address, "gate", curve(keys, "gate")) as edge,
        Edge(gateway.edge_address, "yard", curve(keys, "yard")) as other,
        watched(other.bulk) as others_events,
        worker_client(gateway, keys, "worker-1") as broker,
    ):
        for one in (edge, other):
            one.hello()
            one.hello("control")
            one.send(base_frame(0))
            one.expect()
        assert broker.stats()["received"] == 2
        with watched(edge.bulk) as bulk_events, watched(edge.control) as control_events:
            registered(keys).revoke("gate", now=1)
            # Neither connection says anything: they are cut all the same.
            assert bulk_events.poll(5000) and control_events.poll(5000)
            request = broker.request_enhancement("gate", BOOT, 0, deadline_seconds=60, priority=9)
            for seq in range(1, 50):
                edge.send(base_frame(seq))
            assert edge.hear("control", seconds=1.0) is None and edge.hear(seconds=0.1) is None
            assert broker.enhancement_state(request).state.value == "pending"
        assert [row["channels"] for row in broker.stats()["edges"]] == [[], ["bulk", "control"]]
        other.send(base_frame(1))
        assert other.expect().cumulative == 1
        assert not others_events.poll(0)
        assert broker.stats()["received"] == 3


def test_a_connection_that_never_said_hello_is_cut_when_it_speaks(keyed: CloudConfig, keys: Path) -> None:
    with (
        running(keyed) as gateway,
        Edge(gateway.edge_address, "gate", curve(keys, "gate")) as edge,
        watched(edge.bulk) as events,
    ):
        edge.send(p.Ping(1))
        assert edge.expect().code == "hello-first"
        registered(keys).revoke("gate", now=1)
        time.sleep(0.6)  # the gateway looks four times a second
        edge.send(HELLO)
        assert events.poll(5000)
        assert edge.hear(seconds=0.5) is None


def test_a_revoked_worker_is_cut(keyed: CloudConfig, keys: Path) -> None:
    with running(keyed) as gateway, worker_client(gateway, keys, "worker-1", timeout=1.0) as broker:
        broker.stats()
        registered(keys).revoke("worker-1", now=1)
        time.sleep(0.6)
        with pytest.raises(GatewayUnreachable):
            broker.stats()


def test_a_registry_that_makes_no_sense_leaves_the_keys_as_they_were(keyed: CloudConfig, keys: Path) -> None:
    with running(keyed) as gateway:
        (keys / "registry.json").write_text("{")
        with Edge(gateway.edge_address, "gate", curve(keys, "gate")) as edge:
            assert isinstance(edge.hello(), p.Welcome)


# --- rotation


def test_both_keys_are_good_during_the_overlap_and_the_old_one_is_cut_after(
    keyed: CloudConfig, keys: Path
) -> None:
    """An edge that changes its key in time loses nothing and is never refused."""
    overlap = 2.0
    with (
        running(keyed) as gateway,
        Edge(gateway.edge_address, "gate", curve(keys, "gate")) as old,
        watched(old.bulk) as events,
    ):
        old.hello()
        old.send(base_frame(0))
        assert old.expect().cumulative == 0
        new_key = create_key_files(keys, "gate", "gate.2").public.decode()
        registered(keys).rotate("gate", new_key, overlap_seconds=overlap, now=time.time())
        with Edge(gateway.edge_address, "gate", curve(keys, "gate.2")) as new:
            assert new.hello().cumulative == 0
            for seq in (1, 3):  # turn and turn about
                old.send(base_frame(seq))
                while old.expect().cumulative < seq:
                    pass
                new.send(base_frame(seq + 1))
                while new.expect().cumulative < seq + 1:
                    pass
            assert events.poll(int(overlap * 1000) + 3000)
            old.send(base_frame(99))
            assert old.hear(seconds=0.5) is None
            new.send(base_frame(5))
            assert new.expect().cumulative == 5
        assert stored(gateway, keys) == 6


def test_rotation_in_the_registry(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry.json")
    with pytest.raises(ConfigError, match="no key to rotate"):
        registry.rotate("gate", "a" * 40, overlap_seconds=10, now=0)
    registry.add("gate", Role.EDGE, "a" * 40, now=0)
    with pytest.raises(ConfigError, match="registered already"):
        registry.rotate("gate", "a" * 40, overlap_seconds=10, now=0)
    registry.rotate("gate", "b" * 40, overlap_seconds=10, now=0)
    registry.rotate("gate", "c" * 40, overlap_seconds=100, now=5)

    def good(now: float) -> str:
        again = Registry(tmp_path / "registry.json")
        return "".join(key for key in "abc" if again.find(key * 40, Role.EDGE, now))

    # The second rotation does not prolong the first overlap.
    assert [good(now) for now in (5, 9.9, 10, 104.9, 105)] == ["abc", "abc", "bc", "bc", "c"]
    registry.revoke("gate", only_rotated=True, now=9)
    assert good(9) == "c"
    registry.revoke("gate", now=9)
    assert good(9) == ""
    registry.add("gate", Role.EDGE, "d" * 40, now=9)


def test_rotation_without_overlap_cuts_at_once(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry.json")
    registry.add("gate", Role.EDGE, "a" * 40, now=0)
    registry.rotate("gate", "b" * 40, overlap_seconds=0, now=7)
    assert registry.find("a" * 40, Role.EDGE, 7) is None
    assert registry.find("b" * 40, Role.EDGE, 7) is not None


def test_the_commands_rotate_list_and_revoke(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def keys(*arguments: str) -> str:
        main(["keys", *arguments])
        said = capsys.readouterr()
        return said.out + said.err

    assert keys("new", "gate").startswith("keys/gate.key_secret\nowner ")
    assert keys("rotate", "gate", "--overlap-hours", "1").startswith("keys/gate.2.key_secret\n")
    old, new = keys("list").splitlines()
    assert old.split()[1:4] == ["edge", "active", "gate"] and "until" in old and "until" not in new
    assert keys("revoke", "gate", "--rotated") == ""
    assert [line.split()[2] for line in keys("list").splitlines()] == ["revoked", "active"]
    assert "no key to rotate" in keys("rotate", "yard")


# --- secrets


def test_key_files_are_private_and_never_overwritten(tmp_path: Path) -> None:
    pair = create_key_files(tmp_path, "gate")
    secret = tmp_path / "gate.key_secret"
    assert stat.S_IMODE(os.stat(secret).st_mode) == 0o600
    assert read_key_pair(secret) == (pair.public, pair.secret)
    with pytest.raises(ConfigError, match="exists"):
        create_key_files(tmp_path, "gate")
    with pytest.raises(KeyRejected):
        read_key_pair(tmp_path / "gate.key")
    with pytest.raises(KeyRejected):
        read_public_key(tmp_path / "none.key")
    with pytest.raises(ConfigError, match="name"):
        create_key_files(tmp_path, "../gate")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o601])
def test_a_secret_that_others_may_read_is_refused(keyed: CloudConfig, keys: Path, mode: int) -> None:
    secret = keys / "gateway.key_secret"
    secret.chmod(mode)
    with pytest.raises(SecretExposed, match=rf"gateway\.key_secret.*{mode:o}.*chmod 600"):
        Gateway(keyed)
    secret = keys / "worker-1.key_secret"
    secret.chmod(mode)
    config = BrokerConfig("tcp://192.0.2.1:1", keys / "gateway.key", secret)
    with pytest.raises(SecretExposed, match="worker-1"):
        BrokerClient(config, "w1")


def test_secrets_are_neither_logged_nor_among_the_arguments(
    keyed: CloudConfig, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secrets = [read_key_pair(path)[1].decode() for path in keys.glob("*.key_secret")]
    with caplog.at_level(logging.DEBUG), running(keyed) as gateway:
        with Edge(gateway.edge_address, "gate", curve(keys, "gate")) as edge:
            edge.hello()
            edge.say([b"nonsense"])
            edge.expect()
        registered(keys).revoke("gate", now=1)
        (keys / "registry.json").write_text("{")
        time.sleep(0.6)
    assert len(secrets) == 4 and caplog.text
    assert not [secret for secret in secrets if secret in caplog.text]


def test_the_registry_refuses_doubles_and_nonsense(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    registry = Registry(path)
    registry.add("gate", Role.EDGE, "k" * 40, now=0)
    for name, key in (("gate", "l" * 40), ("yard", "k" * 40), ("No Name", "m" * 40)):
        with pytest.raises(ConfigError):
            registry.add(name, Role.EDGE, key, now=0)
    assert registry.find("k" * 40, Role.WORKER, 0) is None
    registry.revoke("gate", now=0)
    with pytest.raises(ConfigError):
        registry.revoke("gate", now=0)
    registry.add("gate", Role.EDGE, "l" * 40, now=0)
    again = Registry(path)
    assert again.find("k" * 40, Role.EDGE, 0) is None
    assert again.find("l" * 40, Role.EDGE, 0) is not None
    for text in ("[]", "{", json.dumps({"keys": [{"name": "x"}]})):
        path.write_text(text)
        with pytest.raises(KeyRejected):
            Registry(path)


# --- floods of the unauthenticated


def test_idle_connections_are_closed_and_edges_are_served_meanwhile(keyed: CloudConfig, keys: Path) -> None:
    """Connections that never show a key hold nothing for longer than the time of a handshake."""
    with running(keyed) as gateway, Edge(gateway.edge_address, "gate", curve(keys, "gate")) as edge:
        edge.hello()
        port = int(gateway.edge_address.rpartition(":")[2])
        crowd = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
        edge.send(base_frame(0))
        assert edge.expect().cumulative == 0

        def all_closed() -> bool:
            for one in crowd:
                one.setblocking(False)
                try:
                    while one.recv(4096):
                        pass
                except BlockingIOError:
                    return False
                except OSError:
                    continue
            return True

        wait_until(all_closed)
        for one in crowd:
            one.close()
        edge.send(base_frame(1))
        assert edge.expect().cumulative == 1

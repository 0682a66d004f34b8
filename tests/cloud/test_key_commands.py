"""`secondlook keys`: names are let in again, nothing is left behind, a gateway's key changes with nobody cut off."""

from __future__ import annotations

import logging
import os
import pwd
import random
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest

from secondlook.cloud.config import BrokerConfig, CloudConfig
from secondlook.cloud.gateway.keys import Registry, Role
from secondlook.cloud.workers.broker_client import BrokerClient
from secondlook.edge.config import LinkConfig, SpoolConfig
from secondlook.edge.link.identity import AgentIdentity
from secondlook.edge.link.uplink import Uplink
from secondlook.edge.spool import Spool
from secondlook.main import main
from secondlook.shared import packet as p
from secondlook.shared.errors import GatewayUnreachable
from secondlook.shared.keyfiles import read_key_pair, read_public_key, read_public_keys
from tests.cloud.helpers import Edge, running, settings, wait_until

BOOT = "c" * 32


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "keys"


def keys(*arguments: str) -> int:
    return main(["keys", *arguments])


def states(folder: Path) -> list[tuple[str, bool]]:
    now = time.time()
    return [(entry.name, entry.in_force(now)) for entry in Registry(folder / "registry.json").entries]


def test_a_revoked_name_is_let_in_again_with_its_key_or_with_another(here: Path) -> None:
    assert keys("new", "gate") == keys("revoke", "gate") == 0
    assert states(here) == [("gate", False)]
    assert keys("admit", "gate") == 0
    assert states(here) == [("gate", True)]
    assert keys("admit", "gate") == keys("new", "gate") == 1  # it has one in force
    assert keys("revoke", "gate") == keys("new", "gate") == 0
    assert states(here) == [("gate", False), ("gate", True)]
    assert (
        read_public_key(here / "gate.2.key").decode()
        == Registry(here / "registry.json").entries[1].public_key
    )
    assert keys("admit", "nobody") == 1


def test_a_key_that_has_ended_is_let_in_again(here: Path) -> None:
    assert keys("new", "gate") == 0
    Registry(here / "registry.json").rotate("gate", "b" * 40, overlap_seconds=0, now=time.time())
    registry = Registry(here / "registry.json")
    registry.revoke("gate", now=time.time())
    assert states(here) == [("gate", False), ("gate", False)]
    assert keys("admit", "gate") == 0
    assert states(here) == [("gate", False), ("gate", True)]


def test_what_cannot_be_registered_leaves_no_files(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert keys("rotate", "gate") == 1
    assert keys("new", "Gate_1") == 1
    assert not here.exists() or sorted(path.name for path in here.iterdir()) == []

    def fails(*_: object, **__: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(Registry, "_write", fails)
    assert keys("new", "gate") == 1
    assert sorted(path.name for path in here.iterdir()) == []


def test_owner_and_mode_are_said_and_set(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    me = pwd.getpwuid(os.geteuid()).pw_name
    assert keys("new", "worker-1", "--role", "worker", "--owner", me) == 0
    said = capsys.readouterr()
    assert said.out == "keys/worker-1.key_secret\n"
    assert said.err == f"owner {me}, mode 0600: that user alone can use it\n"
    assert stat.S_IMODE((here / "worker-1.key_secret").stat().st_mode) == 0o600
    assert keys("new", "worker-2", "--role", "worker", "--owner", "nobody-of-this-name") == 1
    assert "there is no user nobody-of-this-name" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_gives_a_workers_key_to_the_user_of_the_service(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("secondlook.cloud.admin.main._SERVICE_USER", "nobody")
    for role, owner in (("worker", "nobody"), ("edge", "root")):  # an edge's goes elsewhere
        assert keys("new", f"{role}-1", "--role", role) == 0
        assert (here / f"{role}-1.key_secret").stat().st_uid == pwd.getpwnam(owner).pw_uid
        assert f"owner {owner}, mode 0600" in capsys.readouterr().err


# --- the gateway's own key


def keyed(here: Path, data: Path, edge_port: int = 0) -> CloudConfig:
    config = settings(data, secret_key_file=here / "gateway.key_secret", registry_file=here / "registry.json")
    gateway = replace(config.gateway, edge_address=f"tcp://127.0.0.1:{edge_port}")
    return replace(config, gateway=gateway, broker=BrokerConfig(address="tcp://0.0.0.0:0", timeout_seconds=5))


def test_the_steps_of_a_gateways_rotation(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert keys("new", "gateway", "--role", "gateway") == 0
    old = read_key_pair(here / "gateway.key_secret")[0]
    assert keys("rotate", "gateway", "--role", "gateway", "--finish") == 1  # nothing was begun
    assert keys("rotate", "gateway", "--role", "gateway") == 0
    new = read_key_pair(here / "gateway.next.key_secret")[0]
    assert read_public_keys(here / "gateway.key") == [old, new]
    assert read_public_key(here / "gateway.key") == old
    assert keys("rotate", "gateway", "--role", "gateway") == 1  # one at a time
    assert keys("rotate", "gateway", "--role", "gateway", "--drop-old") == 1
    assert keys("rotate", "gateway", "--role", "gateway", "--finish") == 0
    assert read_key_pair(here / "gateway.key_secret")[0] == new
    assert read_public_keys(here / "gateway.key") == [old, new]
    assert keys("rotate", "gateway", "--role", "gateway", "--drop-old") == 0
    assert read_public_keys(here / "gateway.key") == [new]
    assert sorted(path.name for path in here.iterdir()) == ["gateway.key", "gateway.key_secret"]
    assert stat.S_IMODE((here / "gateway.key").stat().st_mode) == 0o644
    assert "now: restart the gateway" in capsys.readouterr().err
    assert keys("rotate", "gate", "--finish") == 1


def test_hosts_and_workers_with_both_keys_follow_the_gateway_by_themselves(
    here: Path, tmp_path: Path
) -> None:
    for arguments in (("gateway", "--role", "gateway"), ("gate",), ("worker-1", "--role", "worker")):
        assert keys("new", *arguments) == 0
    assert keys("rotate", "gateway", "--role", "gateway") == 0
    link = LinkConfig(
        retry_min_seconds=0.02,
        retry_max_seconds=0.1,
        server_public_key_file=here / "gateway.key",
        secret_key_file=here / "gate.key_secret",
    )
    spool = Spool(tmp_path / "edge", SpoolConfig(min_free_bytes=0), BOOT, 0)
    with running(keyed(here, tmp_path / "data")) as gateway:
        port = int(gateway.edge_address.rpartition(":")[2])
        uplink = Uplink(
            replace(link, gateway=gateway.edge_address),
            AgentIdentity("gate", BOOT, "door"),
            spool,
            random.Random(1),
        )
        uplink.start()
        wait_until(lambda: uplink.state == "up")
        broker = BrokerConfig(
            address=gateway.broker_address.replace("0.0.0.0", "127.0.0.1"),
            server_public_key_file=here / "gateway.key",
            secret_key_file=here / "worker-1.key_secret",
            timeout_seconds=2,
        )
        with BrokerClient(broker, "w") as line:
            assert line.stats()["depth"] == 0
    assert keys("rotate", "gateway", "--role", "gateway", "--finish") == 0
    with running(keyed(here, tmp_path / "data", port)) as gateway:
        wait_until(lambda: uplink.state == "up", 20.0)
        address = gateway.broker_address.replace("0.0.0.0", "127.0.0.1")
        with BrokerClient(replace(broker, address=address), "w") as line:
            with pytest.raises(GatewayUnreachable, match=r"is this worker's key .{40} in force there"):
                line.stats()  # with the key that the file names first
            assert line.stats()["depth"] == 0  # and with the next
    uplink.stop()
    spool.close()


def test_a_refused_handshake_names_the_key_on_both_sides(
    here: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for arguments in (("gateway", "--role", "gateway"), ("gate",)):
        assert keys("new", *arguments) == 0
    keys("revoke", "gate")
    caplog.set_level(logging.INFO)
    spool = Spool(tmp_path / "edge", SpoolConfig(min_free_bytes=0), BOOT, 0)
    with running(keyed(here, tmp_path / "data")) as gateway:
        link = LinkConfig(
            gateway=gateway.edge_address,
            server_public_key_file=here / "gateway.key",
            secret_key_file=here / "gate.key_secret",
        )
        uplink = Uplink(link, AgentIdentity("gate", BOOT, "door"), spool, random.Random(1))
        uplink.start()

        def said(text: str) -> bool:
            return any(text in record.getMessage() for record in caplog.records)

        public = read_public_key(here / "gate.key").decode()
        wait_until(lambda: said(f"does not accept this host's key {public}"))
        wait_until(lambda: said("gate is refused: its key was revoked or has ended"))
        uplink.stop()
        # Another that nobody registered.
        keys("new", "yard", "--registry", str(tmp_path / "elsewhere.json"))
        stranger = (read_public_key(here / "gateway.key"), *read_key_pair(here / "yard.key_secret"))
        with Edge(gateway.edge_address, "yard", stranger) as edge:
            edge.send(p.Hello("yard", BOOT, "bulk", "yard", 0, 0, "test"))
            first = read_public_key(here / "yard.key").decode()[:8]
            wait_until(lambda: said(f"its key {first}... is not registered"))
    spool.close()


def test_an_agent_with_an_old_public_key_of_the_gateway_is_told_which_file_it_is(
    here: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for arguments in (("gateway", "--role", "gateway"), ("gate",), ("other", "--role", "gateway")):
        assert keys("new", *arguments) == 0
    spool = Spool(tmp_path / "edge", SpoolConfig(min_free_bytes=0), BOOT, 0)
    with running(keyed(here, tmp_path / "data")) as gateway:
        link = LinkConfig(
            gateway=gateway.edge_address,
            server_public_key_file=here / "other.key",
            secret_key_file=here / "gate.key_secret",
        )
        uplink = Uplink(link, AgentIdentity("gate", BOOT, "door"), spool, random.Random(1))
        uplink.start()
        wait_until(
            lambda: any(
                "other.key may not be the gateway's key" in one.getMessage() for one in caplog.records
            )
        )
        uplink.stop()
    spool.close()


def test_roles_are_kept_when_a_name_is_rotated(here: Path) -> None:
    assert keys("new", "worker-1", "--role", "worker") == keys("rotate", "worker-1") == 0
    roles = [entry.role for entry in Registry(here / "registry.json").entries]
    assert roles == [Role.WORKER, Role.WORKER]

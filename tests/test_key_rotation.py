"""A camera host gets another key while it delivers, or has that of another: the real agent's uplink and gateway."""

from __future__ import annotations

import os
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from secondlook.cloud.gateway.keys import Registry, Role, create_key_files
from secondlook.cloud.storage.database import EmbeddedDatabase, open_database
from secondlook.cloud.storage.ledger import Ledger
from secondlook.cloud.storage.queue_sqlite import SqliteQueue
from secondlook.edge.config import LinkConfig, SpoolConfig
from secondlook.edge.link.identity import AgentIdentity
from secondlook.edge.link.uplink import Uplink
from secondlook.edge.spool import Spool
from secondlook.edge.spooled import SpooledFrame
from secondlook.shared.packet import FrameInfo
from tests.cloud.helpers import running, settings, wait_until

BOOT = "c" * 32
OVERLAP_SECONDS = 2.0


def test_no_frame_is_lost_when_the_key_changes(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    create_key_files(keys, "gateway")
    registry = Registry(keys / "registry.json")
    registry.add("gate", Role.EDGE, create_key_files(keys, "gate").public.decode(), now=0)
    config = settings(
        tmp_path / "cloud",
        secret_key_file=keys / "gateway.key_secret",
        registry_file=keys / "registry.json",
    )
    link = LinkConfig(
        retry_min_seconds=0.02,
        retry_max_seconds=0.1,
        server_public_key_file=keys / "gateway.key",
        secret_key_file=keys / "gate.key_secret",
    )
    spool = Spool(tmp_path / "edge", SpoolConfig(min_free_bytes=0), BOOT, 0)
    put = 0

    with running(config) as gateway:
        uplink = Uplink(
            replace(link, gateway=gateway.edge_address),
            AgentIdentity("gate", BOOT, "door"),
            spool,
            random.Random(1),
        )
        uplink.start()

        def deliver_for(seconds: float) -> None:
            nonlocal put
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                spool.put(
                    [
                        SpooledFrame(
                            FrameInfo(BOOT, put, 7, 64, 48, None, 11),
                            b"base" * 100,
                            b"enhancement",
                        )
                    ],
                    0,
                )
                uplink.wake()
                put += 1
                time.sleep(0.02)

        deliver_for(0.5)
        pair = create_key_files(keys, "gate", "gate.2")
        registry.rotate("gate", pair.public.decode(), overlap_seconds=OVERLAP_SECONDS, now=time.time())
        deliver_for(OVERLAP_SECONDS / 2)
        # The operator puts the new file where the agent looks; the running connection still has the old key.
        os.replace(keys / "gate.2.key_secret", keys / "gate.key_secret")
        deliver_for(OVERLAP_SECONDS)
        wait_until(lambda: spool.undelivered_boots() == [])
        assert uplink.state == "up" and uplink.failure is None
        uplink.stop()
        spool.close()
    database = open_database(config.database)
    assert Ledger(EmbeddedDatabase(database)).received("gate", BOOT).cumulative == put - 1
    assert SqliteQueue(database, config.gateway.queue).depth == put
    database.close()


def test_an_agent_with_the_key_of_another_keeps_nobody_busy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = tmp_path / "keys"
    create_key_files(keys, "gateway")
    registry = Registry(keys / "registry.json")
    registry.add("gate", Role.EDGE, create_key_files(keys, "gate").public.decode(), now=0)
    config = settings(
        tmp_path / "cloud",
        secret_key_file=keys / "gateway.key_secret",
        registry_file=keys / "registry.json",
    )
    spool = Spool(tmp_path / "edge", SpoolConfig(min_free_bytes=0), BOOT, 0)
    spool.put(
        [SpooledFrame(FrameInfo(BOOT, 0, 7, 64, 48, None, 11), b"base" * 100, b"enhancement")],
        0,
    )
    with running(config) as gateway:
        link = LinkConfig(
            gateway=gateway.edge_address,
            server_public_key_file=keys / "gateway.key",
            secret_key_file=keys / "gate.key_secret",
        )
        uplink = Uplink(link, AgentIdentity("yard", BOOT, "door"), spool, random.Random(1))
        uplink.start()
        busy = time.process_time()
        time.sleep(6.0)
        busy = time.process_time() - busy
        # Pauses of 0.5, 1, 2 and 4 s at most: a handful of attempts. The agent tells a cause once an outage.
        told = [record for record in caplog.records if record.name == "secondlook.edge.link.uplink"]
        heard = [record for record in caplog.records if record.name == "secondlook.cloud.gateway.intake"]
        assert len(told) == 1
        assert all("refuses this host: this key does not belong to yard" in one.getMessage() for one in told)
        assert 2 <= len(heard) <= 14
        assert busy < 3.0
        uplink.stop()
        assert uplink.failure is None
    assert spool.undelivered_boots() == [BOOT]  # nothing is lost
    spool.close()

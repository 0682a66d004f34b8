"""The link and the workers' line over IPv6."""

from __future__ import annotations

import random
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from secondlook.cloud.config import BrokerConfig
from secondlook.cloud.workers.broker_client import BrokerClient
from secondlook.edge.config import LinkConfig, SpoolConfig
from secondlook.edge.link.identity import AgentIdentity
from secondlook.edge.link.uplink import Uplink
from secondlook.edge.spool import Spool
from secondlook.edge.spooled import SpooledFrame
from secondlook.shared.address import is_ipv6
from secondlook.shared.packet import FrameInfo
from secondlook.shared.settings import Endpoint
from tests.cloud.helpers import running, settings, wait_until

BOOT = "a" * 32


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_frames_go_from_a_camera_host_to_a_worker_over_ipv6(tmp_path: Path) -> None:
    anywhere = Endpoint("tcp://[::1]:0")
    config = settings(tmp_path / "cloud")
    config = replace(
        config,
        gateway=replace(config.gateway, edge_address=anywhere),
        broker=BrokerConfig(anywhere),
    )
    with running(config) as gateway:
        assert gateway.edge_address.startswith("tcp://[::1]:")
        spool = Spool(tmp_path / "edge", SpoolConfig(min_free_bytes=0), BOOT, time.time_ns())
        link = LinkConfig(Endpoint(gateway.edge_address))
        uplink = Uplink(link, AgentIdentity("gate", BOOT, "yard"), spool, random.Random(0))
        uplink.start()
        spool.put(
            [SpooledFrame(FrameInfo(BOOT, 0, 7, 64, 48, None, 11), b"base", b"enhancement")],
            time.time_ns(),
        )
        uplink.wake()
        with BrokerClient(BrokerConfig(Endpoint(gateway.broker_address)), "w") as broker:
            wait_until(lambda: uplink.acknowledged == 1)
            (leased,) = broker.lease(1, 30)
            assert leased.frame.payload == b"base"
        uplink.stop()
        spool.close()


def test_names_are_looked_up_for_ipv4() -> None:
    assert is_ipv6("tcp://[::1]:7601") and not is_ipv6("tcp://localhost:7601")

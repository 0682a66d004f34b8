"""What the log says of a gateway that is away: one line when it goes, one when it comes back."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from secondlook.edge.outage import LinkOutage, duration
from tests.edge.gateway import Memory, SmallGateway, wait_until
from tests.edge.test_uplink import QUICK, Edge


def test_an_outage_is_two_lines_however_often_it_is_tried() -> None:
    outage = LinkOutage("tcp://gate:1", 5.0, now=0.0)
    assert outage.waiting(4.0) is None
    assert outage.back(4.5) == "connected to gateway tcp://gate:1"
    assert outage.back(5.0) is None and outage.waiting(100.0) is None
    assert outage.lost("it broke", 200.0) == "it broke; frames are kept, and it is tried again"
    assert outage.lost("it broke", 210.0) is None and outage.waiting(300.0) is None
    assert outage.lost("it refused the key", 310.0) is not None  # another cause is news
    assert outage.lost("it broke", 320.0) is None
    assert outage.back(325.0) == "gateway tcp://gate:1 is back after 2 min 5 s"
    assert outage.lost("it broke", 400.0) is not None


def test_a_gateway_that_was_never_there_is_told_once() -> None:
    outage = LinkOutage("tcp://gate:1", 5.0, now=0.0)
    assert "cannot be reached" in (outage.waiting(5.0) or "")
    assert outage.waiting(6.0) is None
    assert outage.back(7300.0) == "gateway tcp://gate:1 is back after 2 h 1 min"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.44, "0.4 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3600, "1 h 0 min")]
)
def test_lengths_of_time(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_agent_logs_an_outage_in_two_lines(
    tmp_path: Path, memory_of_gateway: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "secondlook.edge.link.uplink")
    first = SmallGateway(memory_of_gateway)
    address, port = first.address, first.port
    first.stop()
    edge = Edge(tmp_path, replace(QUICK, gateway=address))

    def lines() -> list[str]:
        return [
            record.getMessage() for record in caplog.records if record.name == "secondlook.edge.link.uplink"
        ]

    wait_until(lambda: len(lines()) == 1)
    second = SmallGateway(memory_of_gateway, port)
    wait_until(lambda: len(lines()) == 2)
    second.stop()
    wait_until(lambda: len(lines()) == 3)
    third = SmallGateway(memory_of_gateway, port)
    wait_until(lambda: len(lines()) == 4)
    edge.stop()
    third.stop()
    unreachable, back, broke, back_again = lines()
    assert unreachable.startswith(f"gateway {address} cannot be reached;")
    assert back.startswith(f"gateway {address} is back after ") and back.endswith(" s")
    assert broke.startswith(f"connection to gateway {address} broke;")
    assert back_again.startswith(f"gateway {address} is back after ")


@pytest.fixture
def memory_of_gateway() -> Memory:
    return Memory()

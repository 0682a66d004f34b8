"""`secondlook queue dead` against a running gateway, over both queues."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from secondlook.cloud.config import BrokerConfig, CloudConfig, QueueLimits
from secondlook.cloud.workers.broker_client import BrokerClient
from secondlook.main import main
from secondlook.shared import packet as p
from tests.cloud.helpers import BOOT, Edge, base_frame, running, settings


@pytest.fixture(params=["sqlite", "jetstream"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> CloudConfig:
    config = settings(tmp_path, queue=QueueLimits(max_bytes=64 << 20, max_attempts=1))
    if request.param == "jetstream":
        config = replace(config, queue=request.getfixturevalue("nats_url"))
    return config


def say(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["queue", "dead", *words]) == 0
    return capsys.readouterr().out


def test_dead_frames_are_listed_shown_requeued_and_purged(
    config: CloudConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        running(config) as gateway,
        Edge(gateway.edge_address) as edge,
        BrokerClient(BrokerConfig(address=gateway.broker_address), "w1") as broker,
    ):
        edge.hello()
        for seq in range(4):
            edge.send(base_frame(seq))
        while edge.expect().cumulative < 3:
            pass
        for item in broker.lease(9, 30):
            broker.nack(item.id, delay_seconds=0, why=f"bad magic\n{item.frame.info.seq}")
        at = ("--gateway", gateway.broker_address)
        lines = say(capsys, "list", *at).splitlines()
        assert [line.rpartition("  ")[2] for line in lines] == [f"bad magic?{seq}" for seq in (3, 2, 1, 0)]
        numbers = [line.split()[0] for line in lines]
        assert len(say(capsys, "list", "-n", "2", *at).splitlines()) == 2
        shown = say(capsys, "show", numbers[0], *at)
        assert f"edge_id: gate\nboot_id: {BOOT}\nseq: 3\n" in shown
        assert "camera: yard\n" in shown
        assert say(capsys, "requeue", numbers[0], *at) == "1 requeued\n"
        (again,) = broker.lease(9, 30)
        assert (again.frame.info.seq, again.attempts) == (3, 1)
        broker.ack([again.id])
        assert say(capsys, "purge", numbers[1], "987654", *at) == "1 purged\n"
        # The catalogue hears that the frame is gone for good.
        assert [(gap.first_seq, gap.reason) for _, gap in broker.tombstones(0)] == [(2, "dead-letter-purged")]
        assert say(capsys, "requeue", "--all", *at) == "2 requeued\n"
        assert broker.stats()["dead"] == 0
        for item in broker.lease(9, 30):
            broker.nack(item.id, delay_seconds=0, why="again")
        assert say(capsys, "purge", "--all", *at) == "2 purged\n"
        assert [(gap.first_seq, gap.last_seq) for _, gap in broker.tombstones(0)] == [(2, 2), (0, 1)]
        stats = broker.stats()
        assert (stats["dead"], stats["dead_bytes"], stats["depth"]) == (0, 0, 0)


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(settings(tmp_path)) as gateway:
        at = ("--gateway", gateway.broker_address)
        for words, cause in (
            (("show", "7"), "there is no dead item 7"),
            (("purge",), "--all"),
            (("requeue", "1", "--all"), "--all"),
            (("show", "0"), "id: Expected `int` >= 1"),
        ):
            assert main(["queue", "dead", *words, *at]) != 0
            error = capsys.readouterr().err
            assert cause in error
            assert len(error.splitlines()) == 1


def test_the_oldest_dead_beyond_the_limit_become_tombstones(config: CloudConfig) -> None:
    limits = replace(config.gateway.queue, max_dead=2)
    config = replace(config, gateway=replace(config.gateway, queue=limits))
    with (
        running(config) as gateway,
        Edge(gateway.edge_address) as edge,
        BrokerClient(BrokerConfig(address=gateway.broker_address), "w1") as broker,
    ):
        edge.hello()
        for seq in range(5):
            edge.send(base_frame(seq))
        heard = edge.expect()
        while not (isinstance(heard, p.Ack) and heard.cumulative == 4):
            heard = edge.expect()
        for item in broker.lease(9, 30):
            broker.nack(item.id, delay_seconds=0, why="x")
        gaps = [(gap.edge_id, gap.first_seq, gap.reason) for _, gap in broker.tombstones(0)]
        assert gaps == [("gate", seq, "dead-letter-limit") for seq in range(3)]
        assert [dead.seq for dead in broker.dead(9)] == [4, 3]

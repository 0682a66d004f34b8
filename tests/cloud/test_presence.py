"""Which workers are there: told of, silent, replaced, gone."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from secondlook.cloud.gateway.presence import Presence, Present
from secondlook.cloud.workers.broker_client import BrokerClient
from secondlook.cloud.workers.presence import told_of
from secondlook.shared.errors import PacketMalformed
from secondlook.shared.watchdog import Watchdog
from tests.cloud.helpers import running, settings, wait_until


def present(name: str, at: float, role: str = "worker", host: str = "a", **other: float) -> Present:
    told = Present(name, role, host, at, at, 0.0, "", 0, "cpu")
    return replace(told, **other)


def names(presence: Presence, now: float) -> list[str]:
    return [one.name for one in presence.all(now)]


def test_one_that_is_silent_is_kept_so_that_it_can_be_told_of() -> None:
    presence = Presence()
    presence.tell(present("a-1", 100.0))
    presence.tell(present("a-1", 105.0))
    assert [(one.first_at, one.heard_at) for one in presence.all(106.0)] == [(100.0, 105.0)]
    assert presence.silences(125.0) == {"worker a-1": 20.0}
    assert presence.heard(110.0) == {"worker": 1, "refiner": 0}
    assert presence.heard(125.0) == {"worker": 0, "refiner": 0}
    assert names(presence, 100.0 + 86_500.0) == []


def test_one_that_hangs_is_seen_by_its_heartbeat_although_it_speaks() -> None:
    presence = Presence()
    presence.tell(present("a-1", 100.0, age_seconds=40.0))
    assert presence.silences(101.0) == {"worker a-1": 41.0}


def test_another_on_its_host_takes_its_place_but_not_that_of_one_that_lives() -> None:
    presence = Presence()
    presence.tell(present("a-1", 100.0))
    presence.tell(present("a-2", 118.0))
    presence.tell(present("b-1", 118.0, host="b"))
    presence.tell(present("a-9", 118.0, role="refiner"))
    assert names(presence, 120.0) == ["a-9", "a-2", "b-1"]  # a-1 had been silent for 18 s
    presence.tell(present("a-3", 119.0))
    assert names(presence, 120.0) == ["a-9", "a-2", "a-3", "b-1"]
    presence.leave("a-2")
    presence.leave("nobody")
    assert names(presence, 120.0) == ["a-9", "a-3", "b-1"]


def test_a_worker_that_leaves_frames_is_told_of_and_an_older_gateway_hears_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tmp_path)
    with (
        running(config) as gateway,
        BrokerClient(replace(config.broker, address=gateway.broker_address), "t") as line,
    ):
        broker = replace(config.broker, address=gateway.broker_address)

        def rows() -> list[tuple[str, int]]:
            return [(one["name"], one["shed"]) for one in line.stats()["workers"]]

        with told_of(broker, "w-1", "worker", Watchdog(), lambda: 3, "cpu", 0.05, lambda: 12):
            wait_until(lambda: rows() == [("w-1", 12)])
        assert rows() == []
        call = BrokerClient._call

        def older(self: BrokerClient, op: str, **arguments: object) -> object:
            if "shed" in arguments:
                raise PacketMalformed("present: Object contains unknown field `shed`")
            return call(self, op, **arguments)

        monkeypatch.setattr(BrokerClient, "_call", older)
        with told_of(broker, "w-2", "worker", Watchdog(), lambda: 3, "cpu", 0.05, lambda: 12):
            wait_until(lambda: rows() == [("w-2", 0)])


def test_there_is_a_limit_to_how_many_are_kept() -> None:
    presence = Presence()
    for number in range(1100):
        presence.tell(present(f"w-{number}", 100.0, host=str(number)))
    assert len(presence.all(100.0)) == 1000


def test_a_worker_tells_of_itself_while_it_works_and_says_when_it_leaves(tmp_path: Path) -> None:
    with running(settings(tmp_path)) as gateway:
        config = replace(settings(tmp_path).broker, address=gateway.broker_address)
        with BrokerClient(config, "look") as line:

            def workers() -> list[dict[str, object]]:
                return list(line.stats()["workers"])

            watchdog, done = Watchdog(), threading.Event()
            watchdog.waits("catalogue: no answer")
            with told_of(
                config, "host-7", "worker", watchdog, lambda: int(done.is_set()), "cpu", seconds=0.05
            ):
                wait_until(lambda: len(workers()) == 1)
                (one,) = workers()
                assert (one["name"], one["role"], one["waits"]) == (
                    "host-7",
                    "worker",
                    "catalogue: no answer",
                )
                assert one["done"] == 0 and one["device"] == "cpu"
                done.set()
                wait_until(lambda: workers()[0]["done"] == 1)
            wait_until(lambda: workers() == [])

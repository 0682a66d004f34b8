"""Enhancements before a refiner asks: within a budget, while the link is idle, and of no weight against who waits."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from secondlook.cloud.config import PolicyConfig, RequestTimes, WorkerConfig
from secondlook.cloud.storage.database import EmbeddedDatabase, open_database
from secondlook.cloud.storage.requests import AHEAD, RequestState, RequestTable
from secondlook.cloud.workers.fetchahead import FetchAhead
from secondlook.cloud.workers.policy import FrameIdentity, chosen_anyway, wish_for_review
from secondlook.shared import packet as p
from secondlook.shared.detection import Detection
from secondlook.shared.errors import PacketMalformed
from tests.cloud.helpers import BOOT, OneBox, base_frame, grey
from tests.cloud.test_workers import Site, site

__all__ = ["site"]  # the fixture


def test_a_budget_is_spent_and_comes_back_with_time() -> None:
    budget = FetchAhead(600)
    assert budget.takes("a", 400, now=0.0) and not budget.takes("a", 400, now=0.0)
    assert budget.takes("b", 600, now=0.0), "each camera host has its own"
    assert not budget.takes("a", 400, now=19.0) and budget.takes("a", 400, now=20.0)
    assert budget.takes("a", 600, now=1000.0) and not budget.takes("a", 1, now=1000.0), "no more is saved up"
    assert not budget.takes("a", 601, now=5000.0), "what is larger than the budget is never taken"


def test_no_budget_takes_nothing_and_a_clock_set_back_gives_nothing() -> None:
    assert not FetchAhead(0).takes("a", 0, now=0.0)
    budget = FetchAhead(600)
    assert budget.takes("a", 600, now=100.0) and not budget.takes("a", 10, now=50.0)


def test_a_budget_remembers_only_who_spent_lately() -> None:
    budget = FetchAhead(600)
    for number in range(1000):
        budget.takes(f"edge-{number}", 1, now=float(number))
    assert len(budget._left) <= 61


@pytest.fixture
def table(tmp_path: Path) -> Iterator[RequestTable]:
    db = open_database(tmp_path / "gateway.db")
    yield RequestTable(EmbeddedDatabase(db), RequestTimes())
    db.close()


def ask(table: RequestTable, seq: int, priority: int, deadline: float = 100.0) -> int:
    return table.ask("gate", BOOT, seq, deadline=deadline, priority=priority, blob_gone=False, now=0.0)


def sent(table: RequestTable) -> list[int]:
    return [request.seq for request in table.to_send("gate", now=1.0)]


def test_what_nobody_asked_for_is_sent_one_at_a_time_to_an_idle_host(table: RequestTable) -> None:
    first = ask(table, 0, AHEAD)
    ask(table, 1, AHEAD)
    ask(table, 2, 0)
    assert sent(table) == [2], "the lowest priority of all goes before what nobody waits for"
    assert sent(table) == []
    table.done(3, "blob")
    assert sent(table) == [0] and sent(table) == []
    ask(table, 3, 50)
    assert sent(table) == [3], "one that is under way keeps nobody from a slot"
    table.done(first, "blob")
    table.done(4, "blob")
    assert sent(table) == [1]


def test_who_waits_takes_over_a_request_ahead_with_its_own_deadline(table: RequestTable) -> None:
    number = ask(table, 0, AHEAD, deadline=500.0)
    assert ask(table, 0, 70, deadline=60.0) == number
    known = table.get(number)
    assert known is not None and (known.priority, known.deadline) == (70, 60.0)
    assert ask(table, 0, AHEAD, deadline=900.0) == number
    assert table.get(number) == known, "and nobody ahead of time changes it again"


def requested(site: Site) -> list[tuple[int, int]]:
    """Sequence and priority of what the camera host was asked for."""
    heard = []
    while (packet := site.edge.hear("control", 0.3)) is not None:
        if isinstance(packet, p.EnhancementRequest):
            heard.append((packet.seq, packet.priority))
    return heard


def test_a_frame_that_becomes_a_review_is_fetched_before_a_refiner_looks(site: Site) -> None:
    site.deliver(base_frame(0, grey(10)))
    site.machine.step()
    assert requested(site) == [(0, 0)]
    site.edge.send(p.Chunk(1, 0, 5, zlib.crc32(b"grey\x05"), b"grey\x05"), "control")
    assert isinstance(site.edge.expect("control"), p.ChunkCredit)
    assert site.refiner.step() == 1, "all of it was there"
    assert requested(site) == []


def test_frames_without_a_review_are_not_fetched(site: Site) -> None:
    site.machine.policy = PolicyConfig(uncertain_apart_seconds=60, audit_every=0)
    site.deliver(base_frame(0, grey(10), captured_ns=10**9), base_frame(1, grey(10), captured_ns=2 * 10**9))
    site.machine.step()
    assert requested(site) == [(0, 0)]
    with pytest.raises(AssertionError, match="silent"):
        site.edge.expect("control")


def test_the_budget_is_a_setting(site: Site) -> None:
    site.machine._ahead = FetchAhead(WorkerConfig(ahead_bytes_per_minute=0).ahead_bytes_per_minute)
    site.deliver(base_frame(0, grey(10)))
    site.machine.step()
    assert requested(site) == [] and len(site.frames()) == 1


def test_a_gateway_of_an_earlier_version_is_asked_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refused(*_: object, **__: object) -> int:
        asked.append(1)
        raise PacketMalformed("priority is -1, outside 0..100")

    monkeypatch.setattr(site.broker, "request_enhancement", refused)
    site.deliver(base_frame(0, grey(10)), base_frame(1, grey(10)))
    site.machine.step()
    assert len(asked) == 1 and len(site.frames()) == 2
    assert site.broker.stats()["depth"] == 0


def test_what_no_detection_can_change_is_fetched_before_one_looks(site: Site) -> None:
    order: list[str] = []

    class Watched(OneBox):
        def detect(self, image: object) -> list[Detection]:
            order.append("looked")
            return []

    site.machine.policy = PolicyConfig(every_nth=1, audit_every=0)
    site.machine.detector = Watched()
    ask_gateway = site.broker.request_enhancement
    site.broker.request_enhancement = lambda *a, **k: order.append("asked") or ask_gateway(*a, **k)  # type: ignore[method-assign]
    site.deliver(base_frame(0, grey(10)))
    site.machine.step()
    assert order == ["asked", "looked"]


def test_frames_chosen_anyway_are_those_that_empty_pictures_call_for() -> None:
    config = PolicyConfig(every_nth=7, audit_every=5)
    for seq in range(200):
        frame = FrameIdentity("gate", BOOT, seq)
        wishes = wish_for_review(config, frame, [], secret=b"s")
        assert chosen_anyway(config, frame, secret=b"s") == bool(wishes)


def test_states_that_a_request_ahead_may_end_in(table: RequestTable) -> None:
    number = ask(table, 0, AHEAD, deadline=5.0)
    table.expire(now=6.0)
    again = ask(table, 0, 50)
    known = table.get(number)
    assert known is not None and known.state is RequestState.EXPIRED
    assert again != number, "who waits begins anew"

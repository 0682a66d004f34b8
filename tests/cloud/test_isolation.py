"""One camera host beside another, each with its own key: neither answers for the other nor hears of its frames.

Without sockets: the intake is told the authenticated key of each message, as the gateway tells it.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.cloud.config import IntakeLimits, QueueLimits, RateLimits, RequestTimes
from secondlook.cloud.gateway.intake import Intake
from secondlook.cloud.gateway.keys import Registry, Role
from secondlook.cloud.gateway.ratelimit import EdgeRates, TokenBucket
from secondlook.cloud.storage.blobs import open_blobs
from secondlook.cloud.storage.database import EmbeddedDatabase, open_database
from secondlook.cloud.storage.ledger import Ledger
from secondlook.cloud.storage.queue_sqlite import SqliteQueue
from secondlook.cloud.storage.requests import RequestState, RequestTable
from secondlook.shared import packet as p
from secondlook.shared.errors import ConfigError
from tests.cloud.helpers import BOOT, base_frame

GATE, YARD = "g" * 40, "y" * 40  # public keys
LIMITS = IntakeLimits(window_bytes=100_000, min_window_bytes=100, max_sessions=8, max_sessions_of_edge=4)
WIDE = RateLimits()
SLOW = RateLimits(packets_per_second=10, bytes_per_second=10_000, burst_seconds=2, hello_packets=1)
LAYER = b"enhancement" * 9


class Room:
    """An intake with a registry of two edges."""

    def __init__(self, folder: Path, rates: RateLimits) -> None:
        self.db = open_database(folder / "gateway.db")
        self.registry = Registry(folder / "registry.json")
        for name, key in (("gate", GATE), ("yard", YARD)):
            self.registry.add(name, Role.EDGE, key, now=0)
        self.queue = SqliteQueue(self.db, QueueLimits())
        self.ledger = Ledger(EmbeddedDatabase(self.db))
        self.requests = RequestTable(EmbeddedDatabase(self.db), RequestTimes())
        blobs = open_blobs(str(folder / "blobs"))
        self.intake = Intake(self.ledger, self.queue, self.requests, blobs, LIMITS, self.registry, rates)
        self.now = 1000.0

    def say(self, packet: p.Packet, key: str, peer: bytes) -> list[p.Packet]:
        return [answer for _, answer in self.intake.receive(peer, packet.to_frames(), key, now=self.now)]

    def hello(self, edge_id: str, key: str, peer: bytes, channel: str = "bulk") -> p.Packet:
        (answer,) = self.say(p.Hello(edge_id, BOOT, channel, "cam", 0, 0, "test"), key, peer)
        return answer

    def ask(self, edge_id: str) -> int:
        return self.requests.ask(
            edge_id, BOOT, 0, deadline=self.now + 60, priority=1, blob_gone=False, now=self.now
        )


@pytest.fixture
def room(tmp_path: Path) -> Room:
    room = Room(tmp_path, WIDE)
    assert isinstance(room.hello("gate", GATE, b"g-bulk"), p.Welcome)
    assert isinstance(room.hello("yard", YARD, b"y-bulk"), p.Welcome)
    room.hello("gate", GATE, b"g-control", "control")
    room.hello("yard", YARD, b"y-control", "control")
    return room


def test_frames_and_tombstones_count_for_the_edge_of_the_key(room: Room) -> None:
    """The edge id is not in these packets: there is nothing to lie about."""
    room.say(base_frame(0, b"of the yard"), YARD, b"y-bulk")
    room.say(p.Tombstone(BOOT, 1, 5, "spool-full"), YARD, b"y-bulk")
    answers = room.intake.flush(now=room.now)
    assert [peer for peer, _ in answers] == [b"y-bulk"]
    assert room.ledger.received("yard", BOOT).cumulative == 5
    assert room.ledger.received("gate", BOOT).cumulative == -1
    (leased,) = room.queue.lease(9, ttl_seconds=1, worker="w", now=room.now)
    assert leased.frame.edge_id == "yard"


@pytest.mark.parametrize("channel", ["bulk", "control"])
def test_no_hello_in_anothers_name(room: Room, channel: str) -> None:
    answer = room.hello("gate", YARD, b"y-new", channel)
    assert isinstance(answer, p.Fault) and answer.code == "wrong-edge"
    assert not room.intake.has(b"y-new")


def test_a_request_goes_to_its_own_edge_alone(room: Room) -> None:
    room.ask("gate")
    told = room.intake.tick(now=room.now)
    assert [(peer, type(packet)) for peer, packet in told] == [(b"g-control", p.EnhancementRequest)]
    room.intake.lost(b"g-control")
    room.ask("gate")
    room.now += 100
    assert not [x for x in room.intake.tick(now=room.now) if isinstance(x[1], p.EnhancementRequest)]


@pytest.mark.parametrize(
    "forged",
    [
        lambda id_: p.Chunk(id_, 0, len(LAYER), zlib.crc32(LAYER), LAYER),
        lambda id_: p.Chunk(id_, 0, 10_000, 7, b"part"),
        lambda id_: p.Refusal(id_, "unknown"),
        lambda id_: p.Refusal(id_, "busy"),
    ],
)
def test_nobody_answers_anothers_request(room: Room, forged) -> None:
    id_ = room.ask("gate")
    room.intake.tick(now=room.now)
    (fault,) = room.say(forged(id_), YARD, b"y-control")
    # The same words as for a number that was never given out: it cannot even learn that there is one.
    (unknown,) = room.say(forged(id_ + 1), YARD, b"y-control")
    assert fault.code == unknown.code == "unknown-request"
    assert fault.text.replace(str(id_), "N") == unknown.text.replace(str(id_ + 1), "N")
    request = room.requests.get(id_)
    assert request is not None and request.state is RequestState.SENT
    (credit,) = room.say(p.Chunk(id_, 0, len(LAYER), zlib.crc32(LAYER), LAYER), GATE, b"g-control")
    assert credit == p.ChunkCredit(id_, len(LAYER))


def test_a_peers_name_taken_over_brings_nothing(room: Room) -> None:
    """ZeroMQ lets a peer choose its routing id; after the gate's connection ended, the yard's may take its name."""
    for packet in (base_frame(0), p.Tombstone(BOOT, 0, 5, "spool-full")):
        (fault,) = room.say(packet, YARD, b"g-bulk")
        assert fault.code == "hello-first"
    room.intake.flush(now=room.now)
    assert room.ledger.received("gate", BOOT).cumulative == -1
    (fault,) = room.say(p.Refusal(room.ask("gate"), "unknown"), YARD, b"g-control")
    assert fault.code == "hello-first"
    assert room.intake.tick(now=room.now) == []


def test_one_edge_cannot_use_up_the_connections(room: Room) -> None:
    for number in range(20):
        assert isinstance(room.hello("yard", YARD, b"y-%d" % number), p.Welcome)
    assert room.intake.has(b"g-bulk") and room.intake.has(b"g-control")
    assert [number for number in range(20) if room.intake.has(b"y-%d" % number)] == [16, 17, 18, 19]


def test_revoked_keys_are_forgotten_and_named_for_the_cut(room: Room) -> None:
    room.say(base_frame(0), YARD, b"y-bulk")
    room.registry.revoke("yard", now=room.now)
    assert sorted(room.intake.expel(now=room.now)) == [b"y-bulk", b"y-control"]
    assert room.intake.flush(now=room.now) == []  # no acknowledgement either
    for packet in (base_frame(1), p.Hello("yard", BOOT, "bulk", "cam", 0, 0, "test")):
        assert room.say(packet, YARD, b"y-bulk") == []
    assert room.intake.expel(now=room.now) == []


# --- rates


def test_an_edge_over_its_rate_is_told_and_refused_and_others_are_not(tmp_path: Path) -> None:
    room = Room(tmp_path, SLOW)
    room.hello("gate", GATE, b"g-bulk")
    room.hello("yard", YARD, b"y-bulk")
    answers = [answer for seq in range(100) for answer in room.say(base_frame(seq, b"x"), YARD, b"y-bulk")]
    # A burst of 20, a debt of as many, less the hello with its own cost.
    assert [answer.code for answer in answers] == ["too-fast"]
    room.intake.flush(now=room.now)
    assert room.ledger.received("yard", BOOT).cumulative == 37
    room.say(base_frame(0, b"x"), GATE, b"g-bulk")
    ((peer, ack),) = room.intake.flush(now=room.now)
    assert (peer, ack.cumulative) == (b"g-bulk", 0) and ack.credit_bytes > 0
    # What was refused is sent again, and taken once there is room.
    room.now += 10
    assert room.say(base_frame(38, b"x"), YARD, b"y-bulk") == []
    room.intake.flush(now=room.now)
    assert room.ledger.received("yard", BOOT).cumulative == 38


def test_credit_ends_before_anything_is_refused(tmp_path: Path) -> None:
    """An agent that keeps within its credit is slowed down to its rate, and never told off."""
    room = Room(tmp_path, SLOW)
    credit, seq, sent_bytes, began = room.hello("gate", GATE, b"g-bulk").credit_bytes, 0, 0, room.now
    while room.now < began + 60:
        while credit >= 500:
            assert room.say(base_frame(seq, b"x" * 500), GATE, b"g-bulk") == []
            seq, sent_bytes, credit = seq + 1, sent_bytes + 500, credit - 500
        room.now += 0.25
        for _, packet in [*room.intake.flush(now=room.now), *room.intake.tick(now=room.now)]:
            assert isinstance(packet, p.Ack)
            credit = packet.credit_bytes
    assert 60 * 10 * 0.8 < seq < 60 * 10 + 25, seq


def test_a_hello_costs_more_than_a_frame(tmp_path: Path) -> None:
    room = Room(tmp_path, RateLimits(packets_per_second=10, burst_seconds=2, hello_packets=9))
    answers = [room.say(p.Hello("gate", BOOT, "bulk", "c", 0, 0, "t"), GATE, b"g") for _ in range(6)]
    assert [len(answer) for answer in answers] == [1, 1, 1, 1, 1, 0]
    assert isinstance(answers[3][0], p.Welcome) and answers[4][0].code == "too-fast"


def test_malformed_packets_count_too(tmp_path: Path) -> None:
    room = Room(tmp_path, SLOW)
    answers = [room.intake.receive(b"y", [b"\xc1", b""], YARD, now=room.now) for _ in range(100)]
    codes = [packet.code for answer in answers for _, packet in answer]
    # Each as ten: the twentieth packet of burst and debt is in the fourth.
    assert codes == ["rejected"] * 4 + ["too-fast"]


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 50), st.booleans()), max_size=60))
def test_a_bucket_never_gives_more_than_it_was_filled(steps: list[tuple[float, float, bool]]) -> None:
    bucket = TokenBucket(10.0, 30.0, debt=5.0, now=0.0)
    now, latest, taken = 0.0, 0.0, 0.0
    forward = 0.0
    for pause, tokens, asks in steps:
        now += pause  # clocks jump back, too
        forward += max(0.0, pause)
        if asks and bucket.allows(tokens, now):
            bucket.take(tokens, now)
            taken += tokens
        latest = max(latest, now)
        assert bucket.level(now) <= 30.0
        assert taken <= 30.0 + 5.0 + forward * 10.0 + 1e-6


def test_rates_are_told_once_a_second() -> None:
    rates = EdgeRates(SLOW, most=2)
    assert [rates.may_tell("gate", now) for now in (0.0, 0.5, 1.0)] == [True, False, True]
    assert rates.may_tell("yard", 1.0)
    with pytest.raises(ConfigError):
        RateLimits(packets_per_second=0)

"""Sender and receiver, joined by a link that drops, repeats, reorders and breaks."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondlook.shared.errors import ConfigError
from secondlook.shared.link import BaseSender, LinkTimes, Received

TIMES = LinkTimes(resend_seconds=2.0, hello_seconds=1.0)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 4)), max_size=30))
def test_received_is_a_set_of_sequences(adds: list[tuple[int, int]]) -> None:
    received, model = Received(), set[int]()
    for first, length in adds:
        span = set(range(first, first + length + 1))
        assert received.add(first, first + length) == bool(span - model)
        model |= span
    assert all((seq in received) == (seq in model) for seq in range(50))
    ranges = received.selective(100)
    assert set(range(received.cumulative + 1)).union(*(range(a, b + 1) for a, b in ranges)) == model
    edges = [received.cumulative, *(edge for pair in ranges for edge in pair)]
    assert all(second - first >= 2 for first, second in zip(edges[::2], edges[1::2], strict=False))
    assert Received(received.cumulative, ranges).selective(100) == ranges
    for first in range(45):
        assert received.covers(first, first + 3) == ({first, first + 1, first + 2, first + 3} <= model)


def _welcomed(credit: int) -> BaseSender:
    sender = BaseSender(TIMES)
    assert sender.hellos(["a"], 0.0) == ["a"]
    sender.welcomed("a", -1, credit)
    return sender


def test_hello_is_repeated_until_welcomed_and_then_not() -> None:
    sender = BaseSender(TIMES)
    assert [sender.hellos(["a", "b"], now) for now in (0.0, 0.5, 1.0)] == [["a", "b"], [], ["a", "b"]]
    sender.welcomed("a", -1, 100)
    assert sender.hellos(["a", "b"], 2.0) == ["b"]


def test_nothing_is_read_before_welcome_or_without_credit() -> None:
    sender = BaseSender(TIMES)
    sender.hellos(["a"], 0.0)
    assert sender.next_read() is None
    sender.welcomed("a", -1, 0)
    assert sender.next_read() is None
    assert not sender.may_send(1)
    assert sender.hellos(["a"], 1.0) == ["a"], "without credit the hello asks again"


def test_reading_resumes_behind_what_is_safe() -> None:
    sender = BaseSender(TIMES)
    sender.hellos(["a"], 0.0)
    sender.welcomed("a", 6, 100)
    read = sender.next_read()
    assert read is not None
    assert (read.boot_id, read.from_seq, read.room_bytes) == ("a", 7, 100)


def test_credit_bounds_what_is_in_flight_but_one_large_frame_may_go() -> None:
    sender = _welcomed(100)
    assert sender.may_send(500)
    sender.sent("a", 0, 0, 60, 0.0)
    assert sender.may_send(40)
    assert not sender.may_send(41)
    sender.sent("a", 1, 1, 40, 0.0)
    assert sender.next_read() is None
    sender.acknowledged("a", -1, ((1, 1),), 100)
    assert sender.in_flight_bytes == 60
    read = sender.next_read()
    assert read is not None
    assert read.from_seq == 2, "an acknowledgement never rewinds"


def test_headers_are_counted_for_the_link_and_need_no_credit() -> None:
    sender = _welcomed(100)
    sender.sent("a", 0, 0, 60, 0.0, 160)
    sender.sent("a", 1, 1, 30, 0.0, 40)
    sender.sent("a", 2, 4, 0, 0.0, 160)
    assert (sender.in_flight_bytes, sender.link_bytes) == (90, 450) and sender.may_send(10)
    sender.sent("a", 1, 1, 30, 1.0, 160)  # again, by itself
    assert sender.link_bytes == 570
    sender.acknowledged("a", 0, (), 100)
    assert sender.link_bytes == 350
    sender.rewind("a", 1)
    assert (sender.in_flight_bytes, sender.link_bytes) == (0, 160), "the tombstone"
    sender.connected()
    assert sender.link_bytes == 0


def test_only_the_overdue_is_sent_again() -> None:
    sender = _welcomed(100)
    sender.sent("a", 0, 0, 10, 0.0)
    sender.sent("a", 1, 1, 10, 1.0)
    assert [flight.first_seq for flight in sender.overdue(2.0)] == [0]
    sender.sent("a", 0, 0, 10, 2.0)
    assert sender.in_flight_bytes == 20
    assert [flight.first_seq for flight in sender.overdue(3.0)] == [1]
    for flight in sender.overdue(9.0):
        sender.gone(flight)
    assert sender.in_flight_bytes == 0


def test_a_tombstone_needs_no_credit_and_waits_for_all_of_its_range() -> None:
    sender = _welcomed(0)
    sender.sent("a", 3, 5, 0, 0.0)
    sender.acknowledged("a", -1, ((3, 4),), 0)
    assert len(sender.overdue(5.0)) == 1
    sender.acknowledged("a", 5, (), 0)
    assert sender.overdue(5.0) == []


def test_a_new_connection_forgets_what_was_in_flight() -> None:
    sender = _welcomed(100)
    sender.sent("a", 0, 0, 10, 0.0)
    sender.connected()
    assert sender.in_flight_bytes == 0
    assert sender.overdue(99.0) == []
    assert sender.next_read() is None
    assert sender.hellos(["a"], 0.0) == ["a"]


def test_timers_must_be_positive() -> None:
    with pytest.raises(ConfigError):
        LinkTimes(resend_seconds=0.0)


@dataclass
class _World:
    """A spool, a sender, a bad link and a gateway, stepped together; messages are plain tuples."""

    rng: random.Random
    loss: float
    spool: dict[str, dict[int, int]] = field(default_factory=dict)  # boot → seq → size, unacknowledged
    tombstones: dict[str, set[int]] = field(default_factory=dict)  # boot → dropped, unacknowledged
    sender: BaseSender = field(default_factory=lambda: BaseSender(TIMES))
    up: list[tuple[object, ...]] = field(default_factory=list)
    down: list[tuple[object, ...]] = field(default_factory=list)
    safe: dict[str, Received] = field(default_factory=dict)
    stored: dict[tuple[str, int], int] = field(default_factory=dict)  # how often each frame was kept
    buried: set[tuple[str, int]] = field(default_factory=set)
    told: set[tuple[str, int]] = field(default_factory=set)  # tombstones sent on this connection
    credit: int = 100
    now: float = 0.0

    def step(self, calm: bool) -> None:
        self.now += 0.1
        if not calm:
            self.credit = self.rng.choice([0, 30, 100])
            if self.rng.random() < 0.02:
                self.reconnect()
            if self.rng.random() < 0.05:
                self.drop()
        self.edge()
        self.up = self.carry(self.up, self.gateway, 0.0 if calm else self.loss)
        self.down = self.carry(self.down, self.edge_hears, 0.0 if calm else self.loss)

    def carry(
        self, queue: list[tuple[object, ...]], deliver: object, loss: float
    ) -> list[tuple[object, ...]]:
        assert callable(deliver)
        kept = []
        if loss:
            self.rng.shuffle(queue)
        for message in queue:
            chance = self.rng.random()
            if chance < loss:
                continue
            if chance < 0.3 and loss:
                kept.append(message)
                if chance < 0.2:
                    continue  # late; between 0.2 and 0.3 it arrives now and again later
            deliver(message)
        return kept

    def reconnect(self) -> None:
        self.up, self.down = [], []
        self.told.clear()
        self.sender.connected()

    def drop(self) -> None:
        boot = self.rng.choice(list(self.spool))
        if self.spool[boot]:
            seq = self.rng.choice(list(self.spool[boot]))
            del self.spool[boot][seq]
            self.tombstones[boot].add(seq)

    def edge(self) -> None:
        undelivered = [boot for boot in self.spool if self.spool[boot] or self.tombstones[boot]]
        for boot in self.sender.hellos(undelivered, self.now):
            self.up.append(("hello", boot))
        for flight in self.sender.overdue(self.now):
            if flight.is_tombstone and flight.first_seq in self.tombstones[flight.boot_id]:
                self.send_tombstone(flight.boot_id, flight.first_seq)
            elif not flight.is_tombstone and flight.first_seq in self.spool[flight.boot_id]:
                self.send_frame(flight.boot_id, flight.first_seq)
            else:
                self.sender.gone(flight)
        for boot, tombstones in self.tombstones.items():
            for seq in tombstones:
                if (boot, seq) not in self.told:
                    self.send_tombstone(boot, seq)
        while (read := self.sender.next_read()) is not None:
            seqs = [seq for seq in sorted(self.spool[read.boot_id]) if seq >= read.from_seq]
            if not seqs:
                self.sender.drained(read.boot_id)
            elif self.sender.may_send(self.spool[read.boot_id][seqs[0]]):
                self.send_frame(read.boot_id, seqs[0])
            else:
                break
            assert self.sender.in_flight_bytes <= 100 + 40

    def send_frame(self, boot: str, seq: int) -> None:
        self.sender.sent(boot, seq, seq, self.spool[boot][seq], self.now)
        self.up.append(("frame", boot, seq))

    def send_tombstone(self, boot: str, seq: int) -> None:
        self.told.add((boot, seq))
        self.sender.sent(boot, seq, seq, 0, self.now)
        self.up.append(("tombstone", boot, seq))

    def gateway(self, message: tuple[object, ...]) -> None:
        kind, boot = str(message[0]), str(message[1])
        safe = self.safe.setdefault(boot, Received())
        if kind == "hello":
            self.down.append(("welcome", boot, safe.cumulative, (), self.credit))
            return
        seq = message[2]
        assert isinstance(seq, int)
        new = safe.add(seq)
        if kind == "frame" and (new or (boot, seq) in self.buried):
            self.buried.discard((boot, seq))
            self.stored[boot, seq] = self.stored.get((boot, seq), 0) + 1
        elif kind == "tombstone" and new:
            self.buried.add((boot, seq))
        self.down.append(("ack", boot, safe.cumulative, safe.selective(3), self.credit))

    def edge_hears(self, message: tuple[object, ...]) -> None:
        kind, boot, cumulative, selective, credit = message
        assert isinstance(boot, str) and isinstance(cumulative, int)
        assert isinstance(selective, tuple) and isinstance(credit, int)
        if kind == "welcome":
            self.sender.welcomed(boot, cumulative, credit)
        else:
            self.sender.acknowledged(boot, cumulative, selective, credit)
        safe = Received(cumulative, selective)
        self.spool[boot] = {seq: size for seq, size in self.spool[boot].items() if seq not in safe}
        self.tombstones[boot] = {seq for seq in self.tombstones[boot] if seq not in safe}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.05, 0.3]))
def test_everything_arrives_once_or_is_buried(seed: int, loss: float) -> None:
    world = _World(random.Random(seed), loss)
    everything = set()
    for boot in ("a", "b"):
        world.spool[boot] = {seq: world.rng.randint(1, 40) for seq in range(12)}
        world.tombstones[boot] = set()
        everything |= {(boot, seq) for seq in range(12)}
    for fresh in range(12, 92):
        world.step(calm=False)
        world.spool["b"][fresh] = 10
        everything.add(("b", fresh))
        world.sender.spooled("b")
    world.credit = 100
    for _ in range(300):
        world.step(calm=True)
    assert not any(world.spool.values())
    assert not any(world.tombstones.values())
    assert set(world.stored) | world.buried == everything
    assert set(world.stored.values()) <= {1}
    assert not set(world.stored) & world.buried

"""A camera host and a gateway on a virtual network that loses, repeats, reorders and breaks, and both of which crash.

The camera host's end is the real `BaseSender`, driven as its docstring says, over a spool that is a dictionary; the
gateway's end is whatever follows `GatewayEnd`. A crash loses all memory and keeps what was committed. One seed is one
schedule; `run` raises AssertionError when an invariant breaks, and names the step.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from secondlook.shared import packet as p
from secondlook.shared.link import BaseSender, LinkTimes, Received

Frame = tuple[str, int]  # boot, sequence
TIMES = LinkTimes(resend_seconds=3.0, hello_seconds=1.0)
EDGE_ID = "gate"
_SPOOL_BYTES = 4000
_KEY_INTERVAL = 4
_KEPT_FRAMES = 12  # delivered frames that the spool has room for
_MAX_UNDER_WAY = 200  # packets a virtual connection holds
_HEALING_TURNS = 400


def key_of(seq: int) -> int | None:
    """The key that a frame refers to, if it is a delta."""
    return seq - seq % _KEY_INTERVAL if seq % _KEY_INTERVAL else None


class GatewayEnd(Protocol):
    """A gateway without sockets. A peer is a connection's number."""

    def receive(self, peer: int, packet: p.Packet, now: float) -> list[tuple[int, p.Packet]]: ...

    def commit(self, now: float) -> list[tuple[int, p.Packet]]:
        """Store what has gathered; the acknowledgements, not to be heard by anyone if it crashes first."""
        ...

    def tick(self, now: float) -> list[tuple[int, p.Packet]]: ...

    def crash(self) -> None: ...

    def copy(self) -> None:
        """Keep a copy of all that is committed."""
        ...

    def restore(self, *, catalogue_too: bool) -> None:
        """Put the copy back, after a crash; without the catalogue, what was worked off meanwhile stays known."""
        ...

    def work(self, most: int, now: float) -> None:
        """Take frames out of the queue, so that there is room."""
        ...

    def stored(self) -> Counter[Frame]:
        """Every frame that was ever put into the queue, by how often."""
        ...

    def buried(self) -> Counter[Frame]: ...

    def memory(self) -> int:
        """What it holds in memory for connections and batches, in things."""
        ...


@dataclass
class Disk:
    """The committed part of the camera host: a spool that drops the oldest when it is full, a key with its deltas."""

    boots: list[str] = field(default_factory=list)
    next_seq: dict[str, int] = field(default_factory=dict)
    frames: dict[Frame, int] = field(default_factory=dict)  # undelivered ones, by size
    kept: dict[Frame, int] = field(default_factory=dict)  # delivered ones, by size: the latest
    tombstones: dict[int, tuple[str, int, int]] = field(default_factory=dict)  # by id
    last_grave: int = 0
    dropped: set[Frame] = field(default_factory=set)

    def start(self) -> str:
        boot = f"{len(self.boots):032x}"
        self.boots.append(boot)
        self.next_seq[boot] = 0
        return boot

    def put(self, boot: str, sizes: list[int]) -> None:
        for size in sizes:
            while self.frames and sum(self.frames.values()) + size > _SPOOL_BYTES:
                oldest = min(self.frames, key=lambda frame: (self.boots.index(frame[0]), frame[1]))
                for frame in sorted(f for f in self.frames if oldest in (f, (f[0], key_of(f[1])))):
                    del self.frames[frame]
                    self._bury(*frame)
            seq = self.next_seq[boot]
            self.next_seq[boot] += 1
            if (boot, key_of(seq)) in self.dropped:
                self._bury(boot, seq)
            else:
                self.frames[boot, seq] = size

    def _bury(self, boot: str, seq: int) -> None:
        self.dropped.add((boot, seq))
        first = seq
        for id_, (of_boot, low, high) in list(self.tombstones.items()):
            if of_boot == boot and high == seq - 1:
                first = low
                del self.tombstones[id_]
        self.last_grave += 1
        self.tombstones[self.last_grave] = (boot, first, seq)

    def mark_safe(self, boot: str, safe: Received) -> None:
        for frame in [frame for frame in self.frames if frame[0] == boot and frame[1] in safe]:
            self.kept[frame] = self.frames.pop(frame)
        while len(self.kept) > _KEPT_FRAMES:
            del self.kept[next(iter(self.kept))]
        for id_, (of_boot, first, last) in list(self.tombstones.items()):
            if of_boot == boot and safe.covers(first, last):
                del self.tombstones[id_]

    def compare(self, boot: str, held: Received) -> int | None:
        """As the spool does: what is missing is undelivered again, or buried; the first frame to send again."""
        waiting = [(first, last) for of_boot, first, last in self.tombstones.values() if of_boot == boot]
        buried = {seq for first, last in waiting for seq in range(first, last + 1)}
        again = []
        for seq in range(self.next_seq[boot]):
            frame, key = (boot, seq), (boot, key_of(seq))
            lost = seq not in held and frame not in self.frames and seq not in buried
            if lost and frame in self.kept and key not in self.dropped:
                self.frames[frame] = self.kept.pop(frame)
                again.append(seq)
            elif lost or (frame in self.frames and key in self.dropped):
                self.frames.pop(frame, None)
                self._bury(boot, seq)
        return min(again, default=None)

    def undelivered(self) -> list[str]:
        waiting = {boot for boot, _ in self.frames} | {boot for boot, _, _ in self.tombstones.values()}
        return [boot for boot in self.boots if boot in waiting]


@dataclass
class Wire:
    """One connection: what is under way in each direction."""

    up: list[p.Packet] = field(default_factory=list)
    down: list[p.Packet] = field(default_factory=list)


class Simulation:
    def __init__(self, seed: int, gateway: GatewayEnd) -> None:
        self.rng, self.gathers = random.Random(seed), random.Random(seed)
        self.gateway = gateway
        self.disk = Disk()
        self.now = 1000.0
        self.wires: dict[int, Wire] = {}
        self.peer = 0  # the present connection's number
        self.partitioned = False
        self.outstanding: dict[Frame, int] = {}  # sent on this connection, not acknowledged on it
        self.credit = 0
        self.acknowledged: dict[str, Received] = {}
        self.restored = 0  # times that an older copy was put back
        self.gateway.copy()
        self._reboot()

    def run(self, steps: int) -> None:
        actions = (self._capture, self._cycle, self._cycle, self._deliver_up, self._deliver_up, self._commit)
        actions += (self._deliver_down, self._deliver_down, self._wait, self._tick, self._work, self._disturb)
        for step in range(steps):
            action = self.rng.choice(actions)
            try:
                action()
                self._check()
            except AssertionError as error:
                raise AssertionError(f"step {step}, {action.__name__}: {error}") from error
        self._heal()

    def _capture(self) -> None:
        self.disk.put(self.boot, [self.rng.choice([50, 200, 700]) for _ in range(self.rng.randrange(1, 4))])
        self.sender.spooled(self.boot)

    def _cycle(self) -> None:
        """What the uplink does on each wake-up."""
        for boot, held in self.sender.to_compare():
            self.sender.compared(boot, self.disk.compare(boot, held))
            self.uncompared.discard(boot)
        undelivered = self.disk.undelivered()
        boots = [
            boot for boot in self.disk.boots if boot in undelivered or boot in {*self.uncompared, self.boot}
        ]
        for boot in self.sender.hellos(boots, self.now):
            following = self.disk.next_seq[boot]
            self._send(p.Hello(EDGE_ID, boot, "bulk", "yard", following, 0, "simulated"))
        for flight in self.sender.overdue(self.now):
            frame = (flight.boot_id, flight.first_seq)
            span = (flight.boot_id, flight.first_seq, flight.last_seq)
            if flight.is_tombstone and span in self.disk.tombstones.values():
                self._send_grave(*span)
            elif not flight.is_tombstone and frame in self.disk.frames:
                self._send_frame(frame)
            else:
                self.sender.gone(flight)
                self.outstanding.pop(frame, None)
        for id_ in sorted(id_ for id_ in self.disk.tombstones if id_ > self.grave_id):
            self.grave_id = id_
            self._send_grave(*self.disk.tombstones[id_])
        while (read := self.sender.next_read()) is not None:
            later = [seq for boot, seq in self.disk.frames if boot == read.boot_id and seq >= read.from_seq]
            if not later:
                self.sender.drained(read.boot_id)
                continue
            frame = (read.boot_id, min(later))
            size = self.disk.frames[frame]
            if not self.sender.may_send(size):
                break
            assert self.credit > 0, "sent without credit"
            assert not self.outstanding or sum(self.outstanding.values()) + size <= self.credit, (
                "over its credit"
            )
            run = self._run_from(frame) if self.gathers.random() < 0.5 else [frame]
            if len(run) > 1 and self.sender.may_send(sum(self.disk.frames[one] for one in run)):
                self._send(p.FrameRun.of([self._packet(one) for one in run]))
                for one in run:
                    self._note_sent(one)
            else:
                self._send_frame(frame)

    def _run_from(self, frame: Frame) -> list[Frame]:
        """The frame, and those behind it that refer to the same key."""
        boot, seq = frame
        run = [frame]
        while (
            key_of(seq) is not None and key_of(seq + 1) == key_of(seq) and (boot, seq + 1) in self.disk.frames
        ):
            seq += 1
            run.append((boot, seq))
        return run

    def _packet(self, frame: Frame) -> p.BaseFrame:
        return p.BaseFrame(
            p.FrameInfo(*frame, 5, 64, 48, key_of(frame[1]), 9), bytes(self.disk.frames[frame])
        )

    def _send_frame(self, frame: Frame) -> None:
        self._send(self._packet(frame))
        self._note_sent(frame)

    def _note_sent(self, frame: Frame) -> None:
        size = self.disk.frames[frame]
        self.outstanding[frame] = size
        self.sender.sent(frame[0], frame[1], frame[1], size, self.now)

    def _send_grave(self, boot: str, first: int, last: int) -> None:
        self._send(p.Tombstone(boot, first, last, "spool-full"))
        self.sender.sent(boot, first, last, 0, self.now)

    def _send(self, packet: p.Packet) -> None:
        if len(self.wires[self.peer].up) < _MAX_UNDER_WAY:
            self.wires[self.peer].up.append(packet)

    def _deliver_up(self) -> None:
        """One packet reaches the gateway, perhaps one of a connection that is gone already."""
        waiting = [peer for peer, wire in self.wires.items() if wire.up]
        if self.partitioned or not waiting:
            return
        peer = self.rng.choice(waiting)
        self._send_down(self.gateway.receive(peer, self._take(self.wires[peer].up), self.now))

    def _deliver_down(self) -> None:
        wire = self.wires[self.peer]
        if not self.partitioned and wire.down:
            self._hear(self._take(wire.down))

    def _take(self, packets: list[p.Packet]) -> p.Packet:
        """Mostly the next one; sometimes another, sometimes one that stays and comes again, or several are lost."""
        luck = self.rng.random()
        if luck < 0.05:
            return self.rng.choice(packets)
        if luck < 0.10:
            return packets.pop(self.rng.randrange(len(packets)))
        if luck < 0.15:
            del packets[: self.rng.randrange(len(packets))]
        return packets.pop(0)

    def _hear(self, packet: p.Packet) -> None:
        if isinstance(packet, p.Welcome):
            self.sender.welcomed(packet.boot_id, packet.cumulative, packet.credit_bytes)
            self._note_safe(packet.boot_id, packet.cumulative, (), packet.credit_bytes)
        elif isinstance(packet, p.Ack):
            self.sender.acknowledged(packet.boot_id, packet.cumulative, packet.selective, packet.credit_bytes)
            self._note_safe(packet.boot_id, packet.cumulative, packet.selective, packet.credit_bytes)
        elif isinstance(packet, p.Fault) and packet.code != "busy":
            assert packet.code == "hello-first", packet
            self._greet_anew()

    def _note_safe(
        self, boot: str, cumulative: int, ranges: tuple[tuple[int, int], ...], credit: int
    ) -> None:
        self.credit = credit
        told = Received(cumulative, ranges)
        stored, buried = self.gateway.stored(), self.gateway.buried()
        known = self.acknowledged.setdefault(boot, Received())
        for first, last in ((0, cumulative), *ranges):
            for seq in range(first, last + 1):
                assert stored[boot, seq] or buried[boot, seq], f"{seq} was acknowledged and is nowhere"
            if last >= first:
                known.add(first, last)
        for frame in [frame for frame in self.outstanding if frame[0] == boot and frame[1] in told]:
            del self.outstanding[frame]
        self.disk.mark_safe(boot, told)

    def _commit(self) -> None:
        answers = self.gateway.commit(self.now)
        if self.rng.random() < 0.05:
            self.gateway.crash()  # after the commit, before anyone heard of it
        else:
            self._send_down(answers)

    def _tick(self) -> None:
        self._send_down(self.gateway.tick(self.now))

    def _send_down(self, answers: list[tuple[int, p.Packet]]) -> None:
        for peer, packet in answers:
            if peer == self.peer and len(self.wires[peer].down) < _MAX_UNDER_WAY:
                self.wires[peer].down.append(packet)

    def _work(self) -> None:
        self.gateway.work(self.rng.randrange(8), self.now)

    def _wait(self) -> None:
        self.now += self.rng.choice([0.01, 0.2, 1.5, 4.0])

    def _disturb(self) -> None:
        luck = self.rng.random()
        if luck < 0.3:
            self.partitioned = not self.partitioned
        elif luck < 0.6:
            self._connect()
        elif luck < 0.8:
            self.gateway.crash()
        elif luck < 0.9:
            self._reboot()
        elif luck < 0.95:
            self.gateway.copy()
        else:
            self._restore()

    def _restore(self) -> None:
        """An older copy of the gateway's data is put back. That takes a while, and no connection survives it."""
        self.gateway.restore(catalogue_too=self.rng.random() < 0.5)
        self.restored += 1
        self.wires.clear()
        self.peer += 1
        self._connect_anew()

    def _connect(self) -> None:
        """A new connection. What the old one still carries may arrive later, or in part, or never."""
        if self.wires:
            del self.wires[self.peer].up[self.rng.randrange(len(self.wires[self.peer].up) + 1) :]
            self.wires[self.peer].down.clear()
        self.peer += 1
        self._connect_anew()

    def _connect_anew(self) -> None:
        self.wires[self.peer] = Wire()
        for peer in [peer for peer, wire in self.wires.items() if not wire.up and peer != self.peer]:
            del self.wires[peer]
        self._greet_anew()

    def _greet_anew(self) -> None:
        self.sender.connected()
        self.uncompared = set(self.disk.boots)
        self.grave_id = self.credit = 0
        self.outstanding.clear()

    def _reboot(self) -> None:
        self.sender = BaseSender(TIMES)
        self.boot = self.disk.start()
        self._connect()

    def _check(self) -> None:
        stored, buried = self.gateway.stored(), self.gateway.buried()
        twice = [frame for frame in stored | buried if stored[frame] + buried[frame] > 1]
        assert not twice, f"counted twice: {twice}"
        keyless = [
            (boot, seq)
            for boot, seq in stored
            if (key := key_of(seq)) is not None and (boot, key) not in stored
        ]
        assert not keyless, f"acknowledged, and never to be decoded: {keyless}"
        captured = self.disk.next_seq
        assert all(seq < captured[boot] for boot, seq in stored | buried), "it has what nobody captured"
        assert self.sender.in_flight_bytes == sum(self.outstanding.values())
        assert (
            len(self.sender._flights) <= len(self.disk.frames) + len(self.outstanding) + self.disk.last_grave
        )
        under_way = sum(len(wire.up) for wire in self.wires.values())
        assert self.gateway.memory() <= under_way + self.peer + 4 * len(self.disk.boots) + 300

    def _heal(self) -> None:
        """From now on all goes well: everything must land, and everybody must know."""
        self.partitioned = False
        self._connect()
        for _ in range(_HEALING_TURNS):
            self._cycle()
            for peer, wire in list(self.wires.items()):
                while wire.up:
                    self._send_down(self.gateway.receive(peer, wire.up.pop(0), self.now))
            self._send_down(self.gateway.commit(self.now))
            self._send_down(self.gateway.tick(self.now))
            self.gateway.work(50, self.now)
            while self.wires[self.peer].down:
                self._hear(self.wires[self.peer].down.pop(0))
            self._check()
            if not self.disk.undelivered() and not self.uncompared:
                break
            self.now += 0.5
        assert not self.disk.undelivered(), f"never delivered: {self.disk.frames} {self.disk.tombstones}"
        stored, buried = self.gateway.stored(), self.gateway.buried()
        for boot, following in self.disk.next_seq.items():
            for seq in range(following):
                assert stored[boot, seq] + buried[boot, seq] == 1, f"{boot} {seq} is nowhere"
            told = self.acknowledged.get(boot, Received())
            assert following == 0 or told.covers(0, following - 1), "not all of it was acknowledged"

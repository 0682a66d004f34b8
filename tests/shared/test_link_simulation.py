"""Both ends of the link on a virtual network, through thousands of schedules of faults; the gateway is a model."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field

import pytest

from secondlook.shared import packet as p
from secondlook.shared.link import BOOT_TABLE, BootEvent, BootState, Received
from tests.simulation import Disk, Frame, Simulation

SCHEDULES = 2000
STEPS = 120
WINDOW, ROOM = 1500, 3000


def boot_of(packet: p.BaseFrame | p.Tombstone) -> str:
    return packet.info.boot_id if isinstance(packet, p.BaseFrame) else packet.boot_id


@dataclass
class ModelGateway:
    """Rules 1 to 5 of PACKETS.md in as few lines as they take."""

    safe: dict[str, Received] = field(default_factory=dict)  # this, and the next three, survive a crash
    queued: dict[Frame, int] = field(default_factory=dict)
    ever: Counter[Frame] = field(default_factory=Counter)
    gone: Counter[Frame] = field(default_factory=Counter)
    greeted: dict[int, set[str]] = field(default_factory=dict)
    batch: list[tuple[int, p.BaseFrame | p.Tombstone]] = field(default_factory=list)
    starved: set[int] = field(default_factory=set)  # peers that were told 0
    filed: dict[Frame, int] = field(default_factory=dict)  # what a catalogue knows that was not put back

    def receive(self, peer: int, packet: p.Packet, now: float) -> list[tuple[int, p.Packet]]:
        if isinstance(packet, p.Hello):
            self.greeted.setdefault(peer, set()).add(packet.boot_id)
            safe = self.safe.setdefault(packet.boot_id, Received())
            credit = self._credit(peer)
            before = (
                [p.Ack(packet.boot_id, safe.cumulative, ranges, credit)]
                if (ranges := safe.selective(3))
                else []
            )
            return [
                (peer, answer) for answer in (*before, p.Welcome(packet.boot_id, safe.cumulative, credit))
            ]
        if isinstance(packet, p.FrameRun):
            said = [answer for frame in packet.frames() for answer in self.receive(peer, frame, now)]
            return list(dict.fromkeys(said))
        assert isinstance(packet, p.BaseFrame | p.Tombstone)
        if boot_of(packet) not in self.greeted.get(peer, ()):
            return [(peer, p.Fault("hello-first", "say hello"))]
        self.batch.append((peer, packet))
        return []

    def commit(self, now: float) -> list[tuple[int, p.Packet]]:
        batch, self.batch = self.batch, []
        for _, packet in batch:
            safe = self.safe[boot_of(packet)]
            if isinstance(packet, p.BaseFrame):
                has_key = packet.info.key_seq is None or packet.info.key_seq in safe
                frame = (packet.info.boot_id, packet.info.seq)
                if has_key and safe.add(packet.info.seq) and not self._is_filed(frame):
                    self.ever[frame] += 1
                    self.queued[packet.info.boot_id, packet.info.seq] = len(packet.payload)
            else:
                for seq in range(packet.first_seq, packet.last_seq + 1):
                    if safe.add(seq) and not self._is_filed((packet.boot_id, seq)):
                        self.gone[packet.boot_id, seq] += 1
        return [(peer, self._ack(peer, boot)) for peer, boot in {(peer, boot_of(q)) for peer, q in batch}]

    def tick(self, now: float) -> list[tuple[int, p.Packet]]:
        if self._room() == 0:
            return []
        starved, self.starved = self.starved, set()
        return [(peer, self._ack(peer, next(iter(self.greeted[peer])))) for peer in starved]

    def crash(self) -> None:
        self.greeted.clear()
        self.batch.clear()
        self.starved.clear()

    def copy(self) -> None:
        self.older = deepcopy((self.safe, self.queued, self.ever, self.gone, self.filed))

    def restore(self, *, catalogue_too: bool) -> None:
        self.crash()
        worked_off = Counter({frame: count for frame, count in self.ever.items() if frame not in self.queued})
        known = {**self.filed, **worked_off}
        self.safe, self.queued, self.ever, self.gone, self.filed = deepcopy(self.older)
        if not catalogue_too:
            self.filed = known
            self.ever |= worked_off
            for frame in worked_off:
                self.queued.pop(frame, None)

    def _is_filed(self, frame: Frame) -> bool:
        """A catalogue that is younger than the ledger has it."""
        return frame in self.filed

    def work(self, most: int, now: float) -> None:
        for frame in list(self.queued)[:most]:
            del self.queued[frame]

    def stored(self) -> Counter[Frame]:
        return self.ever

    def buried(self) -> Counter[Frame]:
        return self.gone

    def memory(self) -> int:
        return len(self.batch)

    def _ack(self, peer: int, boot: str) -> p.Ack:
        safe = self.safe[boot]
        return p.Ack(boot, safe.cumulative, safe.selective(3), self._credit(peer))

    def _credit(self, peer: int) -> int:
        credit = self._room()
        if credit == 0:
            self.starved.add(peer)
        return credit

    def _room(self) -> int:
        return min(WINDOW, max(0, ROOM - sum(self.queued.values())))


@pytest.mark.parametrize("part", range(4))
def test_every_schedule_ends_with_everything_delivered_once(part: int) -> None:
    for seed in range(part * SCHEDULES // 4, (part + 1) * SCHEDULES // 4):
        try:
            Simulation(seed, ModelGateway()).run(STEPS)
        except AssertionError as error:
            pytest.fail(f"seed {seed}: {error}")


class ForgetfulGateway(ModelGateway):
    """Acknowledges what it has not stored yet."""

    def receive(self, peer: int, packet: p.Packet, now: float) -> list[tuple[int, p.Packet]]:
        answers = super().receive(peer, packet, now)
        if isinstance(packet, p.BaseFrame) and not answers:
            seq = packet.info.seq
            return [(peer, p.Ack(packet.info.boot_id, -1, ((seq, seq),) if seq else (), 500))]
        return answers


class DoublingGateway(ModelGateway):
    """Forgets what it had already."""

    def crash(self) -> None:
        super().crash()
        self.safe = {boot: Received() for boot in self.safe}


@pytest.mark.parametrize(
    ("kind", "says"), [(ForgetfulGateway, "acknowledged and is nowhere"), (DoublingGateway, "twice|nowhere")]
)
def test_the_simulation_finds_a_gateway_that_breaks_its_word(kind: type[ModelGateway], says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        for seed in range(200):
            Simulation(seed, kind()).run(STEPS)


def test_the_simulation_finds_a_camera_host_that_does_not_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Disk, "compare", lambda *_: None)
    with pytest.raises(AssertionError, match="nowhere"):
        for seed in range(200):
            Simulation(seed, ModelGateway()).run(STEPS)


def test_the_table_of_boots_reaches_every_state_and_has_no_dead_end() -> None:
    reached = {BootState.SILENT} | set(BOOT_TABLE.values())
    assert reached == set(BootState)
    assert {state for state, _ in BOOT_TABLE} == set(BootState)
    assert {event for _, event in BOOT_TABLE} == set(BootEvent)

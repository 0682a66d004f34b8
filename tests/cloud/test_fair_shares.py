"""A simulated day of many cameras at one gateway, one of which sends all that its rate admits, and more.

Intake, ledger and queue are the real ones; sockets, workers and time are not. What is looked at are the others: how
long their frames wait for a worker, whether they keep their credit, and what is left of the disk for them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from secondlook.cloud.config import IntakeLimits
from secondlook.cloud.gateway.intake import Intake
from secondlook.cloud.gateway.ratelimit import RateLimits
from secondlook.cloud.storage.blobs import open_blobs
from secondlook.cloud.storage.database import EmbeddedDatabase, open_database, transaction
from secondlook.cloud.storage.ledger import MAX_TOMBSTONES_OF_EDGE, Ledger
from secondlook.cloud.storage.queue import QueueLimits
from secondlook.cloud.storage.queue_sqlite import SqliteQueue
from secondlook.cloud.storage.requests import RequestTable, RequestTimes
from secondlook.shared import packet as p

BOOT = "ab" * 16
DAY = 86_400.0
TURN = 120.0  # seconds of a turn; rates are scaled down with it
FRAME_BYTES = 1000
CAMERAS = 8  # honest ones, a frame each a turn
WORKED = (
    20  # frames that workers take in a turn: more than the honest ones make, less than the other one alone
)
# The one may send 16 frames a turn.
RATES = RateLimits(
    packets_per_second=16 / TURN, bytes_per_second=32 * FRAME_BYTES / TURN, burst_seconds=2 * TURN
)
QUEUE = QueueLimits(max_bytes=400 * FRAME_BYTES)
LIMITS = IntakeLimits(window_bytes=20 * FRAME_BYTES, min_window_bytes=2 * FRAME_BYTES, stall_seconds=TURN)


@dataclass
class Camera:
    """An agent without a spool's limits: what it may not send waits, oldest first."""

    name: str
    a_turn: int  # frames it makes
    keeps_to_credit: bool = True
    next_seq: int = 0
    waiting: deque[int] = field(default_factory=deque)
    made_at: dict[int, float] = field(default_factory=dict)
    credit: int = 0
    starved_turns: int = 0
    delays: list[float] = field(default_factory=list)

    @property
    def peer(self) -> bytes:
        return self.name.encode()


class Site:
    def __init__(self, folder: Path, cameras: list[Camera]) -> None:
        self.db = open_database(folder / "gateway.db")
        self.db.execute("PRAGMA synchronous = OFF")  # it is not about crashes
        database = EmbeddedDatabase(self.db)
        self.ledger, self.queue = Ledger(database), SqliteQueue(self.db, QUEUE)
        requests, blobs = RequestTable(database, RequestTimes()), open_blobs(str(folder / "blobs"))
        self.intake = Intake(self.ledger, self.queue, requests, blobs, LIMITS, None, RATES)
        self.cameras = {camera.peer: camera for camera in cameras}
        self.now = 1_000_000.0
        self.deepest = 0

    def turn(self) -> None:
        """Cameras make and send frames, the gateway stores them, workers take some: half of them before, half after."""
        self.now += TURN
        with transaction(self.db):
            self._work()
            for camera in self.cameras.values():
                for _ in range(camera.a_turn):
                    camera.made_at[camera.next_seq] = self.now
                    camera.waiting.append(camera.next_seq)
                    camera.next_seq += 1
                self._send(camera)
            self._hear(self.intake.flush(now=self.now))
            self._hear(self.intake.tick(now=self.now))
            self.deepest = max(self.deepest, self.queue.depth_bytes)
            self._work()

    def hello(self, camera: Camera) -> None:
        packet = p.Hello(camera.name, BOOT, "bulk", "yard", 0, 0, "test")
        self._hear(self.intake.receive(camera.peer, packet.to_frames(), "", now=self.now))

    def _send(self, camera: Camera) -> None:
        if camera.credit < FRAME_BYTES * camera.a_turn and camera.keeps_to_credit:
            camera.starved_turns += 1
        most = len(camera.waiting)
        if camera.keeps_to_credit:
            most = min(most, camera.credit // FRAME_BYTES)
        for seq in [camera.waiting[index] for index in range(min(most, 64))]:
            frame = p.BaseFrame(
                p.FrameInfo(BOOT, seq, int(self.now * 1e9), 8, 6, None, 9), bytes(FRAME_BYTES)
            )
            self._hear(self.intake.receive(camera.peer, frame.to_frames(), "", now=self.now))
        if not camera.keeps_to_credit:
            grave = p.Tombstone(BOOT, 10**9 + 2 * camera.next_seq, 10**9 + 2 * camera.next_seq, "age")
            self._hear(self.intake.receive(camera.peer, grave.to_frames(), "", now=self.now))

    def _hear(self, answers: list[tuple[bytes, p.Packet]]) -> None:
        for peer, packet in answers:
            camera = self.cameras[peer]
            if isinstance(packet, p.Welcome | p.Ack):
                camera.credit = packet.credit_bytes
                while camera.waiting and camera.waiting[0] <= packet.cumulative:
                    camera.waiting.popleft()

    def _work(self) -> None:
        taken = self._take(WORKED // 2)
        for _, edge_id, seq in taken:
            camera = self.cameras[edge_id.encode()]
            camera.delays.append(self.now - camera.made_at[seq])
        self.queue.ack([id_ for id_, _, _ in taken], worker="w")

    def _take(self, most: int) -> list[tuple[int, str, int]]:
        leased = self.queue.lease(most, ttl_seconds=TURN, worker="w", now=self.now)
        return [(item.id, item.frame.edge_id, item.frame.info.seq) for item in leased]


class OneLine(Site):
    """As if frames were leased in the order they came, whoever sent them."""

    def _take(self, most: int) -> list[tuple[int, str, int]]:
        oldest = "SELECT id, edge_id, seq FROM queue WHERE worker IS NULL AND NOT dead ORDER BY id LIMIT ?"
        rows = self.db.execute(oldest, (most,)).fetchall()
        lease = "UPDATE queue SET worker = 'w', available_at = ? WHERE id = ?"
        self.db.executemany(lease, [(self.now + TURN, row[0]) for row in rows])
        return rows


def day_of(folder: Path, other: Camera, turns: int, kind: type[Site] = Site) -> tuple[Site, list[Camera]]:
    folder.mkdir()
    honest = [Camera(f"camera-{number}", 1) for number in range(CAMERAS)]
    site = kind(folder, [other, *honest])
    for camera in site.cameras.values():
        site.hello(camera)
    for _ in range(turns):
        site.turn()
    return site, honest


def percentile(cameras: list[Camera], share: float) -> float:
    delays = sorted(delay for camera in cameras for delay in camera.delays)
    return delays[int(share * (len(delays) - 1))]


@pytest.mark.parametrize("keeps_to_credit", [True, False], ids=["within its credit", "whatever it is told"])
def test_one_camera_at_its_limit_takes_nothing_from_the_others(tmp_path: Path, keeps_to_credit: bool) -> None:
    turns = int(DAY / TURN)
    quiet_site, quiet = day_of(tmp_path / "quiet", Camera("other", 1), turns)
    greedy = Camera("other", 40, keeps_to_credit)
    site, honest = day_of(tmp_path / "greedy", greedy, turns)
    # It did take what there was: all that the others left of the workers, and its share of the queue.
    assert len(greedy.delays) > 0.9 * turns * (WORKED - CAMERAS)
    assert site.deepest > 0.4 * QUEUE.max_bytes > quiet_site.deepest
    # Delay
    assert all(len(camera.delays) >= turns - 3 for camera in honest)
    assert percentile(honest, 0.99) < 2 * max(percentile(quiet, 0.99), TURN)
    # Credit
    assert all(camera.starved_turns <= 1 for camera in honest)
    # Disk
    assert site.deepest <= 0.6 * QUEUE.max_bytes
    assert len(site.ledger.tombstones_after(0, 20_000)) <= MAX_TOMBSTONES_OF_EDGE
    quiet_site.db.close()
    site.db.close()


def test_in_one_line_for_all_the_others_would_wait(tmp_path: Path) -> None:
    """So the simulation sees what it is there to see."""
    site, honest = day_of(tmp_path / "line", Camera("other", 40), 100, OneLine)
    assert percentile(honest, 0.99) > 4 * TURN
    site.db.close()

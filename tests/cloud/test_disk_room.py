"""A gateway's disk that is full: nothing more is taken, and what is queued can be worked off all the same."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from secondlook.cloud.config import CloudConfig, GatewayConfig, IntakeLimits
from secondlook.cloud.gateway.diskroom import DiskRoom, on_one_disk
from secondlook.cloud.gateway.intake import Intake
from secondlook.cloud.gateway.server import Gateway
from secondlook.cloud.storage.blobs import open_blobs
from secondlook.cloud.storage.stores import Stores, open_stores
from secondlook.shared import packet as p
from secondlook.shared.errors import DiskFull
from tests.cloud.helpers import BOOT, base_frame, free
from tests.cloud.servers import small_disk

MB = 1 << 20


def fill(disk: Path) -> None:
    """To the last byte, as somebody else does."""
    with contextlib.suppress(OSError), (disk / "somebody").open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))


def work_off(stores: Stores, now: float) -> int:
    """What the broker's turn does for a worker, in one commit."""
    with stores.one_commit(synced=False):
        leased = stores.queue.lease(100, ttl_seconds=60, worker="w", now=now)
        stores.queue.ack([item.id for item in leased], worker="w")
    return len(leased)


def test_what_is_queued_is_worked_off_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 40) as disk:
        stores = open_stores(CloudConfig(data_dir=disk))
        room = DiskRoom(disk, 4 * MB, lambda: stores.queue.depth_bytes, reserved_bytes=8 * MB)
        limits = IntakeLimits(stall_seconds=1.0)
        intake = Intake(
            stores.ledger,
            stores.queue,
            stores.requests,
            open_blobs(str(disk / "blobs")),
            limits,
            None,
            disk_full=room.why_full,
        )

        def say(packet: p.Packet, now: float) -> list[p.Packet]:
            return [answer for _, answer in intake.receive(b"bulk", packet.to_frames(), "", now=now)]

        say(p.Hello("gate", BOOT, "bulk", "yard", 100, 0, "test"), 100.0)
        for seq in range(60):
            say(base_frame(seq, bytes(50_000)), 100.0)
        with stores.one_commit(synced=True):
            assert [answer.cumulative for _, answer in intake.flush(now=100.0)] == [59]  # type: ignore[union-attr]
        fill(disk)
        with pytest.raises(DiskFull):  # without the reserve
            work_off(stores, 100.0)
        assert [answer for _, answer in intake.tick(now=101.0)] == [], "it has credit yet"
        stores.shorten_log()
        assert say(base_frame(60, bytes(100)), 101.0) == [p.Ack(BOOT, 59, (), 0)]
        assert [answer for _, answer in intake.tick(now=101.3)] == [p.Fault("busy", "disk full")]
        assert say(p.Hello("gate", BOOT, "bulk", "yard", 100, 60, "test"), 101.5) == [p.Welcome(BOOT, 59, 0)]
        assert work_off(stores, 102.0) == 60
        assert not (disk / "gateway.reserve").exists()
        (disk / "somebody").unlink()
        (raised,) = [answer for _, answer in intake.tick(now=103.0)]
        assert isinstance(raised, p.Ack)
        assert raised.credit_bytes > 0
        assert (disk / "gateway.reserve").stat().st_size == 8 * MB
        stores.close()


def test_what_is_queued_needs_its_room_once_more(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 16) as disk:
        queued = [2 * MB]
        room = DiskRoom(disk, 4 * MB, lambda: queued[0], reserved_bytes=MB)
        assert room.why_full(1.0) is None
        queued[0] = 12 * MB
        assert room.why_full(1.1) is None, "looked at a moment ago"
        assert room.why_full(2.0) == "disk full: 16 MB are free, and 17 MB are needed"
        queued[0] = 11 * MB - 100_000
        assert room.why_full(3.0) is not None, "not back and forth"
        queued[0] = 9 * MB
        assert room.why_full(4.0) is None


def test_an_embedded_queue_has_a_guard_wherever_the_ledger_is(tmp_path: Path, database_url: str) -> None:
    full = GatewayConfig(limits=IntakeLimits(min_free_bytes=1 << 50))
    config = free(CloudConfig(data_dir=tmp_path, ledger=database_url, gateway=full))
    with Gateway(config) as gateway:
        assert gateway._intake._disk_full(1.0) is not None
        assert (tmp_path / "gateway.reserve").exists()
        gateway._stores.shorten_log()


def test_blobs_on_the_same_disk_are_told_from_others(tmp_path: Path) -> None:
    assert on_one_disk(tmp_path, str(tmp_path))
    assert not on_one_disk(tmp_path, "s3://bucket/blobs")
    assert not on_one_disk(tmp_path, "/proc")


def test_limits_that_leave_nothing_are_no_limits() -> None:
    assert GatewayConfig().limits.least_credit_bytes == 64 << 10
    assert IntakeLimits(window_bytes=1000).least_credit_bytes == 1000

"""A run of frames in one message is for the gateway what its frames are, one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secondlook.cloud.config import RateLimits
from secondlook.cloud.gateway.intake import Intake
from secondlook.cloud.gateway.ratelimit import EdgeRates
from secondlook.cloud.storage.blobs import open_blobs
from secondlook.shared import packet as p
from tests.cloud.helpers import BOOT, base_frame
from tests.cloud.test_intake import LIMITS, OTHER_BOOT, Room, enter


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[list[Room]]:
    rooms = [enter(tmp_path / name, max_bytes=1800, max_share=1.0) for name in ("alone", "together")]
    yield rooms
    for room in rooms:
        room.stores.close()


def frames(first: int, count: int, size: int = 20, key: int = 0, boot: str = BOOT) -> list[p.BaseFrame]:
    infos = range(first, first + count)
    return [base_frame(seq, bytes([seq]) * size, key, boot_id=boot, captured_ns=seq * 9) for seq in infos]


def say_each(room: Room, run: Sequence[p.BaseFrame], together: bool) -> list[p.Packet]:
    """What the gateway answers; alike is counted once, for who sends a run hears it once."""
    if together:
        return room.say(p.FrameRun.of(run))
    return list(dict.fromkeys(answer for frame in run for answer in room.say(frame)))


def held(room: Room) -> tuple[object, ...]:
    """Ledger, queue, and what a tally says."""
    leased = room.queue.lease(100, ttl_seconds=0.001, worker="w", now=room.now)
    room.now += 1
    received = room.ledger.received("gate", BOOT)
    return (
        received.parts(),
        [item.frame for item in leased],
        room.queue.depth,
        dict(room.intake.tally.delivered),
    )


STEPS = st.lists(
    st.sampled_from(["run", "run", "run", "again", "key", "early", "flush", "stall", "boot"])
    | st.integers(1, 400).map(lambda size: f"size {size}"),
    min_size=3,
    max_size=14,
)


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], max_examples=40)
@given(steps=STEPS, counts=st.lists(st.integers(2, 30), min_size=14, max_size=14))
def test_a_run_is_its_frames(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], counts: list[int]
) -> None:
    heard = []
    for together in (False, True):
        room = enter(tmp_path_factory.mktemp("room"), max_bytes=3000, max_share=1.0)
        story: list[object] = [room.hello(), room.say(base_frame(0, b"key"))]
        following, size, last = 1, 20, frames(1, 2)
        for step, count in zip(steps, counts, strict=False):
            if step.startswith("size"):
                size = int(step.split()[1])
            elif step in ("run", "early"):
                last = frames(following, count, size, key=following - 1 if step == "early" else 0)
                following += count + (step == "early")
                story.append(say_each(room, last, together))
            elif step == "again":
                story.append(say_each(room, last, together))
            elif step == "boot":
                story.append(say_each(room, frames(1, count, boot=OTHER_BOOT), together))
            elif step == "key":
                story.append(room.say(base_frame(following, b"key")))
                following += 1
            elif step == "stall":
                room.intake._stall(OSError("no"), room.now)
            else:
                story += [room.flush(), room.tick()]
                room.now += 0.5
        story += [room.flush(), held(room)]
        heard.append(story)
        room.stores.close()
    assert heard[0] == heard[1]


def test_a_run_is_acknowledged_and_queued_frame_by_frame(rooms: list[Room]) -> None:
    for room, together in zip(rooms, (False, True), strict=True):
        room.hello()
        room.say(base_frame(0, b"key"))
        assert say_each(room, frames(1, 5), together) == []
        (ack,) = room.flush()
        assert isinstance(ack, p.Ack) and ack.cumulative == 5
        assert room.queued() == [0, 1, 2, 3, 4, 5]


def test_what_does_not_fit_is_refused_frame_by_frame(rooms: list[Room]) -> None:
    for room, together in zip(rooms, (False, True), strict=True):
        room.hello()
        room.say(base_frame(0, b"key"))
        (full,) = say_each(room, frames(1, 10, 300), together)
        assert isinstance(full, p.Ack) and full.credit_bytes == 0
        room.flush()
        assert room.queued() == [0, 1, 2, 3, 4, 5], "those that fit are taken"


def test_a_run_of_an_unknown_boot_or_on_control_is_refused_once(rooms: list[Room]) -> None:
    room = rooms[1]
    run = p.FrameRun.of(frames(1, 30))
    (first,) = room.say(run)
    assert isinstance(first, p.Fault) and first.code == "hello-first"
    room.hello(boot=OTHER_BOOT)
    (fault,) = room.say(run)
    assert isinstance(fault, p.Fault) and fault.code == "hello-first"
    room.hello("control", peer=b"control")
    (fault,) = room.say(run, peer=b"control")
    assert isinstance(fault, p.Fault) and fault.code == "rejected"


def test_rates_count_the_frames_of_a_run(tmp_path: Path) -> None:
    """A hundred frames a second, one second of them at once, and as much again as a debt."""
    room = enter(tmp_path)
    rates = RateLimits(packets_per_second=100, burst_seconds=1)
    blobs = open_blobs(str(tmp_path / "more"))
    room.intake = Intake(
        room.stores.ledger, room.stores.queue, room.stores.requests, blobs, LIMITS, None, rates
    )
    room.hello()
    answers = [room.say(p.FrameRun.of(frames(1 + 40 * turn, 40, 2))) for turn in range(5)]
    assert answers[:4] == [[]] * 4
    (fault,) = answers[4]
    assert isinstance(fault, p.Fault) and fault.code == "too-fast"
    room.stores.close()


@pytest.mark.parametrize("before", [100, 4000])
def test_credit_is_what_frames_of_a_run_are_worth(before: int) -> None:
    """As if each had come alone: a run must not look like few and large packets."""
    limits = RateLimits(packets_per_second=100, bytes_per_second=1e9, burst_seconds=10)
    alone, together = EdgeRates(limits, most=9), EdgeRates(limits, most=9)
    for rates in (alone, together):
        assert rates.admits("gate", packets=1, size_bytes=before, now=0.0)
    for _ in range(5):
        for _ in range(20):
            assert alone.admits("gate", packets=1, size_bytes=150, now=0.0)
        assert together.admits("gate", packets=1, size_bytes=3000, now=0.0)
        assert together.admits_as("gate", packets=20, size_bytes=3000, now=0.0)
    assert together.credit("gate", 0.0) == pytest.approx(alone.credit("gate", 0.0), rel=0.001)


def test_an_equal_frame_in_and_out_of_a_run_counts_once(rooms: list[Room]) -> None:
    room = rooms[1]
    room.hello()
    room.say(base_frame(0, b"key"))
    run = frames(1, 4)
    room.say(run[1])
    room.say(p.FrameRun.of(run))
    room.say(p.FrameRun.of([*run[2:], replace(run[3], info=replace(run[3].info, seq=5))]))
    room.flush()
    assert room.queued() == [0, 2, 1, 3, 4, 5]

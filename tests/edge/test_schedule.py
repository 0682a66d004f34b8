"""Hours, pauses and duty cycles, by themselves and of a running agent."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.edge import pause
from secondlook.edge.agent import Agent
from secondlook.edge.config import DutyConfig, ScheduleConfig
from secondlook.edge.hours import Hours, within_hours
from secondlook.edge.link.budget import day_of, month_of
from secondlook.edge.source.camera import Frame
from secondlook.edge.source.schedule import OFF_HOURS, PAUSED, RUNNING, DutyCycle, Phase, rest
from secondlook.edge.source.shutter import Shutter
from secondlook.shared.errors import ConfigError
from tests.edge.gateway import Memory, SmallGateway, wait_until
from tests.edge.test_agent import PlainCodec, config, status, still

VIENNA = ZoneInfo("Europe/Vienna")


def at(text: str, zone: ZoneInfo = VIENNA) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


@pytest.mark.parametrize(
    ("hours", "instant", "inside"),
    [
        ("mon-fri 06:00-22:00", "2026-11-27T06:00", True),  # a Friday
        ("mon-fri 06:00-22:00", "2026-11-27T22:00", False),
        ("mon-fri 06:00-22:00", "2026-11-28T12:00", False),
        ("sat,sun 22:00-04:00", "2026-11-28T23:00", True),
        ("sat,sun 22:00-04:00", "2026-11-30T03:59", True),  # Monday, of Sunday's night
        ("sat,sun 22:00-04:00", "2026-11-28T03:00", False),  # of Friday's night
        ("fri-mon 08:00-09:00", "2026-11-30T08:30", True),
        ("00:00-24:00", "2026-11-30T23:59", True),
        ("6:00-7:00", "2026-11-30T06:30", True),
        ("06:00-22:00", "2026-07-01T21:30", True),  # by the clock of the place, summer time included
    ],
)
def test_hours_of_the_week(hours: str, instant: str, inside: bool) -> None:
    assert within_hours([Hours.parse(hours)], at(instant), VIENNA) is inside


def test_without_hours_a_camera_runs_at_all_times() -> None:
    assert within_hours([], 0.0, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "always",
        "mon-fri",
        "6-22",
        "mon 06:00",
        "xyz 06:00-07:00",
        "06:00-06:00",
        "06:60-07:00",
        "24:00-25:00",
        "mon- 06:00-07:00",
        "06:00-07:00 mon",
    ],
)
def test_what_are_no_hours_is_said(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^hours ") as told:
        ScheduleConfig((text,))
    assert "\n" not in str(told.value)


def test_a_time_zone_that_is_not_known_is_said() -> None:
    with pytest.raises(ConfigError, match="time_zone 'Mars/Olympus' is not known"):
        ScheduleConfig(time_zone="Mars/Olympus")


@given(st.integers(0, 6), st.integers(0, 1439), st.integers(0, 1439))
def test_hours_and_their_complement_divide_the_day(day: int, begin: int, end: int) -> None:
    if begin == end:
        return
    form = "{:02d}:{:02d}-{:02d}:{:02d}"
    inside = Hours.parse(form.format(*divmod(begin, 60), *divmod(end, 60)))
    outside = Hours.parse(form.format(*divmod(end, 60), *divmod(begin, 60)))
    assert all(inside.hold(day, minute) != outside.hold(day, minute) for minute in range(0, 1440, 7))


@given(st.integers(0, 4_000_000_000), st.integers(1, 28))
def test_an_instant_lies_within_its_day_and_month(now: int, begins: int) -> None:
    for begin, end in (day_of(now), month_of(now, begins)):
        assert begin.timestamp() <= now < end.timestamp()
    begin, end = month_of(now, begins)
    assert begin.day == end.day == begins and timedelta(27) < end - begin < timedelta(32)
    assert day_of(now)[0].tzinfo is UTC


def test_a_duty_cycle_wakes_captures_delivers_and_sleeps() -> None:
    config = DutyConfig(every_seconds=100, capture_seconds=10, deliver_seconds=30)
    cycle = DutyCycle(config, 20.0, 1000.0)
    assert cycle.phase(1004.0, is_delivered=False) is Phase.CAPTURING
    cycle.captured(1005.0)  # the camera took five seconds to open
    cycle.captured(1014.0)
    assert cycle.phase(1014.9, is_delivered=False) is Phase.CAPTURING
    assert cycle.phase(1020.0, is_delivered=False) is Phase.DELIVERING
    assert cycle.phase(1021.0, is_delivered=True) is Phase.ASLEEP
    assert cycle.phase(1022.0, is_delivered=False) is Phase.ASLEEP, (
        "what came meanwhile waits for the next cycle"
    )
    assert cycle.phase(1100.0, is_delivered=False) is Phase.CAPTURING
    assert cycle.phase(1119.9, is_delivered=False) is Phase.CAPTURING, "no frame yet"
    assert cycle.phase(1149.0, is_delivered=False) is Phase.DELIVERING
    assert cycle.phase(1150.0, is_delivered=False) is Phase.ASLEEP, (
        "a link that is away does not keep the host awake"
    )
    cycle.captured(1151.0)  # on its way when the source was closed
    assert cycle.phase(1455.0, is_delivered=False) is Phase.ASLEEP, "the grid stays, however late we are"
    assert cycle.phase(1500.0, is_delivered=False) is Phase.CAPTURING
    assert DutyCycle(DutyConfig(), 20.0, 0.0).phase(1e6, is_delivered=False) is Phase.CAPTURING
    with pytest.raises(ConfigError, match="every_seconds is not above capture_seconds"):
        DutyConfig(every_seconds=5, capture_seconds=5)


def test_a_pause_wins_over_hours_and_these_over_the_cycle() -> None:
    assert rest(paused=True, open_hours=False, phase=Phase.ASLEEP) == PAUSED
    assert rest(paused=False, open_hours=False, phase=Phase.ASLEEP) == OFF_HOURS
    assert rest(paused=False, open_hours=True, phase=Phase.CAPTURING) == RUNNING
    asleep = rest(paused=False, open_hours=True, phase=Phase.ASLEEP)
    assert (asleep.why, asleep.link) == ("asleep", True)
    delivering = rest(paused=False, open_hours=True, phase=Phase.DELIVERING)
    assert (delivering.why, delivering.link) == ("delivering", False)


def test_a_pause_ends_by_itself_or_when_it_is_told_to(tmp_path: Path) -> None:
    folder = tmp_path / "edge"
    assert not pause.is_paused(folder, 100.0) and not pause.resume(folder)
    pause.pause(folder, 100.0, 60.0)
    assert pause.is_paused(folder, 159.0) and not pause.is_paused(folder, 160.0)
    pause.pause(folder, 100.0, None)
    assert pause.is_paused(folder, 1e12)
    assert pause.resume(folder) and not pause.is_paused(folder, 101.0)
    (folder / "paused.json").write_text("{")
    assert pause.is_paused(folder, 1.0), "a camera that shall not look does not look for a damaged file"


def demo_agent(tmp_path: Path, gateway: SmallGateway, **settings: object) -> Agent:
    base = config(tmp_path, Path("demo:"), gateway.address)
    source = replace(base.source, address="demo:", realtime=True, fps=20.0, resize="64")
    return Agent(
        replace(base, source=source, codec=replace(base.codec, family="lite"), **settings), PlainCodec()
    )


@contextmanager
def at_work(agent: Agent) -> Iterator[None]:
    """The agent in a thread, which ends whatever becomes of the test."""
    stop = threading.Event()
    running = threading.Thread(target=agent.run, args=(stop,))
    running.start()
    try:
        yield
    finally:
        stop.set()
        running.join()


def test_a_running_agent_heeds_a_pause_and_goes_on(tmp_path: Path) -> None:
    gateway = SmallGateway(Memory())
    agent = demo_agent(tmp_path, gateway)
    with at_work(agent):
        wait_until(lambda: agent.captured > 3, 40)
        pause.pause(tmp_path / "edge", time.time(), None)
        wait_until(lambda: status(tmp_path)["source"] == "paused", 20)
        before = agent.captured
        wait_until(lambda: len(gateway.memory.frames) == before, 20)
        assert agent.captured == before and status(tmp_path)["link"] == "up"
        pause.resume(tmp_path / "edge")
        wait_until(lambda: agent.captured > before + 3, 40)
    gateway.stop()
    assert {seq for _, seq in gateway.memory.arrivals} == set(range(len(gateway.memory.arrivals))), "no hole"


def test_a_duty_cycle_closes_source_and_link_while_it_sleeps(tmp_path: Path) -> None:
    gateway = SmallGateway(Memory())
    duty = DutyConfig(every_seconds=15.0, capture_seconds=1.0, deliver_seconds=10.0)
    agent = demo_agent(tmp_path, gateway, duty=duty)
    with at_work(agent):
        wait_until((tmp_path / "edge" / "status.json").exists, 20)
        wait_until(lambda: status(tmp_path)["source"] == "asleep", 40)
        slept = agent.captured
        wait_until(lambda: status(tmp_path)["link"] == "down", 4)
        assert slept > 0 and len(gateway.memory.frames) == slept, (
            "what was captured is delivered before it sleeps"
        )
        wait_until(lambda: agent.captured > slept, 40)
        wait_until(lambda: len(gateway.memory.frames) > slept, 20)
    gateway.stop()


class _Still:
    """A source that delivers a frame each time it is asked."""

    can_reopen = True
    state, trouble = "running", None

    def read(self, timeout_seconds: float) -> Frame:
        return still()

    def close(self) -> None:
        pass


def test_every_cycle_delivers_before_it_sleeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("secondlook.edge.source.shutter.time.monotonic", lambda: now[0])
    duty = DutyConfig(every_seconds=100, capture_seconds=10, deliver_seconds=30)
    settings = replace(config(tmp_path, Path("demo:"), "tcp://127.0.0.1:9"), duty=duty)
    camera = Shutter(settings, lambda place: _Still(), lambda seconds: None)
    seen: list[list[str]] = []
    for cycle in range(3):
        seen.append([])
        while now[0] < 1100.0 + 100 * cycle:
            camera.read(0.0)
            if camera.is_delivering:
                camera.is_delivered = now[0] >= 1015.0 + 100 * cycle  # five seconds behind the capture
            if camera.state not in seen[-1]:
                seen[-1].append(camera.state)
            now[0] += 1.0
    assert seen == [["running", "delivering", "asleep"]] * 3


def test_off_its_hours_a_camera_is_not_opened(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    hours = f"{(now + timedelta(hours=2)):%H:%M}-{(now + timedelta(hours=3)):%H:%M}"
    gateway = SmallGateway(Memory())
    agent = demo_agent(tmp_path, gateway, schedule=ScheduleConfig((hours,), "UTC"))
    with at_work(agent):
        wait_until((tmp_path / "edge" / "status.json").exists, 20)
        wait_until(lambda: status(tmp_path)["source"] == "off hours", 20)
    gateway.stop()
    assert agent.captured == 0

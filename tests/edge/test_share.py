"""One link, several cameras: shares, turns, and what a budget leaves."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.edge.config import UplinkConfig
from secondlook.edge.link.budget import Budget, Spent
from secondlook.edge.link.hostlink import Clocks, HostLink
from secondlook.edge.link.pacing import OVERHEAD_BYTES
from secondlook.edge.link.share import FairShare, max_min
from secondlook.shared.errors import ConfigError

WEIGHTS = st.floats(0.01, 1000)
WANTS = st.lists(st.tuples(WEIGHTS, st.one_of(st.floats(0, 1e7), st.just(math.inf))), min_size=1, max_size=9)


@given(st.floats(0, 1e7), WANTS)
def test_a_link_is_divided_by_weight_and_nothing_is_wasted(
    rate: float, wants: list[tuple[float, float]]
) -> None:
    shares = max_min(rate, wants)
    assert sum(shares) == pytest.approx(min(rate, sum(wanted for _, wanted in wants)), rel=1e-9, abs=1e-5)
    level = max(share / weight for share, (weight, _) in zip(shares, wants, strict=True))
    for share, (weight, wanted) in zip(shares, wants, strict=True):
        assert share <= wanted + 1e-9
        if share < wanted * (
            1 - 1e-9
        ):  # whoever gets less than it wants has as much for its weight as anybody
            assert share / weight == pytest.approx(level, rel=1e-6, abs=1e-9)
        assert share >= min(wanted, rate * weight / sum(one for one, _ in wants)) * (1 - 1e-9) - 1e-9


@given(st.lists(st.floats(0.1, 1000), min_size=2, max_size=8), st.integers(0, 1 << 32))
def test_turns_follow_the_weights_whatever_is_sent(weights: list[float], seed: int) -> None:
    """All cameras want all the time: what each has sent for its weight differs by the lead and two packets."""
    rate, largest = 10_000.0, 4000
    share, sent = FairShare(), [0.0] * len(weights)
    for index, weight in enumerate(weights):
        share.join(str(index), weight)
    order, rng = list(range(len(weights))), random.Random(seed)
    for turn in range(60):
        now = turn / 20
        rng.shuffle(order)
        went = False
        for index in order:
            if share.may_send(str(index), rate, now):
                size = rng.randint(100, largest)
                share.sent(str(index), size, now)
                sent[index] += size
                went = True
        assert went, "the link is never left empty while somebody wants it"
    turns = [size / weight for size, weight in zip(sent, weights, strict=True)]
    # Nobody goes who is ahead by more than the lead; then one packet, at the least weight the most. Another one is what
    # went before the others asked for the first time.
    slack = rate * 0.25 / sum(weights) + 2 * largest / min(weights)
    assert max(turns) - min(turns) <= slack + 1e-6


def test_who_wanted_nothing_saves_up_nothing_and_is_waited_for_by_nobody() -> None:
    share = FairShare()
    share.join("busy", 1.0)
    share.join("quiet", 1.0)
    now = 0.0
    for _ in range(100):
        now += 0.1
        assert share.may_send("busy", 1000.0, now)
        share.sent("busy", 500, now)
    sent = {"busy": 0, "quiet": 0}
    for _ in range(40):
        now += 0.1
        for name in sent:
            if share.may_send(name, 1000.0, now):
                share.sent(name, 100, now)
                sent[name] += 100
    assert abs(sent["busy"] - sent["quiet"]) <= 400, (
        "it has its half from now on, and not what it did not want"
    )
    share.leave("quiet")
    assert share.may_send("busy", 1000.0, now + 0.1)


def test_a_camera_may_count_on_what_the_others_leave() -> None:
    share = FairShare()
    share.join("gate", 3.0)
    share.join("yard", 1.0)
    assert share.share_of("yard", 1000.0, 0.0) == 1000.0
    for tenth in range(200):
        share.sent("gate", 20, tenth / 10)  # 200 bytes a second, and it is never held up
    assert share.share_of("yard", 1000.0, 20.0) == pytest.approx(750, rel=0.05)
    share.held_up("gate", 20.0)
    assert share.share_of("yard", 1000.0, 20.0) == 250.0
    assert share.share_of("gate", 1000.0, 20.0) >= 750.0


class Time:
    """Both clocks of a host in one."""

    def __init__(self, wall: float) -> None:
        self.wall, self.began = wall, wall

    @property
    def clocks(self) -> Clocks:
        return Clocks(lambda: self.wall - self.began, lambda: self.wall)


def pump(
    link: HostLink, time: Time, seconds: float, wants: dict[str, float], size: int = 600, step: float = 0.05
) -> dict[str, float]:
    """Let each camera offer frames of `size` bytes at so many bytes a second; bytes that went, headers included.

    What goes is acknowledged after 0.2 s.
    """
    pacers = {name: link.camera(name, weight) for name, weight in wants.items()}
    went = dict.fromkeys(wants, 0.0)
    flying: list[tuple[float, str]] = []
    in_flight = dict.fromkeys(wants, 0)
    until = time.wall + seconds
    while time.wall < until:
        time.wall += step
        now = time.wall - time.began
        for due, name in [one for one in flying if one[0] <= now]:
            flying.remove((due, name))
            in_flight[name] -= size + OVERHEAD_BYTES
            pacers[name].acknowledged(size + OVERHEAD_BYTES, now)
        for name, pacer in pacers.items():
            while pacer.may_send(in_flight[name], now):
                pacer.sent(size + OVERHEAD_BYTES)
                in_flight[name] += size + OVERHEAD_BYTES
                went[name] += size + OVERHEAD_BYTES
                flying.append((now + 0.2, name))
        link.keep()
    for pacer in pacers.values():
        pacer.leave()
    return went


DAY = 1_764_374_400.0  # midnight, UTC


def test_cameras_share_a_rate_by_their_weights(tmp_path: Path) -> None:
    time = Time(DAY)
    link = HostLink(UplinkConfig(kbps=80.0), tmp_path, time.clocks)
    went = pump(link, time, 60.0, {"gate": 3.0, "yard": 1.0})
    assert sum(went.values()) == pytest.approx(10_000 * 60, rel=0.03)
    assert went["gate"] / went["yard"] == pytest.approx(3.0, rel=0.1)
    alone = pump(link, time, 30.0, {"yard": 1.0})
    assert alone["yard"] == pytest.approx(10_000 * 30, rel=0.05)


def test_a_budget_lasts_its_day_and_says_what_it_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    most = 2_000_000
    time = Time(DAY)
    link = HostLink(UplinkConfig(bytes_per_day=most), tmp_path, time.clocks)
    halves = [pump(link, time, 43_200.0, {"gate": 1.0}, size=4000, step=6.0)["gate"] for _ in range(2)]
    assert most * 0.97 <= sum(halves) <= most + 2 * 4160, "all of it, and no more"
    assert halves[1] > most * 0.4, "it lasts to the end of the day"
    assert (
        "are spent ahead of time: the uplink is held to 0.2 kbit/s until 2025-11-30 00:00 UTC" in caplog.text
    )
    assert pump(link, time, 3600.0, {"gate": 1.0}, size=4000, step=1.0)["gate"] > most / 24, (
        "the next day has its own"
    )


def test_what_was_spent_outlives_a_restart_and_a_clock_that_goes_back(tmp_path: Path) -> None:
    time = Time(DAY + 80_000)
    config = UplinkConfig(bytes_per_day=100_000, bytes_per_month=1 << 21)
    link = HostLink(config, tmp_path, time.clocks)
    pacer = link.camera("gate", 1.0)
    pacer.sent(99_000)
    assert not link.is_exhausted and link.status()["month"]["bytes"] == 99_000
    link.keep(now_or_never=True)
    assert link.is_exhausted, "less than a frame is left"
    before_time_server = Time(1000.0)  # 1970
    assert not pacer.is_open
    again = HostLink(config, tmp_path, before_time_server.clocks)
    before_time_server.wall += 1
    assert again.camera("gate", 1.0).may_send(0, 1.0) is False
    assert again.is_exhausted
    next_day = Time(DAY + 86_401)
    tomorrow = HostLink(config, tmp_path, next_day.clocks)
    next_day.wall += 1
    assert tomorrow.camera("gate", 1.0).may_send(0, 1.0)
    assert tomorrow.status()["day"] == {"bytes": 0, "budget": 100_000, "state": "within"}
    assert tomorrow.status()["month"]["bytes"] == 99_000


def test_a_clock_that_was_far_ahead_is_given_up_and_what_went_meanwhile_counts() -> None:
    """A clock without a battery says 2035 until the time server answers, a minute later."""
    config = UplinkConfig(bytes_per_day=100_000, bytes_per_month=1 << 21)
    budget, ahead = Budget(config), DAY + 3650 * 86_400
    budget.spend(20_000, DAY + 1000)
    budget.spend(99_000, ahead)
    assert budget.rate(ahead + 1) == 0 and budget.rate(DAY + 1090) == 0, "it is not believed at once"
    again = Budget(config, Spent.parse(budget.spent.to_bytes()))
    assert again.rate(DAY + 1100) == 0 and again.rate(DAY + 1699) == 0
    assert again.spent.seen == ahead + 1
    assert again.rate(DAY + 1701) == 0, "that much is spent today"
    assert (again.spent.day_bytes, again.spent.month_bytes) == (119_000, 119_000)
    assert again.news()[-1].startswith("the clock said 2035-11-27, and goes on at 2025-11-29")
    assert again.rate(DAY + 86_401) > 0, "and the next day has its own"
    assert (again.spent.day_bytes, again.spent.month_bytes) == (0, 119_000)


def test_a_clock_that_is_set_late_gives_nothing_back() -> None:
    config = UplinkConfig(bytes_per_day=100_000, bytes_per_month=1 << 21)
    budget = Budget(config)
    budget.spend(60_000, DAY + 1000)
    for minute in range(30):  # in 1970, for longer than that is put down to a clock that was not set yet
        budget.spend(10, 1000.0 + 60 * minute)
    assert budget.spent.day == "1970-01-01"
    assert any("the clock said 2025-11-29, and goes on at 1970-01-01" in line for line in budget.news())
    assert budget.rate(DAY + 3000) > 0
    assert (budget.spent.day_bytes, budget.spent.month_bytes) == (60_300, 60_300)


WRITTEN = b'{"day": "2025-11-29", "day_bytes": %s, "month": "2025-11-01", "month_bytes": 9, "seen": %s}'


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"5", b"[]", b"{}", b'{"day": "2025-11-29"}', b"[" * 100_000),
        *(WRITTEN % (b"5", seen) for seen in (b"Infinity", b"NaN", b"-1", b"1e300")),
        *(WRITTEN % (many, b"5") for many in (b"Infinity", b"-5")),
    ],
)
def test_what_cannot_be_read_has_spent_nothing(text: bytes) -> None:
    assert Spent.parse(text) == Spent()


def test_what_an_earlier_version_wrote_is_read() -> None:
    before = b'{"day": "2025-11-29", "day_bytes": 5, "month": "2025-11-01", "month_bytes": 9, "seen": 1764374400.0}'
    assert Spent.parse(before) == Spent("2025-11-29", 5, "2025-11-01", 9, DAY)


def test_days_without_the_host_are_no_wrong_clock() -> None:
    config = UplinkConfig(bytes_per_day=100_000, bytes_per_month=1 << 21)
    budget = Budget(config)
    for day in (0, 5, 10, 40, 80):  # from 29 November on
        budget.spend(1000, DAY + day * 86_400)
        assert budget.spent.day_bytes == 1000, "each day has its own"
    assert Spent.parse(budget.spent.to_bytes()) == budget.spent
    told = [(DAY + day * 86_400, bytes_) for day, bytes_ in ((80, 2000), (81, 1000), (81, 2000))]
    for now, expected in told:
        budget.spend(1000, now)
        assert budget.spent.day_bytes == expected
    assert budget.spent.month == "2026-02-01" and budget.spent.month_bytes == 4000


def test_enhancements_and_pings_are_spent_too(tmp_path: Path) -> None:
    time = Time(DAY)
    link = HostLink(UplinkConfig(kbps=800, bytes_per_day=1 << 20), tmp_path, time.clocks)
    pacer = link.camera("gate", 1.0)
    time.wall += 1
    assert pacer.chunk_bytes(1.0) >= 1024
    pacer.chunk_sent(1000)
    pacer.spoke(200)
    assert link.status()["day"]["bytes"] == 1000 + OVERHEAD_BYTES + 200


@pytest.mark.parametrize("value", [-1, 0, 0.5, math.inf, "much"])
def test_what_is_no_rate_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="kbps"):
        UplinkConfig(kbps=value)

"""How often a person is told: cool-downs of events, and of conditions that come and go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from secondlook.shared.conditions import Active, Change
from secondlook.shared.cooldown import CalmChanges, Cooldown


def change(began: bool, subject: str = "gate") -> Change:
    return Change(began, Active("camera-away", subject, "critical", 0.0, 20.0, "gate is away", "look"))


def test_events_of_one_key_are_passed_over_and_counted() -> None:
    cooldown = Cooldown(60.0)
    assert [cooldown.take("a", now) for now in (0, 10, 59)] == [0, None, None]
    assert cooldown.take("b", 59) == 0
    assert cooldown.take("a", 60) == 2
    assert cooldown.take("a", 119) is None and cooldown.take("a", 5) == 1  # a clock that was set back


def test_a_copy_that_is_thrown_away_changes_nothing() -> None:
    cooldown = Cooldown(60.0)
    cooldown.copy().take("a", 0)
    assert cooldown.take("a", 1) == 0
    tried = cooldown.copy()
    tried.take("a", 2)
    assert cooldown.take("a", 61) == 0 and tried.take("a", 61) == 1


def test_without_seconds_every_event_is_told() -> None:
    cooldown = Cooldown(0.0)
    assert [cooldown.take("a", 0) for _ in range(3)] == [0, 0, 0]
    assert not CalmChanges(0.0).due(9) and all(CalmChanges(0.0).take(change(True), 0) for _ in range(3))


def test_a_condition_that_comes_and_goes_is_told_once() -> None:
    calm = CalmChanges(300.0)
    assert calm.take(change(True), 0) and calm.take(change(False), 10)
    assert not calm.take(change(True), 20) and calm.wait_seconds(20) == 280
    assert not calm.take(change(False), 30) and calm.wait_seconds(30) is None and not calm.due(400)
    assert calm.take(change(True), 401)


def test_a_condition_that_stays_is_told_when_the_cool_down_is_over() -> None:
    calm = CalmChanges(300.0)
    assert calm.take(change(True), 0) and calm.take(change(False), 10) and not calm.take(change(True), 20)
    assert calm.take(change(True, "yard"), 20)  # of another subject
    assert calm.due(299) == [] and calm.due(300) == [change(True)] and calm.due(301) == []
    assert calm.take(change(False), 302)


def test_an_end_of_what_began_before_is_told() -> None:
    assert CalmChanges(300.0).take(change(False), 0)


@given(st.lists(st.floats(0.1, 200), max_size=60), st.floats(1, 300))
def test_whoever_is_told_knows_at_the_latest_after_the_cool_down(pauses: list[float], seconds: float) -> None:
    """Beginnings and ends take turns; what was told last is what holds, once the cool-down has passed."""
    calm, now, holds, told = CalmChanges(seconds), 0.0, False, []
    for pause in pauses:
        now += pause
        told += calm.due(now)
        holds = not holds
        if calm.take(change(holds), now):
            told.append(change(holds))
    told += calm.due(now + seconds + 1)
    assert [one.began for one in told] == [index % 2 == 0 for index in range(len(told))]
    assert bool(told and told[-1].began) == holds

"""How a camera does: states from signs, and one event for a camera that comes and goes. Tables, and no clock."""

from __future__ import annotations

from dataclasses import replace

import pytest

from secondlook.cloud.catalogue.camerastates import CameraState, Signs, Trouble, follow, is_well, state_of

SECOND = 1_000_000_000
NOW = 1_800_000_000 * SECOND
SILENT, SETTLE = 60 * SECOND, 300 * SECOND
ONLINE, RESTING, STALLED = CameraState.ONLINE, CameraState.RESTING, CameraState.STALLED
SIL, OFFLINE = CameraState.SILENT, CameraState.OFFLINE


def ago(seconds: float | None) -> int | None:
    return None if seconds is None else NOW - int(seconds * SECOND)


# Seconds since a frame was stored, since a gateway told, and, when it told, since the host was heard and delivered.
@pytest.mark.parametrize(
    ("stored", "noted", "heard", "delivered", "source", "state", "since"),
    [
        (5, None, None, None, "", ONLINE, 5),
        (61, None, None, None, "", SIL, 61),  # no worker tells why
        (5, 3, 4, 5, "running", ONLINE, 5),
        (900, 3, 4, 5, "running", ONLINE, 5),  # the queue is long: frames come all the same
        (900, 3, 10, 64, "running", STALLED, 64),
        (900, 3, 10, 63, "running", ONLINE, 63),
        (900, 3, 64, 900, "running", OFFLINE, 64),
        (900, 3, 10, 900, "paused", RESTING, 900),
        (900, 3, 10, 900, "ended", RESTING, 900),
        (900, 3, 70, 900, "paused", OFFLINE, 70),  # it slept when it was last heard, and is away
        (900, 3, 900, 900, "asleep", RESTING, 900),  # it closed its link on purpose
        (90_000, 3, 90_000, 90_000, "asleep", OFFLINE, 90_000),
        (900, 3, 10, 900, "a word of a later version", STALLED, 900),
        (900, 61, 62, 63, "running", SIL, 900),  # what was told is too old
        (5, 61, 900, 900, "running", ONLINE, 5),
        (900, 3, 10, None, "", STALLED, 900),
    ],
)
def test_states(
    stored: float,
    noted: float | None,
    heard: float | None,
    delivered: float | None,
    source: str,
    state: CameraState,
    since: float,
) -> None:
    signs = Signs(NOW - stored * SECOND, ago(noted), ago(heard), ago(delivered), source)
    assert state_of(signs, now_ns=NOW, silent_ns=SILENT) == (state, ago(since))


def test_well_states_are_those_that_nobody_has_to_look_at() -> None:
    assert [state for state in CameraState if is_well(state)] == [ONLINE, RESTING]


# Seconds, the state then and since when; what is open afterwards: what, began, well again since, ended, times.
FLAPPING = [
    (0, ONLINE, 0, None),
    (100, OFFLINE, 40, (OFFLINE, 40, None, None, 1)),
    (110, OFFLINE, 40, (OFFLINE, 40, None, None, 1)),
    (120, ONLINE, 119, (OFFLINE, 40, 120, None, 1)),
    (200, OFFLINE, 140, (OFFLINE, 40, None, None, 2)),  # away again before it was over
    (210, RESTING, 205, (OFFLINE, 40, 210, None, 2)),
    (300, STALLED, 240, (OFFLINE, 40, None, None, 3)),  # the worst of it stays
    (310, ONLINE, 309, (OFFLINE, 40, 310, None, 3)),
    (609, ONLINE, 608, (OFFLINE, 40, 310, None, 3)),
    (610, ONLINE, 609, (OFFLINE, 40, 310, 310, 3)),  # it has done well for five minutes
]


def test_a_camera_that_comes_and_goes_makes_one_event() -> None:
    trouble: Trouble | None = None
    for seconds, state, since, wanted in FLAPPING:
        trouble = follow(trouble, state, since * SECOND, now_ns=seconds * SECOND, settle_ns=SETTLE)
        if wanted is None:
            assert trouble is None
            continue
        what, began, well, ended, times = wanted
        at = [None if one is None else one * SECOND for one in (began, well, ended)]
        assert trouble == Trouble(what, at[0] or 0, at[1], at[2], times), seconds


def test_a_worse_state_is_what_the_event_is_called_by() -> None:
    stalled = follow(None, STALLED, 5, now_ns=10, settle_ns=SETTLE)
    assert stalled is not None and stalled.what is STALLED
    assert follow(stalled, OFFLINE, 7, now_ns=20, settle_ns=SETTLE) == replace(stalled, what=OFFLINE)
    assert follow(None, ONLINE, 5, now_ns=10, settle_ns=SETTLE) is None


def test_a_clock_that_is_set_back_ends_nothing_too_early() -> None:
    open_trouble = Trouble(OFFLINE, 0, well_ns=1000 * SECOND)
    after = follow(open_trouble, ONLINE, 0, now_ns=10 * SECOND, settle_ns=SETTLE)
    assert after == replace(open_trouble, well_ns=10 * SECOND)
    ended = follow(after, ONLINE, 0, now_ns=310 * SECOND, settle_ns=SETTLE)
    assert ended is not None and ended.ended_ns == 10 * SECOND

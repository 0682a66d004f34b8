"""How a camera does, and what becomes of that: states, and events that begin and end. Without I/O, the time passed in.

A camera that comes and goes makes one event: it lasts until the camera has done well for a while without a break.
Instants are Unix nanoseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

AWAY_NS = 60_000_000_000  # idle hosts are heard every half a minute
NOTED_NS = 60_000_000_000  # what a gateway told longer ago says nothing of now


class CameraState(StrEnum):
    ONLINE = "online"
    RESTING = "resting"  # it delivers nothing on purpose: paused, out of its hours, at its end
    STALLED = "stalled"  # its host is connected, and delivers neither frames nor tombstones
    SILENT = "silent"  # nothing of it was stored for long, and nobody tells why
    OFFLINE = "offline"  # its host is not heard


_SLEEP_NS = 86_400_000_000_000  # a host that closed its link on purpose is missed after this
_RESTING = frozenset({"paused", "off-hours", "asleep", "ended"})
_WORSE = (CameraState.STALLED, CameraState.SILENT, CameraState.OFFLINE)  # in this order; others are well


@dataclass(frozen=True)
class Signs:
    """What is known of a camera: when a frame was stored last, and what a gateway told at ``noted_ns``."""

    stored_ns: int
    noted_ns: int | None = None
    heard_ns: int | None = None
    delivered_ns: int | None = None
    source: str = ""


def state_of(signs: Signs, *, now_ns: int, silent_ns: int) -> tuple[CameraState, int]:
    """The state of a camera, and since when it has been so, as far as is known."""
    noted, heard = signs.noted_ns, signs.heard_ns
    if noted is None or heard is None or now_ns - noted > NOTED_NS:
        silent = now_ns - signs.stored_ns > silent_ns
        return (CameraState.SILENT if silent else CameraState.ONLINE), signs.stored_ns
    if noted - heard > (_SLEEP_NS if signs.source == "asleep" else AWAY_NS):
        return CameraState.OFFLINE, heard
    delivered = signs.stored_ns if signs.delivered_ns is None else signs.delivered_ns
    if signs.source in _RESTING:
        return CameraState.RESTING, delivered
    if noted - delivered > silent_ns:
        return CameraState.STALLED, delivered
    return CameraState.ONLINE, delivered


def is_well(state: CameraState) -> bool:
    return state not in _WORSE


@dataclass(frozen=True)
class Trouble:
    """A time in which a camera did not do well. ``times``: how often it came back within it, and went again."""

    what: CameraState  # the worst of it
    began_ns: int
    well_ns: int | None = None  # since when it does well again
    ended_ns: int | None = None  # the same, once that has lasted
    times: int = 1


def follow(
    open_trouble: Trouble | None, state: CameraState, since_ns: int, *, now_ns: int, settle_ns: int
) -> Trouble | None:
    """What becomes of a camera's open trouble, or of none, when it is found so; with ``ended_ns`` it is over."""
    trouble = open_trouble
    if not is_well(state):
        if trouble is None:
            return Trouble(state, since_ns)
        worst = max(trouble.what, state, key=_WORSE.index)
        again = trouble.well_ns is not None
        return replace(trouble, what=worst, well_ns=None, times=trouble.times + again)
    if trouble is None:
        return None
    well_ns = now_ns if trouble.well_ns is None else min(trouble.well_ns, now_ns)
    is_over = now_ns - well_ns >= settle_ns
    return replace(trouble, well_ns=well_ns, ended_ns=well_ns if is_over else None)

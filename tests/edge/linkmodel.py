"""A camera, its rate control and a link, simulated: bytes of frames as x265 made them of three clips, time a number.

`frame_bytes.json`: of each clip, for base qualities 0, 8, ... 48, the bytes of the packet of a background of quality
28, of 100 frames at 5 a second within one group, and of every fifth of them where a group begins with it
(car-detection 768x432, one-by-one-person-detection 512 wide, highway-1 320x240).
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secondlook.edge.config import RateConfig
from secondlook.edge.link.gathering import Gathering, run_overhead
from secondlook.edge.link.pacing import Pacer
from secondlook.edge.link.rate import RateControl
from secondlook.shared.packet import BaseFrame, FrameInfo

FPS = 5
GROUP = 250
CLIPS: dict[str, dict[str, dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "frame_bytes.json").read_text()
)
_STEP = 0.02  # seconds of a turn of the uplink
_NEWS_SECONDS = 0.5


def background_bytes(clip: str) -> int:
    return int(CLIPS[clip]["0"]["background"])


def frame_bytes(clip: str, number: int, quality: int, *, first: bool) -> int:
    """Of a frame, the first of its group or not: between two qualities that were measured, geometrically."""
    below = min(40, quality // 8 * 8)
    part = (quality - below) / 8
    low, high = (_measured(CLIPS[clip][str(one)], number % 100, first) for one in (below, below + 8))
    return round(low ** (1 - part) * high**part)


def _measured(table: dict[str, Any], number: int, first: bool) -> int:
    return int(table["first"][number // 5] if first else table["frames"][number])


@dataclass
class Run:
    """What came of a simulation."""

    arrived: list[tuple[float, int]] = field(
        default_factory=list
    )  # (when, bytes) of packets, headers included
    delays: list[tuple[float, float]] = field(
        default_factory=list
    )  # (when, seconds since its capture) of frames
    qualities: list[tuple[float, int]] = field(default_factory=list)  # (when, quality) of frames
    captured: int = 0
    thinned: list[float] = field(default_factory=list)
    given_up: list[float] = field(default_factory=list)
    news: list[tuple[float, str]] = field(default_factory=list)

    def kbps(self, begin: float, seconds: float = 10.0) -> float:
        return sum(size for at, size in self.arrived if begin <= at < begin + seconds) * 8 / 1000 / seconds

    def windows(self, begin: float, end: float) -> list[float]:
        """Kilobits a second in every window of 10 s, from second to second."""
        return [self.kbps(at) for at in range(int(begin), int(end) - 9)]

    def said(self, beginning: str) -> list[float]:
        return [at for at, line in self.news if line.startswith(beginning)]


_BOOT = "ab" * 16


@dataclass(eq=False)
class _Waiting:
    frame: BaseFrame
    captured: float

    @property
    def seq(self) -> int:
        return self.frame.info.seq

    @property
    def size(self) -> int:
        return len(self.frame.payload)


@dataclass(eq=False)
class _Message:
    """A frame, or several that go together."""

    frames: list[_Waiting]

    @property
    def size(self) -> int:
        return sum(one.size for one in self.frames) + int(run_overhead(len(self.frames)))


def simulate(
    clip: str,
    config: RateConfig,
    carries: Callable[[float], float],
    seconds: float,
    *,
    trip: float = 0.1,
    still: Iterable[tuple[float, float]] = (),
) -> Run:
    """`carries`: bytes a second of the link at an instant; `trip`: seconds there and back; `still`: no frames then."""
    run, control, pacer = Run(), RateControl(config, 16, 0.0), Pacer(config.uplink_bytes, 0.0)
    gathering = Gathering(_BOOT, config.gather_seconds)
    spool: list[_Waiting] = []  # not sent
    on_link: deque[_Message] = deque()
    acks: deque[tuple[float, _Message]] = deque()
    place, quality, next_frame, next_news, room, now, in_flight, seq, key = (
        GROUP,
        -1,
        0.0,
        0.0,
        0.0,
        0.0,
        0,
        0,
        0,
    )
    while now < seconds:
        now += _STEP
        if now >= next_frame:
            next_frame += 1 / FPS
            if not any(begin <= now < end for begin, end in still):
                run.captured += 1
                if control.is_coded(now):
                    first = place == GROUP or quality != control.quality
                    place, quality = (1 if first else place + 1), control.quality
                    # The background has a quality of its own, and goes over the link once.
                    size = frame_bytes(clip, run.captured, quality, first=first)
                    size += 0 if run.qualities else background_bytes(clip)
                    control.coded(size, first=first, now=now)
                    key = seq if first else key
                    info = FrameInfo(_BOOT, seq, int(now * 1e9), 64, 48, None if first else key, 0)
                    spool.append(_Waiting(BaseFrame(info, bytes(size)), now))
                    seq += 1
                    gathering.spooled(seq, now)
                    run.qualities.append((now, quality))
                else:
                    run.thinned.append(now)
        while spool:
            count = len(gathering.next([one.frame for one in spool[:64]], pacer.rate, now))
            if not count or not pacer.may_send(in_flight, now):
                break
            message = _Message(spool[:count])
            del spool[:count]
            pacer.sent(message.size)
            in_flight += message.size
            on_link.append(message)
        room = room + carries(now) * _STEP if on_link else 0.0
        while on_link and room >= on_link[0].size:
            room -= on_link[0].size
            acks.append((now + trip, on_link.popleft()))
        while acks and acks[0][0] <= now:
            message = acks.popleft()[1]
            in_flight -= message.size
            run.arrived.append((now, message.size))
            run.delays += [(now, now - one.captured) for one in message.frames]
            pacer.acknowledged(message.size, now)
        if now >= next_news:
            next_news += _NEWS_SECONDS
            under_way = [one for message in (*on_link, *(late for _, late in acks)) for one in message.frames]
            waiting = [*spool, *under_way]
            headers = control.overhead_bytes
            control.link(pacer.rate, sum(one.size + headers for one in waiting), now)
            surplus = control.surplus()
            while surplus > 0 and spool:
                gone = spool.pop(0)
                surplus -= gone.size + headers
                run.given_up.append(now)
                place = GROUP
            run.news += [(now, line) for line in control.news()]
    return run


def falling(rate: float, begin: float, end: float) -> Callable[[float], float]:
    """A link of `rate` that carries a third of it between two instants."""
    instants = [begin, end]
    return lambda now: rate / 3 if bisect_right(instants, now) == 1 else rate

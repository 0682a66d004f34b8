"""Which frames go over a thin link together, and what headers cost then: logic without I/O, time passed in.

A frame of a camera that stands still has fewer bytes than its headers. Where a link is bounded, small deltas wait for
one another and go as one run (`FrameRun`): once the first of them has waited for `seconds`, once the run is full, or
once something comes that cannot join it, which then goes behind it. What is no news does not wait: frames of earlier
boots, and those that were spooled while the gateway was away. They go in runs, too.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import pairwise

from secondlook.edge.link.pacing import OVERHEAD_BYTES
from secondlook.shared.packet import MAX_RUN, BaseFrame, FrameRun

RUN_FRAME_BYTES = 12  # that each frame adds to the header of a run
LARGE_BYTES = 10 * OVERHEAD_BYTES  # a frame of so many goes by itself: a tenth of it could be saved
RUN_BYTES = 8 << 10  # of frames in one run, at most
_LEAST_RUN_BYTES = 3 * OVERHEAD_BYTES  # a run may have so many over any link


def run_bytes(rate: float, seconds: float) -> float:
    """The most bytes of frames in one run over a link of `rate`: no more than it carries in half the time that they
    wait, or a full link would carry lumps."""
    return min(RUN_BYTES, max(_LEAST_RUN_BYTES, rate * seconds / 2))


def frames_in_run(size: float, fps: float, rate: float, seconds: float) -> float:
    """How many frames of `size` bytes go in a message on average, of `fps` a second over a link of `rate`."""
    if seconds <= 0 or size > LARGE_BYTES:
        return 1.0
    return max(1.0, min(fps * seconds, MAX_RUN, run_bytes(rate, seconds) / max(1.0, size)))


def run_overhead(frames: float) -> float:
    """Bytes that a message of so many frames needs beside them."""
    return OVERHEAD_BYTES if frames <= 1 else OVERHEAD_BYTES + RUN_FRAME_BYTES * frames


def frame_overhead(size: float, fps: float, rate: float, seconds: float) -> float:
    """Bytes of headers that a frame needs, on average."""
    frames = frames_in_run(size, fps, rate, seconds)
    return run_overhead(frames) / frames


class Gathering:
    """The runs of one camera host. Its owner asks for what goes next, says what went, and hears what was refused."""

    def __init__(self, boot_id: str, seconds: float) -> None:
        """`seconds`: the longest that a frame of the present boot waits for others; 0: each goes at once, by itself."""
        self._boot_id, self._seconds = boot_id, seconds
        self.hurries = False  # nothing is to wait
        self.due_at = math.inf  # when what waits has waited for long enough
        self._next_seq = self._old_seq = 0  # of the boot: those below the latter are no news
        self._spooled: deque[tuple[int, float]] = deque()  # (the next sequence, since when), the oldest first
        self._under_way: dict[str, set[tuple[int, int]]] = {}  # runs on this connection, by boot
        self._is_refused = False  # this gateway takes no runs
        self._rejections = 0  # that are yet to come

    @property
    def is_on(self) -> bool:
        return self._seconds > 0 and not self._is_refused

    def connected(self, next_seq: int) -> None:
        """A new connection, perhaps to another gateway; what is spooled by now is no news."""
        self._next_seq = self._old_seq = next_seq
        self._spooled.clear()
        self._under_way.clear()
        self._is_refused, self._rejections, self.due_at = False, 0, math.inf

    def spooled(self, next_seq: int, now: float) -> None:
        """The spool holds frames of the boot below this sequence."""
        if next_seq > self._next_seq:
            self._next_seq = next_seq
            self._spooled.append((next_seq, now))
        while self._spooled and now - self._spooled[0][1] > self._seconds:
            self._old_seq = self._spooled.popleft()[0]

    def next(self, pending: Sequence[BaseFrame], rate: float, now: float) -> Sequence[BaseFrame]:
        """What of `pending`, all that the spool has from there on, is sent now in one message; nothing: it waits.

        `rate`: bytes a second of the link.
        """
        if not self.is_on:
            return pending[:1]
        run = self._run(pending, run_bytes(rate, self._seconds))
        due = self._spooled_at(run[-1], run[0], now) + self._seconds
        if len(run) < len(pending) or len(run) == MAX_RUN or self.hurries or now >= due:
            return run
        self.due_at = due
        return ()

    def sent(self, run: FrameRun) -> None:
        self._under_way.setdefault(run.boot_id, set()).add((run.first_seq, run.last_seq))

    def safe(self, boot_id: str, cumulative: int) -> None:
        """Frames up to this one have arrived."""
        runs = self._under_way.get(boot_id)
        if runs:
            runs -= {run for run in runs if run[1] <= cumulative}

    def refused(self) -> dict[str, int] | None:
        """The gateway rejects a packet. Where that may have been a run it gets no more of them on this connection: by
        boot, the first frame to send again; None where it was something else."""
        if self._rejections:
            self._rejections -= 1
            return {}
        again = {boot_id: min(runs)[0] for boot_id, runs in self._under_way.items() if runs}
        if not again:
            return None
        self._rejections = sum(map(len, self._under_way.values())) - 1
        self._under_way.clear()
        self._is_refused = True
        return again

    def _run(self, pending: Sequence[BaseFrame], most: float) -> Sequence[BaseFrame]:
        """The first of `pending`, and those behind it that can join."""
        count, size = 1, len(pending[0].payload)
        for early, late in pairwise(pending[:MAX_RUN]):
            size += len(late.payload)
            if size > most or not _joins(early, late):
                break
            count += 1
        return pending[:count]

    def _spooled_at(self, last: BaseFrame, first: BaseFrame, now: float) -> float:
        """Since when a run waits; for ever where it cannot grow, or is no news."""
        is_ours = first.info.boot_id == self._boot_id and first.info.seq >= self._old_seq
        if not is_ours or not _is_small(first) or last.info.seq + 1 < self._next_seq:
            return -math.inf
        return next((at for next_seq, at in self._spooled if first.info.seq < next_seq), now)


def _is_small(frame: BaseFrame) -> bool:
    """Whether a frame is one that waits for others: a delta, and not large."""
    return frame.info.key_seq is not None and len(frame.payload) <= LARGE_BYTES


def _joins(early: BaseFrame, late: BaseFrame) -> bool:
    """Whether a frame can go in one run with the one ahead of it."""
    a, b = early.info, late.info
    follows = (b.boot_id, b.seq, b.key_seq) == (a.boot_id, a.seq + 1, a.key_seq)
    is_alike = (b.width, b.height) == (a.width, a.height) and b.captured_ns >= a.captured_ns
    return follows and is_alike and _is_small(early) and _is_small(late)

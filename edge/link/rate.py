"""How well, and how often, a camera's frames are coded for a thin link: logic without I/O, time passed in.

The quantiser goes first: down to `min_quality` a coarser picture costs less accuracy than a frame that is not there.
Below that frames are thinned out, down to `min_fps`; then the quantiser goes as far as it can. What waits for the link
is held at a few seconds of it: so much smooths what frames need, one by one, into what the link carries.

Quality changes seldom, for a new one begins a new group, or costs a key. In between, what waits grows and shrinks.
"""

from __future__ import annotations

import math
from collections import deque

from secondlook.edge.config import RateConfig
from secondlook.edge.link.gathering import frame_overhead
from secondlook.edge.outage import duration

_DOUBLING = 9.0  # levels of quality that double a frame's bytes at most; what is wrong with it is learned
_MEMORY_SECONDS = 6.0  # over which the bytes of frames are averaged
_RATE_SECONDS = 10.0  # over which the source's frames are counted
_WAITING_SECONDS = 3.0  # of the link that shall wait
_GATHERED_SECONDS = 4.6  # the same where frames share headers: what is left of a message differs more
_RETURN_SECONDS = 7.0  # in which what waits comes back to that by quality
_FEWEST, _MOST = 0.75, 1.4  # of the link's rate that is coded for meanwhile
_MUCH_SECONDS = 3.0  # more than shall wait do: frames are thinned out until it is less, at whatever quality
_HOLD_SECONDS = 5.0  # a quality is kept
_HURRY_SECONDS = 3.0  # where it is far too good
_STEP = 2  # levels of quality that are one step of the quantiser
_CAREFUL = 2  # levels upwards at once, or half of the way
_FAR_OFF = 8  # levels
_BEHIND_SECONDS = 10.0  # of the link wait: said in the log, and over at a third of it
_HALVINGS = 12  # of the frame rate that is looked for
_QUIET_SECONDS = 10.0  # all frames were coded: they are not thinned out any more


class RateControl:
    """The rate control of one camera."""

    def __init__(self, config: RateConfig, quality: int, now: float) -> None:
        """`quality`: the base quality to begin with."""
        self._config = config
        self.quality = min(config.max_quality, max(config.min_quality, quality))
        self._rate = config.uplink_bytes
        self._shall_wait = _GATHERED_SECONDS if config.gather_seconds else _WAITING_SECONDS
        self._waiting = 0
        self._cost: float | None = None  # bytes of a frame behind the first of its group, at quality 0
        self._arrivals: deque[float] = deque()
        self._coded_at = now
        self._changed_at = now
        self._turn = 1.0  # of the next frame: it is coded when this has come to 1
        self._thinning_since: float | None = None
        self._all_since = now
        self._behind_since: float | None = None
        self._news: list[str] = []

    def link(self, rate: float, waiting: int, now: float) -> None:
        """What the link carries, in bytes a second, and how many bytes wait for it, those in flight included."""
        self._rate, self._waiting = rate, waiting
        behind = self._waiting_seconds
        if self._behind_since is None and behind > _BEHIND_SECONDS:
            self._behind_since = now
            self._news.append(
                f"behind: {duration(behind)} of frames wait for a link that carries {_kbps(rate)}"
            )
        elif self._behind_since is not None and behind < _BEHIND_SECONDS / 3:
            self._news.append(f"not behind any more, after {duration(now - self._behind_since)}")
            self._behind_since = None
        self._adapt(now)

    def is_coded(self, now: float) -> bool:
        """Whether the frame that has arrived is coded; else it is thinned out."""
        self._arrivals.append(now)
        while now - self._arrivals[0] > _RATE_SECONDS:
            self._arrivals.popleft()
        self._turn += self._share()
        coded = self._turn >= 1.0
        self._turn -= coded
        self._note_thinning(coded, now)
        return coded

    def coded(self, size: int, *, first: bool, now: float) -> None:
        """A frame was coded, into so many bytes. `first`: of its group, or a key among deltas."""
        seconds, self._coded_at = max(0.0, now - self._coded_at), now
        if first and self._cost is not None:
            return
        cost = size / 2 ** (self.quality / _DOUBLING)
        weight = 1.0 if self._cost is None else 1 - math.exp(-min(seconds, _MEMORY_SECONDS) / _MEMORY_SECONDS)
        self._cost = cost if self._cost is None else self._cost + weight * (cost - self._cost)

    def surplus(self) -> int:
        """Bytes that have to be given up, oldest first, so that the newest frames come through."""
        most = self._config.behind_seconds * self._rate
        if self._config.when_behind == "all" or self._waiting <= most:
            return 0
        return int(self._waiting - most / 2)

    @property
    def overhead_bytes(self) -> int:
        """What each frame that waits for the link needs there beside its base layer, for headers."""
        return int(self._overhead(self._payload(self.quality), self._share() * self._source_fps))

    def news(self) -> list[str]:
        """Lines for the log, each handed out once."""
        news, self._news = self._news, []
        return news

    @property
    def _waiting_seconds(self) -> float:
        return self._waiting / self._rate

    @property
    def _source_fps(self) -> float:
        arrivals = self._arrivals
        if len(arrivals) < 2 or arrivals[-1] <= arrivals[0]:
            return 1.0
        return (len(arrivals) - 1) / (arrivals[-1] - arrivals[0])

    @property
    def _budget(self) -> float:
        """Bytes a second to code for."""
        back = 1 + (self._shall_wait - self._waiting_seconds) / _RETURN_SECONDS
        return self._rate * min(_MOST, max(_FEWEST, back))

    def _quality_for(self, fps: float) -> float:
        """At which frames of so many a second are within the budget."""
        each = self._budget / fps
        payload = max(1.0, each - self._overhead(each, fps))
        return _DOUBLING * math.log2(payload / max(1.0, self._cost or 1.0))

    def _payload(self, quality: float) -> float:
        return (self._cost or 0.0) * 2 ** (quality / _DOUBLING)

    def _overhead(self, payload: float, fps: float) -> float:
        """Bytes of headers of a frame, which it shares with those that it waits for."""
        return frame_overhead(payload, fps, self._rate, self._config.gather_seconds)

    def _fps_for(self, rate: float, quality: float) -> float:
        """Frames a second of this quality that a link of `rate` has room for."""
        payload = self._payload(quality)
        many, few = self._source_fps, 0.0
        # The more frames there are, the less of a header each needs: the two cross once.
        for _ in range(_HALVINGS):
            fps = (many + few) / 2
            if fps * (payload + self._overhead(payload, fps)) > rate:
                many = fps
            else:
                few = fps
        return many

    def _wanted_quality(self) -> float:
        fps = self._source_fps
        wanted = self._quality_for(fps)
        if wanted < self._config.min_quality:
            fewest = min(fps, self._config.min_fps)
            wanted = min(self._config.min_quality, self._quality_for(fewest))
        return min(self._config.max_quality, max(0.0, wanted))

    def _adapt(self, now: float) -> None:
        if self._cost is None:
            return
        off = self._wanted_quality() - self.quality
        if off > 0 and self._waiting_seconds > self._shall_wait:
            return  # what waits goes first
        hold = _HURRY_SECONDS if off <= -_FAR_OFF else _HOLD_SECONDS
        if abs(off) >= _STEP and now - self._changed_at >= hold:
            self.quality += int(min(off, max(_CAREFUL, off / 2)) / _STEP) * _STEP
            self._changed_at = now

    def _share(self) -> float:
        """Of the source's frames that are coded."""
        if self._cost is None:
            return 1.0
        fps = self._source_fps
        wanted = self._fps_for(self._budget, min(self.quality, self._config.min_quality))
        much = self._shall_wait + _MUCH_SECONDS
        if self._waiting_seconds > much:
            part = max(0.0, 1.5 - self._waiting_seconds / (2 * much))
            wanted = min(wanted, self._fps_for(part * self._rate, self.quality))
        return min(1.0, max(wanted, min(fps, self._config.min_fps)) / fps)

    def _note_thinning(self, coded: bool, now: float) -> None:
        if not coded:
            if self._thinning_since is None:
                self._thinning_since = now
                self._news.append(
                    f"frames are thinned out to about {self._share() * self._source_fps:.1f} a second: the link carries"
                    f" {_kbps(self._rate)}"
                )
            self._all_since = now
        elif self._thinning_since is not None and now - self._all_since >= _QUIET_SECONDS:
            self._news.append(
                f"frames are not thinned out any more, after {duration(now - self._thinning_since)}"
            )
            self._thinning_since = None


def _kbps(rate: float) -> str:
    return f"{rate * 8 / 1000:.1f} kbit/s"

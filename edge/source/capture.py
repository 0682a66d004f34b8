"""The capture process: reads a source and writes frames into a pipe. `camera.py` starts it, and kills it.

It is a process of its own because a read from a camera may hang for ever, inside C code that no thread can
interrupt. The pipe is the only buffer towards the encoder: a file waits when it is full. A source that does
not wait (a camera, or a file played in real time) is read by a thread meanwhile, and what is too old when
the pipe has room is dropped; sequence numbers are given later, so this leaves no hole in them.

A source may be read at any rate and few of its frames be wanted: while nothing is delivered, heartbeats say that
reading goes on.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import cv2

from secondlook.edge.config import SourceConfig
from secondlook.edge.source import streams
from secondlook.edge.source.sources import SourceFrame, open_shots, shown
from secondlook.shared import errors
from secondlook.shared.errors import SecondlookError, SourceError, SourceUnreadable
from secondlook.shared.faults import unforeseen_named

_LIVE_FRAMES = 2
_BEATS_PER_STALL = 8.0
_LONGEST_BEAT_SECONDS = 5.0


@dataclass(frozen=True)
class Captured:
    """Header of a frame in the pipe; its `height` x `width` x 3 bytes of RGB follow as one message."""

    captured_ns: int
    height: int
    width: int
    place: str | None = None
    source_ns: int | None = None


@dataclass(frozen=True)
class Opened:
    """The source is open; `live` says whether it may come back when it ends."""

    live: bool


@dataclass(frozen=True)
class Alive:
    """The source was read, or waits for its time; nothing is to be delivered yet."""


@dataclass(frozen=True)
class Told:
    """A line for the log."""

    text: str


@dataclass(frozen=True)
class Ended:
    """The source has no more frames, or `error` (a class of secondlook.shared.errors, by name) stopped it."""

    error: str | None = None
    text: str = ""


Message = Captured | Opened | Alive | Told | Ended


class _Channel:
    """The pipe to the agent; used by the thread that delivers and the one that reads."""

    def __init__(self, pipe: multiprocessing.connection.Connection, stall_seconds: float) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        self._said_at = time.monotonic()
        self.beat_seconds = min(_LONGEST_BEAT_SECONDS, stall_seconds / _BEATS_PER_STALL)

    def send(self, message: Message, body: memoryview | None = None) -> None:
        with self._lock:
            self._pipe.send(message)
            if body is not None:
                self._pipe.send_bytes(body)
            self._said_at = time.monotonic()

    def tell(self, text: str) -> None:
        self.send(Told(text))

    def beat(self) -> None:
        """Tell of life now and then. Never waits: whoever holds the lock, or fills the pipe, tells enough."""
        if time.monotonic() - self._said_at < self.beat_seconds or not self._lock.acquire(blocking=False):
            return
        try:
            if select.select([], [self._pipe.fileno()], [], 0)[1]:
                self._pipe.send(Alive())
                self._said_at = time.monotonic()
        finally:
            self._lock.release()


def run(pipe: multiprocessing.connection.Connection, config: SourceConfig, after: str | None) -> None:
    """Body of the capture process. `after`: the place in the source that was reached before."""
    # Ctrl-C, and the SIGTERM of a supervisor, reach the whole group; the agent stops us when it is ready to.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    # Failures are reported as one line of ours; what the libraries print beside it would only hide it.
    _silence_opencv()
    streams.silence()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    channel = _Channel(pipe, config.stall_seconds)
    options = _ffmpeg_options(os.environ.get("OPENCV_FFMPEG_CAPTURE_OPTIONS", ""))
    options |= dict(option.split("=", 1) for option in config.ffmpeg_options)
    try:
        ending = _capture(channel, config, after, options)
        channel.send(ending)
        pipe.close()
    except BrokenPipeError:
        pass  # the agent has gone
    # A thread may hang in the source; nothing here is worth waiting for.
    os._exit(0)


def _silence_opencv() -> None:
    # OpenCV 5 has moved the function that OpenCV 4 had at the top.
    home = cv2 if hasattr(cv2, "setLogLevel") else getattr(cv2.utils, "logging")  # noqa: B009 absent in 4
    home.setLogLevel(0)


def _ffmpeg_options(text: str) -> dict[str, str]:
    """Options of FFmpeg as OpenCV takes them: ``key;value|key;value``."""
    pairs = (pair.partition(";") for pair in text.split("|"))
    return {key.strip(): value.strip() for key, separator, value in pairs if separator and key.strip()}


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _capture(channel: _Channel, config: SourceConfig, after: str | None, options: Mapping[str, str]) -> Ended:
    """Deliver all frames; raises BrokenPipeError where the agent has gone."""
    try:
        with unforeseen_named(SecondlookError, BrokenPipeError):
            _deliver(channel, config, after, options)
    except SourceError as error:
        return Ended(_known_name(error), str(error))
    except SecondlookError as error:
        text = f"source {shown(config.address)} failed: {error}"
        return Ended(SourceUnreadable.__name__, text)
    return Ended()


def _known_name(error: SourceError) -> str:
    """Of the class that the agent knows: a package may have one of its own below it."""
    names = (kind.__name__ for kind in type(error).__mro__)
    return next(name for name in names if isinstance(error, getattr(errors, name, ())))


def _deliver(channel: _Channel, config: SourceConfig, after: str | None, options: Mapping[str, str]) -> None:
    source = open_shots(config, channel, after=after, options=options)
    channel.send(Opened(source.live))
    shots = source.shots
    if config.realtime and not source.live:
        shots = _paced(shots, channel)
    if config.realtime or source.live:
        shots_ns = _latest(shots)
    else:
        shots_ns = ((time.time_ns(), shot) for shot in shots)
    for read_ns, shot in shots_ns:
        height, width = shot.image.shape[:2]
        captured_ns = read_ns if shot.taken_ns is None else shot.taken_ns
        header = Captured(captured_ns, height, width, shot.place, shot.source_ns)
        channel.send(header, shot.image.data.cast("B"))


def _paced(shots: Iterator[SourceFrame], channel: _Channel) -> Iterator[SourceFrame]:
    """Hold each shot back until its time has come; the first one, wherever the source is read on, comes at once."""
    began: float | None = None
    for shot in shots:
        began = time.monotonic() - shot.seconds if began is None else began
        while (rest := began + shot.seconds - time.monotonic()) > 0:
            time.sleep(min(rest, channel.beat_seconds))
            channel.beat()
        yield shot


def _latest(shots: Iterator[SourceFrame]) -> Iterator[tuple[int, SourceFrame]]:
    """Read in a thread; yield (wall clock ns, shot), passing over what has become old meanwhile."""
    waiting: deque[tuple[int, SourceFrame]] = deque(maxlen=_LIVE_FRAMES)
    changed = threading.Condition()
    ended: list[SecondlookError | None] = []

    def read() -> None:
        failure: SecondlookError | None = None
        try:
            with unforeseen_named(SecondlookError):
                for shot in shots:
                    with changed:
                        waiting.append((time.time_ns(), shot))
                        changed.notify()
        except SecondlookError as error:
            failure = error
        with changed:
            ended.append(failure)
            changed.notify()

    threading.Thread(target=read, daemon=True).start()
    while True:
        with changed:
            changed.wait_for(lambda: waiting or ended)
            if not waiting:
                break
            item = waiting.popleft()
        yield item
    if ended[0] is not None:
        raise ended[0]

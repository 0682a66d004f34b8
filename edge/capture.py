"""The capture process: reads a source and writes frames into a pipe. `camera.py` starts it, and kills it.

It is a process of its own because a read from a camera may hang for ever, inside C code that no thread can
interrupt. The pipe is the only buffer towards the encoder: a file waits when it is full. A source that does
not wait (a camera, or a file played in real time) is read by a thread meanwhile, and what is too old when
the pipe has room is dropped; sequence numbers are given later, so this leaves no hole in them.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import cv2

from secondlook.edge.config import SourceConfig
from secondlook.edge.sources import SourceFrame, is_live, open_source
from secondlook.shared.errors import SourceError

_LIVE_FRAMES = 2


@dataclass(frozen=True)
class Captured:
    """Header of a frame in the pipe; its `height` x `width` x 3 bytes of RGB follow as one message."""

    captured_ns: int
    height: int
    width: int


@dataclass(frozen=True)
class Ended:
    """The source has no more frames, or `error` (a class of secondlook.shared.errors, by name) stopped it."""

    error: str | None = None
    text: str = ""


def run(pipe: multiprocessing.connection.Connection, config: SourceConfig) -> None:
    """Body of the capture process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the agent stops us
    # Failures are reported as one line of ours; what the libraries print beside it would only hide it.
    _silence_opencv()
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        ending = _capture(pipe, config)
        pipe.send(ending)
        pipe.close()
    except BrokenPipeError:
        pass  # the agent has gone
    # A thread may hang in the source; nothing here is worth waiting for.
    os._exit(0)


def _silence_opencv() -> None:
    # OpenCV 5 has moved the function that OpenCV 4 had at the top.
    home = cv2 if hasattr(cv2, "setLogLevel") else getattr(cv2.utils, "logging")  # noqa: B009 absent in 4
    home.setLogLevel(0)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _capture(pipe: multiprocessing.connection.Connection, config: SourceConfig) -> Ended:
    try:
        shots = open_source(config)
        if config.realtime and not is_live(config.address):
            shots = _paced(shots)
        if config.realtime or is_live(config.address):
            shots_ns = _latest(shots)
        else:
            shots_ns = ((time.time_ns(), shot) for shot in shots)
        for captured_ns, shot in shots_ns:
            height, width = shot.image.shape[:2]
            pipe.send(Captured(captured_ns, height, width))
            pipe.send_bytes(shot.image.data.cast("B"))
    except SourceError as error:
        return Ended(type(error).__name__, str(error))
    return Ended()


def _paced(shots: Iterator[SourceFrame]) -> Iterator[SourceFrame]:
    """Hold each shot back until its time has come."""
    started = time.monotonic()
    for shot in shots:
        time.sleep(max(0.0, started + shot.seconds - time.monotonic()))
        yield shot


def _latest(shots: Iterator[SourceFrame]) -> Iterator[tuple[int, SourceFrame]]:
    """Read in a thread; yield (wall clock ns, shot), passing over what has become old meanwhile."""
    waiting: deque[tuple[int, SourceFrame]] = deque(maxlen=_LIVE_FRAMES)
    changed = threading.Condition()
    ended: list[SourceError | None] = []

    def read() -> None:
        failure: SourceError | None = None
        try:
            for shot in shots:
                with changed:
                    waiting.append((time.time_ns(), shot))
                    changed.notify()
        except SourceError as error:
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

"""Frames that a program hands over itself, in the place of a camera: no process is started, no address is opened.

A thread takes them from the program, so that one that is slow or waits for ever does not keep the agent from
delivering. Two frames wait at most: a source that can wait is not read ahead of the encoder.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from secondlook.edge.source.camera import Frame, SourceState
from secondlook.shared.bitstream import MAX_PIXELS, MAX_SIDE
from secondlook.shared.errors import (
    ConfigError,
    SecondlookError,
    SourceTooLarge,
    SourceUnreadable,
    Unforeseen,
)
from secondlook.shared.faults import unforeseen_named

Given: TypeAlias = Any  # a picture, or a picture with the time when it was taken: what is none is refused
Feed: TypeAlias = "Iterable[Given] | Callable[[], Given]"

_WAITING = 2  # frames, between the program and the encoder
_LEAST_SIDE = 16
_NANOSECONDS = 10**9
_CHECK_SECONDS = 0.2


class FeedCamera:
    """Reads an iterable, or calls a function until it returns None."""

    can_reopen = False

    def __init__(self, feed: Feed, *, latest: bool = False) -> None:
        """`latest`: frames that come too fast are left out, as of a camera; else the program waits.

        Raises ConfigError for what is neither iterable nor callable.
        """
        self._frames = _iterator(feed)
        self._latest = latest
        self._waiting: queue.Queue[Frame | None] = queue.Queue(_WAITING)
        self._failure: SecondlookError | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self.state: SourceState = "running"
        self.trouble: SecondlookError | None = None

    def read(self, timeout_seconds: float) -> Frame | None:
        """The next frame; None when none came in time, or the program has no more (see `state`).

        :raises SourceUnreadable: the program failed; its exception is chained
        :raises ConfigError: it handed over what is no picture
        """
        if self.state == "ended":
            return None
        if self._thread is None:
            self._thread = threading.Thread(target=self._take, name="feed", daemon=True)
            self._thread.start()
        try:
            frame = self._waiting.get(timeout=timeout_seconds)
        except queue.Empty:
            return None
        if frame is None:
            self.state = "ended"
            if self._failure is not None:
                raise self._failure
        return frame

    def close(self) -> None:
        """Take no more. A program that waits for ever is left to wait."""
        self._closing.set()
        self.state = "ended"

    def _take(self) -> None:
        try:
            with unforeseen_named(SecondlookError):
                for given in self._frames:
                    if not self._hand_over(as_frame(given)):
                        return
        except Unforeseen as error:
            self._failure = SourceUnreadable(f"the frames that the program hands over ended by {error}")
            self._failure.__cause__ = error.__cause__
        except SecondlookError as error:
            self._failure = error
        self._hand_over(None)

    def _hand_over(self, frame: Frame | None) -> bool:
        """False once nobody takes frames any more."""
        while not self._closing.is_set():
            try:
                self._waiting.put(frame, timeout=0 if self._latest and frame is not None else _CHECK_SECONDS)
                return True
            except queue.Full:
                if self._latest and frame is not None:
                    try:
                        self._waiting.get_nowait()
                    except queue.Empty:
                        continue
        return False


def _called(next_frame: Callable[[], Given]) -> Iterator[Given]:
    while (given := next_frame()) is not None:
        yield given


def _iterator(feed: Feed) -> Iterator[Given]:
    if callable(feed) and not hasattr(feed, "__next__"):
        return _called(feed)
    try:
        return iter(feed)  # type: ignore[arg-type]
    except TypeError:
        raise ConfigError(
            f"camera is frames to iterate over, or a function that returns the next one, not {type(feed).__name__}"
        ) from None


def as_frame(given: Given) -> Frame:
    """A frame of a picture, or of (picture, time); the picture is copied. Raises ConfigError, SourceTooLarge.

    Pictures are uint8[H,W,3] RGB or what PIL opens, times seconds since 1970 or a `datetime` with a time zone.
    """
    taken: object = None
    if isinstance(given, tuple) and len(given) == 2:
        given, taken = given
    if hasattr(given, "convert") and hasattr(given, "getbands"):  # PIL's, without importing PIL
        given = np.asarray(given.convert("RGB"))
    if not isinstance(given, np.ndarray) or given.dtype != np.uint8 or given.shape[2:] != (3,):
        told = f"{given.dtype}{list(given.shape)}" if isinstance(given, np.ndarray) else type(given).__name__
        raise ConfigError(
            f"a camera's frame is uint8[H,W,3] RGB or a PIL image, alone or with its time, not {told}"
        )
    height, width = given.shape[:2]
    if min(height, width) < _LEAST_SIDE:
        raise ConfigError(f"a frame of {width}x{height} pixels; a side has {_LEAST_SIDE} at least")
    if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
        raise SourceTooLarge(
            f"a frame of {width}x{height} pixels; it may have {MAX_PIXELS}, and {MAX_SIDE} a side"
        )
    image: npt.NDArray[np.uint8] = np.array(
        given, np.uint8, order="C", copy=True
    )  # the program may use it again
    return Frame(image, time.time_ns() if taken is None else _nanoseconds(taken))


def _nanoseconds(taken: object) -> int:
    if isinstance(taken, datetime):
        if taken.tzinfo is None:
            raise ConfigError(f"a frame's time, {taken}, has no time zone")
        taken = taken.timestamp()
    if isinstance(taken, bool) or not isinstance(taken, int | float) or not 0 <= taken < 7_258_118_400:
        raise ConfigError(
            f"a frame's time is seconds since 1970 or a datetime with a time zone, not {taken!r}"
        )
    return int(taken * _NANOSECONDS)

"""Words to loops that wait, for a while or for descriptors (pipes, sockets): that they end, or look for work.

A loop that can be woken need not look up ten times a second, which is what keeps an idle machine awake.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading

_LONGEST_POLL = 2**31 - 1  # milliseconds


def _pipe() -> tuple[int, int]:
    """A pipe that blocks nobody and that no other program inherits."""
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    return ends


def _poll(descriptor: int, seconds: float | None) -> None:
    """Wait until something can be read, for so long at most; None: for ever."""
    poller = select.poll()  # select() takes no descriptor beyond 1,023
    poller.register(descriptor, select.POLLIN)
    poller.poll(None if seconds is None else min(1000 * max(0.0, seconds), _LONGEST_POLL))


class SignalEvent(threading.Event):
    """An event with a descriptor that is readable as long as it is set. It may be set in a signal handler.

    `threading.Event` takes a lock to be set: a handler that interrupts the main thread while that holds the lock, on
    its way into a wait, would never return. This one takes none.
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_set = False
        self._read, self._write = _pipe()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        self._say()

    def clear(self) -> None:
        self._is_set = False
        with contextlib.suppress(BlockingIOError):
            while os.read(self._read, 4096):
                pass
        if self._is_set:  # again, meanwhile
            self._say()

    def wait(self, timeout: float | None = None) -> bool:
        if not self._is_set:
            _poll(self._read, timeout)
        return self._is_set

    def _say(self) -> None:
        with contextlib.suppress(OSError):  # it holds enough words
            os.write(self._write, b"s")

    def fileno(self) -> int:
        """To wait for; nothing is to be read from it."""
        return self._read

    def __del__(self) -> None:
        for descriptor in (getattr(self, "_read", None), getattr(self, "_write", None)):
            if descriptor is not None:
                with contextlib.suppress(OSError):
                    os.close(descriptor)


class Stop(SignalEvent):
    """The word that all shall end."""


def descriptors(stop: threading.Event) -> list[int]:
    """What to wait for beside something else, so that a `Stop` is heard at once; nothing of a plain event."""
    return [stop.fileno()] if isinstance(stop, SignalEvent) else []


class Wake:
    """A word from other threads that there is something to do; heard once, however often it was said."""

    def __init__(self) -> None:
        self._read, self._write = _pipe()

    def call(self) -> None:
        with contextlib.suppress(BlockingIOError):  # enough words are waiting then
            os.write(self._write, b"w")

    def fileno(self) -> int:
        """To wait for beside something else; `take` it in then."""
        return self._read

    def take(self) -> bool:
        """Whether there was a word."""
        try:
            return bool(os.read(self._read, 4096))
        except BlockingIOError:
            return False

    def wait(self, seconds: float) -> bool:
        """Wait for a word, for so long at most; whether there was one."""
        _poll(self._read, seconds)
        return self.take()

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)

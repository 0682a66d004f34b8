"""Words to loops that wait, for a while or for descriptors (pipes, sockets): that they end, or look for work.

A loop that can be woken need not look up ten times a second, which is what keeps an idle machine awake.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading


def _pipe() -> tuple[int, int]:
    """A pipe that blocks nobody and that no other program inherits."""
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    return ends


class Stop(threading.Event):
    """An event with a descriptor that becomes readable once it is set, and stays so. May be set in a signal handler."""

    def __init__(self) -> None:
        super().__init__()
        self._read, self._write = _pipe()

    def set(self) -> None:
        super().set()
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


def descriptors(stop: threading.Event) -> list[int]:
    """What to wait for beside something else, so that a `Stop` is heard at once; nothing of a plain event."""
    return [stop.fileno()] if isinstance(stop, Stop) else []


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
        poller = select.poll()  # select() takes no descriptor beyond 1,023
        poller.register(self._read, select.POLLIN)
        poller.poll(1000 * seconds)
        return self.take()

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)

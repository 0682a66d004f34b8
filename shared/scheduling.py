"""Keeping libraries from making this process a real-time one.

SVT-AV1 sets itself to the highest real-time priority where it may, as root may: the thread that opens an encoder, and
with it all threads and processes that are started from there on. Any of them that is busy then starves the machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TASKS = Path("/proc/self/task")


@contextmanager
def kept_scheduling() -> Iterator[None]:
    """Threads are scheduled afterwards as they were before; new ones as the calling one."""
    if not hasattr(os, "sched_getscheduler") or not _TASKS.is_dir():
        yield
        return
    own, before = _scheduling(0), _of_all()
    try:
        yield
    finally:
        for thread, now in _of_all().items():
            wanted = before.get(thread, own)
            if now != wanted:
                with suppress(OSError):  # it has ended, or may not be changed
                    os.sched_setscheduler(thread, wanted[0], os.sched_param(wanted[1]))


def _of_all() -> dict[int, tuple[int, int]]:
    found = {}
    for task in _TASKS.iterdir():
        with suppress(OSError):
            found[int(task.name)] = _scheduling(int(task.name))
    return found


def _scheduling(thread: int) -> tuple[int, int]:
    """Policy and priority."""
    return os.sched_getscheduler(thread), os.sched_getparam(thread).sched_priority

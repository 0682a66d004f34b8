"""The scheduling of this process's threads, kept from libraries that change it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_THREADS = Path("/proc/self/task")


@contextlib.contextmanager
def kept_scheduling() -> Iterator[None]:
    """Undo what a call does to the scheduling of its caller and of the threads that it starts.

    Run by root, SVT-AV1 puts both under SCHED_FIFO at the highest priority, as it is opened: every process that such
    a caller starts later has that too, and nothing else on the host runs while one of them has work.
    """
    if not hasattr(os, "sched_setscheduler"):
        yield
        return
    before, policy, param = _threads(), os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        for thread in {0, *(_threads() - before)}:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                if os.sched_getscheduler(thread) != policy:
                    os.sched_setscheduler(thread, policy, param)


def _threads() -> set[int]:
    return {int(entry.name) for entry in _THREADS.iterdir()} if _THREADS.is_dir() else set()

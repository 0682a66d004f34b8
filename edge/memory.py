"""Less memory for a process with many threads: glibc's allocator keeps heaps for each, and seldom gives them back."""

from __future__ import annotations

import ctypes
import sys

_M_ARENA_MAX = -8


def share_heaps(heaps: int = 2) -> bool:
    """Let all threads share so many heaps. Best before they start; whether this system's allocator knows it."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    return bool(mallopt(_M_ARENA_MAX, heaps))

"""CPU time and memory of a process with all its descendants, from /proc (Linux)."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_KIB = 1024


@dataclass(frozen=True)
class Usage:
    """CPU seconds since their start, and bytes of memory, each page shared by several counted in parts (PSS)."""

    processes: int
    cpu_seconds: float
    pss_bytes: int


def usage(pid: int) -> Usage:
    """What a process and its descendants have used so far; children that have ended count with whoever waited."""
    members = [pid, *descendants(pid)]
    return Usage(len(members), sum(map(_cpu, members)), sum(map(_pss, members)))


def descendants(pid: int) -> list[int]:
    """Process numbers of its children and theirs, those that were begun first at each depth first."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, ValueError, IndexError):
                parents.setdefault(int(_fields(int(entry.name))[1]), []).append(int(entry.name))
    found, new = [], [pid]
    while new:
        new = [child for parent in new for child in parents.get(parent, [])]
        found += new
    return found


def _fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name, which may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def _cpu(pid: int) -> float:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return (
            sum(map(int, _fields(pid)[11:15])) / _TICKS
        )  # user and system, of its own and of ended children
    return 0.0


def _pss(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * _KIB
    return 0

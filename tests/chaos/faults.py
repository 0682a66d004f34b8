"""What goes wrong in a round. Each fault is a context manager: it begins, lasts a while, and is over."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.fleet import Fleet
from tests.chaos.hostile import Attacker
from tests.chaos.older_copy import OlderCopy
from tests.chaos.proxy import Weather
from tests.chaos.settings import EDGES

ATTACKS = ("wrong_key", "malformed", "replay", "flood", "oversized", "slowloris")
KINDS = ("kill", "stop", "link", "hostile", "disk", "restore")
_TMPFS_MB = {"cloud": 512, "edge-0": 64, "edge-1": 64}
_PATIENCE_SECONDS = 5.0  # of a service manager: NATS 2.9 whose disk was full does not always end on SIGTERM
_LEFT_BYTES = 20_000  # on a full disk: less than a commit wants


@dataclass(frozen=True)
class Fault:
    """`kind` is one of KINDS; `what` says to whom or how."""

    kind: str
    what: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.kind} {self.what} {self.seconds:.1f} s"


def choose(rng: random.Random, fleet: Fleet, *, disks: bool, only: Collection[str] = KINDS) -> Fault:
    """A fault for the next round, its length included; of the kinds in `only`, where one of them can be."""
    # Only what has started up: to be killed while it imports its libraries teaches nobody anything.
    ready = fleet.ready
    processes = 1 if ready else 0
    kinds = {
        "kill": 4 * processes,
        "stop": 3 * processes,
        "link": 4,
        "hostile": 3,
        "disk": 2 * disks,
        "restore": 1,
    }
    kinds = (
        {kind: weight for kind, weight in kinds.items() if kind in only} if set(kinds) & set(only) else kinds
    )
    kind = rng.choices(list(kinds), list(kinds.values()))[0]
    seconds = rng.uniform(0.2, 1.5)
    if kind in ("kill", "stop"):
        return Fault(kind, rng.choice(ready), seconds)
    if kind == "link":
        weather = rng.choice([Weather.CUT, Weather.SLOW, Weather.HALF_OPEN])
        longer = 3.5 if rng.random() < 0.3 else seconds
        return Fault(kind, f"{rng.choice(EDGES)} {weather.value}", longer)
    if kind == "disk":
        return Fault(kind, rng.choice(["cloud", *EDGES]), seconds)
    if kind == "restore":
        return Fault(kind, "an older copy", rng.uniform(20.0, 60.0))
    return Fault(kind, rng.choice(ATTACKS), seconds)


def inject(fault: Fault, fleet: Fleet, rng: random.Random) -> AbstractContextManager[None]:
    if fault.kind == "kill":
        return _killed(fleet, fault.what)
    if fault.kind == "stop":
        return _stopped(fleet, fault.what)
    if fault.kind == "link":
        name, weather = fault.what.split()
        return _weather(fleet, name, Weather(weather))
    if fault.kind == "disk":
        return _full_disk(fleet, fault.what)
    if fault.kind == "restore":
        return _restored(fleet)
    return _attacked(fleet, fault, rng)


@contextmanager
def _killed(fleet: Fleet, name: str) -> Iterator[None]:
    fleet.signal(name, signal.SIGKILL)
    yield


@contextmanager
def _stopped(fleet: Fleet, name: str) -> Iterator[None]:
    fleet.signal(name, signal.SIGSTOP)
    yield
    fleet.signal(name, signal.SIGCONT)


@contextmanager
def _weather(fleet: Fleet, name: str, weather: Weather) -> Iterator[None]:
    fleet.links[name].weather = weather
    yield
    fleet.links[name].weather = Weather.FINE


@contextmanager
def _full_disk(fleet: Fleet, what: str) -> Iterator[None]:
    folder = fleet.cloud if what == "cloud" else fleet.spools[what]
    fleet.excused |= {name for name in fleet.names if (what == "cloud") == (name not in EDGES)}
    ballast = folder / "ballast"
    with ballast.open("wb") as stream:
        for left in (_LEFT_BYTES, 2 * _LEFT_BYTES, 8 * _LEFT_BYTES):  # others write meanwhile
            with contextlib.suppress(OSError):
                room = shutil.disk_usage(folder).free - left
                os.posix_fallocate(stream.fileno(), 0, max(1, room))
                break
    yield
    ballast.unlink()
    if what == "cloud" and "broker" in fleet.names:  # what docs/scale.md asks of an operator
        threading.Thread(target=fleet.end_anyhow, args=("broker", _PATIENCE_SECONDS), daemon=True).start()


@contextmanager
def _restored(fleet: Fleet) -> Iterator[None]:
    copy = OlderCopy(fleet)
    yield
    copy.put_back()


@contextmanager
def _attacked(fleet: Fleet, fault: Fault, rng: random.Random) -> Iterator[None]:
    attacker = Attacker(
        rng.choice(list(fleet.gateway_ports.values())), fleet.folder, random.Random(rng.random())
    )
    found: list[str | None] = []
    thread = threading.Thread(
        target=lambda: found.append(getattr(attacker, fault.what)(fault.seconds)), daemon=True
    )
    thread.start()
    yield
    thread.join()
    fleet.problems += [text for text in found if text is not None]


@contextmanager
def small_disks(folder: Path) -> Iterator[bool]:
    """Make `folder`/cloud and those of the camera hosts small file systems of their own, where that is
    permitted; otherwise they are plain folders, and False."""
    mounted: list[Path] = []
    try:
        for name, megabytes in _TMPFS_MB.items():
            place = folder / name
            place.mkdir()
            command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "chaos", str(place)]
            if (
                shutil.which("mount")
                and subprocess.run(command, capture_output=True, check=False).returncode == 0
            ):
                mounted.append(place)
        yield len(mounted) == len(_TMPFS_MB)
    finally:
        for place in mounted:
            subprocess.run(["umount", "--lazy", str(place)], check=False)

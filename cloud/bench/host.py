"""`secondlook bench host`: how many cameras this machine carries, measured with all roles at work on it.

One agent with several cameras that play a file in real time, a gateway, a machine worker, a review worker and a station
run for a while. What each needs of CPU and memory is counted with all of its processes, and what a frame costs follows.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from secondlook.cloud.bench.processtree import Usage, usage
from secondlook.cloud.catalogue import open_catalogue
from secondlook.cloud.demo.children import Children
from secondlook.cloud.demo.report import count
from secondlook.cloud.demo.settings import choose_ports, to_toml
from secondlook.shared.errors import ConfigError, PipelineStalled, SourceUnreadable
from secondlook.shared.files import make_folder, write_atomically

ROLES = ("gateway", "worker", "refiner", "station")
EDGE = "edge"
BUSY = 0.8  # of a machine's cores that may be busy in the long run
_STOP_ORDER = (EDGE, "refiner", "worker", "station", "gateway")
_START_SECONDS = 120.0
_IDLE_SECONDS = 10.0
_WARM_SECONDS = 5.0  # of playing, before anything is counted
_DRAIN_SECONDS = 20.0  # for frames that are on their way at the end
_LOOK_SECONDS = 1.0
_CLIP_FPS = 15
_CLIP_SECONDS = 10  # that repeat
_EVERY_NTH = 50  # frame is reviewed, so that the review worker has something to do
_DAY_SECONDS = 86_400


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    cameras: int = 4
    fps: float = 5.0
    seconds: float = 30.0
    width: int = 768
    height: int = 432
    videos: tuple[Path, ...] = ()  # played in turn; without any, a scene of our own
    family: str = "auto"

    def __post_init__(self) -> None:
        if not 1 <= self.cameras <= 64:
            raise ConfigError(f"{self.cameras} cameras: it can be 1 to 64")
        if not 0.01 <= self.fps <= _CLIP_FPS and not self.videos:
            raise ConfigError(f"{self.fps} frames a second: it can be 0.01 to {_CLIP_FPS}")
        if not 5 <= self.seconds <= 3600:
            raise ConfigError(f"{self.seconds} seconds: it can be 5 to 3600")
        if not (64 <= self.width <= 3840 and 64 <= self.height <= 2160) or self.width % 2 or self.height % 2:
            raise ConfigError(f"{self.width}x{self.height}: sides are even, 64x64 to 3840x2160")


@dataclass(frozen=True)
class RoleFigures:
    """One role: its processes, CPU while nothing happens (share of one core), CPU a frame, most memory seen."""

    processes: int
    idle_cores: float
    cpu_ms_a_frame: float
    pss_bytes: int


@dataclass
class Figures:
    """What was measured. `load` is that of the machine just before: whatever else runs makes all of it worse."""

    plan: dict[str, Any]
    cores: int
    load: float
    wanted: int = 0  # frames that the cameras gave in the time that was counted
    captured: int = 0
    tombstoned: int = 0
    detected: int = 0  # by the end, those of the warming up included
    frames: int = 0  # of the whole run
    late: int = 0  # not detected when the time for stragglers was over
    spool_bytes_a_frame: float = 0.0
    cloud_bytes_a_frame: float = 0.0
    roles: dict[str, RoleFigures] = field(default_factory=dict)

    def cameras(self, *roles: str) -> int:
        """Cameras for which these roles find room on this machine, at the rate of the plan."""
        cost = sum(self.roles[role].cpu_ms_a_frame for role in roles) * self.plan["fps"] / 1000
        idle = sum(self.roles[role].idle_cores for role in roles)
        return max(0, math.floor((BUSY * self.cores - idle) / cost)) if cost > 0 else 0


class Run:
    """One measurement in a folder of its own."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan = plan
        self._folder = folder
        self._ports = choose_ports(0)
        (folder / "logs").mkdir()
        self._children = Children(folder / "logs", restart=False)
        self._most: dict[str, int] = {}
        self._stored_before = 0

    def measure(self) -> Figures:
        """Raises ChildEnded, PipelineStalled, SourceUnreadable."""
        load = os.getloadavg()[0]
        plan = {**asdict(self._plan), "videos": [path.name for path in self._plan.videos]}
        figures = Figures(plan, os.cpu_count() or 1, round(load, 2))
        videos = self._videos()
        cloud, edge = self._write_settings(videos)
        catalogue = open_catalogue(f"sqlite:///{self._folder / 'cloud' / 'catalogue.db'}")
        try:
            for role in ROLES:
                self._children.start(role, [role, "--config", str(cloud)])
            _say("waiting for the roles to start")
            self._settle()
            idle = self._cpu_over(_IDLE_SECONDS, ROLES)
            self._stored_before = _bytes_below(self._folder / "cloud")
            _say(f"{self._plan.cameras} cameras begin")
            self._children.start(EDGE, [EDGE, "--config", str(edge)])
            self._await_frames()
            self._pass(_WARM_SECONDS)
            before, told_before, began = self._usages(), self._statuses(), time.monotonic()
            self._pass(self._plan.seconds)
            after, told_after = self._usages(), self._statuses()
            seconds = time.monotonic() - began
            figures.captured = _captured(told_after) - _captured(told_before)
            # Each camera says when it counted.
            counted = sum(map(_said_at, told_after)) - sum(map(_said_at, told_before))
            figures.wanted = round(counted * self._plan.fps)
            frames = max(1.0, figures.captured * self._plan.cameras * seconds / max(1.0, counted))
            for role in (EDGE, *ROLES):
                spent = after[role].cpu_seconds - before[role].cpu_seconds
                idle_cores = idle.get(role, 0.0)
                cost = 1000 * max(0.0, spent - idle_cores * seconds) / frames
                figures.roles[role] = RoleFigures(
                    after[role].processes, round(idle_cores, 4), round(cost, 2), self._most[role]
                )
            self._finish(figures, catalogue)
            return figures
        finally:
            catalogue.close()
            self._children.stop(_STOP_ORDER, grace_seconds=20.0)

    def _finish(self, figures: Figures, catalogue: Any) -> None:
        """Let the agent end, and see what became of its frames."""
        self._children.stop((EDGE,), grace_seconds=20.0)
        statuses = self._statuses()
        boots, captured = [told["boot_id"] for told in statuses], _captured(statuses)
        until = time.monotonic() + _DRAIN_SECONDS
        while True:
            counts = count(catalogue, boots)
            if counts.detected + counts.tombstoned >= captured or time.monotonic() > until:
                break
            time.sleep(_LOOK_SECONDS)
        figures.frames, figures.detected, figures.tombstoned = (
            captured,
            counts.detected,
            counts.tombstoned,
        )
        figures.late = max(0, figures.frames - counts.detected - counts.tombstoned)
        stored = _bytes_below(self._folder / "cloud") - self._stored_before
        figures.cloud_bytes_a_frame = round(max(0, stored) / max(1, counts.detected))
        spooled = sum(told["spool_bytes"] for told in statuses)
        figures.spool_bytes_a_frame = round(spooled / max(1, captured))

    def _videos(self) -> list[Path]:
        needed = _WARM_SECONDS + self._plan.seconds + _START_SECONDS / 4
        if self._plan.videos:
            for path in self._plan.videos:
                if (found := _length(path)) < needed:
                    raise ConfigError(f"{path} lasts {found:.0f} s, and {needed:.0f} s are played: --seconds")
            return [path.absolute() for path in self._plan.videos]
        _say("making a scene")
        path = self._folder / "scene.mp4"
        write_scene(path, self._plan.width, self._plan.height, math.ceil(needed))
        return [path]

    def _write_settings(self, videos: list[Path]) -> tuple[Path, Path]:
        plan, ports = self._plan, self._ports
        cloud = {
            "data_dir": str(self._folder / "cloud"),
            "gateway": {"edge_address": f"tcp://127.0.0.1:{ports.gateway}"},
            "broker": {"address": f"tcp://127.0.0.1:{ports.broker}"},
            "policy": {"every_nth": _EVERY_NTH},
            "station": {"port": ports.station},
        }
        edge = {
            "data_dir": str(self._folder / EDGE),
            "source": {"fps": plan.fps, "realtime": True, "resize": f"{plan.width}x{plan.height}"},
            "codec": {"family": plan.family},
            "spool": {"min_free_bytes": 0},
            "link": {"gateway": f"tcp://127.0.0.1:{ports.gateway}"},
        }
        text = to_toml(edge)
        for number, video in zip(range(plan.cameras), itertools.cycle(videos), strict=False):
            text += f'[[camera]]\nedge_id = "camera-{number + 1}"\nsource = {{ address = {json.dumps(str(video))} }}\n'
        files = self._folder / "cloud.toml", self._folder / "edge.toml"
        for file, content in zip(files, (to_toml(cloud), text), strict=True):
            write_atomically(file, content.encode())
        return files

    def _settle(self) -> None:
        """Wait until the roles have started: until what they use of the CPU is little, and stays the same."""
        until, before = time.monotonic() + _START_SECONDS, 1.0
        while time.monotonic() < until:
            cores = sum(self._cpu_over(4.0, ROLES).values())
            if before < 0.5 and abs(cores - before) < 0.02 + cores / 5:
                return
            before = cores
        raise PipelineStalled("the roles do not come to rest: what they say lies in the folder of the run")

    def _cpu_over(self, seconds: float, roles: tuple[str, ...]) -> dict[str, float]:
        """Cores that each role uses."""
        before = {role: usage(self._children.pids()[role]) for role in roles}
        self._pass(seconds)
        after = {role: usage(self._children.pids()[role]) for role in roles}
        return {role: (after[role].cpu_seconds - before[role].cpu_seconds) / seconds for role in roles}

    def _pass(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (rest := until - time.monotonic()) > 0:
            time.sleep(min(_LOOK_SECONDS, rest))
            self._children.check()
            self._usages()

    def _usages(self) -> dict[str, Usage]:
        found = {role: usage(pid) for role, pid in self._children.pids().items()}
        for role, one in found.items():
            self._most[role] = max(self._most.get(role, 0), one.pss_bytes)
        return found

    def _await_frames(self) -> None:
        until = time.monotonic() + _START_SECONDS
        while True:
            statuses = self._statuses()
            if len(statuses) == self._plan.cameras and all(told["acknowledged"] for told in statuses):
                return
            if time.monotonic() > until:
                raise PipelineStalled("not every camera delivers frames: see logs/edge.log of the run")
            self._pass(_LOOK_SECONDS)

    def _statuses(self) -> list[dict[str, Any]]:
        files = (self._folder / EDGE).glob("*/status.json")
        return [json.loads(file.read_bytes()) for file in files]


def _captured(statuses: list[dict[str, Any]]) -> int:
    return sum(told["captured"] for told in statuses)


def _said_at(told: dict[str, Any]) -> float:
    return datetime.fromisoformat(told["time"]).timestamp()


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # logs of databases come and go
            total += path.stat().st_size if path.is_file() else 0
    return total


def run(plan: Plan, folder: Path) -> Figures:
    """Measure in a new folder below `folder`."""
    place = folder / f"bench-host-{os.getpid()}"
    make_folder(place)
    return Run(plan, place).measure()


def report(figures: Figures) -> str:
    """What was measured, for people."""
    plan = figures.plan
    lines = [
        (
            f"{plan['cameras']} cameras at {plan['fps']:g} frames/s, {plan['width']}x{plan['height']}, over"
            f" {plan['seconds']:g} s on {figures.cores} cores; load before: {figures.load:g}"
        ),
        (
            f"frames: {figures.wanted} wanted, {figures.captured} captured; of all {figures.frames},"
            f" {figures.detected} detected, {figures.tombstoned} dropped, {figures.late} late"
        ),
        "",
        f"{'role':<10}{'processes':>10}{'idle, % of a core':>20}{'CPU ms a frame':>17}{'memory, MB':>12}",
    ]
    for role, one in figures.roles.items():
        lines.append(
            f"{role:<10}{one.processes:>10}{100 * one.idle_cores:>20.1f}{one.cpu_ms_a_frame:>17.1f}"
            f"{one.pss_bytes / 1e6:>12.0f}"
        )
    frames_a_day = plan["fps"] * _DAY_SECONDS
    lines += [
        "",
        f"cameras at {plan['fps']:g} frames/s that this machine carries, with {1 - BUSY:.0%} of its CPU free:",
        f"  as a camera host     {figures.cameras(EDGE)}",
        f"  as a machine worker  {figures.cameras('worker')}",
        f"  with all roles       {figures.cameras(EDGE, *ROLES)}",
        (
            "disk a camera and day, as long as everything is kept: "
            f"{figures.spool_bytes_a_frame * frames_a_day / 1e9:.1f} GB in the spool of its host, "
            f"{figures.cloud_bytes_a_frame * frames_a_day / 1e9:.1f} GB in the cloud's folder"
        ),
    ]
    return "\n".join(lines)


def write_json(figures: Figures, path: Path) -> None:
    """All figures, for programs."""
    carried = {"host": figures.cameras(EDGE), "worker": figures.cameras("worker")}
    data = {**asdict(figures), "cameras": {**carried, "all": figures.cameras(EDGE, *ROLES)}}
    write_atomically(path, json.dumps(data, indent=1).encode(), mode=0o666)


def write_scene(path: Path, width: int, height: int, seconds: int) -> None:
    """A video of a still background with noise, in which boxes move: the same every time."""
    frames = list(_scene(width, height))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=_CLIP_FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "23"}
        for number in range(seconds * _CLIP_FPS):
            frame = av.VideoFrame.from_ndarray(frames[number % len(frames)], format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, _CLIP_FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _scene(width: int, height: int) -> Iterator[npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(1)
    coarse = rng.integers(40, 200, (height // 16 + 1, width // 16 + 1, 3))
    background = np.kron(coarse, np.ones((16, 16, 1), np.int64))[:height, :width]
    for number in range(_CLIP_SECONDS * _CLIP_FPS):
        image = background + rng.normal(0, 2, background.shape)
        for box in range(6):
            side = height // 8
            left = int((box * 97 + number * (2 + box)) % (width - side))
            top = int(box * height / 7)
            image[top : top + side, left : left + side] = (30 * box, 255 - 40 * box, 90)
        yield np.clip(image, 0, 255).astype(np.uint8)


def _length(path: Path) -> float:
    """Seconds of a video file. Raises SourceUnreadable."""
    try:
        with av.open(str(path)) as container:
            return float(container.duration or 0) / 1e6
    except (av.error.FFmpegError, OSError) as error:
        raise SourceUnreadable(f"{path} is no video that can be read: {error}") from error


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

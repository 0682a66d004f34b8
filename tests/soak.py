"""A week in an hour: `python -m tests.soak --minutes 60`, with many cameras `--cameras 10`

Agents of as many cameras as are wanted in one process, gateway, machine worker, refiner, retention and station as
processes on this machine; somebody judges the reviews, and retention is set to minutes. Looked at every few seconds:
memory of each process, those that read the cameras included, bytes on disk, and the logs. It ends with an error when
memory or disk still grew late in the run, a log has an error, a process ended, a camera delivered nothing, or
retention deleted nothing although it had to.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from secondlook.cloud import catalogue as cat
from secondlook.cloud.bench.processtree import descendants
from secondlook.cloud.demo.children import Children
from secondlook.cloud.demo.run import STOP_ORDER
from secondlook.cloud.demo.settings import (
    DemoConfig,
    Ports,
    choose_ports,
    cloud_settings,
    edge_settings,
    to_toml,
)
from secondlook.shared.errors import ReviewConflict, SecondlookError

_LOOK_SECONDS = 5.0
_START_SECONDS = 180.0  # at most
_ROLES = ("gateway", "worker", "refiner", "retention", "station")
_MAY_GROW_KB = 24 << 10  # of a process, from the second quarter of the run to the last: caches fill late
_MAY_GROW_SHARE = 0.15  # likewise of the disk
_SPOOL_BYTES = 64 << 20  # where the workers are slower than the camera, the spool fills up to this
_KEPT_MINUTES = 2.0  # frames that nobody was asked about; a minute stands for half a day
_JUDGED_AT_ONCE = 20
_TROUBLE = re.compile(r" (ERROR|CRITICAL) |Traceback")


@dataclass
class Samples:
    """What was seen, by process or store; a value for each look."""

    memory_kb: dict[str, list[int]] = field(default_factory=dict)
    disk_bytes: dict[str, list[int]] = field(default_factory=dict)

    def look(self, pids: dict[str, int], folder: Path) -> None:
        for role, pid in pids.items():
            self._measure(role, pid)
            for child in descendants(pid):
                self._measure(f"{role}'s process {child}", child)
        for name in ("cloud", "edge"):
            self.disk_bytes.setdefault(name, []).append(_bytes_below(folder / name))

    def _measure(self, name: str, pid: int) -> None:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except FileNotFoundError:
            return  # it has ended meanwhile
        _, found, kilobytes = status.partition("VmRSS:")
        if found:
            self.memory_kb.setdefault(name, []).append(int(kilobytes.split()[0]))


@dataclass
class Outcome:
    """What had come of it in the end, by camera and in all."""

    acknowledged: dict[str, int] = field(default_factory=dict)
    captured: int = 0
    filed: int = 0  # frames that are in the catalogue, and
    deleted: int = 0  # that were and are not any more
    judged: int = 0


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                total += path.stat().st_size
        except FileNotFoundError:
            continue  # retention was faster
    return total


def growth(values: Sequence[int]) -> tuple[float, float]:
    """Medians over the second and over the last quarter of a run: the first one is for warming up."""
    quarter = max(1, len(values) // 4)
    return statistics.median(values[quarter : 2 * quarter] or values), statistics.median(values[-quarter:])


def problems(samples: Samples, logs: Path) -> list[str]:
    """What a week of this would have made trouble with."""
    found = []
    for role, values in samples.memory_kb.items():
        before, after = growth(values)
        if after - before > _MAY_GROW_KB:
            found.append(f"memory of the {role} grew from {before / 1024:.0f} to {after / 1024:.0f} MB")
    for store, values in samples.disk_bytes.items():
        before, after = growth(values)
        bound = _SPOOL_BYTES if store == "edge" else 0  # SQLite's pages and log come on top
        if after > max(bound, before) * (1 + _MAY_GROW_SHARE) + (8 << 20):
            found.append(f"bytes of the {store} grew from {before / 1e6:.0f} to {after / 1e6:.0f} MB")
    for log in sorted(logs.glob("*.log")):
        lines = [line for line in log.read_text(errors="replace").splitlines() if _TROUBLE.search(line)]
        if lines:
            found.append(f"{log.name}: {len(lines)} lines of trouble, the first: {lines[0]}")
    return found


def shortcomings(outcome: Outcome, minutes: float) -> list[str]:
    """What such a run must have come to, and has not."""
    found = [f"camera {name} delivered nothing" for name, many in outcome.acknowledged.items() if not many]
    if not outcome.acknowledged:
        found.append("no agent told how it did")
    if not outcome.filed + outcome.deleted:
        found.append("no frame was looked at")
    # Twice as long as a frame is kept, and the time in which a site warms up.
    if minutes >= 2 * _KEPT_MINUTES + 1 and not outcome.deleted:
        found.append("retention deleted no frame")
    if minutes >= 2 * _KEPT_MINUTES + 1 and not outcome.judged:
        found.append("no review was made ready and judged")
    return found


class Soak:
    """One run in a folder."""

    def __init__(self, folder: Path, cameras: int, fps: float | None) -> None:
        self._folder, self._cameras = folder, cameras
        for name in ("logs", "edge", "cloud"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._config = _config(folder, fps)
        ports = choose_ports(0)
        (folder / "cloud.toml").write_text(to_toml(self._cloud(ports)))
        (folder / "edge.toml").write_text(self._edge(ports))
        self._children = Children(folder / "logs", restart=False)
        self._samples = Samples()
        self._judged = 0

    def run(self, minutes: float) -> list[str]:
        """For so long; what is wrong, a line each."""
        found = []
        url = f"sqlite:///{self._folder}/cloud/catalogue.db"
        catalogue = cat.open_catalogue(url)
        try:
            self._start(catalogue)
            self._follow(catalogue, time.monotonic() + 60 * minutes)
        except SecondlookError as error:  # a process ended
            found.append(str(error))
        finally:
            self._children.stop(("edge", "refiner", "worker", "retention", *STOP_ORDER), grace_seconds=30)
        outcome = self._outcome(catalogue)
        catalogue.close()
        self._tell(outcome)
        return [*found, *problems(self._samples, self._folder / "logs"), *shortcomings(outcome, minutes)]

    def _start(self, catalogue: cat.Catalogue) -> None:
        """Start all, and wait until each camera has delivered and something was judged: models are loaded then."""
        for role in _ROLES:
            self._children.start(role, [role, "--config", str(self._folder / "cloud.toml")])
        self._children.start("edge", ["edge", "--config", str(self._folder / "edge.toml")])
        began = time.monotonic()
        while time.monotonic() - began < _START_SECONDS:
            time.sleep(1.0)
            self._children.check()
            self._judge(catalogue)
            delivered = self._outcome(catalogue).acknowledged.values()
            if self._judged and sum(map(bool, delivered)) == self._cameras:
                break
        print(f"warm after {time.monotonic() - began:.0f} s", flush=True)

    def _follow(self, catalogue: cat.Catalogue, deadline: float) -> None:
        told_at = 0.0
        while time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
            self._children.check()
            self._samples.look(self._children.pids(), self._folder)
            self._judge(catalogue)
            if time.monotonic() - told_at >= 60:
                told_at = time.monotonic()
                memory = {
                    role: f"{values[-1] / 1024:.0f}" for role, values in self._samples.memory_kb.items()
                }
                disk = {
                    store: f"{values[-1] / 1e6:.0f}" for store, values in self._samples.disk_bytes.items()
                }
                print(
                    f"{(deadline - told_at) / 60:.0f} minutes left; MB of memory {memory}, of disk {disk}",
                    flush=True,
                )

    def _judge(self, catalogue: cat.Catalogue) -> None:
        """What people would do: say something of what is ready."""
        with catalogue.reading() as session:
            ready = session.execute(
                select(cat.Review.id, cat.Review.shown_sha256)
                .where(cat.Review.state == cat.ReviewState.READY)
                .order_by(cat.Review.id)
                .limit(_JUDGED_AT_ONCE)
            ).all()
        for review_id, shown in ready:
            try:
                verdict = cat.NewVerdict(cat.VerdictKind.CONFIRM, "soak", shown)
                cat.record_verdict(catalogue, review_id, verdict, now_ns=time.time_ns())
                self._judged += 1
            except ReviewConflict:
                continue  # a better picture has come this very moment

    def _outcome(self, catalogue: cat.Catalogue) -> Outcome:
        outcome = Outcome(judged=self._judged)
        for path in sorted((self._folder / "edge").rglob("status.json")):
            status = json.loads(path.read_text())
            outcome.acknowledged[status["edge_id"]] = status["acknowledged"]
            outcome.captured += status["captured"]
        with catalogue.reading() as session:
            outcome.filed, last = session.execute(
                select(func.count(), func.coalesce(func.max(cat.Frame.id), 0))
            ).one()
            outcome.deleted = last - outcome.filed  # numbers are given once
        return outcome

    def _tell(self, outcome: Outcome) -> None:
        for role, values in self._samples.memory_kb.items():
            before, after = growth(values)
            print(f"memory of {role}: {before / 1024:.0f} MB early, {after / 1024:.0f} MB late")
        for store, sizes in self._samples.disk_bytes.items():
            before, after = growth(sizes)
            print(f"disk of {store}: {before / 1e6:.0f} MB early, {after / 1e6:.0f} MB late")
        print(
            f"{outcome.captured} frames captured by {len(outcome.acknowledged)} cameras, "
            f"{sum(outcome.acknowledged.values())} acknowledged, {outcome.filed} in the catalogue, "
            f"{outcome.deleted} deleted, {outcome.judged} judged"
        )

    def _cloud(self, ports: Ports) -> dict[str, Any]:
        cloud = cloud_settings(self._config, self._folder, ports)
        cloud["policy"] |= {"max_open_reviews": 50, "max_open_reviews_of_camera": 50}
        # Undecided reviews are never deleted: their number is bounded by the policy.
        minutes = 1.0 / 24 / 60
        cloud["retention"] = {
            "unreviewed_days": _KEPT_MINUTES * minutes,
            "decided_days": 2 * _KEPT_MINUTES * minutes,
            "audit_days": 2 * _KEPT_MINUTES * minutes,
            "tombstones_days": _KEPT_MINUTES * minutes,
            "requests_days": _KEPT_MINUTES * minutes,
            "grace_minutes": 1.0,
            "interval_seconds": 10.0,
            "sweep_hours": 0.05,
        }
        cloud["gateway"]["queue"] = {"max_bytes": 16 << 20}
        return cloud

    def _edge(self, ports: Ports) -> str:
        edge = edge_settings(self._config, self._folder, ports)
        edge["source"]["realtime"] = self._config.fps is not None
        edge["spool"] = {
            "max_bytes": _SPOOL_BYTES // self._cameras,
            "retention_seconds": 120.0,
            "min_free_bytes": 0,
        }
        if self._cameras == 1:
            return to_toml(edge)
        del edge["edge_id"], edge["camera"], edge["source"]["address"]
        tables = [
            f'[[camera]]\nedge_id = "camera-{number}"\nsource.address = "{self._config.source}"\n'
            for number in range(1, self._cameras + 1)
        ]
        return "\n".join([to_toml(edge), *tables])


def _config(folder: Path, fps: float | None) -> DemoConfig:
    return DemoConfig(
        source="demo:",
        frames=None,
        fps=fps,
        exit_when_done=False,
        report=None,
        port=0,
        data_dir=folder,
        open_browser=False,
        restart=False,
        audit_every=100,
        key_interval=1,
        family="auto",
        codec="lite",
        detector="builtin",
        device="cpu",
        postfilter="rrdb-fast",
        stall_seconds=600.0,
    )


def run(minutes: float, fps: float | None, folder: Path, cameras: int = 1) -> int:
    """Run for so long; prints what was found. Returns 0, or 1 when there was a problem."""
    found = Soak(folder, cameras, fps).run(minutes)
    print(f"{len(found)} problems")
    for line in found:
        print(f"  {line}")
    return 1 if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default %(default)g)")
    parser.add_argument("--cameras", type=int, default=1, help="in one agent process (default %(default)s)")
    parser.add_argument(
        "--fps",
        type=float,
        help="frames a second of each camera (default: one camera as many as can be made, several 1 each)",
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep data and logs in this folder")
    args = parser.parse_args()
    fps = 1.0 if args.fps is None and args.cameras > 1 else args.fps
    if args.keep is not None:
        return run(args.minutes, fps, args.keep.absolute(), args.cameras)
    with tempfile.TemporaryDirectory(prefix="secondlook-soak-") as folder:
        return run(args.minutes, fps, Path(folder), args.cameras)


if __name__ == "__main__":
    sys.exit(main())

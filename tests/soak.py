"""A week in an hour: `python -m tests.soak --minutes 60`

One camera host, gateway, machine worker, refiner, retention and station as processes on this machine, frames as fast
as they can be made, and retention set to minutes. Looked at every few seconds: memory of each process, bytes on disk,
and the logs. It ends with an error when memory or disk still grew late in the run, or a log has an error.
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

_LOOK_SECONDS = 5.0
_ROLES = ("gateway", "worker", "refiner", "retention", "station")
_MAY_GROW_KB = 24 << 10  # of a process, from the second quarter of the run to the last: caches fill late
_MAY_GROW_SHARE = 0.15  # likewise of the disk
_SPOOL_BYTES = 64 << 20  # where the workers are slower than the camera, the spool fills up to this
_TROUBLE = re.compile(r" (ERROR|CRITICAL) |Traceback")


@dataclass
class Samples:
    """What was seen, by process or store; a value for each look."""

    memory_kb: dict[str, list[int]] = field(default_factory=dict)
    disk_bytes: dict[str, list[int]] = field(default_factory=dict)

    def look(self, pids: dict[str, int], folder: Path) -> None:
        for role, pid in pids.items():
            self.memory_kb.setdefault(role, []).append(_resident_kb(pid))
        for name in ("cloud", "edge"):
            self.disk_bytes.setdefault(name, []).append(_bytes_below(folder / name))


def _resident_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


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
    return statistics.median(values[quarter : 2 * quarter]), statistics.median(values[-quarter:])


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


def _settings(folder: Path, ports: Ports, fps: float | None) -> tuple[dict[str, Any], dict[str, Any]]:
    config = DemoConfig(
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
        codec="lite",
        detector="builtin",
        device="cpu",
        postfilter="rrdb-fast",
        stall_seconds=600.0,
    )
    cloud = cloud_settings(config, folder, ports)
    cloud["policy"] |= {"max_open_reviews": 50, "max_open_reviews_of_camera": 50}
    # A minute stands for half a day. Undecided reviews are never deleted: their number is bounded by the policy.
    minutes = 1.0 / 24 / 60
    cloud["retention"] = {
        "unreviewed_days": 2 * minutes,
        "decided_days": 4 * minutes,
        "audit_days": 4 * minutes,
        "tombstones_days": 2 * minutes,
        "requests_days": 2 * minutes,
        "grace_minutes": 1.0,
        "interval_seconds": 10.0,
        "sweep_hours": 0.05,
    }
    cloud["gateway"]["queue"] = {"max_bytes": 16 << 20}
    edge = edge_settings(config, folder, ports)
    edge["source"]["realtime"] = fps is not None
    edge["spool"] = {"max_bytes": _SPOOL_BYTES, "retention_seconds": 120.0, "min_free_bytes": 0}
    return cloud, edge


def run(minutes: float, fps: float | None, folder: Path) -> int:
    """Run for so long; prints what was found. Returns 0, or 1 when there was a problem."""
    for name in ("logs", "edge", "cloud"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    cloud, edge = _settings(folder, choose_ports(0), fps)
    (folder / "cloud.toml").write_text(to_toml(cloud))
    (folder / "edge.toml").write_text(to_toml(edge))
    children = Children(folder / "logs", restart=False)
    samples = Samples()
    deadline = time.monotonic() + 60 * minutes
    told_at = 0.0
    try:
        for role in _ROLES:
            children.start(role, [role, "--config", str(folder / "cloud.toml")])
        children.start("edge", ["edge", "--config", str(folder / "edge.toml")])
        while time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
            children.check()
            samples.look(children.pids(), folder)
            if time.monotonic() - told_at >= 60:
                told_at = time.monotonic()
                memory = {role: f"{values[-1] / 1024:.0f}" for role, values in samples.memory_kb.items()}
                disk = {store: f"{values[-1] / 1e6:.0f}" for store, values in samples.disk_bytes.items()}
                print(
                    f"{(deadline - told_at) / 60:.0f} minutes left; MB of memory {memory}, of disk {disk}",
                    flush=True,
                )
    finally:
        children.stop(("edge", "refiner", "worker", "retention", *STOP_ORDER), grace_seconds=20)
    found = problems(samples, folder / "logs")
    status = json.loads((folder / "edge" / "status.json").read_text())
    captured, safe = status.get("captured"), status.get("acknowledged")
    for role, values in samples.memory_kb.items():
        before, after = growth(values)
        print(f"memory of {role}: {before / 1024:.0f} MB early, {after / 1024:.0f} MB late")
    for store, sizes in samples.disk_bytes.items():
        before, after = growth(sizes)
        print(f"disk of {store}: {before / 1e6:.0f} MB early, {after / 1e6:.0f} MB late")
    print(f"{captured} frames captured, {safe} acknowledged; {len(found)} problems")
    for line in found:
        print(f"  {line}")
    return 1 if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default %(default)g)")
    parser.add_argument("--fps", type=float, help="frames a second (default: as many as can be made)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep data and logs in this folder")
    args = parser.parse_args()
    if args.keep is not None:
        return run(args.minutes, args.fps, args.keep.absolute())
    with tempfile.TemporaryDirectory(prefix="secondlook-soak-") as folder:
        return run(args.minutes, args.fps, Path(folder))


if __name__ == "__main__":
    sys.exit(main())

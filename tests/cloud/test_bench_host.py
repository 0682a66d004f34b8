"""`secondlook bench host`: what it counts, and one short run of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest

from secondlook.cloud.bench import host
from secondlook.cloud.bench.processtree import usage
from secondlook.main import main
from secondlook.shared.errors import ConfigError, SourceUnreadable

BUSY_FAMILY = """
import subprocess, sys, time
if len(sys.argv) > 1:
    pages = bytearray(60_000_000)
    pages[::4096] = b"x" * len(pages[::4096])
    began = time.process_time()
    while time.process_time() - began < 0.4:
        pass
    print("done", flush=True)
    time.sleep(60)
subprocess.run([sys.executable, sys.argv[0], "child"])
"""


def test_cpu_and_memory_are_those_of_a_process_with_its_children(tmp_path: Path) -> None:
    script = tmp_path / "family.py"
    script.write_text(BUSY_FAMILY)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == "done\n"
        found = usage(parent.pid)
        assert found.processes == 2
        assert 0.4 <= found.cpu_seconds < 3 and 60e6 < found.pss_bytes < 120e6
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        subprocess.run(["kill", *children], check=True)
    assert usage(parent.pid).cpu_seconds == 0.0, "it is gone"


def figures() -> host.Figures:
    found = host.Figures({"cameras": 4, "fps": 5.0, "seconds": 30.0, "width": 768, "height": 432}, 2, 0.5)
    found.roles = {
        "edge": host.RoleFigures(6, 0.0, 20.0, 300_000_000),
        "gateway": host.RoleFigures(1, 0.01, 1.0, 70_000_000),
        "worker": host.RoleFigures(1, 0.03, 16.0, 250_000_000),
        "refiner": host.RoleFigures(1, 0.03, 3.0, 260_000_000),
        "station": host.RoleFigures(1, 0.03, 0.0, 110_000_000),
    }
    found.spool_bytes_a_frame, found.cloud_bytes_a_frame = 40_000, 10_000
    return found


def test_cameras_follow_from_what_a_frame_costs(tmp_path: Path) -> None:
    found = figures()
    # 1.6 of 2 cores, and 5 frames a second of 20 ms
    assert found.cameras("edge") == 16
    assert found.cameras("worker") == 19
    assert found.cameras("edge", *host.ROLES) == 7
    text = host.report(found)
    assert "as a camera host     16" in text and "17.3 GB in the spool" in text
    host.write_json(found, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["cameras"] == {"host": 16, "worker": 19, "all": 7}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"cameras": 0}, "0 cameras"),
        ({"fps": 16.0}, "16.0 frames"),
        ({"seconds": 1}, "1 seconds"),
        ({"width": 767}, "767x432"),
    ],
)
def test_what_cannot_be_measured_is_said(change: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        host.Plan(**change)


def test_videos_that_are_too_short_or_none_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host.write_scene(tmp_path / "scene.mp4", 64, 64, 2)
    with av.open(str(tmp_path / "scene.mp4")) as container:
        assert (container.streams.video[0].frames, container.streams.video[0].width) == (30, 64)
    for name, cause, told in (
        ("scene.mp4", ConfigError, "lasts 2 s"),
        ("none.mp4", SourceUnreadable, "none.mp4"),
    ):
        plan = host.Plan(videos=(tmp_path / name,))
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        with pytest.raises(cause, match=told):
            host.run(plan, folder)
    assert main(["bench", "host", "--size", "big"]) == 1
    assert "--size big is not WIDTHxHEIGHT" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_short_run_counts_all_roles(tmp_path: Path) -> None:
    began = time.monotonic()
    found = host.run(host.Plan(cameras=2, fps=2.0, seconds=8, width=256, height=144), tmp_path)
    assert time.monotonic() - began < 300
    assert set(found.roles) == {"edge", *host.ROLES}
    assert found.roles["edge"].processes >= 4 and found.roles["edge"].cpu_ms_a_frame > 0
    assert all(one.pss_bytes > 20e6 for one in found.roles.values())
    assert (
        0 < found.captured <= found.wanted * 1.5
        and found.detected + found.tombstoned + found.late == found.frames
    )
    assert found.cameras("edge") >= 1

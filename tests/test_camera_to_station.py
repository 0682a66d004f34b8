"""The whole pipeline: real processes, real sockets, real stores; and two of them killed in mid-run."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
FRAMES = 24
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A folder of frames: a textured ground, and a bright shape that moves over it."""
    folder = tmp_path_factory.mktemp("scene")
    grain = np.random.default_rng(2).normal(0, 25, (24, 32, 3))
    ground = np.clip(cv2.resize(grain, (256, 192), interpolation=cv2.INTER_CUBIC) + 120, 0, 255)
    for index in range(FRAMES):
        frame = ground.astype(np.uint8)
        cv2.rectangle(frame, (10 + 7 * index, 60), (60 + 7 * index, 130), (30, 200, 240), -1)
        cv2.circle(frame, (35 + 7 * index, 95), 15, (200, 40, 40), 3)
        cv2.imwrite(str(folder / f"{index:03d}.png"), frame)
    return folder


def demo_command(*flags: object) -> list[str]:
    return [sys.executable, "-m", "secondlook", "demo", "--no-open", "--port", "0", *map(str, flags)]


def run_demo(*flags: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        demo_command(*flags),
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def assert_nothing_lost(report: dict[str, dict[str, int]]) -> None:
    expected = dict.fromkeys(("captured", "encoded", "acknowledged", "detected"), FRAMES)
    assert report["frames"] == {**expected, "lost": 0, "duplicated": 0}


def wait_for(condition, what: str, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def processes_of(data: Path) -> dict[str, int]:
    return json.loads((data / "demo.json").read_text())["pids"]


def acknowledged(data: Path) -> int:
    status = data / "edge" / "status.json"
    return json.loads(status.read_text())["acknowledged"] if status.exists() else 0


def alive(pids) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_every_frame_arrives_and_reviews_get_better(scene, tmp_path):
    out = tmp_path / "out.json"
    flags = (
        "--source",
        scene,
        "--exit",
        "--audit-every",
        12,
        "--report",
        out,
        "--data-dir",
        tmp_path / "data",
    )
    done = run_demo(*flags)
    assert done.returncode == 0, done.stdout + done.stderr

    report = json.loads(out.read_text())
    assert_nothing_lost(report)
    reviews, size, quality = report["reviews"], report["bytes"], report["quality_db"]
    assert reviews["refined"] >= 2
    assert reviews["created"] == reviews["refined"] + reviews["settled"] + reviews["expired"]
    assert quality["enhanced"] > quality["base"]
    assert 0 < size["base"] < size["source_jpeg"]
    # Enhancements travel for reviewed frames only.
    assert 0 < size["enhancement_sent"] < size["enhancement_stored"] or reviews["created"] == FRAMES
    assert report["latency_ms"]["request_to_refined"]["p50"] > 0
    assert alive(processes_of(tmp_path / "data").values()) == []


def test_groups_of_video_frames_arrive_and_are_reviewed(scene, tmp_path):
    """The same scene as a film: base layers by a video encoder, enhancements by the model."""
    film, out, data = tmp_path / "film.avi", tmp_path / "out.json", tmp_path / "data"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"MJPG"), 5, (256, 192))
    for path in sorted(scene.iterdir()):
        writer.write(cv2.imread(str(path)))
    writer.release()
    flags = ("--source", film, "--family", "auto", "--exit", "--audit-every", 12)
    done = run_demo(*flags, "--report", out, "--data-dir", data)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text())
    assert_nothing_lost(report)
    assert report["reviews"]["refined"] >= 2
    assert report["quality_db"]["enhanced"] > report["quality_db"]["base"] > 20
    layers = sorted((data / "cloud" / "blobs" / "base").rglob("*.slk"), key=lambda path: int(path.stem))
    assert len(layers) == FRAMES
    kinds = [path.read_bytes()[:2] for path in layers]
    assert kinds[0] == b"\x8a\x32" and set(kinds[1:]) == {b"\x8a\x12"}


@pytest.mark.parametrize("role", ["gateway", "worker", "refiner"])
def test_a_killed_process_loses_and_doubles_nothing(scene, tmp_path, role):
    out, data = tmp_path / "out.json", tmp_path / "data"
    flags = (
        "--source",
        scene,
        "--exit",
        "--restart",
        "--audit-every",
        12,
        "--report",
        out,
        "--data-dir",
        data,
    )
    log = tmp_path / "demo.log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            demo_command(*flags), cwd=ROOT, env=ENVIRONMENT, stdout=output, stderr=output
        ) as demo,
    ):
        wait_for(
            lambda: (data / "demo.json").exists() and "edge" in processes_of(data), "the demo never started"
        )
        wait_for(lambda: acknowledged(data) >= 2, "no frame was acknowledged")
        os.kill(processes_of(data)[role], signal.SIGKILL)
        assert demo.wait(240) == 0, log.read_text()
    assert f"the {role} was killed and is started again" in log.read_text()
    assert_nothing_lost(json.loads(out.read_text()))


def test_ctrl_c_stops_every_process(scene, tmp_path):
    data, log = tmp_path / "data", tmp_path / "demo.log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            demo_command("--source", scene, "--data-dir", data),
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=output,
            stderr=output,
        ) as demo,
    ):
        wait_for(lambda: "station" in log.read_text(), "the station never answered")
        described = json.loads((data / "demo.json").read_text())
        with urllib.request.urlopen(described["station"], timeout=10) as answer:
            assert "Secondlook" in answer.read().decode()
        assert sorted(described["pids"]) == ["edge", "gateway", "refiner", "retention", "station", "worker"]
        demo.send_signal(signal.SIGINT)
        assert demo.wait(30) == 0, log.read_text()
    assert alive(described["pids"].values()) == []


def read_all(terminal: int) -> str:
    """What was written to a terminal so far."""
    found = b""
    with contextlib.suppress(OSError):  # its other end is closed
        while select.select([terminal], [], [], 0.1)[0]:
            found += os.read(terminal, 1 << 16)
    return found.decode(errors="replace")


def test_ctrl_c_twice_ends_at_once_and_leaves_nothing(scene, tmp_path):
    """On a terminal: a line says what to look at, a bar how far it is, and a process that hangs holds nobody up."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    terminal, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    command = demo_command("--source", "demo:", "--frames", 5000)
    environment = {**ENVIRONMENT, "TMPDIR": str(temporary)}
    written = ""
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=theirs, stderr=theirs) as demo:
        os.close(theirs)
        deadline = time.monotonic() + 120
        while "[...." not in written:
            assert time.monotonic() < deadline, written
            written += read_all(terminal)
        (folder,) = temporary.glob("secondlook-demo-*")
        pids = processes_of(folder)
        os.kill(pids["gateway"], signal.SIGSTOP)
        demo.send_signal(signal.SIGINT)
        while "Ctrl-C again" not in written:
            assert time.monotonic() < deadline, written
            written += read_all(terminal)
        began = time.monotonic()
        demo.send_signal(signal.SIGINT)
        assert demo.wait(20) == 130
        assert time.monotonic() - began < 8
    written += read_all(terminal)
    os.close(terminal)
    assert alive(pids.values()) == [] and not any(temporary.glob("secondlook-*"))
    assert "Traceback" not in written and "error" not in written
    assert "look     frames that need a person" in written
    bars = [line for line in re.split(r"[\r\n]+", written.replace("\x1b[K", "")) if line.startswith("[")]
    assert bars and all(len(bar) < 80 and re.match(r"\[[#.]{20}\] +\d+%  captured", bar) for bar in bars)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: folder / "missing.mp4", "missing.mp4"),
        (lambda folder: (folder / "empty.mp4").touch() or folder / "empty.mp4", "empty.mp4"),
        (lambda folder: (folder / "dir").mkdir() or folder / "dir", "dir"),
    ],
    ids=["missing", "zero length", "empty folder"],
)
def test_a_bad_source_is_one_line_and_an_exit_status(tmp_path, make, says):
    done = run_demo("--source", make(tmp_path), "--exit", "--data-dir", tmp_path / "data")
    assert done.returncode == 1
    assert done.stderr.startswith("secondlook: error: the edge ended with status 1")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_unwritable_data_folder_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    done = run_demo("--exit", "--data-dir", tmp_path / "file" / "data")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "cannot use the data folder" in done.stderr

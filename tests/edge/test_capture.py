"""The capture's signs of life: any rate of frames is fine, a hang is found, and signals to the group end nothing."""

from __future__ import annotations

import importlib.util
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from secondlook.edge.agent import Agent
from secondlook.edge.config import EdgeConfig, LinkConfig, SourceConfig, SpoolConfig
from secondlook.edge.source import capture
from secondlook.edge.source.camera import Camera
from secondlook.shared.errors import ConfigError, SourceStalled, SourceUnreadable
from secondlook.shared.watchdog import Watchdog
from tests.edge.gateway import Memory, SmallGateway, wait_until
from tests.edge.servers import RtspCamera, http_server, mjpeg, write_video
from tests.edge.test_agent import PlainCodec

ROOT = Path(__file__).parents[2]


def camera(address: Path | str, **settings: object) -> Camera:
    return Camera(SourceConfig(str(address), **settings), random.Random(1))


def read_for(playing: Camera, seconds: float) -> int:
    """Frames that come in so long; errors are not caught."""
    found, ends = 0, time.monotonic() + seconds
    while time.monotonic() < ends:
        found += playing.read(0.1) is not None
    return found


def test_a_paced_source_lives_while_it_waits(tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.mp4", 30, pts=lambda number: number * 250)  # one in 10 s
    playing = camera(film, realtime=True, stall_seconds=0.8)
    assert read_for(playing, 6.0) == 1
    assert playing.state == "running"
    playing.close()


@pytest.mark.skipif(
    importlib.util.find_spec("ultralytics") is None, reason="its photographs are not installed"
)
def test_the_demo_lives_at_one_frame_in_twenty_seconds() -> None:
    playing = camera("demo:", realtime=True, fps=0.05, stall_seconds=0.8)
    assert read_for(playing, 6.0) == 1
    assert playing.state == "running"
    playing.close()


def test_a_camera_whose_frames_are_passed_over_lives() -> None:
    with http_server(camera=mjpeg(1000)) as server:
        playing = camera(f"{server}/camera", fps=1 / 3600, stall_seconds=1.0)
        assert read_for(playing, 6.0) == 1
        assert playing.state == "running"
        playing.close()


def test_a_camera_that_hangs_is_found_although_few_frames_are_wanted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with http_server(camera=mjpeg(40, hang_after=True)) as server:
        playing = camera(f"{server}/camera", fps=1 / 3600, stall_seconds=1.0, retry_min_seconds=30.0)
        started = time.monotonic()
        while playing.state == "running":
            playing.read(0.1)
            assert time.monotonic() - started < 15.0
        playing.close()
    assert "sent nothing for 1 s" in caplog.text or "no frame in time" in caplog.text


def test_a_camera_that_never_sends_is_an_error_in_time() -> None:
    with http_server(camera=mjpeg(0, hang_after=True)) as server:
        silent = camera(f"{server}/camera", open_seconds=2.0)
        started = time.monotonic()
        with pytest.raises(SourceStalled):
            while True:
                silent.read(0.1)
        assert time.monotonic() - started < 6.0


def test_heartbeats_never_wait_for_the_agent() -> None:
    near, far = capture.multiprocessing.Pipe(duplex=False)
    channel = capture._Channel(far, 0.001)
    started = time.monotonic()
    for _ in range(20_000):  # far more than the pipe holds
        channel._said_at = 0.0
        channel.beat()
    assert time.monotonic() - started < 10.0
    with channel._lock:
        channel.beat()
    assert isinstance(near.recv(), capture.Alive)


class _Counted(Watchdog):
    def __init__(self) -> None:
        super().__init__()
        self.moves = 0

    def heartbeat(self) -> None:
        self.moves += 1


def test_the_watchdog_of_the_agent_is_fed_while_frames_are_an_hour_apart(tmp_path: Path) -> None:
    memory, stop, watchdog = Memory(), threading.Event(), _Counted()
    gateway = SmallGateway(memory)
    film = write_video(tmp_path / "film.mp4", 3, pts=lambda number: number * 25 * 50)
    config = EdgeConfig(
        "gate",
        SourceConfig(str(film), realtime=True, stall_seconds=1.0),
        data_dir=tmp_path / "edge",
        spool=SpoolConfig(min_free_bytes=0),
        link=LinkConfig(gateway=gateway.address),
    )
    agent = Agent(config, PlainCodec())
    running = threading.Thread(target=agent.run, args=(stop, watchdog))
    running.start()
    wait_until(lambda: len(memory.frames) == 1)
    before = watchdog.moves
    time.sleep(13.0)  # an uplink without work takes a turn in five seconds
    assert watchdog.moves >= before + 2
    assert running.is_alive() and agent._captured == 1
    stop.set()
    running.join()
    gateway.stop()


@pytest.mark.parametrize("moment", [0.0, 0.3, 1.5])
def test_sigterm_to_the_whole_group_is_a_clean_end(tmp_path: Path, moment: float) -> None:
    """As systemd sends it; also while the capture process is only starting."""
    with RtspCamera() as source:
        code = (
            "import logging, random, signal, sys, threading, time\n"
            "from secondlook.edge.source.camera import Camera\nfrom secondlook.edge.config import SourceConfig\n"
            "if __name__ == '__main__':\n"
            "    logging.basicConfig(level=logging.INFO)\n    stop = threading.Event()\n"
            "    signal.signal(signal.SIGTERM, lambda *_: stop.set())\n"
            "    camera = Camera(SourceConfig(sys.argv[1]), random.Random(1))\n"
            "    camera.read(0.0)\n    print('started', flush=True)\n"
            "    while not stop.is_set():\n        camera.read(0.1)\n"
            "    ends = time.monotonic() + 0.5\n"
            "    while time.monotonic() < ends:\n        camera.read(0.1)\n"  # what a dead capture would tell now
            "    camera.close()\n"
        )
        child = subprocess.Popen(
            [sys.executable, "-c", code, source.address],
            cwd=ROOT,
            text=True,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "started\n"
        time.sleep(moment)
        os.killpg(child.pid, signal.SIGTERM)
        _, complaints = child.communicate(timeout=20)
    assert (child.returncode, complaints) == (0, "")


GRABBER = """
import numpy as np
from secondlook.plugin import ConfigError, SourceError, SourceFrame
from secondlook.shared.errors import SourceStalled

class BoardAsleep(SourceStalled):
    pass

def open_it(address):
    image = np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)
    {body}
"""


def grabber(folder: Path, code: str) -> None:
    """A package that is installed in a folder, and reads the addresses grab://."""
    (folder / "grabber_board.py").write_text(code)
    info = folder / "grabber_board-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: grabber-board\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[secondlook.sources]\ngrab = grabber_board:open_it\n")


def test_a_package_may_hand_out_views_of_its_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenCV's BGR, turned into RGB without a copy."""
    grabber(tmp_path, GRABBER.format(body="yield SourceFrame(0.0, image[:, ::2, ::-1])"))
    monkeypatch.syspath_prepend(tmp_path)
    playing = camera("grab://2")
    frame, ends = None, time.monotonic() + 30.0
    while frame is None:
        assert time.monotonic() < ends
        frame = playing.read(0.2)
    playing.close()
    image = np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)
    assert np.array_equal(frame.image, image[:, ::2, ::-1])


@pytest.mark.parametrize(
    ("code", "kind", "told"),
    [
        (GRABBER.format(body="raise BoardAsleep('board 2 sleeps')"), SourceStalled, "^board 2 sleeps$"),
        (
            GRABBER.format(body="raise ConfigError('no board 2')"),
            SourceUnreadable,
            "grab://2 failed: no board 2$",
        ),
        (
            GRABBER.format(body="yield SourceFrame('0', image)"),
            SourceUnreadable,
            "grab://2 failed: TypeError: ",
        ),
        (
            "import no_such_driver",
            SourceUnreadable,
            r"grab://2 cannot be read: .* of grabber-board 1\.0 needs no_such_driver",
        ),
        (
            "raise RuntimeError('the driver is too old')",
            SourceUnreadable,
            "grab://2 cannot be read: RuntimeError: the driver is too old$",
        ),
    ],
)
def test_whatever_a_package_raises_is_said_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, kind: type[Exception], told: str
) -> None:
    grabber(tmp_path, code)
    monkeypatch.syspath_prepend(tmp_path)
    failing = camera("grab://2", fps=5.0)
    with pytest.raises(kind, match=told):
        read_for(failing, 20.0)
    assert failing.state == "ended" and failing.trouble is not None and type(failing.trouble) is kind


def test_options_of_ffmpeg_are_read_as_opencv_reads_them() -> None:
    read = capture._ffmpeg_options
    assert read("rtsp_transport;udp|timeout;5000") == {"rtsp_transport": "udp", "timeout": "5000"}
    assert read("") == read("nonsense|;x") == {}


def test_the_users_options_for_ffmpeg_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;udp")
    with RtspCamera() as source:
        playing = camera(source.address)
        while playing.read(0.2) is None:
            pass
        playing.close()
        assert source.transports == ["udp"]


def test_options_for_ffmpeg_can_be_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp")
    with RtspCamera() as source:
        playing = camera(source.address, ffmpeg_options=("rtsp_transport=udp", "user_agent=a=b"))
        while playing.read(0.2) is None:
            pass
        playing.close()
        assert source.transports == ["udp"]
    with pytest.raises(ConfigError, match="ffmpeg_options holds 'udp', which is not NAME=VALUE"):
        SourceConfig("demo:", ffmpeg_options=("udp",))


def test_lines_of_the_capture_reach_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "card"
    folder.mkdir()
    (folder / "a.jpg").touch()
    (folder / "b.jpg").write_bytes(b"x")
    with caplog.at_level(logging.WARNING), pytest.raises(Exception, match="none of its 2 pictures"):
        read_for(camera(folder), 20.0)
    assert "a.jpg is an empty file" in caplog.text


def test_settings_of_the_source_are_bounded() -> None:
    with pytest.raises(Exception, match="above"):
        replace(SourceConfig("demo:"), resize="60000x60000")

"""Sources and the capture process: what each kind delivers, at which pace, and how each fails."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import random
import signal
import struct
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from secondlook.edge.backoff import Backoff
from secondlook.edge.config import SourceConfig, parse_size
from secondlook.edge.source import sources
from secondlook.edge.source.camera import Camera, Frame
from secondlook.edge.source.capture import Captured
from secondlook.edge.source.sources import SourceFrame, demo_shots, fit, is_live, open_source, pick, shown
from secondlook.shared.errors import ConfigError, SourceEmpty, SourceNotFound, SourceStalled, SourceUnreadable
from tests.edge.servers import http_server, mjpeg, write_video

RED, GREEN = (255, 0, 0), (0, 255, 0)


def picture(color: tuple[int, int, int], width: int = 64, height: int = 48) -> sources.U8Image:
    return np.full((height, width, 3), color, np.uint8)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """25 frames at 12.5 a second; each a little brighter than the last."""
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12.5, (64, 48))
    assert writer.isOpened()
    for number in range(25):
        writer.write(picture((8 * number, 8 * number, 8 * number)))
    writer.release()
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    for name, color in (("b.png", GREEN), ("a.jpg", RED)):
        cv2.imwrite(str(path / name), picture(color)[:, :, ::-1])
    (path / "notes.txt").write_text("not an image")
    return path


def shots(address: Path | str, **settings: object) -> list[SourceFrame]:
    return list(open_source(SourceConfig(str(address), **settings)))


def all_frames(camera: Camera, limit: int = 1000) -> list[Frame]:
    found: list[Frame] = []
    deadline = time.monotonic() + 20.0
    while camera.state != "ended" and len(found) < limit:
        assert time.monotonic() < deadline, "the source does not end"
        frame = camera.read(0.2)
        if frame is not None:
            found.append(frame)
    camera.close()
    return found


def camera(address: Path | str, **settings: object) -> Camera:
    return Camera(SourceConfig(str(address), **settings), random.Random(1))


def test_a_video_comes_whole_with_its_times(video: Path) -> None:
    found = shots(video)
    assert [round(shot.seconds / 0.08) for shot in found] == list(range(25))
    assert [int(shot.image.mean()) for shot in found] == pytest.approx([8 * n for n in range(25)], abs=3)


def test_frame_rate_picks_by_the_times_of_the_file(video: Path) -> None:
    found = shots(video, fps=6.25)
    assert [round(shot.seconds / 0.08) for shot in found] == list(range(0, 25, 2))
    assert len(shots(video, fps=6.0)) == 12
    assert len(shots(video, fps=100.0)) == 25, "no frame comes twice"


def test_picking_begins_anew_after_a_pause() -> None:
    times = [0.0, 0.1, 0.2, 5.0, 5.1, 5.2, 5.3]
    image = picture(RED)
    kept = [shot.seconds for shot in pick(iter([SourceFrame(seconds, image) for seconds in times]), 5.0)]
    assert kept == [0.0, 0.2, 5.0, 5.2]


def test_a_folder_comes_in_order_and_in_rgb(folder: Path) -> None:
    first, second = shots(folder)
    assert first.image[0, 0] == pytest.approx(RED, abs=3)
    assert tuple(second.image[0, 0]) == GREEN
    (only,) = shots(folder / "b.png")
    assert tuple(only.image[0, 0]) == GREEN


@pytest.mark.parametrize(
    ("resize", "size"), [(None, (64, 48)), ("32", (32, 24)), ("200", (64, 48)), ("80x20", (80, 20))]
)
def test_resize(resize: str | None, size: tuple[int, int]) -> None:
    image = fit(picture(RED), resize)
    assert (image.shape[1], image.shape[0]) == size
    assert tuple(image[0, 0]) == RED


@pytest.mark.parametrize("text", ["", "0", "12x", "x12", "10x10", "1e3", "100000"])
def test_resize_that_cannot_be(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_size(text)


def test_what_counts_as_live() -> None:
    assert all(is_live(address) for address in ("0", "/dev/video2", "rtsp://a/b", "http://a"))
    assert not any(is_live(address) for address in ("demo:", "a.mp4", "file:///a.mp4", "file:a.mp4"))


def test_passwords_are_not_shown() -> None:
    assert shown("rtsp://me:secret@10.0.0.1:554/x?y=1") == "rtsp://me:***@10.0.0.1:554/x?y=1"
    assert shown("demo:") == "demo:"


def test_the_demo_is_the_same_every_time_and_moves() -> None:
    once, again = demo_shots(12.5), demo_shots(12.5)
    before = next(once)
    assert (before.seconds, before.image.shape, before.image.dtype) == (0.0, (432, 768, 3), np.uint8)
    assert np.array_equal(before.image, next(again).image)
    for _ in range(20):
        shot = next(once)
        changed = (np.abs(shot.image.astype(int) - before.image) > 40).any(axis=2)
        assert 0.0005 < changed.mean() < 0.1  # cars move, the street stays
        before = shot
    # At another rate, other times of the same scene.
    assert np.array_equal(next(itertools.islice(demo_shots(6.25), 10, None)).image, before.image)


@pytest.mark.parametrize(
    ("fact", "told"),
    [
        ({"taken_ns": 1.7e18}, "a frame's taken_ns is int or None, not float"),
        ({"taken_ns": np.int64(5)}, "a frame's taken_ns is int or None, not int64"),
        ({"source_ns": "now"}, "a frame's source_ns is int or None, not str"),
        ({"place": Path("a")}, "a frame's place is str or None, not PosixPath"),
    ],
)
def test_what_a_package_says_of_a_frame_is_looked_at(fact: dict[str, object], told: str) -> None:
    sources.check_shot(SourceFrame(0.0, picture(RED), taken_ns=5, place="a", source_ns=None))
    with pytest.raises(SourceUnreadable, match=told):
        sources.check_shot(SourceFrame(0.0, picture(RED), **fact))


def test_failures_name_their_cause(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noise.mp4").write_bytes(random.Random(1).randbytes(4000))
    (tmp_path / "noise.png").write_bytes(b"noise")
    (tmp_path / "nothing").mkdir()
    for name, cause in (
        ("missing.mp4", SourceNotFound),
        ("empty.mp4", SourceEmpty),
        ("noise.mp4", SourceUnreadable),
        ("noise.png", SourceUnreadable),
        ("nothing", SourceEmpty),
    ):
        with pytest.raises(cause, match=name):
            shots(tmp_path / name)
    with pytest.raises(SourceNotFound, match="video97"):
        shots("97")


def test_frames_cross_the_process_unchanged_and_none_is_dropped(video: Path) -> None:
    before = time.time_ns()
    found = all_frames(camera(video))
    direct = shots(video)
    assert len(found) == len(direct) == 25
    assert all(np.array_equal(frame.image, shot.image) for frame, shot in zip(found, direct, strict=True))
    times = [frame.captured_ns for frame in found]
    assert before <= times[0] and times == sorted(times) and times[-1] <= time.time_ns()


def test_real_time_takes_as_long_as_the_video(video: Path) -> None:
    playing = camera(video, realtime=True)
    first = None
    while first is None:
        first = playing.read(0.2)
    started = time.monotonic()
    rest = all_frames(playing)
    assert time.monotonic() - started > 1.5
    assert 10 <= len(rest) <= 24


def test_real_time_drops_what_comes_too_fast(video: Path) -> None:
    playing = camera(video, realtime=True, resize="1920x1080")  # larger than the pipe, so that it fills
    found = 0
    while playing.state != "ended":
        frame = playing.read(0.2)
        if frame is not None:
            found += 1
            time.sleep(0.4)
    assert 3 <= found <= 12


def test_errors_cross_the_process(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    failing = camera(tmp_path / "empty.mp4")
    with pytest.raises(SourceEmpty, match=r"empty\.mp4 is an empty file"):
        all_frames(failing)
    assert failing.state == "ended"


def test_a_capture_that_hangs_is_killed(tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.mp4", 5, pts=lambda number: number * 1000)  # one in 40 s
    hanging = camera(film, realtime=True, stall_seconds=1.0)
    while hanging.read(0.2) is None:
        pass
    assert hanging._process is not None and hanging._process.pid is not None
    os.kill(hanging._process.pid, signal.SIGSTOP)  # as if a read never came back
    started = time.monotonic()
    with pytest.raises(SourceStalled, match="no frame in time"):
        all_frames(hanging)
    assert 0.5 < time.monotonic() - started < 5.0
    assert hanging._process is None


def test_only_regular_files_and_folders_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    for name in ("pipe.mp4", "pipe.png", "zero.png"):
        with pytest.raises(SourceUnreadable, match="neither a regular file nor a folder"):
            shots(tmp_path / name)
    with pytest.raises(SourceNotFound, match="leads nowhere"):
        shots(tmp_path / "gone.png")


def test_a_capture_that_is_killed_is_reported(video: Path) -> None:
    playing = camera(video, realtime=True)
    while playing.read(0.2) is None:
        pass
    assert playing._process is not None
    playing._process.kill()
    with pytest.raises(SourceUnreadable, match="ended unexpectedly"):
        all_frames(playing)


def no_process(*_: object) -> None:
    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


def test_a_capture_that_cannot_be_started_is_reported_and_leaves_nothing_open(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multiprocessing.context.SpawnProcess._Popen", no_process)
    playing = camera(video)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(
        SourceUnreadable, match=r"video\.avi cannot be started: Resource temporarily unavailable"
    ):
        playing.read(0.2)
    playing.close()
    assert playing.state == "ended" and len(os.listdir("/proc/self/fd")) <= before + 1  # the resource tracker


def test_a_live_source_whose_capture_cannot_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with http_server(camera=mjpeg(10)) as server:
        playing = Camera(
            SourceConfig(f"{server}/camera", retry_min_seconds=0.05, retry_max_seconds=0.1),
            random.Random(1),
            is_patient=True,
        )
        with monkeypatch.context() as patch:
            patch.setattr("multiprocessing.context.SpawnProcess._Popen", no_process)
            assert playing.read(0.1) is None and playing.state == "reconnecting"
            assert "cannot be started" in str(playing.trouble)
        deadline = time.monotonic() + 20.0
        while playing.read(0.2) is None:
            assert time.monotonic() < deadline
        assert playing.state == "running" and playing.trouble is None
        playing.close()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_capture_that_dies_in_the_middle_of_a_frame_is_reported(video: Path, share: float) -> None:
    playing = camera(video)
    near, far = multiprocessing.Pipe(duplex=False)
    far.send(Captured(0, 48, 64))
    pixels = 64 * 48 * 3
    if share > 0:  # the length of the message comes first, in network order
        os.write(far.fileno(), struct.pack("!i", pixels) + bytes(int(share * (pixels - 1))))
    far.close()
    playing._pipe = near
    playing._deadline = time.monotonic() + 5.0
    with pytest.raises(SourceUnreadable, match="ended unexpectedly"):
        playing.read(0.2)
    assert playing.state == "ended"


def test_a_live_source_that_worked_is_opened_again() -> None:
    with http_server(camera=mjpeg(10)) as server:
        playing = camera(f"{server}/camera", retry_min_seconds=0.05, retry_max_seconds=0.1)
        seen = set()
        deadline = time.monotonic() + 20.0
        while "running" not in seen or "reconnecting" not in seen:
            assert time.monotonic() < deadline
            playing.read(0.2)
            if seen or playing.state == "reconnecting":
                seen.add(playing.state)
        playing.close()


def test_pauses_double_up_to_the_limit() -> None:
    backoff = Backoff(1.0, 5.0, random.Random(1))
    for limit in (1.0, 2.0, 4.0, 5.0, 5.0):
        assert limit / 2 <= backoff.next() <= limit
    backoff.reset()
    assert backoff.next() <= 1.0

"""Sources of frames, as plain iterators of `SourceFrame`: they run in the capture process and may hang there.

An address says what it is: ``demo:``, an ``rtsp://`` or ``http(s)://`` URL, digits for a USB camera, a folder
of images, an image, or else a video file. cv2's BGR becomes RGB here and nowhere else.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import cv2
import numpy as np
import numpy.typing as npt

from secondlook.edge.config import SourceConfig, parse_size
from secondlook.edge.demo_scene import Scene
from secondlook.shared.errors import SourceEmpty, SourceNotFound, SourceUnreadable

U8Image = npt.NDArray[np.uint8]  # height x width x 3, RGB

DEMO = "demo:"
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
_STILL_FPS = 12.5  # images and the demo have no clock of their own
_EPSILON_SECONDS = 1e-3  # timestamps of video files are rounded to this


@dataclass(frozen=True)
class SourceFrame:
    """One image and its time in the source, in seconds from the first."""

    seconds: float
    image: U8Image


def is_live(address: str) -> bool:
    """Whether the source goes on without us: what is not read in time is lost, and it may come back."""
    return address.isdecimal() or "://" in address


def shown(address: str) -> str:
    """The address as it may be shown: without user name and password."""
    if "://" not in address:
        return address
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def open_source(config: SourceConfig) -> Iterator[SourceFrame]:
    """The wanted shots of the source, at its own speed, resized.

    :raises SourceNotFound, SourceEmpty, SourceUnreadable: on the first `next` or a later one
    """
    shots = _every_shot(config)
    if config.fps is not None and not _is_still(config.address):
        shots = pick(shots, config.fps)
    for shot in shots:
        yield SourceFrame(shot.seconds, fit(shot.image, config.resize))


def pick(shots: Iterator[SourceFrame], fps: float) -> Iterator[SourceFrame]:
    """Thin out to `fps` frames a second by the shots' own times; never repeats a shot."""
    due = 0.0
    for shot in shots:
        if shot.seconds + _EPSILON_SECONDS >= due:
            yield shot
            due += 1.0 / fps
            if due <= shot.seconds:  # keep the grid through jitter, but begin a new one after a pause
                due = shot.seconds + 1.0 / fps


def fit(image: U8Image, resize: str | None) -> U8Image:
    """Scale to `resize` (see `SourceConfig`): height x width x 3 in and out."""
    if resize is None:
        return image
    wanted, exact_height = parse_size(resize)
    height, width = image.shape[:2]
    if exact_height is not None:
        target = (wanted, exact_height)
    else:
        scale = min(1.0, wanted / max(width, height))
        target = (max(1, round(width * scale)), max(1, round(height * scale)))
    if target == (width, height):
        return image
    shrinks = target[0] * target[1] < width * height
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, target, interpolation=method), dtype=np.uint8)


def _is_still(address: str) -> bool:
    return address == DEMO or Path(address).is_dir() or Path(address).suffix.lower() in _IMAGE_SUFFIXES


def _every_shot(config: SourceConfig) -> Iterator[SourceFrame]:
    address, fps = config.address, config.fps or _STILL_FPS
    if address == DEMO:
        return demo_shots(fps)
    if address.isdecimal() or "://" in address:
        return _live_shots(config)
    path = Path(address)
    if not path.exists():
        raise SourceNotFound(f"source {address} does not exist")
    if path.is_dir():
        return _image_shots(path, fps)
    if path.is_file() and path.stat().st_size == 0:
        raise SourceEmpty(f"source {address} is an empty file")
    if path.suffix.lower() in _IMAGE_SUFFIXES:
        return iter([SourceFrame(0.0, read_image(path))])
    return _file_shots(path)


def read_image(path: Path) -> U8Image:
    """Decode an image file. Raises SourceUnreadable."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise SourceUnreadable(f"{path} cannot be read: {error.strerror}") from error
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise SourceUnreadable(f"{path} is not an image that can be decoded")
    return _rgb(image)


def _image_shots(folder: Path, fps: float) -> Iterator[SourceFrame]:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _IMAGE_SUFFIXES)
    if not paths:
        raise SourceEmpty(f"source {folder} holds no image")
    return (SourceFrame(number / fps, read_image(path)) for number, path in enumerate(paths))


def _file_shots(path: Path) -> Iterator[SourceFrame]:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise SourceUnreadable(f"source {path} is not a video that can be decoded")
    try:
        fps = capture.get(cv2.CAP_PROP_FPS) or _STILL_FPS
        announced = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        last = -1.0 / fps
        for number in itertools.count():
            there, image = capture.read()
            if not there:
                if number == 0:
                    cause = SourceUnreadable if announced > 0 else SourceEmpty
                    raise cause(f"no frame can be decoded from source {path}")
                return
            # Some containers give no times, or the same one over and over; fall back to the frame rate.
            seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000.0
            last = seconds if seconds > last else last + 1.0 / fps
            yield SourceFrame(last, _rgb(image))
    finally:
        capture.release()


def _live_shots(config: SourceConfig) -> Iterator[SourceFrame]:
    address = config.address
    if address.isdecimal():
        if os.name == "posix" and not Path(f"/dev/video{address}").exists():
            raise SourceNotFound(f"there is no camera /dev/video{address}")
        capture = cv2.VideoCapture(int(address))
    else:
        # Only an explicit FFMPEG backend honours these timeouts; RTSP over UDP loses packets in silence.
        os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "rtsp_transport;tcp"
        limits = [
            *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(config.open_seconds * 1000)),
            *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(config.stall_seconds * 1000)),
        ]
        capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)
    if not capture.isOpened():
        raise SourceUnreadable(f"source {shown(address)} cannot be opened")
    try:
        started = time.monotonic()
        while True:
            there, image = capture.read()
            if not there:
                raise SourceUnreadable(f"source {shown(address)} delivers no more frames")
            yield SourceFrame(time.monotonic() - started, _rgb(image))
    finally:
        capture.release()


def demo_shots(fps: float) -> Iterator[SourceFrame]:
    """The virtual camera: frame n is the same every time."""
    scene = Scene()
    return (SourceFrame(number / fps, scene.image(number / fps)) for number in itertools.count())


def _rgb(image: npt.NDArray[np.generic]) -> U8Image:
    return np.asarray(cv2.cvtColor(np.asarray(image), cv2.COLOR_BGR2RGB), dtype=np.uint8)

"""Sources of frames, as plain iterators of `SourceFrame`: they run in the capture process and may hang there.

An address says what it is: ``demo:``, an ``rtsp://`` or ``http(s)://`` URL, digits or ``/dev/videoN`` for a USB
camera, a folder of images, an image, or else a video file. Packages of others bring further schemes (docs/plugins.md).
All images are RGB from here on.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import unquote

import cv2
import numpy as np
import numpy.typing as npt

from secondlook.edge.config import SourceConfig, parse_size
from secondlook.edge.source import streams
from secondlook.edge.source.demo_scene import Scene
from secondlook.edge.source.stills import folder_pictures, printable
from secondlook.edge.source.streams import Reports, Timed, Times, open_file, open_network
from secondlook.edge.source.watched import identities, watched_pictures
from secondlook.shared.bitstream import MAX_PIXELS, MAX_SIDE
from secondlook.shared.errors import (
    ConfigError,
    SecondlookError,
    SourceEmpty,
    SourceNotFound,
    SourceTooLarge,
    SourceUnreadable,
    Unforeseen,
)
from secondlook.shared.faults import unforeseen_named
from secondlook.shared.pictures import Picture, read_picture, suffixes
from secondlook.shared.plugins import SOURCES, find_plugin, load_plugin, package_of, plugin_names
from secondlook.shared.redact import redacted_address, split_login, with_login

U8Image = npt.NDArray[np.uint8]  # height x width x 3, RGB

DEMO = "demo:"
_STILL_FPS = 12.5  # images and the demo have no clock of their own
_EPSILON_SECONDS = 1e-3  # timestamps of video files are rounded to this
_USB_PATH = re.compile(r"/dev/video(\d{1,3})")
_FILE_URL = re.compile(r"file:(?://(?:localhost)?(?=/))?", re.IGNORECASE)
_USB_FAILED_READS = 20  # in a row, before the camera counts as gone
_USB_PAUSE_SECONDS = 0.05


@dataclass(frozen=True)
class SourceFrame:
    """One image and its time in the source, in seconds from the first.

    `taken_ns`: the wall clock when it was taken, where the source says so. `place`: from where the source can be read
    on, when it has an end. `source_ns`: its own clock when it was taken, which is kept beside ours and not trusted.
    """

    seconds: float
    image: U8Image
    taken_ns: int | None = None
    place: str | None = None
    source_ns: int | None = None


class _HasSeconds(Protocol):
    @property
    def seconds(self) -> float: ...


_Timed = TypeVar("_Timed", bound=_HasSeconds)


class Quiet:
    """Reports that nobody hears."""

    def beat(self) -> None:
        pass

    def tell(self, text: str) -> None:
        pass


@dataclass(frozen=True)
class Source:
    """An opened source. `live`: it goes on without us, what is not read in time is lost, and it may come back."""

    live: bool
    shots: Iterator[SourceFrame]


def is_live(address: str) -> bool:
    """Whether an address looks like a live source; what it really is shows when it is open (see `Source`)."""
    return _usb_number(address) is not None or ("://" in address and local_path(address) is None)


def is_network(address: str) -> bool:
    """Whether user and password may belong to the address."""
    return "://" in address and local_path(address) is None


def local_path(address: str) -> Path | None:
    """The path of an address that is a file or folder of this machine, also as ``file://``."""
    found = _FILE_URL.match(address)
    if found is not None:
        return Path(unquote(address[found.end() :]))
    return None if address == DEMO or address.isdecimal() or "://" in address else Path(address)


def is_moving(config: SourceConfig) -> bool:
    """Whether its frames are those of one camera in a row: not of an image or a folder of images."""
    path = local_path(config.address)
    return path is None or not (config.watch or path.is_dir() or path.suffix.lower() in suffixes())


def shown(address: str) -> str:
    """The address as it may be shown: without its passwords."""
    return printable(redacted_address(address) if is_network(address) else address)


def open_source(config: SourceConfig) -> Iterator[SourceFrame]:
    """The wanted shots of the source, at its own speed, resized.

    :raises SourceError: on the first `next` or a later one
    """
    yield from open_shots(config, Quiet()).shots


def open_shots(
    config: SourceConfig,
    reports: Reports,
    *,
    after: str | None = None,
    options: Mapping[str, str] | None = None,
) -> Source:
    """Open the source; `after` is the `place` of the last shot that was taken before, `options` are for FFmpeg.

    :raises SourceError: here, or from the shots
    """
    address, fps = config.address, config.fps or _STILL_FPS
    usb = _usb_number(address)
    if address == DEMO:
        return Source(False, _fitted(demo_shots(fps), config))
    if usb is not None:
        return Source(True, _fitted(_picked(_usb_shots(usb, reports), config.fps), config))
    scheme = address.partition("://")[0].lower() if is_network(address) else ""
    if scheme and scheme not in streams.SCHEMES and scheme in plugin_names(SOURCES):
        return _of_package(scheme, config, reports)
    path = local_path(address)
    if path is None:
        times = Times(config.open_seconds, config.stall_seconds)
        video = open_network(
            _encoded_login(address),
            shown(address),
            times,
            config.transport,
            options or {},
            reports,
            config.hwaccel,
        )
        return Source(video.live, _fitted(_video_shots(video, config, after), config))
    if config.watch:
        with contextlib.suppress(OSError):  # one that is away, such as a card that is out, is waited for
            if not stat.S_ISDIR(path.stat().st_mode):
                raise SourceNotFound(f"source {shown(address)} is no folder, so it cannot be watched")
        return Source(False, _fitted(_watched_shots(path, config, after, reports), config))
    check_path(path)
    if path.is_dir():
        return Source(False, _folder_shots(path, config, after, reports))
    if path.suffix.lower() in suffixes():
        return Source(False, _one_picture(path, config, after))
    video = open_file(str(path), shown(address), reports, config.hwaccel)
    return Source(False, _fitted(_video_shots(video, config, after), config))


def _of_package(scheme: str, config: SourceConfig, reports: Reports) -> Source:
    """What another package reads. What it raises that is none of our errors ends the source as `SourceUnreadable`."""
    try:
        entry = find_plugin(SOURCES, scheme)
        assert entry is not None
        with unforeseen_named(SecondlookError):  # its own code, while it is imported
            opening = load_plugin(entry)
    except (ConfigError, Unforeseen) as error:
        raise SourceUnreadable(f"source {shown(config.address)} cannot be read: {error}") from error
    name = f"source {shown(config.address)}, read by {package_of(entry)},"

    def shots() -> Iterator[SourceFrame]:
        try:
            with unforeseen_named(SecondlookError):
                for shot in opening(config.address):
                    check_shot(shot)
                    reports.beat()
                    yield shot
        except Unforeseen as error:
            raise SourceUnreadable(f"{name} failed: {error}") from error

    return Source(bool(getattr(opening, "live", True)), _fitted(_picked(shots(), config.fps), config))


def check_shot(shot: object) -> None:
    """Raises SourceUnreadable for what is no frame of a source: a package of others may hand out anything."""
    image = getattr(shot, "image", None)
    if not isinstance(shot, SourceFrame) or not isinstance(image, np.ndarray):
        raise SourceUnreadable(f"a source of a package hands out SourceFrame, not {type(shot).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise SourceUnreadable(f"a frame is uint8[H,W,3] RGB, not {image.dtype}{list(image.shape)}")
    for name, kind in (("taken_ns", int), ("source_ns", int), ("place", str)):
        value = getattr(shot, name)
        if value is not None and type(value) is not kind:
            raise SourceUnreadable(f"a frame's {name} is {kind.__name__} or None, not {type(value).__name__}")


def _usb_number(address: str) -> int | None:
    found = _USB_PATH.fullmatch(address)
    return int(found[1]) if found else int(address) if address.isdecimal() else None


def _encoded_login(address: str) -> str:
    """The address with a login that may have held anything, as FFmpeg takes it."""
    login = split_login(address)[1]
    return address if login is None else with_login(address, login)


def check_path(path: Path) -> None:
    """Folders and regular files only: a device or a pipe may go on for ever. Raises SourceError."""
    name = printable(str(path))
    try:
        status = path.stat()
    except FileNotFoundError as error:
        what = "is a link that leads nowhere" if path.is_symlink() else "does not exist"
        raise SourceNotFound(f"source {name} {what}") from error
    except (OSError, ValueError) as error:
        raise SourceUnreadable(
            f"source {name} cannot be read: {getattr(error, 'strerror', error)}"
        ) from error
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise SourceUnreadable(f"source {name} is neither a regular file nor a folder")
    if stat.S_ISREG(status.st_mode) and status.st_size == 0:
        raise SourceEmpty(f"source {name} is an empty file")


def pick(shots: Iterable[_Timed], fps: float) -> Iterator[_Timed]:
    """Thin out to `fps` frames a second by the shots' own times; never repeats a shot."""
    due = 0.0
    for shot in shots:
        if shot.seconds + _EPSILON_SECONDS >= due:
            yield shot
            due += 1.0 / fps
            if due <= shot.seconds:  # keep the grid through jitter, but begin a new one after a pause
                due = shot.seconds + 1.0 / fps


def _picked(shots: Iterator[_Timed], fps: float | None) -> Iterator[_Timed]:
    return shots if fps is None else pick(shots, fps)


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


def _fitted(shots: Iterable[SourceFrame], config: SourceConfig) -> Iterator[SourceFrame]:
    """Scaled shots, none larger than a frame may be."""
    for shot in shots:
        image = fit(turned(shot.image, config.rotate), config.resize)
        height, width = image.shape[:2]
        if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
            raise SourceTooLarge(
                f"source {shown(config.address)} delivers {width}x{height} pixels; a frame may have {MAX_PIXELS},"
                f" and {MAX_SIDE} a side: set source.resize"
            )
        yield replace(
            shot, image=np.ascontiguousarray(image)
        )  # a package may hand out a view, as of BGR turned round


def _video_shots(video: streams.Video, config: SourceConfig, after: str | None) -> Iterator[SourceFrame]:
    frames: Iterator[Timed] = _picked(video.frames, config.fps)
    passed = int(after) if after is not None and after.isdecimal() and not video.live else -1
    for frame in frames:
        if frame.number > passed:  # only what is taken is converted
            place = None if video.live else str(frame.number)
            yield SourceFrame(frame.seconds, frame.convert(), place=place, source_ns=frame.source_ns)


def _folder_shots(
    folder: Path, config: SourceConfig, after: str | None, reports: Reports
) -> Iterator[SourceFrame]:
    fps = config.fps or _STILL_FPS
    pictures = folder_pictures(
        folder, after=after, shrink_to=_enough(config), beat=reports.beat, tell=reports.tell
    )
    for number, (name, picture) in enumerate(pictures):
        yield _still(number / fps, picture, name, config)


def _watched_shots(
    folder: Path, config: SourceConfig, after: str | None, reports: Reports
) -> Iterator[SourceFrame]:
    began = time.monotonic()
    for identity, picture in watched_pictures(
        folder,
        identities(after),
        settle_seconds=config.settle_seconds,
        shrink_to=_enough(config),
        beat=reports.beat,
        tell=reports.tell,
    ):
        yield SourceFrame(time.monotonic() - began, picture.image, picture.taken_ns, json.dumps(identity))


def _one_picture(path: Path, config: SourceConfig, after: str | None) -> Iterator[SourceFrame]:
    if after != path.name:
        yield _still(0.0, read_picture(path, shrink_to=_enough(config)), path.name, config)


def _still(seconds: float, picture: Picture, place: str, config: SourceConfig) -> SourceFrame:
    image = fit(turned(picture.image, config.rotate), config.resize)
    return SourceFrame(seconds, image, picture.taken_ns, place)


def turned(image: U8Image, degrees: int) -> U8Image:
    """The picture turned to the right by a multiple of 90 degrees."""
    if degrees == 0:
        return image
    return np.ascontiguousarray(np.rot90(image, -degrees // 90), dtype=np.uint8)


def _enough(config: SourceConfig) -> int | None:
    """The longest side of what a picture will be scaled to."""
    if config.resize is None:
        return None
    width, height = parse_size(config.resize)
    return max(width, height or 0)


def read_image(path: Path) -> U8Image:
    """Decode an image file. Raises SourceNotFound, SourceUnreadable, SourceEmpty, SourceTooLarge."""
    return read_picture(path).image


def _usb_shots(number: int, reports: Reports) -> Iterator[SourceFrame]:
    if os.name == "posix" and not Path(f"/dev/video{number}").exists():
        raise SourceNotFound(f"there is no camera /dev/video{number}")
    capture = cv2.VideoCapture(number)
    if not capture.isOpened():
        raise SourceUnreadable(f"source {number} cannot be opened: /dev/video{number} delivers no pictures")
    try:
        started = time.monotonic()
        failed = 0
        while failed < _USB_FAILED_READS:
            there, image = capture.read()
            if not there:
                failed += 1
                time.sleep(_USB_PAUSE_SECONDS)
                continue
            failed = 0
            reports.beat()
            yield SourceFrame(time.monotonic() - started, _rgb(image))
        raise SourceUnreadable(f"source {number} delivers no more frames")
    finally:
        capture.release()


def demo_shots(fps: float) -> Iterator[SourceFrame]:
    """The virtual camera: frame n is the same every time."""
    scene = Scene()
    return (SourceFrame(number / fps, scene.image(number / fps)) for number in itertools.count())


def _rgb(image: npt.NDArray[np.generic]) -> U8Image:
    return np.asarray(cv2.cvtColor(np.asarray(image), cv2.COLOR_BGR2RGB), dtype=np.uint8)

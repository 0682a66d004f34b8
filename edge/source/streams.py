"""Video files and network streams, read with FFmpeg (PyAV): typed errors, times, pictures that change in size.

All of this runs in the capture process and may hang there, though FFmpeg is given times to end by.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import av
import av.container
import av.error
import av.logging
import av.video.stream
import numpy as np
import numpy.typing as npt

from secondlook.edge.config import Hwaccel
from secondlook.edge.source.causes import Peer, cause, lost
from secondlook.edge.source.decoders import Decoder, Wish, find_device, open_decoder
from secondlook.edge.source.sourceclock import SourceClock
from secondlook.shared.errors import (
    DecoderUnavailable,
    SourceEmpty,
    SourceError,
    SourceHostUnknown,
    SourceNotFound,
    SourceUnauthorized,
    SourceUnreachable,
    SourceUnreadable,
    SourceUnsupported,
)
from secondlook.shared.redact import split_login

U8Image = npt.NDArray[np.uint8]  # height x width x 3, RGB

SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "udp", "rtp", "srt", "tcp")
_FALLBACK_FPS = 12.5  # of files that name no rate
_JUMP_SECONDS = 60.0  # a step of a file's times beyond this is no pause but another clock
# Layouts in which hardware hands out pictures, and those of software with the same numbers in them: from there on, both
# are made RGB by the same arithmetic.
_PLANAR = {"nv12": "yuv420p", "p010le": "yuv420p10le"}
_MAX_FAILED_READS = 200  # in a row, before the rest of a file counts as lost
_FAILED_READ_PAUSE_SECONDS = 0.02
# Of the time that the agent allows; so the cause is told from here, before the agent kills.
_SHARE_OF_TIME = 0.85
_SHARE_OF_TCP = 0.55  # UDP, whose first packets a firewall may swallow, has the rest


class Reports(Protocol):
    """What a source says beside its frames."""

    def beat(self) -> None:
        """Something was read."""

    def tell(self, text: str) -> None:
        """A line for the log."""


@dataclass(frozen=True)
class Timed:
    """One picture, still to be converted: its time in the source in seconds, and its number in it.

    `source_ns`: Unix nanoseconds by the source's own clock, where it says them.
    """

    seconds: float
    number: int
    convert: Callable[[], U8Image]
    source_ns: int | None = None


@dataclass(frozen=True)
class Video:
    """An opened stream. `live`: it goes on without us, and has no end of its own."""

    live: bool
    frames: Iterator[Timed]


@dataclass(frozen=True)
class Times:
    """How long opening, and the wait for one frame, may take."""

    open_seconds: float
    stall_seconds: float


class FileClock:
    """A file's own times, made to advance: what is absent, goes back or jumps far becomes a step of one frame."""

    def __init__(self, fps: float) -> None:
        self._step = 1.0 / fps
        self._most = max(_JUMP_SECONDS, 10.0 * self._step)
        self._offset: float | None = None
        self._last = -self._step

    def seconds(self, raw: float | None) -> float:
        """The time of the next frame, from 0 on, for the time that the file gives it."""
        following = self._last + self._step
        if raw is None:
            self._last = following
            return following
        if self._offset is None:
            self._offset = following - raw
        now = raw + self._offset
        if not self._last < now <= self._last + self._most:
            self._offset = following - raw
            now = following
        self._last = now
        return now


def silence() -> None:
    """FFmpeg's own lines would stand beside ours, with passwords in them."""
    logging.getLogger("libav").setLevel(logging.CRITICAL + 1)
    av.logging.set_level(None)


def open_file(path: str, shown: str, reports: Reports, hwaccel: Hwaccel = "none") -> Video:
    """Open a video file. Raises SourceUnreadable, SourceUnsupported, DecoderUnavailable, and later SourceEmpty."""
    wish = find_device(hwaccel, shown)
    try:
        container = av.open(f"file:{path}", metadata_errors="replace", hwaccel=wish.device)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise cause(error, Peer(shown, None, False), 0.0) from error
    return Video(False, _file_frames(_opened(container, wish, shown, reports)))


def open_network(
    address: str,
    shown: str,
    times: Times,
    transport: str,
    options: Mapping[str, str],
    reports: Reports,
    hwaccel: Hwaccel = "none",
) -> Video:
    """Open an address of the network; `options` are FFmpeg's and win over ours. Raises SourceError."""
    scheme = address.partition("://")[0].lower()
    if scheme not in SCHEMES:
        raise SourceUnsupported(
            f"source {shown}: addresses of {scheme}:// are not read ({', '.join(SCHEMES)} are)"
        )
    wish = find_device(hwaccel, shown)
    ends_at = time.monotonic() + _SHARE_OF_TIME * times.open_seconds
    failure: SourceError | None = None
    for attempt in _attempts(scheme, transport):
        if failure is not None and not attempt.follows(failure):
            break
        seconds = attempt.share * max(0.1, ends_at - time.monotonic())
        try:
            way = replace(attempt, share=seconds, options={**attempt.options, **options})
            return _open(address, shown, way, times, reports, wish)
        except (DecoderUnavailable, SourceUnauthorized, SourceNotFound, SourceHostUnknown, SourceUnreachable):
            raise
        except SourceError as error:
            if failure is None:
                failure = error
            elif attempt.format is None:
                failure = type(error)(f"{error} (over UDP; before, over TCP: {failure})")
    assert failure is not None
    raise failure


@dataclass(frozen=True)
class _Attempt:
    """One way to open an address: its share of the time that is left, or the seconds, and FFmpeg's options for it."""

    share: float
    options: Mapping[str, str]
    format: str | None = None

    def follows(self, failure: SourceError) -> bool:
        """Whether it is worth trying after that."""
        return self.format is None or isinstance(failure, SourceUnreadable)


def _attempts(scheme: str, transport: str) -> list[_Attempt]:
    if scheme.startswith("rtsp"):
        if transport == "auto":
            return [
                _Attempt(_SHARE_OF_TCP, {"rtsp_transport": "tcp"}),
                _Attempt(1.0, {"rtsp_transport": "udp"}),
            ]
        return [_Attempt(1.0, {"rtsp_transport": transport})]
    if scheme.startswith("http"):
        # Some cameras send JPEGs between headers that FFmpeg does not take for any; then only the JPEGs count.
        jpegs = {"fpsprobesize": "0", "analyzeduration": "100000"}
        return [_Attempt(1.0, {}), _Attempt(1.0, jpegs, "mjpeg")]
    return [_Attempt(1.0, {})]


def _open(
    address: str,
    shown: str,
    attempt: _Attempt,
    times: Times,
    reports: Reports,
    wish: Wish,
) -> Video:
    plain, login = split_login(address)
    peer = Peer(shown, plain.partition("://")[2], login is not None)
    read_seconds = _SHARE_OF_TIME * times.stall_seconds
    try:
        container = av.open(
            address,
            format=attempt.format,
            options=dict(attempt.options),
            timeout=(attempt.share, read_seconds),
            metadata_errors="replace",
            hwaccel=wish.device,
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise cause(error, peer, attempt.share) from error
    opened = _opened(container, wish, shown, reports)
    if container.duration is not None and container.duration > 0 and container.size > 0:
        return Video(False, _file_frames(opened))
    frames = _live_frames(opened, times)
    # The first frame belongs to opening: without it another way may be the right one.
    first = next(frames)
    return Video(True, _followed_by(first, frames))


def _followed_by(first: Timed, rest: Iterator[Timed]) -> Iterator[Timed]:
    yield first
    yield from rest


def _video_stream(container: av.container.InputContainer, shown: str) -> av.video.stream.VideoStream:
    if not container.streams.video:
        container.close()
        raise SourceUnreadable(f"source {shown} holds no video")
    stream = container.streams.video[0]
    if getattr(stream, "codec_context", None) is None:  # the stubs of PyAV do not say that it may be
        container.close()
        raise SourceUnsupported(f"source {shown}: its video codec is not known here")
    # Threads by frames would deliver errors late, and frames later still.
    stream.thread_type = "SLICE"
    return stream


@dataclass(frozen=True)
class _Opened:
    """A container with the stream of its video, and what makes frames of it."""

    container: av.container.InputContainer
    stream: av.video.stream.VideoStream
    decoder: Decoder
    clock: SourceClock
    shown: str
    reports: Reports


def _opened(container: av.container.InputContainer, wish: Wish, shown: str, reports: Reports) -> _Opened:
    stream = _video_stream(container, shown)
    try:
        decoder, line = open_decoder(stream, wish, shown)
    except DecoderUnavailable:
        container.close()
        raise
    if line is not None:
        reports.tell(line)
    return _Opened(container, stream, decoder, SourceClock(container), shown, reports)


@dataclass
class _Counts:
    packets: int = 0
    frames: int = 0
    failures: int = 0
    cut: bool = False


def _file_frames(opened: _Opened) -> Iterator[Timed]:
    """All frames that can be decoded, whatever fails in between."""
    counts, shown, reports = _Counts(), opened.shown, opened.reports
    fps = float(opened.stream.average_rate or 0) or _FALLBACK_FPS
    clock = FileClock(fps)
    announced = opened.stream.frames
    with opened.container:
        for frame, rotation in _decoded(opened, counts, live=False):
            seconds, source_ns = clock.seconds(frame.time), opened.clock.source_ns(frame)
            yield Timed(seconds, counts.frames, _converter(frame, rotation), source_ns)
            counts.frames += 1
    total = max(announced, counts.packets)
    if counts.frames == 0:
        kind = SourceUnreadable if total > 0 or counts.failures else SourceEmpty
        raise kind(f"no frame can be decoded from source {shown}")
    if counts.failures or counts.cut or announced > counts.packets:
        reports.tell(f"source {shown} is damaged: {counts.frames} of {total} frames read")


def _live_frames(opened: _Opened, times: Times) -> Iterator[Timed]:
    """Frames by the time of their arrival; one failed read is passed over, the end of the stream is an error."""
    counts, shown = _Counts(), opened.shown
    started = time.monotonic()
    patience = _SHARE_OF_TIME * times.stall_seconds
    with opened.container:
        for frame, rotation in _decoded(opened, counts, live=True, patience=patience):
            seconds, source_ns = time.monotonic() - started, opened.clock.source_ns(frame)
            yield Timed(seconds, counts.frames, _converter(frame, rotation), source_ns)
            counts.frames += 1
    if counts.frames == 0:
        raise SourceUnreadable(f"source {shown} is not a stream that can be decoded")
    raise SourceUnreadable(f"source {shown} delivers no more frames")


def _decoded(
    opened: _Opened, counts: _Counts, *, live: bool, patience: float = float("inf")
) -> Iterator[tuple[av.VideoFrame, int]]:
    """Frames, and how they are turned; goes on after failed reads.

    A live source that sends for longer than `patience` without a frame is an error.
    """
    container, stream, shown, reports = opened.container, opened.stream, opened.shown, opened.reports
    packets = container.demux(stream)
    in_a_row = 0
    frame_at = time.monotonic()
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.InvalidDataError:
            counts.failures += 1
            in_a_row += 1
            if in_a_row > _MAX_FAILED_READS:
                counts.cut = True
                return
            time.sleep(_FAILED_READ_PAUSE_SECONDS if live else 0.0)
            packets = container.demux(stream)  # a generator that raised has ended
            continue
        except (av.error.FFmpegError, OSError) as error:
            if live or isinstance(error, av.error.ExitError):
                raise lost(error, shown, patience) from error
            counts.failures += 1
            counts.cut = True
            return
        in_a_row = 0
        counts.packets += packet.size > 0
        if not live:
            reports.beat()
        opened.clock.note(packet)
        try:
            for frame in opened.decoder.decode(packet):
                frame_at = time.monotonic()
                if live:
                    reports.beat()
                yield frame
        except (av.error.FFmpegError, OSError):  # PyAV has no class for some codes of FFmpeg
            counts.failures += 1
        if time.monotonic() - frame_at > patience:
            raise SourceUnreadable(
                f"source {shown} sends, but no picture was decoded from it in {patience:.0f} s"
            )


def _converter(frame: av.VideoFrame, rotation: int) -> Callable[[], U8Image]:
    def convert() -> U8Image:
        planar = _PLANAR.get(frame.format.name)
        whole = frame if planar is None else frame.reformat(format=planar)
        image = whole.to_ndarray(format="rgb24")
        turns = round(rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(image, turns) if turns else image, dtype=np.uint8)

    return convert

"""Which decoder reads a stream: FFmpeg's own on the CPU, or one in hardware where this host has it.

FFmpeg has two kinds of them. For some the usual decoder hands its work to a device (cuda, vaapi, videotoolbox); others
are decoders of their own, by name (``h264_v4l2m2m``, ``h264_rkmpp``, ``h264_qsv``). Either hands out pictures in
ordinary memory. Which of them PyAV can open depends on the FFmpeg that it was built with, so nothing is taken for
granted: what does not open is not used.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import av.codec
import av.error
import av.video.stream
from av.codec.hwaccel import HWAccel, hwdevices_available

from secondlook.edge.config import Hwaccel
from secondlook.shared.errors import DecoderUnavailable

_OF_A_DEVICE: tuple[Hwaccel, ...] = ("cuda", "vaapi", "videotoolbox")
_BY_NAME: dict[Hwaccel, str] = {"rkmpp": "{}_rkmpp", "v4l2m2m": "{}_v4l2m2m", "qsv": "{}_qsv"}
_NODES: dict[Hwaccel, str] = {
    "rkmpp": "/dev/mpp_service",
    "v4l2m2m": "/dev/video*",
    "qsv": "/dev/dri/render*",
}
_TRIED_WITH = "h264"  # every device that decodes anything decodes this
# What PyAV raises where a device or decoder does not open; RuntimeError where the device has no way for the codec.
_FAILURES = (av.error.FFmpegError, OSError, ValueError, RuntimeError)


@dataclass(frozen=True)
class Wish:
    """What the settings ask for, and the device that was found for it, to open a stream with."""

    hwaccel: Hwaccel
    device: HWAccel | None = None
    kind: Hwaccel = "none"  # of that device


def find_device(hwaccel: Hwaccel, shown: str) -> Wish:
    """The device that streams are to be opened with, if the wish is for one. Raises DecoderUnavailable."""
    if hwaccel == "auto":
        for kind in _OF_A_DEVICE:
            device, _ = _opened(kind)
            if device is not None:
                return Wish(hwaccel, device, kind)
    elif hwaccel in _OF_A_DEVICE:
        device, why = _opened(hwaccel)
        if device is None:
            raise DecoderUnavailable(f"source {shown}: hwaccel {hwaccel} does not open here ({why})")
        return Wish(hwaccel, device, hwaccel)
    return Wish(hwaccel)


def _opened(kind: Hwaccel) -> tuple[HWAccel | None, str]:
    """A device of this kind that was opened once to see that it is there; else why it does not open."""
    if kind not in hwdevices_available():
        return None, "the FFmpeg of this PyAV was built without it"
    try:
        HWAccel(kind).create(av.codec.Codec(_TRIED_WITH, "r"))
    except _FAILURES as error:
        return None, _words(error)
    return HWAccel(kind, allow_software_fallback=True), ""


class Decoder:
    """Makes frames of the packets of one stream."""

    def __init__(self, stream: av.video.stream.VideoStream, by_name: Any = None, kind: str = "none") -> None:
        """`by_name`: the context of a decoder beside the stream's own, which is used then."""
        self._stream, self._by_name = stream, by_name
        self._rotation: int | None = None  # what a decoder of its own is not told
        self.kind = kind

    def decode(self, packet: av.Packet[Any]) -> Iterator[tuple[av.VideoFrame, int]]:
        """Frames, each with the degrees by which it is to be turned to the left. Raises FFmpegError, OSError."""
        if self._by_name is None:
            for frame in packet.decode():
                yield frame, frame.rotation
            return
        if self._rotation is None:
            for frame in packet.decode():
                self._rotation = frame.rotation
        for frame in self._by_name.decode(packet):
            yield frame, self._rotation or 0


def open_decoder(stream: av.video.stream.VideoStream, wish: Wish, shown: str) -> tuple[Decoder, str | None]:
    """The decoder of an opened stream, and a line that says which one that is, where hardware was wished for.

    Raises DecoderUnavailable where a kind was named that does not decode this stream.
    """
    if wish.hwaccel == "none":
        return Decoder(stream), None
    if wish.device is not None and stream.codec_context.is_hwaccel:
        return Decoder(stream, kind=wish.kind), f"source {shown} is decoded by {wish.kind}"
    codec = stream.codec_context.codec.canonical_name
    why = f"{wish.kind} does not decode {codec}" if wish.device is not None else "no device is there"
    for kind, pattern in _BY_NAME.items():
        if wish.hwaccel in (kind, "auto"):
            context, failed = _named(kind, pattern.format(codec), stream)
            if context is not None:
                return Decoder(stream, context, kind), f"source {shown} is decoded by {kind}"
            why = failed if wish.hwaccel == kind else why
    if wish.hwaccel != "auto":
        raise DecoderUnavailable(f"source {shown}: hwaccel {wish.hwaccel} does not open for {codec} ({why})")
    return Decoder(stream), f"source {shown} is decoded in software: hwaccel auto found nothing ({why})"


def _named(kind: Hwaccel, name: str, stream: av.video.stream.VideoStream) -> tuple[Any, str]:
    """The opened context of a decoder by name; None and why where it does not open."""
    if not glob.glob(_NODES[kind]):
        return None, f"there is no {_NODES[kind]}"
    own = stream.codec_context
    try:
        context: Any = av.CodecContext.create(name, "r")
        context.width, context.height = own.width, own.height
        if own.extradata:
            context.extradata = own.extradata
        context.open()
    except _FAILURES as error:
        return None, f"{name}: {_words(error)}"
    return context, ""


def _words(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)

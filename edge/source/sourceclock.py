"""When a camera says that it took a picture: its own wall clock, beside ours.

RTP counts a clock without a date; RTCP's sender reports say what time it was at which count. FFmpeg hands the result on
with each packet, as a producer reference time, once the first report has come (after some seconds), and other formats
may carry one as well. Without it the start of a stream in real time counts, where its demuxer knows that.
"""

from __future__ import annotations

import struct
from typing import Any, Literal

import av
import av.container

_PRFT: Literal["prft"] = "prft"
_WALLCLOCK = struct.Struct(
    "=q"
)  # microseconds since 1970, the first field of FFmpeg's AVProducerReferenceTime
_CAN_READ = hasattr(av.Packet, "has_sidedata")  # of PyAV 16 and later
_KEPT = 64  # packets that a decoder may hold back
_OLDEST_NS = 315_532_800 * 10**9  # 1980: a clock that says less was never set
_NEWEST_NS = 7_258_118_400 * 10**9


class SourceClock:
    """The wall clock of the source of one stream, by the time stamps of its frames."""

    def __init__(self, container: av.container.InputContainer) -> None:
        self._container = container
        # Nanoseconds by time stamp, of packets whose frames may be to come; the first one of a stream may have none.
        self._told: dict[int | None, int] = {}

    def note(self, packet: av.Packet[Any]) -> None:
        """A packet goes to the decoder."""
        if not _CAN_READ or not packet.has_sidedata(_PRFT):
            return
        data = bytes(packet.get_sidedata(_PRFT))
        if len(data) >= _WALLCLOCK.size:
            self._told[packet.pts] = _WALLCLOCK.unpack_from(data)[0] * 1000
            if len(self._told) > _KEPT:
                self._told.pop(next(iter(self._told)))

    def source_ns(self, frame: av.VideoFrame) -> int | None:
        """Unix nanoseconds by the source's clock when it took the frame; None where it does not say."""
        told = self._told.pop(frame.pts, None)
        if told is None:
            began = getattr(self._container, "start_time_realtime", None)
            if began is None or frame.pts is None or frame.time_base is None:
                return None
            told = began * 1000 + int(frame.pts * frame.time_base * 1_000_000_000)
        return told if _OLDEST_NS <= told < _NEWEST_NS else None

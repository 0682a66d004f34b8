"""Frame → layers: numbers the frames of a boot, chooses keys and deltas, and times the codec."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import TYPE_CHECKING

from secondlook.edge.config import CodecConfig
from secondlook.edge.spoolrows import SpooledFrame

if TYPE_CHECKING:
    from secondlook.edge.camera import Frame
    from secondlook.shared.layers import Key, LayeredCodec

_TIMES_KEPT = 512


class FrameEncoder:
    """Encodes the frames of one boot in order; sequence numbers begin at 0."""

    def __init__(self, codec: LayeredCodec, config: CodecConfig) -> None:
        self._codec = codec
        self._config = config
        self._key: Key | None = None
        self._milliseconds: deque[float] = deque(maxlen=_TIMES_KEPT)
        self.next_seq = 0

    def encode(self, frame: Frame) -> SpooledFrame:
        """Both layers of a frame, under the next sequence number.

        It becomes a key if its turn has come, or if its size is another than the last key's.
        """
        seq = self.next_seq
        key = None if seq % self._config.key_interval == 0 else self._key
        started = time.perf_counter()
        encoded = self._codec.encode(
            frame.image,
            base_quality=self._config.base_quality,
            quality=self._config.quality,
            sequence=seq,
            key=key,
        )
        self._milliseconds.append((time.perf_counter() - started) * 1000.0)
        self._key = encoded.key
        self.next_seq = seq + 1
        return SpooledFrame(
            seq=seq,
            captured_ns=frame.captured_ns,
            width=frame.image.shape[1],
            height=frame.image.shape[0],
            key_seq=None if encoded.key is None or encoded.key.sequence == seq else encoded.key.sequence,
            base=encoded.layers.base,
            enhancement=encoded.layers.enhancement,
        )

    def milliseconds(self, share: float) -> float | None:
        """The encoding time that this share (0 to 1) of the latest frames kept within."""
        if not self._milliseconds:
            return None
        return sorted(self._milliseconds)[math.ceil(share * len(self._milliseconds)) - 1]

    def frames_per_second(self) -> float | None:
        """Frames this host could encode in a second, by the latest ones."""
        if not self._milliseconds:
            return None
        return 1000.0 * len(self._milliseconds) / sum(self._milliseconds)

"""Frame → layers: numbers the frames of a boot, chooses keys and deltas, and times the codec."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from typing import TYPE_CHECKING

from secondlook.edge.background import Background
from secondlook.edge.config import CodecConfig, SourceConfig
from secondlook.edge.sources import is_moving
from secondlook.edge.spool import SpooledFrame
from secondlook.shared.layers import Layers
from secondlook.shared.packet import FrameInfo
from secondlook.shared.video import VideoEncoder, VideoSettings
from secondlook.shared.videobits import MAX_PIXELS, GroupHead, join_layers

if TYPE_CHECKING:
    from secondlook.edge.camera import Frame
    from secondlook.shared.layers import Key, LayeredCodec

log = logging.getLogger(__name__)

_TIMES_KEPT = 512


class FrameEncoder:
    """Encodes the frames of one boot in order; sequence numbers begin at 0."""

    def __init__(self, codec: LayeredCodec, config: CodecConfig, boot_id: str) -> None:
        self._codec = codec
        self._boot_id = boot_id
        self._config = config
        self._key: Key | None = None
        self._milliseconds: deque[float] = deque(maxlen=_TIMES_KEPT)
        self.next_seq = 0

    def encode(self, frame: Frame) -> SpooledFrame:
        """Both layers of a frame, under the next sequence number.

        It becomes a key if its turn has come, or if its size is another than the last key's.
        """
        seq = self.next_seq
        started = time.perf_counter()
        key_seq, layers = self._code(frame, seq)
        self._milliseconds.append((time.perf_counter() - started) * 1000.0)
        self.next_seq = seq + 1
        info = FrameInfo(
            boot_id=self._boot_id,
            seq=seq,
            captured_ns=frame.captured_ns,
            width=frame.image.shape[1],
            height=frame.image.shape[0],
            key_seq=key_seq,
            enhancement_bytes=len(layers.enhancement),
        )
        return SpooledFrame(info, layers.base, layers.enhancement)

    def end_group(self) -> None:
        """Frames were dropped: what comes must not depend on them. Deltas of the model depend on their key alone."""

    def _code(self, frame: Frame, seq: int) -> tuple[int | None, Layers]:
        """The key that the frame refers to, and its layers."""
        key = None if seq % self._config.key_interval == 0 else self._key
        encoded = self._codec.encode(
            frame.image,
            base_quality=self._config.base_quality,
            quality=self._config.quality,
            sequence=seq,
            key=key,
        )
        self._key = encoded.key
        is_key = encoded.key is None or encoded.key.sequence == seq
        return None if is_key or encoded.key is None else encoded.key.sequence, encoded.layers

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


class VideoFrameEncoder(FrameEncoder):
    """Base layers by a standard video encoder, in groups; the enhancement is the picture in both layers of the model.

    A frame larger than the video family takes is coded by the model alone.
    """

    def __init__(self, codec: LayeredCodec, config: CodecConfig, boot_id: str) -> None:
        super().__init__(codec, config, boot_id)
        self._video = VideoEncoder(VideoSettings(config.encoder, config.preset, config.group_frames))
        self._background = Background()
        self._first = 0  # sequence of the first frame of the group at hand

    def end_group(self) -> None:
        self._video.end_group()

    def _code(self, frame: Frame, seq: int) -> tuple[int | None, Layers]:
        if frame.image.shape[0] * frame.image.shape[1] > MAX_PIXELS:
            self.end_group()
            return super()._code(frame, seq)
        learned = self._background.learn(frame.image, frame.captured_ns / 1e9)
        if learned is not None:
            self._video.set_background(learned[0])
            log.info("a new background: %s", learned[1].value)
        coded = self._video.encode(frame.image, base_quality=self._config.base_quality)
        picture = self._codec.encode(
            frame.image, base_quality=self._config.base_quality, quality=self._config.quality, sequence=seq
        )
        enhancement = join_layers(picture.layers)
        if coded.frame.place > 1:
            return self._first, Layers(coded.frame.to_bytes(), enhancement)
        self._first = seq
        # Each group brings its background along, so that no frame depends on another group's.
        head = GroupHead(self._video.background, coded.frame)
        return None, Layers(head.to_bytes(), enhancement)


def choose_encoder(
    codec: LayeredCodec, config: CodecConfig, source: SourceConfig, boot_id: str
) -> FrameEncoder:
    """The encoder of the family that is set; for `auto`, of the one that suits the source, and a line says which."""
    if config.family == "video" or (config.family == "auto" and is_moving(source.address)):
        log.info("base layers are coded by %s, in groups of %d frames", config.encoder, config.group_frames)
        return VideoFrameEncoder(codec, config, boot_id)
    if config.family == "auto":
        log.info("base layers are coded by the model %s: the source holds images", codec.name)
    return FrameEncoder(codec, config, boot_id)

"""Frame → layers: numbers the frames of a boot, chooses keys and deltas, and times the codec."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from typing import TYPE_CHECKING, TypedDict

from secondlook.edge.coding import originals
from secondlook.edge.coding.background import Background, Renewed
from secondlook.edge.coding.noise import NoiseMeter
from secondlook.edge.coding.originals import EnhancementCoder
from secondlook.edge.coding.regions import Regions
from secondlook.edge.config import CodecConfig, RegionsConfig, SourceConfig
from secondlook.edge.source.sources import is_moving
from secondlook.edge.spooled import PassedOver, PassedReason, SpooledFrame
from secondlook.shared.layers import Layers
from secondlook.shared.packet import FrameInfo
from secondlook.shared.video import VideoEncoder, VideoSettings
from secondlook.shared.videobits import MAX_PIXELS, GroupHead

if TYPE_CHECKING:
    from secondlook.edge.source.camera import Frame
    from secondlook.shared.layers import Encoded, Key, LayeredCodec, U8Image

log = logging.getLogger(__name__)

_TIMES_KEPT = 512
# Times the noise's standard deviation: two frames differ by its root of 2, and places by a third from each other.
_NOISES = 2.1
_NEAR = 0.9  # of a key's bytes: a delta of more may be larger than another key would be

_TRY_AGAIN = 8  # frames after a key that was not smaller


class _More(TypedDict, total=False):
    """What a codec is told beside what all codecs know."""

    change_levels: float


class FrameEncoder:
    """Encodes the frames of one boot in order; sequence numbers begin at 0."""

    def __init__(
        self, codec: LayeredCodec, config: CodecConfig, boot_id: str, regions: Regions | None = None
    ) -> None:
        """`regions`: of frames whose privacy masks are filled already."""
        self._codec = codec
        self._boot_id = boot_id
        self._config = config
        self._regions = regions or Regions(RegionsConfig())
        self._background = Background()
        self._noise = NoiseMeter()
        self._try_key_at = 0  # sequence from which another key is tried where a delta is large
        self._key_bytes = 0  # of the base layer of the key at hand
        self._passed: list[PassedOver] = []  # not handed out yet
        self._still: U8Image | None = None  # the background as it was handed out last
        self._key: Key | None = None
        self._milliseconds: deque[float] = deque(maxlen=_TIMES_KEPT)
        # Of the frames to come. Another one costs a key, or a new group.
        self.base_quality = config.base_quality
        self.next_seq = 0

    @property
    def model(self) -> str:
        """What makes the base layers, for people."""
        return f"{self._codec.name} {self._codec.model_hash.hex()[:16]}"

    def encode(self, frame: Frame) -> SpooledFrame:
        """Both layers of a frame, under the next sequence number.

        It becomes a key if its turn has come, or if its size is another than the last key's.
        """
        self._before(frame)
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

    @property
    def has_deltas(self) -> bool:
        """Whether most frames build on others, so that one that does not is larger than usual."""
        return self._config.key_interval > 1

    def end_group(self) -> None:
        """Frames were dropped: what comes must not depend on them. Deltas of the model depend on their key alone."""

    def pass_over(self, frame: Frame, reason: PassedReason) -> None:
        """Give a captured frame its number, though it is not coded: `take_passed` hands it out."""
        if self._regions.need_background:
            self._learn(frame)
        self._number_passed(1, reason)

    def withhold(self) -> None:
        """Give a captured frame its number that cannot be masked: nothing here has seen it."""
        self._number_passed(1, "unmasked")

    def take_passed(self, *, all_of_them: bool = False) -> list[PassedOver]:
        """Frames that were passed over and have their numbers, each handed out once.

        With `all_of_them`, those too that wait for the end of their group; the next frame begins another one then.
        """
        taken, self._passed = self._passed, []
        return taken

    def _number_passed(self, count: int, reason: PassedReason) -> None:
        first, self.next_seq = self.next_seq, self.next_seq + count
        last = self._passed[-1] if self._passed else None
        if last is not None and last.reason == reason and last.last_seq == first - 1:
            self._passed[-1] = PassedOver(last.first_seq, self.next_seq - 1, reason)
        else:
            self._passed.append(PassedOver(first, self.next_seq - 1, reason))

    def _before(self, frame: Frame) -> None:
        """A frame is about to get its number."""

    def _code(self, frame: Frame, seq: int) -> tuple[int | None, Layers]:
        """The key that the frame refers to, and its layers."""
        if self._regions.need_background:
            self._learn(frame)
        shown = self._regions.for_machines(frame.image, self._still)
        more: _More = {}
        if self._config.change_levels is not None:
            more["change_levels"] = max(self._config.change_levels, _NOISES * self._noise.see(shown))
        encoded = self._encode(shown, seq, self._key if self._key_holds(seq) else None, more)
        is_delta = encoded.key is not None and encoded.key.sequence != seq
        if is_delta and seq >= self._try_key_at and len(encoded.layers.base) > _NEAR * self._key_bytes:
            # The smaller one wins, and a new key is nearer to what comes.
            as_key = self._encode(shown, seq, None, more)
            if len(as_key.layers.base) < len(encoded.layers.base):
                encoded = as_key
            else:
                self._try_key_at = seq + _TRY_AGAIN
        self._key = encoded.key
        is_key = encoded.key is None or encoded.key.sequence == seq
        if is_key:
            self._key_bytes = len(encoded.layers.base)
        return None if is_key or encoded.key is None else encoded.key.sequence, encoded.layers

    def _encode(self, shown: U8Image, seq: int, key: Key | None, more: _More) -> Encoded:
        return self._codec.encode(
            shown,
            base_quality=self.base_quality,
            quality=self._config.quality,
            sequence=seq,
            key=key,
            **more,
        )

    def _key_holds(self, seq: int) -> bool:
        """Whether the turn of another key has not come since the last one; frames may be passed over in between."""
        interval = self._config.key_interval
        return self._key is not None and seq // interval == self._key.sequence // interval

    def _learn(self, frame: Frame) -> tuple[U8Image, Renewed] | None:
        """Let the background see a frame; a new one, where there is one to hand out, and why."""
        learned = self._background.learn(frame.image, frame.captured_ns / 1e9)
        if learned is not None:
            self._still = learned[0]
        return learned

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
    """Base layers by a standard video encoder, in groups; the enhancement is the picture in both layers of the model,
    which codes it when that is asked for, or always.

    A frame larger than the video family takes is coded by the model alone.
    """

    def __init__(
        self, codec: LayeredCodec, config: CodecConfig, boot_id: str, regions: Regions | None = None
    ) -> None:
        super().__init__(codec, config, boot_id, regions)
        self._video = VideoEncoder(
            VideoSettings(config.encoder, config.preset, config.group_frames, config.background_quality)
        )
        self._coder = EnhancementCoder(codec, config.base_quality, config.quality)
        self._first = 0  # sequence of the first frame of the group at hand
        self._thinned = 0  # frames passed over that have no number yet: numbers of a group follow each other

    @property
    def has_deltas(self) -> bool:
        return self._config.group_frames > 1

    @property
    def model(self) -> str:
        return f"video by {self._config.encoder}"

    def end_group(self) -> None:
        self._video.end_group()

    def pass_over(self, frame: Frame, reason: PassedReason) -> None:
        """Frames that are thinned out get their numbers behind the group that goes on meanwhile; idle ones end it."""
        self._learn_for_groups(frame)
        if reason == "thinned":
            self._thinned += 1
            return
        self.end_group()
        self._number_thinned()
        self._number_passed(1, reason)

    def withhold(self) -> None:
        self.end_group()
        self._number_thinned()
        super().withhold()

    def take_passed(self, *, all_of_them: bool = False) -> list[PassedOver]:
        if all_of_them:
            self.end_group()
            self._number_thinned()
        return super().take_passed()

    def _before(self, frame: Frame) -> None:
        if self._thinned and self._video.begins_group(frame.image, self.base_quality):
            self._number_thinned()

    def _number_thinned(self) -> None:
        if self._thinned:
            self._number_passed(self._thinned, "thinned")
            self._thinned = 0

    def _learn_for_groups(self, frame: Frame) -> None:
        learned = self._learn(frame)
        if learned is not None:
            self._video.set_background(self._regions.for_machines(learned[0], None))
            log.info("a new background: %s", learned[1].value)

    def _code(self, frame: Frame, seq: int) -> tuple[int | None, Layers]:
        if frame.image.shape[0] * frame.image.shape[1] > MAX_PIXELS:
            self.end_group()
            return super()._code(frame, seq)
        self._learn_for_groups(frame)
        shown = self._regions.for_machines(frame.image, self._still)
        coded = self._video.encode(shown, base_quality=self.base_quality)
        enhancement = self._enhancement(frame)
        if coded.frame.place > 1:
            return self._first, Layers(coded.frame.to_bytes(), enhancement)
        self._first = seq
        # Each group brings its background along, so that no frame depends on another group's.
        head = GroupHead(self._video.background, coded.frame)
        return None, Layers(head.to_bytes(), enhancement)

    def _enhancement(self, frame: Frame) -> bytes:
        """What the spool keeps for people: the picture, to be coded when it is asked for, or its enhancement."""
        kept = None
        if self._config.enhancement == "on request":
            kept = originals.keep(frame.image, self._config.original_quality)
        return self._coder.code(frame.image) if kept is None else kept


def choose_encoder(
    codec: LayeredCodec,
    config: CodecConfig,
    source: SourceConfig,
    boot_id: str,
    regions: Regions | None = None,
) -> FrameEncoder:
    """The encoder of the family that is set; for `auto`, of the one that suits the source, and a line says which."""
    if config.family == "video" or (config.family == "auto" and is_moving(source)):
        log.info("base layers are coded by %s, in groups of %d frames", config.encoder, config.group_frames)
        return VideoFrameEncoder(codec, config, boot_id, regions)
    if config.family == "auto":
        log.info("base layers are coded by the model %s: the source holds images", codec.name)
    return FrameEncoder(codec, config, boot_id, regions)

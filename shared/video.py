"""The codec family `video`: standard encoders through PyAV, in groups that begin from a stored background picture.

A fresh encoder per group is fed the background G and then the group's frames. G's packet is the same in every group,
so it is sent once and left out afterwards; each frame's packet names G, its group and its place in it. A group decodes
on any machine from G's packet and the frames' packets in order, exactly: a CRC of the decoded planes proves it.

Encoders run on one thread, so that bits do not depend on cores, without what serves eyes alone (psycho-visual
optimisation, adaptive quantisation), without look-ahead and reordering, at a constant quantiser.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, cast

import av
import av.error
import numpy as np

from secondlook.shared.bitstream import MAX_QUALITY, check_frame
from secondlook.shared.errors import (
    BitstreamError,
    ConfigError,
    EncoderFailed,
    LayerMismatch,
    MalformedBitstream,
    ReferenceMissing,
    SymbolMismatch,
)
from secondlook.shared.layers import U8Image
from secondlook.shared.scheduling import kept_scheduling
from secondlook.shared.videobits import (
    MAX_PIXELS,
    MAX_PLACE,
    BackgroundPacket,
    Coding,
    GroupFrame,
    packed,
    unpacked,
)

log = logging.getLogger("secondlook.video")

EncoderName = Literal["x264", "x265", "svtav1", "hardware"]

# PyAV has no class for some of FFmpeg's codes, and raises OSError then.
AV_ERRORS = (av.error.FFmpegError, OSError)
_ENDLESS = 99_999  # frames between keys that an encoder sets by itself
_FRAMES_PER_SECOND = 5  # what encoders are told; at a constant quantiser it moves nothing
_DECODERS = {Coding.H264: "h264", Coding.H265: "hevc", Coding.AV1: "libdav1d"}
FINER_BACKGROUND = 12  # steps of quality by which a background is finer than frames, all of which build on it
_TRIAL_SIZE = (256, 256)  # of the frame that a hardware encoder has to code before it is trusted


def quantiser(coding: Coding, base_quality: int) -> int:
    """The quantiser of a quality 0..63: 51 - quality // 2 for H.264 and H.265, 63 - 2 * quality // 3 for AV1."""
    if not 0 <= base_quality <= MAX_QUALITY:
        raise ConfigError(f"base quality {base_quality} is not in 0..{MAX_QUALITY}")
    return 63 - 2 * base_quality // 3 if coding is Coding.AV1 else 51 - base_quality // 2


def finer_quality(base_quality: int) -> int:
    """The quality of a background where none is set."""
    return min(MAX_QUALITY, base_quality + FINER_BACKGROUND)


@dataclass(frozen=True)
class Maker:
    """An encoder as PyAV knows it. `options`: at quantiser `{qp}` and preset `{preset}`, keys as `{key}` says.

    `key`: what makes the bytes of a key depend on its own quantiser alone, by the `{ratio}` of the two step sizes.
    """

    name: str
    coding: Coding
    options: tuple[tuple[str, str], ...]
    pixels: str = "yuv420p"
    preset: str = ""  # where none is set
    key: str = ""

    def open(
        self, width: int, height: int, qp: int, preset: str, key_qp: int | None = None
    ) -> av.VideoCodecContext:
        """An encoder for frames of even sides. `key_qp`: of keys, where the encoder can tell the two apart.

        Raises EncoderFailed.
        """
        if self.name == "libsvtav1":
            os.environ.setdefault("SVT_LOG", "0")  # it writes to stderr past libav's logging
        preset = preset or self.preset
        # Six steps of the quantiser double the size of its step.
        key = "" if key_qp is None else self.key.format(ratio=f"{2 ** ((qp - key_qp) / 6):.6f}")
        try:
            encoder = cast(av.VideoCodecContext, av.CodecContext.create(self.name, "w"))
            encoder.width, encoder.height, encoder.pix_fmt = width, height, self.pixels
            encoder.framerate = Fraction(_FRAMES_PER_SECOND)
            encoder.time_base = Fraction(1, _FRAMES_PER_SECOND)
            encoder.thread_count = 1
            encoder.gop_size, encoder.max_b_frames = _ENDLESS, 0
            encoder.options = {
                name: value.format(qp=qp, preset=preset, key=key) for name, value in self.options
            }
            with kept_scheduling():
                encoder.open()
        except av.codec.codec.UnknownCodecError as error:
            raise EncoderFailed(
                f"this build of FFmpeg has no encoder {self.name}: set another one"
            ) from error
        except (*AV_ERRORS, ValueError) as error:
            told = f"preset {preset}, " if preset else ""
            raise EncoderFailed(
                f"encoder {self.name} cannot be opened for {told}{width}x{height}: {_cause(error)}"
            ) from error
        return encoder


_X264 = Maker(
    "libx264",
    Coding.H264,
    (
        ("preset", "{preset}"),
        ("tune", "zerolatency"),
        ("qp", "{qp}"),
        ("x264-params", "scenecut=0:threads=1:log-level=-1:aq-mode=0:psy=0{key}"),
    ),
    preset="medium",
    key=":ipratio={ratio}:stitchable=1",
)
# Without sample adaptive offset, which costs a third of the time and, on what stands still, more bits than it saves.
_X265_PLAIN = (
    "scenecut=0:pools=none:frame-threads=1:aq-mode=0:psy-rd=0:psy-rdoq=0:sao=0:info=0:log-level=none{key}"
)
_X265 = Maker(
    "libx265",
    Coding.H265,
    (("preset", "{preset}"), ("tune", "zerolatency"), ("x265-params", "qp={qp}:" + _X265_PLAIN)),
    preset="medium",
    key=":ipratio={ratio}",
)
_SVT = Maker(
    "libsvtav1",
    Coding.AV1,
    (
        ("preset", "{preset}"),
        ("svtav1-params", "pred-struct=1:rc=0:aq-mode=0:qp={qp}:lp=1:scd=0"),
    ),
    preset="8",
)
SOFTWARE = {"x264": _X264, "x265": _X265, "svtav1": _SVT}
HARDWARE = (
    Maker(
        "h264_nvenc",
        Coding.H264,
        (("rc", "constqp"), ("qp", "{qp}"), ("tune", "ull"), ("zerolatency", "1"), ("delay", "0")),
    ),
    Maker("h264_qsv", Coding.H264, (("global_quality", "{qp}"), ("async_depth", "1")), pixels="nv12"),
    Maker("h264_v4l2m2m", Coding.H264, (("qmin", "{qp}"), ("qmax", "{qp}"))),
)


def _cause(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).splitlines()[0]


def find_maker(encoder: EncoderName, candidates: Sequence[Maker] = HARDWARE) -> Maker:
    """The encoder of a setting. `hardware`: the first that codes a test frame here, or else x264 and a line of log."""
    if encoder != "hardware":
        return SOFTWARE[encoder]
    width, height = _TRIAL_SIZE
    grey = np.full((height, width, 3), 128, np.uint8)
    for maker in candidates:
        try:
            group = GroupEncoder(maker, grey, 0, base_quality=16)
            group.encode(grey)
        except EncoderFailed as error:
            log.debug("%s", error)
        else:
            log.info("hardware encoder: %s", maker.name)
            return maker
    log.warning("no hardware encoder works on this host; x264 encodes instead")
    return _X264


def _even(image: U8Image) -> U8Image:
    """With an odd last row or column repeated."""
    rows, columns = image.shape[0] % 2, image.shape[1] % 2
    if rows or columns:
        image = np.pad(image, ((0, rows), (0, columns), (0, 0)), mode="edge")
    return np.ascontiguousarray(image)


class GroupEncoder:
    """The encoder of one group: coded so far are the background and `place` frames.

    It decodes what it hands out, to know the CRC of the picture that a decoder will have.
    """

    def __init__(
        self,
        maker: Maker,
        background: U8Image,
        group: int,
        *,
        base_quality: int,
        preset: str = "",
        background_quality: int | None = None,
    ) -> None:
        """Code the background, uint8[H,W,3] RGB; with `background_quality` to the same bytes at every base quality,
        where the encoder can (x264, x265).

        Raises EncoderFailed, or ConfigError on arguments out of range.
        """
        check_frame(background, base_quality, base_quality)
        self._height, self._width = background.shape[:2]
        if self._width * self._height > MAX_PIXELS:
            raise ConfigError(f"a frame of {self._width}x{self._height} is over {MAX_PIXELS} pixels")
        self._maker, self._group = maker, group % (1 << 16)
        self.place = 0
        image = _even(background)
        qp = quantiser(maker.coding, base_quality)
        key_qp = None if background_quality is None else quantiser(maker.coding, background_quality)
        self._encoder = maker.open(image.shape[1], image.shape[0], qp, preset, key_qp)
        self._planes = _Planes(maker.coding, image.shape[1], image.shape[0])
        payload, crc = self._code(image, key=True)
        try:
            self.background = BackgroundPacket(maker.coding, self._width, self._height, crc, payload)
        except BitstreamError as error:
            raise EncoderFailed(f"encoder {maker.name}: {error}") from error
        self._background_id = self.background.id

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frames."""
        return self._width, self._height

    def encode(self, image: U8Image) -> GroupFrame:
        """The next frame of the group. Raises EncoderFailed; ConfigError for another size or one too many."""
        if image.shape != (self._height, self._width, 3) or image.dtype != np.uint8:
            raise ConfigError(
                f"a frame of this group is uint8[{self._height},{self._width},3], not {image.dtype}{list(image.shape)}"
            )
        if self.place == MAX_PLACE:
            raise ConfigError(f"a group has {MAX_PLACE} frames at most")
        self.place += 1
        payload, crc = self._code(_even(image), key=False)
        try:
            return GroupFrame(self._maker.coding, self._background_id, self._group, self.place, crc, payload)
        except BitstreamError as error:
            raise EncoderFailed(f"encoder {self._maker.name}: {error}") from error

    def close(self) -> None:
        """Let the encoder go. SVT-AV1 wants to be told that no frame follows."""
        try:
            self._encoder.encode(None)
        except AV_ERRORS as error:
            log.debug("encoder %s: %s", self._maker.name, _cause(error))

    def _code(self, image: U8Image, *, key: bool) -> tuple[bytes, int]:
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=self._maker.pixels)
        frame.pts, frame.time_base = self.place, self._encoder.time_base
        try:
            stream = b"".join(bytes(packet) for packet in self._encoder.encode(frame))
        except AV_ERRORS as error:
            raise EncoderFailed(f"encoder {self._maker.name}: {_cause(error)}") from error
        try:
            payload = packed(stream, self._maker.coding, key=key)
            picture = self._planes.decode(payload)
        except BitstreamError as error:
            told = "hands out no packet at once" if not stream else str(error)
            raise EncoderFailed(f"encoder {self._maker.name}: {told}") from error
        return payload, planes_crc(picture)


@dataclass(frozen=True)
class VideoSettings:
    """How a camera's frames become groups.

    `preset`: of the encoder, empty for its usual one; `group_frames`: frames of a group, 1 to MAX_PLACE;
    `background_quality`: see `GroupEncoder`; None: `finer_quality` of the frames'.
    """

    encoder: EncoderName = "x265"
    preset: str = ""
    group_frames: int = 250
    background_quality: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.group_frames <= MAX_PLACE:
            raise ConfigError(f"a group of {self.group_frames} frames is not in 1..{MAX_PLACE}")


@dataclass(frozen=True)
class CodedFrame:
    """One frame as it is sent. `background`: bytes that have to go ahead of it, None where they went before."""

    frame: GroupFrame
    background: BackgroundPacket | None

    @property
    def bytes(self) -> int:
        """What goes over the wire, headers included."""
        ahead = 0 if self.background is None else len(self.background.to_bytes())
        return ahead + len(self.frame.to_bytes())


class VideoEncoder:
    """Frames of one camera in, packets out: begins groups, and hands out each background's packet once."""

    def __init__(self, settings: VideoSettings, maker: Maker | None = None) -> None:
        """`maker`: the encoder to take instead of the one that the settings name."""
        self._settings = settings
        self._maker = maker or find_maker(settings.encoder)
        self._background: U8Image | None = None
        self._group: GroupEncoder | None = None
        self._quality = 0
        self._groups = 0
        self._sent: bytes | None = None  # id of the background that the other side has

    @property
    def coding(self) -> Coding:
        return self._maker.coding

    @property
    def background(self) -> BackgroundPacket:
        """Of the group at hand. Raises ConfigError before the first frame."""
        if self._group is None:
            raise ConfigError("there is no group yet")
        return self._group.background

    def set_background(self, image: U8Image) -> None:
        """The background of the next group, uint8[H,W,3] RGB; the group at hand goes on with its own."""
        self._background = image

    def end_group(self) -> None:
        """The next frame begins a new group: because a frame was lost behind this encoder, or somebody asks."""
        if self._group is not None:
            self._group.close()
            self._group = None

    def forget(self) -> None:
        """The other side may lack the background: it goes ahead of the next group once more."""
        self.end_group()
        self._sent = None

    def encode(self, image: U8Image, *, base_quality: int) -> CodedFrame:
        """The next frame, uint8[H,W,3] RGB. Without a background of its size the frame itself becomes one.

        Raises EncoderFailed, or ConfigError on arguments out of range; the next frame begins a new group then.
        """
        check_frame(image, base_quality, base_quality)
        background = None
        if self._group is not None and not self._goes_on(self._group, image, base_quality):
            self.end_group()
        try:
            if self._group is None:
                self._group = self._begin(image, base_quality)
                # Where an encoder is not deterministic the id is another one each time, and the packet is sent.
                if self._group.background.id != self._sent:
                    background = self._group.background
            frame = self._group.encode(image)
        except EncoderFailed:
            self._group = None
            raise
        self._sent = frame.background_id
        return CodedFrame(frame, background)

    def begins_group(self, image: U8Image, base_quality: int) -> bool:
        """Whether `encode` will begin a group with this frame."""
        return self._group is None or not self._goes_on(self._group, image, base_quality)

    def _goes_on(self, group: GroupEncoder, image: U8Image, base_quality: int) -> bool:
        same = group.size == (image.shape[1], image.shape[0]) and base_quality == self._quality
        return same and group.place < self._settings.group_frames

    def _begin(self, image: U8Image, base_quality: int) -> GroupEncoder:
        if self._background is None or self._background.shape != image.shape:
            self._background = image
        self._quality = base_quality
        self._groups += 1
        of_its_own = self._settings.background_quality
        return GroupEncoder(
            self._maker,
            self._background,
            self._groups - 1,
            base_quality=base_quality,
            preset=self._settings.preset,
            background_quality=finer_quality(base_quality) if of_its_own is None else of_its_own,
        )


class _Planes:
    """libavcodec, held to one picture of a known size and form for each payload."""

    def __init__(self, coding: Coding, width: int, height: int) -> None:
        self._coding, self._size = coding, (width, height)
        decoder = cast(av.VideoCodecContext, av.CodecContext.create(_DECODERS[coding], "r"))
        decoder.thread_count = 1
        # Refused by the decoder when parameter sets announce more, before it takes memory for a picture.
        pixels = -(-width // 64) * -(-height // 64) * 64 * 64
        decoder.options = {"max_pixels": str(pixels)}
        if coding is not Coding.AV1:
            decoder.options = {**decoder.options, "flags": "+low_delay", "err_detect": "explode"}
        self._decoder = decoder

    def decode(self, payload: bytes) -> av.VideoFrame:
        """The picture of a payload. Raises MalformedBitstream."""
        try:
            pictures = self._decoder.decode(av.Packet(unpacked(payload, self._coding)))
        except (*AV_ERRORS, ValueError, EOFError) as error:
            raise MalformedBitstream(f"payload cannot be decoded: {_cause(error)}") from error
        if len(pictures) != 1:
            raise MalformedBitstream(f"a payload is one picture, and {len(pictures)} came of it")
        picture = pictures[0]
        found = (picture.width, picture.height)
        if found != self._size or picture.format.name != "yuv420p":
            raise MalformedBitstream(
                f"a picture {picture.format.name} of {found[0]}x{found[1]} where yuv420p of "
                f"{self._size[0]}x{self._size[1]} was announced"
            )
        return picture


def planes_crc(picture: av.VideoFrame) -> int:
    """CRC-32 of the planes Y, U, V of a yuv420p picture, row by row."""
    return zlib.crc32(picture.to_ndarray().tobytes())


class GroupDecoder:
    """Decodes one group; place by place, from the background on. One object serves one thread at a time."""

    def __init__(self, background: bytes) -> None:
        """Decode a background packet. Raises a subclass of BitstreamError."""
        packet = BackgroundPacket.parse(background)
        self._packet, self._id = packet, packet.id
        self._planes = _Planes(packet.coding, *packet.coded_size)
        self._background = self._next(packet.payload, packet.picture_crc, "background")
        self.group: int | None = None  # that of the first frame
        self.place = 0  # of the frame decoded last
        self._broken: str | None = None

    @property
    def background(self) -> U8Image:
        """The decoded background, uint8[H,W,3]."""
        return self._background

    @property
    def pixels(self) -> int:
        """Of one picture."""
        return self._packet.width * self._packet.height

    def follows(self, frame: GroupFrame) -> bool:
        """Whether `frame` is the one that this decoder can decode next."""
        same = self.group in (None, frame.group) and frame.background_id == self._id
        return same and self._broken is None and frame.place == self.place + 1

    def decode(self, data: bytes) -> U8Image:
        """The next frame of the group, uint8[H,W,3] RGB.

        Raises ReferenceMissing, naming the place, where frames before it have not been decoded; LayerMismatch for a
        frame of another group or background; other subclasses of BitstreamError for a damaged one, behind which this
        group cannot go on. After an error the decoder still takes the right frame, unless the error was damage.
        """
        frame = GroupFrame.parse(data)
        if (frame.coding, frame.background_id) != (self._packet.coding, self._id):
            raise LayerMismatch(
                f"the frame refers to background {frame.background_id.hex()}, this one is {self._id.hex()}"
            )
        if self.group not in (None, frame.group):
            raise LayerMismatch(f"a frame of group {frame.group} among those of group {self.group}")
        if self._broken is not None:
            raise ReferenceMissing(f"{self._broken}: place {frame.place} cannot be decoded")
        if frame.place != self.place + 1:
            raise ReferenceMissing(
                f"place {self.place + 1} of group {frame.group} is missing: place {frame.place} cannot be decoded"
            )
        told = f"place {frame.place} of group {frame.group}"
        try:
            image = self._next(frame.payload, frame.picture_crc, told)
        except BitstreamError:
            self._broken = f"{told} is damaged"
            raise
        self.group, self.place = frame.group, frame.place
        return image

    def _next(self, payload: bytes, crc: int, told: str) -> U8Image:
        picture = self._planes.decode(payload)
        if planes_crc(picture) != crc:
            raise SymbolMismatch(f"{told}: the decoded picture fails its checksum")
        try:
            shown = np.asarray(picture.to_ndarray(format="rgb24"), np.uint8)
        except AV_ERRORS as error:  # parameters may name colours that swscale does not know
            raise MalformedBitstream(f"{told}: the picture cannot be shown: {_cause(error)}") from error
        return np.ascontiguousarray(shown[: self._packet.height, : self._packet.width])


def rebuild(background: bytes, frames: Iterable[bytes]) -> GroupDecoder:
    """A decoder that has decoded `frames`, the first of a group, and goes on behind them.

    Raises a subclass of BitstreamError; ReferenceMissing where a place is missing among them.
    """
    decoder = GroupDecoder(background)
    for data in frames:
        decoder.decode(data)
    return decoder


def decode_group(background: bytes, frames: Iterable[bytes | None]) -> Iterator[U8Image]:
    """The pictures of a group in order; None stands for a lost frame.

    What comes before a hole is decoded; then ReferenceMissing names the place that is missing.
    """
    decoder = GroupDecoder(background)
    for place, data in enumerate(frames, 1):
        if data is None:
            raise ReferenceMissing(f"place {place} of the group is missing: nothing behind it can be decoded")
        yield decoder.decode(data)

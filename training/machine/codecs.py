"""The codecs of `bench machine`: frames of one clip in, real bytes and decoded frames out.

Every codec takes the frames of a clip in order, one at a time, as a camera delivers them, and hands out each frame's
bytes before it sees the next (no look-ahead, no reordering). Encoders run on one thread. CPU time is that of this
process while it encodes; decoding is not counted.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from secondlook.cloud.workers.machinefilter import load_machine_filter
from secondlook.edge.coding.background import Background
from secondlook.shared.codec import load_codec
from secondlook.shared.errors import ConfigError
from secondlook.shared.layers import Key
from secondlook.shared.peers import Peer, find_peer
from secondlook.shared.plugins import PEERS, plugin_names
from secondlook.shared.scheduling import kept_scheduling
from secondlook.shared.video import CodedFrame, EncoderName, GroupDecoder, VideoEncoder, VideoSettings

U8 = npt.NDArray[np.uint8]

_ENDLESS = 99_999  # frames between keys: one key, then predicted frames only
_FRAMES_PER_SECOND = 5  # what encoders are told: x264 spends by how long a frame is seen


@dataclass(frozen=True)
class CodedClip:
    """What became of the frames of a clip.

    `sizes`: bytes of each frame; `decoded`: uint8[H,W,3] RGB of each; `cpu_seconds`: of encoding all of them.
    """

    sizes: tuple[int, ...]
    decoded: tuple[U8, ...]
    cpu_seconds: float


@dataclass(frozen=True)
class ClipCodec:
    """A codec at some settings; `qualities` span its curve, in its own unit, from few bits to many."""

    name: str
    encode: Callable[[Sequence[U8], int], CodedClip]
    qualities: tuple[int, ...]
    stills: bool = False  # codes each frame by itself
    second_look: bool = False  # where the judge doubts, crops are fetched, and count


class _Stopwatch:
    """CPU seconds of this process, all its threads, within `with` blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._started = time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.process_time() - self._started


@dataclass(frozen=True)
class _Standard:
    """A standard encoder by PyAV's name, with options; `quality_option` is what the curve is drawn over."""

    encoder: str
    decoder: str
    options: tuple[tuple[str, str], ...]
    quality_option: str = "crf"

    def __call__(self, frames: Sequence[U8], quality: int) -> CodedClip:
        height, width = (side - side % 2 for side in frames[0].shape[:2])
        encoder = av.CodecContext.create(self.encoder, "w")
        decoder = av.CodecContext.create(self.decoder, "r")
        assert isinstance(encoder, av.VideoCodecContext) and isinstance(decoder, av.VideoCodecContext)
        encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
        encoder.framerate = Fraction(_FRAMES_PER_SECOND)
        encoder.time_base = Fraction(1, _FRAMES_PER_SECOND)
        encoder.thread_count = 1
        encoder.gop_size = _ENDLESS
        encoder.max_b_frames = 0
        encoder.options = {**dict(self.options), self.quality_option: str(quality)}
        decoder.thread_count = 1
        watch, sizes, decoded = _Stopwatch(), [], []
        with watch, kept_scheduling():
            encoder.open()
        for number, image in enumerate(frames):
            with watch:
                frame = av.VideoFrame.from_ndarray(
                    np.ascontiguousarray(image[:height, :width]), format="rgb24"
                )
                frame.pts, frame.time_base = number, encoder.time_base
                packets = encoder.encode(frame.reformat(format="yuv420p"))
            sizes.append(sum(packet.size for packet in packets))
            for packet in packets:
                decoded += decoder.decode(packet)
        with watch:
            rest = encoder.encode(None)
        # An encoder that keeps frames back hands them out now: they count for the frames that they hold.
        sizes[-1] += sum(packet.size for packet in rest)
        for packet in rest:
            decoded += decoder.decode(packet)
        decoded += decoder.decode(None)
        pictures = tuple(
            _uncropped(np.asarray(one.to_ndarray(format="rgb24"), np.uint8), image)
            for one, image in zip(decoded, frames, strict=True)
        )
        return CodedClip(tuple(sizes), pictures, watch.seconds)


def _uncropped(decoded: U8, image: U8) -> U8:
    """The decoded frame in the size of the original: 4:2:0 wants even sides, and an odd last line is repeated."""
    missing = [(0, image.shape[side] - decoded.shape[side]) for side in (0, 1)]
    return np.pad(decoded, [*missing, (0, 0)], mode="edge")


def _pillow(form: str, **settings: object) -> Callable[[Sequence[U8], int], CodedClip]:
    def encode(frames: Sequence[U8], quality: int) -> CodedClip:
        watch, files = _Stopwatch(), []
        for image in frames:
            out = io.BytesIO()
            with watch:
                Image.fromarray(image).save(out, form, quality=quality, **settings)
            files.append(out.getvalue())
        pictures = tuple(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in files)
        return CodedClip(tuple(map(len, files)), pictures, watch.seconds)

    return encode


def lite(*, key_interval: int, model: str = "lite") -> Callable[[Sequence[U8], int], CodedClip]:
    """The base layers of the `lite` family; deltas between keys where `key_interval` is above 1."""

    def encode(frames: Sequence[U8], quality: int) -> CodedClip:
        codec = load_codec(model, threads=1)
        watch, layers = _Stopwatch(), []
        key: Key | None = None
        keys: list[bytes] = []  # the base layer that each frame refers to
        for number, image in enumerate(frames):
            fresh = number % key_interval == 0
            with watch:
                encoded = codec.encode(
                    image,
                    base_quality=quality,
                    quality=max(quality, 40),
                    sequence=number,
                    key=None if fresh else key,
                )
            key = encoded.key
            layers.append(encoded.layers.base)
            keys.append(layers[-1] if fresh or not keys else keys[-1])
        pictures = tuple(
            codec.decode_base(base, key=None if base is of else of)
            for base, of in zip(layers, keys, strict=True)
        )
        return CodedClip(tuple(map(len, layers)), pictures, watch.seconds)

    return encode


def video(
    encoder: EncoderName, *, group_frames: int, machine_filter: str | None = None
) -> Callable[[Sequence[U8], int], CodedClip]:
    """The `video` family as a camera host runs it: a learned background, groups, bytes with all headers.

    `machine_filter`: what a worker puts behind its decoder, by name or folder.
    """

    def encode(frames: Sequence[U8], quality: int) -> CodedClip:
        watch = _Stopwatch()
        coded = code_frames(frames, VideoSettings(encoder, group_frames=group_frames), quality, watch=watch)
        seen = as_decoded(coded)
        if machine_filter is None:
            pictures = tuple(picture for picture, _ in seen)
        else:
            opened = load_machine_filter(machine_filter, threads=1)
            pictures = tuple(opened.apply(*both) for both in seen)
        return CodedClip(tuple(one.bytes for one in coded), pictures, watch.seconds)

    return encode


def code_frames(
    frames: Sequence[U8],
    settings: VideoSettings,
    quality: int,
    *,
    background: U8 | None = None,
    watch: contextlib.AbstractContextManager[object] | None = None,
) -> list[CodedFrame]:
    """A clip as a camera host codes it. `background`: a picture to begin from; without it one is learned on the way.

    `watch` is entered for each frame.
    """
    coder, learner, coded = VideoEncoder(settings), Background(), []
    if background is not None:
        coder.set_background(background)
    for number, image in enumerate(frames):
        with watch or contextlib.nullcontext():
            if background is None:
                learned = learner.learn(image, number / _FRAMES_PER_SECOND)
                if learned is not None:
                    coder.set_background(learned[0])
            coded.append(coder.encode(image, base_quality=quality))
    return coded


def as_decoded(coded: Iterable[CodedFrame]) -> Iterator[tuple[U8, U8]]:
    """Each frame as a worker has it, uint8[H,W,3] RGB, and the background of its group."""
    packet, decoder = b"", None
    for one in coded:
        packet = one.background.to_bytes() if one.background is not None else packet
        if decoder is None or one.frame.place == 1:
            decoder = GroupDecoder(packet)
        yield decoder.decode(one.frame.to_bytes()), decoder.background


def _x264(preset: str, *, plain: bool) -> _Standard:
    """zerolatency; `plain` without psycho-visual optimisation and adaptive quantisation, which serve eyes."""
    extra = ":aq-mode=0:psy=0" if plain else ""
    return _Standard(
        "libx264",
        "h264",
        (
            ("preset", preset),
            ("tune", "zerolatency"),
            ("x264-params", f"scenecut=0:threads=1:log-level=0{extra}"),
        ),
    )


def _x265(preset: str, *, plain: bool) -> _Standard:
    extra = ":aq-mode=0:psy-rd=0:psy-rdoq=0" if plain else ""
    params = f"log-level=none:scenecut=0:pools=none:frame-threads=1{extra}"
    options = (("preset", preset), ("tune", "zerolatency"), ("x265-params", params))
    return _Standard("libx265", "hevc", options)


_SVT = _Standard(
    "libsvtav1",
    "libdav1d",
    (("preset", "8"), ("svtav1-params", "pred-struct=1:rc=0:lp=1:scd=0")),
)
_BASE_QUALITIES = (0, 6, 12, 18, 24, 30, 38, 46, 54)
_AVC_QUALITIES = (51, 48, 45, 42, 39, 36, 32, 28, 24)

CODECS: dict[str, ClipCodec] = {
    codec.name: codec
    for codec in (
        ClipCodec("x264 medium", _x264("medium", plain=False), _AVC_QUALITIES),
        ClipCodec("x264 veryfast", _x264("veryfast", plain=False), _AVC_QUALITIES),
        ClipCodec("x264 medium, plain", _x264("medium", plain=True), _AVC_QUALITIES),
        ClipCodec("x264 veryfast, plain", _x264("veryfast", plain=True), _AVC_QUALITIES),
        ClipCodec("x264 slower, plain", _x264("slower", plain=True), _AVC_QUALITIES),
        ClipCodec("x265 medium", _x265("medium", plain=False), _AVC_QUALITIES),
        ClipCodec("x265 veryfast", _x265("veryfast", plain=False), _AVC_QUALITIES),
        ClipCodec("x265 slow, plain", _x265("slow", plain=True), _AVC_QUALITIES),
        ClipCodec("SVT-AV1 8", _SVT, (63, 60, 56, 52, 47, 42, 36, 30)),
        ClipCodec(
            "AVIF", _pillow("AVIF", speed=6, max_threads=1), (1, 6, 12, 20, 30, 40, 52, 65), stills=True
        ),
        ClipCodec(
            "JPEG",
            _pillow("JPEG", optimize=True, subsampling="4:2:0"),
            (3, 6, 10, 15, 22, 32, 45, 62),
            stills=True,
        ),
        ClipCodec("lite", lite(key_interval=1), (0, 6, 12, 18, 25, 32, 40), stills=True),
        ClipCodec("lite, deltas", lite(key_interval=25), (0, 6, 12, 18, 25, 32, 40)),
        ClipCodec("video x264", video("x264", group_frames=250), _BASE_QUALITIES),
        ClipCodec("video x265, groups of 25", video("x265", group_frames=25), _BASE_QUALITIES),
        ClipCodec(
            "video x265, second look",
            video("x265", group_frames=250),
            _BASE_QUALITIES,
            second_look=True,
        ),
        ClipCodec("video x265", video("x265", group_frames=250), _BASE_QUALITIES),
        ClipCodec("video svtav1", video("svtav1", group_frames=250), _BASE_QUALITIES),
    )
}

_PEER = "peer "  # what begins the name of a still codec that a package brings
_FILTERED = "filtered "  # and that of a filter for machines behind the decoder


def find_codec(name: str) -> ClipCodec:
    """A codec of ours, `filtered MODEL` for `video x265` behind a filter for machines, or `peer NAME` for a still codec
    of another package. Raises ConfigError for none of these."""
    if name in CODECS:
        return CODECS[name]
    if name.startswith(_FILTERED):
        behind = video("x265", group_frames=250, machine_filter=name.removeprefix(_FILTERED))
        return ClipCodec(name, behind, _BASE_QUALITIES)
    if not name.startswith(_PEER):
        brought = [f"{_PEER}{one}" for one in plugin_names(PEERS)]
        raise ConfigError(f"codec {name!r} is not known; there are: {', '.join([*CODECS, *brought])}")
    peer = find_peer(name.removeprefix(_PEER), {}).peer
    return ClipCodec(name, partial(_still, peer), tuple(peer.qualities), stills=True)


def _still(peer: Peer, frames: Sequence[U8], quality: int) -> CodedClip:
    watch, coded = _Stopwatch(), []
    for image in frames:
        with watch:
            coded.append(peer.encode(image, quality))
    return CodedClip(tuple(map(len, coded)), tuple(peer.decode(data) for data in coded), watch.seconds)


OURS = "video x265"  # what the ratios of `--json` are of: what an agent uses where nothing is set
REFERENCES = ("x264 medium", "x265 medium")  # what the tables compare with
PEER_KEYS = {
    "x264": "x264 medium",
    "x265": "x265 medium",
    "avif": "AVIF",
    "svtav1": "SVT-AV1 8",
    "jpeg": "JPEG",
}

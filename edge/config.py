"""Settings of a camera host: one frozen dataclass a section, checked when constructed.

`main.py` fills them from a TOML file and flags. The comment behind a field is its documentation.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import tzinfo
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from secondlook.edge.hours import Hours
from secondlook.edge.polygons import Polygon
from secondlook.shared.address import is_loopback
from secondlook.shared.bitstream import MAX_PIXELS, MAX_SIDE
from secondlook.shared.conditions import WatchConfig
from secondlook.shared.device import check_device
from secondlook.shared.errors import ConfigError
from secondlook.shared.health import HealthConfig, MetricsConfig
from secondlook.shared.link import LinkTimes
from secondlook.shared.logs import LogConfig
from secondlook.shared.mail import SmtpConfig
from secondlook.shared.packet import is_edge_id
from secondlook.shared.settings import (
    DAY_SECONDS,
    MAX_BYTES,
    MAX_KEPT_SECONDS,
    Bytes,
    Endpoint,
    Kept,
    NameOrPath,
    Seconds,
    Settings,
    SourceAddress,
    Threads,
    within,
)
from secondlook.shared.tracing import TracingConfig

_SIZE = re.compile(r"(\d{1,5})(?:x(\d{1,5}))?")
_MIN_SIDE = 16
MAX_POLYGONS = 64  # of each kind

Quality = Annotated[int, within(0, 63, "")]
Hwaccel = Literal["none", "auto", "cuda", "vaapi", "videotoolbox", "rkmpp", "v4l2m2m", "qsv"]


@dataclass(frozen=True)
class SourceConfig(Settings):
    """Where frames come from, and which of them are taken."""

    # video file, image or folder of images, USB index, rtsp:// or http:// address, or demo:
    address: SourceAddress
    # frames taken a second of the source's own time; all without it
    fps: Annotated[float, within(0.00001, 1000, "frames per second")] | None = None
    frames: Annotated[int, within(1, 1 << 40, "frames")] | None = None  # stop capturing after this many
    realtime: bool = False  # play files and demo: at the speed of a clock, dropping what comes too fast
    resize: str | None = None  # longest side in pixels (never enlarges), or WIDTHxHEIGHT
    open_seconds: Seconds = 20.0  # time allowed to the first frame
    stall_seconds: Seconds = 15.0  # time allowed between frames before the capture is killed
    retry_min_seconds: Seconds = 1.0  # first pause before a live source is opened again
    retry_max_seconds: Seconds = 60.0  # longest such pause
    transport: Literal["auto", "tcp", "udp"] = "auto"  # of RTSP; auto tries TCP, then UDP
    # decoding of streams and videos in hardware: auto takes what opens here, else software; what is named must open
    hwaccel: Hwaccel = "none"
    # options of FFmpeg for streams, such as "timeout=5000000"; they win over ours
    ffmpeg_options: tuple[str, ...] = ()
    # degrees by which pictures are turned to the right, beside what their file says itself
    rotate: Literal[0, 90, 180, 270] = 0
    watch: bool = (
        False  # a folder is watched: pictures that come into it are taken, each once, without an end
    )
    # a file of a watched folder is whole once it has not changed for this long
    settle_seconds: Annotated[float, within(0, DAY_SECONDS, "seconds")] = 3.0
    credentials_file: Path | None = None  # holds USER:PASSWORD of the source; for its owner's eyes only
    from_start: bool = False  # read a file or folder from its start, also after an interrupted run
    record_dir: Path | None = None  # folder that gets every captured frame as PNG, and their times

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.address:
            raise ConfigError("address is empty")
        if self.resize is not None:
            width, height = parse_size(self.resize)
            if max(width, height or 0) > MAX_SIDE or width * (height or 1) > MAX_PIXELS:
                raise ConfigError(
                    f"resize {self.resize!r} is above {MAX_PIXELS} pixels, or {MAX_SIDE} a side"
                )
        if self.retry_max_seconds < self.retry_min_seconds:
            raise ConfigError("retry_max_seconds is below retry_min_seconds")
        for option in self.ffmpeg_options:
            if not re.fullmatch(r"\w+=.*", option, re.ASCII):
                raise ConfigError(f"ffmpeg_options holds {option!r}, which is not NAME=VALUE")


@dataclass(frozen=True)
class RegionsConfig(Settings):
    """Polygons in the picture: texts of corners `x,y x,y x,y`, in percent (`10%,25%`) or in pixels of `picture`."""

    # WIDTHxHEIGHT of the picture that pixels are of; polygons keep their place when frames have another size
    picture: str | None = None
    # privacy masks: what is inside is filled black before anything is coded, and leaves this host in no layer
    privacy: tuple[str, ...] = ()
    # where machines do not look: grey in what is coded for them; people see it only where the family is video
    ignored: tuple[str, ...] = ()
    # where machines look: outside, what is coded for them is the background that was learned, in which nothing moves
    interest: tuple[str, ...] = ()
    # whether privacy masks are filled in pictures that are kept on this host, too (source.record_dir)
    mask_local: bool = True
    # classes of objects that are masked as privacy is, where a detector on this host finds them: a box each
    mask_classes: tuple[str, ...] = ()
    # the detector: builtin, auto, a model by name, or the path of its folder or .onnx export
    mask_model: NameOrPath = NameOrPath("builtin")
    # by which boxes are larger than what was found, of their own width and height, on each side
    mask_margin: Annotated[float, within(0, 2, "")] = 0.15
    # for which a box stays where the detector has found it, also when it finds it no more
    mask_frames: Annotated[int, within(0, 1000, "frames")] = 5
    # what the detector is less sure of is not masked; without it, the least that its folder says
    mask_min_score: Annotated[float, within(0.01, 1, "")] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.polygons()
        if len(set(self.mask_classes)) < len(self.mask_classes) or "" in self.mask_classes:
            raise ConfigError("mask_classes holds a class twice, or one without a name")

    def polygons(self) -> dict[str, tuple[Polygon, ...]]:
        """The polygons of each kind. Raises ConfigError."""
        size = None if self.picture is None else parse_picture(self.picture)
        kinds = {"privacy": self.privacy, "ignored": self.ignored, "interest": self.interest}
        for kind, texts in kinds.items():
            if len(texts) > MAX_POLYGONS:
                raise ConfigError(f"{kind} has {len(texts)} polygons, it may have {MAX_POLYGONS}")
        return {
            kind: tuple(_polygon(f"{kind}[{index}]", text, size) for index, text in enumerate(texts))
            for kind, texts in kinds.items()
        }


def _polygon(name: str, text: str, picture: tuple[int, int] | None) -> Polygon:
    try:
        return Polygon.parse(text, picture)
    except ConfigError as error:
        raise ConfigError(f"{name} {error}") from error


@dataclass(frozen=True)
class IdleConfig(Settings):
    """Frames in which nothing moved since the last one that was sent: they cost nothing, and are known to be such."""

    # while nothing moves, one frame in so many seconds is sent; 0 sends all frames
    heartbeat_seconds: Annotated[float, within(0, DAY_SECONDS, "seconds")] = 0.0
    after_seconds: Annotated[float, within(0, DAY_SECONDS, "seconds")] = (
        5.0  # of stillness, before frames are passed over
    )
    # by which the mean of 8x8 pixels must differ for a movement; more where the picture is noisy
    difference: Annotated[float, within(1, 255, "levels")] = 4.0


@dataclass(frozen=True)
class RateConfig(Settings):
    """Keeps to the rate of a thin uplink, and to what it carries when that is less."""

    # kilobits a second that may be sent, headers included; without it nothing is held back, and nothing thinned out
    uplink_kbps: Annotated[float, within(1, 10_000_000, "kbit/s")] | None = None
    # base quality below which frames are thinned out first; base_quality is where it begins
    min_quality: Quality = 8
    max_quality: Quality = 40  # base quality above which a link is left empty
    # frames a second that are coded at least; below, quality goes under min_quality
    min_fps: Annotated[float, within(0.01, 1000, "frames per second")] = 0.5
    # What happens when more waits than behind_seconds of the link: the newest frames come through and the oldest are
    # given up, under tombstones; or all are sent, however late, and new ones are coded smaller meanwhile.
    when_behind: Literal["newest", "all"] = "newest"
    # how much may wait, in seconds of the link, before when_behind applies
    behind_seconds: Annotated[float, within(5, MAX_KEPT_SECONDS, "seconds")] = 60.0
    # Small frames wait so long for others, and share their headers; 0: each goes at once. Where nothing bounds the
    # link (uplink_kbps, or an [uplink]), each goes at once in any case.
    gather_seconds: Annotated[float, within(0, 4, "seconds")] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_quality < self.min_quality:
            raise ConfigError("max_quality is below min_quality")

    @property
    def uplink_bytes(self) -> float:
        """Bytes a second that may be sent; infinite where nothing is set."""
        return math.inf if self.uplink_kbps is None else self.uplink_kbps * 1000 / 8


@dataclass(frozen=True)
class UplinkConfig(Settings):
    """The link of the whole host, which its cameras share by their weights; and what a metered one may cost."""

    # kilobits a second of all cameras together, headers included; without it, only rate.uplink_kbps bounds each
    kbps: Annotated[float, within(1, 10_000_000, "kbit/s")] | None = None
    # bytes that may be sent from midnight to midnight, UTC; near it less is sent, beyond it frames wait in the spool
    bytes_per_day: Annotated[int, within(1 << 16, MAX_BYTES, "bytes")] | None = None
    bytes_per_month: Annotated[int, within(1 << 20, MAX_BYTES, "bytes")] | None = (
        None  # the same, for a month
    )
    month_begins: Annotated[int, within(1, 28, "")] = 1  # day of the month on which that begins

    @property
    def is_bounded(self) -> bool:
        return (self.kbps, self.bytes_per_day, self.bytes_per_month) != (None, None, None)


@dataclass(frozen=True)
class ScheduleConfig(Settings):
    """Hours in which the camera runs; always where none are named. Frames that wait are delivered at all hours."""

    hours: tuple[str, ...] = ()  # such as "mon-fri 06:00-22:00" or "22:00-04:00"
    time_zone: str = ""  # of these hours, such as "Europe/Vienna"; this host's own where empty

    def __post_init__(self) -> None:
        super().__post_init__()
        for text in self.hours:
            try:
                Hours.parse(text)
            except ConfigError as error:
                raise ConfigError(f"hours {error}") from error
        self.zone()

    def zone(self) -> tzinfo | None:
        """The time zone; None for this host's own. Raises ConfigError."""
        if not self.time_zone:
            return None
        try:
            return ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ConfigError(f"time_zone {self.time_zone!r} is not known on this host") from error


@dataclass(frozen=True)
class DutyConfig(Settings):
    """A duty cycle for hosts with little power: wake, capture, deliver, sleep with source and link closed."""

    every_seconds: Annotated[float, within(0, DAY_SECONDS, "seconds")] = (
        0.0  # from waking to waking; 0: always awake
    )
    capture_seconds: Seconds = 10.0  # in which frames are taken, from the first one of a cycle on
    deliver_seconds: Seconds = 60.0  # behind these in which, at most, what waits is delivered

    def __post_init__(self) -> None:
        super().__post_init__()
        if 0 < self.every_seconds <= self.capture_seconds:
            raise ConfigError("every_seconds is not above capture_seconds")


@dataclass(frozen=True)
class CodecConfig(Settings):
    """How frames are encoded."""

    model: NameOrPath = NameOrPath("lite")  # name of a model in exported_models, or a model folder
    base_quality: Quality = 16  # quality of the base layer
    quality: Quality = 40  # quality of both layers; 25, 35, 46 and 52 are λ = 0.005, 0.010, 0.020, 0.030
    # of frames that refer to a key: what differs from it less than grey noise of so many levels (root mean square) is
    # not coded, and never less than the camera's own noise; without it, 23 levels at quality 0 and 5.7 at 40. Of lite.
    change_levels: Annotated[float, within(0.1, 255, "levels")] | None = None
    # one key frame in this many; the others refer to it
    key_interval: Annotated[int, within(1, 1_000_000, "frames")] = 1
    # What base layers are coded by: the model, or (video) a standard video encoder in groups of frames, for cameras;
    # auto takes video for cameras and video files, the model for images and folders of images.
    family: Literal["auto", "lite", "video"] = "auto"
    encoder: Literal["x264", "x265", "svtav1", "hardware"] = "x265"  # of family video; x264 takes less time
    preset: str = ""  # of the encoder, medium (8 of svtav1) where empty
    # quality of the backgrounds of groups, with x265 and x264: the same bytes at every base quality; without it, 12
    # above that of the frames, or, where a rate control changes that, above base_quality
    background_quality: Quality | None = None
    # frames of a group at most: a lost frame costs the rest of its group
    group_frames: Annotated[int, within(1, 255, "frames")] = 250
    # Of family video, when the model codes the enhancement of a frame: on request, from a picture that the spool keeps,
    # or always.
    enhancement: Literal["on request", "always"] = "on request"
    original_quality: Annotated[int, within(1, 100, "")] = 90  # of pictures kept for that, as JPEG counts it
    threads: Threads = 0  # threads of encoding, 0 = one per core
    device: str = "auto"  # auto, cpu, cuda or cuda:N: where networks run; auto takes the first GPU there is

    def __post_init__(self) -> None:
        super().__post_init__()
        check_device(self.device)
        if not re.fullmatch(r"[a-z0-9]{0,16}", self.preset):
            raise ConfigError(f"preset {self.preset!r} is no preset of an encoder")


@dataclass(frozen=True)
class SpoolConfig(Settings):
    """What is kept on the camera host's disk, and what goes when there is no room."""

    max_bytes: Bytes = 8 << 30  # layers kept at most, in bytes
    # below this much free disk the spool stops growing
    min_free_bytes: Annotated[int, within(0, MAX_BYTES, "bytes")] = 512 << 20
    retention_seconds: Kept = 86_400.0  # delivered frames stay this long, for enhancement requests
    max_age_seconds: Kept = 7 * 86_400.0  # undelivered frames are given up after this
    # Which undelivered frames go when the spool is full: the oldest, the arriving ones, or (keep-keys) the oldest
    # deltas, and keys only when no delta is left.
    drop: Literal["oldest", "newest", "keep-keys"] = "oldest"
    # frames kept at most because their enhancement is asked for
    max_pinned: Annotated[int, within(0, 1_000_000, "frames")] = 256
    # frames encoded within this time share one write to disk
    commit_seconds: Annotated[float, within(0, 60, "seconds")] = 0.1


@dataclass(frozen=True)
class LinkConfig(Settings):
    """The way to the gateway."""

    gateway: Endpoint = Endpoint("tcp://127.0.0.1:7601")  # address of the gateway
    server_public_key_file: Path | None = None  # the gateway's public key; encrypts the link (CURVE)
    secret_key_file: Path | None = None  # this host's own key pair, registered at the gateway
    resend_seconds: Seconds = 20.0  # an unacknowledged frame is sent again after this
    hello_seconds: Seconds = 5.0  # an unanswered hello is said again after this
    # silence of the gateway before a ping, while frames are on their way
    ping_seconds: Seconds = 5.0
    idle_ping_seconds: Seconds = 30.0  # the same, while nothing is
    silence_seconds: Seconds = 20.0  # without an answer before the link counts as down
    retry_min_seconds: Seconds = 0.5  # first pause before connecting again
    retry_max_seconds: Seconds = 30.0  # longest such pause
    # enhancement requests waiting at most; the gateway hears "busy" beyond
    max_requests: Annotated[int, within(1, 65_536, "requests")] = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.gateway.startswith("tcp://"):
            raise ConfigError(f"gateway {self.gateway!r} does not begin with tcp://")
        if (self.server_public_key_file is None) != (self.secret_key_file is None):
            raise ConfigError("server_public_key_file and secret_key_file belong together")
        if not Endpoint.port(self.gateway):
            raise ConfigError(f"gateway {self.gateway!r} names no port to connect to")
        if self.ping_seconds >= self.silence_seconds:
            raise ConfigError("ping_seconds must be below silence_seconds")
        if self.retry_max_seconds < self.retry_min_seconds:
            raise ConfigError("retry_max_seconds is below retry_min_seconds")
        if self.secret_key_file is None and not is_loopback(self.gateway):
            raise ConfigError(f"gateway {self.gateway} is not this machine: set the key files")

    @property
    def times(self) -> LinkTimes:
        return LinkTimes(self.resend_seconds, self.hello_seconds)


@dataclass(frozen=True)
class EdgeConfig(Settings):
    """The agent on a camera host: one camera, one spool, one gateway."""

    edge_id: str  # names this host for ever: 1 to 64 of a-z, 0-9 and hyphen
    source: SourceConfig
    camera: str = "camera"  # name of the camera, for people
    # share of uplink.kbps, beside those of the other cameras of this host
    weight: Annotated[float, within(0.01, 1000, "")] = 1.0
    data_dir: Path = Path("edge-data")  # spool and status.json are kept here
    exit_when_acknowledged: bool = False  # end once the source ended and all its frames are safe
    # with exit_when_acknowledged: keep answering enhancement requests for this long before the end
    linger_seconds: Annotated[float, within(0, MAX_KEPT_SECONDS, "seconds")] = 0.0
    codec: CodecConfig = field(default_factory=CodecConfig)
    regions: RegionsConfig = field(default_factory=RegionsConfig)
    idle: IdleConfig = field(default_factory=IdleConfig)
    rate: RateConfig = field(default_factory=RateConfig)
    uplink: UplinkConfig = field(default_factory=UplinkConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    duty: DutyConfig = field(default_factory=DutyConfig)
    spool: SpoolConfig = field(default_factory=SpoolConfig)
    link: LinkConfig = field(default_factory=LinkConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    log: LogConfig = field(default_factory=LogConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    smtp: SmtpConfig = field(default_factory=SmtpConfig)
    tracing: TracingConfig = field(default_factory=TracingConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_edge_id(self.edge_id):
            raise ConfigError(f"edge_id {self.edge_id!r} is not 1 to 64 of a-z, 0-9 and hyphen")
        if len(self.camera) > 200 or not self.camera.isprintable():
            raise ConfigError("camera must be at most 200 printable characters")
        if self.watch.email and not self.smtp.host:
            raise ConfigError("watch.email wants a mail server: smtp.host")


def parse_size(text: str) -> tuple[int, int | None]:
    """``"768"`` → (768, None), a longest side; ``"768x432"`` → (768, 432). Raises ConfigError."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ConfigError(f"resize {text!r} is neither a longest side nor WIDTHxHEIGHT")
    width, height = int(match[1]), int(match[2]) if match[2] else None
    if width < _MIN_SIDE or (height is not None and height < _MIN_SIDE):
        raise ConfigError(f"resize {text!r} is below {_MIN_SIDE} pixels")
    return width, height


def parse_picture(text: str) -> tuple[int, int]:
    """``"768x432"`` → (768, 432), the size of the picture that polygons are drawn in. Raises ConfigError."""
    match = _SIZE.fullmatch(text)
    if match is None or not match[2] or not (int(match[1]) and int(match[2])):
        raise ConfigError(f"picture {text!r} is not WIDTHxHEIGHT")
    return int(match[1]), int(match[2])

"""Settings of a camera host: one frozen dataclass a section, checked when constructed.

`main.py` fills them from a TOML file and flags. The comment behind a field is its documentation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from secondlook.shared.address import is_loopback
from secondlook.shared.errors import ConfigError
from secondlook.shared.health import HealthConfig
from secondlook.shared.link import LinkTimes
from secondlook.shared.packet import is_edge_id

_SIZE = re.compile(r"(\d{1,5})(?:x(\d{1,5}))?")
_MIN_SIDE = 16


@dataclass(frozen=True)
class SourceConfig:
    """Where frames come from, and which of them are taken."""

    address: str  # video file, image or folder of images, USB index, rtsp:// or http:// address, or demo:
    fps: float | None = None  # frames taken a second of the source's own time; all without it
    frames: int | None = None  # stop capturing after this many
    realtime: bool = False  # play files and demo: at the speed of a clock, dropping what comes too fast
    resize: str | None = None  # longest side in pixels (never enlarges), or WIDTHxHEIGHT
    open_seconds: float = 20.0  # time allowed to the first frame
    stall_seconds: float = 15.0  # time allowed between frames before the capture is killed
    retry_min_seconds: float = 1.0  # first pause before a live source is opened again
    retry_max_seconds: float = 60.0  # longest such pause
    record_dir: Path | None = None  # folder that gets every captured frame as PNG, to measure quality with

    def __post_init__(self) -> None:
        if not self.address:
            raise ConfigError("address is empty")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise ConfigError(f"fps is {self.fps:g}, it must be above 0 and at most 1000")
        if self.frames is not None and self.frames < 1:
            raise ConfigError(f"frames is {self.frames}, it must be at least 1")
        if self.resize is not None:
            parse_size(self.resize)
        if min(self.open_seconds, self.stall_seconds, self.retry_min_seconds) <= 0:
            raise ConfigError("open_seconds, stall_seconds and retry_min_seconds must be above 0")
        if self.retry_max_seconds < self.retry_min_seconds:
            raise ConfigError("retry_max_seconds is below retry_min_seconds")


@dataclass(frozen=True)
class CodecConfig:
    """How frames are encoded."""

    model: str = "lite"  # name of a model in exported_models, or a model folder
    base_quality: int = 16  # quality of the base layer, 0 to 63
    quality: int = 40  # quality of both layers, 0 to 63; 25, 35, 46 and 52 are λ = 0.005, 0.010, 0.020, 0.030
    key_interval: int = 1  # one key frame in this many; the others refer to it
    threads: int = 0  # threads of encoding, 0 = one per core

    def __post_init__(self) -> None:
        for name in ("base_quality", "quality"):
            if not 0 <= getattr(self, name) <= 63:
                raise ConfigError(f"{name} is {getattr(self, name)}, outside 0..63")
        if self.key_interval < 1:
            raise ConfigError(f"key_interval is {self.key_interval}, it must be at least 1")
        if self.threads < 0:
            raise ConfigError("threads is negative")


@dataclass(frozen=True)
class SpoolConfig:
    """What is kept on the camera host's disk, and what goes when there is no room."""

    max_bytes: int = 8 << 30  # layers kept at most, in bytes
    min_free_bytes: int = 512 << 20  # below this much free disk the spool stops growing
    retention_seconds: float = 86_400.0  # delivered frames stay this long, for enhancement requests
    max_age_seconds: float = 7 * 86_400.0  # undelivered frames are given up after this
    # Which undelivered frames go when the spool is full: the oldest, the arriving ones, or (keep-keys) the oldest
    # deltas, and keys only when no delta is left.
    drop: Literal["oldest", "newest", "keep-keys"] = "oldest"
    max_pinned: int = 256  # frames kept at most because their enhancement is asked for
    commit_seconds: float = 0.1  # frames encoded within this time share one write to disk

    def __post_init__(self) -> None:
        if self.max_bytes < 1 or min(self.min_free_bytes, self.max_pinned) < 0:
            raise ConfigError("max_bytes must be above 0, min_free_bytes and max_pinned not negative")
        if min(self.retention_seconds, self.max_age_seconds) <= 0 or self.commit_seconds < 0:
            raise ConfigError("retention_seconds and max_age_seconds must be above 0")


@dataclass(frozen=True)
class LinkConfig:
    """The way to the gateway."""

    gateway: str = "tcp://127.0.0.1:7601"  # address of the gateway
    server_public_key_file: Path | None = None  # the gateway's public key; encrypts the link (CURVE)
    secret_key_file: Path | None = None  # this host's own key pair, registered at the gateway
    resend_seconds: float = 20.0  # an unacknowledged frame is sent again after this
    hello_seconds: float = 5.0  # an unanswered hello is said again after this
    ping_seconds: float = 5.0  # silence on the control connection before a ping
    silence_seconds: float = 20.0  # silence of the gateway before the link counts as down
    retry_min_seconds: float = 0.5  # first pause before connecting again
    retry_max_seconds: float = 30.0  # longest such pause
    max_requests: int = 64  # enhancement requests waiting at most; the gateway hears "busy" beyond

    def __post_init__(self) -> None:
        if not self.gateway.startswith("tcp://"):
            raise ConfigError(f"gateway {self.gateway!r} does not begin with tcp://")
        if (self.server_public_key_file is None) != (self.secret_key_file is None):
            raise ConfigError("server_public_key_file and secret_key_file belong together")
        if not 0 < self.ping_seconds < self.silence_seconds:
            raise ConfigError("ping_seconds must be above 0 and below silence_seconds")
        if not 0 < self.retry_min_seconds <= self.retry_max_seconds:
            raise ConfigError("retry_min_seconds must be above 0 and not above retry_max_seconds")
        if self.max_requests < 1:
            raise ConfigError("max_requests must be at least 1")
        if self.secret_key_file is None and not is_loopback(self.gateway):
            raise ConfigError(f"gateway {self.gateway} is not this machine: set the key files")
        _ = self.times

    @property
    def times(self) -> LinkTimes:
        return LinkTimes(self.resend_seconds, self.hello_seconds)


@dataclass(frozen=True)
class EdgeConfig:
    """The agent on a camera host: one camera, one spool, one gateway."""

    edge_id: str  # names this host for ever: 1 to 64 of a-z, 0-9 and hyphen
    source: SourceConfig
    camera: str = "camera"  # name of the camera, for people
    data_dir: Path = Path("edge-data")  # spool and status.json are kept here
    exit_when_acknowledged: bool = False  # end once the source ended and all its frames are safe
    linger_seconds: float = 0.0  # and after answering enhancement requests for this long
    codec: CodecConfig = field(default_factory=CodecConfig)
    spool: SpoolConfig = field(default_factory=SpoolConfig)
    link: LinkConfig = field(default_factory=LinkConfig)
    health: HealthConfig = field(default_factory=HealthConfig)

    def __post_init__(self) -> None:
        if not is_edge_id(self.edge_id):
            raise ConfigError(f"edge_id {self.edge_id!r} is not 1 to 64 of a-z, 0-9 and hyphen")
        if len(self.camera) > 200 or not self.camera.isprintable():
            raise ConfigError("camera must be at most 200 printable characters")
        if self.linger_seconds < 0:
            raise ConfigError("linger_seconds is negative")


def parse_size(text: str) -> tuple[int, int | None]:
    """``"768"`` → (768, None), a longest side; ``"768x432"`` → (768, 432). Raises ConfigError."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ConfigError(f"resize {text!r} is neither a longest side nor WIDTHxHEIGHT")
    width, height = int(match[1]), int(match[2]) if match[2] else None
    if width < _MIN_SIDE or (height is not None and height < _MIN_SIDE):
        raise ConfigError(f"resize {text!r} is below {_MIN_SIDE} pixels")
    return width, height

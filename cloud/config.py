"""Settings of the cloud side: one ``cloud.toml`` for the gateway, the workers, the refiners and the station."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from secondlook.cloud.receivers import EmailConfig, MqttConfig, NotifyConfig, WebhookConfig
from secondlook.shared.address import is_loopback
from secondlook.shared.conditions import WatchConfig
from secondlook.shared.device import check_device
from secondlook.shared.errors import ConfigError
from secondlook.shared.health import HealthConfig, MetricsConfig
from secondlook.shared.logs import LogConfig
from secondlook.shared.mail import SmtpConfig
from secondlook.shared.precision import check_precision
from secondlook.shared.settings import (
    DAY_SECONDS,
    MAX_BYTES,
    Bytes,
    DatabaseUrl,
    Endpoint,
    FolderOrUrl,
    NameOrPath,
    Seconds,
    Settings,
    Threads,
    within,
)
from secondlook.shared.tracing import TracingConfig
from secondlook.shared.zones import parse_zone

LONGEST_LEASE_SECONDS = 3600.0

Lease = Annotated[float, within(0.001, LONGEST_LEASE_SECONDS, "seconds")]
Pixels = Annotated[int, within(1, 1 << 32, "pixels")]
Days = Annotated[float, within(0, 36_525, "days")]
Score = Annotated[float, within(0, 1, "")]
Priority = Annotated[int, within(0, 100, "")]
_Attempts = Annotated[int, within(1, 1_000_000, "attempts")]
_Stall = Annotated[float, within(0.001, 3600, "seconds")]
_Count = Annotated[int, within(0, 1_000_000_000, "frames")]
_Apart = Annotated[float, within(0, DAY_SECONDS, "seconds")]
_Reviews = Annotated[int, within(0, 1_000_000_000, "reviews")]
_NANOSECONDS = 1_000_000_000

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class IntakeLimits(Settings):
    """What the gateway lets camera hosts do."""

    window_bytes: Bytes = 4 << 20  # base frames a camera host may have in flight
    min_window_bytes: Bytes = 64 << 10  # below this share of the queue's room, camera hosts must wait
    batch_frames: Annotated[int, within(1, 100_000, "frames")] = 512  # frames stored in one commit, at most
    batch_bytes: Bytes = 8 << 20  # bytes stored in one commit, about
    max_sessions: Annotated[int, within(1, 1_000_000, "connections")] = 4096  # connections that said hello
    # of them by one camera host; beyond, its oldest is forgotten
    max_sessions_of_edge: Annotated[int, within(1, 65_536, "connections")] = 16
    # starts of one agent with undelivered frames
    max_boots: Annotated[int, within(1, 1_000_000, "starts")] = 1024
    # free on the gateway's own disk, beside what is queued; below, nothing is taken
    min_free_bytes: Annotated[int, within(0, MAX_BYTES, "bytes")] = 64 << 20
    stall_seconds: Seconds = 5.0  # after a full disk or queue, nothing is taken for this long
    probe_seconds: Seconds = 60.0  # a silent connection is tested after this

    @property
    def least_credit_bytes(self) -> int:
        """A smaller window is none."""
        return min(self.min_window_bytes, self.window_bytes)


@dataclass(frozen=True)
class QueueLimits(Settings):
    """How much the queue keeps, and how often it tries."""

    max_bytes: Bytes = 8 << 30  # payload bytes that wait or are leased
    max_attempts: Annotated[int, within(1, 1000, "leases")] = 6  # leases before an item is dead
    # of the bytes that others leave free, what one camera host may take
    max_share: Annotated[float, within(0.001, 1, "")] = 0.5
    # payload bytes of dead items; beyond, the oldest go
    max_dead_bytes: Annotated[int, within(0, MAX_BYTES, "bytes")] = 1 << 30
    max_dead: Annotated[int, within(0, 100_000_000, "items")] = 10_000  # dead items; beyond, the oldest go


@dataclass(frozen=True)
class RateLimits(Settings):
    """What one camera host may send, all its connections together."""

    # sustained
    packets_per_second: Annotated[float, within(0.001, 1_000_000_000, "packets per second")] = 1000.0
    # sustained, headers included
    bytes_per_second: Annotated[float, within(1, 1_000_000_000_000, "bytes per second")] = 33_554_432.0
    burst_seconds: Seconds = 10.0  # what a host that was quiet may send at once, in seconds of the above
    # a hello counts as so many packets, for each costs a commit
    hello_packets: Annotated[float, within(0.001, 1_000_000, "packets")] = 10.0
    # a tombstone counts as so many packets, for it is kept
    tombstone_packets: Annotated[float, within(0.001, 1_000_000, "packets")] = 20.0
    # a message that is no packet counts as so many, for it helps nobody
    rejected_packets: Annotated[float, within(0.001, 1_000_000, "packets")] = 10.0


@dataclass(frozen=True)
class RequestTimes(Settings):
    """How enhancement layers are asked for."""

    lease_seconds: Seconds = 15.0  # without a chunk for this long, a request is sent again
    busy_seconds: Seconds = 2.0  # a camera host that said "busy" is asked again after this
    max_sent: Annotated[int, within(1, 4096, "requests")] = 4  # requests a camera host works on at a time


@dataclass(frozen=True)
class GatewayConfig(Settings):
    """The gateway. Without keys it listens on the loopback interface only."""

    edge_address: Endpoint = Endpoint("tcp://127.0.0.1:7601")  # where camera hosts connect
    secret_key_file: Path | None = None  # the gateway's CURVE key, made by `secondlook keys new`
    registry_file: Path | None = None  # the keys that may connect
    # a connection that has not shown a key by then is closed
    handshake_seconds: Annotated[float, within(0.001, 3600, "seconds")] = 5.0
    # connections the operating system holds until they are looked at
    backlog: Annotated[int, within(1, 65_535, "connections")] = 256
    queue: QueueLimits = field(default_factory=QueueLimits)
    limits: IntakeLimits = field(default_factory=IntakeLimits)
    rates: RateLimits = field(default_factory=RateLimits)
    requests: RequestTimes = field(default_factory=RequestTimes)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.secret_key_file is None) != (self.registry_file is None):
            raise ConfigError("secret_key_file and registry_file go together")
        if self.secret_key_file is None and not is_loopback(self.edge_address):
            raise ConfigError(f"edge_address {self.edge_address} faces a network: keys are needed")
        share, least = int(self.queue.max_bytes * self.queue.max_share), self.limits.least_credit_bytes
        if share < least:
            raise ConfigError(
                f"queue.max_bytes times queue.max_share is {share} bytes, below limits.min_window_bytes ({least}):"
                " no frame would ever be taken"
            )


@dataclass(frozen=True)
class JetStreamConfig(Settings):
    """The queue on NATS JetStream, where ``queue`` names a NATS server. It serves several gateways."""

    nkey_file: Path | None = None  # NKey seed with which the gateways log in; for their user's eyes alone
    ca_file: Path | None = None  # who signed the server's certificate (tls:// addresses); else the system's
    replicas: Annotated[int, within(1, 5, "servers")] = 1  # servers of a NATS cluster that keep each frame
    # frames of one camera host that are leased or put off at a time, by all workers
    max_ack_pending: Annotated[int, within(1, 10_000_000, "frames")] = 10_000
    duplicate_seconds: Seconds = 120.0  # the server still knows a frame for this long after it was put
    # a server silent for this long counts as away
    timeout_seconds: Annotated[float, within(0.001, 3600, "seconds")] = 5.0


@dataclass(frozen=True)
class BrokerConfig(Settings):
    """How workers reach the gateway. On the loopback interface the connection is plain, elsewhere it has keys."""

    address: Endpoint = Endpoint(
        "tcp://127.0.0.1:7602"
    )  # the gateway listens here, workers and refiners connect here
    server_public_key_file: Path | None = None  # of the gateway; wanted by workers elsewhere
    secret_key_file: Path | None = None  # of this worker; wanted by workers elsewhere
    # without an answer for this long, a call has failed
    timeout_seconds: Annotated[float, within(0.001, 3600, "seconds")] = 5.0


@dataclass(frozen=True)
class WorkerConfig(Settings):
    """The machine worker."""

    codec: NameOrPath = NameOrPath("lite")  # name of an exported codec, or its folder
    # auto, builtin, an added model by name, a path to an .onnx export, or ultralytics weights by name; auto takes the
    # general detector (secondlook models fetch) where it was added, else builtin, the small one that ships
    detector: NameOrPath = NameOrPath("auto")
    # between the decoder of the family video and the detector: none, or the name or folder of a filter for machines
    # (docs/training.md)
    machine_filter: NameOrPath = NameOrPath("none")
    threads: Threads = 0  # of each model; 0 = one per core
    device: str = "auto"  # auto, cpu, cuda or cuda:N: where networks run; auto takes the first GPU there is
    batch: Annotated[int, within(1, 16, "frames")] = 4  # frames leased at a time, at most
    # pixels leased at a time, about: of large frames fewer
    batch_pixels: Pixels = 16_000_000
    # of a frame, width times height (8K has 33 million); larger ones are refused
    max_pixels: Pixels = 36_000_000
    lease_seconds: Lease = 30.0  # a worker silent for this long loses its frames to another
    # pause before asking again where others hold what there is, or gateways share a queue; else the gateway says when
    # frames come
    idle_seconds: Annotated[float, within(0.001, 60, "seconds")] = 0.1
    # of enhancements of frames that became reviews, fetched from a camera host while its link is idle, before a refiner
    # asks; 0 = none
    ahead_bytes_per_minute: Annotated[int, within(0, 1 << 40, "bytes")] = 4_000_000
    # frames that have waited for this long, with no end in sight, are not all looked at: the others are stored without;
    # 0 = every frame is. An hour: what a link or a worker was away for is looked at in full, if later
    shed_after_seconds: Annotated[float, within(0, 7 * DAY_SECONDS, "seconds")] = 3600.0
    # which frames are then looked at: newest, or every, of each camera one in as many as must be
    shed: Literal["newest", "every"] = "newest"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_device(self.device)


@dataclass(frozen=True)
class PolicyConfig(Settings):
    """The rules. Scores are between 0 and 1; an empty or zero setting turns its rule, or its limit, off.

    A watched object that is in view all day makes one review a minute, and ten such cameras about what one person can
    judge. 500 open reviews are an hour's work: what lies beyond would be hours old before anybody saw it.
    """

    uncertain_low: Score = 0.30  # lower end of the band of scores that counts as doubt
    uncertain_high: Score = 0.55  # a detection with a score in [low, high) is in doubt
    uncertain_priority: Priority = 50  # place in the list of reviews, higher first
    # between frames of one camera host reviewed for doubt; 0 reviews every one
    uncertain_apart_seconds: _Apart = 5.0
    # the refiner looks again at a frame that nothing but doubt calls for, once it is there in full quality; nobody is
    # asked where the detector is then sure of all that it doubted (confirmed), nor, with certain, where it does not
    # find it any more, which may yet be there
    second_look: Literal["none", "confirmed", "certain"] = "confirmed"
    watched_labels: tuple[str, ...] = ()  # classes of which people review every object, such as person
    watched_score: Score = 0.5  # lowest score at which a watched class counts
    watched_priority: Priority = 90  # place in the list of reviews, higher first
    watched_apart_seconds: _Apart = 60.0  # the same for a watched class
    rule_labels: tuple[str, ...] = ()  # the operator's rule: these labels (none: any) ...
    rule_score: Score = 0.0  # ... from this score on; 0 turns the rule off
    rule_priority: Priority = 70  # place in the list of reviews, higher first
    rule_apart_seconds: _Apart = 60.0  # the same for the operator's rule
    every_nth: _Count = 0  # review frames whose sequence is a multiple of it
    every_nth_priority: Priority = 20  # place in the list of reviews, higher first
    every_nth_apart_seconds: _Apart = 0.0  # the same for their number
    audit_every: _Count = 200  # one frame in so many, chosen at random; never spaced
    audit_priority: Priority = 10  # place in the list of reviews, higher first
    # watched classes, the operator's rule and doubt have each object reviewed once, however long it is in view
    once_per_object: bool = True
    # an object counts for these three once it has been in view for this long
    dwell_seconds: _Apart = 0.0
    # their boxes' heights as shares of the frame's: what is smaller is far away, what is larger is at the lens
    min_height: Score = 0.0
    max_height: Score = 1.0
    # polygons in which the middle of a box's lower edge has to be for them, as "EDGE: x,y x,y x,y" in shares of the
    # frame, * for every camera host; one without a zone counts everywhere
    zones: tuple[str, ...] = ()
    # what is fetched first of a frame of the family video, for these three: frame, or boxes, the crop around the
    # detections that they speak of, which costs a thin link much less; the rest when somebody asks for it
    fetch: Literal["frame", "boxes"] = "frame"
    fetch_margin: Annotated[float, within(0, 4, "")] = 0.5  # around each box, as a share of its sides
    # without a decision, of the whole site; beyond, the least urgent are skipped
    max_open_reviews: _Reviews = 500
    max_open_reviews_of_camera: _Reviews = 100  # without a decision, of one camera host

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.uncertain_low > self.uncertain_high:
            raise ConfigError("uncertain_low must not exceed uncertain_high")
        if self.min_height > self.max_height:
            raise ConfigError("min_height must not exceed max_height")
        for zone in self.zones:
            parse_zone(zone)


@dataclass(frozen=True)
class RefinerConfig(Settings):
    """The refiner."""

    codec: NameOrPath = NameOrPath("lite")  # name of an exported codec, or its folder
    # rrdb-fast, rrdb-l1, rrdb-l2, or a folder: slower ones gain more (docs/reviews.md)
    postfilter: NameOrPath = NameOrPath("rrdb-fast")
    threads: Threads = 0  # of each model; 0 = one per core
    device: str = "auto"  # auto, cpu, cuda or cuda:N: where networks run; auto takes the first GPU there is
    # auto, exact or fast: the post-filter in float32, or in bfloat16 where the processor has it (extra cloud-fast)
    precision: str = "auto"
    lease_seconds: Lease = 60.0  # a worker silent for this long loses its review to another
    # a camera host that has not answered by then is given up
    deadline_seconds: Annotated[float, within(0.001, 7 * DAY_SECONDS, "seconds")] = 900.0
    # pause before asking again whether an enhancement has come
    poll_seconds: Annotated[float, within(0.001, 60, "seconds")] = 0.1
    # longest pause before looking for a change, when no review was due: reached ten seconds after the last one
    idle_seconds: Annotated[float, within(0.001, 60, "seconds")] = 0.5
    # reviews whose enhancements are waited for at a time
    in_flight: Annotated[int, within(1, 1024, "reviews")] = 4
    # a review that has waited for this long no longer keeps others from their turn
    slot_seconds: Seconds = 5.0
    # of a frame, width times height (8K has 33 million); larger ones are refused
    max_pixels: Pixels = 36_000_000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_device(self.device)
        check_precision(self.precision)


@dataclass(frozen=True)
class SessionTimes(Settings):
    """How long a log-in lasts."""

    # log a person out after this long without activity
    idle_minutes: Annotated[float, within(2, 525_600, "minutes")] = 60.0
    max_hours: Annotated[float, within(0.01, 8760, "hours")] = 12.0  # and everybody is after this

    @property
    def idle_ns(self) -> int:
        return int(self.idle_minutes * 60 * _NANOSECONDS)

    @property
    def max_ns(self) -> int:
        return int(self.max_hours * 3600 * _NANOSECONDS)


@dataclass(frozen=True)
class LoginLimits(Settings):
    """How often a password may be wrong."""

    account_attempts: _Attempts = 10  # wrong ones for one name from one address, at once
    account_seconds: Seconds = 60.0  # and one more after this
    address_attempts: _Attempts = 30  # wrong ones from one address, at once
    address_seconds: Seconds = 10.0  # and one more after this
    # wrong ones for one name from all addresses where it never logged in, at once
    name_attempts: _Attempts = 100
    name_seconds: Seconds = 10.0  # and one more after this


@dataclass(frozen=True)
class ConnectionLimits(Settings):
    """What connections of the station may cost."""

    # at once; one more takes the place of the one that has waited longest. A browser opens six.
    max_connections: Annotated[int, within(8, 65_535, "connections")] = 256
    request_seconds: _Stall = 15.0  # in which a request, head and body, must have come
    stall_seconds: _Stall = 30.0  # a reader who takes nothing for this long is cut


@dataclass(frozen=True)
class ApiLimits(Settings):
    """What programs may ask of the versioned API."""

    # of each token, or of each person without one; sustained
    requests_per_second: Annotated[float, within(0.01, 1_000_000, "requests per second")] = 50.0
    burst_requests: Annotated[int, within(1, 1_000_000, "requests")] = 500  # at once, after a pause
    max_streams: Annotated[int, within(1, 65_535, "streams")] = 64  # of events, at a time, of all together


def parse_origin(text: str) -> str:
    """An address as the Origin header gives it, ``https://review.example.org:8443``. Raises ConfigError."""
    try:
        parts = urlsplit(text.lower().removesuffix("/"))
        name, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ConfigError(f"origins: {text!r} is no address: {error}") from error
    host = f"[{name}]" if ":" in name else name
    origin = f"{parts.scheme}://{host}" + ("" if port is None else f":{port}")
    if parts.scheme not in ("http", "https") or not name or origin != parts.geturl():
        raise ConfigError(f"origins: {text!r} is not as https://name or https://name:port")
    return origin


@dataclass(frozen=True)
class StationConfig(Settings):
    """The review station. As soon as more than this machine can reach it, it needs users and TLS."""

    host: str = "127.0.0.1"  # interface to listen on
    port: Annotated[int, within(0, 65_535, "")] = 7600  # 0 takes any free one
    title: str = "Secondlook"  # shown in the page
    allowed_hosts: tuple[str, ...] = ()  # further names under which browsers reach it, * for all
    tls_certificate_file: Path | None = None  # certificate chain, PEM
    tls_key_file: Path | None = None  # its key, PEM, readable by its owner alone
    trusted_proxies: tuple[str, ...] = ()  # addresses or networks of proxies that end TLS and say who asks
    root_path: str = ""  # folder below which a proxy shows the station, as /review
    # https://name:port as browsers show it, where a proxy does not pass that Host on; pages there are its own
    origins: tuple[str, ...] = ()
    # whether pictures are shown as the learned filter made them, by those who want that; false: to nobody
    learned_filter: bool = True
    claim_seconds: Seconds = 120.0  # a frame whose page is heard of no more is free for others after this
    cookie: str = ""  # told from other stations' on the same host by this; the port and root_path without it
    session: SessionTimes = field(default_factory=SessionTimes)
    login: LoginLimits = field(default_factory=LoginLimits)
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)
    api: ApiLimits = field(default_factory=ApiLimits)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ConfigError("tls_certificate_file and tls_key_file go together")
        for proxy in self.trusted_proxies:
            _check_network(proxy)
        if self.root_path and re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", self.root_path) is None:
            raise ConfigError(
                f"root_path: {self.root_path!r} is not a folder as /review, without a / at its end"
            )
        if re.fullmatch(r"[A-Za-z0-9._-]{0,64}", self.cookie) is None:
            raise ConfigError("cookie is letters, digits and . _ -, at most 64")
        for origin in self.origins:
            parse_origin(origin)
        if self.is_exposed and self.tls_key_file is None and not self.trusted_proxies:
            raise ConfigError(
                f"host {self.host} or allowed_hosts reach beyond this machine: set tls_certificate_file and "
                "tls_key_file, or name the proxy that ends TLS in trusted_proxies"
            )

    @property
    def is_exposed(self) -> bool:
        """Whether more than this machine is meant to reach it."""
        names = (self.host, *self.allowed_hosts)
        return bool(self.trusted_proxies) or not set(names) <= set(LOOPBACK_NAMES)

    def instance(self, port: int) -> str:
        """What its cookie is told by; ``port`` is the one it listens on."""
        return self.cookie or f"{port}{self.root_path.replace('/', '-')}"


@dataclass(frozen=True)
class ReviewConfig(Settings):
    """Checks of what people say. Both shares need reviewers under names of their own."""

    # of the frames that one person has decided, judged by a second one who does not know; where the two differ a third
    # decides
    double_share: Score = 0.0
    # of a reviewer's frames, known ones that an admin chose
    known_share: Score = 0.0


@dataclass(frozen=True)
class RetentionConfig(Settings):
    """How long things are kept. A frame goes with its detections, review, verdicts, layers and pictures.

    Frames whose review is undecided are never deleted, and neither is the audit trail. A key frame stays as long as a
    frame that refers to it. What `max_bytes` and `min_free_bytes` ask for is taken from unreviewed frames, then from
    the audit sample, then from other decided ones, the oldest first.
    """

    unreviewed_days: Days = 30.0  # frames that nobody was asked about; 0 = for ever
    decided_days: Days = 365.0  # after the last verdict; 0 = for ever
    audit_days: Days = 365.0  # decided frames of the random audit sample, likewise; 0 = for ever
    tombstones_days: Days = 365.0  # tombstones in the catalogue and at the gateway; 0 = for ever
    requests_days: Days = 30.0  # ended requests for enhancement layers at the gateway; 0 = for ever
    # of all layers and pictures; 0 = no limit
    max_bytes: Annotated[int, within(0, MAX_BYTES, "bytes")] = 0
    # of the disk that a folder of blobs is on; 0 = no limit
    min_free_bytes: Annotated[int, within(0, MAX_BYTES, "bytes")] = 1 << 30
    # nothing younger is deleted; longer than a frame may wait for a machine worker
    grace_minutes: Annotated[float, within(0, 525_600, "minutes")] = 60.0
    # between two runs
    interval_seconds: Annotated[float, within(0.01, DAY_SECONDS, "seconds")] = 300.0
    # between two searches for blobs that nothing refers to; 0 = never
    sweep_hours: Annotated[float, within(0, 8_784, "hours")] = 24.0
    # frames deleted at a time
    batch_frames: Annotated[int, within(1, 5000, "frames")] = 500


@dataclass(frozen=True)
class CloudConfig(Settings):
    """The cloud side."""

    data_dir: Path = Path("data/cloud")  # queue, ledger, catalogue and blobs, unless said otherwise
    # nats:// or tls:// address of a JetStream queue; gateway.db in data_dir without it
    queue: str | None = None
    ledger: DatabaseUrl | None = None  # PostgreSQL URL of ledger and requests; without it see docs/scale.md
    catalogue: DatabaseUrl | None = None  # SQLAlchemy URL; catalogue.db in data_dir without it
    blobs: FolderOrUrl | None = None  # folder or fsspec URL; blobs in data_dir without it
    gateway: GatewayConfig = field(default_factory=GatewayConfig)
    jetstream: JetStreamConfig = field(default_factory=JetStreamConfig)
    broker: BrokerConfig = field(default_factory=BrokerConfig)
    worker: WorkerConfig = field(default_factory=WorkerConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    refiner: RefinerConfig = field(default_factory=RefinerConfig)
    station: StationConfig = field(default_factory=StationConfig)
    review: ReviewConfig = field(default_factory=ReviewConfig)
    retention: RetentionConfig = field(default_factory=RetentionConfig)
    notify: NotifyConfig = field(default_factory=NotifyConfig)
    webhook: tuple[WebhookConfig, ...] = ()  # receivers, each a table of its own: [[webhook]]
    email: tuple[EmailConfig, ...] = ()  # receivers by e-mail, likewise: [[email]]
    mqtt: MqttConfig = field(default_factory=MqttConfig)
    smtp: SmtpConfig = field(default_factory=SmtpConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    log: LogConfig = field(default_factory=LogConfig)
    tracing: TracingConfig = field(default_factory=TracingConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.catalogue is None and "?" in str(self.data_dir):
            raise ConfigError(
                f"data_dir {str(self.data_dir)!r} holds a ?, which ends a path in a database URL"
            )
        hooks, mails = ([one.name for one in listed] for listed in (self.webhook, self.email))
        names = hooks + mails
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"{'webhook' if name in hooks else 'email'}: two are named {name}")
        if (self.email or self.watch.email) and not self.smtp.host:
            which = "email" if self.email else "watch.email"
            raise ConfigError(f"{which} wants a mail server: smtp.host")

    @property
    def database(self) -> Path:
        """The gateway's own file: queue, ledger and requests, unless they are elsewhere."""
        return self.data_dir / "gateway.db"

    @property
    def ledger_url(self) -> str | None:
        """Where ledger and requests are; None for the gateway's own file.

        With a queue that gateways share, they share these too: where the catalogue is, if that is a server.
        """
        if self.ledger is None and self.queue is not None and not self.catalogue_url.startswith("sqlite:"):
            return self.catalogue
        return self.ledger

    @property
    def catalogue_url(self) -> str:
        return self.catalogue or f"sqlite:///{self.data_dir / 'catalogue.db'}"

    @property
    def blobs_url(self) -> str:
        return self.blobs or str(self.data_dir / "blobs")


def _check_network(text: str) -> None:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise ConfigError(f"trusted_proxies: {text!r} is neither an address nor a network") from error

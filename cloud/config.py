"""Settings of the cloud side: one ``cloud.toml`` for the gateway, the workers, the refiners and the station."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from secondlook.cloud.accounts.loginlimits import LoginLimits, SessionTimes
from secondlook.cloud.gateway.ratelimit import RateLimits
from secondlook.cloud.storage.queue import LONGEST_LEASE_SECONDS, QueueLimits
from secondlook.cloud.storage.requests import RequestTimes
from secondlook.cloud.workers.policy import PolicyConfig
from secondlook.shared.address import is_loopback
from secondlook.shared.errors import ConfigError
from secondlook.shared.health import HealthConfig

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class IntakeLimits:
    """What the gateway lets camera hosts do."""

    window_bytes: int = 4 << 20  # base frames a camera host may have in flight
    min_window_bytes: int = 64 << 10  # below this share of the queue's room, camera hosts must wait
    batch_frames: int = 512  # frames stored in one commit, at most
    batch_bytes: int = 8 << 20  # bytes stored in one commit, about
    max_sessions: int = 4096  # connections that said hello
    max_sessions_of_edge: int = 16  # of them by one camera host; beyond, its oldest is forgotten
    max_boots: int = 1024  # starts of one agent with undelivered frames
    stall_seconds: float = 5.0  # after a full disk or queue, nothing is taken for so long
    probe_seconds: float = 60.0  # a silent connection is tested after this

    def __post_init__(self) -> None:
        if min(vars(self).values()) <= 0:
            raise ConfigError("limits must be above 0")


@dataclass(frozen=True)
class GatewayConfig:
    """The gateway. Without keys it listens on the loopback interface only."""

    edge_address: str = "tcp://127.0.0.1:7601"  # where camera hosts connect
    secret_key_file: Path | None = None  # the gateway's CURVE key, made by `secondlook keys new`
    registry_file: Path | None = None  # the keys that may connect
    handshake_seconds: float = 5.0  # a connection that has not shown a key by then is closed
    backlog: int = 256  # connections the operating system holds until they are looked at
    queue: QueueLimits = field(default_factory=QueueLimits)
    limits: IntakeLimits = field(default_factory=IntakeLimits)
    rates: RateLimits = field(default_factory=RateLimits)
    requests: RequestTimes = field(default_factory=RequestTimes)

    def __post_init__(self) -> None:
        if (self.secret_key_file is None) != (self.registry_file is None):
            raise ConfigError("secret_key_file and registry_file go together")
        if self.handshake_seconds <= 0 or self.backlog < 1:
            raise ConfigError("handshake_seconds and backlog must be above 0")
        if self.secret_key_file is None and not is_loopback(self.edge_address):
            raise ConfigError(f"edge_address {self.edge_address} faces a network: keys are needed")


@dataclass(frozen=True)
class JetStreamConfig:
    """The queue on NATS JetStream, where ``queue`` names a NATS server. It serves several gateways."""

    nkey_file: Path | None = None  # NKey seed with which the gateways log in; for their user's eyes alone
    ca_file: Path | None = None  # who signed the server's certificate (tls:// addresses); else the system's
    replicas: int = 1  # servers of a NATS cluster that keep each frame
    max_ack_pending: int = 10_000  # frames that are leased or put off at a time, of all workers together
    duplicate_seconds: float = 120.0  # the server still knows a frame for so long after it was put
    timeout_seconds: float = 5.0  # a server silent for so long counts as away

    def __post_init__(self) -> None:
        if min(self.replicas, self.max_ack_pending, self.duplicate_seconds, self.timeout_seconds) <= 0:
            raise ConfigError(
                "replicas, max_ack_pending, duplicate_seconds and timeout_seconds must be above 0"
            )


@dataclass(frozen=True)
class BrokerConfig:
    """How workers reach the gateway. On the loopback interface the connection is plain, elsewhere it has keys."""

    address: str = "tcp://127.0.0.1:7602"  # the gateway listens here, workers and refiners connect here
    server_public_key_file: Path | None = None  # of the gateway; wanted by workers elsewhere
    secret_key_file: Path | None = None  # of this worker; wanted by workers elsewhere
    timeout_seconds: float = 5.0  # without an answer for so long, a call has failed

    def __post_init__(self) -> None:
        if self.timeout_seconds <= 0:
            raise ConfigError("timeout_seconds must be above 0")


@dataclass(frozen=True)
class WorkerConfig:
    """The machine worker."""

    codec: str = "lite"  # name of an exported codec, or its folder
    detector: str = "builtin"  # builtin, a path to a YOLO .onnx export, or ultralytics weights by name
    threads: int = 0  # of each model; 0 leaves it to the runtime
    batch: int = 4  # frames leased at a time
    lease_seconds: float = 30.0  # a worker silent for so long loses its frames to another
    idle_seconds: float = 0.1  # pause before asking an empty queue again

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= 16:
            raise ConfigError("batch must lie between 1 and 16")
        if self.threads < 0 or not 0 < self.lease_seconds <= LONGEST_LEASE_SECONDS or self.idle_seconds <= 0:
            raise ConfigError(
                "threads must not be negative; lease_seconds and idle_seconds must be above 0, "
                f"lease_seconds at most {LONGEST_LEASE_SECONDS:g}"
            )


@dataclass(frozen=True)
class RefinerConfig:
    """The refiner."""

    codec: str = "lite"  # name of an exported codec, or its folder
    postfilter: str = "rrdb-l1"  # rrdb-l1, rrdb-l2, rrdb-fast, or a folder
    threads: int = 0  # of each model; 0 leaves it to the runtime
    lease_seconds: float = 60.0  # a worker silent for so long loses its review to another
    deadline_seconds: float = 900.0  # a camera host that has not answered by then is given up
    poll_seconds: float = 0.1  # pause before asking again whether an enhancement has come
    idle_seconds: float = 0.5  # pause before asking for another review when none was due
    in_flight: int = 4  # reviews whose enhancements are waited for at a time

    def __post_init__(self) -> None:
        times = (self.lease_seconds, self.deadline_seconds, self.poll_seconds, self.idle_seconds)
        if self.threads < 0 or min(times) <= 0 or self.in_flight < 1:
            raise ConfigError("threads must not be negative; times and in_flight must be above 0")


@dataclass(frozen=True)
class StationConfig:
    """The review station. As soon as more than this machine can reach it, it needs users and TLS."""

    host: str = "127.0.0.1"  # interface to listen on
    port: int = 7600  # 0 takes any free one
    title: str = "Secondlook"  # shown in the page
    allowed_hosts: tuple[str, ...] = ()  # further names under which browsers reach it, * for all
    tls_certificate_file: Path | None = None  # certificate chain, PEM
    tls_key_file: Path | None = None  # its key, PEM, readable by its owner alone
    trusted_proxies: tuple[str, ...] = ()  # addresses or networks of proxies that end TLS and say who asks
    session: SessionTimes = field(default_factory=SessionTimes)
    login: LoginLimits = field(default_factory=LoginLimits)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ConfigError("port must lie between 0 and 65535")
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ConfigError("tls_certificate_file and tls_key_file go together")
        for proxy in self.trusted_proxies:
            _check_network(proxy)
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


@dataclass(frozen=True)
class CloudConfig:
    """The cloud side."""

    data_dir: Path = Path("data/cloud")  # queue, ledger, catalogue and blobs, unless said otherwise
    queue: str | None = (
        None  # nats:// or tls:// address of a JetStream queue; gateway.db in data_dir without it
    )
    ledger: str | None = None  # PostgreSQL URL of ledger and requests; without it see docs/scale.md
    catalogue: str | None = None  # SQLAlchemy URL; catalogue.db in data_dir without it
    blobs: str | None = None  # folder or fsspec URL; blobs in data_dir without it
    gateway: GatewayConfig = field(default_factory=GatewayConfig)
    jetstream: JetStreamConfig = field(default_factory=JetStreamConfig)
    broker: BrokerConfig = field(default_factory=BrokerConfig)
    worker: WorkerConfig = field(default_factory=WorkerConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    refiner: RefinerConfig = field(default_factory=RefinerConfig)
    station: StationConfig = field(default_factory=StationConfig)
    health: HealthConfig = field(default_factory=HealthConfig)

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

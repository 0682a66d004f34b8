"""The cloud side's commands: gateway, worker, refiner and station, and where the others are registered."""

from __future__ import annotations

import argparse
import logging
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import secondlook.cloud.admin.main
import secondlook.cloud.admin.users.main
import secondlook.cloud.bench.main
import secondlook.cloud.demo.main

if TYPE_CHECKING:
    from secondlook.cloud.config import CloudConfig

# The thread that speaks to NATS has little to do, often; by default it would wait 5 ms for each turn.
_SWITCH_SECONDS = 0.0005

_Flag = tuple[str, str, type, str]  # flag, setting, type, meaning

_DATA_DIR: _Flag = ("--data-dir", "data_dir", Path, "folder of queue, catalogue and blobs")
_STORES: tuple[_Flag, ...] = (
    _DATA_DIR,
    ("--catalogue", "catalogue", str, "SQLAlchemy URL of the catalogue"),
    ("--blobs", "blobs", str, "folder or fsspec URL of the blobs"),
)
_BROKER: tuple[_Flag, ...] = (
    ("--gateway", "broker.address", str, "where the gateway serves workers, tcp://HOST:PORT"),
    ("--server-public-key", "broker.server_public_key_file", Path, "file with the gateway's public key"),
    ("--secret-key", "broker.secret_key_file", Path, "file with this worker's key pair"),
)
_HEALTH: _Flag = ("--health", "health.address", str, "HOST:PORT where /healthz and /readyz answer, by HTTP")
_REVIEWER_STALL_SECONDS = 300.0  # as in its unit: the post-filter takes its time on a CPU
_GATEWAY_FLAGS: tuple[_Flag, ...] = (
    _DATA_DIR,
    ("--queue", "queue", str, "address of a JetStream queue, nats://HOST:PORT/NAME"),
    ("--ledger", "ledger", str, "PostgreSQL URL of ledger and requests"),
    ("--blobs", "blobs", str, "folder or fsspec URL of the blobs"),
    ("--listen", "gateway.edge_address", str, "address for camera hosts, tcp://HOST:PORT"),
    ("--listen-workers", "broker.address", str, "address for workers and refiners, tcp://HOST:PORT"),
    ("--secret-key", "gateway.secret_key_file", Path, "file with the gateway's key pair"),
    ("--registry", "gateway.registry_file", Path, "file with the keys that may connect"),
    _HEALTH,
)
_WORKER_FLAGS: tuple[_Flag, ...] = (
    *_STORES,
    *_BROKER,
    ("--model", "worker.codec", str, "codec: name of a model, or a model folder"),
    ("--detector", "worker.detector", str, "builtin, a YOLO .onnx export, or ultralytics weights by name"),
    ("--threads", "worker.threads", int, "threads of each model, 0 = one per core"),
    _HEALTH,
)
_REFINER_FLAGS: tuple[_Flag, ...] = (
    *_STORES,
    *_BROKER,
    ("--model", "refiner.codec", str, "codec: name of a model, or a model folder"),
    ("--postfilter", "refiner.postfilter", str, "rrdb-l1, rrdb-l2, rrdb-fast, or a model folder"),
    ("--threads", "refiner.threads", int, "threads of each model, 0 = one per core"),
    _HEALTH,
)
_STATION_FLAGS: tuple[_Flag, ...] = (
    *_STORES,
    ("--host", "station.host", str, "interface to listen on"),
    ("--port", "station.port", int, "port to listen on, 0 for any free one"),
    ("--tls-certificate", "station.tls_certificate_file", Path, "certificate chain, PEM"),
    ("--tls-key", "station.tls_key_file", Path, "key of the certificate, PEM"),
)


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-commands."""
    gateway = subparsers.add_parser(
        "gateway",
        help="receive frames from camera hosts",
        description="Receive frames from camera hosts, keep them in a durable queue, and serve workers.",
    )
    _add_flags(gateway, _GATEWAY_FLAGS)
    gateway.set_defaults(run=run_gateway)
    worker = subparsers.add_parser(
        "worker",
        help="look for objects in received frames",
        description="Decode the base layers of received frames, look for objects, and choose what people review.",
    )
    _add_flags(worker, _WORKER_FLAGS)
    worker.set_defaults(run=run_worker)
    refiner = subparsers.add_parser(
        "refiner",
        help="fetch and refine frames for review",
        description="Fetch the enhancement layers of frames that people shall review, and refine their images.",
    )
    _add_flags(refiner, _REFINER_FLAGS)
    refiner.set_defaults(run=run_refiner)
    station = subparsers.add_parser(
        "station",
        help="serve the review station",
        description="Serve the web page on which people review frames.",
    )
    _add_flags(station, _STATION_FLAGS)
    station.set_defaults(run=run_station)
    secondlook.cloud.admin.main.register(subparsers)
    secondlook.cloud.admin.users.main.register(subparsers)
    secondlook.cloud.demo.main.register(subparsers)
    secondlook.cloud.bench.main.register(subparsers)


def run_gateway(args: argparse.Namespace) -> int:
    """Serve until told to stop. Returns 0."""
    from secondlook.cloud.gateway.server import Gateway
    from secondlook.shared.health import serve_health
    from secondlook.shared.watchdog import Watchdog

    config = _load(args, _GATEWAY_FLAGS, "gateway")
    _allow_descriptors()
    if config.queue is not None:
        sys.setswitchinterval(_SWITCH_SECONDS)
    stop = _stop_event()
    watchdog = Watchdog.from_environment(os.environ)
    with serve_health(config.health, watchdog), Gateway(config) as gateway:
        log = logging.getLogger(__name__)
        log.info("camera hosts connect to %s, workers to %s", gateway.edge_address, gateway.broker_address)
        watchdog.ready()
        gateway.run(stop, watchdog.heartbeat, watchdog.waits)
        watchdog.stopping()
    return 0


def run_worker(args: argparse.Namespace) -> int:
    """Work until told to stop. Returns 0."""
    from secondlook.cloud.catalogue import open_catalogue
    from secondlook.cloud.storage.blobs import open_blobs
    from secondlook.cloud.workers.broker_client import BrokerClient
    from secondlook.cloud.workers.detectors import load_detector
    from secondlook.cloud.workers.machine import MachineWorker
    from secondlook.shared.codec import load_codec
    from secondlook.shared.health import serve_health
    from secondlook.shared.watchdog import Watchdog

    config = _load(args, _WORKER_FLAGS, "worker")
    stop = _stop_event()
    watchdog = Watchdog.from_environment(os.environ)
    with serve_health(config.health, watchdog), BrokerClient(config.broker, _worker_name()) as broker:
        codec = load_codec(config.worker.codec, threads=config.worker.threads)
        detector = load_detector(config.worker.detector, threads=config.worker.threads)
        catalogue, blobs = open_catalogue(config.catalogue_url), open_blobs(config.blobs_url)
        logging.getLogger(__name__).info("looking for objects with %s", detector.name)
        worker = MachineWorker(
            broker,
            codec,
            detector,
            catalogue,
            blobs,
            config.policy,
            config.worker,
            heartbeat=watchdog.heartbeat,
            waits=watchdog.waits,
        )
        watchdog.ready()
        worker.run(stop)
        watchdog.stopping()
    catalogue.close()
    return 0


def run_refiner(args: argparse.Namespace) -> int:
    """Work until told to stop. Returns 0."""
    from secondlook.cloud.catalogue import open_catalogue
    from secondlook.cloud.storage.blobs import open_blobs
    from secondlook.cloud.workers.broker_client import BrokerClient
    from secondlook.cloud.workers.postfilter import load_postfilter
    from secondlook.cloud.workers.refiner import Refiner
    from secondlook.shared.codec import load_codec
    from secondlook.shared.health import serve_health
    from secondlook.shared.watchdog import Watchdog

    config = _load(args, _REFINER_FLAGS, "refiner")
    stop = _stop_event()
    watchdog = Watchdog.from_environment(os.environ)
    name = _worker_name()
    with (
        serve_health(config.health, watchdog, _REVIEWER_STALL_SECONDS),
        BrokerClient(config.broker, name) as broker,
    ):
        codec = load_codec(config.refiner.codec, threads=config.refiner.threads)
        postfilter = load_postfilter(config.refiner.postfilter, threads=config.refiner.threads)
        catalogue, blobs = open_catalogue(config.catalogue_url), open_blobs(config.blobs_url)
        logging.getLogger(__name__).info("refining with %s", postfilter.name)
        refiner = Refiner(
            name,
            broker,
            codec,
            postfilter,
            catalogue,
            blobs,
            config.refiner,
            heartbeat=watchdog.heartbeat,
            waits=watchdog.waits,
        )
        watchdog.ready()
        refiner.run(stop)
        watchdog.stopping()
    catalogue.close()
    return 0


def run_station(args: argparse.Namespace) -> int:
    """Serve until told to stop. Returns 0."""
    from secondlook.cloud.config import LOOPBACK_NAMES
    from secondlook.cloud.station.app import create_app
    from secondlook.cloud.station.server import Certificate, check_certificate, serve
    from secondlook.shared.health import STALL_SECONDS
    from secondlook.shared.watchdog import Watchdog

    config = _load(args, _STATION_FLAGS, "station")
    station, certificate = config.station, None
    if station.tls_certificate_file is not None and station.tls_key_file is not None:
        certificate = Certificate(station.tls_certificate_file, station.tls_key_file)
        check_certificate(certificate)
    # The port first: it is what most often fails, and the socket says which one "any" became.
    with _listen(station.host, station.port) as listener:
        app = create_app(
            catalogue_url=config.catalogue_url,
            blobs_url=config.blobs_url,
            title=station.title,
            allowed_hosts=(*LOOPBACK_NAMES, station.host, *station.allowed_hosts),
            exposed=station.is_exposed,
            trusted_proxies=station.trusted_proxies,
            session=station.session,
            login=station.login,
            watchdog=Watchdog.from_environment(os.environ),
            stall_seconds=config.health.stall_seconds or STALL_SECONDS,
        )
        host, port = listener.getsockname()[:2]
        logging.getLogger(__name__).info(
            "open %s://%s:%d/", "http" if certificate is None else "https", host, port
        )
        _stop_event()
        serve(app, listener, certificate)
    return 0


def _add_flags(parser: argparse.ArgumentParser, flags: tuple[_Flag, ...]) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings, TOML; flags win over them")
    for flag, setting, kind, meaning in flags:
        parser.add_argument(
            flag, dest=setting, type=kind, help=meaning, metavar=flag.rpartition("-")[2].upper()
        )


def _load(args: argparse.Namespace, flags: tuple[_Flag, ...], role: str) -> CloudConfig:
    """Settings of file and flags; log lines begin to flow."""
    from secondlook.cloud.config import CloudConfig
    from secondlook.shared.config import load

    config = load(args.config, CloudConfig, {setting: getattr(args, setting) for _, setting, *_ in flags})
    _keep_secrets(args, flags, config, role)
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s %(levelname)s {role} %(message)s")
    return config


def _keep_secrets(args: argparse.Namespace, flags: tuple[_Flag, ...], config: CloudConfig, role: str) -> None:
    """Refuse passwords where other users of this machine can read them. Raises ConfigError, SecretExposed."""
    from secondlook.cloud.storage.addresses import has_secret
    from secondlook.shared.errors import ConfigError
    from secondlook.shared.keyfiles import check_private

    for flag, setting, *_ in flags:
        given = getattr(args, setting)
        if isinstance(given, str) and has_secret(given):
            raise ConfigError(
                f"{flag}: everybody can read a command line; put this address into the --config file"
            )
    # Only a gateway speaks to the queue's server; the others share its configuration, not its key.
    files = [config.jetstream.nkey_file if role == "gateway" else None]
    if any(
        address and has_secret(address)
        for address in (config.queue, config.ledger, config.catalogue, config.blobs)
    ):
        files.append(args.config)
    for file in files:
        if file is not None:
            check_private(file, file.stat())


def _allow_descriptors() -> None:
    """Use all descriptors that the system allows: each connection takes one, those of strangers too."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _stop_event() -> Event:
    """An event that SIGTERM and SIGINT set."""
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _worker_name() -> str:
    return f"{socket.gethostname()[:64]}-{os.getpid()}"


def _listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises PortBusy, ConfigError."""
    from secondlook.shared.errors import ConfigError, PortBusy

    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        if listener is not None:
            listener.close()
        if isinstance(error, socket.gaierror):
            raise ConfigError(f"station.host {host}: {error.strerror}") from error
        raise PortBusy(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener

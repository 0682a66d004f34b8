"""The cloud side's commands: gateway, worker, refiner and station, and where the others are registered."""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import secondlook.cloud.admin.backups
import secondlook.cloud.admin.catalogue
import secondlook.cloud.admin.main
import secondlook.cloud.admin.queue.main
import secondlook.cloud.admin.users.main
import secondlook.cloud.admin.webhooks.main
import secondlook.cloud.bench.main
import secondlook.cloud.demo.main
import secondlook.cloud.pull.main
from secondlook.shared.flags import Flag, add_flags

if TYPE_CHECKING:
    from secondlook.cloud.config import CloudConfig
    from secondlook.cloud.notify.sinks import Sink
    from secondlook.cloud.workers.machinefilter import MachineFilter

# The thread that speaks to NATS has little to do, often; by default it would wait 5 ms for each turn.
_SWITCH_SECONDS = 0.0005

_SCHEMA = "secondlook.cloud.config:CloudConfig"

_DATA_DIR: Flag = ("--data-dir", "data_dir", Path, "folder of queue, catalogue and blobs")
_STORES: tuple[Flag, ...] = (
    _DATA_DIR,
    ("--catalogue", "catalogue", str, "SQLAlchemy URL of the catalogue"),
    ("--blobs", "blobs", str, "folder or fsspec URL of the blobs"),
)
_BROKER: tuple[Flag, ...] = (
    ("--gateway", "broker.address", str, "where the gateway serves workers, tcp://HOST:PORT"),
    ("--server-public-key", "broker.server_public_key_file", Path, "file with the gateway's public key"),
    ("--secret-key", "broker.secret_key_file", Path, "file with this worker's key pair"),
)
_HEALTH: Flag = ("--health", "health.address", str, "HOST:PORT where /healthz and /readyz answer, by HTTP")
_METRICS: Flag = (
    "--metrics",
    "metrics.address",
    str,
    "HOST:PORT that serves /metrics, /healthz and /readyz, by HTTP",
)
_LONG_STALL_SECONDS = 300.0  # as in the units: the post-filter takes its time on a CPU
_GATEWAY_FLAGS: tuple[Flag, ...] = (
    _DATA_DIR,
    ("--queue", "queue", str, "address of a JetStream queue, nats://HOST:PORT/NAME"),
    ("--ledger", "ledger", str, "PostgreSQL URL of ledger and requests"),
    ("--blobs", "blobs", str, "folder or fsspec URL of the blobs"),
    ("--listen", "gateway.edge_address", str, "address for camera hosts, tcp://HOST:PORT"),
    ("--listen-workers", "broker.address", str, "address for workers and refiners, tcp://HOST:PORT"),
    ("--secret-key", "gateway.secret_key_file", Path, "file with the gateway's key pair"),
    ("--registry", "gateway.registry_file", Path, "file with the keys that may connect"),
    _HEALTH,
    _METRICS,
)
_WORKER_FLAGS: tuple[Flag, ...] = (
    *_STORES,
    *_BROKER,
    ("--model", "worker.codec", str, "codec: name of a model, or a model folder"),
    (
        "--detector",
        "worker.detector",
        str,
        "auto, builtin, the name of a model or of a package's detector, an .onnx export, or ultralytics weights",
    ),
    ("--threads", "worker.threads", int, "threads of each model, 0 = one per core"),
    ("--device", "worker.device", str, "where networks run: auto, cpu, cuda or cuda:N"),
    _HEALTH,
    _METRICS,
)
_REFINER_FLAGS: tuple[Flag, ...] = (
    *_STORES,
    *_BROKER,
    ("--model", "refiner.codec", str, "codec: name of a model, or a model folder"),
    (
        "--postfilter",
        "refiner.postfilter",
        str,
        "rrdb-l1, rrdb-l2, rrdb-fast, a model folder, or one of a package",
    ),
    ("--threads", "refiner.threads", int, "threads of each model, 0 = one per core"),
    ("--device", "refiner.device", str, "where networks run: auto, cpu, cuda or cuda:N"),
    ("--precision", "refiner.precision", str, "of the post-filter: auto, exact (float32) or fast (bfloat16)"),
    _HEALTH,
    _METRICS,
)
_STATION_FLAGS: tuple[Flag, ...] = (
    *_STORES,
    ("--host", "station.host", str, "interface to listen on"),
    ("--port", "station.port", int, "port to listen on, 0 for any free one"),
    ("--tls-certificate", "station.tls_certificate_file", Path, "certificate chain, PEM"),
    ("--tls-key", "station.tls_key_file", Path, "key of the certificate, PEM"),
    _METRICS,
)
_NOTIFY_FLAGS: tuple[Flag, ...] = (*_STORES, _HEALTH, _METRICS)
_RETENTION_FLAGS: tuple[Flag, ...] = (
    *_STORES,
    ("--interval", "retention.interval_seconds", float, "seconds between two runs"),
    _HEALTH,
    _METRICS,
)


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-commands."""
    gateway = subparsers.add_parser(
        "gateway",
        help="receive frames from camera hosts",
        description="Receive frames from camera hosts, keep them in a durable queue, and serve workers.",
    )
    add_flags(gateway, _GATEWAY_FLAGS, _SCHEMA)
    gateway.set_defaults(run=run_gateway)
    worker = subparsers.add_parser(
        "worker",
        help="look for objects in received frames",
        description="Decode the base layers of received frames, look for objects, and choose what people review.",
    )
    add_flags(worker, _WORKER_FLAGS, _SCHEMA)
    worker.set_defaults(run=run_worker)
    refiner = subparsers.add_parser(
        "refiner",
        help="fetch and refine frames for review",
        description="Fetch the enhancement layers of frames that people should review, and refine their images.",
    )
    add_flags(refiner, _REFINER_FLAGS, _SCHEMA)
    refiner.set_defaults(run=run_refiner)
    station = subparsers.add_parser(
        "station",
        help="serve the review station",
        description="Serve the web page on which people review frames.",
    )
    add_flags(station, _STATION_FLAGS, _SCHEMA)
    station.set_defaults(run=run_station)
    notify = subparsers.add_parser(
        "notify",
        help="tell other systems what happens",
        description="Tell other systems and people what happens, by signed webhooks, e-mail and MQTT. The settings are "
        "in [notify], [[webhook]], [[email]] with [smtp], and [mqtt]; of several processes on one catalogue one sends, "
        "and the others stand by.",
    )
    add_flags(notify, _NOTIFY_FLAGS, _SCHEMA)
    notify.set_defaults(run=run_notify)
    retention = subparsers.add_parser(
        "retention",
        help="delete what has been kept long enough",
        description="Delete frames, pictures and tombstones that have been kept for as long as was set, or that the "
        "disk has no room for. Undecided reviews are never deleted. The settings are in [retention].",
    )
    add_flags(retention, _RETENTION_FLAGS, _SCHEMA)
    retention.add_argument(
        "--once", action="store_true", help="one run, then print its figures as JSON and end"
    )
    retention.add_argument(
        "--dry-run", action="store_true", help="change nothing; print as JSON what one run would delete"
    )
    retention.set_defaults(run=run_retention)
    secondlook.cloud.admin.main.register(subparsers)
    secondlook.cloud.admin.catalogue.register(subparsers)
    secondlook.cloud.admin.backups.register(subparsers)
    secondlook.cloud.admin.users.main.register(subparsers)
    secondlook.cloud.admin.queue.main.register(subparsers)
    secondlook.cloud.admin.webhooks.main.register(subparsers)
    secondlook.cloud.demo.main.register(subparsers)
    secondlook.cloud.bench.main.register(subparsers)
    secondlook.cloud.pull.main.register(subparsers)


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
    with serve_health(config.health, watchdog, telling=config.metrics), Gateway(config) as gateway:
        log = logging.getLogger(__name__)
        log.info("camera hosts connect to %s, workers to %s", gateway.edge_address, gateway.broker_address)
        watchdog.ready()
        beat = _reloading(
            args, _GATEWAY_FLAGS, config, watchdog.heartbeat, ("watch",), lambda new: gateway.watch(new.watch)
        )
        gateway.run(stop, beat, watchdog.waits)
        watchdog.stopping()
    return 0


def run_worker(args: argparse.Namespace) -> int:
    """Work until told to stop. Returns 0."""
    from secondlook.cloud.catalogue import open_catalogue
    from secondlook.cloud.storage.blobs import open_blobs
    from secondlook.cloud.workers.broker_client import BrokerClient
    from secondlook.cloud.workers.detectors import load_detector
    from secondlook.cloud.workers.labels import check_labels
    from secondlook.cloud.workers.machine import MachineWorker
    from secondlook.cloud.workers.presence import told_of
    from secondlook.shared.codec import load_codec
    from secondlook.shared.health import serve_health
    from secondlook.shared.inference import tell_providers
    from secondlook.shared.watchdog import Watchdog

    config = _load(args, _WORKER_FLAGS, "worker")
    stop = _stop_event()
    watchdog = Watchdog.from_environment(os.environ)
    threads, device = config.worker.threads, config.worker.device
    name = _worker_name()
    with (
        serve_health(config.health, watchdog, telling=config.metrics),
        BrokerClient(config.broker, name) as broker,
    ):
        codec = load_codec(config.worker.codec, threads=threads, device=device)
        detector = load_detector(config.worker.detector, threads=threads, device=device)
        check_labels(config.policy, detector.name, detector.classes)
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
            watch=config.watch,
            machine_filter=_machine_filter(config),
        )
        worker.heartbeat = _reloading(
            args,
            _WORKER_FLAGS,
            config,
            watchdog.heartbeat,
            ("policy",),
            lambda new: setattr(worker, "policy", new.policy),
        )
        watchdog.ready()
        told = told_of(
            config.broker,
            name,
            "worker",
            watchdog,
            lambda: worker.done,
            tell_providers(),
            shed=lambda: worker.shed,
        )
        with told:
            worker.run(stop)
        watchdog.stopping()
    catalogue.close()
    return 0


def _machine_filter(config: CloudConfig) -> MachineFilter | None:
    from secondlook.cloud.workers.machinefilter import load_machine_filter

    name, threads, device = config.worker.machine_filter, config.worker.threads, config.worker.device
    if name == "none":
        return None
    opened = load_machine_filter(name, threads=threads, device=device, precision="auto")
    logging.getLogger(__name__).info("frames of video go through %s first", opened.identity)
    return opened


def run_refiner(args: argparse.Namespace) -> int:
    """Work until told to stop. Returns 0."""
    from secondlook.cloud.catalogue import open_catalogue
    from secondlook.cloud.storage.blobs import open_blobs
    from secondlook.cloud.workers.broker_client import BrokerClient
    from secondlook.cloud.workers.detectors import load_detector
    from secondlook.cloud.workers.postfilter import load_postfilter
    from secondlook.cloud.workers.presence import told_of
    from secondlook.cloud.workers.redetector import Redetector
    from secondlook.cloud.workers.refiner import Refiner
    from secondlook.shared.codec import load_codec
    from secondlook.shared.health import serve_health
    from secondlook.shared.inference import tell_providers
    from secondlook.shared.watchdog import Watchdog

    config = _load(args, _REFINER_FLAGS, "refiner")
    stop = _stop_event()
    watchdog = Watchdog.from_environment(os.environ)
    threads, device = config.refiner.threads, config.refiner.device
    name = _worker_name()
    with (
        serve_health(config.health, watchdog, _LONG_STALL_SECONDS, config.metrics),
        BrokerClient(config.broker, name) as broker,
    ):
        codec = load_codec(config.refiner.codec, threads=threads, device=device)
        postfilter = load_postfilter(
            config.refiner.postfilter, threads=threads, device=device, precision=config.refiner.precision
        )
        catalogue, blobs = open_catalogue(config.catalogue_url), open_blobs(config.blobs_url)
        logging.getLogger(__name__).info("refining with %s", postfilter.identity)
        redetector = Redetector(
            config.policy, lambda: load_detector(config.worker.detector, threads=threads, device=device)
        )
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
            redetector=redetector,
        )
        refiner.heartbeat = _reloading(
            args,
            _REFINER_FLAGS,
            config,
            watchdog.heartbeat,
            ("policy",),
            lambda new: setattr(redetector, "policy", new.policy),
        )
        watchdog.ready()
        with told_of(config.broker, name, "refiner", watchdog, lambda: refiner.done, tell_providers()):
            refiner.run(stop)
        watchdog.stopping()
    catalogue.close()
    return 0


def run_retention(args: argparse.Namespace) -> int:
    """Delete now and then until told to stop, or once. Returns 0."""
    from secondlook.cloud.catalogue import open_catalogue
    from secondlook.cloud.retention import Reserve, Retainer
    from secondlook.cloud.storage.blobs import open_blobs
    from secondlook.shared.files import make_folder
    from secondlook.shared.health import serve_health
    from secondlook.shared.watchdog import Watchdog

    config = _load(args, _RETENTION_FLAGS, "retention")
    stop = _stop_event()
    catalogue, blobs = open_catalogue(config.catalogue_url), open_blobs(config.blobs_url)
    watchdog = Watchdog.from_environment(os.environ)
    make_folder(config.data_dir)
    status, reserve = config.data_dir / "retention.json", Reserve(config.data_dir / "retention.reserve")
    retainer = Retainer(
        catalogue,
        blobs,
        config.retention,
        status=status,
        reserve=reserve,
        stop=stop,
        heartbeat=watchdog.heartbeat,
        waits=watchdog.waits,
    )
    if args.once or args.dry_run:
        print(json.dumps(retainer.run_once(dry_run=args.dry_run).as_dict(), indent=2))
    else:
        # One step may wait for the database, and for blobs.
        with serve_health(config.health, watchdog, _LONG_STALL_SECONDS, config.metrics):
            retainer.heartbeat = _reloading(
                args,
                _RETENTION_FLAGS,
                config,
                watchdog.heartbeat,
                ("retention",),
                lambda new: retainer.configure(new.retention),
            )
            watchdog.ready()
            retainer.run()
            watchdog.stopping()
    catalogue.close()
    return 0


def run_notify(args: argparse.Namespace) -> int:
    """Tell until told to stop. Returns 0."""
    from secondlook.cloud.catalogue import open_catalogue
    from secondlook.cloud.notify.mail import Email
    from secondlook.cloud.notify.sender import Notifier
    from secondlook.cloud.notify.sinks import Webhook
    from secondlook.shared.errors import ConfigError
    from secondlook.shared.health import serve_health
    from secondlook.shared.watchdog import Watchdog

    config = _load(args, _NOTIFY_FLAGS, "notify")
    stop = _stop_event()
    sinks: list[Sink] = [Webhook(webhook) for webhook in config.webhook]
    sinks += [Email(email, config.smtp) for email in config.email]
    if config.mqtt.host:
        sinks.append(_open_broker(config))
    if not sinks:
        raise ConfigError("nobody is to be told: set [[webhook]], [[email]] or mqtt.host")
    # Every request would be a line.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    watchdog = Watchdog.from_environment(os.environ)
    catalogue = open_catalogue(config.catalogue_url)
    with serve_health(config.health, watchdog, _LONG_STALL_SECONDS, config.metrics):
        notifier = Notifier(
            catalogue,
            sinks,
            config.notify,
            owner=_worker_name(),
            stop=stop,
            heartbeat=_reloading(args, _NOTIFY_FLAGS, config, watchdog.heartbeat),
            waits=watchdog.waits,
        )
        watchdog.ready()
        logging.getLogger(__name__).info("telling %s", ", ".join(sink.name for sink in sinks))
        notifier.run()
        watchdog.stopping()
    for sink in sinks:
        sink.close()
    catalogue.close()
    return 0


def _open_broker(config: CloudConfig) -> Sink:
    from secondlook.shared.errors import ConfigError

    try:
        from secondlook.cloud.notify.mqtt import Broker
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed: pip install 'secondlook[mqtt]'") from error
    return Broker(config.mqtt)


def run_station(args: argparse.Namespace) -> int:
    """Serve until told to stop. Returns 0."""
    from secondlook.cloud.catalogue import open_catalogue
    from secondlook.cloud.catalogue.figures import reviews_watched
    from secondlook.cloud.config import LOOPBACK_NAMES, parse_origin
    from secondlook.cloud.station.app import create_app
    from secondlook.cloud.station.server import Certificate, check_certificate, listen, serve
    from secondlook.shared.alerts import open_alerts
    from secondlook.shared.codec import load_codec
    from secondlook.shared.health import STALL_SECONDS, HealthConfig, serve_health
    from secondlook.shared.reload import ask_for_restart
    from secondlook.shared.watchdog import Watchdog

    config = _load(args, _STATION_FLAGS, "station")
    station, certificate = config.station, None
    if station.tls_certificate_file is not None and station.tls_key_file is not None:
        certificate = Certificate(station.tls_certificate_file, station.tls_key_file)
        check_certificate(certificate)
    # The port first: it is what most often fails, and the socket says which one "any" became.
    with listen(station.host, station.port) as listener:
        host, port = listener.getsockname()[:2]
        watchdog = Watchdog.from_environment(os.environ)
        app = create_app(
            catalogue_url=config.catalogue_url,
            blobs_url=config.blobs_url,
            title=station.title,
            claim_seconds=station.claim_seconds,
            learned_filter=station.learned_filter,
            double_share=config.review.double_share,
            known_share=config.review.known_share,
            doubt=(config.policy.uncertain_low, config.policy.uncertain_high),
            codec=lambda: load_codec(config.refiner.codec, threads=1),
            max_pixels=config.refiner.max_pixels,
            allowed_hosts=(*LOOPBACK_NAMES, station.host, *station.allowed_hosts),
            exposed=station.is_exposed,
            trusted_proxies=station.trusted_proxies,
            session=station.session,
            login=station.login,
            api=station.api,
            silent_seconds=config.notify.silent_seconds,
            stalled_seconds=config.watch.silent_seconds,
            origins=tuple(map(parse_origin, station.origins)),
            root_path=station.root_path,
            instance=station.instance(port),
            watchdog=watchdog,
            stall_seconds=config.health.stall_seconds or STALL_SECONDS,
        )
        logging.getLogger(__name__).info(
            "open %s://%s:%d/", "http" if certificate is None else "https", host, port
        )
        _stop_event()
        ask_for_restart()
        alert = open_alerts(config.watch, config.smtp, "station")
        # Its health is on its own port; here are its metrics.
        with (
            serve_health(HealthConfig(), watchdog, telling=config.metrics),
            reviews_watched(lambda: open_catalogue(config.catalogue_url), config.policy, config.watch, alert),
        ):
            serve(app, listener, certificate, station.connections)
    return 0


def _load(args: argparse.Namespace, flags: tuple[Flag, ...], role: str) -> CloudConfig:
    """Settings of file, environment and flags; log lines begin to flow."""
    from secondlook.shared.logs import set_up_logs
    from secondlook.shared.tracing import set_up_tracing

    config = _read(args, flags)
    _keep_secrets(args, flags, config, role)
    set_up_logs(config.log, role)
    set_up_tracing(config.tracing, role, os.environ)
    return config


def _read(args: argparse.Namespace, flags: tuple[Flag, ...]) -> CloudConfig:
    from secondlook.cloud.config import CloudConfig
    from secondlook.shared.config import load

    names = {setting: flag for flag, setting, *_ in flags}
    given = {setting: getattr(args, setting) for setting in names}
    return load(args.config, CloudConfig, given, os.environ, flag_names=names)


def _reloading(
    args: argparse.Namespace,
    flags: tuple[Flag, ...],
    config: CloudConfig,
    beat: Callable[[], None],
    safe: Sequence[str] = (),
    taken: Callable[[CloudConfig], None] = lambda config: None,
) -> Callable[[], None]:
    """A heartbeat that also takes, after a SIGHUP, what can change: [log], and the tables in ``safe``."""
    from secondlook.shared.logs import configure_logs
    from secondlook.shared.reload import Reloader

    reloader = Reloader(config, lambda: _read(args, flags), ("log", *safe))

    def beating() -> None:
        beat()
        if (new := reloader.take()) is not None:
            configure_logs(new.log)
            taken(new)

    return beating


def _keep_secrets(args: argparse.Namespace, flags: tuple[Flag, ...], config: CloudConfig, role: str) -> None:
    """Refuse passwords where other users of this machine can read them. Raises ConfigError, SecretExposed."""
    from secondlook.cloud.storage.addresses import has_secret
    from secondlook.shared.config import variable
    from secondlook.shared.errors import ConfigError
    from secondlook.shared.keyfiles import check_private

    for flag, setting, *_ in flags:
        given = getattr(args, setting)
        if isinstance(given, str) and has_secret(given):
            raise ConfigError(
                f"{flag}: everybody can read a command line; put this address into the --config file, or into "
                f"the environment as {variable(setting)}"
            )
    # Only a gateway speaks to the queue's server; the others share its configuration, not its key.
    files = [config.jetstream.nkey_file if role == "gateway" else None]
    # What the environment gave is for its owner's eyes, whoever may read the file.
    in_file = (
        name for name in ("queue", "ledger", "catalogue", "blobs") if not os.environ.get(variable(name))
    )
    if any(has_secret(getattr(config, name) or "") for name in in_file):
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
    from secondlook.shared.stop import Stop

    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _worker_name() -> str:
    return f"{socket.gethostname()[:64]}-{os.getpid()}"

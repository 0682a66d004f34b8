"""Checks of the cloud's side: keys and their registry, ports, databases and their versions, blobs, the gateway."""

from __future__ import annotations

import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from secondlook.cloud.config import CloudConfig
from secondlook.operate.findings import Finding, fault, ok, skipped, warning
from secondlook.operate.host import (
    check_device,
    check_disk,
    check_folder,
    check_key_file,
    check_mail,
    check_model,
    is_listening,
)
from secondlook.shared.address import is_loopback
from secondlook.shared.errors import SecondlookError
from secondlook.shared.settings import Endpoint

_ANSWER_SECONDS = 3.0
_SOON_SECONDS = 3 * 86_400.0  # a key that ends within this is told of


def check_cloud(file: Path, config: CloudConfig) -> Iterator[Finding]:
    yield ok("cloud settings", str(file))
    yield check_model("worker codec", config.worker.codec, "codec")
    yield check_model("refiner codec", config.refiner.codec, "codec")
    yield check_model("refiner post-filter", config.refiner.postfilter)
    yield _check_detector(config)
    yield check_device("worker device", config.worker.device)
    yield from check_folder("cloud data", config.data_dir, config.watch)
    yield from _check_keys(config)
    yield from _check_stores(config)
    yield from _check_gateway(config)
    yield from _check_station(config)
    yield from check_mail(config.smtp)


def _check_detector(config: CloudConfig) -> Finding:
    from secondlook.cloud.workers.detectors import load_detector

    try:
        detector = load_detector(config.worker.detector, threads=1, device="cpu")
    except SecondlookError as error:
        return fault(
            "worker detector", str(error), '`secondlook models fetch`, or worker.detector = "builtin"'
        )
    return ok("worker detector", f"{detector.name}, {len(detector.classes)} classes")


def _check_keys(config: CloudConfig) -> Iterator[Finding]:
    from secondlook.cloud.gateway.keys import Registry
    from secondlook.shared.keyfiles import read_public_key

    gateway, broker = config.gateway, config.broker
    yield from check_key_file("gateway key", gateway.secret_key_file, secret=True)
    yield from check_key_file("workers' gateway key", broker.server_public_key_file, secret=False)
    yield from check_key_file("worker key", broker.secret_key_file, secret=True)
    if gateway.registry_file is None:
        return
    try:
        entries = Registry(gateway.registry_file).entries
    except SecondlookError as error:
        yield fault(
            "key registry", str(error), f"chown secondlook {gateway.registry_file}, or put back a copy"
        )
        return
    now = time.time()
    names = sorted({one.name for one in entries})
    for name in names:
        own = [one for one in entries if one.name == name]
        lasting = [one for one in own if one.in_force(now) and one.valid_until is None]
        ending = [one.valid_until for one in own if one.in_force(now) and one.valid_until is not None]
        ended = [one for one in own if not one.revoked and not one.in_force(now)]
        if not lasting and ending and max(ending) - now < _SOON_SECONDS:
            hours = (max(ending) - now) / 3600
            yield warning(
                f"key of {name}", f"its last key ends in {hours:.1f} hours", f"secondlook keys rotate {name}"
            )
        elif not lasting and not ending and ended:
            yield fault(f"key of {name}", "its key has ended", f"secondlook keys new {name}")
    yield ok("key registry", f"{gateway.registry_file}: {len(names)} names, {len(entries)} keys")
    if broker.secret_key_file is not None and broker.secret_key_file.exists():
        try:
            own_key = read_public_key(broker.secret_key_file).decode()
        except SecondlookError:
            return  # told above
        if not any(one.public_key == own_key and one.in_force(now) for one in entries):
            yield fault(
                "worker key", "it is not in force in the registry", "secondlook keys list, then add or rotate"
            )


def _check_stores(config: CloudConfig) -> Iterator[Finding]:
    from secondlook.cloud.catalogue.migrate import current_schema
    from secondlook.cloud.storage.addresses import redacted
    from secondlook.cloud.storage.sql import named_errors, open_engine

    for what, url in (("catalogue", config.catalogue_url), ("ledger", config.ledger_url)):
        if url is None:
            continue
        if (path := sqlite_path(url)) is not None and not path.exists():
            yield skipped(what, f"{path} is not there yet; it is made at the first start")
            continue
        try:
            engine = open_engine(url, what)
            with named_errors(engine, what), engine.connect() as connection:
                version = connection.dialect.server_version_info or ()
                named = f"{connection.dialect.name} {'.'.join(map(str, version))}"
            schema = None if what == "ledger" else current_schema(engine)
            engine.dispose()
        except SecondlookError as error:
            yield fault(
                what,
                str(error),
                "is the database up, its address and password right, and its schema known here?",
            )
            continue
        shown = f"{named} at {redacted(url)}"
        if schema is not None and schema.missing:
            cure = "`secondlook catalogue upgrade`, after a backup"
            yield warning(what, f"{shown}: {len(schema.missing)} migrations are missing", cure)
        else:
            yield ok(what, shown if schema is None else f"{shown}, schema {schema.revision}")
    yield from _check_gateway_file(config)
    yield from _check_blobs(config)


def _check_gateway_file(config: CloudConfig) -> Iterator[Finding]:
    from secondlook.cloud.storage.queue_sqlite import VERSION as QUEUE_VERSION

    path = config.database
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as database:
            (version,) = database.execute("PRAGMA user_version").fetchone()
    except sqlite3.Error as error:
        yield fault("gateway file", f"{path}: {error}", "put back a backup (docs/operations.md)")
        return
    told = f"{path}, queue version {version}, SQLite {sqlite3.sqlite_version}"
    if version > QUEUE_VERSION:
        cure = "install the program that wrote it, or put back a backup (docs/operations.md)"
        yield fault("gateway file", f"{told}: this program knows {QUEUE_VERSION}", cure)
    else:
        yield ok("gateway file", told)


def _check_blobs(config: CloudConfig) -> Iterator[Finding]:
    from secondlook.cloud.storage.blobs import open_blobs

    folder = Path(config.blobs_url)
    if "://" not in config.blobs_url:
        if folder.exists():
            yield from check_disk(folder, config.watch)
        return
    try:
        blobs = open_blobs(config.blobs_url)
        blobs.exists("base/doctor/doctor/0.slk")
    except SecondlookError as error:
        yield fault("blobs", str(error), "is the store up, and are its address and credentials right?")
        return
    yield ok("blobs", "the store answers")


def ask_gateway(config: CloudConfig) -> dict[str, Any]:
    """What a running gateway tells. Raises GatewayUnreachable, ConfigError, KeyRejected."""
    from secondlook.cloud.workers.broker_client import BrokerClient

    with BrokerClient(replace(config.broker, timeout_seconds=_ANSWER_SECONDS), "status") as line:
        return line.stats()


def _check_gateway(config: CloudConfig) -> Iterator[Finding]:
    address = config.broker.address
    try:
        stats = ask_gateway(config)
    except SecondlookError as error:
        port = Endpoint.port(address)
        if is_loopback(address) and port is not None and is_listening("127.0.0.1", port):
            text = f"something listens at {address} and does not answer as a gateway does"
            yield fault("gateway", text, f"see who has the port: ss -ltnp 'sport = :{port}'")
        else:
            cure = "systemctl status secondlook-gateway; beyond this machine, [broker] wants the keys of a worker"
            yield fault("gateway", str(error), cure)
        return
    edges = stats["edges"]
    connected = sum(bool(one["channels"]) for one in edges)
    yield ok(
        "gateway",
        f"{address} answers: {connected} of {len(edges)} camera hosts connected, {stats['depth']} queued",
    )
    roles = {one["role"] for one in stats.get("workers", ()) if one["silent_seconds"] < 15}
    for role in ("worker", "refiner"):
        if role not in roles:
            yield warning(role, "none is heard by the gateway", f"systemctl status 'secondlook-{role}@*'")
    for one in stats.get("conditions", ()):
        made = fault if one["severity"] == "critical" else warning
        yield made(one["name"], one["text"], one["cure"])


def station_answer(config: CloudConfig) -> str | None:
    """None where the station is live, else what is wrong with it."""
    station = config.station
    host = station.host if station.host not in ("0.0.0.0", "::", "*") else "127.0.0.1"
    scheme = "http" if station.tls_certificate_file is None else "https"
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{station.port}{station.root_path}/healthz"
    try:
        import ssl

        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = (
            False,
            ssl.CERT_NONE,
        )  # it is asked whether it lives, no more
        with urllib.request.urlopen(url, timeout=_ANSWER_SECONDS, context=context):
            return None
    except urllib.error.HTTPError as error:
        error.close()
        return None if error.code < 500 else f"it answers {error.code}: it hangs"
    except (OSError, ValueError) as error:
        return f"no answer at {url} ({getattr(error, 'reason', error)})"


def _check_station(config: CloudConfig) -> Iterator[Finding]:
    wrong = station_answer(config)
    if wrong is None:
        yield ok("station", f"port {config.station.port} answers")
    else:
        yield warning(
            "station", wrong, "systemctl status secondlook-station; where it runs elsewhere, ask there"
        )


def sqlite_path(url: str) -> Path | None:
    """The file of a SQLite URL; None for other databases."""
    from sqlalchemy.engine import make_url

    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    return Path(parsed.database)

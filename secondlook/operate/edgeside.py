"""Checks of a camera host: its camera, its keys, its spool, its way to the gateway."""

from __future__ import annotations

import fcntl
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

from secondlook.edge.config import EdgeConfig
from secondlook.operate.findings import Finding, fault, ok, skipped, warning
from secondlook.operate.host import check_device, check_folder, check_key_file, check_mail, check_model
from secondlook.shared.conditions import shown
from secondlook.shared.errors import KeyRejected, SecondlookError, SourceError

_FRESH_SECONDS = 10.0  # a status file older than that is of an agent that runs no more
_CURES = {
    "SourceUnauthorized": "put the right USER:PASSWORD into source.credentials_file",
    "SourceHostUnknown": "check the host's name in source.address, and this host's DNS",
    "SourceUnreachable": "check that the camera is on, its address and port, and the network between",
    "SourceNotFound": "check the path in source.address",
    "SourceStalled": 'check the camera; on Wi-Fi try source.transport = "tcp"',
    "DecoderUnavailable": 'set source.hwaccel to "auto" or "none" (docs/sources.md)',
    "SourceUnsupported": "choose another stream or format of the camera (docs/sources.md)",
}


def check_edge(file: Path, config: EdgeConfig, *, with_rate: bool) -> Iterator[Finding]:
    """All that can be said of one agent; a camera that a running agent has is not opened beside it."""
    name = config.edge_id
    yield ok(f"{name} settings", str(file))
    yield check_model(f"{name} codec", config.codec.model, "codec")
    yield check_device(f"{name} device", config.codec.device)
    yield from _check_masks(name, config)
    yield from check_folder(f"{name} data", config.data_dir, config.watch)
    yield from _check_spool(name, config.data_dir)
    running = is_running(config.data_dir)
    yield from _check_status(name, config, running=running)
    yield skipped(f"{name} camera", "the running agent has it") if running else _check_camera(name, config)
    yield from check_key_file(f"{name} key", config.link.secret_key_file, secret=True)
    yield from check_key_file(f"{name} gateway's key", config.link.server_public_key_file, secret=False)
    yield from _check_link(name, config, with_rate=with_rate)
    yield from check_mail(config.smtp)


def is_running(data_dir: Path) -> bool:
    """Whether an agent holds the lock of this folder."""
    try:
        with (data_dir / "agent.lock").open("rb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False
    except OSError:
        return False


def read_status(data_dir: Path) -> dict[str, Any] | None:
    """What the agent said of itself last, with its age in seconds as ``age_seconds``; None where there is nothing."""
    try:
        status: dict[str, Any] = json.loads((data_dir / "status.json").read_text())
        told = datetime.fromisoformat(status["time"]).timestamp()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return {**status, "age_seconds": max(0.0, time.time() - told)}


def _check_status(name: str, config: EdgeConfig, *, running: bool) -> Iterator[Finding]:
    status = read_status(config.data_dir)
    if status is None:
        yield skipped(f"{name} agent", "it has not run with this data folder yet")
        return
    if not running:
        age = shown(status["age_seconds"], "seconds")
        cure = "systemctl status secondlook-edge; its log says why it ended"
        yield fault(f"{name} agent", f"it does not run; it told of itself {age} ago", cure)
        return
    if status["age_seconds"] > _FRESH_SECONDS:
        age = shown(status["age_seconds"], "seconds")
        yield fault(
            f"{name} agent",
            f"it runs, and has told nothing for {age}",
            "restart it; systemd's watchdog would",
        )
        return
    yield ok(
        f"{name} agent",
        f"source {status['source']}, link {status['link']}, {status['captured']} frames captured",
    )
    for one in status.get("conditions", ()):
        made = fault if one["severity"] == "critical" else warning
        yield made(f"{name} {one['name']}", one["text"], one["cure"])


def _check_spool(name: str, folder: Path) -> Iterator[Finding]:
    path = folder / "spool.db"
    if not path.exists():
        return
    from secondlook.edge.spoolschema import SCHEMA_VERSION

    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as spool:
            (version,) = spool.execute("PRAGMA user_version").fetchone()
            (waiting,) = spool.execute("SELECT count(*) FROM frames WHERE safe = 0").fetchone()
    except sqlite3.Error as error:
        yield fault(f"{name} spool", f"{path}: {error}", "see docs/troubleshooting.md, a damaged spool")
        return
    if version > SCHEMA_VERSION:
        text = f"{path} has version {version}, this program knows {SCHEMA_VERSION}"
        yield fault(f"{name} spool", text, "install the version of the program that wrote it, or a later one")
    else:
        yield ok(f"{name} spool", f"version {version}, {waiting} frames wait")


def _check_masks(name: str, config: EdgeConfig) -> Iterator[Finding]:
    """Whether what is to be masked can be found: else the agent captures nothing."""
    classes = config.regions.mask_classes
    if not classes:
        return
    from secondlook.edge.coding.classmasks import PrivacyMasks
    from secondlook.edge.coding.regions import Regions

    try:
        PrivacyMasks.open(config, Regions(config.regions))
    except SecondlookError as error:
        yield fault(f"{name} masks", str(error), "set regions.mask_model and mask_classes (docs/sources.md)")
    else:
        yield ok(f"{name} masks", f"{', '.join(classes)}, found by {config.regions.mask_model}")


def _check_camera(name: str, config: EdgeConfig) -> Finding:
    from secondlook.edge.coding.snapshot import first_frame
    from secondlook.edge.source.sources import shown as shown_address

    began = time.monotonic()
    try:
        frame = first_frame(config.source)
    except SourceError as error:
        cure = _CURES.get(type(error).__name__, "see docs/sources.md")
        return fault(f"{name} camera", str(error), cure)
    height, width = frame.image.shape[:2]
    seconds = time.monotonic() - began
    return ok(
        f"{name} camera", f"{shown_address(config.source.address)}: {width}x{height} after {seconds:.1f} s"
    )


def _check_link(name: str, config: EdgeConfig, *, with_rate: bool) -> Iterator[Finding]:
    from secondlook.edge.link.probe import probe_link

    try:
        link = probe_link(config, with_rate=with_rate)
    except KeyRejected as error:
        cure = (
            "at the gateway, `secondlook keys list`: register, rotate or let it in again (`keys admit`); here,"
            " compare link.server_public_key_file with the gateway's NAME.key"
        )
        yield fault(f"{name} link", str(error), cure)
        return
    except SecondlookError as error:
        yield fault(f"{name} link", str(error), "is the gateway up, its port open, and link.gateway right?")
        return
    rate = "" if link.kbps is None else f", about {link.kbps:.0f} kbit/s up"
    yield ok(
        f"{name} link", f"{config.link.gateway}: round trip {link.round_trip_seconds * 1000:.0f} ms{rate}"
    )
    if abs(link.clock_offset_seconds) > config.watch.clock_seconds:
        text = f"the gateway's is {link.clock_offset_seconds:+.1f} s off this host's"
        yield fault(f"{name} clock", text, "let both follow a time server")
    bound = config.rate.uplink_kbps
    if link.kbps is not None and bound is not None and link.kbps < bound * 0.8:
        text = f"it carried {link.kbps:.0f} kbit/s, and rate.uplink_kbps is {bound:g}"
        yield warning(
            f"{name} rate", text, "set rate.uplink_kbps to what the link carries (docs/thin-links.md)"
        )

"""The settings of a chaos run: short times, small stores, every socket with keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from secondlook.cloud.demo.settings import to_toml
from tests.cloud.servers import nats_version

if TYPE_CHECKING:
    from tests.chaos.fleet import Fleet

EDGES = ("edge-0", "edge-1")
WORKERS = ("worker-0", "worker-1")
_VIDEO_FRAMES = 9000
_FPS = 5


def write_settings(fleet: Fleet) -> None:
    """Files for all processes of `fleet`, and what its cameras see, in its folder."""
    for name in fleet.gateways:
        file = fleet.folder / f"{name}.toml"
        file.touch(0o600)  # it may name a password
        file.write_text(to_toml(_cloud_settings(fleet, name)))
    if fleet.backend != "sqlite":
        (fleet.folder / "nats.conf").write_text(_nats_settings(fleet.nats_port, fleet.cloud / "nats"))
    video = fleet.folder / "scene.avi"
    _write_video(video)
    for number, name in enumerate(EDGES):
        # The second one has little room, and so a reason for tombstones whenever its link is down.
        small = {"max_bytes": 15_000, "drop": "keep-keys"} if number else {}
        settings = _edge_settings(fleet, name, video, {"min_free_bytes": 0, **small})
        (fleet.folder / f"{name}.toml").write_text(to_toml(settings))


def _cloud_settings(fleet: Fleet, gateway: str) -> dict[str, Any]:
    """Of one gateway, and of the workers and refiners that connect to it."""
    several = len(fleet.gateways) > 1
    return {
        "data_dir": str(fleet.cloud / gateway if several else fleet.cloud),
        "queue": None if fleet.backend == "sqlite" else f"nats://127.0.0.1:{fleet.nats_port}",
        "catalogue": fleet.catalogue_url,
        "blobs": fleet.blobs_url,
        "gateway": {
            # Of all interfaces, for camera hosts may live in namespaces of their own.
            "edge_address": f"tcp://0.0.0.0:{fleet.gateway_ports[gateway]}",
            "secret_key_file": str(fleet.folder / "gateway.key_secret"),
            "registry_file": str(fleet.folder / "registry.json"),
        },
        "gateway.limits": {"stall_seconds": 0.5},
        # A NATS server refuses a stream that may grow beyond its store, and the disks here are small.
        "gateway.queue": {"max_bytes": 8 << 20},
        "gateway.requests": {"lease_seconds": 3.0, "busy_seconds": 0.5},
        "broker": {"address": fleet.broker_address(gateway), "timeout_seconds": 3.0},
        "policy": {"every_nth": 15, "max_open_reviews": 100_000, "max_open_reviews_of_camera": 100_000},
        "worker": {"lease_seconds": 5.0, "threads": 1},
        "refiner": {
            "lease_seconds": 5.0,
            "deadline_seconds": 20.0,
            "postfilter": "rrdb-fast",
            "threads": 1,
        },
    }


def _edge_settings(fleet: Fleet, name: str, video: Path, spool: dict[str, Any]) -> dict[str, Any]:
    # A link that is bounded, though far above what it needs, so that frames go in runs; the other sends each at once.
    rate = {"uplink_kbps": 50_000.0, "when_behind": "all", "max_quality": 16} if name == EDGES[1] else {}
    return {
        "rate": rate,
        "edge_id": name,
        "data_dir": str(fleet.spools[name]),
        # A machine under this much load may starve a capture process for long.
        "source": {
            "address": str(video),
            "realtime": True,
            "from_start": True,  # agents are killed often, and shall never run out of film
            "fps": _FPS,
            "open_seconds": 120.0,
            "stall_seconds": 120.0,
        },
        "codec": {"family": fleet.family, "key_interval": 5, "group_frames": 25, "threads": 1},
        "spool": spool,
        "link": {
            "gateway": fleet.links[name].gateway,
            "server_public_key_file": str(fleet.folder / "gateway.key"),
            "secret_key_file": str(fleet.folder / f"{name}.key_secret"),
            "resend_seconds": 3.0,
            "hello_seconds": 1.0,
            "ping_seconds": 0.5,
            "idle_ping_seconds": 0.5,
            "silence_seconds": 2.5,
            "retry_min_seconds": 0.1,
            "retry_max_seconds": 1.0,
        },
    }


def _nats_settings(port: int, store: Path) -> str:
    # Servers before 2.10 do not know the setting: a SIGKILL loses nothing there, but a power cut may.
    sync = "sync_interval: always" if nats_version() >= (2, 10) else ""
    # Without a limit it takes what is free when it starts: nothing, for good, when that is while the disk is full.
    jetstream = f'store_dir: "{store}"\nmax_file_store: 64MB\n{sync}\n'
    return f'host: "127.0.0.1"\nport: {port}\nmax_payload: 8MB\njetstream {{\n{jetstream}}}\n'


def _write_video(path: Path) -> None:
    """A bright square that wanders over a dim ground."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), _FPS, (64, 64))
    ground = np.random.default_rng(1).integers(60, 120, (64, 64, 3), np.uint8)
    for number in range(_VIDEO_FRAMES):
        frame = ground.copy()
        x, y = 3 * number % 50, 7 * (number // 50) % 50
        frame[y : y + 14, x : x + 14] = (40, 200, 240)
        writer.write(frame)
    writer.release()

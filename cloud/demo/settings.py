"""What a demo run is asked for, and what it asks of its processes: ports and configuration files."""

from __future__ import annotations

import contextlib
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secondlook.shared.errors import PortBusy

EDGE_ID = "demo"
STATION_PORT = 7600


@dataclass(frozen=True)
class DemoConfig:
    """What the flags of `secondlook demo` ask for."""

    source: str
    frames: int | None
    fps: float | None  # None: all frames
    exit_when_done: bool
    report: Path | None
    port: int | None  # of the station; None: the usual one if it is free
    data_dir: Path | None  # None: a temporary one
    open_browser: bool
    restart: bool
    audit_every: int  # every n-th frame is reviewed, whatever was found in it
    key_interval: int  # 1: every frame is a key
    family: str  # what base layers are coded by: auto, lite or video
    codec: str  # name of a model, or an absolute path of its folder
    detector: str
    postfilter: str
    device: str  # of the networks of agent, worker and refiner
    stall_seconds: float
    fetch: str = "frame"  # what is fetched first of a frame in doubt: frame, or boxes

    @property
    def records_frames(self) -> bool:
        """Whether the captured frames are kept, to measure quality against them; in real time it takes too much."""
        return self.exit_when_done


@dataclass(frozen=True)
class Ports:
    """Loopback TCP ports of one run."""

    station: int
    gateway: int
    broker: int


def edge_settings(config: DemoConfig, folder: Path, ports: Ports) -> dict[str, Any]:
    """The agent's configuration."""
    return {
        "edge_id": EDGE_ID,
        "camera": "demo",
        "data_dir": str(folder / "edge"),
        "source": {
            "address": config.source,
            "frames": config.frames,
            "fps": config.fps,
            # A run that shall end need not take as long as what it watches.
            "realtime": not config.exit_when_done,
            "record_dir": str(folder / "frames") if config.records_frames else None,
        },
        "codec": {
            "model": config.codec,
            "family": config.family,
            "key_interval": config.key_interval,
            "device": config.device,
        },
        "link": {"gateway": f"tcp://127.0.0.1:{ports.gateway}"},
    }


def cloud_settings(config: DemoConfig, folder: Path, ports: Ports) -> dict[str, Any]:
    """The configuration of all others."""
    return {
        "data_dir": str(folder / "cloud"),
        "gateway": {"edge_address": f"tcp://127.0.0.1:{ports.gateway}"},
        "broker": {"address": f"tcp://127.0.0.1:{ports.broker}"},
        # By count, not by chance: a short run shall have something to show.
        # And all of it is shown, however many there are.
        "policy": {
            "every_nth": config.audit_every,
            "fetch": config.fetch,
            "max_open_reviews": 0,
            "max_open_reviews_of_camera": 0,
        },
        "worker": {"codec": config.codec, "detector": config.detector, "device": config.device},
        "refiner": {"codec": config.codec, "postfilter": config.postfilter, "device": config.device},
        "station": {"port": ports.station},
    }


def choose_ports(station: int | None) -> Ports:
    """Free loopback ports; the station's is the wanted one. Raises PortBusy."""
    with contextlib.ExitStack() as stack:
        if station is not None:
            chosen = _bind(stack, station)
            if chosen is None:
                raise PortBusy(f"port {station} is in use; choose another with --port, or 0 for any")
        else:
            chosen = _bind(stack, STATION_PORT) or _bind(stack, 0)
        others = [_bind(stack, 0) for _ in range(2)]
        if chosen is None or None in others:
            raise PortBusy("no free port on the loopback interface")
        return Ports(chosen, *(port for port in others if port is not None))


def _bind(stack: contextlib.ExitStack, port: int) -> int | None:
    """Hold a port until the stack is closed, so that no two choices agree; None if it is taken."""
    listener = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(1)
    except OSError:
        return None
    bound: int = listener.getsockname()[1]
    return bound


def to_toml(settings: dict[str, Any], within: str = "") -> str:
    """Plain values first, then one table for each nested mapping; None is left out."""
    tables = {name: value for name, value in settings.items() if isinstance(value, dict)}
    lines = [
        f"{key} = {json.dumps(value, ensure_ascii=False)}"
        for key, value in settings.items()
        if value is not None and key not in tables
    ]
    parts = ["\n".join(lines) + "\n"]
    for name, table in tables.items():
        parts.append(f"[{within}{name}]\n{to_toml(table, f'{within}{name}.')}")
    return "\n".join(parts)

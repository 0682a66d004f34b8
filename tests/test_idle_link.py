"""What a link costs on which nothing happens: every byte of IP between a real agent and a real gateway, with keys."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.chaos.namespace import Namespace, namespaces_permitted
from tests.edge.gateway import wait_until

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "secondlook"]
_MOST_PER_HOUR = 100_000  # both ways together
_FRAME_BYTES = 14  # of Ethernet, which a mobile link does not have


def counted(cable: Namespace) -> dict[str, int]:
    """Bytes of IP by way, from the camera host's end, since the cable was plugged in."""
    told = subprocess.run(["ip", "-j", "-s", "link", "show", cable._near], capture_output=True, check=True)
    stats = json.loads(told.stdout)[0]["stats64"]
    return {
        "up": stats["rx"]["bytes"] - _FRAME_BYTES * stats["rx"]["packets"],
        "down": stats["tx"]["bytes"] - _FRAME_BYTES * stats["tx"]["packets"],
    }


@contextmanager
def process(*command: str) -> Iterator[None]:
    started = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        started.terminate()
        started.wait(30)


def settings(folder: Path, gateway: str) -> Path:
    (folder / "pictures").mkdir()
    cv2.imwrite(str(folder / "pictures" / "1.png"), np.full((48, 64, 3), 90, np.uint8))
    file = folder / "edge.toml"
    file.write_text(
        f'edge_id = "gate"\ndata_dir = "edge"\n[source]\naddress = "pictures"\n[spool]\nmin_free_bytes = 0\n'
        f'[link]\ngateway = "{gateway}"\nserver_public_key_file = "gateway.key"\nsecret_key_file = "gate.key_secret"\n'
    )
    return file


def idle_bytes(folder: Path, seconds: float) -> dict[str, float]:
    """Bytes an hour by way, of an agent that has delivered all it had, measured over so many seconds."""
    for name, role in (("gateway", "gateway"), ("gate", "edge")):
        keys = ("--folder", str(folder), "--role", role, "--registry", str(folder / "registry.json"))
        subprocess.run([*COMMAND, "keys", "new", name, *keys], cwd=ROOT, check=True, capture_output=True)
    port = 20_000 + time.time_ns() // 1000 % 10_000
    cable = Namespace(port)
    gateway = (
        *(*COMMAND, "gateway", "--data-dir", str(folder / "cloud"), "--listen", f"tcp://0.0.0.0:{port}"),
        *("--listen-workers", f"ipc://{folder}/workers", "--secret-key", str(folder / "gateway.key_secret")),
        *("--registry", str(folder / "registry.json")),
    )
    agent = (*cable.prefix, *COMMAND, "edge", "--config", str(settings(folder, cable.gateway)))

    def is_idle() -> bool:
        file = folder / "edge" / "status.json"
        told = json.loads(file.read_text()) if file.exists() else {}
        return told.get("acknowledged") == 1 and told["link"] == "up"

    try:
        with process(*gateway), process(*agent):
            wait_until(is_idle, 60)
            time.sleep(5)
            before = counted(cable)
            time.sleep(seconds)
            after = counted(cable)
            assert is_idle()
    finally:
        cable.close()
    return {way: (after[way] - before[way]) * 3600 / seconds for way in before}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_an_idle_link_costs_less_than_100_kilobytes_an_hour(tmp_path: Path) -> None:
    if not namespaces_permitted():
        pytest.skip("network namespaces are not permitted here")
    found = idle_bytes(tmp_path, 240.0)
    print(found)
    assert 0 < sum(found.values()) < _MOST_PER_HOUR, found

"""Eight cameras on one host: its memory, measured over the whole process tree."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from secondlook.cloud.bench.host import write_scene
from secondlook.cloud.bench.processtree import usage
from tests.edge.gateway import Memory, SmallGateway, wait_until

ROOT = Path(__file__).parents[1]
_CAMERAS = 8
_MOST_BYTES = 600e6


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_eight_cameras_need_less_than_600_megabytes(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene.mp4", 768, 432, 60)
    gateway = SmallGateway(Memory())
    file = tmp_path / "edge.toml"
    settings = f'[source]\naddress = "scene.mp4"\nfps = 5.0\nrealtime = true\n[link]\ngateway = "{gateway.address}"\n'
    cameras = "".join(f'[[camera]]\nedge_id = "camera-{number}"\n' for number in range(_CAMERAS))
    file.write_text(settings + "[spool]\nmin_free_bytes = 0\n" + cameras)
    command = [sys.executable, "-m", "secondlook", "edge", "--config", str(file)]

    def statuses() -> list[dict[str, object]]:
        return [json.loads(one.read_text()) for one in tmp_path.glob("edge-data/*/status.json")]

    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as agent:
        try:
            wait_until(
                lambda: len(statuses()) == _CAMERAS and all(one["captured"] for one in statuses()), 120
            )
            most = 0
            for _ in range(20):
                time.sleep(1)
                most = max(most, usage(agent.pid).pss_bytes)
            assert (
                usage(agent.pid).processes == 1 + _CAMERAS + 2
            )  # and the two that start and clear up after captures
        finally:
            agent.terminate()
    gateway.stop()
    print(f"{most / 1e6:.0f} MB")
    assert 100e6 < most < _MOST_BYTES

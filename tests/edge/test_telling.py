"""What an agent counts, where one process sees a camera start more than once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from secondlook.edge.agent import Agent
from secondlook.edge.telling import Telling
from secondlook.shared import metrics
from secondlook.shared.conditions import WatchConfig
from secondlook.shared.mail import SmtpConfig
from tests.edge.gateway import Memory, SmallGateway
from tests.edge.test_agent import PlainCodec, config

NOTHING = {
    "captured": 0,
    "encoded": 0,
    "spooled": 0,
    "acknowledged": 0,
    "acknowledged_earlier": 0,
    "bytes_base": 0,
    "bytes_enhancement_stored": 0,
    "bytes_enhancement_sent": 0,
    "spool_bytes": 0,
    "base_quality": 16,
    "link_kbps": None,
    "clock_offset_seconds": None,
    "link": "up",
    "disk_free_bytes": None,
    "all_boots": None,
    "source": "running",
    "last_frame": None,
}


def counted(name: str, camera: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(metrics.PREFIX + name, {"camera": camera, **labels})


@pytest.fixture
def gateway() -> Iterator[SmallGateway]:
    gateway = SmallGateway(Memory())
    yield gateway
    gateway.stop()


def test_counters_follow_the_totals_of_each_start_and_never_go_down(tmp_path: Path) -> None:
    for start, totals in enumerate(((5, 5, 9, 2), (3, 4), (1,)), 1):
        telling = Telling(WatchConfig(), SmtpConfig(), "anew", tmp_path, 1000)
        for total in totals:
            telling.tell(
                {**NOTHING, "captured": total, "bytes_base": 10 * total}, {"idle": total}, (0, 0), 1.0
            )
        expected = {1: 9, 2: 13, 3: 14}[start]
        assert counted("frames_captured_total", "anew") == expected
        assert counted("frames_dropped_total", "anew", reason="idle") == expected
        assert counted("layer_bytes_total", "anew", layer="base", at="encoded") == 10 * expected


def test_a_camera_that_begins_anew_in_its_process_counts_on(tmp_path: Path, gateway: SmallGateway) -> None:
    (tmp_path / "images").mkdir()
    for number in range(3):
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), np.full((48, 64, 3), 9 * number, np.uint8))
    settings = config(tmp_path, tmp_path / "images", gateway.address, exit_when_acknowledged=True)
    for start in (1, 2):
        Agent(replace(settings, edge_id="again"), PlainCodec()).run(threading.Event())
        for name in ("captured", "spooled", "acknowledged"):
            assert counted(f"frames_{name}_total", "again") == 3 * start, name

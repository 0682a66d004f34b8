"""`secondlook.Agent`: frames of a program in the place of a camera."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import secondlook
from secondlook.edge.source.feed import FeedCamera, as_frame
from secondlook.shared.errors import ConfigError, SourceTooLarge, SourceUnreadable
from tests.edge.gateway import Memory, SmallGateway, wait_until
from tests.edge.test_agent import PlainCodec

ROOT = Path(__file__).parents[2]
PICTURE = np.random.default_rng(3).integers(0, 256, (48, 64, 3), np.uint8)
STILLS = {"codec.family": "lite", "spool.min_free_bytes": 0}


def agent(
    camera: object, folder: Path, gateway: str = "tcp://127.0.0.1:9", **more: object
) -> secondlook.Agent:
    return secondlook.Agent(
        camera, edge_id="bench", data_dir=folder, gateway=gateway, settings=STILLS, codec=PlainCodec(), **more
    )


def test_every_frame_of_an_iterator_is_delivered_with_its_time(tmp_path: Path) -> None:
    memory = Memory()
    gateway = SmallGateway(memory)
    frame = PICTURE.copy()

    def frames() -> Iterator[object]:
        for second in range(5):
            frame[:] = 40 * second  # one array over and over, as capture libraries hand it out
            yield frame, 1_700_000_000 + second
        yield Image.fromarray(PICTURE), datetime(2026, 1, 1, tzinfo=UTC)

    ours = agent(frames(), tmp_path, gateway.address)
    ours.run()
    gateway.stop()
    assert (ours.captured, ours.acknowledged) == (6, 6)
    infos = [memory.frames[ours.boot_id, seq].info for seq in range(6)]
    assert [info.captured_ns for info in infos[:5]] == [
        (1_700_000_000 + second) * 10**9 for second in range(5)
    ]
    assert infos[5].captured_ns == int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * 10**9
    with pytest.raises(ConfigError, match="this Agent has run"):
        ours.run()


def test_a_function_is_called_until_it_returns_none(tmp_path: Path) -> None:
    left = [PICTURE] * 4
    ours = agent(lambda: left.pop() if left else None, tmp_path)
    ours.run(deliver=False)
    assert (ours.captured, ours.acknowledged) == (4, 0)
    memory = Memory()
    gateway = SmallGateway(memory)
    agent([], tmp_path, gateway.address).run()
    gateway.stop()
    assert {boot for boot, _ in memory.frames} == {ours.boot_id} and len(memory.frames) == 4


def test_it_runs_beside_the_program_and_stops_while_the_camera_waits_for_ever(tmp_path: Path) -> None:
    gateway = SmallGateway(Memory())
    waits = threading.Event()

    def frames() -> Iterator[np.ndarray]:
        yield PICTURE
        waits.wait()

    with agent(frames(), tmp_path, gateway.address) as ours:
        wait_until(lambda: ours.acknowledged == 1)
        assert not ours.wait(0.1)
        began = time.monotonic()
    assert time.monotonic() - began < 3 and ours.wait()
    waits.set()
    gateway.stop()


def test_of_a_camera_that_is_faster_the_latest_frames_are_taken() -> None:
    camera = FeedCamera(([PICTURE + 0] * 50), latest=True)
    assert camera.read(5.0) is not None
    time.sleep(0.3)
    taken = 1
    while camera.state != "ended":
        taken += camera.read(5.0) is not None
    assert taken <= 4
    patient = FeedCamera([PICTURE] * 50)
    assert sum(patient.read(5.0) is not None for _ in range(51)) == 50 and patient.state == "ended"


def failing() -> Iterator[np.ndarray]:
    yield PICTURE
    raise ZeroDivisionError("of the program's own making")


def test_what_fails_in_the_camera_is_our_error_with_its_cause(tmp_path: Path) -> None:
    ours = agent(failing(), tmp_path)
    with pytest.raises(
        SourceUnreadable, match="ended by ZeroDivisionError: of the program's own making"
    ) as told:
        ours.run()
    assert isinstance(told.value.__cause__, ZeroDivisionError)
    assert ours.captured == 1
    started = agent(failing(), tmp_path).start()
    with pytest.raises(SourceUnreadable):
        started.wait(20)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("photo.png", "not str"),
        (PICTURE.astype(np.float32), r"not float32\[48, 64, 3\]"),
        (PICTURE[..., 0], r"not uint8\[48, 64\]"),
        ((PICTURE, "yesterday"), "not 'yesterday'"),
        ((PICTURE, True), "not True"),
        ((PICTURE, float("nan")), "not nan"),
        ((PICTURE, datetime(2026, 1, 1)), "no time zone"),
        (PICTURE[:8], "a side has 16 at least"),
    ],
)
def test_what_is_no_frame_is_a_config_error(given: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        as_frame(given)


def test_a_frame_above_a_limit_is_refused() -> None:
    with pytest.raises(SourceTooLarge, match="20000x20"):
        as_frame(np.zeros((20, 20_000, 3), np.uint8))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"camera": 5}, "camera is frames to iterate over, or a function that returns the next one, not int"),
        ({"camera": None}, "not NoneType"),
        ({"edge_id": "No Name"}, "edge_id 'No Name' is not 1 to 64"),
        ({"edge_id": 5}, "edge_id must be text"),
        ({"gateway": "udp://x"}, "link.gateway"),
        ({"gateway": "tcp://example.org:7601"}, "is not this machine: set the key files"),
        ({"secret_key_file": "x"}, "belong together"),
        ({"settings": {"codec.base_qualty": 5}}, "there is no setting 'codec.base_qualty'"),
        ({"settings": {"codec": {}}}, "there is no setting 'codec'"),
        ({"settings": {"codec.base_quality": 64}}, "codec.base_quality is 64"),
        ({"settings": {"data_dir": "x"}}, "data_dir is no setting here, but the argument data_dir"),
        ({"settings": {"source.fps": 5.0}}, "source.fps does nothing"),
    ],
)
def test_wrong_arguments_are_config_errors_at_once(arguments: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        secondlook.Agent(**({"camera": [PICTURE], "edge_id": "bench"} | arguments))


SCRIPT = """
import sys, numpy, secondlook
print("once")
picture = numpy.zeros((48, 64, 3), numpy.uint8)
agent = secondlook.Agent([picture] * 3, edge_id="bench", data_dir=sys.argv[1], settings={"spool.min_free_bytes": 0})
agent.run(deliver=False)
print(agent.captured)
"""


def test_a_script_without_a_main_guard_runs_once(tmp_path: Path) -> None:
    """No process is started that would run it again; the codec is the one that ships."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    told = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "data")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == ["once", "3"]

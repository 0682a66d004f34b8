"""The agent as a whole: real capture, spool and sockets; the codec is a small one of the test's own."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
import pytest

from secondlook.edge.agent import Agent
from secondlook.edge.coding.encode import FrameEncoder
from secondlook.edge.config import CodecConfig, EdgeConfig, LinkConfig, SourceConfig, SpoolConfig
from secondlook.edge.source.camera import Frame
from secondlook.edge.spool import Spool
from secondlook.edge.spooled import SpooledFrame, UnspooledTombstone
from secondlook.shared.errors import (
    ConfigError,
    DiskFull,
    SourceEmpty,
    StoreBusy,
    Unwritable,
)
from secondlook.shared.layers import Encoded, Key, Layers
from tests.edge.gateway import Memory, SmallGateway, wait_until

ROOT = Path(__file__).parents[2]


class PlainCodec:
    """Both layers are the frame, deflated; a delta is marked as such."""

    name = "plain"
    model_hash = b"plain123"

    def encode(
        self, image: np.ndarray, *, base_quality: int, quality: int, sequence: int = 0, key: Key | None = None
    ) -> Encoded:
        size = (image.shape[1], image.shape[0])
        if key is not None and key.size != size:
            key = None
        nothing = np.zeros(0, np.float32)
        layers = Layers(b"D" if key else b"K", zlib.compress(image.tobytes()))
        return Encoded(layers, key or Key(sequence, base_quality, quality, size, (0, 0), *[nothing] * 3), 1.0)


def still(width: int = 64) -> Frame:
    return Frame(np.zeros((48, width, 3), np.uint8), 5)


def test_keys_come_at_their_interval_and_when_the_size_changes() -> None:
    encoder = FrameEncoder(PlainCodec(), CodecConfig(key_interval=4), "ab" * 16)
    frames = [encoder.encode(still(width)) for width in (64, 64, 64, 32, 32, 32)]
    assert [frame.info.seq for frame in frames] == list(range(6))
    assert [frame.info.key_seq for frame in frames] == [None, 0, 0, None, None, 4]
    assert [frame.base for frame in frames] == [b"K", b"D", b"D", b"K", b"K", b"D"]
    assert (frames[3].info.width, frames[3].info.height, frames[3].info.captured_ns) == (32, 48, 5)


def test_encoding_times_are_kept() -> None:
    encoder = FrameEncoder(PlainCodec(), CodecConfig(), "ab" * 16)
    assert (encoder.milliseconds(0.5), encoder.frames_per_second()) == (None, None)
    encoder._milliseconds.extend(range(1, 101))
    assert (encoder.milliseconds(0.5), encoder.milliseconds(0.95)) == (50, 95)
    assert encoder.frames_per_second() == pytest.approx(1000 / 50.5)


def seven_images(path: Path) -> Path:
    path.mkdir()
    for number in range(7):
        cv2.imwrite(str(path / f"{number}.png"), np.full((48, 64, 3), 20 * number, np.uint8))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return seven_images(tmp_path / "images")


def config(tmp_path: Path, folder: Path, gateway: str, **settings: object) -> EdgeConfig:
    return EdgeConfig(
        "gate",
        SourceConfig(str(folder)),
        data_dir=tmp_path / "edge",
        spool=SpoolConfig(min_free_bytes=0),
        link=LinkConfig(gateway=gateway, retry_min_seconds=0.02, retry_max_seconds=0.1),
        **settings,
    )


def status(tmp_path: Path) -> dict[str, object]:
    found = json.loads((tmp_path / "edge" / "status.json").read_text())
    assert isinstance(found, dict)
    return found


def test_the_gateway_hears_what_the_agent_does(tmp_path: Path, folder: Path) -> None:
    memory = Memory()
    gateway = SmallGateway(memory)
    stop = threading.Event()
    agent = Agent(config(tmp_path, folder, gateway.address), PlainCodec())
    thread = threading.Thread(target=agent.run, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: bool(memory.reports), 60)
    finally:
        stop.set()
        thread.join()
        gateway.stop()
    assert memory.reports[0].model == "plain 706c61696e313233" and memory.reports[0].trouble == ""


def test_every_frame_is_delivered_and_counted(tmp_path: Path, folder: Path) -> None:
    memory = Memory()
    gateway = SmallGateway(memory)
    agent = Agent(config(tmp_path, folder, gateway.address, exit_when_acknowledged=True), PlainCodec())
    agent.run(threading.Event())
    gateway.stop()
    assert memory.arrivals == {(agent.boot_id, seq): 1 for seq in range(7)}
    found = status(tmp_path)
    encode_ms = found.pop("encode_ms")
    assert isinstance(encode_ms, dict) and encode_ms["p50"] <= encode_ms["p95"]
    rate = found.pop("encode_fps")
    assert isinstance(rate, float) and rate > 1
    assert found.pop("bytes_enhancement_stored") == sum(
        frame.info.enhancement_bytes for frame in memory.frames.values()
    )
    for name in ("time", "last_frame"):
        said = datetime.fromisoformat(str(found.pop(name)).replace("Z", "+00:00"))
        assert abs(said.timestamp() - time.time()) < 60
    assert found.pop("disk_free_bytes") > 0
    assert found.pop("spool_bytes") > 7
    assert abs(found.pop("clock_offset_seconds")) < 1.0
    assert found.pop("all_boots") == {
        "boots": 1,
        "frames": 7,
        "acknowledged": 7,
        "undelivered": 0,
        "dropped_untold": 0,
        "oldest_undelivered": None,
    }
    assert found == {
        "conditions": [],
        "edge_id": "gate",
        "boot_id": agent.boot_id,
        "camera": "camera",
        "pid": os.getpid(),
        "captured": 7,
        "encoded": 7,
        "spooled": 7,
        "acknowledged": 7,
        "acknowledged_earlier": 0,
        "tombstoned": 0,
        "idle": 0,
        "thinned": 0,
        "unmasked": 0,
        "bytes_base": 7,
        "bytes_enhancement_sent": 0,
        "source": "ended",
        "source_error": None,
        "source_trouble": None,
        "source_lag_seconds": None,
        "uplink": None,
        "link": "down",
        "link_kbps": None,
        "base_quality": 16,
    }


def test_captured_frames_are_recorded(tmp_path: Path, folder: Path) -> None:
    gateway = SmallGateway(Memory())
    plain = config(tmp_path, folder, gateway.address, exit_when_acknowledged=True)
    agent = Agent(
        replace(plain, source=replace(plain.source, frames=3, record_dir=tmp_path / "kept")), PlainCodec()
    )
    agent.run(threading.Event())
    gateway.stop()
    names = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert names == [*(f"{agent.boot_id}-{seq:08d}.png" for seq in range(3)), "times.jsonl"]
    assert (cv2.imread(str(tmp_path / "kept" / names[2])) == 40).all()


def test_without_a_gateway_frames_wait_on_disk_for_the_next_start(tmp_path: Path, folder: Path) -> None:
    stop = threading.Event()
    offline = Agent(config(tmp_path, folder, "tcp://127.0.0.1:9"), PlainCodec())
    running = threading.Thread(target=offline.run, args=(stop,))
    running.start()
    wait_until(lambda: offline._spooled == 7)
    stop.set()
    running.join()
    memory = Memory()
    gateway = SmallGateway(memory)
    online = Agent(config(tmp_path, folder, gateway.address, exit_when_acknowledged=True), PlainCodec())
    online.run(threading.Event())
    gateway.stop()
    # The folder was read to its end: the second start has nothing to repeat.
    assert sorted(memory.arrivals) == [(offline.boot_id, seq) for seq in range(7)]
    assert not (tmp_path / "edge" / "source.json").exists(), "a run that is complete is forgotten"
    found = status(tmp_path)
    # Each count is of this start, or of all.
    assert (found["spooled"], found["acknowledged"], found["acknowledged_earlier"]) == (0, 0, 7)
    everything = found["all_boots"]
    assert (everything["boots"], everything["frames"], everything["acknowledged"]) == (2, 7, 7)


def test_the_status_tells_of_what_waits_in_the_spool(tmp_path: Path, folder: Path) -> None:
    stop = threading.Event()
    offline = Agent(config(tmp_path, folder, "tcp://127.0.0.1:9"), PlainCodec())
    running = threading.Thread(target=offline.run, args=(stop,))
    running.start()
    wait_until(lambda: offline._spooled == 7)
    stop.set()
    running.join()
    found = status(tmp_path)
    everything = found["all_boots"]
    assert (everything["undelivered"], everything["acknowledged"]) == (7, 0)
    assert everything["oldest_undelivered"] <= found["last_frame"] <= found["time"]
    assert found["clock_offset_seconds"] is None


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Another process that holds the spool until the returned function is called."""
    (tmp_path / "edge").mkdir()
    with closing(
        sqlite3.connect(tmp_path / "edge" / "spool.db", isolation_level=None, check_same_thread=False)
    ) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("BEGIN IMMEDIATE")
        yield lambda: other.execute("ROLLBACK")


def test_a_spool_that_another_process_holds_is_waited_for(
    tmp_path: Path,
    folder: Path,
    locked: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("secondlook.edge.spool._BUSY_SECONDS", 0.2)
    caplog.set_level("INFO")
    memory = Memory()
    gateway = SmallGateway(memory)
    agent = Agent(config(tmp_path, folder, gateway.address, exit_when_acknowledged=True), PlainCodec())
    running = threading.Thread(target=agent.run, args=(threading.Event(),))
    running.start()
    wait_until(lambda: "waiting: " in caplog.text)
    time.sleep(0.6)
    assert running.is_alive()
    locked()  # lets it open
    wait_until(lambda: agent._captured > 0)
    running.join(20)
    gateway.stop()
    assert sorted(memory.arrivals) == [(agent.boot_id, seq) for seq in range(7)]
    assert caplog.text.count("waiting: ") == 1
    assert "going on after" in caplog.text


def test_a_spool_locked_in_mid_run_costs_no_frame(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("secondlook.edge.spool._BUSY_SECONDS", 0.1)
    caplog.set_level("INFO")
    left = [8]
    really_put = Spool.put

    def put(
        self: Spool, frames: Sequence[SpooledFrame], now_ns: int, *, before: UnspooledTombstone | None = None
    ) -> int:
        left[0] -= 1
        if 0 <= left[0] < 7:
            with closing(sqlite3.connect(tmp_path / "edge" / "spool.db", isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                return really_put(self, frames, now_ns, before=before)
        return really_put(self, frames, now_ns, before=before)

    monkeypatch.setattr(Spool, "put", put)
    memory = Memory()
    gateway = SmallGateway(memory)
    settings = config(tmp_path, folder, gateway.address, exit_when_acknowledged=True)
    agent = Agent(replace(settings, spool=replace(settings.spool, commit_seconds=0.0)), PlainCodec())
    agent.run(threading.Event())
    gateway.stop()
    assert left[0] < 0
    assert sorted(memory.frames) == [(agent.boot_id, seq) for seq in range(7)]
    assert not memory.tombstones
    assert (caplog.text.count("waiting: "), caplog.text.count("going on after")) == (1, 1)


def test_an_agent_that_is_stopped_while_its_spool_is_held_says_what_it_loses(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(*_arguments: object, **_more: object) -> int:
        stop.set()
        raise StoreBusy("spool.db: another process held the database for too long")

    stop = threading.Event()
    monkeypatch.setattr(Spool, "put", put)
    agent = Agent(config(tmp_path, folder, "tcp://127.0.0.1:9"), PlainCodec())
    with pytest.raises(StoreBusy, match=r"\d frames are lost: .*spool.db"):
        agent.run(stop)


def test_dropped_frames_are_told_of_once_a_second_and_a_stop_says_what_was_done(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    settings = config(tmp_path, folder, "tcp://127.0.0.1:9")
    # One frame alone has room, and every one is a commit.
    small = replace(settings.spool, commit_seconds=0.0, max_bytes=100)
    monkeypatch.setattr("secondlook.edge.agent._DROPPED_SECONDS", 1000.0)
    stop = threading.Event()
    agent = Agent(replace(settings, spool=small), PlainCodec())
    running = threading.Thread(target=agent.run, args=(stop,))
    running.start()
    wait_until(lambda: agent._spooled == 7)
    stop.set()
    running.join()
    dropped = [record.getMessage() for record in caplog.records if "dropped" in record.getMessage()]
    told = [int(line.split(": ")[1].split()[0]) for line in dropped if line.startswith("the spool is full")]
    assert len(told) == 2 and sum(told) == agent._tombstoned
    assert dropped[-1] == (
        "stopped: 7 frames captured, 0 acknowledged (and 0 of earlier starts),"
        f" {agent._tombstoned} dropped; {7 - agent._tombstoned} wait in the spool"
    )


def test_recorded_frames_status_and_spool_are_for_their_owner_alone(tmp_path: Path, folder: Path) -> None:
    plain = config(tmp_path, folder, "tcp://127.0.0.1:9")
    stop = threading.Event()
    agent = Agent(
        replace(plain, source=replace(plain.source, record_dir=tmp_path / "new" / "kept")), PlainCodec()
    )
    before = os.umask(0o022)
    try:
        running = threading.Thread(target=agent.run, args=(stop,))
        running.start()
        wait_until(lambda: agent._spooled == 7 and (tmp_path / "edge" / "status.json").exists())
        made = [*(tmp_path / "edge").rglob("*"), *(tmp_path / "new").rglob("*")]
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in made}
    finally:
        stop.set()
        running.join()
        os.umask(before)
    assert {"spool.db", "spool.db-wal", "spool.db-shm", "agent.lock", "status.json", "kept"} <= set(modes)
    assert {mode for name, mode in modes.items() if name != "kept"} == {0o600}
    for name in ("edge", "new", "new/kept"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o700


@pytest.mark.parametrize("failures", [1, 40])
def test_a_full_disk_costs_frames_under_a_tombstone_but_not_the_agent(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    left = [failures]
    really_put = Spool.put

    def put(
        self: Spool, frames: Sequence[SpooledFrame], now_ns: int, *, before: UnspooledTombstone | None = None
    ) -> int:
        if left[0] > 0:
            left[0] -= 1
            raise DiskFull("no space left")
        return really_put(self, frames, now_ns, before=before)

    monkeypatch.setattr(Spool, "put", put)
    memory = Memory()
    gateway = SmallGateway(memory)
    settings = config(tmp_path, folder, gateway.address, exit_when_acknowledged=True)
    agent = Agent(replace(settings, spool=replace(settings.spool, commit_seconds=0.0)), PlainCodec())
    agent.run(threading.Event())
    gateway.stop()
    buried = {
        seq for tombstone in memory.tombstones for seq in range(tombstone.first_seq, tombstone.last_seq + 1)
    }
    assert {tombstone.reason for tombstone in memory.tombstones} == {"disk-full"}
    arrived = {seq for _, seq in memory.frames}
    assert arrived | buried == set(range(7))
    assert arrived.isdisjoint(buried)
    assert buried


def test_a_source_that_fails_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(SourceEmpty):
        Agent(config(tmp_path, tmp_path / "empty.mp4", "tcp://127.0.0.1:9"), PlainCodec()).run(
            threading.Event()
        )


def test_a_second_agent_is_kept_out_of_the_folder(tmp_path: Path, folder: Path) -> None:
    stop = threading.Event()
    first = Agent(config(tmp_path, folder, "tcp://127.0.0.1:9"), PlainCodec())
    running = threading.Thread(target=first.run, args=(stop,))
    running.start()
    wait_until(lambda: first._spooled == 7)
    with pytest.raises(StoreBusy, match=rf"in use by another edge agent \(process {os.getpid()}\)"):
        Agent(config(tmp_path, folder, "tcp://127.0.0.1:9"), PlainCodec()).run(stop)
    stop.set()
    running.join()


def test_an_unwritable_data_folder_is_named(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "edge").write_text("in the way")
    with pytest.raises(Unwritable, match="edge"):
        Agent(config(tmp_path, folder, "tcp://127.0.0.1:9"), PlainCodec()).run(threading.Event())


@pytest.mark.parametrize(
    "change",
    [{"edge_id": "Gate"}, {"edge_id": ""}, {"camera": "a\nb"}, {"linger_seconds": -1.0}],
)
def test_settings_are_checked(tmp_path: Path, folder: Path, change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        replace(config(tmp_path, folder, "tcp://127.0.0.1:9"), **change)


def command(*arguments: str) -> subprocess.Popen[str]:
    code = (
        "import argparse, sys\nfrom secondlook.edge.main import register\n"
        "from secondlook.shared.errors import SecondlookError\n"
        "if __name__ == '__main__':\n"
        "    parser = argparse.ArgumentParser()\n    register(parser.add_subparsers())\n"
        "    args = parser.parse_args()\n"
        "    try:\n        sys.exit(args.run(args))\n"
        "    except SecondlookError as error:\n        sys.exit(f'secondlook: error: {error}')\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, "edge", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        process_group=0,
    )


@pytest.mark.skipif(not (ROOT / "exported_models/lite/manifest.json").exists(), reason="no codec model here")
def test_the_command_delivers_with_the_real_codec_and_stops_on_sigterm(tmp_path: Path, folder: Path) -> None:
    memory = Memory()
    gateway = SmallGateway(memory)
    settings = tmp_path / "edge.toml"
    settings.write_text(f'edge_id = "gate"\ndata_dir = "edge"\n[link]\ngateway = "{gateway.address}"\n')
    with command(
        "--config", str(settings), "--source", str(folder), "--resize", "32", "--frames", "4"
    ) as agent:
        # A frame that arrived is not yet one whose acknowledgement came back.
        told = tmp_path / "edge" / "status.json"
        wait_until(lambda: told.exists() and status(tmp_path)["acknowledged"] == 4, 60.0)
        agent.send_signal(signal.SIGTERM)
        _, complaints = agent.communicate(timeout=20)
    gateway.stop()
    assert agent.returncode == 0, complaints
    assert {(frame.info.width, frame.info.height) for frame in memory.frames.values()} == {(32, 24)}
    assert len(memory.arrivals) == status(tmp_path)["acknowledged"] == 4


def test_the_command_reports_a_mistake_in_one_line(tmp_path: Path) -> None:
    with command("--edge-id", "gate", "--source", "demo:", "--fps", "-1") as agent:
        _, complaints = agent.communicate(timeout=20)
    assert agent.returncode == 1
    assert complaints == (
        "secondlook: error: --fps: source.fps is -1, it must be a number from 0.00001 to 1000 frames per second\n"
    )

"""The place in a file or folder is kept: a killed agent goes on behind the last frame that it spooled."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from secondlook.edge.agent import Agent
from secondlook.edge.config import CodecConfig, EdgeConfig, LinkConfig, SourceConfig, SpoolConfig
from secondlook.edge.source.place import PlaceKeeper, Taken
from secondlook.edge.spool import Spool
from secondlook.edge.spooled import SpooledFrame, UnspooledTombstone
from tests.edge.gateway import Memory, SmallGateway, wait_until
from tests.edge.servers import write_video
from tests.edge.test_agent import PlainCodec

ROOT = Path(__file__).parents[2]


class Crash(Exception):
    pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    for number in range(12):
        cv2.imwrite(str(path / f"{number}.png"), np.full((48, 64, 3), number, np.uint8))
    return path


def settings(tmp_path: Path, source: Path, gateway: str = "tcp://127.0.0.1:9", **more: object) -> EdgeConfig:
    return EdgeConfig(
        "gate",
        SourceConfig(str(source), **more),
        data_dir=tmp_path / "edge",
        codec=CodecConfig(family="lite"),  # whose enhancement says which frame it is
        spool=SpoolConfig(min_free_bytes=0, commit_seconds=0.0),
        link=LinkConfig(gateway=gateway),
    )


def spooled(tmp_path: Path) -> list[int]:
    """The brightness of every frame in the spool, in order of arrival."""
    with sqlite3.connect(tmp_path / "edge" / "spool.db") as db:
        rows = db.execute("SELECT enhancement FROM frames ORDER BY id").fetchall()
    db.close()
    return [zlib.decompress(row[0])[0] for row in rows]


@pytest.mark.parametrize("after_put", [False, True])
@pytest.mark.parametrize("put", [1, 3, 8])
def test_a_crash_right_before_or_after_a_commit_repeats_and_loses_nothing(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, put: int, after_put: bool
) -> None:
    really_put, left = Spool.put, [put]

    def crash(
        self: Spool, frames: Sequence[SpooledFrame], now_ns: int, *, before: UnspooledTombstone | None = None
    ) -> int:
        left[0] -= 1
        if left[0] > 0:
            return really_put(self, frames, now_ns, before=before)
        if after_put and left[0] == 0:
            really_put(self, frames, now_ns, before=before)
        raise Crash

    monkeypatch.setattr(Spool, "put", crash)
    with pytest.raises(Crash):
        Agent(settings(tmp_path, folder), PlainCodec()).run(threading.Event())
    monkeypatch.setattr(Spool, "put", really_put)
    stop = threading.Event()
    again = Agent(settings(tmp_path, folder), PlainCodec())
    running = threading.Thread(target=again.run, args=(stop,))
    running.start()
    wait_until(lambda: len(spooled(tmp_path)) >= 12)
    stop.set()
    running.join()
    assert spooled(tmp_path) == list(range(12))


def test_a_killed_agent_goes_on_in_a_video(tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.avi", 60, codec="mjpeg", size=(32, 32))
    code = (
        "import sys, threading\nfrom pathlib import Path\nfrom secondlook.edge.agent import Agent\n"
        "from tests.edge.test_agent import PlainCodec\nfrom tests.edge.test_place import settings\n"
        "if __name__ == '__main__':\n"
        "    config = settings(Path(sys.argv[1]), Path(sys.argv[2]), realtime=True)\n"
        "    Agent(config, PlainCodec()).run(threading.Event())\n"
    )
    for wanted in (8, 20):
        with subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(film)], cwd=ROOT) as agent:
            wait_until(lambda least=wanted: _count(tmp_path / "edge" / "spool.db") >= least, 60.0)
            agent.send_signal(signal.SIGKILL)
    stop = threading.Event()
    last = Agent(settings(tmp_path, film), PlainCodec())
    running = threading.Thread(target=last.run, args=(stop,))
    running.start()
    wait_until(lambda: (tmp_path / "edge" / "status.json").exists() and _ended(tmp_path))
    stop.set()
    running.join()
    places = [round(value / 8) for value in spooled(tmp_path)]
    assert 20 <= len(places) <= 60
    # No frame came twice and all were read: 60 pictures, two rounds of 30 levels. Playing in real time may drop some.
    steps = [(after - before) % 30 for before, after in itertools.pairwise(places)]
    assert 0 not in steps and sum(steps) == 59 - places[0]


def _count(database: Path) -> int:
    if not database.exists():
        return 0
    try:
        with sqlite3.connect(database) as db:
            return int(db.execute("SELECT count(*) FROM frames").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
    finally:
        db.close()


def _ended(tmp_path: Path) -> bool:
    return json.loads((tmp_path / "edge" / "status.json").read_text())["source"] == "ended"


def authorizer(tmp_path: Path, source: Path, boot: str, **more: object) -> PlaceKeeper:
    return PlaceKeeper(tmp_path, SourceConfig(str(source), **more), boot)


def test_the_spool_decides_how_far_a_batch_came(tmp_path: Path, folder: Path) -> None:
    first = authorizer(tmp_path, folder, "a")
    assert first.resume(lambda _: None) is None
    first.about_to_spool([Taken(0, "0.png"), Taken(1, "1.png")])
    first.about_to_spool([Taken(2, "2.png"), Taken(3, "3.png")])
    for following, place in ((2, "1.png"), (3, "2.png"), (4, "3.png"), (None, "3.png")):
        assert authorizer(tmp_path, folder, "b").resume(lambda _, n=following: n) == place


def test_a_batch_that_is_tried_again_is_not_behind_itself(tmp_path: Path, folder: Path) -> None:
    """Another process may hold the spool, or the disk fail; what was not spooled then is taken by the next start."""
    first = authorizer(tmp_path, folder, "a")
    first.about_to_spool([Taken(0, "0.png"), Taken(1, "1.png")])
    for more in ([], [Taken(4, "4.png")]):
        first.about_to_spool([Taken(2, "2.png"), Taken(3, "3.png"), *more])
        assert authorizer(tmp_path, folder, "b").resume(lambda _: 2) == "1.png"
    first.about_to_spool([Taken(5, "5.png")])
    assert authorizer(tmp_path, folder, "b").resume(lambda _: 5) == "4.png"


def test_another_file_or_a_wish_begins_at_the_start(tmp_path: Path, folder: Path) -> None:
    film = tmp_path / "film.avi"
    film.write_bytes(b"one")
    authorizer(tmp_path, film, "a").about_to_spool([Taken(0, "0")])
    assert authorizer(tmp_path, film, "b").resume(lambda _: 1) == "0"
    assert authorizer(tmp_path, film, "b", from_start=True).resume(lambda _: 1) is None
    assert authorizer(tmp_path, folder, "b").resume(lambda _: 1) is None
    film.write_bytes(b"another")
    assert authorizer(tmp_path, film, "b").resume(lambda _: 1) is None
    (tmp_path / "source.json").write_text("{")
    assert authorizer(tmp_path, film, "b").resume(lambda _: 1) is None


def test_new_files_of_a_folder_are_read_by_the_next_start(tmp_path: Path, folder: Path) -> None:
    stop = threading.Event()
    agent = Agent(settings(tmp_path, folder), PlainCodec())
    running = threading.Thread(target=agent.run, args=(stop,))
    running.start()
    wait_until(lambda: agent._spooled == 12)
    stop.set()
    running.join()
    cv2.imwrite(str(folder / "12.png"), np.full((48, 64, 3), 12, np.uint8))
    memory = Memory()
    gateway = SmallGateway(memory)
    config = replace(settings(tmp_path, folder, gateway.address), exit_when_acknowledged=True)
    Agent(config, PlainCodec()).run(threading.Event())
    gateway.stop()
    assert len(memory.arrivals) == 13
    assert not os.path.exists(tmp_path / "edge" / "source.json")


def test_a_frame_too_large_is_said_to_be_and_the_spool_is_not_blamed(
    tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secondlook.edge.spooled.MAX_ENHANCEMENT_BYTES", 10)
    monkeypatch.setattr("secondlook.edge.spool.MAX_ENHANCEMENT_BYTES", 10)
    gateway = SmallGateway(Memory())
    config = replace(settings(tmp_path, folder, gateway.address, frames=2), exit_when_acknowledged=True)
    Agent(config, PlainCodec()).run(threading.Event())
    gateway.stop()
    assert "frame 0 is too large (64x48): enhancement of" in caplog.text and "source.resize" in caplog.text
    assert "spool is full" not in caplog.text

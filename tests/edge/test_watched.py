"""A folder that fills: each file once, whole, over restarts; pictures that are turned."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from secondlook.edge.agent import Agent
from secondlook.edge.coding.snapshot import first_frame
from secondlook.edge.config import SourceConfig, SpoolConfig
from secondlook.edge.source.camera import Frame
from secondlook.edge.source.place import Taken, WatchKeeper
from secondlook.edge.source.sources import SourceFrame, open_source, turned
from secondlook.edge.source.watched import Identity, identities, watched_pictures
from secondlook.edge.spool import Spool
from secondlook.shared.errors import ConfigError, SourceNotFound
from secondlook.shared.pictures import Picture
from tests.edge.gateway import Memory, SmallGateway, wait_until
from tests.edge.test_agent import PlainCodec, config

EXIF_TAKEN, EXIF_OFFSET = 0x9003, 0x9011


def write(path: Path, level: int, *, taken: str | None = None) -> None:
    """A grey picture, JPEG with its time where that is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", (64, 48), (level, level, level))
    exif = Image.Exif()
    if taken is not None:
        exif.get_ifd(0x8769).update({EXIF_TAKEN: taken, EXIF_OFFSET: "+00:00"})
    picture.save(path, exif=exif)


class Watch:
    """Looks at a folder; what it waits for is done by the test."""

    def __init__(self, folder: Path, settle_seconds: float = 0.0) -> None:
        self.told: list[str] = []
        self.looks = 0
        self.taken: set[Identity] = set()
        self.pictures = watched_pictures(
            folder,
            self.taken,
            settle_seconds=settle_seconds,
            shrink_to=None,
            beat=lambda: None,
            tell=self.told.append,
            wait=self._wait,
        )

    def _wait(self, seconds: float) -> None:
        self.looks += 1
        time.sleep(0.02)
        if self.looks % 20 == 0:
            raise TimeoutError

    def next(self) -> tuple[Identity, Picture] | None:
        """The next picture, or None when none comes in 20 looks: then a new watch goes on with what was taken."""
        try:
            return next(self.pictures)
        except TimeoutError:
            return None


def test_files_are_taken_as_they_come_each_once(tmp_path: Path) -> None:
    write(tmp_path / "b.png", 10)
    write(tmp_path / "a.png", 20)
    os.utime(tmp_path / "b.png", ns=(10**18, 10**18))  # the older one
    watch = Watch(tmp_path)
    assert [watch.next()[0][0] for _ in range(2)] == ["b.png", "a.png"]
    write(tmp_path / "below" / "0.jpg", 30, taken="2026:05:01 10:00:00")
    (name, _, _), picture = watch.next()
    assert name == "below/0.jpg" and picture.taken_ns == 1_777_629_600 * 10**9
    write(tmp_path / "a.png", 40)  # the camera uses the name again
    os.utime(tmp_path / "a.png", ns=(2 * 10**18, 2 * 10**18))
    (name, _, _), picture = watch.next()
    assert name == "a.png" and int(picture.image.mean()) == 40
    (tmp_path / "notes.txt").write_text("no picture")
    write(tmp_path / ".hidden.png", 1)
    assert watch.next() is None and watch.told == []


def test_a_file_that_still_grows_is_waited_for(tmp_path: Path) -> None:
    write(tmp_path / "whole.png", 10)
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "whole.png").unlink()
    watch = Watch(tmp_path, settle_seconds=0.15)
    began = time.monotonic()
    stop = threading.Event()

    def upload() -> None:
        for end in range(8, len(data) + 8, 8):
            (tmp_path / "slow.png").write_bytes(data[:end])
            if stop.wait(0.03):
                return

    writer = threading.Thread(target=upload)
    writer.start()
    found = None
    while found is None:
        assert time.monotonic() - began < 20
        found = next_or_none(watch, tmp_path)
    stop.set()
    writer.join()
    assert found[0][:2] == ("slow.png", len(data)) and watch.told == []


def next_or_none(watch: Watch, folder: Path) -> tuple[Identity, Picture] | None:
    found = watch.next()
    if found is None:  # its generator has ended
        again = Watch(folder, 0.15)
        watch.pictures, watch.told = again.pictures, again.told
    return found


def test_what_cannot_be_read_is_told_of_once_and_a_folder_that_is_away_is_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "card"
    write(folder / "1.png", 10)
    (folder / "2.jpg").write_bytes(b"no jpeg")
    watch = Watch(folder)
    assert watch.next() is not None and watch.next() is None
    assert len(watch.told) == 1 and "2.jpg" in watch.told[0]
    again = Watch(folder)
    again.taken |= watch.taken
    folder.rename(tmp_path / "elsewhere")
    away = threading.Timer(0.15, lambda: (tmp_path / "elsewhere").rename(folder))
    away.start()
    assert again.next() is None and [line.split("; ")[-1] for line in again.told] == [
        "it is waited for",
        f"source {folder} is back",
    ]


def test_only_a_folder_can_be_watched(tmp_path: Path) -> None:
    write(tmp_path / "1.png", 10)
    with pytest.raises(SourceNotFound, match="is no folder, so it cannot be watched"):
        next(open_source(SourceConfig(str(tmp_path / "1.png"), watch=True)))


def test_files_that_were_taken_are_known_to_the_next_start_and_those_gone_are_forgotten(
    tmp_path: Path,
) -> None:
    folder, data = tmp_path / "card", tmp_path / "data"
    data.mkdir()
    for number in range(4):
        write(folder / f"{number}.png", number)
    keeper = WatchKeeper(data, folder, "a" * 32)
    keeper.resume(lambda boot: None)
    places = [Taken(seq, json.dumps([f"{seq}.png", 5, 7])) for seq in range(4)]
    for one in places:
        keeper.took(one.place)
    keeper.about_to_spool(places[:2])
    keeper.about_to_spool(places[2:])
    assert len(identities(keeper.after(None))) == 4
    (folder / "0.png").unlink()
    again = WatchKeeper(data, folder, "b" * 32)
    # The spool has got frames 0 to 2 of that boot: the fourth file is taken once more.
    assert identities(again.resume({"a" * 32: 3}.get)) == {("1.png", 5, 7), ("2.png", 5, 7)}
    with (data / "taken.jsonl").open("a") as stream:
        stream.write('{"boot": "a')  # a power cut in the middle of a line
    assert len(identities(WatchKeeper(data, folder, "c" * 32).resume({"a" * 32: 3}.get))) == 2


def test_nothing_is_forgotten_while_the_folder_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, data = tmp_path / "card", tmp_path / "data"
    data.mkdir()
    places = [Taken(seq, json.dumps([f"{seq}.png", 5, 7])) for seq in range(3)]
    WatchKeeper(data, folder, "a" * 32).about_to_spool(places)
    all_three = {(f"{seq}.png", 5, 7) for seq in range(3)}

    def known() -> set[Identity]:
        return identities(WatchKeeper(data, folder, "b" * 32).resume(lambda boot: None))

    assert known() == all_three, "no folder, as where a share is not mounted"
    folder.mkdir()
    assert known() == all_three, "an empty one, as where a card is mounted"
    write(folder / "other.png", 1)
    assert known() == all_three, "another card"
    with monkeypatch.context() as patch:
        patch.setattr("secondlook.edge.source.place._MOST_AWAY", 2)
        assert known() == all_three - {("0.png", 5, 7)}, "and yet the list has an end"
    write(folder / "1.png", 1)
    (folder / "2.png").symlink_to("2.png")  # a loop: nobody can tell whether it is there
    assert known() == all_three - {("0.png", 5, 7)}
    (folder / "2.png").unlink()
    assert known() == {("1.png", 5, 7)}
    assert len((data / "taken.jsonl").read_text().splitlines()) == 1


def test_a_folder_that_is_away_at_the_start_is_waited_for(tmp_path: Path) -> None:
    folder, memory = tmp_path / "card", Memory()
    gateway = SmallGateway(memory)
    plain = config(tmp_path, folder, gateway.address)
    settings = replace(plain, source=replace(plain.source, watch=True, settle_seconds=0.0))
    agent, stop = Agent(settings, PlainCodec()), threading.Event()
    assert agent._encoder.model.startswith("plain"), (
        "pictures are coded as pictures, though none is there yet"
    )
    running = threading.Thread(target=agent.run, args=(stop,))
    running.start()
    try:
        wait_until((tmp_path / "edge" / "status.json").exists, 30)
        time.sleep(1.0)
        assert running.is_alive()
        write(tmp_path / "elsewhere" / "1.png", 10)
        (tmp_path / "elsewhere").rename(folder)
        wait_until(lambda: len(memory.frames) == 1, 30)
    finally:
        stop.set()
        running.join()
        gateway.stop()


def test_a_snapshot_waits_for_no_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match="card does not exist"):
        first_frame(SourceConfig(str(tmp_path / "card"), watch=True))


@pytest.mark.parametrize("family", ["lite", "video"])
def test_files_whose_frames_were_passed_over_are_taken_once_too(tmp_path: Path, family: str) -> None:
    """Hours, a pause or a duty cycle open the folder again; so does the next start."""
    folder = tmp_path / "card"
    for number in range(4):
        write(folder / f"{number}.png", number)
    plain = config(tmp_path, folder, "tcp://127.0.0.1:9")
    source = replace(plain.source, watch=True, record_dir=tmp_path / "kept")
    agent = Agent(replace(plain, source=source, codec=replace(plain.codec, family=family)), PlainCodec())
    (tmp_path / "kept").mkdir()
    (tmp_path / "edge").mkdir()
    reasons = {0: "thinned", 1: None, 2: "idle", 3: None}
    for number, reason in reasons.items():
        agent._why_pass_over = lambda frame, reason=reason: reason  # type: ignore[method-assign]
        image = np.full((48, 64, 3), number, np.uint8)
        agent._take(Frame(image, 5, json.dumps([f"{number}.png", 5, 7])))
    every = {(f"{number}.png", 5, 7) for number in reasons}
    assert identities(agent._place.after(None)) == every, "nothing is committed yet"
    with closing(Spool(tmp_path / "edge", SpoolConfig(min_free_bytes=0), agent.boot_id, 0)) as spool:
        agent._commit(spool, SimpleNamespace(wake=lambda: None))
        assert spool.next_seq(agent.boot_id) == 4
        again = identities(WatchKeeper(tmp_path / "edge", folder, "b" * 32).resume(spool.next_seq))
    # One that is thinned out of a video group had no number when it was taken: a start may take that again.
    assert again == (every if family == "lite" else every - {("0.png", 5, 7)})
    assert len(list((tmp_path / "kept").glob("*.png"))) == len(again)


def test_an_agent_that_is_killed_and_started_again_takes_each_file_once(tmp_path: Path) -> None:
    folder, memory = tmp_path / "card", Memory()
    gateway = SmallGateway(memory)
    plain = config(tmp_path, folder, gateway.address)
    settings = replace(plain, source=replace(plain.source, watch=True, settle_seconds=0.1))
    folder.mkdir()
    for start in range(3):
        write(folder / f"{start}.jpg", 40 * start, taken=f"2026:05:0{start + 1} 10:00:00")
        stop = threading.Event()
        running = threading.Thread(target=Agent(settings, PlainCodec()).run, args=(stop,))
        running.start()
        wait_until(lambda start=start: len(memory.frames) == start + 1, 30)
        time.sleep(0.3)
        stop.set()
        running.join()
    gateway.stop()
    assert len(memory.frames) == 3 and set(memory.arrivals.values()) == {1}
    times = sorted(frame.info.captured_ns // 10**9 for frame in memory.frames.values())
    assert times == [1_777_629_600 + 86_400 * day for day in range(3)]


@pytest.fixture
def corner(tmp_path: Path) -> Iterator[Path]:
    """A picture that is white at its upper left corner."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[:8, :8] = 255
    cv2.imwrite(str(tmp_path / "corner.png"), image)
    yield tmp_path / "corner.png"


@pytest.mark.parametrize(
    ("degrees", "size", "where"),
    [(0, (64, 48), (0, 0)), (90, (48, 64), (0, -1)), (180, (64, 48), (-1, -1)), (270, (48, 64), (-1, 0))],
)
@pytest.mark.parametrize("kind", ["picture", "folder", "watched"])
def test_pictures_are_turned_to_the_right(
    corner: Path, kind: str, degrees: int, size: tuple[int, int], where: tuple[int, int]
) -> None:
    address = corner if kind == "picture" else corner.parent
    settings = SourceConfig(str(address), rotate=degrees, watch=kind == "watched", settle_seconds=0.0)  # type: ignore[arg-type]
    shot: SourceFrame = next(open_source(settings))
    assert (shot.image.shape[1], shot.image.shape[0]) == size
    assert shot.image[where].tolist() == [255] * 3
    assert shot.image.flags.c_contiguous and (shot.image > 128).sum() == 3 * 64


def test_turning_by_nothing_copies_nothing() -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    assert turned(image, 0) is image
    with pytest.raises(ConfigError, match="rotate must be one of 0, 90, 180, 270"):
        SourceConfig("demo:", rotate=45)  # type: ignore[arg-type]

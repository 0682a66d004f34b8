"""What one frame may do to a machine worker, and what it finds out before it takes any."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from secondlook.cloud import catalogue as cat
from secondlook.cloud.config import PolicyConfig, WorkerConfig
from secondlook.shared.codec import load_codec
from secondlook.shared.detection import Detection
from secondlook.shared.errors import DetectorError, LeaseLost, UnsupportedStore
from secondlook.shared.packet import MAX_ENHANCEMENT_BYTES, MAX_NS
from secondlook.shared.tiles import run_tiled, told_of_tiles
from tests.cloud.helpers import OneBox, PlainCodec, base_frame, grey
from tests.cloud.test_workers import Site, site

__all__ = ["site"]  # the fixture

ROOT = Path(__file__).resolve().parents[2]


class Finds(OneBox):
    """A detector that finds, or raises, what a function of the grey level says."""

    def __init__(self, find: Callable[[int], Detection]) -> None:
        self.find = find

    def detect(self, image: np.ndarray) -> list[Detection]:
        return [self.find(int(image[0, 0, 0]))]


def cat_at(level: int) -> Detection:
    return Detection("cat", 0.4, (1.0, 1.0, 5.0, 4.0))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondlook.cloud.workers.machine.retry_delay", lambda _: 0.0)


def dead_after(site: Site, steps: int = 3) -> list[tuple[int, str]]:
    for _ in range(steps):
        site.machine.step()
    return [(item["seq"], item["why"]) for item in site.broker.stats()["dead_frames"]]


@pytest.mark.parametrize("error", [OverflowError("too large"), MemoryError("no room"), RuntimeError("odd")])
def test_an_exception_over_a_frame_is_told_as_its_cause(site: Site, quick: None, error: Exception) -> None:
    def find(level: int) -> Detection:
        if level == 11:
            raise error
        return cat_at(level)

    site.machine.detector = Finds(find)
    site.deliver(*(base_frame(seq, grey(10 + seq)) for seq in range(3)))
    assert dead_after(site) == [(1, f"{type(error).__name__}: {error}")]
    assert site.frames() == [(0, 1), (2, 1)]


def test_a_database_that_cannot_hold_a_frame_is_no_end_of_the_worker(
    site: Site, quick: None, database_url: str
) -> None:
    """SQLite takes texts of any length; PostgreSQL does not."""
    site.catalogue.close()
    site.catalogue = site.machine.catalogue = cat.open_catalogue(database_url)
    site.machine.detector = Finds(
        lambda level: replace(cat_at(level), label="x" * (65 if level == 11 else 64))
    )
    site.deliver(*(base_frame(seq, grey(10 + seq)) for seq in range(3)))
    ((seq, why),) = dead_after(site)
    assert (seq, site.frames()) == (1, [(0, 1), (2, 1)])
    assert why.startswith("DataError: ") and "\n" not in why


@pytest.mark.parametrize("on", ["sqlite", "postgresql"])
def test_numbers_at_their_bounds_are_filed(site: Site, on: str, request: pytest.FixtureRequest) -> None:
    if on == "postgresql":
        site.catalogue.close()
        site.catalogue = site.machine.catalogue = cat.open_catalogue(request.getfixturevalue("database_url"))
    site.machine.policy = PolicyConfig()
    for seq, captured_ns in enumerate([MAX_NS, MAX_NS, 0]):
        site.deliver(
            base_frame(seq, grey(10), captured_ns=captured_ns, enhancement_bytes=MAX_ENHANCEMENT_BYTES)
        )
    assert site.machine.step() == 3
    assert site.frames() == [(0, 1), (1, 1), (2, 1)]
    assert site.broker.stats()["dead"] == 0


def test_a_detector_that_fails_on_any_picture_ends_its_worker_and_costs_no_frame(site: Site) -> None:
    def find(_: int) -> Detection:
        raise RuntimeError("wrong provider")

    site.machine.detector = Finds(find)
    with pytest.raises(DetectorError, match="one-box fails on a grey picture: RuntimeError: wrong provider"):
        site.machine.check()
    site.deliver(*(base_frame(seq, grey(10)) for seq in range(3)))
    with pytest.raises(DetectorError):
        site.machine.step()
    assert site.broker.stats()["dead"] == 0


def test_a_catalogue_of_other_tables_ends_its_worker(site: Site) -> None:
    with site.catalogue.writing() as session:
        session.connection().exec_driver_sql("ALTER TABLE reviews DROP COLUMN not_before_ns")
    with pytest.raises(UnsupportedStore, match="not_before_ns"):
        site.machine.check()


class Counting(PlainCodec):
    def __init__(self) -> None:
        self.decoded = 0

    def decode_base(self, base: bytes, *, key: bytes | None = None) -> np.ndarray:
        self.decoded += 1
        return super().decode_base(base, key=key)


def test_too_many_pixels_are_refused_before_anything_is_decoded(site: Site, quick: None) -> None:
    codec = site.machine.codec = Counting()  # type: ignore[assignment]
    site.machine.config = replace(site.machine.config, max_pixels=48)
    site.deliver(base_frame(0, grey(10)), base_frame(1, grey(10), width=7, height=7))
    assert dead_after(site) == [(1, "PictureTooLarge: 7x7 is 49 pixels, at most 48 are taken")]
    assert codec.decoded == 1


def test_the_header_of_a_layer_counts_not_only_what_its_packet_says(site: Site, quick: None) -> None:
    lite = load_codec("lite", threads=1)
    large = lite.encode(np.full((64, 128, 3), 90, np.uint8), base_quality=20, quality=30).layers.base
    codec = site.machine.codec = Counting()  # type: ignore[assignment]
    site.machine.config = replace(site.machine.config, max_pixels=1000)
    site.deliver(base_frame(0, large), base_frame(1, grey(10)), base_frame(2, grey(10), key_seq=0))
    assert dead_after(site) == [
        (2, "PictureTooLarge: 128x64 is 8192 pixels, at most 1000 are taken"),
        (0, "PictureTooLarge: 128x64 is 8192 pixels, at most 1000 are taken"),
    ]
    assert codec.decoded == 1


def test_of_large_frames_fewer_are_leased_at_a_time(site: Site) -> None:
    site.machine.config = WorkerConfig(batch=4, batch_pixels=100)
    site.deliver(*(base_frame(seq, grey(10)) for seq in range(8)))
    assert [site.machine.step() for _ in range(4)] == [4, 2, 2, 0]  # 48 pixels each


def test_a_frame_that_outlasts_its_lease_is_held_from_within_its_tiles(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10 tiles of 20 s under a lease of 30 s, with three other frames in hand."""
    now, extended = [1000.0], []

    class Session:
        def run(self, feeds: dict[str, np.ndarray], *, release: bool = False) -> dict[str, np.ndarray]:
            now[0] += 20.0
            return {"image": feeds["image"]}

    class Tiled(PlainCodec):
        def decode_base(self, base: bytes, *, key: bytes | None = None) -> np.ndarray:
            run_tiled(
                Session(),  # type: ignore[arg-type]
                {"image": np.zeros((1, 64, 640, 3), np.uint8)},
                margin=0,
                side=64,
            )
            return super().decode_base(base, key=key)

    site.machine.codec = Tiled()  # type: ignore[assignment]
    site.machine.clock = lambda: now[0]
    extend = site.broker.extend

    def counted(ids: list[int], ttl_seconds: float) -> None:
        extended.append(len(ids))
        extend(ids, ttl_seconds)

    monkeypatch.setattr(site.broker, "extend", counted)
    site.deliver(*(base_frame(seq, grey(10)) for seq in range(4)))
    assert site.machine.step() == 4
    assert extended == sorted(extended, reverse=True) and extended.count(4) >= 9 and extended.count(1) >= 9
    assert len(site.frames()) == 4


def test_who_lost_a_lease_stops_in_the_middle_of_a_frame(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]

    class Slow(PlainCodec):
        def decode_base(self, base: bytes, *, key: bytes | None = None) -> np.ndarray:
            now[0] += 20.0
            return super().decode_base(base, key=key)

    def lost(*_: object) -> None:
        raise LeaseLost("another worker has it")

    site.machine.codec = Slow()  # type: ignore[assignment]
    site.machine.clock = lambda: now[0]
    monkeypatch.setattr(site.broker, "extend", lost)
    site.deliver(base_frame(0, grey(10)), base_frame(1, grey(11)))
    assert site.machine.step() == 2
    assert site.frames() == []


def test_progress_is_told_only_where_it_is_asked_for() -> None:
    class Session:
        def run(self, feeds: dict[str, np.ndarray], *, release: bool = False) -> dict[str, np.ndarray]:
            return {"image": feeds["image"]}

    told: list[int] = []
    picture = {"image": np.zeros((1, 64, 192, 3), np.uint8)}
    with told_of_tiles(lambda: told.append(1)):
        run_tiled(Session(), picture, margin=0, side=64)  # type: ignore[arg-type]
        run_tiled(Session(), picture, margin=0)  # type: ignore[arg-type]
    run_tiled(Session(), picture, margin=0, side=64)  # type: ignore[arg-type]
    assert len(told) == 4


def test_skipped_reviews_are_told_a_minute_at_most(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    now = [1000.0]
    site.machine.clock = lambda: now[0]
    site.machine.policy = PolicyConfig(uncertain_apart_seconds=0, audit_every=0, max_open_reviews=2)
    site.deliver(*(base_frame(seq, grey(10)) for seq in range(7)))
    with caplog.at_level(logging.WARNING, "secondlook.cloud.workers.machine"):
        for _ in range(6):
            site.machine.step()
            now[0] += 20.0
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "5 more reviews skipped, 5 in all"
    ]


AS_NOBODY = """
import os, pwd, sys
from secondlook.cloud.catalogue import open_catalogue
from secondlook.shared.errors import Unwritable

open_catalogue("sqlite:///" + sys.argv[1] + "/other.db").close()  # all is imported now, from where nobody may read
os.unlink(sys.argv[1] + "/other.db")
os.setgroups([])
os.setgid(pwd.getpwnam("nobody").pw_gid)
os.setuid(pwd.getpwnam("nobody").pw_uid)
try:
    open_catalogue("sqlite:///" + sys.argv[1] + "/catalogue.db")
except Unwritable as error:
    print(error)
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter; those of pytest are for its user alone."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can leave files to others")
@pytest.mark.parametrize("what", ["catalogue.db", "catalogue.db-wal", "."])
def test_a_catalogue_that_somebody_else_made_is_refused_at_start(open_folder: Path, what: str) -> None:
    """SQLite opens what it may only read without a word; every role opens the catalogue before it says it works."""
    folder = open_folder / "data"
    cat.open_catalogue(f"sqlite:///{folder}/catalogue.db").close()
    (folder / "catalogue.db-wal").touch()
    folder.chmod(0o777)
    for path in folder.iterdir():
        path.chmod(0o666)
    (folder / what).chmod(0o755 if what == "." else 0o644)
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(folder)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    path = os.path.normpath(folder / what)
    assert done.stdout.strip() == (
        f"catalogue: {path} belongs to user root, and user nobody may not write it; "
        "give it to user nobody (chown), and run what uses it as user nobody"
    )

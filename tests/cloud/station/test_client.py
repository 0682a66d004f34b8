"""`secondlook.Client` against the real station: lists, pictures, verdicts, and following over a line that is cut."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import insert

import secondlook
from secondlook.client import Client, Event, Pages
from secondlook.cloud import catalogue as cat
from secondlook.cloud.accounts import Role, create_token
from secondlook.cloud.catalogue.schema import table_of
from secondlook.cloud.station.api import events
from secondlook.cloud.station.app import create_app
from secondlook.shared.errors import ConfigError, StationRefused, StationUnreachable
from tests.cloud.helpers import wait_until
from tests.cloud.station.cutting import cutting
from tests.cloud.station.people import add_people
from tests.cloud.station.seed import BOOT, START, Seeded, drawn_scene, seed
from tests.cloud.station.server import serving
from tests.cloud.test_catalogue import box, frame

WRITERS = 4


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Seeded:
    return seed(tmp_path_factory.mktemp("client"), ("ready", "expired", "ready", "due"))


@pytest.fixture(scope="module")
def address(seeded: Seeded) -> Iterator[str]:
    with serving(create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with secondlook.Client(address) as client:
        yield client


def test_lists_come_as_typed_rows(client: Client) -> None:
    assert [camera.id for camera in client.cameras()] == ["gate-north", "yard-2"]
    frames = list(client.frames(camera="yard-2"))
    assert [one.seq for one in frames] == [1, 3] and frames[0].captured_at.tzinfo is not None
    assert client.frame(frames[0].id) == frames[0]
    found = list(client.detections(label="car", min_score=0.5, since=datetime(2020, 1, 1, tzinfo=UTC)))
    assert len(found) == 4 and found[0].box == (210.0, 40.0, 290.0, 120.0)
    tracks = {track.id: track for track in client.objects()}
    assert all(tracks[one.object_id].camera == one.camera for one in found if one.object_id)
    assert [one.state for one in client.reviews(newest_first=True)] == ["due", "ready", "expired", "ready"]
    assert [one.id for one in client.frames(unseen=False)] == [1, 2, 3, 4]
    assert list(client.frames(unseen=True)) == []
    assert client.review(2).why_expired == "the camera host no longer has it"
    assert list(client.verdicts()) == list(client.tombstones()) == []


def test_a_list_goes_on_with_what_is_new(tmp_path: Path) -> None:
    seeded = seed(tmp_path, ("due",))
    catalogue = cat.open_catalogue(seeded.catalogue_url)
    with (
        serving(create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)) as address,
        Client(address) as client,
    ):
        pages: Pages[secondlook.client.Frame] = client.frames()
        assert [one.seq for one in pages] == [0]
        cat.store_frame(catalogue, frame(7), [], detector="x", reasons=[], now_ns=START)
        assert [one.seq for one in client.frames(after=pages.cursor)] == [7]
    catalogue.close()


def test_pictures_come_as_arrays(client: Client) -> None:
    refined = client.picture(1, "refined")
    assert refined.dtype == np.uint8 and np.array_equal(refined, drawn_scene(0).image)
    facts = {one.layer: one for one in client.pictures(1)}
    assert np.array_equal(client.picture(1, facts["base"].sha256), client.picture(1))
    assert len(client.picture_file(1, "thumb")) == facts["thumb"].bytes
    with pytest.raises(StationRefused, match="no refined picture") as refused:
        client.picture(2, "refined")
    assert refused.value.status == 404


def test_a_verdict_is_given_and_taken_back(client: Client) -> None:
    shown = client.review(3).shown_sha256
    assert shown is not None
    given = client.give_verdict(3, "confirm", shown_sha256=shown, reviewer="ann", note="a  line")
    assert (given.verdict, given.note, given.undone_at) == ("confirm", "a  line", None)
    assert client.undo_verdict(given.id, reviewer="ann").undone_at is not None
    told = list(following(client, 2, kinds=["verdict"]))
    assert [(event.what, event.verdict.note) for event in told if event.verdict] == [
        ("given", "a  line"),
        ("undone", "a  line"),
    ]


def following(client: Client, count: int, after: str = "start", **wanted: object) -> Iterator[Event]:
    for number, event in enumerate(client.follow(after=after, **wanted), 1):  # type: ignore[arg-type]
        yield event
        if number == count:
            return


def test_what_is_wrong_is_said(address: str, tmp_path: Path) -> None:
    for bad in ("station", "ftp://x", "http://", "http://[::1"):
        with pytest.raises(ConfigError):
            Client(bad)
    with pytest.raises(ConfigError):
        Client(address, ca_file=tmp_path / "none.pem")
    with pytest.raises(StationUnreachable), Client("http://127.0.0.1:1") as nobody:
        nobody.cameras()
    with Client(address) as client:
        with pytest.raises(StationRefused, match="is no cursor"):
            next(client.follow(after="here"))
        with pytest.raises(StationRefused, match="no frame 99"):
            client.frame(99)


def test_a_token_is_needed_where_there_are_users(tmp_path: Path) -> None:
    seeded = seed(tmp_path, ("due",))
    add_people(seeded.catalogue_url)
    catalogue = cat.open_catalogue(seeded.catalogue_url)
    _, token = create_token(
        catalogue, "vera", label="x", role=Role.VIEWER, expires_ns=None, actor="t", now_ns=START
    )
    catalogue.close()
    with serving(create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)) as address:
        with Client(address, token) as client:
            assert len(client.cameras()) == 1
        with Client(address) as client, pytest.raises(StationRefused, match="log in first") as refused:
            client.cameras()
        assert refused.value.status == 401


def test_it_stops_when_told(address: str) -> None:
    stop = threading.Event()
    with Client(address) as client:
        told = client.follow(after="start", stop=stop)
        next(told)
        stop.set()
        assert list(told) == []


# --- following


def test_a_stream_that_begins_now_tells_of_what_comes(tmp_path: Path) -> None:
    seeded = seed(tmp_path, ("ready",))
    catalogue = cat.open_catalogue(seeded.catalogue_url)
    with serving(create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)) as address:
        begun, told = threading.Event(), []

        def listen() -> None:
            with Client(address) as client:
                original = client._stream

                def stream(query: dict[str, object]) -> Iterator[tuple[str, str, bytes]]:
                    for part in original(query):
                        begun.set()
                        yield part

                client._stream = stream  # type: ignore[method-assign]
                told.extend(following(client, 4, after="now"))

        with ThreadPoolExecutor(1) as pool:
            listening = pool.submit(listen)
            assert begun.wait(10)
            cat.store_frame(
                catalogue, frame(8), [box(), box("dog", 0.7)], detector="x", reasons=[], now_ns=START
            )
            cat.store_tombstones(catalogue, [cat.FrameTombstone("gate", BOOT, 50, 59, "idle", START)])
            review = cat.NewReview(reason="x", priority=1)
            cat.store_frame(catalogue, frame(9), [], detector="x", reasons=[review], now_ns=START)
            listening.result(20)
    catalogue.close()
    kinds = sorted(event.kind for event in told)
    assert kinds == ["detection", "detection", "review", "tombstone"]
    (review_event,) = (event for event in told if event.kind == "review")
    assert review_event.what == "created" and review_event.review is not None


def test_states_of_cameras_are_told_once_over_many_connections(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_ALIVE_SECONDS", 0.2)  # the station of the test is in this process
    with cutting(address, most_bytes=1500) as way, Client(way.address) as client:
        told = list(following(client, 2, kinds=["camera", "detection"], min_score=1.0))
        assert [event.camera.id for event in told if event.camera] == ["gate-north", "yard-2"]
        stop = threading.Event()
        more: list[Event] = []

        def listen() -> None:
            for event in client.follow(kinds=["camera"], stop=stop):
                more.append(event)

        with ThreadPoolExecutor(1) as pool:
            listening = pool.submit(listen)
            wait_until(lambda: len(more) == 2, 30)
            cut = way.cuts
            wait_until(lambda: way.cuts >= cut + 3, 30)
            stop.set()
            listening.result(30)
        assert len(more) == 2


def store_many(url: str, writer: int, frames: int, at_once: int) -> None:
    """Frames with two detections each, as one writer among several; many in one transaction, to be quick."""
    catalogue = cat.open_catalogue(url)
    frame_rows, box_rows = insert(table_of(cat.Frame)), insert(table_of(cat.DetectedBox))
    common = {"edge_id": "gate", "boot_id": f"{writer:032x}", "captured_ns": START, "received_ns": START}
    facts = {**common, "detected_ns": START, "width": 8, "height": 6, "base_blob": "b", "base_bytes": 1}
    found = {"label": "cat", "score": 0.5, "x0": 0, "y0": 0, "x1": 1, "y1": 1, "detector": "x"}
    for first in range(0, frames, at_once):
        with catalogue.writing() as session:
            new = [{**facts, "enhancement_bytes": 0, "seq": seq} for seq in range(first, first + at_once)]
            ids = session.execute(frame_rows.returning(table_of(cat.Frame).c.id), new).scalars().all()
            session.execute(box_rows, [{**found, "frame_id": id_} for id_ in ids for _ in range(2)])
    catalogue.close()


@pytest.mark.parametrize(("frames", "database"), [(10_000, "sqlite"), (10_000, "postgresql")])
def test_a_client_follows_four_writers_over_a_line_that_is_cut(
    frames: int, database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Every detection once."""
    url = f"sqlite:///{tmp_path}/c.db" if database == "sqlite" else request.getfixturevalue("database_url")
    catalogue = cat.open_catalogue(url)
    cat.store_frame(catalogue, frame(0), [], detector="x", reasons=[], now_ns=START)  # the camera
    seen: list[int] = []
    with (
        serving(create_app(catalogue_url=url, blobs_url=str(tmp_path / "blobs"))) as address,
        cutting(address, most_bytes=800_000) as way,
        Client(way.address) as client,
        ThreadPoolExecutor(WRITERS) as pool,
    ):
        written = [
            pool.submit(store_many, url, writer, frames // WRITERS, at_once=25) for writer in range(WRITERS)
        ]
        for event in client.follow(after="start", kinds=["detection"]):
            assert event.detection is not None and event.detection.camera == "gate"
            seen.append(event.detection.id)
            if len(seen) == 2 * frames:
                break
        for one in written:
            one.result()
        assert way.cuts > 5
    with catalogue.reading() as session:
        stored = {row.id for row in session.query(cat.DetectedBox.id)}
    catalogue.close()
    assert len(seen) == len(set(seen)) == 2 * frames and set(seen) == stored

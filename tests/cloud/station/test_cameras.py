"""How cameras do by the API: states, what waits on their hosts, events, and the newest frame as it comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from secondlook.cloud import catalogue as cat
from secondlook.cloud.config import ApiLimits
from secondlook.cloud.station.app import create_app
from secondlook.shared.packet import FrameInfo
from tests.cloud.station.seed import BOOT, SECOND, START, Seeded, add_frame, note_hosts, seed
from tests.cloud.station.server import client_of

NOW = START / SECOND + 1000  # of the station


@pytest.fixture
def seeded(tmp_path: Path) -> Seeded:
    return seed(tmp_path, ["ready", "ready"])


@pytest.fixture
def client(seeded: Seeded) -> Iterator[httpx.Client]:
    app = create_app(
        catalogue_url=seeded.catalogue_url,
        blobs_url=seeded.blobs_url,
        api=ApiLimits(max_streams=1),
        now_ns=lambda: int(NOW * SECOND),
    )
    with client_of(app) as client:
        yield client


def test_a_camera_is_offline_stalled_or_online_by_what_gateways_tell(
    client: httpx.Client, seeded: Seeded
) -> None:
    assert [one["state"] for one in client.get("/api/cameras").json()] == ["silent", "silent"]
    waiting = cat.SeenHost(
        heard_at=NOW - 2,
        delivered_at=NOW - 90,
        reported_at=NOW - 10,
        waiting=41,
        oldest_at=NOW - 130,
        source="reconnecting",
        model="lite 1f0c22d9a4b38e67",
        trouble="timed out",
    )
    note_hosts(seeded, NOW - 1, gate_north=waiting, yard_2=cat.SeenHost(NOW - 300, NOW - 301))
    gate, yard = client.get("/api/cameras").json()
    assert (gate["state"], gate["state_seconds"], gate["source"]) == ("stalled", 90, "reconnecting")
    assert (gate["waiting_frames"], gate["oldest_waiting_seconds"]) == (41, 130)
    assert (gate["model"], gate["trouble"], gate["last_trouble"]) == (
        "lite 1f0c22d9a4b38e67",
        "timed out",
        "timed out",
    )
    assert (yard["state"], yard["state_seconds"], yard["waiting_frames"]) == ("offline", 300, None)
    assert [(one["what"], one["ended_at"], one["times"]) for one in gate["events"]] == [("stalled", None, 1)]


def test_what_waits_on_a_host_that_is_away_is_as_old_as_when_it_was_heard(
    client: httpx.Client, seeded: Seeded
) -> None:
    away = cat.SeenHost(NOW - 300, NOW - 400, NOW - 310, waiting=3, oldest_at=NOW - 350)
    note_hosts(seeded, NOW - 1, gate_north=away)
    gate = client.get("/api/cameras").json()[0]
    assert (gate["state"], gate["oldest_waiting_seconds"]) == ("offline", 40)


def test_programs_read_of_hosts_and_events(client: httpx.Client, seeded: Seeded) -> None:
    for second, heard in ((0, -100), (10, 10), (100, 10), (200, 200), (600, 600)):
        heard += NOW - 2000
        note_hosts(seeded, NOW - 2000 + second, gate_north=cat.SeenHost(heard, heard, heard, model="video"))
    (event,) = client.get("/api/v1/cameras/gate-north/events").json()["items"]
    assert (event["what"], event["times"]) == ("offline", 2) and event["began_at"] < event["ended_at"]
    facts = client.get("/api/v1/cameras/gate-north").json()
    assert (facts["model"], facts["waiting_frames"], facts["trouble"]) == ("video", 0, None)
    assert facts["heard_at"].startswith("2026-09-21T")
    assert client.get("/api/v1/cameras/nobody/events").status_code == 404


def test_the_newest_frame_comes_when_it_is_there(client: httpx.Client, seeded: Seeded) -> None:
    assert client.get("/api/cameras/gate-north/newest").json()["id"] == 1
    assert client.get("/api/cameras/nobody/newest").status_code == 404
    began = time.monotonic()
    assert (
        client.get("/api/cameras/gate-north/newest?after=7&seconds=6").json()["id"] == 1
    )  # another one: at once
    assert client.get("/api/cameras/gate-north/newest?after=1&seconds=0").json()["id"] == 1
    adding = threading.Timer(0.5, add_frame, (seeded, 3, START + 60 * SECOND))
    adding.start()
    found = client.get("/api/cameras/gate-north/newest?after=1&seconds=6").json()
    adding.join()
    assert found["id"] == 3 and 0.4 < time.monotonic() - began < 6
    assert client.get(f"/api/frames/{found['id']}/base").headers["content-type"] == "image/webp"  # lossless
    assert client.get("/api/cameras/gate-north/newest?after=3&seconds=7").status_code == 422


def test_nobody_waits_for_ever_and_who_finds_no_place_not_at_all(client: httpx.Client) -> None:
    began = time.monotonic()
    assert client.get("/api/cameras/gate-north/newest?after=1&seconds=0.6").json()["id"] == 1
    assert time.monotonic() - began >= 0.6
    with client.stream("GET", "/api/v1/events", params={"seconds": 20}) as stream:  # takes the only place
        parts = stream.iter_text()
        next(parts)
        began = time.monotonic()
        assert client.get("/api/cameras/gate-north/newest?after=1&seconds=6").json()["id"] == 1
        assert time.monotonic() - began < 3


def test_frames_that_no_machine_looked_at_are_told_apart(client: httpx.Client, seeded: Seeded) -> None:
    catalogue = cat.open_catalogue(seeded.catalogue_url)
    info = FrameInfo(BOOT, 50, START + 30 * SECOND, 320, 192, None, 9)
    frame = cat.NewFrame("gate-north", "North gate", START, info, "base/gate-north/50", 9)
    cat.store_unseen(catalogue, [frame], cat.BEHIND, now_ns=START)
    catalogue.close()
    (row, *_) = client.get("/api/frames").json()["frames"]
    assert (row["unseen"], row["labels"]) == ("behind", [])
    assert client.get(f"/api/frames/{row['id']}").json()["unseen"] == "behind"
    assert client.get(f"/api/v1/frames/{row['id']}").json()["unseen"] == "behind"
    for query in ({}, {"camera": "gate-north"}, {"since": "2026-09-21T14:13:20Z", "max_score": 1}):
        found = client.get("/api/frames", params={"unseen": True, **query}).json()["frames"]
        assert [one["id"] for one in found] == [row["id"]], query
    for query in ({"camera": "yard-2"}, {"label": "car"}, {"min_score": 0.1}, {"reason": "watched"}):
        found = client.get("/api/frames", params={"unseen": True, **query}).json()["frames"]
        assert found == [], query
    listed = {
        unseen: [one["id"] for one in client.get("/api/v1/frames", params=query).json()["items"]]
        for unseen, query in ((None, {}), (True, {"unseen": True}), (False, {"unseen": False}))
    }
    assert listed[True] == [row["id"]] and listed[None] == [*listed[False], row["id"]]
    line = client.get("/api/cameras/gate-north/timeline", params={"since": "2026-09-21T14:13:20Z"}).json()
    assert sum(slot["unseen"] for slot in line["slots"]) == 1
    assert sum(slot["frames"] for slot in line["slots"]) == 2

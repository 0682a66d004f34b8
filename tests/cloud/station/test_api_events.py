"""The stream of events as it is sent: format, replay, filters, heartbeats, and when it ends."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from secondlook.cloud import catalogue as cat
from secondlook.cloud.accounts import Role, create_token, revoke_token
from secondlook.cloud.catalogue.feed import START as FEED_START
from secondlook.cloud.catalogue.feed import Interest
from secondlook.cloud.station import server
from secondlook.cloud.station.api import events
from secondlook.cloud.station.app import create_app
from tests.cloud.station.people import add_people
from tests.cloud.station.seed import BOOT, SECOND, START, Seeded, seed
from tests.cloud.station.server import client_of
from tests.cloud.test_catalogue import box, frame


@dataclass(frozen=True)
class Said:
    name: str
    id: str
    data: dict[str, Any]


def parsed(text: str) -> list[Said]:
    """As a browser reads it."""
    found = []
    for part in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in part.splitlines() if ": " in line)
        if fields:
            found.append(Said(fields["event"], fields["id"], json.loads(fields["data"])))
    return found


@pytest.fixture
def seeded(tmp_path: Path) -> Seeded:
    return seed(tmp_path, ("ready", "expired", "due"))


@pytest.fixture
def catalogue(seeded: Seeded) -> Iterator[cat.Catalogue]:
    opened = cat.open_catalogue(seeded.catalogue_url)
    cat.store_tombstones(opened, [cat.FrameTombstone("yard-2", BOOT, 50, 59, "idle", START)])
    yield opened
    opened.close()


@pytest.fixture
def client(seeded: Seeded, catalogue: cat.Catalogue) -> Iterator[httpx.Client]:
    with client_of(create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)) as client:
        yield client


def told(client: httpx.Client, headers: dict[str, str] | None = None, **query: Any) -> list[Said]:
    answer = client.get("/api/v1/events", params={"seconds": 0, **query}, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store" and answer.headers["x-accel-buffering"] == "no"
    return parsed(answer.text)


def kinds(said: list[Said]) -> list[str]:
    return [one.name for one in said if one.name not in ("hello", "alive")]


def test_the_whole_story(client: httpx.Client) -> None:
    said = told(client, after="start")
    assert said[0].name == "hello" and said[-1].name == "alive"
    assert kinds(said) == ["detection"] * 6 + ["tombstone"] + ["review"] * 5
    reviews = [one.data["what"] for one in said if one.name == "review"]
    assert reviews == ["created", "refined", "created", "expired", "created"]
    for one in said[1:-1]:
        assert one.data["kind"] == one.name and set(one.data) == {"kind", "what", "at", one.name}


def test_replay_from_every_place_is_what_came_behind_it(client: httpx.Client) -> None:
    said = told(client, after="start")
    for number, one in enumerate(said[:-1]):
        behind = [later.data for later in said[number + 1 : -1]]
        for again in (told(client, after=one.id), told(client, {"last-event-id": one.id}, after="start")):
            assert [later.data for later in again[1:-1]] == behind
    assert kinds(told(client, after=said[-1].id)) == []
    assert kinds(told(client)) == []  # now


def test_filters(client: httpx.Client) -> None:
    assert kinds(told(client, after="start", kind=["tombstone", "review"])) == ["tombstone"] + ["review"] * 5
    assert (
        kinds(told(client, after="start", camera="yard-2"))
        == ["detection"] * 2 + ["tombstone"] + ["review"] * 2
    )
    assert len(kinds(told(client, after="start", kind="detection", label=["car", "dog"]))) == 3
    assert len(kinds(told(client, after="start", kind="detection", min_score=0.8))) == 3
    # What a filter leaves out is passed all the same.
    assert told(client, after="start", camera="nobody")[-1].id == told(client, after="start")[-1].id


def test_a_quiet_stream_says_that_it_lives(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_ALIVE_SECONDS", 0.2)
    monkeypatch.setattr(events, "POLL_SECONDS", 0.02)
    said = told(client, seconds=1.0)
    assert 3 <= len([one for one in said if one.name == "alive"]) <= 7


def test_states_of_cameras_where_they_are_asked_for(
    seeded: Seeded, catalogue: cat.Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_LOOK_SECONDS", 0.0)
    now = [START + 60 * SECOND]
    app = create_app(
        catalogue_url=seeded.catalogue_url,
        blobs_url=seeded.blobs_url,
        silent_seconds=30,
        now_ns=lambda: now[0],
    )
    with client_of(app) as client:
        said = [one for one in told(client, kind="camera") if one.name == "camera"]
        assert [(one.data["camera"]["id"], one.data["what"]) for one in said] == [
            ("gate-north", "silent"),
            ("yard-2", "silent"),
        ]
        with client.stream("GET", "/api/v1/events", params={"kind": "camera", "camera": "gate"}) as stream:
            parts = stream.iter_text()
            assert [one.name for one in parsed(next(parts))] == ["hello"]
            for seq, state in ((1, "online"), (2, "silent"), (3, "online")):
                if state == "online":
                    cat.store_frame(catalogue, frame(seq), [], detector="x", reasons=[], now_ns=now[0])
                (one,) = parsed(next(parts))
                assert (one.name, one.data["kind"], one.data["what"]) == ("camera", "camera", state)
                now[0] += 31 * SECOND


def test_what_comes_is_told_at_once(client: httpx.Client, catalogue: cat.Catalogue) -> None:
    with client.stream("GET", "/api/v1/events", params={"kind": "detection"}) as stream:
        parts = stream.iter_text()
        assert parsed(next(parts))[0].name == "hello"
        cat.store_frame(catalogue, frame(9), [box(), box("dog")], detector="x", reasons=[], now_ns=START)
        stored = time.monotonic()
        said = parsed(next(parts))
        assert time.monotonic() - stored < 3
        assert [one.data["detection"]["label"] for one in said] == ["cat", "dog"]


def test_a_stream_ends_with_its_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_CHECK_SECONDS", 0.1)
    monkeypatch.setattr(events, "POLL_SECONDS", 0.02)
    seeded = seed(tmp_path, ("due",))
    add_people(seeded.catalogue_url)
    catalogue = cat.open_catalogue(seeded.catalogue_url)
    number, token = create_token(
        catalogue, "vera", label="x", role=Role.VIEWER, expires_ns=None, actor="t", now_ns=START
    )
    app = create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)
    headers = {"authorization": f"Bearer {token}"}
    with client_of(app) as client, client.stream("GET", "/api/v1/events", headers=headers) as stream:
        parts = stream.iter_text()
        next(parts)
        revoke_token(catalogue, number, actor="t", now_ns=START)
        assert list(parts) == []
    catalogue.close()


def test_a_stream_that_catches_up_ends_with_its_token_and_its_time(
    catalogue: cat.Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much there is to tell."""
    monkeypatch.setattr(events, "EVENTS_AT_ONCE", 1)
    monkeypatch.setattr(events, "_CHECK_SECONDS", 0.0)

    def heard(seconds: float | None, may_listen: bool) -> int:
        async def listen() -> int:
            stream = events.Stream(
                catalogue, Interest(), seconds, may_listen=lambda: may_listen, stopping=asyncio.Event()
            )
            return len(
                [said for one in [part async for part in stream.parts(FEED_START)] for said in parsed(one)]
            )

        return asyncio.run(listen())

    everything = heard(0, True)
    assert everything == 12 + 2, "one of no seconds tells all there is"
    assert heard(None, False) == 2 and heard(1e-9, True) == 3


def test_streams_end_when_the_station_does(
    seeded: Seeded, catalogue: cat.Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, and not when the time for what is being answered is over."""
    app = create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)
    servers: list[uvicorn.Server] = []

    class Noted(server._Server):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            servers.append(self)

    monkeypatch.setattr(server, "_Server", Noted)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.serve, args=(app, listener))
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with httpx.stream("GET", f"{address}/api/v1/events", timeout=20) as stream:
            parts = stream.iter_text()
            next(parts)
            servers[0].should_exit = True
            began = time.monotonic()
            assert list(parts) == []
            assert time.monotonic() - began < server._STOP_SECONDS - 1
        thread.join(10)
        assert not thread.is_alive()

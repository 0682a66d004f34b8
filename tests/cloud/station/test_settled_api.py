"""Reviews that a second look settled: their list, what is said of them, and how a person takes one up after all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from secondlook.cloud import catalogue as cat
from secondlook.cloud.station.app import create_app
from tests.cloud.station.pages import PROGRAM, Page
from tests.cloud.station.seed import SECOND_LOOK, START, Seeded, seed
from tests.cloud.station.server import client_of

ANN = {"reviewer": "Ann"}


@pytest.fixture
def seeded(tmp_path: Path) -> Seeded:
    return seed(tmp_path, ["ready", "settled", "settled", "due"])


@pytest.fixture
def client(seeded: Seeded) -> Iterator[httpx.Client]:
    with client_of(create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)) as client:
        yield client


def give(client: httpx.Client, review_id: int, verdict: str, **parts: Any) -> httpx.Response:
    digest = client.get(f"/api/reviews/{review_id}/images/enhanced").headers["x-content-sha256"]
    body = {**ANN, "verdict": verdict, "shown_sha256": digest, **parts}
    return client.post(f"/api/reviews/{review_id}/verdicts", json=body)


def test_they_have_a_list_of_their_own_and_are_open_nowhere(client: httpx.Client) -> None:
    summary = client.get("/api/summary").json()
    assert summary["filters"] == {
        "open": 2, "ready": 1, "pending": 1, "expired": 0, "settled": 2, "skipped": 0, "decided": 0,
    }  # fmt: skip
    assert (summary["remaining"], summary["decided_last_day"]) == (2, 0)
    listed = client.get("/api/reviews", params={"filter": "settled"}).json()
    assert [(row["id"], row["state"], row["verdict"]) for row in listed["reviews"]] == [
        (2, "settled", None),
        (3, "settled", None),
    ]
    assert [row["id"] for row in client.get("/api/reviews").json()["reviews"]] == [1, 4]
    assert all(camera["open_reviews"] == 1 for camera in client.get("/api/cameras").json())


def test_a_page_and_a_program_are_told_what_the_second_look_said(client: httpx.Client) -> None:
    review = client.get("/api/reviews/2").json()
    assert (review["state"], review["second_look"]) == ("settled", SECOND_LOOK)
    assert review["images"] == {"base": True, "enhanced": True, "refined": False}
    assert client.get("/api/reviews/1").json()["second_look"] is None
    listed = client.get("/api/v1/reviews", params={"state": "settled"}).json()["items"]
    assert [(one["id"], one["state"], one["second_look"]) for one in listed] == [
        (2, "settled", SECOND_LOOK),
        (3, "settled", SECOND_LOOK),
    ]
    stream = client.get("/api/v1/events", params={"kind": "review", "after": "start", "seconds": 0}).text
    told = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    assert [one["what"] for one in told if one.get("review", {}).get("id") == 2] == ["created", "settled"]
    (line,) = [
        one for one in client.get("/api/history").json()["entries"] if one["action"] == "review settled"
    ][:1]
    assert line["detail"]["boxes"] == SECOND_LOOK["boxes"]
    people = client.get("/api/history", params={"people": True}).json()["entries"]
    assert people == [], "no person did that"


def test_what_people_said_is_not_what_the_machine_says(client: httpx.Client) -> None:
    assert client.get("/api/export/coco.json").json()["images"] == []
    assert client.get("/api/export/verdicts.jsonl").text == ""
    every = client.get("/api/export/coco.json", params={"undecided": True}).json()["images"]
    assert {image["state"] for image in every} == {"ready", "settled", "due"}
    assert not any(image["verified"] for image in every)
    settled = next(image for image in every if image["state"] == "settled")
    assert settled["station_path"].endswith("/images/enhanced")
    assert give(client, 2, "confirm").status_code == 200
    (image,) = client.get("/api/export/coco.json").json()["images"]
    assert (image["review_id"], image["verified"], image["reviewers"]) == (2, True, ["Ann"])
    assert len(client.get("/api/export/verdicts.jsonl").text.splitlines()) == 1


def test_figures_of_the_detector_are_of_what_people_said(client: httpx.Client) -> None:
    before = client.get("/api/figures/detector").json()
    assert give(client, 1, "confirm").status_code == 200
    after = client.get("/api/figures/detector").json()
    assert before != after
    alone = client.get("/api/v1/verdicts").json()["items"]
    assert [verdict["review_id"] for verdict in alone] == [1]


def test_anybody_can_have_one_fetched_after_all(client: httpx.Client, seeded: Seeded) -> None:
    assert client.post("/api/claims", json={**ANN, "tab": "a" * 8, "review_id": 2}).status_code == 409
    asked = client.post("/api/reviews/2/retry", json=ANN).json()
    assert (asked["state"], asked["second_look"], asked["images"]["enhanced"]) == ("due", SECOND_LOOK, True)
    by_frame = client.post("/api/frames/3/review", json=ANN)
    assert by_frame.status_code == 200
    assert client.get("/api/reviews/3").json()["state"] == "due"
    catalogue = cat.open_catalogue(seeded.catalogue_url)
    leased = cat.lease_due_review(catalogue, "refiner-2", lease_seconds=60, now_ns=START)
    catalogue.close()
    assert leased is not None and leased.doubts is None


def test_one_of_which_a_crop_is_shown_says_so(client: httpx.Client, seeded: Seeded) -> None:
    catalogue = cat.open_catalogue(seeded.catalogue_url)
    with catalogue.writing() as session:
        session.get_one(cat.Review, 2).crop = "16,48,112,160"
    catalogue.close()
    assert client.get("/api/reviews/2").json()["crop"] == [16, 48, 112, 160]
    assert client.post("/api/reviews/2/whole", json=ANN).json()["state"] == "due"


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium on PATH")
def test_the_page_shows_it_and_takes_it_up(open_page: Callable[..., Page]) -> None:
    page = open_page("settled", "due")
    browser = page.browser
    browser.wait_for("document.querySelector('[data-filter=settled]')?.textContent.includes('1')")
    browser.run("document.querySelector('[data-filter=settled]').click()")
    page.expect(1, "Enhanced")
    assert page.text("notice").startswith("Nobody is asked · second look: person 0.44 → 0.87, confirmed")
    assert "settled by a second look" in page.text("facts")
    assert "second look: person 0.44 → 0.87, confirmed" in page.text("box-list")
    browser.press("a")
    browser.run("document.querySelector('#notice button').click()")
    browser.wait_for("document.getElementById('notice').innerText.startsWith('Base picture')")
    assert (page.review(1)["state"], page.standing(1)) == ("due", [])

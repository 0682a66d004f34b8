"""Frames of which a crop is shown: what the API says of them, and how the page has the rest fetched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from secondlook.cloud import catalogue as cat
from secondlook.cloud.station.app import create_app
from tests.cloud.station.pages import PROGRAM, Page
from tests.cloud.station.seed import START, Seeded, drawn_scene, finish, seed
from tests.cloud.station.server import client_of

CROP = [16, 48, 112, 160]


def show_crop(seeded: Seeded, review_id: int) -> None:
    """As a refiner leaves it that was sent a crop."""
    catalogue = cat.open_catalogue(seeded.catalogue_url)
    with catalogue.writing() as session:
        session.get_one(cat.Review, review_id).crop = ",".join(map(str, CROP))
    catalogue.close()


def lease(seeded: Seeded) -> cat.LeasedReview | None:
    catalogue = cat.open_catalogue(seeded.catalogue_url)
    leased = cat.lease_due_review(catalogue, "refiner-1", lease_seconds=3600, now_ns=START)
    catalogue.close()
    return leased


def test_the_api_says_which_crop_is_in_full_quality_and_has_the_rest_fetched(tmp_path: Path) -> None:
    seeded = seed(tmp_path, ["ready", "ready", "expired"])
    show_crop(seeded, 1)
    app = create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)
    with client_of(app) as client:
        assert [client.get(f"/api/reviews/{n}").json()["crop"] for n in (1, 2, 3)] == [CROP, None, None]
        assert client.get("/api/v1/reviews/1").json()["crop"] == CROP
        ann = {"reviewer": "Ann"}
        asked = client.post("/api/reviews/1/whole", json=ann).json()
        assert (asked["state"], asked["crop"], asked["images"]["refined"]) == ("due", CROP, True)
        assert client.post("/api/reviews/1/whole", json=ann).status_code == 200, "asked twice, fetched once"
        leased = lease(seeded)
        assert leased is not None and (leased.review_id, leased.crop) == (1, None)
        assert client.post("/api/reviews/2/whole", json=ann).json()["state"] == "ready", "nothing is missing"
        refused = client.post("/api/reviews/3/whole", json=ann)
        assert refused.status_code == 409 and "expired" in refused.json()["detail"]
        assert client.post("/api/reviews/77/whole", json=ann).status_code == 404
    catalogue = cat.open_catalogue(seeded.catalogue_url)
    with catalogue.reading() as session:
        actions = [entry.action for entry in session.query(cat.AuditEntry)]
    catalogue.close()
    assert actions.count("whole frame asked for") == 1


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium on PATH")
def test_a_key_has_the_rest_fetched_and_the_picture_is_sharpened_in_place(
    open_page: Callable[..., Page],
) -> None:
    page = open_page("ready", "ready")
    browser = page.browser
    page.expect(1)
    browser.press("v")  # nothing is missing
    show_crop(page.seeded, 1)
    browser.call("Page.reload")
    page.expect(1)
    browser.wait_for("document.querySelectorAll('.box.crop').length === 1")
    assert "inside the dashed line" in page.text("notice")
    browser.press("b")
    browser.wait_for("document.querySelectorAll('.box.crop').length === 0")
    browser.press("b")
    browser.press("v")
    browser.wait_for("document.getElementById('notice').innerText.includes('the rest: on its way')")
    assert page.review(1)["state"] == "due"
    page.expect(1)  # what is there is shown meanwhile
    assert lease(page.seeded) is not None
    finish(page.seeded, 1, drawn_scene(0))
    browser.wait_for("document.getElementById('notice').innerText === ''")
    assert browser.run("document.querySelectorAll('.box.crop').length") == 0
    browser.press("a")
    page.expect(2)
    page.expect_stored(1, [("confirm", None, None)])


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium on PATH")
def test_the_page_says_that_the_rest_could_not_be_had(open_page: Callable[..., Page]) -> None:
    page = open_page("ready")
    show_crop(page.seeded, 1)
    page.browser.call("Page.reload")
    page.expect(1)
    page.browser.wait_for("document.querySelector('#notice button')?.textContent.startsWith('Whole frame')")
    page.browser.run("document.querySelector('#notice button').click()")
    page.browser.wait_for("document.getElementById('notice').innerText.includes('the rest: on its way')")
    assert lease(page.seeded) is not None
    catalogue = cat.open_catalogue(page.seeded.catalogue_url)
    cat.mark_expired(catalogue, 1, "refiner-1", why="enhancement refused: expired", now_ns=START)
    catalogue.close()
    page.browser.wait_for("document.getElementById('notice').innerText.includes('could not be had')")
    assert page.review(1)["state"] == "ready"

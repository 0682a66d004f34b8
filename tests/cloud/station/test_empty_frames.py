"""Frames without a box: judged in words of their own, and exported as what they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from secondlook.cloud.station.app import create_app
from tests.cloud.station.pages import PROGRAM, Page
from tests.cloud.station.seed import Scene, drawn_scene, seed
from tests.cloud.station.server import client_of

EMPTY = Scene(drawn_scene(3).image, [])
FULL = drawn_scene(4)


def give(client: httpx.Client, review_id: int, verdict: str, **parts: Any) -> httpx.Response:
    digest = client.get(f"/api/reviews/{review_id}/images/refined").headers["x-content-sha256"]
    body = {"reviewer": "Ann", "verdict": verdict, "shown_sha256": digest, **parts}
    return client.post(f"/api/reviews/{review_id}/verdicts", json=body)


def images(client: httpx.Client, **query: Any) -> dict[int, tuple[bool, bool]]:
    data = client.get("/api/export/coco.json", params=query).json()
    return {image["review_id"]: (image["verified"], image["no_object"]) for image in data["images"]}


def test_an_empty_frame_and_an_incomplete_one_are_exported_apart(tmp_path: Path) -> None:
    seeded = seed(tmp_path, ["ready"] * 5, [EMPTY, EMPTY, EMPTY, EMPTY, FULL])
    app = create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)
    with client_of(app) as client:
        give(client, 1, "no_object")
        give(client, 2, "incomplete")
        give(client, 3, "missed_object", label="fox", box=[1, 2, 30, 40])
        give(client, 3, "confirm")
        give(client, 4, "reject")  # as programs said it before there was a word for it
        give(client, 5, "reject")
        assert client.get("/api/reviews/2").json()["state"] == "decided"
        assert images(client) == {1: (True, True), 3: (True, False), 5: (True, True)}
        assert images(client, unsure=True) == {
            1: (True, True),
            2: (False, False),
            3: (True, False),
            4: (False, False),
            5: (True, True),
        }


def test_nothing_here_is_no_verdict_on_a_frame_with_boxes(tmp_path: Path) -> None:
    seeded = seed(tmp_path, ["ready", "ready"], [FULL, EMPTY])
    app = create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)
    with client_of(app) as client:
        refused = give(client, 1, "no_object")
        assert refused.status_code == 409 and "reject them" in refused.json()["detail"]
        give(client, 2, "missed_object", label="fox", box=[1, 2, 30, 40])
        assert give(client, 2, "no_object").status_code == 409
        for verdict in ("no_object", "incomplete"):
            assert give(client, 1, verdict, box_index=0).status_code == 422


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium on PATH")
def test_the_page_has_words_of_its_own(open_page: Callable[..., Page]) -> None:
    page = open_page(*["ready"] * 4, scenes=[EMPTY, EMPTY, EMPTY, FULL])
    browser = page.browser
    page.expect(1)
    buttons = (
        "[...document.querySelectorAll('#verdicts .verdict span')].slice(0, 2).map((b) => b.textContent)"
    )
    assert browser.run(buttons) == ["Nothing here", "Something is missing"]
    wrong_class = "document.querySelector('[data-action=wrongClass]').hidden"
    assert browser.run(wrong_class)  # there is none to be wrong
    browser.press("a")
    page.expect(2)
    page.expect_stored(1, [("no_object", None, None)])
    browser.press("r")
    page.expect(3)
    page.expect_stored(2, [("incomplete", None, None)])
    browser.press("m")
    left, top = browser.run(
        "(({left, top}) => [left, top])(document.getElementById('stage').getBoundingClientRect())"
    )
    browser.drag((left + 300, top + 250), (left + 360, top + 330))
    browser.wait_for("document.getElementById('label-dialog').open")
    browser.type("fox")
    browser.press("Enter")
    browser.wait_for(f"{buttons}.join() === 'That is all,More is missing'")
    assert not browser.run(wrong_class)
    browser.press("a")
    page.expect(4)
    page.expect_stored(3, [("missed_object", None, "fox"), ("confirm", None, None)])
    assert browser.run(buttons) == ["Confirm", "Reject"]

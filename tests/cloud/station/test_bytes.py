"""What the page fetches: lossless WebP with the hash of its bytes, and base pictures only where they are wanted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from secondlook.cloud.decoding.files import lossless, media_type, pixels, thumbnail
from secondlook.cloud.station.app import create_app
from tests.cloud.station.pages import IN_BROWSER, Page
from tests.cloud.station.seed import drawn_scene, seed
from tests.cloud.station.server import client_of

FETCHED = "performance.getEntriesByType('resource').map((e) => e.name).filter((n) => n.includes('/images/'))"


def test_a_picture_comes_to_the_bit_whatever_its_size() -> None:
    for image in (drawn_scene(1).image, np.zeros((1, 16_400, 3), np.uint8)):
        data = lossless(image)
        assert np.array_equal(pixels(data), image)
    assert media_type(data) == "image/png"  # no WebP is that wide
    small = thumbnail(drawn_scene(1, 1280, 720).image)
    assert pixels(small).shape == (180, 320, 3) and len(small) < 20_000


def test_the_hash_is_of_what_is_shown(tmp_path: Path) -> None:
    seeded = seed(tmp_path, ["ready"])
    with client_of(create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)) as client:
        answer = client.get("/api/reviews/1/images/refined")
        assert answer.headers["content-type"] == "image/webp"
        assert answer.headers["x-content-sha256"] == hashlib.sha256(answer.content).hexdigest()
        assert np.array_equal(pixels(answer.content), drawn_scene(0).image)
        # Pictures that were stored before are PNG, and stay so.
        path = tmp_path / "blobs/image/1/refined.webp"
        path.write_bytes(b"\x89PNG and so on")
        assert client.get("/api/reviews/1/images/refined").headers["content-type"] == "image/png"


@IN_BROWSER[0]
def test_on_a_slow_line_base_pictures_come_when_they_are_asked_for(open_page: Callable[..., Page]) -> None:
    page = open_page(*["ready"] * 4)
    browser = page.browser
    page.expect(1)
    browser.call("Network.enable")
    slow = {"offline": False, "latency": 900, "downloadThroughput": 190_000, "uploadThroughput": 190_000}
    browser.call("Network.emulateNetworkConditions", **slow)
    try:
        browser.reload()
        browser.wait_for("document.getElementById('tag-right')?.textContent === 'Refined'", 60)
        browser.wait_for(f"{FETCHED}.some((name) => name.includes('reviews/2/'))", 60)
        assert not [name for name in browser.run(FETCHED) if "base" in name]
        browser.hold(" ")
        browser.wait_for("document.getElementById('tag-right')?.textContent === 'Base'", 60)
        browser.release(" ")
        assert [name for name in browser.run(FETCHED) if "reviews/1/images/base" in name]
    finally:
        full = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        browser.call("Network.emulateNetworkConditions", **full)
        browser.call("Network.disable")

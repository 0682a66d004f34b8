"""Every page in Firefox: it opens, shows what it should, and logs no error; a verdict is given by key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from secondlook.cloud.station.app import create_app
from tests.cloud.station.firefox import Firefox, find_firefox
from tests.cloud.station.seed import seed
from tests.cloud.station.server import serving

PROGRAM = find_firefox()
pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="no Firefox on PATH"),
    pytest.mark.timeout(300),
    pytest.mark.process,
]

PAGES = {
    "/grid": "document.querySelectorAll('#grid .tile').length === 3",
    "/frames": "document.querySelectorAll('#frames .tile').length === 4",
    "/frames/1": "document.querySelector('.frame-picture img')?.naturalWidth > 0",
    "/cameras": "document.querySelectorAll('.camera .timeline').length === 2",
    "/history": "document.querySelectorAll('#history tr').length > 0",
    "/figures": "document.querySelectorAll('#figures-detector .band').length === 1",
    "/docs": "document.querySelectorAll('#operations details').length > 10",
}
SHOWN = "document.getElementById('tag-right')?.textContent === 'Refined'"


@pytest.fixture
def firefox(tmp_path: Path) -> Iterator[Firefox]:
    assert PROGRAM is not None
    firefox = Firefox(PROGRAM, tmp_path / "profile")
    yield firefox
    firefox.close()


def test_pages_and_a_verdict(firefox: Firefox, tmp_path: Path) -> None:
    seeded = seed(tmp_path, ["ready"] * 4)
    with serving(create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)) as address:
        firefox.open(f"{address}/docs")
        firefox.wait_for(PAGES["/docs"])
        firefox.run("(localStorage.setItem('secondlook.reviewer', 'Ann'), true)")
        firefox.open(f"{address}/reviews/1")
        firefox.wait_for(f"{SHOWN} && document.querySelector('.row[aria-current]')?.dataset.id === '1'")
        firefox.run("document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'a', bubbles: true }))")
        firefox.wait_for("document.querySelector('.row[aria-current]')?.dataset.id === '2'")
        firefox.wait_for("fetch('/api/reviews/1').then(async (r) => (await r.json()).state === 'decided')")
        for page, there in PAGES.items():
            firefox.open(address + page)
            firefox.wait_for(there)
        firefox.open("about:blank")
    assert firefox.errors == []

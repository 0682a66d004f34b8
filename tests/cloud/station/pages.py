"""The station in a real browser, with a second pair of eyes on its API."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from secondlook.cloud.station.app import create_app
from tests.cloud.station.browser import Browser, find_chromium
from tests.cloud.station.people import PASSWORDS, add_people, log_in
from tests.cloud.station.seed import Scene, Seeded, seed
from tests.cloud.station.server import serving

PROGRAM = find_chromium()
IN_BROWSER = [
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium on PATH"),
    pytest.mark.timeout(180),
]
TAG = "document.getElementById('tag-right')?.textContent"
CURRENT = "document.querySelector('.row[aria-current]')?.dataset.id ?? null"
NAME_ASKED = "document.getElementById('name-dialog')?.open"


class Page:
    """The station in the browser; ``api`` is a client of its own."""

    def __init__(self, browser: Browser, api: httpx.Client, seeded: Seeded, address: str) -> None:
        self.browser = browser
        self.api = api
        self.seeded = seeded
        self.address = address

    def text(self, id_: str) -> str:
        """What stands in an element."""
        return str(self.browser.run(f"document.getElementById('{id_}').innerText"))

    def review(self, review_id: int) -> Any:
        return self.api.get(f"/api/reviews/{review_id}").json()

    def standing(self, review_id: int) -> list[tuple[str, int | None, str | None]]:
        verdicts = self.review(review_id)["verdicts"]
        return [(v["verdict"], v["box_index"], v["label"]) for v in verdicts if not v["undone"]]

    def expect(self, review_id: int | None, version: str = "Refined") -> None:
        """Wait until a review is the current one and its picture is on the canvas."""
        wanted = "null" if review_id is None else f"'{review_id}'"
        self.browser.wait_for(f"({CURRENT}) === {wanted} && {TAG} === '{version}'")

    def expect_stored(self, review_id: int, verdicts: list[tuple[str, int | None, str | None]]) -> None:
        """Wait until the server holds exactly these verdicts."""
        url = f"/api/reviews/{review_id}"
        held = "(await r.json()).verdicts.filter((v) => !v.undone).length"
        self.browser.wait_for(f"fetch('{url}').then(async (r) => {held} === {len(verdicts)})")
        assert self.standing(review_id) == verdicts, self.standing(review_id)


def say_name(browser: Browser, name: str, seconds: float = 15.0) -> None:
    """Answer the question for the reviewer's name."""
    browser.wait_for(NAME_ASKED, seconds)
    browser.type(name)
    browser.press("Enter")
    # The dialog is closed before its answer is heard, and kept: who goes to another page in between is asked again.
    browser.wait_for(f"!{NAME_ASKED} && document.getElementById('reviewer').textContent === '{name}'")


def enter_password(browser: Browser, user: str) -> None:
    """Log in at the page for it."""
    browser.wait_for("document.activeElement?.id === 'name' && !document.getElementById('submit').disabled")
    browser.type(user)
    browser.press("Tab")
    browser.type(PASSWORDS[user])
    browser.press("Enter")
    browser.wait_for(f"document.getElementById('account')?.textContent === '{user}'")


@contextmanager
def opened_page(
    browser: Browser,
    folder: Path,
    *states: str,
    scenes: Sequence[Scene] = (),
    path: str = "/",
    user: str | None = None,
    apart_seconds: float = 7.0,
    **options: Any,
) -> Iterator[Page]:
    """The page over reviews in the given states, with Ann before it, or with one of ``people`` logged in.

    ``options`` are the app's.
    """
    seeded = seed(folder, states, scenes, apart_seconds=apart_seconds)
    if user is not None:
        add_people(seeded.catalogue_url)
    app = create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url, **options)
    with ExitStack() as stack:
        address = stack.enter_context(serving(app))
        api = stack.enter_context(httpx.Client(base_url=address, timeout=30))
        stack.callback(browser.call, "Page.navigate", url="about:blank")
        browser.call("Page.navigate", url=f"{address}{path}")
        if user is None:
            say_name(browser, "Ann")
        else:
            stack.callback(browser.call, "Network.clearBrowserCookies")
            assert log_in(api, user).status_code == 200
            enter_password(browser, user)
        yield Page(browser, api, seeded, address)

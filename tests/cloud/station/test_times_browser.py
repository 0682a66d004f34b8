"""Times are shown in the viewer's zone; each tells its instant in UTC on hover. In a real browser."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloud.station.browser import Browser
from tests.cloud.station.pages import IN_BROWSER, Page, opened_page
from tests.cloud.station.seed import SECOND, START
from tests.cloud.station.test_axe_browser import PAGES

pytestmark = IN_BROWSER

ZONE, LOCALE = "Asia/Kolkata", "en-GB"  # half an hour beside all others
SKIPPED = ("/nowhere", "/docs", "/reviews/99", "/people")  # without times

# Texts with a time of day in them that say no instant of UTC on hover; and `time` elements whose title is another one.
UNTOLD = r"""
(() => {
  const instant = /\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z/;
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const text = node.textContent;
    if (!/\b\d{1,2}:\d\d(:\d\d)?\b/.test(text)) continue;
    if (node.parentElement.localName === 'title' && instant.test(text)) continue;
    if (!instant.test(node.parentElement.closest('[title]')?.title ?? '')) found.push(text);
  }
  for (const node of document.querySelectorAll('time')) {
    const same = Date.parse(node.title) === Math.trunc(Date.parse(node.dateTime));
    if (!same || !instant.test(node.title)) found.push(node.outerHTML);
  }
  return JSON.stringify(found);
})()
"""


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    browser.call("Emulation.setTimezoneOverride", timezoneId=ZONE)
    browser.call("Emulation.setLocaleOverride", locale=LOCALE)
    options = {"user": "ada", "apart_seconds": 0.3, "now_ns": lambda: START + 3600 * SECOND}
    with opened_page(browser, tmp_path, *["ready"] * 4, **options) as page:
        page.expect(1)
        page.api.post("/api/reviews/1/comments", json={"text": "a dog?"})
        page.api.post("/api/reviews/1/handover", json={"to": "rolf"})
        yield page
    browser.call("Emulation.setTimezoneOverride", timezoneId="")
    browser.call("Emulation.setLocaleOverride")


@pytest.mark.timeout(300)
def test_every_time_says_its_instant_in_utc(page: Page) -> None:
    untold, times = {}, {}
    for address, there in PAGES.items():
        if address in SKIPPED:
            continue
        page.browser.call("Page.navigate", url=page.address + address)
        page.browser.wait_for(there)
        time.sleep(0.3)
        times[address] = page.browser.run(
            "document.querySelectorAll('time, #figures-day figure[title*=Z]').length"
        )
        found = json.loads(page.browser.run(UNTOLD))
        if found:
            untold[address] = found
    assert not untold, json.dumps(untold, indent=1)
    assert all(times.values()), times


def test_a_time_is_of_the_viewers_zone_and_its_title_of_utc(page: Page) -> None:
    captured = (
        "[...document.querySelectorAll('#facts dt')].find((dt) => dt.innerText === 'Captured').nextSibling"
    )
    page.browser.run("document.getElementById('frame-facts').open = true")
    assert page.browser.run(f"{captured}.querySelector('time').title") == "2026-09-21T14:13:20Z"
    assert "19:43:20" in page.browser.run(f"{captured}.innerText")
    page.browser.wait_for("document.querySelectorAll('#comments time').length === 1")
    said = page.browser.run("document.querySelector('#comments time').title")
    assert said == "2026-09-21T15:13:20Z"
    page.browser.call("Page.navigate", url=f"{page.address}/frames?since=2026-09-21T00:00")
    page.browser.wait_for("document.querySelectorAll('#frames .tile').length === 4")
    assert page.browser.run("document.querySelector('[name=since]').title") == "2026-09-20T18:30:00Z"

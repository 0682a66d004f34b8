"""Every frame has an address, the page keeps its place, and it fits its window: light, dark, low, and a phone's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from tests.cloud.station.browser import Browser
from tests.cloud.station.pages import IN_BROWSER, Page, enter_password

pytestmark = IN_BROWSER

GROUND = "getComputedStyle(document.body).backgroundColor"


@contextmanager
def window(browser: Browser, width: int, height: int, *, mobile: bool = False) -> Iterator[None]:
    browser.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile
    )
    try:
        yield
    finally:
        browser.call("Emulation.clearDeviceMetricsOverride")


def bounds(browser: Browser, selector: str) -> Any:
    return browser.run(
        f"(({{left, top, right, bottom}}) => ({{left, top, right, bottom}}))"
        f"(document.querySelector('{selector}').getBoundingClientRect())"
    )


def test_a_frame_has_an_address_that_a_reload_keeps(open_page: Callable[..., Page]) -> None:
    page = open_page(*["ready"] * 3)
    browser = page.browser
    page.expect(1)
    browser.wait_for("location.pathname === '/reviews/1'")
    browser.press("j")
    browser.wait_for("location.pathname === '/reviews/2'")
    browser.reload()
    page.expect(2)
    browser.press("h")
    browser.wait_for(
        "location.pathname === '/history' && document.getElementById('page-history')?.hidden === false"
    )
    browser.run("history.back()")
    browser.wait_for("location.pathname === '/reviews/2' && document.getElementById('page-history').hidden")
    browser.call("Page.navigate", url=f"{page.address}/reviews/3")  # a colleague's link
    page.expect(3)


def test_what_is_not_there_is_said_on_a_page(open_page: Callable[..., Page]) -> None:
    page = open_page("ready", path="/reviews/77")
    browser = page.browser
    browser.wait_for("!document.getElementById('empty').hidden")
    assert "There is no such frame" in page.text("empty")
    browser.run("document.querySelector('#empty button').click()")
    page.expect(1)
    browser.call("Page.navigate", url=f"{page.address}/nowhere/at/all")
    browser.wait_for("document.querySelector('h1')?.innerText === 'There is no page here'")
    browser.wait_for("getComputedStyle(document.querySelector('main')).display === 'grid'")  # styled
    answer = page.api.get("/nowhere", headers={"accept": "text/html"})
    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert page.api.get("/api/nowhere").json() == {"detail": "Not Found"}


def test_a_link_leads_through_the_login(open_page: Callable[..., Page]) -> None:
    page = open_page("ready", "ready", user="rolf", path="/reviews/2")
    page.expect(2)
    assert page.browser.run("location.pathname") == "/reviews/2"
    for elsewhere in ("//elsewhere.example/x", "/%5Celsewhere.example", "https:%2F%2Felsewhere.example?x"):
        page.browser.call("Network.clearBrowserCookies")
        page.browser.call("Page.navigate", url=f"{page.address}/login?next={elsewhere}")
        enter_password(page.browser, "rolf")
        assert page.browser.run("location.host") == page.address.removeprefix("http://")


def test_what_a_link_asks_for_is_kept_through_the_login(open_page: Callable[..., Page]) -> None:
    asked = "?camera=yard-2&since=2026-09-21T14%3A13"
    page = open_page("ready", "ready", user="rolf", path=f"/frames{asked}")
    assert page.browser.run("location.pathname + location.search") == f"/frames{asked}"
    page.browser.wait_for("document.querySelectorAll('#frames .tile').length === 1")
    # Also where the page itself finds that nobody is logged in any more.
    page.browser.call("Network.clearBrowserCookies")
    answer = page.browser.run(f"fetch('/frames{asked}').then((r) => r.url)")
    assert answer == f"{page.address}/login?next={quote(f'frames{asked}')}"


def test_light_and_dark(open_page: Callable[..., Page]) -> None:
    page = open_page("ready")
    browser = page.browser
    page.expect(1)
    seen = {}
    for wish in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": wish}]
        browser.call("Emulation.setEmulatedMedia", features=features)
        seen[wish] = browser.run(GROUND)
    assert seen == {"light": "rgb(243, 245, 248)", "dark": "rgb(13, 17, 23)"}
    browser.run(
        "[...document.querySelectorAll('#theme button')].find((b) => b.textContent === 'light').click()"
    )
    assert browser.run(GROUND) == seen["light"]
    browser.reload()
    browser.wait_for(f"{GROUND} === '{seen['light']}'")
    browser.run("localStorage.removeItem('secondlook.theme')")
    browser.call("Emulation.setEmulatedMedia", features=[])


def test_a_low_window_keeps_the_note_in_sight(open_page: Callable[..., Page]) -> None:
    page = open_page("ready")
    with window(page.browser, 1280, 720):
        page.expect(1)
        page.browser.wait_for("!document.getElementById('frame-facts').open")
        assert bounds(page.browser, "#note")["bottom"] <= 720
    with window(page.browser, 1440, 900):
        page.browser.wait_for("document.getElementById('frame-facts').open")
        assert bounds(page.browser, "#note")["bottom"] <= 900


def test_a_phone(open_page: Callable[..., Page]) -> None:
    page = open_page("ready")
    browser = page.browser
    with window(browser, 390, 844, mobile=True):
        page.expect(1)
        browser.wait_for("document.documentElement.scrollWidth <= 390")
        stage = bounds(browser, "#stage")
        assert stage["bottom"] - stage["top"] >= 844 / 2 and stage["bottom"] <= 844
        assert bounds(browser, "#verdicts")["bottom"] <= 844
        bar = bounds(browser, ".topbar")
        assert bar["bottom"] - bar["top"] <= 100  # pages, and one line of what there is to do
        rows = "new Set([...document.querySelectorAll('#verdicts button')].map((b) => b.offsetTop)).size"
        assert browser.run(rows) == 2
        # Two fingers, apart.
        zoom = "parseInt(document.getElementById('zoom').textContent)"
        before = browser.run(zoom)
        x, y = 195, (stage["top"] + stage["bottom"]) / 2
        for kind, apart in (("touchStart", 20), ("touchMove", 60), ("touchMove", 110)):
            points = [{"x": x - apart, "y": y, "id": 0}, {"x": x + apart, "y": y, "id": 1}]
            browser.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)
        browser.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        browser.wait_for(f"{zoom} > {before * 2}")
        browser.press("Tab")
        browser.press("w")
        browser.wait_for("document.getElementById('label-dialog').open")
        dialog = bounds(browser, "#label-dialog")
        assert dialog["left"] >= 0 and dialog["right"] <= 390 and dialog["bottom"] <= 844
        browser.press("Escape")

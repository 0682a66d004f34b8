"""Every page and dialog, light and dark, wide and on a phone, before axe-core: nothing serious is found."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cloud.station.axe import axe_script
from tests.cloud.station.browser import Browser
from tests.cloud.station.pages import IN_BROWSER, Page, opened_page
from tests.cloud.station.seed import Scene, drawn_scene

pytestmark = IN_BROWSER

GRAVE = ("serious", "critical")
STATES = ("ready", "ready", "ready", "expired", "leased", "due")
# address -> what is on the page once it is there
PAGES = {
    "/reviews/1": "document.getElementById('tag-right')?.textContent === 'Refined'",
    "/reviews/99": "document.getElementById('empty')?.innerText.includes('no such frame')",
    "/grid": "document.querySelectorAll('#grid .tile').length > 0",
    "/grid?burst=2": "document.getElementById('grid-scene')?.innerText.includes('One scene')",
    "/frames": "document.querySelectorAll('#frames .tile').length > 0",
    "/frames/1": "document.querySelector('.frame-facts') !== null",
    "/cameras": "document.querySelectorAll('.camera .timeline').length === 2",
    "/history": "document.querySelectorAll('#history tr').length > 0",
    "/figures": "document.querySelectorAll('#figures-detector .band').length === 1",
    "/people": "document.querySelectorAll('#people th').length === 3",
    "/docs": "document.querySelectorAll('#operations details').length > 10",
    "/nowhere": "document.querySelector('h1')?.innerText.includes('no page')",
}
# name -> keys that open it, and what is on the page then
DIALOGS = {
    "help": ("?", "document.getElementById('help-dialog').open"),
    "class": ("\tw", "document.getElementById('label-dialog').open"),
    "comments": (
        "t",
        "document.activeElement?.id === 'comment' && document.querySelectorAll('#comments li').length",
    ),
    "handover": ("o", "document.getElementById('handover-dialog').open"),
    "around": ("g", "document.querySelectorAll('#strip-list .cell').length > 0"),
    "compare": ("c", "!document.getElementById('divider').hidden"),
}


def scene(number: int) -> Scene:
    drawn = drawn_scene(number)
    return drawn if number != 2 else Scene(drawn.image, [])


@pytest.fixture
def axe() -> str:
    script, reason = axe_script()
    if script is None:
        pytest.skip(reason)
    return script


def found(browser: Browser, axe: str) -> list[str]:
    """What axe finds grave: rule, how grave, and the first elements."""
    browser.run(f"{axe}; true")
    options = "{ resultTypes: ['violations'], rules: { 'label-content-name-mismatch': { enabled: true } } }"
    result: Any = json.loads(
        browser.run(f"axe.run(document, {options}).then((r) => JSON.stringify(r.violations))")
    )
    return [
        f"{one['id']} ({one['impact']}): " + "; ".join(node["html"][:160] for node in one["nodes"][:3])
        for one in result
        if one["impact"] in GRAVE
    ]


def themed(browser: Browser, theme: str, width: int = 1440) -> None:
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.call("Emulation.setEmulatedMedia", features=features)
    size = {"width": width, "height": 900 if width > 500 else 844, "mobile": width < 500}
    browser.call("Emulation.setDeviceMetricsOverride", deviceScaleFactor=1, **size)


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Any:
    scenes = [scene(number) for number in range(6)]
    with opened_page(browser, tmp_path, *STATES, scenes=scenes, user="ada", apart_seconds=0.3) as page:
        page.expect(1)
        page.api.post("/api/reviews/2/comments", json={"text": "is that a dog?"})
        page.browser.press("u")
        page.browser.wait_for(
            "fetch('/api/reviews/1').then(async (r) => (await r.json()).state === 'decided')"
        )
        yield page
        themed(browser, "light")


@pytest.mark.timeout(400)
def test_every_page(page: Page, axe: str) -> None:
    grave = {}
    for theme, width in (("light", 1440), ("dark", 1440), ("light", 390)):
        themed(page.browser, theme, width)
        for address, there in PAGES.items():
            page.browser.call("Page.navigate", url=page.address + address)
            page.browser.wait_for(there)
            time.sleep(0.2)  # what fades in has faded in
            findings = found(page.browser, axe)
            if findings:
                grave[f"{address} {theme} {width}"] = findings
    assert not grave, json.dumps(grave, indent=1)


@pytest.mark.timeout(400)
def test_every_dialog(page: Page, axe: str) -> None:
    grave = {}
    for name, (keys, there) in DIALOGS.items():
        for theme in ("light", "dark"):
            themed(page.browser, theme)
            page.browser.call("Page.navigate", url=f"{page.address}/reviews/2")
            page.browser.wait_for("document.getElementById('tag-right')?.textContent === 'Refined'")
            for key in keys:
                page.browser.press("Tab" if key == "\t" else key)
            page.browser.wait_for(there)
            findings = found(page.browser, axe)
            if findings:
                grave[f"{name} {theme}"] = findings
            if name == "around":
                page.browser.press("g")
    assert not grave, json.dumps(grave, indent=1)


def test_the_page_to_log_in(page: Page, axe: str) -> None:
    page.browser.call("Network.clearBrowserCookies")
    for theme in ("light", "dark"):
        themed(page.browser, theme)
        page.browser.call("Page.navigate", url=f"{page.address}/login")
        page.browser.wait_for("document.getElementById('submit')?.disabled === false")
        assert found(page.browser, axe) == []

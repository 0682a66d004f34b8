"""The page of cameras in a real browser: who needs a look comes first, events, and one camera live."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from secondlook.cloud import catalogue as cat
from secondlook.shared.packet import FrameInfo
from tests.cloud.station.pages import IN_BROWSER, Page
from tests.cloud.station.seed import BOOT, SECOND, START, add_frame, note_hosts

pytestmark = IN_BROWSER

NOW = START / SECOND + 1000
OPTIONS: dict[str, Any] = {"now_ns": lambda: int(NOW * SECOND), "path": "/cameras"}
ORDER = "[...document.querySelectorAll('.camera')].map((one) => one.dataset.camera)"
PICTURES = "Number(document.querySelector('#camera-live canvas')?.dataset.pictures ?? 0)"
FETCHED = "performance.getEntriesByType('resource').filter((e) => e.name.includes('/newest')).length"


def hide(page: Page, hidden: bool) -> None:
    """As if the tab went behind another one, or came back."""
    value = "true" if hidden else "false"
    page.browser.run(
        f"Object.defineProperty(document, 'hidden', {{ get: () => {value}, configurable: true }});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )


def refresh(page: Page) -> None:
    """What the page does every ten seconds by itself."""
    page.browser.run("document.dispatchEvent(new Event('visibilitychange'))")


def test_who_needs_a_look_comes_first_and_says_why(open_page: Callable[..., Page]) -> None:
    page = open_page("ready", "ready", **OPTIONS)
    browser = page.browser
    browser.wait_for("document.querySelectorAll('.camera .timeline').length === 2")
    assert browser.run(ORDER) == ["gate-north", "yard-2"]
    busy = cat.SeenHost(NOW - 2, NOW - 3, NOW - 4, source="running", model="video by x264")
    stuck = cat.SeenHost(
        heard_at=NOW - 2,
        delivered_at=NOW - 600,
        reported_at=NOW - 10,
        waiting=41,
        oldest_at=NOW - 600,
        source="reconnecting",
        model="lite 1f0c",
        trouble="the camera does not answer",
    )
    note_hosts(page.seeded, NOW - 1, gate_north=busy, yard_2=stuck)
    refresh(page)
    browser.wait_for(f'JSON.stringify({ORDER}) === \'["yard-2","gate-north"]\'')
    yard = str(browser.run("document.querySelector('[data-camera=yard-2]').innerText"))
    assert "Yard stalled" in yard and "stalled: connected, and no frame for 10 min" in yard
    assert "10 min, 41 frames" in yard and "the camera does not answer" in yard and "lite 1f0c" in yard
    assert "stalled since then" in yard
    gate = str(browser.run("document.querySelector('[data-camera=gate-north]').innerText"))
    assert (
        "sending" in gate
        and "nothing waits" in gate
        and "video by x264" in gate
        and "Last events" not in gate
    )
    assert page.text("cameras-state") == "1 stalled, 1 online"
    border = "getComputedStyle(document.querySelector('[data-camera=yard-2]')).borderTopWidth"
    assert browser.run(border) == "2px"
    # It goes on while the page is open, and what has the focus keeps it.
    browser.run("document.querySelector('[data-camera=yard-2] .links a').focus()")
    note_hosts(page.seeded, NOW - 1, yard_2=cat.SeenHost(NOW - 1, NOW - 1, NOW, source="running"))
    note_hosts(page.seeded, NOW, gate_north=cat.SeenHost(NOW - 2, NOW - 3, NOW - 4, source="running"))
    refresh(page)
    browser.wait_for("document.getElementById('cameras-state').innerText === '2 online'")


def test_gaps_and_frames_that_no_machine_looked_at(open_page: Callable[..., Page]) -> None:
    page = open_page("ready", "ready", now_ns=lambda: START + 7200 * SECOND, path="/cameras")
    catalogue = cat.open_catalogue(page.seeded.catalogue_url)
    info = FrameInfo(BOOT, 50, START + 7190 * SECOND, 320, 192, None, 9)
    frame = cat.NewFrame("gate-north", "North gate", START, info, "base/gate-north/50", 9)
    cat.store_unseen(catalogue, [frame], cat.BEHIND, now_ns=START)
    catalogue.close()
    page.browser.reload()
    page.browser.wait_for("document.querySelectorAll('.camera .timeline').length === 2")
    gate = str(page.browser.run("document.querySelector('[data-camera=gate-north]').innerText"))
    assert "one in the last day, 1.5 h" in gate
    assert "1 frame of the last day: machines could not keep up" in gate
    assert page.browser.run("document.querySelectorAll('[data-camera=gate-north] .unseen').length") == 1
    page.browser.run("document.querySelector('[data-camera=gate-north] .pairs a').click()")
    page.browser.wait_for("document.getElementById('frames')?.innerText.includes('not looked at')")
    assert page.browser.run("location.search") == "?camera=gate-north&unseen=true"
    assert page.browser.run("document.querySelectorAll('#frames .tile').length") == 1
    assert page.browser.run("document.querySelector('#frame-search [name=unseen]').value") == "true"


def test_a_camera_is_live_while_somebody_can_see_it(open_page: Callable[..., Page]) -> None:
    page = open_page("ready", "ready", **OPTIONS)
    browser = page.browser
    browser.wait_for("document.querySelectorAll('.camera .links a').length === 4")
    browser.run("document.querySelector('[data-camera=gate-north] .links a').click()")
    browser.wait_for(f"{PICTURES} === 1")
    assert browser.run("location.search") == "?live=gate-north"
    assert "North gate, live" in page.text("camera-live")
    size = "[document.querySelector('#camera-live canvas').width, document.querySelector('#camera-live canvas').height]"
    assert browser.run(size) == [320, 192]
    add_frame(page.seeded, 3, START + 60 * SECOND)
    browser.wait_for(f"{PICTURES} === 2")
    browser.wait_for("document.getElementById('camera-live').innerText.includes('pictures a second')")
    # Nothing is fetched while the tab is hidden, and the newest once it is back.
    hide(page, True)
    time.sleep(0.5)
    before = browser.run(FETCHED)
    add_frame(page.seeded, 4, START + 90 * SECOND)
    time.sleep(2.0)
    assert browser.run(PICTURES) == 2 and browser.run(FETCHED) == before
    hide(page, False)
    browser.wait_for(f"{PICTURES} === 3")
    # A reload keeps the place; closing ends it.
    browser.reload()
    browser.wait_for(f"{PICTURES} === 1")
    browser.run("document.querySelector('#camera-live a').click()")
    browser.wait_for("document.getElementById('camera-live').hidden && location.search === ''")
    time.sleep(0.3)
    before = browser.run(FETCHED)
    time.sleep(1.0)
    assert browser.run(FETCHED) == before


def test_live_pictures_end_with_the_page_and_leave_room_on_a_thin_line(
    open_page: Callable[..., Page],
) -> None:
    page = open_page("ready", "ready", now_ns=OPTIONS["now_ns"], path="/cameras?live=gate-north")
    browser = page.browser
    browser.wait_for(f"{PICTURES} === 1")
    browser.call("Network.enable")
    slow = {"offline": False, "latency": 400, "downloadThroughput": 60_000, "uploadThroughput": 60_000}
    browser.call("Network.emulateNetworkConditions", **slow)
    try:
        for review_id in range(3, 9):
            add_frame(page.seeded, review_id, START + 30 * review_id * SECOND)
        time.sleep(4.0)
        shown = browser.run(PICTURES)
        pictures = "performance.getEntriesByType('resource').filter((e) => e.name.endsWith('/base'))"
        spans = browser.run(f"{pictures}.map((e) => [e.startTime, e.responseEnd])")
        assert 2 <= shown < 7, "frames in between are left out"
        for (start, end), (following, _) in pairwise(spans):
            assert following - end >= 0.9 * (end - start), "as long a pause as the picture took"
    finally:
        full = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        browser.call("Network.emulateNetworkConditions", **full)
        browser.call("Network.disable")
    browser.run("document.getElementById('tab-frames').click()")
    browser.wait_for("document.querySelectorAll('#frames .tile').length > 0")
    time.sleep(0.5)
    before = browser.run(FETCHED)
    time.sleep(1.0)
    assert browser.run(FETCHED) == before and browser.run("document.getElementById('camera-live').hidden")

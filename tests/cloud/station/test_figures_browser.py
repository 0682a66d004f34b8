"""Figures, scenes that are judged together, known frames and objects, in a real browser."""

from __future__ import annotations

from collections.abc import Callable

from secondlook.cloud.catalogue import Sampling
from tests.cloud.station.pages import CURRENT, IN_BROWSER, TAG, Page
from tests.cloud.station.people import as_user
from tests.cloud.station.seed import SECOND, START, drawn_scene

pytestmark = IN_BROWSER

TILES = "document.querySelectorAll('#grid .tile').length"
BURST = "document.getElementById('burst')"


def test_a_scene_is_judged_together(open_page: Callable[..., Page]) -> None:
    page = open_page(*["ready"] * 7, apart_seconds=0.4)
    browser = page.browser
    page.expect(1)
    browser.wait_for(f"!{BURST}.hidden && {BURST}.innerText.startsWith('4 alike')")
    browser.press("l")
    browser.wait_for(f"{TILES} === 4 && location.search === '?burst=1'")
    assert "One scene of North gate" in page.text("grid-scene")
    browser.wait_for("document.getElementById('grid-confirm').innerText.startsWith('Confirm: 4')")
    browser.run("document.querySelectorAll('#grid .tile')[2].click()")
    browser.wait_for("document.getElementById('grid-confirm').innerText.startsWith('Confirm: 3')")
    browser.press("a")
    browser.wait_for(f"{TILES} === 1")  # the one that was clicked is left
    assert [len(page.standing(n)) for n in range(1, 8)] == [1, 0, 1, 0, 0, 0, 1]
    browser.wait_for("document.getElementById('grid-reject').innerText.startsWith('Reject: 1')")
    browser.press("r")
    browser.wait_for(f"location.pathname !== '/grid' && ({CURRENT}) !== null")
    assert page.standing(5) == [("reject", None, None)]
    # The other camera's three follow.
    browser.wait_for(f"{TAG} === 'Refined' && {BURST}.innerText.startsWith('3 alike')")


def test_a_frame_goes_to_a_second_person(open_page: Callable[..., Page]) -> None:
    page = open_page("ready", "ready", double_share=1.0)
    browser = page.browser
    page.expect(1)
    browser.press("a")
    page.expect(2)
    browser.press("r")
    page.expect(None, "")
    browser.wait_for("document.getElementById('empty').innerText.includes('No frame needs a second look')")
    assert [page.review(n)["state"] for n in (1, 2)] == ["ready", "ready"]
    # Bea sees them as if nobody had judged them; she agrees on one.
    shown = page.api.get("/api/reviews/1/images/refined").headers["x-content-sha256"]
    body = {"reviewer": "Bea", "verdict": "confirm", "shown_sha256": shown, "seen_verdict_id": 0}
    assert page.api.post("/api/reviews/1/verdicts", json=body).json()["state"] == "decided"
    # Ann takes hers back, and has it before her again.
    browser.press("z")
    page.expect(2)
    browser.press("a")
    page.expect(None, "")
    browser.wait_for("document.getElementById('unsaved').hidden")  # the station has it, too
    browser.call("Page.navigate", url=f"{page.address}/figures")
    browser.wait_for("document.querySelectorAll('#figures-agreement table').length > 0")
    report = page.text("figures-agreement")
    assert "1\nframes judged twice" in report and "1\nwait for a second person" in report


def test_a_known_frame_comes_among_the_others(open_page: Callable[..., Page]) -> None:
    page = open_page(*["ready"] * 4, user="ada", known_share=1.0)
    browser = page.browser
    page.expect(1)
    browser.press("a")
    page.expect(2)
    page.expect_stored(1, [("confirm", None, None)])
    browser.call("Page.navigate", url=f"{page.address}/reviews/1")
    page.browser.wait_for(
        "document.querySelector('#notice button')?.textContent === 'Use it as a known frame'"
    )
    browser.run("document.querySelector('#notice button').click()")
    browser.wait_for("document.getElementById('notice').innerText.startsWith('Known frame')")
    with as_user(page.address, "rolf") as rolf:
        shown = rolf.get("/api/reviews/3/images/refined").headers["x-content-sha256"]
        rolf.post("/api/reviews/3/verdicts", json={"verdict": "confirm", "shown_sha256": shown})
        assert [row["id"] for row in rolf.get("/api/reviews").json()["reviews"]] == [2, 1, 4]


def test_figures_are_there_for_everybody(open_page: Callable[..., Page]) -> None:
    page = open_page(*["ready"] * 3)
    browser = page.browser
    page.expect(1)
    browser.press("a")
    page.expect(2)
    browser.press("r")
    page.expect(3)
    page.expect_stored(2, [("reject", None, None)])
    browser.run("document.getElementById('tab-figures').click()")
    browser.wait_for(
        "document.querySelectorAll('#figures-detector .band, #figures-day .charts').length === 2"
    )
    assert "2\nframes today" in page.text("figures-day")
    detector = page.text("figures-detector")
    assert "4\nboxes judged" in detector and "50 %" in detector and "Half the work" in detector
    browser.run("document.querySelector('#figures-day a').click()")
    browser.wait_for("location.pathname === '/history' && location.search === '?actor=Ann'")


def test_objects_on_the_timeline_and_the_frame(open_page: Callable[..., Page]) -> None:
    scene = drawn_scene(1)
    page = open_page(
        *["ready"] * 4,
        scenes=[scene] * 4,
        apart_seconds=0.5,
        path="/cameras",
        now_ns=lambda: START + 60 * SECOND,
    )
    browser = page.browser
    browser.wait_for("document.querySelectorAll('.camera .timeline .object').length === 4")
    label = browser.run("document.querySelector('.camera .timeline').getAttribute('aria-label')")
    assert "1 person, 1 car" in label
    browser.run("document.querySelector('.object-list a').click()")
    browser.wait_for(
        "location.search.startsWith('?object=') && document.querySelectorAll('#frames .tile').length === 2"
    )
    browser.run("document.querySelector('#frames .tile').click()")
    browser.wait_for("document.querySelector('.frame-facts')?.innerText.includes('in 2 frames')")
    browser.run("document.querySelector('.frame-facts .actions a').click()")
    browser.wait_for("document.getElementById('box-list').innerText.includes('in 2 frames')")
    lines = page.api.get("/api/export/objects.jsonl").text.splitlines()
    assert len(lines) == 4


def test_known_frames_are_drawn_by_chance() -> None:
    sampling = Sampling(known_share=0.25, secret=b"chance")
    assert 180 < sum(sampling.draws_known(number) for number in range(1000)) < 320

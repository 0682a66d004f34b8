"""The pages beside the queue, and what is around a frame, in a real browser."""

from __future__ import annotations

from collections.abc import Callable

from tests.cloud.station.pages import IN_BROWSER, TAG, Page

pytestmark = IN_BROWSER

TILES = "document.querySelectorAll('#{} .tile').length"


def test_one_second_before_and_after(open_page: Callable[..., Page]) -> None:
    page = open_page("ready", "ready", "ready", apart_seconds=0.2)
    browser = page.browser
    page.expect(1)
    requests = "performance.getEntriesByType('resource').filter((e) => e.name.includes('neighbours')).length"
    assert browser.run(requests) == 0  # only while the row is open
    browser.press("g")
    browser.wait_for("document.querySelectorAll('#strip-list .cell').length === 2")  # of the same camera
    browser.run("document.querySelectorAll('#strip-list .cell')[1].click()")
    browser.wait_for(f"{TAG} === 'Base +0.4 s'")
    browser.press("a")
    browser.wait_for("document.getElementById('toasts').innerText.includes('not on screen')")
    assert page.standing(1) == []  # nobody judges a frame by the picture of another
    browser.press("Escape")
    page.expect(1)
    browser.press("p")
    browser.wait_for(f"{TAG} === 'Base +0.4 s'")
    browser.press("p")
    page.expect(1)
    browser.press("g")


def test_difference_and_the_learned_filter(open_page: Callable[..., Page]) -> None:
    page = open_page("ready", "ready")
    browser = page.browser
    page.expect(1)
    browser.press("d")
    browser.wait_for(f"{TAG} === 'Difference from base'")
    browser.press("d")
    page.expect(1)
    browser.run("document.getElementById('learned').click()")
    page.expect(1, "Enhanced")
    assert browser.run("document.querySelector('[data-version=refined]').disabled")
    browser.wait_for(
        "fetch('/api/preferences?reviewer=Ann').then(async (r) => (await r.json()).learned_filter === false)"
    )
    browser.reload()
    page.expect(1, "Enhanced")  # of this person, for good
    browser.press("a")
    page.expect_stored(1, [("confirm", None, None)])
    shown = page.api.get("/api/reviews/1/images/enhanced").headers["x-content-sha256"]
    assert page.review(1)["verdicts"][0]["shown_sha256"] == shown


def test_a_site_without_the_learned_filter(open_page: Callable[..., Page]) -> None:
    page = open_page("ready", learned_filter=False)
    page.expect(1, "Enhanced")
    assert page.browser.run("document.getElementById('learned').disabled")
    page.browser.press("3")
    page.expect(1, "Enhanced")


def test_all_frames_and_one_of_them(open_page: Callable[..., Page]) -> None:
    page = open_page("ready", "ready", "expired", path="/frames?camera=yard-2")
    browser = page.browser
    browser.wait_for(f"{TILES.format('frames')} === 1")
    browser.run(
        "(() => { const s = document.querySelector('#frame-search [name=camera]'); s.value = '';"
        " s.dispatchEvent(new Event('change', { bubbles: true })); })()"
    )
    browser.wait_for(f"{TILES.format('frames')} === 3 && location.search === ''")
    browser.wait_for(
        "[...document.querySelectorAll('#frames img')].every((i) => i.complete && i.naturalWidth > 0)"
    )
    browser.run("document.querySelectorAll('#frames .tile')[1].click()")
    browser.wait_for(
        "location.pathname === '/frames/2' && document.querySelector('.frame-picture img')?.naturalWidth > 0"
    )
    browser.run("history.back()")
    browser.wait_for(f"location.pathname === '/frames' && {TILES.format('frames')} === 3")
    browser.run("document.querySelectorAll('#frames .tile')[1].click()")
    browser.wait_for("document.querySelector('.frame-facts .actions a') !== null")
    browser.run("document.querySelector('.frame-facts .actions a').click()")
    page.expect(2)
    browser.call("Page.navigate", url=f"{page.address}/frames/99")
    browser.wait_for("document.getElementById('frame-one')?.innerText.includes('There is no such frame')")


def test_cameras(open_page: Callable[..., Page]) -> None:
    page = open_page("ready", "ready", path="/cameras")
    page.browser.wait_for("document.querySelectorAll('.camera .timeline').length === 2")
    cards = page.text("cameras")
    assert "North gate" in cards and "silent for" in cards and "Open reviews" in cards


def test_twenty_alike_but_those_clicked(open_page: Callable[..., Page]) -> None:
    page = open_page(*["ready"] * 6, path="/grid?camera=gate-north")
    browser = page.browser
    confirm = "document.getElementById('grid-confirm').firstElementChild.innerText"
    browser.wait_for(f"{TILES.format('grid')} === 3 && {confirm} === 'Confirm: 3'")
    browser.run("document.querySelectorAll('#grid .tile')[1].click()")
    browser.wait_for(f"{confirm} === 'Confirm: 2'")
    browser.run("document.getElementById('grid-confirm').click()")
    browser.wait_for(f"{TILES.format('grid')} === 1")
    assert [len(page.standing(n)) for n in range(1, 7)] == [1, 0, 0, 0, 1, 0]
    verdict = page.review(1)["verdicts"][0]
    small = page.api.get("/api/frames/1/thumb").headers["x-content-sha256"]
    assert (verdict["verdict"], verdict["shown_sha256"]) == ("confirm", small)


def test_history_is_for_people(open_page: Callable[..., Page]) -> None:
    page = open_page("ready", "ready")
    browser = page.browser
    page.expect(1)
    browser.press("r")
    page.expect(2)
    page.expect_stored(1, [("reject", None, None)])
    browser.press("h")
    rows = "[...document.querySelectorAll('#history tr')].map((row) => row.innerText)"
    browser.wait_for(f"{rows}.length > 0 && document.querySelector('#history img')?.naturalWidth > 0")
    (row,) = browser.run(rows)
    assert "Ann" in row and "rejected" in row and "sha256" not in row
    browser.run("document.querySelector('#history button').click()")
    page.expect(1)
    page.expect_stored(1, [])


def test_admins_see_to_people_and_others_do_not(open_page: Callable[..., Page]) -> None:
    page = open_page("ready", user="ada", path="/people")
    browser = page.browser
    names = "[...document.querySelectorAll('#people th')].map((n) => n.innerText)"
    browser.wait_for(f"{names}.join() === 'ada,rolf,vera'")
    browser.run(
        "(() => { const form = document.getElementById('person-form'); form.elements.name.value = 'Nina';"
        " form.elements.password.value = 'twelve letters'; form.requestSubmit(); })()"
    )
    browser.wait_for(f"{names}.join() === 'ada,nina,rolf,vera'")
    browser.run(
        "(() => { const s = document.querySelector('[aria-label=\"Role of nina\"]'); s.value = 'viewer';"
        " s.dispatchEvent(new Event('change')); })()"
    )
    browser.wait_for("document.getElementById('toasts').innerText.includes('nina is viewer now')")
    browser.run("[...document.querySelectorAll('#people .bad')][1].click()")
    browser.wait_for("document.querySelector('#people .is-removed th')?.innerText === 'nina'")
    assert {user["name"]: user["removed"] for user in page.api.get("/api/users").json()}["nina"]

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


def test_a_judged_grid_takes_nothing_from_the_queue(open_page: Callable[..., Page]) -> None:
    """The open frame stays this page's, and what could not be judged is nobody's."""
    page = open_page(*["ready"] * 6)
    browser = page.browser
    page.expect(1)
    held = "fetch('/api/summary').then(async (r) => (await r.json()).claims.map((c) => c.review_id).join())"
    browser.wait_for(f"{held}.then((ids) => ids === '1')")
    browser.run("document.getElementById('tab-grid').click()")
    confirm = "document.getElementById('grid-confirm').firstElementChild.innerText"
    browser.wait_for(f"{TILES.format('grid')} === 6 && {confirm} === 'Confirm: 6'")
    browser.run("document.querySelectorAll('#grid .tile')[0].click()")  # the open one
    refused = "new Response('{\"detail\": \"no\"}', { status: 422, headers: { 'content-type': 'application/json' } })"
    browser.run(
        "(() => { const real = window.fetch; window.fetch = (url, options) => String(url).endsWith"
        f"('reviews/6/verdicts') ? Promise.resolve({refused}) : real(url, options); }})()"
    )
    browser.run("document.getElementById('grid-confirm').click()")
    browser.wait_for(f"{TILES.format('grid')} === 2")
    assert [len(page.standing(n)) for n in range(1, 7)] == [0, 1, 1, 1, 1, 0]
    assert browser.run(held) == "1"


# Keeps the next answer whose address holds `window.slow` back, until `held[0]` lets it through, or cuts it.
HOLD = """(() => {
  const real = window.fetch;
  window.held = [];
  window.fetch = (url, options) => {
    if (!window.slow || !String(url).includes(window.slow)) return real(url, options);
    window.slow = null;
    const { signal, ...rest } = options;
    return new Promise((then, fail) => {
      held.push({ through: () => then(real(url, rest)), cut: () => fail(new TypeError("cut")) });
    });
  };
})()"""


def choose(page: Page, form: str, name: str, value: str) -> None:
    page.browser.run(
        f"(() => {{ const s = document.querySelector('#{form} [name={name}]'); s.value = '{value}';"
        " s.dispatchEvent(new Event('change', { bubbles: true })); })()"
    )


def hold(page: Page, address: str) -> None:
    page.browser.run(f"void (held.length = 0, window.slow = '{address}')")


def let_go(page: Page, how: str) -> None:
    """And wait until all that follows from it is drawn."""
    page.browser.run(f"held[0].{how}(), new Promise((then) => setTimeout(then, 500))")
    page.browser.drawn("0")


def test_an_answer_that_comes_late_overwrites_no_newer_one(open_page: Callable[..., Page]) -> None:
    page = open_page(*["ready"] * 3, path="/frames")
    browser = page.browser
    browser.wait_for(f"{TILES.format('frames')} === 3")
    browser.run(HOLD)
    hold(page, "api/frames?")
    choose(page, "frame-search", "camera", "yard-2")
    browser.wait_for("held.length === 1")
    choose(page, "frame-search", "camera", "gate-north")
    browser.wait_for(f"{TILES.format('frames')} === 2")
    let_go(page, "cut")
    assert browser.run(TILES.format("frames")) == 2
    # One frame of two that were asked for one after the other.
    hold(page, "api/frames/1?")
    browser.run("document.querySelectorAll('#frames .tile')[1].click()")
    browser.wait_for("held.length === 1")
    browser.run("history.back()")
    browser.wait_for(f"location.pathname === '/frames' && {TILES.format('frames')} === 2")
    browser.run("document.querySelectorAll('#frames .tile')[0].click()")
    link = "document.querySelector('.frame-facts .actions a')?.getAttribute('href')"
    browser.wait_for(f"{link} === '/reviews/3'")
    let_go(page, "through")
    assert browser.run(link) == "/reviews/3"
    # Of the trail.
    browser.run("document.getElementById('tab-history').click()")
    browser.wait_for("document.querySelectorAll('#history tr').length > 0")
    hold(page, "api/history")
    choose(page, "history-search", "all", "all")
    browser.wait_for("held.length === 1")
    choose(page, "history-search", "all", "")
    browser.wait_for("document.querySelectorAll('#history tr').length === 1")
    let_go(page, "through")
    assert browser.run("document.querySelectorAll('#history tr').length") == 1


def test_nothing_goes_on_that_was_left(open_page: Callable[..., Page]) -> None:
    page = open_page("ready", "ready", path="/history")
    browser = page.browser
    browser.wait_for("document.getElementById('page-history')?.hidden === false")
    browser.run(HOLD)
    hold(page, "api/cameras")
    browser.run(
        "(() => { const a = document.createElement('a'); a.href = '/cameras?live=gate-north'; a.dataset.link = '';"
        " document.body.append(a); a.click(); a.remove(); })()"
    )
    browser.wait_for("held.length === 1")
    browser.run("document.getElementById('tab-history').click()")
    let_go(page, "through")
    assert browser.run("document.getElementById('camera-live').hidden")
    # A search through many frames, of which only a part fits, does not go on either.
    browser.run("document.getElementById('tab-frames').click()")
    browser.wait_for(f"{TILES.format('frames')} === 2")
    hold(page, "api/frames?")
    choose(page, "frame-search", "label", "car")
    browser.wait_for("held.length === 1")
    browser.run("document.getElementById('tab-history').click()")
    let_go(page, "through")
    assert browser.run(TILES.format("frames")) == 0


def test_pictures_around_a_frame_are_closed(open_page: Callable[..., Page]) -> None:
    page = open_page(*["ready"] * 9, apart_seconds=0.1)
    browser = page.browser
    page.expect(1)
    script = """
      (async () => {
        const { Strip } = await import('/static/strip.js');
        const seen = [], list = document.createElement('ol'), row = document.createElement('div');
        let onStage = null;
        const show = (one) => (onStage = one?.bitmap ?? null);
        const strip = new Strip(row, list, show, (one) => one === onStage, 2.5 * 320 * 192);
        row.hidden = false;
        await strip.follow(1);
        const open = () => seen.filter((one) => one.width > 0).length; // one that is closed has none
        for (const button of [...list.querySelectorAll('.cell')].slice(1)) {
          const before = onStage;
          button.click();
          while (onStage === null || onStage === before) await new Promise((then) => setTimeout(then, 10));
          seen.push(onStage);
        }
        const kept = open();
        await strip.follow(null);
        return [seen.length, kept, open()];
      })()
    """
    assert browser.run(script) == [4, 2, 0]


def test_the_frames_around_play_once(open_page: Callable[..., Page]) -> None:
    page = open_page("ready", "ready", "ready", apart_seconds=0.2)
    page.expect(1)
    script = """
      (async () => {
        const { Strip } = await import('/static/strip.js');
        const row = document.createElement('div'), list = document.createElement('ol');
        const strip = new Strip(row, list, () => null, () => false);
        row.hidden = false;
        await strip.follow(1);
        const first = strip.play();
        strip.play();
        void strip.play();
        const later = new Promise((then) => setTimeout(then, 5000, false));
        const ended = await Promise.race([first.then(() => true), later]);
        strip.stop();
        return ended;
      })()
    """
    assert page.browser.run(script), "the loop that was stopped goes on beside the new one"


BOTTOM = "Math.round(document.querySelector('.grid-actions').getBoundingClientRect().bottom)"


def test_what_judges_a_grid_stands_at_the_bottom(open_page: Callable[..., Page]) -> None:
    """However few frames are in it; on a phone the two buttons beside each other."""
    page = open_page("ready", "ready", path="/grid")
    page.browser.wait_for(f"{TILES.format('grid')} === 2")
    assert page.browser.drawn(f"{BOTTOM} - innerHeight") == 0
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    page.browser.call("Emulation.setDeviceMetricsOverride", **phone)
    try:
        page.browser.wait_for("innerWidth === 390")
        same = "document.getElementById('grid-confirm').offsetTop === document.getElementById('grid-reject').offsetTop"
        assert page.browser.drawn(same)
        assert page.browser.run("document.documentElement.scrollWidth") <= 390
    finally:
        page.browser.call("Emulation.clearDeviceMetricsOverride")


def test_history_has_what_was_said_just_now(open_page: Callable[..., Page]) -> None:
    page = open_page("ready", "ready")
    page.expect(1)
    page.browser.run(
        """(() => {
          const ask = window.fetch;  // a slow line
          window.fetch = (...given) => String(given[0]).includes('/verdicts')
            ? new Promise((then) => setTimeout(then, 400)).then(() => ask(...given)) : ask(...given);
        })()"""
    )
    page.browser.press("a")
    page.browser.press("h")
    page.browser.wait_for("document.getElementById('history').childElementCount > 0")
    assert "confirmed" in page.text("history")
    # On a phone, too, without moving a table to and fro.
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    page.browser.call("Emulation.setDeviceMetricsOverride", **phone)
    try:
        page.browser.wait_for("innerWidth === 390")
        cells = "[...document.querySelectorAll('#history td, #history button')]"
        assert page.browser.drawn(f"{cells}.filter((c) => c.getBoundingClientRect().right > 390).length") == 0
    finally:
        page.browser.call("Emulation.clearDeviceMetricsOverride")


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


def test_people_fit_on_a_phone(open_page: Callable[..., Page]) -> None:
    page = open_page("ready", user="ada", path="/people")
    page.browser.wait_for("document.querySelectorAll('#people tr').length === 3")
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    page.browser.call("Emulation.setDeviceMetricsOverride", **phone)
    try:
        page.browser.wait_for("innerWidth === 390")
        cut = "[...document.querySelectorAll('#people button, #people input, #people select')]"
        assert page.browser.drawn(f"{cut}.filter((b) => b.getBoundingClientRect().right > 390).length") == 0
    finally:
        page.browser.call("Emulation.clearDeviceMetricsOverride")


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

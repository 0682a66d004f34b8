"""Two reviewers, each with a browser: nobody judges what the other one has, and a closed tab holds up nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cloud.station.browser import Browser
from tests.cloud.station.pages import CURRENT, IN_BROWSER, PROGRAM, Page, say_name
from tests.cloud.station.people import as_user

pytestmark = IN_BROWSER

SHOWN = "document.getElementById('tag-right')?.textContent === 'Refined'"
NOTICE = "document.getElementById('notice').innerText"


@contextmanager
def second_browser(page: Page, folder: Path, name: str) -> Iterator[Browser]:
    assert PROGRAM is not None
    browser = Browser(PROGRAM, folder)
    try:
        browser.call("Page.navigate", url=page.address)
        say_name(browser, name)
        browser.wait_for(SHOWN)
        yield browser
        browser.call("Page.navigate", url="about:blank")  # as a closed tab, whose browser goes on
        page.browser.wait_for(
            f"fetch('/api/summary').then(async (r) => (await r.json()).claims.every((c) => c.holder !== '{name}'))"
        )
    finally:
        browser.close()


def claims(page: Page) -> list[tuple[int, str]]:
    return [(one["review_id"], one["holder"]) for one in page.api.get("/api/summary").json()["claims"]]


def wait_for_claims(page: Page, wanted: list[tuple[int, str]]) -> None:
    text = ",".join(f"{id_} {holder}" for id_, holder in wanted)
    said = "(await r.json()).claims.map((c) => `${c.review_id} ${c.holder}`).join()"
    try:
        page.browser.wait_for(f"fetch('/api/summary').then(async (r) => {said} === '{text}')", 5)
    except AssertionError:
        raise AssertionError(f"{claims(page)} are not {wanted}") from None


def test_the_second_one_is_given_the_next_frame(open_page: Callable[..., Page], tmp_path: Path) -> None:
    page = open_page(*["ready"] * 3)
    page.expect(1)
    wait_for_claims(page, [(1, "Ann")])
    with second_browser(page, tmp_path / "bea", "Bea") as bea:
        bea.wait_for(f"({CURRENT}) === '2'")
        wait_for_claims(page, [(1, "Ann"), (2, "Bea")])
        # Each sees what the other one has, may look at it, and not judge it.
        page.browser.wait_for("document.getElementById('queue').innerText.includes('Bea has it')")
        page.browser.press("j")
        page.browser.wait_for(f"{NOTICE}.includes('Bea has this frame open')")
        page.browser.press("a")
        page.browser.wait_for("document.getElementById('toasts').innerText.includes('Bea has this frame')")
        assert page.standing(2) == []
        # Bea's verdict frees it, and leads past nothing that Ann has.
        bea.press("a")
        page.expect_stored(2, [("confirm", None, None)])
        bea.wait_for(f"{SHOWN} && ['1', '3'].includes({CURRENT})")
    # Her tab is closed: nothing of hers is held.
    page.browser.press("k")
    page.expect(1)
    wait_for_claims(page, [(1, "Ann")])


def test_a_page_that_died_holds_its_frame_for_a_while_only(
    open_page: Callable[..., Page], tmp_path: Path
) -> None:
    page = open_page("ready", "ready", claim_seconds=4.0)
    page.expect(1)
    assert PROGRAM is not None
    bea = Browser(PROGRAM, tmp_path / "bea")
    bea.call("Page.navigate", url=page.address)
    say_name(bea, "Bea")
    wait_for_claims(page, [(1, "Ann"), (2, "Bea")])
    bea.close()
    wait_for_claims(page, [(1, "Ann")])  # who is there is renewed meanwhile
    page.browser.press("j")
    page.expect(2)
    wait_for_claims(page, [(2, "Ann")])


def test_an_admin_frees_a_frame(open_page: Callable[..., Page]) -> None:
    page = open_page("ready", "ready", user="ada")
    page.expect(1)
    with as_user(page.address, "rolf") as rolf:
        claim = {"tab": "tab-of-rolf", "review_id": 2}
        assert rolf.post("/api/claims", json=claim).json()["holder"] == "rolf"
        assert rolf.post("/api/claims/2/free", json={}).status_code == 403
        page.browser.press("j")
        page.browser.wait_for(f"{NOTICE}.includes('rolf has this frame open')")
        page.browser.run("document.querySelector('#notice button').click()")
        wait_for_claims(page, [(2, "ada")])
        page.browser.wait_for(f"{NOTICE} === ''")
        assert rolf.post("/api/claims/2/renew", json={"tab": claim["tab"]}).status_code == 409
        refused = rolf.post("/api/claims", json=claim)
        assert (refused.status_code, refused.json()["holder"]) == (409, "ada")
        page.browser.press("r")
        page.browser.wait_for(f"({CURRENT}) === '1'")
        page.expect_stored(2, [("reject", None, None)])


def test_a_page_that_waits_for_anothers_frame_goes_on_once_it_is_decided(
    open_page: Callable[..., Page],
) -> None:
    page = open_page("ready", "ready")
    page.expect(1)
    bea = {"reviewer": "Bea", "tab": "tab-of-bea", "review_id": 2}
    assert page.api.post("/api/claims", json=bea).status_code == 200
    page.browser.press("a")
    page.browser.wait_for(f"({CURRENT}) === '2' && {NOTICE}.includes('has this frame open')")
    # Whatever is pressed meanwhile says the same, and is said once.
    for _ in range(5):
        page.browser.press("a")
    page.browser.wait_for("document.getElementById('toasts').childElementCount === 1")
    shown = page.api.get("/api/reviews/2/images/refined").headers["x-content-sha256"]
    body = {"reviewer": "Bea", "verdict": "reject", "shown_sha256": shown}
    assert page.api.post("/api/reviews/2/verdicts", json=body).status_code == 200
    page.browser.wait_for(
        "document.getElementById('empty').innerText.includes('No frame needs a second look')"
    )
    assert page.standing(2) == [("reject", None, None)]


def decide_as_bea(page: Page, review_id: int) -> None:
    """As somebody does who was not told that another one has the frame: the station was away then."""
    shown = page.api.get(f"/api/reviews/{review_id}/images/refined").headers["x-content-sha256"]
    body = {"reviewer": "Bea", "verdict": "reject", "shown_sha256": shown}
    assert page.api.post(f"/api/reviews/{review_id}/verdicts", json=body).status_code == 200


def test_a_page_leaves_a_frame_that_somebody_decides_while_it_is_open(
    open_page: Callable[..., Page],
) -> None:
    page = open_page("ready", "ready")
    page.expect(1)
    wait_for_claims(page, [(1, "Ann")])
    decide_as_bea(page, 1)
    page.browser.wait_for("document.getElementById('toasts').innerText.includes('Bea decided this frame')")
    page.expect(2)
    wait_for_claims(page, [(2, "Ann")])
    # The last one, too: nothing is left on the screen that looks as if it were to be judged.
    decide_as_bea(page, 2)
    page.browser.wait_for("!document.getElementById('empty').hidden", 30)
    wait_for_claims(page, [])


def test_a_page_leaves_nobody_who_is_writing(open_page: Callable[..., Page]) -> None:
    page = open_page("ready", "ready")
    page.expect(1)
    page.browser.press("n")
    page.browser.type("a fox, look at its tail")
    decide_as_bea(page, 1)
    page.browser.wait_for("!document.getElementById('queue').innerText.includes('North')", 10)
    page.browser.wait_for("document.getElementById('facts').textContent.includes('decided')")
    assert page.browser.run("document.activeElement.id") == "note" and page.standing(1) != []
    assert page.browser.run("document.getElementById('note').value") == "a fox, look at its tail"
    # What was written is hers to keep or to drop.
    page.browser.run("document.getElementById('note').value = ''")
    page.browser.run("document.getElementById('note').dispatchEvent(new Event('input'))")
    page.browser.press("Escape")
    page.expect(2)


def test_a_page_leaves_no_frame_that_was_chosen(open_page: Callable[..., Page]) -> None:
    page = open_page("ready", "ready")
    page.expect(1)
    page.browser.press("j")
    page.expect(2)
    decide_as_bea(page, 2)
    page.browser.wait_for("document.getElementById('facts').textContent.includes('decided')")
    page.browser.run("new Promise((then) => setTimeout(then, 2500))")  # two looks at what is new
    assert "Refined" in page.text("tag-right") and "Bea" not in page.text("toasts")


@pytest.mark.timeout(400)
def test_two_reviewers_judge_no_frame_twice(open_page: Callable[..., Page], tmp_path: Path) -> None:
    count = 40
    page = open_page(*["ready"] * count)
    page.expect(1)
    # As fast as the page takes them: a verdict whenever a frame is on the screen.
    judge = f"""window.worker = setInterval(() => {{
        if ({SHOWN}) document.body.dispatchEvent(new KeyboardEvent('keydown', {{ key: 'a', bubbles: true }}));
    }}, 60)"""
    with second_browser(page, tmp_path / "bea", "Bea") as bea:
        for one in (page.browser, bea):
            one.run(judge)
        for one in (page.browser, bea):
            one.wait_for(f"({CURRENT}) === null && !document.getElementById('empty')?.hidden", 240)
            one.run("clearInterval(window.worker)")
        given = {review_id: page.review(review_id)["verdicts"] for review_id in range(1, count + 1)}
    assert {len(verdicts) for verdicts in given.values()} == {1}
    shares = [verdicts[0]["reviewer"] for verdicts in given.values()]
    assert shares.count("Ann") > 2 and shares.count("Bea") > 2  # on a busy machine one page may be slow
    assert claims(page) == []

"""Comments and hand-overs in a real browser: by key and by click, what the colleague sees, and that claims go along."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.cloud.station.pages import CURRENT, IN_BROWSER, Page
from tests.cloud.station.people import as_user
from tests.cloud.station.test_claims_browser import NOTICE, SHOWN, second_browser, wait_for_claims

pytestmark = IN_BROWSER

COMMENTS = "[...document.querySelectorAll('#comments li')].map((li) => li.innerText.replaceAll(/\\s+/g, ' ')).join('|')"
FOCUS = "document.activeElement?.id"
DIALOG = "document.getElementById('handover-dialog').open"
HANDED = "(document.getElementById('handed').hidden ? '' : document.getElementById('handed').innerText)"
QUEUE = "document.getElementById('queue').innerText"


def write_comment(page: Page, text: str) -> None:
    page.browser.press("t")
    page.browser.wait_for(f"{FOCUS} === 'comment'")
    page.browser.type(text)
    page.browser.press("Enter")


def hand_over(page: Page, to: str, comment: str = "") -> None:
    page.browser.press("o")
    page.browser.wait_for(DIALOG)
    page.browser.type(to)
    page.browser.press("Tab")
    page.browser.type(comment)
    page.browser.run("document.querySelector('#handover-form .primary').click()")


def test_comments_stand_beside_the_frame(open_page: Callable[..., Page]) -> None:
    page = open_page("ready", "ready", user="rolf")
    page.expect(1)
    assert not page.browser.run("document.getElementById('talk').open")
    write_comment(page, "<i>a dog?</i>")
    page.browser.wait_for(f"{COMMENTS}.includes('<i>a dog?</i>') && {COMMENTS}.includes('rolf')")
    page.browser.wait_for(f"document.getElementById('comment').value === '' && {FOCUS} === 'stage'")
    page.browser.wait_for(f"{QUEUE}.includes('1 comment')")
    with as_user(page.address, "ada") as ada:
        ada.post("/api/reviews/1/comments", json={"text": "a fox"})
    page.browser.wait_for(f"{COMMENTS}.includes('a fox')")  # by itself
    # What is being written stays with its frame, also over a reload.
    page.browser.press("t")
    page.browser.wait_for(f"{FOCUS} === 'comment'")
    page.browser.type("half a thou")
    page.browser.press("Escape")
    page.browser.press("j")
    page.expect(2)
    assert page.browser.run("document.getElementById('comment').value") == ""
    page.browser.press("k")
    page.browser.reload()
    page.expect(1)
    page.browser.wait_for("document.getElementById('comment').value === 'half a thou'")
    # One's own can be deleted, and no other.
    assert page.browser.run("document.querySelectorAll('#comments button').length") == 1
    page.browser.run("document.querySelector('#comments button').click()")
    page.browser.wait_for(f"{COMMENTS}.includes('deleted') && !{COMMENTS}.includes('dog')")
    page.browser.press("h")
    page.browser.wait_for("document.getElementById('history').innerText.includes('commented: “a fox”')")
    page.browser.wait_for("document.getElementById('history').innerText.includes('deleted a comment')")


def test_a_frame_is_handed_to_a_colleague_and_its_claim_with_it(
    open_page: Callable[..., Page], tmp_path: Path
) -> None:
    page = open_page(*["ready"] * 4)
    page.expect(1)
    with second_browser(page, tmp_path / "bea", "Bea") as bea:
        wait_for_claims(page, [(1, "Ann"), (2, "Bea")])
        hand_over(page, "Bea", "your car?")
        page.browser.wait_for(f"!{DIALOG}")
        page.expect(3)
        wait_for_claims(page, [(2, "Bea"), (3, "Ann")])
        # Bea hears of it, has it first in her list, and is given it next.
        bea.wait_for(f"{HANDED} === '1 for you'")
        bea.wait_for("document.querySelector('.row')?.innerText.includes('for you, from Ann')")
        assert bea.run("document.querySelector('.row').dataset.id") == "1"
        bea.press("a")
        bea.wait_for(f"{SHOWN} && ({CURRENT}) === '1'")
        bea.wait_for(f"{NOTICE}.includes('Ann handed this frame to you')")
        bea.wait_for(f"{COMMENTS}.includes('your car?')")
        wait_for_claims(page, [(1, "Bea"), (3, "Ann")])
        # Ann may look at it, and cannot judge it.
        page.browser.wait_for(f"{QUEUE}.includes('Bea has it') || {QUEUE}.includes('for Bea')")
        page.browser.press("k")
        page.browser.press("k")
        page.browser.wait_for(f"({CURRENT}) === '1' && {NOTICE}.includes('Ann handed this frame to Bea')")
        page.browser.press("a")
        page.browser.wait_for(
            "document.getElementById('toasts').innerText.includes('handed this frame to Bea')"
        )
        assert page.standing(1) == []
        bea.press("r")
        page.expect_stored(1, [("reject", None, None)])
        bea.wait_for(f"{HANDED} === ''")


def test_whoever_needs_it_takes_a_frame_that_waits_for_another(open_page: Callable[..., Page]) -> None:
    page = open_page("ready", "ready", user="rolf")
    page.expect(1)
    hand_over(page, "ada")
    page.expect(2)
    page.browser.press("a")
    # The last one is nobody else's to judge: it is shown, and not taken.
    page.browser.wait_for(f"({CURRENT}) === '1' && {NOTICE}.includes('rolf handed this frame to ada')")
    wait_for_claims(page, [])
    page.browser.run("document.querySelector('#notice button').click()")
    wait_for_claims(page, [(1, "rolf")])
    page.browser.wait_for(f"{NOTICE} === ''")
    page.browser.press("a")
    page.expect_stored(1, [("confirm", None, None)])


def test_what_the_dialog_refuses_and_the_way_back(open_page: Callable[..., Page]) -> None:
    page = open_page("ready", "ready", user="rolf")
    page.expect(1)
    hand_over(page, "nina", "hm")
    page.browser.wait_for("document.getElementById('handover-problem').innerText === 'there is no user nina'")
    page.browser.run("document.getElementById('handover-to').value = 'ada'")
    page.browser.run("document.getElementById('handover-back').click()")
    page.browser.wait_for(
        f"!{DIALOG} && document.getElementById('toasts').innerText.includes('back to the queue')"
    )
    page.expect(2)
    wait_for_claims(page, [(2, "rolf")])
    with as_user(page.address, "ada") as ada:
        assert [one["text"] for one in ada.get("/api/reviews/1").json()["comments"]] == ["hm"]
        ada.post("/api/reviews/1/handover", json={"to": "rolf"})
    # The count in the head leads there.
    page.browser.wait_for(f"{HANDED} === '1 for you'")
    page.browser.run("document.getElementById('handed').click()")
    page.expect(1)


def test_the_keys_are_in_the_help(open_page: Callable[..., Page]) -> None:
    page = open_page("ready", user="vera")
    page.browser.wait_for(SHOWN)
    page.browser.press("?")
    page.browser.wait_for("document.getElementById('help-dialog').open")
    text = page.text("help-keys")
    assert "Write a comment" in text and "Hand it to a colleague" in text
    page.browser.press("Escape")
    page.browser.press("o")
    page.browser.wait_for("document.getElementById('toasts').innerText.includes('Viewers see everything')")
    assert not page.browser.run(DIALOG)
    assert page.browser.run("document.getElementById('comment').disabled")

"""Logging in and out in a real browser. Skipped where no Chromium is installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from secondlook.cloud.station.app import create_app
from tests.cloud.station.browser import Browser, find_chromium
from tests.cloud.station.people import PASSWORDS, add_people
from tests.cloud.station.seed import seed
from tests.cloud.station.server import serving

PROGRAM = find_chromium()
pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium on PATH"),
    pytest.mark.timeout(240),
]

ON_LOGIN = (
    "location.pathname === '/login' && document.activeElement?.id === 'name' "
    "&& document.getElementById('submit')?.disabled === false"
)
PROBLEM = "document.getElementById('problem').textContent"
ACCOUNT = "document.getElementById('account')?.textContent"
FRAME = "document.querySelector('.row[aria-current]')?.dataset.id"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM is not None
    browser = Browser(PROGRAM, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def address(browser: Browser, tmp_path: Path) -> Iterator[str]:
    seeded = seed(tmp_path, ("ready", "ready"))
    add_people(seeded.catalogue_url)
    with serving(create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)) as address:
        browser.call("Page.navigate", url=address)
        browser.wait_for(ON_LOGIN)
        yield address
        browser.call("Page.navigate", url="about:blank")


def log_in(browser: Browser, name: str, password: str) -> None:
    browser.wait_for(ON_LOGIN)
    browser.type(name)
    browser.press("Tab")
    browser.type(password)
    browser.press("Enter")


def test_a_reviewer_logs_in_judges_and_logs_out(browser: Browser, address: str) -> None:
    browser.run("addEventListener('securitypolicyviolation', () => (window.broken = true))")
    log_in(browser, "rolf", "wrong password!")
    browser.wait_for(f"{PROBLEM} === 'name or password is wrong'")
    assert not browser.run("window.broken ?? false")
    browser.run("document.getElementById('password').select()")
    browser.type(PASSWORDS["rolf"])
    browser.press("Enter")
    browser.wait_for(f"{ACCOUNT} === 'rolf' && ({FRAME}) === '1'")
    browser.wait_for("document.getElementById('tag-right').textContent === 'Refined'")
    assert browser.run(
        "document.getElementById('reviewer').hidden && !document.getElementById('name-dialog').open"
    )
    assert browser.run("document.cookie") == ""
    browser.press("a")
    browser.wait_for(f"({FRAME}) === '2'")
    first = "fetch('/api/reviews/1').then((r) => r.json()).then((r) => r.verdicts[0]?.reviewer)"
    browser.wait_for(f"{first}.then((name) => name === 'rolf')")
    # A link from elsewhere comes to the log-in page without the cookie, and goes straight on.
    browser.call("Page.navigate", url=f"{address}/login")
    browser.wait_for(f"location.pathname === '/' && {ACCOUNT} === 'rolf'")
    browser.run("document.getElementById('logout').click()")
    browser.wait_for(ON_LOGIN)
    assert browser.run("fetch('/api/summary').then((r) => r.status)") == 401


def test_a_viewer_sees_and_judges_nothing(browser: Browser, address: str) -> None:
    log_in(browser, "vera", PASSWORDS["vera"])
    browser.wait_for("document.getElementById('tag-right')?.textContent === 'Refined'")
    assert browser.run("document.querySelector('[data-action=confirm]').disabled")
    browser.press("a")
    browser.wait_for("document.getElementById('toasts').textContent.includes('judge nothing')")
    assert browser.run(FRAME) == "1"


def end_session(browser: Browser, key: str) -> None:
    """And press `key` at that moment: a page that has asked the station meanwhile has its log-in dialog open."""
    csrf = "fetch('/api/me').then((r) => r.json()).then((me) => me.csrf)"
    head = "{'content-type': 'application/json', 'x-csrf-token': c}"
    browser.run(
        f"{csrf}.then((c) => fetch('/api/logout', {{method: 'POST', body: '{{}}', headers: {head}}}))"
        f".then(() => document.body.dispatchEvent(new KeyboardEvent('keydown', {{ key: '{key}', bubbles: true }})))"
    )


ASKED = "document.getElementById('login-dialog').open && document.activeElement.id === 'login-password'"
SHOWN = "document.getElementById('tag-right').textContent === 'Refined'"


def test_a_session_that_ends_takes_neither_verdict_nor_note_nor_frame_along(
    browser: Browser, address: str
) -> None:
    log_in(browser, "rolf", PASSWORDS["rolf"])
    browser.wait_for(f"{ACCOUNT} === 'rolf' && ({FRAME}) === '1' && {SHOWN}")
    browser.press("j")
    browser.wait_for(f"({FRAME}) === '2' && {SHOWN}")
    browser.press("n")
    browser.type("half hidden")
    browser.press("Escape")
    browser.press("Tab")
    end_session(browser, "r")  # on the first box, so that the frame stays
    browser.wait_for(ASKED)
    assert browser.run("document.getElementById('login-name').value") == "rolf"
    assert browser.run("document.getElementById('unsaved').textContent") == "1 unsaved"
    browser.type("wrong password!")
    browser.press("Enter")
    browser.wait_for("document.getElementById('login-problem').textContent === 'name or password is wrong'")
    browser.type(PASSWORDS["rolf"])
    browser.press("Enter")
    browser.wait_for("document.getElementById('unsaved').hidden")
    assert browser.run(FRAME) == "2" and browser.run("location.pathname") == "/reviews/2"
    found = browser.run("fetch('/api/reviews/2').then((r) => r.json()).then((r) => r.verdicts)")
    told = [(v["reviewer"], v["verdict"], v["box_index"], v["note"]) for v in found]
    assert told == [("rolf", "reject", 0, "half hidden")]


def test_a_log_in_elsewhere_in_the_browser_is_found(browser: Browser, address: str) -> None:
    log_in(browser, "rolf", PASSWORDS["rolf"])
    browser.wait_for(f"{ACCOUNT} === 'rolf' && ({FRAME}) === '1' && {SHOWN}")
    end_session(browser, "a")
    browser.wait_for(ASKED)
    body = f"{{name: 'rolf', password: '{PASSWORDS['rolf']}'}}"
    head = "{'content-type': 'application/json'}"
    browser.run(f"fetch('/api/login', {{method: 'POST', headers: {head}, body: JSON.stringify({body})}})")
    browser.wait_for(
        "!document.getElementById('login-dialog').open && document.getElementById('unsaved').hidden"
    )
    browser.wait_for("fetch('/api/reviews/1').then((r) => r.json()).then((r) => r.verdicts.length === 1)")


def test_a_password_is_changed_in_the_page(browser: Browser, address: str) -> None:
    log_in(browser, "vera", PASSWORDS["vera"])
    browser.wait_for(f"{ACCOUNT} === 'vera'")
    browser.run("document.getElementById('change-password').click()")
    browser.wait_for("document.activeElement.id === 'password-present'")
    browser.type("not the present one")
    browser.press("Tab")
    browser.type("a brand new secret")
    browser.press("Enter")
    browser.wait_for(
        "document.getElementById('password-problem').textContent.includes('present password is wrong')"
    )
    browser.run("document.getElementById('password-present').select()")
    browser.type(PASSWORDS["vera"])
    browser.press("Enter")
    log_in(browser, "vera", "a brand new secret")
    browser.wait_for(f"{ACCOUNT} === 'vera'")

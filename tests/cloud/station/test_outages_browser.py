"""A station that is killed, stopped and cut off while somebody judges: no verdict is lost or doubled, all is said.

In a real browser, against a real process. Skipped where no Chromium is installed.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloud.station.browser import Browser, find_chromium
from tests.cloud.station.pages import say_name
from tests.cloud.station.process import Line, StationProcess
from tests.cloud.station.seed import drawn_scene, seed

PROGRAM = find_chromium()
pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium on PATH"),
    pytest.mark.timeout(240),
]

VERDICTS = 100
MOST_UNSAVED = 5
HUNG_SECONDS = 3.0  # in which a station that hangs is seen to hang
LOADED = "document.getElementById('unsaved') !== null"
CURRENT = "(document.querySelector('.row[aria-current]')?.dataset.id ?? null)"
UNSAVED = "(document.getElementById('unsaved').hidden ? '' : document.getElementById('unsaved').textContent)"
CONNECTION = "document.getElementById('connection').textContent"
JUDGING = "!document.querySelector('[data-action=confirm]').disabled"
ON_SCREEN = "document.getElementById('tag-right').textContent === 'Refined'"


class Judge:
    """Somebody who confirms one frame after the other, as fast as the page lets them."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.given = 0

    def open(self, address: str, name: str = "Ann") -> None:
        self.browser.call("Page.navigate", url=address)
        say_name(self.browser, name, 30)

    def leave(self) -> list[str]:
        """Go to another page; returns the kinds of dialogs that this opened."""
        asked = len(self.browser.dialogs)
        self.browser.call("Page.navigate", url="about:blank")
        self.browser.wait_for("location.href === 'about:blank'")
        return self.browser.dialogs[asked:]

    def confirm(self, count: int) -> None:
        for _ in range(count):
            self.browser.wait_for(f"{JUDGING} && {ON_SCREEN} && {CURRENT} !== null", 30)
            frame = self.browser.run(CURRENT)
            self.browser.press("a")
            self.browser.wait_for(f"{CURRENT} !== '{frame}'")
            self.given += 1

    def rest(self) -> None:
        """Until all is stored, and the next frames have been fetched ahead."""
        self.expect_unsaved(0)
        time.sleep(1.0)

    def expect_unsaved(self, count: int) -> None:
        self.browser.wait_for(f"{UNSAVED} === '{f'{count} unsaved' if count else ''}'", 30)

    def expect_word(self, text: str, seconds: float = 10.0) -> None:
        self.browser.wait_for(f"{CONNECTION}.includes('{text}')", seconds)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM is not None
    browser = Browser(PROGRAM, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def judge(browser: Browser) -> Iterator[Judge]:
    yield Judge(browser)
    browser.call("Page.navigate", url="about:blank")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    seed(tmp_path, ["ready"] * VERDICTS, [drawn_scene(0, 96, 64)])
    return tmp_path


@pytest.fixture
def station(folder: Path) -> Iterator[StationProcess]:
    process = StationProcess(folder)
    yield process
    process.kill()


@pytest.fixture
def line(station: StationProcess) -> Iterator[Line]:
    line = Line(station.port)
    yield line
    line.close()


def stored(folder: Path) -> Counter[int]:
    """How many verdicts each review has."""
    with sqlite3.connect(folder / "catalogue.db") as database:
        rows = database.execute("SELECT review_id, count(*) FROM verdicts GROUP BY review_id").fetchall()
    database.close()
    return Counter(dict(rows))


def test_a_hundred_verdicts_survive_every_outage(
    folder: Path, station: StationProcess, line: Line, judge: Judge
) -> None:
    judge.open(line.address)
    judge.confirm(12)
    judge.rest()

    # Killed: a handful more can be given, they are counted, and then it stops.
    station.kill()
    judge.confirm(MOST_UNSAVED)
    judge.expect_unsaved(MOST_UNSAVED)
    judge.expect_word("not reached")
    judge.browser.wait_for(f"!({JUDGING})")
    frame = judge.browser.run(CURRENT)
    judge.browser.press("a")
    assert judge.browser.run(CURRENT) == frame
    station.restart()
    judge.expect_unsaved(0)
    judge.confirm(12)

    # Stopped: seen within seconds; what was sent before is sent again, and stored once.
    judge.rest()
    began = time.monotonic()
    station.freeze(True)
    judge.expect_word("does not answer", HUNG_SECONDS)
    assert time.monotonic() - began < HUNG_SECONDS
    judge.confirm(3)
    judge.expect_unsaved(3)
    time.sleep(max(0.0, began + 9 - time.monotonic()))
    station.freeze(False)
    judge.expect_unsaved(0)
    judge.confirm(12)

    # Answers that never arrive: stored already, and sent again all the same.
    judge.rest()
    line.keep_answers()
    judge.confirm(1)
    until = time.monotonic() + 20
    while stored(folder).total() < judge.given and time.monotonic() < until:
        time.sleep(0.02)
    assert stored(folder).total() == judge.given
    judge.expect_unsaved(1)
    line.mend()
    judge.expect_unsaved(0)

    # Gaps in the network, and killed at any moment, verdicts under way.
    for _ in range(4):
        judge.rest()
        line.cut()
        judge.confirm(2)
        line.mend()
        judge.confirm(6)
    for count in (1, 3):
        judge.confirm(3)
        judge.rest()
        judge.browser.press("a")
        judge.given += 1
        station.kill()
        judge.confirm(count)
        station.restart()
    judge.confirm(VERDICTS - judge.given)
    judge.expect_unsaved(0)
    judge.browser.wait_for(
        "document.getElementById('empty').innerText.includes('No frame needs a second look')"
    )
    assert stored(folder) == Counter(dict.fromkeys(range(1, VERDICTS + 1), 1))


def test_verdicts_outlive_the_page(folder: Path, station: StationProcess, judge: Judge) -> None:
    judge.open(station.address)
    judge.confirm(1)
    judge.rest()
    station.freeze(True)
    judge.confirm(3)
    judge.expect_unsaved(3)
    assert judge.leave() == ["beforeunload"]
    station.freeze(False)
    judge.browser.call("Page.navigate", url=station.address)
    judge.browser.wait_for(f"{LOADED} && {CURRENT} === '5'", 30)
    judge.expect_unsaved(0)
    assert stored(folder) == Counter(dict.fromkeys(range(1, 5), 1))
    assert judge.leave() == []


def test_undo_takes_back_what_was_never_sent(folder: Path, station: StationProcess, judge: Judge) -> None:
    judge.open(station.address)
    judge.confirm(1)
    judge.rest()
    station.kill()
    judge.expect_word("not reached")
    judge.confirm(3)
    for left in (2, 1):
        frame = judge.browser.run(CURRENT)
        judge.browser.press("z")
        judge.expect_unsaved(left)
        judge.browser.wait_for(f"{CURRENT} === '{int(frame) - 1}'")
    judge.browser.press("z")  # this one may have arrived
    judge.browser.wait_for("document.getElementById('toasts').textContent.includes('undo waits')")
    station.restart()
    judge.expect_unsaved(0)
    assert stored(folder) == Counter({1: 1, 2: 1})
    judge.browser.press("z")
    judge.browser.wait_for(f"{CURRENT} === '2'")

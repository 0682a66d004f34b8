"""Several reviewers at once, each in a browser, on one queue: a tab that is closed, and a station that is killed.

Nobody judges a frame that another one has, no verdict is lost or doubled, and nothing stays behind. The small runs are
part of every test run; those of full size carry the mark `slow`.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cloud.station.browser import Browser
from tests.cloud.station.pages import IN_BROWSER, PROGRAM
from tests.cloud.station.process import StationProcess
from tests.cloud.station.seed import drawn_scene, seed
from tests.cloud.station.test_outages_browser import CURRENT, LOADED, ON_SCREEN, Judge

pytestmark = IN_BROWSER

# A verdict whenever a frame is on the screen and none is on its way, as somebody gives who looks at each for a moment.
# Questions for a frame that the station leaves unanswered are counted: the page goes on with one that others may have.
WORKER = """(() => {
  window.unheard = 0;
  const ask = window.fetch;
  window.fetch = (...given) => ask(...given).catch((error) => {
    if (String(given[0]).includes('api/claims')) window.unheard += 1;
    throw error;
  });
  const free = () => document.getElementById('unsaved').hidden && document.getElementById('notice').innerText === '';
  window.worker = setInterval(() => {
    if (document.getElementById('tag-right').textContent !== 'Refined' || !free()) return;
    if (document.querySelector('.row[aria-current]') === null) return;
    document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'a', bubbles: true }));
  }, %d);
})()"""
DONE = "!document.getElementById('empty').hidden"
REST_SECONDS = 45.0  # once all is judged, until every page has heard of it, however busy the machine is
AT_REST = f"{DONE} && document.getElementById('unsaved').hidden"


class Site:
    """A station as a process, and reviewers before it."""

    def __init__(self, folder: Path, stack: ExitStack, frames: int, claim_seconds: int = 60) -> None:
        self.folder, self._stack, self.frames = folder, stack, frames
        seed(folder, ["ready"] * frames, [drawn_scene(number, 96, 64) for number in range(6)])
        (folder / "settings.toml").write_text(f"[station]\nclaim_seconds = {claim_seconds}\n")
        self.station = StationProcess(folder, "--config", str(folder / "settings.toml"))
        stack.callback(self.station.kill)

    def reviewer(self, name: str, look_ms: int = 60) -> Browser:
        """Somebody who has begun to work."""
        assert PROGRAM is not None
        browser = Browser(PROGRAM, self.folder / f"profile-{name}")
        self._stack.callback(browser.close)
        Judge(browser).open(self.station.address, name)
        browser.wait_for(f"{LOADED} && {ON_SCREEN} && {CURRENT} !== null", 30)
        browser.run(WORKER % look_ms)
        return browser

    def verdicts(self) -> list[tuple[int, str]]:
        """Frame and reviewer of each."""
        with sqlite3.connect(self.folder / "catalogue.db") as database:
            rows = database.execute("SELECT review_id, reviewer FROM verdicts").fetchall()
        database.close()
        return rows

    def by_reviewer(self) -> Counter[str]:
        return Counter(reviewer for _, reviewer in self.verdicts())

    def claims(self) -> list[tuple[int, str]]:
        with sqlite3.connect(self.folder / "catalogue.db") as database:
            now = time.time_ns()
            query = "SELECT review_id, holder FROM claims WHERE until_ns > ?"
            rows = database.execute(query, (now,)).fetchall()
        database.close()
        return rows

    def wait_until_given(self, count: int, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while len(self.verdicts()) < count:
            assert time.monotonic() < end, f"{len(self.verdicts())} of {count} verdicts after {seconds} s"
            time.sleep(0.05)

    def finish(self, *browsers: Browser, seconds: float, unheard: int = 0) -> None:
        """Until nothing is left. Each frame has one verdict, but where a page was not told whether another one has it:
        that was so `unheard` times before, and as often as the browsers counted."""
        self.wait_until_given(self.frames, seconds)
        for browser in browsers:
            browser.wait_for(AT_REST, REST_SECONDS)
        given = self.verdicts()
        assert {review_id for review_id, _ in given} == set(range(1, self.frames + 1))
        assert len(set(given)) == len(given)  # no verdict counts twice
        unheard += sum(browser.run("window.unheard") for browser in browsers)
        again = Counter(review_id for review_id, _ in given).most_common(9)
        assert len(given) <= self.frames + unheard, f"{again}, {unheard} questions without an answer"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def two_and_a_closed_tab(site: Site, seconds: float) -> None:
    """Ann and Bea work; Bea's tab is closed in the middle, and then Cai comes."""
    ann, bea = site.reviewer("Ann"), site.reviewer("Bea")
    site.wait_until_given(site.frames // 3)
    unheard = bea.run("window.unheard")
    bea.call("Page.navigate", url="about:blank")
    cai = site.reviewer("Cai")
    site.finish(ann, cai, seconds=seconds, unheard=unheard)
    shares = site.by_reviewer()
    assert min(shares.values()) >= site.frames // 20 and set(shares) == {"Ann", "Bea", "Cai"}, shares
    assert site.claims() == []


@pytest.mark.timeout(240)
def test_two_reviewers_and_a_closed_tab(tmp_path: Path, stack: ExitStack) -> None:
    two_and_a_closed_tab(Site(tmp_path, stack, 30), seconds=120)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_reviewers_on_two_hundred_frames(tmp_path: Path, stack: ExitStack) -> None:
    two_and_a_closed_tab(Site(tmp_path, stack, 200), seconds=600)


@pytest.mark.timeout(240)
def test_a_browser_that_dies_leaves_no_frame_behind(tmp_path: Path, stack: ExitStack) -> None:
    """Its last frame is free again when its claim has run out; whoever waits for it is given it."""
    site = Site(tmp_path, stack, 6, claim_seconds=6)
    assert PROGRAM is not None
    dead = Browser(PROGRAM, tmp_path / "profile-dead")
    Judge(dead).open(site.station.address, "Bea")
    dead.wait_for(f"{LOADED} && {ON_SCREEN} && {CURRENT} === '1'", 30)
    dead.close()
    ann = site.reviewer("Ann")
    site.finish(ann, seconds=60)
    assert site.claims() == [] and set(site.by_reviewer()) == {"Ann"}


def three_and_kills(site: Site, kills: int, seconds: float) -> None:
    """Ann, Bea and Cai work while the station is killed now and then, and started again."""
    browsers = [site.reviewer(name) for name in ("Ann", "Bea", "Cai")]
    for number in range(kills):
        site.wait_until_given((number + 1) * site.frames // (kills + 1), seconds)
        site.station.kill()
        time.sleep(0.5)
        site.station.restart()
    site.finish(*browsers, seconds=seconds)
    assert set(site.by_reviewer()) == {"Ann", "Bea", "Cai"}
    assert site.claims() == []


@pytest.mark.timeout(300)
def test_three_reviewers_and_a_station_that_is_killed(tmp_path: Path, stack: ExitStack) -> None:
    three_and_kills(Site(tmp_path, stack, 30), kills=2, seconds=150)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_three_reviewers_and_ten_kills(tmp_path: Path, stack: ExitStack) -> None:
    three_and_kills(Site(tmp_path, stack, 150), kills=10, seconds=600)

"""Pictures of every page and state of the station, light and dark, wide and on a phone.

`python -m tests.cloud.station.shots FOLDER [NAME...]` writes them; look at each after a change of the page.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from secondlook.cloud.catalogue import (
    NewVerdict,
    Sampling,
    VerdictKind,
    open_catalogue,
    record_verdict,
    set_known,
)
from tests.cloud.station.browser import Browser, find_chromium
from tests.cloud.station.pages import Page, opened_page
from tests.cloud.station.seed import SECOND, START, Scene, drawn_scene

SETTLE_SECONDS = 0.7
SIZES = {"wide": (1440, 900, False), "low": (1280, 720, False), "phone": (390, 844, True)}
# The station has answered, however busy the machine is, and the pictures of a grid are there.
SETTLED = """(() => {
  const [said, grid, progress] = ['connection', 'page-grid', 'progress'].map((id) => document.getElementById(id));
  const shown = !grid || grid.hidden || !document.getElementById('grid-confirm').disabled;
  return progress?.textContent !== '' && !said?.textContent && shown;
})()"""
STATES = ("ready", "ready", "ready", "expired", "leased", "due")


def _press(*keys: str) -> Callable[[Page], None]:
    def press(page: Page) -> None:
        for key in keys:
            page.browser.press(key)
            time.sleep(0.1)

    return press


def _visit(path: str) -> Callable[[Page], None]:
    def visit(page: Page) -> None:
        page.browser.call("Page.navigate", url=page.address + path)
        time.sleep(3 * SETTLE_SECONDS)

    return visit


def _judged(path: str, *known: int) -> Callable[[Page], None]:
    """Three people have judged frames, some of them twice; then the page at ``path``."""
    kind = VerdictKind
    said = {
        "ada": {
            1: [(kind.CONFIRM, 0), (kind.REJECT, 1)],
            2: [(kind.CONFIRM, None)],
            4: [(kind.REJECT, None)],
        },
        "rolf": {1: [(kind.CONFIRM, None)], 2: [(kind.CONFIRM, None)], 3: [(kind.NO_OBJECT, None)]},
        "vera": {1: [(kind.CONFIRM, 0), (kind.REJECT, 1)], 4: [(kind.REJECT, None)]},
    }

    def judge(page: Page) -> None:
        catalogue = open_catalogue(page.seeded.catalogue_url)
        now = time.time_ns() - 1800 * SECOND
        for person, frames in said.items():
            for review_id, verdicts in frames.items():
                for number, (verdict, box) in enumerate(verdicts):
                    now += 37 * SECOND
                    given = NewVerdict(verdict, person, "e" * 64, box_index=box)
                    sampling = Sampling(0.0 if review_id == 3 else 1.0, secret=b"shots")
                    record_verdict(catalogue, review_id, given, now_ns=now + number, sampling=sampling)
        for review_id in known:
            set_known(catalogue, review_id, True, actor="ada", now_ns=now)
        catalogue.close()
        _visit(path)(page)

    return judge


# name -> what brings it about
SHOTS: dict[str, Callable[[Page], None]] = {
    "review": _press(),
    "box": _press("Tab", "x"),
    "empty-frame": _press("j", "j"),
    "compare": _press("c"),
    "class": _press("Tab", "w"),
    "help": _press("?"),
    "around": _press("g"),
    "history": _press("a", "h"),
    "grid": _visit("/grid"),
    "scene": _press("j", "l"),
    "figures": _judged("/figures", 2),
    "known-frame": _judged("/reviews/2", 2),
    "frames": _visit("/frames"),
    "frame": _visit("/frames/1"),
    "cameras": _visit("/cameras"),
    "people": _visit("/people"),
    "missing": _visit("/nowhere"),
    "no-frame": _visit("/reviews/99"),
}


# What the station of a shot is started with: where the last day is to be seen, its clock is that of the frames.
OPTIONS: dict[str, dict[str, Any]] = {"cameras": {"now_ns": lambda: START + 3600 * SECOND}}


def main(folder: str, *names: str) -> int:
    program = find_chromium()
    if program is None:
        print("no Chromium is installed", file=sys.stderr)
        return 1
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    scenes = [drawn_scene(0), drawn_scene(1), Scene(drawn_scene(2).image, []), *map(drawn_scene, range(3, 6))]
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(program, Path(profile))
        for name, bring in SHOTS.items():
            if names and name not in names:
                continue
            with (
                tempfile.TemporaryDirectory() as data,
                opened_page(
                    browser,
                    Path(data),
                    *STATES,
                    scenes=scenes,
                    user="ada",
                    apart_seconds=300.0 if name in OPTIONS else 0.3,
                    **OPTIONS.get(name, {}),
                ) as page,
            ):
                page.expect(1)
                bring(page)
                for theme in ("light", "dark"):
                    features = [{"name": "prefers-color-scheme", "value": theme}]
                    browser.call("Emulation.setEmulatedMedia", features=features)
                    for size, (width, height, mobile) in SIZES.items():
                        if size == "low" and (name != "review" or theme == "light"):
                            continue
                        metrics = {"width": width, "height": height, "mobile": mobile}
                        browser.call("Emulation.setDeviceMetricsOverride", deviceScaleFactor=1, **metrics)
                        time.sleep(SETTLE_SECONDS)
                        browser.wait_for(SETTLED, 60)
                        browser.screenshot(out / f"{name}-{theme}-{size}.png")
                width, height, mobile = SIZES["wide"]
                browser.call(
                    "Emulation.setDeviceMetricsOverride",
                    width=width,
                    height=height,
                    mobile=mobile,
                    deviceScaleFactor=1,
                )
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

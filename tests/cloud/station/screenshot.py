"""Take the README's picture of a running station: `python -m tests.cloud.station.screenshot ADDRESS OUT.png KEY...`

The keys are pressed one after the other before the picture is taken: `j` for the next review, `c` to compare.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.cloud.station.browser import Browser, find_chromium

SETTLE_SECONDS = 1.0


def main(address: str, out: str, *keys: str) -> int:
    """Name a reviewer, press the keys, write the picture."""
    program = find_chromium()
    if program is None:
        print("no Chromium is installed", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(program, Path(profile), width=1500, height=900)
        browser.call("Page.navigate", url=address)
        browser.wait_for("document.activeElement !== null && document.activeElement.tagName === 'INPUT'")
        browser.type("ada")
        for key in ("Enter", *keys):
            browser.press(key)
            time.sleep(SETTLE_SECONDS)
        browser.screenshot(Path(out))
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

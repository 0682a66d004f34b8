"""Words of the pages, beside what they stand for in the catalogue; without a browser."""

from __future__ import annotations

import re
from pathlib import Path

from secondlook.cloud.catalogue import ReviewState, VerdictKind
from secondlook.cloud.station import app

STATIC = Path(app.__file__).parent / "static"


def words_of(name: str) -> set[str]:
    """The keys of an object in state.js."""
    (body,) = re.findall(rf"export const {name} = {{(.*?)}};", (STATIC / "state.js").read_text(), re.DOTALL)
    return set(re.findall(r"(\w+): \"", body))


def test_the_pages_have_words_for_every_verdict_and_state() -> None:
    assert words_of("VERDICT_WORDS") == {kind.value for kind in VerdictKind}
    assert words_of("STATE_WORDS") == {state.value for state in ReviewState}
    form = (STATIC / "index.html").read_text()
    (options,) = re.findall(r'<select name="verdict">(.*?)</select>', form, re.DOTALL)
    assert set(re.findall(r'value="(\w+)"', options)) == {kind.value for kind in VerdictKind}

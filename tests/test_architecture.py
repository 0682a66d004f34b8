"""ARCHITECTURE.md shows the import graph as it is, and the graph is one that can be kept in mind."""

from __future__ import annotations

import pytest

pytest.importorskip("grimp")

from tests.architecture import PAGE, imports, page


def test_the_import_graph_on_the_page_is_current() -> None:
    assert PAGE.read_text() == page(), "run `make docs`"


def test_no_two_rooms_import_each_other() -> None:
    found = imports()
    both = {tuple(sorted(pair)) for pair in found if pair[::-1] in found}
    assert not both

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


def test_rooms_of_the_agent_import_each_other_one_way() -> None:
    """`edge/source`, `edge/coding` and `edge/link`, and none of them what stands on all three."""
    import grimp

    graph = grimp.build_graph("secondlook", cache_dir=None)
    rooms = ("source", "coding", "link")
    found = {
        (one, other)
        for one in rooms
        for other in rooms
        if one != other and graph.find_shortest_chains(f"secondlook.edge.{one}", f"secondlook.edge.{other}")
    }
    assert not {pair for pair in found if pair[::-1] in found}
    for above in ("agent", "fleet", "main", "program", "telling"):
        for one in rooms:
            assert not graph.find_shortest_chains(f"secondlook.edge.{one}", f"secondlook.edge.{above}")

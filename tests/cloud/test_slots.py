from __future__ import annotations

from secondlook.cloud.catalogue import LeasedReview
from secondlook.cloud.workers.slots import OpenReview, next_hosts


def held(edge_id: str, *, aside: bool = False) -> OpenReview:
    review = LeasedReview(1, "r1", edge_id, "ab" * 16, 0, None, 50, "base", None, 9, 0, 0, False)
    return OpenReview(review, 0.0, 60.0, 60.0, aside, False)


def test_any_connected_host_may_be_next_while_a_slot_is_free() -> None:
    assert next_hosts([], ["a", "b"], 2) == ["a", "b"]
    assert next_hosts([held("a")], ["a", "b"], 2) == ["a", "b"]
    assert next_hosts([], [], 2) == []


def test_with_all_slots_taken_only_a_host_that_has_none() -> None:
    assert next_hosts([held("a"), held("a")], ["a", "b"], 2) == ["b"]
    assert next_hosts([held("a"), held("a"), held("b")], ["a", "b"], 2) == []
    assert next_hosts([held(name) for name in "abcd"], ["a", "e"], 2) == []


def test_what_stands_aside_takes_no_slot_but_its_host_gets_no_more_than_its_share() -> None:
    one, two = [held("a", aside=True)], [held("a", aside=True)] * 2
    assert next_hosts(one, ["a", "b"], 2) == ["a", "b"]
    assert next_hosts(two, ["a", "b"], 2) == ["b"]
    assert next_hosts([*two, held("b"), held("b")], ["a", "b", "c"], 2) == ["c"]

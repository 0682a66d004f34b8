"""Camera hosts stay with a worker while it keeps up, and are anybody's as soon as it does not."""

from __future__ import annotations

from secondlook.cloud.storage import affinity
from secondlook.cloud.storage.affinity import STAY_SECONDS, Affinity

GATES = frozenset({"a", "b", "c", "d"})


def kept(**owners: str) -> Affinity:
    """Workers that took frames of these hosts just now, and all there were."""
    at_work = Affinity()
    for worker, edges in owners.items():
        at_work.leased(worker, edges, drained=True, now=100.0)
    return at_work


def test_the_hosts_of_a_worker_are_left_to_it() -> None:
    at_work = kept(w1="ab", w2="cd")
    assert at_work.reserved("w1", 101.0) == {"c", "d"}
    assert at_work.reserved("w2", 101.0) == {"a", "b"}
    assert at_work.reserved("w1", 101.0) == {"c", "d"}, "asking changes nothing"


def test_who_is_not_heard_of_keeps_none() -> None:
    at_work = kept(w1="ab", w2="cd")
    at_work.leased("w1", "", drained=True, now=100.0 + STAY_SECONDS / 2)
    assert at_work.reserved("w1", 100.0 + STAY_SECONDS) == set()
    assert at_work.reserved("w2", 100.0 + STAY_SECONDS) == {"a", "b"}


def test_who_cannot_keep_up_is_helped_at_once() -> None:
    at_work = kept(w1="ab", w2="cd")
    at_work.leased("w1", "ab", drained=False, now=100.5)
    assert at_work.reserved("w2", 100.6) == set()
    at_work.leased("w2", "a", drained=True, now=100.7)
    at_work.leased("w1", "b", drained=True, now=100.8)
    assert len(at_work.reserved("w1", 100.9)) == 2


def test_what_one_has_more_than_another_is_handed_over() -> None:
    at_work = kept(w1="abcd")
    left = at_work.reserved("w2", 100.5)
    assert len(left) == 2
    assert at_work.reserved("w1", 100.6) == set(), "w2 has not asked by now: nothing is kept for it"
    at_work.leased("w2", "", drained=True, now=100.7)
    assert at_work.reserved("w1", 100.8) == GATES - left
    at_work.leased("w3", "", drained=True, now=100.9)
    shares = [len(GATES - at_work.reserved(worker, 101.0)) for worker in ("w1", "w2", "w3")]
    assert sorted(shares) == [1, 1, 2]


def test_hosts_that_went_and_clocks_that_jump_leave_nothing_behind(monkeypatch) -> None:
    at_work = kept(w1="ab")
    assert at_work.reserved("w2", 50.0) == set()
    at_work = kept(w1="ab")
    for second in range(100, 170):
        at_work.leased("w1", "a", drained=True, now=float(second))
        at_work.reserved("w2", float(second))
    assert set(at_work._owners) == {"a"}
    monkeypatch.setattr(affinity, "_MOST", 3)
    at_work.leased("w1", "abcd", drained=True, now=170.0)
    at_work.reserved("w2", 170.0)
    assert not at_work._owners

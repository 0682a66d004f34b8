"""Claims in the catalogue, on both databases: one frame, one person, for as long as the page is heard of."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue import Claimant
from secondlook.shared.errors import ClaimHeld, ReviewConflict, ReviewNotFound
from secondlook.shared.packet import FrameInfo

SECOND = 1_000_000_000
ANN, BEA = Claimant("Ann", "tab-of-ann"), Claimant("Bea", "tab-of-bea")


@pytest.fixture
def catalogue(catalogue_url: str) -> Iterator[cat.Catalogue]:
    """Reviews 1 to 30, ready."""
    catalogue = cat.open_catalogue(catalogue_url)
    for seq in range(30):
        frame = cat.NewFrame(
            "gate", "yard", 2, FrameInfo("ab" * 16, seq, 1, 64, 48, None, 900), "base/x.slk", 100
        )
        review = cat.NewReview(reason="uncertain", priority=50 - seq)
        cat.store_frame(catalogue, frame, [], detector="tiny", reasons=[review], now_ns=10)
        cat.lease_due_review(catalogue, "r1", lease_seconds=60, now_ns=0)
        result = cat.Refinement("e", 900, "b.png", "e.png", "r.png", "c" * 64, "rrdb-l1", "0011")
        cat.mark_ready(catalogue, seq + 1, "r1", result, now_ns=5)
    yield catalogue
    catalogue.close()


def take(catalogue: cat.Catalogue, review_id: int, who: Claimant, at: int = 0) -> cat.ClaimedReview:
    return cat.claim_review(catalogue, review_id, who, lease_seconds=120, now_ns=at * SECOND)


def held(catalogue: cat.Catalogue, at: int = 0) -> list[tuple[int, str]]:
    return [(one.review_id, one.holder) for one in cat.list_claims(catalogue, now_ns=at * SECOND)]


def test_a_claim_holds_while_it_is_renewed_and_no_longer(catalogue: cat.Catalogue) -> None:
    take(catalogue, 1, ANN)
    with pytest.raises(ClaimHeld, match="Ann has this frame open") as refusal:
        take(catalogue, 1, BEA, at=119)
    assert refusal.value.holder == "Ann"
    cat.renew_claim(catalogue, 1, ANN, lease_seconds=120, now_ns=100 * SECOND)
    with pytest.raises(ClaimHeld):
        take(catalogue, 1, BEA, at=219)
    assert held(catalogue, at=219) == [(1, "Ann")] and held(catalogue, at=220) == []
    take(catalogue, 1, BEA, at=220)
    with pytest.raises(ReviewConflict, match="does not have review 1 any more"):
        cat.renew_claim(catalogue, 1, ANN, lease_seconds=120, now_ns=221 * SECOND)
    with pytest.raises(ReviewNotFound):
        take(catalogue, 99, ANN)


def test_the_next_one_frees_the_last_one(catalogue: cat.Catalogue) -> None:
    take(catalogue, 1, ANN)
    take(catalogue, 2, Claimant("Ann", "another-tab"))
    take(catalogue, 3, ANN)
    assert held(catalogue) == [(2, "Ann"), (3, "Ann")]
    cat.release_claim(catalogue, 2, ANN)  # not this tab's
    assert held(catalogue) == [(2, "Ann"), (3, "Ann")]
    cat.release_claim(catalogue, 3, ANN)
    assert held(catalogue) == [(2, "Ann")]
    take(catalogue, 4, ANN)
    cat.claim_review(catalogue, 5, ANN, keep=[4], lease_seconds=120, now_ns=0)  # its verdict is on its way
    assert held(catalogue) == [(2, "Ann"), (4, "Ann"), (5, "Ann")]
    assert take(catalogue, 2, ANN, at=7).since_ns == 0  # the same person goes on in another tab


def test_what_a_tab_has_judged_is_not_handed_out_to_it_again(catalogue: cat.Catalogue) -> None:
    take(catalogue, 1, ANN)
    first = cat.claim_first(catalogue, [1, 2, 3], ANN, keep=[1], lease_seconds=120, now_ns=0)
    assert first is not None and first.review_id == 2
    assert cat.claim_first(catalogue, [1, 2], ANN, keep=[1, 2], lease_seconds=120, now_ns=0) is None


def test_a_decision_and_an_admin_end_a_claim(catalogue: cat.Catalogue) -> None:
    take(catalogue, 1, ANN)
    take(catalogue, 2, BEA)
    verdict = cat.NewVerdict(cat.VerdictKind.NO_OBJECT, "Ann", "c" * 64)
    cat.record_verdict(catalogue, 1, verdict, now_ns=SECOND)
    assert held(catalogue) == [(2, "Bea")]
    cat.free_claim(catalogue, 2, actor="ada", now_ns=SECOND)
    assert held(catalogue) == []
    with pytest.raises(ReviewConflict, match="review 1 is decided"):
        take(catalogue, 1, BEA)
    with pytest.raises(ReviewConflict, match="nobody has review 2"):
        cat.free_claim(catalogue, 2, actor="ada", now_ns=SECOND)
    with pytest.raises(ReviewConflict, match="any more"):  # and does not come back by itself
        cat.renew_claim(catalogue, 2, BEA, lease_seconds=120, now_ns=SECOND)


def test_many_at_once_get_a_frame_each(catalogue: cat.Catalogue) -> None:
    def work(number: int) -> int:
        who = Claimant(f"reviewer {number}", f"tab-{number:06}")
        taken = cat.claim_first(catalogue, range(1, 31), who, lease_seconds=120, now_ns=0)
        assert taken is not None
        return taken.review_id

    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(work, range(30)))
    assert sorted(given) == list(range(1, 31))
    assert cat.claim_first(catalogue, range(1, 31), ANN, lease_seconds=120, now_ns=0) is None


def test_a_tab_that_got_nothing_holds_nothing_but_what_it_has_judged(catalogue: cat.Catalogue) -> None:
    take(catalogue, 3, BEA)
    take(catalogue, 1, ANN)
    cat.claim_review(catalogue, 2, ANN, keep=[1], lease_seconds=120, now_ns=0)
    assert cat.claim_first(catalogue, [3], ANN, keep=[1], lease_seconds=120, now_ns=0) is None
    assert held(catalogue) == [(1, "Ann"), (3, "Bea")]
    cat.let_go(catalogue, ANN)
    assert held(catalogue) == [(3, "Bea")]

"""Whoever changes reviews locks them in one order, and passes by what others change: on PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select, text

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue.reviews import get_review
from tests.cloud.helpers import wait_until
from tests.cloud.test_catalogue import ready

SHOWN = "e" * 64
SECONDS = 15.0


@pytest.fixture
def catalogue(database_url: str) -> Iterator[cat.Catalogue]:
    """Three frames without a box that are ready to be judged."""
    catalogue = cat.open_catalogue(database_url)
    for seq in range(3):
        ready(catalogue, seq, SHOWN)
    yield catalogue
    catalogue.close()


def say(catalogue: cat.Catalogue, person: str, review_id: int, **more: cat.Sampling) -> int:
    verdict = cat.NewVerdict(cat.VerdictKind.NO_OBJECT, person, SHOWN)
    return cat.record_verdict(catalogue, review_id, verdict, now_ns=time.time_ns(), **more)


def waiting(catalogue: cat.Catalogue) -> bool:
    """Whether somebody waits for a row, or for who has one."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%reviews%'"
    with catalogue.reading() as session:
        return bool(session.scalar(text(query)))


def test_an_undo_locks_the_review_before_the_verdict(catalogue: cat.Catalogue) -> None:
    given = say(catalogue, "Ann", 1)
    with ThreadPoolExecutor(1) as pool:
        with catalogue.writing() as session:
            get_review(session, 1)  # as somebody who is about to give a verdict on it
            undone = pool.submit(cat.undo_verdict, catalogue, reviewer="Ann", now_ns=9)
            wait_until(lambda: waiting(catalogue), SECONDS)
            session.execute(
                select(cat.Verdict.id).where(cat.Verdict.id == given).with_for_update(nowait=True)
            )
        assert undone.result(SECONDS) == cat.UndoneVerdict(given, 1)


def test_two_windows_undo_two_verdicts(catalogue: cat.Catalogue) -> None:
    first, second = say(catalogue, "Ann", 1), say(catalogue, "Ann", 2)
    with ThreadPoolExecutor(2) as pool:
        with catalogue.writing() as session:
            get_review(session, 2)
            undone = [pool.submit(cat.undo_verdict, catalogue, reviewer="Ann", now_ns=9) for _ in range(2)]
            wait_until(lambda: waiting(catalogue), SECONDS)
            time.sleep(0.2)  # both are at the last one
        assert sorted(one.result(SECONDS).verdict_id for one in undone) == [first, second]


def test_who_asks_for_a_frame_passes_by_one_that_is_being_changed(catalogue: cat.Catalogue) -> None:
    claimant = cat.Claimant("Bea", "tab-of-bea")
    with ThreadPoolExecutor(1) as pool, catalogue.writing() as session:
        get_review(session, 1)
        given = pool.submit(cat.claim_first, catalogue, [1, 2], claimant, lease_seconds=60, now_ns=9)
        claimed = given.result(SECONDS)
    assert claimed is not None and claimed.review_id == 2


def test_nobody_is_given_a_known_frame_that_is_being_changed(catalogue: cat.Catalogue) -> None:
    say(catalogue, "Ann", 1)
    cat.set_known(catalogue, 1, True, actor="Ada", now_ns=5)
    sampling = cat.Sampling(known_share=1.0, secret=b"s")
    with ThreadPoolExecutor(1) as pool, catalogue.writing() as session:
        get_review(session, 1)  # its decision may be on its way to be undone
        pool.submit(say, catalogue, "Bea", 2, sampling=sampling).result(SECONDS)
        assert cat.wanted_known(session, "Bea") == []
    say(catalogue, "Bea", 3, sampling=sampling)
    with catalogue.reading() as session:
        assert cat.wanted_known(session, "Bea") == [1]

"""Many workers and refiners on one catalogue, on both databases, and a database server that goes away."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select

from secondlook.cloud import catalogue as cat
from secondlook.shared.errors import ReviewConflict, StoreBusy, StoreUnavailable, UnsupportedStore
from tests.cloud.servers import postgresql_running
from tests.cloud.test_catalogue import BOOT, box, frame, store

HANDS = 6


@pytest.fixture
def hands(catalogue_url: str) -> Iterator[list[cat.Catalogue]]:
    """The catalogue as several processes have it, opened by all of them at once."""
    with ThreadPoolExecutor(HANDS) as pool:
        opened = list(pool.map(cat.open_catalogue, [catalogue_url] * HANDS))
    yield opened
    for catalogue in opened:
        catalogue.close()


def at_once(hands: list[cat.Catalogue], work: object) -> list[object]:
    with ThreadPoolExecutor(HANDS) as pool:
        return list(pool.map(work, hands))  # type: ignore[arg-type]


def count(catalogue: cat.Catalogue, table: type) -> int:
    with catalogue.reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_a_frame_that_many_workers_file_at_once_is_filed_once(hands: list[cat.Catalogue]) -> None:
    new = at_once(hands, lambda catalogue: sum(store(catalogue, seq) for seq in range(12)))
    assert sum(new) == 12  # type: ignore[arg-type]
    for table, rows in (
        (cat.Frame, 12),
        (cat.DetectedBox, 24),
        (cat.Review, 12),
        (cat.AuditEntry, 12),
        (cat.Camera, 1),
    ):
        assert count(hands[0], table) == rows


def test_new_cameras_that_many_workers_meet_at_once(hands: list[cat.Catalogue]) -> None:
    def meet(catalogue: cat.Catalogue) -> None:
        for number in range(8):
            mine = frame(hands.index(catalogue), edge_id=f"edge-{number}")
            cat.store_frame(catalogue, mine, [box()], detector="tiny", reasons=[], now_ns=5)

    at_once(hands, meet)
    assert (count(hands[0], cat.Camera), count(hands[0], cat.Frame)) == (8, 8 * HANDS)


def test_each_review_is_leased_to_one_refiner(hands: list[cat.Catalogue]) -> None:
    for seq in range(30):
        store(hands[0], seq)

    def lease(catalogue: cat.Catalogue) -> list[int]:
        mine = []
        owner = f"r{hands.index(catalogue)}"
        while (found := cat.lease_due_review(catalogue, owner, lease_seconds=60, now_ns=100)) is not None:
            mine.append(found.review_id)
        return mine

    shares = at_once(hands, lease)
    assert Counter(id_ for share in shares for id_ in share) == Counter(range(1, 31))  # type: ignore[attr-defined]


def test_tombstones_that_many_workers_copy_are_stored_once(hands: list[cat.Catalogue]) -> None:
    gaps = [cat.FrameTombstone("gate", BOOT, seq, seq, "spool-full", 7) for seq in range(20)]
    stored = at_once(hands, lambda catalogue: cat.store_tombstones(catalogue, gaps))
    assert sum(stored) == 20  # type: ignore[arg-type]


def test_frames_and_tombstones_over_them_that_come_at_once(hands: list[cat.Catalogue]) -> None:
    gaps = [cat.FrameTombstone("gate", BOOT, first, first + 4, "spool-full", 7) for first in range(0, 60, 5)]

    def file(catalogue: cat.Catalogue) -> None:
        if hands.index(catalogue) % 2:
            cat.store_tombstones(catalogue, gaps)
        else:
            for seq in range(hands.index(catalogue), 60, 6):
                store(catalogue, seq)

    at_once(hands, file)
    with hands[0].reading() as session:
        frames = set(session.scalars(select(cat.Frame.seq)))
        buried = [
            seq
            for grave in session.scalars(select(cat.Tombstone))
            for seq in range(grave.first_seq, grave.last_seq + 1)
        ]
    assert len(frames) == 30 and sorted([*frames, *buried]) == list(range(60))


def test_a_verdict_is_undone_once(hands: list[cat.Catalogue]) -> None:
    store(hands[0], 0)
    cat.lease_due_review(hands[0], "r1", lease_seconds=60, now_ns=0)
    cat.mark_expired(hands[0], 1, "r1", why="gone", now_ns=5)
    cat.record_verdict(hands[0], 1, cat.NewVerdict(cat.VerdictKind.CONFIRM, "ann", "d" * 64), now_ns=10)

    def undo(catalogue: cat.Catalogue) -> bool:
        try:
            cat.undo_verdict(catalogue, reviewer="ann", now_ns=20)
        except ReviewConflict:
            return False
        return True

    assert Counter(at_once(hands, undo)) == Counter({True: 1, False: HANDS - 1})


def test_a_note_is_text_that_every_database_keeps() -> None:
    with pytest.raises(ValueError, match="NUL"):
        cat.NewVerdict(cat.VerdictKind.CONFIRM, "ann", "d" * 64, note="a\0b")


def test_a_server_that_goes_away_and_comes_back_is_named_and_used_again() -> None:
    with postgresql_running() as server:
        catalogue = cat.open_catalogue(server.create("away"))
        assert store(catalogue, 0)
        server.freeze(True)
        started = time.monotonic()
        with pytest.raises((StoreUnavailable, StoreBusy)):
            cat.open_catalogue(server.url)
        assert time.monotonic() - started < 30
        server.freeze(False)
        assert store(catalogue, 1)
        # The server ends every connection, as it does when it is started anew.
        with server.connected() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND usename = current_user"
            )
        assert store(catalogue, 2)
        assert count(catalogue, cat.Frame) == 3
        catalogue.close()


def test_a_statement_that_waits_for_too_long_is_given_up(database_url: str) -> None:
    catalogue, other = (
        cat.open_catalogue(database_url),
        cat.open_catalogue(database_url + " -clock_timeout%3D200"),
    )
    store(catalogue, 0)
    with catalogue.writing() as session:
        session.get_one(cat.Review, 1, with_for_update=True)
        with pytest.raises(StoreBusy):
            cat.retry_review(other, 1, actor="ann", now_ns=1)
    catalogue.close()
    other.close()


def test_a_later_schema_is_refused(database_url: str) -> None:
    catalogue = cat.open_catalogue(database_url)
    with catalogue.writing() as session:
        session.connection().exec_driver_sql("UPDATE catalogue_version SET version_num = '9999_later'")
    with pytest.raises(UnsupportedStore, match="9999_later"):
        cat.open_catalogue(database_url)
    catalogue.close()

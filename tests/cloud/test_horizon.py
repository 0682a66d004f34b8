"""Readers that go on from a number while others write: none misses a row, none sees one twice, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import select
from sqlalchemy.event import listen

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue.feed import START, Cursor, EventKind, Interest, look, newest
from secondlook.cloud.catalogue.horizon import LATEST, horizon
from secondlook.cloud.catalogue.schema import table_of
from secondlook.cloud.station.api import queries
from secondlook.cloud.station.api.queries import Found, Paging, Said, Seen
from secondlook.shared.errors import ConfigError
from tests.cloud.test_catalogue import BOOT, box, frame, store

WRITERS = 4


@pytest.fixture
def catalogue(catalogue_url: str) -> Iterator[cat.Catalogue]:
    opened = cat.open_catalogue(catalogue_url)
    yield opened
    opened.close()


def write_frames(catalogue: cat.Catalogue, writer: int, count: int) -> None:
    for seq in range(count):
        boxes = [box(), box("dog", 0.9)][: 1 + seq % 2]
        cat.store_frame(
            catalogue,
            frame(seq, edge_id=f"gate-{writer}", captured_ns=1 + seq),
            boxes,
            detector="tiny",
            reasons=[cat.NewReview(reason="uncertain", priority=5)] if seq % 7 == 0 else [],
            now_ns=10,
        )
        if seq % 5 == 0:
            cat.store_tombstones(
                catalogue, [cat.FrameTombstone(f"gate-{writer}", BOOT, 10_000 + seq, 10_000 + seq, "idle", 7)]
            )


def while_written(catalogue: cat.Catalogue, count: int, read_on: Callable[[], object]) -> None:
    """Let four write, and one read over and over; then once more."""
    with ThreadPoolExecutor(WRITERS) as pool:
        written = [pool.submit(write_frames, catalogue, writer, count) for writer in range(WRITERS)]
        while not all(one.done() for one in written):
            read_on()
        for one in written:
            one.result()
    read_on()


def everything(catalogue: cat.Catalogue, kind: type[cat.Frame | cat.DetectedBox]) -> list[int]:
    with catalogue.reading() as session:
        return sorted(session.scalars(select(kind.id)))


def test_pages_miss_nothing_and_repeat_nothing_while_four_write(catalogue: cat.Catalogue) -> None:
    seen: dict[str, list[int]] = {"frames": [], "detections": []}
    places: dict[str, str | None] = dict.fromkeys(seen)

    def read_on() -> None:
        for name, ids in seen.items():
            more = True
            while more:
                paging = Paging(after=places[name], limit=17)
                if name == "frames":
                    page = queries.list_frames(catalogue, paging, Seen(), Found(), None, None, cat.ANYBODY)
                else:
                    page = queries.list_detections(catalogue, paging, Seen(), Found(), None)
                ids += [item.id for item in page.items]
                places[name], more = page.next, page.more

    while_written(catalogue, 60, read_on)
    assert len(seen["frames"]) == 60 * WRITERS and len(seen["detections"]) == 90 * WRITERS
    assert sorted(seen["frames"]) == everything(catalogue, cat.Frame)
    assert sorted(seen["detections"]) == everything(catalogue, cat.DetectedBox)


def test_the_feed_misses_nothing_and_repeats_nothing_while_four_write(catalogue: cat.Catalogue) -> None:
    seen: dict[EventKind, list[int]] = {kind: [] for kind in EventKind}
    cursor = [START]

    def read_on() -> None:
        more = True
        while more:
            found = look(catalogue, cursor[0], Interest(), limit=23)
            for event in found.events:
                seen[event.kind].append(event.row.id)
            if found.events:
                # Going on from within is the same as going on from the end.
                cursor[0] = Cursor.parse(str(found.events[-1].cursor))
                more = True
            else:
                cursor[0], more = found.cursor, found.more

    while_written(catalogue, 40, read_on)
    assert sorted(seen[EventKind.DETECTION]) == everything(catalogue, cat.DetectedBox)
    with catalogue.reading() as session:
        assert sorted(seen[EventKind.TOMBSTONE]) == sorted(session.scalars(select(cat.Tombstone.id)))
        assert sorted(seen[EventKind.REVIEW]) == sorted(session.scalars(select(cat.Review.id)))
    assert newest(catalogue) == cursor[0]


def test_a_writer_that_has_not_committed_holds_readers_up_and_makes_them_miss_nothing(
    database_url: str,
) -> None:
    """The very case: 2 commits before 1."""
    catalogue = cat.open_catalogue(database_url)
    store(catalogue, 0, priority=None)
    drawn, may_commit = threading.Event(), threading.Event()

    def slow() -> None:
        with catalogue.writing() as session:
            row = {name: getattr(old, name) for name in COLUMNS}
            session.add(cat.Frame(**{**row, "seq": 1}))
            session.flush()
            drawn.set()
            may_commit.wait(10)

    with catalogue.reading() as session:
        old = session.scalars(select(cat.Frame)).one()
        session.expunge_all()
    with ThreadPoolExecutor(1) as pool:
        hangs = pool.submit(slow)
        assert drawn.wait(10)
        store(catalogue, 2, priority=None)  # committed, with the higher number
        with catalogue.reading() as session:
            assert sorted(session.scalars(select(cat.Frame.id))) == [1, 3]
            assert horizon(session, "frames") == 1 and horizon(session, "tombstones") == 0
        page = queries.list_frames(catalogue, Paging(), Seen(), Found(), None, None, cat.ANYBODY)
        assert [item.seq for item in page.items] == [0]
        may_commit.set()
        hangs.result()
    page = queries.list_frames(catalogue, Paging(after=page.next), Seen(), Found(), None, None, cat.ANYBODY)
    assert [item.seq for item in page.items] == [1, 2]
    catalogue.close()


COLUMNS = [column.name for column in table_of(cat.Frame).columns if column.name != "id"]


def test_sqlite_gives_no_number_of_a_tombstone_out_again(tmp_path: object) -> None:
    catalogue = cat.open_catalogue(f"sqlite:///{tmp_path}/catalogue.db")
    cat.store_tombstones(catalogue, [cat.FrameTombstone("gate", BOOT, 5, 9, "idle", 7)])
    place = newest(catalogue)
    store(catalogue, 7, priority=None)  # one of them came after all: its tombstone is cut in two
    found = look(catalogue, place, Interest(frozenset({EventKind.TOMBSTONE})), limit=10)
    assert [(event.row.first_seq, event.row.last_seq) for event in found.events] == [(5, 6), (8, 9)]
    with catalogue.reading() as session:
        assert horizon(session, "tombstones") == LATEST
    catalogue.close()


def test_filters_of_the_feed(catalogue: cat.Catalogue) -> None:
    for writer in range(2):
        write_frames(catalogue, writer, 8)

    def ids(**interest: object) -> list[tuple[str, str]]:
        found = look(catalogue, START, Interest(**interest), limit=1000)  # type: ignore[arg-type]
        assert found.cursor == newest(catalogue) and not found.more
        return [(event.kind.value, event.what) for event in found.events]

    assert (
        ids(kinds=frozenset({EventKind.DETECTION}), labels=frozenset({"dog"}))
        == [("detection", "stored")] * 8
    )
    assert len(ids(edge_id="gate-1")) == 12 + 2 + 2 and ids(edge_id="none") == []
    assert len(ids(kinds=frozenset({EventKind.DETECTION}), min_score=0.8)) == 8
    assert ids(kinds=frozenset({EventKind.REVIEW})) == [("review", "created")] * 4


def test_what_is_no_cursor_is_refused() -> None:
    assert Cursor.parse("7-0-3-9") == Cursor(7, 0, 3, 9)
    for text in ("", "now", "1-2-3", "1-2-3-4-5", "1-2-3--4", f"1-2-3-{2**63}", "१-2-3-4"):
        with pytest.raises(ConfigError, match="is no cursor"):
            Cursor.parse(text)


def test_lists_go_by_number_whatever_they_are_narrowed_to(tmp_path: object) -> None:
    """No index of a camera, class or time is gone through for them, and nothing is sorted."""
    catalogue = cat.open_catalogue(f"sqlite:///{tmp_path}/catalogue.db")
    store(catalogue, 0)
    asked: list[tuple[str, object]] = []
    engine = catalogue._reader
    listen(engine, "before_cursor_execute", lambda *given: asked.append((given[2], given[3])))
    at = datetime(2026, 1, 1, tzinfo=UTC)
    bea = cat.Audience("bea")  # who may be tried with known frames
    for order in ("oldest", "newest"):
        paging, seen = Paging(order=order), Seen("gate", at, at)  # type: ignore[arg-type]
        found, said = Found("cat", 0.1, 0.9), Said("cat", cat.VerdictKind.CONFIRM, "ann", True)
        queries.list_frames(catalogue, paging, seen, found, cat.ReviewState.READY, True, bea)
        queries.list_detections(catalogue, paging, seen, found, None)
        queries.list_objects(catalogue, paging, seen, found)
        queries.list_reviews(catalogue, paging, seen, found, cat.ReviewState.READY, None, bea)
        queries.list_verdicts(catalogue, paging, seen, said, bea)
        queries.list_comments(catalogue, paging, seen, "ann", None, bea)
        queries.list_tombstones(catalogue, paging, seen, "idle")
    look(catalogue, START, Interest(edge_id="gate", labels=frozenset({"cat"}), min_score=0.1), limit=9)
    lists = [one for one in list(asked) if "LIMIT" in one[0]]
    assert len(lists) == 14 + 2
    with engine.connect() as connection:
        for statement, parameters in lists:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()  # type: ignore[arg-type]
            first = plan[0].detail
            by_number = ("INTEGER PRIMARY KEY", "ix_detections_frame_id", "rowid>?")
            assert any(way in first for way in by_number), (statement, plan)
            assert not any("TEMP B-TREE" in row.detail for row in plan), (statement, plan)
    catalogue.close()

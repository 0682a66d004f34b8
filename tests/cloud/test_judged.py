"""What is kept of verdicts on boxes: that it follows every verdict, undo, dispute and deletion, on both databases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import select

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue.retention import Candidates, mark_deleting, remove_deleted
from secondlook.shared.detection import Detection
from secondlook.shared.errors import DecidedMeanwhile
from secondlook.shared.packet import FrameInfo
from tests.cloud.station.seed import BOOT, SECOND, START

SHOWN = "a" * 64
Row = tuple[int, str, float | None, bool | None]
FOUND = [Detection("car", 0.9, (1.0, 1.0, 9.0, 9.0)), Detection("dog", 0.4, (2.0, 2.0, 8.0, 8.0))]


@pytest.fixture
def catalogue(catalogue_url: str) -> Iterator[cat.Catalogue]:
    """Three frames with a car and a dog each, whose base pictures can be judged."""
    catalogue = cat.open_catalogue(catalogue_url)
    for seq in range(3):
        info = FrameInfo(BOOT, seq, START + seq * SECOND, 320, 192, None, 900)
        frame = cat.NewFrame("gate", "Gate", START, info, f"base/gate/{BOOT}/{seq}.slk", 9)
        reasons = [cat.NewReview("doubt", 5)]
        cat.store_frame(catalogue, frame, FOUND, detector="tiny", reasons=reasons, now_ns=START)
        lease = cat.lease_due_review(catalogue, "r", lease_seconds=60, now_ns=START)
        assert lease is not None
        cat.mark_expired(catalogue, lease.review_id, "r", why="gone", now_ns=START)
    yield catalogue
    catalogue.close()


def say(
    catalogue: cat.Catalogue, review: int, kind: str, *, who: str = "Ann", at: int = 9, **parts: object
) -> None:
    verdict = cat.NewVerdict(cat.VerdictKind(kind), who, SHOWN, **parts)  # type: ignore[arg-type]
    cat.record_verdict(catalogue, review, verdict, now_ns=START + at * SECOND)


def rows(catalogue: cat.Catalogue) -> list[Row]:
    box = cat.JudgedBox
    query = select(box.review_id, box.label, box.score, box.is_right).order_by(box.review_id, box.id)
    with catalogue.reading() as session:
        return [(row[0], row[1], row[2], row[3]) for row in session.execute(query)]


def test_boxes_follow_verdicts_and_undos(catalogue: cat.Catalogue) -> None:
    say(catalogue, 1, "reject", box_index=1)
    assert rows(catalogue) == []  # not decided yet
    say(catalogue, 1, "missed_object", label="fox", box=(0.0, 0.0, 5.0, 5.0))
    say(catalogue, 1, "confirm")
    assert rows(catalogue) == [(1, "car", 0.9, True), (1, "dog", 0.4, False), (1, "fox", None, None)]
    cat.undo_verdict(catalogue, reviewer="Ann", now_ns=START + 20 * SECOND)
    assert rows(catalogue) == []
    say(catalogue, 1, "wrong_class", box_index=0, label="Car")  # its class, written otherwise
    assert rows(catalogue) == [(1, "car", 0.9, True), (1, "dog", 0.4, False), (1, "fox", None, None)]
    say(catalogue, 2, "unsure")
    say(catalogue, 2, "wrong_class", box_index=1, label="fox")
    assert rows(catalogue)[3:] == [(2, "dog", 0.4, False)]


def test_a_dispute_leaves_none_until_it_is_settled(catalogue: cat.Catalogue) -> None:
    say(catalogue, 1, "confirm")
    with pytest.raises(DecidedMeanwhile):
        say(catalogue, 1, "reject", who="Bea", seen_verdict_id=0)
    assert rows(catalogue) == []
    say(catalogue, 1, "reject", who="Cai")
    assert rows(catalogue) == [(1, "car", 0.9, False), (1, "dog", 0.4, False)]


def test_the_one_whose_opinion_counts_is_counted(catalogue: cat.Catalogue) -> None:
    twice = cat.Sampling(double_share=1.0, secret=b"s")

    def judge(who: str, kind: str, at: int) -> None:
        verdict = cat.NewVerdict(cat.VerdictKind(kind), who, SHOWN)
        cat.record_verdict(catalogue, 1, verdict, now_ns=START + at * SECOND, sampling=twice)

    judge("Ann", "confirm", 10)
    judge("Bea", "reject", 11)
    assert rows(catalogue) == []
    judge("Cai", "reject", 12)
    assert rows(catalogue) == [(1, "car", 0.9, False), (1, "dog", 0.4, False)]


def test_they_go_with_their_frame(catalogue: cat.Catalogue) -> None:
    say(catalogue, 1, "confirm")
    say(catalogue, 2, "confirm")
    gone = Candidates(cat.Retention.DECIDED, START + 60 * SECOND)
    marked = mark_deleting(catalogue, gone, limit=1, now_ns=START + 61 * SECOND)
    assert remove_deleted(catalogue, [one.frame_id for one in marked]).frames == 1
    assert {row[0] for row in rows(catalogue)} == {2}


def test_what_is_searched_by_comes_from_the_frame(catalogue: cat.Catalogue) -> None:
    say(catalogue, 2, "confirm")
    asked = cat.ask_for_review(catalogue, 3, actor="Ann", now_ns=START)
    with catalogue.reading() as session:
        for kind in (cat.Verdict, cat.Reason, cat.Review, cat.DetectedBox):
            for row in session.scalars(select(kind)):
                frame = session.get_one(cat.Frame, row.frame_id)
                assert (row.captured_ns, row.edge_id) == (frame.captured_ns, frame.edge_id), kind
        assert session.get_one(cat.Review, asked).top_score == 0.9

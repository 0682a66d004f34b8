from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue import NewVerdict, ReviewState, VerdictKind
from secondlook.shared.detection import Detection
from secondlook.shared.errors import ReviewConflict, ReviewNotFound
from secondlook.shared.packet import FrameInfo

BOOT = "ab" * 16
SHOWN = "c" * 64


@pytest.fixture
def catalogue(catalogue_url: str) -> Iterator[cat.Catalogue]:
    """Review 1: a ready frame of 64 x 48 with two boxes. Review 2: one that still waits."""
    catalogue = cat.open_catalogue(catalogue_url)
    for seq in range(2):
        frame = cat.NewFrame("gate", "yard", 2, FrameInfo(BOOT, seq, 1, 64, 48, None, 900), "base/x.slk", 100)
        boxes = [Detection("cat", 0.5, (1.0, 2.0, 30.0, 40.0)), Detection("dog", 0.9, (5.0, 5.0, 9.0, 9.0))]
        review = cat.NewReview(reason="uncertain", priority=5 - seq)
        cat.store_frame(catalogue, frame, boxes, detector="tiny", reasons=[review], now_ns=10)
    cat.lease_due_review(catalogue, "r1", lease_seconds=60, now_ns=0)
    result = cat.Refinement("e", 900, "b.png", "e.png", "r.png", SHOWN, "rrdb-l1", "0011")
    cat.mark_ready(catalogue, 1, "r1", result, now_ns=5)
    yield catalogue
    catalogue.close()


def give(catalogue: cat.Catalogue, kind: str, review_id: int = 1, reviewer: str = "ann", **parts: Any) -> int:
    verdict = NewVerdict(VerdictKind(kind), reviewer, SHOWN, **parts)
    return cat.record_verdict(catalogue, review_id, verdict, now_ns=10)


def state(catalogue: cat.Catalogue) -> ReviewState:
    with catalogue.reading() as session:
        return session.get_one(cat.Review, 1).state


def test_one_verdict_on_the_whole_frame_decides(catalogue: cat.Catalogue) -> None:
    for kind in ("confirm", "reject", "unsure"):
        give(catalogue, kind)
        assert state(catalogue) is ReviewState.DECIDED
        cat.undo_verdict(catalogue, reviewer="ann", now_ns=20)
        assert state(catalogue) is ReviewState.READY


def test_box_verdicts_decide_when_every_box_has_one(catalogue: cat.Catalogue) -> None:
    give(catalogue, "confirm", box_index=0)
    give(catalogue, "reject", box_index=0)
    assert state(catalogue) is ReviewState.READY
    last = give(catalogue, "wrong_class", box_index=1, label="fox")
    assert state(catalogue) is ReviewState.DECIDED
    assert cat.undo_verdict(catalogue, reviewer="ann", now_ns=20) == cat.UndoneVerdict(last, 1)
    assert state(catalogue) is ReviewState.READY


def test_missed_objects_add_boxes_and_leave_the_frame_open(catalogue: cat.Catalogue) -> None:
    give(catalogue, "missed_object", label="person", box=(1.0, 1.0, 64.0, 48.0))
    assert state(catalogue) is ReviewState.READY
    with catalogue.reading() as session:
        row = session.scalars(select(cat.Verdict)).one()
        assert (row.label, row.x0, row.y0, row.x1, row.y1) == ("person", 1.0, 1.0, 64.0, 48.0)
    with pytest.raises(ReviewConflict, match="leaves the frame"):
        give(catalogue, "missed_object", label="person", box=(1.0, 1.0, 65.0, 48.0))


def test_undo_goes_back_step_by_step_and_only_over_ones_own(catalogue: cat.Catalogue) -> None:
    given = [give(catalogue, "confirm", box_index=0), give(catalogue, "confirm")]
    give(catalogue, "unsure", reviewer="bob")
    assert cat.undo_verdict(catalogue, reviewer="ann", now_ns=20).verdict_id == given[1]
    assert state(catalogue) is ReviewState.DECIDED, "bob's verdict stands"
    cat.undo_verdict(catalogue, reviewer="bob", now_ns=21)
    assert state(catalogue) is ReviewState.READY
    assert cat.undo_verdict(catalogue, reviewer="ann", now_ns=22).verdict_id == given[0]
    with pytest.raises(ReviewConflict, match="to undo"):
        cat.undo_verdict(catalogue, reviewer="ann", now_ns=23)
    with pytest.raises(ReviewConflict, match=f"verdict {given[0]} of bob"):
        cat.undo_verdict(catalogue, reviewer="bob", now_ns=24, verdict_id=given[0])


def test_every_verdict_and_undo_is_audited(catalogue: cat.Catalogue) -> None:
    give(catalogue, "confirm", note="clear")
    cat.undo_verdict(catalogue, reviewer="ann", now_ns=20)
    with catalogue.reading() as session:
        rows = session.scalars(select(cat.AuditEntry).order_by(cat.AuditEntry.id)).all()
    given, undone = rows[-2:]
    assert (given.actor, given.action, given.subject) == ("ann", "verdict given", "review/1")
    assert given.detail["shown_sha256"] == SHOWN
    assert (given.detail["state_before"], given.detail["state_after"]) == ("ready", "decided")
    assert (undone.action, undone.detail["state_after"]) == ("verdict undone", "ready")


def test_what_cannot_be_judged_is_refused_and_leaves_nothing(catalogue: cat.Catalogue) -> None:
    with pytest.raises(ReviewNotFound):
        give(catalogue, "confirm", review_id=99)
    with pytest.raises(ReviewConflict, match="due"):
        give(catalogue, "confirm", review_id=2)
    with pytest.raises(ReviewConflict, match="no box 2"):
        give(catalogue, "confirm", box_index=2)
    with catalogue.reading() as session:
        assert session.scalars(select(cat.Verdict)).all() == []


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("confirm", {"reviewer": " ann"}),
        ("confirm", {"reviewer": ""}),
        ("confirm", {"reviewer": "a\nb"}),
        ("confirm", {"shown_sha256": "C" * 64}),
        ("confirm", {"note": "x" * 1001}),
        ("confirm", {"note": "bell \a"}),
        ("confirm", {"note": "half a pair \ud800"}),
        ("confirm", {"reviewer": "a\x85b"}),
        ("confirm", {"idempotency_key": "short"}),
        ("confirm", {"seen_verdict_id": -1}),
        ("confirm", {"box_index": -1}),
        ("confirm", {"label": "cat"}),
        ("confirm", {"box": (0.0, 0.0, 1.0, 1.0)}),
        ("wrong_class", {"box_index": 0}),
        ("wrong_class", {"label": "cat"}),
        ("wrong_class", {"label": " cat", "box_index": 0}),
        ("wrong_class", {"label": "a\0b", "box_index": 0}),
        ("wrong_class", {"label": "right\u202eto left", "box_index": 0}),
        ("wrong_class", {"label": "cafe\u0301", "box_index": 0}),  # not NFC
        ("wrong_class", {"label": "x" * 65, "box_index": 0}),
        ("missed_object", {"label": "cat"}),
        ("missed_object", {"box": (0.0, 0.0, 1.0, 1.0)}),
        ("missed_object", {"label": "cat", "box": (0.0, 0.0, 1.0, 1.0), "box_index": 0}),
        ("missed_object", {"label": "cat", "box": (1.0, 0.0, 1.0, 1.0)}),
        ("missed_object", {"label": "cat", "box": (-1.0, 0.0, 1.0, 1.0)}),
        ("missed_object", {"label": "cat", "box": (0.0, 0.0, float("nan"), 1.0)}),
    ],
)
def test_a_verdict_that_makes_no_sense_is_no_verdict(kind: str, parts: dict[str, Any]) -> None:
    fields = {"reviewer": "ann", "shown_sha256": SHOWN, **parts}
    with pytest.raises(ValueError):
        NewVerdict(VerdictKind(kind), **fields)

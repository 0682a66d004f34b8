"""Objects over the frames of a camera: one that is parked is one object, reviewed once; on both databases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import select

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue import retention
from secondlook.cloud.catalogue.schema import Retention, Rule
from secondlook.cloud.station.export import final_boxes
from secondlook.shared.detection import Detection
from tests.cloud.test_catalogue import SECOND, frame


@pytest.fixture
def catalogue(catalogue_url: str) -> Iterator[cat.Catalogue]:
    catalogue = cat.open_catalogue(catalogue_url)
    yield catalogue
    catalogue.close()


def car(x: float, score: float = 0.8) -> Detection:
    return Detection("car", score, (x, 100.0, x + 60, 130.0))


class Site:
    """Files frames, with a wish for every detection in them."""

    def __init__(self, catalogue: cat.Catalogue) -> None:
        self.catalogue, self.seq = catalogue, -1

    def see(
        self,
        at: float,
        *found: Detection,
        dwell: float = 0.0,
        apart: float = 0.0,
        once: bool = True,
        edge_id: str = "gate",
        budget: cat.ReviewBudget = cat.ReviewBudget(),  # noqa: B008
    ) -> bool:
        """Whether the frame became a review that a person will see."""
        self.seq += 1
        reason = cat.NewReview(
            "watched: car", 90, round(apart * SECOND), Rule.WATCHED,
            boxes=tuple(range(len(found))), dwell_ns=round(dwell * SECOND), once=once,
        )  # fmt: skip
        new = frame(self.seq, edge_id=edge_id, captured_ns=round(at * SECOND), width=768, height=432)
        assert cat.store_frame(
            self.catalogue, new, found, detector="tiny", reasons=[reason] if found else [], now_ns=1000 + self.seq,
            budget=budget,
        )  # fmt: skip
        with self.catalogue.reading() as session:
            state = session.scalars(
                select(cat.Review.state).join(cat.Frame).where(cat.Frame.seq == self.seq)
            ).one_or_none()
        return state is cat.ReviewState.DUE

    def objects(self) -> list[tuple[int, int]]:
        """Number and frames of each."""
        with self.catalogue.reading() as session:
            rows = session.scalars(select(cat.SeenObject).order_by(cat.SeenObject.id))
            return [(row.id, row.frames) for row in rows]


def test_a_parked_car_is_one_object_and_is_reviewed_once(catalogue: cat.Catalogue) -> None:
    site = Site(catalogue)
    assert [site.see(second, car(200 + second % 3)) for second in range(20)] == [True] + [False] * 19
    assert site.objects() == [(1, 20)]


def test_another_car_beside_it_is_another_object_with_a_review_of_its_own(catalogue: cat.Catalogue) -> None:
    site = Site(catalogue)
    assert site.see(0, car(200))
    assert site.see(1, car(200), car(400))
    assert not site.see(2, car(200), car(401))
    assert site.objects() == [(1, 3), (2, 2)]


def test_a_new_object_within_the_rules_distance_has_its_turn_after_it(catalogue: cat.Catalogue) -> None:
    site = Site(catalogue)
    assert site.see(0, car(200), apart=10)
    assert not site.see(5, car(200), car(400), apart=10)
    assert site.see(11, car(200), car(400), apart=10)
    assert not site.see(30, car(200), car(400), apart=10)


def test_without_the_setting_every_frame_may_be_one(catalogue: cat.Catalogue) -> None:
    site = Site(catalogue)
    assert all(site.see(second, car(200), once=False) for second in range(3))


def test_only_what_stays_counts_where_dwell_is_set(catalogue: cat.Catalogue) -> None:
    site = Site(catalogue)
    seen = [site.see(second, car(200), dwell=5) for second in range(8)]
    assert seen == [False] * 5 + [True, False, False]
    passing = [site.see(100 + 0.2 * step, car(10 + 14 * step), dwell=5) for step in range(20)]
    assert not any(passing)


def test_cameras_do_not_share_objects(catalogue: cat.Catalogue) -> None:
    site = Site(catalogue)
    assert site.see(0, car(200)) and site.see(1, car(200), edge_id="barn")
    assert len(site.objects()) == 2


def test_what_a_budget_had_no_room_for_is_not_held_to_be_seen(catalogue: cat.Catalogue) -> None:
    site = Site(catalogue)
    assert site.see(0, car(200))
    assert cat.lease_due_review(catalogue, "r1", lease_seconds=60, now_ns=2000) is not None
    assert not site.see(1, car(400), budget=cat.ReviewBudget(site=1))
    assert cat.skipped_reviews(catalogue) == 1
    assert site.see(2, car(400))


def test_what_is_too_unsure_has_no_object_and_may_still_be_asked_about(catalogue: cat.Catalogue) -> None:
    site = Site(catalogue)
    assert site.see(0, car(200, score=0.1)) and site.see(1, car(200, score=0.1))
    assert site.objects() == []


def test_objects_go_with_the_last_frame_that_shows_them(catalogue: cat.Catalogue) -> None:
    site = Site(catalogue)
    for second in range(3):
        site.see(second, car(200), *([car(400)] if second == 0 else []))
    with catalogue.writing() as session:
        frames = {row.seq: row for row in session.scalars(select(cat.Frame))}
        ids = {seq: row.id for seq, row in frames.items()}
        frames[0].retention = Retention.DELETING
    assert retention.remove_deleted(catalogue, [ids[0]]).frames == 1
    assert [number for number, _ in site.objects()] == [1], "the first is in other frames still"
    with catalogue.writing() as session:
        for row in session.scalars(select(cat.Frame)):
            row.retention = Retention.DELETING
    assert retention.remove_deleted(catalogue, [ids[1], ids[2]]).frames == 2
    assert site.objects() == []


def test_exports_name_the_object(catalogue: cat.Catalogue) -> None:
    site = Site(catalogue)
    site.see(0, car(200))
    site.see(1, car(201), car(400))
    with catalogue.reading() as session:
        for review in session.scalars(select(cat.Review).order_by(cat.Review.id)):
            numbers = [box.object_id for box in final_boxes(review)]
            assert numbers == ([1] if review.id == 1 else [1, 2])


def test_frames_that_come_late_are_of_the_same_object(catalogue: cat.Catalogue) -> None:
    site = Site(catalogue)
    order = (5, 3, 4, 0, 2, 1)
    assert [site.see(second, car(200)) for second in order] == [True] + [False] * 5
    assert site.objects() == [(1, 6)]

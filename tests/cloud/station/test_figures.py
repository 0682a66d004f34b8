"""Figures from verdicts: agreement and kappa, known frames, the detector's precision, the band, bursts, one's day."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.event import listen

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue.opinions import DOUBT, NOTHING, FrameOpinion
from secondlook.cloud.station import figures
from secondlook.cloud.station.agreement import agreements, cohen_kappa, items_of, marks
from secondlook.cloud.station.app import create_app
from secondlook.cloud.station.bursts import BurstFrame, burst_around, burst_sizes
from secondlook.cloud.station.precision import Judged, by_tenth, halving_band, sorted_rows
from tests.cloud.station.many import fill
from tests.cloud.station.people import add_people, as_user
from tests.cloud.station.seed import SECOND, START, Scene, drawn_scene, seed
from tests.cloud.station.server import client_of, serving


def test_kappa() -> None:
    # 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no: the textbook's 0.4.
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert math.isclose(cohen_kappa(pairs) or 0, 0.4)
    assert cohen_kappa([("y", "y")] * 5) is None and cohen_kappa([]) is None
    assert cohen_kappa([("y", "n"), ("n", "y")]) == -1.0


def test_items_of_two_opinions() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    one = FrameOpinion(("car", NOTHING), (("fox", box), ("cat", box)))
    other = FrameOpinion(("car", "dog"), (("fox", (1.0, 0.0, 10.0, 10.0)), ("hen", box)))
    items = {(item.label, item.first, item.second) for item in items_of(["car", "dog"], one, other)}
    assert items == {
        ("car", "car", "car"),
        ("dog", NOTHING, "dog"),
        ("fox", "fox", "fox"),
        ("cat", "cat", NOTHING),
        ("hen", NOTHING, "hen"),
    }
    rows = agreements(items_of(["car", "dog"], one, other))
    assert [(row.label, row.items, row.alike) for row in rows if row.label in ("car", "dog")] == [
        ("car", 1, 1),
        ("dog", 1, 0),
    ]
    (empty,) = items_of([], FrameOpinion(()), FrameOpinion((), open=True))
    assert (empty.first, empty.second) == (NOTHING, "more")


def test_marks_of_known_frames() -> None:
    truth = FrameOpinion(("car", NOTHING), (("fox", (0.0, 0.0, 10.0, 10.0)),))
    given = FrameOpinion(("car", "dog"), ())
    mark = marks(["car", "dog"], truth, given)
    assert (mark.frames, mark.right, mark.precision, mark.recall) == (1, 0, 0.5, 0.5)
    assert marks(["car", "dog"], truth, truth).right == 1
    assert marks(["car"], FrameOpinion(("car",)), FrameOpinion((DOUBT,))).precision is None


def test_the_band_that_halves_the_work() -> None:
    # Nothing right below 0.40, half right up to 0.50, all right above.
    boxes = {30 + n: Judged(1, 0) for n in range(10)}
    boxes |= {40 + n: Judged(1, int(n % 2 == 0)) for n in range(10)}
    boxes |= {50 + n: Judged(1, 1) for n in range(5)}
    band = halving_band(boxes, 0.3, 0.55)
    assert band is not None and (band.load_now, band.missed) == (25, 0)
    assert (band.low, band.high) == (0.40, 0.52) and band.load == 12
    assert (band.above, band.wrong) == (3, 0)
    assert halving_band({}, 0.3, 0.55) is None
    nothing = halving_band({40: Judged(1, 0), 41: Judged(1, 0)}, 0.3, 0.55)
    assert nothing is not None and nothing.load == 0
    # The half lies within one hundredth, and below the present band's lower end.
    one = halving_band({30: Judged(9, 4), 50: Judged(1, 0)}, 0.305, 0.55)
    assert one is not None and (one.low, one.high, one.load, one.above, one.wrong) == (0.305, 0.305, 0, 10, 6)
    # Fewer than half are left where the first right one comes late.
    late = halving_band({30: Judged(8, 0), 50: Judged(2, 1)}, 0.3, 0.55)
    assert late is not None and (late.low, late.high, late.load, late.above) == (0.5, 0.55, 2, 0)
    rows = by_tenth({**boxes, 90: Judged(1, 1), 10: Judged(1, 0), 100: Judged(2, 2)})
    assert [(row.name, row.judged) for row in rows][:2] == [("0.1", 1), ("0.3", 10)]
    assert (rows[-1].name, rows[-1].judged, rows[-1].precision) == ("0.9", 3, 1.0)
    assert [row.name for row in sorted_rows({"a": Judged(1, 0), "b": Judged(2, 0)})] == ["b", "a"]


def test_bursts_end_where_the_scene_does() -> None:
    def seen(number: int, at: float, *classes: str, source: str = "gate/1") -> BurstFrame:
        return BurstFrame(number, source, int(at * SECOND), classes)

    frames = [
        seen(1, 0, "car"),
        seen(2, 5, "car"),
        seen(3, 9, "car", "dog"),
        seen(4, 14, "car"),
        seen(5, 16, "car"),
        seen(6, 40, "car"),
        seen(7, 1, "car", source="yard/1"),
    ]
    assert burst_sizes(frames) == [2, 2, 1, 2, 2, 1, 1]
    assert burst_around(frames[::-1], 5) == {4, 5} and burst_around(frames, 99) == set()


class Reviewers:
    """People who judge frames of a station."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def say(self, person: str, review_id: int, verdict: str, **parts: Any) -> Any:
        digest = self.client.get(f"/api/reviews/{review_id}/images/refined").headers["x-content-sha256"]
        body = {"reviewer": person, "verdict": verdict, "shown_sha256": digest, "seen_verdict_id": 0, **parts}
        answer = self.client.post(f"/api/reviews/{review_id}/verdicts", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def listed(self, person: str, **query: Any) -> list[int]:
        params = {"reviewer": person, **query}
        return [row["id"] for row in self.client.get("/api/reviews", params=params).json()["reviews"]]


@pytest.fixture
def clock() -> list[int]:
    return [START + 3600 * SECOND]


@pytest.fixture
def reviewers(tmp_path: Path, clock: list[int]) -> Any:
    """Six ready frames, those of one camera half a second apart, all of them judged twice."""

    def now() -> int:
        clock[0] += SECOND // 2
        return clock[0]

    scenes = [*map(drawn_scene, range(5)), Scene(drawn_scene(5).image, [])]
    seeded = seed(tmp_path, ["ready"] * 6, scenes, apart_seconds=0.25)
    app = create_app(
        catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url, double_share=1.0, now_ns=now
    )
    with client_of(app) as client:
        yield Reviewers(client)


def test_a_second_person_is_told_nothing(reviewers: Reviewers) -> None:
    answer = reviewers.say("Ann", 1, "confirm")
    assert (answer["state"], [v["reviewer"] for v in answer["verdicts"]]) == ("ready", ["Ann"])
    assert 1 not in reviewers.listed("Ann") and 1 in reviewers.listed("Bea")
    client = reviewers.client
    assert client.get("/api/reviews/1", params={"reviewer": "Bea"}).json()["verdicts"] == []
    assert client.get("/api/reviews/1").json()["verdicts"] == []
    row = next(
        r for r in client.get("/api/reviews", params={"reviewer": "Bea"}).json()["reviews"] if r["id"] == 1
    )
    assert row["verdict"] is None
    entries = client.get("/api/history", params={"reviewer": "Bea"}).json()["entries"]
    assert "Ann" not in {entry["actor"] for entry in entries}
    assert client.get("/api/frames/1").json()["verdict"] is None
    counts = [
        client.get("/api/summary", params={"reviewer": who}).json()["remaining"] for who in ("Ann", "Bea")
    ]
    assert counts == [5, 6]
    # And she is handed it, where Ann is handed the next.
    for who, given in (("Bea", 1), ("Ann", 2)):
        body = {"reviewer": who, "tab": f"tab-of-{who}", "or_next": True}
        assert client.post("/api/claims", json=body).json()["review_id"] == given
    reviewers.say("Bea", 1, "reject")
    assert client.get("/api/export/coco.json").json()["images"] == []
    reviewers.say("Cai", 1, "reject", box_index=0)
    answer = reviewers.say("Cai", 1, "confirm", box_index=1)
    assert (answer["state"], answer["double"]) == ("decided", "settled")
    data = client.get("/api/export/coco.json").json()
    assert len(data["annotations"]) == 1  # as the third one said


def test_agreement(reviewers: Reviewers) -> None:
    for person, verdict in (("Ann", "confirm"), ("Bea", "confirm")):
        for number in (1, 2, 3):
            reviewers.say(person, number, verdict)
    reviewers.say("Ann", 4, "confirm")
    reviewers.say("Bea", 4, "reject")
    reviewers.say("Ann", 6, "no_object")
    report = reviewers.client.get("/api/figures/agreement").json()
    assert report["stages"] == {"second": 1, "third": 1, "agreed": 3, "settled": 0}
    rows = {row["label"]: (row["items"], row["alike"]) for row in report["classes"]}
    assert rows == {"person": (4, 3), "car": (4, 3)}
    assert report["overall"]["kappa"] == pytest.approx(0.6, abs=0.1)
    reviewers.say("Cai", 4, "reject")
    people = {row["reviewer"]: row for row in reviewers.client.get("/api/figures/agreement").json()["people"]}
    assert (people["Ann"]["doubles"], people["Ann"]["upheld"]) == (4, 3)
    assert (people["Bea"]["doubles"], people["Bea"]["upheld"]) == (4, 4)


def test_bursts_over_the_api(reviewers: Reviewers) -> None:
    rows = reviewers.client.get("/api/reviews", params={"reviewer": "Ann"}).json()["reviews"]
    assert {row["id"]: row["burst"] for row in rows} == {1: 3, 3: 3, 5: 3, 2: 2, 4: 2, 6: 1}
    burst = reviewers.client.get("/api/reviews/3/burst", params={"reviewer": "Ann"}).json()
    assert [row["id"] for row in burst] == [1, 3, 5]
    reviewers.say("Ann", 3, "confirm")
    burst = reviewers.client.get("/api/reviews/1/burst", params={"reviewer": "Ann"}).json()
    assert [row["id"] for row in burst] == [1, 5]
    assert reviewers.client.get("/api/reviews/99/burst").status_code == 404


def test_the_day(reviewers: Reviewers, clock: list[int]) -> None:
    for number in (1, 2, 3):
        reviewers.say("Ann", number, "confirm")
    reviewers.say("Bea", 1, "confirm")
    reviewers.client.post("/api/undo", json={"reviewer": "Ann"})
    day = reviewers.client.get("/api/figures/day", params={"reviewer": "Ann"}).json()
    assert (day["frames"], day["undone"], day["verdicts"]) == (2, 1, {"confirm": 2})
    assert sum(day["hours"]) == 2 and day["days"][-1] == 2 and len(day["days"]) == 14
    assert day["seconds_a_frame"] is not None and 0 < day["seconds_a_frame"] < 60
    assert day["team"] == [{"reviewer": "Ann", "frames": 2}, {"reviewer": "Bea", "frames": 1}]


def test_the_detector_by_verdicts(tmp_path: Path) -> None:
    seeded = seed(tmp_path, ["ready"] * 4)
    app = create_app(
        catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url, now_ns=lambda: START + 3600 * SECOND
    )
    with client_of(app) as client:
        reviewers = Reviewers(client)
        reviewers.say("Ann", 1, "confirm")
        reviewers.say("Ann", 2, "reject")
        reviewers.say("Ann", 3, "missed_object", label="fox", box=[0, 0, 9, 9])
        reviewers.say("Ann", 3, "wrong_class", box_index=0, label="dog")
        reviewers.say("Ann", 3, "corrected", box_index=1, label="Car", box=[0, 0, 20, 20])
        reviewers.say("Ann", 4, "unsure")
        report = reviewers.client.get("/api/figures/detector").json()
    assert (report["judged"], report["right"]) == (6, 3)
    classes = {row["name"]: (row["judged"], row["right"]) for row in report["classes"]}
    assert classes == {"person": (3, 1), "car": (3, 2)}
    cameras = {row["name"]: (row["judged"], row["right"]) for row in report["cameras"]}
    assert cameras == {"gate-north": (4, 3), "yard-2": (2, 0)}
    assert report["missed"] == [{"name": "fox", "count": 1}]
    assert report["band"]["load_now"] == 3 and report["band"]["load"] <= 1  # the persons' scores are 0.44


def test_the_report_of_the_detector_goes_once_through_an_index(tmp_path: Path) -> None:
    """Every box that was judged is counted: neither are rows read for it, nor any twice."""
    catalogue = cat.open_catalogue(f"sqlite:///{tmp_path}/catalogue.db")
    asked: list[tuple[str, Any]] = []
    listen(catalogue._reader, "before_cursor_execute", lambda *given: asked.append((given[2], given[3])))
    figures.detector_report(catalogue, since_ns=START, doubt=(0.3, 0.55))
    ((statement, parameters),) = [one for one in asked if "judged_boxes" in one[0]]
    with catalogue._reader.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
    assert "USING COVERING INDEX judged_boxes_decided" in plan[0].detail, plan
    catalogue.close()


@pytest.mark.parametrize("doubt", [(0.3, 0.55), (0.305, 0.444)])
def test_scores_in_doubt_are_counted_to_their_very_bounds(
    tmp_path: Path, catalogue_url: str, doubt: tuple[float, float]
) -> None:
    """The bounds lie within a hundredth, too."""
    catalogue = cat.open_catalogue(catalogue_url)
    fill(catalogue, 400, every=1)
    report = figures.detector_report(catalogue, since_ns=0, doubt=doubt)
    with catalogue.reading() as session:
        boxes = session.scalars(select(cat.JudgedBox)).all()
        inside = sum(box.score is not None and doubt[0] <= box.score < doubt[1] for box in boxes)
    assert report.band is not None and report.band.load_now == inside > 0
    assert (report.judged, report.right) == (len(boxes), sum(bool(box.is_right) for box in boxes))
    catalogue.close()


def test_only_admins_choose_known_frames(tmp_path: Path) -> None:
    seeded = seed(tmp_path, ["ready"] * 3)
    add_people(seeded.catalogue_url)
    app = create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url, known_share=1.0)
    with serving(app) as address, as_user(address, "ada") as ada, as_user(address, "rolf") as rolf:
        shown = ada.get("/api/reviews/1/images/refined").headers["x-content-sha256"]
        confirm = {"verdict": "confirm", "shown_sha256": shown}
        assert ada.post("/api/reviews/1/verdicts", json=confirm).status_code == 200
        assert rolf.post("/api/reviews/1/known", json={"known": True}).status_code == 403
        assert ada.post("/api/reviews/2/known", json={"known": True}).status_code == 409
        # Somebody else's: an admin who judged it and chose it knows it.
        assert ada.post("/api/reviews/1/known", json={"known": True}).json()["known"]
        shown = rolf.get("/api/reviews/2/images/refined").headers["x-content-sha256"]
        rolf.post("/api/reviews/2/verdicts", json={"verdict": "confirm", "shown_sha256": shown})
        assert [row["id"] for row in rolf.get("/api/reviews").json()["reviews"]] == [3, 1]
        mixed = rolf.get("/api/reviews/1").json()
        assert (mixed["state"], mixed["verdicts"], mixed["known"]) == ("ready", [], False)
        claim = {"tab": "tab-of-rolf", "or_next": True, "review_id": 1}
        assert rolf.post("/api/claims", json=claim).json()["review_id"] == 1
        shown = mixed["id"] and rolf.get("/api/reviews/1/images/refined").headers["x-content-sha256"]
        for index, verdict in ((0, "reject"), (1, "confirm")):
            body = {"verdict": verdict, "shown_sha256": shown, "box_index": index}
            assert rolf.post("/api/reviews/1/verdicts", json=body).status_code == 200
        (person,) = rolf.get("/api/figures/agreement").json()["people"]
        assert (person["known"], person["known_right"]) == (1, 0)
        assert (person["precision"], person["recall"]) == (1.0, 0.5)
        assert ada.get("/api/reviews/1").json()["state"] == "decided"
        assert len(ada.get("/api/export/coco.json").json()["annotations"]) == 4


def test_figures_of_nobody(tmp_path: Path) -> None:
    seeded = seed(tmp_path, ["ready"])
    with client_of(create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)) as client:
        assert client.get("/figures", headers={"accept": "text/html"}).status_code == 200
        assert client.get("/api/figures/day").json()["frames"] == 0

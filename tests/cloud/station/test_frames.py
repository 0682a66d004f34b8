"""All frames by the API: pages, searches, pictures, neighbours, cameras; and how long lists of a million take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update
from sqlalchemy.event import listen
from sqlalchemy.orm import selectinload

from secondlook.cloud import catalogue as cat
from secondlook.cloud.decoding.files import pixels
from secondlook.cloud.station import choice as choosing
from secondlook.cloud.station import frames, queries, search
from secondlook.cloud.station.app import create_app
from secondlook.cloud.station.history import history
from secondlook.cloud.station.search import FrameSearch
from secondlook.cloud.storage.blobs import base_key, open_blobs
from secondlook.shared.codec import load_codec
from secondlook.shared.detection import Detection
from secondlook.shared.packet import FrameInfo
from tests.cloud.station.many import fill
from tests.cloud.station.seed import BOOT, SECOND, START, drawn_scene
from tests.cloud.station.server import client_of

LIST_MS = 200


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    """Forty frames of two camera hosts, five a second, every fifth with a dog; frame 3 is under review."""
    url = f"sqlite:///{tmp_path}/catalogue.db"
    catalogue, blobs = cat.open_catalogue(url), open_blobs(str(tmp_path / "blobs"))
    codec = load_codec(threads=1)
    base = codec.encode(drawn_scene(1).image, base_quality=20, quality=45).layers.base
    for seq in range(40):
        edge_id = ("gate", "yard")[seq % 2]
        info = FrameInfo(BOOT, seq, START + seq * SECOND // 5, 320, 192, None, 900)
        frame = cat.NewFrame(edge_id, edge_id.title(), START, info, base_key(edge_id, BOOT, seq), len(base))
        blobs.put(frame.base_blob, base)
        found = (
            [Detection("dog" if seq % 5 == 0 else "car", seq / 100, (1.0, 1.0, 9.0, 9.0))] if seq % 4 else []
        )
        reasons = [cat.NewReview("audit sample", 1, rule=cat.Rule.AUDIT)] if seq == 3 else []
        cat.store_frame(catalogue, frame, found, detector="tiny", reasons=reasons, now_ns=START)
    dropped = cat.FrameTombstone("gate", BOOT, 100, 104, "the spool was full", START + SECOND)
    cat.store_tombstones(catalogue, [dropped])
    catalogue.close()
    app = create_app(catalogue_url=url, blobs_url=str(tmp_path / "blobs"), now_ns=lambda: START + 60 * SECOND)
    with client_of(app) as client:
        yield client


def found(client: httpx.Client, **query: Any) -> list[int]:
    """Numbers, over all pages."""
    numbers: list[int] = []
    before: dict[str, Any] = {}
    while True:
        page = client.get("/api/frames", params={**query, **before, "limit": 7}).json()
        numbers += [frame["id"] for frame in page["frames"]]
        if page["next"] is None:
            return numbers
        before = {"before": page["next"]}


def test_pages_hold_each_frame_once_in_order(client: httpx.Client) -> None:
    assert found(client) == list(range(40, 0, -1))
    assert found(client, camera="yard") == list(range(40, 0, -2))
    # Frame n has the sequence n - 1, and nothing was found where that divides by four.
    assert found(client, label="dog") == [36, 31, 26, 16, 11, 6]
    assert found(client, label="dog", camera="gate", min_score=0.2) == [31]
    assert found(client, min_score=0.3) == [40, 39, 38, 36, 35, 34, 32, 31]
    assert found(client, since="2026-09-21T14:13:26+00:00") == list(range(40, 30, -1))
    assert found(client, until="2026-09-21T14:13:20.400000Z") == [3, 2, 1]
    assert found(client, reason="audit") == [4] and found(client, verdict="confirm") == []
    assert client.get("/api/frames", params={"before": "x"}).status_code == 422


def test_pictures_are_decoded_when_they_are_asked_for(client: httpx.Client, tmp_path: Path) -> None:
    base = client.get("/api/frames/5/base")
    assert base.headers["content-type"] == "image/webp" and pixels(base.content).shape == (192, 320, 3)
    expected = load_codec(threads=1).decode_base(
        open_blobs(str(tmp_path / "blobs")).get(base_key("gate", BOOT, 4))
    )
    assert np.array_equal(pixels(base.content), expected)
    small = client.get("/api/frames/5/thumb")
    assert small.status_code == 200 and (tmp_path / "blobs/thumb/gate" / BOOT / "4.webp").is_file()
    (tmp_path / "blobs/base/yard" / BOOT / "5.slk").write_bytes(b"damaged")
    refused = client.get("/api/frames/6/base")
    assert refused.status_code == 404 and "cannot be made here" in refused.json()["detail"]
    assert client.get("/api/frames/99/thumb").status_code == 404


def test_one_second_around(client: httpx.Client) -> None:
    around = client.get("/api/frames/21/neighbours").json()
    assert [one["id"] for one in around] == [17, 19, 21, 23, 25]
    assert [one["seconds"] for one in around] == [-0.8, -0.4, 0.0, 0.4, 0.8]


def test_any_frame_can_be_asked_for(client: httpx.Client) -> None:
    body = {"reviewer": "Ann"}
    review = client.post("/api/frames/8/review", json=body).json()
    assert (review["frame"]["id"], review["state"], review["reason"]) == (8, "due", "asked for by Ann")
    again = client.post("/api/frames/8/review", json=body).json()
    assert again["id"] == review["id"]
    assert client.get("/api/frames/8").json()["review_id"] == review["id"]
    assert client.post("/api/frames/99/review", json=body).status_code == 404
    assert client.get("/api/history").json()["entries"][0]["actor"] == "Ann"


def test_cameras_say_how_they_do(client: httpx.Client) -> None:
    gate, yard = client.get("/api/cameras").json()
    assert (gate["edge_id"], gate["camera"], gate["last_frame"]) == ("gate", "Gate", 39)
    assert abs(gate["frames_per_second"] - 2.5) < 0.01 and gate["base_bits_per_second"] > 1000
    assert gate["last_dropped"]["frames"] == 5 and gate["last_dropped"]["reason"] == "the spool was full"
    assert yard["last_dropped"] is None and yard["open_reviews"] == 1 and gate["silent_seconds"] == 60
    line = client.get("/api/cameras/gate/timeline", params={"since": "2026-09-21T14:13:20Z"}).json()
    assert sum(slot["frames"] for slot in line["slots"]) == 20
    assert sum(slot["found"] for slot in line["slots"]) == 10 and line["dropped"][0]["frames"] == 5
    assert client.get("/api/cameras/yard/timeline").json()["reviews"][0]["state"] == "due"


def test_preferences_are_kept_for_each_person(client: httpx.Client) -> None:
    assert client.get("/api/preferences", params={"reviewer": "Ann"}).json() == {"learned_filter": True}
    client.post("/api/preferences", json={"reviewer": "Ann", "learned_filter": False})
    assert client.get("/api/preferences", params={"reviewer": "Ann"}).json() == {"learned_filter": False}
    assert client.get("/api/preferences", params={"reviewer": "Bea"}).json() == {"learned_filter": True}


KINDS = st.sampled_from([None, "confirm", "reject", "unsure"])
SEARCHES = st.fixed_dictionaries(
    {
        "edge_id": st.sampled_from([None, "edge-1", "edge-2"]),
        "label": st.sampled_from([None, "car", "person", "fox"]),
        "scores": st.sampled_from([(0.0, 1.0), (0.5, 1.0), (0.2, 0.4)]),
        "since_ns": st.sampled_from([0, START + 100 * SECOND]),
        "until_ns": st.sampled_from([2**63 - 1, START + 300 * SECOND]),
        "verdict": KINDS.map(lambda kind: None if kind is None else cat.VerdictKind(kind)),
        "rule": st.sampled_from([None, cat.Rule.AUDIT, cat.Rule.UNCERTAIN, cat.Rule.OPERATOR]),
        "unseen": st.booleans(),
    }
)


@pytest.fixture
def filled(catalogue_url: str) -> Iterator[cat.Catalogue]:
    catalogue = cat.open_catalogue(catalogue_url)
    fill(catalogue, 400)
    with catalogue.writing() as session:  # every third; a machine may have come to it later
        session.execute(update(cat.Frame).where(cat.Frame.id % 3 == 0).values(unseen=cat.BEHIND))
    yield catalogue
    catalogue.close()


def test_pages_of_a_search_hold_what_fits_once_in_order(
    filled: cat.Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few entries a page looks at, and whichever index it goes through."""
    with filled.reading() as session:
        stored = {frame.id: frame for frame in session.scalars(select(cat.Frame).options(*WHOLE))}
        session.expunge_all()

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(choice=SEARCHES, most=st.sampled_from([7, 20_000]))
    def check(choice: dict[str, Any], most: int) -> None:
        monkeypatch.setattr(search, "_MOST_LOOKED", most)
        expected = [id_ for id_, frame in sorted(stored.items(), reverse=True) if fits(frame, **choice)]
        got: list[int] = []
        before: tuple[int, int] | None = None
        for _ in range(200):
            page = frames.find_frames(filled, FrameSearch(**choice, before=before), limit=5)
            got += [row.id for row in page.frames]
            if page.next is None:
                break
            before = search.parse_cursor(page.next)
        assert got == expected, choice

    check()


WHOLE = (
    selectinload(cat.Frame.detections),
    selectinload(cat.Frame.review).selectinload(cat.Review.verdicts),
    selectinload(cat.Frame.review).selectinload(cat.Review.reasons),
)


def fits(frame: cat.Frame, **choice: Any) -> bool:
    """Whether a frame is one that a search is for, by its rows."""
    review = frame.review
    verdicts = [] if review is None else review.verdicts
    rules = [] if review is None else [reason.rule for reason in review.reasons]
    low, high = choice["scores"]
    found = [box for box in frame.detections if choice["label"] in (None, box.label)]
    return (
        choice["edge_id"] in (None, frame.edge_id)
        and choice["since_ns"] <= frame.captured_ns <= choice["until_ns"]
        and any(low <= box.score <= high for box in found)
        and choice["verdict"] in (None, *(verdict.verdict for verdict in verdicts))
        and choice["rule"] in (None, *rules)
        and (frame.unseen is not None or not choice["unseen"])
    )


def test_history_of_people_and_of_one(filled: cat.Catalogue) -> None:
    """Half of the trail is of machines; what they did is passed over by an index."""
    entries = history(filled, limit=500, before=None, people=True).entries
    assert len(entries) == 44 and {entry.actor for entry in entries} == {"Ann", "Bea"}
    assert len(history(filled, limit=500, before=None).entries) == 124
    of_bea = history(filled, limit=3, before=None, actor="Bea")
    assert [entry.actor for entry in of_bea.entries] == ["Bea"] * 3 and of_bea.next_before is not None


def test_lists_of_reviews_by_class_camera_reason_and_score(filled: cat.Catalogue) -> None:
    """Whether few or many fit, lists hold the same."""
    with filled.reading() as session:
        reviews = {row.id: row for row in session.scalars(select(cat.Review).options(*OF_REVIEW))}
        session.expunge_all()
    for few in (0, 10_000):
        for choice in (
            {"label": "car"},
            {"label": "car", "scores": (0.5, 1.0)},
            {"edge_id": "edge-0"},
            {"edge_id": "edge-1"},
            {"rule": cat.Rule.AUDIT},
            {"rule": cat.Rule.AUDIT, "label": "car"},
        ):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(choosing, "_FEW", few)
                wanted = choosing.ReviewChoice("decided", "newest", **choice)  # type: ignore[arg-type]
                page = queries.list_reviews(filled, wanted, limit=500, offset=0)
            fitting = [id_ for id_, row in sorted(reviews.items(), reverse=True) if fits_review(row, choice)]
            assert [row.id for row in page.reviews] == fitting and page.total == len(fitting), choice
    surest = choosing.ReviewChoice("decided", "surest")
    ids = [row.id for row in queries.list_reviews(filled, surest, limit=500, offset=0).reviews]
    assert ids == sorted(reviews, key=lambda id_: (-(reviews[id_].frame.top_score or 0), id_))


OF_REVIEW = (
    selectinload(cat.Review.frame).selectinload(cat.Frame.detections),
    selectinload(cat.Review.reasons),
)


def fits_review(review: cat.Review, choice: dict[str, Any]) -> bool:
    low, high = choice.get("scores", (0.0, 1.0))
    boxes = [b for b in review.frame.detections if choice.get("label") in (None, b.label)]
    return (
        choice.get("edge_id") in (None, review.frame.edge_id)
        and any(low <= box.score <= high for box in boxes)
        and choice.get("rule") in (None, *(reason.rule for reason in review.reasons))
    )


@pytest.mark.parametrize("choice", [{}, {"edge_id": "edge-2"}, {"scores": (0.5, 1.0)}])
def test_frames_that_no_machine_looked_at_are_found_by_an_index_of_theirs(
    tmp_path: Path, choice: dict[str, Any]
) -> None:
    """SQLite has no figures of its tables: it must not take the index of the host, or of all frames."""
    catalogue = cat.open_catalogue(f"sqlite:///{tmp_path}/catalogue.db")
    asked: list[tuple[str, Any]] = []
    listen(catalogue._reader, "before_cursor_execute", lambda *given: asked.append((given[2], given[3])))
    frames.find_frames(catalogue, FrameSearch(unseen=True, **choice), limit=60)
    with catalogue._reader.connect() as connection:
        statement, parameters = next(one for one in asked if "FROM frames" in one[0])
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
    assert "frames_unseen" in plan[0].detail and len(plan) == 1, plan
    catalogue.close()


def test_classes_that_are_named(filled: cat.Catalogue) -> None:
    assert queries.named_classes(filled) == ({"car", "fox", "person"}, set())
    assert queries.common_classes(filled, 2) == ["car"]  # of those under review


@pytest.mark.slow
@pytest.mark.timeout(900)  # most of it fills the tables
def test_lists_of_a_million_frames_answer_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/catalogue.db"
    catalogue = cat.open_catalogue(url)
    fill(catalogue, 1_000_000)
    choices: dict[str, dict[str, Any]] = {
        "all": {},
        "deep": {"before": (START + 500 * SECOND, 500)},
        "camera": {"edge_id": "edge-7"},
        "class": {"label": "car"},
        "rare class": {"label": "fox"},
        "rare class of a camera": {"label": "fox", "edge_id": "edge-3"},
        "score": {"scores": (0.99, 1.0)},
        "no score": {"scores": (0.9999, 1.0)},
        "camera and score": {"edge_id": "edge-7", "scores": (0.9999, 1.0)},
        "verdict": {"verdict": cat.VerdictKind.CONFIRM},
        "rare verdict": {"verdict": cat.VerdictKind.UNSURE},
        "reason": {"rule": cat.Rule.AUDIT},
        "rare reason": {"rule": cat.Rule.OPERATOR},
        "not looked at": {"unseen": True},
        "not looked at, of a camera": {"unseen": True, "edge_id": "edge-7"},
    }
    took = {}
    for name, choice in choices.items():
        search = FrameSearch(**choice)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            frames.find_frames(catalogue, search, limit=60)
            times.append((time.perf_counter() - start) * 1000)
        took[name] = round(min(times), 1)
    catalogue.close()
    print(took)
    assert max(took.values()) < LIST_MS, took

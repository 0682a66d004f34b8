from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from secondlook.cloud import catalogue as cat
from secondlook.cloud.station import app
from secondlook.cloud.station.app import create_app
from secondlook.cloud.station.queries import decisions_per_hour
from tests.cloud.station.seed import SECOND, START, seed
from tests.cloud.station.server import client_of

STATIC = Path(app.__file__).parent / "static"
STATES = ("ready", "ready", "expired", "leased", "due")


class Clock:
    """Wall time in nanoseconds that a test sets."""

    def __init__(self) -> None:
        self.now_ns = START + 3600 * SECOND

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(tmp_path: Path, clock: Clock, catalogue_url: str) -> Iterator[httpx.Client]:
    seeded = seed(tmp_path, STATES, catalogue_url=catalogue_url)
    station = create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url, now_ns=clock)
    with client_of(station) as client:
        yield client


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def untouched(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """The same station for all tests that change nothing."""
    url = None
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql").create("untouched")
    seeded = seed(tmp_path_factory.mktemp("station"), STATES, catalogue_url=url)
    with client_of(create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)) as client:
        yield client
        assert listed(client, "open") == [1, 2, 3, 4, 5]


def shown(client: httpx.Client, review_id: int, version: str = "refined") -> str:
    return client.get(f"/api/reviews/{review_id}/images/{version}").headers["x-content-sha256"]


def give(client: httpx.Client, review_id: int, verdict: str = "confirm", **parts: Any) -> Any:
    body = {"reviewer": "Ann", "verdict": verdict, **parts}
    if "shown_sha256" not in body:
        version = "base" if review_id == 3 else "refined"
        body["shown_sha256"] = shown(client, review_id, version)
    return client.post(f"/api/reviews/{review_id}/verdicts", json=body)


def listed(client: httpx.Client, name: str) -> list[int]:
    return [row["id"] for row in client.get("/api/reviews", params={"filter": name}).json()["reviews"]]


def test_lists_follow_the_filter_and_priority(untouched: httpx.Client) -> None:
    assert listed(untouched, "open") == [1, 2, 3, 4, 5]
    assert listed(untouched, "ready") == [1, 2]
    assert listed(untouched, "expired") == [3]
    assert listed(untouched, "pending") == [4, 5]
    assert listed(untouched, "decided") == []
    page = untouched.get("/api/reviews", params={"limit": 2, "offset": 1}).json()
    assert (page["total"], [row["id"] for row in page["reviews"]]) == (5, [2, 3])


def test_a_review_tells_its_facts(untouched: httpx.Client) -> None:
    review = untouched.get("/api/reviews/1").json()
    assert review["frame"]["edge_id"] == "gate-north"
    assert review["frame"]["camera"] == "North gate"
    assert (review["frame"]["base_bytes"], review["fetched_bytes"]) == (2900, 21400)
    assert (review["codec_model"], review["postfilter"], review["detector"]) == (
        "1f0c22d9a4b38e67",
        "rrdb-l1:c176621909eda2e0",
        "builtin",
    )
    assert [box["label"] for box in review["detections"]] == ["person", "car"]
    expired = untouched.get("/api/reviews/3").json()
    assert expired["why_expired"] == "the camera host no longer has it"
    assert expired["images"] == {"base": True, "enhanced": False, "refined": False}


@pytest.mark.parametrize("offset, corrected", [(None, None), (1.9, None), (600.5, 600.5), (-2.5, -2.5)])
def test_times_of_a_camera_whose_clock_is_off_are_corrected_and_kept_as_they_came(
    client: httpx.Client, catalogue_url: str, offset: float | None, corrected: float | None
) -> None:
    catalogue = cat.open_catalogue(catalogue_url)
    cat.note_clocks(catalogue, {} if offset is None else {"gate-north": offset, "unknown": 9.0})
    catalogue.close()
    frame = client.get("/api/reviews/1").json()["frame"]
    captured = datetime.fromisoformat(frame["captured_at"])
    assert captured == datetime.fromtimestamp(START // 10**9, UTC)
    assert frame["clock_offset_seconds"] == offset
    found = frame["corrected_at"] and datetime.fromisoformat(frame["corrected_at"]) - captured
    assert found == (None if corrected is None else timedelta(seconds=corrected))


def test_a_picture_comes_with_the_hash_of_its_bytes(untouched: httpx.Client) -> None:
    answer = untouched.get("/api/reviews/1/images/refined")
    assert answer.headers["content-type"] == "image/webp"
    digest = hashlib.sha256(answer.content).hexdigest()
    assert answer.headers["x-content-sha256"] == digest
    again = untouched.get("/api/reviews/1/images/refined", headers={"if-none-match": f'"{digest}"'})
    assert (again.status_code, again.content) == (304, b"")
    assert shown(untouched, 1, "base") != digest
    assert untouched.get("/api/reviews/3/images/refined").status_code == 404
    assert untouched.get("/api/reviews/5/images/base").status_code == 404


def test_a_lost_picture_is_said_to_be_lost(client: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "blobs/image/1/refined.webp").unlink()
    answer = client.get("/api/reviews/1/images/refined")
    assert answer.status_code == 410
    assert "image/1/refined.webp" in answer.json()["detail"]
    # What the base picture showed can still be judged.
    assert give(client, 1, shown_sha256=shown(client, 1, "base")).status_code == 200


def test_a_verdict_is_stored_with_reviewer_and_hash(client: httpx.Client) -> None:
    digest = shown(client, 1)
    answer = give(client, 1, note="clear case").json()
    assert answer["state"] == "decided"
    (verdict,) = answer["verdicts"]
    assert (verdict["reviewer"], verdict["verdict"], verdict["shown_sha256"]) == ("Ann", "confirm", digest)
    assert (verdict["note"], verdict["box_index"], verdict["undone"]) == ("clear case", None, False)
    assert listed(client, "decided") == [1]


def test_a_picture_that_was_not_shown_cannot_be_judged(untouched: httpx.Client) -> None:
    assert give(untouched, 1, shown_sha256=shown(untouched, 2)).status_code == 409
    assert give(untouched, 1, shown_sha256="0" * 64).status_code == 409
    assert untouched.get("/api/reviews/1").json()["verdicts"] == []


def test_pending_reviews_wait_and_expired_ones_can_be_judged(client: httpx.Client) -> None:
    answer = give(client, 4, shown_sha256=shown(client, 4, "base"))
    assert answer.status_code == 409
    assert "leased" in answer.json()["detail"]
    assert give(client, 3, "unsure").json()["state"] == "decided"


def test_an_expired_review_can_be_asked_for_again(client: httpx.Client) -> None:
    assert client.post("/api/reviews/3/retry", json={"reviewer": "Ann"}).json()["state"] == "due"
    assert client.post("/api/reviews/3/retry", json={"reviewer": "Ann"}).status_code == 409


def test_undo_goes_back_through_the_reviewers_verdicts(client: httpx.Client) -> None:
    give(client, 1)
    give(client, 2, "reject", box_index=1)
    give(client, 2, "reject")
    give(client, 1, "unsure", reviewer="Bob")
    undone = [client.post("/api/undo", json={"reviewer": "Ann"}).json() for _ in range(3)]
    assert [(review["id"], review["state"]) for review in undone] == [
        (2, "ready"),
        (2, "ready"),
        (1, "decided"),  # Bob's verdict stands
    ]
    assert client.post("/api/undo", json={"reviewer": "Ann"}).status_code == 409


def test_one_verdict_can_be_undone_by_its_reviewer_only(client: httpx.Client) -> None:
    number = give(client, 1).json()["verdicts"][0]["id"]
    assert client.post(f"/api/verdicts/{number}/undo", json={"reviewer": "Bob"}).status_code == 409
    assert client.post(f"/api/verdicts/{number}/undo", json={"reviewer": "Ann"}).json()["state"] == "ready"


def test_history_tells_who_did_what_in_pages(client: httpx.Client) -> None:
    give(client, 1)
    client.post("/api/undo", json={"reviewer": "Ann"})
    give(client, 1, "reject")
    page = client.get("/api/history", params={"limit": 3}).json()
    told = [(entry["actor"], entry["action"], entry["standing"]) for entry in page["entries"]]
    assert told == [
        ("Ann", "verdict given", True),
        ("Ann", "verdict undone", False),
        ("Ann", "verdict given", False),
    ]
    older = client.get("/api/history", params={"limit": 500, "before": page["next_before"]}).json()
    assert older["next_before"] is None
    assert older["entries"][-1]["action"] == "review created"


def test_the_summary_counts_and_changes_its_revision(client: httpx.Client, clock: Clock) -> None:
    before = client.get("/api/summary").json()
    assert (before["remaining"], before["pending"], before["rate_per_hour"]) == (5, 2, None)
    assert client.get("/api/summary").json()["revision"] == before["revision"]
    for review_id in (1, 2, 3):
        give(client, review_id, "confirm")
        clock.now_ns += 30 * SECOND
    after = client.get("/api/summary").json()
    assert after["revision"] != before["revision"]
    assert (after["remaining"], after["decided_last_day"], after["filters"]["decided"]) == (2, 3, 3)
    # Two intervals of 30 s, and 30 s since: 2 decisions in 90 s.
    assert after["rate_per_hour"] == pytest.approx(80)
    assert after["eta_seconds"] == pytest.approx(90)


def test_pace_is_that_of_the_last_half_hour() -> None:
    now = 10_000 * SECOND
    recent = [now - seconds * SECOND for seconds in (20, 10, 0)]
    assert decisions_per_hour(recent, now_ns=now) == pytest.approx(360)
    assert decisions_per_hour([*recent, now - 1801 * SECOND], now_ns=now) == pytest.approx(360)
    assert decisions_per_hour(recent[1:], now_ns=now) is None


def test_labels_in_use_come_first(client: httpx.Client) -> None:
    give(client, 1, "wrong_class", box_index=0, label="fox")
    labels = client.get("/api/station").json()["labels"]
    assert labels[:3] == ["car", "fox", "person"]
    assert len(labels) == len(set(labels)) == 81


@pytest.mark.parametrize(
    "parts",
    [
        {"reviewer": ""},
        {"reviewer": "x" * 65},
        {"verdict": "maybe"},
        {"shown_sha256": "../../etc/passwd"},
        {"box_index": -1},
        {"box_index": True, "verdict": "confirm", "label": "x"},
        {"verdict": "wrong_class", "box_index": 0},
        {"verdict": "missed_object", "label": "cat"},
        {"verdict": "missed_object", "label": "cat", "box": [0, 0, 1]},
        {"note": "x" * 1001},
        {"blob": "image/2/refined.webp"},
    ],
)
def test_a_verdict_out_of_shape_is_refused(untouched: httpx.Client, parts: dict[str, Any]) -> None:
    answer = give(untouched, 1, **{"shown_sha256": "0" * 64, **parts})
    assert answer.status_code == 422
    assert all(set(item) == {"loc", "msg"} for item in answer.json()["detail"])


def test_numbers_that_are_none_are_refused(untouched: httpx.Client) -> None:
    body = '{"reviewer":"Ann","verdict":"missed_object","label":"cat","shown_sha256":"%s","box":[0,0,NaN,1]}'
    headers = {"content-type": "application/json"}
    answer = untouched.post("/api/reviews/1/verdicts", content=body % ("0" * 64), headers=headers)
    assert answer.status_code == 422


@pytest.mark.parametrize(
    "path",
    [
        "/api/reviews/0",
        "/api/reviews/-1",
        "/api/reviews/x",
        "/api/reviews/1e3",
        f"/api/reviews/{2**63}",
        "/api/reviews/1/images/original",
        "/api/reviews?filter=all",
        "/api/reviews?limit=0",
        "/api/reviews?limit=501",
        "/api/reviews?offset=-1",
        "/api/history?before=0",
    ],
)
def test_paths_and_queries_are_checked(untouched: httpx.Client, path: str) -> None:
    assert untouched.get(path).status_code == 422


def test_blob_keys_cannot_be_named(untouched: httpx.Client) -> None:
    for path in ("/api/reviews/1/images/..%2f..%2fcatalogue.db", "/static/..%2fapp.py", "/static/../app.py"):
        assert untouched.get(path).status_code in {404, 422}


def test_what_is_not_there_is_not_found(untouched: httpx.Client) -> None:
    assert untouched.get("/api/reviews/99").status_code == 404
    assert untouched.get("/api/reviews/99/images/base").status_code == 404
    assert give(untouched, 99, shown_sha256="0" * 64).status_code == 404


def test_every_answer_carries_the_guarding_headers(untouched: httpx.Client) -> None:
    for path in ("/", "/docs", "/static/main.js", "/api/summary", "/api/reviews/99", "/nowhere"):
        headers = untouched.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"], path
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "application/json", "sec-fetch-site": "cross-site"}, 403),
        ({"content-type": "application/json", "sec-fetch-site": "same-site"}, 403),
        ({"content-type": "application/json", "origin": "http://evil.example"}, 403),
        ({"content-type": "application/json", "origin": "null"}, 403),
        ({"content-type": "application/json", "origin": "http://127.0.0.1:9999"}, 403),
        ({"content-type": "application/json", "host": "evil.example:7600"}, 400),
    ],
)
def test_foreign_pages_may_not_write(untouched: httpx.Client, headers: dict[str, str], status: int) -> None:
    answer = untouched.post("/api/reviews/1/verdicts", content=confirmation(untouched), headers=headers)
    assert answer.status_code == status
    assert untouched.get("/api/reviews/1").json()["verdicts"] == []


def test_the_stations_own_page_may_write(client: httpx.Client) -> None:
    own = str(client.base_url).rstrip("/")
    for headers in ({"origin": own, "sec-fetch-site": "same-origin"}, {}):
        headers["content-type"] = "application/json; charset=utf-8"
        answer = client.post("/api/reviews/1/verdicts", content=confirmation(client), headers=headers)
        assert answer.status_code == 200


def confirmation(client: httpx.Client) -> str:
    return json.dumps({"reviewer": "Ann", "verdict": "confirm", "shown_sha256": shown(client, 1)})


def test_bodies_have_a_limit(untouched: httpx.Client) -> None:
    headers = {"content-type": "application/json"}
    assert untouched.post("/api/undo", content=b" " * 70_000, headers=headers).status_code == 413
    assert untouched.post("/api/undo", content=iter([b"{}"]), headers=headers).status_code == 411


def test_other_host_names_are_let_in_when_told(tmp_path: Path) -> None:
    seeded = seed(tmp_path, ())
    urls = {"catalogue_url": seeded.catalogue_url, "blobs_url": seeded.blobs_url}
    with client_of(create_app(**urls, allowed_hosts=["review.example"]), "review.example") as c:
        assert c.get("/api/summary").status_code == 200
        assert c.get("/api/summary", headers={"host": "127.0.0.1"}).status_code == 400
        assert c.get("/api/summary", headers={"host": "[::"}).status_code == 400
    with client_of(create_app(**urls, allowed_hosts=["*"]), "any.example") as c:
        assert c.get("/api/summary").status_code == 200


def test_the_pages_use_nothing_from_outside() -> None:
    for path in STATIC.iterdir():
        text = path.read_text()
        foreign = [part for part in ("http://", "https://") if part in text.replace("http://www.w3.org/", "")]
        assert not foreign, path.name
        assert "innerHTML" not in text, path.name
        if path.suffix == ".html":
            assert "<script>" not in text and " style=" not in text and " onclick" not in text


def test_every_key_is_on_the_page_about_the_station() -> None:
    table = (STATIC / "keys.js").read_text().partition("export const KEYS")[2].partition("];")[0]
    keys = [key for group in re.findall(r"keys: \[(.+?)\]", table) for key in re.findall(r'"(.+?)"', group)]
    names = {" ": "Space", "Escape": "Esc", "Shift+Tab": "Shift Tab", "Delete": "Del", "Backspace": "⌫"} | {
        f"Arrow{name}": arrow for name, arrow in (("Down", "↓"), ("Right", "→"), ("Up", "↑"), ("Left", "←"))
    }
    guide = (Path(__file__).parents[3] / "docs/station.md").read_text()
    assert len(keys) > 25
    assert "`Shift` arrows" in guide and "`Shift` `1`…`9`" in guide
    single = [key for key in keys if not key.startswith(("Shift+Arrow", "Shift+Digit"))]
    # "=" is "+" without Shift.
    assert [key for key in single if f"`{names.get(key, key)}`" not in guide] == ["="]


def test_the_api_describes_itself(untouched: httpx.Client) -> None:
    spec = untouched.get("/openapi.json").json()
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            assert operation.get("description"), f"{method} {path}"
    assert untouched.get("/docs").status_code == 200

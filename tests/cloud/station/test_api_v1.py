"""The versioned API: what its lists hold, pages, filters, pictures, verdicts, scopes, limits, and how it refuses."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from secondlook.cloud import catalogue as cat
from secondlook.cloud.accounts import Role, Scope, create_token
from secondlook.cloud.config import ApiLimits
from secondlook.cloud.station.app import create_app
from secondlook.main import main
from secondlook.shared.errors import AccountConflict
from tests.cloud.station.people import add_people
from tests.cloud.station.seed import BOOT, SECOND, START, Seeded, seed
from tests.cloud.station.server import client_of

STATES = ("ready", "ready", "expired", "ready", "due")
LISTS = ("cameras", "frames", "detections", "objects", "reviews", "verdicts", "tombstones", "comments")


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Seeded:
    made = seed(tmp_path_factory.mktemp("api"), STATES)
    catalogue = cat.open_catalogue(made.catalogue_url)
    gaps = [cat.FrameTombstone("yard-2", BOOT, first, first + 4, "idle", START) for first in (100, 200, 300)]
    cat.store_tombstones(catalogue, gaps)
    catalogue.close()
    return made


@pytest.fixture(scope="module")
def client(seeded: Seeded) -> Iterator[httpx.Client]:
    app = create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)
    with client_of(app) as client:
        client.base_url = client.base_url.join("/api/v1/")
        yield client


def items(client: httpx.Client, path: str, **query: Any) -> list[dict[str, Any]]:
    answer = client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]  # type: ignore[no-any-return]


def ids(client: httpx.Client, path: str, **query: Any) -> list[int]:
    return [item["id"] for item in items(client, path, **query)]


def problem(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status and body["type"] == "about:blank" and body["title"]
    return str(body["detail"])


def test_what_the_lists_hold(client: httpx.Client) -> None:
    assert [camera["id"] for camera in items(client, "cameras")] == ["gate-north", "yard-2"]
    frames = items(client, "frames")
    assert [frame["seq"] for frame in frames] == [0, 1, 2, 3, 4]
    assert [box["label"] for box in frames[0]["detections"]] == ["person", "car"]
    detections = items(client, "detections")
    assert len(detections) == 10
    for box in detections:
        (frame,) = (frame for frame in frames if frame["id"] == box["frame_id"])
        assert (box["camera"], box["captured_at"]) == (frame["camera"], frame["captured_at"])
        assert {name: box[name] for name in frame["detections"][0]} in frame["detections"]
    assert {one["id"] for one in items(client, "objects")} == {box["object_id"] for box in detections} - {
        None
    }
    reviews = items(client, "reviews")
    assert [(one["frame_id"], one["state"]) for one in reviews] == list(
        zip([1, 2, 3, 4, 5], STATES, strict=True)
    )
    assert [one["frames"] for one in items(client, "tombstones")] == [5, 5, 5]
    assert client.get("frames/2").json() == frames[1] and client.get("reviews/2").json() == reviews[1]
    assert client.get("cameras/yard-2").json()["name"] == "Yard"


def test_filters(client: httpx.Client) -> None:
    assert ids(client, "frames", camera="yard-2") == [2, 4]
    assert ids(client, "frames", label="car", min_score=0.84) == []
    assert ids(client, "frames", label="person", max_score=0.5, state="expired") == [3]
    third = "2026-09-21T14:13:34Z"  # the third frame's instant
    assert ids(client, "frames", until=third) == [1, 2] and ids(client, "frames", since=third) == [3, 4, 5]
    assert len(ids(client, "detections", camera="yard-2", label="car")) == 2
    assert {box["label"] for box in items(client, "detections", min_score=0.5)} == {"car"}
    (seen,) = ids(client, "objects", camera="yard-2", label="car")
    assert [box["frame_id"] for box in items(client, "detections", object=seen)] == [2, 4]
    assert ids(client, "objects", camera="yard-2", label="car", until="2026-09-21T14:00Z") == []
    assert ids(client, "reviews", state="ready", camera="gate-north") == [1]
    assert ids(client, "tombstones", camera="yard-2", reason="idle") and not ids(
        client, "tombstones", reason="x"
    )


@pytest.mark.parametrize("path", ["frames", "detections", "objects", "reviews", "tombstones"])
@pytest.mark.parametrize("order", ["oldest", "newest"])
def test_pages_of_one_hold_what_one_page_holds(client: httpx.Client, path: str, order: str) -> None:
    whole = client.get(path, params={"order": order}).json()
    assert not whole["more"] and len(whole["items"]) > 1
    places, found = [], []
    query: dict[str, Any] = {"order": order, "limit": 1}
    while True:
        page = client.get(path, params=query).json()
        found += page["items"]
        places.append(page["next"])
        query["after"] = page["next"]
        if not page["more"]:
            break
    assert found == whole["items"]
    # The place behind the end stays where it is, until there is more.
    again = client.get(path, params=query).json()
    assert (again["items"], again["next"], again["more"]) == ([], places[-1], False)


def test_a_filter_that_fits_nothing_reads_a_bounded_stretch(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secondlook.cloud.station.api.queries.WINDOW", 2)
    for order in ("oldest", "newest"):
        query: dict[str, Any] = {"camera": "yard-2", "order": order}
        sizes, found = [], []
        while True:
            page = client.get("detections", params=query).json()
            sizes.append(len(page["items"]))
            found += [item["frame_id"] for item in page["items"]]
            query["after"] = page["next"]
            if not page["more"]:
                break
        assert len(sizes) >= 3 and sorted(found) == [2, 2, 4, 4]


# --- refusals


@pytest.mark.parametrize(
    "path", [*LISTS, "events", "frames/1", "frames/1/pictures", "frames/1/pictures/base"]
)
def test_what_is_not_known_is_refused(client: httpx.Client, path: str) -> None:
    assert problem(client.get(path, params={"colour": "red"}), 422).startswith("unknown parameter: colour")


def test_refusals_are_problem_details(client: httpx.Client) -> None:
    assert "more than once" in problem(client.get("frames?limit=1&limit=2"), 422)
    assert "limit" in problem(client.get("frames", params={"limit": 0}), 422)
    assert "min_score" in problem(client.get("frames", params={"min_score": 2}), 422)
    assert "after" in problem(client.get("frames", params={"after": "1.2"}), 422)
    assert "after" in problem(client.get("detections", params={"after": "7"}), 422)
    assert "no cursor" in problem(client.get("events", params={"after": "7"}), 422)
    assert "no frame 99" in problem(client.get("frames/99"), 404)
    assert "no camera" in problem(client.get("cameras/nobody"), 404)
    problem(client.get("nowhere"), 404)
    problem(client.delete("frames", headers={"content-type": "application/json", "content-length": "0"}), 405)
    problem(client.post("frames/1/review", content=b"x", headers={"content-type": "text/plain"}), 415)
    assert "host name" in problem(client.get("frames", headers={"host": "elsewhere.example"}), 400)
    body = client.get("frames", params={"limit": 0}).json()
    assert body["errors"][0]["loc"] == ["query", "limit"]


def test_the_pages_own_routes_refuse_as_before(client: httpx.Client) -> None:
    answer = client.get(client.base_url.join("/api/frames/99"))
    assert answer.json() == {"detail": "there is no frame 99"}
    assert answer.headers["content-type"] == "application/json"


# --- pictures


def test_pictures_by_layer_and_by_hash(client: httpx.Client) -> None:
    listed = {picture["layer"]: picture for picture in items(client, "frames/1/pictures")}
    assert set(listed) == {"base", "enhanced", "refined", "thumb"}
    for layer, facts in listed.items():
        by_layer = client.get(f"frames/1/pictures/{layer}")
        by_hash = client.get(f"frames/1/pictures/{facts['sha256']}")
        assert by_layer.content == by_hash.content and len(by_layer.content) == facts["bytes"]
        assert (
            hashlib.sha256(by_layer.content).hexdigest()
            == by_layer.headers["x-content-sha256"]
            == facts["sha256"]
        )
        assert by_layer.headers["content-type"] == facts["media_type"]
        known = {"if-none-match": by_layer.headers["etag"]}
        assert client.get(f"frames/1/pictures/{layer}", headers=known).status_code == 304
    with Image.open(io.BytesIO(client.get("frames/1/pictures/refined").content)) as picture:
        assert picture.size == (320, 192)
    assert client.get("reviews/1").json()["shown_sha256"] == listed["refined"]["sha256"]
    assert [one["layer"] for one in items(client, "frames/3/pictures")] == ["base", "thumb"]
    problem(client.get("frames/3/pictures/refined"), 404)
    problem(client.get(f"frames/1/pictures/{'0' * 64}"), 404)
    problem(client.get("frames/5/pictures"), 404)  # a base layer that nobody can decode
    problem(client.get("frames/1/pictures/original"), 422)


# --- verdicts


def test_verdicts_are_given_and_undone(client: httpx.Client) -> None:
    shown = client.get("reviews/4").json()["shown_sha256"]
    body = {"reviewer": "rolf", "verdict": "confirm", "shown_sha256": shown, "idempotency_key": "k" * 8}
    given = client.post("reviews/4/verdicts", json=body)
    assert given.status_code == 201 and given.json()["frame_id"] == 4
    assert client.post("reviews/4/verdicts", json=body).json() == given.json()
    assert client.get("reviews/4").json()["state"] == "decided"
    number = given.json()["id"]
    assert ids(client, "verdicts", camera="yard-2", reviewer="rolf", verdict="confirm", standing=True) == [
        number
    ]
    assert ids(client, "verdicts", label="dog") == []
    undone = client.post(f"verdicts/{number}/undo", json={"reviewer": "rolf"})
    assert undone.json()["undone_at"] is not None
    assert ids(client, "verdicts", standing=True) == [] and ids(client, "verdicts", standing=False) == [
        number
    ]
    assert "hash" in problem(
        client.post("reviews/4/verdicts", json={**body, "shown_sha256": "0" * 64, "idempotency_key": None}),
        409,
    )
    problem(client.post("reviews/99/verdicts", json=body), 422)  # the key is known, of another review
    problem(client.post("reviews/4/verdicts", json={**body, "colour": 1}), 422)
    assert client.post("frames/1/review", json={"reviewer": "rolf"}).json()["id"] == 1


def test_a_class_is_stored_in_the_spelling_that_is_in_use(tmp_path: Path, catalogue_url: str) -> None:
    """As the page's verdicts are: a program that writes it in capitals makes no other class of it."""
    seeded = seed(tmp_path, ("ready", "ready"), catalogue_url=catalogue_url)
    with client_of(create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)) as client:
        shown = client.get("/api/v1/reviews/1").json()["shown_sha256"]
        body = {
            "reviewer": "rolf",
            "verdict": "wrong_class",
            "box_index": 0,
            "shown_sha256": shown,
            "idempotency_key": "k" * 8,
        }
        place = {"verdict": "missed_object", "box_index": None, "box": [1, 1, 9, 9], "idempotency_key": None}
        given = [
            client.post("/api/v1/reviews/1/verdicts", json={**body, **parts}).json()
            for parts in (
                {"label": "CAR"},  # a detector writes "car"
                {"label": "Car"},  # sent again
                {**place, "label": "Traffic Light"},  # COCO has it in small letters
                {**place, "label": "Forklift"},
                {**place, "label": "fork  lift"},
                {**place, "label": "FORKLIFT"},  # as it was named first
            )
        ]
        names = [one["label"] for one in given]
        assert names == ["car", "car", "traffic light", "Forklift", "fork lift", "Forklift"]
        assert given[0]["id"] == given[1]["id"]
        listed = client.get("/api/v1/verdicts", params={"label": "Forklift"}).json()["items"]
        assert len(listed) == 2
        # The page and programs read from one book.
        place |= {"reviewer": "rolf", "shown_sha256": shown, "label": "forkLIFT"}
        told = client.post("/api/reviews/1/verdicts", json=place).json()["verdicts"]
        assert told[-1]["label"] == "Forklift"


# --- tokens


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, cat.Catalogue]]:
    seeded = seed(tmp_path_factory.mktemp("guarded"), ("ready",))
    add_people(seeded.catalogue_url)
    catalogue = cat.open_catalogue(seeded.catalogue_url)
    limits = ApiLimits(requests_per_second=0.5, burst_requests=6, max_streams=1)
    app = create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url, api=limits)
    with client_of(app) as client:
        client.base_url = client.base_url.join("/api/v1/")
        yield client, catalogue
    catalogue.close()


def token(catalogue: cat.Catalogue, role: Role, *scopes: Scope) -> dict[str, str]:
    name = {Role.VIEWER: "vera", Role.REVIEWER: "rolf", Role.ADMIN: "ada"}[role]
    _, text = create_token(
        catalogue, name, label="x", role=role, expires_ns=None, actor="t", now_ns=START, scopes=scopes
    )
    return {"authorization": f"Bearer {text}"}


def test_scopes_narrow_a_token(guarded: tuple[httpx.Client, cat.Catalogue]) -> None:
    client, catalogue = guarded
    assert "log in" in problem(client.get("frames"), 401)
    assert client.get("frames").headers["www-authenticate"] == "Bearer"
    reads, writes = token(catalogue, Role.REVIEWER, Scope.READ), token(catalogue, Role.REVIEWER, Scope.REVIEW)
    whole = token(catalogue, Role.REVIEWER)
    ask: dict[str, Any] = {"url": "frames/1/review", "json": {}}
    assert client.get("frames", headers=reads).status_code == 200
    assert "the scope review" in problem(client.post(**ask, headers=reads), 403)
    assert "the scope read" in problem(client.get("frames", headers=writes), 403)
    assert client.post(**ask, headers=writes).status_code == 200
    assert (
        client.get("frames", headers=whole).status_code
        == client.post(**ask, headers=whole).status_code
        == 200
    )
    with pytest.raises(AccountConflict, match="does not reach the scope admin"):
        token(catalogue, Role.REVIEWER, Scope.ADMIN)


def test_the_command_makes_tokens_with_scopes(
    guarded: tuple[httpx.Client, cat.Catalogue], capsys: pytest.CaptureFixture[str]
) -> None:
    client, catalogue = guarded
    url = ["--catalogue", str(catalogue._reader.url)]
    assert (
        main(["tokens", "new", "rolf", "--label", "cli", "--role", "reviewer", "--scope", "read", *url]) == 0
    )
    made = {"authorization": f"Bearer {capsys.readouterr().out.strip()}"}
    assert client.get("frames", headers=made).status_code == 200
    problem(client.post("frames/1/review", json={}, headers=made), 403)
    assert main(["tokens", "list", *url]) == 0
    assert "reviewer  read               rolf  cli" in capsys.readouterr().out


def test_each_token_has_its_own_limit(guarded: tuple[httpx.Client, cat.Catalogue]) -> None:
    client, catalogue = guarded
    one, other = token(catalogue, Role.VIEWER), token(catalogue, Role.VIEWER)
    answers = [client.get("cameras", headers=one) for _ in range(7)]
    assert [answer.status_code for answer in answers] == [200] * 6 + [429]
    problem(answers[-1], 429)
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 2
    assert client.get("cameras", headers=other).status_code == 200


def test_places_for_streams_are_given_back(guarded: tuple[httpx.Client, cat.Catalogue]) -> None:
    client, catalogue = guarded
    headers = token(catalogue, Role.VIEWER)
    with client.stream("GET", "events", headers=headers) as stream:
        parts = stream.iter_raw()
        next(parts)
        assert "streams" in problem(client.get("events", headers=headers, params={"seconds": 0}), 429)
    for _ in range(3):
        if client.get("events", headers=headers, params={"seconds": 0}).status_code == 200:
            return
    pytest.fail("the place was not given back")


def test_the_description(client: httpx.Client) -> None:
    document = client.get("openapi.json").json()
    assert "paths" in document, document
    assert set(document["components"]["securitySchemes"]) == {"token", "session"}
    assert {f"/api/v1/{name}" for name in (*LISTS, "events")} <= set(document["paths"])
    for path, operations in document["paths"].items():
        assert path.startswith("/api/v1/")
        for operation in operations.values():
            assert operation["security"] and operation["operationId"] and operation["responses"]["422"]
            assert "application/problem+json" in operation["responses"]["422"]["content"]
    shape = document["components"]["schemas"]["Detection"]["properties"]
    assert all("examples" in member or "$ref" in member for member in shape.values()), shape


def test_a_station_that_is_started_by_a_frame_of_the_future(tmp_path: Path) -> None:
    """Clocks of cameras may say anything that the tables hold."""
    seeded = seed(tmp_path, ("due",))
    catalogue = cat.open_catalogue(seeded.catalogue_url)
    from tests.cloud.test_catalogue import box, frame

    late = frame(9, captured_ns=2**63 - 1)
    cat.store_frame(catalogue, late, [box()], detector="x", reasons=[], now_ns=START + SECOND)
    catalogue.close()
    with client_of(create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)) as client:
        assert [item["seq"] for item in client.get("/api/v1/frames").json()["items"]] == [0, 9]

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from secondlook.cloud.station import queries
from secondlook.cloud.station.app import create_app
from tests.cloud.station.seed import BOOT, seed
from tests.cloud.station.server import client_of


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    """Four ready reviews, each with a person (box 0) and a car (box 1), and one that waits."""
    seeded = seed(tmp_path, ["ready"] * 4 + ["due"])
    app = create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)
    with client_of(app) as client:
        yield client


def give(client: httpx.Client, review_id: int, verdict: str, **parts: Any) -> None:
    digest = client.get(f"/api/reviews/{review_id}/images/refined").headers["x-content-sha256"]
    body = {"reviewer": "Ann", "verdict": verdict, "shown_sha256": digest, **parts}
    assert client.post(f"/api/reviews/{review_id}/verdicts", json=body).status_code == 200


def exported(client: httpx.Client, **query: Any) -> dict[str, Any]:
    answer = client.get("/api/export/coco.json", params=query)
    assert "attachment" in answer.headers["content-disposition"]
    data: dict[str, Any] = answer.json()
    return data


def objects(data: dict[str, Any]) -> list[tuple[int, str, bool, str]]:
    names = {category["id"]: category["name"] for category in data["categories"]}
    return [
        (item["image_id"], names[item["category_id"]], item["verified"], item["source"])
        for item in data["annotations"]
    ]


def test_corrections_are_applied(client: httpx.Client) -> None:
    give(client, 1, "confirm")
    give(client, 2, "wrong_class", box_index=0, label="dog")
    give(client, 2, "reject", box_index=1)
    give(client, 3, "missed_object", label="fox", box=[10.5, 20, 40.5, 60])
    give(client, 3, "reject")
    give(client, 4, "reject", box_index=0)
    give(client, 4, "unsure")
    data = exported(client)
    assert objects(data) == [
        (1, "person", True, "detector"),
        (1, "car", True, "detector"),
        (2, "dog", True, "detector"),
        (3, "fox", True, "reviewer"),
        (4, "car", False, "detector"),
    ]
    assert [image["verified"] for image in data["images"]] == [True, True, True, False]
    added = next(item for item in data["annotations"] if item["source"] == "reviewer")
    assert (added["bbox"], added["area"], added["score"]) == ([10.5, 20, 30, 40], 1200, None)
    changed = data["annotations"][2]
    assert (changed["detected_label"], changed["score"]) == ("person", 0.44)


def test_the_last_standing_verdict_wins(client: httpx.Client) -> None:
    give(client, 1, "reject")
    give(client, 1, "confirm")
    give(client, 2, "confirm")
    give(client, 2, "reject")
    client.post("/api/undo", json={"reviewer": "Ann"})
    assert objects(exported(client)) == [
        (1, "person", True, "detector"),
        (1, "car", True, "detector"),
        (2, "person", True, "detector"),
        (2, "car", True, "detector"),
    ]


def test_the_file_is_a_coco_data_set(client: httpx.Client) -> None:
    give(client, 1, "missed_object", label="fox", box=[0, 0, 5, 5])
    give(client, 1, "confirm")
    data = exported(client)
    ids = {category["name"]: category["id"] for category in data["categories"]}
    # The official numbers, gaps included; classes that COCO lacks come after them.
    assert (ids["person"], ids["car"], ids["stop sign"], ids["toothbrush"], ids["fox"]) == (
        1,
        3,
        13,
        90,
        1000,
    )
    assert len(data["categories"]) == 81
    (image,) = data["images"]
    assert image["file_name"] == f"gate-north/{BOOT}/00000000.png"
    assert (image["width"], image["height"]) == (320, 192)
    assert client.get(image["station_path"]).status_code == 200
    for item in data["annotations"]:
        x, y, width, height = item["bbox"]
        assert item["image_id"] == image["id"] and item["iscrowd"] == 0
        assert x >= 0 and y >= 0 and x + width <= 320 and y + height <= 192
        assert item["area"] == pytest.approx(width * height)
    assert len({item["id"] for item in data["annotations"]}) == 3


def test_open_frames_are_exported_on_demand(client: httpx.Client) -> None:
    give(client, 1, "confirm")
    assert len(exported(client)["images"]) == 1
    data = exported(client, undecided=True)
    assert [image["state"] for image in data["images"]] == ["decided", "ready", "ready", "ready", "due"]
    assert sum(item["verified"] for item in data["annotations"]) == 2


def test_verdicts_come_one_a_line_with_undone_ones(client: httpx.Client, monkeypatch: Any) -> None:
    monkeypatch.setattr(queries, "_EXPORT_BATCH", 2)  # several batches
    give(client, 1, "wrong_class", box_index=0, label="dog", note="zażółć")
    give(client, 4, "confirm")
    client.post("/api/undo", json={"reviewer": "Ann"})
    lines = [json.loads(line) for line in client.get("/api/export/verdicts.jsonl").text.splitlines()]
    assert [(line["review_id"], line["verdict"], line["undone_at"] is None) for line in lines] == [
        (1, "wrong_class", True),
        (4, "confirm", False),
    ]
    assert lines[0]["detected"]["label"] == "person"
    assert (lines[0]["label"], lines[0]["note"], lines[0]["reviewer"]) == ("dog", "zażółć", "Ann")
    assert len(lines[0]["shown_sha256"]) == 64


def test_an_empty_station_exports_empty_files(tmp_path: Path) -> None:
    seeded = seed(tmp_path, ())
    app = create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)
    with client_of(app) as client:
        assert exported(client)["images"] == []
        assert client.get("/api/export/verdicts.jsonl").text == ""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue.schema import table_of
from secondlook.cloud.station import export, queries
from secondlook.cloud.station.app import create_app
from secondlook.shared.detection import Detection
from tests.cloud.station.process import StationProcess
from tests.cloud.station.seed import BOOT, START, Scene, drawn_scene, seed
from tests.cloud.station.server import client_of

GROWTH_MB = 40


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
    data = exported(client, unsure=True)
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


def test_frames_that_people_were_unsure_of_are_left_out_unless_asked_for(client: httpx.Client) -> None:
    give(client, 1, "unsure")
    give(client, 2, "confirm", box_index=0)
    give(client, 2, "unsure", box_index=1)
    give(client, 3, "unsure")
    give(client, 3, "confirm")  # and then they were sure
    assert [image["id"] for image in exported(client)["images"]] == [3]
    assert [image["id"] for image in exported(client, unsure=True)["images"]] == [1, 2, 3]
    assert [image["id"] for image in exported(client, undecided=True)["images"]] == [3, 4, 5]


def test_contested_frames_are_left_out_unless_asked_for(client: httpx.Client) -> None:
    give(client, 1, "confirm", seen_verdict_id=0)
    digest = client.get("/api/reviews/1/images/refined").headers["x-content-sha256"]
    body = {"reviewer": "Bob", "verdict": "reject", "shown_sha256": digest, "seen_verdict_id": 0}
    assert client.post("/api/reviews/1/verdicts", json=body).status_code == 409
    assert exported(client)["images"] == []
    data = exported(client, contested=True)
    (image,) = data["images"]
    assert image["contested"] and not image["verified"]
    assert len(data["annotations"]) == 2  # as who came first has it
    client.post("/api/undo", json={"reviewer": "Bob"})
    assert [image["contested"] for image in exported(client)["images"]] == [False]


def test_one_class_however_it_is_capitalised(tmp_path: Path) -> None:
    scene = drawn_scene(0)
    boxes = [Detection(label, 0.5, (1.0, 1.0, 9.0, 9.0)) for label in ("Hardhat", "Person")]
    seeded = seed(tmp_path, ["ready"] * 2, [Scene(scene.image, boxes)])
    with client_of(create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)) as client:
        give(client, 1, "wrong_class", box_index=1, label="hardhat")
        give(client, 1, "missed_object", label="HARDHAT", box=[0, 0, 5, 5])
        give(client, 1, "confirm")
        give(client, 2, "missed_object", label="人", box=[0, 0, 5, 5])
        give(client, 2, "missed_object", label="cafe\u0301", box=[0, 0, 5, 5])
        give(client, 2, "missed_object", label=" Caf\u00c9 ", box=[0, 0, 5, 5])
        give(client, 2, "confirm")
        data = exported(client)
        names = {c["id"]: c["name"] for c in data["categories"] if c["id"] >= 1000}
        assert names == {1000: "Hardhat", 1001: "人", 1002: "café"}
        assert [label for _, label, _, _ in objects(data)] == [
            *("Hardhat", "Hardhat", "Hardhat"),
            *("Hardhat", "person", "人", "café", "café"),
        ]
        offered = client.get("/api/station").json()["labels"]
        assert [name for name in offered if name.casefold() in ("hardhat", "café", "person")] == [
            *("Hardhat", "Person", "café")
        ]


def test_boxes_end_where_the_frame_ends_and_have_an_outline(tmp_path: Path) -> None:
    scene = drawn_scene(0)
    boxes = [
        Detection("car", 0.5, (-4.0, 100.0, 30.0, 999.0)),
        Detection("dog", 0.5, (400.0, 10.0, 410.0, 20.0)),  # all of it outside
    ]
    seeded = seed(tmp_path, ["ready"], [Scene(scene.image, boxes)])
    with client_of(create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)) as client:
        give(client, 1, "confirm")
        data = exported(client)
    (item,) = data["annotations"]
    assert item["bbox"] == [0, 100, 30, 92]
    assert item["segmentation"] == [[0, 100, 30, 100, 30, 192, 0, 192]]
    coco = pytest.importorskip("pycocotools.coco").COCO()
    coco.dataset = data
    coco.createIndex()
    mask = coco.annToMask(coco.loadAnns([item["id"]])[0])
    assert mask.shape == (192, 320) and mask.sum() == item["area"] == 30 * 92
    assert mask[100:192, 0:30].all()


def fill(url: str, count: int) -> None:
    """So many decided reviews of two boxes each, without pictures."""
    catalogue = cat.open_catalogue(url)
    with catalogue.writing() as session:
        connection = session.connection()
        frame = {"edge_id": "gate", "boot_id": BOOT, "captured_ns": START, "received_ns": START}
        frame |= {"detected_ns": START, "width": 320, "height": 192, "base_blob": "b", "base_bytes": 1}
        box = {"score": 0.5, "x0": 1.0, "y0": 2.0, "x1": 30.0, "y1": 40.0, "detector": "tiny"}
        verdict = {"reviewer": "Ann", "verdict": "confirm", "note": "", "decided_ns": START}
        connection.execute(
            table_of(cat.Camera).insert(),
            {"edge_id": "gate", "camera": "Gate", "first_seen_ns": 0, "last_seen_ns": 0},
        )
        numbers = range(1, count + 1)
        rows: dict[type, list[dict[str, Any]]] = {
            cat.Frame: [{**frame, "id": n, "seq": n, "enhancement_bytes": 5} for n in numbers],
            cat.DetectedBox: [{**box, "frame_id": n, "label": x} for n in numbers for x in ("car", "Sofa")],
            cat.Review: [
                {
                    "id": n,
                    "frame_id": n,
                    "reason": "doubt",
                    "priority": 1,
                    "state": "decided",
                    "created_ns": 1,
                }
                for n in numbers
            ],
            cat.Verdict: [{**verdict, "review_id": n, "shown_sha256": "0" * 64} for n in numbers],
        }
        for kind, values in rows.items():
            connection.execute(table_of(kind).insert(), values)
    catalogue.close()


def test_a_large_export_begins_at_once_and_takes_no_memory(tmp_path: Path) -> None:
    """All of them at once would be more than twice what is allowed here."""
    count = 8_000
    fill(f"sqlite:///{tmp_path}/catalogue.db", count)
    station = StationProcess(tmp_path)
    try:
        url = f"{station.address}/api/export/coco.json"
        before, first, text, grown = station.memory_mb(), 0.0, bytearray(), 0.0
        began = time.monotonic()
        with httpx.stream("GET", url, timeout=120) as answer:
            for part in answer.iter_bytes():
                first = first or time.monotonic() - began
                text += part
                grown = max(grown, station.memory_mb() - before)
        took = time.monotonic() - began
    finally:
        station.kill()
    data = json.loads(text)
    assert (len(data["images"]), len(data["annotations"])) == (count, 2 * count)
    assert {item["id"] for item in data["annotations"]} == set(range(1, 2 * count + 1))
    assert grown < GROWTH_MB, grown
    assert first < took / 4, (first, took)


def test_the_parts_are_made_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first part is there before any review has been asked for, and none is asked for ahead."""
    monkeypatch.setattr(export, "_BATCH", 2)
    asked = 0

    def reviews() -> Iterator[cat.Review]:
        nonlocal asked
        for number in range(1, 8):
            asked += 1
            frame = cat.Frame(
                id=number, edge_id="g", boot_id=BOOT, seq=number, captured_ns=0, width=9, height=9
            )
            review = cat.Review(
                id=number, frame_id=number, frame=frame, state=cat.ReviewState.DUE, reason="x"
            )
            yield review

    parts = export.coco_parts(reviews(), description="d")
    next(parts)
    assert asked == 0
    next(parts)
    assert asked == 2
    rest = list(parts)
    assert asked == 7 and len(rest) > 3


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
    assert image["file_name"] == f"gate-north/{BOOT}/00000000.webp"
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

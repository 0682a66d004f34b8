"""The feedback set: objects with how they came about, pictures as machines saw them and in full quality, layers."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from secondlook.cloud.station.app import create_app
from tests.cloud.station.seed import Scene, drawn_scene, seed
from tests.cloud.station.server import client_of
from tests.cloud.station.test_archives import give


@pytest.fixture
def client(tmp_path: Path) -> Any:
    """Frames with a box rejected and one moved; a class changed and a fox drawn; nothing in it; in doubt; open."""
    scenes = [drawn_scene(0), drawn_scene(1), Scene(drawn_scene(2).image, []), drawn_scene(3), drawn_scene(4)]
    seeded = seed(tmp_path, ["ready"] * 5, scenes)
    with client_of(create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)) as client:
        give(client, 1, "reject", box_index=0)
        give(client, 1, "corrected", box_index=1, label="car", box=[160, 48, 320, 144])
        give(client, 2, "missed_object", label="fox", box=[0, 0, 32, 48])
        give(client, 2, "wrong_class", box_index=0, label="dog")
        give(client, 2, "confirm", box_index=1)
        give(client, 3, "no_object")
        give(client, 4, "unsure")
        yield client


def unpacked(client: httpx.Client, **query: Any) -> tuple[zipfile.ZipFile, dict[str, Any]]:
    archive = zipfile.ZipFile(io.BytesIO(client.get("/api/export/feedback.zip", params=query).content))
    assert archive.testzip() is None
    return archive, json.loads(archive.read("labels.json"))


def test_what_people_said_and_what_they_saw(client: httpx.Client) -> None:
    archive, labels = unpacked(client)
    first, second, empty = labels["images"]
    assert [image["review_id"] for image in labels["images"]] == [1, 2, 3]
    outcomes = [(one["image_id"], one["outcome"], one["detected_label"]) for one in labels["annotations"]]
    assert outcomes == [
        (first["id"], "corrected", "car"),
        (second["id"], "corrected", "person"),
        (second["id"], "confirmed", "car"),
        (second["id"], "missed", None),
    ]
    assert [box["label"] for box in first["rejected"]] == ["person"] and empty["no_object"]
    assert labels["annotations"][0]["bbox"] == [160, 48, 160, 96]
    for image in labels["images"]:
        base = client.get(f"/api/reviews/{image['review_id']}/images/base").content
        refined = client.get(f"/api/reviews/{image['review_id']}/images/refined").content
        assert archive.read(image["file_name"]) == base
        assert archive.read(image["original_file_name"]) == refined
        assert archive.read(image["layer_file_name"]) == b"base layer"
    names = {one["id"]: one["name"] for one in labels["categories"]}
    assert names[labels["annotations"][3]["category_id"]] == "fox"


def test_what_is_gone_is_named(client: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "blobs/image/1/base.webp").unlink()
    (tmp_path / "blobs/image/2/refined.webp").unlink()
    archive, labels = unpacked(client, camera="gate-north")
    assert [image["review_id"] for image in labels["images"]] == [3]
    assert archive.read("left_out.txt").decode().startswith("gate-north_")
    _, labels = unpacked(client, camera="yard-2")
    assert labels["images"][0]["original_file_name"] is None


def test_objects_as_lines(client: httpx.Client) -> None:
    lines = [json.loads(line) for line in client.get("/api/export/objects.jsonl").text.splitlines()]
    assert {line["camera"] for line in lines} == {"North gate", "Yard"}
    # The car of the first frame was corrected, the person in it rejected; scenes of one camera are seconds apart.
    first = {line["label"]: (line["judged"], line["confirmed"], line["rejected"]) for line in lines[:2]}
    assert first["person"] == (1, 0, 1) and first["car"][1] >= 1
    cars = client.get("/api/export/objects.jsonl", params={"label": "car", "camera": "yard-2"}).text
    assert {json.loads(line)["label"] for line in cars.splitlines()} == {"car"}

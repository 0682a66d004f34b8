"""Exports with pictures: whole archives, readable by others, narrowed by camera, class and score."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from secondlook.cloud.station.app import create_app
from tests.cloud.station.seed import Scene, drawn_scene, seed
from tests.cloud.station.server import client_of

NAME = f"gate-north_{'ab' * 16}_00000000"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    """Four decided frames: a car corrected, a fox drawn, nothing in it, in doubt; and an open one."""
    scenes = [drawn_scene(0), drawn_scene(1), Scene(drawn_scene(2).image, []), drawn_scene(3), drawn_scene(4)]
    seeded = seed(tmp_path, ["ready"] * 5, scenes)
    with client_of(create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url)) as client:
        give(client, 1, "reject", box_index=0)
        give(client, 1, "corrected", box_index=1, label="car", box=[160, 48, 320, 144])
        give(client, 2, "missed_object", label="Fox", box=[0, 0, 32, 48])
        give(client, 2, "confirm")
        give(client, 3, "no_object")
        give(client, 4, "unsure")
        yield client


def give(client: httpx.Client, review_id: int, verdict: str, **parts: Any) -> None:
    digest = client.get(f"/api/reviews/{review_id}/images/refined").headers["x-content-sha256"]
    body = {"reviewer": "Ann", "verdict": verdict, "shown_sha256": digest, **parts}
    assert client.post(f"/api/reviews/{review_id}/verdicts", json=body).status_code == 200


def archive(client: httpx.Client, name: str, **query: Any) -> zipfile.ZipFile:
    answer = client.get(f"/api/export/{name}.zip", params=query)
    assert answer.headers["content-type"] == "application/zip"
    read = zipfile.ZipFile(io.BytesIO(answer.content))
    assert read.testzip() is None
    return read


def test_yolo(client: httpx.Client) -> None:
    read = archive(client, "yolo")
    names = [name for name in read.namelist() if name.startswith("images/")]
    assert len(names) == 3 and f"images/{NAME}.webp" in names
    assert read.read(f"images/{NAME}.webp") == client.get("/api/reviews/1/images/refined").content
    assert read.read(f"labels/{NAME}.txt").decode() == "2 0.750000 0.500000 0.500000 0.500000\n"
    (fox,) = (
        read.read(name).decode().splitlines()[-1]
        for name in read.namelist()
        if "yard-2" in name and "txt" in name
    )
    assert fox == "80 0.050000 0.125000 0.100000 0.250000"
    yaml = read.read("data.yaml").decode()
    assert '  2: "car"\n' in yaml and yaml.endswith('  80: "Fox"\n')
    empty = [name for name in read.namelist() if name.endswith("00000002.txt")]
    assert read.read(empty[0]) == b""  # an image without an object is in it


def test_lines_with_pictures(client: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "blobs/image/2/refined.webp").unlink()
    read = archive(client, "frames", unsure=True)
    lines = [json.loads(line) for line in read.read("frames.jsonl").splitlines()]
    assert [line["review_id"] for line in lines] == [1, 3, 4]
    assert lines[0]["boxes"][0]["box"] == [160, 48, 320, 144] and lines[1]["no_object"]
    assert all(line["file_name"] in read.namelist() for line in lines)
    assert read.read("left_out.txt").decode().startswith("yard-2_")


def test_a_part_of_them(client: httpx.Client) -> None:
    def ids(**query: Any) -> list[int]:
        data = client.get("/api/export/coco.json", params=query).json()
        return [image["review_id"] for image in data["images"]]

    assert ids() == [1, 2, 3]
    assert ids(camera="yard-2") == [2]
    assert ids(label="car") == [1, 2] and ids(label="car", min_score=0.9) == []
    assert len(archive(client, "yolo", camera="yard-2").namelist()) == 3
    entry = client.get("/api/history").json()["entries"][0]
    assert (entry["subject"], entry["detail"]["camera"]) == ("export yolo.zip", "yard-2")


def test_ultralytics_reads_the_data_set(client: httpx.Client, tmp_path: Path) -> None:
    utils = pytest.importorskip("ultralytics.data.utils")
    archive(client, "yolo").extractall(tmp_path / "set")
    data = utils.check_det_dataset(str(tmp_path / "set/data.yaml"), autodownload=False)
    assert data["nc"] == 81 and data["names"][2] == "car"

"""Annotation files whose categories are not the detector's."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from secondlook.main import main
from secondlook.shared.errors import ConfigError
from tests.pictures import photo

pytest.importorskip("pycocotools", reason="pycocotools reads annotations")

from secondlook.training.detector.categories import COCO_IDS, category_ids, check_categories, load_truth

CLASSES = ("person", "car")


def annotations(folder: Path, categories: list[dict] | None, used: tuple[int, ...] = (1,)) -> Path:
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 64, "width": 96}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": id_, "bbox": [9, 9, 20, 30], "area": 600, "iscrowd": 0}
            for n, id_ in enumerate(used, 1)
        ],
    }
    if categories is not None:
        content["categories"] = categories
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


def test_the_numbers_are_cocos() -> None:
    assert len(COCO_IDS) == 80
    assert [COCO_IDS[n] for n in (1, 3, 11, 13, 17, 18, 90)] == [
        *("person", "car", "fire hydrant", "stop sign", "cat", "dog", "toothbrush")
    ]


@pytest.mark.parametrize(
    "categories",
    [
        None,
        [{"id": 1}, {"id": 3}],
        [{"id": 1, "name": ""}, {"id": 3, "name": None}],
        [{"id": 1, "name": "1"}, {"id": 3, "name": "3"}],
        [{"id": 1, "name": "person"}, {"id": 3, "name": 3}],
    ],
)
def test_numbers_are_read_as_cocos(tmp_path: Path, categories: list[dict] | None) -> None:
    truth = load_truth(annotations(tmp_path, categories, (1, 3)))
    assert category_ids(truth, CLASSES) == {"person": 1, "car": 3}
    assert truth.cats[3]["name"] == "car"


def test_numbers_from_zero_are_not_cocos(tmp_path: Path) -> None:
    path = annotations(tmp_path, [{"id": 0}, {"id": 1}], (0, 1))
    with pytest.raises(ConfigError, match="finder knows none of its categories: number 0, number 1"):
        check_categories(load_truth(path), path, "finder", CLASSES)


def test_what_is_not_known_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = annotations(tmp_path, [{"id": 7, "name": "person"}, {"id": 8, "name": "Cars"}], (7, 8))
    check_categories(load_truth(path), path, "finder", CLASSES)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("not judged, for finder does not know them: Cars (did you mean car?)")


def test_categories_that_no_annotation_has_are_no_match(tmp_path: Path) -> None:
    path = annotations(tmp_path, [{"id": 7, "name": "person"}, {"id": 8, "name": "lorry"}], (8,))
    with pytest.raises(ConfigError, match="no annotation has a category that finder knows"):
        check_categories(load_truth(path), path, "finder", CLASSES)


@pytest.mark.parametrize(
    "text", ["", "no json", "[]", "{}", '{"images": [{}]}', '{"images": [], "annotations": []}']
)
def test_another_file_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "instances.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"instances\.json"):
        load_truth(path)
    with pytest.raises(ConfigError, match="cannot read"):
        load_truth(tmp_path / "missing.json")


@pytest.mark.parametrize("command", ["base", "detector"])
def test_the_commands_fail_when_nothing_matches(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), photo(64, 96))
    path = annotations(tmp_path, [{"id": 1, "name": "persons"}])
    assert main(["evaluate", command, "--images", str(tmp_path), "--annotations", str(path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "knows none of its categories: persons (did you mean person?)" in err


def test_a_map_makes_categories_classes_and_several_may_be_one(tmp_path: Path) -> None:
    categories = [{"id": 7, "name": "lorry"}, {"id": 8, "name": "van"}, {"id": 9, "name": "person"}]
    path = annotations(tmp_path, categories, (7, 8, 9))
    truth = load_truth(path, {"lorry": "car", "van": "car"})
    assert category_ids(truth, CLASSES) == {"car": 7, "person": 9}
    assert len(truth.getAnnIds(catIds=[7])) == 2
    with pytest.raises(ConfigError, match=r"has no category lorri \(did you mean lorry\?\)"):
        load_truth(path, {"lorri": "car"})

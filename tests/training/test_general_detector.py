"""The general detector as `make setup` converts it: its anchors, and what it finds in photographs."""

from __future__ import annotations

from pathlib import Path

import pytest

from secondlook.cloud.workers.detectors import load_detector
from secondlook.shared.detection import COCO_CLASSES
from secondlook.shared.models import find_model

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco128"


def test_it_is_the_pinned_one_with_the_anchors_of_the_rule(general_detector: Path) -> None:
    manifest = find_model(general_detector, kind="detector").manifest
    assert manifest["anchors"] == "of the graph, equal to SSD's rule"
    assert manifest["classes"] == list(COCO_CLASSES) and manifest["input"] == [300, 300]
    assert manifest["licence"] == "Apache-2.0" and "Apache License" in manifest["licence_text"]


def test_average_precision_on_photographs_and_base_layers(general_detector: Path) -> None:
    """The eleven classes of the detector that ships; base layers of 0.14 bits a pixel. Anchors or classes that were
    mixed up would find next to nothing."""
    pytest.importorskip("pycocotools", reason="pycocotools counts average precision (extra `training`)")
    if not DATA.is_dir():
        pytest.skip(f"there is no {DATA}")
    from secondlook.training.detector.categories import load_truth
    from secondlook.training.detector.evaluate import LOWEST_SCORE, BaseLayer, average_precision, match

    truth = load_truth(DATA / "instances.json")
    classes = load_detector("builtin", threads=1).classes
    detector = load_detector(str(general_detector), threads=1, min_score=LOWEST_SCORE)
    images = DATA / "images"
    assert average_precision(match(detector, truth, images, lambda image: image, classes))["AP"] >= 38
    layer = BaseLayer("lite", 16, 40)
    assert average_precision(match(detector, truth, images, layer, classes))["AP"] >= 36
    assert layer.bits / layer.pixels == pytest.approx(0.14, abs=0.01)

"""Accuracy at equal bits: the arithmetic of the comparison, and the distance that base layers are trained by."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training is not installed")

# ruff: noqa: E402 - what follows needs torch
from secondlook.cloud.workers.postfilter import load_postfilter
from secondlook.shared.detection import Detection
from secondlook.shared.errors import DetectorError
from secondlook.training.detector.base_layers import (
    Kept,
    Point,
    Still,
    accuracy_at,
    bits_for,
    compare,
    difference,
    measure,
    report,
    titles_of,
)
from secondlook.training.detector.categories import load_truth
from secondlook.training.detector.evaluate import BaseLayer, average_precision, match, resampled_precision
from secondlook.training.detector.features import open_features
from tests.pictures import photo

TEACHER = Path(__file__).parents[3] / "shared" / "data" / "models" / "yolox_nano.onnx"
needs_teacher = pytest.mark.skipif(not TEACHER.exists(), reason="the YOLOX-nano export is not there")


def point(quality: int, bpp: float, ap: float, draws: tuple[float, ...] = (-1, 0, 1)) -> Point:
    return Point(quality, bpp, {"d": ap}, {"d": [ap + draw for draw in draws]})


OURS = [point(0, 0.08, 20), point(8, 0.16, 30), point(16, 0.32, 34)]
AVIF = [point(15, 0.09, 18), point(30, 0.21, 30)]


def test_accuracy_is_linear_in_the_logarithm_of_the_rate():
    assert accuracy_at(OURS, "d", 0.16) == pytest.approx(30)
    assert accuracy_at(OURS, "d", (0.08 * 0.16) ** 0.5) == pytest.approx(25)
    assert accuracy_at(OURS, "d", 0.05) is None and accuracy_at(OURS, "d", 0.4) is None


def test_bits_for_an_accuracy_are_found_where_the_curve_crosses_it():
    assert bits_for(OURS, "d", 25) == pytest.approx((0.08 * 0.16) ** 0.5)
    assert bits_for(OURS, "d", 35) is None and bits_for(OURS, "d", 19) is None


def test_half_of_avifs_bits_read_as_half():
    halved = [replace(p, bpp=p.bpp / 2) for p in AVIF]
    shares = compare({"lite": halved, "avif": AVIF}, ["d"])["share_of_avif_bits_at_equal_ap"]["lite"]["d"]
    assert [shares[key] for key in ("0.1", "0.15", "0.2")] == pytest.approx([0.5] * 3)


def test_what_moves_two_codecs_alike_is_no_error_of_their_difference():
    assert difference(OURS, AVIF, "d", 0.16) == pytest.approx([30 - accuracy_at(AVIF, "d", 0.16), 0])
    against = [point(p.quality, p.bpp, p.ap["d"], (1, 0, -1)) for p in AVIF]
    assert difference(OURS, against, "d", 0.16)[1] == pytest.approx(np.std([-2, 0, 2]))
    assert difference(OURS, AVIF, "d", 0.3) is None


def test_the_report_shows_every_point_the_error_and_what_is_never_reached():
    curves = {"lite": OURS, "avif": [point(p.quality, p.bpp, 50 + p.quality) for p in AVIF]}
    result = {
        "originals": {"d": 40.0},
        "curves": {name: [p.row() for p in points] for name, points in curves.items()},
        **compare(curves, ["d"]),
    }
    assert json.loads(json.dumps(result)) == result
    text = report(result)
    assert "lite 16" in text and "0.3200" in text and "never reached" in text and "± 0.0 at 0.15" in text


def test_detectors_judge_the_same_pictures_and_bytes_count_once():
    still = Still("jpeg", 30)
    kept = Kept(still)
    image = photo(96, 64)
    first, bits = kept(image), still.bits
    assert kept.rewind()(image) is first and still.bits == bits > 0 and still.pixels == 96 * 64
    kept(image)
    assert still.bits == 2 * bits


class Watcher:
    """Keeps what it is shown, and finds a person of 20 x 30 pixels in as many pictures as it is told to."""

    def __init__(self, *, finds=1000):
        self.name, self.classes, self.finds, self.seen = "watcher", ("person",), finds, []

    def detect(self, image):
        self.seen.append(image)
        return [Detection("person", 0.9, (10.0, 10.0, 30.0, 40.0))] if len(self.seen) <= self.finds else []


@pytest.fixture
def truth(tmp_path):
    """Two pictures with that person in each."""
    ids = (1, 2)
    for key in ids:
        cv2.imwrite(str(tmp_path / f"{key}.png"), photo(64, 96, seed=key))
    content = {
        "images": [{"id": key, "file_name": f"{key}.png", "height": 64, "width": 96} for key in ids],
        "annotations": [
            {
                "id": key,
                "image_id": key,
                "category_id": 1,
                "bbox": [10, 10, 20, 30],
                "area": 600,
                "iscrowd": 0,
            }
            for key in ids
        ],
        "categories": [{"id": 1, "name": "person"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return load_truth(tmp_path / "instances.json")


def test_a_filter_is_judged_on_the_pictures_it_refined_at_the_same_bits(truth, tmp_path):
    first, second, refine = Watcher(), Watcher(), load_postfilter("rrdb-fast", threads=1)
    detectors = {"first": first, "second": second}
    plain, refined = measure(BaseLayer("lite", 8, 40), 8, detectors, truth, tmp_path, [refine])
    assert plain.bpp == refined.bpp > 0 and plain.ap == refined.ap == {"first": 100.0, "second": 100.0}
    assert len(first.seen) == 4
    for before, after in zip(first.seen[:2], first.seen[2:], strict=True):
        assert np.array_equal(after, refine.apply(before)) and not np.array_equal(after, before)
    assert all(np.array_equal(a, b) for a, b in zip(first.seen, second.seen, strict=True))


def test_a_detector_that_finds_nothing_has_no_precision(truth, tmp_path):
    matched = match(Watcher(finds=0), truth, tmp_path, lambda image: image, ("person",))
    assert average_precision(matched) == {"AP": 0.0, "AP50": 0.0}
    assert resampled_precision(matched, 3) == [0.0] * 3


def test_drawing_images_again_gives_what_those_images_would_have_given(truth, tmp_path):
    matched = match(Watcher(finds=1), truth, tmp_path, lambda image: image, ("person",))
    half = average_precision(matched)["AP"]
    draws = resampled_precision(matched, 40)
    assert {round(value, 1) for value in draws} == {0.0, half, 100.0} and 50 < half < 51
    assert draws == resampled_precision(matched, 40)
    assert average_precision(matched)["AP"] == half


def test_another_file_is_no_detector(tmp_path):
    with pytest.raises(DetectorError, match="no detector at"):
        open_features(tmp_path / "missing.onnx")
    (tmp_path / "text.onnx").write_bytes(b"text")
    with pytest.raises(DetectorError, match="not the YOLOX-nano export"):
        open_features(tmp_path / "text.onnx")


@needs_teacher
def test_the_distance_grows_with_damage_and_passes_gradients():
    from secondlook.training.detector.teacher import Teacher

    distance = open_features(TEACHER)
    x = torch.from_numpy(photo(128, 128).transpose(2, 0, 1)[None].copy()).float() / 255
    little, much = (
        (x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
        for sigma in (0.02, 0.2)
    )
    much.requires_grad_()
    values = [distance(x, other) for other in (x, little, much)]
    assert values[0].item() == 0 and 0 < values[1].item() < values[2].item()
    assert distance(x, little, 96).item() > 0
    values[2].sum().backward()
    assert much.grad is not None and much.grad.abs().max() > 0
    maps = Teacher(TEACHER).maps((x.flip(1) * 255).numpy())
    for name, ours in zip(("s8", "p32"), (distance.features(x)[0], distance.features(x)[-1]), strict=True):
        assert np.allclose(ours.detach().numpy(), maps[name], atol=1e-3)


def test_models_of_the_same_name_are_told_apart():
    assert titles_of(["lite", "runs/b.onnx"]) == ["lite", "b"]
    assert titles_of(["a/lite", "b/lite", Path("c/v1.2")]) == ["a/lite", "b/lite", "v1.2"]

"""Masks of the base layer: what each source marks, and that a kept mask is never taken for another."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training is not installed")

# ruff: noqa: E402 - what follows needs torch
from secondlook.main import main
from secondlook.shared.errors import ConfigError, DetectorError, ModelCorrupt, ModelNotFound
from secondlook.shared.models import MODELS_ROOT
from secondlook.training.data import read_rgb
from secondlook.training.masks import regions
from secondlook.training.masks.boundaries import CannyEdges, HumanBoundaries, NetworkEdges, widen
from secondlook.training.masks.cache import MaskProvider, cache_key, masks_for
from secondlook.training.masks.choice import MASKS, MaskConfig, open_masks
from secondlook.training.masks.network import EdgeNet, load_network, probabilities, train_edges
from secondlook.training.masks.regions import ObjectRegions
from secondlook.training.masks.segments import SegmentAnything, segment_edges
from tests.pictures import photo

HEIGHT, WIDTH = 96, 80


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(2)


@pytest.fixture
def data(tmp_path):
    """Two pictures of one size, the first with a human boundary in column 40, and an edge network."""
    for name in ("train/images", "train/boundaries"):
        (tmp_path / name).mkdir(parents=True)
    for number in range(2):
        cv2.imwrite(
            str(tmp_path / f"train/images/{number}.png"), photo(HEIGHT, WIDTH, seed=number)[:, :, ::-1]
        )
    boundary = np.zeros((HEIGHT, WIDTH), np.uint8)
    boundary[:, 40] = 255
    cv2.imwrite(str(tmp_path / "train/boundaries/0.png"), boundary)
    torch.save(EdgeNet().state_dict(), tmp_path / "edges.pt")
    return tmp_path


def images(data):
    return sorted((data / "train" / "images").iterdir())


def coco(data, entries):
    """A COCO instances file for the first picture: `entries` are its annotations."""
    path = data / "instances.json"
    annotations = [
        {"id": i + 1, "image_id": 7, "category_id": 1, "iscrowd": 0, "area": 1.0, **entry}
        for i, entry in enumerate(entries)
    ]
    image = {"id": 7, "file_name": "0.png", "height": HEIGHT, "width": WIDTH}
    path.write_text(
        json.dumps(
            {"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
        )
    )
    return path


class Counting(MaskProvider):
    """Marks the brightest pixels, and counts how often it is asked."""

    name = "counting"

    def __init__(self, threshold=128):
        self.threshold, self.asked, self.known = threshold, 0, b""

    @property
    def settings(self):
        return {"threshold": self.threshold}

    def evidence(self, path):
        return self.known

    def mask(self, path, image):
        self.asked += 1
        return (image.mean(2) > self.threshold).astype(np.uint8) * 255


def test_a_mask_is_made_once_and_read_back_the_same(data):
    first, again = Counting(), Counting()
    made = masks_for(first, images(data), data / "masks")
    kept = masks_for(again, images(data), data / "masks")
    assert (first.asked, again.asked) == (2, 0)
    assert [m.shape for m in made] == [(HEIGHT, WIDTH)] * 2
    assert all(np.array_equal(a, b) and a.any() for a, b in zip(made, kept, strict=True))


def test_other_settings_evidence_content_or_source_make_another_mask(data):
    path = images(data)[0]
    plain, strict, knowing, renamed = Counting(), Counting(200), Counting(), Counting()
    knowing.known, renamed.name = b"a box", "renamed"
    keys = {cache_key(provider, path) for provider in (plain, strict, knowing, renamed)}
    cv2.imwrite(str(path), photo(HEIGHT, WIDTH, seed=9))
    keys.add(cache_key(plain, path))
    assert len(keys) == 5
    before = cache_key(plain, path)
    assert cache_key(plain, path.rename(path.with_name("renamed.png"))) == before


def test_a_damaged_file_in_the_cache_is_made_again(data):
    provider = Counting()
    masks_for(provider, images(data), data / "masks")
    for kept in (data / "masks" / "counting").iterdir():
        kept.write_bytes(b"no picture")
    assert all(m.any() for m in masks_for(provider, images(data), data / "masks"))
    assert provider.asked == 4


def test_masks_come_from_people_where_they_drew_some(data):
    provider = open_masks(MaskConfig("human"), data, data)
    drawn, found = masks_for(provider, images(data), data / "masks")
    assert drawn[:, 40].min() == 255 and drawn[:, :30].max() == 0 and drawn[:, 50:].max() == 0
    (network,) = masks_for(open_masks(MaskConfig("edges"), data, data), images(data)[1:], data / "masks")
    assert np.array_equal(found, network)


def test_a_network_is_asked_for_only_where_it_is_needed(data):
    human = HumanBoundaries(data / "train" / "boundaries", NetworkEdges(data / "none" / "edges.pt"))
    assert masks_for(human, images(data)[:1], data / "masks")[0].any()
    with pytest.raises(ModelNotFound, match="run `secondlook train edges`"):
        masks_for(human, images(data)[1:], data / "masks")


def test_a_boundary_of_another_size_is_refused(data):
    cv2.imwrite(str(data / "train/boundaries/1.png"), np.zeros((10, 10), np.uint8))
    with pytest.raises(ConfigError, match="boundary map of the size of"):
        masks_for(open_masks(MaskConfig("human"), data, data), images(data), data / "masks")


def test_a_wide_boundary_reaches_both_sides():
    line = np.zeros((21, 21), np.uint8)
    line[:, 10] = 255
    assert (widen(line)[:, 7:14] == 255).all() and not widen(line)[:, :4].any()


def test_canny_marks_the_edge_of_a_square_and_nothing_flat(data):
    image = np.full((64, 64, 3), 60, np.uint8)
    image[20:44, 20:44] = 200
    mask = CannyEdges().mask(data / "square.png", image)
    assert mask[20:44, 20].min() == 255 and not mask[30:34, 30:34].any() and not mask[:10].any()


@pytest.mark.timeout(600)  # seconds of work, but of all cores it can get
def test_the_edge_network_learns_boundaries(tmp_path):
    """Ellipses on shading: after seconds it must tell boundary from background on a picture it has not seen."""
    (tmp_path / "images").mkdir()
    (tmp_path / "boundaries").mkdir()

    def pair(seed):
        rng = np.random.default_rng(seed)
        image, boundary = np.full((176, 176, 3), 90, np.uint8), np.zeros((176, 176), np.uint8)
        for _ in range(4):
            centre, axes = rng.integers(20, 156, 2).tolist(), rng.integers(10, 40, 2).tolist()
            cv2.ellipse(image, centre, axes, 0, 0, 360, rng.integers(0, 255, 3).tolist(), -1)
            cv2.ellipse(boundary, centre, axes, 0, 0, 360, 0, -1)
            cv2.ellipse(boundary, centre, axes, 0, 0, 360, 255, 1)
        return image, boundary

    for seed, suffix in ((1, "jpg"), (2, "png"), (3, "jpg")):
        image, boundary = pair(seed)
        cv2.imwrite(str(tmp_path / "images" / f"{seed}.{suffix}"), image)
        cv2.imwrite(str(tmp_path / "boundaries" / f"{seed}.png"), boundary)
    train_edges(tmp_path / "images", tmp_path / "boundaries", tmp_path / "edges.pt", 1, threads=1, steps=40)
    image, boundary = pair(4)
    seen = probabilities(load_network(tmp_path / "edges.pt"), image)
    near = cv2.dilate(boundary, np.ones((5, 5), np.uint8)) > 0
    assert seen[boundary > 0].mean() > 1.3 * seen[~near].mean()


def test_regions_are_what_the_annotations_outline(data):
    square = {"segmentation": [[10, 10, 40, 10, 40, 40, 10, 40]], "bbox": [10, 10, 30, 30]}
    path = coco(data, [square, {"bbox": [50, 60, 20, 20]}])
    provider = open_masks(MaskConfig("regions", annotations=path), data, data)
    (mask,) = masks_for(provider, images(data)[:1], data / "masks")
    assert mask[12:39, 12:39].min() == 255 and mask[62:79, 52:69].min() == 255
    assert not mask[:5].any() and not mask[50:54].any() and not mask[:, 76:].any()
    unlisted = images(data)[1]
    assert np.array_equal(
        provider.mask(unlisted, read_rgb(unlisted)), ObjectRegions().mask(unlisted, read_rgb(unlisted))
    )


def test_a_crowd_in_run_lengths_is_a_region(data):
    counts = [0, HEIGHT * 20, HEIGHT * (WIDTH - 20)]  # column by column: the first twenty
    crowd = {
        "iscrowd": 1,
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": counts},
        "bbox": [0, 0, 20, HEIGHT],
    }
    path = images(data)[0]
    mask = ObjectRegions(annotations=coco(data, [crowd])).mask(path, read_rgb(path))
    assert mask[:, :20].min() == 255 and not mask[:, 28:].any()


def test_other_annotations_of_an_image_make_another_mask(data):
    path = images(data)[0]
    keys = [
        cache_key(ObjectRegions(annotations=coco(data, entries)), path)
        for entries in ([], [{"bbox": [1, 2, 3, 4]}], [{"bbox": [1, 2, 3, 5]}])
    ]
    assert len({*keys, cache_key(ObjectRegions(), path)}) == 4


def test_annotations_must_fit(data):
    path = images(data)[0]
    provider = ObjectRegions(annotations=coco(data, [{"bbox": [1, 2, 3, 4]}]))
    with pytest.raises(ConfigError, match=r"0\.png is 40x48, but .* describes it as 80x96"):
        provider.mask(path, np.zeros((48, 40, 3), np.uint8))
    for content in ("no json", "[]", '{"images": [{}]}'):
        (data / "other.json").write_text(content)
        with pytest.raises(ConfigError, match="no COCO instances file"):
            ObjectRegions(annotations=data / "other.json")
    with pytest.raises(ConfigError, match="no COCO instances file"):
        ObjectRegions(annotations=data / "missing.json")


def test_regions_of_a_detector_are_its_boxes(data, monkeypatch):
    path = images(data)[0]
    monkeypatch.setattr(regions, "MIN_SCORE", 0.02)  # a picture of ellipses holds nothing it is sure of
    detector = regions.load_detector("builtin", threads=1, min_score=0.02)
    boxes = [found.box for found in detector.detect(read_rgb(path))]
    mask = ObjectRegions(str(MODELS_ROOT / "detector")).mask(path, read_rgb(path))
    covered = np.zeros((HEIGHT, WIDTH), bool)
    for x0, y0, x1, y1 in boxes:
        covered[max(0, round(y0)) : round(y1), max(0, round(x0)) : round(x1)] = True
    assert boxes and (mask[covered] > 250).mean() > 0.95
    assert not mask[cv2.dilate(covered.astype(np.uint8), np.ones((15, 15))) == 0].any()


def test_a_detector_that_would_be_downloaded_is_refused():
    with pytest.raises(DetectorError, match="no detector at yolo11n"):
        ObjectRegions("yolo11n")


def test_every_segment_is_outlined_even_where_they_overlap():
    segments = np.zeros((2, 40, 40), bool)
    segments[0, :, :] = True  # the ground: it fills the picture and has no outline of its own
    segments[1, 10:30, 10:30] = True
    edges = segment_edges(segments)
    assert set(np.unique(edges)) == {0, 255}
    assert edges[10, 10:30].all() and edges[29, 10:30].all() and edges[10:30, 29].all()
    assert not edges[13:27, 13:27].any() and not edges[0].any() and not edges[:, 39].any()
    inner = np.zeros((1, 40, 40), np.uint8)
    inner[0, 15:25, 15:25] = 1
    both = segment_edges(np.concatenate([segments.astype(np.uint8), inner]))
    assert np.array_equal(both, edges | segment_edges(inner))


def test_no_segment_is_no_edge():
    assert not segment_edges(np.zeros((0, 5, 6), bool)).any()


def test_missing_weights_say_what_to_do_and_nothing_is_downloaded(data, monkeypatch):
    downloads = pytest.importorskip("ultralytics.utils.downloads")
    monkeypatch.setattr(downloads, "safe_download", lambda *a, **k: pytest.fail("a download was tried"))
    for name in ("sam_b.pt", "FastSAM-s.pt"):
        with pytest.raises(ModelNotFound) as caught:
            open_masks(MaskConfig("sam", sam_weights=data / name), data, data)
        text = str(caught.value)
        assert name in text and "--sam-weights" in text and "--masks human" in text and "\n" not in text


def test_training_with_missing_weights_ends_in_one_line(data, capsys):
    pytest.importorskip("ultralytics")
    command = ["train", "lite", "--data", str(data), "--work", str(data), "--minutes", "1"]
    assert main([*command, "--masks", "sam", "--sam-weights", str(data / "sam_l.pt")]) == 1
    assert capsys.readouterr().err.startswith("secondlook: error: no Segment Anything weights at ")


@pytest.mark.parametrize("name", ["sam_b.pt", "FastSAM-s.pt", "unknown.pt", "mobile_sam.onnx"])
def test_files_that_are_no_weights_are_refused(tmp_path, name):
    pytest.importorskip("ultralytics")
    (tmp_path / name).write_bytes(b"these are no weights")
    with pytest.raises(ModelCorrupt, match="cannot load Segment Anything weights") as caught:
        SegmentAnything(tmp_path / name)
    assert "\n" not in str(caught.value)


def outlined(provider, data):
    """A mask through the cache, which must be the widened outlines of what the network segments."""
    path = images(data)[0]
    (mask,) = masks_for(provider, [path], data / "masks")
    segments = provider.segments(read_rgb(path))
    assert segments.dtype == np.bool_ and segments.shape[1:] == (HEIGHT, WIDTH) and len(segments) > 0
    assert mask.any() and np.array_equal(mask, widen(segment_edges(segments)))


def test_mobile_sam_runs_for_real_with_random_weights(data):
    """The network as published, its heads scaled so that random segments count as sure and stable."""
    build = pytest.importorskip("ultralytics.models.sam.build")
    state = build.build_mobile_sam().state_dict()
    for name, value in state.items():
        if name.startswith("mask_decoder.iou_prediction_head.layers.2"):
            value.fill_(1.0 if name.endswith("bias") else 0.0)
        elif "output_hypernetworks_mlps" in name and "layers.2" in name:
            value *= 1e4
    torch.save(state, data / "mobile_sam.pt")
    outlined(SegmentAnything(data / "mobile_sam.pt", side=64), data)


def test_fast_sam_runs_for_real_with_random_weights(data):
    ultralytics = pytest.importorskip("ultralytics")
    network = ultralytics.YOLO("yolov8n-seg.yaml")
    for head in network.model.model[-1].cv4:  # coefficients of the mask prototypes, which start too alike
        torch.nn.init.normal_(head[-1].bias, 0, 1)
    network.save(str(data / "FastSAM-s.pt"))
    outlined(SegmentAnything(data / "FastSAM-s.pt", side=128, confidence=1e-5), data)


def test_every_name_opens_its_own_source(data):
    """All but `sam`, which has its own tests; and names that do not exist are refused."""
    opened = [open_masks(MaskConfig(name), data, data) for name in MASKS if name != "sam"]
    assert [provider.name for provider in opened] == [name for name in MASKS if name != "sam"]
    with pytest.raises(ConfigError, match="there are human, edges"):
        open_masks(MaskConfig("clouds"), data, data)

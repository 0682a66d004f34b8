"""The arithmetic around detectors: placing frames, reading raw numbers, suppressing duplicates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.shared.detection import (
    COCO_CLASSES,
    Detection,
    Letterbox,
    Raw,
    Stretch,
    coco_numbering,
    decode_detr,
    decode_end_to_end,
    decode_nanodet,
    decode_ssd,
    decode_yolov5,
    decode_yolov8,
    decode_yolox,
    letterbox,
    ssd_anchors,
    stretch,
    suppress,
    to_detections,
    yolox_cells,
)
from secondlook.shared.errors import DetectorError


def raw(boxes: list[tuple[float, float, float, float]], scores: list[float], classes: list[int]) -> Raw:
    return Raw(np.array(boxes, np.float32), np.array(scores, np.float32), np.array(classes, np.int64))


def test_the_class_names_are_those_of_coco() -> None:
    assert len(COCO_CLASSES) == len(set(COCO_CLASSES)) == 80
    assert COCO_CLASSES[0] == "person" and COCO_CLASSES[2] == "car" and COCO_CLASSES[79] == "toothbrush"


@pytest.mark.parametrize("centred", [False, True])
def test_a_wide_frame_fills_the_width_and_is_grey_elsewhere(centred: bool) -> None:
    frame = np.full((100, 200, 3), 255, np.uint8)
    canvas, place = letterbox(frame, 64, 64, centred=centred)
    white = np.flatnonzero((canvas == 255).all(axis=(1, 2)))
    assert canvas.shape == (64, 64, 3)
    assert white.tolist() == list(range(16, 48) if centred else range(32))
    assert (np.delete(canvas, white, axis=0) == 114).all()
    assert place == Letterbox(0.32, 0.0, 16.0 if centred else 0.0)


@given(st.integers(1, 300), st.integers(1, 300), st.booleans(), st.floats(0, 0.45), st.floats(0.55, 1))
def test_a_box_comes_back_to_where_it_was(
    rows: int, columns: int, centred: bool, low: float, high: float
) -> None:
    _, place = letterbox(np.zeros((rows, columns, 3), np.uint8), 96, 160, centred=centred)
    frame_box = np.array([low * columns, low * rows, high * columns, high * rows])
    offset = np.array([place.left, place.top, place.left, place.top])
    back = place.to_frame((frame_box * place.scale + offset)[None].astype(np.float32))
    np.testing.assert_allclose(back[0], frame_box, atol=0.05 * max(1.0, 1 / place.scale))


def test_yolox_rows_are_cells_of_three_strides() -> None:
    assert yolox_cells(416, 416) == 3549
    output = np.zeros((yolox_cells(64, 96), 7), np.float32)
    output[12 * 3 + 5] = [0.5, 0.25, np.log(2), np.log(3), 0.5, 0.2, 0.8]  # stride 8: row 3, column 5
    output[96 + 6 * 1 + 2] = [0, 0, 0, 0, 1, 0.4, 0.1]  # stride 16: row 1, column 2
    found = decode_yolox(output, 64, 96)
    np.testing.assert_allclose(found.boxes[41], [44 - 8, 26 - 12, 44 + 8, 26 + 12], rtol=1e-5)
    np.testing.assert_allclose(found.boxes[104], [24, 8, 40, 24], rtol=1e-5)
    assert found.scores[41] == pytest.approx(0.4) and found.classes[41] == 1
    assert found.scores[104] == pytest.approx(0.4) and found.classes[104] == 0


def test_yolox_rows_must_fit_the_input() -> None:
    with pytest.raises(DetectorError, match="do not fit"):
        decode_yolox(np.zeros((10, 7), np.float32), 64, 64)


def test_yolov5_multiplies_objectness_and_class() -> None:
    found = decode_yolov5(np.array([[10, 20, 4, 8, 0.5, 0.1, 0.6]], np.float32))
    np.testing.assert_allclose(found.boxes, [[8, 16, 12, 24]])
    assert found.scores[0] == pytest.approx(0.3) and found.classes[0] == 1


def test_yolov8_has_candidates_in_columns_and_no_objectness() -> None:
    found = decode_yolov8(np.array([[10, 20, 4, 8, 0.1, 0.6], [5, 5, 2, 2, 0.7, 0.2]], np.float32).T)
    np.testing.assert_allclose(found.boxes, [[8, 16, 12, 24], [4, 4, 6, 6]])
    np.testing.assert_allclose(found.scores, [0.6, 0.7])
    assert found.classes.tolist() == [1, 0]


def test_end_to_end_is_read_as_it_stands() -> None:
    found = decode_end_to_end(np.array([[1, 2, 3, 4, 0.9, 7]], np.float32))
    assert found.boxes.tolist() == [[1, 2, 3, 4]] and found.classes.tolist() == [7]


def test_duplicates_of_a_class_go_and_the_best_stays() -> None:
    boxes = [(0.0, 0.0, 10.0, 10.0), (1.0, 0.0, 11.0, 10.0), (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 60.0)]
    kept = suppress(raw(boxes, [0.6, 0.9, 0.5, 0.3], [0, 0, 1, 0]), 0.5, 100)
    np.testing.assert_allclose(kept.scores, [0.9, 0.5, 0.3])
    assert kept.classes.tolist() == [0, 1, 0]
    assert len(suppress(raw(boxes, [0.6, 0.9, 0.5, 0.3], [0, 0, 1, 0]), 0.5, 2).scores) == 2


def test_a_box_that_is_no_box_takes_none_along() -> None:
    nowhere = (float("nan"), 0.0, 5.0, 5.0)
    kept = suppress(
        raw([nowhere, (0.0, 0.0, 10.0, 10.0), (np.inf, 0, np.inf, 1)], [0.9, 0.8, 0.7], [0, 0, 0]), 0.5, 9
    )
    assert kept.boxes.tolist() == [[0, 0, 10, 10]]


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 9), st.integers(0, 1)), max_size=12
    )
)
def test_what_is_kept_does_not_overlap(items: list[tuple[int, int, int, int]]) -> None:
    boxes = [(float(x), float(y), float(x + size), float(y + size)) for x, y, size, _ in items]
    scores = [1 / (i + 1) for i in range(len(items))]
    given_boxes = raw(boxes, scores, [c for *_, c in items])
    if not items:
        given_boxes = Raw(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    kept = suppress(given_boxes, 0.5, 100)
    for i, a in enumerate(kept.boxes):
        for j in range(i):
            b = kept.boxes[j]
            sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
            both = sides.prod()
            union = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - both
            assert kept.classes[i] != kept.classes[j] or both <= 0.5 * union
    assert len(items) == 0 or kept.scores[0] == 1.0


def test_boxes_are_clipped_to_the_frame_and_dropped_outside() -> None:
    candidates = raw(
        [(-5, -5, 20, 20), (200, 200, 300, 300), (1, 1, 5, 5), (np.nan, 0, 5, 5)],
        [0.75, 0.5, 0.5, 0.5],
        [0, 0, 9, 0],
    )
    found = to_detections(candidates, Letterbox(1.0, 0.0, 0.0), (10, 15, 3), ("person", "car"))
    assert found == [Detection("person", 0.75, (0.0, 0.0, 15.0, 10.0))]


@pytest.mark.parametrize(
    ("score", "box"), [(1.5, (0, 0, 1, 1)), (0.5, (1, 0, 1, 1)), (float("nan"), (0, 0, 1, 1))]
)
def test_a_detection_that_makes_no_sense_is_refused(
    score: float, box: tuple[float, float, float, float]
) -> None:
    with pytest.raises(ValueError, match=r"box|score"):
        Detection("car", score, box)


def test_cocos_numbers_have_ten_gaps() -> None:
    names = coco_numbering()
    assert len(names) == 90 and names.count("") == 10
    assert names[0] == "person" and names[12] == "stop sign" and names[89] == "toothbrush"
    assert tuple(filter(None, names)) == COCO_CLASSES


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0, 0.45), st.floats(0.55, 1))
def test_a_stretched_box_comes_back_to_where_it_was(rows: int, columns: int, low: float, high: float) -> None:
    canvas, place = stretch(np.zeros((rows, columns, 3), np.uint8), 30, 60)
    assert canvas.shape == (30, 60, 3) and place == Stretch(60 / columns, 30 / rows)
    box = np.array([[60 * low, 30 * low, 60 * high, 30 * high]], np.float32)
    expected = [columns * low, rows * low, columns * high, rows * high]
    assert np.allclose(place.to_frame(box), [expected], rtol=1e-4, atol=1e-3)


def test_anchors_of_ssd() -> None:
    anchors = ssd_anchors(300, 300)
    assert anchors.shape == (19 * 19 * 3 + (100 + 25 + 9 + 4 + 1) * 6, 4)
    assert np.allclose(anchors[0], [0.5 / 19, 0.5 / 19, 0.1, 0.1])
    assert np.allclose(anchors[1], [0.5 / 19, 0.5 / 19, 0.2 / 2**0.5, 0.2 * 2**0.5])
    assert np.allclose(anchors[3], [0.5 / 19, 1.5 / 19, 0.1, 0.1])  # columns before rows
    assert np.allclose(anchors[-6], [0.5, 0.5, 0.95, 0.95])
    assert np.allclose(anchors[-1], [0.5, 0.5, 0.95**0.5, 0.95**0.5])


def test_ssd_moves_and_scales_its_anchors() -> None:
    anchors = np.array([[0.5, 0.25, 0.2, 0.4], [0.5, 0.5, 0.1, 0.1]], np.float32)
    offsets = np.array([[10, -5, 5 * np.log(2), 0], [0, 0, 0, 0]], np.float32)
    found = decode_ssd(offsets, np.array([[0, 2], [-3, -4]], np.float32), anchors, 100, 200)
    # centre y 0.5 + 0.2, x 0.25 - 0.5 x 0.4; twice as high
    assert np.allclose(found.boxes, [[-30, 50, 50, 90], [90, 45, 110, 55]], atol=1e-4)
    assert np.allclose(found.scores, 1 / (1 + np.exp([-2, 3]))) and found.classes.tolist() == [1, 0]


@pytest.mark.parametrize(("side", "cells", "middle"), [(64, 84, 12.0), (128, 340, 8.0)])
def test_nanodet_takes_the_mean_of_its_distances(side: int, cells: int, middle: float) -> None:
    """Strides 8, 16, 32 measure from the middle of a cell; with 64 it is NanoDet-Plus, which does from its corner."""
    scores = np.zeros((cells, 2), np.float32)
    logits = np.full((cells, 4, 8), -50, np.float32)
    cell = side // 8 + 1  # x 1, y 1 at stride 8
    scores[cell, 1] = 0.8
    logits[cell, :, 1] = 0  # one stride each way ...
    logits[cell, 3, 2] = 0  # ... but one and a half downwards: 1 and 2 are as likely
    found = decode_nanodet(scores, logits.reshape(cells, 32), side, side).at_least(0.5)
    assert np.allclose(found.boxes, [[middle - 8, middle - 8, middle + 8, middle + 12]], atol=1e-3)
    assert found.classes.tolist() == [1] and found.scores == pytest.approx([0.8])
    with pytest.raises(DetectorError, match="strides of NanoDet"):
        decode_nanodet(scores[1:], logits.reshape(cells, 32)[1:], side, side)


def test_detr_boxes_are_shares_of_the_input() -> None:
    boxes = np.array([[0.5, 0.25, 0.5, 0.5]], np.float32)
    found = decode_detr(boxes, np.array([[0.1, 0.7]], np.float32), 100, 200)
    assert np.allclose(found.boxes, [[50, 0, 150, 50]]) and found.classes.tolist() == [1]

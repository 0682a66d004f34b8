"""Engines behind the Detector protocol, on small ONNX graphs of each family's layout."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from secondlook.cloud.workers.detectors import load_detector
from secondlook.shared.detection import detect_all, yolox_cells
from secondlook.shared.detectors import OnnxDetector
from secondlook.shared.errors import DetectorError, ModelCorrupt, ModelNotFound
from secondlook.shared.layouts import recognise
from secondlook.shared.models import describe_files

onnx = pytest.importorskip("onnx", reason="onnx builds the graphs that these tests run")

SIDE = 64
CELLS = yolox_cells(SIDE, SIDE)
NAMES = {0: "person", 1: "car"}


def save_graph(
    path: Path,
    output: np.ndarray,
    score_at: tuple[int, int],
    channel: int,
    metadata: dict[str, str],
    side: int = SIDE,
) -> Path:
    """A graph that returns `output`, with the mean of one input channel added at `score_at`."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    where = np.zeros_like(output)
    where[0, score_at[0], score_at[1]] = 1
    constants = {
        "base": output,
        "where": where,
        "channel": np.array([channel], np.int64),
        "scalar": np.array([1, 1, 1], np.int64),
    }
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Gather", ["means", "channel"], ["mean"], axis=1),
        helper.make_node("Reshape", ["mean", "scalar"], ["score"]),
        helper.make_node("Mul", ["where", "score"], ["placed"]),
        helper.make_node("Add", ["base", "placed"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "layout",
        [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, list(output.shape))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, metadata)
    onnx.save(model, str(path))
    return path


def save_outputs(
    path: Path, shape: list[str | int], outputs: dict[str, np.ndarray], metadata: dict[str, str] | None = None
) -> None:
    """A graph that takes frames of this shape and returns the same outputs for each of them."""
    helper, tensor = onnx.helper, onnx.TensorProto
    constants = {"first": np.array([0], np.int64), "one": np.array([1], np.int64)}
    nodes = [
        helper.make_node("Shape", ["images"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "first"], ["frames"]),
    ]
    for name, value in outputs.items():
        constants[f"{name}_value"] = value
        constants[f"{name}_ones"] = np.ones(value.ndim - 1, np.int64)
        nodes += [
            helper.make_node("Concat", ["frames", f"{name}_ones"], [f"{name}_times"], axis=0),
            helper.make_node("Tile", [f"{name}_value", f"{name}_times"], [name]),
        ]
    graph = helper.make_graph(
        nodes,
        "outputs",
        [helper.make_tensor_value_info("images", tensor.FLOAT, shape)],
        [helper.make_tensor_value_info(name, tensor.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, str(path))


def red_frame() -> np.ndarray:
    """48 rows of 96 columns of pure red: fits the 64x64 input at two thirds, with grey bars."""
    frame = np.zeros((48, 96, 3), np.uint8)
    frame[..., 0] = 255
    return frame


def expected_mean(channel_value: int) -> float:
    return (channel_value * 0.5 + 114 * 0.5) / 255


def test_yolox_export_gets_bgr_bytes_with_the_frame_top_left(tmp_path: Path) -> None:
    output = np.zeros((1, CELLS, 7), np.float32)
    output[0, 9] = [0, 0, np.log(2), np.log(2), 0.001, 0, 0]  # stride 8, cell (1, 1): centre 8,8, size 16
    # Class score is the mean of the third plane, red in BGR, in 0..255; objectness scales it into 0..1.
    path = save_graph(tmp_path / "x.onnx", output, (9, 6), 2, {"names": str(NAMES)})
    (found,) = load_detector(str(path), threads=1).detect(red_frame())
    assert found.label == "car"
    assert found.score == pytest.approx(expected_mean(255) * 0.255, rel=1e-3)
    assert found.box == pytest.approx((0, 0, 24, 24), abs=1e-3)


def test_yolov8_export_gets_rgb_with_the_frame_in_the_middle(tmp_path: Path) -> None:
    output = np.zeros((1, 6, CELLS), np.float32)
    output[0, :4, 3] = [32, 32, 16, 16]
    path = save_graph(tmp_path / "v8.onnx", output, (4, 3), 0, {"names": json.dumps(["person", "car"])})
    (found,) = load_detector(str(path), threads=1).detect(red_frame())
    assert found.label == "person" and found.score == pytest.approx(expected_mean(255), rel=1e-3)
    assert found.box == pytest.approx(
        (36, 12, 60, 36), abs=1e-3
    )  # 64-pixel input back to 96x48: x1.5, bars off


def test_yolov5_export(tmp_path: Path) -> None:
    output = np.zeros((1, 3 * CELLS, 7), np.float32)
    output[0, 5] = [32, 32, 16, 16, 0.5, 0, 0]
    path = save_graph(tmp_path / "v5.onnx", output, (5, 6), 0, {"names": str(NAMES)})
    (found,) = load_detector(str(path), threads=1, min_score=0.2).detect(red_frame())
    assert found.label == "car" and found.score == pytest.approx(expected_mean(255) / 2, rel=1e-3)
    assert load_detector(str(path), threads=1, min_score=0.5).detect(red_frame()) == []


def test_end_to_end_export_keeps_overlapping_boxes(tmp_path: Path) -> None:
    output = np.zeros((1, 10, 6), np.float32)
    output[0, 0] = [24, 24, 40, 40, 0.1, 2]
    output[0, 1] = [24, 24, 41, 40, 0.4, 2]
    path = save_graph(tmp_path / "e2e.onnx", output, (0, 4), 0, {"task": "detect"})
    found = load_detector(str(path), threads=1).detect(red_frame())
    assert [d.label for d in found] == ["car", "car"]  # the third of COCO's names
    assert found[0].score > found[1].score


@pytest.mark.parametrize("shape", [(1, CELLS, 7), (1, 6, CELLS), (1, 3 * CELLS, 7), (1, 10, 6)])
@pytest.mark.parametrize(
    "columns", [slice(None), slice(0, 4), slice(4, None)], ids=["all", "boxes", "scores"]
)
def test_a_detector_that_gives_no_numbers_fails_at_its_first_frame(
    tmp_path: Path, shape: tuple[int, int, int], columns: slice
) -> None:
    output = np.zeros(shape, np.float32)
    (output if shape != (1, 6, CELLS) else output.transpose(0, 2, 1))[..., columns] = np.nan
    names = str(NAMES)
    detector = load_detector(
        str(save_graph(tmp_path / "x.onnx", output, (0, 0), 0, {"names": names})), threads=1
    )
    with pytest.raises(DetectorError, match=r"^x found nothing but NaN in a frame"):
        detector.detect(red_frame())


def test_some_values_that_are_no_numbers_do_no_harm(tmp_path: Path) -> None:
    output = np.zeros((1, CELLS, 7), np.float32)
    output[0, 1] = np.nan
    path = save_graph(tmp_path / "x.onnx", output, (0, 0), 0, {"names": str(NAMES)})
    assert load_detector(str(path), threads=1).detect(red_frame()) == []


def family(*shapes: tuple[int, ...], side: int = 640, **metadata: str) -> str:
    return recognise(shapes, side, side, metadata).family


def test_layouts_are_told_apart_by_shape() -> None:
    assert family((1, 3549, 85), side=416) == "YOLOX"
    assert family((1, 3549, 6), side=416) == "YOLOX"  # with one class, not end to end
    assert family((1, 25200, 85)) == family((1, 25200, 6)) == "YOLOv5"
    assert recognise([(1, 25200, 85)], 640, 640, {}).classes == 80
    assert recognise([(1, 84, 8400)], 640, 640, {}).classes == 80
    assert recognise([(1, 300, 6)], 640, 640, {}).suppressed
    assert family((1, 300, 84)) == "RT-DETR"
    assert family((1, 300, 80), (1, 300, 4)) == family((1, 300, 4), (1, 300, 80)) == "DETR"
    assert family((1, 1917, 90), (1, 1917, 1, 4), side=300) == "SSD"
    assert family((1, 1917, 4), (1, 1917, 91), side=300) == "SSD"
    assert family((1, 8, 4), (1, 8, 91), anchors=str([[0.5, 0.5, 0.1, 0.1]] * 8)) == "SSD"
    assert family((1, 3549, 112), side=416) == "NanoDet"  # as many rows as YOLOX: the names decide
    assert family((1, 3549, 112), side=416, names=str(["one"] * 107)) == "YOLOX"
    assert family((1, 3598, 112), side=416) == "NanoDet"
    levels = [(1, rows, columns) for rows in (169, 2704, 676) for columns in (80, 44)]
    assert family(*levels, side=416) == family((1, 3549, 44), (1, 3549, 80), side=416) == "NanoDet"
    for shapes in (
        [(1, 84)],
        [(2, 84, 8400)],
        [(1, 7, 7)],
        [(1, 3, 8400)],
        [(1, 2000, 4), (1, 2000, 80)],
        [(1, 300, 4), (1, 299, 80)],
        [(1, 300, 2, 4), (1, 300, 80)],
        [*levels[:-1], (1, 676, 40)],
    ):
        with pytest.raises(DetectorError, match="layout"):
            recognise(shapes, 416, 416, {})


def test_ssd_of_cocos_numbers_gives_its_classes_and_batches(tmp_path: Path) -> None:
    """90 scores, the twelfth of which stands for nothing, however high it is."""
    boxes = np.zeros((1, 3, 1, 4), np.float32)
    boxes[0, 1, 0] = [0.25, 0.5, 0.75, 1.0]  # y0, x0, y1, x1
    scores = np.zeros((1, 3, 90), np.float32)
    scores[0, 1, 12] = 0.7  # number 13: stop sign
    scores[0, 1, 11] = 0.9
    path = tmp_path / "ssd.onnx"
    save_outputs(path, ["frames", 32, 32, 3], {"scores": scores, "boxes": boxes})
    detector = load_detector(str(path), threads=1)
    assert len(detector.classes) == 80 and detector.classes[11] == "stop sign"
    one, other = detect_all(detector, [red_frame(), red_frame()[:24]])
    assert [(found.label, found.box) for found in one] == [("stop sign", (48, 12, 96, 36))]
    assert one[0].score == pytest.approx(0.7)
    assert [found.box for found in other] == [(48, 6, 96, 18)]  # stretched, not letterboxed


@pytest.mark.parametrize("batch", ["frames", 1])
def test_a_batch_is_one_run_where_the_graph_takes_several(tmp_path: Path, batch: str | int) -> None:
    outputs = {"scores": np.full((1, 3, 80), 0.5, np.float32), "boxes": np.zeros((1, 3, 1, 4), np.float32)}
    path = tmp_path / "ssd.onnx"
    save_outputs(path, [batch, 32, 32, 3], outputs)
    detector = load_detector(str(path), threads=1)
    runs, run = [], detector._session.run
    detector._session.run = lambda feeds: runs.append(1) or run(feeds)
    assert len(detect_all(detector, [red_frame()] * 3)) == 3
    assert len(runs) == (1 if batch == "frames" else 3)


def test_detr_logits_and_boxes(tmp_path: Path) -> None:
    boxes, logits = np.full((1, 5, 4), 0.1, np.float32), np.full((1, 5, 2), -9, np.float32)
    boxes[0, 2], logits[0, 2, 1] = [0.5, 0.5, 0.5, 1.0], 2.0
    path = tmp_path / "detr.onnx"
    outputs = {"logits": logits, "pred_boxes": boxes}
    save_outputs(path, [1, 3, 64, 64], outputs, {"names": str(NAMES)})
    (found,) = load_detector(str(path), threads=1).detect(red_frame())
    assert (found.label, found.box) == ("car", (24, 0, 72, 48))
    assert found.score == pytest.approx(1 / (1 + np.exp(-2)))
    joined = np.zeros((1, 100, 7), np.float32)
    joined[0, 50] = [0.5, 0.5, 0.5, 1.0, 0.3, 0.6, 0.2]
    path = tmp_path / "rtdetr.onnx"
    save_outputs(path, [1, 3, 96, 96], {"output0": joined}, {"names": str(["a", "b", "c"])})
    (found,) = load_detector(str(path), threads=1).detect(red_frame())
    assert (found.label, found.score, found.box) == ("b", pytest.approx(0.6), (24, 0, 72, 48))


def test_a_background_before_the_classes_never_wins(tmp_path: Path) -> None:
    boxes, scores = np.zeros((1, 3, 1, 4), np.float32), np.zeros((1, 3, 3), np.float32)
    boxes[0, 0, 0], scores[0, 0] = [0, 0, 1, 1], [0.9, 0.1, 0.4]
    path = tmp_path / "ssd.onnx"
    save_outputs(path, [1, 32, 32, 3], {"boxes": boxes, "scores": scores}, {"names": str(NAMES)})
    detector = load_detector(str(path), threads=1)
    assert detector.classes == ("person", "car")
    (found,) = detector.detect(red_frame())
    assert (found.label, found.score) == ("car", pytest.approx(0.4))


def test_names_must_match_the_scores(tmp_path: Path) -> None:
    output = np.zeros((1, 6, CELLS), np.float32)
    path = save_graph(tmp_path / "a.onnx", output, (4, 3), 0, {})
    with pytest.raises(DetectorError, match="2 classes, but 80 names"):
        load_detector(str(path), threads=1)
    path = save_graph(tmp_path / "b.onnx", output, (4, 3), 0, {"names": "{'x': oops"})
    with pytest.raises(DetectorError, match="cannot be read"):
        load_detector(str(path), threads=1)
    path = save_graph(tmp_path / "c.onnx", output, (4, 3), 0, {"names": "{'a': 'person', 'b': 'car'}"})
    with pytest.raises(DetectorError, match="cannot be read"):
        load_detector(str(path), threads=1)
    path = save_graph(tmp_path / "d.onnx", output, (4, 3), 0, {"names": str(NAMES), "task": "segment"})
    with pytest.raises(DetectorError, match="segment"):
        load_detector(str(path), threads=1)


def test_wrong_specs_say_what_is_possible(tmp_path: Path) -> None:
    with pytest.raises(DetectorError, match="no such file"):
        load_detector(str(tmp_path / "gone.onnx"), threads=1)
    with pytest.raises(DetectorError, match="builtin"):
        load_detector("bulitin", threads=1)
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    with pytest.raises(ModelCorrupt):
        load_detector(str(tmp_path / "bad.onnx"), threads=1)


def test_a_model_folder_is_verified(tmp_path: Path) -> None:
    output = np.zeros((1, 6, CELLS), np.float32)
    output[0, :4, 3] = [32, 32, 16, 16]
    save_graph(tmp_path / "model.onnx", output, (4, 3), 0, {"names": str(NAMES)})
    manifest = {"name": "mine", "kind": "detector", "report_score": 0.9}
    manifest["files"] = describe_files(tmp_path, ["model.onnx"])
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    detector = load_detector(str(tmp_path), threads=1)
    assert detector.name.startswith("mine-")
    assert detector.detect(red_frame()) == []  # the frame scores 0.72, the folder asks for 0.9
    assert len(load_detector(str(tmp_path), threads=1, min_score=0.5).detect(red_frame())) == 1
    (tmp_path / "model.onnx").write_bytes((tmp_path / "model.onnx").read_bytes() + b" ")
    with pytest.raises(ModelCorrupt, match="differs from its hash"):
        load_detector(str(tmp_path), threads=1)
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "kind": "codec"}))
    with pytest.raises(ModelNotFound, match=r"codec.*not a"):
        load_detector(str(tmp_path), threads=1)


def test_ultralytics_missing_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(DetectorError, match="pip install ultralytics"):
        load_detector("yolo11n", threads=1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ultralytics_weights_that_do_not_exist(tmp_path: Path) -> None:
    pytest.importorskip("ultralytics", reason="ultralytics is an optional package")
    with pytest.raises(DetectorError, match="cannot load ultralytics weights"):
        load_detector(str(tmp_path / "mine.pt"), threads=1)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_ultralytics_weights_that_are_no_numbers(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    torch = pytest.importorskip("torch", reason="torch is an optional package")

    class Weights:
        names = NAMES
        model = torch.nn.Linear(1, 1)

    torch.nn.init.constant_(Weights.model.weight, value)
    package = types.SimpleNamespace(YOLO=lambda *_, **__: Weights)
    monkeypatch.setitem(sys.modules, "ultralytics", package)
    if value == 0.0:
        assert load_detector("yolo11n", threads=0).classes == ("person", "car")
        return
    with pytest.raises(DetectorError, match=r"weights 'yolo11n\.pt' hold NaN"):
        load_detector("yolo11n", threads=0)


def test_the_shipped_detector_knows_its_classes_and_takes_any_frame() -> None:
    detector = load_detector("builtin", threads=1)
    assert isinstance(detector, OnnxDetector)
    assert {
        "person",
        "bicycle",
        "car",
        "motorcycle",
        "bus",
        "truck",
        "dog",
        "cat",
        "horse",
        "sheep",
        "cow",
    } <= set(detector.classes)
    for shape in ((432, 768, 3), (33, 700, 3), (1, 1, 3)):
        for found in detector.detect(np.full(shape, 90, np.uint8)):
            x0, y0, x1, y1 = found.box
            assert 0 <= x0 < x1 <= shape[1] and 0 <= y0 < y1 <= shape[0] and found.label in detector.classes

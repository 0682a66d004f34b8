"""Detectors whose manifests say what the shapes of their graphs do not tell: every way out of docs/plugins.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secondlook.cloud.workers.detectors import load_detector
from secondlook.main import main
from secondlook.shared.detection import Detection, detect_all
from secondlook.shared.errors import DetectorError, ModelCorrupt
from secondlook.shared.graphfacts import read_facts
from secondlook.shared.models import MODELS_VARIABLE, describe_files

onnx = pytest.importorskip("onnx", reason="onnx builds the graphs that these tests run")

SIDE = 64
NAMES = ["", "person", "car"]
FRAME = np.full((48, 96, 3), 200, np.uint8)


def save(
    path: Path,
    shape: list[str | int],
    outputs: dict[str, np.ndarray],
    *,
    kind: str = "FLOAT",
    frames: int | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """A graph that returns the same `outputs` whatever it sees; `frames`: for so many frames, else as they are."""
    helper, tensor = onnx.helper, onnx.TensorProto
    constants, nodes, named = {"nothing": np.array(0, np.float32)}, [], []
    nodes.append(helper.make_node("Cast", ["images"], ["floats"], to=tensor.FLOAT))
    nodes.append(helper.make_node("ReduceMin", ["floats"], ["least"], keepdims=0))
    nodes.append(helper.make_node("Mul", ["least", "nothing"], ["zero"]))
    for name, value in outputs.items():
        constants[f"{name}_value"] = np.repeat(value, frames, axis=0) if frames else value
        nodes.append(helper.make_node("Add", [f"{name}_value", "zero"], [name]))
        named.append(helper.make_tensor_value_info(name, tensor.FLOAT, None))
    graph = helper.make_graph(
        nodes,
        "heads",
        [helper.make_tensor_value_info("images", getattr(tensor, kind), shape)],
        named,
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, str(path))
    return path


def folder_of(folder: Path, facts: dict[str, Any], **manifest: Any) -> str:
    """A model folder around `model.onnx`."""
    told = {"name": "mine", "kind": "detector", "files": describe_files(folder, ["model.onnx"]), **manifest}
    (folder / "manifest.json").write_text(json.dumps(told | ({"graph": facts} if facts else {})))
    return str(folder)


def found_in(
    folder: Path, facts: dict[str, Any], min_score: float = 0.3
) -> list[tuple[str, float, tuple[float, ...]]]:
    found: list[Detection] = load_detector(folder_of(folder, facts), threads=1, min_score=min_score).detect(
        FRAME
    )
    return [(one.label, round(one.score, 3), tuple(round(side, 2) for side in one.box)) for one in found]


def yolov8(score: float = 0.75) -> np.ndarray:
    """One car at the middle of 64x64 pixels, of two classes."""
    output = np.zeros((1, 6, 84), np.float32)
    output[0, :, 5] = [32, 32, 16, 16, 0.1, score]
    return output


WANTED = [("car", 0.75, (36.0, 12.0, 60.0, 36.0))]
TWO = {"names": str(NAMES[1:])}


@pytest.mark.parametrize("count", [1, 3, 4, 5, 9])
def test_a_graph_for_four_frames_gets_four(tmp_path: Path, count: int) -> None:
    save(tmp_path / "model.onnx", [4, 3, SIDE, SIDE], {"out": yolov8()}, frames=4, metadata=TWO)
    detector = load_detector(folder_of(tmp_path, {}), threads=1)
    runs, run = [], detector._session.run  # type: ignore[attr-defined]
    detector._session.run = lambda feeds: runs.append(len(feeds["images"])) or run(feeds)  # type: ignore[attr-defined]
    every = detect_all(detector, [FRAME[: 20 + number] for number in range(count)])
    assert len(every) == count and all([one.label for one in each] == ["car"] for each in every)
    assert runs == [4] * -(-count // 4)
    assert every[0][0].box != every[-1][0].box or count == 1  # each in its own frame


def test_a_bare_file_for_four_frames_works_too(tmp_path: Path) -> None:
    path = save(tmp_path / "four.onnx", [4, 3, SIDE, SIDE], {"out": yolov8()}, frames=4, metadata=TWO)
    assert len(load_detector(str(path), threads=1).detect(FRAME)) == 1


@pytest.mark.parametrize("kind", ["FLOAT16", "FLOAT", "UINT8"])
@pytest.mark.parametrize("last", [False, True])
def test_half_floats_bytes_and_channels_last(tmp_path: Path, kind: str, last: bool) -> None:
    shape: list[str | int] = [1, SIDE, SIDE, 3] if last else [1, 3, SIDE, SIDE]
    save(tmp_path / "model.onnx", shape, {"out": yolov8()}, kind=kind, metadata=TWO)
    assert found_in(tmp_path, {}) == WANTED


def test_channels_that_the_shape_does_not_tell(tmp_path: Path) -> None:
    save(tmp_path / "model.onnx", ["n", "a", "b", "c"], {"out": yolov8()}, metadata=TWO)
    facts = {"channels": "last", "input": [SIDE, SIDE]}
    detector = load_detector(folder_of(tmp_path, facts), threads=1)
    fed, run = [], detector._session.run  # type: ignore[attr-defined]
    detector._session.run = lambda feeds: fed.append(feeds["images"].shape) or run(feeds)  # type: ignore[attr-defined]
    assert [one.label for one in detector.detect(FRAME)] == ["car"]
    assert fed == [(1, SIDE, SIDE, 3)]


def test_classes_without_names(tmp_path: Path) -> None:
    save(tmp_path / "model.onnx", [1, 3, SIDE, SIDE], {"out": yolov8()})
    with pytest.raises(DetectorError, match="2 classes, but 80 names"):
        found_in(tmp_path, {})
    assert found_in(tmp_path, {"classes": NAMES[1:]}) == WANTED
    with pytest.raises(DetectorError, match="2 classes, but 4 names"):
        found_in(tmp_path, {"classes": ["a", "b", "c", "d"]})


def test_a_yolo_the_other_way_round_in_shares(tmp_path: Path) -> None:
    output = yolov8()
    output[0, :4] /= SIDE
    turned = np.ascontiguousarray(output.transpose(0, 2, 1))
    save(tmp_path / "model.onnx", [1, SIDE, SIDE, 3], {"out": turned}, metadata=TWO)
    with pytest.raises(DetectorError, match=r"docs/plugins\.md"):
        found_in(tmp_path, {})
    assert found_in(tmp_path, {"layout": "yolov8", "unit": "shares"}) == WANTED


def test_what_a_network_is_fed(tmp_path: Path) -> None:
    """Colours, scaling and fit are the manifest's; the graph gives back what it saw."""
    helper, tensor = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["means", "axis"], ["column"]),
        helper.make_node("Pad", ["column", "sides"], ["out"]),
    ]
    constants = {"axis": np.array([2], np.int64), "sides": np.array([0, 2, 0, 0, 1, 83], np.int64)}
    graph = helper.make_graph(
        nodes,
        "seen",
        [helper.make_tensor_value_info("images", tensor.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("out", tensor.FLOAT, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8),
        str(tmp_path / "model.onnx"),
    )
    facts = {"layout": "yolov8", "classes": ["a", "b"], "colour": "bgr", "fit": "stretch"}
    facts |= {"mean": [10, 20, 30], "deviation": [1, 2, 5]}
    detector = load_detector(folder_of(tmp_path, facts), threads=1)
    seen: list[np.ndarray] = []
    run = detector._session.run  # type: ignore[attr-defined]
    detector._session.run = lambda feeds: seen.append(feeds["images"]) or run(feeds)  # type: ignore[attr-defined]
    image = np.zeros((30, 90, 3), np.uint8)
    image[...] = (100, 120, 40)  # red, green, blue
    detector.detect(image)
    assert np.allclose(seen[0][0, :, 0, 0], [(40 - 10) / 1, (120 - 20) / 2, (100 - 30) / 5])
    assert np.ptp(seen[0], axis=(2, 3)).max() == 0  # stretched: no grey


def heads(form: str) -> dict[str, np.ndarray]:
    """Three boxes, the second of which is a car in the right half; the third is nearly it; with a background."""
    boxes = np.array([[0, 0, 0.1, 0.1], [0.5, 0.25, 1.0, 0.75], [0.51, 0.25, 1.0, 0.75]], np.float32)
    scores = np.array([[0.9, 0.05, 0.05], [0.2, 0.1, 0.7], [0.3, 0.1, 0.6]], np.float32)
    if form == "logits":
        scores = np.log(scores / (1 - scores))
    if form == "softmax":
        scores = np.log(scores) + 5
    return {"conf": scores[None].astype(np.float32), "loc": boxes[None], "more": np.zeros((1, 7), np.float32)}


@pytest.mark.parametrize("form", ["scores", "logits", "softmax"])
@pytest.mark.parametrize("turned", [False, True])
def test_ssd_heads_with_decoded_corners(tmp_path: Path, form: str, turned: bool) -> None:
    outputs = heads(form)
    if turned:
        outputs["conf"] = np.ascontiguousarray(
            outputs["conf"].repeat(1, 0)[:, [0, 1, 2, 2]].transpose(0, 2, 1)
        )
        outputs["loc"] = outputs["loc"][:, [0, 1, 2, 2]]
    save(tmp_path / "model.onnx", [1, 3, SIDE, SIDE], outputs)
    with pytest.raises(DetectorError, match="no known layout"):
        found_in(tmp_path, {})
    facts = {"layout": "boxes and scores", "classes": NAMES, "unit": "shares", "score": form}
    facts |= {"outputs": {"boxes": "loc", "scores": "conf"}}
    assert found_in(tmp_path, facts) == [("car", 0.7, (48.0, 12.0, 96.0, 36.0))]
    assert len(found_in(tmp_path, facts | {"overlap": 1})) == (3 if turned else 2)


@pytest.mark.parametrize(
    ("form", "box"),
    [
        ("x0 y0 x1 y1", [32, 16, 64, 48]),
        ("y0 x0 y1 x1", [16, 32, 48, 64]),
        ("cx cy w h", [48, 32, 32, 32]),
        ("x y w h", [32, 16, 32, 32]),
    ],
)
def test_forms_of_boxes(tmp_path: Path, form: str, box: list[int]) -> None:
    outputs = {"b": np.array([[box]], np.float32), "s": np.array([[[0.1, 0.8]]], np.float32)}
    save(tmp_path / "model.onnx", [1, 3, SIDE, SIDE], outputs)
    facts = {"layout": "boxes and scores", "classes": ["person", "car"], "box": form}
    assert found_in(tmp_path, facts) == [("car", 0.8, (48.0, 12.0, 96.0, 36.0))]


def test_heads_of_tensorflow_need_no_manifest(tmp_path: Path) -> None:
    """Bytes with channels last; boxes y0, x0, y1, x1 in shares; COCO's numbers from 1 on; a count."""
    outputs = {
        "detection_boxes": np.array([[[0.25, 0.5, 0.75, 1.0], [0, 0, 1, 1], [0, 0, 0.5, 0.5]]], np.float32),
        "detection_classes": np.array([[13.0, 3.0, 1.0]], np.float32),
        "detection_scores": np.array([[0.7, 0.6, 0.5]], np.float32),
        "num_detections": np.array([2.0], np.float32),
    }
    path = save(tmp_path / "ssd.onnx", [1, 32, 32, 3], outputs, kind="UINT8")
    detector = load_detector(str(path), threads=1)
    assert [(one.label, one.box) for one in detector.detect(FRAME)] == [
        ("stop sign", (48.0, 12.0, 96.0, 36.0)),
        ("car", (0.0, 0.0, 96.0, 48.0)),
    ]
    assert len(detector.classes) == 80 and "" not in detector.classes


@pytest.mark.parametrize("framed", [True, False])
def test_boxes_labels_and_scores(tmp_path: Path, framed: bool) -> None:
    """As torchvision exports them: without an axis of frames, or with it."""
    outputs = {
        "boxes": np.array([[32, 16, 64, 48], [0, 0, 8, 8], [0, 0, 9, 9]], np.float32),
        "labels": np.array([2, 0, 77], np.float32),  # the background, and a number that nobody named
        "scores": np.array([0.8, 0.9, 0.9], np.float32),
    }
    if framed:
        outputs = {name: value[None] for name, value in outputs.items()}
    save(tmp_path / "model.onnx", [1, 3, SIDE, SIDE], outputs)
    with pytest.raises(DetectorError, match=r"numbers without names.*graph\.classes"):
        found_in(tmp_path, {})
    assert found_in(tmp_path, {"classes": NAMES}) == [("car", 0.8, (48.0, 12.0, 96.0, 36.0))]


def test_an_end_to_end_network_counts_its_background(tmp_path: Path) -> None:
    output = np.zeros((1, 5, 6), np.float32)
    output[0, 0] = [24, 24, 40, 40, 0.9, 2]
    output[0, 1] = [24, 24, 40, 40, 0.95, 0]
    save(tmp_path / "model.onnx", [1, 3, SIDE, SIDE], {"out": output})
    assert [label for label, *_ in found_in(tmp_path, {"layout": "end to end", "classes": NAMES})] == ["car"]


def test_offsets_from_anchors_that_the_manifest_lists(tmp_path: Path) -> None:
    logits = np.array([[[-9, 2], [-9, -9]]], np.float32)
    save(tmp_path / "model.onnx", [1, 3, 32, 32], {"a": np.zeros((1, 2, 4), np.float32), "b": logits})
    facts = {"layout": "ssd", "classes": ["x", "y"], "anchors": [[0.5, 0.75, 0.5, 0.5], [0.1, 0.1, 0.1, 0.1]]}
    assert found_in(tmp_path, facts) == [("y", 0.881, (48.0, 12.0, 96.0, 36.0))]
    with pytest.raises(DetectorError, match=r"1 anchors do not fit 2 boxes"):
        found_in(tmp_path, facts | {"anchors": facts["anchors"][:1]})


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"layuot": "yolov8"}, "'layuot' is not known"),
        ({"outputs": {"box": "x"}}, "'box' is not known"),
        ({"layout": "yolov99"}, "layout"),
        ({"mean": [1, 2]}, "mean"),
        ({"deviation": [1, 0, 1]}, "a deviation is 0"),
        ({"input": [0, 64]}, "input is height and width"),
        ({"overlap": 0}, "overlap lies above 0"),
        ({"classes": ["", ""]}, "classes name none"),
        ("yolov8", "a table was expected"),
    ],
)
def test_manifests_that_cannot_be_read(facts: Any, told: str) -> None:
    with pytest.raises(ModelCorrupt, match=told) as caught:
        read_facts(facts, "mine")
    assert "model 'mine': graph" in str(caught.value) or told == "a table was expected"


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"layout": "boxes and scores", "outputs": {"boxes": "gone", "scores": "out"}}, "an output 'gone'"),
        ({"layout": "boxes and scores"}, "name both in `graph.outputs`"),
        ({"layout": "boxes and labels"}, "name them in `graph.outputs`"),
        ({"layout": "end to end"}, "has 6 columns"),
        ({"box": "x y w h"}, "need a `graph.layout`"),
        ({"layout": "yolov8", "score": "logits"}, "do not go with the layout 'yolov8'"),
        ({"layout": "yolox", "unit": "shares"}, "does not go with the layout of YOLOX"),
        ({"input": [32, 32]}, "takes 64x64, and its manifest says 32x32"),
        ({"channels": "last"}, "does not take one image"),
    ],
)
def test_manifests_that_do_not_fit_their_graph(tmp_path: Path, facts: dict[str, Any], told: str) -> None:
    save(tmp_path / "model.onnx", [1, 3, SIDE, SIDE], {"out": yolov8()}, metadata=TWO)
    with pytest.raises(DetectorError, match=told) as caught:
        found_in(tmp_path, facts)
    assert "\n" not in str(caught.value)


def test_bytes_are_not_scaled(tmp_path: Path) -> None:
    save(tmp_path / "model.onnx", [1, 3, SIDE, SIDE], {"out": yolov8()}, kind="UINT8", metadata=TWO)
    with pytest.raises(DetectorError, match="it takes bytes"):
        found_in(tmp_path, {"mean": [1, 1, 1]})
    save(tmp_path / "model.onnx", [1, 3, SIDE, SIDE], {"out": yolov8()}, kind="INT32", metadata=TWO)
    with pytest.raises(DetectorError, match="takes int32"):
        found_in(tmp_path, {})


def test_added_with_names_and_facts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`models add --names --graph` writes what the worker reads."""
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "models"))
    path = save(tmp_path / "odd.onnx", [1, 3, SIDE, SIDE], heads("softmax"))
    (tmp_path / "names.txt").write_text("\nperson\ncar\n")
    facts = {"layout": "boxes and scores", "unit": "shares", "score": "softmax"}
    facts |= {"outputs": {"boxes": "loc", "scores": "conf"}}
    (tmp_path / "graph.json").write_text(json.dumps(facts))
    assert main(["models", "add", str(path)]) == 1
    assert "docs/plugins.md" in capsys.readouterr().err
    files = ["--names", str(tmp_path / "names.txt"), "--graph", str(tmp_path / "graph.json")]
    assert main(["models", "add", str(path), *files]) == 0
    assert main(["models", "verify", "odd"]) == 0
    detector = load_detector("odd", threads=1)
    assert detector.classes == ("person", "car")
    assert [one.label for one in detector.detect(FRAME)] == ["car"]
    (tmp_path / "graph.json").write_text("[]")
    assert main(["models", "add", str(path), "--graph", str(tmp_path / "graph.json"), "--name", "x"]) == 1
    assert "holds no JSON object" in capsys.readouterr().err

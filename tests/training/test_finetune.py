"""Fine-tuning on base layers: the graph as a module, steps that follow teacher and people, and what is kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training is not installed")
onnx = pytest.importorskip("onnx", reason="training is not installed")
pytest.importorskip("pycocotools", reason="training is not installed")

# ruff: noqa: E402 - what follows needs torch
import cv2
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from secondlook.cloud.workers.detectors import load_detector
from secondlook.shared.detection import Detection
from secondlook.shared.errors import ConfigError
from secondlook.shared.models import describe_files, find_model, model_names
from secondlook.training.detector import cli, finetune
from secondlook.training.detector.onnx_net import OnnxNet
from secondlook.training.detector.train import run
from tests.pictures import photo

SIDE, CELLS, CLASSES = 32, 4, 3


def tiny_ssd(folder: Path) -> Path:
    """A decoded SSD of 16 fixed boxes, one for each cell of 8x8 pixels, whose scores follow the picture."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:CELLS, :CELLS] / CELLS
    corners = np.stack([y, x, y + 1 / CELLS, x + 1 / CELLS], -1).reshape(1, -1, 1, 4).astype(np.float32)
    constants = {
        "weight": rng.normal(0, 0.3, (CLASSES, 3, 8, 8)).astype(np.float32) / 64,
        "bias": np.full(CLASSES, -1.0, np.float32),
        "corners": corners,
        "flat": np.array([0, CLASSES, -1], np.int64),
        "scale": np.array(1 / 64, np.float32),
        "none": np.array(0.0, np.float32),
        "four": np.array([0, -1, 1, 1], np.int64),
        "first": np.array([0], np.int64), "second": np.array([1], np.int64), "last": np.array([2], np.int64),
    }  # fmt: skip
    nodes = [
        helper.make_node("Transpose", ["images"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["nchw", "scale"], ["scaled"]),
        helper.make_node(
            "Conv", ["scaled", "weight", "bias"], ["map"], strides=[8, 8], auto_pad="SAME_UPPER"
        ),
        helper.make_node("Reshape", ["map", "flat"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["logits"], perm=[0, 2, 1]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("Slice", ["logits", "first", "second", "last"], ["one"]),
        helper.make_node("Mul", ["one", "none"], ["zero"]),
        helper.make_node("Reshape", ["zero", "four"], ["zeros"]),
        helper.make_node("Add", ["zeros", "corners"], ["boxes"]),
    ]
    number = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", number, ["n", SIDE, SIDE, 3])],
        [
            helper.make_tensor_value_info("boxes", number, ["n", CELLS**2, 1, 4]),
            helper.make_tensor_value_info("scores", number, ["n", CELLS**2, CLASSES]),
        ],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"names": str({0: "cat", 1: "dog", 2: "cow"})})
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    manifest = {
        "name": folder.name, "kind": "detector", "format": 1, "files": describe_files(folder, ["model.onnx"]),
        "licence": "none", "classes": ["cat", "dog", "cow"],
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def folder(tmp_path):
    torch.set_num_threads(1)
    torch.manual_seed(1)
    return tiny_ssd(tmp_path / "models" / "tiny")


def tuner_of(folder, rate=1e-2):
    detector = load_detector(str(folder), threads=1, min_score=0.01)
    return finetune.Tuner(find_model(folder, kind="detector"), detector, rate)


def scores_of(path, frames):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["scores"], {"images": frames})[0]


def test_the_module_computes_what_the_graph_does_and_writes_it_back(folder, tmp_path):
    frames = np.random.default_rng(1).uniform(0, 255, (3, SIDE, SIDE, 3)).astype(np.float32)
    net = OnnxNet(folder / "model.onnx")
    boxes, scores = net(torch.from_numpy(frames))
    assert boxes.shape == (3, 16, 1, 4) and len(net.weights) == 2
    assert np.allclose(scores.detach(), scores_of(folder / "model.onnx", frames), atol=1e-6)
    net.write(tmp_path / "same.onnx")
    assert np.array_equal(scores_of(tmp_path / "same.onnx", frames), scores_of(folder / "model.onnx", frames))
    with torch.no_grad():
        net.weights[0].mul_(2)
    net.write(tmp_path / "other.onnx")
    after = net(torch.from_numpy(frames))[1].detach()
    assert np.allclose(scores_of(tmp_path / "other.onnx", frames), after, atol=1e-6)
    assert not np.allclose(after, scores.detach())


def test_the_general_detector_as_a_module():
    from secondlook.shared.models import added_models

    if "ssdlite" not in model_names(added_models()):
        pytest.skip("ssdlite was not added")
    path = find_model("ssdlite", kind="detector").file("model.onnx")
    frames = np.random.default_rng(1).uniform(0, 255, (1, 300, 300, 3)).astype(np.float32)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    theirs = session.run(None, {session.get_inputs()[0].name: frames})
    ours = OnnxNet(path)(torch.from_numpy(frames))
    assert all(np.allclose(a, b.detach(), atol=1e-4) for a, b in zip(theirs, ours, strict=True))


def test_a_graph_with_a_node_that_cannot_learn(tmp_path):
    node = helper.make_node("Softplus", ["a"], ["b"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "ab"]
    onnx.save(helper.make_model(helper.make_graph([node], "x", ends[:1], ends[1:])), tmp_path / "x.onnx")
    with pytest.raises(ConfigError, match="nodes of the kind Softplus"):
        OnnxNet(tmp_path / "x.onnx")


def pictures(count):
    return [photo(SIDE, SIDE, seed=seed) for seed in range(count)]


def test_the_student_learns_to_say_of_the_base_layer_what_the_teacher_says_of_the_original(folder):
    tuner = tuner_of(folder)
    examples = [finetune.example_of(tuner.detector, image, image // 2) for image in pictures(6)]
    first = [tuner.step(examples[:4], 0.0) for _ in range(5)]
    for _ in range(150):
        tuner.step(examples[:4], 0.3)
    assert tuner.step(examples[:4], 0.9) < 0.3 * first[0]
    x = torch.from_numpy(np.stack([examples[5].original]))
    assert torch.equal(tuner.teacher(x)[1], OnnxNet(folder / "model.onnx")(x)[1]), "the teacher stands still"


def test_what_people_say_counts_instead_of_the_teacher(folder):
    """They name the thing in the first cell, and say that nothing else is there."""
    tuner = tuner_of(folder)
    image = pictures(1)[0]
    label = Detection("cow", 1.0, (0.0, 0.0, 8.0, 8.0))
    example = finetune.example_of(tuner.detector, image, image, (label,))
    for _ in range(400):
        tuner.step([example], 0.1)
    (best,) = [found for found in scores(tuner, example) if found[1] > 0.5]
    assert best[0] == (0, 2)


def scores(tuner, example):
    said = tuner.student(torch.from_numpy(example.seen[None]))[1][0].detach().numpy()
    return [((row, column), said[row, column]) for row in range(len(said)) for column in range(CLASSES)]


def test_only_ssds_learn_here(tmp_path):
    detector = load_detector("builtin", threads=1)
    with pytest.raises(ConfigError, match="family SSD learn here"):
        finetune.Tuner(find_model("detector", kind="detector"), detector, 1e-4)


@pytest.mark.parametrize(
    ("originals", "base_layers", "kept"),
    [
        ((40.0, 39.5), (35.0, 37.0), True),
        ((40.0, 39.0), (35.0, 39.0), False),
        ((40.0, 41.0), (35.0, 36.9), False),
    ],
)
def test_a_result_is_kept_only_where_it_is_better(originals, base_layers, kept):
    assert finetune.Judgement(originals, base_layers).is_kept is kept


def arguments(tmp_path, folder, *more):
    data = tmp_path / "data"
    data.mkdir(exist_ok=True)
    for number, image in enumerate(pictures(3)):
        cv2.imwrite(str(data / f"{number}.png"), cv2.resize(image, (64, 64)))
    truth = {
        "images": [{"id": 1, "file_name": "0.png", "width": 64, "height": 64}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 16, 16], "area": 256, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "cat"}],
    }  # fmt: skip
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    return cli.parse(
        "train",
        [
            "--from", str(folder), "--data", str(data), "--minutes", "0.05", "--images", str(data),
            "--annotations", str(tmp_path / "truth.json"), "--out", str(tmp_path / "better"), *more,
        ],
    )  # fmt: skip


@pytest.mark.parametrize("better", [True, False])
def test_the_command_writes_a_model_folder_or_none(tmp_path, folder, monkeypatch, better):
    # As pycocotools gives them: numbers of numpy, whose comparisons are no bools that JSON takes.
    original, before, after = (np.float64(one) for one in (40, 30, 33 if better else 31))
    figures = finetune.Judgement((original, original), (before, after))
    monkeypatch.setattr(finetune, "judge", lambda *_: figures)
    assert run(arguments(tmp_path, folder)) == (0 if better else 1)
    assert (tmp_path / "better").exists() is better and not (tmp_path / ".better.part").exists()
    if better:
        made = find_model(tmp_path / "better", kind="detector")
        assert made.manifest["fine_tuned"]["AP on base layers"] == [30.0, 33.0]
        assert made.manifest["licence"] == "none" and made.model_hash != find_model(folder).model_hash
        assert load_detector(str(tmp_path / "better"), threads=1).classes == ("cat", "dog", "cow")


def test_judging_measures_both_on_originals_and_base_layers(tmp_path, folder):
    verdict = finetune.judge(str(folder), folder, arguments(tmp_path, folder))
    assert verdict.originals[0] == verdict.originals[1] and verdict.base_layers[0] == verdict.base_layers[1]


def test_labels_are_the_settled_frames_of_an_export(tmp_path, folder):
    args = arguments(tmp_path, folder)
    truth = json.loads((tmp_path / "truth.json").read_text())
    other = [dict(truth["images"][0], id=number, file_name=f"{number - 1}.png") for number in (2, 3)]
    truth["images"] += [{**other[0], "verified": False}, {**other[1], "contested": True, "verified": True}]
    (tmp_path / "labels.json").write_text(json.dumps(truth))
    detector = load_detector(str(folder), threads=1)
    (example,) = finetune.labelled(detector, tmp_path / "labels.json", args.data)
    assert example.labels == (Detection("cat", 1.0, (0, 0, 16, 16)),)
    # The feedback set has the original beside it, which is what the teacher looks at.
    image = cv2.imread(str(args.data / truth["images"][0]["file_name"]))
    cv2.imwrite(str(tmp_path / "original.png"), 255 - image)
    truth["images"] = [{**truth["images"][0], "original_file_name": str(tmp_path / "original.png")}]
    (tmp_path / "labels.json").write_text(json.dumps(truth))
    (better,) = finetune.labelled(detector, tmp_path / "labels.json", args.data)
    assert np.array_equal(better.seen, example.seen) and not np.array_equal(better.original, example.original)
    with pytest.raises(ConfigError, match="no settled frame"):
        finetune.labelled(detector, tmp_path / "labels.json", tmp_path)


def test_flags_that_go_together(tmp_path, folder):
    args = arguments(tmp_path, folder)
    args.annotations = None
    with pytest.raises(ConfigError, match="give --images, --annotations and --out"):
        run(args)
    with pytest.raises(ConfigError, match="needs --teacher and --work"):
        run(cli.parse("train", ["--data", str(tmp_path), "--minutes", "1"]))

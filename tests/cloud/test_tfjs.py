"""TensorFlow.js graph models as ONNX: the same numbers, and clear words where a graph is not understood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secondlook.cloud.models.tfjs import read_graph_model
from secondlook.shared.errors import DetectorError, ModelCorrupt
from secondlook.shared.inference import open_session
from tests.cloud.tfjs_models import Builder, convolve, tiny_ssd

pytest.importorskip("onnx", reason="onnx writes what is converted (extra `models`)")

from secondlook.cloud.models.convert import INPUT, convert

WINDOW: dict[str, Any] = {"padding": "SAME", "data_format": "NHWC", "dilations": [1, 1, 1, 1]}


def read(made: Builder) -> Any:
    files = made.files
    return read_graph_model(files["model.json"], files.__getitem__)


def run(made: Builder, image: np.ndarray, folder: Path) -> dict[str, np.ndarray]:
    path = folder / "model.onnx"
    path.write_bytes(convert(read(made)))
    return open_session(path, 1).run({INPUT: image})


def start(rows: int = 7, columns: int = 9, channels: int = 3) -> Builder:
    made = Builder()
    made.node("Placeholder", [], "image", shape=(-1, rows, columns, channels))
    return made


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("depthwise", [False, True])
def test_convolutions_pad_as_tensorflow_does(tmp_path: Path, stride: int, depthwise: bool) -> None:
    made, image = start(), pictures(2, 7, 9, 3)
    kernel = pictures(3, 3, 3, 2 if depthwise else 5)
    op = "DepthwiseConv2dNative" if depthwise else "Conv2D"
    strides = [1, stride, stride, 1]
    made.node(op, ["image", made.constant(kernel)], "out", strides=strides, **WINDOW)
    expected = convolve(image, kernel, stride, depthwise=depthwise)
    assert np.allclose(run(made, image, tmp_path)["out"], expected, atol=1e-5)


def test_a_block_with_a_skip_keeps_its_channels_first_and_its_numbers(tmp_path: Path) -> None:
    """Convolution, batch norm, ReLU6, depthwise, scale and shift by constants, and the sum of two ways."""
    made, image = start(), pictures(2, 7, 9, 3)
    first, second, scale, shift = pictures(1, 1, 3, 4), pictures(3, 3, 4, 1), pictures(4), pictures(4)
    mean, variance = pictures(4), np.abs(pictures(4)) + 0.5
    way = made.node("Conv2D", ["image", made.constant(first)], strides=[1, 1, 1, 1], **WINDOW)
    parts = [made.constant(one) for one in (scale, shift, mean, variance)]
    normed = made.node("FusedBatchNormV3", [way, *parts], epsilon=0.001, data_format="NHWC")
    relu = made.node("Relu6", [normed])
    depth = made.node("DepthwiseConv2dNative", [relu, made.constant(second)], strides=[1, 1, 1, 1], **WINDOW)
    scaled = made.node("Add", [made.node("Mul", [depth, made.constant(scale)]), made.constant(shift)])
    made.node("AddN", [scaled, way], "out")
    before = convolve(image, first, 1)
    norm = (before - mean) / np.sqrt(variance + 0.001) * scale + shift
    expected = convolve(np.clip(norm, 0, 6), second, 1, depthwise=True) * scale + shift + before
    assert np.allclose(run(made, image, tmp_path)["out"], expected, atol=1e-4)
    transposes = convert(read(made)).count(b"Transpose")
    assert transposes == 2  # in and out


def test_fused_convolutions(tmp_path: Path) -> None:
    made, image = start(), pictures(1, 7, 9, 3)
    kernel, bias = pictures(3, 3, 3, 4), pictures(4)
    inputs = ["image", made.constant(kernel), made.constant(bias)]
    made.node("_FusedConv2D", inputs, "out", strides=[1, 2, 2, 1], fused_ops=["BiasAdd", "Relu"], **WINDOW)
    expected = np.maximum(convolve(image, kernel, 2) + bias, 0)
    assert np.allclose(run(made, image, tmp_path)["out"], expected, atol=1e-5)


def test_shapes_slices_and_stacks(tmp_path: Path) -> None:
    made, image = start(2, 3, 4), pictures(2, 2, 3, 4)
    flat = made.node("Reshape", ["image", made.constant(np.array([-1, 4]))])
    turned = made.node("Transpose", [flat, made.constant(np.array([1, 0]))])
    made.node("Unpack", [turned], "parts", num=4, axis=0)
    made.node("Pack", ["parts:3", "parts"], "stacked", axis=1)
    made.node(
        "Slice", ["image", *(made.constant(np.array(v)) for v in ([0, 1, 0, 0], [-1, 1, 2, -1]))], "slice"
    )
    bounds = [made.constant(np.array(v)) for v in ([0, 0, -1], [0, 2, 0], [1, 1, 1])]
    made.node("StridedSlice", ["image", *bounds], "strided", begin_mask=1, end_mask=1, shrink_axis_mask=4)
    sizes, axis = made.constant(np.array([1, 3])), made.constant(np.int32(3))
    made.node("SplitV", ["image", sizes, axis], "split")
    made.node("ConcatV2", ["split:1", "split", made.constant(np.int32(-1))], "joined")
    made.node(
        "Squeeze", [made.node("ExpandDims", ["image", made.constant(np.int32(1))])], "same", squeeze_dims=[1]
    )
    names = ("stacked", "slice", "strided", "joined", "same")
    made.signature = {"outputs": {name: {"name": f"{name}:0"} for name in names}}
    found = run(made, image, tmp_path)
    rows = image.reshape(-1, 4)
    assert np.array_equal(found["stacked"], np.stack([rows[:, 3], rows[:, 0]], 1))
    assert np.array_equal(found["slice"], image[:, 1:2, 0:2])
    assert np.array_equal(found["strided"], image[:, 0:2, -1])
    assert np.array_equal(found["joined"], np.concatenate([image[..., 1:], image[..., :1]], -1))
    assert np.array_equal(found["same"], image)


def test_resizing_pooling_and_padding(tmp_path: Path) -> None:
    made, image = start(4, 6, 2), pictures(1, 4, 6, 2)
    sizes = made.constant(np.array([8, 12]))
    for name, centred in (("centred", True), ("legacy", False)):
        made.node("ResizeBilinear", ["image", sizes], name, half_pixel_centers=centred, align_corners=False)
    made.node("MaxPool", ["image"], "pooled", ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1], padding="VALID")
    amounts = made.constant(np.array([[0, 0], [1, 0], [0, 2], [0, 0]]))
    made.node("PadV2", ["pooled", amounts, made.constant(np.float32(-5))], "padded")
    made.node("LeakyRelu", ["padded"], "leaky", alpha=0.5)
    names = ("centred", "legacy", "leaky")
    made.signature = {"outputs": {name: {"name": name} for name in names}}
    found = run(made, image, tmp_path)
    pooled = image.reshape(1, 2, 2, 3, 2, 2).max(axis=(2, 4))
    padded = np.pad(pooled, [(0, 0), (1, 0), (0, 2), (0, 0)], constant_values=-5)
    assert np.allclose(found["leaky"], np.where(padded < 0, padded / 2, padded))
    assert np.allclose(found["legacy"][:, ::2, ::2], image, atol=1e-6)
    middle = 0.75 * image[:, :, :-1] + 0.25 * image[:, :, 1:]
    assert np.allclose(found["centred"][:, 0, 1:-1:2], middle[:, 0], atol=1e-5)


@pytest.mark.parametrize(("quantised", "tolerance"), [("float16", 2e-3), ("uint8", 2e-2)])
def test_stored_weights_are_widened(quantised: str, tolerance: float) -> None:
    made, values = start(), pictures(50)
    name = made.constant(values, quantised)
    read_values = read(made).weights[name]
    assert read_values.dtype == np.float32 and np.allclose(read_values, values, atol=tolerance)


def test_a_loop_that_resizes_is_cut_off(tmp_path: Path) -> None:
    image = pictures(3, 32, 32, 3)
    found = run(tiny_ssd(), image, tmp_path)
    assert found["scores"].shape == (3, 4, 90) and found["boxes"].shape == (3, 4, 1, 4)
    assert np.allclose(found["scores"][..., 2], 1 / (1 + np.exp(-2)))
    assert convert(read(tiny_ssd())) == convert(read(tiny_ssd()))


def test_what_is_not_understood_is_said() -> None:
    made = start()
    made.node("Erf", ["image"], "out")
    with pytest.raises(DetectorError, match="operation Erf"):
        convert(read(made))
    made = start()
    made.node("Conv2D", ["image", "image"], strides=[1, 1, 1, 1], **WINDOW)
    with pytest.raises(DetectorError, match="computed"):
        convert(read(made))
    made = start()
    made.node("Relu", ["nowhere"], "out")
    with pytest.raises(ModelCorrupt, match="nowhere"):
        convert(read(made))
    made = start()
    made.node("Add", ["image", "two"], "one")
    made.node("Relu", ["one"], "two")
    made.signature = {"outputs": {"two": {"name": "two"}}}
    with pytest.raises(ModelCorrupt, match="loop"):
        convert(read(made))
    made = Builder()
    made.node("Placeholder", [], "text", shape=(-1,))
    made.node("Relu", ["text"], "out")
    with pytest.raises(DetectorError, match="not pictures"):
        convert(read(made))
    made = start()
    made.node("Relu", [made.constant(np.float32(1))], "out")
    with pytest.raises(ModelCorrupt, match="do not depend on the pictures"):
        convert(read(made))


@pytest.mark.parametrize("change", ["short", "long", "shape", "json", "tree"])
def test_damaged_files_are_refused(change: str) -> None:
    files = tiny_ssd().files
    if change == "short":
        files["shard2of2"] = files["shard2of2"][:-1]
    elif change == "long":
        files["shard2of2"] += b"\0"
    elif change == "shape":
        tree = json.loads(files["model.json"])
        tree["weightsManifest"][0]["weights"][0]["shape"] = [1 << 40, 1 << 40]
        files["model.json"] = json.dumps(tree).encode()
    else:
        files["model.json"] = b"{" if change == "json" else b'{"modelTopology": 3, "weightsManifest": []}'
    with pytest.raises(ModelCorrupt):
        read_graph_model(files["model.json"], files.__getitem__)

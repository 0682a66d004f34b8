"""Small TensorFlow.js graph models, built as their files are written, and TensorFlow's arithmetic in numpy."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import numpy as np


def attribute(value: Any) -> dict[str, Any]:
    """An attribute as protobuf's JSON has it."""
    if isinstance(value, bool):
        return {"b": value}
    if isinstance(value, str):
        return {"s": base64.b64encode(value.encode()).decode()}
    if isinstance(value, int):
        return {"i": str(value)}
    if isinstance(value, float):
        return {"f": value}
    if isinstance(value, tuple):
        return {"shape": {"dim": [{"size": str(size)} for size in value]}}
    if all(isinstance(one, str) for one in value):
        return {"list": {"s": [attribute(one)["s"] for one in value]}}
    return {"list": {"i": [str(one) for one in value]}}


class Builder:
    """Collects nodes and weights; `files` are those of the model."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.weights: list[dict[str, Any]] = []
        self.data = b""
        self.signature: dict[str, Any] = {}

    def node(self, op: str, inputs: list[str], name: str | None = None, **attributes: Any) -> str:
        name = name or f"{op}_{len(self.nodes)}"
        attr = {key: attribute(value) for key, value in attributes.items()}
        self.nodes.append({"name": name, "op": op, "input": inputs, "attr": attr})
        return name

    def constant(self, value: Any, quantised: str | None = None) -> str:
        """A weight; `quantised`: uint8 or float16."""
        array = np.asarray(value)
        array = array.astype(np.int32 if array.dtype.kind == "i" else np.float32)
        name = self.node("Const", [])
        entry: dict[str, Any] = {"name": name, "shape": list(array.shape), "dtype": array.dtype.name}
        if quantised == "float16":
            entry["quantization"] = {"dtype": "float16", "original_dtype": "float32"}
            array = array.astype(np.float16)
        elif quantised == "uint8":
            low, scale = float(array.min()), float(np.ptp(array)) / 255 or 1.0
            entry["quantization"] = {"dtype": "uint8", "min": low, "scale": scale}
            array = np.round((array - low) / scale).astype(np.uint8)
        self.weights.append(entry)
        self.data += array.tobytes()
        return name

    @property
    def files(self) -> dict[str, bytes]:
        half = len(self.data) // 2
        tree = {
            "modelTopology": {"node": self.nodes},
            "weightsManifest": [{"paths": ["shard1of2", "shard2of2"], "weights": self.weights}],
            "signature": self.signature,
        }
        return {
            "model.json": json.dumps(tree).encode(),
            "shard1of2": self.data[:half],
            "shard2of2": self.data[half:],
        }


def same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Rows before and behind that TensorFlow's SAME adds."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def convolve(image: np.ndarray, kernel: np.ndarray, stride: int, *, depthwise: bool = False) -> np.ndarray:
    """SAME convolution of [N,H,W,C] with [h,w,in,out] or, depthwise, [h,w,in,multiplier]."""
    rows, columns = kernel.shape[:2]
    pads = [(0, 0), same(image.shape[1], rows, stride), same(image.shape[2], columns, stride), (0, 0)]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, pads), (rows, columns), axis=(1, 2))
    windows = windows[:, ::stride, ::stride]  # N, H, W, C, h, w
    if depthwise:
        out = np.einsum("nyxchw,hwcm->nyxcm", windows, kernel)
        return out.reshape(*out.shape[:3], -1)
    return np.einsum("nyxchw,hwco->nyxo", windows, kernel)


def tiny_ssd(side: int = 32) -> Builder:
    """An SSD that finds one object: boxes and scores from the mean of its pictures, which a loop resizes before."""
    made, rng = Builder(), np.random.default_rng(0)
    made.node("Placeholder", [], "image_tensor", shape=(-1, -1, -1, 3))
    made.node("Enter", ["image_tensor"], "loop")
    made.node("TensorArrayGatherV3", ["loop"], "gather", element_shape=(side, side, 3))
    scaled = made.node("Mul", [made.constant(np.float32(2 / 255)), "gather"])
    image = made.node("Sub", [scaled, made.constant(np.float32(1))])
    kernel = made.constant(rng.normal(0, 0.1, (3, 3, 3, 8)))
    options: dict[str, Any] = {"padding": "SAME", "data_format": "NHWC", "dilations": [1, 1, 1, 1]}
    features = made.node("Conv2D", [image, kernel], strides=[1, side // 2, side // 2, 1], **options)
    # Of 2x2 cells: 4 rows of 90 scores, and as many boxes.
    scores = made.node(
        "Conv2D", [features, made.constant(np.zeros((1, 1, 8, 90)))], strides=[1, 1, 1, 1], **options
    )
    bias = np.full(90, -9.0)
    bias[2] = 2.0
    scores = made.node("BiasAdd", [scores, made.constant(bias)])
    batch = made.node(
        "StridedSlice",
        [made.node("Shape", [scores]), *(made.constant(np.array([v])) for v in (0, 1, 1))],
        shrink_axis_mask=1,
    )
    four, ninety = made.constant(np.int32(4)), made.constant(np.int32(90))
    shape = made.node("Pack", [batch, four, ninety], axis=0)
    made.node("Sigmoid", [made.node("Reshape", [scores, shape])], "scores")
    box = made.constant(np.tile(np.float32([0.25, 0.25, 0.75, 0.75]), (1, 4, 1, 1)))
    times = made.node("Pack", [batch, *[made.constant(np.int32(1))] * 3], axis=0)
    made.node("Tile", [box, times], "boxes")
    return made

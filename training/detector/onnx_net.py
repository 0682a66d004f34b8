"""An ONNX detector as a torch module whose convolutions can learn, and back into the same graph.

Nodes are run as they stand; only the weights and biases of convolutions are parameters. Batch normalisation keeps its
statistics and factors, as the graph keeps everything else: what comes back differs in these numbers alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import NodeProto, helper, numpy_helper
from torch import Tensor, nn

from secondlook.shared.errors import ConfigError

Attributes = dict[str, Any]


class OnnxNet(nn.Module):
    """float32 frames as the graph takes them -> its outputs, in its order. Raises ConfigError for an unknown node."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._model = onnx.load(path)
        graph = self._model.graph
        unknown = sorted({node.op_type for node in graph.node} - _OPERATIONS.keys())
        if unknown:
            raise ConfigError(
                f"{path.name} cannot learn here: its graph has nodes of the kind {', '.join(unknown)}"
            )
        self._moved: dict[torch.device, dict[str, Tensor]] = {}
        self._constants = {
            each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in graph.initializer
        }
        learnt = {name for node in graph.node if node.op_type == "Conv" for name in node.input[1:]}
        self._names = sorted(learnt & self._constants.keys())
        self.weights = nn.ParameterList(nn.Parameter(self._constants.pop(name)) for name in self._names)
        self._nodes = [
            (node, {one.name: helper.get_attribute_value(one) for one in node.attribute})
            for node in graph.node
        ]

    def forward(self, frames: Tensor) -> list[Tensor]:
        return self.values(frames, [output.name for output in self._model.graph.output])

    def values(self, frames: Tensor, wanted: Sequence[str]) -> list[Tensor]:
        """What the graph calls `wanted`; only nodes that lead to these are run."""
        weights = dict(zip(self._names, self.weights, strict=True))
        values: dict[str, Tensor] = {**self._constants_on(frames.device), **weights}
        values[self._model.graph.input[0].name] = frames
        needed = self._leading_to(wanted)
        for node, attributes in self._nodes:
            if needed.isdisjoint(node.output):
                continue
            given = [values[name] if name else None for name in node.input]
            made = _OPERATIONS[node.op_type](given, attributes, node)
            for name, value in zip(
                node.output, made if isinstance(made, (list, tuple)) else [made], strict=True
            ):
                values[name] = value
        return [values[name] for name in wanted]

    def _constants_on(self, device: torch.device) -> dict[str, Tensor]:
        if device not in self._moved:
            self._moved[device] = {name: value.to(device) for name, value in self._constants.items()}
        return self._moved[device]

    def _leading_to(self, wanted: Sequence[str]) -> set[str]:
        """These values and all that they are made of."""
        needed = set(wanted)
        for node, _ in reversed(self._nodes):
            if not needed.isdisjoint(node.output):
                needed.update(node.input)
        return needed

    def feature_maps(self, strides: Sequence[int]) -> list[str]:
        """Of each stride, in rising order, the last convolution of the trunk whose maps have 1/stride of the input's
        sides: the last that the first one at the half of that is made of, and for the last stride the first such one.

        Raises ConfigError where the graph has none at one of them, or tells no sizes.
        """
        graph = onnx.shape_inference.infer_shapes(self._model).graph
        shapes = {
            each.name: [axis.dim_value for axis in each.type.tensor_type.shape.dim]
            for each in (*graph.input, *graph.value_info, *graph.output)
        }
        given = shapes[graph.input[0].name]
        height, width = given[1:3] if given[-1] == 3 else given[2:4]

        def at(stride: int) -> list[str]:
            sides = [-(-height // stride), -(-width // stride)]
            convolutions = (node.output[0] for node in graph.node if node.op_type == "Conv")
            return [name for name in convolutions if height and shapes.get(name, [])[2:] == sides]

        names = []
        for stride in strides:
            found, below = at(stride), at(2 * stride)
            if not found:
                raise ConfigError(f"the graph has no convolution with maps of 1/{stride} of a frame's sides")
            if below:
                trunk = self._leading_to(below[:1])
                found = [name for name in found if name in trunk]
            names.append(found[-1] if below else found[0])
        return names

    def write(self, path: Path) -> None:
        """The graph with the weights as they are now."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        now = dict(zip(self._names, self.weights, strict=True))
        for each in model.graph.initializer:
            if each.name in now:
                values = now[each.name].detach().numpy().astype(numpy_helper.to_array(each).dtype)
                each.CopyFrom(numpy_helper.from_array(values, each.name))
        onnx.save(model, path)


Given = Sequence[Any]
Operation = Callable[[Given, Attributes, NodeProto], Any]


def _conv(given: Given, attributes: Attributes, _node: NodeProto) -> Tensor:
    x, weight, bias = given[0], given[1], given[2] if len(given) > 2 else None
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    x = F.pad(x, _padding(x.shape[2:], weight.shape[2:], strides, dilations, attributes))
    return F.conv2d(x, weight, bias, list(strides), 0, list(dilations), attributes.get("group", 1))


def _padding(
    sides: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    attributes: Attributes,
) -> list[int]:
    """Left, right, top, bottom."""
    mode = attributes.get("auto_pad", b"NOTSET")
    if mode in (b"NOTSET", b"VALID"):
        top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
        return [left, right, top, bottom]
    totals = [
        max((math.ceil(side / stride) - 1) * stride + (k - 1) * dilation + 1 - side, 0)
        for side, stride, k, dilation in zip(sides, strides, kernel, dilations, strict=True)
    ]
    less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
    before, after = (less, more) if mode == b"SAME_UPPER" else (more, less)
    return [before[1], after[1], before[0], after[0]]


def _max_pool(given: Given, attributes: Attributes, _node: NodeProto) -> Tensor:
    kernel, strides = attributes["kernel_shape"], attributes.get("strides", [1, 1])
    padded = F.pad(
        given[0], _padding(given[0].shape[2:], kernel, strides, [1, 1], attributes), value=-math.inf
    )
    return F.max_pool2d(padded, list(kernel), list(strides))


def _batch_norm(given: Given, attributes: Attributes, _node: NodeProto) -> Tensor:
    x, scale, bias, mean, variance = given
    return F.batch_norm(x, mean, variance, scale, bias, eps=attributes.get("epsilon", 1e-5))


def _clip(given: Given, attributes: Attributes, _node: NodeProto) -> Tensor:
    low = given[1] if len(given) > 1 and given[1] is not None else None
    high = given[2] if len(given) > 2 and given[2] is not None else None
    return torch.clamp(given[0], low, high)


def _slice(given: Given, attributes: Attributes, _node: NodeProto) -> Tensor:
    x, starts, ends = given[0], given[1].tolist(), given[2].tolist()
    axes = given[3].tolist() if len(given) > 3 and given[3] is not None else list(range(len(starts)))
    steps = given[4].tolist() if len(given) > 4 and given[4] is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        chosen = torch.arange(x.shape[axis])[slice(start, end, step)]
        x = x.index_select(axis, chosen)
    return x


def _split(given: Given, attributes: Attributes, node: NodeProto) -> Sequence[Tensor]:
    axis, count = attributes.get("axis", 0), len(node.output)
    if len(given) > 1 and given[1] is not None:
        return torch.split(given[0], given[1].tolist(), axis)
    return torch.split(given[0], math.ceil(given[0].shape[axis] / count), axis)


def _squeeze(given: Given, attributes: Attributes, _node: NodeProto) -> Tensor:
    axes = given[1].tolist() if len(given) > 1 else attributes.get("axes")
    return given[0].squeeze() if axes is None else given[0].squeeze(tuple(axes))


def _unsqueeze(given: Given, attributes: Attributes, _node: NodeProto) -> Tensor:
    x, axes = given[0], given[1].tolist() if len(given) > 1 else attributes["axes"]
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _reshape(given: Given, attributes: Attributes, _node: NodeProto) -> Tensor:
    x, wanted = given[0], given[1].tolist()
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(wanted)])


def _resize(given: Given, attributes: Attributes, _node: NodeProto) -> Tensor:
    """By repetition or bilinear, as frameworks write their upsampling. Raises ConfigError for other kinds."""
    mode = {b"nearest": "nearest", b"linear": "bilinear"}.get(attributes.get("mode", b"nearest"))
    if mode is None:
        raise ConfigError(f"a Resize of mode {attributes['mode'].decode()} cannot be run here")
    x = given[0]
    scales = given[2].tolist() if len(given) > 2 and given[2] is not None and given[2].numel() else None
    size = (
        given[3].tolist()[2:]
        if scales is None
        else [round(side * by) for side, by in zip(x.shape[2:], scales[2:], strict=True)]
    )
    return F.interpolate(x, size, mode=mode)


def _shape(given: Given, attributes: Attributes, _node: NodeProto) -> Tensor:
    shape = given[0].shape[attributes.get("start", 0) : attributes.get("end")]
    return torch.tensor(shape, dtype=torch.int64)


_OPERATIONS: dict[str, Operation] = {
    "Add": lambda x, a, n: x[0] + x[1],
    "BatchNormalization": _batch_norm,
    "Cast": lambda x, a, n: x[0].to(
        torch.from_numpy(np.zeros(0, helper.tensor_dtype_to_np_dtype(a["to"]))).dtype
    ),
    "Clip": _clip,
    "Concat": lambda x, a, n: torch.cat(list(x), a["axis"]),
    "Constant": lambda x, a, n: torch.from_numpy(numpy_helper.to_array(a["value"]).copy()),
    "Conv": _conv,
    "Div": lambda x, a, n: x[0] / x[1],
    "Exp": lambda x, a, n: x[0].exp(),
    "Identity": lambda x, a, n: x[0],
    "LeakyRelu": lambda x, a, n: F.leaky_relu(x[0], a.get("alpha", 0.01)),
    "MaxPool": _max_pool,
    "Mul": lambda x, a, n: x[0] * x[1],
    "Relu": lambda x, a, n: F.relu(x[0]),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Sigmoid": lambda x, a, n: x[0].sigmoid(),
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": lambda x, a, n: x[0] - x[1],
    "Sum": lambda x, a, n: sum(x[1:], x[0]),
    "Tile": lambda x, a, n: x[0].repeat(x[1].tolist()),
    "Transpose": lambda x, a, n: x[0].permute(a["perm"]),
    "Unsqueeze": _unsqueeze,
}

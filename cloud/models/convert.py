"""From a TensorFlow.js graph model to ONNX: one function per operation, for those that detection networks use.

TensorFlow's pictures have their channels last, ONNX's convolutions want them first. A value may therefore be stored
with the channels first; operations that do not care keep it so, and a transpose is written only where one is needed.

A model that resizes its pictures in a loop over the batch (as the Object Detection API exports them) is cut behind
that loop: the graph then takes frames that have the network's size already.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
import numpy.typing as npt

from secondlook.cloud.models.tfjs import GraphModel, Node
from secondlook.shared.errors import DetectorError, ModelCorrupt

Array = npt.NDArray[Any]

OPSET, IR_VERSION = 18, 9
INPUT = "images"
_FIRST = (0, 3, 1, 2)  # channels last to channels first
_LAST = (0, 2, 3, 1)
_END = np.iinfo(np.int32).max

_UNARY = {
    "Relu": "Relu",
    "Sigmoid": "Sigmoid",
    "Exp": "Exp",
    "Identity": "Identity",
    "Neg": "Neg",
    "Tanh": "Tanh",
}
_BINARY = {
    "Add": "Add",
    "AddV2": "Add",
    "Sub": "Sub",
    "Mul": "Mul",
    "RealDiv": "Div",
    "Maximum": "Max",
    "Minimum": "Min",
}


@dataclass(frozen=True)
class _Value:
    """A tensor of the ONNX graph; `first`: a picture that is stored with its channels first."""

    name: str
    first: bool = False


def convert(model: GraphModel) -> bytes:
    """The model as the bytes of an ONNX file; its outputs are called as in the model.

    Raises DetectorError for an operation that is not known here, ModelCorrupt for a graph that holds together nowhere.
    """
    import onnx

    refusals = (onnx.checker.ValidationError, onnx.shape_inference.InferenceError)
    writer = _Writer(model)
    try:
        for node in _in_order(model, writer.start):
            writer.add(node)
        return writer.finish()
    except (LookupError, ValueError, TypeError, AttributeError, *refusals) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelCorrupt(f"the graph cannot be converted: {type(error).__name__} {reason}") from error


def _in_order(model: GraphModel, start: str) -> list[Node]:
    """What the outputs need, each node behind those it takes from; nothing before the node called `start`."""
    sorter: TopologicalSorter[str] = TopologicalSorter()
    waiting, seen = [output.partition(":")[0] for output in model.outputs], set()
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        before = () if current == start else [name.partition(":")[0] for name in model.nodes[current].inputs]
        sorter.add(current, *before)
        waiting.extend(before)
    if start not in seen:
        raise ModelCorrupt("the outputs do not depend on the pictures")
    try:
        return [model.nodes[one] for one in sorter.static_order()]
    except CycleError as error:
        raise ModelCorrupt(f"the graph has a loop through {error.args[1][0]!r}") from error


def _find_start(model: GraphModel) -> tuple[str, list[int | str]]:
    """The node that stands for the pictures, and their shape: behind a loop that resizes, else a placeholder."""
    for node in model.nodes.values():
        shape = node.attributes.get("element_shape")
        if node.op != "TensorArrayGatherV3" or not isinstance(shape, tuple) or len(shape) != 3:
            continue
        if shape[2] == 3 and min(shape) > 0:
            return node.name, ["frames", *shape]
    places = [node for node in model.nodes.values() if node.op == "Placeholder"]
    if len(places) != 1:
        raise DetectorError(f"the graph has {len(places)} inputs, not one")
    (place,) = places
    dimensions = list(model.input_shapes.get(place.name) or place.attributes.get("shape") or ())
    if len(dimensions) != 4 or min(dimensions[1:]) < 1:
        raise DetectorError(f"the graph takes an input of shape {dimensions}, not pictures of one size")
    return place.name, ["frames" if dimensions[0] < 0 else dimensions[0], *dimensions[1:]]


class _Writer:
    """Collects the nodes and constants of an ONNX graph."""

    def __init__(self, model: GraphModel) -> None:
        import onnx

        self._onnx = onnx
        self._model = model
        self._nodes: list[Any] = []
        self._constants: dict[str, Array] = {}
        self._values: dict[str, _Value] = {}
        self.start, self._shape = _find_start(model)

    def add(self, node: Node) -> None:
        if node.name == self.start:
            self._values[node.name] = _Value(INPUT)
        elif node.op == "Const":
            if node.name not in self._model.weights:
                raise ModelCorrupt(f"constant {node.name!r} has no weights")
        elif node.op in _UNARY:
            self._unary(node, _UNARY[node.op])
        elif node.op in _BINARY:
            self._binary(node, _BINARY[node.op])
        elif node.op in _OPERATIONS:
            _OPERATIONS[node.op](self, node)
        else:
            raise DetectorError(f"the graph uses the operation {node.op}, which is not known here")

    def finish(self) -> bytes:
        helper, tensor = self._onnx.helper, self._onnx.TensorProto
        for output in self._model.outputs:
            self._nodes.append(helper.make_node("Identity", [self.plain(output)], [_plain_name(output)]))
        graph = helper.make_graph(
            self._nodes,
            "converted",
            [helper.make_tensor_value_info(INPUT, tensor.FLOAT, self._shape)],
            [helper.make_tensor_value_info(_plain_name(o), tensor.FLOAT, None) for o in self._model.outputs],
            [self._onnx.numpy_helper.from_array(value, key) for key, value in self._constants.items()],
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="secondlook"
        )
        model = self._onnx.shape_inference.infer_shapes(model, strict_mode=True)
        self._onnx.checker.check_model(model)
        del model.graph.value_info[:]  # of what lies inside, which whoever runs it infers anew
        return bytes(model.SerializeToString(deterministic=True))

    # What operations are made of.

    def emit(self, op: str, inputs: list[str], count: int = 1, **attributes: Any) -> list[str]:
        names = [f"t{len(self._nodes)}_{index}" for index in range(count)]
        self._nodes.append(self._onnx.helper.make_node(op, inputs, names, **attributes))
        return names

    def put(self, node: Node, name: str, *, first: bool = False, index: int = 0) -> None:
        self._values[node.name if index == 0 else f"{node.name}:{index}"] = _Value(name, first)

    def constant(self, tensor: str) -> Array:
        """The values of a constant. Raises DetectorError where the tensor is computed."""
        while tensor not in self._model.weights:
            node = self._model.nodes[tensor.partition(":")[0]]
            if node.op != "Identity":
                raise DetectorError(f"{tensor!r} is computed, where only a constant is known here")
            tensor = node.inputs[0]
        return self._model.weights[tensor]

    def numbers(self, tensor: str) -> list[int]:
        return [int(value) for value in self.constant(tensor).reshape(-1)]

    def hold(self, value: Array) -> str:
        """A constant of the graph; integers are int64, as ONNX wants its shapes."""
        name = f"c{len(self._constants)}"
        kept = value.astype(np.int64) if value.dtype == np.int32 else value
        self._constants[name] = np.ascontiguousarray(kept).reshape(value.shape)
        return name

    def integers(self, values: list[int]) -> str:
        return self.hold(np.array(values, np.int64))

    def is_first(self, tensor: str) -> bool:
        return tensor in self._values and self._values[tensor].first

    def is_constant(self, tensor: str) -> bool:
        return tensor not in self._values

    def plain(self, tensor: str) -> str:
        """The name of a tensor stored as the model has it."""
        if self.is_constant(tensor):
            return self.hold(self.constant(tensor))
        value = self._values[tensor]
        return self.emit("Transpose", [value.name], perm=_LAST)[0] if value.first else value.name

    def first(self, tensor: str) -> str:
        """The name of a picture stored with its channels first; of a constant that goes with one."""
        if self.is_constant(tensor):
            constant = self.constant(tensor)
            if constant.ndim == 4:
                return self.hold(constant.transpose(_FIRST))
            return self.hold(constant.reshape(-1, 1, 1) if constant.ndim == 1 else constant)
        value = self._values[tensor]
        return value.name if value.first else self.emit("Transpose", [value.name], perm=_FIRST)[0]

    def _unary(self, node: Node, op: str) -> None:
        value = self._values[node.inputs[0]]
        self.put(node, self.emit(op, [value.name])[0], first=value.first)

    def _binary(self, node: Node, op: str) -> None:
        # A computed tensor beside a picture may be of any rank: only constants and other pictures are turned.
        first = any(map(self.is_first, node.inputs)) and all(
            self.is_first(one) or (self.is_constant(one) and self.constant(one).ndim in (0, 1, 4))
            for one in node.inputs
        )
        take = self.first if first else self.plain
        self.put(node, self.emit(op, [take(one) for one in node.inputs])[0], first=first)

    def activation(self, op: str, name: str, node: Node) -> str:
        if op == "Relu6":
            limits = [self.hold(np.array(limit, np.float32)) for limit in (0, 6)]
            return self.emit("Clip", [name, *limits])[0]
        if op == "LeakyRelu":
            alpha = node.attributes.get("alpha", node.attributes.get("leakyrelu_alpha", {"f": 0.2}))
            return self.emit("LeakyRelu", [name], alpha=float(alpha))[0]
        if op in _UNARY:
            return self.emit(_UNARY[op], [name])[0]
        raise DetectorError(f"{node.name!r} ends in {op}, which is not known here")


def _plain_name(tensor: str) -> str:
    return tensor.replace(":", "_")


def _check_last(node: Node) -> None:
    if node.attributes.get("data_format", "NHWC") != "NHWC":
        raise DetectorError(f"{node.name!r} has its channels first, which is not known here")


def _window(node: Node) -> dict[str, Any]:
    """Strides and padding of what slides over a picture, as ONNX has them."""
    padding = node.attributes.get("padding", "VALID")
    if padding not in ("SAME", "VALID"):
        raise DetectorError(f"{node.name!r} pads {padding}, which is not known here")
    strides = node.attributes["strides"][1:3]
    return {"strides": strides, "auto_pad": "SAME_UPPER" if padding == "SAME" else "VALID"}


def _convolution(writer: _Writer, node: Node) -> None:
    _check_last(node)
    kernel = writer.constant(node.inputs[1])  # height, width, in, out (depthwise: in, multiplier)
    group = 1
    if "Depthwise" in node.op:
        group = kernel.shape[2]
        kernel = kernel.transpose(2, 3, 0, 1).reshape(-1, 1, *kernel.shape[:2])
    else:
        kernel = kernel.transpose(3, 2, 0, 1)
    attributes = _window(node)
    dilations = node.attributes.get("dilations") or [1, 1, 1, 1]
    inputs = [writer.first(node.inputs[0]), writer.hold(kernel)]
    fused = list(node.attributes.get("fused_ops") or ())
    if fused[:1] == ["BiasAdd"]:
        inputs.append(writer.hold(writer.constant(node.inputs[2])))
        fused = fused[1:]
    (name,) = writer.emit("Conv", inputs, group=group, dilations=dilations[1:3], **attributes)
    for op in fused:
        name = writer.activation(op, name, node)
    writer.put(node, name, first=True)


def _batch_norm(writer: _Writer, node: Node) -> None:
    _check_last(node)
    inputs = [
        writer.first(node.inputs[0]),
        *(writer.hold(writer.constant(one)) for one in node.inputs[1:5]),
    ]
    epsilon = float(node.attributes.get("epsilon", 1e-4))
    writer.put(node, writer.emit("BatchNormalization", inputs, epsilon=epsilon)[0], first=True)


def _bias(writer: _Writer, node: Node) -> None:
    _check_last(node)
    first = writer.is_first(node.inputs[0])
    take = writer.first if first else writer.plain
    writer.put(node, writer.emit("Add", [take(node.inputs[0]), take(node.inputs[1])])[0], first=first)


def _activation(writer: _Writer, node: Node) -> None:
    first = writer.is_first(node.inputs[0])
    take = writer.first if first else writer.plain
    writer.put(node, writer.activation(node.op, take(node.inputs[0]), node), first=first)


def _sum(writer: _Writer, node: Node) -> None:
    first = all(map(writer.is_first, node.inputs))
    take = writer.first if first else writer.plain
    writer.put(node, writer.emit("Sum", [take(one) for one in node.inputs])[0], first=first)


def _concat(writer: _Writer, node: Node) -> None:
    *parts, axis_name = node.inputs
    axis = int(writer.constant(axis_name))
    first = all(map(writer.is_first, parts))
    take = writer.first if first else writer.plain
    place = _FIRST.index(axis % 4) if first else axis
    writer.put(node, writer.emit("Concat", [take(one) for one in parts], axis=place)[0], first=first)


def _pad(writer: _Writer, node: Node) -> None:
    amounts = writer.constant(node.inputs[1])
    first = writer.is_first(node.inputs[0])
    if first:
        amounts = amounts[list(_FIRST)]
    take = writer.first if first else writer.plain
    inputs = [take(node.inputs[0]), writer.integers([int(v) for v in amounts.T.reshape(-1)])]
    if node.op == "PadV2":
        inputs.append(writer.hold(writer.constant(node.inputs[2]).reshape(())))
    writer.put(node, writer.emit("Pad", inputs)[0], first=first)


def _max_pool(writer: _Writer, node: Node) -> None:
    _check_last(node)
    size = node.attributes["ksize"][1:3]
    (name,) = writer.emit("MaxPool", [writer.first(node.inputs[0])], kernel_shape=size, **_window(node))
    writer.put(node, name, first=True)


def _resize(writer: _Writer, node: Node) -> None:
    places = "asymmetric"
    if node.attributes.get("align_corners"):
        places = "align_corners"
    elif node.attributes.get("half_pixel_centers"):
        places = "half_pixel"
    image = writer.first(node.inputs[0])
    # All four sizes: with two and `axes`, ONNX Runtime moves a transpose over the node and loses them.
    kept = writer.emit("Shape", [image], start=0, end=2)[0]
    sizes = writer.emit("Concat", [kept, writer.integers(writer.numbers(node.inputs[1]))], axis=0)[0]
    inputs = [image, "", "", sizes]
    (name,) = writer.emit("Resize", inputs, mode="linear", coordinate_transformation_mode=places)
    writer.put(node, name, first=True)


def _transpose(writer: _Writer, node: Node) -> None:
    order = tuple(writer.numbers(node.inputs[1]))
    value = writer._values[node.inputs[0]]
    if value.first and order == _FIRST:
        writer.put(node, value.name)
    elif not value.first and order == _LAST:
        writer.put(node, value.name, first=True)
    else:
        writer.put(node, writer.emit("Transpose", [writer.plain(node.inputs[0])], perm=order)[0])


def _shape(writer: _Writer, node: Node) -> None:
    writer.put(node, writer.emit("Shape", [writer.plain(node.inputs[0])])[0])


def _reshape(writer: _Writer, node: Node) -> None:
    inputs = [writer.plain(node.inputs[0]), writer.plain(node.inputs[1])]
    writer.put(node, writer.emit("Reshape", inputs)[0])


def _strided_slice(writer: _Writer, node: Node) -> None:
    begin, end, step = (writer.numbers(one) for one in node.inputs[1:4])
    masks = {key: int(node.attributes.get(f"{key}_mask") or 0) for key in ("begin", "end", "shrink_axis")}
    if node.attributes.get("ellipsis_mask") or node.attributes.get("new_axis_mask"):
        raise DetectorError(f"{node.name!r} slices with an ellipsis or a new axis, which is not known here")
    gone = [axis for axis in range(len(begin)) if masks["shrink_axis"] >> axis & 1]
    for axis in range(len(begin)):
        if masks["begin"] >> axis & 1:
            begin[axis] = 0 if step[axis] > 0 else _END
        if masks["end"] >> axis & 1:
            end[axis] = _END if step[axis] > 0 else -_END
        if axis in gone:
            step[axis], end[axis] = 1, begin[axis] + 1 if begin[axis] != -1 else _END
    bounds = [writer.integers(part) for part in (begin, end, list(range(len(begin))), step)]
    (name,) = writer.emit("Slice", [writer.plain(node.inputs[0]), *bounds])
    if gone:
        (name,) = writer.emit("Squeeze", [name, writer.integers(gone)])
    writer.put(node, name)


def _slice(writer: _Writer, node: Node) -> None:
    begin, size = (writer.numbers(one) for one in node.inputs[1:3])
    end = [_END if count == -1 else at + count for at, count in zip(begin, size, strict=True)]
    bounds = [writer.integers(part) for part in (begin, end)]
    writer.put(node, writer.emit("Slice", [writer.plain(node.inputs[0]), *bounds])[0])


def _pack(writer: _Writer, node: Node) -> None:
    axis = int(node.attributes.get("axis") or 0)
    at = writer.integers([axis])
    parts = [writer.emit("Unsqueeze", [writer.plain(one), at])[0] for one in node.inputs]
    writer.put(node, writer.emit("Concat", parts, axis=axis)[0])


def _unpack(writer: _Writer, node: Node) -> None:
    axis, count = int(node.attributes.get("axis") or 0), int(node.attributes["num"])
    parts = writer.emit("Split", [writer.plain(node.inputs[0])], count, axis=axis, num_outputs=count)
    at = writer.integers([axis])
    for index, part in enumerate(parts):
        writer.put(node, writer.emit("Squeeze", [part, at])[0], index=index)


def _split(writer: _Writer, node: Node) -> None:
    sizes, axis = writer.numbers(node.inputs[1]), int(writer.constant(node.inputs[2]))
    inputs = [writer.plain(node.inputs[0]), writer.integers(sizes)]
    for index, part in enumerate(writer.emit("Split", inputs, len(sizes), axis=axis)):
        writer.put(node, part, index=index)


def _tile(writer: _Writer, node: Node) -> None:
    inputs = [writer.plain(node.inputs[0]), writer.plain(node.inputs[1])]
    writer.put(node, writer.emit("Tile", inputs)[0])


def _expand(writer: _Writer, node: Node) -> None:
    inputs = [writer.plain(node.inputs[0]), writer.integers(writer.numbers(node.inputs[1]))]
    writer.put(node, writer.emit("Unsqueeze", inputs)[0])


def _squeeze(writer: _Writer, node: Node) -> None:
    axes = list(node.attributes.get("squeeze_dims") or node.attributes.get("axis") or ())
    inputs = [writer.plain(node.inputs[0]), *([writer.integers(axes)] if axes else [])]
    writer.put(node, writer.emit("Squeeze", inputs)[0])


def _softmax(writer: _Writer, node: Node) -> None:
    writer.put(node, writer.emit("Softmax", [writer.plain(node.inputs[0])], axis=-1)[0])


def _sparse_to_dense(writer: _Writer, node: Node) -> None:
    """Of constants alone: what converters leave of the arithmetic on shapes."""
    places, shape, values, default = (writer.constant(one) for one in node.inputs[:4])
    dense = np.full(tuple(int(size) for size in shape), default.reshape(()), values.dtype)
    dense[tuple(places.reshape(-1, dense.ndim).T)] = values
    writer.put(node, writer.hold(dense))


_OPERATIONS: dict[str, Callable[[_Writer, Node], None]] = {
    "AddN": _sum,
    "BiasAdd": _bias,
    "ConcatV2": _concat,
    "Conv2D": _convolution,
    "DepthwiseConv2dNative": _convolution,
    "ExpandDims": _expand,
    "FusedBatchNorm": _batch_norm,
    "FusedBatchNormV3": _batch_norm,
    "FusedDepthwiseConv2dNative": _convolution,
    "LeakyRelu": _activation,
    "MaxPool": _max_pool,
    "Pack": _pack,
    "Pad": _pad,
    "PadV2": _pad,
    "Relu6": _activation,
    "Reshape": _reshape,
    "ResizeBilinear": _resize,
    "Shape": _shape,
    "Slice": _slice,
    "Softmax": _softmax,
    "SparseToDense": _sparse_to_dense,
    "SplitV": _split,
    "Squeeze": _squeeze,
    "StridedSlice": _strided_slice,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unpack": _unpack,
    "_FusedConv2D": _convolution,
}

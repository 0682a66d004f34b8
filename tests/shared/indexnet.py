"""The σ-index network as it lies inside the encoder's graph, cut out to be run and read on its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

QUALITY = {"base": "base_quality", "enhancement": "quality"}


@dataclass(frozen=True)
class Convolution:
    """One integer convolution of the graph: integer-valued weight and bias, and the tensors around it."""

    name: str
    weight: np.ndarray
    bias: np.ndarray  # int32[64,C]
    source: str  # its input
    sums: str  # its output, before the bias


class IndexNet:
    """Inputs `z` float[B,Z,h,w], for an enhancement `base` float[B,M,4h,4w], and the layer's quality int64[1]."""

    def __init__(self, path: Path, layer: str) -> None:
        self.layer, self._model = layer, onnx.load(path)
        graph = self._model.graph
        self._makers = {output: node for node in graph.node for output in node.output}
        self._kept = {tensor.name: tensor for tensor in graph.initializer}
        self.sources: dict[str, str] = {}
        self.nodes = self._collect(f"indexes_{layer}", set())

    def value(self, name: str) -> np.ndarray | None:
        """What a tensor is, where it is a constant of the graph."""
        if name in self._kept:
            return numpy_helper.to_array(self._kept[name])
        node = self._makers.get(name)
        if node is not None and node.op_type == "Constant":
            return numpy_helper.to_array(node.attribute[0].t)
        if node is not None and node.op_type == "Cast" and (inner := self.value(node.input[0])) is not None:
            return inner.astype(onnx.helper.tensor_dtype_to_np_dtype(node.attribute[0].i))
        return None

    def _collect(self, tensor: str, seen: set[str]) -> list[onnx.NodeProto]:
        """Nodes up to `tensor`, in order; the walk ends at the clamp of z and at the magnitude of base symbols."""
        node = self._makers.get(tensor)
        if node is None or node.output[0] in seen:
            return []
        seen.add(node.output[0])
        inputs = list(node.input)
        if node.op_type == "Abs":
            self.sources["base"], inputs = inputs[0], []
        elif node.op_type == "Clip" and inputs[1] and float(self.value(inputs[1])) < 0:
            self.sources["z"], inputs = inputs[0], inputs[1:]
        before = [found for name in inputs if name for found in self._collect(name, seen)]
        return [*before, node]

    def model(self, more: tuple[str, ...] = ()) -> onnx.ModelProto:
        """The network alone, with the tensors `more` as outputs too."""
        renamed = {inner: name for name, inner in self.sources.items()}
        nodes = []
        for node in self.nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = [renamed.get(name, name) for name in node.input]
            nodes.append(copy)
        float_, int_ = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
        inputs = [onnx.helper.make_tensor_value_info(name, float_, [None] * 4) for name in self.sources]
        inputs.append(onnx.helper.make_tensor_value_info(QUALITY[self.layer], int_, [1]))
        outputs = [
            onnx.helper.make_tensor_value_info(f"indexes_{self.layer}", onnx.TensorProto.UINT8, [None] * 4)
        ]
        outputs += [onnx.helper.make_tensor_value_info(name, float_, [None] * 4) for name in more]
        used = {name for node in nodes for name in node.input}
        kept = [tensor for name, tensor in self._kept.items() if name in used]
        graph = onnx.helper.make_graph(nodes, "indexes", inputs, outputs, kept)
        made = onnx.helper.make_model(graph, opset_imports=self._model.opset_import)
        made.ir_version = self._model.ir_version
        onnx.checker.check_model(made)
        return made

    def convolutions(self) -> list[Convolution]:
        """In the order of the graph."""
        found = []
        for node in self.nodes:
            if node.op_type != "Conv":
                continue
            assert len(node.input) == 2, "its bias is a quality's, added behind it"
            weight = self.value(node.input[1])
            assert weight is not None
            table = self._bias(node.output[0])
            found.append(Convolution(node.input[1], weight, table, node.input[0], node.output[0]))
        return found

    def _bias(self, sums: str) -> np.ndarray:
        """The table that is gathered from and added to `sums`."""
        (add,) = (node for node in self.nodes if node.op_type == "Add" and sums in node.input)
        (name,) = (name for name in add.input if name != sums)
        while (node := self._makers[name]).op_type != "Gather":
            name = node.input[0]
        table = self.value(node.input[0])
        assert table is not None and node.input[1] == QUALITY[self.layer]
        return table

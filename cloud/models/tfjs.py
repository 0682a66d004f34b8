"""Reading a TensorFlow.js graph model: `model.json` with the graph and a list of weights, and shards with their bytes.

Bytes in, a `GraphModel` out; nothing here runs or converts it. Weights that are stored as float16 or as quantised
integers are widened to float32.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from secondlook.shared.errors import ModelCorrupt

Array = npt.NDArray[Any]

MAX_NODES = 100_000
_DTYPES = {"float32": "<f4", "int32": "<i4", "bool": "|u1", "uint8": "|u1", "uint16": "<u2", "float16": "<f2"}


@dataclass(frozen=True)
class Node:
    """One operation. `inputs` name tensors: ``NODE`` or, for the k-th output of a node, ``NODE:k``."""

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class GraphModel:
    """A graph as it was read. `weights` are the values of its constants, float32, int32 or bool."""

    nodes: Mapping[str, Node]
    weights: Mapping[str, Array]
    input_shapes: Mapping[str, tuple[int, ...]]  # of placeholders that the signature describes; -1: any size
    outputs: tuple[str, ...]  # the signature's, else what no node takes


def is_graph_model(data: bytes) -> bool:
    """Whether these bytes are the `model.json` of a graph model."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(tree, dict) and {"modelTopology", "weightsManifest"} <= tree.keys()


def read_graph_model(data: bytes, shard: Callable[[str], bytes]) -> GraphModel:
    """The model of a `model.json`; `shard` gives the bytes of a file that lies beside it, by name.

    Raises ModelCorrupt when it is no graph model, or its shards hold another number of bytes than it announces.
    """
    try:
        tree = json.loads(data)
        topology = tree["modelTopology"]
        nodes = [_node(entry) for entry in topology["node"]]
        signature = tree.get("signature") or tree.get("userDefinedMetadata", {}).get("signature") or {}
        weights = _weights(tree["weightsManifest"], shard)
        shapes = {
            _tensor(entry.get("name", name)): _shape(entry["tensorShape"])
            for name, entry in signature.get("inputs", {}).items()
            if "tensorShape" in entry
        }
        outputs = tuple(_tensor(entry["name"]) for entry in signature.get("outputs", {}).values())
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ModelCorrupt(f"model.json is not a TensorFlow.js graph model: {error!r}") from error
    if len(nodes) > MAX_NODES:
        raise ModelCorrupt(f"the graph has {len(nodes)} nodes, more than {MAX_NODES}")
    by_name = {node.name: node for node in nodes}
    return GraphModel(by_name, weights, shapes, outputs or _sinks(nodes))


def _tensor(name: str) -> str:
    return name.removesuffix(":0")


def _node(entry: dict[str, Any]) -> Node:
    inputs = tuple(_tensor(name) for name in entry.get("input", ()) if not name.startswith("^"))
    attributes = {name: _attribute(value) for name, value in entry.get("attr", {}).items()}
    return Node(str(entry["name"]), str(entry["op"]), inputs, attributes)


def _attribute(value: dict[str, Any]) -> Any:
    """Plain Python for the protobuf-like JSON of an attribute: text, numbers, shapes, lists of them."""
    for kind, inner in value.items():
        if kind == "s":
            return _text(inner)
        if kind == "i":
            return int(inner)
        if kind == "shape":
            return _shape(inner)
        if kind == "list":
            for each, read in (("i", int), ("s", _text), ("f", float)):
                if inner.get(each):
                    return [read(one) for one in inner[each]]
            return []
        return inner
    return None


def _text(value: str | list[int]) -> str:
    """A text as base64, or as a list of its bytes."""
    data = base64.b64decode(value) if isinstance(value, str) else bytes(value)
    return data.decode("utf-8", "replace")


def _shape(value: dict[str, Any]) -> tuple[int, ...]:
    return tuple(int(dimension.get("size", -1)) for dimension in value.get("dim", ()))


def _weights(manifest: list[dict[str, Any]], shard: Callable[[str], bytes]) -> dict[str, Array]:
    weights: dict[str, Array] = {}
    for group in manifest:
        data = b"".join(shard(path) for path in group["paths"])
        position = 0
        for entry in group["weights"]:
            array, position = _weight(entry, data, position)
            weights[entry["name"]] = array
        if position != len(data):
            raise ModelCorrupt(
                f"{', '.join(group['paths'])}: {len(data)} bytes, but the weights take {position}"
            )
    return weights


def _weight(entry: dict[str, Any], data: bytes, position: int) -> tuple[Array, int]:
    """The values of one weight, and where the next begins."""
    shape = tuple(int(size) for size in entry["shape"])
    quantised = entry.get("quantization", {})
    stored = np.dtype(_DTYPES[quantised.get("dtype", entry["dtype"])])
    count = math.prod(shape)
    end = position + count * stored.itemsize
    if min(shape, default=0) < 0 or end > len(data):
        raise ModelCorrupt(f"weight {entry['name']!r} of shape {list(shape)} is longer than its shards")
    array = np.frombuffer(data, stored, count, position).reshape(shape)
    if "scale" in quantised:
        return (array.astype(np.float32) * quantised["scale"] + quantised["min"]).astype(np.float32), end
    if entry["dtype"] == "float32":
        return array.astype(np.float32), end
    return array.astype(np.bool_ if entry["dtype"] == "bool" else np.int32), end


def _sinks(nodes: list[Node]) -> tuple[str, ...]:
    taken = {name.partition(":")[0] for node in nodes for name in node.inputs}
    idle = ("Const", "NoOp", "Placeholder")
    return tuple(node.name for node in nodes if node.name not in taken and node.op not in idle)

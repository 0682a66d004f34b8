"""What an ONNX file says of itself, read from its bytes: whether all of it is in this one file.

An initializer of an ONNX graph may lie in another file ("external data"), which no hash of the graph covers. The onnx
package, which could tell, is needed by training alone; a few fields of its protobuf messages are enough.
"""

from __future__ import annotations

from collections.abc import Iterator

from secondlook.shared.errors import ModelCorrupt

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_DEPTH = 100  # messages within messages; protobuf's own limit

# Of each message, the fields that can lead to a tensor, and the message that each holds (onnx.proto3).
_MESSAGES: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "SparseTensor",
        23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a Tensor: where its values lie, and that they lie elsewhere


def has_external_data(data: bytes) -> bool:
    """Whether a tensor of an ONNX model, wherever in it, keeps its values in another file.

    Raises ModelCorrupt when the bytes are not a protobuf message.
    """
    waiting = [("Model", memoryview(data), 0)]
    while waiting:
        message, view, depth = waiting.pop()
        for field, value in _fields(view):
            if message == "Tensor" and (field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value != 0)):
                return True
            inner = _MESSAGES[message].get(field)
            if inner is None or isinstance(value, int):
                continue
            if depth == _MOST_DEPTH:
                raise ModelCorrupt(f"messages lie more than {_MOST_DEPTH} deep in each other")
            waiting.append((inner, value, depth + 1))
    return False


def _fields(view: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message in order: number, and integer or bytes. Raises ModelCorrupt."""
    position = 0
    while position < len(view):
        key, position = _varint(view, position)
        field, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, position = _varint(view, position)
            yield field, value
            continue
        if kind == _BYTES:
            length, position = _varint(view, position)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise ModelCorrupt(f"protobuf knows no field of kind {kind}")
        if field == 0 or length > len(view) - position:
            raise ModelCorrupt("a field is longer than what holds it")
        yield field, view[position : position + length]
        position += length


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    """An integer of seven bits a byte, and where it ends. Raises ModelCorrupt."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(view):
            break
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ModelCorrupt("a number of it does not end")

"""ONNX files that keep weights elsewhere: refused, wherever in the graph the tensor is."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.cloud.workers.detectors import load_detector
from secondlook.cloud.workers.postfilter import load_postfilter
from secondlook.shared.errors import ModelCorrupt
from secondlook.shared.external_data import has_external_data
from secondlook.shared.inference import open_session
from secondlook.shared.models import MODELS_ROOT, describe_files, find_model

GRAPHS = sorted(MODELS_ROOT.glob("*/*.onnx"))


def varint(value):
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number, value):
    """A field of a protobuf message: an integer, or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def entry(key, value):
    return field(1, key.encode()) + field(2, value.encode())


# A float32[1] called w: its values here, or in the file w.bin.
INSIDE = field(1, 1) + field(2, 1) + field(8, b"w") + field(9, np.float32(2).tobytes())
OUTSIDE = (
    field(1, 1)
    + field(2, 1)
    + field(8, b"w")
    + field(13, entry("location", "w.bin"))
    + field(13, entry("length", "4"))
    + field(14, 1)
)


def value_info(name):
    """A float32[1]."""
    shape = field(1, field(1, 1))
    return field(1, name.encode()) + field(2, field(1, field(1, 1) + field(2, shape)))


def model(tensor=INSIDE, *, initializer=None, node=b"", more=b""):
    """y = x * w as a serialized ONNX model: IR version 8, opset 13."""
    multiply = field(1, b"x") + field(1, b"w") + field(2, b"y") + field(4, b"Mul") + node
    graph = (
        field(1, multiply)
        + field(2, b"g")
        + (field(5, tensor) if initializer is None else initializer)
        + field(11, value_info("x"))
        + field(12, value_info("y"))
    )
    return field(1, 8) + field(7, graph) + field(8, field(2, 13)) + more


def attribute(**values):
    numbers = {"t": 5, "g": 6, "tensors": 10, "graphs": 11, "sparse": 22, "sparses": 23}
    return b"".join(field(numbers[name], value) for name, value in values.items())


def graph_of(tensor):
    return field(5, tensor)


def sparse(values=INSIDE, indices=INSIDE):
    return field(1, values) + field(2, indices)


PLACES = {
    "initializer": model,
    "sparse values": lambda tensor: model(initializer=field(15, sparse(values=tensor))),
    "sparse indices": lambda tensor: model(initializer=field(15, sparse(indices=tensor))),
    "constant": lambda tensor: model(node=field(5, attribute(t=tensor))),
    "one of several constants": lambda tensor: model(node=field(5, attribute(tensors=INSIDE, t=tensor))),
    "list of constants": lambda tensor: model(node=field(5, attribute(tensors=tensor))),
    "branch": lambda tensor: model(node=field(5, attribute(g=graph_of(tensor)))),
    "list of branches": lambda tensor: model(node=field(5, attribute(graphs=graph_of(tensor)))),
    "sparse constant": lambda tensor: model(node=field(5, attribute(sparse=sparse(tensor)))),
    "sparse constants": lambda tensor: model(node=field(5, attribute(sparses=sparse(tensor)))),
    "function": lambda tensor: model(more=field(25, field(7, field(5, attribute(t=tensor))))),
    "default of a function": lambda tensor: model(more=field(25, field(11, attribute(t=tensor)))),
    "training": lambda tensor: model(more=field(20, field(1, graph_of(tensor)))),
    "second graph, merged into the first": lambda tensor: model(more=field(7, graph_of(tensor))),
}


def folder_of(path, kind, file, data):
    """A model folder with one graph, an honest manifest, and w.bin beside it."""
    path.mkdir()
    (path / file).write_bytes(data)
    (path / "w.bin").write_bytes(np.float32(2).tobytes())
    manifest = {
        "name": path.name,
        "kind": kind,
        "files": describe_files(path, [file]),
        "radius": 1,
        "multiple": 1,
    }
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def test_onnx_runtime_reads_what_no_hash_covers(tmp_path):
    """Why it is refused: another w.bin under the same manifest gives another result, and no check fails."""
    folder, found = folder_of(tmp_path / "m", "postfilter", "filter.onnx", model(OUTSIDE)), []
    for weight in (2, 5):
        (folder / "w.bin").write_bytes(np.float32(weight).tobytes())
        path = find_model(folder).file("filter.onnx")
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found.append(float(session.run(None, {"x": np.ones(1, np.float32)})[0][0]))
    assert found == [2.0, 5.0]


@pytest.mark.parametrize("weight", [2, 5])
def test_weights_in_another_file_are_refused(tmp_path, weight):
    folder = folder_of(tmp_path / "m", "postfilter", "filter.onnx", model(OUTSIDE))
    (folder / "w.bin").write_bytes(np.float32(weight).tobytes())
    with pytest.raises(ModelCorrupt, match=r"filter\.onnx keeps weights in another file"):
        load_postfilter(folder, threads=1)
    detector = folder_of(tmp_path / "d", "detector", "model.onnx", model(OUTSIDE))
    for spec in (detector, detector / "model.onnx"):
        with pytest.raises(ModelCorrupt, match=r"model\.onnx keeps weights in another file"):
            load_detector(str(spec), threads=1)


def test_the_same_graph_with_its_weights_inside_opens(tmp_path):
    (tmp_path / "x.onnx").write_bytes(model())
    session = open_session(tmp_path / "x.onnx", 1)
    assert session.run({"x": np.ones(1, np.float32)})["y"].tolist() == [2.0]


@pytest.mark.parametrize("place", PLACES)
def test_every_place_of_a_tensor(place):
    assert not has_external_data(PLACES[place](INSIDE))
    assert has_external_data(PLACES[place](OUTSIDE))
    for alone in (field(13, entry("location", "w.bin")), field(14, 1)):
        assert has_external_data(PLACES[place](INSIDE + alone))


@pytest.mark.parametrize("place", PLACES)
def test_the_places_are_those_of_onnx(place):
    onnx = pytest.importorskip("onnx")
    assert b"w.bin" in str(onnx.load_model_from_string(PLACES[place](OUTSIDE))).encode()


def test_a_branch_in_a_branch(tmp_path):
    graph = graph_of(OUTSIDE)
    for _ in range(20):
        graph = field(1, field(5, attribute(g=graph)))
    assert has_external_data(field(7, graph))


def test_messages_too_deep_in_each_other():
    graph = b""
    for _ in range(5000):
        graph = field(1, field(5, attribute(g=graph)))
    with pytest.raises(ModelCorrupt, match="deep"):
        has_external_data(field(7, graph))


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_shipped_graphs_are_whole_and_none_of_their_bytes_is_copied(path):
    data = path.read_bytes()
    tracemalloc.start()
    assert not has_external_data(data)
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    "data", [b"\x3b", b"\x3a\x05", b"\x38", b"\x3a" + b"\xff" * 12, b"\x3d\x00", b"\x02\x00"]
)
def test_bytes_that_are_no_message(data):
    with pytest.raises(ModelCorrupt):
        has_external_data(data)


@given(st.binary(max_size=200))
def test_any_bytes(data):
    try:
        assert has_external_data(data) in (False, True)
    except ModelCorrupt as error:
        assert "\n" not in str(error)


@given(st.sampled_from(sorted(PLACES)), st.data())
def test_damaged_models(place, data):
    damaged = bytearray(PLACES[place](OUTSIDE))
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position] = data.draw(st.integers(0, 255))
    try:
        has_external_data(bytes(damaged))
    except ModelCorrupt as error:
        assert "\n" not in str(error)

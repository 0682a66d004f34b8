"""bfloat16: asked for where the processor has it, believed after it has rounded, and never taken silently for less."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from secondlook.cloud.config import CloudConfig
from secondlook.cloud.workers.postfilter import load_postfilter
from secondlook.shared import bfloat16, inference
from secondlook.shared.config import load
from secondlook.shared.errors import ConfigError, ModelCorrupt, PrecisionUnavailable
from secondlook.shared.inference import open_session
from secondlook.shared.models import find_model
from tests.pictures import photo

FILTER = find_model("rrdb-fast", kind="postfilter").file("filter.onnx")
HERE = inference._problem_of_bfloat16()
needs_bfloat16 = pytest.mark.skipif(HERE is not None, reason=str(HERE))


@pytest.fixture(autouse=True)
def fresh():
    inference._problem_of_bfloat16.cache_clear()
    yield
    inference._problem_of_bfloat16.cache_clear()


def test_the_setting_of_the_refiner(tmp_path):
    assert CloudConfig().refiner.precision == "auto"
    path = tmp_path / "cloud.toml"
    path.write_text('[refiner]\nprecision = "fast"\n')
    assert load(path, CloudConfig).refiner.precision == "fast"
    path.write_text('[refiner]\nprecision = "bf16"\n')
    with pytest.raises(ConfigError, match=r"refiner.precision 'bf16' is not one of auto, exact, fast"):
        load(path, CloudConfig)


@pytest.mark.parametrize("flags", ["fpu avx2 avx512f avx512_vnni", "amx_bf16x xavx512_bf16"])
def test_a_processor_without_it(tmp_path, flags):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    missing = bfloat16.what_is_missing(tmp_path / "cpuinfo")
    assert missing == "this processor has none of amx_bf16, avx512_bf16"


def test_a_system_that_does_not_tell(tmp_path):
    assert "only Linux" in str(bfloat16.what_is_missing(tmp_path / "absent"))


def test_a_machine_without_the_package(tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text("flags : amx_bf16\n")
    monkeypatch.setattr(bfloat16.importlib.util, "find_spec", lambda _name: None)
    assert "the extra cloud-fast brings it" in str(bfloat16.what_is_missing(tmp_path / "cpuinfo"))


def test_what_was_asked_for_by_name_is_an_error_and_auto_says_why_it_goes_on(monkeypatch, caplog):
    monkeypatch.setattr(bfloat16, "what_is_missing", lambda: "this processor has none")
    with pytest.raises(PrecisionUnavailable, match="precision fast: this processor has none"):
        open_session(FILTER, 1, precision="fast")
    with caplog.at_level(logging.INFO):
        assert open_session(FILTER, 1, precision="auto").precision == "float32"
    assert "precision auto takes float32 for rrdb-fast/filter.onnx: this processor has none" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert open_session(FILTER, 1).precision == "float32"
    assert "auto" not in caplog.text


def test_a_gpu_computes_in_float32():
    with pytest.raises(PrecisionUnavailable, match="on cuda:0 networks run in float32"):
        inference._open_fast(FILTER, 1, "cuda:0", insists=True)


def test_a_graph_that_is_none_is_told_from_one_that_is_not_taken(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelCorrupt):
        open_session(tmp_path / "x.onnx", 1, precision="auto")


@pytest.fixture
def believed(monkeypatch):
    """A machine on which the plug-in seems to be there."""
    monkeypatch.setattr(bfloat16, "what_is_missing", lambda: None)


def test_a_provider_that_is_not_taken_is_noticed(believed, monkeypatch):
    """As ONNX Runtime goes on with the CPU when a provider cannot be loaded, and says nothing."""
    monkeypatch.setattr(bfloat16, "add_provider", lambda options, threads: None)
    assert inference._problem_of_bfloat16() == "OpenVINO did not take a matrix product"
    monkeypatch.setattr(inference, "_problem_of_bfloat16", lambda: None)
    with pytest.raises(PrecisionUnavailable, match=r"left filter.onnx to another provider"):
        open_session(FILTER, 1, precision="fast")


def test_a_plug_in_that_fails_is_no_traceback(believed, monkeypatch):
    def broken(options, threads):
        raise RuntimeError("OpenVINO offers no CPU")

    monkeypatch.setattr(bfloat16, "add_provider", broken)
    assert inference._problem_of_bfloat16() == "OpenVINO cannot be used: OpenVINO offers no CPU"
    assert open_session(FILTER, 1, precision="auto").precision == "float32"


@needs_bfloat16
def test_a_provider_that_computes_in_float32_is_noticed(monkeypatch):
    real = bfloat16.json.dumps
    monkeypatch.setattr(bfloat16.json, "dumps", lambda value: real(value).replace("bf16", "f32"))
    assert inference._problem_of_bfloat16() == "OpenVINO computes in another precision than bfloat16"


@needs_bfloat16
def test_a_node_that_openvino_leaves_is_no_silent_mixture(tmp_path, caplog):
    onnx = pytest.importorskip("onnx", reason="the extra models is not installed")
    text = onnx.TensorProto.STRING
    node = onnx.helper.make_node("StringNormalizer", ["a"], ["b"])
    ends = [onnx.helper.make_tensor_value_info(name, text, ["n"]) for name in "ab"]
    graph = onnx.helper.make_graph([node], "text", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "text.onnx")
    with pytest.raises(PrecisionUnavailable, match=r"OpenVINO does not take text.onnx"):
        open_session(tmp_path / "text.onnx", 1, precision="fast")
    assert open_session(tmp_path / "text.onnx", 1, precision="auto").precision == "float32"


@needs_bfloat16
def test_pictures_differ_by_a_grey_level_and_reviews_can_tell():
    image = photo(96, 120)
    exact = load_postfilter("rrdb-fast", threads=1)
    fast = load_postfilter("rrdb-fast", threads=1, precision="auto")
    a, b = (each.apply(image).astype(int) for each in (exact, fast))
    assert 0 < np.abs(a - b).max() <= 1
    assert exact.identity == f"rrdb-fast:{exact.model_hash.hex()}"
    assert fast.identity == f"{exact.identity}:bfloat16"


def test_networks_with_integers_inside_are_not_asked_to_be_fast():
    """What leads to the coder's tables has no way to another precision: the codec takes none."""
    source = (Path(inference.__file__).parent / "codec.py").read_text()
    assert "precision" not in source


def test_the_probe_is_a_graph_that_the_ordinary_provider_computes_exactly():
    session = ort.InferenceSession(bfloat16.PROBE, providers=["CPUExecutionProvider"])
    (product,) = session.run(None, bfloat16.probe_feeds())
    assert np.all(np.asarray(product) == np.float32(1 + 2**-10))

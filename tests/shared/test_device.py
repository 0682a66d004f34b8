"""Where networks run: what is asked of ONNX Runtime for each device, and what becomes of a GPU that is not there.

There is no GPU here. `FakeSession` is a real session on the CPU that reports the provider it was asked for, as a
runtime with CUDA does.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import onnxruntime as ort
import pytest

from secondlook.cloud.config import CloudConfig
from secondlook.cloud.workers.detectors import load_detector
from secondlook.cloud.workers.postfilter import load_postfilter
from secondlook.edge.config import EdgeConfig
from secondlook.main import build_parser, main
from secondlook.shared import inference
from secondlook.shared.codec import EXACT, load_codec
from secondlook.shared.config import load
from secondlook.shared.device import check_device, gpu_of
from secondlook.shared.errors import ConfigError, DeviceUnavailable, ModelCorrupt
from secondlook.shared.inference import CPU_PROVIDER, CUDA_PROVIDER, choose_device, open_session
from secondlook.shared.models import find_model
from tests.pictures import photo

ROOT = Path(__file__).parents[2]
GPUS = 2
RealSession = ort.InferenceSession


class FakeSession:
    """`opened` keeps, for each model, the providers asked for. The GPUs are numbers 0 and 1."""

    opened: ClassVar[list[tuple[str, list[object]]]] = []
    works = True  # False: the libraries of CUDA cannot be loaded, and the runtime stays on the CPU
    out_of_memory: str | None = None  # name of the model for which the GPU has no room, when it opens
    fails = False  # when it runs

    def __init__(self, model, options, providers, enable_fallback=1):
        assert enable_fallback == 0
        self._name = Path(model).name if isinstance(model, str) else "probe"
        self._device = None
        FakeSession.opened.append((self._name, providers))
        if isinstance(providers[0], tuple):
            name, settings = providers[0]
            assert (name, settings["use_tf32"], providers[1:]) == (CUDA_PROVIDER, "0", [CPU_PROVIDER])
            if int(settings["device_id"]) >= GPUS:
                raise RuntimeError("CUDA failure 101: invalid device ordinal")
            if self._name == self.out_of_memory:
                raise RuntimeError("CUDA failure 2: out of memory")
            self._device = settings["device_id"] if self.works else None
        self._real = RealSession(model, options, providers=[CPU_PROVIDER])

    def get_providers(self):
        return [CPU_PROVIDER] if self._device is None else [CUDA_PROVIDER, CPU_PROVIDER]

    def get_provider_options(self):
        return {CPU_PROVIDER: {}} | (
            {} if self._device is None else {CUDA_PROVIDER: {"device_id": self._device}}
        )

    def run(self, names, feeds, options=None):
        if self.fails and self._device is not None and self._name != "probe":
            raise ort.capi.onnxruntime_pybind11_state.Fail("CUDNN failure 8: not supported")
        return self._real.run(names, feeds)

    def __getattr__(self, name):
        return getattr(self._real, name)


@pytest.fixture(autouse=True)
def fresh():
    choose_device.cache_clear()
    yield
    choose_device.cache_clear()


@pytest.fixture
def gpus(monkeypatch):
    """A machine with two GPUs; gives the fake, whose attributes may be set."""
    monkeypatch.setattr(FakeSession, "opened", [])
    monkeypatch.setattr(inference.ort, "InferenceSession", FakeSession)
    monkeypatch.setattr(inference.ort, "get_available_providers", lambda: [CUDA_PROVIDER, CPU_PROVIDER])
    monkeypatch.setattr(inference.ort, "preload_dlls", lambda: print("Failed to load libcudnn"))
    return FakeSession


def asked(fake):
    """Model -> the device it was asked to open on."""
    return {
        name: f"cuda:{providers[0][1]['device_id']}" if isinstance(providers[0], tuple) else "cpu"
        for name, providers in fake.opened
        if name != "probe"
    }


@pytest.mark.parametrize(
    ("name", "gpu"), [("cpu", None), ("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:7", 7)]
)
def test_names_of_devices(name, gpu):
    assert gpu_of(name) == gpu


@pytest.mark.parametrize(
    "name", ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:x", "cuda:100", "cuda:٣", "cpu "]
)
def test_names_that_are_none(name):
    with pytest.raises(ConfigError, match="not one of auto, cpu, cuda or cuda:N"):
        check_device(name)


@pytest.mark.parametrize("section", ["worker", "refiner"])
def test_settings_of_the_cloud(section, tmp_path):
    assert getattr(CloudConfig(), section).device == "auto"
    path = tmp_path / "cloud.toml"
    path.write_text(f'[{section}]\ndevice = "cuda:1"\n')
    assert getattr(load(path, CloudConfig), section).device == "cuda:1"
    path.write_text(f'[{section}]\ndevice = "tpu"\n')
    with pytest.raises(ConfigError, match=f"{section}.device 'tpu'"):
        load(path, CloudConfig)


def test_settings_of_the_edge(tmp_path):
    path = tmp_path / "edge.toml"
    path.write_text('edge_id = "gate"\n[source]\naddress = "demo:"\n[codec]\ndevice = "cuda:1"\n')
    assert load(path, EdgeConfig).codec.device == "cuda:1"
    path.write_text('edge_id = "gate"\n[source]\naddress = "demo:"\n[codec]\ndevice = "tpu"\n')
    with pytest.raises(ConfigError, match=r"codec.device 'tpu'"):
        load(path, EdgeConfig)


@pytest.mark.parametrize("command", ["edge", "worker", "refiner", "demo", "encode x", "decode x -o y"])
def test_every_role_has_the_flag(command):
    args = vars(build_parser().parse_args([*command.split(), "--device", "cuda:1"]))
    assert "cuda:1" in args.values()


@pytest.mark.parametrize(
    ("device", "expected"), [("cpu", "cpu"), ("auto", "cuda:0"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1")]
)
def test_what_is_asked_for_each_model(gpus, device, expected):
    codec = load_codec(threads=1, device=device)
    image = photo(64, 96)
    encoded = codec.encode(image, base_quality=16, quality=40)
    codec.encode(image, base_quality=16, quality=40, key=encoded.key, sequence=1)
    codec.decode_enhanced(encoded.layers.base, encoded.layers.enhancement)
    codec.decode_base(encoded.layers.base)
    load_detector("builtin", threads=1, device=device).detect(image)
    load_postfilter("rrdb-fast", threads=1, device=device).apply(image)
    found = asked(gpus)
    exact = {f"{name}.onnx" for name in EXACT}
    assert {found[name] for name in found if name in exact} == {"cpu"}
    assert {found[name] for name in found if name not in exact} == {expected}
    others = {"analysis", "dequantise_base", "dequantise_enhancement", "synthesis_base", "synthesis_enhanced"}
    assert {f"{name}.onnx" for name in others} | {"model.onnx", "filter.onnx", "quantise.onnx"} <= set(found)


def test_layers_are_the_same_whatever_the_device(gpus):
    """With the fake GPU's rounding, which is the CPU's: the path through `analysis` and `quantise` codes alike."""
    image = photo(64, 96)
    layers = [
        load_codec(threads=1, device=device).encode(image, base_quality=16, quality=40).layers
        for device in ("cpu", "cuda")
    ]
    assert layers[0] == layers[1]


def test_the_graphs_with_the_integer_network_are_those_kept_on_the_cpu():
    """Each gives σ-indexes, and no other graph does."""
    folder = find_model("lite", kind="codec")
    graphs = [Path(name).stem for name in folder.manifest["files"] if name.endswith(".onnx")]
    indexed = [
        graph
        for graph in graphs
        if any(
            output.startswith("indexes_") for output in open_session(folder.file(f"{graph}.onnx"), 1).outputs
        )
    ]
    assert sorted(indexed) == sorted(EXACT)


def test_the_log_says_where_each_model_runs(gpus, caplog, capsys):
    caplog.set_level(logging.INFO)
    codec = load_codec(threads=1, device="auto")
    codec.encode(photo(64, 64), base_quality=16, quality=40)
    load_detector("builtin", threads=1, device="auto")
    load_postfilter("rrdb-l1", threads=1, device="cpu")
    assert [record.getMessage() for record in caplog.records if " runs on " in record.getMessage()] == [
        "lite/analysis.onnx runs on cuda:0",
        "lite/quantise.onnx runs on cpu",
        "detector/model.onnx runs on cuda:0",
        "rrdb-l1/filter.onnx runs on cpu",
    ]
    assert capsys.readouterr().out == ""  # what loading CUDA's libraries prints goes to the log


@pytest.mark.parametrize(
    ("fault", "device", "reason"),
    [
        ("no runtime", "cuda", "the extra cloud-gpu"),
        ("no libraries", "cuda:1", "finds no GPU"),
        ("no such number", "cuda:5", "GPU 5 cannot be used: CUDA failure 101"),
    ],
)
def test_a_gpu_that_is_asked_for_and_is_not_there(gpus, monkeypatch, fault, device, reason):
    if fault == "no runtime":
        monkeypatch.setattr(inference.ort, "get_available_providers", lambda: [CPU_PROVIDER])
    monkeypatch.setattr(gpus, "works", fault != "no libraries")
    for open_one in (
        lambda: load_codec(threads=1, device=device),
        lambda: load_detector("builtin", threads=1, device=device),
        lambda: load_postfilter("rrdb-l1", threads=1, device=device),
    ):
        with pytest.raises(DeviceUnavailable, match=f"^device {device}: .*{reason}") as caught:
            open_one()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("works", [True, False])
def test_auto_falls_back_to_the_cpu_and_says_why(gpus, monkeypatch, caplog, works):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(gpus, "works", False)
    if works:
        monkeypatch.setattr(inference.ort, "get_available_providers", lambda: [CPU_PROVIDER])
    codec = load_codec(threads=1, device="auto")
    codec.encode(photo(64, 64), base_quality=16, quality=40)
    assert asked(gpus) == {"encode.onnx": "cpu"}
    assert "device auto takes the CPU: " in caplog.text


def test_a_gpu_without_room_for_one_model(gpus, monkeypatch, caplog):
    monkeypatch.setattr(gpus, "out_of_memory", "filter.onnx")
    image = photo(32, 32)
    load_postfilter("rrdb-fast", threads=1, device="auto").apply(image)
    assert asked(gpus)["filter.onnx"] == "cpu"
    assert "out of memory" in caplog.text
    with pytest.raises(
        DeviceUnavailable, match=r"^device cuda: filter\.onnx does not open on cuda:0: CUDA failure 2"
    ):
        load_postfilter("rrdb-fast", threads=1, device="cuda")


def test_a_broken_graph_is_no_fault_of_the_gpu(gpus, tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"\x08\x07" * 40)
    with pytest.raises(ModelCorrupt, match=r"x\.onnx"):
        open_session(tmp_path / "x.onnx", 1, device="cuda")


def test_a_gpu_that_fails_at_work_is_not_a_corrupt_model(gpus, monkeypatch):
    postfilter = load_postfilter("rrdb-fast", threads=1, device="cuda")
    monkeypatch.setattr(gpus, "fails", True)
    with pytest.raises(DeviceUnavailable, match=r"cuda:0 failed in filter\.onnx: CUDNN failure 8"):
        postfilter.apply(photo(32, 32))


class FakeYolo:
    """Of ultralytics: `asked` is the device of its last prediction."""

    asked = ""
    names: ClassVar = {0: "person"}

    def __init__(self, weights, task):
        pass

    def predict(self, image, *, device, **_):
        FakeYolo.asked = device
        nothing = SimpleNamespace(tolist=list)
        return [SimpleNamespace(boxes=SimpleNamespace(xyxy=nothing, conf=nothing, cls=nothing))]


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [
        ("cpu", 2, "cpu"),
        ("auto", 0, "cpu"),
        ("auto", 1, "cuda:0"),
        ("cuda", 1, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
        ("cuda", 0, None),
        ("cuda:2", 2, None),
    ],
)
def test_a_detector_of_ultralytics(monkeypatch, device, gpus, expected):
    torch = SimpleNamespace(
        cuda=SimpleNamespace(device_count=lambda: gpus), set_num_threads=lambda number: None
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "ultralytics", SimpleNamespace(YOLO=FakeYolo))
    if expected is None:
        with pytest.raises(DeviceUnavailable, match=f"^device {device}: torch sees {gpus} GPUs"):
            load_detector("yolo11n", threads=1, device=device)
        return
    assert load_detector("yolo11n", threads=1, device=device).detect(photo(32, 32)) == []
    assert FakeYolo.asked == expected


def test_the_probe_squares_a_number():
    found = RealSession(inference._PROBE).run(None, {"x": np.array([3], np.float32)})
    assert found[0].tolist() == [9.0]


@pytest.mark.skipif(choose_device("auto") != "cpu", reason="there is a GPU here")
def test_commands_end_in_one_line_without_a_gpu(tmp_path, capsys):
    (tmp_path / "x.png").write_bytes((ROOT / "tests/vectors/odd.base.png").read_bytes())
    assert main(["encode", str(tmp_path / "x.png"), "-o", str(tmp_path / "x"), "--device", "cuda"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("secondlook: error: device cuda: ") and said.count("\n") == 1
    data = str(tmp_path / "cloud")
    assert main(["worker", "--data-dir", data, "--device", "cuda:3"]) == 1
    assert "secondlook: error: device cuda:3: " in capsys.readouterr().err
    assert main(["refiner", "--data-dir", data, "--device", "gpu"]) == 1
    assert "device 'gpu' is not one of" in capsys.readouterr().err
    agent = ["edge", "--edge-id", "gate", "--source", "demo:", "--data-dir", str(tmp_path / "edge")]
    assert main([*agent, "--device", "cuda"]) == 1
    assert "secondlook: error: device cuda: " in capsys.readouterr().err

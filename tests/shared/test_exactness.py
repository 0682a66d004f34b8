"""σ-indexes and symbols are the same integers however they are computed: threads, optimisation, shape, place, order.

The network lies in two places, in `shared.scale_network` and in the encoder's graph. Both are compared here, with the
shipped integers, to each other and to integer arithmetic.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from secondlook.shared.codec import load_codec
from secondlook.shared.entropy import MAX_SYMBOL
from secondlook.shared.inference import Session
from secondlook.shared.models import MODELS_ROOT
from secondlook.shared.scale_network import (
    BASE_CLAMP,
    BASE_GAIN,
    EXACT_LIMIT,
    MAX_ACTIVATION,
    Z_CLAMP,
    Z_GAIN,
    ScaleNetwork,
)
from tests.pictures import noise, photo

FOLDER = MODELS_ROOT / "lite"
LAYERS = ["base", "enhancement"]
LEVELS = {
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
TABLES = load_file(FOLDER / "entropy.safetensors")
NETWORKS = {layer: ScaleNetwork.load(TABLES, layer, len(TABLES["reach"])) for layer in LAYERS}


def options_of(threads=1, level="all", **changes):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = LEVELS[level]
    options.log_severity_level = 3
    if changes.get("spinning"):
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    if "arena" in changes:
        options.enable_cpu_mem_arena = options.enable_mem_pattern = changes["arena"]
    if changes.get("parallel"):
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    return options


VARIANTS = {
    **{f"{threads} threads": {"threads": threads} for threads in (1, 2, 3, 4)},
    **{level: {"level": level} for level in LEVELS},
    **{f"{level}, 3 threads": {"level": level, "threads": 3} for level in ("disabled", "extended")},
    "no arena": {"arena": False},
    "spinning": {"spinning": True, "threads": 2},
    "parallel nodes": {"parallel": True, "threads": 2},
}


def symbols(rng, *shape):
    """Small symbols mostly; and those at every clamp, one beyond it, and at the ends of the format."""
    ends = [0, 1, 15, 16, 31, 32, 255, 256, MAX_SYMBOL]
    small = np.round(rng.laplace(0, 6, shape))
    rare = rng.random(shape) < rng.choice([0.0, 0.1, 1.0])
    return np.where(rare, rng.choice(ends, shape) * rng.choice([-1, 1], shape), small).astype(np.int16)


def random_layer(rng, layer, rows=2, columns=3):
    """Symbols of hyper-latents, and of the base layer's latents for an enhancement."""
    network = NETWORKS[layer]
    z = symbols(rng, network.hyper_index.shape[1], rows, columns)
    base = network.base.weight.shape[1] if network.base is not None else 0
    return z, symbols(rng, base, 4 * rows, 4 * columns) if base else None


def reference(layer, z, quality, base, dtype=np.int64, order=None):
    """The network in another type, its sums taken channel by channel in the order that `order` (a generator) draws."""

    def conv(name, a):
        weight = TABLES[f"{layer}.{name}.weight"].astype(dtype)
        c, h, w = a.shape
        acc = np.zeros((len(weight), h, w), dtype)
        if weight.ndim == 2:
            for i in range(c) if order is None else order.permutation(c):
                acc += weight[:, i, None, None] * a[i]
        else:
            padded = np.pad(a, ((0, 0), (1, 1), (1, 1)))
            for i in range(9) if order is None else order.permutation(9):
                dy, dx = divmod(int(i), 3)
                acc += weight[:, dy, dx, None, None] * padded[:, dy : dy + h, dx : dx + w]
        shift = int(TABLES[f"{layer}.{name}.shift"][0])
        acc += TABLES[f"{layer}.{name}.bias"][quality].astype(dtype)[:, None, None] + dtype(1 << (shift - 1))
        return np.floor(acc / dtype(1 << shift)) if dtype is not np.int64 else acc >> shift

    def up(name, a):
        a = np.clip(conv(name, a), 0, MAX_ACTIVATION)
        c, h, w = a.shape
        return a.reshape(c // 4, 2, 2, h, w).transpose(0, 3, 1, 4, 2).reshape(c // 4, 2 * h, 2 * w)

    a = up("up2", up("up1", np.clip(z, -Z_CLAMP, Z_CLAMP).astype(dtype) * dtype(Z_GAIN)))
    if base is not None:
        magnitude = np.minimum(np.abs(base.astype(np.int32)), BASE_CLAMP).astype(dtype) * dtype(BASE_GAIN)
        a = np.concatenate([a, np.clip(conv("base", magnitude), 0, MAX_ACTIVATION)])
    return np.clip(
        conv("index", np.clip(conv("spread", a), 0, MAX_ACTIVATION)), 0, NETWORKS[layer].levels - 1
    )


SEEDS = st.integers(0, 1 << 30)
QUALITIES = st.integers(0, 63)


@settings(max_examples=15)
@given(SEEDS, st.sampled_from(LAYERS), QUALITIES)
def test_integers_of_every_kind_agree(seed, layer, quality):
    """int64, float64, and float32 in a shuffled order: an exact sum has no order."""
    rng = np.random.default_rng(seed)
    z, base = random_layer(rng, layer)
    found = NETWORKS[layer].indexes(z, quality, base)
    assert np.array_equal(found, reference(layer, z, quality, base))
    assert np.array_equal(found, reference(layer, z, quality, base, np.float64))
    assert np.array_equal(found, reference(layer, z, quality, base, np.float32, rng))


def test_what_is_compared_varies():
    """So that the comparisons here are of more than one constant."""
    rng = np.random.default_rng(0)
    for layer in LAYERS:
        found = [NETWORKS[layer].indexes(*(x := random_layer(rng, layer))[:1], q, x[1]) for q in (0, 63) * 4]
        assert len(np.unique(found)) > 20


@settings(max_examples=10)
@given(SEEDS, st.sampled_from(LAYERS), QUALITIES, st.integers(0, 3), st.integers(0, 4))
def test_a_place_has_the_same_index_in_any_frame(seed, layer, quality, top, left):
    """The network sees one latent further in each direction, and no more: an area inside another frame keeps its
    indexes, apart from its rim."""
    rng = np.random.default_rng(seed)
    z, base = random_layer(rng, layer, 3, 2)
    larger_z, larger_base = random_layer(rng, layer, 6, 6)
    larger_z[:, top : top + 3, left : left + 2] = z
    if base is not None:
        larger_base[:, 4 * top : 4 * top + 12, 4 * left : 4 * left + 8] = base
    alone = NETWORKS[layer].indexes(z, quality, base)
    inside = NETWORKS[layer].indexes(larger_z, quality, larger_base)
    part = inside[:, 4 * top : 4 * top + 12, 4 * left : 4 * left + 8]
    assert np.array_equal(part[:, 1:-1, 1:-1], alone[:, 1:-1, 1:-1])


@pytest.fixture(scope="module")
def nets():
    pytest.importorskip("onnx", reason="training is not installed")
    from tests.shared.indexnet import IndexNet

    return {layer: IndexNet(FOLDER / "quantise.onnx", layer) for layer in LAYERS}


def feeds(layer, z, quality, base):
    """A batch of one."""
    names = {"z": z[None].astype(np.float32)}
    if base is not None:
        names["base"] = base[None].astype(np.float32)
    return names | {"base_quality" if layer == "base" else "quality": np.array([quality])}


def check_graph(session, layer, seed, draws=6):
    """Random symbols of several shapes through `session` against the decoder's network."""
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        z, base = random_layer(rng, layer, int(rng.integers(1, 5)), int(rng.integers(1, 6)))
        quality = int(rng.integers(64))
        (found,) = session.run(None, feeds(layer, z, quality, base))
        assert np.array_equal(found[0], NETWORKS[layer].indexes(z, quality, base))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layer", LAYERS)
def test_the_encoders_graph_has_the_decoders_indexes(nets, layer, variant):
    model = nets[layer].model().SerializeToString()
    session = ort.InferenceSession(model, options_of(**VARIANTS[variant]), providers=["CPUExecutionProvider"])
    check_graph(session, layer, seed=7)


@pytest.mark.parametrize("layer", LAYERS)
def test_cuda_has_the_cpus_indexes(nets, layer):
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        pytest.skip("ONNX Runtime has no CUDA here")
    model = nets[layer].model().SerializeToString()
    session = ort.InferenceSession(model, options_of(), providers=["CUDAExecutionProvider"])
    if session.get_providers()[0] != "CUDAExecutionProvider":
        pytest.skip("there is no GPU here")
    check_graph(session, layer, seed=7, draws=40)


class TorchConv:
    """An IntegerConv in torch's convolutions: cuDNN on a GPU, oneDNN on a CPU."""

    def __init__(self, conv, torch, device):
        self.weight, self._conv, self._torch, self._device = conv.weight, conv, torch, device

    def __call__(self, a, quality):
        torch, weight = self._torch, self._conv.weight
        depthwise = weight.ndim == 3
        there = torch.from_numpy(a[None]).to(self._device)
        kernel = torch.from_numpy(weight[:, None] if depthwise else weight[:, :, None, None])
        bias = torch.from_numpy(self._conv.bias[quality] + np.float32(1 << (self._conv.shift - 1)))
        sums = torch.nn.functional.conv2d(
            there,
            kernel.to(self._device),
            bias.to(self._device),
            padding=int(depthwise),
            groups=len(weight) if depthwise else 1,
        )
        return np.floor(sums[0].cpu().numpy() * np.float32(2.0**-self._conv.shift))


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda with TF32"])
@pytest.mark.parametrize("layer", LAYERS)
def test_another_library_has_the_same_indexes(layer, device):
    """TF32 keeps 11 bits of a factor, and activations and weights have 8: it is exact as well."""
    torch = pytest.importorskip("torch", reason="training is not installed")
    where = device.split()[0]
    if where == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    own = NETWORKS[layer]
    names = [name for name in ("up1", "up2", "base", "spread", "index") if getattr(own, name) is not None]
    other = replace(own, **{name: TorchConv(getattr(own, name), torch, where) for name in names})
    rng = np.random.default_rng(11)
    with torch.backends.cudnn.flags(allow_tf32=device.endswith("TF32")):
        for quality in (0, 21, 42, 63):
            z, base = random_layer(rng, layer, 8, 12)
            assert np.array_equal(other.indexes(z, quality, base), own.indexes(z, quality, base))


@pytest.mark.parametrize("layer", LAYERS)
def test_frames_of_a_batch_do_not_touch_each_other(nets, layer):
    session = ort.InferenceSession(nets[layer].model().SerializeToString(), options_of(2))
    rng = np.random.default_rng(3)
    frames = [random_layer(rng, layer) for _ in range(3)]
    single = [feeds(layer, z, 20, base) for z, base in frames]
    batch = {
        name: np.concatenate([one[name] for one in single]) if array.ndim == 4 else array
        for name, array in single[0].items()
    }
    (found,) = session.run(None, batch)
    for (z, base), indexes in zip(frames, found, strict=True):
        assert np.array_equal(indexes, NETWORKS[layer].indexes(z, 20, base))


@pytest.mark.parametrize("layer", LAYERS)
def test_the_graph_holds_the_tables_integers(nets, layer):
    """So what `IntegerConv.load` proves of the tables, that no sum reaches 2^24, holds for the encoder as well."""
    network, graph = NETWORKS[layer], nets[layer].convolutions()
    assert len(graph) == (5 if network.base is not None else 4)
    for conv in graph:
        name = conv.name.rsplit(".", 1)[-1]
        kept = TABLES[f"{layer}.{name}.weight"]
        assert conv.weight.dtype == np.float32
        assert np.array_equal(conv.weight.reshape(kept.shape), kept)
        assert np.array_equal(conv.bias, TABLES[f"{layer}.{name}.bias"])
        most = np.abs(kept.astype(np.int64)).reshape(len(kept), -1).sum(1) * MAX_ACTIVATION
        shift = int(TABLES[f"{layer}.{name}.shift"][0])
        assert (most + np.abs(conv.bias.astype(np.int64)).max(0) + (1 << shift)).max() < EXACT_LIMIT


@pytest.mark.parametrize("layer", LAYERS)
def test_sums_and_activations_inside_the_graph_are_integers_within_bounds(nets, layer):
    """Activations at most 255 are the other half of that proof; symbols here are as large as the format allows."""
    graph = nets[layer].convolutions()
    model = nets[layer].model(tuple(name for conv in graph for name in (conv.source, conv.sums)))
    session = ort.InferenceSession(model.SerializeToString(), options_of())
    rng = np.random.default_rng(5)
    for _ in range(5):
        z, base = random_layer(rng, layer)
        _, *inner = session.run(None, feeds(layer, z, int(rng.integers(64)), base))
        for conv, a, sums in zip(graph, inner[::2], inner[1::2], strict=True):
            assert np.abs(a).max() <= MAX_ACTIVATION and np.array_equal(a, np.rint(a)), conv.name
            assert np.abs(sums).max() < EXACT_LIMIT and np.array_equal(sums, np.rint(sums)), conv.name


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("layer", LAYERS)
def test_the_runtime_computes_them_in_float32(nets, layer, level, tmp_path):
    """What is run after optimisation: no half floats, no bfloat16, no quantised products, on this machine."""
    onnx = pytest.importorskip("onnx", reason="training is not installed")
    options = options_of(level=level)
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    ort.InferenceSession(nets[layer].model().SerializeToString(), options)
    graph = onnx.load(tmp_path / "run.onnx").graph
    kept = {tensor.name: tensor.data_type for tensor in graph.initializer}
    operators = {node.op_type for node in graph.node}
    products = [node for node in graph.node if "Conv" in node.op_type or "MatMul" in node.op_type]
    assert len(products) == len(nets[layer].convolutions())
    assert {node.op_type for node in products} <= {"Conv", "FusedConv"}
    assert not any("Integer" in name or "QLinear" in name or "Quantize" in name for name in operators)
    for node in graph.node:
        if node.op_type == "Cast":
            assert onnx.helper.get_attribute_value(node.attribute[0]) in (
                onnx.TensorProto.FLOAT,
                onnx.TensorProto.UINT8,
            )
    if level != "disabled":  # weights are unfolded from float16 on loading
        assert all(kept[node.input[1]] == onnx.TensorProto.FLOAT for node in products)


GRAPHS = [
    "encode",
    "analysis",
    "quantise",
    "dequantise_base",
    "dequantise_enhancement",
    "synthesis_base",
    "synthesis_enhanced",
]


@cache
def variant_codec(name):
    codec = load_codec(threads=1)
    for graph in GRAPHS:
        path = FOLDER / f"{graph}.onnx"
        session = ort.InferenceSession(
            str(path), options_of(**VARIANTS[name]), providers=["CPUExecutionProvider"]
        )
        codec._graphs[graph] = Session(session, path)
    return codec


@pytest.fixture(scope="module")
def plain():
    return load_codec(threads=1)


@pytest.mark.parametrize("make", [photo, noise])
@pytest.mark.parametrize("variant", ["4 threads", "disabled", "extended, 3 threads", "no arena", "spinning"])
def test_what_one_machine_encodes_another_decodes(plain, variant, make):
    """Symbols pass their checksum on the other side, keys and deltas, both ways. Rounding may choose another symbol on
    another machine, but the two ends never disagree about one."""
    other = variant_codec(variant)
    image = make(70, 100)
    moved = image.copy()
    moved[10:40, 20:50] = 200
    for encoder, decoder in ((other, plain), (plain, other)):
        key = encoder.encode(image, base_quality=20, quality=45, sequence=1)
        delta = encoder.encode(moved, base_quality=20, quality=45, key=key.key)
        decoder.decode_enhanced(key.layers.base, key.layers.enhancement)
        decoder.decode_enhanced(delta.layers.base, delta.layers.enhancement, key=key.layers)


@pytest.mark.parametrize(
    "variant", ["2 threads", "3 threads", "4 threads", "no arena", "spinning", "parallel nodes"]
)
def test_symbols_do_not_depend_on_the_session(plain, variant):
    """On one machine, with one optimisation level, not a bit moves."""
    image = photo(130, 200, seed=4)
    found, expected = (
        c.encode(image, base_quality=20, quality=45).layers for c in (variant_codec(variant), plain)
    )
    assert found == expected


@settings(max_examples=8)
@given(SEEDS, QUALITIES, QUALITIES, st.sampled_from([1.0, 30.0, 3e4]))
def test_latents_of_any_size_get_indexes_of_their_symbols(plain, seed, base_quality, quality, scale):
    """The whole graph from latents that no picture has, up to where symbols are clamped."""
    rng = np.random.default_rng(seed)
    channels = NETWORKS["base"].index.weight.shape[0], NETWORKS["enhancement"].index.weight.shape[0]
    y = [rng.laplace(0, scale, (1, c, 8, 4)).astype(np.float32) for c in channels]
    coded = plain._run(
        "quantise",
        y_base=y[0],
        y_enhancement=y[1],
        **plain._against(None, (8, 4), quality),
        base_quality=np.array([base_quality]),
        quality=np.array([quality]),
    )
    base = coded["symbols_base"][0]
    for layer, q, lower in (("base", base_quality, None), ("enhancement", quality, base)):
        assert coded[f"symbols_{layer}"].dtype == np.int16
        expected = NETWORKS[layer].indexes(coded[f"z_{layer}"][0], q, lower)
        assert np.array_equal(coded[f"indexes_{layer}"][0], expected)
    if scale > 1e4:
        assert np.abs(coded["symbols_enhancement"].astype(int)).max() == MAX_SYMBOL

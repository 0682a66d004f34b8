"""The σ-index network: float32 arithmetic against integers, bit for bit, and its limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.shared import scale_network
from secondlook.shared.errors import ModelCorrupt
from secondlook.shared.scale_network import EXACT_LIMIT, MAX_ACTIVATION, IntegerConv, ScaleNetwork

LEVELS = 64
Z, HIDDEN, LATENTS, BASE = 6, 5, 9, 7


def random_tensors(rng, *, base=0, weights=127):
    """Tensors of a network with every size different, weights up to `weights`, and biases that matter."""
    wide = HIDDEN * (2 if base else 1)
    shapes = {
        "up1": (4 * HIDDEN, Z),
        "up2": (4 * HIDDEN, HIDDEN),
        "spread": (wide, 3, 3),
        "index": (LATENTS, wide),
    }
    if base:
        shapes["base"] = (HIDDEN, base)
    tensors = {"x.hyper_index": rng.integers(0, LEVELS, (64, Z)).astype(np.uint8)}
    for name, shape in shapes.items():
        tensors[f"x.{name}.weight"] = rng.integers(-weights, weights + 1, shape).astype(np.int8)
        tensors[f"x.{name}.bias"] = rng.integers(-4000, 4001, (64, shape[0])).astype(np.int32)
        tensors[f"x.{name}.shift"] = np.array([7 if name == "index" else 6], np.int32)
    return tensors


def reference_indexes(tensors, z, quality, base=None):
    """The network of FORMAT.md in int64, a sum at a time: slow, and without a single float."""

    def conv(name, a):
        weight = tensors[f"x.{name}.weight"].astype(np.int64)
        bias = tensors[f"x.{name}.bias"][quality].astype(np.int64)
        shift = int(tensors[f"x.{name}.shift"][0])
        c, h, w = a.shape
        acc = np.zeros((len(weight), h, w), np.int64)
        for o in range(len(weight)):
            for y in range(h):
                for x in range(w):
                    if weight.ndim == 2:
                        total = sum(int(weight[o, i]) * int(a[i, y, x]) for i in range(c))
                    else:
                        total = sum(
                            int(weight[o, dy + 1, dx + 1]) * int(a[o, y + dy, x + dx])
                            for dy in (-1, 0, 1)
                            for dx in (-1, 0, 1)
                            if 0 <= y + dy < h and 0 <= x + dx < w
                        )
                    acc[o, y, x] = (total + int(bias[o]) + (1 << (shift - 1))) >> shift
        return acc

    def rectify(a):
        return np.minimum(np.maximum(a, 0), 255)

    def shuffle(a):
        c, h, w = a.shape
        out = np.zeros((c // 4, 2 * h, 2 * w), np.int64)
        for o in range(c // 4):
            for dy in range(2):
                for dx in range(2):
                    out[o, dy::2, dx::2] = a[4 * o + 2 * dy + dx]
        return out

    a = np.clip(z.astype(np.int64), -31, 31) * 4
    a = shuffle(rectify(conv("up1", a)))
    a = shuffle(rectify(conv("up2", a)))
    if base is not None:
        magnitude = np.minimum(np.abs(base.astype(np.int64)), 15) * 16
        a = np.concatenate([a, rectify(conv("base", magnitude))])
    return np.clip(conv("index", rectify(conv("spread", a))), 0, LEVELS - 1)


def random_symbols(rng, channels, rows, columns):
    """Mostly small symbols, and a few at the ends of int16."""
    symbols = np.round(rng.laplace(0, 6, (channels, rows, columns)))
    rare = rng.random(symbols.shape) < 0.05
    return np.where(rare, rng.choice([-32768, -32767, 32767, 31, -31], symbols.shape), symbols).astype(
        np.int16
    )


@given(st.integers(0, 1 << 30), st.sampled_from([0, BASE]), st.integers(1, 2), st.integers(1, 3))
def test_equals_integer_arithmetic(seed, base, rows, columns):
    rng = np.random.default_rng(seed)
    tensors = random_tensors(rng, base=base, weights=int(rng.choice([3, 40, 127])))
    network = ScaleNetwork.load(tensors, "x", LEVELS)
    quality = int(rng.integers(64))
    z = random_symbols(rng, Z, rows, columns)
    symbols = random_symbols(rng, BASE, 4 * rows, 4 * columns) if base else None
    found = network.indexes(z, quality, symbols)
    assert found.dtype == np.uint8
    assert np.array_equal(found, reference_indexes(tensors, z, quality, symbols))


def test_bands_of_rows_make_no_difference(monkeypatch):
    rng = np.random.default_rng(8)
    network = ScaleNetwork.load(random_tensors(rng, base=BASE, weights=40), "x", LEVELS)
    z, symbols = random_symbols(rng, Z, 7, 3), random_symbols(rng, BASE, 28, 12)
    whole = network.indexes(z, 30, symbols)
    monkeypatch.setattr(scale_network, "_BAND_POSITIONS", 1)
    assert np.array_equal(network.indexes(z, 30, symbols), whole)
    base = ScaleNetwork.load(random_tensors(rng, weights=40), "x", LEVELS)
    in_bands = base.indexes(z, 30)
    monkeypatch.undo()
    assert np.array_equal(base.indexes(z, 30), in_bands)


def test_the_reference_is_no_constant():
    """What the comparison above compares does vary over position, channel, quality and level."""
    rng = np.random.default_rng(3)
    tensors = random_tensors(rng, base=BASE, weights=40)
    z, base = random_symbols(rng, Z, 2, 2), random_symbols(rng, BASE, 8, 8)
    a, b = (reference_indexes(tensors, z, quality, base) for quality in (0, 63))
    assert len(np.unique(a)) > 5 and not np.array_equal(a, b)
    assert not np.array_equal(a, reference_indexes(tensors, z, 0, base[::-1]))


@given(st.integers(0, 1 << 30))
def test_the_order_of_summation_does_not_matter(seed):
    """Weights as large as the limit allows: the sums of any order stay exact."""
    rng = np.random.default_rng(seed)
    channels = 512
    weight = rng.choice([-127, 127], (4, channels)).astype(np.int8)
    bias = np.zeros((64, 4), np.int32)
    a = rng.integers(0, MAX_ACTIVATION + 1, (channels, 2, 3)).astype(np.float32)
    order = rng.permutation(channels)
    straight = IntegerConv.load("l", weight, bias, 6)(a, 0)
    permuted = IntegerConv.load("l", np.ascontiguousarray(weight[:, order]), bias, 6)(a[order], 0)
    exact = (np.einsum("oc,chw->ohw", weight.astype(np.int64), a.astype(np.int64)) + 32) >> 6
    assert np.array_equal(straight, permuted)
    assert np.array_equal(straight, exact)


def layer(weight, bias=None, shift=6):
    weight = np.asarray(weight)
    return IntegerConv.load(
        "l", weight, np.zeros((64, len(weight)), np.int32) if bias is None else bias, shift
    )


def test_sums_that_float32_cannot_hold_are_refused():
    """127 * 255 * 518 + 64 lies below 2^24, one channel more does not."""
    assert 127 * 255 * 518 + 64 < EXACT_LIMIT <= 127 * 255 * 519 + 64
    layer(np.full((1, 518), -127, np.int8))
    with pytest.raises(ModelCorrupt, match="exact"):
        layer(np.full((1, 519), -127, np.int8))


def test_a_bias_that_float32_cannot_hold_is_refused():
    bias = np.zeros((64, 1), np.int32)
    bias[40] = -(EXACT_LIMIT - 1 - MAX_ACTIVATION - (1 << 6))
    layer(np.ones((1, 1), np.int8), bias)
    bias[40] -= 1
    with pytest.raises(ModelCorrupt, match="exact"):
        layer(np.ones((1, 1), np.int8), bias)


@pytest.mark.parametrize("shift", [-1, 0, 20, 100])
def test_shifts_out_of_range_are_refused(shift):
    with pytest.raises(ModelCorrupt, match="shapes or types"):
        layer(np.ones((1, 1), np.int8), shift=shift)


@pytest.mark.parametrize(
    "weight",
    [
        np.ones((2, 2), np.int16),
        np.ones((2, 2), np.float32),
        np.ones(2, np.int8),
        np.ones((2, 5, 5), np.int8),
        np.ones((2, 1, 3, 3), np.int8),
        np.ones((0, 3), np.int8),
    ],
)
def test_weights_of_other_shapes_or_types_are_refused(weight):
    with pytest.raises(ModelCorrupt, match="shapes or types"):
        layer(weight)


@pytest.mark.parametrize(
    "bias", [np.zeros((63, 1), np.int32), np.zeros((64, 2), np.int32), np.zeros((64, 1))]
)
def test_biases_of_other_shapes_or_types_are_refused(bias):
    with pytest.raises(ModelCorrupt, match="shapes or types"):
        layer(np.ones((1, 1), np.int8), bias)


NAMES = sorted(random_tensors(np.random.default_rng(0), base=BASE))


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_tensor_is_reported(name):
    tensors = random_tensors(np.random.default_rng(0), base=BASE)
    del tensors[name]
    with pytest.raises(ModelCorrupt):
        ScaleNetwork.load(tensors, "x", LEVELS)


@pytest.mark.parametrize(
    "name, change",
    [
        ("x.up1.weight", lambda t: t[:-4]),
        ("x.up2.weight", lambda t: t[:, :-1]),
        ("x.spread.weight", lambda t: t[:-1]),
        ("x.index.weight", lambda t: t[:, :-1]),
        ("x.base.weight", lambda t: t[:-1]),
        ("x.index.shift", lambda t: t[:0]),
        ("x.hyper_index", lambda t: t[:63]),
        ("x.hyper_index", lambda t: t[:, :-1]),
        ("x.hyper_index", lambda t: t.astype(np.int32)),
        ("x.hyper_index", lambda t: t + np.uint8(64)),
    ],
)
def test_layers_that_do_not_fit_together_are_reported(name, change):
    tensors = random_tensors(np.random.default_rng(0), base=BASE)
    tensors[name] = change(tensors[name])
    bias = name.replace("weight", "bias")
    if name.endswith("weight"):
        tensors[bias] = tensors[bias][:, : len(tensors[name])]
    with pytest.raises(ModelCorrupt):
        ScaleNetwork.load(tensors, "x", LEVELS)


def test_an_enhancement_needs_the_base_symbols():
    network = ScaleNetwork.load(random_tensors(np.random.default_rng(0), base=BASE), "x", LEVELS)
    with pytest.raises(ModelCorrupt, match="base layer's symbols"):
        network.indexes(np.zeros((Z, 1, 1), np.int16), 0)


def test_hyper_indexes_are_the_table_spread_over_positions():
    tensors = random_tensors(np.random.default_rng(0))
    found = ScaleNetwork.load(tensors, "x", LEVELS).hyper_indexes(17, 2, 3)
    assert found.shape == (Z, 2, 3)
    assert all(
        np.array_equal(found[:, y, x], tensors["x.hyper_index"][17]) for y in range(2) for x in range(3)
    )


@pytest.mark.parametrize("base", [0, 64])
def test_equals_the_network_that_was_trained(base):
    torch = pytest.importorskip("torch", reason="training is not installed")
    lite = pytest.importorskip("secondlook.training.lite.model")
    export = pytest.importorskip("secondlook.training.lite.export")
    torch.manual_seed(11)
    layer = lite.LayerEntropy(128, 48, 64, base=base)
    with torch.no_grad():
        for parameter in layer.scale.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        layer.z_index.knots.add_(torch.randn_like(layer.z_index.knots))
    network = ScaleNetwork.load(export.integer_layers(layer, "x"), "x", LEVELS)
    rng = np.random.default_rng(4)
    for quality in (0, 13, 63):
        z = random_symbols(rng, 48, 3, 2)
        symbols = random_symbols(rng, base, 12, 8) if base else None
        with torch.no_grad():
            trained = layer.scale(
                torch.from_numpy(z)[None].float(),
                torch.tensor([quality]),
                torch.from_numpy(symbols)[None].float() if base else None,
            )
            hyper = layer.hyper_scale_index(torch.tensor([quality]))
        found = network.indexes(z, quality, symbols)
        assert len(np.unique(found)) > 10
        assert np.array_equal(found, trained[0].numpy())
        assert np.array_equal(network.hyper_indexes(quality, 1, 1), hyper[0].numpy())

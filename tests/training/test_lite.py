"""The `lite` codec's training: shapes, the DCT start, a few steps, and what is exported against what was trained."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training is not installed")

# ruff: noqa: E402 - what follows needs torch
from secondlook.main import main
from secondlook.shared.bitstream import parse
from secondlook.shared.codec import load_codec
from secondlook.shared.entropy import EntropyTables
from secondlook.shared.models import MODELS_ROOT, find_model
from secondlook.training.lite import model as lite
from secondlook.training.lite.export import UpConv, bake_qualities, export_lite, load_lite
from secondlook.training.lite.fit_scales import bits_of, fit_scales
from secondlook.training.lite.layers import HAAR, DepthConvBlock, dct_basis
from secondlook.training.lite.model import LiteCodec, edge_weighted_error, gaussian_bits, lambda_of, sigma_of
from secondlook.training.lite.scale_network import KNOTS, QUALITIES, PerQuality, bounded, knot_weights
from secondlook.training.lite.tables import entropy_tables
from secondlook.training.lite.train import TrainConfig, draw_qualities, evaluate, train
from secondlook.training.masks.choice import MaskConfig
from secondlook.training.masks.network import EdgeNet
from tests.pictures import photo, psnr

CONFIG = TrainConfig(crop=64, batch=2, total_steps=3)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(4)


def as_tensor(image):
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def as_image(picture):
    return (picture[0].clamp(0, 1) * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)


def qualities(*values):
    return torch.tensor(values)


@pytest.fixture(scope="module")
def fresh():
    return LiteCodec().eval()


@torch.no_grad()
def test_shapes(fresh):
    c = fresh.config
    x = torch.rand(2, 3, 64, 128)
    y_base, y_enhancement = fresh.analyse(x)
    assert y_base.shape == (2, c.base_latents, 4, 8)
    assert y_enhancement.shape == (2, c.enhancement_latents, 4, 8)
    out = fresh(x, qualities(0, 63), qualities(5, 40))
    assert out["base"].shape == out["enhanced"].shape == x.shape
    assert out["bpp_base"].shape == out["bpp_enhancement"].shape == (2,)
    assert (out["bpp_base"] > 0).all()


@torch.no_grad()
def test_an_untrained_codec_is_a_transform_codec(fresh):
    """Without a single training step, a smooth picture comes back."""
    y, x = np.mgrid[0:128, 0:192]
    image = np.stack([110 + 60 * np.sin(x / 30 + k) * np.cos(y / 25 - k) for k in range(3)], -1).astype(
        np.uint8
    )
    out = fresh(as_tensor(image), qualities(63), qualities(63))
    assert psnr(as_image(out["enhanced"]), image) > 34
    assert psnr(as_image(out["base"]), image) > 30


def test_the_basis_is_orthonormal_in_luma():
    basis, planes = dct_basis(128)
    assert basis.shape == (128, 192) and planes == [0] * 64 + [1] * 32 + [2] * 32
    luma = basis[:64] @ basis[:64].T
    assert np.allclose(luma, np.eye(64) * luma[0, 0])
    assert np.allclose(basis @ np.linalg.pinv(basis), np.eye(128))
    assert np.allclose(HAAR @ HAAR.T, np.eye(4))


@torch.no_grad()
def test_blocks_start_near_the_identity():
    x = torch.randn(1, 16, 8, 8)
    assert (DepthConvBlock(16)(x) - x).abs().max() < 0.1


def encode_graph(codec, image, quality):
    """The graph of a key alone."""
    return codec._run("encode", image=image[None], **both(quality))


def quantise_graph(codec, image, quality, **key):
    """The graphs of a delta alone: all positions coded, but for what `key` says."""
    grid = image.shape[0] // 16, image.shape[1] // 16
    latents = codec._run("analysis", image=image[None])
    return codec._run("quantise", **latents, **codec._against(None, grid, 0) | key, **both(quality))


def both(quality):
    return {name: np.array([quality]) for name in ("base_quality", "quality")}


@torch.no_grad()
@pytest.mark.parametrize("quality", [0, 40, 63])
def test_the_encoders_graph_finds_the_indexes_of_the_integer_network(quality):
    """Float sums of integers in ONNX Runtime, integers in numpy: one wrong index and nothing decodes."""
    codec = load_codec("lite", threads=2)
    noise = np.random.default_rng(quality).integers(0, 256, (128, 192, 3), np.uint8)
    coded = encode_graph(codec, noise, quality)
    base = codec._layers["base"].scales.indexes(coded["z_base"][0], quality)
    enhancement = codec._layers["enhancement"].scales.indexes(
        coded["z_enhancement"][0], quality, coded["symbols_base"][0]
    )
    assert len(np.unique(base)) > 8 and len(np.unique(enhancement)) > 8
    assert np.array_equal(coded["indexes_base"][0], base)
    assert np.array_equal(coded["indexes_enhancement"][0], enhancement)


def test_a_key_comes_out_alike_from_one_graph_and_from_two():
    """From two for frames that need tiles; float rounding may choose another symbol now and then."""
    codec, image = load_codec("lite", threads=1), photo(128, 192)
    whole, parts = encode_graph(codec, image, 40), quantise_graph(codec, image, 40)
    assert parts["changed"].all() and set(whole) == set(parts) - {"changed"} | {"y_enhancement"}
    for name, values in parts.items():
        if name != "changed":
            assert np.mean(np.abs(whole[name].astype(float) - values) > 1e-3) < 1e-3, name


def test_positions_count_as_changed_by_their_mean_or_by_one_channel():
    """One position just above the threshold over all channels, one just below, two in a single channel."""
    codec, image = load_codec("lite", threads=1), photo(64, 64)
    signal = encode_graph(codec, image, 30)["y_enhancement"]
    key = signal.copy()
    key[0, :, 0, 0] += np.sqrt(0.021)
    key[0, :, 1, 1] += np.sqrt(0.019)
    key[0, 5, 2, 2] += np.sqrt(33 * 0.02)  # its mean over the channels is below the threshold
    key[0, 5, 3, 3] += np.sqrt(31 * 0.02)
    coded = quantise_graph(codec, image, 30, key_signal=key, threshold=np.array([0.02], np.float32))
    assert np.argwhere(coded["changed"][0, 0]).tolist() == [[0, 0], [2, 2]]
    again = quantise_graph(codec, image, 30, key_signal=signal, threshold=np.array([0.02], np.float32))
    assert not again["changed"].any() and not again["symbols_enhancement"].any()


@torch.no_grad()
def test_a_silent_base_leaves_a_codec_of_one_layer():
    model = load_lite(find_model("lite", kind="codec").path)
    lite.silence_base(model)
    model.eval()
    out = model(as_tensor(photo(128, 128)), qualities(40), qualities(40))
    assert out["bpp_base"].item() < 0.002 and out["bpp_enhancement"].item() > 0.1
    assert psnr(as_image(out["enhanced"]), photo(128, 128)) > 25
    assert not any(p.requires_grad for p in model.base.parameters())
    assert all(p.requires_grad for p in model.enhancement.parameters())


@pytest.mark.parametrize("layer", ["base", "enhancement"])
def test_one_layer_may_learn_alone(data, tmp_path, layer):
    """The trunk stands still, and what the other layer is made of; with the base alone nothing else is computed."""
    config = TrainConfig(crop=64, batch=2, total_steps=2, only=layer)
    before = load_lite(find_model("lite", kind="codec").path).state_dict()
    path = train(
        data,
        tmp_path / "new",
        1,
        config,
        resume=False,
        threads=1,
        masks=MaskConfig("canny"),
        start_from=find_model("lite", kind="codec").path,
    )
    after = torch.load(path, weights_only=True)["live"]
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert (
        changed
        == {
            "base": {"base_head", "base", "base_synthesis"},
            "enhancement": {
                *("enhancement_head", "base_features", "prior", "fusion"),
                *("enhancement", "enhancement_synthesis"),
            },
        }[layer]
    )


def test_dead_zones_shrink_as_symbols_grow_likely():
    index = torch.arange(lite.SIGMA_LEVELS).float()
    zones = lite.dead_zone(index)
    assert (zones.diff() <= 0).all()
    zero, one = (lite.likelihood_of(torch.full_like(index, v), lite.sigma_of(index)) for v in (0.0, 1.0))
    extra = torch.log2(zero / one.clamp(min=2.0**-22)).clamp(min=0)
    assert (zones - 0.3 * extra / (2 * 8.66)).abs().max() < 0.01


@torch.no_grad()
def test_qualities_run_from_knot_to_knot():
    weights = knot_weights()
    assert weights.shape == (QUALITIES, KNOTS)
    assert torch.allclose(weights.sum(1), torch.ones(QUALITIES), atol=1e-5)
    table = PerQuality(torch.arange(KNOTS).float()[:, None].expand(KNOTS, 3)).table()
    assert torch.allclose(table[:, 0], torch.linspace(0, KNOTS - 1, QUALITIES), atol=1e-5)
    lambdas = lambda_of(torch.arange(QUALITIES))
    assert lambdas[0] == pytest.approx(lite.LAMBDA_LOW) and lambdas[-1] == pytest.approx(lite.LAMBDA_HIGH)


def test_a_clamp_lets_gradients_pass_that_lead_inside():
    x = torch.tensor([-5.0, -5.0, 0.5, 9.0, 9.0], requires_grad=True)
    (bounded(x, 0, 1) * torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0])).sum().backward()
    assert x.grad.tolist() == [0.0, -1.0, 1.0, 1.0, 0.0]


def test_bits_are_those_of_the_gaussian():
    """At σ = 1 the bin of 0 holds 38.3% of the mass; all bins together hold all of it."""
    values = torch.arange(-30, 31).float()[:, None]
    bits = gaussian_bits(values, torch.ones(61, 1))
    assert bits[30].item() == pytest.approx(-np.log2(0.38292), abs=1e-3)
    assert (2.0**-bits).sum().item() == pytest.approx(1, abs=1e-4)


def test_distortion_outside_the_mask_counts_by_the_floor():
    x, x_hat = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    assert edge_weighted_error(x, x_hat, mask, 0.0).item() == pytest.approx(0.5)
    assert edge_weighted_error(x, x_hat, mask, 0.2).item() == pytest.approx(0.6)


def test_drawn_qualities_are_in_range():
    base, quality = draw_qualities(2000, np.random.default_rng(1))
    for drawn in (base, quality):
        assert drawn.min() == 0 and drawn.max() == QUALITIES - 1
    assert base.float().mean() < quality.float().mean() - 3


def test_tables_hold_every_scale():
    tables = entropy_tables(None)
    made = EntropyTables(tables["base.frequencies"], tables["reach"], int(tables["listed_below"][0]))
    assert len(made.models) == lite.SIGMA_LEVELS
    for level, reach in enumerate(tables["reach"]):
        row = tables["base.frequencies"][level]
        assert (row[: 2 * reach + 2] > 0).all() and not row[2 * reach + 2 :].any()
        assert np.array_equal(row[: 2 * reach + 1], row[: 2 * reach + 1][::-1])
        # the cost of a zero is what training counts on
        share = row[reach] / row.sum()
        bits = gaussian_bits(torch.zeros(1, 1), sigma_of(torch.tensor([[float(level)]])))
        assert -np.log2(share) == pytest.approx(bits.item(), abs=0.01)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Five pictures to train on, one with human boundaries, and two to judge by."""
    folder = tmp_path_factory.mktemp("data")
    for name, count, size in (("train/images", 5, (96, 80)), ("val", 2, (70, 130))):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            cv2.imwrite(str(folder / name / f"{number}.png"), photo(*size, seed=number))
    (folder / "train" / "boundaries").mkdir()
    boundary = np.zeros((96, 80), np.uint8)
    boundary[:, 40] = 255
    cv2.imwrite(str(folder / "train" / "boundaries" / "0.png"), boundary)
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    torch.save(EdgeNet().state_dict(), folder / "edges.pt")
    return folder


@pytest.fixture(scope="module")
def checkpoint(data, work):
    """Two runs: three steps, then two more after a resume."""
    first = train(data, work, 5.0, CONFIG, resume=False, threads=1)
    assert torch.load(first, weights_only=True)["step"] == 3
    longer = TrainConfig(crop=64, batch=2, total_steps=5)
    assert train(data, work, 5.0, longer, resume=True, threads=1) == first == work / "lite.pt"
    return torch.load(first, weights_only=True)


def test_training_goes_on_where_it_stopped(checkpoint, work):
    assert checkpoint["step"] == 5
    assert checkpoint["config"]["total_steps"] == 5
    steps = {int(state["step"]) for state in checkpoint["optimiser"]["state"].values()}
    assert steps == {5}
    assert all(torch.isfinite(v).all() for v in checkpoint["model"].values())
    assert not list(work.glob("*.part"))


def test_a_finished_run_is_not_trained_further(checkpoint, data, work):
    path = train(data, work, 5.0, TrainConfig(crop=64, batch=2, total_steps=5), resume=True, threads=1)
    again = torch.load(path, weights_only=True)["model"]
    assert all(torch.equal(v, again[k]) for k, v in checkpoint["model"].items())


@torch.no_grad()
def trained(checkpoint):
    model = LiteCodec()
    model.load_state_dict(checkpoint["model"])
    return model.eval()


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    """The exported model folder."""
    made = tmp_path_factory.mktemp("models") / "tiny"
    export_lite(trained(checkpoint), made, {"licence": "none"})
    return made


def test_an_exported_folder_is_whole(folder):
    found = find_model(folder, kind="codec")
    assert found.manifest["model_hash"] == found.model_hash.hex()
    assert set(found.manifest["weights"]) == {"weights.safetensors"}
    assert (folder / "weights.safetensors").stat().st_size < 2.2 * sum(
        p.numel() for p in LiteCodec().parameters()
    )


def test_what_is_exported_is_what_its_name_stands_for(checkpoint, work, tmp_path, monkeypatch):
    """`export lite`, then `encode --model lite` and `decode` in the same working folder: no flag says where it lies."""
    monkeypatch.chdir(tmp_path)
    assert main(["export", "lite", "--work", str(work)]) == 0
    exported = find_model(tmp_path / "exported_models" / "lite")
    assert exported.model_hash != find_model(MODELS_ROOT / "lite").model_hash
    cv2.imwrite("one.png", photo(64, 64)[..., ::-1])
    assert main(["encode", "one.png", "--model", "lite"]) == 0
    assert parse(Path("one.base.slk").read_bytes()).model_hash == exported.model_hash
    assert main(["decode", "one.base.slk", "one.enh.slk", "-o", "again.png"]) == 0
    assert Path("again.png").exists()


@torch.no_grad()
def test_exported_weights_load_again(folder, checkpoint):
    loaded = load_lite(folder).state_dict()
    for name, value in checkpoint["model"].items():
        assert torch.allclose(loaded[name], value, rtol=1e-3, atol=1e-6), name


@torch.no_grad()
def test_baking_changes_nothing(checkpoint):
    x, base_quality, quality = torch.rand(1, 3, 64, 64), qualities(11), qualities(45)
    before, baked = trained(checkpoint), trained(checkpoint)
    bake_qualities(baked)
    assert not [name for name, _ in baked.named_parameters() if "knots" in name]
    a, b = before(x, base_quality, quality), baked(x, base_quality, quality)
    for name in a:
        assert torch.allclose(a[name], b[name], atol=1e-4), name


def check_estimate(folder, image, base_quality, quality, fewest):
    """Real bytes against the bits training counts, and the served pictures against the trained ones.

    `fewest`: the least share of the estimate that real bytes may be; tables of real symbols save some.
    """
    model, codec = load_lite(folder).eval(), load_codec(folder, threads=1)
    coded = codec.encode(image, base_quality=base_quality, quality=quality).layers
    with torch.no_grad():
        out = model(as_tensor(image), qualities(base_quality), qualities(quality))
    pixels = image.shape[0] * image.shape[1]
    for name, layer in (("bpp_base", coded.base), ("bpp_enhancement", coded.enhancement)):
        share = 8 * len(parse(layer).payload) / (out[name].item() * pixels)
        assert fewest < share < 1.03, name
    served = codec.decode_enhanced(coded.base, coded.enhancement)
    assert psnr(served, as_image(out["enhanced"])) > 45
    # Steps of the base layer are coarse: a rounding that goes the other way shows more.
    assert psnr(codec.decode_base(coded.base), as_image(out["base"])) > 42


POINTS = [(8, 35), (32, 55)]


@pytest.mark.parametrize("base_quality, quality", POINTS)
def test_bits_and_pictures_of_a_fresh_export(folder, base_quality, quality):
    check_estimate(folder, photo(256, 384), base_quality, quality, 0.97)


@pytest.mark.parametrize("base_quality, quality", POINTS)
def test_bits_and_pictures_of_the_shipped_model(base_quality, quality):
    check_estimate(find_model("lite", kind="codec").path, photo(448, 640), base_quality, quality, 0.85)


@torch.no_grad()
def test_evaluation_speaks_of_all_images(fresh):
    images = [as_tensor(photo(64, 64, seed=s)) for s in (1, 2)]
    (row,) = evaluate(fresh, images, [(20, 40)])
    one, two = (evaluate(fresh, [image], [(20, 40)])[0] for image in images)
    for name in ("bpp_base", "bpp", "psnr_base", "psnr"):
        assert row[name] == pytest.approx((one[name] + two[name]) / 2)
    fresh.eval()


def test_fitting_the_scales_saves_real_bits_and_moves_nothing_else(checkpoint, data, work, tmp_path):
    shutil.copy(work / "lite.pt", tmp_path)
    clock = itertools.count(0, 60 / 300).__next__
    path = fit_scales(data, tmp_path, 1, threads=1, crop=64, clock=clock)
    fitted = torch.load(path, weights_only=True)["model"]
    x, points = as_tensor(photo(128, 128, seed=9)), (qualities(8), qualities(45))
    bits = []
    for state in (checkpoint["model"], fitted):
        model = LiteCodec()
        model.load_state_dict(state)
        bits.append(sum(b.item() for b in bits_of(model, x, *points)))
    assert bits[1] < 0.98 * bits[0]
    moved = {name for name in fitted if not torch.equal(fitted[name], checkpoint["model"][name])}
    assert moved and all(".scale." in name or ".z_index." in name for name in moved)


@torch.no_grad()
def test_a_transposed_convolution_is_the_convolution_and_its_shuffle():
    conv, x = torch.nn.Conv2d(6, 20, 1), torch.randn(1, 6, 3, 4)
    assert torch.allclose(UpConv(conv)(x), torch.nn.functional.pixel_shuffle(conv(x), 2), atol=1e-6)

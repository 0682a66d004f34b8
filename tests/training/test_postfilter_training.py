"""The post-filter's training: shapes, its start as the identity, lengthening, and a short run with a resume."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training is not installed")

# ruff: noqa: E402 - what follows needs torch
from cloud.postfilter import load_postfilter
from shared.codec import load_codec
from shared.errors import ConfigError, DetectorError, ModelNotFound
from shared.models import find_model
from tests.pictures import photo, psnr
from training.data import CropSampler
from training.lite.export import load_lite
from training.lite.weights import load_weights
from training.postfilter import train as training
from training.postfilter.export import export_postfilter
from training.postfilter.model import PostFilter, lengthen

TEACHER = Path(__file__).parents[3] / "shared" / "data" / "models" / "yolox_nano.onnx"
needs_teacher = pytest.mark.skipif(not TEACHER.exists(), reason="the YOLOX-nano export is not there")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(5)


def randomised(**sizes):
    net = PostFilter(1, **sizes)
    torch.nn.init.normal_(net.last.weight, 0, 0.05)
    torch.nn.init.normal_(net.trunk.bias, 0, 0.1)
    return net


@torch.no_grad()
@pytest.mark.parametrize("length, unshuffle", [(1, 1), (2, 1), (1, 4)])
def test_a_filter_starts_as_the_identity(length, unshuffle):
    x = torch.rand(2, 3, 16, 24)
    net = PostFilter(length, unshuffle=unshuffle, features=8, growth=4)
    assert torch.equal(net(x), x)


@pytest.mark.parametrize("length, unshuffle", [(1, 1), (2, 1), (1, 4)])
def test_the_radius_is_how_far_one_pixel_looks(length, unshuffle):
    """With positive weights nothing cancels, so the gradient of a pixel shows all it depends on."""
    net = PostFilter(length, unshuffle=unshuffle, features=4, growth=2).double()
    for parameter in net.parameters():
        torch.nn.init.constant_(parameter, 0.1 if parameter.ndim == 4 else 0.0)
    half = net.radius + 2 * unshuffle
    x = (torch.rand(1, 3, 2 * half, 2 * half, dtype=torch.float64) + 1).requires_grad_()
    net(x)[0, :, half, half].sum().backward()
    blocks = x.grad[0].abs().amax(0).nonzero() // unshuffle - half // unshuffle
    assert int(blocks.abs().max()) * unshuffle == net.radius


@torch.no_grad()
@pytest.mark.parametrize("sizes", [{}, {"unshuffle": 4}, {"features": 16, "growth": 8}])
def test_a_longer_filter_starts_as_the_shorter_one(sizes):
    short = randomised(**sizes)
    long = lengthen(short)
    x = torch.rand(1, 3, 24, 32)
    assert long.length == 2 and long.radius > short.radius
    assert (short(x) - x).abs().max() > 0.05
    assert torch.allclose(long(x), short(x), atol=1e-5)
    assert len(long.state_dict()) > len(short.state_dict())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, count in (("train/images", 2), ("val", 1)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            cv2.imwrite(str(folder / name / f"{number}.png"), photo(192, 192, seed=number))
    return folder


@pytest.mark.parametrize("name", ["rrdb-fast"])
def test_a_short_run_and_its_resume(data, tmp_path, name):
    model = find_model("lite", kind="codec").path
    few = training.FilterConfig(batch=2)
    path = training.train(name, data, model, tmp_path, 0.02, resume=False, threads=1, config=few)
    first = torch.load(path, weights_only=True)
    again = training.train(name, data, model, tmp_path, 0.02, resume=True, threads=1, config=few)
    second = torch.load(again, weights_only=True)
    assert path == again == tmp_path / f"{name}.pt"
    assert 0 < first["step"] < second["step"]
    assert not torch.equal(first["model"]["last.weight"], second["model"]["last.weight"])
    net = training.build(name, tmp_path)
    net.load_state_dict(second["model"])
    export_postfilter(net, tmp_path / name, {"licence": "none"})
    image = photo(50, 70)
    assert psnr(load_postfilter(tmp_path / name, threads=1).apply(image), image) > 30


def test_filters_are_built_by_name_and_layer(tmp_path):
    short = randomised()
    torch.save({"model": short.state_dict()}, tmp_path / "rrdb-l1.pt")
    assert training.build("rrdb-l2", tmp_path).length == 2
    assert [training.build(f"rrdb-{n}", tmp_path).unshuffle for n in ("l1", "fast", "tiny")] == [1, 2, 4]
    with pytest.raises(ModelNotFound, match=r"rrdb-l1-base\.pt.*train rrdb-l1 first"):
        training.build("rrdb-l2", tmp_path, "base")


def test_filters_of_the_two_layers_never_share_a_file(tmp_path):
    paths = {training.checkpoint_of("rrdb-tiny", layer, tmp_path).name for layer in ("base", "enhanced")}
    assert paths == {"rrdb-tiny.pt", "rrdb-tiny-base.pt"}
    assert training.filter_name("rrdb-l1", "enhanced") == "rrdb-l1"


@torch.no_grad()
def test_a_filter_for_machines_learns_on_what_the_base_layer_decodes_to():
    model, image = find_model("lite", kind="codec").path, photo(128, 128)
    x = torch.from_numpy(image.transpose(2, 0, 1)[None].copy()).float() / 255
    seen = training.decoded(load_lite(model).eval(), x, torch.tensor([8]), torch.tensor([40]), "base")
    codec = load_codec(model, threads=1)
    served = codec.decode_base(codec.encode(image, base_quality=8, quality=40).layers.base)
    ours = (seen[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    assert psnr(ours, served) > 42 and psnr(ours, image) < 40


def test_a_feature_loss_needs_a_detector(tmp_path):
    with pytest.raises(ConfigError, match="needs --detector"):
        training.open_loss("features", None)
    with pytest.raises(DetectorError, match="no detector at"):
        training.open_loss("features", tmp_path / "missing.onnx")
    assert training.open_loss("mse", None) is training.error_ratio


@needs_teacher
def test_the_feature_loss_falls_as_a_detector_gains():
    loss = training.open_loss("features", TEACHER)
    x = torch.from_numpy(photo(96, 96).transpose(2, 0, 1)[None].copy()).float() / 255
    coarse = (x + 0.15 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    halfway = ((x + coarse) / 2).requires_grad_()
    values = [loss.features(refined, coarse, x) for refined in (coarse, halfway, x)]
    assert 0.8 < values[0].item() < 1 and values[0] > values[1] > values[2] == 0
    loss(halfway, coarse, x).backward()
    assert halfway.grad is not None and halfway.grad.abs().max() > 0


@needs_teacher
def test_a_short_run_for_machines(data, tmp_path):
    config = training.FilterConfig(layer="base", loss="features", batch=2)
    path = training.train(
        "rrdb-tiny", data, find_model("lite", kind="codec").path, tmp_path, 0.02,
        resume=False, threads=1, detector=TEACHER, config=config,
    )  # fmt: skip
    state = torch.load(path, weights_only=True)
    assert path.name == "rrdb-tiny-base.pt" and state["step"] > 0
    assert state["config"] == {"layer": "base", "loss": "features", "batch": 2, "lr": 2e-4, "patch": 0}
    net = training.build("rrdb-tiny", tmp_path, "base")
    net.load_state_dict(state["model"])
    assert net.last.weight.abs().max() > 0


@pytest.mark.parametrize("wrong", [{"patch": 40}, {"patch": 112}, {"patch": -16}, {"batch": 0}])
def test_a_patch_must_fit_what_is_coded(wrong):
    with pytest.raises(ConfigError, match="at most 96 pixels in steps of 16"):
        training.FilterConfig(**wrong)


def test_patches_have_the_side_asked_for(data):
    codec = load_lite(find_model("lite", kind="codec").path).eval()
    picture = photo(160, 144)
    sampler = CropSampler([picture], None, training.CODED_CROP, np.random.default_rng(1))
    for side in (16, 96):
        drawn = training.draw(sampler, 2, side)
        assert drawn.rows.min() >= training.BORDER and drawn.thirds in (2, 3)
        y, x = training.patches(codec, "enhanced", *drawn[:-1])
        assert y.shape == x.shape == (2, 3, side, side)
        assert 0 < (y - x).abs().mean() < 0.1


@torch.no_grad()
def test_gains_are_decibels():
    """A filter that halves every error gains 6 dB."""

    class Halves(torch.nn.Module):
        def forward(self, y):
            return y / 2

    x = torch.zeros(1, 3, 8, 8)
    (gain,) = training.gains(Halves(), [(torch.full_like(x, 200 / 255), x)])
    assert gain == pytest.approx(20 * np.log10(2), abs=0.05)


@pytest.mark.parametrize("name", ["rrdb-l1", "rrdb-l2", "rrdb-fast"])
def test_training_can_start_from_a_shipped_filter(name):
    net = training.fresh(name)
    net.load_state_dict(load_weights(find_model(name, kind="postfilter").path))
    assert net.last.weight.abs().max() > 0

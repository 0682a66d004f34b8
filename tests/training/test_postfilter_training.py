"""The post-filter's training: shapes, its start as the identity, lengthening, and a short run with a resume."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training is not installed")

# ruff: noqa: E402 - what follows needs torch
from secondlook.cloud.workers.postfilter import load_postfilter
from secondlook.shared.codec import load_codec
from secondlook.shared.errors import ConfigError, DetectorError, ModelNotFound
from secondlook.shared.models import find_model
from secondlook.training.lite.export import load_lite
from secondlook.training.lite.weights import load_weights
from secondlook.training.postfilter import pictures
from secondlook.training.postfilter import train as training
from secondlook.training.postfilter.export import export_postfilter
from secondlook.training.postfilter.model import PostFilter, lengthen
from secondlook.training.postfilter.quick import QuickFilter
from tests.pictures import photo, psnr

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
def test_the_quick_filter_starts_as_the_identity_and_costs_a_twentieth():
    net, x = training.fresh("quick"), torch.rand(2, 3, 16, 24)
    assert torch.equal(net(x, torch.tensor([25.0, 52.0])), x)
    assert net.macs_per_pixel <= 719_000 / 20


def test_the_radius_of_the_quick_filter_is_how_far_one_pixel_looks():
    net = QuickFilter(unshuffle=2, features=4, blocks=3).double()
    for parameter in net.parameters():
        torch.nn.init.constant_(parameter, 0.1 if parameter.ndim == 4 else 0.0)
    half = net.radius + 4
    x = (torch.rand(1, 3, 2 * half, 2 * half, dtype=torch.float64) + 1).requires_grad_()
    net(x, torch.tensor([40.0], dtype=torch.float64))[0, :, half, half].sum().backward()
    blocks = x.grad[0].abs().amax(0).nonzero() // 2 - half // 2
    assert int(blocks.abs().max()) * 2 == net.radius


@torch.no_grad()
def test_the_quick_filter_as_exported_computes_what_was_trained(tmp_path):
    """Three branches have become one, and the quality still counts."""
    net = QuickFilter(unshuffle=2, features=8, blocks=2)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    x = torch.rand(1, 3, 32, 48)
    assert torch.allclose(net(x, torch.tensor([30.0])), net.plain()(x, torch.tensor([30.0])), atol=1e-5)
    export_postfilter(net, tmp_path / "quick", {"licence": "none"})
    loaded, image = load_postfilter(tmp_path / "quick", threads=1), photo(41, 70)
    low, high = (loaded.apply(image, quality=quality).astype(int) for quality in (5, 60))
    assert abs(low - high).max() > 3
    whole = torch.from_numpy(image[:40].copy()).permute(2, 0, 1)[None].float() / 255
    ours = (net(whole, torch.tensor([5.0])).clamp(0, 1) * 255).round()[0].permute(1, 2, 0).numpy()
    inner = slice(0, 40 - net.radius)
    assert abs(low[:40][inner] - ours[inner]).max() <= 1


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
    work = tmp_path / "runs" / "today"  # training makes it
    path = training.train(name, data, model, work, 0.02, resume=False, threads=1, config=few)
    first = torch.load(path, weights_only=True)
    again = training.train(name, data, model, work, 0.02, resume=True, threads=1, config=few)
    second = torch.load(again, weights_only=True)
    assert path == again == work / f"{name}.pt"
    assert 0 < first["step"] < second["step"]
    assert not torch.equal(first["model"]["last.weight"], second["model"]["last.weight"])
    net = training.build(name, work)
    net.load_state_dict(second["model"])
    export_postfilter(net, tmp_path / name, {"licence": "none"})
    image = photo(50, 70)
    assert psnr(load_postfilter(tmp_path / name, threads=1).apply(image), image) > 30


def test_a_student_learns_what_its_teacher_shows(data, tmp_path, monkeypatch):
    """A teacher that makes every picture darker: so does the student, though the originals are not darker."""
    model = find_model("lite", kind="codec").path
    monkeypatch.setattr(training, "open_teacher", lambda *_: lambda y: y - 0.1)
    few = training.FilterConfig(batch=2, lr=2e-3)
    path = training.train(
        "quick", data, model, tmp_path, 0.15, resume=False, threads=1, teacher=tmp_path, config=few
    )
    net = training.build("quick", tmp_path)
    net.load_state_dict(torch.load(path, weights_only=True)["model"])
    x = torch.from_numpy(photo(96, 96).transpose(2, 0, 1)[None].copy()).float() / 255
    assert (net(x, torch.tensor([40.0])) - x).mean() < -0.02


def test_a_teacher_is_a_filter_that_training_knows(tmp_path):
    teach = training.open_teacher(find_model("rrdb-fast", kind="postfilter").path, torch.device("cpu"))
    x = torch.rand(1, 3, 33, 21)
    taught = teach(x)
    assert taught.shape == x.shape and 0 < (taught - x).abs().max() < 1
    with pytest.raises(ModelNotFound, match="no teacher at"):
        training.open_teacher(tmp_path, torch.device("cpu"))


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
    seen = pictures.through_codec(load_lite(model).eval(), x, torch.tensor([8]), torch.tensor([40]), "base")
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
    loss(halfway, coarse, x, torch.tensor([0.01])).backward()
    assert halfway.grad is not None and halfway.grad.abs().max() > 0


@needs_teacher
def test_a_short_run_for_machines(data, tmp_path):
    config = training.FilterConfig(layer="base", loss="features", batch=2)
    path = training.train(
        "rrdb-tiny",
        data,
        find_model("lite", kind="codec").path,
        tmp_path,
        0.02,
        resume=False,
        threads=1,
        detector=TEACHER,
        config=config,
    )
    state = torch.load(path, weights_only=True)
    assert path.name == "rrdb-tiny-base.pt" and state["step"] > 0
    assert state["config"] == {
        **asdict(training.FilterConfig()),
        "layer": "base",
        "loss": "features",
        "batch": 2,
    }
    assert state["source"]["images"] > 0 and state["source"]["seed"] == 3
    net = training.build("rrdb-tiny", tmp_path, "base")
    net.load_state_dict(state["model"])
    assert net.last.weight.abs().max() > 0


@pytest.mark.parametrize("wrong", [{"patch": 40}, {"patch": 272}, {"patch": -16}, {"batch": 0}])
def test_a_patch_has_sensible_sides(wrong):
    with pytest.raises(ConfigError, match="at most 256 pixels in steps of 16"):
        training.FilterConfig(**wrong)


@pytest.fixture(scope="module")
def codec():
    return load_lite(find_model("lite", kind="codec").path).eval()


def ahead(codec, paths, side, **more):
    rng = np.random.default_rng(1)
    return pictures.code_ahead(
        codec, paths, "enhanced", side, rng, torch.device("cpu"), **{"is_over": lambda: False, **more}
    )


@torch.no_grad()
def test_pictures_are_coded_whole_and_keep_their_error(codec, tmp_path):
    image = photo(150, 190)
    cv2.imwrite(str(tmp_path / "a.png"), image[..., ::-1])
    cv2.imwrite(str(tmp_path / "small.png"), photo(90, 300))
    coded = ahead(codec, [tmp_path / "a.png", tmp_path / "small.png"], 96)
    assert len(coded) == pictures.VERSIONS, "a picture too small for a patch is left out"
    for each in coded:
        assert psnr(each.original, image) > 30 and each.decoded.shape == image.shape
        assert each.error == pytest.approx(10 ** (-psnr(each.decoded, each.original) / 10), rel=1e-4)
    assert len({each.error for each in coded}) > 1, "versions have qualities of their own"


@torch.no_grad()
def test_every_second_original_was_a_jpeg(codec, tmp_path, monkeypatch):
    image = photo(96, 96)
    cv2.imwrite(str(tmp_path / "a.png"), image[..., ::-1])
    monkeypatch.setattr(pictures, "VERSIONS", 24)
    clean = [np.array_equal(each.original, image) for each in ahead(codec, [tmp_path / "a.png"], 48)]
    assert len(clean) == 24 and 6 <= sum(clean) <= 18


def test_a_jpeg_is_the_same_picture_a_little_worse():
    image, rng = photo(96, 128), np.random.default_rng(2)
    stored = [pictures.as_jpeg(image, rng) for _ in range(8)]
    assert {each.shape for each in stored} == {image.shape}
    qualities = [psnr(each, image) for each in stored]
    assert 25 < min(qualities) < max(qualities) < 60 and len(set(qualities)) > 4


@torch.no_grad()
def test_coding_ahead_ends_in_time_and_says_what_is_too_small(codec, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), photo(64, 64, seed=number))
    assert len(ahead(codec, paths, 48, is_over=lambda: True)) == 1
    with pytest.raises(ConfigError, match="none of 3 images has 80 pixels"):
        ahead(codec, paths, 80)


def test_patches_lie_where_their_originals_do():
    whole = photo(160, 144)
    coded = [
        pictures.CodedPicture(255 - whole, whole, whole // 2, error, quality)
        for error, quality in ((0.25, 20), (0.5, 50))
    ]
    for side in (16, 96):
        drawn = pictures.draw(coded, 24, side, np.random.default_rng(1))
        assert drawn.decoded.shape == drawn.original.shape == (24, 3, side, side)
        assert drawn.decoded.dtype == torch.uint8 and drawn.thirds in (2, 3)
        assert torch.equal(drawn.decoded, 255 - drawn.original)
        assert torch.equal(drawn.taught, drawn.original // 2)
        assert set(zip(drawn.errors.tolist(), drawn.qualities.tolist(), strict=True)) == {
            (0.25, 20),
            (0.5, 50),
        }
        patches = drawn.original.permute(0, 2, 3, 1).numpy()
        windows = np.lib.stride_tricks.sliding_window_view(whole, (side, side, 3)).reshape(-1, side, side, 3)
        found = [[(windows == seen).all((1, 2, 3)).any() for seen in (p, p[:, ::-1])] for p in patches]
        assert all(map(any, found)) and {tuple(each) for each in found} == {(True, False), (False, True)}


def test_a_patch_counts_by_the_errors_of_its_picture():
    x = torch.rand(2, 3, 32, 32)
    y = x + 0.02
    errors = torch.full((2,), 0.02**2)
    assert training.error_ratio(y, y, x, errors).item() == pytest.approx(1)
    halved = training.error_ratio((x + y) / 2, y, x, errors).item()
    assert halved == pytest.approx(1 - 0.75, abs=0.03), "a quarter of the squared errors remains"
    lost = training.error_ratio((x + y) / 2, y, x, 10 * errors).item()
    assert 0.9 < lost < 0.95, "the same patch of a picture with ten times the errors is a tenth of them"
    framed = y.clone()
    framed[..., 2:-2, 2:-2] = x[..., 2:-2, 2:-2]
    assert training.error_ratio(framed, y, x, errors) < 0.03, "the frame of a patch counts for nothing"


def test_the_rate_rises_and_falls():
    assert training.rate_share(0.0, 0) < 0.01
    shares = [training.rate_share(spent / 10, 1000) for spent in range(12)]
    assert shares[0] == 1 and shares == sorted(shares, reverse=True)
    assert shares[10] == shares[11] == pytest.approx(training.LR_END_SHARE)


@torch.no_grad()
def test_gains_are_decibels():
    """A filter that halves every error gains 6 dB."""

    class Halves(torch.nn.Module):
        def forward(self, y, quality):
            return y / 2

    x = torch.zeros(1, 3, 8, 8)
    (gain,) = training.gains(Halves(), [(torch.full_like(x, 200 / 255), x, torch.tensor([40.0]))])
    assert gain == pytest.approx(20 * np.log10(2), abs=0.05)


@pytest.mark.parametrize("name", ["rrdb-l1", "rrdb-l2", "rrdb-fast"])
def test_training_can_start_from_a_shipped_filter(name):
    net = training.fresh(name)
    net.load_state_dict(load_weights(find_model(name, kind="postfilter").path))
    assert net.last.weight.abs().max() > 0

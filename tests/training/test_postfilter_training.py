"""The post-filter's training: shapes, its start as the identity, lengthening, and a short run with a resume."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training is not installed")

# ruff: noqa: E402 - what follows needs torch
from cloud.postfilter import load_postfilter
from shared.models import find_model
from tests.pictures import photo, psnr
from training.postfilter import train as training
from training.postfilter.export import export_postfilter
from training.postfilter.model import PostFilter, lengthen


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
    path = training.train(name, data, model, tmp_path, 0.02, resume=False, threads=1, batch=2)
    first = torch.load(path, weights_only=True)
    again = training.train(name, data, model, tmp_path, 0.02, resume=True, threads=1, batch=2)
    second = torch.load(again, weights_only=True)
    assert path == again == tmp_path / f"{name}.pt"
    assert 0 < first["step"] < second["step"]
    assert not torch.equal(first["model"]["last.weight"], second["model"]["last.weight"])
    net = training.build(name, tmp_path)
    net.load_state_dict(second["model"])
    export_postfilter(net, tmp_path / name, {"licence": "none"})
    image = photo(50, 70)
    assert psnr(load_postfilter(tmp_path / name, threads=1).apply(image), image) > 30


def test_the_longer_filter_is_built_from_the_shorter_checkpoint(tmp_path):
    short = randomised()
    torch.save({"model": short.state_dict()}, tmp_path / "rrdb-l1.pt")
    assert training.build("rrdb-l2", tmp_path).length == 2
    assert training.build("rrdb-l1", tmp_path).unshuffle == 1
    assert training.build("rrdb-fast", tmp_path).unshuffle == 2


@torch.no_grad()
def test_gains_are_decibels():
    """A filter that halves every error gains 6 dB."""

    class Halves(torch.nn.Module):
        def forward(self, y):
            return y / 2

    x = torch.zeros(1, 3, 8, 8)
    (gain,) = training.gains(Halves(), [(torch.full_like(x, 200 / 255), x)])
    assert gain == pytest.approx(20 * np.log10(2), abs=0.05)

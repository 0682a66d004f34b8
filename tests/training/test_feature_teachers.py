"""Any detector's folder can be what a base layer's loss asks: here the shipped one, whose weights lie in the tree."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training is not installed")

# ruff: noqa: E402 - what follows needs torch
from secondlook.shared.errors import ConfigError, ModelNotFound
from secondlook.training.detector.features import open_features
from secondlook.training.detector.onnx_net import OnnxNet

SHIPPED = Path(__file__).parents[2] / "exported_models" / "detector"


def test_the_distance_is_0_for_equal_pictures_grows_with_noise_and_has_gradients() -> None:
    torch.manual_seed(5)
    distance = open_features(SHIPPED)
    picture = torch.rand(2, 3, 128, 128)
    noise = torch.randn_like(picture)
    little, much = ((picture + share * noise).clamp(0, 1).requires_grad_() for share in (0.02, 0.2))
    assert distance(picture, picture).tolist() == [0.0, 0.0]
    near, far = distance(picture, little), distance(picture, much)
    assert (near > 0).all() and (far > 4 * near).all()
    far.sum().backward()
    assert much.grad is not None and much.grad.abs().max() > 0
    assert all(weight.grad is None for weight in distance.parameters())


def test_maps_are_those_of_the_trunk() -> None:
    distance = open_features(SHIPPED)
    sides = [tuple(each.shape[2:]) for each in distance.features(torch.rand(1, 3, 128, 192))]
    assert sides == [(16, 24), (8, 12), (4, 6)]


def test_what_is_no_detector_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        open_features(tmp_path)
    net = OnnxNet(SHIPPED / "model.onnx")
    with pytest.raises(ConfigError, match="no convolution with maps of 1/3"):
        net.feature_maps([3])

"""Distance between two pictures as a detector sees them: a training loss of the base layer and of post-filters.

The detector is a YOLOX ONNX export or the folder of any detector whose graph can be run in torch, so that gradients
pass through it; its own weights stand still. Feature losses of this kind are how codecs for machines are tuned to a
task (Choi and Bajić, arXiv 2107.08373).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
import torch.nn.functional as F
from google.protobuf.message import DecodeError
from onnx.utils import extract_model
from onnx2torch import convert
from onnx2torch.node_converters.resize import OnnxResize
from torch import Tensor, nn

from secondlook.cloud.workers.detectors import load_detector
from secondlook.shared.detectors import OnnxDetector
from secondlook.shared.errors import DetectorError
from secondlook.shared.models import find_model
from secondlook.training.detector.onnx_net import OnnxNet
from secondlook.training.detector.teacher import TAPS

AFTER_FOCUS = "input"  # what the export calls the image once its 2x2 pixels lie side by side as channels
LAYERS = ("s8", "s16", "p8", "p16", "p32")
STRIDE = 32


class Doubled(nn.Module):
    """Twice the size by repetition, all that this network scales by. The converted node would read its factors from
    the device at every call, and wait for it."""

    def forward(self, x: Tensor, *_factors: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="nearest")


def open_features(detector: Path) -> FeatureDistance:
    """The distance as a detector sees it: a model folder, or the YOLOX-nano export.

    Raises DetectorError, ModelNotFound, and ConfigError for a graph that cannot be run here.
    """
    return FeatureDistance(FolderMaps(detector) if detector.is_dir() else YoloxMaps(detector))


class FeatureDistance(nn.Module):
    """Squared error of the feature maps over their variance, mean of the maps: 0 for equal pictures, about 2 for
    unrelated ones."""

    def __init__(self, features: nn.Module) -> None:
        """`features`: RGB float[B,3,H,W] in 0..1, H and W multiples of 32 -> a list of maps."""
        super().__init__()
        self.features = features

    def forward(self, x: Tensor, x_hat: Tensor, side: int | None = None) -> Tensor:
        """Distance float[B]; both pictures are scaled to `side` first, as a detector's letterbox would do."""
        with torch.no_grad():
            wanted = self.maps(x, side)
        return self.between(wanted, self.maps(x_hat, side))

    def maps(self, x: Tensor, side: int | None = None) -> list[Tensor]:
        """What the detector makes of pictures, scaled to `side` first."""
        if side is not None and side != x.shape[2]:
            x = F.interpolate(x, (side, side), mode="bilinear", antialias=True)
        maps: list[Tensor] = self.features(x)
        return maps

    def between(self, wanted: Sequence[Tensor], found: Sequence[Tensor]) -> Tensor:
        """Distance float[B] of the maps of two lots of pictures."""
        total = torch.zeros(wanted[0].shape[0], device=wanted[0].device)
        for a, b in zip(wanted, found, strict=True):
            error = (a - b).square().flatten(1).mean(1)
            total = total + error / a.var()
        return total / len(wanted)


class FolderMaps(nn.Module):
    """Of the last convolutions at 1/8, 1/16 and 1/32 of a detector of `models add`, at any size of picture."""

    STRIDES = (8, 16, 32)

    def __init__(self, folder: Path) -> None:
        super().__init__()
        model = find_model(str(folder), kind="detector")
        detector = load_detector(str(model.path.absolute()), threads=1)
        if not isinstance(detector, OnnxDetector):
            raise DetectorError(f"{folder} is no ONNX detector: its features cannot be had")
        self.net = OnnxNet(model.file("model.onnx")).requires_grad_(False)
        self._maps = self.net.feature_maps(self.STRIDES)
        self._intake, self._channels_last = detector.layout.intake, detector.channels_last
        mean, deviation = (
            torch.tensor(each).view(-1, 1, 1) for each in (self._intake.mean, self._intake.deviation)
        )
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("deviation", deviation, persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        ordered = x.flip(1) if self._intake.bgr else x
        scaled = (255 * ordered - self.mean) / self.deviation
        return self.net.values(scaled.permute(0, 2, 3, 1) if self._channels_last else scaled, self._maps)


class YoloxMaps(nn.Module):
    """Five maps of a YOLOX-nano export, at 1/8 to 1/32."""

    def __init__(self, path: Path) -> None:
        """`path`: the YOLOX-nano export. Raises DetectorError if it is another file."""
        super().__init__()
        if not path.is_file():
            raise DetectorError(f"no detector at {path}")
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / "features.onnx"
            try:
                outputs = [TAPS[name] for name in LAYERS]
                extract_model(str(path), str(part), [AFTER_FOCUS], outputs, check_model=False)
            except (ValueError, DecodeError, onnx.checker.ValidationError) as error:
                raise DetectorError(f"{path} is not the YOLOX-nano export expected: {error}") from error
            self.net = convert(str(part)).eval().requires_grad_(False)
        for name, module in self.net.named_children():
            if isinstance(module, OnnxResize):
                setattr(self.net, name, Doubled())

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps at 1/8 to 1/32 of RGB float[B,3,H,W] in 0..1, H and W multiples of 32."""
        bgr = x.flip(1) * 255
        corners = [bgr[:, :, top::2, left::2] for left in (0, 1) for top in (0, 1)]
        maps: list[Tensor] = self.net(torch.cat(corners, 1))
        return maps

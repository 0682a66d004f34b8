"""Distance between two pictures as a detector sees them: a training loss of the base layer and of post-filters.

The detector is a YOLOX ONNX export, run in torch so that gradients pass through it; its own weights stand still.
Feature losses of this kind are how codecs for machines are tuned to a task (Choi and Bajić, arXiv 2107.08373).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import torch
import torch.nn.functional as F
from google.protobuf.message import DecodeError
from onnx.utils import extract_model
from onnx2torch import convert
from onnx2torch.node_converters.resize import OnnxResize
from torch import Tensor, nn

from secondlook.shared.errors import DetectorError
from secondlook.training.detector.teacher import TAPS

AFTER_FOCUS = "input"  # what the export calls the image once its 2x2 pixels lie side by side as channels
LAYERS = ("s8", "s16", "p8", "p16", "p32")
STRIDE = 32


class Doubled(nn.Module):
    """Twice the size by repetition, all that this network scales by. The converted node would read its factors from
    the device at every call, and wait for it."""

    def forward(self, x: Tensor, *_factors: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="nearest")


class FeatureDistance(nn.Module):
    """Squared error of the feature maps over their variance, mean of the maps: 0 for equal pictures, about 2 for
    unrelated ones."""

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

    def features(self, x: Tensor) -> list[Tensor]:
        """Maps at 1/8 to 1/32 of RGB float[B,3,H,W] in 0..1, H and W multiples of 32."""
        bgr = x.flip(1) * 255
        corners = [bgr[:, :, top::2, left::2] for left in (0, 1) for top in (0, 1)]
        maps: list[Tensor] = self.net(torch.cat(corners, 1))
        return maps

    def forward(self, x: Tensor, x_hat: Tensor, side: int | None = None) -> Tensor:
        """Distance float[B]; both pictures are scaled to `side` first, as a detector's letterbox would do."""
        if side is not None and side != x.shape[2]:
            x, x_hat = (F.interpolate(v, (side, side), mode="bilinear", antialias=True) for v in (x, x_hat))
        with torch.no_grad():
            wanted = self.features(x)
        total = torch.zeros(x.shape[0], device=x.device)
        for a, b in zip(wanted, self.features(x_hat), strict=True):
            error = (a - b).square().flatten(1).mean(1)
            total = total + error / a.var()
        return total / len(wanted)

"""Export a trained post-filter: ONNX of dynamic size, weights, manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from secondlook.shared.models import describe_files, model_hash
from secondlook.training.onnx_files import export_onnx
from secondlook.training.postfilter.model import PostFilter
from secondlook.training.postfilter.quick import QuickFilter

SIZE = {1: "height", 2: "width"}
USUAL_QUALITY = 40.0  # of the example that a graph is traced with


class Served(nn.Module):
    """decoded uint8[1,H,W,3], and qualities float[1] for a filter that is told -> refined uint8[1,H,W,3]."""

    def __init__(self, net: PostFilter | QuickFilter) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor, quality: Tensor | None = None) -> Tensor:
        refined = self.net(image.permute(0, 3, 1, 2).float() / 255, quality)
        return torch.round(refined.clamp(0, 1) * 255).permute(0, 2, 3, 1).to(torch.uint8)


def export_postfilter(net: PostFilter | QuickFilter, folder: Path, facts: dict[str, Any]) -> None:
    """Write `folder`. `facts` goes into the manifest (licence, training, figures)."""
    folder.mkdir(parents=True, exist_ok=True)
    net = net.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    save_file({k: v.half().contiguous() for k, v in net.state_dict().items()}, folder / "weights.safetensors")
    image, quality = torch.zeros(1, 16, 24, 3, dtype=torch.uint8), torch.tensor([USUAL_QUALITY])
    is_told = isinstance(net, QuickFilter)
    export_onnx(
        Served(net.plain() if isinstance(net, QuickFilter) else net),
        [image, quality] if is_told else [image],
        folder / "filter.onnx",
        inputs=["image", "quality"] if is_told else ["image"],
        outputs=["refined"],
        dynamic={"image": SIZE, "refined": SIZE},
    )
    write_manifest(folder, kind="postfilter", radius=net.radius, multiple=net.unshuffle, facts=facts)


def write_manifest(folder: Path, *, kind: str, radius: int, multiple: int, facts: dict[str, Any]) -> None:
    """Of a folder that holds `filter.onnx` and `weights.safetensors`. `facts`: licence, training, figures."""
    files = describe_files(folder, ["filter.onnx"])
    manifest = {
        "name": folder.name,
        "kind": kind,
        "format": 1,
        "files": files,
        "model_hash": model_hash(files).hex(),
        "radius": radius,
        "multiple": multiple,
        "weights": describe_files(folder, ["weights.safetensors"]),
        **facts,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")

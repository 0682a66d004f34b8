"""Export the machine's filter: ONNX of dynamic size, weights, manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from secondlook.training.machinefilter.model import MachineFilter
from secondlook.training.onnx_files import export_onnx
from secondlook.training.postfilter.export import SIZE, write_manifest


class Served(nn.Module):
    """Decoded frame and background, uint8[1,H,W,3] each -> filtered frame uint8[1,H,W,3]."""

    def __init__(self, net: MachineFilter) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor, background: Tensor) -> Tensor:
        filtered = self.net(*(each.permute(0, 3, 1, 2).float() / 255 for each in (image, background)))
        return torch.round(filtered.clamp(0, 1) * 255).permute(0, 2, 3, 1).to(torch.uint8)


def export_machine_filter(net: MachineFilter, folder: Path, facts: dict[str, Any]) -> None:
    """Write `folder`. `facts` goes into the manifest (licence, training, figures)."""
    folder.mkdir(parents=True, exist_ok=True)
    net = net.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    save_file({k: v.half().contiguous() for k, v in net.state_dict().items()}, folder / "weights.safetensors")
    picture = torch.zeros(1, 16, 24, 3, dtype=torch.uint8)
    export_onnx(
        Served(net),
        [picture, picture.clone()],
        folder / "filter.onnx",
        inputs=["image", "background"],
        outputs=["filtered"],
        dynamic={"image": SIZE, "background": SIZE, "filtered": SIZE},
    )
    write_manifest(folder, kind="machine-filter", radius=net.radius, multiple=net.unshuffle, facts=facts)

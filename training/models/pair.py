"""Both layers of a paper-family folder in torch, called as the torch model of `lite` is: what post-filters train on."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secondlook.shared.models import ModelFolder, find_model
from secondlook.training.lite.export import load_lite
from secondlook.training.models.config import SIDE_STEP
from secondlook.training.models.folder import FAMILY, read_coder, read_facts
from secondlook.training.models.tcm import AdditionalModel


class PaperPair(nn.Module):
    """The machine model and all additional models of a folder. For float[B,3,H,W] in 0..1 of any size."""

    def __init__(self, folder: ModelFolder) -> None:
        """Raises ModelCorrupt."""
        super().__init__()
        self.facts = read_facts(folder)
        cpu = torch.device("cpu")
        self.machine = read_coder(folder, self.facts, None, cpu).model
        self.additional = nn.ModuleList(
            read_coder(folder, self.facts, point, cpu).model for point in self.facts.points
        )

    def forward(self, x: Tensor, base_quality: Tensor, quality: Tensor) -> dict[str, Tensor]:
        """`base`, and `enhanced` by the additional model whose quality is nearest, picture by picture."""
        height, width = x.shape[2:]
        wide = F.pad(x, (0, -width % SIDE_STEP, 0, -height % SIDE_STEP), mode="replicate")
        base = self.machine(wide)
        chosen = torch.tensor([self.facts.points.index(self.facts.nearest(int(q))) for q in quality])
        enhanced = torch.empty_like(wide)
        for i, model in enumerate(self.additional):
            of_it = chosen == i
            if of_it.any():
                assert isinstance(model, AdditionalModel)
                enhanced[of_it] = model(wide[of_it], base.latents[of_it]).picture
        return {"base": base.picture[..., :height, :width], "enhanced": enhanced[..., :height, :width]}


def load_torch_codec(model: str | Path) -> nn.Module:
    """The torch model of a codec, by name or folder, called with (pictures, base qualities, qualities).

    Raises ModelNotFound or ModelCorrupt.
    """
    found = find_model(model, kind="codec")
    return PaperPair(found).eval() if found.manifest.get("family") == FAMILY else load_lite(found.path).eval()

"""Mixed precision on a CPU, where the CPU has it."""

from __future__ import annotations

import torch


def half_precision() -> torch.autocast:
    """A context, or decorator, that runs matrix products in bfloat16 on CPUs with instructions for it.

    Without them (AVX2 only) PyTorch falls back to code that takes ten times as long as float32; there it does nothing.
    """
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.ops.mkldnn._is_mkldnn_bf16_supported())

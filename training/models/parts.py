"""What we take from CompressAI, imported in one place: its import warns about its own use of torch."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    from compressai.entropy_models import EntropyBottleneck, GaussianConditional
    from compressai.layers import (
        AttentionBlock,
        ResidualBlock,
        ResidualBlockUpsample,
        ResidualBlockWithStride,
        conv1x1,
        conv3x3,
        subpel_conv3x3,
    )
    from compressai.models.base import CompressionModel, get_scale_table
    from compressai.ops import quantize_ste

__all__ = [
    "AttentionBlock",
    "CompressionModel",
    "EntropyBottleneck",
    "GaussianConditional",
    "ResidualBlock",
    "ResidualBlockUpsample",
    "ResidualBlockWithStride",
    "conv1x1",
    "conv3x3",
    "get_scale_table",
    "quantize_ste",
    "subpel_conv3x3",
]

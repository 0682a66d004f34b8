"""What we take from CompressAI, imported in one place: its import warns about its own use of torch."""

from __future__ import annotations

import warnings

from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    from compressai.entropy_models import EntropyBottleneck as _EntropyBottleneck
    from compressai.entropy_models import GaussianConditional
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


class EntropyBottleneck(_EntropyBottleneck):  # type: ignore[misc]
    """CompressAI's, with a forward pass that a CUDA graph can hold: it moves nothing from the host to the device."""

    def forward(self, x: Tensor, training: bool | None = None) -> tuple[Tensor, Tensor]:
        """Hyper-latents float[B,C,...], with noise in training and rounded if not, and their likelihoods."""
        mode = "noise" if (self.training if training is None else training) else "dequantize"
        channels_first = x.transpose(0, 1)
        values = self.quantize(channels_first.flatten(1)[:, None], mode, self._get_medians())
        likelihoods = self.likelihood_lower_bound(self._likelihood(values)[0])
        outputs, likelihoods = (
            part.reshape(channels_first.shape).transpose(0, 1).contiguous() for part in (values, likelihoods)
        )
        return outputs, likelihoods

"""Blocks of LIC-TCM (Liu et al., CVPR 2023, arXiv 2303.14978), under the names of the published state dicts.

Tensors are float[B,C,H,W] outside and float[B,H,W,C] inside the Swin branch. H and W are multiples of the window.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secondlook.training.models.parts import AttentionBlock, ResidualBlock, conv1x1


def relative_positions(window: int) -> Tensor:
    """For every pair of positions of a window, row and column of the table of biases: int64[2,P,P], P = window²."""
    side = torch.arange(window)
    at = torch.stack(torch.meshgrid(side, side, indexing="ij")).flatten(1)
    return at[:, :, None] - at[:, None, :] + window - 1


def torn_apart(window: int) -> Tensor:
    """Which pairs of a shifted window were no neighbours before the shift: bool[4,P,P].

    One mask for each place of a window: inside, last column, last row, the corner of both.
    """
    late = torch.arange(window) >= window - window // 2
    rows, columns = (plane.flatten() for plane in torch.meshgrid(late, late, indexing="ij"))
    by_row, by_column = rows[:, None] != rows[None, :], columns[:, None] != columns[None, :]
    return torch.stack([torch.zeros_like(by_row), by_column, by_row, by_row | by_column])


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows, with a bias for each relative position (Swin Transformer).

    When `shifted`, windows lie half a window further, round the borders; positions that only meet that way
    do not see each other.
    """

    positions: Tensor
    apart: Tensor

    def __init__(self, channels: int, head: int, window: int, *, shifted: bool) -> None:
        super().__init__()
        self.heads, self.window, self.shifted = channels // head, window, shifted
        self.embedding_layer = nn.Linear(channels, 3 * channels)
        self.linear = nn.Linear(channels, channels)
        self.relative_position_params = nn.Parameter(torch.zeros(self.heads, 2 * window - 1, 2 * window - 1))
        nn.init.trunc_normal_(self.relative_position_params, std=0.02)
        self.register_buffer("positions", relative_positions(window), persistent=False)
        self.register_buffer("apart", torn_apart(window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        p, offset = self.window, self.window // 2
        if self.shifted:
            x = torch.roll(x, (-offset, -offset), (1, 2))
        windows = x.view(b, h // p, p, w // p, p, c).transpose(2, 3).reshape(b, h // p, w // p, p * p, c)
        out = self._attend(windows)
        out = out.view(b, h // p, w // p, p, p, c).transpose(2, 3).reshape(b, h, w, c)
        return torch.roll(out, (offset, offset), (1, 2)) if self.shifted else out

    def _attend(self, windows: Tensor) -> Tensor:
        """float[B,rows,columns,P,C] to the same; every place of a window has a mask of its own."""
        bias = self.relative_position_params[:, self.positions[0], self.positions[1]]
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(-3, -2)
            for t in self.embedding_layer(windows).chunk(3, -1)
        )
        if not self.shifted:
            return self.linear(_attention(q, k, v, bias).transpose(-3, -2).flatten(-2))
        parts = [
            [
                _attention(
                    *(t[:, rows, columns] for t in (q, k, v)),
                    bias.masked_fill(self.apart[2 * last_row + last_column], float("-inf")),
                )
                for last_column, columns in enumerate((slice(None, -1), slice(-1, None)))
            ]
            for last_row, rows in enumerate((slice(None, -1), slice(-1, None)))
        ]
        out = torch.cat([torch.cat(row, 2) for row in parts], 1)
        return self.linear(out.transpose(-3, -2).flatten(-2))


def _attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """float[B,rows,columns,heads,P,d] each; `bias` float[heads,P,P] is added to the scores of all windows alike."""
    if q.numel() == 0:
        return q
    out = F.scaled_dot_product_attention(
        *(t.flatten(0, 2) for t in (q, k, v)), attn_mask=bias[None].to(q.dtype)
    )
    return out.view_as(q)


class TransformerBlock(nn.Module):
    """Pre-norm attention and multi-layer perceptron, each with a residual path. float[B,H,W,C]."""

    def __init__(self, channels: int, head: int, window: int, *, shifted: bool) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(channels)
        self.msa = WindowAttention(channels, head, window, shifted=shifted)
        self.ln2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.msa(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class ParallelBlock(nn.Module):
    """The TCM block: half of the channels through a residual block, half through a Swin block, then both mixed."""

    def __init__(self, width: int, head: int, window: int, *, shifted: bool) -> None:
        super().__init__()
        self.trans_block = TransformerBlock(width, head, window, shifted=shifted)
        self.conv1_1 = conv1x1(2 * width, 2 * width)
        self.conv1_2 = conv1x1(2 * width, 2 * width)
        self.conv_block = ResidualBlock(width, width)

    def forward(self, x: Tensor) -> Tensor:
        local, distant = self.conv1_1(x).chunk(2, 1)
        local = self.conv_block(local) + local
        distant = self.trans_block(distant.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + self.conv1_2(torch.cat([local, distant], 1))


class SwinPair(nn.Module):
    """A block with windows in place and one with shifted windows. float[B,C,H,W]."""

    def __init__(self, channels: int, head: int, window: int) -> None:
        super().__init__()
        self.block_1 = TransformerBlock(channels, head, window, shifted=False)
        self.block_2 = TransformerBlock(channels, head, window, shifted=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.block_1(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class SwAtten(AttentionBlock):
    """SWAtten: CompressAI's attention block whose mask comes from Swin blocks, between two 1x1 convolutions."""

    def __init__(self, channels: int, inner: int, head: int, window: int) -> None:
        super().__init__(inner)
        self.non_local_block = SwinPair(inner, head, window)
        self.in_conv = conv1x1(channels, inner)
        self.out_conv = conv1x1(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_conv(x)
        gate = torch.sigmoid(self.conv_b(self.non_local_block(x)))
        return self.out_conv(x + self.conv_a(x) * gate)

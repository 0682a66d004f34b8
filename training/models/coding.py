"""From latents to payloads and back, for one layer of the paper family.

The probability tables are integers made once, when a model folder is written. Which table codes a latent follows
from a scale that a float network gives, so both ends must compute alike: the same weights on the same kind of
hardware and software. Where they do not, the symbol CRC of the layer fails and nothing is shown.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from secondlook.shared.entropy import MAX_SYMBOL, EntropyTables, SymbolDecoder, SymbolEncoder
from secondlook.shared.errors import ModelCorrupt
from secondlook.training.models.config import HYPER_STEP, LATENT_STEP
from secondlook.training.models.parts import EntropyBottleneck, GaussianConditional, get_scale_table
from secondlook.training.models.tcm import Tcm

I16 = npt.NDArray[np.int16]
Tables = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Symbols:
    """Decoded symbols of a layer: int16[C,h,w] each."""

    hyper: I16
    latents: I16

    def crc(self) -> int:
        """CRC-32 as the container carries it."""
        return zlib.crc32(
            self.latents.astype("<i2").tobytes(), zlib.crc32(self.hyper.astype("<i2").tobytes())
        )


def gaussian_tables() -> Tables:
    """Frequencies of CompressAI's 64 zero-mean Gaussians, and their scales in ascending order."""
    model = GaussianConditional(None)
    scales = get_scale_table()
    model.update_scale_table(scales)
    frequencies, reach = _rows(model)
    return {"scales": scales.numpy(), "gaussian": frequencies, "gaussian_reach": reach}


def hyper_tables(bottleneck: EntropyBottleneck) -> Tables:
    """Frequencies of the hyper-latents of one trained layer, a row per channel."""
    tabled = copy.deepcopy(bottleneck)
    tabled.update(force=True)
    frequencies, reach = _rows(tabled)
    return {"hyper": frequencies, "hyper_reach": reach}


def _rows(model: EntropyBottleneck | GaussianConditional) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Rows for `EntropyTables` from CompressAI's cumulative ones: symbols -reach..reach, then the escape.

    CompressAI's span from `offset` on and need not be symmetric; what they lack gets the least frequency.
    """
    cumulative, lengths, low = (
        t.cpu().numpy() for t in (model.quantized_cdf, model.cdf_length, -model.offset)
    )
    reach = np.maximum(low, lengths - 3 - low).astype(np.int32)
    frequencies = np.zeros((len(reach), 2 * int(reach.max()) + 2), np.uint16)
    for row, steps, length, before, r in zip(
        frequencies, np.diff(cumulative), lengths, low, reach, strict=True
    ):
        row[: 2 * r + 1] = 1
        row[r - before : r - before + length - 2] = steps[: length - 2]
        row[2 * r + 1] = steps[length - 2]
    return frequencies, reach


class LayerCoder:
    """A layer's model with its tables. One object serves one thread at a time."""

    def __init__(self, model: Tcm, tables: Mapping[str, npt.NDArray[Any]]) -> None:
        """`tables`: those of `gaussian_tables` and of this layer's `hyper_tables`. Raises ModelCorrupt."""
        try:
            parts = [tables[name].astype(np.int32) for name in ("hyper", "gaussian")]
            reach = [tables[f"{name}_reach"] for name in ("hyper", "gaussian")]
            scales = torch.from_numpy(tables["scales"])
        except KeyError as error:
            raise ModelCorrupt(f"the entropy tables lack {error}") from error
        if len(parts[0]) != model.config.hyper or len(parts[1]) != len(scales):
            raise ModelCorrupt("the entropy tables are of another size than the model")
        self.model = model
        self._hyper, self._gaussian = (
            EntropyTables(rows, r, 0) for rows, r in zip(parts, reach, strict=True)
        )
        # The nearest scale by ratio; CompressAI takes the next larger one, which costs rate where scales are small.
        self._bounds = torch.sqrt(scales[:-1] * scales[1:]).to(model.medians().device)

    def encode(self, y: Tensor) -> tuple[bytes, Symbols, Tensor]:
        """Payload, symbols and quantised latents of latents float[1,C,h,w]."""
        encoder, model = SymbolEncoder(), self.model
        medians = model.medians()
        z = _symbols(model.h_a(y) - medians)
        encoder.put(_numbers(z).ravel(), self._hyper_indexes(z.shape[2:]), self._hyper)
        slices, coded = y.chunk(model.config.slices, 1), []

        def quantise(i: int, mean: Tensor, scale: Tensor) -> Tensor:
            symbols = _symbols(slices[i] - mean)
            coded.append(_numbers(symbols))
            encoder.put(coded[-1].ravel(), self._indexes(scale), self._gaussian)
            return symbols + mean

        y_hat = model.decode_slices(z + medians, quantise)
        return encoder.payload(), Symbols(_numbers(z), np.concatenate(coded)), y_hat

    def decode(self, payload: bytes, height: int, width: int) -> tuple[Symbols, Tensor]:
        """Symbols and quantised latents float[1,C,H/16,W/16] of a padded picture's size.

        Raises TruncatedBitstream or MalformedBitstream.
        """
        decoder, model = SymbolDecoder(payload), self.model
        medians = model.medians()
        grid = (height // HYPER_STEP, width // HYPER_STEP)
        decoder.expect(self._hyper_indexes((1, 1)), grid[0] * grid[1], self._hyper)
        hyper = decoder.take(self._hyper_indexes(grid), self._hyper).reshape(model.config.hyper, *grid)
        z = _floats(hyper, medians)
        shape = (model.config.slice_width, height // LATENT_STEP, width // LATENT_STEP)
        coded = []

        def quantise(i: int, mean: Tensor, scale: Tensor) -> Tensor:
            coded.append(decoder.take(self._indexes(scale), self._gaussian).reshape(shape))
            return _floats(coded[-1], mean) + mean

        y_hat = model.decode_slices(z + medians, quantise)
        decoder.finish()
        return Symbols(hyper, np.concatenate(coded)), y_hat

    def _hyper_indexes(self, grid: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        return np.repeat(np.arange(self.model.config.hyper, dtype=np.uint8), grid[0] * grid[1])

    def _indexes(self, scale: Tensor) -> npt.NDArray[np.uint8]:
        index = torch.bucketize(scale.contiguous(), self._bounds)
        return index.to(torch.uint8).cpu().numpy().ravel()


def _symbols(residual: Tensor) -> Tensor:
    """Whole numbers float[1,C,h,w] that fit a symbol."""
    return torch.round(residual).clamp(-MAX_SYMBOL, MAX_SYMBOL)


def _numbers(symbols: Tensor) -> I16:
    return symbols[0].to(torch.int16).cpu().numpy()


def _floats(symbols: I16, like: Tensor) -> Tensor:
    return torch.from_numpy(symbols).to(like)[None]

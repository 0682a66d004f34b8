"""The `paper` codec at run time: what edge, worker and refiner load by the entry point `secondlook.codecs`.

It codes key frames only, in float32, on an NVIDIA GPU where torch sees one, else on the CPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from secondlook.shared.bitstream import Bitstream, Codec, Layer, check_frame, parse
from secondlook.shared.device import gpu_of
from secondlook.shared.errors import (
    ConfigError,
    DeviceUnavailable,
    LayerMismatch,
    MalformedBitstream,
    ModelNotFound,
    SymbolMismatch,
    TruncatedBitstream,
    UnsupportedBitstream,
)
from secondlook.shared.layers import Encoded, Key, Layers
from secondlook.shared.models import ModelFolder
from secondlook.training.models.coding import LayerCoder, Symbols
from secondlook.training.models.config import SIDE_STEP
from secondlook.training.models.folder import Point, read_coder, read_facts

U8Image = npt.NDArray[np.uint8]

MAX_PAPER_PIXELS = 1 << 23  # a UHD frame; the published sizes then want about 20 GB
DRIFT = "; the paper family decodes only with the hardware and software it was encoded with"


class PaperCodec:
    """Implements `shared.layers.LayeredCodec`. One object serves one thread at a time.

    Raises on decoding only subclasses of BitstreamError, and ModelNotFound for another model's bitstream.
    """

    def __init__(self, folder: ModelFolder, *, threads: int = 0, device: str | None = None) -> None:
        """Read the sizes; weights are loaded on first use. `threads`: 0 leaves torch's own choice.

        Raises ModelCorrupt.
        """
        self.name = folder.name
        self.model_hash = folder.model_hash
        self.facts = read_facts(folder)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._folder = folder
        self._coders: dict[int | None, LayerCoder] = {}
        if threads:
            torch.set_num_threads(threads)

    def encode(
        self,
        image: U8Image,
        *,
        base_quality: int,
        quality: int,
        sequence: int = 0,
        key: Key | None = None,
        change_levels: float | None = None,
    ) -> Encoded:
        """Encode a frame, always as a key.

        `image`: uint8[H,W,3] RGB, from 1x1 to 2^23 pixels. The enhancement is coded with the model whose quality is
        nearest; there is one machine model, whatever `base_quality` asks for. Raises ConfigError on arguments
        out of range.
        """
        check_frame(image, base_quality, quality)
        height, width = image.shape[:2]
        if height * width > MAX_PAPER_PIXELS:
            raise ConfigError(f"a frame of {width}x{height} is too large for the paper family")
        point = self.facts.nearest(quality)
        with exact():
            x = to_tensor(padded(image), self.device)
            base, _ = self._encode_layer(None, x, (width, height))
            enhancement, _ = self._encode_layer(point, x, (width, height), base)
        return Encoded(Layers(base.to_bytes(), enhancement.to_bytes()), None, 1.0)

    def decode_base(self, base: bytes, *, key: bytes | None = None) -> U8Image:
        """Decode a base layer to uint8[H,W,3]."""
        with exact():
            bitstream, latents = self._decode_base(base)
            return _picture(self._coder(None).model.g_s(latents), bitstream)

    def decode_enhanced(self, base: bytes, enhancement: bytes, *, key: Layers | None = None) -> U8Image:
        """Decode both layers to uint8[H,W,3]."""
        with exact():
            lower, base_latents = self._decode_base(base)
            upper = self._parse(enhancement, Layer.ENHANCEMENT)
            same = (upper.width, upper.height, upper.base_quality, upper.base_symbol_crc)
            if same != (lower.width, lower.height, lower.quality, lower.symbol_crc):
                raise LayerMismatch("this enhancement belongs to another base layer")
            point = self.facts.nearest(upper.quality)
            if point.quality != upper.quality:
                raise MalformedBitstream(
                    f"model {self.name} has no additional model of quality {upper.quality}"
                )
            additional = self._decode_layer(point, upper)
            model = self._coder(point).model
            return _picture(model.g_s(model.fuse(base_latents, additional)), upper)

    def _encode_layer(
        self, point: Point | None, x: Tensor, size: tuple[int, int], base: Bitstream | None = None
    ) -> tuple[Bitstream, Tensor]:
        coder = self._coder(point)
        payload, symbols, latents = coder.encode(coder.model.g_a(x))
        crc = symbols.crc()
        quality = self.facts.base_quality if point is None else point.quality
        layer = Layer.BASE if base is None else Layer.ENHANCEMENT
        base_quality, base_crc = (quality, crc) if base is None else (base.quality, base.symbol_crc)
        bitstream = Bitstream(
            Codec.PAPER, self.model_hash, layer, quality, base_quality, *size, None, 0, crc, base_crc, payload
        )
        return bitstream, latents

    def _decode_base(self, data: bytes) -> tuple[Bitstream, Tensor]:
        bitstream = self._parse(data, Layer.BASE)
        if bitstream.quality != self.facts.base_quality:
            raise MalformedBitstream(f"model {self.name} has no machine model of quality {bitstream.quality}")
        return bitstream, self._decode_layer(None, bitstream)

    def _decode_layer(self, point: Point | None, bitstream: Bitstream) -> Tensor:
        height, width = (-(-side // SIDE_STEP) * SIDE_STEP for side in (bitstream.height, bitstream.width))
        try:
            symbols, latents = self._coder(point).decode(bitstream.payload, height, width)
        except (TruncatedBitstream, MalformedBitstream) as error:
            # A scale that drifted picks other tables, and the range coder may then find no symbol, or too few.
            raise type(error)(f"{error}{DRIFT}") from error
        _check_crc(symbols, bitstream)
        return latents

    def _parse(self, data: bytes, layer: Layer) -> Bitstream:
        bitstream = parse(data)
        if bitstream.codec is not Codec.PAPER:
            raise UnsupportedBitstream(
                f"codec family {bitstream.codec.name.lower()} is not that of {self.name}"
            )
        if bitstream.layer is not layer:
            raise LayerMismatch(
                f"expected the {layer.name.lower()} layer, got the {bitstream.layer.name.lower()}"
            )
        if bitstream.model_hash != self.model_hash:
            raise ModelNotFound(
                f"this layer was coded with model {bitstream.model_hash.hex()}, not with {self.name}"
            )
        if bitstream.reference is not None:
            raise MalformedBitstream("the paper family has no deltas")
        if bitstream.width * bitstream.height > MAX_PAPER_PIXELS:
            raise MalformedBitstream(
                f"{bitstream.width}x{bitstream.height} is too large for the paper family"
            )
        return bitstream

    def _coder(self, point: Point | None) -> LayerCoder:
        """A layer's model, loaded on first use: a worker never needs the additional models."""
        name = None if point is None else point.quality
        if name not in self._coders:
            self._coders[name] = read_coder(self._folder, self.facts, point, self.device)
        return self._coders[name]


def padded(image: U8Image) -> U8Image:
    """`image` with its last row and column repeated until both sides are multiples of 128."""
    height, width = image.shape[:2]
    out = cv2.copyMakeBorder(image, 0, -height % SIDE_STEP, 0, -width % SIDE_STEP, cv2.BORDER_REPLICATE)
    return out.astype(np.uint8, copy=False)


def to_tensor(image: U8Image, device: torch.device) -> Tensor:
    """uint8[H,W,3] -> float[1,3,H,W] in 0..1."""
    return torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float() / 255


def load(folder: ModelFolder, *, threads: int = 0, device: str = "auto") -> PaperCodec:
    """The plug-in behind `shared.codec.load_codec` for model folders of the family `paper`.

    `device` as `shared.device` names it. Raises DeviceUnavailable for a GPU that torch does not see.
    """
    gpu = gpu_of(device)
    if device == "auto":
        return PaperCodec(folder, threads=threads)
    if gpu is not None and gpu >= torch.cuda.device_count():
        raise DeviceUnavailable(f"device {device}: torch sees {torch.cuda.device_count()} GPUs")
    return PaperCodec(folder, threads=threads, device="cpu" if gpu is None else f"cuda:{gpu}")


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """No gradients, and kernels that give the same numbers for the same input: float32, no search for the fastest."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with (
            torch.inference_mode(),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
        ):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _check_crc(symbols: Symbols, bitstream: Bitstream) -> None:
    if symbols.crc() != bitstream.symbol_crc:
        layer = "base" if bitstream.layer is Layer.BASE else "enhancement"
        raise SymbolMismatch(f"{layer} layer: decoded symbols fail their checksum{DRIFT}")


def _picture(picture: Tensor, bitstream: Bitstream) -> U8Image:
    cropped = picture[0, :, : bitstream.height, : bitstream.width]
    return torch.round(cropped.clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()

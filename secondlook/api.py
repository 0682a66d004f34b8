"""The public functions: pictures into layers and back, refinement, detection. `docs/library.md` shows them at work.

Pictures are uint8[H,W,3] RGB, or what PIL opens; what comes back is always an array. Models are opened once for each
set of arguments and kept; a codec serves one thread at a time, so calls of several threads wait for each other.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from secondlook.shared.bitstream import MAX_QUALITY, Bitstream, parse
from secondlook.shared.codec import LiteCodec, model_of
from secondlook.shared.codec import load_codec as open_codec
from secondlook.shared.errors import ConfigError
from secondlook.shared.layers import Layers
from secondlook.shared.quality import PRESETS

if TYPE_CHECKING:
    import PIL.Image

    from secondlook.shared.detection import Detection
    from secondlook.shared.layers import LayeredCodec

U8Image: TypeAlias = npt.NDArray[np.uint8]
Picture: TypeAlias = "U8Image | PIL.Image.Image"
Quality: TypeAlias = "int | str"

_LOCK = threading.RLock()


@dataclass(frozen=True)
class Rate:
    """Bits per pixel of each layer, headers included."""

    base: float
    enhancement: float

    @property
    def total(self) -> float:
        return self.base + self.enhancement


@dataclass(frozen=True)
class Latents:
    """What a layer holds once its payload is decoded: `symbols` int16[C,h,w] as coded, `latents` float32[C,h,w]
    dequantised, both on a grid of one position per 16x16 pixels."""

    symbols: npt.NDArray[np.int16]
    latents: npt.NDArray[np.float32]


@lru_cache(maxsize=8)
def load_codec(model: str | Path = "lite", *, device: str = "cpu", threads: int = 0) -> LayeredCodec:
    """A codec by name or folder. `device`: "cpu", "auto", "cuda" or "cuda:N"; `threads`: 0 = one per core.

    Raises ModelNotFound, ModelCorrupt, DeviceUnavailable.
    """
    return open_codec(model, threads=threads, device=device)


def encode(
    picture: Picture,
    *,
    base_quality: Quality = 16,
    quality: Quality = 40,
    model: str | Path | LayeredCodec = "lite",
) -> Layers:
    """Both layers of one picture, as the bytes of .slk files.

    Qualities: 0 (fewest bits) to 63, or "lambda-0.005", "lambda-0.010", "lambda-0.020", "lambda-0.030". Raises
    ConfigError for what is no picture or no quality.
    """
    image = as_image(picture)
    lower, upper = as_quality(base_quality), as_quality(quality)
    with _LOCK:
        return _codec(model).encode(image, base_quality=lower, quality=upper).layers


def encode_batch(pictures: Sequence[Picture], **arguments: Any) -> list[Layers]:
    """Layers of each picture; arguments as for `encode`. Sizes may differ: pictures are coded one by one."""
    return [encode(picture, **arguments) for picture in pictures]


def decode_base(base: bytes | Layers, *, model: str | Path | LayeredCodec | None = None) -> U8Image:
    """What machines see: uint8[H,W,3]. `model`: by default the one whose hash the layer names.

    Raises a subclass of BitstreamError for damaged layers, ModelNotFound where the model is not here.
    """
    data = base.base if isinstance(base, Layers) else as_layer(base)
    with _LOCK:
        return _codec_of(data, model).decode_base(data)


def decode_enhanced(
    base: bytes | Layers, enhancement: bytes | None = None, *, model: str | Path | LayeredCodec | None = None
) -> U8Image:
    """What people see, before refinement: uint8[H,W,3]. Takes the pair that `encode` gave, or both layers.

    Raises a subclass of BitstreamError for damaged layers or those of two frames, ModelNotFound, ConfigError.
    """
    if isinstance(base, Layers):
        layers = base
    elif enhancement is None:
        raise ConfigError("decode_enhanced takes both layers; decode_base is content with one")
    else:
        layers = Layers(as_layer(base), as_layer(enhancement))
    with _LOCK:
        return _codec_of(layers.base, model).decode_enhanced(layers.base, layers.enhancement)


def decode_latents(layers: Layers, *, model: str | Path | None = None) -> dict[str, Latents]:
    """Symbols and latents of a key frame of the family `lite`, by layer: "base" and "enhancement".

    Raises a subclass of BitstreamError, ConfigError for another family.
    """
    with _LOCK:
        codec = _codec_of(layers.base, model)
        if not isinstance(codec, LiteCodec):
            raise ConfigError(f"{codec.name} does not show its latents; lite does")
        decoded = codec.decode_latents(layers)
    return {name: Latents(symbols, latents) for name, (symbols, latents) in decoded.items()}


def bpp(layers: Layers) -> Rate:
    """Bits per pixel of both layers. Raises a subclass of BitstreamError for what is no layer."""
    header = inspect(layers.base)
    pixels = header.width * header.height
    return Rate(8 * len(layers.base) / pixels, 8 * len(layers.enhancement) / pixels)


def inspect(layer: bytes) -> Bitstream:
    """The header of a layer, checked (FORMAT.md). Raises a subclass of BitstreamError."""
    return parse(as_layer(layer))


def refine(picture: Picture, *, model: str | Path = "rrdb-fast", device: str = "cpu") -> U8Image:
    """A decoded picture, cleaned by a post-filter: "rrdb-fast", "rrdb-l1", "rrdb-l2", a folder, or another package's.

    Needs the extra `cloud`. Raises ModelNotFound, ModelCorrupt, DeviceUnavailable.
    """
    image = as_image(picture)
    with _LOCK:
        refined: U8Image = _postfilter(model, device).apply(image)
    return refined


def detect(picture: Picture, *, detector: str = "auto", device: str = "cpu") -> list[Detection]:
    """Objects in a picture, surest first. `detector` as the setting `worker.detector`. Needs the extra `cloud`.

    Raises DetectorError, ModelNotFound, ModelCorrupt, DeviceUnavailable.
    """
    image = as_image(picture)
    with _LOCK:
        found: list[Detection] = _detector(detector, device).detect(image)
    return found


def load_torch_codec(model: str | Path = "lite") -> Any:
    """The torch module of a codec, differentiable, in evaluation mode. Needs the extra `training`.

    Called with pictures float32[N,3,H,W] in 0..1, base qualities and qualities int64[N]; returns {"base", "enhanced"},
    pictures alike. Raises ModelNotFound, ModelCorrupt.
    """
    from secondlook.shared.models import find_model
    from secondlook.training.models.pair import load_torch_codec as load

    return load(find_model(model, kind="codec").path)


def as_image(picture: object) -> U8Image:
    """uint8[H,W,3] of an array or a PIL image. Raises ConfigError for anything else."""
    if hasattr(picture, "convert") and hasattr(picture, "getbands"):  # PIL's, without importing PIL
        picture = np.asarray(picture.convert("RGB"))
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.shape[2:] != (3,):
        raise ConfigError(f"a picture is uint8[H,W,3] RGB or a PIL image, not {_describe(picture)}")
    return np.ascontiguousarray(picture)


def as_quality(quality: object) -> int:
    """0 to 63 of a number or the name of a preset. Raises ConfigError for anything else."""
    if isinstance(quality, str) and quality in PRESETS:
        return PRESETS[quality]
    if (
        isinstance(quality, bool)
        or not isinstance(quality, int | np.integer)
        or not 0 <= quality <= MAX_QUALITY
    ):
        raise ConfigError(
            f"a quality is a whole number, 0 to {MAX_QUALITY}, or one of {', '.join(PRESETS)}, not {quality!r}"
        )
    return int(quality)


def as_layer(layer: object) -> bytes:
    """The bytes of a layer. Raises ConfigError for anything but bytes."""
    if isinstance(layer, bytes | bytearray | memoryview):
        return bytes(layer)
    raise ConfigError(f"a layer is bytes, not {_describe(layer)}")


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    return type(value).__name__


def _codec(model: str | Path | LayeredCodec) -> LayeredCodec:
    return load_codec(model) if isinstance(model, str | Path) else model


def _codec_of(base: bytes, model: str | Path | LayeredCodec | None) -> LayeredCodec:
    return _codec(model_of(parse(base)).path if model is None else model)


@lru_cache(maxsize=4)
def _postfilter(model: str | Path, device: str) -> Any:
    from secondlook.cloud.workers.postfilter import load_postfilter

    return load_postfilter(model, device=device)


@lru_cache(maxsize=4)
def _detector(spec: str, device: str) -> Any:
    from secondlook.cloud.workers.detectors import load_detector

    return load_detector(spec, threads=0, device=device)

"""Whole pictures coded ahead of the steps; post-filters learn from patches of them.

A patch counts by its errors over those of its whole picture, which is what the mean PSNR of pictures rewards. Patches
coded alone, each counted by its own error, taught filters most where pictures are smooth and little is to be gained.

Every second picture is stored as a JPEG before it counts as an original, as what cameras and the web deliver was.
Filters that saw few such pictures gained 0.35 dB on clean ones, 0.21 dB where those had been JPEGs of quality 90, and
nothing at quality 70: what JPEG leaves looks like what the codec leaves, and they removed both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secondlook.shared.bitstream import BLOCK
from secondlook.shared.errors import ConfigError
from secondlook.training.data import U8, fits, read_rgb

QUALITY_RANGE = (18, 58)
QUALITY_SKEW = 0.3  # below 1: more pictures of high quality, where a filter has the most to learn
BASE_QUALITY_RANGE = (2, 30)
USUAL_BASE_QUALITY = 8  # that of every second picture
JPEG_SHARE = 0.5  # of the pictures
JPEG_QUALITY_RANGE = (82, 98)
JPEG_SAMPLINGS = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420)

# A decoded picture float[1,3,H,W] -> what a teacher makes of it.
Teach = Callable[[Tensor], Tensor]
VERSIONS = 3  # of a picture, each of qualities of its own
MOST = 6000  # held in memory: 0.9 MB each with its original, of 448x336 pixels


@dataclass(frozen=True)
class CodedPicture:
    """uint8[H,W,3] RGB each; `error`: mean squared error of `decoded`, of values in 0..1.

    `taught`: what a teacher made of `decoded`; the original where there is no teacher.
    """

    decoded: U8
    original: U8
    taught: U8
    error: float
    quality: int


class Draw(NamedTuple):
    """What one step trains on: three uint8[B,3,side,side]; errors of the whole pictures and their qualities, float[B].

    `thirds`: of a patch's side, at which a detector sees it.
    """

    decoded: Tensor
    original: Tensor
    taught: Tensor
    errors: Tensor
    qualities: Tensor
    thirds: int


@torch.no_grad()
def through_codec(codec: nn.Module, x: Tensor, base_quality: Tensor, quality: Tensor, layer: str) -> Tensor:
    """What is decoded of float[B,3,H,W] from "base" or for "enhanced", rounded to 8 bits."""
    height, width = x.shape[2:]
    wide = F.pad(x, (0, -width % BLOCK, 0, -height % BLOCK), mode="replicate")
    out: Tensor = codec(wide, base_quality, quality)[layer]
    return torch.round(out[..., :height, :width].clamp(0, 1) * 255) / 255


def code_ahead(
    codec: nn.Module,
    paths: Sequence[Path],
    layer: str,
    side: int,
    rng: np.random.Generator,
    device: torch.device,
    *,
    is_over: Callable[[], bool],
    teach: Teach | None = None,
) -> list[CodedPicture]:
    """`VERSIONS` of every image that holds a patch of `side` pixels, in random order, until `is_over`; one at least.

    `teach` refines each as a student shall. Raises ConfigError where no image is large enough.
    """
    coded: list[CodedPicture] = []
    for _ in range(VERSIONS):
        for i in rng.permutation(len(paths)):
            if len(coded) >= MOST or (coded and is_over()):
                return coded
            image = read_rgb(paths[i])
            if fits(image, side):
                image = as_jpeg(image, rng) if rng.random() < JPEG_SHARE else image
                coded.append(code(codec, image, layer, *draw_qualities(rng), device, teach))
        if not coded:
            raise ConfigError(f"none of {len(paths)} images has {side} pixels a side, which a patch takes")
    return coded


def as_jpeg(image: U8, rng: np.random.Generator) -> U8:
    """uint8[H,W,3] RGB, decoded from a JPEG of random quality and chroma sampling."""
    settings = (
        (cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(*JPEG_QUALITY_RANGE))),
        (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, JPEG_SAMPLINGS[int(rng.integers(len(JPEG_SAMPLINGS)))]),
    )
    _, stored = cv2.imencode(".jpg", image[..., ::-1], [number for pair in settings for number in pair])
    return np.ascontiguousarray(cv2.imdecode(stored, cv2.IMREAD_COLOR)[..., ::-1])


def draw_qualities(rng: np.random.Generator) -> tuple[int, int]:
    """(base quality, quality) of a picture."""
    usual = rng.random() < 0.5
    low, high = QUALITY_RANGE
    base = USUAL_BASE_QUALITY if usual else int(rng.integers(*BASE_QUALITY_RANGE))
    return base, int(low + (high - low) * rng.random() ** QUALITY_SKEW)


def code(
    codec: nn.Module,
    image: U8,
    layer: str,
    base_quality: int,
    quality: int,
    device: torch.device,
    teach: Teach | None = None,
) -> CodedPicture:
    """Code uint8[H,W,3] by the torch model of a codec."""
    x = torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float() / 255
    y = through_codec(codec, x, *(torch.tensor([q], device=device) for q in (base_quality, quality)), layer)
    taught = image if teach is None else as_image(teach(y))
    return CodedPicture(as_image(y), image, taught, (y - x).square().mean().item(), quality)


def as_image(x: Tensor) -> U8:
    """float[1,3,H,W] in 0..1 -> uint8[H,W,3]."""
    image = (x[0].permute(1, 2, 0).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return np.ascontiguousarray(image)


def draw(coded: Sequence[CodedPicture], batch: int, side: int, rng: np.random.Generator) -> Draw:
    """Random patches, half of them flipped."""
    patches = np.empty((3, batch, side, side, 3), np.uint8)
    errors, qualities = np.empty(batch, np.float32), np.empty(batch, np.float32)
    for i in range(batch):
        picture = coded[int(rng.integers(len(coded)))]
        top, left = (int(rng.integers(length - side + 1)) for length in picture.original.shape[:2])
        step = -1 if rng.random() < 0.5 else 1
        wholes = (picture.decoded, picture.original, picture.taught)
        for place, whole in zip(patches[:, i], wholes, strict=True):
            place[:] = whole[top : top + side, left : left + side][:, ::step]
        errors[i], qualities[i] = picture.error, picture.quality
    before, original, taught = (torch.from_numpy(each).permute(0, 3, 1, 2) for each in patches)
    # Detectors mostly look at frames scaled down; at times they see every pixel.
    thirds = int(rng.integers(2, 4))
    return Draw(before, original, taught, torch.from_numpy(errors), torch.from_numpy(qualities), thirds)

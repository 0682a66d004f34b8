"""Crops for training from any folder of images, read from disk as they are needed.

Batch number i is the same whenever it is asked for, so a run that was stopped goes on with the batches it would have
seen, and every process of a distributed run draws its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from secondlook.shared.errors import ConfigError
from secondlook.training.data import U8, CropSampler, list_images, read_rgb, usable_images

HELD_OUT = 8  # images of a plain folder that are judged by and not trained on


@dataclass(frozen=True)
class Pictures:
    """Images to train on, and those to judge by."""

    train: list[Path]
    held_out: list[Path]


def find_pictures(data: Path) -> Pictures:
    """`data/train/images` and `data/val` where they exist, else a plain folder, COCO's train2017 say.

    Raises FileNotFoundError without images, ConfigError where none would be left to train on.
    """
    images = data / "train" / "images"
    if images.is_dir():
        return Pictures(usable_images(list_images(images), 1), list_images(data / "val")[:HELD_OUT])
    found = usable_images(list_images(data), 1)
    if len(found) <= HELD_OUT:
        raise ConfigError(f"{data} holds {len(found)} images: more than {HELD_OUT} are needed")
    return Pictures(found[HELD_OUT:], found[:HELD_OUT])


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """Batch i: (crops uint8[n,3,crop,crop], masks uint8[n,1,crop,crop], zeros where there are none)."""

    def __init__(
        self, images: list[Path], masks: list[Path] | None, *, crop: int, batch: int, seed: tuple[int, int]
    ) -> None:
        """`seed`: of the run, and the number of the process."""
        self._images, self._masks = images, masks
        self._crop, self._batch, self._seed = crop, batch, seed

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((*self._seed, i))
        parts = []
        for k in rng.integers(len(self._images), size=self._batch):
            image = _at_least(read_rgb(self._images[k]), self._crop)
            planes = None
            if self._masks is not None:
                mask = cv2.imread(str(self._masks[k]), cv2.IMREAD_GRAYSCALE)
                planes = [_at_least(mask, self._crop)]
            parts.append(CropSampler([image], planes, self._crop, rng).batch(1))
        crops, masks = (
            torch.from_numpy(np.ascontiguousarray(np.concatenate(part))) for part in zip(*parts, strict=True)
        )
        return crops, masks


def _at_least(image: U8, side: int) -> U8:
    """Repeat the last row and column until both sides reach `side`."""
    height, width = image.shape[:2]
    below, right = max(0, side - height), max(0, side - width)
    return cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE) if below or right else image


def stream(batches: Batches, start: int, stop: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches number `start` to `stop`, in order, read ahead by so many processes (0: none)."""
    return iter(DataLoader(batches, batch_size=None, sampler=range(start, stop), num_workers=workers))


def held_out_tensors(pictures: Pictures, side: int) -> list[Tensor]:
    """Middle crops of at most `side`, with sides in steps of 128: float[1,3,H,W] in 0..1."""
    crops = []
    for path in pictures.held_out:
        image = _at_least(read_rgb(path), 128)
        height, width = (min(side, s // 128 * 128) for s in image.shape[:2])
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        crop = image[top : top + height, left : left + width]
        crops.append(torch.from_numpy(crop.transpose(2, 0, 1)[None].astype(np.float32) / 255))
    return crops

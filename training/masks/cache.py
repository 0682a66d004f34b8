"""What a source of masks is, and the folder in which its masks are kept."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from secondlook.shared.files import PUBLIC_FILE, write_atomically
from secondlook.training.data import U8, read_rgb

FORMAT = 1  # raise it when masks of the same source and settings come out differently
REPORT_EVERY = 100


class MaskProvider(ABC):
    """A source of masks. `name` and `settings` say all that a mask depends on besides the image and `evidence`."""

    name: str

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, str | int | float]:
        """Thresholds, sizes, and hashes of weights."""

    def evidence(self, path: Path) -> bytes:
        """What else is known of the image at `path` and shapes its mask: annotations, say."""
        return b""

    @abstractmethod
    def mask(self, path: Path, image: U8) -> U8:
        """uint8[H,W] for RGB uint8[H,W,3] read from `path`: 255 where errors count in full, 0 where they do not."""


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cache_key(provider: MaskProvider, path: Path) -> str:
    """Hex digest of everything the mask of the image at `path` depends on; a renamed image keeps its key."""
    source = json.dumps([FORMAT, provider.name, dict(provider.settings)], sort_keys=True)
    parts = (source.encode(), path.read_bytes(), provider.evidence(path))
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def masks_for(provider: MaskProvider, paths: Sequence[Path], cache: Path) -> list[U8]:
    """Masks uint8[H,W] of the images at `paths`, kept as `cache/PROVIDER/KEY.png`."""
    return [mask for mask, _ in _kept(provider, paths, cache)]


def mask_files(provider: MaskProvider, paths: Sequence[Path], cache: Path) -> list[Path]:
    """The files of those masks, for sets that do not fit into memory."""
    return [file for _, file in _kept(provider, paths, cache)]


def _kept(provider: MaskProvider, paths: Sequence[Path], cache: Path) -> Iterator[tuple[U8, Path]]:
    folder = cache / provider.name
    folder.mkdir(parents=True, exist_ok=True)
    made = 0
    for number, path in enumerate(paths, 1):
        kept = folder / f"{cache_key(provider, path)}.png"
        mask = cv2.imread(str(kept), cv2.IMREAD_GRAYSCALE) if kept.exists() else None
        if mask is None:  # not there, or not readable any more
            mask = provider.mask(path, read_rgb(path))
            write_atomically(kept, cv2.imencode(".png", mask)[1].tobytes(), mode=PUBLIC_FILE)
            made += 1
            if made % REPORT_EVERY == 0:
                print(f"masks ({provider.name}): {number} of {len(paths)}", flush=True)
        yield np.asarray(mask, np.uint8), kept

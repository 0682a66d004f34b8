"""Golden bitstreams of the shipped `lite` model, and what they decode to.

Decoding is what the format promises, so kept streams are decoded: symbols must come out exactly (the CRC inside a
layer, kept here once more), pictures up to float rounding. Encoding them again may give other bytes on another
machine, so that is not compared.

Files a vector: NAME.base.slk, NAME.enhancement.slk, NAME.base.png, NAME.enhanced.png; `vectors.json` lists all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from secondlook.shared.bitstream import VERSION, parse
from secondlook.shared.codec import LiteCodec, load_codec
from secondlook.shared.errors import SecondlookError
from secondlook.shared.layers import Layers
from tests.pictures import U8Image, noise, photo, psnr

FOLDER = Path(__file__).parent
LEAST_PSNR = 50.0


@dataclass(frozen=True)
class Recipe:
    """How a vector is made. `key`: name of the vector it is a delta against."""

    picture: Callable[[], U8Image]
    base_quality: int
    quality: int
    key: str | None = None


def _ramp() -> U8Image:
    """Every level of grey from left to right, tinted from top to bottom."""
    x, y = np.linspace(0, 255, 96), np.linspace(0, 60, 64)
    planes = (x[None] + 0 * y[:, None], x[None] - y[:, None], x[None] + y[:, None])
    return np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8)


def _moved() -> U8Image:
    image = photo(64, 96).copy()
    image[16:40, 30:52] = (230, 40, 60)
    return image


RECIPES = {
    "photo": Recipe(lambda: photo(64, 96), 16, 40),
    "photo-low": Recipe(lambda: photo(64, 96), 0, 0),
    "photo-high": Recipe(lambda: photo(64, 96), 63, 63),
    "photo-delta": Recipe(_moved, 16, 40, key="photo"),
    "photo-still": Recipe(lambda: photo(64, 96), 16, 40, key="photo"),
    "odd": Recipe(lambda: photo(37, 71, seed=3), 8, 32),
    "pixel": Recipe(lambda: photo(1, 1), 20, 30),
    "ramp": Recipe(_ramp, 24, 50),
    "noise": Recipe(lambda: noise(48, 64), 30, 60),
}


def layers_of(name: str, folder: Path = FOLDER) -> Layers:
    """The kept layers of a vector."""
    base, enhancement = ((folder / f"{name}.{part}.slk").read_bytes() for part in ("base", "enhancement"))
    return Layers(base, enhancement)


def decode(codec: LiteCodec, name: str, key_name: str | None, folder: Path = FOLDER) -> dict[str, U8Image]:
    """Pictures of a vector: `base` and `enhanced`."""
    layers = layers_of(name, folder)
    key = layers_of(key_name, folder) if key_name is not None else None
    return {
        "base": codec.decode_base(layers.base, key=key.base if key is not None else None),
        "enhanced": codec.decode_enhanced(layers.base, layers.enhancement, key=key),
    }


def problems(codec: LiteCodec, folder: Path = FOLDER) -> list[str]:
    """A line for whatever is not as it was kept; empty when all is well."""
    listed = read_list(folder)
    if listed["format_version"] != VERSION:
        return [f"the vectors are of format version {listed['format_version']}, the code writes {VERSION}"]
    if listed["model_hash"] != codec.model_hash.hex():
        return [
            f"the vectors were made with model {listed['model_hash']}; {codec.name} is {codec.model_hash.hex()}"
        ]
    if set(listed["vectors"]) != set(RECIPES):
        return ["the vectors listed are not those of tests/vectors"]
    return list(_undecodable(codec, listed["vectors"], folder))


def _undecodable(codec: LiteCodec, vectors: dict[str, dict[str, Any]], folder: Path) -> Iterator[str]:
    for name, kept in vectors.items():
        layers = layers_of(name, folder)
        try:
            for part, data in (("base", layers.base), ("enhancement", layers.enhancement)):
                if describe(data) != kept[part]:
                    yield f"{name}: its {part} layer is not the one that was kept"
            pictures = decode(codec, name, kept["key"], folder)
        except SecondlookError as error:
            yield f"{name}: {type(error).__name__}: {error}"
            continue
        for part, picture in pictures.items():
            yield from _compare(f"{name}.{part}", picture, folder)


def _compare(name: str, picture: U8Image, folder: Path) -> Iterator[str]:
    """A line when `picture` is not the kept one up to float rounding."""
    kept = read_png(folder / f"{name}.png")
    if kept.shape != picture.shape:
        yield f"{name}: {picture.shape[1]}x{picture.shape[0]} pixels, not {kept.shape[1]}x{kept.shape[0]}"
    elif (found := psnr(picture, kept)) < LEAST_PSNR:
        yield f"{name}: {found:.1f} dB from the kept picture, and {LEAST_PSNR} are asked for"


def describe(layer: bytes) -> dict[str, Any]:
    """What the list keeps of one layer."""
    return {
        "bytes": len(layer),
        "sha256": hashlib.sha256(layer).hexdigest(),
        "symbol_crc": f"{parse(layer).symbol_crc:08x}",
    }


def write(folder: Path = FOLDER) -> list[str]:
    """Make all vectors again with the shipped model; return why not, or nothing.

    Refused when kept vectors of this model and format version do not decode: the format has changed then, and
    must take another version number first.
    """
    codec = load_codec(threads=1)
    if (folder / "vectors.json").exists():
        listed = read_list(folder)
        if (listed["format_version"], listed["model_hash"]) == (VERSION, codec.model_hash.hex()):
            lost = list(_undecodable(codec, listed["vectors"], folder))
            if lost:
                return [
                    *lost,
                    "the format has changed: raise secondlook.shared.bitstream.VERSION, then write",
                ]
    for old in folder.glob("*.*.*"):
        old.unlink()
    keys = {}
    vectors = {}
    for number, (name, recipe) in enumerate(RECIPES.items()):
        coded = codec.encode(
            recipe.picture(),
            base_quality=recipe.base_quality,
            quality=recipe.quality,
            sequence=number,
            key=keys[recipe.key] if recipe.key is not None else None,
        )
        keys[name] = coded.key
        parts = {"base": coded.layers.base, "enhancement": coded.layers.enhancement}
        for part, data in parts.items():
            (folder / f"{name}.{part}.slk").write_bytes(data)
        vectors[name] = {"key": recipe.key, **{part: describe(data) for part, data in parts.items()}}
        for part, picture in decode(codec, name, recipe.key, folder).items():
            cv2.imwrite(str(folder / f"{name}.{part}.png"), picture[:, :, ::-1])
    listed = {"format_version": VERSION, "model_hash": codec.model_hash.hex(), "vectors": vectors}
    (folder / "vectors.json").write_text(json.dumps(listed, indent=1) + "\n")
    return []


def read_list(folder: Path = FOLDER) -> dict[str, Any]:
    """`vectors.json`."""
    listed: dict[str, Any] = json.loads((folder / "vectors.json").read_text())
    return listed


def read_png(path: Path) -> U8Image:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert image is not None, path
    return np.ascontiguousarray(image[:, :, ::-1]).astype(np.uint8, copy=False)

"""Measuring pictures for `bench codec`: a line of JSON for each picture at each setting, written as it is measured.

A run that ends early leaves its lines, and `--resume` goes on from them. What a codec fails at is a line as well, with
its cause; figures are means over the pictures that every codec managed, so that no curve is of others than the next.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secondlook.shared.errors import ConfigError, SecondlookError
from secondlook.shared.faults import unforeseen_named
from secondlook.shared.files import storage_error
from secondlook.shared.filters import ImageFilter
from secondlook.shared.layers import LayeredCodec
from secondlook.shared.peers import Peer
from secondlook.training.data import U8
from secondlook.training.rate_distortion import bpp, ms_ssim, psnr

Row = dict[str, Any]
LOSSLESS_DB = 100.0  # what counts as PSNR where nothing was lost: infinite values have no mean, and no JSON
FIGURES = ("bpp_base", "bpp", "psnr_base", "psnr", "ms_ssim", "encode_ms", "decode_base_ms", "decode_ms")


@dataclass(frozen=True)
class Picture:
    """An original. `digest`: first 16 hex digits of SHA-256 over its size and pixels."""

    name: str
    rgb: U8
    digest: str

    @classmethod
    def of(cls, name: str, rgb: U8) -> Picture:
        return cls(name, rgb, hashlib.sha256(repr(rgb.shape).encode() + rgb.tobytes()).hexdigest()[:16])


@dataclass(frozen=True)
class Setting:
    """A point of a curve: a codec's name, what made it (hash of a model, version of a package), and its qualities."""

    codec: str
    made_by: str
    quality: int
    base_quality: int | None = None

    def key(self, picture: Picture) -> tuple[Any, ...]:
        return self.codec, self.made_by, self.quality, self.base_quality, picture.digest


class RowLog:
    """The lines of a run: kept in memory, and written one by one where a file is named."""

    def __init__(
        self, path: Path | None = None, *, resume: bool = False, say: Callable[[str], None] = print
    ) -> None:
        """Raises ConfigError for a file that is there already, unless `resume`, or holds something else."""
        self._path, self._say = path, say
        self._rows: dict[tuple[Any, ...], Row] = {}
        if path is None or not path.exists():
            return
        if not resume:
            raise ConfigError(f"{path} is there already: --resume goes on from it, or move it away")
        for row in _lines_of(path):
            self._rows[_key_of(row)] = row

    def measured(
        self, setting: Setting, picture: Picture, measure: Callable[[], Row], *, filters: Iterable[str] = ()
    ) -> Row:
        """The row of a picture at a setting: known, or what `measure` finds, or why it fails; written at once.

        `filters`: whose gains a known row must hold.
        """
        known = self._rows.get(setting.key(picture))
        if known is not None and "error" not in known and set(filters) <= known.get("gain_db", {}).keys():
            return known
        row: Row = {
            "codec": setting.codec,
            "made_by": setting.made_by,
            "quality": setting.quality,
            "base_quality": setting.base_quality,
            "image": picture.name,
            "digest": picture.digest,
        }
        try:
            with unforeseen_named(SecondlookError, OSError):
                row |= measure()
        except (SecondlookError, OSError) as error:
            row["error"] = " ".join(str(error).split())
            self._say(f"{setting.codec}, quality {setting.quality}: {picture.name} fails: {row['error']}")
        self._rows[setting.key(picture)] = row
        if self._path is not None:
            try:
                with self._path.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(row) + "\n")
            except OSError as error:
                raise storage_error(self._path, error) from error
        return row


def _lines_of(path: Path) -> list[Row]:
    """The rows in a file; a last line that was cut is left out, and goes. Raises ConfigError."""
    text = path.read_text(encoding="utf-8")
    whole, _, cut = text.rpartition("\n")
    try:
        rows = [json.loads(line) for line in whole.split("\n") if line]
        for row in rows:
            _key_of(row)
    except (ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{path} holds no rows of `bench codec`: move it away") from error
    if cut:
        path.write_text(whole + "\n" if whole else "", encoding="utf-8")
    return rows


def _key_of(row: Row) -> tuple[Any, ...]:
    return row["codec"], row["made_by"], row["quality"], row["base_quality"], row["digest"]


def measure_layers(
    codec: LayeredCodec, image: U8, setting: Setting, filters: Mapping[str, ImageFilter]
) -> Row:
    """Rates and PSNR of base layer and both, milliseconds, and the gains of post-filters in dB, of one picture."""
    assert setting.base_quality is not None
    start = time.perf_counter()
    layers = codec.encode(image, base_quality=setting.base_quality, quality=setting.quality).layers
    encoded = time.perf_counter()
    base = codec.decode_base(layers.base)
    based = time.perf_counter()
    enhanced = codec.decode_enhanced(layers.base, layers.enhancement)
    done = time.perf_counter()
    plain = _decibels(image, enhanced)
    return {
        "bpp_base": bpp(len(layers.base), image),
        "bpp": bpp(len(layers.base) + len(layers.enhancement), image),
        "psnr_base": _decibels(image, base),
        "psnr": plain,
        "ms_ssim": ms_ssim(image, enhanced),
        "encode_ms": 1e3 * (encoded - start),
        "decode_base_ms": 1e3 * (based - encoded),
        "decode_ms": 1e3 * (done - based),
        "gain_db": {
            name: _decibels(image, one.apply(enhanced, quality=setting.quality)) - plain
            for name, one in filters.items()
        },
    }


def measure_peer(peer: Peer, image: U8, quality: int) -> Row:
    """Rate, quality and milliseconds of one picture."""
    start = time.perf_counter()
    data = peer.encode(image, quality)
    encoded = time.perf_counter()
    decoded = peer.decode(data)
    done = time.perf_counter()
    if decoded.shape != image.shape:
        raise ConfigError(f"{list(decoded.shape)} came back of {list(image.shape)}")
    return {
        "bpp": bpp(len(data), image),
        "psnr": _decibels(image, decoded),
        "ms_ssim": ms_ssim(image, decoded),
        "encode_ms": 1e3 * (encoded - start),
        "decode_ms": 1e3 * (done - encoded),
    }


def common_pictures(rows: Iterable[Row]) -> list[str]:
    """Digests of the pictures that every codec managed at every quality; of codecs that managed any."""
    managed: dict[str, set[str]] = {}
    failed: dict[str, set[str]] = {}
    for row in rows:
        which = failed if "error" in row else managed
        which.setdefault(row["codec"], set()).add(row["digest"])
    left = [found - failed.get(codec, set()) for codec, found in managed.items()]
    left = [found for found in left if found]
    return sorted(set.intersection(*left)) if left else []


def point_of(rows: Sequence[Row]) -> Row:
    """The mean of the rows of one setting; a figure that one of them lacks is None."""
    first = rows[0]
    figures = {name: _mean([row.get(name) for row in rows]) for name in FIGURES}
    gains: dict[str, list[float]] = {}
    for row in rows:
        for name, gain in row.get("gain_db", {}).items():
            gains.setdefault(name, []).append(gain)
    return {
        "codec": first["codec"],
        "base_quality": first["base_quality"],
        "quality": first["quality"],
        "images": len(rows),
        **figures,
        "gain_db": {name: float(np.mean(values)) for name, values in gains.items()},
    }


def _decibels(image: U8, other: U8) -> float:
    return min(psnr(image, other), LOSSLESS_DB)


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else float(np.mean(np.array(values, float)))

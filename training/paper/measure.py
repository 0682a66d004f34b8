"""Measuring each picture once at each setting, and keeping what was measured so that a run that stops goes on.

Records are lines of JSON in `measured.jsonl`, one a measured picture, behind a line with the format's version. A later
line with the same key adds to an earlier one, so a metric that is asked for later needs no second file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from secondlook.shared.errors import SourceUnreadable, UnsupportedStore
from secondlook.shared.files import PUBLIC_FILE, write_atomically
from secondlook.shared.filters import ImageFilter
from secondlook.shared.layers import LayeredCodec
from secondlook.shared.peers import Peer
from secondlook.training.data import list_images, read_rgb
from secondlook.training.paper.metrics import COLUMNS, Metrics
from secondlook.training.paper.published import PLAIN
from secondlook.training.rate_distortion import bpp

U8 = npt.NDArray[np.uint8]
Row = dict[str, float | None]
VERSION = 1
HEADER = {"format": "secondlook paper records", "version": VERSION}
RATES = ("bpp", "bpp_base", "bpp_additional")


@dataclass(frozen=True)
class Picture:
    """An original. `digest`: first 16 hex digits of SHA-256 over its size and pixels."""

    name: str
    rgb: U8
    digest: str


@dataclass(frozen=True)
class Coder:
    """A layered codec under its name, and the quality of its base layer."""

    name: str
    codec: LayeredCodec
    base_quality: int

    @property
    def identity(self) -> str:
        return f"{self.name} {self.codec.model_hash.hex()}"


@dataclass(frozen=True)
class Key:
    """What a record belongs to; codec and filter with their hash or version."""

    image: str
    codec: str
    quality: int
    base_quality: int | None = None
    filter: str = ""

    def text(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def read_pictures(folder: Path, limit: int | None) -> list[Picture]:
    """The first `limit` images of `folder` by name. Raises FileNotFoundError or SourceUnreadable."""
    pictures = []
    for path in list_images(folder)[:limit]:
        try:
            rgb = read_rgb(path)
        except ValueError as error:
            raise SourceUnreadable(str(error)) from error
        digest = hashlib.sha256(repr(rgb.shape).encode() + rgb.tobytes()).hexdigest()[:16]
        pictures.append(Picture(path.stem, rgb, digest))
    return pictures


class Records:
    """The file of measurements. Raises UnsupportedStore on a file that is not ours or of another version."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, dict[str, Any]] = {}
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        if not lines:
            write_atomically(path, _line(HEADER).encode(), mode=PUBLIC_FILE)
            return
        if _parse(lines[0]) != HEADER:
            raise UnsupportedStore(f"{path} is not of version {VERSION} of this format: move it away")
        whole = [line for line in lines[1:] if line.endswith("\n") and _parse(line) is not None]
        if len(whole) != len(lines) - 1:  # a run was cut while it wrote
            write_atomically(path, "".join([lines[0], *whole]).encode(), mode=PUBLIC_FILE)
        for line in whole:
            entry = json.loads(line)
            self._known.setdefault(entry["key"], {}).update(entry["values"])

    def get(self, key: Key) -> dict[str, Any]:
        return self._known.get(key.text(), {})

    def add(self, key: Key, values: Mapping[str, Any]) -> None:
        with self._path.open("a") as stream:
            stream.write(_line({"key": key.text(), "values": values}))
        self._known.setdefault(key.text(), {}).update(values)


class Lab:
    """Measures pictures with codecs, filters and peers; asks the records first.

    `kept`: (digest, quality) of decoded pictures that are kept as PNG in `folder`, for Fig. 3.
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        metrics: Metrics,
        folder: Path,
        *,
        kept: frozenset[tuple[str, int]] = frozenset(),
        say: Callable[[str], None] = print,
    ) -> None:
        self.pictures, self.metrics, self._folder, self._kept, self._say = (
            pictures,
            metrics,
            folder,
            kept,
            say,
        )
        self.records = Records(folder / "measured.jsonl")

    def ours(self, coder: Coder, quality: int, filters: Mapping[str, ImageFilter]) -> dict[str, list[Row]]:
        """A row per picture, by role: PLAIN, and one for each of `filters`."""
        rows: dict[str, list[Row]] = {role: [] for role in (PLAIN, *filters)}
        for picture in self.pictures:
            keys = _keys(picture, coder, quality, filters)
            if any(self._lacking(key) for key in keys.values()):
                self._say(f"{coder.name}, quality {quality}: {picture.name}")
                self._code(picture, coder, quality, filters)
            for role, key in keys.items():
                rows[role].append(self._row(picture, key))
        return rows

    def peer(self, name: str, peer: Peer, *, version: str) -> dict[int, list[Row]]:
        """A row per picture, by quality of a peer."""
        rows: dict[int, list[Row]] = {quality: [] for quality in peer.qualities}
        for quality in peer.qualities:
            for picture in self.pictures:
                key = Key(picture.digest, f"{name} {version}", quality)
                if lacking := self._lacking(key):
                    self._say(f"{name}, quality {quality}: {picture.name}")
                    data = peer.encode(picture.rgb, quality)
                    height, width = picture.rgb.shape[:2]
                    decoded = peer.decode(data)[:height, :width]  # 4:2:0 has even sides
                    values = self.metrics.measure(picture.rgb, decoded, lacking)
                    self.records.add(key, {"bytes": len(data)} | values)
                rows[quality].append(self._row(picture, key))
        return rows

    def shown(
        self, picture: Picture, coder: Coder, quality: int, filters: Mapping[str, ImageFilter]
    ) -> dict[str, U8]:
        """The decoded picture by role, from disk where it was kept."""
        keys = _keys(picture, coder, quality, filters)
        files = {role: self._png(key) for role, key in keys.items()}
        if all(path.is_file() for path in files.values()):
            return {role: read_rgb(path) for role, path in files.items()}
        return self._code(picture, coder, quality, filters)

    def _code(
        self, picture: Picture, coder: Coder, quality: int, filters: Mapping[str, ImageFilter]
    ) -> dict[str, U8]:
        """Encode, decode and refine one picture; records what they lack."""
        base_quality = min(coder.base_quality, quality)
        layers = coder.codec.encode(picture.rgb, base_quality=base_quality, quality=quality).layers
        decoded = coder.codec.decode_enhanced(layers.base, layers.enhancement)
        sizes = {"bytes": len(layers.base) + len(layers.enhancement), "bytes_base": len(layers.base)}
        shown: dict[str, U8] = {}
        for role, key in _keys(picture, coder, quality, filters).items():
            shown[role] = filters[role].apply(decoded) if role in filters else decoded
            if lacking := self._lacking(key):
                self.records.add(key, sizes | self.metrics.measure(picture.rgb, shown[role], lacking))
            if (picture.digest, quality) in self._kept:
                png = cv2.imencode(".png", shown[role][:, :, ::-1])[1]
                write_atomically(self._png(key), png.tobytes(), mode=PUBLIC_FILE)
        return shown

    def _lacking(self, key: Key) -> list[str]:
        known = self.records.get(key)
        return [name for name in self.metrics.names if name not in known]

    def _row(self, picture: Picture, key: Key) -> Row:
        record = self.records.get(key)
        total, base = bpp(record["bytes"], picture.rgb), None
        if "bytes_base" in record:
            base = bpp(record["bytes_base"], picture.rgb)
        rates = dict(zip(RATES, (total, base, None if base is None else total - base), strict=True))
        return rates | self.metrics.columns(record)

    def _png(self, key: Key) -> Path:
        return self._folder / f"{hashlib.sha256(key.text().encode()).hexdigest()[:24]}.png"


def mean(rows: Sequence[Row]) -> Row:
    """Column means over pictures; None where a picture has no figure."""
    result: Row = {}
    for name in (*RATES, *COLUMNS):
        values = [value for row in rows if (value := row[name]) is not None]
        result[name] = float(np.mean(values)) if len(values) == len(rows) else None
    return result


def _keys(picture: Picture, coder: Coder, quality: int, filters: Mapping[str, ImageFilter]) -> dict[str, Key]:
    names = {PLAIN: ""} | {role: f.identity.replace(":", " ", 1) for role, f in filters.items()}
    base_quality = min(coder.base_quality, quality)
    return {
        role: Key(picture.digest, coder.identity, quality, base_quality, name) for role, name in names.items()
    }


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry) + "\n"


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None

"""Reading a picture from a file that nobody vouches for: bounded before it is decoded, whole or not at all.

The header is read first (Pillow), and a picture above the limits is refused before memory is taken for it. Pictures
of 8 bits a channel are decoded by Pillow, which says when a file ends too early; deeper ones by OpenCV, and brought
down to 8 bits by the rule of `to_eight_bits`. A picture is turned the way its EXIF orientation says.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import struct
import time
import warnings
import zlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from secondlook.shared.bitstream import MAX_PIXELS, MAX_SIDE
from secondlook.shared.errors import (
    SourceEmpty,
    SourceError,
    SourceNotFound,
    SourceTooLarge,
    SourceUnreadable,
)
from secondlook.shared.packet import MAX_NS

U8Image = npt.NDArray[np.uint8]  # height x width x 3, RGB

MAX_FILE_BYTES = 512 << 20
# Formats that hold pictures of pixels; none that runs a program (EPS) or hides a larger picture within (ICO).
FORMATS = (
    "AVIF",
    "BMP",
    "DDS",
    "DIB",
    "GIF",
    "JPEG",
    "JPEG2000",
    "PCX",
    "PNG",
    "PPM",
    "QOI",
    "SGI",
    "SUN",
    "TGA",
    "TIFF",
    "WEBP",
)
_RADIANCE = re.compile(rb"\A#\?(?:RADIANCE|RGBE)\n.*?\n\n-Y (\d{1,9}) \+X (\d{1,9})\n", re.DOTALL)
_HEADER_BYTES = 4096
_STRIP_ROWS = 256
_EXIF_IFD = 0x8769
# (time, its offset from UTC, fractions of its second): when it was taken, else when it was digitised
_TIME_TAGS = ((0x9003, 0x9011, 0x9291), (0x9004, 0x9012, 0x9292))
_TIFF_BITS_PER_SAMPLE = 258
_FIRST_YEAR = 1980  # what is older is a clock that was never set
# What the decoders of Pillow raise for damaged files.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    ArithmeticError,
    LookupError,
    AttributeError,
    EOFError,
    RuntimeError,
    AssertionError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class Picture:
    """Height x width x 3 uint8 RGB, and the wall clock when it was taken, in ns since 1970, as a packet carries it."""

    image: U8Image
    taken_ns: int


def suffixes() -> frozenset[str]:
    """Endings of file names, in lower case with their dot, that a picture of a known format may have."""
    Image.init()
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    return frozenset(known | {".hdr", ".mpo"})


def read_picture(path: Path, *, shrink_to: int | None = None) -> Picture:
    """Decode a picture. `shrink_to`: a longest side in pixels that is enough; a JPEG is then decoded smaller.

    :raises SourceNotFound, SourceUnreadable, SourceEmpty, SourceTooLarge: naming the file and the reason
    """
    with contextlib.closing(_open_regular(path)) as stream:
        status = os.fstat(stream.fileno())
        if status.st_size == 0:
            raise SourceEmpty(f"{path} is an empty file")
        if status.st_size > MAX_FILE_BYTES:
            raise SourceTooLarge(
                f"{path} has {status.st_size} bytes, a picture may have {MAX_FILE_BYTES}: store it smaller"
            )
        Image.init()  # Pillow loads its rarer formats only then
        changed_ns = _changed_ns(status.st_mtime_ns)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow warns of what is checked or refused here
                return _decode(path, stream, changed_ns, shrink_to)
        except SourceError:
            raise
        except UnidentifiedImageError:
            return Picture(_radiance(path, stream), changed_ns)
        except Image.DecompressionBombError as error:
            raise SourceTooLarge(f"{path}: {' '.join(str(error).split())}") from error
        except _DAMAGED as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise SourceUnreadable(f"{path} is a damaged picture: {reason[:200]}") from error


def _open_regular(path: Path) -> BinaryIO:
    """Open a file that is a regular one: a device or a pipe could go on for ever."""
    try:
        # Not blocking, or the opening of a pipe would wait for somebody who writes.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError as error:
        what = "is a link that leads nowhere" if path.is_symlink() else "does not exist"
        raise SourceNotFound(f"{path} {what}") from error
    except (OSError, ValueError) as error:
        raise SourceUnreadable(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from error
    stream = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        stream.close()
        raise SourceUnreadable(f"{path} is not a regular file")
    return stream


def _decode(path: Path, stream: BinaryIO, changed_ns: int, shrink_to: int | None) -> Picture:
    with _header(stream) as picture:
        taken_ns = _exif_time_ns(picture) or changed_ns
        if shrink_to is not None and picture.format in ("JPEG", "MPO"):
            scale = shrink_to / max(picture.size)
            picture.draft("RGB", (round(picture.width * scale), round(picture.height * scale)))
        _check_size(path, *picture.size, jpeg=picture.format in ("JPEG", "MPO"))
        picture.load()  # raises when the file ends too early
        if not _may_be_deep(picture, stream):
            return Picture(_eight(picture), taken_ns)
    del picture  # frees its pixels before others are made
    image = _deep(path, stream)
    if image is None:
        stream.seek(0)
        with _header(stream) as picture:
            picture.load()
            image = _eight(picture)
    return Picture(image, taken_ns)


def _eight(picture: Image.Image) -> U8Image:
    """A decoded picture, turned and in RGB; in strips, for a second whole copy of a large one costs too much."""
    ImageOps.exif_transpose(picture, in_place=True)
    width, height = picture.size
    image = np.empty((height, width, 3), np.uint8)
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        image[:] = to_eight_bits(np.asarray(picture))[:, :, None]
        return image
    for top in range(0, height, _STRIP_ROWS):
        strip = picture.crop((0, top, width, min(top + _STRIP_ROWS, height)))
        image[top : top + _STRIP_ROWS] = np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))
    return image


def _header(stream: BinaryIO) -> Image.Image:
    """The picture, not decoded yet. Pillow's own limit on pixels would hide how many there are."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        return Image.open(stream, formats=FORMATS)
    except (
        ImportError
    ) as error:  # ultralytics' Image.open, for the whole process, wants a package for unknown files
        raise UnidentifiedImageError(str(error)) from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _check_size(path: Path, width: int, height: int, *, jpeg: bool = False) -> None:
    """Refuse a picture of more pixels than a frame may have."""
    if max(width, height) <= MAX_SIDE and width * height <= MAX_PIXELS:
        return
    cure = "store it smaller, or set source.resize" if jpeg else "store it smaller"
    raise SourceTooLarge(
        f"{path} is {width}x{height} pixels; a picture may have {MAX_PIXELS} pixels,"
        f" and {MAX_SIDE} a side: {cure}"
    )


def _may_be_deep(picture: Image.Image, stream: BinaryIO) -> bool:
    """Whether it may have more than 8 bits a channel; of some such pictures Pillow keeps 8, and the wrong ones."""
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        return True
    if picture.format in ("PPM", "JPEG2000"):
        return True
    if picture.format == "PNG":
        stream.seek(24)
        return stream.read(1) == b"\x10"
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        return bool(max(picture.tag_v2.get(_TIFF_BITS_PER_SAMPLE, (8,))) > 8)
    return False


def _deep(path: Path, stream: BinaryIO) -> U8Image | None:
    """Decode at full depth and scale by the rule; None where OpenCV does not know this kind."""
    stream.seek(0)
    data = np.frombuffer(stream.read(), np.uint8)
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH) if data.size else None
    except cv2.error as error:
        raise SourceUnreadable(f"{path} is a damaged picture: {error.err}") from error
    if image is None:
        return None
    eight = to_eight_bits(np.asarray(image))
    cv2.cvtColor(eight, cv2.COLOR_BGR2RGB, dst=eight)
    return eight


def _radiance(path: Path, stream: BinaryIO) -> U8Image:
    stream.seek(0)
    found = _RADIANCE.match(stream.read(_HEADER_BYTES))
    if found is None:
        raise SourceUnreadable(f"{path} is not a picture of a known format")
    _check_size(path, int(found[2]), int(found[1]))
    image = _deep(path, stream)
    if image is None:
        raise SourceUnreadable(f"{path} is a damaged picture")
    return image


def to_eight_bits(image: npt.NDArray[np.generic]) -> U8Image:
    """Scale any depth to 8 bits.

    Whole numbers: the depth is 8, 10, 12, 14 or 16 bits, the least that holds the picture's largest value, and the
    upper 8 of them remain. Fractions: 0 to 1, or 0 to the largest value when that is above 1, become 0 to 255.
    What is below 0, or no number, becomes 0.
    """
    if image.dtype == np.uint8:
        return np.asarray(image, dtype=np.uint8)
    if np.issubdtype(image.dtype, np.floating):
        finite = np.nan_to_num(image.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        top = max(1.0, float(finite.max(initial=0.0)))
        return np.asarray(np.rint(np.clip(finite, 0.0, None) * (255.0 / top)), dtype=np.uint8)
    whole = np.asarray(image, dtype=np.int64) if image.dtype.itemsize > 2 else np.asarray(image)
    bits = max(8, int(whole.max(initial=0)).bit_length())
    eight = np.empty(image.shape, np.uint8)
    for top in range(0, len(whole), _STRIP_ROWS):
        strip = np.right_shift(whole[top : top + _STRIP_ROWS], bits + bits % 2 - 8)
        eight[top : top + _STRIP_ROWS] = np.maximum(strip, 0)
    return eight


def _changed_ns(mtime_ns: int) -> int:
    """When a file was changed; now, where that is before 1970 or so late that no packet carries it."""
    return mtime_ns if 0 <= mtime_ns <= MAX_NS else time.time_ns()


def _exif_time_ns(picture: Image.Image) -> int | None:
    """When the picture was taken, by its EXIF; None if it does not say. Without an offset it is our local time."""
    try:
        tags = picture.getexif().get_ifd(_EXIF_IFD)
    except _DAMAGED:
        return None
    for time_tag, offset_tag, fraction_tag in _TIME_TAGS:
        text = str(tags.get(time_tag, "")).strip(" \0")
        offset = str(tags.get(offset_tag, "")).strip(" \0")
        fraction = str(tags.get(fraction_tag, "")).strip(" \0")
        try:
            moment = datetime.strptime(text, "%Y:%m:%d %H:%M:%S")
            if re.fullmatch(r"[+-]\d\d:\d\d", offset):
                moment = datetime.strptime(f"{text} {offset}", "%Y:%m:%d %H:%M:%S %z")
            if moment.year < _FIRST_YEAR:
                continue
            seconds = int(moment.timestamp())
        except (ValueError, OverflowError, OSError):
            continue
        digits = fraction[:9] if fraction.isascii() and fraction.isdigit() else "0"
        taken_ns = seconds * 10**9 + int(digits.ljust(9, "0"))
        if taken_ns <= MAX_NS:
            return taken_ns
    return None

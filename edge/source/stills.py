"""Stills: a single picture, or a folder of them in the order and with the flaws that cameras leave on a card."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from secondlook.shared.errors import SourceEmpty, SourceError, SourceNotFound, SourceUnreadable
from secondlook.shared.pictures import Picture, read_picture, suffixes

_MAX_LINES = 50  # of skipped files; what is more is only counted

NaturalKey = tuple[tuple[tuple[int, int, str], ...], ...]


def natural_key(name: str) -> tuple[NaturalKey, str]:
    """Sorts ``a/IMG_9.jpg`` before ``a/IMG_10.jpg``, folder by folder."""
    parts = []
    for part in name.split("/"):
        pieces = re.split(r"([0-9]+)", part.casefold())
        parts.append(tuple((0, int(p), "") if p.isascii() and p.isdigit() else (1, 0, p) for p in pieces))
    return tuple(parts), name


def printable(text: str) -> str:
    """A file's name as it may stand in a line of a log."""
    return text if text.isprintable() else ascii(text)


def folder_pictures(
    folder: Path,
    *,
    after: str | None,
    shrink_to: int | None,
    beat: Callable[[], None],
    tell: Callable[[str], None],
) -> Iterator[tuple[str, Picture]]:
    """Every picture of a folder and its sub-folders in natural order, as (name from the folder on, picture).

    What cannot be read is told of, one line a file, and passed over. `after`: go on behind this name. `beat` is called
    for each file.

    :raises SourceEmpty: there is no file that could be a picture
    :raises SourceUnreadable: there are such files, and none can be read
    """
    names = _listed(folder, tell)
    if not names:
        raise SourceEmpty(f"source {folder} holds no picture")
    names.sort(key=natural_key)
    if after is not None:
        place = natural_key(after)
        names = [name for name in names if natural_key(name) > place]
    skipped = 0
    for name in names:
        beat()
        try:
            picture = read_still(folder / name, shrink_to)
        except SourceError as error:
            skipped += 1
            if skipped <= _MAX_LINES:
                tell(f"skipped: {printable(str(error))}")
            continue
        yield name, picture
    if skipped:
        tell(f"source {folder}: {skipped} of {len(names)} files were skipped")
    if skipped == len(names) and after is None:
        raise SourceUnreadable(f"source {folder}: none of its {skipped} pictures can be read")


def read_still(path: Path, shrink_to: int | None) -> Picture:
    """One picture file. Raises SourceError."""
    if path.name.startswith("._"):
        raise SourceUnreadable(f"{path} holds notes of macOS beside a picture, and is none")
    return read_picture(path, shrink_to=shrink_to)


def _listed(folder: Path, tell: Callable[[str], None]) -> list[str]:
    """Names of all files that look like pictures; other files are named once, by their endings."""
    known, found, others = suffixes(), [], Counter[str]()

    def unreadable(error: OSError) -> None:
        if error.filename == str(folder):
            kind = SourceNotFound if isinstance(error, FileNotFoundError) else SourceUnreadable
            raise kind(f"source {folder} cannot be read: {error.strerror}")
        tell(f"skipped: {printable(str(error.filename))} cannot be read: {error.strerror}")

    for place, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if suffix in known:
                found.append(Path(place, name).relative_to(folder).as_posix())
            elif not name.startswith("."):
                others[suffix or "without an ending"] += 1
    if others:
        kinds = ", ".join(f"{printable(kind)} ({count})" for kind, count in others.most_common(10))
        tell(f"source {folder}: files of these kinds are not read: {kinds}")
    return found

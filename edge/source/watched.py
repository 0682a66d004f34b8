"""A folder that fills, by FTP or from the card of a camera trap: each file once, when it is whole.

A file is known by its name, size and time of change: one that a camera overwrites is another picture. It is read once
it has not changed for a few seconds. Which files were taken is kept beside the spool, over restarts.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from secondlook.edge.source.stills import natural_key, printable, read_still
from secondlook.shared.errors import SourceError
from secondlook.shared.pictures import Picture, suffixes

_LOOK_SECONDS = 1.0  # between two looks at the folder

Identity = tuple[str, int, int]  # name from the folder on, bytes, time of change in ns


def watched_pictures(
    folder: Path,
    taken: set[Identity],
    *,
    settle_seconds: float,
    shrink_to: int | None,
    beat: Callable[[], None],
    tell: Callable[[str], None],
    wait: Callable[[float], None] = time.sleep,
) -> Iterator[tuple[Identity, Picture]]:
    """Pictures of a folder as they come, without an end. `taken` are those that were taken before; it grows.

    What cannot be read is told of once and not looked at again. A folder that is away is waited for.
    """
    seen: dict[str, tuple[Identity, float]] = {}  # what it was, and since when it has been so
    is_away = False
    while True:
        beat()
        try:
            present = _present(folder)
        except OSError as error:
            if not is_away:
                tell(f"source {folder} cannot be read: {error.strerror}; it is waited for")
            is_away, present = True, []
        else:
            if is_away:
                tell(f"source {folder} is back")
            is_away = False
        now = time.monotonic()
        seen = {
            one[0]: seen[one[0]] if one[0] in seen and seen[one[0]][0] == one else (one, now)
            for one in present
            if one not in taken
        }
        ready = [one for one, since in seen.values() if now - since >= settle_seconds]
        for one in sorted(ready, key=lambda identity: (identity[2], natural_key(identity[0]))):
            beat()
            taken.add(one)
            try:
                picture = read_still(folder / one[0], shrink_to)
            except SourceError as error:
                tell(f"skipped: {printable(str(error))}")
                continue
            yield one, picture
        wait(_LOOK_SECONDS)


def _present(folder: Path) -> list[Identity]:
    """Every file of a folder and its sub-folders that looks like a picture. Raises OSError for the folder itself."""
    found: list[Identity] = []
    known = suffixes()
    os.stat(folder)
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.startswith(".") or os.path.splitext(name)[1].lower() not in known:
                continue
            path = Path(place, name)
            with contextlib.suppress(OSError):  # it went in between
                status = path.stat()
                found.append((path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns))
    return found


def identities(text: str | None) -> set[Identity]:
    """What `WatchKeeper.resume` told, as the capture takes it."""
    return set() if text is None else {(str(name), int(size), int(ns)) for name, size, ns in json.loads(text)}

"""Where in a file or folder the agent is, kept beside the spool, so that a restart goes on there.

The places of a batch are written before the batch is spooled. The next start asks the spool how many frames of that
boot it has, and so knows the last one exactly, at whatever moment the agent was killed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from secondlook.edge.config import SourceConfig
from secondlook.edge.source.sources import is_live, local_path, shown
from secondlook.edge.source.watched import Identity, identities
from secondlook.shared.errors import DiskFull
from secondlook.shared.files import PRIVATE_FILE, storage_error, write_atomically

log = logging.getLogger(__name__)

_FILE = "source.json"
_TAKEN_FILE = "taken.jsonl"  # of a watched folder
_MOST_AWAY = 100_000  # files that are remembered of a folder while none of them is there


@dataclass(frozen=True)
class Taken:
    """A frame of this boot, and the place in the source that it brings us to."""

    seq: int
    place: str


class PlaceKeeper:
    """The place in one source. Raises Unwritable; a full disk only makes a restart repeat some frames."""

    def __init__(self, folder: Path, config: SourceConfig, boot_id: str) -> None:
        self._path = folder / _FILE
        self._from_start = config.from_start
        self._source = _identity(config.address)
        self._shown = shown(config.address)
        self._boot_id = boot_id
        self._before: str | None = None  # the batch at hand
        self._batch: Sequence[Taken] = ()  # which may not be spooled yet

    def resume(self, next_seq: Callable[[str], int | None]) -> str | None:
        """The place to go on behind; None: begin at the start. `next_seq` tells what the spool has of a boot."""
        if self._source is None or self._from_start:
            return None
        self._before = self._read(next_seq)
        if self._before is not None:
            log.info("source %s was read before: going on behind %s", self._shown, ascii(self._before))
        return self._before

    def _read(self, next_seq: Callable[[str], int | None]) -> str | None:
        try:
            kept = json.loads(self._path.read_bytes())
            if kept["source"] != self._source:
                return None
            place, boot_id = kept["before"], str(kept["boot_id"])
            taken = [Taken(int(seq), str(name)) for seq, name in kept["taken"]]
        except (OSError, ValueError, TypeError, KeyError):
            return None
        following = next_seq(boot_id)
        for one in taken:
            if following is None or one.seq < following:
                place = one.place
        return None if place is None else str(place)

    def after(self, place: str | None) -> str | None:
        """Where a capture that begins anew in this start goes on, behind the place of its last frame."""
        return self._before if place is None else place

    def took(self, place: str) -> None:
        """A frame came from this place. The last one is all that counts, and whoever captures has it."""

    def about_to_spool(self, taken: Sequence[Taken]) -> None:
        """Frames of this boot are going to be spooled, in this order; those that could not be come here again."""
        if self._source is None or not taken:
            return
        if self._batch and self._batch[-1].seq < taken[0].seq:
            self._before = self._batch[-1].place
        self._batch = taken
        kept = {
            "source": self._source,
            "boot_id": self._boot_id,
            "before": self._before,
            "taken": [[one.seq, one.place] for one in taken],
        }
        with contextlib.suppress(DiskFull):
            write_atomically(self._path, json.dumps(kept).encode())

    def forget(self) -> None:
        """The run is complete: the next one begins at the start."""
        if self._source is not None:
            self._path.unlink(missing_ok=True)


class WatchKeeper:
    """Which files of one folder were taken: a line a file, written before its frame is spooled, as `PlaceKeeper` does.

    Raises Unwritable; a full disk only makes a restart repeat some frames.
    """

    def __init__(self, folder: Path, source: Path, boot_id: str) -> None:
        self._path = folder / _TAKEN_FILE
        self._source = source
        self._boot_id = boot_id
        self._taken: set[Identity] = set()

    def resume(self, next_seq: Callable[[str], int | None]) -> str | None:
        """The files that earlier starts took, for the capture; forgets those that are gone from the folder.

        Where none of them is there, nothing is forgotten: the card is out, or the share is not mounted.
        """
        taken: list[tuple[Identity, str]] = []
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            lines = []
        follows: dict[str, int | None] = {}
        for line in lines:
            with contextlib.suppress(ValueError, TypeError, KeyError):
                one = json.loads(line)
                boot_id, identity = str(one["boot"]), (str(one["name"]), int(one["size"]), int(one["ns"]))
                if boot_id not in follows:
                    follows[boot_id] = next_seq(boot_id)
                following = follows[boot_id]
                if following is None or int(one["seq"]) < following:
                    taken.append((identity, line))
        kept = [one for one in taken if _is_there(self._source / one[0][0])] or taken[-_MOST_AWAY:]
        self._taken = {identity for identity, _ in kept}
        if len(kept) < len(lines):
            with contextlib.suppress(DiskFull):
                write_atomically(self._path, "".join(f"{line}\n" for _, line in kept).encode())
        if kept:
            log.info("source %s: %d files were taken before", self._source, len(kept))
        return self.after(None)

    def after(self, place: str | None) -> str | None:
        """All that was taken, for a capture that begins anew in this start."""
        return json.dumps(sorted(self._taken))

    def took(self, place: str) -> None:
        """A frame came from this file. It may be passed over, and is taken all the same."""
        self._taken |= identities(f"[{place}]")

    def about_to_spool(self, taken: Sequence[Taken]) -> None:
        """Frames of this boot are going to be spooled, in this order."""
        if not taken:
            return
        lines = []
        for one in taken:
            name, size, ns = json.loads(one.place)
            line = {"boot": self._boot_id, "seq": one.seq, "name": name, "size": size, "ns": ns}
            lines.append(json.dumps(line) + "\n")
        try:
            descriptor = os.open(
                self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE
            )
            with os.fdopen(descriptor, "ab") as stream:
                stream.write("".join(lines).encode())
                stream.flush()
                os.fsync(descriptor)
        except OSError as error:
            with contextlib.suppress(DiskFull):
                raise storage_error(self._path, error) from error

    def forget(self) -> None:
        """A watched folder has no end: what was taken stays so."""


def _is_there(path: Path) -> bool:
    """Whether a file exists; one of which nobody can tell, as on a share that does not answer, counts as there."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:
        return True
    return True


def place_keeper(folder: Path, config: SourceConfig, boot_id: str) -> PlaceKeeper | WatchKeeper:
    """What keeps the place in this source, in a data folder."""
    path = local_path(config.address)
    if config.watch and path is not None:
        return WatchKeeper(folder, path, boot_id)
    return PlaceKeeper(folder, config, boot_id)


def _identity(address: str) -> list[str | int] | None:
    """What tells one source from another, and a file from what it was before; None if it has no places."""
    path = local_path(address)
    if path is None:
        return [shown(address)] if is_live(address) and "://" in address else None
    try:
        status = path.stat()
        name = str(path.resolve())
    except (OSError, ValueError):
        return None
    return [name] if path.is_dir() else [name, status.st_size, status.st_mtime_ns]

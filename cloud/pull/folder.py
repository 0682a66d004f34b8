"""A folder of reviewed frames: `frames.jsonl` with a line a frame, `images/`, and how far it has come.

Lines are added while frames come in, a later one for the same frame counts; at the end of a run the file is written
anew with one line a frame. A run that is broken off is gone on with: nothing is fetched twice, and nothing is believed
that does not have its hash. Of each frame no more than its name and the place of its line is held in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import quote

from secondlook.shared.errors import ConfigError, StoreCorrupt
from secondlook.shared.files import PRIVATE_FILE, make_folder, write_atomically, write_parts_atomically

_VERSION = 1
_STATE, _FRAMES, _IMAGES = ".secondlook-pull.json", "frames.jsonl", "images"


@dataclass(frozen=True)
class Place:
    """How far a folder has come: the last line of the station's audit trail that is in.

    None: none is, and ``since`` (ISO 8601) is where it begins; None there: with all that is kept.
    """

    after: int | None
    since: str | None


class PullFolder:
    """Opens the folder, or makes it, to begin at ``since``.

    Raises ConfigError where it holds something else, StoreCorrupt.
    """

    def __init__(self, path: Path, station: str, since: str | None = None) -> None:
        self.path = path
        self._station = station
        make_folder(path)
        if not (path / _STATE).exists() and any(path.iterdir()):
            raise ConfigError(f"{path} is not empty, and was not made by secondlook pull")
        make_folder(path / _IMAGES)
        if not (path / _STATE).exists():
            self._write_place(Place(None, since))
        self.place = self._read_place()
        self._lines: dict[str, int] = {}  # name -> where its last line begins
        self._names: dict[int, str] = {}  # review -> name
        self._read_frames()

    def __len__(self) -> int:
        """How many frames there are."""
        return len(self._lines)

    def frames(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each frame as it stands, with its name, by name; none may be put or dropped meanwhile."""
        with self._opened() as stream:
            for name in sorted(self._lines):
                yield name, _parsed(self._line_at(stream, name))

    def image_of(self, name: str, suffix: str) -> Path:
        return self.path / _IMAGES / (quote(name, safe="") + suffix)

    def has(self, path: Path, sha256: str) -> bool:
        """Whether a picture is here, whole."""
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest() == sha256
        except FileNotFoundError:
            return False

    def store_image(self, path: Path, data: bytes, sha256: str) -> None:
        """Keep a picture. Raises StoreCorrupt where it is not the one that was judged."""
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise StoreCorrupt(f"the picture {path.name} has the hash {found[:16]}…, not {sha256[:16]}…")
        write_atomically(path, data)

    def put(self, name: str, line: Mapping[str, Any]) -> None:
        """A frame as it stands now."""
        if line["review_id"] in self._names and self._names[line["review_id"]] != name:
            self.drop(line["review_id"])
        self._lines[name] = self._append({"name": name, **line})
        self._names[line["review_id"]] = name

    def drop(self, review_id: int) -> bool:
        """A frame that is not decided any more, or gone; whether it was here."""
        name = self._names.pop(review_id, None)
        if name is None:
            return False
        with self._opened() as stream:
            line = _parsed(self._line_at(stream, name))
        del self._lines[name]
        self._append({"name": name, "review_id": review_id, "dropped": True})
        where = line.get("file_name") or line.get("missing")
        if where:
            (self.path / where).unlink(missing_ok=True)
        return True

    def advance(self, after: int) -> None:
        """What came before line ``after`` of the audit trail is in."""
        frames = self.path / _FRAMES
        if frames.exists():
            with frames.open("rb") as stream:
                os.fsync(stream.fileno())
        self.place = Place(after, self.place.since)
        self._write_place(self.place)

    def finish(self) -> None:
        """One line a frame, in order of their names."""
        (self.path / _FRAMES).touch(PRIVATE_FILE)
        with self._opened() as stream:
            names = sorted(self._lines)
            write_parts_atomically(self.path / _FRAMES, (self._line_at(stream, name) for name in names))
        self._read_frames()

    def _opened(self) -> IO[bytes]:
        return (self.path / _FRAMES).open("rb")

    def _line_at(self, stream: IO[bytes], name: str) -> bytes:
        stream.seek(self._lines[name])
        return stream.readline()

    def _append(self, line: Mapping[str, Any]) -> int:
        """Where the line begins."""
        with (self.path / _FRAMES).open("ab") as stream:
            begin = stream.tell()
            stream.write(json.dumps(line).encode() + b"\n")
        return begin

    def _write_place(self, place: Place) -> None:
        state = {"version": _VERSION, "station": self._station, **vars(place)}
        write_atomically(self.path / _STATE, json.dumps(state).encode())

    def _read_place(self) -> Place:
        path = self.path / _STATE
        try:
            state = json.loads(path.read_bytes())
            version, station = state["version"], str(state["station"])
            after = None if state["after"] is None else int(state["after"])
            since = None if state["since"] is None else str(state["since"])
        except (ValueError, KeyError, TypeError) as error:
            raise StoreCorrupt(f"{path} cannot be read") from error
        if version != _VERSION:
            raise ConfigError(f"{path} is of version {version}, which this program does not know")
        if station != self._station:
            raise ConfigError(f"{self.path} holds frames of {station}, not of {self._station}")
        return Place(after, since)

    def _read_frames(self) -> None:
        """Where the line of each frame is. What the program wrote in part when it ended is cut off: it comes again."""
        self._lines.clear()
        self._names.clear()
        path = self.path / _FRAMES
        if not path.exists():
            return
        begin = 0
        with path.open("r+b") as stream:
            for number, text in enumerate(stream, 1):
                if not text.endswith(b"\n"):
                    stream.truncate(begin)
                    return
                self._read_line(text, begin, f"line {number} of {path}")
                begin += len(text)

    def _read_line(self, text: bytes, begin: int, where: str) -> None:
        """Raises StoreCorrupt."""
        try:
            line = json.loads(text)
            name, review_id = str(line["name"]), int(line["review_id"])
        except (ValueError, KeyError, TypeError) as error:
            raise StoreCorrupt(f"{where} cannot be read") from error
        if line.get("dropped"):
            self._lines.pop(name, None)
            self._names.pop(review_id, None)
        else:
            self._lines[name] = begin
            self._names[review_id] = name


def _parsed(text: bytes) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(text)
    del line["name"]
    return line


def suffix_of(file_name: str) -> str:
    """The ending of a picture's file, as .webp."""
    return PurePosixPath(file_name).suffix

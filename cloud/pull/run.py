"""One run of `secondlook pull`: page after page of changes, each picture checked, until there is no more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from secondlook.cloud.pull.folder import PullFolder, suffix_of
from secondlook.shared.errors import StationRefused, StoreCorrupt

_PAGE = 200
_GONE = (404, 409, 410)  # what a station answers for a picture that it has no more
_ATTEMPTS = 3  # at a picture whose hash is wrong


class Answers(Protocol):
    """What a run needs of a station."""

    def json(self, path: str, query: dict[str, Any]) -> Any: ...

    def data(self, path: str) -> bytes: ...


@dataclass
class Pulled:
    """What a run did."""

    frames: int = 0  # that were written, as they stand
    dropped: int = 0  # that are not decided any more, or gone
    pictures: int = 0
    bytes: int = 0
    gone: int = 0  # pictures that the station does not have any more
    damaged: int = 0  # pictures that never had the hash that was judged


def pull(station: Answers, folder: PullFolder) -> Pulled:
    """Fetch what changed since the folder was here last.

    Raises StationRefused, StationUnreachable.
    """
    done = Pulled()
    query: dict[str, Any] = {"limit": _PAGE}
    if folder.place.after is not None:
        query["after"] = folder.place.after
    elif folder.place.since is not None:
        query["since"] = folder.place.since
    while True:
        page = station.json("/api/export/changes", query)
        for change in page["frames"]:
            _take(station, folder, change, done)
        folder.advance(page["next"])
        if not page["more"]:
            break
        query = {"limit": _PAGE, "after": page["next"]}
    folder.finish()
    return done


def verify(station: Answers, folder: PullFolder, done: Pulled) -> None:
    """Hash every picture that should be here, and fetch those anew that are not whole, or did not come before."""
    done.gone = done.damaged = 0  # each that is missing is asked for again
    changed = {}
    for name, line in folder.frames():
        where = line["file_name"] or line.get("missing")
        if where is None:
            continue
        picture = _Picture(folder.path / where, line["review_id"], line["version"], line["sha256"])
        here = _is_here(station, folder, picture, done)
        if here is not (line["file_name"] is not None):
            changed[name] = {**line, **_told(where, here)}
    for name, line in changed.items():
        folder.put(name, line)
    if changed:
        folder.finish()


@dataclass(frozen=True)
class _Picture:
    """What was judged, and where it belongs."""

    path: Path
    review_id: int
    version: str
    sha256: str


def _take(station: Answers, folder: PullFolder, change: dict[str, Any], done: Pulled) -> None:
    if not change["settled"]:
        done.dropped += folder.drop(change["review_id"])
        return
    facts, told = change["facts"], change["picture"]
    line = {**facts, "file_name": None, "missing": None, "version": None, "sha256": None}
    if told is not None:
        path = folder.image_of(change["name"], suffix_of(facts["file_name"]))
        picture = _Picture(path, change["review_id"], told["version"], told["sha256"])
        here = _is_here(station, folder, picture, done)
        line.update(version=picture.version, sha256=picture.sha256)
        line.update(_told(str(path.relative_to(folder.path)), here))
    folder.put(change["name"], line)
    done.frames += 1


def _told(where: str, here: bool) -> dict[str, Any]:
    """What a frame's line says of its picture's file."""
    return {"file_name": where, "missing": None} if here else {"file_name": None, "missing": where}


def _is_here(station: Answers, folder: PullFolder, picture: _Picture, done: Pulled) -> bool:
    """Whether a picture is in the folder by now, whole. One that cannot be had is counted, and keeps nothing back."""
    if folder.has(picture.path, picture.sha256):
        return True
    for _ in range(_ATTEMPTS):
        try:
            data = station.data(f"/api/reviews/{picture.review_id}/images/{picture.version}")
        except StationRefused as refusal:
            if refusal.status not in _GONE:
                raise
            done.gone += 1
            return False
        try:
            folder.store_image(picture.path, data, picture.sha256)
        except StoreCorrupt:
            continue
        done.pictures += 1
        done.bytes += len(data)
        return True
    done.damaged += 1
    return False

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


def pull(station: Answers, folder: PullFolder) -> Pulled:
    """Fetch what changed since the folder was here last.

    Raises StationRefused, StationUnreachable, StoreCorrupt where a picture never has the hash that was judged.
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
    """Hash every picture that should be here, and fetch those anew that are not whole."""
    for line in folder.frames():
        if line["file_name"] is None:
            continue
        path = folder.path / line["file_name"]
        if not folder.has(path, line["sha256"]):
            _fetch(station, folder, path, line["review_id"], line["version"], line["sha256"], done)


def _take(station: Answers, folder: PullFolder, change: dict[str, Any], done: Pulled) -> None:
    if not change["settled"]:
        done.dropped += folder.drop(change["review_id"])
        return
    facts, picture = change["facts"], change["picture"]
    line = {**facts, "file_name": None, "version": None, "sha256": None}
    if picture is not None:
        path = folder.image_of(change["name"], suffix_of(facts["file_name"]))
        here = folder.has(path, picture["sha256"])
        if here or _fetch(
            station, folder, path, change["review_id"], picture["version"], picture["sha256"], done
        ):
            line.update(
                file_name=str(path.relative_to(folder.path)),
                version=picture["version"],
                sha256=picture["sha256"],
            )
    folder.put(change["name"], line)
    done.frames += 1


def _fetch(
    station: Answers,
    folder: PullFolder,
    path: Path,
    review_id: int,
    version: str,
    sha256: str,
    done: Pulled,
) -> bool:
    """Whether the station still has the picture."""
    for attempt in range(_ATTEMPTS):
        try:
            data = station.data(f"/api/reviews/{review_id}/images/{version}")
        except StationRefused as refusal:
            if refusal.status not in _GONE:
                raise
            done.gone += 1
            return False
        try:
            folder.store_image(path, data, sha256)
        except StoreCorrupt:
            if attempt == _ATTEMPTS - 1:
                raise
            continue
        break
    done.pictures += 1
    done.bytes += len(data)
    return True

"""Where bytes live that are too large for tables: base and enhancement layers, images.

A folder by default, any fsspec URL (``s3://bucket/prefix``) at scale. A key is a relative path of plain names.
A blob is whole or absent: a folder store writes beside, syncs, renames, and syncs the folder; object stores do so
by themselves. Writing a key again replaces its blob, so writers may repeat themselves after a crash.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from secondlook.cloud.storage.addresses import redacted
from secondlook.shared.errors import (
    BlobMissing,
    ConfigError,
    StorageError,
    StoreCorrupt,
    StoreUnavailable,
    Unwritable,
)
from secondlook.shared.files import (
    is_temporary,
    keep_private,
    make_folder,
    storage_error,
    write_atomically,
)

# A store that is silent must not hold up its user for long; listings are never asked for, so none are kept.
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "use_listings_cache": False,
        "skip_instance_cache": True,
        "config_kwargs": {"connect_timeout": 3, "read_timeout": 10, "retries": {"max_attempts": 2}},
    }
}

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


_LAYER = re.compile(
    r"(?:(?:base|enhancement)/([^/]+)/([^/]+)/(0|[1-9][0-9]{0,18})\.slk"
    r"|thumb/([^/]+)/([^/]+)/(0|[1-9][0-9]{0,18})\.webp)"
)
_IMAGE = re.compile(r"image/([1-9][0-9]{0,18})/(?:base|enhanced|refined)\.(?:webp|png)")  # older ones are PNG
_FOLDERS = ("background", "base", "enhancement", "image", "thumb")  # the first part of every key
_BACKGROUND = re.compile(r"background/([^/]+)/[0-9]\.slk")
_BACKGROUND_PLACES = 8  # of a camera host: a later background overwrites an earlier one

_DELETIONS_AT_ONCE = 16  # each waits for an answer of the server
_PUT_ATTEMPTS = 20


@dataclass(frozen=True)
class StoredBlob:
    """A blob in a listing; ``modified`` is when it was last written, in Unix seconds."""

    key: str
    bytes: int
    modified: float


class Blobs(Protocol):
    def put(self, key: str, data: bytes) -> None:
        """Store ``data`` durably under ``key``. Raises DiskFull, Unwritable."""
        ...

    def get(self, key: str) -> bytes:
        """The bytes under ``key``. Raises BlobMissing when there are none, StoreCorrupt."""
        ...

    def exists(self, key: str) -> bool: ...

    def delete(self, key: str) -> None:
        """Remove ``key``; nothing happens when it is not there."""
        ...

    def delete_many(self, keys: Collection[str]) -> None:
        """``delete`` for many; after an error, some are gone and some are not."""
        ...

    def listing(self) -> Iterator[StoredBlob]:
        """All blobs, in no order; of those that come or go meanwhile some."""
        ...

    def modified(self, key: str) -> float | None:
        """When the blob under ``key`` was last written, in Unix seconds; None when there is none."""
        ...

    def delete_unfinished(self, before: float) -> int:
        """Remove what writers that died before an instant (Unix seconds) left half-written; returns how many."""
        ...

    def free_bytes(self) -> int | None:
        """What is left on the disk; None where the store knows no such thing."""
        ...


def base_key(edge_id: str, boot_id: str, seq: int) -> str:
    return f"base/{edge_id}/{boot_id}/{seq}.slk"


def enhancement_key(edge_id: str, boot_id: str, seq: int) -> str:
    return f"enhancement/{edge_id}/{boot_id}/{seq}.slk"


def crop_key(edge_id: str, boot_id: str, seq: int) -> str:
    """Of the enhancement of a crop of a frame; that of another crop takes its place."""
    return f"enhancement/{edge_id}/{boot_id}/{seq}.crop.slk"


def background_key(edge_id: str, digest: str) -> str:
    """Where a background of a camera host lies, by its SHA-256 in hexadecimal; others may have the same place."""
    return f"background/{edge_id}/{int(digest[:8], 16) % _BACKGROUND_PLACES}.slk"


def background_owner(key: str) -> str | None:
    """The edge id of the camera host whose background a key stands for; None for any other key."""
    found = _BACKGROUND.fullmatch(key)
    return None if found is None else found[1]


def image_key(review_id: int, kind: str) -> str:
    """``kind`` is base, enhanced or refined."""
    return f"image/{review_id}/{kind}.webp"


def thumb_key(edge_id: str, boot_id: str, seq: int) -> str:
    """A small picture of a frame's base layer."""
    return f"thumb/{edge_id}/{boot_id}/{seq}.webp"


def parse_key(key: str) -> tuple[str, str, int] | int | None:
    """What a key stands for.

    A layer or thumbnail of a frame (edge id, boot id, sequence), a picture of a review (its number), or neither.
    """
    if layer := _LAYER.fullmatch(key):
        edge_id, boot_id, seq = (part for part in layer.groups() if part is not None)
        return edge_id, boot_id, int(seq)
    image = _IMAGE.fullmatch(key)
    return None if image is None else int(image[1])


def open_blobs(url: str) -> Blobs:
    """The store at a folder path or an fsspec URL. Raises Unwritable, ConfigError."""
    if "://" not in url:
        return FolderBlobs(Path(url))
    # fsspec and its back ends are wanted only here.
    import fsspec

    shown, silence = redacted(url), tuple[type[Exception], ...]()
    try:
        if url.startswith("s3:"):
            # Its client has errors of its own for servers that do not answer.
            from botocore.exceptions import BotoCoreError

            silence = (BotoCoreError,)
        files, root = fsspec.core.url_to_fs(url, **_OPTIONS.get(url.partition(":")[0], {}))
    except ImportError as error:
        raise ConfigError(
            f"blobs: {shown} wants a package: pip install 'secondlook[scale]' ({error})"
        ) from error
    except ValueError as error:
        raise ConfigError(f"blobs: cannot use the address {shown!r} ({redacted(str(error))})") from error
    return UrlBlobs(files, root, silence)


class FolderBlobs:
    def __init__(self, root: Path) -> None:
        make_folder(root)
        keep_private(root)  # which covers all that lies below
        self._root = root

    def put(self, key: str, data: bytes) -> None:
        path = self._path(key)
        for attempt in range(_PUT_ATTEMPTS):
            try:
                make_folder(path.parent)
                write_atomically(path, data)
                break
            except Unwritable as error:
                # The folder was empty, and another process that deletes blobs has taken it away.
                went = isinstance(error.__cause__, FileNotFoundError | FileExistsError)
                if not went or attempt + 1 == _PUT_ATTEMPTS:
                    raise
        try:
            _sync_folder(path.parent)
        except OSError as cause:
            raise storage_error(path, cause) from cause

    def get(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError as error:
            raise BlobMissing(f"blob {key} is not there") from error
        except OSError as error:
            raise StoreCorrupt(f"blob {key} cannot be read ({error.strerror})") from error

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
        except NotADirectoryError:
            return
        except OSError as cause:
            raise storage_error(path, cause) from cause
        # Each review has a folder: empty ones would use up the disk's inodes.
        if path.parent != self._root:
            with contextlib.suppress(OSError):
                path.parent.rmdir()

    def delete_many(self, keys: Collection[str]) -> None:
        for key in keys:
            self.delete(key)

    def listing(self) -> Iterator[StoredBlob]:
        for path, found in self._files():
            key = path.relative_to(self._root).as_posix()
            if _KEY.fullmatch(key) is not None:
                yield StoredBlob(key, found.st_size, found.st_mtime)

    def modified(self, key: str) -> float | None:
        try:
            return self._path(key).stat().st_mtime
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreCorrupt(f"blob {key} cannot be looked at ({error.strerror})") from error

    def delete_unfinished(self, before: float) -> int:
        count = 0
        for path, found in self._files():
            if is_temporary(path) and found.st_mtime < before:
                path.unlink(missing_ok=True)
                count += 1
        return count

    def free_bytes(self) -> int | None:
        try:
            return shutil.disk_usage(self._root).free
        except OSError as error:
            raise StoreCorrupt(f"{self._root} cannot be looked at ({error.strerror})") from error

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for folder in _FOLDERS:
            for where, _, names in os.walk(self._root / folder):
                for name in names:
                    path = Path(where, name)
                    with contextlib.suppress(FileNotFoundError):
                        yield path, path.stat()

    def _path(self, key: str) -> Path:
        return self._root / _checked(key)


class UrlBlobs:
    """Blobs below ``root`` of an fsspec file system. Every method raises StoreUnavailable, Unwritable.

    ``silence`` are the exceptions, besides OSError, with which the file system says that its server cannot be used.
    """

    def __init__(self, files: Any, root: str, silence: tuple[type[Exception], ...] = ()) -> None:
        self._files = files
        self._root = root.rstrip("/")
        self._silence: tuple[type[Exception], ...] = (OSError, *silence)

    def put(self, key: str, data: bytes) -> None:
        path = self._path(key)
        try:
            self._files.pipe_file(path, data)
        except self._silence as error:
            raise _url_error(key, error) from error

    def get(self, key: str) -> bytes:
        path = self._path(key)
        try:
            return bytes(self._files.cat_file(path))
        except FileNotFoundError as error:
            raise BlobMissing(f"blob {key} is not there") from error
        except self._silence as error:
            raise _url_error(key, error) from error

    def exists(self, key: str) -> bool:
        path = self._path(key)
        try:
            # Not exists(), which says "no" where it means "I cannot tell".
            self._files.info(path)
        except FileNotFoundError:
            return False
        except self._silence as error:
            raise _url_error(key, error) from error
        return True

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            self._files.rm_file(path)
        except FileNotFoundError:
            return
        except self._silence as error:
            raise _url_error(key, error) from error

    def delete_many(self, keys: Collection[str]) -> None:
        with ThreadPoolExecutor(_DELETIONS_AT_ONCE) as pool:
            for _ in pool.map(self.delete, keys):
                pass

    def listing(self) -> Iterator[StoredBlob]:
        # Folder by folder: a list of everything could be longer than the memory.
        folders = [f"{self._root}/{folder}" for folder in _FOLDERS]
        while folders:
            for entry in self._entries(folders.pop()):
                modified = _modified(entry)
                key = str(entry["name"]).removeprefix(f"{self._root}/")
                if entry["type"] == "directory":
                    folders.append(str(entry["name"]))
                elif modified is not None and _KEY.fullmatch(key) is not None:
                    yield StoredBlob(key, int(entry["size"]), modified)

    def modified(self, key: str) -> float | None:
        path = self._path(key)
        try:
            return _modified(self._files.info(path))
        except FileNotFoundError:
            return None
        except self._silence as error:
            raise _url_error(key, error) from error

    def delete_unfinished(self, before: float) -> int:
        return 0  # object stores show whole objects only

    def free_bytes(self) -> int | None:
        return None

    def _entries(self, folder: str) -> list[dict[str, Any]]:
        try:
            return list(self._files.ls(folder, detail=True, refresh=True))
        except FileNotFoundError:
            return []
        except self._silence as error:
            raise _url_error(folder, error) from error

    def _path(self, key: str) -> str:
        return f"{self._root}/{_checked(key)}"


def _url_error(key: str, error: Exception) -> StorageError:
    text = redacted(" ".join(str(error).split()))
    if isinstance(error, PermissionError):
        return Unwritable(f"blob {key}: the store does not allow it ({text})")
    return StoreUnavailable(f"blob {key}: the store cannot be used ({text})")


def _modified(entry: dict[str, Any]) -> float | None:
    """When an object was last written; each file system of fsspec has its own word for it."""
    for name in ("LastModified", "mtime", "created"):
        value = entry.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return None


def _checked(key: str) -> str:
    """Keys are made by this program, but names in them come from outside: none may leave the store."""
    if _KEY.fullmatch(key) is None:
        raise ValueError(f"not a blob key: {key!r}")
    return key


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

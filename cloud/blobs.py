"""Where bytes live that are too large for tables: base and enhancement layers, images.

A folder by default, any fsspec URL (``s3://bucket/prefix``) at scale. A key is a relative path of plain names.
A blob is whole or absent: a folder store writes beside, syncs, renames, and syncs the folder; object stores do so
by themselves. Writing a key again replaces its blob, so writers may repeat themselves after a crash.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Protocol

from shared.errors import ConfigError, StorageError, StoreCorrupt
from shared.files import storage_error, write_atomically
from shared.sqlite import make_folder

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


class Blobs(Protocol):
    def put(self, key: str, data: bytes) -> None:
        """Store ``data`` durably under ``key``. Raises DiskFull, Unwritable."""
        ...

    def get(self, key: str) -> bytes:
        """The bytes under ``key``. Raises StoreCorrupt when there are none."""
        ...

    def exists(self, key: str) -> bool: ...

    def delete(self, key: str) -> None:
        """Remove ``key``; nothing happens when it is not there."""
        ...


def base_key(edge_id: str, boot_id: str, seq: int) -> str:
    return f"base/{edge_id}/{boot_id}/{seq}.slk"


def enhancement_key(edge_id: str, boot_id: str, seq: int) -> str:
    return f"enhancement/{edge_id}/{boot_id}/{seq}.slk"


def image_key(review_id: int, kind: str) -> str:
    """``kind`` is base, enhanced or refined."""
    return f"image/{review_id}/{kind}.png"


def open_blobs(url: str) -> Blobs:
    """The store at a folder path or an fsspec URL. Raises Unwritable, ConfigError."""
    if "://" not in url:
        return FolderBlobs(Path(url))
    # fsspec and its back ends are wanted only here.
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"blobs: cannot use the address {url!r} ({error})") from error
    return UrlBlobs(files, root)


class FolderBlobs:
    def __init__(self, root: Path) -> None:
        make_folder(root)
        self._root = root

    def put(self, key: str, data: bytes) -> None:
        path = self._path(key)
        make_folder(path.parent)
        write_atomically(path, data)
        try:
            _sync_folder(path.parent)
        except OSError as cause:
            raise storage_error(path, cause) from cause

    def get(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except OSError as error:
            raise StoreCorrupt(f"blob {key} cannot be read ({error.strerror})") from error

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
        except OSError as cause:
            raise storage_error(path, cause) from cause

    def _path(self, key: str) -> Path:
        return self._root / _checked(key)


class UrlBlobs:
    """Blobs below ``root`` of an fsspec file system."""

    def __init__(self, files: Any, root: str) -> None:
        self._files = files
        self._root = root.rstrip("/")

    def put(self, key: str, data: bytes) -> None:
        try:
            self._files.pipe_file(self._path(key), data)
        except OSError as error:
            raise StorageError(f"blob {key} cannot be written ({error})") from error

    def get(self, key: str) -> bytes:
        try:
            return bytes(self._files.cat_file(self._path(key)))
        except OSError as error:
            raise StoreCorrupt(f"blob {key} cannot be read ({error})") from error

    def exists(self, key: str) -> bool:
        return bool(self._files.exists(self._path(key)))

    def delete(self, key: str) -> None:
        try:
            self._files.rm_file(self._path(key))
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(f"blob {key} cannot be deleted ({error})") from error

    def _path(self, key: str) -> str:
        return f"{self._root}/{_checked(key)}"


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

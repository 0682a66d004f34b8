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

from secondlook.cloud.storage.addresses import redacted
from secondlook.shared.errors import ConfigError, StorageError, StoreCorrupt, StoreUnavailable, Unwritable
from secondlook.shared.files import keep_private, make_folder, storage_error, write_atomically

# A store that is silent must not hold up its user for long; listings are never asked for, so none are kept.
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "use_listings_cache": False,
        "skip_instance_cache": True,
        "config_kwargs": {"connect_timeout": 3, "read_timeout": 10, "retries": {"max_attempts": 2}},
    }
}

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
            raise StoreCorrupt(f"blob {key} is not there") from error
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

    def _path(self, key: str) -> str:
        return f"{self._root}/{_checked(key)}"


def _url_error(key: str, error: Exception) -> StorageError:
    text = redacted(" ".join(str(error).split()))
    if isinstance(error, PermissionError):
        return Unwritable(f"blob {key}: the store does not allow it ({text})")
    return StoreUnavailable(f"blob {key}: the store cannot be used ({text})")


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

"""`secondlook backup` and `restore`: a site's stores as one folder, taken while everything runs.

The order makes the copy whole (docs/delivery.md): the ledger, the gateway's queue, the catalogue, then the blobs. For a
frame is in the ledger and the queue at once, leaves the queue when the catalogue has it, and a row is written when its
blob is there. A ledger that is behind the others asks for frames again; one ahead of them would lose some.

What retention deleted meanwhile has rows without blobs: `restore` marks those frames as going, so that retention
finishes them. SQLite files are copied by SQLite itself, PostgreSQL by `pg_dump`, whose snapshot is one instant.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Collection
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.engine import make_url

from secondlook.cloud.catalogue import Frame, Retention, open_catalogue
from secondlook.cloud.config import CloudConfig
from secondlook.cloud.storage.blobs import Blobs, open_blobs
from secondlook.shared.errors import BlobMissing, ConfigError, StoreCorrupt, StoreUnavailable
from secondlook.shared.files import make_folder, only_process, storage_error, write_atomically
from secondlook.shared.sqlite import named_errors
from secondlook.shared.version import __version__

log = logging.getLogger(__name__)

FORMAT = 1
_MANIFEST, _BLOBS = "manifest.json", "blobs"
_GATEWAY, _CATALOGUE, _LEDGER = "gateway.db", "catalogue", "ledger.dump"
_LEDGERS = "gateway_*"  # tables of ledger and requests, which may be in the catalogue's database
_AT_ONCE = 500


def back_up(
    config: CloudConfig, folder: Path, *, with_blobs: bool = True, than: Path | None = None
) -> dict[str, Any]:
    """Copy all stores into a new ``folder``; returns its manifest.

    ``than``: an earlier backup, whose blobs are linked to where they are the same, so that only new ones take room.
    Raises ConfigError, Unwritable, DiskFull, StoreCorrupt, StoreUnavailable.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty: a backup goes into a folder of its own")
    make_folder(folder)
    began = time.time()
    if config.ledger_url is not None:
        _dump(config.ledger_url, folder / _LEDGER, f"--table={_LEDGERS}")
    if config.database.exists():
        _copy_sqlite(config.database, folder / _GATEWAY)
    _copy_catalogue(config, folder)
    blobs, missing = ({}, []) if not with_blobs else _copy_blobs(config, folder / _BLOBS, than)
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.iterdir())
        if path.is_file()
    }
    manifest = {
        "format": FORMAT,
        "program": __version__,
        "began": began,
        "ended": time.time(),
        "queue": "embedded" if config.queue is None else "NATS: not in this backup",
        "files": files,
        "with_blobs": with_blobs,
        "blobs": blobs,
        "missing": missing,
    }
    write_atomically(folder / _MANIFEST, json.dumps(manifest, indent=1).encode())
    return manifest


def check(folder: Path) -> dict[str, Any]:
    """Whether a backup is whole: every file and blob is what the manifest says. Returns it. Raises StoreCorrupt."""
    try:
        manifest: dict[str, Any] = json.loads((folder / _MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            raise StoreCorrupt(f"{folder} has format {manifest['format']}, this program knows {FORMAT}")
        files, blobs = manifest["files"], manifest["blobs"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreCorrupt(f"{folder} is no whole backup: its {_MANIFEST} cannot be read") from error
    for path, told in [(folder / name, told) for name, told in files.items()] + [
        (folder / _BLOBS / key, told) for key, told in blobs.items()
    ]:
        if not path.is_file() or _sha256(path) != told["sha256"]:
            raise StoreCorrupt(f"{path} is not what the manifest says")
    return manifest


def restore(config: CloudConfig, folder: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Put a backup in place of the stores that the settings name, which nobody may use meanwhile.

    Raises ConfigError where there are stores already and ``overwrite`` is not said, StoreBusy while a gateway runs,
    StoreCorrupt, and the StorageErrors of what is written.
    """
    manifest = check(folder)
    targets = [config.database]
    if (catalogue := _sqlite_file(config.catalogue_url)) is not None:
        targets.append(catalogue)
    there = [path for path in targets if path.exists()]
    if there and not overwrite:
        raise ConfigError(f"{there[0]} is there already: restore into an empty place, or say --overwrite")
    kind = "sqlite" if (folder / f"{_CATALOGUE}.db").exists() else "postgresql"
    if kind != make_url(config.catalogue_url).get_backend_name():
        raise ConfigError(f"the backup's catalogue is {kind}, and the settings name another database")
    with only_process(config.data_dir, "gateway.lock", "gateway"):
        if (folder / _GATEWAY).exists():
            _put_sqlite(folder / _GATEWAY, config.database)
        if (folder / _LEDGER).exists():
            if config.ledger_url is None:
                raise ConfigError("the backup has a ledger of PostgreSQL, and the settings name none")
            _put_dump(folder / _LEDGER, config.ledger_url)
        if catalogue is not None:
            _put_sqlite(folder / f"{_CATALOGUE}.db", catalogue)
        else:
            _put_dump(folder / f"{_CATALOGUE}.dump", config.catalogue_url)
        store = open_blobs(config.blobs_url)
        for key in manifest["blobs"]:
            store.put(key, (folder / _BLOBS / key).read_bytes())
        if manifest["with_blobs"] and (going := _mark_going(config.catalogue_url, manifest["blobs"].keys())):
            log.warning(
                "%d frames had been deleted while the backup was taken: retention finishes them", going
            )
    return manifest


def _copy_sqlite(source: Path, target: Path) -> None:
    """A consistent copy of a file that is in use: SQLite copies it as of one instant."""
    with (
        named_errors(source),
        closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True, timeout=30)) as old,
        closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)
        new.execute("PRAGMA journal_mode = DELETE")
        (well,) = new.execute("PRAGMA integrity_check(1)").fetchone()
    if well != "ok":
        raise StoreCorrupt(f"{source}: the copy is not whole ({well}); the file itself is damaged")
    target.chmod(0o600)
    _sync(target)


def _put_sqlite(source: Path, target: Path) -> None:
    make_folder(target.parent)
    for ending in ("-wal", "-shm"):
        target.with_name(target.name + ending).unlink(missing_ok=True)
    beside = target.with_name(f".{target.name}.restored")
    try:
        shutil.copyfile(source, beside)
        beside.chmod(0o600)
        _sync(beside)
        os.replace(beside, target)
    except OSError as error:
        raise storage_error(target, error) from error


def _copy_catalogue(config: CloudConfig, folder: Path) -> None:
    source = _sqlite_file(config.catalogue_url)
    if source is None:
        _dump(config.catalogue_url, folder / f"{_CATALOGUE}.dump", f"--exclude-table={_LEDGERS}")
    elif source.exists():
        _copy_sqlite(source, folder / f"{_CATALOGUE}.db")
    else:
        raise ConfigError(f"{source} is not there: nothing to back up; is this the right --config?")


def _copy_blobs(
    config: CloudConfig, folder: Path, than: Path | None
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Copies of all blobs, with their hashes; and those that went while they were copied."""
    store = open_blobs(config.blobs_url)
    earlier = {} if than is None else check(than)["blobs"]
    copied: dict[str, dict[str, Any]] = {}
    missing: list[str] = []
    make_folder(folder)
    for blob in store.listing():
        known = earlier.get(blob.key)
        target = folder / blob.key
        make_folder(target.parent)
        if (
            than is not None
            and known is not None
            and known["modified"] == blob.modified
            and known["bytes"] == blob.bytes
        ):
            os.link(than / _BLOBS / blob.key, target)
            copied[blob.key] = known
            continue
        data = _get(store, blob.key)
        if data is None:
            missing.append(blob.key)
            continue
        write_atomically(target, data)
        copied[blob.key] = {
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "modified": blob.modified,
        }
    return copied, sorted(missing)


def _get(store: Blobs, key: str) -> bytes | None:
    try:
        return store.get(key)
    except BlobMissing:  # retention has taken it away meanwhile
        return None


def _mark_going(url: str, copied: Collection[str]) -> int:
    """Frames whose layer went while the backup was taken: retention finishes what it had begun. Returns how many."""
    catalogue = open_catalogue(url)
    try:
        with catalogue.writing() as session:
            rows = session.execute(select(Frame.id, Frame.base_blob)).all()
            going = [id_ for id_, key in rows if key not in copied]
            for start in range(0, len(going), _AT_ONCE):
                which = Frame.id.in_(going[start : start + _AT_ONCE])
                session.execute(update(Frame).where(which).values(retention=Retention.DELETING))
    finally:
        catalogue.close()
    return len(going)


def _dump(url: str, target: Path, tables: str) -> None:
    _run(
        url,
        lambda name: [
            "pg_dump",
            "--format=custom",
            "--no-owner",
            tables,
            f"--file={target}",
            f"--dbname={name}",
        ],
    )
    target.chmod(0o600)


def _put_dump(source: Path, url: str) -> None:
    _run(
        url,
        lambda name: [
            *(
                "pg_restore",
                "--clean",
                "--if-exists",
                "--no-owner",
                "--single-transaction",
                "--exit-on-error",
            ),
            *(f"--dbname={name}", str(source)),
        ],
    )


def _run(url: str, command: Callable[[str], list[str]]) -> None:
    """Run one of PostgreSQL's programs; the password goes by the environment, where nobody else can read it."""
    parsed = make_url(url)
    password = parsed.password
    plain = parsed.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    environment = dict(os.environ) if password is None else {**os.environ, "PGPASSWORD": str(password)}
    words = command(plain)
    try:
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{words[0]} is not installed: it comes with PostgreSQL's client programs"
        ) from error
    if done.returncode:
        said = " ".join((done.stderr.strip().splitlines() or ["it said nothing"])[-1].split())
        raise StoreUnavailable(f"{words[0]} failed: {said}")


def _sqlite_file(url: str) -> Path | None:
    parsed = make_url(url)
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

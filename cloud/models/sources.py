"""What a model comes in: a file, a folder, or the archive of an npm or PyPI package. Nothing of it is ever run.

A source is read into memory; names of an archive's members are only names, so none can write anywhere.
"""

from __future__ import annotations

import email.parser
import hashlib
import json
import re
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from secondlook.cloud.models.tfjs import is_graph_model
from secondlook.shared.errors import ConfigError, ModelCorrupt, ModelNotFound

MAX_BYTES = 1 << 30  # of all files of a source, unpacked
MAX_FILES = 20_000
MAX_LICENCE_BYTES = 1 << 18
_LICENCE = re.compile(r"(LICEN[CS]E|COPYING)([.-].*)?", re.IGNORECASE)
_TARS = (".tgz", ".tar.gz", ".tar")
_ZIPS = (".whl", ".zip")


@dataclass(frozen=True)
class Package:
    """What a package says of itself; empty texts where it says nothing."""

    name: str
    version: str
    licence: str


@dataclass(frozen=True)
class Source:
    """Files by their paths in a source. `sha256`: of the file it came in, None for a folder."""

    path: Path
    files: Mapping[str, bytes]
    sha256: str | None

    def beside(self, model: str, name: str) -> bytes:
        """A file of the folder in which `model` lies. Raises ModelCorrupt when there is none."""
        wanted = str(PurePosixPath(model).parent / name)
        if wanted not in self.files:
            raise ModelCorrupt(f"{self.path} holds {model}, but not {wanted}, which it needs")
        return self.files[wanted]

    def models(self) -> list[str]:
        """Paths of the ONNX files and TensorFlow.js graph models in it."""
        return sorted(
            path
            for path, data in self.files.items()
            if path.endswith(".onnx") or (path.endswith(".json") and is_graph_model(data))
        )

    def choose(self, wanted: str | None) -> str:
        """The model that `wanted` names by path or end of a path; None: the only one. Raises ModelNotFound."""
        found = self.models()
        if wanted is not None:
            found = [path for path in found if path == wanted or path.endswith(f"/{wanted}")]
        if len(found) == 1:
            return found[0]
        what = "models" if wanted is None else f"models called {wanted}"
        if not found:
            raise ModelNotFound(
                f"{self.path} holds no {what}: an ONNX file or a TensorFlow.js graph model is one"
            )
        raise ModelNotFound(
            f"{self.path} holds {len(found)} {what}; name one with --file: {', '.join(found)}"
        )

    def licence(self, model: str) -> tuple[str, str] | None:
        """Path and text of the licence nearest to `model`, in its folder or one above it, else in a wheel's own."""
        places = [str(place) for place in PurePosixPath(model).parents]
        candidates: list[tuple[int, str]] = []
        for path in self.files:
            pure = PurePosixPath(path)
            if _LICENCE.fullmatch(pure.name) is None:
                continue
            parent = str(pure.parent)
            if parent in places:
                candidates.append((places.index(parent), path))
            elif ".dist-info" in path:
                candidates.append((len(places), path))
        if not candidates:
            return None
        path = min(candidates)[1]
        return path, _licence_text(path, self.files[path])

    def package(self) -> Package | None:
        """The package that the source is, from its package.json or its wheel's METADATA."""
        for path in sorted(self.files, key=lambda one: (one.count("/"), one)):
            if path in ("package.json", "package/package.json"):
                return _npm(self.files[path])
            if path.endswith(".dist-info/METADATA") and path.count("/") == 1:
                return _wheel(self.files[path])
        return None


def open_source(path: Path, *, sha256: str | None = None) -> Source:
    """Read a source. `sha256`: what the file must have.

    Raises ModelNotFound when there is nothing at `path`, ModelCorrupt when it cannot be read or has another hash.
    """
    try:
        if path.is_dir():
            if sha256 is not None:
                raise ConfigError(f"{path} is a folder: only a file has a SHA-256")
            return Source(path, _read_folder(path), None)
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelNotFound(f"there is no {path}") from error
    except OSError as error:
        raise ModelNotFound(f"{path} cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(data).hexdigest()
    if sha256 is not None and digest != sha256.lower():
        raise ModelCorrupt(f"{path} has the SHA-256 {digest}, not {sha256.lower()}")
    return Source(path, _read_file(path, data), digest)


def _read_file(path: Path, data: bytes) -> dict[str, bytes]:
    name = path.name.lower()
    try:
        if name.endswith(_TARS):
            return _read_tar(path)
        if name.endswith(_ZIPS):
            return _read_zip(path)
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        RuntimeError,  # of zipfile: encrypted, or compressed by a method that it does not know
    ) as error:
        raise ModelCorrupt(f"{path} is not an archive that can be read: {error}") from error
    if name.endswith(".json"):
        return _read_folder(path.parent, graph=path)
    return {path.name: data}


def _read_folder(folder: Path, graph: Path | None = None) -> dict[str, bytes]:
    """All files of a folder; with `graph`, only this model.json of it, its shards and what tells of a licence."""
    if graph is not None:
        wanted = [
            graph,
            *(one for one in folder.iterdir() if one.suffix != ".json" or one.name == "package.json"),
        ]
    else:
        wanted = sorted(folder.rglob("*"))
    files, budget = {}, _Budget(folder)
    for file in wanted:
        if file.is_file():
            budget.take(file.stat().st_size)
            files[file.relative_to(folder).as_posix()] = file.read_bytes()
    return files


def _read_tar(path: Path) -> dict[str, bytes]:
    files, budget = {}, _Budget(path)
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isreg():
                budget.take(member.size)
                stream = archive.extractfile(member)
                files[_member(member.name)] = b"" if stream is None else stream.read()
    return files


def _read_zip(path: Path) -> dict[str, bytes]:
    files, budget = {}, _Budget(path)
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                budget.take(member.file_size)
                files[_member(member.filename)] = archive.read(member)
    return files


def _member(name: str) -> str:
    return str(PurePosixPath(name))


class _Budget:
    """What a source may take of memory."""

    def __init__(self, path: Path) -> None:
        self._path, self._bytes, self._files = path, 0, 0

    def take(self, size: int) -> None:
        self._bytes += size
        self._files += 1
        if self._bytes > MAX_BYTES or self._files > MAX_FILES:
            raise ModelCorrupt(f"{self._path} holds more than {MAX_BYTES >> 20} MiB or {MAX_FILES} files")


def read_licence(path: Path) -> str:
    """The text of a licence given as a file. Raises ConfigError."""
    try:
        return _licence_text(str(path), path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def _licence_text(path: str, data: bytes) -> str:
    if len(data) > MAX_LICENCE_BYTES:
        raise ModelCorrupt(f"{path} has {len(data)} bytes, more than a licence may have")
    return data.decode("utf-8", "replace")


def _npm(data: bytes) -> Package:
    try:
        tree: Any = json.loads(data)
    except (ValueError, RecursionError):
        tree = None
    if not isinstance(tree, dict):
        raise ModelCorrupt("package.json cannot be read")
    return Package(*(_short(tree.get(key)) for key in ("name", "version", "license")))


def _wheel(data: bytes) -> Package:
    fields = email.parser.BytesHeaderParser().parsebytes(data)
    licence = fields.get("License-Expression") or fields.get("License")
    return Package(_short(fields.get("Name")), _short(fields.get("Version")), _short(licence))


def _short(value: object) -> str:
    return value.splitlines()[0][:200] if isinstance(value, str) and value.strip() else ""

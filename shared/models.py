"""Model folders: what they hold, their identity, and how one is found.

A model's name is looked for in the folder of added models, then among those that ship: `exported_models/`. Added
models lie in `SECONDLOOK_MODELS`, else in `secondlook/models` where XDG_DATA_HOME points, by default `~/.local/share`.

A folder `NAME/` has a `manifest.json`:

    {"name": "lite", "kind": "codec", "format": 1,
     "files": {"analysis.onnx": {"sha256": "…", "bytes": 123}, …},
     "licence": "…", "training": {…}, "figures": {…}}

The model hash is SHA-256 over the lines `sha256 name` of all files, sorted by name. A bitstream carries its
first eight bytes, so a decoder finds the right weights or says that it lacks them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secondlook.shared.errors import ModelCorrupt, ModelNotFound

MODELS_ROOT = Path(__file__).resolve().parent.parent / "exported_models"
MODELS_VARIABLE = "SECONDLOOK_MODELS"  # the folder of models that were added here
HASH_BYTES = 8
MAX_MANIFEST_BYTES = 1 << 20
_FILE_NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)


@dataclass(frozen=True)
class ModelFolder:
    """A verified model folder. `model_hash` is the eight bytes that bitstreams carry."""

    path: Path
    name: str
    kind: str
    model_hash: bytes
    manifest: dict[str, Any]

    def file(self, name: str) -> Path:
        """Path of one of the manifest's files. Raises ModelCorrupt when the manifest does not list it."""
        if name not in self.manifest["files"]:
            raise ModelCorrupt(f"model {self.name}: manifest lists no {name}")
        return self.path / name


def added_models(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of models that were added on this machine; it need not be there."""
    given = environment.get(MODELS_VARIABLE)
    if given:
        return Path(os.path.expanduser(given))
    data = environment.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return Path(data) / "secondlook" / "models"


def model_roots() -> tuple[Path, ...]:
    """The folders in which a model's name is looked for, in this order."""
    return added_models(), MODELS_ROOT


def model_names(root: Path) -> list[str]:
    """The folders under `root` that hold a manifest."""
    return sorted(manifest.parent.name for manifest in root.glob("[!.]*/manifest.json"))


def model_hash(files: dict[str, dict[str, Any]]) -> bytes:
    """Identity of a set of files: eight bytes."""
    lines = "".join(f"{files[name]['sha256']} {name}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).digest()[:HASH_BYTES]


def describe_files(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """The manifest's `files` entry for `names` in `folder`."""
    return {name: describe_bytes((folder / name).read_bytes()) for name in names}


def describe_bytes(data: bytes) -> dict[str, Any]:
    """The manifest's entry for one file with these bytes."""
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def find_model(name_or_path: str | Path, *, kind: str | None = None, root: Path | None = None) -> ModelFolder:
    """Open and verify a model folder, by path or by its name under `root`, else in the first of `model_roots`.

    A text without a slash is a name.

    Raises ModelNotFound when there is no such folder (or it is of another kind), ModelCorrupt when a file
    is missing or differs from its hash.
    """
    is_name = isinstance(name_or_path, str) and "/" not in name_or_path
    roots = model_roots() if root is None else (root,)
    *others, path = [one / name_or_path for one in roots] if is_name else [Path(name_or_path)]
    # A service may not look into homes: a folder of added models that cannot be read is as good as none.
    path = next((one for one in others if os.path.isfile(one / "manifest.json")), path)
    try:
        found = (path / "manifest.json").is_file()
    except OSError as error:
        raise ModelNotFound(f"no model {str(name_or_path)!r}: {error.strerror}") from error
    if not found:
        raise ModelNotFound(f"no model {str(name_or_path)!r}: {str(path)!r} holds no manifest.json")
    folder = read_model(path)
    if kind is not None and folder.kind != kind:
        raise ModelNotFound(f"model {folder.name!r} is a {folder.kind!r}, not a {kind!r}")
    _verify(folder)
    return folder


def find_by_hash(wanted: bytes, *, root: Path | None = None) -> ModelFolder:
    """The model a bitstream names. Raises ModelNotFound when none under `root`, else `model_roots`, has this hash."""
    roots = model_roots() if root is None else (root,)
    for folder in (read_model(one / name) for one in roots for name in model_names(one)):
        if folder.model_hash == wanted:
            _verify(folder)
            return folder
    raise ModelNotFound(f"no model with hash {wanted.hex()} under {' or '.join(map(str, roots))}")


def read_model(path: Path) -> ModelFolder:
    """The folder as its manifest describes it, not verified. Raises ModelCorrupt."""
    try:
        with (path / "manifest.json").open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise ModelCorrupt(f"{path / 'manifest.json'} cannot be read: {error.strerror}") from error
    if len(data) > MAX_MANIFEST_BYTES:
        raise ModelCorrupt(f"{path / 'manifest.json'} is larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        manifest = json.loads(data)
        name, kind, files = manifest["name"], manifest["kind"], manifest["files"]
        identity = model_hash(files)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ModelCorrupt(f"{path / 'manifest.json'} is not a model manifest: {error!r}") from error
    if not isinstance(name, str) or not isinstance(kind, str) or not isinstance(files, dict):
        raise ModelCorrupt(f"{path / 'manifest.json'}: name and kind must be text, files a table")
    return ModelFolder(path, name, kind, identity, manifest)


def _verify(folder: ModelFolder) -> None:
    for name, entry in folder.manifest["files"].items():
        if not _FILE_NAME.fullmatch(name):
            raise ModelCorrupt(f"model {folder.name!r}: {name!r} cannot be the name of one of its files")
        file = folder.path / name
        if not file.is_file():
            raise ModelCorrupt(f"model {folder.name!r}: {name} is missing")
        if hashlib.sha256(file.read_bytes()).hexdigest() != entry["sha256"]:
            raise ModelCorrupt(f"model {folder.name!r}: {name} differs from its hash in the manifest")

